"""Outputs with labels, for people: the best classes by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from naru.cli.printing import visible

if TYPE_CHECKING:
    from naru.inputs import Array
    from naru.runtime.model import Model

SHOWN = 5  # classes, where the model was compiled without `top`
MOST_ROWS = 8  # of scores, or numbers of classes, that are told by name
BAR = 30  # characters that stand for 1


def print_classes(model: Model, results: Mapping[str, Any]) -> set[str]:
    """Prints the outputs whose classes have names, and gives the names of the outputs that are
    told with it. Large ones, such as an image of classes, are left to others."""
    told: set[str] = set()
    records: list[dict[str, Any]] = model.manifest["entries"][0]["outputs"] if model.labels else []
    for record in records:
        name, axis = record["name"], record.get("axis")
        if "labels" not in record:
            continue
        array, labels = results[name], record["labels"]
        if axis is None and array.size <= MOST_ROWS:
            found = ", ".join(_label(labels, int(k)) for k in array.reshape(-1))
            click.echo(f"{name}: {found}")
        elif axis == array.ndim - 1 and array.size <= MOST_ROWS * array.shape[-1]:
            top = [o for o in records if o.get("top_of") == name]
            count = top[0]["shape"][-1] if top else SHOWN
            told |= {o["name"] for o in top}
            for row in array.reshape(-1, array.shape[-1]).astype(float):
                _print_row(name, row, labels, count)
        else:
            continue
        told.add(name)
    return told


def _label(labels: list[str], k: int) -> str:
    return visible(labels[k]) if 0 <= k < len(labels) else str(k)


def _print_row(name: str, scores: Array, labels: list[str], count: int) -> None:
    """The best classes of a row of float64; with bars where scores are shares of 1."""
    order = (-scores).argsort(kind="stable")[:count]
    width = max((len(_label(labels, int(k))) for k in order), default=0)
    shares = bool(((scores >= 0) & (scores <= 1)).all())
    click.echo(f"{name}:")
    for k in order:
        bar = "█" * round(BAR * float(scores[k])) if shares else ""
        number = f"{scores[k]:7.2%}" if shares else f"{scores[k]:9.4g}"
        click.echo(f"  {_label(labels, int(k)):{width}}  {number}  {bar}".rstrip())
