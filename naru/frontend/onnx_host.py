"""Operators that run on the host: what they make of which kinds of values, and what of their
attributes the runtime gets. What they compute is in naru/runtime/host_operators.py, by the same
names; the words of messages are here, where the model is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnx import AttributeProto, NodeProto, TensorProto, helper

from naru.dtypes import DTYPES
from naru.errors import ModelError
from naru.frontend.onnx_kinds import (
    STRING,
    Dim,
    Kind,
    MapKind,
    OptionalKind,
    SequenceKind,
    TensorKind,
    element_type,
    is_string,
    kind_of,
    scalar_kind,
    union,
)
from naru.frontend.onnx_node import Unsupported, check_axis
from naru.frontend.re2 import to_python


@dataclass(frozen=True)
class HostNode:
    """A node as its rule sees it; an operand that is left out has no kind."""

    node: NodeProto
    kinds: Sequence[Kind | None]

    def has(self, i: int) -> bool:
        return i < len(self.node.input) and bool(self.node.input[i])

    def tensor(self, i: int) -> TensorKind:
        """The kind of operand i, which is a tensor. ModelError if it is none."""
        return self._expect(i, TensorKind, "a tensor")

    def texts(self, i: int) -> TensorKind:
        kind = self.tensor(i)
        if kind.dtype != STRING:
            raise ModelError(f"operand {i}: expected texts, found {kind}")
        return kind

    def sequence(self, i: int) -> SequenceKind:
        return self._expect(i, SequenceKind, "a sequence")

    def integer(self, i: int) -> None:
        """Operand i, where there is one, is a whole number, or several."""
        if self.has(i) and self.tensor(i).dtype not in ("i64", "i32"):
            raise ModelError(f"operand {i}: expected whole numbers, found {self.kinds[i]}")

    def _expect(self, i: int, kind: type[Any], what: str) -> Any:
        found = self.kinds[i] if i < len(self.kinds) else None
        if not isinstance(found, kind):
            raise ModelError(f"operand {i}: expected {what}, found {found or 'nothing'}")
        return found

    def attr(self, name: str, default: Any) -> Any:
        """An attribute's value; texts are str."""
        for a in self.node.attribute:
            if a.name == name:
                return _plain(a)
        return default


def _plain(a: AttributeProto) -> Any:
    if a.ref_attr_name:
        raise ModelError("it refers to an attribute of a function, but is in none")
    value = helper.get_attribute_value(a)
    if a.type == AttributeProto.STRING:
        return value.decode("utf-8", "replace")
    if a.type == AttributeProto.STRINGS:
        return [s.decode("utf-8", "replace") for s in value]
    return list(value) if a.type in (AttributeProto.INTS, AttributeProto.FLOATS) else value


@dataclass(frozen=True)
class Made:
    """The kinds of a node's results, and what the runtime must know besides the operands."""

    kinds: Sequence[Kind | None]
    attrs: Mapping[str, Any]


Rule = Callable[[HostNode], Made]


def _sizes(shape: Sequence[Dim] | None, axis: int) -> tuple[Dim, ...] | None:
    """The shape with an unknown size along an axis."""
    if shape is None:
        return None
    at = check_axis(axis, len(shape))
    return (*shape[:at], None, *shape[at + 1 :])


# --- sequences ------------------------------------------------------------------------------------


def _sequence_construct(c: HostNode) -> Made:
    element: Kind | None = None
    for k in range(len(c.kinds)):
        element = union(element, c.tensor(k))
    return Made([SequenceKind(element)], {})


def _sequence_empty(c: HostNode) -> Made:
    element_type(c.attr("dtype", TensorProto.FLOAT))
    return Made([SequenceKind(None)], {})


def _sequence_at(c: HostNode) -> Made:
    c.integer(1)
    element = c.sequence(0).element
    if element is None:
        raise Unsupported("an element of a sequence that never has one")
    return Made([element], {})


def _sequence_insert(c: HostNode) -> Made:
    c.integer(2)
    return Made([SequenceKind(union(c.sequence(0).element, c.tensor(1)))], {})


def _sequence_erase(c: HostNode) -> Made:
    c.integer(1)
    return Made([c.sequence(0)], {})


def _sequence_length(c: HostNode) -> Made:
    c.sequence(0)
    return Made([scalar_kind("i64")], {})


def _concat_from_sequence(c: HostNode) -> Made:
    element = c.sequence(0).element
    axis, new = c.attr("axis", None), bool(c.attr("new_axis", 0))
    if axis is None:
        raise ModelError("expected the attribute 'axis'")
    if not isinstance(element, TensorKind):
        raise ModelError(f"expected a sequence of tensors, found {c.sequence(0)}")
    shape = element.shape
    if shape is not None and new:
        at = check_axis(axis, len(shape) + 1)
        shape = (*shape[:at], None, *shape[at:])
    else:
        shape = _sizes(shape, axis)
    return Made([TensorKind(element.dtype, shape)], {"axis": axis, "new_axis": new})


def _split_to_sequence(c: HostNode) -> Made:
    x, axis = c.tensor(0), c.attr("axis", 0)
    keep = bool(c.attr("keepdims", 1)) or c.has(1)
    c.integer(1)
    shape = _sizes(x.shape, axis)
    if shape is not None:
        at = check_axis(axis, len(shape))
        shape = (*shape[:at], *((1,) if not c.has(1) else (None,)) * keep, *shape[at + 1 :])
    return Made([SequenceKind(TensorKind(x.dtype, shape))], {"axis": axis, "keepdims": keep})


def _identity(c: HostNode) -> Made:
    return Made([c.kinds[0]], {})


# --- optionals ------------------------------------------------------------------------------------


def _optional(c: HostNode) -> Made:
    if c.has(0):
        kind = c.kinds[0]
        return Made([kind if isinstance(kind, OptionalKind) else OptionalKind(kind)], {})
    given = c.attr("type", None)
    if given is None:
        raise ModelError("expected a value, or the attribute 'type'")
    return Made([OptionalKind(kind_of(given, "the attribute 'type'"))], {})


def _optional_has_element(c: HostNode) -> Made:
    return Made([scalar_kind("bool")], {})


def _optional_get_element(c: HostNode) -> Made:
    if not c.has(0):
        raise ModelError("expected a value, found an optional without one")
    kind = c.kinds[0]
    if not isinstance(kind, OptionalKind):
        return Made([kind], {})
    if kind.element is None:
        raise Unsupported("the value of an optional of unknown type")
    return Made([kind.element], {})


# --- texts ----------------------------------------------------------------------------------------


def _string_concat(c: HostNode) -> Made:
    a, b = c.texts(0).shape, c.texts(1).shape
    return Made([TensorKind(STRING, _broadcast(a, b))], {})


def _broadcast(a: Sequence[Dim] | None, b: Sequence[Dim] | None) -> tuple[Dim, ...] | None:
    if a is None or b is None:
        return None
    rank = max(len(a), len(b))
    rows = [(1,) * (rank - len(s)) + tuple(s) for s in (a, b)]
    return tuple(n if m == 1 else m if n in (1, m) else None for m, n in zip(*rows, strict=True))


def _string_split(c: HostNode) -> Made:
    x = c.texts(0)
    if c.attr("maxsplit", 0) < 0:
        raise ModelError(f"attribute 'maxsplit': expected 0 or more, found {c.attr('maxsplit', 0)}")
    shape = None if x.shape is None else (*x.shape, None)
    attrs = {"delimiter": c.attr("delimiter", None), "maxsplit": c.attr("maxsplit", None)}
    return Made([TensorKind(STRING, shape), TensorKind("i64", x.shape)], attrs)


def _string_normalizer(c: HostNode) -> Made:
    x, case = c.texts(0), c.attr("case_change_action", "NONE")
    if case not in ("LOWER", "UPPER", "NONE"):
        raise ModelError(
            f"attribute 'case_change_action': expected LOWER, UPPER or NONE, found {case!r}"
        )
    shape = x.shape
    if shape is not None and len(shape) not in (1, 2):
        raise ModelError(f"expected texts [C] or [1, C], found {x}")
    if shape is not None and len(shape) == 2 and isinstance(shape[0], int) and shape[0] != 1:
        raise ModelError(f"expected texts [C] or [1, C], found {x}")
    stop = c.attr("stopwords", [])
    out = None if shape is None else (*shape[:-1], None) if stop else shape
    attrs = {"case": case, "exact": bool(c.attr("is_case_sensitive", 0)), "stopwords": stop}
    return Made([TensorKind(STRING, out)], attrs)


def _regex_full_match(c: HostNode) -> Made:
    x, pattern = c.texts(0), c.attr("pattern", None)
    if pattern is None:
        raise ModelError("expected the attribute 'pattern'")
    return Made([TensorKind("bool", x.shape)], {"pattern": to_python(pattern)})


def _cast(c: HostNode) -> Made:
    """To texts or from them; others are native."""
    return _cast_to(c.tensor(0), element_type(c.attr("to", 0)))


def _cast_like(c: HostNode) -> Made:
    return _cast_to(c.tensor(0), c.tensor(1).dtype)


def _cast_to(x: TensorKind, to: str) -> Made:
    name = STRING if to == STRING else DTYPES[to].numpy.name
    return Made([TensorKind(to, x.shape)], {"to": name, "from_texts": x.dtype == STRING})


def _unique(c: HostNode) -> Made:
    """Of texts, whose order their numbers don't have."""
    x, axis = c.texts(0), c.attr("axis", None)
    flat: tuple[Dim, ...] = (None,)
    shape = flat if axis is None else _sizes(x.shape, axis)
    indices = TensorKind("i64", flat)
    attrs = {"axis": axis, "sorted": bool(c.attr("sorted", 1))}
    return Made([TensorKind(STRING, shape), indices, indices, indices], attrs)


# --- maps -----------------------------------------------------------------------------------------


def _zip_map(c: HostNode) -> Made:
    x = c.tensor(0)
    ints, texts = c.attr("classlabels_int64s", []), c.attr("classlabels_strings", [])
    labels: list[Any] = texts or ints
    if bool(ints) == bool(texts):
        raise ModelError("expected either classlabels_int64s or classlabels_strings")
    count = x.shape[-1] if x.shape else None
    if x.dtype != "f32" or (x.shape is not None and len(x.shape) not in (1, 2)):
        raise ModelError(f"expected f32[N, C] or f32[C], found {x}")
    if isinstance(count, int) and count != len(labels):
        raise ModelError(f"expected {count} labels, found {len(labels)}")
    kind = MapKind(STRING if texts else "i64", scalar_kind("f32"))
    return Made([SequenceKind(kind)], {"labels": labels})


def _cast_map(c: HostNode) -> Made:
    kind = c.kinds[0]
    if not isinstance(kind, MapKind) or not isinstance(kind.value, TensorKind):
        raise ModelError(f"expected a map of whole numbers, found {kind or 'nothing'}")
    to = {"TO_FLOAT": "f32", "TO_STRING": STRING, "TO_INT64": "i64"}.get(
        c.attr("cast_to", "TO_FLOAT")
    )
    form = c.attr("map_form", "DENSE")
    if to is None or form not in ("DENSE", "SPARSE"):
        raise ModelError(f"unknown cast_to or map_form: {c.attr('cast_to', '')!r}, {form!r}")
    size = c.attr("max_map", 1) if form == "SPARSE" else None
    name = STRING if to == STRING else DTYPES[to].numpy.name
    attrs = {"to": name, "size": size, "from_texts": kind.value.dtype == STRING}
    return Made([TensorKind(to, (1, size))], attrs)


def _dict_vectorizer(c: HostNode) -> Made:
    kind = c.kinds[0]
    ints, texts = c.attr("int64_vocabulary", []), c.attr("string_vocabulary", [])
    words: list[Any] = texts or ints
    if not isinstance(kind, MapKind) or not isinstance(kind.value, TensorKind):
        raise ModelError(f"expected a map, found {kind or 'nothing'}")
    if bool(ints) == bool(texts) or (kind.key == STRING) != bool(texts):
        raise ModelError(f"expected one vocabulary, of the keys of a {kind}")
    dtype = kind.value.dtype
    name = STRING if dtype == STRING else DTYPES[dtype].numpy.name
    return Made([TensorKind(dtype, (1, len(words)))], {"words": words, "dtype": name})


# --- images ---------------------------------------------------------------------------------------


def _image_decoder(c: HostNode) -> Made:
    x, form = c.tensor(0), c.attr("pixel_format", "RGB")
    if x.dtype != "u8" or (x.shape is not None and len(x.shape) != 1):
        raise ModelError(f"expected the bytes of a file, u8[n], found {x}")
    if form not in ("RGB", "BGR", "Grayscale"):
        raise ModelError(
            f"attribute 'pixel_format': expected RGB, BGR or Grayscale, found {form!r}"
        )
    shape = (None, None, 1 if form == "Grayscale" else 3)
    return Made([TensorKind("u8", shape)], {"pixel_format": form})


# What always runs on the host, by (domain, operator).
ALWAYS: Mapping[tuple[str, str], Rule] = {
    ("", "SequenceConstruct"): _sequence_construct,
    ("", "SequenceEmpty"): _sequence_empty,
    ("", "SequenceAt"): _sequence_at,
    ("", "SequenceInsert"): _sequence_insert,
    ("", "SequenceErase"): _sequence_erase,
    ("", "SequenceLength"): _sequence_length,
    ("", "ConcatFromSequence"): _concat_from_sequence,
    ("", "SplitToSequence"): _split_to_sequence,
    ("", "Optional"): _optional,
    ("", "OptionalHasElement"): _optional_has_element,
    ("", "OptionalGetElement"): _optional_get_element,
    ("", "StringConcat"): _string_concat,
    ("", "StringSplit"): _string_split,
    ("", "StringNormalizer"): _string_normalizer,
    ("", "RegexFullMatch"): _regex_full_match,
    ("", "ImageDecoder"): _image_decoder,
    ("ai.onnx.ml", "ZipMap"): _zip_map,
    ("ai.onnx.ml", "CastMap"): _cast_map,
    ("ai.onnx.ml", "DictVectorizer"): _dict_vectorizer,
}
# What runs there only for values that native code lacks.
SOMETIMES: Mapping[tuple[str, str], Rule] = {
    ("", "Identity"): _identity,
    ("", "Cast"): _cast,
    ("", "CastLike"): _cast_like,
    ("", "Unique"): _unique,
}
# Bodies of these run there when something in them does; onnx_plan.py plans them.
CONTROL = ("If", "Loop", "SequenceMap")


def rule_of(node: NodeProto, domain: str, kinds: Sequence[Kind | None]) -> Rule | None:
    """The rule of a node that runs on the host, given the kinds of its operands; None for a native
    one, and for control flow."""
    key = (domain, node.op_type)
    if key in ALWAYS:
        return ALWAYS[key]
    found = SOMETIMES.get(key)
    if found is None or not kinds:
        return None
    if key == ("", "Identity"):
        return None if isinstance(kinds[0], TensorKind) else found
    to = next((a.i for a in node.attribute if a.name == "to"), 0)
    gives_texts = key == ("", "Cast") and to == TensorProto.STRING
    return found if gives_texts or any(map(is_string, kinds)) else None
