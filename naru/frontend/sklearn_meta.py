"""Estimators made of others: voting, stacking, bagging, calibration, several classes or targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from naru.frontend.sklearn_base import (
    Broken,
    Call,
    Classified,
    Refused,
    Table,
    add,
    as_node,
    cast_to,
    column,
    converts,
    div,
    expm1,
    f64,
    filled,
    flat,
    greatest,
    join,
    least,
    log1p,
    matmul,
    mul,
    numbers,
    op,
    pick,
    positive,
    side_by_side,
    sub,
    table,
    total,
    two,
    where,
)
from naru.frontend.sklearn_scale import isotonic, known_function
from naru.frontend.sklearn_svm import one_against_rest_of_pairs, square_distances
from naru.ir.graph import Node
from naru.ops.registry import apply

Array = np.ndarray
ENSEMBLE, MULTI = "sklearn.ensemble.", "sklearn.multiclass."


def each(c: Call, parts: Sequence[Any], make: Callable[[Any, str], Any], name: str) -> list[Any]:
    """What all parts make; all of their problems are reported before it gives up."""
    found: list[Any] = []
    broken = False
    for k, part in enumerate(parts):
        try:
            found.append(make(part, c.inside(f"{name}[{k}]")))
        except Broken:
            broken = True
    if broken:
        raise Broken
    return found


def is_regressor(c: Call, e: Any) -> bool:
    return c.reader.knows("regress", e) and not c.reader.knows("classify", e)


def binary_score(c: Call, e: Any, x: Table, where: str) -> Node:
    """[rows, 1]: how much an estimator of two classes is for the second."""
    if is_regressor(c, e):
        return column(c.reader.regress(e, x, where))
    found = c.reader.classify(e, x, where)
    if found.scores is not None:
        return column(found.scores)
    if found.probabilities is None:
        raise Refused("its estimators give neither scores nor probabilities")
    return pick(found.probabilities, [1])


def second_from(c: Call, e: Any) -> float:
    """The score above which it is the second class."""
    return 0.0 if hasattr(e, "decision_function") and not is_regressor(c, e) else 0.5


def probabilities_of(found: Classified) -> Node:
    if found.probabilities is None:
        raise Refused("one of its estimators gives no probabilities")
    return found.probabilities


def at_classes(values: Node, own: Any, count: int) -> Node:
    """Columns of some classes (their numbers among all) at their places among `count`."""
    places = np.asarray(own).astype(np.int64)
    if places.tolist() == list(range(count)):
        return values
    spread = np.zeros((places.size, count))
    spread[np.arange(places.size), places] = 1
    return matmul(values, spread)


# --- voting ---------------------------------------------------------------------------------------


def _weights(e: Any) -> Array | None:
    given = e._weights_not_none
    return None if given is None else np.asarray(given, np.float64)


def _average(values: Sequence[Node], weights: Array | None) -> Node:
    """The mean of nodes, as np.average adds them."""
    result: Node | None = None
    for k, v in enumerate(values):
        more = v if weights is None else mul(v, float(weights[k]))
        result = more if result is None else add(result, more)
    assert result is not None
    return div(result, float(len(values) if weights is None else weights.sum()))


@converts("classify", ENSEMBLE + "VotingClassifier")
def voting_classifier(c: Call) -> Classified:
    e, count = c.e, len(c.e.classes_)
    found = each(c, e.estimators_, lambda p, w: c.reader.classify(p, c.x, w), "estimators_")
    weights = _weights(e)
    if e.voting == "soft":
        mean = _average([probabilities_of(f) for f in found], weights)
        return Classified(greatest(mean), mean)
    shares = np.ones(len(found)) if weights is None else weights
    votes: Node | None = None
    for f, share in zip(found, shares, strict=True):
        own = mul(f64(op("equal", f64(column(f.index)), np.arange(count)[None])), float(share))
        votes = own if votes is None else add(votes, own)
    assert votes is not None
    return Classified(greatest(votes))


@converts("regress", ENSEMBLE + "VotingRegressor")
def voting_regressor(c: Call) -> Node:
    found = each(c, c.e.estimators_, lambda p, w: c.reader.regress(p, c.x, w), "estimators_")
    return _average(found, _weights(c.e))


# --- stacking -------------------------------------------------------------------------------------


def _stacked(c: Call) -> Table:
    """What the first layer says, side by side; of two classes the second's probability."""
    e = c.e
    methods = dict(zip(map(id, e.estimators_), e.stack_method_, strict=False))

    def make(part: Any, where_: str) -> Table:
        method = methods[id(part)]
        if is_regressor(c, part):
            return table(column(c.reader.regress(part, c.x, where_)))
        found = c.reader.classify(part, c.x, where_)
        if method == "predict_proba":
            p = probabilities_of(found)
            return table(pick(p, [1])) if len(part.classes_) == 2 else table(p)
        if method == "decision_function" and found.scores is not None:
            return table(column(found.scores))
        classes = np.asarray(part.classes_)
        if classes.dtype.kind not in "iufb":
            raise Refused("stack_method='predict' with texts as classes", "'predict_proba'")
        said = apply("gather", as_node(classes.astype(np.float64)), found.index, axis=0)
        return table(column(said))

    found = each(c, e.estimators_, make, "estimators_")
    return join([*found, c.x]) if e.passthrough else join(found)


@converts("classify", ENSEMBLE + "StackingClassifier")
def stacking_classifier(c: Call) -> Any:
    found = c.reader.classify_all(c.e.final_estimator_, _stacked(c), c.inside("final_estimator_"))
    return found[0] if len(found) == 1 else found


@converts("regress", ENSEMBLE + "StackingRegressor")
def stacking_regressor(c: Call) -> Node:
    return c.reader.regress(c.e.final_estimator_, _stacked(c), c.inside("final_estimator_"))


@converts("transform", ENSEMBLE + "StackingClassifier", ENSEMBLE + "StackingRegressor")
def stacking_transform(c: Call) -> Table:
    return _stacked(c)


# --- bagging --------------------------------------------------------------------------------------


def _bags(c: Call, make: Callable[[Any, Table, str], Any]) -> list[Any]:
    """What estimators make of their own features."""
    c.numbers()
    columns = {id(e): f for e, f in zip(c.e.estimators_, c.e.estimators_features_, strict=True)}

    def one(part: Any, where_: str) -> Any:
        return make(part, c.x.take([int(k) for k in columns[id(part)]]), where_)

    return each(c, c.e.estimators_, one, "estimators_")


@converts("classify", ENSEMBLE + "BaggingClassifier")
def bagging_classifier(c: Call) -> Classified:
    count = int(c.e.n_classes_)

    def make(part: Any, x: Table, where_: str) -> Node:
        found = c.reader.classify(part, x, where_)
        p = found.probabilities
        if p is None:
            own = np.arange(len(part.classes_))[None]
            p = f64(op("equal", f64(column(found.index)), own.astype(np.float64)))
        return at_classes(p, part.classes_, count)

    mean = _average(_bags(c, make), None)
    return Classified(greatest(mean), mean)


@converts("regress", ENSEMBLE + "BaggingRegressor")
def bagging_regressor(c: Call) -> Node:
    return _average(_bags(c, c.reader.regress), None)


# --- calibration ----------------------------------------------------------------------------------


@converts("classify", "sklearn.calibration.CalibratedClassifierCV")
def calibrated(c: Call) -> Classified:
    parts = c.e.calibrated_classifiers_
    found = each(c, parts, lambda p, w: _calibrated(c, p, w), "calibrated_classifiers_")
    mean = _average(found, None)
    return Classified(greatest(mean), mean)


def _calibrated(c: Call, part: Any, where_: str) -> Node:
    """The probabilities of one calibrated classifier: each class against the rest."""
    if part.method not in ("sigmoid", "isotonic"):
        raise Refused(f"method={part.method!r}", "method='sigmoid' or 'isotonic'")
    count = len(part.classes)
    found = c.reader.classify(part.estimator, c.x, f"{where_}.estimator")
    if found.scores is not None:
        said = column(found.scores)
    else:
        said = probabilities_of(found)
        said = pick(said, [1]) if count == 2 else said
    all_classes = np.asarray(part.classes).tolist()
    own = [all_classes.index(v) for v in np.asarray(part.estimator.classes_).tolist()]
    columns = [_calibrator(k, pick(said, [i])) for i, k in enumerate(part.calibrators)]
    if count == 2:
        p = columns[0]
        return _at_most_one(side_by_side([sub(1.0, p), p]))
    p = at_classes(side_by_side(columns), own, count)
    whole = total(p, keep=True)
    return _at_most_one(where(op("equal", whole, 0.0), 1 / count, div(p, whole)))


def _at_most_one(p: Node) -> Node:
    over = op("and", op("greater", p, 1.0), op("less_or_equal", p, 1.0 + 1e-5))
    return where(over, 1.0, p)


def _calibrator(e: Any, x: Node) -> Node:
    if hasattr(e, "a_"):
        return op("sigmoid", op("neg", add(mul(float(e.a_), x), float(e.b_))))
    return isotonic(e, x)


# --- thresholds -----------------------------------------------------------------------------------


@converts("classify", *(f"sklearn.model_selection.{n}" for n in ("FixedThresholdClassifier",
          "TunedThresholdClassifierCV")))  # fmt: skip
def thresholded(c: Call) -> Classified:
    """The second class where its score reaches a threshold."""
    e = c.e
    found = c.reader.classify(e.estimator_, c.x, c.inside("estimator_"))
    threshold = e.best_threshold_ if hasattr(e, "best_threshold_") else e.threshold
    if getattr(e, "pos_label", None) not in (None, e.classes_[1]):
        raise Refused("pos_label is not the second class")
    use = found.probabilities if e.response_method != "decision_function" else None
    if use is None and found.scores is None:
        raise Refused("its estimator gives neither scores nor probabilities")
    score = flat(pick(use, [1])) if use is not None else found.scores
    assert score is not None
    if threshold == "auto":
        threshold = 0.5 if use is not None else 0.0
    return Classified(positive(sub(score, float(threshold)), equal=True), found.probabilities)


# --- several classes ------------------------------------------------------------------------------


@converts("classify", MULTI + "_ConstantPredictor")
def constant_predictor(c: Call) -> Classified:
    x, y = c.reader.anchor(c.x), float(np.ravel(c.e.y_)[0])
    p = flat(filled(x, [y]))
    return Classified(cast_to(p, "i64"), two(p), p)


@converts("classify", MULTI + "OneVsRestClassifier")
def one_against_rest(c: Call) -> Classified:
    e = c.e
    if str(e.label_binarizer_.y_type_).startswith("multilabel"):
        raise Refused("several labels at once", "MultiOutputClassifier")
    scores = side_by_side(
        each(c, e.estimators_, lambda p, w: binary_score(c, p, c.x, w), "estimators_")
    )
    with_probabilities = all(hasattr(p, "predict_proba") for p in e.estimators_)
    p = _rest_probabilities(c) if with_probabilities else None
    if len(e.estimators_) == 1:
        label = positive(sub(flat(scores), second_from(c, e.estimators_[0])))
        return Classified(label, p, flat(scores))
    return Classified(greatest(scores), p, scores)


def _rest_probabilities(c: Call) -> Node:
    def second(part: Any, where_: str) -> Node:
        return pick(probabilities_of(c.reader.classify(part, c.x, where_)), [1])

    p = side_by_side(each(c, c.e.estimators_, second, "estimators_"))
    if len(c.e.estimators_) == 1:
        return two(flat(p))
    whole = total(p, keep=True)
    return where(op("equal", whole, 0.0), p, div(p, whole))


@converts("classify", MULTI + "OneVsOneClassifier")
def one_against_one(c: Call) -> Classified:
    e, count = c.e, len(c.e.classes_)
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    said = each(c, e.estimators_, lambda p, w: binary_score(c, p, c.x, w), "estimators_")
    second: list[Node] = []
    for part, score in zip(e.estimators_, said, strict=True):
        if is_regressor(c, part):
            raise Refused("estimators that are regressors")
        second.append(f64(op("greater", score, second_from(c, part))))
    scores = one_against_rest_of_pairs(side_by_side(said), side_by_side(second), pairs, count, 1.0)
    if count == 2:
        one = flat(pick(scores, [1]))
        return Classified(positive(sub(one, second_from(c, e.estimators_[0]))), None, one)
    return Classified(greatest(scores), None, scores)


@converts("classify", MULTI + "OutputCodeClassifier")
def output_code(c: Call) -> Classified:
    e = c.e
    said = each(c, e.estimators_, lambda p, w: binary_score(c, p, c.x, w), "estimators_")
    return Classified(least(square_distances(side_by_side(said), numbers(e.code_book_))))


# --- several targets ------------------------------------------------------------------------------


@converts("regress", "sklearn.multioutput.MultiOutputRegressor")
def multi_regressor(c: Call) -> Node:
    found = each(c, c.e.estimators_, lambda p, w: c.reader.regress(p, c.x, w), "estimators_")
    return side_by_side([column(f) for f in found])


@converts("classify", "sklearn.multioutput.MultiOutputClassifier")
def multi_classifier(c: Call) -> tuple[Classified, ...]:
    return tuple(each(c, c.e.estimators_, lambda p, w: c.reader.classify(p, c.x, w), "estimators_"))


@converts("regress", "sklearn.multioutput.RegressorChain")
def regressor_chain(c: Call) -> Node:
    """Each regressor sees what those before it said."""
    said: list[Node] = []
    for k, part in enumerate(c.e.estimators_):
        x = join([c.x, *(table(s) for s in said)])
        said.append(column(c.reader.regress(part, x, c.inside(f"estimators_[{k}]"))))
    order = np.argsort(np.asarray(c.e.order_))
    return side_by_side([said[int(k)] for k in order])


# --- transformed targets --------------------------------------------------------------------------


@converts("regress", "sklearn.compose.TransformedTargetRegressor")
def transformed_target(c: Call) -> Node:
    e = c.e
    said = column(c.reader.regress(e.regressor_, c.x, c.inside("regressor_")))
    made = inverse(e.transformer_, said)
    return flat(made) if int(e._training_dim) == 1 else made


def inverse(t: Any, y: Node) -> Node:
    """What a transformer's inverse_transform makes of numbers."""
    name = type(t).__name__
    if name == "FunctionTransformer":
        return known_function(t.inverse_func, "inverse_func")(y)
    if name == "StandardScaler":
        y = mul(y, numbers(t.scale_)[None]) if t.with_std else y
        return add(y, numbers(t.mean_)[None]) if t.with_mean else y
    if name == "MinMaxScaler":
        return div(sub(y, numbers(t.min_)[None]), numbers(t.scale_)[None])
    if name == "MaxAbsScaler":
        return mul(y, numbers(t.scale_)[None])
    if name == "RobustScaler":
        y = mul(y, numbers(t.scale_)[None]) if t.with_scaling else y
        return add(y, numbers(t.center_)[None]) if t.with_centering else y
    if name == "PowerTransformer":
        return _inverse_power(t, y)
    raise Refused(
        f"transformer={name}: its inverse is not known",
        "StandardScaler, PowerTransformer, or func and inverse_func of numpy",
    )


def _inverse_power(t: Any, y: Node) -> Node:
    power = float(np.ravel(t.lambdas_)[0])
    if t.standardize:
        y = inverse(t._scaler, y)

    def half(v: Node, by: float) -> Node:
        """exp(log(1 + by · v) / by) - 1."""
        return expm1(v) if by == 0 else expm1(div(log1p(mul(by, v)), by))

    if t.method == "box-cox":
        return op("exp", y) if power == 0 else op("exp", div(log1p(mul(power, y)), power))
    high, low = op("max", y, 0.0), op("neg", op("min", y, 0.0))
    return where(op("less", y, 0.0), op("neg", half(low, 2.0 - power)), half(high, power))
