"""The part of llvmlite that naru calls."""

__version__: str
