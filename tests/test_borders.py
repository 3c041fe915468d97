"""Pads, concatenations and choices beside convolutions, products and rows: where regions, groups,
phases and orders meet, compared with ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import ValueInfoProto, parser

import naru

HEAD = '<ir_version: 8, opset_import: ["" : 17]> '
PADS4, PADS2 = "<int64[8] p = {%s}>", "<int64[4] p = {%s}>"
GROUPED = "g (float[1,12,4,9] a, float[60,1,1,1] w) => (float[1,c,h,v] y) "
HALVES = "g (float[1,4,5,5] a, float[32,2,3,3] w) => (float[1,c,h,v] y) "
TWO = "g (float[2,4] a, float[3,4] b) => (float[5,4] y) "
IMAGES = "g (float[1,8,6,6] a, float[20,8,3,3] w) => (float[1,c,h,v] y) "
ANY_BATCH = (
    "g (float[n,8,6,6] a, float[20,8,3,3] w, float[3,21,3,3] u, float[12,5,3,3] k)"
    " => (float[n,c,h,v] y) "
)
ROWS = (
    "g (float[1,16,8,8] x, float[16,16,1,1] w, float[16,16] m) => (float[1,16,8,8] y)"
    " <float s = {0.1}> "
)
CASES = {
    f"grouped, channels {p}": GROUPED
    + PADS4 % f"0,{b},0,0,0,{e},0,0"
    + "{ c = Conv<group = 12>(a, w) y = Pad(c, p) }"
    for p, (b, e) in {
        "cut by one": (0, -1), "cut by eight": (0, -8), "cut by a group": (0, -5),
        "cut in front": (-2, 0), "grown": (1, 3),
    }.items()
} | {
    "two groups, cut": HALVES + PADS4 % "0,0,0,0,0,-1,0,0"
    + "{ c = Conv<group = 2>(a, w) y = Pad(c, p) }",
    "grouped transposed, cut": "g (float[1,12,4,4] a, float[12,5,2,2] w) => (float[1,c,h,v] y) "
    + PADS4 % "0,0,0,0,0,-1,0,0" + "{ c = ConvTranspose<group = 12>(a, w) y = Pad(c, p) }",
    "transposed beyond its kernel": "g (float[1,4,5,5] a, float[4,4,1,1] w) => (float[1,4,3,3] y) "
    "{ c = Conv(a, w) y = ConvTranspose<pads = [1,1,1,1]>(c, w) }",
    "image in a border": IMAGES + PADS4 % "0,0,1,2,0,0,0,3"
    + "{ c = Conv(a, w) r = Relu(c) y = Pad(r, p) }",
    "images in a border": ANY_BATCH + PADS4 % "0,0,2,1,0,1,1,2"
    + "{ c = Conv(a, w) r = Relu(c) p1 = Pad(r, p) y = Conv(p1, u) }",
    "grouped images in a border": ANY_BATCH + PADS4 % "0,0,1,1,0,0,1,1"
    + "{ c = Conv(a, w) p1 = Pad(c, p) y = Conv<group = 4>(p1, k) }",
    "image cut in front": IMAGES + PADS4 % "0,0,-1,0,0,0,1,-1" + "{ c = Conv(a, w) y = Pad(c, p) }",
    "product cut in front": "g (float[4,5] a, float[5,5] w) => (float[3,5] y) "
    + PADS2 % "-1,0,0,0" + "{ c = MatMul(a, w) y = Pad(c, p) }",
    "rows of a concatenation": TWO + "{ c = Concat<axis = 0>(a, b) y = Softmax<axis = -1>(c) }",
    "rows of a border": "g (float[2,4] a) => (float[5,4] y) " + PADS2 % "1,0,2,0"
    + "{ c = Pad(a, p) y = LogSoftmax<axis = -1>(c) }",
    "rows in a border, of a concatenation": "g (float[1,3,4] a, float[1,2,4] b) "
    "=> (float[1,c,h] y) <int64[6] p = {0,0,1,0,1,2}> "
    "{ c = Concat<axis = 1>(a, b) r = Softmax<axis = 2>(c) y = Pad(r, p) }",
    "sum with a concatenation, in a border": "g (float[1,8,6,6] a, float[20,8,3,3] w, "
    "float[1,7,4,4] b, float[1,13,4,4] d) => (float[1,c,h,v] y) " + PADS4 % "0,0,1,1,0,0,1,1"
    + "{ c = Conv(a, w) k = Concat<axis = 1>(b, d) s = Add(c, k) r = Relu(s) y = Pad(r, p) }",
    "rows cut in front": "g (float[4,6] a) => (float[3,6] y) " + PADS2 % "-1,0,0,0"
    + "{ c = Softmax<axis = 1>(a) y = Pad(c, p) }",
    "concatenated images": IMAGES + "{ c = Conv(a, w) r = Relu(c) "
    "k = Concat<axis = 1>(r, c, r) y = Sigmoid(k) }",
    "any rows, one more in front": "g (float[n,64] a, float[64,4] w) => (float[h,v] y) "
    + PADS2 % "1,0,0,0" + "{ c = MatMul(a, w) y = Pad(c, p) }",
    "any rows, one more behind": "g (float[n,700] a, float[700,4] w) => (float[h,v] y) "
    + PADS2 % "0,0,1,0" + "{ c = MatMul(a, w) y = Pad(c, p) }",
    "any images, one more": ANY_BATCH + PADS4 % "1,0,0,0,0,0,0,0"
    + "{ c = Conv(a, w) y = Pad(c, p) }",
    "rows of channels, chosen": ROWS + "{ a = Conv(x, w) b = Transpose<perm = [0,2,3,1]>(a) "
    "c = MatMul(b, m) d = Transpose<perm = [0,3,1,2]>(c) e = Greater(a, s) y = Where(e, a, d) }",
    "rows of channels, compared": ROWS + "{ a = Conv(x, w) b = Transpose<perm = [0,2,3,1]>(a) "
    "c = MatMul(b, m) d = Transpose<perm = [0,3,1,2]>(c) e = Greater(a, d) y = Cast<to = 1>(e) }",
    "tokens and a class": "g (float[1,1,8] a, float[1,4,8] b, float[8] s) => (float[1,5,8] y) "
    "{ c = Concat<axis = 1>(a, b) y = LayerNormalization(c, s) }",
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("target", ["host", "baseline"])
def test_agrees_with_onnxruntime(name: str, target: str) -> None:
    model = parser.parse_model(HEAD + CASES[name])
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    compiled = naru.compile(data, target=target, cache=False)
    for batch in (1, 3):
        feeds = {i.name: random_array(i, batch) for i in model.graph.input}
        (want,) = session.run(None, feeds)
        np.testing.assert_allclose(compiled(feeds), np.asarray(want), rtol=1e-4, atol=1e-5)


def random_array(info: ValueInfoProto, batch: int) -> np.ndarray:
    """Normal values of the declared shape, with `batch` for a size that is a name."""
    shape = [batch if d.dim_param else d.dim_value for d in info.type.tensor_type.shape.dim]
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)
