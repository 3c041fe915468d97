"""What steps on the host compute: sequences, optionals, maps, texts, images, as the ONNX standard
says (the newest version of each operator; which kinds they take is checked when a model is
compiled, in frontend/onnx_host.py).

Values are numpy arrays, lists for sequences, dicts for maps, None for an optional without a value.
A tensor of texts is an int64 array of their numbers in the call's table.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal, InvalidOperation
from itertools import accumulate, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifact.manifest import dtype_of
from ..errors import InputError, RunError

Array = NDArray[Any]


class _Numbers(dict[object, int]):
    """Text -> number. The model's own come from a table that all calls share; each text is looked
    up there once, and found here by C from then on."""

    def __init__(self, own: Mapping[str, int]) -> None:
        super().__init__()
        self.own = own
        self.later: list[str] = []

    def __missing__(self, key: object) -> int:
        if isinstance(key, _Missing):
            return key.number
        text = key.decode("utf-8", "replace") if isinstance(key, bytes) else key
        if not isinstance(text, str):
            raise TypeError(f"expected texts, got {type(key).__qualname__}")
        found = self.own.get(text)
        if found is None and text is not key:
            found = self[text]
        if found is None:
            found = len(self.own) + len(self.later)
            self.later.append(text)
        self[key] = found
        return found


class _Missing:
    """Stands for a text that is missing, as a key."""

    def __init__(self, number: int) -> None:
        self.number = number


_NAN, _NONE = _Missing(-1), _Missing(-2)


def _marked(value: object) -> object:
    """A text, or what stands for it where it is missing."""
    if value is None:
        return _NONE
    is_nan = isinstance(value, float) and value != value
    return _NAN if is_nan or type(value).__name__ in ("NAType", "NaTType") else value


class Texts:
    """The table of a call: texts by number, the model's own first. `own` are these, `numbers` the
    same the other way round."""

    def __init__(self, own: Sequence[str], numbers: Mapping[str, int]) -> None:
        self._own = own
        self._numbers = _Numbers(numbers)

    def numbers(self, texts: Iterable[object], shape: Sequence[int]) -> Array:
        """The numbers of texts. TypeError for what is none."""
        return np.array(list(map(self._numbers.__getitem__, texts)), np.int64).reshape(shape)

    def numbers_or_missing(self, texts: Sequence[object], shape: Sequence[int]) -> Array:
        """The same where texts may be missing: NaN has the number -1, None has -2."""
        try:
            return self.numbers(texts, shape)
        except TypeError:
            return self.numbers(map(_marked, texts), shape)

    def texts(self, numbers: Array) -> list[str]:
        """The texts of numbers; the empty one for what is the number of none."""
        table: Sequence[str] = self._own
        count = len(table)
        if self._numbers.later:
            table, count = (*table, *self._numbers.later), count + len(self._numbers.later)
        numbered: list[int] = numbers.reshape(-1).tolist()
        return [table[i] if 0 <= i < count else table[0] for i in numbered]

    def array(self, numbers: Array) -> Array:
        """Python texts in an array of objects."""
        out = np.empty(numbers.shape, object)
        out.reshape(-1)[:] = self.texts(numbers)
        return out


@dataclass(frozen=True)
class Call:
    """The operands of a step (None for one that is left out), attributes, the table of texts."""

    values: Sequence[Any]
    attrs: Mapping[str, Any]
    texts: Texts

    def value(self, i: int) -> Any:
        return self.values[i] if i < len(self.values) else None

    def position(self, i: int, count: int, *, insert: bool = False) -> int | None:
        """Operand i as a place in a sequence of `count`, from the end where negative; None where it
        is left out. RunError for one outside."""
        given = self.value(i)
        if given is None:
            return None
        at = int(np.asarray(given).reshape(-1)[0])
        most = count if insert else count - 1
        if not -count <= at <= most:
            raise RunError(f"position {at} is outside a sequence of {count} elements")
        return at + count if at < 0 else at


Operator = Callable[[Call], Sequence[Any]]


# ---- sequences ----


def _construct(c: Call) -> Sequence[Any]:
    return [list(c.values)]


def _empty(c: Call) -> Sequence[Any]:
    return [[]]


def _at(c: Call) -> Sequence[Any]:
    at = c.position(1, len(c.values[0]))
    return [c.values[0][at]]


def _insert(c: Call) -> Sequence[Any]:
    items = list(c.values[0])
    at = c.position(2, len(items), insert=True)
    items.insert(len(items) if at is None else at, c.values[1])
    return [items]


def _erase(c: Call) -> Sequence[Any]:
    items = list(c.values[0])
    at = c.position(1, len(items))
    del items[-1 if at is None else at]
    return [items]


def _length(c: Call) -> Sequence[Any]:
    return [np.array(len(c.values[0]), np.int64)]


def _concat(c: Call) -> Sequence[Any]:
    items = c.values[0]
    if not items:
        raise RunError("expected a sequence with elements to join, got an empty one")
    join = np.stack if c.attrs["new_axis"] else np.concatenate
    try:
        return [join(items, axis=c.attrs["axis"])]
    except ValueError as error:
        shapes = ", ".join(str(list(np.shape(x))) for x in items[:8])
        raise RunError(f"elements of shapes {shapes} cannot be joined: {error}") from None


def _split(c: Call) -> Sequence[Any]:
    x, given, axis = c.values[0], c.value(1), c.attrs["axis"]
    size = x.shape[axis]
    if given is None or np.ndim(given) == 0:
        chunk = 1 if given is None else int(given)
        if chunk < 1:
            raise RunError(f"expected chunks of 1 or more, got {chunk}")
        ends = list(range(chunk, size, chunk))
    else:
        sizes = [int(n) for n in given]
        if min(sizes, default=0) < 0 or sum(sizes) != size:
            raise RunError(f"expected sizes that sum to {size}, got {sizes}")
        ends = list(accumulate(sizes[:-1]))
    if not size and (given is None or np.ndim(given) == 0):
        return [[]]
    pieces = [np.ascontiguousarray(p) for p in np.split(x, ends, axis)]
    at = axis % x.ndim
    if given is None and not c.attrs["keepdims"]:
        pieces = [p.reshape(*p.shape[:at], *p.shape[at + 1 :]) for p in pieces]
    return [pieces]


def _identity(c: Call) -> Sequence[Any]:
    return [c.value(0)]


# ---- optionals ----


def _has_element(c: Call) -> Sequence[Any]:
    return [np.array(c.value(0) is not None)]


def _get_element(c: Call) -> Sequence[Any]:
    if c.value(0) is None:
        raise RunError("expected a value, got an optional without one")
    return [c.value(0)]


# ---- texts ----


def _string_concat(c: Call) -> Sequence[Any]:
    try:
        a, b = np.broadcast_arrays(c.values[0], c.values[1])
    except ValueError:
        shapes = [list(v.shape) for v in c.values[:2]]
        raise RunError(f"the shapes {shapes[0]} and {shapes[1]} do not broadcast") from None
    pairs = zip(c.texts.texts(a), c.texts.texts(b), strict=True)
    return [c.texts.numbers((x + y for x, y in pairs), a.shape)]


def _string_split(c: Call) -> Sequence[Any]:
    """Pieces in a last axis as long as the most pieces, filled up with empty texts."""
    x, by, most = c.values[0], c.attrs["delimiter"] or None, c.attrs["maxsplit"]
    limit = -1 if most is None else most
    pieces = [t.split(by, limit) if t else [] for t in c.texts.texts(x)]
    width = max(map(len, pieces), default=0)
    padded = (t for p in pieces for t in (*p, *[""] * (width - len(p))))
    counts = np.array([len(p) for p in pieces], np.int64).reshape(x.shape)
    return [c.texts.numbers(padded, (*x.shape, width)), counts]


def _normalize(c: Call) -> Sequence[Any]:
    """Stop words go, then the case changes; at least one text, if an empty one, is left."""
    x, listed = c.values[0], list(c.attrs["stopwords"])
    if x.ndim == 2 and x.shape[0] != 1:
        raise RunError(f"expected texts [C] or [1, C], got {list(x.shape)}")
    exact = c.attrs["exact"]
    fold = str if exact else str.lower
    stop = {fold(str(t)) for t in listed}
    kept = [t for t in c.texts.texts(x) if fold(t) not in stop]
    change = {"LOWER": str.lower, "UPPER": str.upper, "NONE": str}[c.attrs["case"]]
    changed = [change(t) for t in kept] or [""]
    return [c.texts.numbers(changed, (*x.shape[:-1], len(changed)))]


def _full_match(c: Call) -> Sequence[Any]:
    x, pattern = c.values[0], re.compile(c.attrs["pattern"])
    found = [pattern.fullmatch(t) is not None for t in c.texts.texts(x)]
    return [np.array(found, np.bool_).reshape(x.shape)]


def _cast(c: Call) -> Sequence[Any]:
    x, to = c.values[0], c.attrs["to"]
    if c.attrs["from_texts"]:
        texts = c.texts.texts(x)
        if to == "string":
            return [x]
        return [_parsed(texts, to).reshape(x.shape)]
    return [c.texts.numbers(map(_written, x.reshape(-1)), x.shape)]


def _written(value: Any) -> str:
    """The shortest text that reads back as the number."""
    return str(value)


_TRUTH = {"true": 1.0, "false": 0.0}


def _parsed(texts: Sequence[str], to: str) -> Array:
    """Numbers of texts, plain or scientific; whole ones without what is behind the point. Python
    would also take digits that are not ASCII, and underscores."""
    dtype, joined = dtype_of(to), "\n".join(texts)
    try:
        if "_" in joined or not joined.isascii():
            raise ValueError(next(repr(t) for t in texts if "_" in t or not t.isascii()))
        if dtype.kind in "iu":
            try:
                return np.array(list(map(int, texts)), dtype)
            except ValueError:
                least, most = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
                return np.array([_truncated(t, least, most) for t in texts], dtype)
        if dtype.kind == "b":
            words = map(str.lower, texts)
            return np.array([_TRUTH[t] if t in _TRUTH else float(t) for t in words]).astype(bool)
        return np.array(list(map(float, texts)), np.float64).astype(dtype)
    except (ValueError, OverflowError) as error:
        raise RunError(f"a text is no {dtype.name}: {error}") from None


def _truncated(text: str, least: int, most: int) -> int:
    """The whole number towards 0. ValueError for a text that is none, or none that fits."""
    try:
        exact = Decimal(text).to_integral_value(ROUND_DOWN)
    except InvalidOperation:
        raise ValueError(repr(text)) from None
    if not exact.is_finite() or not least <= exact <= most:  # asked before it gets long
        raise ValueError(repr(text))
    return int(exact)


def _unique(c: Call) -> Sequence[Any]:
    """Texts in their order, or in that of first appearance; with positions, inverse and counts."""
    x, axis = c.texts.array(c.values[0]), c.attrs["axis"]
    rows = x.reshape(-1, 1) if axis is None else np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    keys = [tuple(r) for r in rows.tolist()]
    first: dict[tuple[str, ...], int] = {}
    for k, key in enumerate(keys):
        first.setdefault(key, k)
    order = sorted(first) if c.attrs["sorted"] else list(first)
    place = {key: k for k, key in enumerate(order)}
    inverse = np.array([place[key] for key in keys], np.int64)
    indices = np.array([first[key] for key in order], np.int64)
    numbers = c.values[0]
    flat = numbers.reshape(-1) if axis is None else numbers
    out = np.take(flat, indices, axis=0 if axis is None else axis)
    counts = np.bincount(inverse, minlength=len(order)).astype(np.int64)
    return [out, indices, inverse, counts]


# ---- maps ----


def _zip_map(c: Call) -> Sequence[Any]:
    labels, x = c.attrs["labels"], c.values[0]
    rows = x.reshape(1, -1) if x.ndim == 1 else x
    if rows.shape[1] != len(labels):
        raise RunError(f"expected {len(labels)} columns, got {rows.shape[1]}")
    return [list(map(dict, map(zip, repeat(labels), rows.tolist())))]  # nothing else is as fast


def _cast_map(c: Call) -> Sequence[Any]:
    """Values in the order of their keys; SPARSE: at the keys, zeros elsewhere."""
    given: Mapping[int, Any] = c.values[0]
    size = c.attrs["size"]
    keys = sorted(given) if size is None else range(size)
    fill = "" if c.attrs["from_texts"] else 0.0
    if size is not None and any(not 0 <= k < size for k in given):
        raise RunError(f"expected keys in 0..{size - 1}, got {sorted(given)}")
    values = [given.get(k, fill) for k in keys]
    to = c.attrs["to"]
    if to == "string":
        return [c.texts.numbers(map(str, values), (1, len(values)))]
    if c.attrs["from_texts"]:
        return [_parsed([str(v) or "0" for v in values], to).reshape(1, -1)]
    return [np.array(values).astype(to).reshape(1, -1)]


def _dict_vectorizer(c: Call) -> Sequence[Any]:
    given, words = c.values[0], c.attrs["words"]
    if c.attrs["dtype"] == "string":
        return [c.texts.numbers((str(given.get(w, "")) for w in words), (1, len(words)))]
    return [np.array([[given.get(w, 0) for w in words]]).astype(c.attrs["dtype"])]


# ---- categories ----


def _check_categories(c: Call) -> Sequence[Any]:
    """Operands: bool[rows], where a category is unknown; the column, or the matrix that has it.
    Raises InputError for the first row."""
    unknown = c.values[0]
    if not unknown.any():
        return ()
    row = int(unknown.argmax())
    given, at = c.value(1), c.attrs["at"]
    found = ""
    if given is not None:
        value = given[row] if given.ndim == 1 else given[row, at]
        is_text = given.dtype == np.int64
        known = c.texts.texts(value.reshape(1))[0] if is_text and value >= 0 else None
        missing = {-1: "NaN", -2: "None"}.get(int(value)) if is_text else None
        found = f" {missing or repr(known if is_text else float(value))}"
    raise InputError(
        f"column '{c.attrs['column']}': row {row} has the category{found}, which the encoder was "
        "not fitted with",
        hint="handle_unknown='ignore' (or 'use_encoded_value') in the encoder, or other rows",
    )


# ---- images ----


def _decode(c: Call) -> Sequence[Any]:
    """u8[height, width, channels] of a file in any format that Pillow reads."""
    try:
        from PIL import Image
    except ImportError:
        raise RunError(
            "images are decoded by the package pillow, which is not installed",
            hint="pip install pillow",
        ) from None
    form = c.attrs["pixel_format"]
    try:
        with Image.open(io.BytesIO(c.values[0].tobytes())) as image:
            pixels = np.array(image.convert("L" if form == "Grayscale" else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RunError(f"the bytes are no image that can be read: {error}") from None
    if form == "Grayscale":
        return [pixels[:, :, None]]
    return [np.ascontiguousarray(pixels[:, :, ::-1]) if form == "BGR" else pixels]


OPERATORS: Mapping[str, Operator] = {
    "SequenceConstruct": _construct,
    "SequenceEmpty": _empty,
    "SequenceAt": _at,
    "SequenceInsert": _insert,
    "SequenceErase": _erase,
    "SequenceLength": _length,
    "ConcatFromSequence": _concat,
    "SplitToSequence": _split,
    "Identity": _identity,
    "Optional": _identity,
    "OptionalHasElement": _has_element,
    "OptionalGetElement": _get_element,
    "StringConcat": _string_concat,
    "StringSplit": _string_split,
    "StringNormalizer": _normalize,
    "RegexFullMatch": _full_match,
    "Cast": _cast,
    "CastLike": _cast,
    "Unique": _unique,
    "ZipMap": _zip_map,
    "CastMap": _cast_map,
    "DictVectorizer": _dict_vectorizer,
    "ImageDecoder": _decode,
    "CheckCategories": _check_categories,
}

_TEXT, _FLAG, _NUMBER, _LIST = (str,), (bool,), (int,), (list,)
# The attributes that each of them reads, and their types in JSON.
ATTRIBUTES: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "ConcatFromSequence": {"axis": _NUMBER, "new_axis": _FLAG},
    "SplitToSequence": {"axis": _NUMBER, "keepdims": _FLAG},
    "StringSplit": {"delimiter": (str, type(None)), "maxsplit": (int, type(None))},
    "StringNormalizer": {"case": _TEXT, "exact": _FLAG, "stopwords": _LIST},
    "RegexFullMatch": {"pattern": _TEXT},
    "Cast": {"to": _TEXT, "from_texts": _FLAG},
    "CastLike": {"to": _TEXT, "from_texts": _FLAG},
    "Unique": {"axis": (int, type(None)), "sorted": _FLAG},
    "ZipMap": {"labels": _LIST},
    "CastMap": {"to": _TEXT, "size": (int, type(None)), "from_texts": _FLAG},
    "DictVectorizer": {"words": _LIST, "dtype": _TEXT},
    "ImageDecoder": {"pixel_format": _TEXT},
    "CheckCategories": {"column": _TEXT, "at": _NUMBER},
}
