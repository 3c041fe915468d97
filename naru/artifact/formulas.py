"""Formulas of a manifest at given sizes."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any, cast

from naru.errors import IRError
from naru.ir.expr import Var
from naru.ir.simplify import evaluate
from naru.ir.text_expr import ExprReader, Source


def formula(text: object, sizes: Mapping[str, int]) -> int | None:
    """The value of a manifest's formula; None when it is not one or uses other symbols."""
    variables = {name: Var(name) for name in sizes}
    try:
        source = Source(str(text))
        statement = source.parse(str(text)).body[0]
        if not isinstance(statement, ast.Expr):
            return None
        reader = ExprReader(source, lambda name: variables.get(name))
        expression = reader.expr(statement.value, "index")
        return evaluate(expression, {variables[n]: size for n, size in sizes.items()})
    except (IRError, IndexError, ValueError):
        return None


def arena_bytes(memory: Mapping[str, Any], sizes: Mapping[str, int]) -> int | None:
    """The arena's size: `memory`'s formula, which may use names that its `where` defines."""
    where = memory.get("where", {})
    values = dict(sizes)
    waiting = dict(cast(Mapping[str, object], where)) if isinstance(where, dict) else {}
    while waiting:
        found = {name: formula(text, values) for name, text in waiting.items()}
        solved = {name: value for name, value in found.items() if value is not None}
        if not solved:
            break
        values |= solved
        waiting = {name: text for name, text in waiting.items() if name not in solved}
    return formula(memory.get("arena"), values)
