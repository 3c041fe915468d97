"""Graph passes by name, and the one driver that runs them.

A pass is a pure function `def fold_constants(g: Graph, *, limit: int = 64) -> Graph`: the same
input gives the same output, and the input is untouched. `@graph_pass` enters it under its own name;
its keyword arguments are its options, so the command line, the golden tests and `pipeline.py` all
write `fold_constants,decompose{keep=('softmax',)}`.

[Note: no dead-code or CSE pass] A Graph is its outputs: a node that no output needs is not in it,
so dead code vanishes with its last use (`remove_dead` only drops the notes of lost nodes).
Nodes are interned: two equal computations are one object from the moment the second is built, so
there are no common subexpressions to eliminate. Both facts have golden cases (`remove_dead.test`).
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from naru.errors import IRError, NaruError
from naru.ir.graph import Graph

PassFunction: TypeAlias = Callable[..., Graph]
F = TypeVar("F", bound=PassFunction)

PASSES: dict[str, PassFunction] = {}


def graph_pass(fn: F) -> F:
    """Enters a pass under its function's name; its keyword-only arguments become its options."""
    name = fn.__name__
    if name in PASSES:
        raise IRError([f"pass {name!r} is registered twice"])
    parameters = list(inspect.signature(fn).parameters.values())
    for p in parameters[1:]:
        if p.kind is not p.KEYWORD_ONLY or p.default is p.empty:
            raise IRError([f"pass {name!r}: option {p.name!r} must be keyword-only with a default"])
    PASSES[name] = fn
    return fn


@dataclass(frozen=True)
class Step:
    """One pass with the options it runs under."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __str__(self) -> str:
        inner = ",".join(f"{k}={v!r}" for k, v in self.options.items())
        return f"{self.name}{{{inner}}}" if inner else self.name


@dataclass(frozen=True)
class PassRun:
    """What `on_pass` is told after each pass. `changed`: the pass did not give its input back."""

    index: int
    step: Step
    before: Graph
    after: Graph
    seconds: float

    @property
    def changed(self) -> bool:
        return self.after is not self.before


OnPass: TypeAlias = Callable[[PassRun], None]
Passes: TypeAlias = "str | Sequence[str | PassFunction | Step]"


def run(passes: Passes, g: Graph, on_pass: OnPass | None = None) -> Graph:
    """Runs the passes in order. `on_pass` is called after each one; verifying, timing and dumping
    hang on it (hooks.py). An error of a pass or of the hook says which pass after which passes."""
    steps = to_steps(passes)
    for i, step in enumerate(steps):
        started = time.perf_counter()
        try:
            after = get_pass(step.name)(g, **step.options)
            if on_pass is not None:
                on_pass(PassRun(i, step, g, after, time.perf_counter() - started))
        except NaruError as error:
            _locate(error, _place(steps, i))
            raise
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            raise IRError([problem], where=_place(steps, i)) from error
        g = after
    return g


def _place(steps: Sequence[Step], i: int) -> str:
    before = ", ".join(str(s) for s in steps[:i])
    return f"pass {steps[i]}" + (f" (after {before})" if before else "")


def _locate(error: NaruError, place: str) -> None:
    """Puts the pass in front of the message, keeping the type of the error."""
    error.where = f"{place}: {error.where}" if error.where else place
    error.args = (f"{place}: {error.args[0]}", *error.args[1:])


def to_steps(passes: Passes) -> tuple[Step, ...]:
    """Names, functions and steps as checked steps. IRError lists every unknown pass or option."""
    items = parse(passes) if isinstance(passes, str) else tuple(map(_to_step, passes))
    problems = [p for s in items for p in _problems(s)]
    if problems:
        raise IRError(problems)
    return items


def _to_step(item: str | PassFunction | Step) -> Step:
    if isinstance(item, Step):
        return item
    if not isinstance(item, str):
        return Step(getattr(item, "__name__", repr(item)))
    steps = parse(item)
    if len(steps) != 1:
        raise IRError([f"expected the name of one pass, found {item!r}"])
    return steps[0]


def get_pass(name: str) -> PassFunction:
    """The pass of a name; its module (which has the same name) is imported when first asked for."""
    module = f"naru.passes.{name}"
    if name not in PASSES and name.isidentifier() and importlib.util.find_spec(module):
        importlib.import_module(module)
    if name not in PASSES:
        raise IRError([f"unknown pass {name!r}: there is no naru/passes/{name}.py with a pass"])
    return PASSES[name]


def _problems(step: Step) -> Iterable[str]:
    try:
        fn = get_pass(step.name)
    except IRError as error:
        yield from error.problems
        return
    known = list(inspect.signature(fn).parameters)[1:]
    for name in step.options:
        if name not in known:
            found = f"has {', '.join(known)}" if known else "has no options"
            yield f"pass {step.name!r}: unknown option {name!r}; it {found}"


def parse(text: str) -> tuple[Step, ...]:
    """Reads `fold_constants,decompose{keep=('softmax',)}`. Option values are Python literals.

    The text is Python but for its braces, so Python's parser reads it: `a{x=1}` is `a(x=1)`."""
    source = text.replace("{", "(").replace("}", ")")
    try:
        tree = ast.parse(f"[{source}]", mode="eval").body
    except SyntaxError as error:
        raise IRError([f"cannot read the passes {text!r}: {error.msg}"]) from None
    assert isinstance(tree, ast.List)
    return tuple(_read_step(e, text) for e in tree.elts)


def _read_step(e: ast.expr, text: str) -> Step:
    if isinstance(e, ast.Name):
        return Step(e.id)
    if isinstance(e, ast.Call) and isinstance(e.func, ast.Name) and not e.args:
        try:
            options = {k.arg: ast.literal_eval(k.value) for k in e.keywords if k.arg}
        except ValueError:
            raise IRError(
                [f"cannot read an option in {text!r}: expected a Python literal"]
            ) from None
        return Step(e.func.id, options)
    raise IRError([f"cannot read the passes {text!r}: expected name or name{{option=value}}"])
