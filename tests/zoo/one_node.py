"""Nodes of operators that neither the standard's own tests nor the other models of the zoo have,
one each: operands and attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .build import Array

MICROSOFT, LEARNING = "com.microsoft", "ai.onnx.ml"


@dataclass(frozen=True)
class OneNode:
    """Operands (None: left out) and attributes of one node of a domain."""

    op: str
    operands: Sequence[Array | None]
    attrs: dict[str, Any] = field(default_factory=dict[str, Any])
    outputs: int = 1
    domain: str = MICROSOFT


def floats(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def values(dtype: str, *shape: int, seed: int = 0) -> Array:
    """Integers over the whole range of a dtype."""
    info = np.iinfo(dtype)
    rng = np.random.default_rng(seed)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


X, BIAS, BYTES = floats(2, 3, 8), floats(8, seed=1), values("uint8", 2, 6, 4)
SCALE, ZERO = np.array(0.02, np.float32), np.array(17, np.uint8)
GROUPED = {"groups": 2, "activation": 0, "channels_last": 1}

CASES = (
    OneNode("RandomNormal", [], {"shape": [3, 4], "seed": 1.0}, domain=""),
    OneNode("RandomUniform", [], {"shape": [3, 4], "seed": 1.0}, domain=""),
    OneNode("RandomNormalLike", [X], {"seed": 1.0}, domain=""),
    OneNode("RandomUniformLike", [X], {"seed": 1.0}, domain=""),
    OneNode("Bernoulli", [np.abs(X) % 1], {"seed": 1.0}, domain=""),
    OneNode("Multinomial", [X[0]], {"seed": 1.0, "sample_size": 4}, domain=""),
    OneNode("BitmaskDropout", [X, np.array(0.25, np.float32), np.array(True)], {"seed": 1}, 2),
    OneNode("BitmaskBiasDropout", [X, BIAS, X, np.array(0.25, np.float32), np.array(True)],
            {"seed": 1}, 2),
    OneNode("SVMRegressor", [floats(5, 3)], {"kernel_type": "RBF", "kernel_params": [0.3, 0.0, 3.0],
            "n_supports": 2, "coefficients": [1.0, -0.5], "rho": [0.4],
            "support_vectors": floats(6).tolist()}, domain=LEARNING),
    OneNode("SVMClassifier", [floats(5, 3)], {"kernel_type": "RBF",
            "kernel_params": [0.3, 0.0, 3.0], "vectors_per_class": [1, 1], "rho": [0.4],
            "coefficients": [1.0, -0.5], "support_vectors": floats(6).tolist(),
            "classlabels_ints": [3, 7]}, 2, domain=LEARNING),
    OneNode("NhwcFusedConv", [floats(1, 6, 7, 8), floats(16, 3, 3, 8), floats(16)],
            {"pads": [1, 1, 1, 1], "activation": "Relu"}),
    OneNode("GlobalLpPool", [floats(1, 3, 5, 6)], {"p": 2}, domain=""),
    OneNode("FeatureVectorizer", [floats(3, 2), floats(3, 4)], {"inputdimensions": [2, 4]},
            domain=LEARNING),
    OneNode("BiasAdd", [X, BIAS, X]),
    OneNode("BiasDropout", [X, BIAS, X]),
    OneNode("BiasSoftmax", [floats(2, 3, 4, 5), floats(2, 1, 1, 5)],
            {"axis": 3, "is_inner_broadcast": 1}),
    OneNode("BiasSplitGelu", [floats(2, 3, 10), floats(10)]),
    OneNode("ConvTransposeWithDynamicPads",
            [floats(1, 2, 5, 5), floats(2, 3, 3, 3), np.array([1, 1, 1, 1])],
            {"kernel_shape": [3, 3]}),
    OneNode("DequantizeLinear", [BYTES, SCALE, ZERO]),
    OneNode("QuantizeLinear", [X, SCALE, ZERO]),
    OneNode("FusedMatMulActivation", [floats(3, 4), floats(4, 5)], {"activation": "Relu"}),
    OneNode("GatherBlockQuantized",
            [values("uint8", 3, 16), np.array([[0, 2], [2, 1]]), np.abs(floats(3, 2))],
            {"bits": 4, "block_size": 16, "gather_axis": 0, "quantize_axis": 1}),
    OneNode("GemmFastGelu", [floats(3, 4), floats(4, 5), floats(5)]),
    OneNode("GroupNorm", [floats(2, 3, 4, 6), floats(6), floats(6, seed=1)], GROUPED),
    OneNode("SkipGroupNorm", [floats(2, 3, 4, 6), floats(6), floats(6, seed=1),
                              floats(2, 3, 4, 6, seed=2)], GROUPED),
    OneNode("Rfft", [floats(3, 10)]),
    OneNode("Irfft", [floats(3, 6, 2)]),
    OneNode("NhwcConv", [floats(1, 6, 7, 8), floats(16, 3, 3, 8), floats(16)],
            {"pads": [1, 1, 1, 1]}),
    OneNode("NhwcMaxPool", [values("uint8", 1, 6, 7, 8)], {"kernel_shape": [2, 2]}),
    OneNode("Pad", [X, np.array([0, 1, 0, 0, 0, 2]), np.array(0.5, np.float32)]),
    OneNode("QLinearReduceMean", [BYTES, SCALE, ZERO, SCALE, ZERO], {"axes": [1]}),
    OneNode("SimplifiedLayerNormalization", [X, BIAS], {"axis": -1}),
    OneNode("TorchEmbedding", [floats(5, 3), np.array([[4, 0]])]),
    OneNode("DynamicQuantizeLSTM",
            [floats(6, 2, 3), values("int8", 1, 3, 16), values("int8", 1, 4, 16, seed=1),
             floats(1, 32), *[None] * 4, np.full(1, 0.004, np.float32), np.zeros(1, np.int8),
             np.full(1, 0.004, np.float32), np.zeros(1, np.int8)],
            {"hidden_size": 4}, outputs=3),
)  # fmt: skip
