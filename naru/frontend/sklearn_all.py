"""Imports every module of converters: each registers its own."""

from naru.frontend import (
    sklearn_bayes,
    sklearn_boosters,
    sklearn_compose,
    sklearn_encode,
    sklearn_linear,
    sklearn_meta,
    sklearn_neighbors,
    sklearn_neural,
    sklearn_scale,
    sklearn_svm,
    sklearn_trees,
)

MODULES = (
    sklearn_bayes, sklearn_boosters, sklearn_compose, sklearn_encode, sklearn_linear, sklearn_meta,
    sklearn_neighbors, sklearn_neural, sklearn_scale, sklearn_svm, sklearn_trees,
)  # fmt: skip
