"""The tensor graph: typed operators over symbolic shapes. One Node class; meaning is in `ops`.

Nodes are interned, so equal computations are one node. What must stay apart (random numbers)
carries an attribute of its own. Names and source locations are notes beside the nodes, not part of
them.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from naru.dtypes import FROM_NUMPY
from naru.errors import IRError
from naru.ir.expr import Const, Expr, Var, free_vars
from naru.ir.intern import Interned, node
from naru.ir.simplify import index

WINOGRAD_TILES = (2, 4)


@node
class Layout(metaclass=Interned):
    """How a tensor lies in memory: logical axes in physical `order`, and, with `block` = (axis,
    size), that axis divided into blocks, the position inside the block being the innermost dim
    (padded with zeros to whole blocks). `winograd` = m, one of `WINOGRAD_TILES`: filters
    [O, C, 3, 3] that are kept transformed, [O, C, m + 2, m + 2], for tiles of m × m results
    (schedule/winograd.py). None instead of a Layout means row-major."""

    order: tuple[int, ...]
    block: tuple[int, int] | None = None
    winograd: int = 0


@node
class TensorType(metaclass=Interned):
    """dtype, shape of index expressions, memory layout. `value`: the elements, flattened, of a
    small integer tensor that is known as expressions over dims (so that Shape → Gather → Concat
    folds)."""

    dtype: str
    shape: tuple[Expr, ...]
    layout: Layout | None = None
    value: tuple[Expr, ...] | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)


class Data:
    """Constant contents, one object per content (dtype, shape and bytes): equal data are `is`.

    `array` may be memory-mapped and is never written."""

    __slots__ = ("__weakref__", "array", "digest")

    def __init__(self, array: np.ndarray, digest: str) -> None:
        self.array, self.digest = array, digest

    def __reduce__(self) -> tuple[object, ...]:
        return make_data, (self.array,)


_STRIP = 32  # columns: two lines of f32

_data: weakref.WeakValueDictionary[str, Data] = weakref.WeakValueDictionary()


def _contiguous(array: np.ndarray) -> np.ndarray:
    """A row-major copy, or the array itself. A transposed matrix goes strip by strip: numpy alone
    misses the cache at every element, and takes seconds for the weights of a large network."""
    if array.ndim != 2 or array.flags.c_contiguous or array.dtype.hasobject:
        return np.ascontiguousarray(array).reshape(array.shape)
    out = np.empty(array.shape, array.dtype)
    for k in range(0, array.shape[1], _STRIP):
        out[:, k : k + _STRIP] = array[:, k : k + _STRIP]
    return out


def make_data(array: np.ndarray) -> Data:
    """The Data of an array's content."""
    array = _contiguous(array)
    head = f"{array.dtype.str}{array.dtype.name}{array.shape}".encode()
    digest = hashlib.sha256(head)  # which CPUs have instructions for
    digest.update(array.reshape(-1).view(np.uint8).data)
    key = digest.hexdigest()
    found = _data.get(key)
    if found is None:
        found = _data[key] = Data(array, key)
    return found


Attr: TypeAlias = (
    "int | float | bool | str | bytes | Data | Graph | TensorType | Var | Expr | tuple[Attr, ...]"
)


@node
class Node(metaclass=Interned):
    """op applied to inputs (None: an optional one left out). `types` has one entry an output; a
    node of several outputs is read through `get` nodes. `attrs` are pairs sorted by name."""

    op: str
    inputs: tuple[Node | None, ...]
    attrs: tuple[tuple[str, Attr], ...]
    types: tuple[TensorType, ...]

    @property
    def type(self) -> TensorType:
        """The type of the only (or first) output."""
        return self.types[0]

    def attr(self, name: str, default: Attr | None = None) -> Attr | None:
        """An attribute's value, or the default."""
        for key, value in self.attrs:
            if key == name:
                return value
        return default

    @property
    def data(self) -> np.ndarray | None:
        """The contents of a constant node, else None."""
        if self.op != "constant":
            return None
        data = self.attr("data")
        assert isinstance(data, Data)
        return data.array


def make_node(
    op: str,
    inputs: Iterable[Node | None],
    attrs: Mapping[str, Attr] | None,
    types: TensorType | tuple[TensorType, ...],
) -> Node:
    """A node with attributes in canonical order. (`ops.registry.apply` computes the types.)"""
    pairs = tuple(sorted((attrs or {}).items()))
    return Node(op, tuple(inputs), pairs, types if isinstance(types, tuple) else (types,))


def make_constant(array: np.ndarray) -> Node:
    """A constant node. Integer tensors of at most 64 elements carry their values in the type."""
    if array.dtype not in FROM_NUMPY:
        raise IRError([f"constant: dtype {array.dtype} is not supported"])
    dtype = FROM_NUMPY[array.dtype]
    value = None
    if dtype in ("i64", "i32", "bool") and array.size <= 64:
        value = tuple(Const(int(v)) for v in array.reshape(-1))
    shape = tuple(index(n) for n in array.shape)
    return make_node(
        "constant", (), {"data": make_data(array)}, TensorType(dtype, shape, None, value)
    )


SEED = "naru_seed"  # the input of models with random numbers that callers may leave out


def make_input(name: str, type: TensorType) -> Node:
    """A graph input; its name is its identity."""
    return make_node("input", (), {"name": name}, type)


def get_output(n: Node, i: int) -> Node:
    """Output i of a node: the node itself where it has one output only."""
    return n if len(n.types) == 1 else make_node("get", (n,), {"index": i}, n.types[i])


@dataclass(frozen=True, eq=False, repr=False)
class Graph:
    """A function of tensors. `symbols` are the dims of the inputs (and those that nodes define).
    Bodies of control flow are Graphs in attributes; what they capture is passed in explicitly.
    `operators`: the operator of the file that a name in `notes` belongs to, in the file's order.
    `files`: the side files that constants were read from. `columns`: what the columns of an input
    are called, where the model takes tables. `widens`: callers may pass other numbers for f64."""

    name: str
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    output_names: tuple[str, ...]
    notes: Mapping[Node, str] = field(default_factory=dict[Node, str])
    operators: Mapping[str, str] = field(default_factory=dict[str, str])
    files: tuple[Path, ...] = ()
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, "tuple[str, ...]"])
    widens: bool = False

    @property
    def symbols(self) -> tuple[Var, ...]:
        """Dim symbols of the inputs in order of first appearance."""
        return tuple(free_vars(*(d for n in self.inputs for d in n.type.shape)))

    def with_outputs(
        self, outputs: Iterable[Node], notes: Mapping[Node, str] | None = None
    ) -> Graph:
        """The same interface over new output nodes."""
        return replace(self, outputs=tuple(outputs), notes=self.notes if notes is None else notes)


def defined_symbols(*nodes: Node) -> set[Var]:
    """The symbols that these nodes give values to: bind_dim, if and loop do."""
    found: set[Var] = set()
    for n in nodes:
        for name in ("symbols", "raw", "rounds"):
            value = n.attr(name, ())
            some = value if isinstance(value, tuple) else (value,)
            found.update(v for v in some if isinstance(v, Var))
    return found


def named_sizes(n: Node) -> dict[tuple[int, int], Var]:
    """(output, axis) -> symbol, for the sizes of the results of an `if` or `loop` that running it
    decides: its attributes `places` and `symbols`."""
    places, symbols = n.attr("places", ()), n.attr("symbols", ())
    found: dict[tuple[int, int], Var] = {}
    if isinstance(places, tuple) and isinstance(symbols, tuple):
        for place, symbol in zip(places, symbols, strict=True) if places else ():
            match place, symbol:
                case (int(k), int(axis)), Var():
                    found[k, axis] = symbol
                case _:
                    raise IRError([f"{n.op}: expected a pair and a Var, found {place}, {symbol}"])
    return found


def toposort(*roots: Node) -> list[Node]:
    """Every distinct node that the roots need, inputs before users; iterative, in a fixed order."""
    seen: set[Node] = set()
    order: list[Node] = []
    stack: list[tuple[Node, bool]] = [(r, False) for r in reversed(roots)]
    while stack:
        n, ready = stack.pop()
        if ready:
            order.append(n)
        elif n not in seen:
            seen.add(n)
            stack.append((n, True))
            stack.extend((c, False) for c in reversed(n.inputs) if c is not None and c not in seen)
    return order


def users(g: Graph) -> dict[Node, list[Node]]:
    """For each node, the nodes that read it (once per operand position)."""
    out: dict[Node, list[Node]] = {n: [] for n in toposort(*g.outputs)}
    for n in out:
        for c in n.inputs:
            if c is not None:
                out[c].append(n)
    return out
