"""Scatters, sorting, places of maxima, boxes: what writes or chooses at positions from data."""

from __future__ import annotations

import numpy as np

from .build import Array, add_text, between, constant, distinct, ints, unit

N = ({"n": 5}, {"n": 33})


def boxes(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Corners in the unit square, of boxes that overlap often."""
    corners = rng.uniform(0, 0.6, shape)
    corners[..., 2:] = corners[..., :2] + rng.uniform(0.1, 0.4, corners[..., 2:].shape)
    return corners.astype(np.float32)


add_text(
    "scatter_elements_rows",
    """(float[n,4] x, int64[n,3] at, float[n,3] new) => (float[n,4] y) {
      doubled = Add(x, x)
      y = ScatterElements <axis = 1> (doubled, at, new)
    }""",
    sizes=N,
    # A row of updates has one position for each, or their order would matter.
    values={
        "at": lambda rng, shape: np.stack([rng.permutation(4)[:3] - 2 for _ in range(shape[0])])
    },
)
add_text(
    "scatter_elements_added",
    """(float[5,n] x, int64[7,n] at) => (float[5,n] y) {
      new = Cast <to = 1> (at)
      y = ScatterElements <axis = 0, reduction = "add"> (x, at, new)
    }""",
    opset=18,
    sizes=N,
    values={"at": between(-5, 4)},
)
add_text(
    "scatter_nd_rows",
    """(float[n,4,3] x, float[2,3] new) => (float[n,4,3] y) {
      y = ScatterND (x, at, new)
    }""",
    {"at": np.array([[0, 1], [-1, 3]])},
    sizes=N,
)
add_text(
    "scatter_nd_least",
    """(float[n,20] x, int64[6,1] at, float[6,20] new) => (float[n,20] y) {
      y = ScatterND <reduction = "min"> (x, at, new)
    }""",
    opset=18,
    sizes=N,
    values={"at": between(-5, 4)},
)
add_text(
    "top_k_of_middle_axis",
    """(float[2,n,3] x) => (float[2,4,3] best, int64[2,4,3] where) {
      best, where = TopK <axis = 1> (x, k)
    }""",
    {"k": ints(4)},
    sizes=N,
    values={"x": distinct},
)
add_text(
    "top_k_of_all",
    """(float[3,n] x) => (float[3,n] sorted, int64[3,n] where) {
      shape = Shape <start = 1> (x)
      sorted, where = TopK <largest = 0> (x, shape)
    }""",
    opset=15,
    sizes=N,
    values={"x": distinct},
)
add_text(
    "unique_of_numbers",
    "(int64[n] x) => (int64[u] y, int64[u] first, int64[n] which, int64[u] count) "
    "{ y, first, which, count = Unique (x) }",
    sizes=N,
    values={"x": between(-3, 3)},
)
add_text(
    "unique_of_rows",
    """(float[n,2] x) => (float[u,2] y, int64[u] first, int64[n] which, int64[u] count) {
      r = Round(x)
      y, first, which, count = Unique <axis = 0, sorted = 0> (r)
    }""",
    sizes=N,
)
add_text(
    "non_max_suppression_of_classes",
    """(float[2,n,4] boxes, float[2,3,n] scores) => (int64[u,3] kept) {
      kept = NonMaxSuppression (boxes, scores, most, overlap, least)
    }""",
    {"most": ints(4), "overlap": np.array([0.3], np.float32), "least": np.array([0], np.float32)},
    sizes=N,
    values={"boxes": boxes, "scores": unit},
)
add_text(
    "max_pool_and_back",
    """(float[1,2,8,n] x) => (float[1,2,8,m] y, int64[1,2,4,k] where) {
      pooled, where = MaxPool <kernel_shape = [2,2], strides = [2,2]> (x)
      y = MaxUnpool <kernel_shape = [2,2], strides = [2,2]> (pooled, where)
    }""",
    sizes=({"n": 6}, {"n": 34}),
    values={"x": distinct},
)
add_text(
    "reverse_sequence_of_time",
    """(float[n,3,2] x, int64[3] lengths) => (float[n,3,2] y) {
      y = ReverseSequence <time_axis = 0, batch_axis = 1> (x, lengths)
    }""",
    sizes=N,
    values={"lengths": constant([5, 1, 3])},
)
add_text(
    "running_sums_of_columns",
    """(float[n,37] x) => (float[n,37] y) {
      y = CumSum <reverse = 1, exclusive = 1> (x, axis)
    }""",
    {"axis": np.array(0)},
    sizes=N,
)
add_text(
    "determinants",
    "(float[n,4,4] x) => (float[n] y) { y = Det(x) }",
    sizes=N,
)
add_text(
    "one_hot_of_size",
    """(int64[n] at, float[d] x) => (float[n,d] y) {
      depth = Shape(x)
      y = OneHot(at, depth, values)
    }""",
    {"values": np.array([0.5, 2.0], np.float32)},
    sizes=({"n": 3, "d": 4}, {"n": 20, "d": 9}),
)
