"""Every estimator that is supported, fitted on a little data; how near results have to be."""

# What is guessed of scikit-learn, which has no types, is often wrong.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn import (
    calibration,
    cluster,
    compose,
    cross_decomposition,
    decomposition,
    discriminant_analysis,
    dummy,
    ensemble,
    feature_selection,
    gaussian_process,
    impute,
    isotonic,
    kernel_approximation,
    kernel_ridge,
    linear_model,
    mixture,
    model_selection,
    multiclass,
    multioutput,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    random_projection,
    svm,
    tree,
)
from sklearn.experimental import enable_iterative_imputer
from sklearn.gaussian_process import kernels

_ = enable_iterative_imputer
Make = Callable[[], Any]
EXACT = 0.0
CLOSE = 1e-10  # relative, for sums in another order
LOOSE = 1e-7  # where small differences of large numbers are taken


@dataclass(frozen=True)
class Case:
    """An estimator, the data that it is fitted on, how near its numbers have to be."""

    make: Make
    data: str
    near: float = CLOSE


def trees() -> dict[str, Case]:
    t, e = tree, ensemble
    few = {"n_estimators": 7, "random_state": 0}
    small = {"max_iter": 12, "random_state": 0}
    return {
        "tree classifier": Case(lambda: t.DecisionTreeClassifier(random_state=0), "iris", EXACT),
        "tree regressor": Case(lambda: t.DecisionTreeRegressor(max_depth=5), "diabetes", EXACT),
        "tree of targets": Case(lambda: t.DecisionTreeRegressor(max_depth=5), "targets", EXACT),
        "extra tree": Case(lambda: t.ExtraTreeClassifier(random_state=0), "wine", EXACT),
        "extra tree regressor": Case(lambda: t.ExtraTreeRegressor(random_state=0), "diabetes", 0),
        "forest": Case(lambda: e.RandomForestClassifier(**few), "digits", EXACT),
        "forest of two": Case(lambda: e.RandomForestClassifier(**few), "two", EXACT),
        "forest regressor": Case(lambda: e.RandomForestRegressor(**few), "diabetes", EXACT),
        "forest of targets": Case(lambda: e.RandomForestRegressor(**few), "targets", EXACT),
        "extra trees": Case(lambda: e.ExtraTreesClassifier(**few), "iris", EXACT),
        "extra trees regressor": Case(lambda: e.ExtraTreesRegressor(**few), "diabetes", EXACT),
        "trees embedding": Case(lambda: e.RandomTreesEmbedding(**few, max_depth=3), "iris", EXACT),
        "isolation forest": Case(lambda: e.IsolationForest(**few), "iris", 1e-14),
        "isolation forest of some features": Case(
            lambda: e.IsolationForest(**few, max_features=0.5, contamination=0.1), "wine", 1e-14
        ),
        "gradient boosting": Case(lambda: e.GradientBoostingClassifier(**few), "iris", 1e-14),
        "gradient boosting of two": Case(lambda: e.GradientBoostingClassifier(**few), "two", 1e-14),
        "exponential boosting": Case(
            lambda: e.GradientBoostingClassifier(**few, loss="exponential"), "two", 1e-14
        ),
        "gradient boosting from zero": Case(
            lambda: e.GradientBoostingClassifier(**few, init="zero"), "two", 1e-14
        ),
        **{
            f"gradient boosting {loss}": Case(
                lambda loss=loss: e.GradientBoostingRegressor(**few, loss=loss), "diabetes", EXACT
            )
            for loss in ("squared_error", "absolute_error", "huber", "quantile")
        },
        "histogram boosting": Case(
            lambda: e.HistGradientBoostingClassifier(**small), "iris", 1e-14
        ),
        "histogram boosting of two": Case(
            lambda: e.HistGradientBoostingClassifier(**small), "two", 1e-14
        ),
        "histogram boosting of categories": Case(
            lambda: e.HistGradientBoostingClassifier(
                **small, categorical_features=[0, 2], min_samples_leaf=5
            ),
            "counts",
            1e-14,
        ),
        **{
            f"histogram boosting {loss}": Case(
                lambda loss=loss, more=more: e.HistGradientBoostingRegressor(
                    **small, loss=loss, **more
                ),
                "diabetes",
                near,
            )
            for loss, near, more in (
                ("squared_error", EXACT, {}),
                ("absolute_error", EXACT, {}),
                ("quantile", EXACT, {"quantile": 0.3}),
                ("gamma", 1e-14, {}),
                ("poisson", 1e-14, {}),
            )
        },
        "AdaBoost": Case(lambda: e.AdaBoostClassifier(**few), "iris", 1e-13),
        "AdaBoost of two": Case(lambda: e.AdaBoostClassifier(**few), "two", 1e-13),
        "AdaBoost regressor": Case(lambda: e.AdaBoostRegressor(**few), "diabetes", EXACT),
    }


def linear() -> dict[str, Case]:
    m, d = linear_model, discriminant_analysis
    plain = (
        "LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "LassoLars", "LassoLarsCV",
        "LassoLarsIC", "Lars", "LarsCV", "ElasticNet", "ElasticNetCV", "BayesianRidge",
        "ARDRegression", "TheilSenRegressor", "SGDRegressor", "QuantileRegressor",
        "OrthogonalMatchingPursuit", "OrthogonalMatchingPursuitCV", "PassiveAggressiveRegressor",
    )  # fmt: skip
    seeded = ("SGDRegressor", "TheilSenRegressor", "PassiveAggressiveRegressor")
    cases = {
        name: Case(
            lambda name=name: getattr(m, name)(**({"random_state": 0} if name in seeded else {})),
            "diabetes",
        )
        for name in plain
    }
    several = ("MultiTaskLasso", "MultiTaskElasticNet", "MultiTaskLassoCV", "MultiTaskElasticNetCV")
    cases |= {n: Case(lambda n=n: getattr(m, n)(), "targets") for n in several}
    return {
        **cases,
        "LinearRegression of targets": Case(lambda: m.LinearRegression(), "targets"),
        "HuberRegressor": Case(lambda: m.HuberRegressor(max_iter=1000, epsilon=2.0), "diabetes"),
        "RANSACRegressor": Case(lambda: m.RANSACRegressor(random_state=0), "diabetes"),
        "PoissonRegressor": Case(lambda: m.PoissonRegressor(), "positive"),
        "GammaRegressor": Case(lambda: m.GammaRegressor(), "positive"),
        "TweedieRegressor": Case(lambda: m.TweedieRegressor(power=1.5), "positive"),
        "normal TweedieRegressor": Case(lambda: m.TweedieRegressor(power=0), "positive"),
        "LinearSVR": Case(lambda: svm.LinearSVR(random_state=0), "diabetes"),
        "LogisticRegression": Case(lambda: m.LogisticRegression(max_iter=3000), "iris"),
        "LogisticRegression of two": Case(lambda: m.LogisticRegression(max_iter=9000), "two"),
        "LogisticRegressionCV": Case(
            lambda: m.LogisticRegressionCV(
                max_iter=9000, l1_ratios=(0,), use_legacy_attributes=False, Cs=2, cv=3
            ),
            "iris",
        ),
        "SGDClassifier": Case(lambda: m.SGDClassifier(random_state=0), "iris"),
        "logistic SGDClassifier": Case(
            lambda: m.SGDClassifier(random_state=0, loss="log_loss"), "iris"
        ),
        "huber SGDClassifier": Case(
            lambda: m.SGDClassifier(random_state=0, loss="modified_huber"), "iris"
        ),
        "huber SGDClassifier of two": Case(
            lambda: m.SGDClassifier(random_state=0, loss="modified_huber"), "two"
        ),
        "Perceptron": Case(lambda: m.Perceptron(random_state=0), "iris"),
        "PassiveAggressiveClassifier": Case(
            lambda: m.PassiveAggressiveClassifier(random_state=0), "iris"
        ),
        "RidgeClassifier": Case(lambda: m.RidgeClassifier(), "iris"),
        "RidgeClassifierCV": Case(lambda: m.RidgeClassifierCV(), "two"),
        "LinearSVC": Case(lambda: svm.LinearSVC(random_state=0), "iris"),
        "SGDOneClassSVM": Case(lambda: m.SGDOneClassSVM(random_state=0), "iris"),
        "LDA": Case(lambda: d.LinearDiscriminantAnalysis(), "iris"),
        "LDA of two": Case(lambda: d.LinearDiscriminantAnalysis(solver="lsqr"), "two", LOOSE),
        "QDA": Case(lambda: d.QuadraticDiscriminantAnalysis(), "iris"),
        "QDA of two": Case(lambda: d.QuadraticDiscriminantAnalysis(reg_param=0.1), "two", LOOSE),
        "DummyClassifier": Case(lambda: dummy.DummyClassifier(), "iris", EXACT),
        "frequent DummyClassifier": Case(
            lambda: dummy.DummyClassifier(strategy="most_frequent"), "two", EXACT
        ),
        "DummyRegressor": Case(lambda: dummy.DummyRegressor(), "diabetes", EXACT),
        "PLSRegression": Case(lambda: cross_decomposition.PLSRegression(), "diabetes"),
        "PLSRegression of targets": Case(lambda: cross_decomposition.PLSRegression(), "targets"),
        "IsotonicRegression": Case(
            lambda: pipeline.make_pipeline(
                feature_selection.SelectKBest(k=1),
                isotonic.IsotonicRegression(out_of_bounds="clip"),
            ),
            "diabetes",
        ),
    }


def bayes() -> dict[str, Case]:
    n, m = naive_bayes, mixture
    cases = {
        name: Case(lambda name=name: getattr(n, name)(), "counts")
        for name in ("MultinomialNB", "ComplementNB", "BernoulliNB", "CategoricalNB", "GaussianNB")
    }
    for kind in ("full", "tied", "diag", "spherical"):
        cases[f"GaussianMixture {kind}"] = Case(
            lambda kind=kind: m.GaussianMixture(3, covariance_type=kind, random_state=0), "iris"
        )
    for kind in ("dirichlet_process", "dirichlet_distribution"):
        cases[f"BayesianGaussianMixture {kind}"] = Case(
            lambda kind=kind: m.BayesianGaussianMixture(
                n_components=3, weight_concentration_prior_type=kind, random_state=0, max_iter=500
            ),
            "iris",
        )
    return {**cases, "GaussianNB of iris": Case(lambda: n.GaussianNB(), "iris")}


def machines() -> dict[str, Case]:
    s, k = svm, kernels
    cases: dict[str, Case] = {}
    for kernel in ("rbf", "linear", "poly", "sigmoid"):
        for name in ("SVC", "NuSVC", "SVR", "NuSVR", "OneClassSVM"):
            where = "diabetes" if name.endswith("R") else "iris"
            more = {"nu": 0.3} if name == "NuSVC" else {}
            cases[f"{name} {kernel}"] = Case(
                lambda name=name, kernel=kernel, more=more: getattr(s, name)(kernel=kernel, **more),
                where,
                1e-8,
            )
    for name, kernel in {
        "RBF": k.RBF(0.3) + k.WhiteKernel(0.1),
        "Matern half": k.ConstantKernel(2.0) * k.Matern(0.5, nu=0.5),
        "Matern 1.5": k.Matern(0.5, nu=1.5),
        "Matern 2.5": k.Matern([0.5] * 10, nu=2.5),
        "RationalQuadratic": k.RationalQuadratic(),
        "ExpSineSquared": k.ExpSineSquared(1.0, 2.0),
        "DotProduct": k.DotProduct() ** 2 + k.WhiteKernel(),
    }.items():
        cases[f"GaussianProcess {name}"] = Case(
            lambda kernel=kernel: gaussian_process.GaussianProcessRegressor(
                kernel, optimizer=None, alpha=1e-2, normalize_y=True
            ),
            "diabetes",
            LOOSE,
        )
    return {
        **cases,
        "SVC of two": Case(lambda: s.SVC(), "two", 1e-8),
        "SVC pairs": Case(lambda: s.SVC(decision_function_shape="ovo"), "wine", 1e-8),
        "SVC ties": Case(lambda: s.SVC(break_ties=True), "wine", 1e-8),
        "SVC probability": Case(lambda: s.SVC(probability=True, random_state=0), "iris", 1e-8),
        "SVC probability of two": Case(
            lambda: s.SVC(probability=True, random_state=0), "two", 1e-8
        ),
        "KernelRidge": Case(lambda: kernel_ridge.KernelRidge(kernel="rbf"), "diabetes", LOOSE),
        "KernelPCA": Case(
            lambda: decomposition.KernelPCA(2, kernel="rbf", gamma=0.1), "iris", LOOSE
        ),
        "KernelPCA cosine": Case(
            lambda: decomposition.KernelPCA(2, kernel="cosine"), "iris", LOOSE
        ),
        "Nystroem": Case(
            lambda: kernel_approximation.Nystroem(n_components=20, random_state=0), "iris", LOOSE
        ),
        "RBFSampler": Case(lambda: kernel_approximation.RBFSampler(random_state=0), "iris"),
    }


def neighbours() -> dict[str, Case]:
    n, c = neighbors, cluster
    cases: dict[str, Case] = {}
    for metric in ("euclidean", "manhattan", "cosine", "chebyshev"):
        for weights in ("uniform", "distance"):
            name = f"{metric} {weights}"
            settings = {"metric": metric, "weights": weights, "algorithm": "brute"}
            cases[f"KNeighborsRegressor {name}"] = Case(
                lambda settings=settings: n.KNeighborsRegressor(**settings), "normal", LOOSE
            )
            cases[f"KNeighborsClassifier {name}"] = Case(
                lambda settings=settings: n.KNeighborsClassifier(**settings), "normal", LOOSE
            )
    return {
        **cases,
        "KNeighborsRegressor minkowski": Case(
            lambda: n.KNeighborsRegressor(p=3, n_neighbors=3), "targets", LOOSE
        ),
        "NearestCentroid": Case(lambda: n.NearestCentroid(), "iris", LOOSE),
        "NearestCentroid of priors": Case(
            lambda: n.NearestCentroid(priors=[0.2, 0.3, 0.5]), "iris", LOOSE
        ),
        "NearestCentroid manhattan": Case(
            lambda: n.NearestCentroid(metric="manhattan"), "wine", LOOSE
        ),
        "NeighborhoodComponentsAnalysis": Case(
            lambda: n.NeighborhoodComponentsAnalysis(2, random_state=0, max_iter=5), "iris"
        ),
        "KMeans": Case(lambda: c.KMeans(4, n_init=1, random_state=0), "iris"),
        "MiniBatchKMeans": Case(lambda: c.MiniBatchKMeans(4, n_init=1, random_state=0), "iris"),
        "BisectingKMeans": Case(lambda: c.BisectingKMeans(4, random_state=0), "iris"),
        "MeanShift": Case(lambda: c.MeanShift(), "iris"),
        "AffinityPropagation": Case(lambda: c.AffinityPropagation(random_state=0), "iris"),
        "Birch": Case(lambda: c.Birch(), "iris"),
        "KMeans distances": Case(
            lambda: pipeline.make_pipeline(c.KMeans(4, n_init=1, random_state=0), "passthrough"),
            "iris",
        ),
        "FeatureAgglomeration": Case(lambda: c.FeatureAgglomeration(2), "iris"),
    }


def neural() -> dict[str, Case]:
    n, d = neural_network, decomposition
    few = {"max_iter": 5000, "hidden_layer_sizes": (8, 5), "random_state": 0, "tol": 1e-2}
    return {
        **{
            f"MLPClassifier {a}": Case(
                lambda a=a: n.MLPClassifier(activation=a, **few), "iris", 1e-9
            )
            for a in ("relu", "tanh", "logistic", "identity")
        },
        "MLPClassifier of two": Case(lambda: n.MLPClassifier(**few), "two", 1e-9),
        "MLPRegressor": Case(lambda: n.MLPRegressor(**few), "diabetes"),
        "MLPRegressor of targets": Case(lambda: n.MLPRegressor(**few), "targets", 1e-9),
        "BernoulliRBM": Case(lambda: n.BernoulliRBM(5, random_state=0, n_iter=2), "counts"),
        "PCA": Case(lambda: d.PCA(2), "iris"),
        "whitening PCA": Case(lambda: d.PCA(2, whiten=True), "wine"),
        "IncrementalPCA": Case(lambda: d.IncrementalPCA(2), "iris"),
        "TruncatedSVD": Case(lambda: d.TruncatedSVD(2, random_state=0), "iris"),
        "FastICA": Case(lambda: d.FastICA(2, random_state=0), "iris"),
        "FactorAnalysis": Case(lambda: d.FactorAnalysis(2), "iris"),
        "LDA transform": Case(
            lambda: pipeline.make_pipeline(
                discriminant_analysis.LinearDiscriminantAnalysis(), preprocessing.StandardScaler()
            ),
            "iris",
            LOOSE,
        ),
        "GaussianRandomProjection": Case(
            lambda: random_projection.GaussianRandomProjection(3, random_state=0), "iris"
        ),
        "SparseRandomProjection": Case(
            lambda: random_projection.SparseRandomProjection(3, random_state=0), "iris"
        ),
    }


def scaling() -> dict[str, Case]:
    p, f = preprocessing, feature_selection
    forest = ensemble.RandomForestClassifier(5, random_state=0)
    return {
        "StandardScaler": Case(lambda: p.StandardScaler(), "iris", EXACT),
        "StandardScaler without mean": Case(lambda: p.StandardScaler(with_mean=False), "iris", 0),
        "MinMaxScaler": Case(lambda: p.MinMaxScaler(clip=True), "iris", 1e-14),
        "MaxAbsScaler": Case(lambda: p.MaxAbsScaler(), "iris", EXACT),
        "RobustScaler": Case(lambda: p.RobustScaler(), "iris", EXACT),
        **{
            f"Normalizer {n}": Case(lambda n=n: p.Normalizer(norm=n), "iris", 1e-14)
            for n in ("l1", "l2", "max")
        },
        "Binarizer": Case(lambda: p.Binarizer(threshold=1.5), "iris", EXACT),
        **{
            f"KBinsDiscretizer {s} {e}": Case(
                lambda s=s, e=e: p.KBinsDiscretizer(
                    4, encode=e, strategy=s, quantile_method="averaged_inverted_cdf"
                ),
                "iris",
                EXACT,
            )
            for s in ("uniform", "quantile", "kmeans")
            for e in ("ordinal", "onehot", "onehot-dense")
        },
        "PolynomialFeatures": Case(lambda: p.PolynomialFeatures(3), "iris", 1e-15),
        "PolynomialFeatures of products": Case(
            lambda: p.PolynomialFeatures(3, interaction_only=True, include_bias=False),
            "iris",
            1e-15,
        ),
        "PowerTransformer": Case(lambda: p.PowerTransformer(), "diabetes", 1e-9),
        "box-cox PowerTransformer": Case(
            lambda: p.PowerTransformer(method="box-cox"), "positive", 1e-9
        ),
        **{
            f"QuantileTransformer {o}": Case(
                lambda o=o: p.QuantileTransformer(n_quantiles=30, output_distribution=o),
                "iris",
                1e-12,
            )
            for o in ("uniform", "normal")
        },
        **{
            f"SplineTransformer {x}": Case(
                lambda x=x: p.SplineTransformer(
                    n_knots=4, extrapolation=x, include_bias=x != "linear"
                ),
                "iris",
                1e-11,
            )
            for x in ("constant", "linear", "continue", "periodic")
        },
        "SplineTransformer of degree 1": Case(
            lambda: p.SplineTransformer(degree=1, knots="quantile", extrapolation="constant"),
            "wine",
            1e-11,
        ),
        **{
            f"FunctionTransformer {g.__name__}": Case(
                lambda g=g: p.FunctionTransformer(g), "positive", 1e-13
            )
            for g in (np.log1p, np.expm1, np.sqrt, np.exp, np.log, np.log10, np.log2, np.square,
                      np.cbrt, np.tanh, np.reciprocal, np.abs, np.floor, np.rint, np.negative)
        },
        "SelectKBest": Case(lambda: f.SelectKBest(k=2), "iris", EXACT),
        "SelectPercentile": Case(lambda: f.SelectPercentile(percentile=50), "iris", EXACT),
        "VarianceThreshold": Case(lambda: f.VarianceThreshold(0.3), "iris", EXACT),
        "SelectFromModel": Case(lambda: f.SelectFromModel(forest), "wine", EXACT),
        "RFE": Case(lambda: f.RFE(forest, n_features_to_select=2), "iris", EXACT),
        "RFECV": Case(lambda: f.RFECV(linear_model.LinearRegression()), "diabetes"),
        "SimpleImputer": Case(lambda: impute.SimpleImputer(), "iris", EXACT),
        "MissingIndicator": Case(lambda: impute.MissingIndicator(features="all"), "iris", EXACT),
        "KNNImputer": Case(lambda: impute.KNNImputer(n_neighbors=3), "iris", LOOSE),
        "KNNImputer by distance": Case(
            lambda: impute.KNNImputer(n_neighbors=3, weights="distance"), "iris", LOOSE
        ),
        "IterativeImputer": Case(
            lambda: impute.IterativeImputer(random_state=0, max_iter=20, tol=0.1), "iris", LOOSE
        ),
    }  # fmt: skip


def made_of_others() -> dict[str, Case]:
    e, m, c = ensemble, multiclass, calibration
    small = tree.DecisionTreeClassifier(max_depth=2, random_state=0)
    logistic = linear_model.LogisticRegression(max_iter=9000)
    line = linear_model.LinearRegression()
    stump = tree.DecisionTreeRegressor(max_depth=2)
    ridge = linear_model.RidgeClassifier()
    classifiers = [("tree", small), ("bayes", naive_bayes.GaussianNB()), ("line", logistic)]
    return {
        "VotingClassifier hard": Case(lambda: e.VotingClassifier(classifiers), "iris"),
        "VotingClassifier soft": Case(
            lambda: e.VotingClassifier(classifiers, voting="soft", weights=[1, 2, 3]), "iris"
        ),
        "VotingRegressor": Case(
            lambda: e.VotingRegressor([("line", line), ("tree", stump)]), "diabetes"
        ),
        "StackingClassifier": Case(
            lambda: e.StackingClassifier(classifiers, logistic, cv=3, passthrough=True), "iris"
        ),
        "StackingClassifier of scores": Case(
            lambda: e.StackingClassifier([("ridge", ridge), ("tree", small)], logistic, cv=3), "two"
        ),
        "StackingRegressor": Case(
            lambda: e.StackingRegressor([("line", line), ("tree", stump)], cv=3), "diabetes"
        ),
        "BaggingClassifier": Case(
            lambda: e.BaggingClassifier(small, n_estimators=5, max_features=0.5, random_state=0),
            "wine",
        ),
        "BaggingClassifier without probabilities": Case(
            lambda: e.BaggingClassifier(ridge, n_estimators=5, random_state=0), "iris"
        ),
        "BaggingRegressor": Case(
            lambda: e.BaggingRegressor(n_estimators=5, random_state=0), "diabetes"
        ),
        **{
            f"CalibratedClassifierCV {method} {where}": Case(
                lambda method=method: c.CalibratedClassifierCV(
                    naive_bayes.GaussianNB(), method=method, cv=3
                ),
                where,
            )
            for method in ("sigmoid", "isotonic")
            for where in ("iris", "two")
        },
        "CalibratedClassifierCV of scores": Case(
            lambda: c.CalibratedClassifierCV(ridge, cv=3), "iris"
        ),
        "OneVsRestClassifier": Case(lambda: m.OneVsRestClassifier(logistic), "iris"),
        "OneVsRestClassifier of two": Case(lambda: m.OneVsRestClassifier(small), "two"),
        "OneVsRestClassifier of trees": Case(lambda: m.OneVsRestClassifier(small), "iris"),
        "OneVsOneClassifier": Case(lambda: m.OneVsOneClassifier(logistic), "iris"),
        "OneVsOneClassifier of trees": Case(lambda: m.OneVsOneClassifier(small), "wine"),
        "OutputCodeClassifier": Case(
            lambda: m.OutputCodeClassifier(logistic, random_state=0), "iris"
        ),
        "MultiOutputRegressor": Case(lambda: multioutput.MultiOutputRegressor(line), "targets"),
        "RegressorChain": Case(lambda: multioutput.RegressorChain(line, order=[1, 0]), "targets"),
        "GridSearchCV": Case(
            lambda: model_selection.GridSearchCV(small, {"max_depth": [1, 3]}, cv=2), "iris"
        ),
        "FixedThresholdClassifier": Case(
            lambda: model_selection.FixedThresholdClassifier(logistic, threshold=0.8), "two"
        ),
        "TunedThresholdClassifierCV": Case(
            lambda: model_selection.TunedThresholdClassifierCV(logistic, cv=2), "two"
        ),
        **{
            f"TransformedTargetRegressor {name}": Case(
                lambda more=more: compose.TransformedTargetRegressor(line, **more), "positive", 1e-9
            )
            for name, more in {
                "function": {"func": np.log1p, "inverse_func": np.expm1},
                "StandardScaler": {"transformer": preprocessing.StandardScaler()},
                "PowerTransformer": {"transformer": preprocessing.PowerTransformer()},
                "box-cox": {"transformer": preprocessing.PowerTransformer(method="box-cox")},
                "MinMaxScaler": {"transformer": preprocessing.MinMaxScaler()},
                "RobustScaler": {"transformer": preprocessing.RobustScaler()},
            }.items()
        },
        "Pipeline": Case(
            lambda: pipeline.make_pipeline(
                impute.SimpleImputer(),
                preprocessing.StandardScaler(),
                decomposition.PCA(3),
                logistic,
            ),
            "wine",
        ),
        "FeatureUnion": Case(
            lambda: pipeline.make_pipeline(
                pipeline.make_union(
                    preprocessing.StandardScaler(), decomposition.PCA(2), "passthrough"
                ),
                logistic,
            ),
            "iris",
        ),
        "ColumnTransformer": Case(
            lambda: pipeline.make_pipeline(
                compose.make_column_transformer(
                    (preprocessing.StandardScaler(), [0, 2]),
                    (preprocessing.MinMaxScaler(), slice(1, 2)),
                    ("drop", [4]),
                    remainder="passthrough",
                ),
                logistic,
            ),
            "wine",
        ),
    }


CASES: dict[str, Case] = {
    **trees(), **linear(), **bayes(), **machines(), **neighbours(), **neural(), **scaling(),
    **made_of_others(),
}  # fmt: skip
