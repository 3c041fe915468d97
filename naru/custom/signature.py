"""What a node of a custom operator has, read from the signature of the function that defines it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from onnx import AttributeProto, helper

from naru.errors import InputError, ModelError
from naru.frontend.onnx_node import OnnxNode

NEEDED = inspect.Parameter.empty


@dataclass(frozen=True)
class Signature:
    """Operands (name -> may it be left out), whether more may follow, attributes with defaults."""

    operands: Mapping[str, bool]
    variadic: bool
    attributes: Mapping[str, Any]

    @property
    def text(self) -> str:
        """As the front end's checks have it (onnx_signatures.py)."""
        names = [f"{name}?" if optional else name for name, optional in self.operands.items()]
        names += ["more*"] if self.variadic else []
        return f"{' '.join(names)} -> results*; {' '.join(self.attributes)}"

    def read(self, c: OnnxNode) -> dict[str, Any]:
        """The attributes of a node, defaults where it gives none."""
        return {name: _value(c, name, default) for name, default in self.attributes.items()}


def read_signature(f: Callable[..., Any], *, skip: int) -> Signature:
    """The signature of a function whose first `skip` parameters are no operands."""
    operands: dict[str, bool] = {}
    attributes: dict[str, Any] = {}
    variadic = False
    for p in list(inspect.signature(f).parameters.values())[skip:]:
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            if p.default not in (NEEDED, None):
                raise InputError(
                    f"{f.__name__}: operand {p.name!r} has the default {p.default!r}; only None, "
                    "which means left out, makes sense",
                    hint=f"make it an attribute, behind a *: {f.__name__}(x, *, {p.name}=…)",
                )
            operands[p.name] = p.default is None
        elif p.kind == p.VAR_POSITIONAL:
            variadic = True
        elif p.kind == p.KEYWORD_ONLY:
            attributes[p.name] = plain(p.default)
        else:
            raise InputError(f"{f.__name__}: **{p.name} says nothing; name each attribute")
    return Signature(operands, variadic, attributes)


def plain(value: Any) -> Any:
    """A list as a tuple; bytes as text."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list | tuple):
        items: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType]
        return tuple(plain(v) for v in items)
    return value


def _value(c: OnnxNode, name: str, default: Any) -> Any:
    proto = c.attrs.get(name)
    if proto is None:
        if default is NEEDED:
            raise ModelError(f"the attribute {name!r} is missing")
        return default
    if proto.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS, AttributeProto.TENSOR):
        raise ModelError(f"attribute {name!r}: expected numbers or texts, found a tensor or graph")
    value = plain(helper.get_attribute_value(proto))
    if isinstance(default, float) and isinstance(value, int):
        value = float(value)
    if isinstance(default, bool):
        value = bool(value)
    if default is not NEEDED and default is not None and type(value) is not type(default):
        wanted, found = type(default).__name__, type(value).__name__
        raise ModelError(f"attribute {name!r}: expected {wanted}, found {found}")
    return value
