"""A custom operator as a composition of operators of ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import helper

from naru.dtypes import DTYPES
from naru.errors import InputError, ModelError, NaruError, UnsupportedError
from naru.frontend.onnx_data import Tensors
from naru.frontend.onnx_import import Importer
from naru.frontend.onnx_scope import Scope
from naru.frontend.onnx_tables import CUSTOM
from naru.ir.expr import free_vars
from naru.ir.graph import Node, TensorType, make_constant, make_input
from naru.ir.simplify import known

# Versions of domains besides the standard's own that a composition may use.
DOMAINS = {"com.microsoft": 1, "ai.onnx.ml": 5}


class Value:
    """A tensor while a composition is made: an operand, or what an operator gives."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def dtype(self) -> str:
        """numpy's name: float32."""
        return DTYPES[self._node.type.dtype].numpy.name

    @property
    def shape(self) -> tuple[int | None, ...]:
        """None for sizes that are known only at run time."""
        return tuple(known(d) for d in self._node.type.shape)

    @property
    def rank(self) -> int:
        return self._node.type.rank

    def __repr__(self) -> str:
        return f"Value({self.dtype}, {self.shape})"


class Composer:
    """What a composition is given first: it makes nodes."""

    def __init__(self, label: str, opset: int) -> None:
        own = dict.fromkeys(CUSTOM, 1)
        self._scope = Scope({**own, **DOMAINS, "": opset}, chain=(label,))
        self._importer = Importer(Tensors(None), {})
        self._count = 0

    def op(
        self,
        name: str,
        *operands: Value | np.ndarray | float | Sequence[Any] | None,
        domain: str = "",
        outputs: int = 1,
        **attrs: Any,
    ) -> Any:
        """What an ONNX operator gives: a Value, or with outputs > 1 a tuple of them. Operands that
        are no Values are constants; numbers take the element type of the first Value."""
        values = [self._value(v, operands) for v in operands]
        names = [self._name(v) for v in values]
        made = [f"v{self._count + k}" for k in range(outputs)]
        self._count += outputs
        given = {k: v for k, v in attrs.items() if v is not None}
        node = helper.make_node(name, names, made, name=name, domain=domain, **given)
        self._importer.add_node(node, self._scope)
        if self._importer.problems:
            raise UnsupportedError(self._importer.problems)
        found = tuple(Value(self._made(n)) for n in made)
        return found[0] if outputs == 1 else found

    def constant(self, array: Any, dtype: str | None = None) -> Value:
        """An array as a Value."""
        return Value(make_constant(np.asarray(array, dtype)))

    def _value(self, v: Any, operands: Sequence[Any]) -> Value | None:
        if v is None or isinstance(v, Value):
            return v
        like = next((o.dtype for o in operands if isinstance(o, Value)), None)
        plain = isinstance(v, int | float) and not isinstance(v, bool)
        return self.constant(v, like if plain else None)

    def _name(self, v: Value | None) -> str:
        if v is None:
            return ""
        name = f"v{self._count}"
        self._count += 1
        self._scope.values[name] = v._node  # pyright: ignore[reportPrivateUsage]
        return name

    def _made(self, name: str) -> Node:
        found = self._scope.values[name]
        if not isinstance(found, Node):
            raise ModelError(f"the operator has no output {name}")
        return found


def node_of(v: Value) -> Node:
    """The node of a Value."""
    return v._node  # pyright: ignore[reportPrivateUsage]


def compose(
    f: Callable[..., Any],
    label: str,
    opset: int,
    operands: Sequence[Node | None],
    attrs: dict[str, Any],
) -> tuple[Node, ...]:
    """The nodes that a composition makes of operands."""
    c = Composer(label, opset)
    try:
        result = f(c, *(None if n is None else Value(n) for n in operands), **attrs)
    except NaruError:
        raise
    except Exception as error:  # whatever a user's function raises is no failure of naru
        raise InputError(
            f"{label}: its composition fails: {type(error).__name__}: {error}"
        ) from error
    results: list[Any] = list(result) if isinstance(result, tuple | list) else [result]  # pyright: ignore[reportUnknownArgumentType]
    if not results or not all(isinstance(r, Value) for r in results):
        raise InputError(
            f"{label}: expected the composition to return Values, found {result!r}",
            hint="return what c.op gives",
        )
    nodes = tuple(node_of(r) for r in results)
    known_before = free_vars(*(d for n in operands if n is not None for d in n.type.shape))
    values = [v for n in operands if n is not None for v in n.type.value or ()]
    for n in nodes:
        new = set(free_vars(*n.type.shape)) - {*known_before, *free_vars(*values)}
        if new:
            raise UnsupportedError(
                [f"{label}: its results have sizes that only data decide, which a composition may "
                 "not have"]
            )  # fmt: skip
    return nodes


def result_types(
    f: Callable[..., Any],
    label: str,
    opset: int,
    types: Sequence[TensorType | None],
    attrs: dict[str, Any],
) -> tuple[TensorType, ...]:
    """The types of the results for operands of these types."""
    operands = [None if t is None else make_input(f"x{k}", t) for k, t in enumerate(types)]
    return tuple(
        TensorType(n.type.dtype, n.type.shape) for n in compose(f, label, opset, operands, attrs)
    )
