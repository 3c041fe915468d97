"""Kinds of values beyond tensors: sequences, optionals and maps (TypeProto of the ONNX IR), of
tensors whose rank may be unknown. Only what runs on the host has them; native code knows tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from onnx import TensorProto, TypeProto

from naru.dtypes import DTYPES, FROM_ONNX
from naru.frontend.onnx_data import dtype_label
from naru.frontend.onnx_node import Unsupported

STRING = "string"  # an element type of its own: its tensors hold numbers of texts
Dim: TypeAlias = "int | str | None"


@dataclass(frozen=True)
class TensorKind:
    """`shape`: sizes, names, None for one that nothing is known of; None for an unknown rank.
    `missing`: texts may be missing (None, NaN), which have numbers of their own.
    `widens`: see Graph."""

    dtype: str
    shape: tuple[Dim, ...] | None
    missing: bool = False
    widens: bool = False

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype} of unknown rank"
        return f"{self.dtype}[{', '.join('?' if d is None else str(d) for d in self.shape)}]"


@dataclass(frozen=True)
class SequenceKind:
    """`element` None: no element was seen yet, as of an empty sequence."""

    element: Kind | None

    def __str__(self) -> str:
        return f"sequence of {self.element or 'nothing yet'}"


@dataclass(frozen=True)
class OptionalKind:
    element: Kind | None

    def __str__(self) -> str:
        return f"optional {self.element or 'value'}"


@dataclass(frozen=True)
class MapKind:
    key: str
    value: Kind

    def __str__(self) -> str:
        return f"map from {self.key} to {self.value}"


Kind: TypeAlias = "TensorKind | SequenceKind | OptionalKind | MapKind"


def scalar_kind(dtype: str) -> TensorKind:
    return TensorKind(dtype, ())


def kind_of(t: TypeProto, what: str) -> Kind | None:
    """The kind of an ONNX type; None where the file says nothing. Unsupported for sparse tensors
    and element types that naru lacks."""
    name = t.WhichOneof("value")
    if name == "tensor_type":
        return _tensor_kind(t.tensor_type, what)
    if name == "sequence_type":
        return SequenceKind(kind_of(t.sequence_type.elem_type, what))
    if name == "optional_type":
        return OptionalKind(kind_of(t.optional_type.elem_type, what))
    if name == "map_type":
        value = kind_of(t.map_type.value_type, what)
        key = element_type(t.map_type.key_type)
        return None if value is None else MapKind(key, value)
    if name is None:
        return None
    raise Unsupported(f"{what} is a {name.removesuffix('_type')}")


def _tensor_kind(t: TypeProto.Tensor, what: str) -> TensorKind | None:
    if t.elem_type == TensorProto.UNDEFINED:
        return None
    if not t.HasField("shape"):
        return TensorKind(element_type(t.elem_type), None)
    return TensorKind(element_type(t.elem_type), tuple(map(_dim, t.shape.dim)))


def _dim(d: Any) -> Dim:
    if d.HasField("dim_value"):
        return int(d.dim_value)
    return str(d.dim_param) or None


def element_type(code: int) -> str:
    """Our name of an element type, texts included."""
    if code == TensorProto.STRING:
        return STRING
    if code not in FROM_ONNX:
        raise Unsupported(f"element type {dtype_label(code)}")
    return FROM_ONNX[code]


def union(a: Kind | None, b: Kind | None) -> Kind | None:
    """What both are (None: no value seen yet). Unsupported where there is no such kind."""
    if a is None or b is None or a == b:
        return a or b
    if isinstance(a, OptionalKind) or isinstance(b, OptionalKind):
        x, y = (k.element if isinstance(k, OptionalKind) else k for k in (a, b))
        return OptionalKind(union(x, y))
    if isinstance(a, SequenceKind) and isinstance(b, SequenceKind):
        return SequenceKind(union(a.element, b.element))
    if isinstance(a, TensorKind) and isinstance(b, TensorKind) and a.dtype == b.dtype:
        return TensorKind(a.dtype, union_shape(a.shape, b.shape))
    raise Unsupported(f"the same value is a {a} and a {b}")


def union_shape(a: Sequence[Dim] | None, b: Sequence[Dim] | None) -> tuple[Dim, ...] | None:
    if a is None or b is None or len(a) != len(b):
        return None
    return tuple(m if m == n else None for m, n in zip(a, b, strict=True))


def is_string(kind: Kind | None) -> bool:
    return isinstance(kind, TensorKind) and kind.dtype == STRING


def as_json(kind: Kind | None) -> dict[str, Any]:
    """As the manifest has it (see artifact/bundle.py)."""
    if kind is None:
        return {"kind": "unknown"}
    if isinstance(kind, TensorKind):
        dtype = STRING if kind.dtype == STRING else DTYPES[kind.dtype].numpy.name
        shape = None if kind.shape is None else list(kind.shape)
        more = {k: True for k in ("missing", "widens") if getattr(kind, k)}
        return {"kind": "tensor", "dtype": dtype, "shape": shape, **more}
    if isinstance(kind, MapKind):
        key = STRING if kind.key == STRING else DTYPES[kind.key].numpy.name
        return {"kind": "map", "key": key, "value": as_json(kind.value)}
    name = "sequence" if isinstance(kind, SequenceKind) else "optional"
    return {"kind": name, "element": as_json(kind.element)}
