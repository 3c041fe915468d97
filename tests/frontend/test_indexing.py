"""What operators that scatter, sort and choose refuse, and in which words."""

from __future__ import annotations

import numpy as np
import pytest
from zoo import text

from naru.errors import ModelError
from naru.frontend.onnx import read_onnx

WRONG = {
    "k greater than the axis": (
        "(float[4,5] x) => (float[4,9] y) { y, at = TopK(x, k) }", {"k": [9]}, "9 elements of 5"
    ),
    "k of two numbers": (
        "(float[4,5] x) => (float[4,1] y) { y, at = TopK(x, k) }", {"k": [1, 2]}, "one number"
    ),
    "updates of another shape": (
        "(float[4,5] x, int64[4,5] at, float[2,5] u) => (float[4,5] y) "
        "{ y = ScatterElements(x, at, u) }",
        {},
        "axis 0 of indices and updates differ: 4 and 2",
    ),
    "a reduction of no name": (
        "(float[4] x, int64[4] at) => (float[4] y) "
        '{ y = ScatterElements <reduction = "mean"> (x, at, x) }',
        {},
        "none, add, mul, max, min",
    ),
    "positions longer than the rank": (
        "(float[4,5] x, int64[2,3] at, float[2] u) => (float[4,5] y) { y = ScatterND(x, at, u) }",
        {},
        "3 numbers don't fit rank 2",
    ),
    "a matrix that is not square": (
        "(float[4,5] x) => (float y) { y = Det(x) }", {}, "sides of the matrix differ: 4 and 5"
    ),
    "lengths of another batch": (
        "(float[4,5] x, int64[3] n) => (float[4,5] y) { y = ReverseSequence(x, n) }",
        {},
        "sizes of the batch differ: 5 and 3",
    ),
    "boxes of five numbers": (
        "(float[1,4,5] b, float[1,1,4] s) => (int64[n,3] y) { y = NonMaxSuppression(b, s) }",
        {},
        "sizes of a box",
    ),
    "columns that no image has": (
        "(float[1,9,5] x) => (float[1,1,4,4] y) { y = Col2Im(x, image, block) }",
        {"image": [4, 4], "block": [3, 3]},
        "numbers of windows differ: 5 and 4",
    ),
    "a window without axes": (
        "(float[4,5] x, int64[4,5] at) => (float[4,5] y) "
        "{ y = MaxUnpool <kernel_shape = [2]> (x, at) }",
        {},
        "0 spatial axes",
    ),
    "an n-gram without a place": (
        "(int64[9] x) => (float[2] y) { y = TfIdfVectorizer <mode = \"TF\", min_gram_length = 1, "
        "max_gram_length = 1, max_skip_count = 0, ngram_counts = [0], ngram_indexes = [0, 1], "
        "pool_int64s = [1, 2, 3]> (x) }",
        {},
        "for each of 3 n-grams, found 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_models_are_refused(case: str) -> None:
    body, weights, words = WRONG[case]
    arrays = {name: np.array(values, np.int64) for name, values in weights.items()}
    with pytest.raises(ModelError, match=words):
        read_onnx(text(body, arrays, opset=18))
