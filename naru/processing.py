"""Declarations of what is done before and after a model, and compiled with it.

    image(resize=256, crop=224, mean=imagenet, std=imagenet)     an image input, from pixels
    scores=softmax(top=5, labels=classes.txt)                    an output, by name

A declaration is such a text, or the same as a mapping (in JSON or Python):
`{"input": "pixels", "resize": 256, "crop": 224}`, `{"output": "scores", "function": "softmax"}`.
Here it is read and checked by itself; `images.py` and `classes.py` of `naru/frontend` fit it to a
model and make the graph. Everything in a declaration decides the bytes of the artifact.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, fields
from numbers import Real
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np

from naru.errors import InputError, nearest

PIXELS = {"rgb": 3, "rgba": 4, "grey": 1}  # what callers may give, and its channels
COLORS = {"rgb": 3, "bgr": 3, "grey": 1}  # what models may want
FUNCTIONS = ("none", "softmax", "sigmoid", "argmax")
MEANS = {"imagenet": (0.485, 0.456, 0.406), "clip": (0.48145466, 0.4578275, 0.40821073)}
DEVIATIONS = {"imagenet": (0.229, 0.224, 0.225), "clip": (0.26862954, 0.26130258, 0.27577711)}

Size: TypeAlias = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Image:
    """An image input (empty `input`: the only one) that callers give as uint8 pixels: `rgb`
    [height, width, 3], `rgba` [height, width, 4] or `grey` [height, width]. In the order in which
    it is done:

    background  rgba: the colour (0..255) that shows where pixels are transparent; None: alpha is
                left out
    resize      "model": to the model's size; a size; a number: the shorter side gets it, and the
                middle is cropped; "none": images have the model's size already
    crop        the size that is cut out of the middle after `resize` by a number. Default: the
                model's
    letterbox   `resize` keeps the aspect ratio, and what is left at the borders is `fill` (0..255)
    filter      nearest, box (the mean), bilinear, bicubic; `antialias`: wider where the image
                shrinks
    colors      what the model wants: rgb, bgr, grey. Empty: by its channels
    invert      255 - pixel: ink on paper becomes light on dark
    range       what 0..255 is brought to. Default: 0..1, and 0..255 where the model takes uint8
    mean, std   (x - mean) / std, in units of `range`: one number, or one a channel
    layout      of the model: NCHW, NHWC. Empty: the axis that has as many elements as colours
    """

    input: str = ""
    pixels: str = "rgb"
    background: tuple[float, ...] | None = None
    resize: int | Size | str = "model"
    crop: Size | None = None
    letterbox: bool = False
    fill: float = 0.0
    filter: str = "bilinear"
    antialias: bool = True
    colors: str = ""
    invert: bool = False
    range: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: str = ""


@dataclass(frozen=True)
class Scores:
    """An output (empty `output`: the only one) with an element a class along `axis`. `function`:
    none, softmax, sigmoid, or argmax, the number of the greatest. `top`: two more outputs, the
    greatest elements and their numbers. `labels`: what the classes are called."""

    output: str = ""
    function: str = "none"
    axis: int = -1
    top: int = 0
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Processing:
    """All that is declared for a model."""

    images: tuple[Image, ...] = ()
    scores: tuple[Scores, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.images or self.scores)

    def as_json(self) -> dict[str, Any]:
        """The declarations as texts, without the labels."""
        made = {"preprocess": self.images, "postprocess": self.scores}
        return {key: list(map(declaration, some)) for key, some in made.items() if some}


def declaration(declared: Image | Scores) -> str:
    """The text of a declaration, without labels: what differs from the defaults."""
    head, name = "image", ""
    settings: list[str] = []
    for f, value in _values(declared):
        if f.name == "function":
            head = value
        elif value == f.default or f.name == "labels":
            continue
        elif f.name in ("input", "output"):
            name = f"{value}="
        elif isinstance(value, bool):
            settings.append(f.name if value else f"{f.name}=no")
        elif isinstance(value, tuple):
            join = {"resize": "x", "crop": "x", "range": ".."}.get(f.name, ", ")
            parts = join.join(map(_digits, cast("tuple[float, ...]", value)))
            settings.append(f"{f.name}={parts}" if join != ", " else f"{f.name}=({parts})")
        else:
            settings.append(f"{f.name}={value}")
    return f"{name}{head}" + (f"({', '.join(settings)})" if settings else "")


def _digits(n: float) -> str:
    """As many as tell the number from any other."""
    return f"{n:g}" if float(f"{n:g}") == n else repr(n)


NOTHING = Processing()
UNFIT = "the declared processing does not fit the model"

Declared: TypeAlias = "str | Mapping[str, Any] | Image | Scores"
Labels: TypeAlias = "str | os.PathLike[str] | Sequence[str] | Mapping[Any, str]"
T = TypeVar("T", Image, Scores)


def read_processing(
    preprocess: Declared | Sequence[Declared] | None = None,
    postprocess: Declared | Sequence[Declared] | None = None,
    *,
    labels: Labels | None = None,
    top: int | None = None,
    file: str | os.PathLike[str] | None = None,
) -> Processing:
    """Declarations as values. `labels` and `top` belong to the only output that `postprocess`
    declares, or, without one, to the model's only output. `file`: JSON with `preprocess` and
    `postprocess`. Raises InputError that lists all that is wrong."""
    problems: list[str] = []
    images = _several("preprocess", preprocess, problems)
    scores = _several("postprocess", postprocess, problems)
    folder = Path()
    if file is not None:
        folder = Path(file).parent
        more = _read_file(Path(file), problems)
        images, scores = images + more[0], scores + more[1]
    extra = _given_apart(labels, top, problems)
    if extra and not scores:
        scores = ["none"]
    if extra and len(scores) > 1:
        names = " and ".join(extra)
        problems.append(f"{names}: of which output? say it in its declaration: out=softmax(top=5)")
        extra = {}
    made = Processing(
        tuple(_read(d, Image, folder, problems, {}) for d in images),
        tuple(_read(d, Scores, folder, problems, extra) for d in scores),
    )
    for kind, names in (
        ("input", [i.input for i in made.images]),
        ("output", [s.output for s in made.scores]),
    ):
        if len(set(names)) < len(names) or ("" in names and len(names) > 1):
            problems.append(f"expected one declaration an {kind}, by name, found {len(names)}")
    raise_all("the declared processing is not valid", problems)
    return made


def top_names(output: str) -> tuple[str, str]:
    """What the two outputs of `top` are called: the greatest elements, and their numbers."""
    return f"{output}_top_scores", f"{output}_top_classes"


def describe_outputs(scores: Sequence[Scores], outputs: Mapping[str, int]) -> dict[str, Any]:
    """What a manifest says of outputs (names and ranks of all of them), by name: `labels` and the
    `axis` that they belong to; of those of `top`, which output it is `top_of`."""
    records: dict[str, dict[str, Any]] = {}
    for s in scores:
        name = s.output or next(iter(outputs))
        record: dict[str, Any] = {"labels": list(s.labels)} if s.labels else {}
        if s.function != "argmax":
            record["axis"] = s.axis % max(outputs[name], 1)
        records[name] = record
        records |= {t: {"top_of": name} for t in top_names(name) if s.top}
    return records


def raise_all(head: str, problems: Sequence[str]) -> None:
    """An InputError with all problems, if there are any."""
    if problems:
        raise InputError("\n  ".join([f"{head}:", *dict.fromkeys(problems)]))


def _given_apart(labels: Labels | None, top: int | None, problems: list[str]) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    for name, value in (("labels", labels), ("top", top)):
        if value is None:
            continue
        try:
            extra[name] = _SCORES[name](value)
        except ValueError as error:
            problems.append(f"{name}: expected {error}")
    return extra


def _several(what: str, given: object, problems: list[str]) -> list[Declared]:
    if given is None:
        return []
    if isinstance(given, list | tuple):
        return list(cast("Sequence[Declared]", given))
    if isinstance(given, str | Mapping | Image | Scores):
        return [cast("Declared", given)]
    problems.append(f"{what}: expected a declaration or a list of some, found {given!r}")
    return []


def _read_file(path: Path, problems: list[str]) -> tuple[list[Declared], list[Declared]]:
    try:
        found: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(f"{path}: cannot be read as JSON: {error}")
        return [], []
    keys = ("preprocess", "postprocess")
    if not isinstance(found, dict) or not set(cast("dict[str, Any]", found)) <= set(keys):
        what = ", ".join(cast("dict[str, Any]", found)) if isinstance(found, dict) else repr(found)
        problems.append(f"{path}: expected an object with {' and '.join(keys)}, found {what}")
        return [], []
    parts = cast("dict[str, Any]", found)
    images, scores = (_several(f"{path}: {k}", parts.get(k), problems) for k in keys)
    return images, scores


# --- texts and mappings ---------------------------------------------------------------------------

_FORM = re.compile(r"\s*(?:(?P<name>[^(]*)=)?\s*(?P<word>\w+)\s*(?:\((?P<settings>.*)\))?\s*", re.S)


def _read(
    given: Declared, kind: type[T], folder: Path, problems: list[str], extra: Mapping[str, Any]
) -> T:
    """One declaration; what is wrong with it is added to `problems`."""
    where = given if isinstance(given, str) else repr(given)
    if isinstance(given, kind):
        given = {
            f.name: v for f, v in _values(given) if isinstance(v, np.ndarray) or v != f.default
        }
    found: list[str] = []
    settings = _settings(given, kind, found)
    found += [f"{name} is given twice" for name in extra if name in settings]
    converters = _IMAGE if kind is Image else _SCORES
    values: dict[str, Any] = {}
    for name, value in {**settings, **extra}.items():
        convert = converters.get(name)
        if convert is None:
            meant = nearest(name, converters) or f"there are {', '.join(converters)}"
            found.append(f"there is no setting {name!r}; {meant}")
            continue
        try:
            values[name] = _labels(value, folder) if name == "labels" else convert(value)
        except (ValueError, TypeError) as error:
            found.append(f"{name}: expected {error}, found {value!r}")
    made = kind(**values)
    found += _clashes(made)
    problems += [f"{where}: {problem}" for problem in found]
    return made


def _values(declared: Image | Scores) -> Iterable[tuple[Field[Any], Any]]:
    return ((f, getattr(declared, f.name)) for f in fields(declared))


def _settings(given: object, kind: type[Image] | type[Scores], found: list[str]) -> dict[str, Any]:
    """The settings of a text or mapping, not yet converted."""
    if isinstance(given, Mapping):
        return dict(cast("Mapping[str, Any]", given))
    match = _FORM.fullmatch(given) if isinstance(given, str) else None
    words = ("image",) if kind is Image else FUNCTIONS
    if match is None or match["word"] not in words:
        shapes = "image(…)" if kind is Image else ", ".join(f"{w}(…)" for w in FUNCTIONS)
        found.append(f"expected {shapes} or NAME={words[-1]}(…)")
        return {}
    settings: dict[str, Any] = {} if kind is Image else {"function": match["word"]}
    if match["name"]:
        settings["input" if kind is Image else "output"] = match["name"].strip()
    for part in split_outside(match["settings"] or ""):
        name, equals, value = (p.strip() for p in part.partition("="))
        if name in settings:
            found.append(f"{name} is given twice")
        settings[name] = value if equals else True
    return settings


def split_outside(text: str) -> list[str]:
    """The parts between the commas that stand in no parentheses."""
    parts, depth = [""], 0
    for c in text:
        depth += (c in "([") - (c in ")]")
        if c == "," and not depth:
            parts.append("")
        else:
            parts[-1] += c
    return [p for p in parts if p.strip()]


def _clashes(made: Image | Scores) -> Iterable[str]:
    """Settings that say nothing together."""
    if isinstance(made, Scores):
        if made.function == "argmax" and made.top:
            yield "argmax leaves one number, of which there is no top"
        return
    by_number = isinstance(made.resize, int)
    if made.crop is not None and not by_number:
        yield "crop: needs resize=N, the shorter side"
    if made.crop is not None and isinstance(made.resize, int) and max(made.crop) > made.resize:
        yield f"crop: {made.crop[0]}x{made.crop[1]} is more than resize={made.resize} leaves"
    if made.letterbox and (by_number or made.resize == "none"):
        yield "letterbox: needs resize=HxW, or none of resize"
    if made.fill and not made.letterbox:
        yield "fill: needs letterbox"
    if made.background is not None and made.pixels != "rgba":
        yield "background: needs pixels=rgba"
    if made.pixels == "grey" and made.colors in ("rgb", "bgr"):
        yield f"colors={made.colors}: grey pixels have none"


# --- values ---------------------------------------------------------------------------------------


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, str | Real):
        raise ValueError("a number")
    try:
        found = float(value)
    except (ValueError, OverflowError):
        raise ValueError("a number") from None
    if not math.isfinite(found):
        raise ValueError("a finite number")
    return found


def _whole(least: int) -> Callable[[object], int]:
    def convert(value: object) -> int:
        try:
            found = _number(value)
        except ValueError:
            found = math.nan
        if found != found or found != int(found) or found < least:
            raise ValueError(f"a whole number of at least {least}")
        return int(found)

    return convert


def _size(value: object) -> Size:
    parts = value.split("x") if isinstance(value, str) else value
    parts = cast("list[object]", parts if isinstance(parts, list | tuple) else [parts])
    try:
        sizes = [_whole(1)(p) for p in parts]
    except ValueError:
        sizes = []
    if len(sizes) not in (1, 2) or max(sizes) > 32767:
        raise ValueError("a size such as 224 or 240x320 (height x width), each from 1 to 32767")
    return sizes[0], sizes[-1]


def _resize(value: object) -> int | Size | str:
    if value in ("none", "model"):
        return str(value)
    made = _size(value)
    one = isinstance(value, int) or (isinstance(value, str) and "x" not in value)
    return made[0] if one else made


def _flag(value: object) -> bool:
    words = {"yes": True, "true": True, "no": False, "false": False}
    found = words.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise ValueError("yes or no")
    return found


def _choice(*names: str) -> Callable[[object], str]:
    def convert(value: object) -> str:
        if value not in names:
            raise ValueError(f"one of {', '.join(filter(None, names))}")
        return str(value)

    return convert


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a name")
    return value


def _numbers(value: object) -> tuple[float, ...]:
    value = value.tolist() if isinstance(value, np.ndarray) else value
    parts = split_outside(value.strip().strip("()[]")) if isinstance(value, str) else value
    parts = cast("list[object]", parts if isinstance(parts, list | tuple) else [parts])
    return tuple(map(_number, parts))


def _channels(presets: Mapping[str, tuple[float, ...]], *, nonzero: bool = False) -> Any:
    def convert(value: object) -> tuple[float, ...]:
        if isinstance(value, str) and value in presets:
            return presets[value]
        try:
            found = _numbers(value)
        except ValueError:
            found = ()
        if len(found) not in (1, 3) or (nonzero and 0 in found):
            kind = "numbers other than 0" if nonzero else "numbers"
            names = " or ".join(presets)
            raise ValueError(f"1 or 3 {kind} as in (0.5, 0.5, 0.5), or {names}")
        return found

    return convert


def _span(value: object) -> tuple[float, ...]:
    parts = value.split("..") if isinstance(value, str) and ".." in value else value
    try:
        low, high = _numbers(parts)
    except ValueError:
        low = high = 0.0
    if not low < high:
        raise ValueError("a range such as 0..1 or -1..1")
    return low, high


_NAMED = {"white": (255.0,) * 3, "black": (0.0,) * 3, "grey": (128.0,) * 3}


def _color(value: object) -> tuple[float, ...]:
    if isinstance(value, str) and value in _NAMED:
        return _NAMED[value]
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return tuple(float(b) for b in bytes.fromhex(value[1:]))
    try:
        found = _numbers(value)
    except ValueError:
        found = ()
    if len(found) not in (1, 3) or not all(0 <= c <= 255 for c in found):
        raise ValueError("white, black, #rrggbb or (red, green, blue) of 0..255")
    return found * 3 if len(found) == 1 else found


def _shade(value: object) -> float:
    found = _number(value)
    if not 0 <= found <= 255:
        raise ValueError("a number in 0..255")
    return found


def _labels(value: object, folder: Path = Path()) -> tuple[str, ...]:
    """Labels in the order of the classes: a list; numbers and labels; or a file with one a line, or
    with either of these as JSON (also as `id2label`, as Hugging Face's config.json has it)."""
    if isinstance(value, str | os.PathLike):
        path = folder / cast("str | os.PathLike[str]", value)
        try:
            text = path.read_text(encoding="utf-8-sig")
            value = json.loads(text) if path.suffix == ".json" else text.rstrip().split("\n")
        except (OSError, ValueError) as error:
            raise ValueError(f"a file of labels ({error})") from None
    if isinstance(value, Mapping):
        named = cast("Mapping[Any, Any]", value)
        named = cast("Mapping[Any, Any]", named.get("id2label", named))
        try:
            by_number = {int(k): v for k, v in named.items()}
        except (ValueError, TypeError):
            raise ValueError("numbers of classes and their labels") from None
        missing = sorted(set(range(len(by_number))) - set(by_number))
        if missing:
            raise ValueError(f"a label for each class (none for {missing[0]})")
        value = [by_number[k] for k in range(len(by_number))]
    listed = cast("list[object]", value if isinstance(value, list | tuple) else [])
    if not listed or not all(isinstance(v, str) for v in listed):
        raise ValueError("a list of texts, {number: text}, or a file of either")
    labels = tuple(str(v).strip() for v in listed)
    broken = [k for k, text in enumerate(labels) if not _is_text(text)]
    if broken:
        raise ValueError(f"texts (label {broken[0]} has half of a surrogate pair)")
    return labels


def _is_text(text: str) -> bool:
    """Can it be written as UTF-8?"""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_IMAGE: dict[str, Callable[[object], Any]] = {
    "input": _text,
    "pixels": _choice(*PIXELS),
    "background": _color,
    "resize": _resize,
    "crop": _size,
    "letterbox": _flag,
    "fill": _shade,
    "filter": _choice("nearest", "box", "bilinear", "bicubic"),
    "antialias": _flag,
    "colors": _choice(*COLORS),
    "invert": _flag,
    "range": _span,
    "mean": _channels(MEANS),
    "std": _channels(DEVIATIONS, nonzero=True),
    "layout": _choice("NCHW", "NHWC"),
}
_SCORES: dict[str, Callable[[object], Any]] = {
    "output": _text,
    "function": _choice(*FUNCTIONS),
    "axis": lambda value: _whole(-8)(value),
    "top": _whole(1),
    "labels": _labels,
}
