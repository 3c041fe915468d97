"""What kernels written by hand share: the names in their text, and its first line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from naru.ir.expr import Expr, free_vars
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import ZERO, prod
from naru.ir.text_expr import ExprPrinter, Names
from naru.targets import Target

TILE = 16  # elements that a loop of `tiled` handles at a time


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


def indent(lines: Sequence[str], depth: int = 1) -> list[str]:
    """Lines, further to the right."""
    return ["    " * depth + line for line in lines]


def tiled(size: str, number: int | None, write: Callable[[Callable[[str], str]], str]) -> list[str]:
    """Loops that visit `size` elements (`number` of them, where that is known), by tiles and then
    one by one. `write` gives the statement; what it is given makes the subscript, from that of the
    first element."""
    one = write(lambda base: f"{base} + i")
    if number is not None and number < TILE:
        return [f"for i in range({size}):", f"    {one}"]
    many = write(lambda base: f"{base} + i:{base} + i + {TILE}")
    lines = [f"for t in range({size} // {TILE}):", f"    i: index = t * {TILE}", f"    {many}"]
    if number is None or number % TILE:
        lines += [f"for i in range({size} // {TILE} * {TILE}, {size}):", f"    {one}"]
    return lines


def multiply_add(target: Target, a: str, b: str, c: str) -> str:
    """Text of a · b + c, rounded once where the target does so."""
    return f"fma({a}, {b}, {c})" if target.has_fma else f"{a} * {b} + {c}"


def by_hand(
    n: Node,
    roles: Sequence[str],
    results: Sequence[str],
    body: Sequence[str],
    sizes: Mapping[str, Expr],
) -> str:
    """A kernel over flat buffers: `roles` name the operands (one that is given twice is one
    parameter), `results` the outputs; words of `sizes` stand for index expressions."""
    taken: dict[Node, str] = {}
    known_as = {r: taken.setdefault(i, r) for r, i in zip(roles, n.inputs, strict=True) if i}
    types = {
        **{name: i.type for i, name in taken.items()},
        **dict(zip(results, n.types, strict=True)),
    }
    names = KernelText(*types.values())  # sizes come in the order of the tensors' dims
    if all(ZERO in t.shape for t in n.types):
        body = ["pass"]  # (and a buffer without elements has no room for a tile)
    flat = [TensorType(t.dtype, (prod(t.shape),)) for t in types.values()]
    head = names.head(n.op, *(names.buffer(k, t) for k, t in zip(types, flat, strict=True)))
    text = re.sub(r"\b[A-Za-z_]\w*", lambda m: known_as.get(m[0], m[0]), "\n".join(indent(body)))
    return f"{head}\n{names.fill(text, sizes)}\n"
