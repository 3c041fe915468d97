"""Golden files: cases of text in, text out.

    [case KeepsLayouts]
    input text
    [out]
    what it becomes

`[error]` instead of `[out]` holds the problems of an IRError, one after another; `[same]` says that
the input comes out unchanged. `python -m tests.ir.golden` writes what comes out now into the files:
read the diff like code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from naru.errors import IRError
from naru.ir.text import (
    print_func,
    print_graph,
    print_module,
    print_tensor_function,
    read_func,
    read_graph,
    read_module,
    read_tensor_function,
)
from naru.ir.verify import verify_func, verify_graph, verify_tensor_function

FOLDER = Path(__file__).parent.parent / "golden" / "ir"


@dataclass(frozen=True)
class Case:
    """One case of a file. `kind` is out, error or same."""

    name: str
    text: str
    kind: str
    expected: str


def read_cases(path: Path) -> Iterator[Case]:
    """The cases of a file; `#` lines between cases are comments."""
    for part in path.read_text().split("\n[case ")[1:]:
        name, body = part.split("]\n", 1)
        for kind in ("out", "error", "same"):
            text, mark, expected = body.partition(f"[{kind}]\n")
            if mark:
                yield Case(name, text, kind, expected.rstrip("\n") + "\n" if expected else "")
                break
        else:
            raise ValueError(f"{path.name}: case {name} has no [out], [error] or [same]")


def _verify_last(text: str) -> list[str]:
    found = list(read_module(text).values())
    return verify_func(found[-1])


def _list(problems: list[str]) -> str:
    return "".join(f"{p}\n" for p in problems)


# What is done with a case of each file.
ACTIONS: dict[str, Callable[[str], str]] = {
    "loop_text": lambda t: print_module(*read_module(t).values()),
    "graph_text": lambda t: print_graph(read_graph(t)),
    "tensor_text": lambda t: print_tensor_function(read_tensor_function(t)),
    "read_func": lambda t: print_func(read_func(t)),
    "read_graph": lambda t: print_graph(read_graph(t)),
    "read_tensor_function": lambda t: print_tensor_function(read_tensor_function(t)),
    "verify_func": lambda t: _list(_verify_last(t)),
    "verify_graph": lambda t: _list(verify_graph(read_graph(t))),
    "verify_tensor_function": lambda t: _list(verify_tensor_function(read_tensor_function(t))),
}


def result_of(stem: str, text: str) -> tuple[str, str]:
    """Kind and text of what comes out."""
    try:
        found = ACTIONS[stem](text)
    except IRError as e:
        return "error", _list(list(e.problems))
    if stem.startswith("verify"):
        return "error", found
    return ("same", "") if found == text else ("out", found)


def update() -> None:
    """Writes what comes out now."""
    for path in sorted(FOLDER.glob("*.test")):
        head = path.read_text().split("\n[case ")[0]
        parts = [head.rstrip("\n") + "\n"]
        for case in read_cases(path):
            kind, found = result_of(path.stem, case.text)
            parts.append(f"[case {case.name}]\n{case.text}[{kind}]\n{found}")
        path.write_text("\n".join(parts))


if __name__ == "__main__":
    update()
