"""Linear models: a product with coefficients, and what each makes of it."""

from __future__ import annotations

import numpy as np

from naru.frontend.sklearn_base import (
    Call,
    Classified,
    Detected,
    Refused,
    add,
    column,
    converts,
    div,
    filled,
    flat,
    greatest,
    ints,
    matmul,
    mul,
    numbers,
    op,
    pick,
    positive,
    sub,
    total,
    two,
    where,
    width_of,
)
from naru.ir.graph import Node
from naru.ops.registry import apply

LINEAR = "sklearn.linear_model."


def linear(c: Call) -> Node:
    """X · coefficients + intercept: [rows], or [rows, targets] where coefficients are a matrix."""
    x, w = c.numbers(), numbers(c.e.coef_)
    b = numbers(getattr(c.e, "intercept_", 0.0))
    if w.ndim == 1:
        return add(flat(matmul(x, w[:, None])), float(b.reshape(-1)[0]))
    return add(matmul(x, w.T.copy()), b.reshape(1, -1))


def of_scores(scores: Node, probabilities: Node | None = None) -> Classified:
    """A classifier that takes the class with the greatest score [rows, classes], or of two the
    second where the one score [rows, 1] is above 0."""
    if scores.type.rank == 2 and width_of(scores) == 1:
        scores = flat(scores)
    label = positive(scores) if scores.type.rank == 1 else greatest(scores)
    return Classified(label, probabilities, scores)


# --- regression -----------------------------------------------------------------------------------

REGRESSORS = (
    "LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "LassoLars", "LassoLarsCV",
    "LassoLarsIC", "Lars", "LarsCV", "ElasticNet", "ElasticNetCV", "MultiTaskLasso",
    "MultiTaskLassoCV", "MultiTaskElasticNet", "MultiTaskElasticNetCV", "BayesianRidge",
    "ARDRegression", "HuberRegressor", "TheilSenRegressor", "SGDRegressor", "QuantileRegressor",
    "PassiveAggressiveRegressor", "OrthogonalMatchingPursuit", "OrthogonalMatchingPursuitCV",
)  # fmt: skip


@converts("regress", *(LINEAR + n for n in REGRESSORS), "sklearn.svm.LinearSVR")
def linear_regressor(c: Call) -> Node:
    return linear(c)


@converts("regress", *(f"sklearn.cross_decomposition.{n}" for n in ("PLSRegression", "PLSCanonical",
          "CCA")))  # fmt: skip
def partial_least_squares(c: Call) -> Node:
    """(X - mean) · coefficients + intercept: [rows, targets], or [rows] if y was one column."""
    e, x = c.e, c.numbers()
    made = add(matmul(sub(x, numbers(e._x_mean)), numbers(e.coef_).T.copy()), numbers(e.intercept_))
    return flat(made) if getattr(e, "_predict_1d", False) else made


@converts("regress", *(LINEAR + n for n in ("PoissonRegressor", "GammaRegressor",
          "TweedieRegressor")))  # fmt: skip
def generalized_linear(c: Call) -> Node:
    raw = linear(c)
    link = type(c.e._base_loss.link).__name__
    if link not in ("IdentityLink", "LogLink"):
        raise Refused(f"the link {link}")
    return op("exp", raw) if link == "LogLink" else raw


@converts("regress", LINEAR + "RANSACRegressor")
def ransac(c: Call) -> Node:
    return c.reader.regress(c.e.estimator_, c.x, c.inside("estimator_"))


@converts("regress", "sklearn.dummy.DummyRegressor")
def dummy_regressor(c: Call) -> Node:
    made = filled(c.reader.anchor(c.x), numbers(c.e.constant_))
    return flat(made) if int(c.e.n_outputs_) == 1 else made


# --- classification -------------------------------------------------------------------------------


@converts("classify", *(LINEAR + n for n in ("Perceptron", "PassiveAggressiveClassifier")),
          "sklearn.svm.LinearSVC")  # fmt: skip
def linear_classifier(c: Call) -> Classified:
    return of_scores(linear(c))


@converts("classify", LINEAR + "RidgeClassifier", LINEAR + "RidgeClassifierCV")
def ridge_classifier(c: Call) -> Classified:
    if str(c.e._label_binarizer.y_type_).startswith("multilabel"):
        raise Refused("several labels at once", "MultiOutputClassifier")
    return of_scores(linear(c))


@converts("classify", LINEAR + "LogisticRegression", LINEAR + "LogisticRegressionCV")
def logistic_regression(c: Call) -> Classified:
    """One class against the rest where it was fitted so (old versions), else the softmax."""
    scores = linear(c)
    rest = getattr(c.e, "multi_class", None) == "ovr" or c.e.solver == "liblinear"
    if len(c.e.classes_) <= 2 or rest:
        return of_scores(scores, one_against_rest(scores))
    return of_scores(scores, op("softmax", scores, axis=1))


def one_against_rest(scores: Node) -> Node:
    """Logistic functions of scores, scaled to a sum of 1; all alike where they are all 0."""
    p = op("sigmoid", scores)
    return two(flat(p)) if width_of(column(p)) == 1 else shared(p)


def shared(p: Node) -> Node:
    """Rows scaled to a sum of 1; even ones where the sum is 0."""
    whole = total(p, keep=True)
    return where(op("equal", whole, 0.0), 1.0 / width_of(p), div(p, whole))


@converts("classify", LINEAR + "SGDClassifier")
def sgd_classifier(c: Call) -> Classified:
    scores = linear(c)
    if c.e.loss == "log_loss":
        return of_scores(scores, one_against_rest(scores))
    if c.e.loss != "modified_huber":
        return of_scores(scores)
    p = div(add(op("clip", scores, -1.0, 1.0), 1.0), 2.0)
    return of_scores(scores, two(flat(p)) if width_of(p) == 1 else shared(p))


@converts("detect", LINEAR + "SGDOneClassSVM")
def sgd_one_class(c: Call) -> Detected:
    scores = sub(
        flat(matmul(c.numbers(), numbers(c.e.coef_).reshape(-1, 1))), float(c.e.offset_[0])
    )
    return Detected(inliers(scores), scores)


def inliers(scores: Node) -> Node:
    """1 where a score is 0 or more, else -1."""
    return apply("where", op("greater_or_equal", scores, 0.0), ints(1), ints(-1))


@converts("classify", "sklearn.dummy.DummyClassifier")
def dummy_classifier(c: Call) -> Classified:
    """The same for all rows; what is drawn at random is refused."""
    e = c.e
    if e.strategy in ("uniform", "stratified") or int(e.n_outputs_) != 1:
        raise Refused(f"strategy={e.strategy!r} draws at random, or there are several outputs")
    prior = np.asarray(e.class_prior_, np.float64)
    if e.strategy == "constant":
        chosen = int(np.flatnonzero(e.classes_ == np.ravel(e.constant)[0])[0])
    else:
        chosen = int(prior.argmax())
    row = prior if e.strategy == "prior" else np.eye(prior.size)[chosen]
    x = c.reader.anchor(c.x)
    made = filled(x, row)
    index = apply("cast", flat(filled(x, [chosen])), to="i64")
    return Classified(index, made)


# --- discriminant analysis ------------------------------------------------------------------------


@converts("classify", "sklearn.discriminant_analysis.LinearDiscriminantAnalysis")
def linear_discriminant(c: Call) -> Classified:
    scores = linear(c)
    if len(c.e.classes_) == 2:
        return of_scores(scores, two(op("sigmoid", flat(scores))))
    return of_scores(scores, op("softmax", scores, axis=1))


@converts("classify", "sklearn.discriminant_analysis.QuadraticDiscriminantAnalysis")
def quadratic_discriminant(c: Call) -> Classified:
    e, x = c.e, c.numbers()
    norms: list[Node] = []
    for r, s, m in zip(e.rotations_, e.scalings_, e.means_, strict=True):
        s = numbers(s)
        turned = matmul(sub(x, numbers(m)[None]), numbers(r) * s**-0.5)
        norms.append(total(mul(turned, turned), keep=True))
    u = np.array([np.sum(np.log(s)) for s in e.scalings_])
    norm2 = apply("concat", *norms, axis=1)
    scores = add(mul(-0.5, add(norm2, u[None])), np.log(numbers(e.priors_))[None])
    probabilities = op("softmax", scores, axis=1)
    if len(e.classes_) == 2:
        return of_scores(flat(sub(pick(scores, [1]), pick(scores, [0]))), probabilities)
    return of_scores(scores, probabilities)
