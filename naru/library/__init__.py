"""What a compiled model becomes for programs that have no Python: a native library with its header,
a WebAssembly package with its JavaScript.

Takes manifests and sections as `pipeline.build_parts` makes them, one for each instruction set, and
writes folders. Nothing here compiles a model or loads one.
"""
