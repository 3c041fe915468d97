"""Scores behind a model: softmax, sigmoid, argmax and the greatest elements, as nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from naru.dtypes import is_float
from naru.errors import nearest
from naru.frontend.onnx_node import type_text
from naru.ir.graph import Node, get_output
from naru.ir.simplify import known, prod
from naru.ops.registry import apply
from naru.processing import UNFIT, Scores, raise_all, top_names


def check_names(names: Sequence[str], scores: Sequence[Scores], problems: list[str]) -> None:
    """Every declaration has its output; what has none is added to `problems`."""
    for s in scores:
        if not s.output and len(names) != 1:
            listed = ", ".join(names)
            problems.append(f"{s.function}: which output has the classes? the model has {listed}")
        elif s.output and s.output not in names:
            meant = nearest(s.output, names) or f"the model has {', '.join(names)}"
            problems.append(f"{s.function}: there is no output {s.output!r}; {meant}")


def add_scores(
    names: Sequence[str], nodes: Sequence[Node], scores: Sequence[Scores]
) -> tuple[list[str], list[Node], dict[Node, str]]:
    """Names and nodes of the outputs, and which step the new ones belong to, for names that are
    checked. An output keeps its name; those of `top` follow the model's. Raises InputError that
    lists all that does not fit."""
    found, steps = dict(zip(names, nodes, strict=True)), dict[Node, str]()
    problems: list[str] = []
    more: dict[str, Node] = {}
    for s in scores:
        name = s.output or names[0]
        wrong = list(_problems(s, found[name]))
        taken = [t for t in top_names(name) if s.top and t in found]
        wrong += [f"the model has an output {t!r} already" for t in taken]
        problems += [f"output {name!r}: {p}" for p in wrong]
        if wrong:
            continue
        found[name] = y = _scored(s, found[name], steps)
        if s.top:
            more |= dict(zip(top_names(name), _top(s, y, steps), strict=True))
    raise_all(UNFIT, problems)
    found |= more
    return list(found), list(found.values()), steps


def _problems(s: Scores, n: Node) -> Iterable[str]:
    rank = n.type.rank
    if not -rank <= s.axis < rank:
        yield f"expected an axis in {-rank}..{rank - 1}, found {s.axis}"
        return
    if s.function != "none" and not is_float(n.type.dtype):
        yield f"{s.function}: expected floats, found {type_text(n)}"
    classes = known(n.type.shape[s.axis])
    if s.top and s.axis % rank != rank - 1:
        yield f"top: expected classes along the last axis, found axis {s.axis} of {type_text(n)}"
    if classes is not None and s.top > classes:
        yield f"top={s.top}: it has {classes} classes"
    if classes is not None and s.labels and len(s.labels) != classes:
        yield f"labels: {len(s.labels)} for {classes} classes ({type_text(n)})"


def _scored(s: Scores, n: Node, steps: dict[Node, str]) -> Node:
    axis = s.axis % n.type.rank
    if s.function == "none":
        return n
    if s.function == "softmax":
        made = apply("softmax", n, axis=axis)
    elif s.function == "sigmoid":
        made = apply("sigmoid", n)
    else:
        made = apply("arg_max", n, axis=axis, keepdims=False, select_last_index=False)
    steps[made] = s.function
    return made


def _top(s: Scores, n: Node, steps: dict[Node, str]) -> tuple[Node, Node]:
    """The greatest elements along the last axis, the first one in the order first, and where."""
    outer = n.type.shape[:-1]
    rows = apply("reshape", n, shape=(prod(outer), n.type.shape[-1]))
    found = apply("top_k", rows, k=s.top, largest=True)
    steps[found] = "top"
    parts = (get_output(found, k) for k in range(2))
    values, places = (apply("reshape", p, shape=(*outer, s.top)) for p in parts)
    return values, places
