"""Reads fitted estimators of scikit-learn: whole pipelines, with texts and categories.

    read_sklearn(pipeline) -> Graph, or a HostPlan where the host looks texts up

scikit-learn itself is not imported: fitted estimators are read by their attributes. One class is
one converter, found by its public name (sklearn_base.py). Numbers are computed in f64 and, for
trees, added in the order in which scikit-learn adds them.

Texts become numbers on the host, by a table that the plan holds, before native code sees them;
classes that are texts go the other way. An encoder that refuses unknown categories makes native
code say where one is, and a step on the host raises for it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from naru.errors import InputError, UnsupportedError
from naru.frontend import sklearn_all
from naru.frontend.onnx_kinds import STRING, Kind, TensorKind
from naru.frontend.onnx_plan import NATIVE, Body, HostPlan, Step
from naru.frontend.onnx_scope import identifier
from naru.frontend.sklearn_base import (
    CONVERTERS,
    ROLES,
    Broken,
    Call,
    Classified,
    Converter,
    Detected,
    Part,
    Refused,
    Table,
    cast_to,
    column,
    f64,
    is_texts,
    side_by_side,
    table,
)
from naru.frontend.sklearn_inputs import Columns, declared_columns
from naru.frontend.sklearn_neural import REFUSALS
from naru.ir.expr import INT_MAX, Const, Var
from naru.ir.graph import Graph, Node, TensorType, make_input, toposort
from naru.ir.simplify import index
from naru.ops.registry import apply, constant

Array = np.ndarray
ROOTS = ("sklearn", "lightgbm", "xgboost", "catboost")  # packages whose classes are looked up
METHODS = ("predict", "predict_proba", "decision_function", "transform", "score_samples")
# Which role an estimator of a type has, by scikit-learn's tags.
TYPES = {"classifier": "classify", "regressor": "regress", "clusterer": "cluster",
         "outlier_detector": "detect"}  # fmt: skip
CHECK = "CheckCategories"
_users: dict[tuple[str, type], Converter] = {}
_ = sklearn_all


def register(cls: type, function: Callable[[Any, Node], Node], *, role: str = "transform") -> None:
    """Teaches naru an estimator of yours. `function` gets the fitted estimator and its input,
    f64[rows, features], and returns what `transform` (role "transform") or `predict` ("regress",
    "cluster") gives, built with naru.ops.registry.apply. InputError for another role."""
    if role not in ("transform", "regress", "cluster"):
        raise InputError(f"role: expected transform, regress or cluster, got {role!r}")

    def convert(c: Call) -> Any:
        made = function(c.e, c.numbers())
        return table(column(f64(made))) if role == "transform" else made

    _users[role, cls] = convert


def supported() -> dict[str, tuple[str, ...]]:
    """The public names of the classes that have a converter, by role."""
    return {
        role: tuple(sorted(name for name, f in CONVERTERS[role].items() if f not in REFUSALS))
        for role in ROLES
    }


def is_estimator(value: object) -> bool:
    """Is an object one of scikit-learn's estimators, or of what is used like them?"""
    fits = callable(getattr(value, "fit", None)) and callable(getattr(value, "get_params", None))
    return fits and not inspect.isclass(value)


def read_sklearn(
    estimator: Any, *, name: str | None = None, example: Any = None
) -> Graph | HostPlan:
    """The graph of a fitted estimator, or the plan where it has texts or refuses categories.

    Inputs: `features` f64[rows, features]; or, where columns of texts are among them, one input
    [rows] for each column that is used, by its name. Outputs: `label` and `probabilities` (or
    `scores`) of classifiers, `prediction` of regressors, `features` of transformers, `label` of
    clusterers, `label` and `scores` of detectors of outliers.
    name: what the graph is called. example: rows as the model will get them, for estimators that
    do not know how many columns they take. Raises UnsupportedError with all problems at once.
    """
    if not is_estimator(estimator):
        raise InputError(f"expected a fitted estimator, got {type(estimator).__name__}")
    reader = SklearnReader()
    graph_name = identifier(name or type(estimator).__name__, "model")
    return reader.read(estimator, graph_name, example)


def public_name(cls: type) -> str:
    """`sklearn.svm.SVC`: the name that a class is documented by."""
    parts = cls.__module__.split(".")
    public = parts[:2] if parts[0] == "sklearn" else parts[:1]
    return ".".join([*public, cls.__name__])


def is_known_package(cls: type) -> bool:
    return cls.__module__.split(".")[0] in ROOTS


@dataclass(frozen=True)
class _Check:
    """Where a category is that an encoder does not know: bool[rows], and the column's name."""

    unknown: Node
    name: str


@dataclass(frozen=True)
class _Output:
    name: str
    node: Node
    texts: bool = False


@dataclass
class SklearnReader:
    """The state of one reading."""

    rows: Var = field(default_factory=lambda: Var("rows", lo=0, hi=INT_MAX))
    texts: dict[str, int] = field(default_factory=lambda: {"": 0})
    problems: list[str] = field(default_factory=list[str])
    checks: list[_Check] = field(default_factory=list[_Check])
    notes: dict[Node, str] = field(default_factory=dict[Node, str])
    operators: dict[str, str] = field(default_factory=dict[str, str])

    # --- what converters ask ----------------------------------------------------------------------

    def anchor(self, x: Table) -> Node:
        """Some node with as many rows as X: for results that look at nothing else of it."""
        return next(p.node for p in x.parts if p.node.op != "constant")

    def number_of(self, text: str) -> int:
        """The number of a text in the plan's table."""
        return self.texts.setdefault(text, len(self.texts))

    def check(self, unknown: Node, name: str) -> None:
        """Rows where `unknown` (bool[rows]) holds are refused at run time."""
        if _Check(unknown, name) not in self.checks:
            self.checks.append(_Check(unknown, name))

    def knows(self, role: str, e: Any) -> bool:
        """Is there a converter?"""
        return not isinstance(_found(role, _class_of(e)), Refused)

    def transform(self, e: Any, x: Table, where: str) -> Table:
        return self.run("transform", e, x, where)

    def classify(self, e: Any, x: Table, where: str) -> Classified:
        found = self.run("classify", e, x, where)
        if isinstance(found, tuple):
            raise Refused("classifiers of several targets are not supported inside others")
        return found

    def classify_all(self, e: Any, x: Table, where: str) -> tuple[Classified, ...]:
        found = self.run("classify", e, x, where)
        return cast("tuple[Classified, ...]", found) if isinstance(found, tuple) else (found,)

    def regress(self, e: Any, x: Table, where: str) -> Node:
        return self.run("regress", e, x, where)

    def run(self, role: str, e: Any, x: Table, where: str) -> Any:
        """What an estimator makes of columns. Broken where it, or a part of it, is refused."""
        path = where or type(e).__name__
        try:
            converter = _found(role, _class_of(e))
            if isinstance(converter, Refused):
                raise converter
            made = converter(Call(e, x, where, self))
        except Refused as error:
            hint = f"; try: {error.hint}" if error.hint else ""
            self._report(f"{path} ({type(e).__name__}): {error.reason}{hint}")
            raise Broken from None
        except AttributeError as error:
            fitted = error.obj is not e or not (error.name or "").endswith("_")
            if fitted and type(error).__name__ != "NotFittedError":
                raise
            why = f": it has no {error.name}" if error.name else ""
            self._report(
                f"{path} ({type(e).__name__}): it is not fitted{why}; "
                "try: fit it before it is compiled"
            )
            raise Broken from None
        self._note(made, path, type(e).__name__)
        return made

    def _report(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def _note(self, made: Any, path: str, kind: str) -> None:
        """New nodes come from this estimator."""
        self.operators.setdefault(path, kind)
        for root in _nodes(made):
            for n in toposort(root):
                if n.op not in ("input", "constant"):
                    self.notes.setdefault(n, path)

    # --- the whole --------------------------------------------------------------------------------

    def read(self, e: Any, name: str, example: Any) -> Graph | HostPlan:
        try:
            columns = declared_columns(e, example)
        except Refused as error:
            hint = f"; try: {error.hint}" if error.hint else ""
            raise UnsupportedError([f"{type(e).__name__}: {error.reason}{hint}"]) from None
        inputs, x = self._inputs(columns)
        outputs: list[_Output] = []
        with suppress(Broken):
            outputs = self._outputs(e, x)
        if self.problems:
            raise UnsupportedError(self.problems)
        return self._finished(name, columns, inputs, outputs)

    def _inputs(self, columns: Columns) -> tuple[list[Node], Table]:
        """Formal inputs, and the table that the estimator sees."""
        if not columns.apart:
            shape = (self.rows, index(len(columns.names)))
            x = make_input("features", TensorType("f64", shape))
            return [x], Table((Part(x, names=columns.names),))
        inputs: list[Node] = []
        parts: list[Part] = []
        for name, texts, used in zip(columns.names, columns.texts, columns.used, strict=True):
            if used:
                node = make_input(name, TensorType("i64" if texts else "f64", (self.rows,)))
                inputs.append(node)
                parts.append(Part(column(node), texts, (name,)))
            else:  # nobody reads it: it holds the place of its column
                parts.append(Part(constant(np.zeros((1, 1)), np.float64), False, (name,)))
        return inputs, Table(tuple(parts))

    def _outputs(self, e: Any, x: Table) -> list[_Output]:
        role = role_of(e)
        if role == "classify":
            return self._classes(e, self.run(role, e, x, ""))
        if role == "regress":
            return [_Output("prediction", self.run(role, e, x, ""))]
        if role == "cluster":
            return [_Output("label", self.run(role, e, x, ""))]
        if role == "detect":
            detected: Detected = self.run(role, e, x, "")
            return [_Output("label", detected.label), _Output("scores", detected.scores)]
        parts = self.transform(e, x, "").parts
        texts = {p.texts for p in parts}
        if len(texts) != 1:
            found = "mixes texts and numbers" if parts else "has no columns"
            self._report(f"its result {found}; try: encode the texts")
            raise Broken
        return [_Output("features", side_by_side([p.node for p in parts]), texts.pop())]

    def _classes(self, e: Any, found: Any) -> list[_Output]:
        """Labels, and probabilities or else scores; of several targets labels [rows, targets]."""
        several = isinstance(found, tuple)
        targets = cast("Sequence[Classified]", found if several else (found,))
        named = classes_of(e)
        lists = named if several else [named]
        labels = [self._labels(t.index, c) for t, c in zip(targets, lists, strict=True)]
        if any(texts != labels[0][1] for _, texts in labels):
            self._report("some of its targets have texts as classes, others numbers")
            raise Broken
        if several:
            kinds = {n.type.dtype for n, _ in labels}
            dtype = "i64" if kinds == {"i64"} else "f64"
            node = apply("concat", *(column(cast_to(n, dtype)) for n, _ in labels), axis=1)
        else:
            node = labels[0][0]
        outputs = [_Output("label", node, labels[0][1])]
        for k, t in enumerate(targets):
            suffix = f"_{k}" if several else ""
            if t.probabilities is not None:
                outputs.append(_Output(f"probabilities{suffix}", t.probabilities))
            elif t.scores is not None:
                outputs.append(_Output(f"scores{suffix}", t.scores))
        return outputs

    def _labels(self, at: Node, classes: Any) -> tuple[Node, bool]:
        """(the labels of classes, are they texts)."""
        array = np.asarray(classes)
        if is_texts(array):
            numbers = [self.number_of(str(c)) for c in array.tolist()]
            return apply("gather", constant(numbers, np.int64), at, axis=0), True
        if array.dtype.kind in "iu":
            if array.tolist() == list(range(len(array))):
                return at, False
            array = array.astype(np.int64)
        elif array.dtype.kind == "b":
            array = array.astype(np.bool_)
        else:
            array = array.astype(np.float64)
        return apply("gather", constant(array, array.dtype), at, axis=0), False

    def _finished(
        self, name: str, columns: Columns, inputs: list[Node], outputs: list[_Output]
    ) -> Graph | HostPlan:
        """A graph; or a plan of one native part, and of the checks behind it."""
        taken = {*columns.names, *(o.name for o in outputs), "features"}
        flags = [_free(f"unknown {k}", taken) for k in range(len(self.checks))]
        native = [*outputs, *map(_Output, flags, (c.unknown for c in self.checks))]
        nodes = tuple(o.node for o in native)
        used = {n for root in nodes for n in toposort(root)}
        notes = {n: p for n, p in self.notes.items() if n in used}
        named = {"features": columns.names} if columns.named and not columns.apart else {}
        names = tuple(o.name for o in native)
        operators = dict(self.operators)
        graph = Graph(
            name, tuple(inputs), nodes, names, notes, operators, columns=named, widens=True
        )
        if not self.checks and not columns.apart and not any(o.texts for o in outputs):
            return graph
        kinds = _kinds(inputs, columns)
        reads = tuple(n for n, _ in kinds)
        # Outputs may be called as inputs are: what checks show is kept under other names.
        kept = {n: _free(f"{n} as given", taken) for n in reads} if self.checks else {}
        steps = [Step("Identity", n, (n,), (k,)) for n, k in kept.items()]
        steps.append(Step(NATIVE, name, reads, names, {"part": 0}))
        for flag, check in zip(flags, self.checks, strict=True):
            source, at = check.name, -1
            if source not in reads and "features" in reads and source in columns.names:
                source, at = "features", columns.names.index(source)
            given = (kept[source],) if source in kept else ()
            attrs = {"column": check.name, "at": at}
            steps.append(Step(CHECK, check.name, (flag, *given), (), attrs))
        results = tuple((o.name, _kind(o)) for o in outputs)
        body = Body(reads, tuple(o.name for o in outputs), tuple(steps))
        return HostPlan(
            name, kinds, results, body, (graph,), (), tuple(self.texts), (), columns=named
        )


def _free(name: str, taken: set[str]) -> str:
    """A name like this one that nothing has yet."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _kinds(inputs: Sequence[Node], columns: Columns) -> tuple[tuple[str, Kind], ...]:
    texts = dict(zip(columns.names, columns.texts, strict=True)) if columns.apart else {}
    found: list[tuple[str, Kind]] = []
    for n in inputs:
        name = str(n.attr("name"))
        dims = tuple(int(d.value) if isinstance(d, Const) else "rows" for d in n.type.shape)
        holds = texts.get(name, False)
        found.append(
            (name, TensorKind(STRING if holds else "f64", dims, missing=holds, widens=not holds))
        )
    return tuple(found)


def _kind(o: _Output) -> Kind:
    dims = tuple(int(d.value) if isinstance(d, Const) else "rows" for d in o.node.type.shape)
    return TensorKind(STRING if o.texts else o.node.type.dtype, dims)


def _nodes(made: Any) -> Iterator[Node]:
    """The nodes of a result of any role."""
    if isinstance(made, Node):
        yield made
    elif isinstance(made, Table):
        yield from (p.node for p in made.parts)
    elif isinstance(made, Classified):
        yield from (n for n in (made.index, made.probabilities, made.scores) if n is not None)
    elif isinstance(made, Detected):
        yield from (made.label, made.scores)
    elif isinstance(made, tuple):
        for part in cast("tuple[Any, ...]", made):
            yield from _nodes(part)


# --- classes --------------------------------------------------------------------------------------


def _class_of(e: Any) -> type[Any]:
    return cast("type[Any]", e.__class__)


def _found(role: str, cls: type) -> Converter | Refused:
    """The converter of a class: its own, or that of the class it comes from, if it leaves alone
    what that computes."""
    changed: list[str] = []
    for c in cls.__mro__:
        if (role, c) in _users and not changed:
            return _users[role, c]
        if is_known_package(c):
            found = CONVERTERS[role].get(public_name(c))
            if found is not None and not changed:
                return found
            if found is not None:
                return Refused(
                    f"it is a {c.__name__} that overrides {', '.join(changed)}",
                    f"naru.frontend.sklearn.register({cls.__name__}, function)",
                )
        changed += [m for m in METHODS if m in vars(c) and m not in changed]
    return _unknown(role, cls)


def _unknown(role: str, cls: type) -> Refused:
    name = public_name(cls)
    if name.startswith("catboost."):
        return Refused(
            "CatBoost's own estimators are not read",
            'model.save_model("m.onnx", format="onnx"), and compile that file',
        )
    others = [r for r in ROLES if name in CONVERTERS[r]]
    if others:
        return Refused(f"it cannot be used to {role} here; it is known to {' or '.join(others)}")
    if is_known_package(cls):
        return Refused(
            f"{name} has no converter",
            "an estimator of the list in docs/scikit-learn.md, or naru.frontend.sklearn.register",
        )
    return Refused(
        f"{cls.__module__}.{cls.__qualname__} is not known",
        f"naru.frontend.sklearn.register({cls.__name__}, function)",
    )


def role_of(e: Any) -> str:
    """What a whole model is asked for: what the last step of a pipeline is, by its tags."""
    if type(e).__name__ == "Pipeline" and e.steps and e.steps[-1][1] in (None, "passthrough"):
        return "transform"
    inner = last_of(e)
    known = [r for r in ROLES if not isinstance(_found(r, _class_of(inner)), Refused)]
    kind = getattr(inner, "_estimator_type", None)
    if kind is None and hasattr(inner, "__sklearn_tags__"):
        kind = inner.__sklearn_tags__().estimator_type
    role = TYPES.get(str(kind), "cluster" if kind == "density_estimator" else "transform")
    return role if role in known or len(known) != 1 else known[0]


def last_of(e: Any) -> Any:
    """The estimator that gives the results: the last step of pipelines, the best of searches."""
    while True:
        if hasattr(e, "best_estimator_"):
            e = e.best_estimator_
        elif type(e).__name__ == "Pipeline" and getattr(e, "steps", None):
            steps = [s for _, s in e.steps if s is not None and s != "passthrough"]
            if not steps:
                return e
            e = steps[-1]
        else:
            return e


def classes_of(e: Any) -> Any:
    """`classes_` of the estimator that gives the results."""
    inner = last_of(e)
    classes = getattr(inner, "classes_", None)
    if classes is None:
        raise Broken
    return classes
