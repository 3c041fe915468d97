"""What a model takes and gives, as the manifest says it: the ground of headers and of TypeScript.

A library has several levels of code, one manifest each; the signature is the same in all of them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import numpy as np

from naru.artifact.bundle import BundleParts
from naru.artifact.manifest import dtype_of
from naru.errors import InputError, NaruError, UnsupportedError
from naru.processing import top_names

Json: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input, whose dims are sizes and names of symbols, or an output, whose dims may be
    formulas. `item_size` is in bytes; `labels` name the classes, which lie along `label_axis`;
    where it is None, the elements are their numbers."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    item_size: int
    optional: bool = False
    late: bool = False
    labels: tuple[str, ...] = ()
    label_axis: int | None = None

    @property
    def size(self) -> int | None:
        """Elements; None where that depends."""
        if self.late or not all(isinstance(d, int) for d in self.shape):
            return None
        return int(np.prod(cast("tuple[int, ...]", self.shape), dtype=np.int64))

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Symbol:
    """A size that inputs bring, from `low` to `high`."""

    name: str
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Signature:
    """Everything that callers must know. `dims`: symbols with those that only a run defines;
    `pointers`: slots for memory that the code asks for; `requires` and `steps`: texts for errors;
    `rank_of_plan`: numbers that the code's plan function writes."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    symbols: tuple[Symbol, ...]
    dims: int
    pointers: int
    requires: tuple[str, ...]
    steps: tuple[str, ...]

    @property
    def prefix(self) -> str:
        """What the names of the library's functions begin with. `naru_…` is the library's own, and
        `sem_open` the system's."""
        found = identifier(self.name)
        taken = f"{found}_".lower().startswith("naru_") or found in _SYSTEM
        return f"m{found}" if taken else found

    @property
    def is_static(self) -> bool:
        """Whether every size is known."""
        return not self.symbols and not any(t.late for t in self.outputs)

    @property
    def rank_of_plan(self) -> int:
        return 3 + sum(len(t.shape) for t in self.outputs)


def read_signature(manifest: Json, name: str) -> Signature:
    """The signature of the main entry. UnsupportedError lists the steps of a model that needs
    Python on the host: no library can run them."""
    if "host" in manifest:
        steps = _host_steps(manifest["host"])
        if not steps:  # texts, sequences or maps that only pass through
            named = ", ".join(t["name"] for t in manifest["host"]["inputs"])
            raise InputError(
                f"the model takes or gives what is no tensor of numbers (inputs: {named}), "
                "and a library has nothing else",
                hint="naru compile makes a bundle of it, for Python",
            )
        raise UnsupportedError(
            [f"{s['operator']} {s['name']!r}".rstrip() for s in steps],
            where="these steps run in Python on the host, and a library has none",
        )
    entry = manifest["entries"][0]
    symbols = [s for s in manifest["symbols"] if s["kind"] == "input"]
    return Signature(
        name,
        tuple(_tensor(t) for t in entry["inputs"]),
        _outputs(entry["outputs"]),
        tuple(Symbol(s["name"], s["lo"], s["hi"]) for s in symbols),
        len(manifest["symbols"]),
        entry.get("pointers", 0),
        tuple(entry.get("requires", ())),
        tuple(_step_names(manifest)),
    )


def _host_steps(host: Json) -> list[Json]:
    found: list[Json] = []
    for step in host["steps"]:
        if step["operator"] not in ("native", "constant"):
            found.append(step)
        for body in step["bodies"].values():
            found += _host_steps(body)
    return found


def _outputs(records: Sequence[Json]) -> tuple[Tensor, ...]:
    """The outputs. The numbers of classes that `top` gives have the labels of its scores."""
    found = {r["name"]: _tensor(r) for r in records}
    for r in records:
        of: str = r.get("top_of", "")
        if of in found and r["name"] == top_names(of)[1]:
            found[r["name"]] = replace(found[r["name"]], labels=found[of].labels)
    return tuple(found.values())


def _tensor(record: Json) -> Tensor:
    return Tensor(
        record["name"],
        record["dtype"],
        tuple(record["shape"]),
        dtype_of(record["dtype"]).itemsize,
        record.get("optional", False),
        record.get("late", False),
        tuple(record.get("labels", ())),
        record.get("axis"),
    )


def _step_names(manifest: Json) -> list[str]:
    """Steps by the nodes that they come from, for messages."""
    records = manifest.get("steps", ())
    names: list[str] = []
    for k, step in enumerate(manifest["entries"][0]["steps"]):
        nodes = [n for n, _ in records[k]["nodes"]] if k < len(records) else []
        names.append(f"step '{step}'" + (f" of {', '.join(map(repr, nodes))}" if nodes else ""))
    return names


def check_levels(levels: Sequence[BundleParts]) -> None:
    """Levels of one library share signature and weights. Raises NaruError."""
    first, sections = levels[0]
    for manifest, other in levels[1:]:
        name = manifest["target"]["name"]
        if bytes(other["weights"]) != bytes(sections["weights"]):
            raise NaruError(f"the level {name} packs its weights otherwise, which is a bug in naru")
        if manifest["entries"][0]["inputs"] != first["entries"][0]["inputs"]:
            raise NaruError(f"the level {name} has other inputs, which is a bug in naru")


def identifier(name: str) -> str:
    """A name as C, C++ and JavaScript take it: `mobilenet-v2.1` becomes `mobilenet_v2_1`, `größe`
    `grou00dfe`. It begins and ends with no underscore."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    plain = unicodedata.normalize("NFC", bare)
    letters = (f"u{ord(c):04x}" if c.isalnum() and not c.isascii() else c for c in plain)
    found = re.sub(r"\W", "_", "".join(letters), flags=re.ASCII).strip("_") or "model"
    return f"m{found}" if found[0].isdigit() or found in _KEYWORDS else found


# What begins names of the C library that end as ours do: iconv_open, aio_error.
_SYSTEM = frozenset(("aio", "fts", "gai", "iconv", "mq", "sem", "shm"))
# Of C, C++ and JavaScript, with macros of their libraries and the namespace of C++'s.
_KEYWORDS = frozenset(
    """
    EOF NULL alignas alignof and and_eq arguments asm async auto await bitand bitor bool break case
    catch char char16_t char32_t char8_t class co_await co_return co_yield compl concept const
    const_cast consteval constexpr constinit continue debugger decltype default delete do double
    dynamic_cast else enum errno eval explicit export extends extern false finally float for friend
    function goto if implements import in inline instanceof int interface let linux long mutable
    namespace new noexcept not not_eq null nullptr operator or or_eq package private protected
    public register reinterpret_cast requires restrict return short signed sizeof static
    static_assert static_cast std stderr stdin stdout struct super switch template this
    thread_local throw true try typedef typeid typename typeof undefined union unix unsigned using
    var virtual void volatile wchar_t while with xor xor_eq yield
    """.split()  # noqa: SIM905 (a list would be as long as it has words)
)
