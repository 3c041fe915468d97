"""Float operators of com.microsoft, compared with ONNX Runtime; those that it has for other
machines only, with what their documentation says."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from naru.errors import ModelError, UnsupportedError
from naru.frontend.onnx import read_onnx
from naru.ir.graph import toposort
from naru.ops.evaluate import evaluate
from tests.frontend.test_quantized import MICROSOFT, Array, Operands, floats, model_of, run_both


def ints(low: int, high: int, *shape: int) -> Array:
    return np.random.default_rng(7).integers(low, high, shape).astype(np.int32)


def i32(*values: int) -> Array:
    return np.array(values, np.int32)


@dataclass(frozen=True)
class Case:
    op: str
    operands: Operands
    attrs: dict[str, Any] = field(default_factory=dict[str, Any])
    outputs: int = 1
    domain: str = MICROSOFT


X, Q, K = floats(2, 3, 8), floats(2, 3, 16), floats(2, 5, 16, seed=1)
STEP, PAST = floats(2, 1, 32), floats(2, 2, 6, 16, seed=3)
NEW = floats(2, 1, 32, seed=1)
HEADS = {"num_heads": 2}
GROUPS = {"num_heads": 4, "kv_num_heads": 2}
TURN = (floats(12, 8), floats(12, 8, seed=1))
EIGHT = floats(8, seed=1)
CASES = [
    Case("Gelu", [X]),
    Case("BiasGelu", [X, EIGHT]),
    Case("FastGelu", [X]),
    Case("FastGelu", [X, EIGHT]),
    Case("QuickGelu", [X], {"alpha": 0.5}),
    Case("FusedMatMul", [floats(2, 4, 3), floats(2, 5, 4)],
         {"transA": 1, "transB": 1, "alpha": 0.5}),
    Case("FusedMatMul", [floats(3, 2, 4), floats(4, 2, 5)], {"transBatchA": 1, "transBatchB": 1}),
    Case("TransposeMatMul", [floats(4, 3), floats(4, 5)], {"transA": 1}),
    Case("FusedGemm", [floats(3, 4), floats(4, 5), floats(5)], {"activation": "Relu"}),
    Case("FusedGemm", [floats(3, 4), floats(5, 4)],
         {"activation": "HardSigmoid", "activation_alpha": 0.3, "activation_beta": 0.4,
          "transB": 1}),
    Case("FusedConv", [floats(1, 2, 5, 5), floats(3, 2, 3, 3), floats(3)],
         {"activation": "Clip", "activation_params": [-0.3, 0.4]}),
    Case("FusedConv", [floats(1, 2, 5, 5), floats(3, 2, 3, 3), floats(3), floats(1, 3, 3, 3)],
         {"activation": "LeakyRelu", "activation_params": [0.1]}),
    Case("CDist", [floats(4, 3), floats(5, 3, seed=1)], {"metric": "euclidean"}),
    Case("MurmurHash3", [ints(-99, 99, 5)], {"seed": 3}),
    Case("MurmurHash3", [ints(-99, 99, 5).astype(np.int64)], {"positive": 0}),
    Case("UnfoldTensor", [X], {"dim": 1, "size": 2, "step": 1}),
    Case("ExpandDims", [X, np.array(-1, np.int32)]),
    Case("GatherND", [X, np.array([[0, 1], [1, 2]])]),
    Case("Trilu", [X, np.array(1)], {"upper": 0}),
    Case("Range", [np.array(1.0, np.float32), np.array(3.0, np.float32)]),
    # --- normalisations
    Case("SkipLayerNormalization", [X, floats(3, 8, seed=2), EIGHT, EIGHT, EIGHT]),
    Case("SkipLayerNormalization", [X, X, EIGHT]),
    Case("SkipSimplifiedLayerNormalization", [X, X, EIGHT, EIGHT]),
    Case("SimplifiedLayerNormalization", [X, EIGHT], outputs=2, domain=""),
    Case("EmbedLayerNormalization", [ints(0, 9, 2, 3), ints(0, 2, 2, 3), floats(9, 8),
         floats(5, 8), floats(2, 8), EIGHT, EIGHT, ints(0, 2, 2, 3)], outputs=3),
    Case("EmbedLayerNormalization", [ints(0, 9, 2, 3), None, floats(9, 8), floats(5, 8), None,
         EIGHT, EIGHT, None, ints(0, 5, 1, 3)], outputs=2),
    # --- attention
    Case("Attention", [X, floats(8, 48), floats(48)], {**HEADS, "unidirectional": 1}, 2),
    Case("Attention", [X, floats(8, 48), None, i32(2, 3)], HEADS),
    Case("Attention", [X, floats(8, 48), None, i32(2, 3, 1, 0)], HEADS),
    Case("Attention", [X, floats(8, 48), None, ints(0, 2, 2, 7), floats(2, 2, 2, 4, 8)], HEADS, 2),
    Case("Attention", [X, floats(8, 56), floats(56)], {**HEADS, "qkv_hidden_sizes": [16, 16, 24]}),
    Case("MultiHeadAttention", [Q, K, floats(2, 5, 12)], {**HEADS, "scale": 0.3}, 3),
    Case("MultiHeadAttention", [Q, K, K, floats(48), ints(0, 2, 2, 5), floats(1, 2, 3, 5)],
         {**HEADS, "mask_filter_value": -50.0}),
    Case("MultiHeadAttention", [Q, Q, Q, None, None, None, floats(2, 2, 4, 8), floats(2, 2, 4, 8)],
         {**HEADS, "unidirectional": 1}, 3),
    Case("MultiHeadAttention", [Q, floats(2, 2, 5, 8), floats(2, 2, 5, 8)], HEADS),
    Case("DecoderMaskedMultiHeadAttention", [STEP, NEW, NEW, ints(0, 2, 2, 4), None, PAST, PAST,
         i32(3), i32(1), None, floats(96)], {**HEADS, "past_present_share_buffer": 1}, 3),
    Case("GroupQueryAttention", [floats(2, 1, 64), NEW, NEW, PAST, PAST, i32(6, 6),
         np.array(7, np.int32), *TURN], {**GROUPS, "do_rotary": 1}, 3),
    Case("GroupQueryAttention", [floats(1, 3, 64), floats(1, 3, 32), floats(1, 3, 32), None, None,
         i32(2), np.array(3, np.int32)], {**GROUPS, "local_window_size": 2, "softcap": 2.0}, 3),
    Case("GroupQueryAttention", [floats(2, 1, 128), None, None, PAST, PAST, i32(6, 6),
         np.array(7, np.int32)], {**GROUPS, "smooth_softmax": 1}, 3),
    Case("RotaryEmbedding", [Q, np.array([[0, 3, 2], [1, 1, 5]]), *TURN], {"interleaved": 1}),
    Case("RotaryEmbedding", [floats(2, 4, 3, 16), np.array([2]), *TURN]),
    Case("RotaryEmbedding", [floats(2, 4, 3, 20), np.array([2]), *TURN],
         {"rotary_embedding_dim": 16, "num_heads": 4}),
]  # fmt: skip
IDS = [f"{c.op}-{k}" for k, c in enumerate(CASES)]


def ours(case: Case) -> list[Array]:
    model = model_of(case.op, case.operands, case.attrs, domain=case.domain, outputs=case.outputs)
    g = read_onnx(model)
    feed = {f"i{k}": a for k, a in enumerate(case.operands) if a is not None}
    return list(evaluate(g, [feed[str(n.attr("name"))] for n in g.inputs]))


def close(got: Array, want: Array) -> None:
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    bound = 0.0 if want.dtype.kind in "iu" else 2e-5 * max(1.0, float(np.abs(want).max(initial=0)))
    np.testing.assert_allclose(got, want, rtol=bound, atol=bound)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_against_onnxruntime(case: Case) -> None:
    model = model_of(case.op, case.operands, case.attrs, domain=case.domain, outputs=case.outputs)
    for got, want in run_both(model, case.operands):
        close(got, want)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("activation", [0, 1])
def test_group_norm(last: int, activation: int) -> None:
    x, gamma, beta = floats(2, 3, 4, 6), floats(6), floats(6, seed=1)
    parts = x.reshape(2, 12, 2, 3)
    mean, variance = parts.mean((1, 3), keepdims=True), parts.var((1, 3), keepdims=True)
    want = ((parts - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape) * gamma + beta
    want = want * sigmoid(want) if activation else want
    attrs = {"groups": 2, "activation": activation, "channels_last": last}
    moved = x if last else np.ascontiguousarray(np.moveaxis(x, 3, 1))
    (got,) = ours(Case("GroupNorm", [moved, gamma, beta], attrs))
    close(got if last else np.moveaxis(got, 1, 3), want.astype(np.float32))
    half = Case("SkipGroupNorm", [moved / 2, gamma, beta, moved / 2], attrs, 2)
    got, total = ours(half)
    close(got if last else np.moveaxis(got, 1, 3), want.astype(np.float32))
    close(total, moved)


def test_what_has_no_kernel_there() -> None:
    x, bias = floats(2, 3, 8), floats(8, seed=1)
    (got,) = ours(Case("BiasAdd", [x, bias, x]))
    close(got, x + bias + x)
    (got,) = ours(Case("BiasDropout", [x, bias, x]))
    close(got, x + bias + x)
    mask = floats(2, 1, 1, 5)
    scores = floats(2, 3, 4, 5)
    for inner, b in (
        (1, mask.reshape(2, 1, 1, 5)),
        (1, mask.reshape(2, 5)),
        (0, floats(1, 1, 4, 5)),
    ):
        full = b.reshape(2, 1, 1, 5) if inner else b
        power = np.exp(scores + full)
        case = Case("BiasSoftmax", [scores, b], {"axis": 3, "is_inner_broadcast": inner})
        close(ours(case)[0], power / power.sum(-1, keepdims=True))
    (got,) = ours(Case("TorchEmbedding", [floats(5, 3), np.array([[4, 0]])]))
    close(got, floats(5, 3)[[[4, 0]]])


def softmax(x: Array) -> Array:
    power = np.exp(x - x.max(-1, keepdims=True))
    return power / power.sum(-1, keepdims=True)


def exact_gelu(x: Array) -> Array:
    return x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def fast_gelu(x: Array) -> Array:
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def test_fused_activations_without_a_kernel_there() -> None:
    x, bias = floats(2, 3, 8), floats(8, seed=1)
    total = x + bias
    (got,) = ours(Case("BiasSplitGelu", [x, bias]))
    close(got, (total[..., :4] * exact_gelu(total[..., 4:])).astype(np.float32))
    w = floats(8, 5, seed=2)
    (got,) = ours(Case("GemmFastGelu", [x, w]))
    close(got, fast_gelu(x @ w).astype(np.float32))
    (got,) = ours(Case("GemmFastGelu", [x, w, floats(5)]))
    close(got, fast_gelu(x @ w + floats(5)).astype(np.float32))
    a, b = floats(2, 4, 3), floats(2, 4, 5, seed=1)
    product = 0.5 * np.swapaxes(a, 1, 2) @ b
    attrs = {"transA": 1, "alpha": 0.5}
    for more, want in (
        ({"activation": "Softmax"}, softmax(product)),
        ({"activation": "LeakyRelu", "activation_alpha": 0.3},
         np.where(product < 0, 0.3 * product, product)),
        ({"activation": "Tanh"}, np.tanh(product)),
        ({"activation": "Softmax", "activation_axis": 1},
         np.swapaxes(softmax(np.swapaxes(product, 1, 2)), 1, 2)),
    ):  # fmt: skip
        (got,) = ours(Case("FusedMatMulActivation", [a, b], {**attrs, **more}))
        close(got, want.astype(np.float32))


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(
    "window", [{}, {"strides": [2, 1], "pads": [1, 0, 2, 1]}, {"dilations": [1, 2]}]
)
def test_nhwc_conv(group: int, window: dict[str, Any]) -> None:
    """Between transpositions it is ONNX's Conv."""
    x, w, b = floats(2, 6, 7, 4), floats(6, 3, 2, 4 // group, seed=1), floats(6)
    attrs = {**window, "group": group}
    (got,) = ours(Case("NhwcConv", [x, w, b], attrs))
    plain = [np.ascontiguousarray(np.moveaxis(a, 3, 1)) for a in (x, w)]
    model = model_of("Conv", [*plain, b], attrs, domain="", outputs=1)
    (pair,) = run_both(model, [*plain, b])
    close(got, np.moveaxis(pair[1], 1, 3))
    attrs["activation"] = "Relu"
    (got,) = ours(Case("NhwcFusedConv", [x, plain[1], b, got], attrs))
    close(got, np.maximum(2 * np.moveaxis(pair[1], 1, 3), 0))


def test_packed_queries_keys_and_values() -> None:
    """The packed forms give what separate operands give."""
    parts = [floats(2, 5, 2, 8, seed=k) for k in range(3)]
    flat = [p.reshape(2, 5, 16) for p in parts]
    bias = floats(48, seed=5)
    want = ours(Case("MultiHeadAttention", [*flat, bias], HEADS))[0]
    packed = np.stack(parts, 3)
    (got,) = ours(Case("MultiHeadAttention", [packed, None, None, bias], HEADS))
    close(got, want)
    keys = np.stack(parts[1:], 3)
    (got,) = ours(Case("MultiHeadAttention", [flat[0], keys, None, bias], HEADS))
    close(got, want)
    q, k, v = (np.moveaxis((f + bias[16 * i : 16 * i + 16]).reshape(2, 5, 2, 8), 1, 2)
               for i, f in enumerate(flat))  # fmt: skip
    y = softmax(q @ np.swapaxes(k, 2, 3) / math.sqrt(8)) @ v
    close(want, np.moveaxis(y, 1, 2).reshape(2, 5, 16).astype(np.float32))


@pytest.mark.parametrize("sizes", [[3, 2], [2, 4], [1, 1], None])
def test_feature_vectorizer(sizes: list[int] | None) -> None:
    a, b = floats(4, 3), floats(4, 2, seed=1)
    attrs = {} if sizes is None else {"inputdimensions": sizes}
    case = Case("FeatureVectorizer", [a, b], attrs, domain="ai.onnx.ml")
    (got,) = ours(case)
    want = [np.pad(x, ((0, 0), (0, 9)))[:, :n]
            for x, n in zip((a, b), sizes or (3, 2), strict=True)]  # fmt: skip
    close(got, np.concatenate(want, 1))
    if sizes is not None:
        model = model_of(case.op, case.operands, attrs, domain=case.domain, outputs=1)
        for mine, theirs in run_both(model, case.operands):
            close(mine, theirs)


def test_windows_need_no_table() -> None:
    attrs = {"dim": 1, "size": 10000}
    g = read_onnx(model_of("UnfoldTensor", [floats(1, 20000)], attrs, domain=MICROSOFT))
    constants = [n for n in toposort(*g.outputs) if n.op == "constant"]
    assert max(n.data.size for n in constants if n.data is not None) <= 10001


def test_fourier_there_and_back() -> None:
    x = floats(3, 10)
    (there,) = ours(Case("Rfft", [x]))
    want = np.fft.rfft(x)
    close(there, np.stack([want.real, want.imag], -1).astype(np.float32))
    (back,) = ours(Case("Irfft", [there]))
    close(back, x)


@pytest.mark.parametrize(
    ("op", "operands", "attrs", "error", "words"),
    [
        ("Attention", [X, floats(8, 48)], {"num_heads": 3}, ModelError, "number of heads"),
        ("Attention", [X, floats(8, 48)], {"num_heads": 2, "do_rotary": 1}, UnsupportedError,
         "do_rotary"),
        ("MultiHeadAttention", [Q, K], HEADS, ModelError, "query, key and value"),
        ("FusedGemm", [floats(3, 4), floats(4, 5)], {"activation": "Wave"}, UnsupportedError,
         "Wave"),
        ("GroupNorm", [floats(1, 2, 2, 6), floats(6), floats(6)], {"groups": 4, "activation": 0},
         ModelError, "groups"),
        ("UnfoldTensor", [X], {"size": 9}, ModelError, "size"),
        ("MurmurHash3", [X], {}, UnsupportedError, "hash"),
        ("Gelu", [X], {"alpha": 1.0}, ModelError, "alpha"),
    ],
)  # fmt: skip
def test_what_does_not_fit(
    op: str, operands: Operands, attrs: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        ours(Case(op, operands, attrs))
