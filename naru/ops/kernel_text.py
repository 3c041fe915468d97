"""What kernels written by hand share: the names in their text, and its first line."""

from __future__ import annotations

import re
from collections.abc import Mapping

from naru.ir.expr import Expr, free_vars
from naru.ir.graph import TensorType
from naru.ir.text_expr import ExprPrinter, Names


class KernelText:
    """Names and the first line of a kernel in text: its own variables are called as no size is."""

    def __init__(self, *types: TensorType) -> None:
        self._names = Names()
        self._printer = ExprPrinter(self._names)
        sizes = free_vars(*(d for t in types for d in t.shape))
        self.sizes = [self._names.declare(v, v.name) for v in sizes]

    def __call__(self, own: str) -> str:
        """The name of an own variable."""
        return self._names.get(own) if self._names.has(own) else self._names.declare(own, own)

    def size(self, e: Expr) -> str:
        """An index expression."""
        return self._printer.text(e)

    def buffer(self, own: str, t: TensorType) -> str:
        """A parameter."""
        return f"{self(own)}: {t.dtype}[{', '.join(map(self.size, t.shape)) or '()'}]"

    def head(self, name: str, *buffers: str) -> str:
        """The kernel's first line: buffers, then sizes."""
        return f"def {name}({', '.join([*buffers, *(f'{s}: index' for s in self.sizes)])}):"

    def fill(self, text: str, sizes: Mapping[str, Expr]) -> str:
        """A text in which the words of `sizes` stand for index expressions and every other name is
        the kernel's own."""

        def word(found: re.Match[str]) -> str:
            name = found[0]
            if name in sizes:
                return f"({self.size(sizes[name])})"
            return self(name) if name in self.sizes else name

        return re.sub(r"\b[A-Za-z_]\w*", word, text)
