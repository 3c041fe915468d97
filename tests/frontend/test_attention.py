"""The standard's Attention, RotaryEmbedding and RMSNormalization, and FlexAttention, against the
reference implementation of the onnx package."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from naru.errors import ModelError
from naru.frontend.onnx import read_onnx
from naru.ops.evaluate import evaluate
from tests.frontend.test_quantized import Array, Operands, floats, model_of

Q, K, V = floats(2, 4, 3, 8), floats(2, 2, 5, 8, seed=1), floats(2, 2, 5, 6, seed=2)
PAST = (floats(2, 2, 4, 8, seed=3), floats(2, 2, 4, 6, seed=4))
SEEN = np.random.default_rng(0).random((2, 1, 3, 5)) < 0.5
SEEN[0, 0, 1] = False  # a query that sees nothing
HOLES = np.where(SEEN, floats(2, 1, 3, 5), -np.inf).astype(np.float32)
FLAT = [np.ascontiguousarray(a.swapaxes(1, 2)).reshape(2, a.shape[2], -1) for a in (Q, K, V)]
LENGTHS = np.array([2, 5])


def run_both(
    op: str, operands: Operands, attrs: dict[str, Any], opset: int, outputs: int
) -> list[tuple[Array, Array]]:
    model = model_of(op, operands, attrs, domain="", opset=opset, outputs=outputs)
    feed = {f"i{k}": a for k, a in enumerate(operands) if a is not None}
    g = read_onnx(model)
    got = evaluate(g, [feed[str(n.attr("name"))] for n in g.inputs])
    want = [np.asarray(w) for w in ReferenceEvaluator(model).run(None, feed)]
    return list(zip(got, want, strict=True))


@pytest.mark.parametrize("opset", [23, 24, 25])
@pytest.mark.parametrize(
    ("operands", "attrs"),
    [
        ([Q, K, V], {}),
        (FLAT, {"q_num_heads": 4, "kv_num_heads": 2}),
        ([Q, K, V, SEEN], {"qk_matmul_output_mode": 3}),
        ([Q, K, V, HOLES], {"is_causal": 1, "softcap": 2.0, "qk_matmul_output_mode": 2}),
        ([Q, K, V, None, *PAST], {"is_causal": 1, "scale": 0.3}),
        ([Q, K, V], {"softcap": 2.0, "qk_matmul_output_mode": 1}),
        ([Q, K, V], {"softmax_precision": 11}),
    ],
)
def test_attention(operands: Operands, attrs: dict[str, Any], opset: int) -> None:
    for got, want in run_both("Attention", operands, attrs, opset, 4):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("opset", "operands", "attrs"),
    [
        (24, [Q, K, V, None, None, None, LENGTHS], {"is_causal": 1}),
        (24, [Q, K, V, SEEN[..., :4]], {}),
        (25, [Q, K, V], {"left_window_size": 1, "right_window_size": 0}),
        (25, [Q, K, V, None, None, None, LENGTHS], {"left_window_size": 2}),
    ],
)
def test_newer_attention(opset: int, operands: Operands, attrs: dict[str, Any]) -> None:
    ((got, want),) = run_both("Attention", operands, attrs, opset, 1)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("width", [0, 4])
def test_rotary_embedding(interleaved: int, width: int) -> None:
    half = (width or 8) // 2
    tables = (floats(2, 3, half), floats(2, 3, half, seed=1))
    attrs = {"interleaved": interleaved, "rotary_embedding_dim": width}
    flat = floats(2, 3, 32)
    for x, more in ((Q, {}), (flat, {"num_heads": 4})):
        ((got, want),) = run_both("RotaryEmbedding", [x, *tables], {**attrs, **more}, 23, 1)
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def test_rms_normalization() -> None:
    for scale, axis in ((floats(8), -1), (floats(3, 8), 2)):
        attrs = {"axis": axis, "epsilon": 1e-3}
        ((got, want),) = run_both("RMSNormalization", [Q, scale], attrs, 23, 1)
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


FLEX = """<ir_version: 10, opset_import: ["" : 24, "ai.onnx.preview" : 1]>
g (float[2,4,3,8] q, float[2,2,5,8] k, float[2,2,5,6] v) => (float[2,4,3,6] y) {
  y = ai.onnx.preview.FlexAttention <
    scale = 0.5,
    score_mod = s (float[2,4,3,5] a) => (float[2,4,3,5] b) { b = Tanh(a) },
    prob_mod = p (float[2,4,3,5] c) => (float[2,4,3,5] d) { d = Mul(c, c) }
  > (q, k, v)
}"""


def test_flex_attention() -> None:
    g = read_onnx(onnx.parser.parse_model(FLEX))
    (got,) = evaluate(g, [Q, K, V])
    k, v = (np.repeat(a, 2, 1) for a in (K, V))
    e = np.exp(np.tanh(Q @ k.swapaxes(2, 3) * 0.5))
    p = e / e.sum(-1, keepdims=True)
    np.testing.assert_allclose(got, (p * p) @ v, rtol=2e-5, atol=2e-5)


def test_flex_attention_of_two_results() -> None:
    two = FLEX.replace("(float[2,4,3,5] b)", "(float[2,4,3,5] b, float[2,4,3,5] a)")
    with pytest.raises(ModelError, match="'score_mod': expected one output of the body, found 2"):
        read_onnx(onnx.parser.parse_model(two))


@pytest.mark.parametrize(
    ("operands", "attrs", "words"),
    [
        (FLAT, {"q_num_heads": 3, "kv_num_heads": 2}, "number of heads"),
        ([Q[:, :3], K, V], {}, "heads"),
        ([Q, K, V, None, PAST[0]], {}, "past_value"),
        ([Q, K, FLAT[2]], {}, "rank"),
        ([Q, K, V], {"qk_matmul_output_mode": 4}, "qk_matmul_output_mode"),
    ],
)
def test_what_does_not_fit(operands: Operands, attrs: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        read_onnx(model_of("Attention", operands, attrs, domain="", opset=23))
