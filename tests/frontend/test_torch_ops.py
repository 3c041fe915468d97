"""ATen operators against PyTorch itself: over dtypes, NaN and infinities, scalars and no elements.

Functions of the same operands are compiled together, each as an output of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch_models import check, check_all

Fns = dict[str, Callable[..., Any]]
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# The dtypes that others stand for run with the slow tests.
SOME = [
    torch.float32,
    torch.float16,
    *(pytest.param(d, marks=pytest.mark.slow) for d in (torch.float64, torch.bfloat16)),
]
TWO = [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)]
INTS = (torch.int64, torch.int32, torch.uint8, torch.int8, torch.bool)
SOME_INTS = [
    torch.int64,
    torch.uint8,
    *(pytest.param(d, marks=pytest.mark.slow) for d in (torch.int32, torch.int8)),
]


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made.to(dtype)


def ints(low: int, high: int, *shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(low, high, shape, generator=generator).to(dtype)


def edges(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    special = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.5, -2.5, 1e-6, -1e-6, 30.0, -30.0, 3.0, -3.0]
    beyond = [float("inf"), float("-inf"), float("nan")]
    return torch.tensor([*special, *beyond], dtype=dtype)


UNARY: Fns = {
    name: getattr(torch, name)
    for name in [
        "abs",
        "acos",
        "acosh",
        "asin",
        "asinh",
        "atan",
        "atanh",
        "ceil",
        "cos",
        "cosh",
        "erf",
        "erfc",
        "exp",
        "exp2",
        "expm1",
        "floor",
        "frac",
        "log",
        "log10",
        "log1p",
        "log2",
        "neg",
        "reciprocal",
        "round",
        "rsqrt",
        "sigmoid",
        "sign",
        "sgn",
        "sin",
        "sinh",
        "sqrt",
        "tan",
        "tanh",
        "trunc",
        "isnan",
        "isinf",
        "isfinite",
        "relu",
        "square",
        "deg2rad",
        "logit",
        "signbit",
        "nan_to_num",
        "positive",
    ]
}
ACTIVATIONS: Fns = {
    "celu": lambda x: F.celu(x, 1.5),
    "clamp": lambda x: torch.clamp(x, -1, 2),
    "clamp_min": lambda x: x.clamp(min=0.25),
    "clamp_max": lambda x: x.clamp(max=0.25),
    "elu": lambda x: F.elu(x, 0.7),
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hardshrink": F.hardshrink,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "hardtanh": lambda x: F.hardtanh(x, -0.3, 0.6),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "logsigmoid": F.logsigmoid,
    "mish": F.mish,
    "relu6": F.relu6,
    "rrelu": F.rrelu,
    "selu": F.selu,
    "silu": F.silu,
    "softplus": F.softplus,
    "softplus2": lambda x: F.softplus(x, 2.0, 5.0),
    "softshrink": lambda x: F.softshrink(x, 0.4),
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "threshold": lambda x: F.threshold(x, 0.1, -7.0),
    "round2": lambda x: torch.round(x, decimals=2),
}


@pytest.mark.parametrize("dtype", SOME, ids=str)
def test_unary(dtype: torch.dtype) -> None:
    loose = 30.0 if dtype in (torch.float16, torch.bfloat16) else 10.0
    check_all(UNARY, edges(dtype), scale=loose)
    check_all(UNARY, randn(3, 5, dtype=dtype), scale=loose)


@pytest.mark.parametrize("dtype", SOME, ids=str)
def test_activations(dtype: torch.dtype) -> None:
    some, x = dict(ACTIVATIONS), edges(dtype)
    # On CPUs with AVX-512 torch's GELU of an infinity is NaN.
    gelus = {name: some.pop(name) for name in list(some) if "gelu" in name}
    check_all(some, x, scale=4)
    check_all(gelus, x[~x.isinf()], scale=4)
    check_all(some | gelus, randn(0, 4, dtype=dtype))


WHOLE = [
    "abs",
    "ceil",
    "floor",
    "neg",
    "sign",
    "sgn",
    "trunc",
    "relu",
    "square",
    "bitwise_not",
    "sqrt",
    "exp",
    "sin",
    "sigmoid",
    "tanh",
    "isnan",
    "isinf",
]


@pytest.mark.parametrize("dtype", SOME_INTS, ids=str)
def test_unary_of_integers(dtype: torch.dtype) -> None:
    x = ints(0 if dtype is torch.uint8 else -5, 9, 4, 5, dtype=dtype)
    check_all({name: getattr(torch, name) for name in WHOLE}, x, scale=4)


PAIRS: Fns = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "div_floor": lambda a, b: torch.div(a, b, rounding_mode="floor"),
    "div_trunc": lambda a, b: torch.div(a, b, rounding_mode="trunc"),
    "floor_divide": torch.floor_divide,
    "remainder": torch.remainder,
    "fmod": torch.fmod,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "fmax": torch.fmax,
    "fmin": torch.fmin,
    "eq": torch.eq,
    "ne": torch.ne,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "add_alpha": lambda a, b: torch.add(a, b, alpha=2),
    "sub_alpha": lambda a, b: torch.sub(a, b, alpha=3),
}
OF_FLOATS: Fns = {
    "atan2": torch.atan2,
    "hypot": torch.hypot,
    "copysign": torch.copysign,
    "pow": lambda a, b: torch.pow(a.abs(), b),
    "lerp": lambda a, b: torch.lerp(a, b, 0.3),
    "lerp2": lambda a, b: torch.lerp(a, b, b),
    "addcmul": lambda a, b: torch.addcmul(a, a, b, value=0.5),
    "addcdiv": lambda a, b: torch.addcdiv(a, a, b, value=0.5),
    "xlogy": lambda a, b: torch.xlogy(a, b.abs()),
    "logaddexp": torch.logaddexp,
    "dist": lambda a, b: (a - b).norm(),
}


@pytest.mark.parametrize("dtype", SOME, ids=str)
def test_pairs_of_floats(dtype: torch.dtype) -> None:
    a, b = randn(4, 1, 5, dtype=dtype), randn(3, 5, seed=1, dtype=dtype)
    check_all({**PAIRS, **OF_FLOATS}, a, b, scale=4)


def test_pairs_of_edges() -> None:
    a = edges()
    finite = {k: v for k, v in PAIRS.items() if k not in ("add_alpha", "sub_alpha")}
    check_all({**finite, "atan2": torch.atan2, "copysign": torch.copysign, "pow": torch.pow},
              a[:, None], a, scale=4)  # fmt: skip


@pytest.mark.parametrize("dtype", SOME_INTS, ids=str)
def test_pairs_of_integers(dtype: torch.dtype) -> None:
    low = 0 if dtype is torch.uint8 else -9
    a = ints(low, 10, 6, 5, dtype=dtype)
    b = torch.where(a.flip(0) == 0, 3, a.flip(0)).to(dtype)
    more: Fns = {
        "and": torch.bitwise_and,
        "or": torch.bitwise_or,
        "xor": torch.bitwise_xor,
        "left": lambda a, b: a << (b & 3),
        "right": lambda a, b: a >> (b & 3),
        "pow": lambda a, b: torch.pow(a, b.abs() if dtype is not torch.uint8 else b),
        "gcd_free": lambda a, b: a * 0 + b,
    }
    check_all({**PAIRS, **more}, a, b)


def test_bools() -> None:
    a, b = ints(0, 2, 7, dtype=torch.bool), ints(0, 2, 5, 1, dtype=torch.bool)
    fns: Fns = {
        "add": torch.add, "mul": torch.mul, "and": lambda a, b: a & b, "or": lambda a, b: a | b,
        "xor": lambda a, b: a ^ b, "not": lambda a, b: ~a, "eq": torch.eq, "lt": torch.lt,
        "max": torch.maximum, "min": torch.minimum, "logical_not": lambda a, b: a.logical_not(),
        "add1": lambda a, b: a + 1, "times": lambda a, b: a * 2.5, "div": torch.div,
        "sum": lambda a, b: a.sum(), "any": lambda a, b: a.any(), "all": lambda a, b: a.all(),
        "cumsum": lambda a, b: a.cumsum(0), "where": lambda a, b: torch.where(a, b, ~b),
    }  # fmt: skip
    check_all(fns, a, b)


@pytest.mark.parametrize("dtype", [*FLOATS, *INTS], ids=str)
def test_numbers_beside_tensors(dtype: torch.dtype) -> None:
    """A Python number takes part in promotion by its kind alone."""
    x = ints(1, 6, 3, 4, dtype=dtype)
    fns: Fns = {
        "add": lambda x: x + 1, "add_f": lambda x: x + 1.5, "mul": lambda x: x * 3,
        "mul_f": lambda x: x * 0.1, "div": lambda x: x / 2, "rdiv": lambda x: 2 / x,
        "eq": lambda x: x == 1, "gt": lambda x: x > 1.5, "pow_f": lambda x: x**0.5,
        "pow_m": lambda x: x.double() ** -2, "rpow": lambda x: 2.0**x,
        "where": lambda x: torch.where(x > 2, x, 0),
        "where_f": lambda x: torch.where(x > 2, x, 0.5),
        "sum_up": lambda x: x + torch.tensor(2), "sum_f": lambda x: x + torch.tensor(2.5),
        "half": lambda x: x + torch.ones(4, dtype=torch.float16),
        "long": lambda x: x * torch.ones(4, dtype=torch.int64),
        "to_f": lambda x: x.float(), "to_i": lambda x: x.long(), "to_b": lambda x: x.bool(),
        "to_h": lambda x: x.to(torch.float16), "rsub": lambda x: 1.5 - x,
    }  # fmt: skip
    if dtype is torch.bool:
        del fns["rsub"]
    else:
        fns |= {
            "sub": lambda x: x - 1, "pow2": lambda x: x**2, "pow3": lambda x: x**3,
            "floor": lambda x: x // 2, "mod": lambda x: x % 2, "floor_f": lambda x: x // 1.5,
            "mod_f": lambda x: x % 1.5, "clamp": lambda x: x.clamp(1, 3),
            "clamp_f": lambda x: x.clamp(1.5, 2.5), "fill": lambda x: x.masked_fill(x > 2, 7),
        }  # fmt: skip
    check_all(fns, x, scale=2)


def test_products_that_count_for_nothing() -> None:
    nan = torch.full((2, 2), float("nan"))
    fns: Fns = {
        "addmm": lambda x, n: torch.addmm(x, n, n, alpha=0),
        "beta": lambda x, n: torch.addmm(x, n, n, alpha=0, beta=2),
        "neither": lambda x, n: torch.addmm(n, n, n, alpha=0, beta=0),
        "addmv": lambda x, n: torch.addmv(x[0], n, n[0], alpha=0),
        "baddbmm": lambda x, n: torch.baddbmm(x[None], n[None], n[None], alpha=0),
    }
    check_all(fns, randn(2, 2), nan)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_floor_division_at_the_ends(dtype: torch.dtype) -> None:
    """Nothing in between may wrap."""
    low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    x = torch.tensor([low, low + 1, low + 2, -4, -1, 0, 1, 5, high - 1, high], dtype=dtype)
    by = [1, 2, 3, -2, -3, 7, -100, high, low]
    fns: Fns = {f"by {d}": lambda x, _, d=d: x // d for d in by}
    fns |= {"tensor": lambda x, d: x[:, None] // d, "mod": lambda x, d: x[:, None] % d}
    check_all(fns, x, torch.tensor(by, dtype=dtype))


REDUCTIONS: Fns = {
    "sum": torch.sum,
    "sum1": lambda x: x.sum(1),
    "sum02": lambda x: x.sum((0, 2), keepdim=True),
    "sum_dtype": lambda x: x.sum(0, dtype=torch.float64),
    "mean": lambda x: x.mean((0, -1)),
    "mean_all": torch.mean,
    "prod": lambda x: x.prod(1),
    "prod_all": torch.prod,
    "amax": lambda x: x.amax((1, 2)),
    "amin": lambda x: x.amin(0, keepdim=True),
    "max": torch.max,
    "min": torch.min,
    "max1": lambda x: torch.max(x, 1),
    "min2": lambda x: torch.min(x, 2, keepdim=True),
    "argmax": torch.argmax,
    "argmin1": lambda x: x.argmin(1),
    "argmax2": lambda x: x.argmax(2, keepdim=True),
    "any": lambda x: (x > 1).any(),
    "all1": lambda x: (x > -1).all(1),
    "any_f": lambda x: x.any(0),
    "var": lambda x: x.var(1),
    "var_all": lambda x: x.var(correction=0),
    "var2": lambda x: x.var((1, 2), correction=2, keepdim=True),
    "std": lambda x: x.std(-1),
    "var_mean": lambda x: torch.var_mean(x, 1),
    "std_mean": lambda x: torch.std_mean(x, 1),
    "logsumexp": lambda x: x.logsumexp((0, 1)),
    "softmax": lambda x: x.softmax(1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "softmin": lambda x: F.softmin(x, 0),
    "norm": lambda x: x.norm(dim=1),
    "norm1": lambda x: x.norm(1, dim=(0, 1)),
    "norm3": lambda x: torch.linalg.vector_norm(x, 3, dim=2),
    "norm_inf": lambda x: torch.linalg.vector_norm(x, float("inf")),
    "norm_0": lambda x: torch.linalg.vector_norm(x, 0, dim=1),
    "normalize": lambda x: F.normalize(x, dim=1),
    "cumsum": lambda x: x.cumsum(1),
    "cumprod": lambda x: x.cumprod(2),
    "cummax": lambda x: x.cummax(2),
    "cummin": lambda x: x.cummin(1),
    "count_nonzero": lambda x: (x > 0).count_nonzero(1),
    "nansum": lambda x: x.nansum(1),
    "aminmax": lambda x: torch.aminmax(x, dim=1),
}


@pytest.mark.parametrize("dtype", SOME, ids=str)
def test_reductions(dtype: torch.dtype) -> None:
    skip = () if dtype in (torch.float32, torch.float64) else ("norm3", "prod_all", "cumprod")
    fns = {k: v for k, v in REDUCTIONS.items() if k not in skip}
    check_all(fns, randn(3, 4, 5, dtype=dtype), scale=3)


def test_reductions_of_nan() -> None:
    x = randn(3, 4, 5)
    x[1, 2, 3] = float("nan")
    x[0, 0] = float("inf")
    x[2, 1] = float("-inf")
    more: Fns = {"median": lambda x: x.median(), "median1": lambda x: x.median(1, keepdim=True)}
    names = "sum1 amax amin max min max1 min2 argmax argmax2 softmax logsumexp cummax cummin nansum"
    check_all({**more, **{n: REDUCTIONS[n] for n in names.split()}}, x)


def test_reductions_of_integers() -> None:
    x = ints(-4, 5, 3, 4, 5, dtype=torch.int32)
    names = "sum sum1 prod amax amin max1 min2 argmin1 any_f cumsum sum_dtype"
    check_all({n: REDUCTIONS[n] for n in names.split()}, x)


def test_reductions_of_nothing() -> None:
    x = randn(0, 3)
    fns: Fns = {
        "sum": lambda x: x.sum(0), "prod": lambda x: x.prod(0), "mean": lambda x: x.mean(0),
        "sum1": lambda x: x.sum(1), "softmax": lambda x: x.softmax(1), "any": lambda x: x.any(),
        "all": lambda x: x.all(), "cumsum": lambda x: x.cumsum(0), "amax": lambda x: x.amax(1),
    }  # fmt: skip
    check_all(fns, x)


MOVES: Fns = {
    "view": lambda x: x.view(6, 20),
    "reshape": lambda x: x.transpose(0, 2).reshape(-1),
    "flatten": lambda x: x.flatten(1),
    "unflatten": lambda x: x.unflatten(2, (2, 2)),
    "permute": lambda x: x.permute(2, 0, 3, 1),
    "t": lambda x: x[0, 0].t(),
    "mT": lambda x: x.mT,
    "movedim": lambda x: x.movedim(0, 2),
    "swap": lambda x: x.swapaxes(1, 3),
    "squeeze": lambda x: x[:1].squeeze(0),
    "unsqueeze": lambda x: x.unsqueeze(-1),
    "expand": lambda x: x[:, :1].expand(-1, 7, -1, -1),
    "repeat": lambda x: x.repeat(2, 1, 1, 2),
    "repeat_more": lambda x: x[0, 0].repeat(2, 3, 1),
    "tile": lambda x: x.tile((2,)),
    "interleave": lambda x: x.repeat_interleave(3, 1),
    "slice": lambda x: x[:, 1:, ::2, -3:],
    "select": lambda x: x[1, -1],
    "ellipsis": lambda x: x[..., None, 1],
    "narrow": lambda x: x.narrow(2, 1, 2),
    "chunk": lambda x: x.chunk(2, 3),
    "split": lambda x: x.split(2, 3),
    "split_sizes": lambda x: x.split([1, 3, 1], -1),
    "unbind": lambda x: x.unbind(1),
    "cat": lambda x: torch.cat([x, x * 2, x[:1]], 0),
    "stack": lambda x: torch.stack([x, x], 1),
    "hstack": lambda x: torch.hstack([x, x]),
    "flip": lambda x: x.flip(1, 3),
    "fliplr": lambda x: x.fliplr(),
    "rot90": lambda x: x.rot90(1, (2, 3)),
    "roll": lambda x: x.roll(2, 3),
    "roll_flat": lambda x: x.roll(7),
    "roll_two": lambda x: x.roll((1, -2), (0, 3)),
    "pad": lambda x: F.pad(x, (1, 2, 0, 1), value=1.5),
    "crop": lambda x: F.pad(x, (-1, -1)),
    "reflect": lambda x: F.pad(x, (1, 2, 1, 0), mode="reflect"),
    "replicate": lambda x: F.pad(x, (2, 1, 0, 3), mode="replicate"),
    "circular": lambda x: F.pad(x, (1, 2, 2, 1), mode="circular"),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x.reshape(2, 4, 3, 5).repeat(1, 2, 1, 1), 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x[..., :4], 2),
    "channel_shuffle": lambda x: F.channel_shuffle(x.reshape(2, 6, 2, 5), 3),
    "unfold": lambda x: x.unfold(3, 3, 2),
    "F_unfold": lambda x: F.unfold(x, (2, 3), padding=1, stride=(2, 1)),
    "fold": lambda x: F.fold(F.unfold(x, 2), (4, 5), 2),
    "diagonal": lambda x: x.diagonal(1, 2, 3),
    "diag": lambda x: torch.diag(x[0, 0, 0]),
    "diag_embed": lambda x: torch.diag_embed(x[0, 0], 1),
    "tril": lambda x: x.tril(),
    "triu": lambda x: x.triu(1),
    "trace": lambda x: x[0, 0].trace(),
    "as_strided": lambda x: x.as_strided((3, 4), (2, 5), 1),
    "clone": lambda x: x.clone().contiguous(),
    "meshgrid": lambda x: torch.meshgrid(x[0, 0, 0], x[0, 0, :, 0], indexing="ij"),
    "meshgrid_xy": lambda x: torch.meshgrid(x[0, 0, 0], x[0, 0, :, 0], indexing="xy"),
    "block_diag": lambda x: torch.block_diag(x[0, 0], x[1, 0]),
    "cartesian": lambda x: torch.cartesian_prod(x[0, 0, 0], x[0, 0, 1]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64], ids=str)
def test_moves(dtype: torch.dtype) -> None:
    skip = () if dtype is torch.float32 else ("fold", "F_unfold", "pad")
    fns = {k: v for k, v in MOVES.items() if k not in skip}
    check_all(fns, (randn(2, 3, 4, 5) * 9).to(dtype))


def _written(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, 1] = 5
    y[0, 0, :2] += 1
    y[..., ::2] *= 3
    y[1].diagonal().fill_(7)
    y.mul_(2).relu_()
    return y


MADE: Fns = {
    "zeros": lambda x: torch.zeros(2, 3) + x.sum(),
    "ones_like": torch.ones_like,
    "full": lambda x: torch.full((2,), 1.5) * x[0, 0, 0],
    "full_like": lambda x: torch.full_like(x, -2),
    "new": lambda x: x.new_full((3,), 4) + x.new_zeros(3) + x.new_ones(3),
    "arange": lambda x: torch.arange(5) + x[0, 0, 0].long(),
    "arange_f": lambda x: torch.arange(0.5, 3.0, 0.25) * x[0, 0, 0],
    "linspace": lambda x: torch.linspace(-1, 2, 7) + x[0, 0, 0],
    "logspace": lambda x: torch.logspace(0, 2, 3) + x[0, 0, 0],
    "eye": lambda x: torch.eye(3, 4) * x[0, 0, 0],
    "tril_indices": lambda x: torch.tril_indices(3, 4) + x[0, 0, 0].long(),
    "triu_indices": lambda x: torch.triu_indices(3, 3, 1) + x[0, 0, 0].long(),
    "tensor": lambda x: x * torch.tensor([[1.0], [2.0], [3.0]]),
    "written": _written,
    "hann": lambda x: torch.hann_window(8) * x[0, 0, 0],
    "vander": lambda x: torch.vander(x[0, 0], 3),
    "scalar": lambda x: torch.scalar_tensor(3.0) * x,
    "empty": lambda x: torch.empty(2, 0) + x.sum(),
}


def test_made_and_written() -> None:
    check_all(MADE, randn(2, 3, 3))


INDEXING: Fns = {
    "gather": lambda x, i, m: x.gather(1, i.expand(4, 3)),
    "index_select": lambda x, i, m: x.index_select(0, i),
    "take": lambda x, i, m: x.take(i * 3),
    "take_along": lambda x, i, m: torch.take_along_dim(x, i[None] % 5, 1),
    "index": lambda x, i, m: x[i],
    "index1": lambda x, i, m: x[:, i],
    "index2": lambda x, i, m: x[i, i + 1],
    "index_apart": lambda x, i, m: x[None].expand(3, 4, 5)[i % 3, :, i],
    "index_grid": lambda x, i, m: x[i[:, None], i[None]],
    "index_minus": lambda x, i, m: x[-i - 1, -1],
    "scatter": lambda x, i, m: x.scatter(1, i.expand(4, 3), x * 2),
    "scatter_value": lambda x, i, m: x.scatter(0, i[:, None].expand(3, 5), 9.0),
    "scatter_add": lambda x, i, m: x.scatter_add(1, (i % 2).expand(4, 3), x),
    "reduce_sum": lambda x, i, m: x.scatter_reduce(1, (i % 2).expand(4, 3), x, "sum"),
    "reduce_mean": lambda x, i, m: x.scatter_reduce(1, (i % 2).expand(4, 3), x, "mean"),
    "reduce_mean_new": lambda x, i, m: x.scatter_reduce(
        1, (i % 2).expand(4, 3), x, "mean", include_self=False
    ),
    "reduce_amax": lambda x, i, m: x.scatter_reduce(
        1, (i % 2).expand(4, 3), x, "amax", include_self=False
    ),
    "reduce_prod": lambda x, i, m: x.scatter_reduce(1, i.expand(4, 3), x, "prod"),
    "index_add": lambda x, i, m: x.index_add(0, i % 2, x[:3], alpha=2),
    "index_copy": lambda x, i, m: x.index_copy(1, i, x[:, :3]),
    "index_fill": lambda x, i, m: x.index_fill(1, i, 4.0),
    "index_put": lambda x, i, m: x.index_put((i, i), x[0, :3]),
    "index_put_row": lambda x, i, m: x.index_put((i,), torch.zeros(5)),
    "index_put_add": lambda x, i, m: x.index_put((i % 2,), x[:3], accumulate=True),
    "index_put_axis1": lambda x, i, m: _put(x, i),
    "masked_fill": lambda x, i, m: x.masked_fill(m, -1.5),
    "masked_assign": lambda x, i, m: _assign(x, m),
    "masked_scatter": lambda x, i, m: x.masked_scatter(m, x.flip(0)),
    "where": lambda x, i, m: torch.where(m, x, x * 2),
    "one_hot": lambda x, i, m: F.one_hot(i, 6),
    "embedding": lambda x, i, m: F.embedding(i, x),
    "topk": lambda x, i, m: x.topk(3, 1),
    "topk_small": lambda x, i, m: x.topk(2, 0, largest=False),
    "sort": lambda x, i, m: x.sort(1),
    "sort_down": lambda x, i, m: x.sort(dim=0, descending=True, stable=True),
    "sort_stable": lambda x, i, m: x.sort(dim=1, stable=True),
    "argsort": lambda x, i, m: x.argsort(1),
    "msort": lambda x, i, m: x.msort(),
    "kthvalue": lambda x, i, m: x.kthvalue(2, 1),
    "median": lambda x, i, m: x.median(),
    "median1": lambda x, i, m: x.median(1),
    "median_int": lambda x, i, m: i.median(),
    "bucketize": lambda x, i, m: torch.bucketize(x, torch.tensor([-1.0, 0.0, 0.5])),
    "searchsorted": lambda x, i, m: torch.searchsorted(
        x.sort(1)[0], x[:, :2].contiguous(), right=True
    ),
    "isin": lambda x, i, m: torch.isin(i, torch.tensor([0, 2])),
    "tensor_split": lambda x, i, m: x.tensor_split(3, 1),
    "bag": lambda x, i, m: F.embedding_bag(i, x, torch.tensor([0, 2, 2])),
    "bag_sum": lambda x, i, m: F.embedding_bag(i[None].expand(2, 3), x, mode="sum"),
    "bag_max": lambda x, i, m: F.embedding_bag(i[None].expand(2, 3), x, mode="max"),
    "bag_weights": lambda x, i, m: F.embedding_bag(
        i, x, torch.tensor([0, 1]), mode="sum", per_sample_weights=x[0, :3]
    ),
}


def _put(x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, i] = x[:, :3] * 2
    return y


def _assign(x: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[m] = 3.0
    y[m[:, 0]] += 1.0
    return y


def test_indexing() -> None:
    check_all(INDEXING, randn(4, 5), torch.tensor([2, 0, 3]), ints(0, 2, 4, 5, dtype=torch.bool))


def test_order_of_nan() -> None:
    x = edges().repeat(2, 1)
    check_all({n: INDEXING[n] for n in ("topk_small", "bucketize", "sort_stable")}, x,
              torch.tensor([0]), torch.zeros(1, dtype=torch.bool))  # fmt: skip


def test_what_data_size() -> None:
    """Results whose size only running tells."""
    x, m = randn(4, 5), ints(0, 2, 4, 5, dtype=torch.bool)
    check(lambda x, m: x[m], x, m)
    check(lambda x, m: torch.masked_select(x, m) * 2, x, m)
    check(lambda x, m: m.nonzero(), x, m)
    check(lambda x, m: x[m[:, 0]].sum(1), x, m)


PRODUCTS: Fns = {
    "mm": lambda a, b, c: a[0] @ b[0],
    "bmm": lambda a, b, c: torch.bmm(a, b),
    "matmul": lambda a, b, c: a @ b,
    "matmul_1": lambda a, b, c: a @ c,
    "matmul_2": lambda a, b, c: c @ b,
    "dot": lambda a, b, c: c @ c,
    "mv": lambda a, b, c: torch.mv(a[0], c),
    "outer": lambda a, b, c: torch.outer(c, c),
    "addmm": lambda a, b, c: torch.addmm(a[0, :1, :1], a[0], b[0], beta=0.5, alpha=2),
    "baddbmm": lambda a, b, c: torch.baddbmm(a[:, :1, :1], a, b),
    "linear": lambda a, b, c: F.linear(a, b[0].t(), b[0, 0]),
    "linear1": lambda a, b, c: F.linear(a, c),
    "einsum": lambda a, b, c: torch.einsum("bij,bjk->bki", a, b),
    "einsum2": lambda a, b, c: torch.einsum("bij,j,bjk->k", a, c, b),
    "einsum3": lambda a, b, c: torch.einsum("...i,...i->...", a, a),
    "tensordot": lambda a, b, c: torch.tensordot(a[0], b[0], 1),
    "bilinear": lambda a, b, c: F.bilinear(a[0], a[1], torch.ones(2, 4, 4), torch.ones(2)),
    "cosine": lambda a, b, c: F.cosine_similarity(a, a.flip(0), dim=2),
    "cdist": lambda a, b, c: torch.cdist(a, a.flip(0)),
    "pdist": lambda a, b, c: F.pdist(a[0]),
    "cdist1": lambda a, b, c: torch.cdist(a, a[:, :2], p=1),
    "pairwise": lambda a, b, c: F.pairwise_distance(a[0], a[1]),
    "kron": lambda a, b, c: torch.kron(a[0], b[0]),
    "cross": lambda a, b, c: torch.linalg.cross(a[..., :3], a[..., 1:]),
    "chain": lambda a, b, c: torch.linalg.multi_dot([a[0], b[0], b[0].t()]),
    "power": lambda a, b, c: torch.linalg.matrix_power(a[0, :3, :3], 3),
    "det": lambda a, b, c: torch.linalg.det(a[:, :3, :3]),
    "inner": lambda a, b, c: torch.inner(a[0], c),
}


@pytest.mark.parametrize("dtype", TWO, ids=str)
def test_products(dtype: torch.dtype) -> None:
    skip = ("bilinear",) if dtype is torch.float64 else ()
    fns = {k: v for k, v in PRODUCTS.items() if k not in skip}
    check_all(fns, randn(2, 3, 4, dtype=dtype), randn(2, 4, 5, seed=1, dtype=dtype),
              randn(4, seed=2, dtype=dtype))  # fmt: skip


CONVOLUTIONS: Fns = {
    "conv1d": lambda x, w: F.conv1d(x[:, :, 0], w[:, :, 0], w[:, 0, 0, 0], padding=1, stride=2),
    "conv1d_single": lambda x, w: F.conv1d(x[0, :, 0], w[:, :, 0]),
    "conv2d": lambda x, w: F.conv2d(x, w, padding=(1, 2), dilation=(1, 2)),
    "same": lambda x, w: F.conv2d(x, w, padding="same", dilation=2),
    "valid": lambda x, w: F.conv2d(x, w, padding="valid", stride=(2, 1)),
    "groups": lambda x, w: F.conv2d(x, w[:, :2], groups=2, padding=1),
    "depthwise": lambda x, w: F.conv2d(x, w[:4, :1], groups=4, padding=1),
    "conv3d": lambda x, w: F.conv3d(x[:, None], w[:, None, :2], padding=1),
    "transposed": lambda x, w: F.conv_transpose2d(x, w.transpose(0, 1), stride=2, padding=1),
    "transposed_more": lambda x, w: F.conv_transpose2d(
        x, w.transpose(0, 1), w[:, 0, 0, 0], stride=(2, 3), output_padding=(1, 2), dilation=(1, 2)
    ),
    "transposed_groups": lambda x, w: F.conv_transpose2d(x, w[:4], groups=2),
    "transposed1": lambda x, w: F.conv_transpose1d(x[:, :, 0], w[:4, :, 0], stride=3),
    "transposed3": lambda x, w: F.conv_transpose3d(x[:, None], w[None, :1, :2]),
    "max_pool": lambda x, w: F.max_pool2d(x, 3, 2, 1),
    "max_pool_ceil": lambda x, w: F.max_pool2d(x, 2, ceil_mode=True, dilation=2),
    "max_pool1": lambda x, w: F.max_pool1d(x[:, :, 0], 3),
    "max_pool3": lambda x, w: F.max_pool3d(x, (2, 3, 2), padding=(1, 1, 0)),
    "max_places": lambda x, w: F.max_pool2d(x, 2, return_indices=True),
    "unpool": lambda x, w: F.max_unpool2d(
        *F.max_pool2d(x, 2, return_indices=True), [2, 2], output_size=[7, 9]
    ),
    "avg_pool": lambda x, w: F.avg_pool2d(x, 3, 2, 1),
    "avg_pool_without": lambda x, w: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "avg_pool_ceil": lambda x, w: F.avg_pool2d(x, 3, 2, ceil_mode=True, divisor_override=5),
    "avg_pool1": lambda x, w: F.avg_pool1d(x[:, :, 0], 2),
    "avg_pool3": lambda x, w: F.avg_pool3d(x, 2),
    "lp_pool": lambda x, w: F.lp_pool2d(x, 2.0, 2),
    "adaptive1": lambda x, w: F.adaptive_avg_pool2d(x, 1),
    "adaptive": lambda x, w: F.adaptive_avg_pool2d(x, (3, 2)),
    "adaptive_keep": lambda x, w: F.adaptive_avg_pool2d(x, (None, 4)),
    "adaptive_1d": lambda x, w: F.adaptive_avg_pool1d(x[:, :, 0], 5),
    "adaptive_3d": lambda x, w: F.adaptive_avg_pool3d(x, (2, 3, 3)),
    "adaptive_max": lambda x, w: F.adaptive_max_pool2d(x, (4, 3)),
    "adaptive_max1": lambda x, w: F.adaptive_max_pool1d(x[:, :, 0], 3),
    "local": lambda x, w: F.local_response_norm(x, 3),
}


@pytest.mark.parametrize("dtype", TWO, ids=str)
def test_convolutions(dtype: torch.dtype) -> None:
    check_all(CONVOLUTIONS, randn(2, 4, 7, 9, dtype=dtype), randn(6, 4, 3, 3, seed=1, dtype=dtype))


RESAMPLED: Fns = {
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "nearest_size": lambda x: F.interpolate(x, size=(7, 3)),
    "nearest_part": lambda x: F.interpolate(x, scale_factor=(1.7, 0.6)),
    "nearest_exact": lambda x: F.interpolate(x, size=(7, 3), mode="nearest-exact"),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bilinear_part": lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"),
    "bilinear_again": lambda x: F.interpolate(
        x, scale_factor=1.7, mode="bilinear", recompute_scale_factor=True
    ),
    "bilinear_align": lambda x: F.interpolate(x, (8, 3), mode="bilinear", align_corners=True),
    "bicubic": lambda x: F.interpolate(x, (9, 4), mode="bicubic"),
    "bicubic_align": lambda x: F.interpolate(x, (9, 4), mode="bicubic", align_corners=True),
    "bilinear_aa": lambda x: F.interpolate(x, (3, 3), mode="bilinear", antialias=True),
    "bicubic_aa": lambda x: F.interpolate(x, (3, 9), mode="bicubic", antialias=True),
    "area": lambda x: F.interpolate(x, (3, 2), mode="area"),
    "linear": lambda x: F.interpolate(x[:, :, 0], 11, mode="linear"),
    "nearest1": lambda x: F.interpolate(x[:, :, 0], 4),
    "trilinear": lambda x: F.interpolate(x[:, None], (4, 6, 7), mode="trilinear"),
    "nearest3": lambda x: F.interpolate(x[:, None], (4, 6, 7)),
    "one": lambda x: F.interpolate(x, (1, 1), mode="bilinear"),
}


def test_resampling() -> None:
    check_all(RESAMPLED, randn(2, 3, 5, 6), scale=2)


def test_resampling_of_bytes() -> None:
    names = ("nearest", "nearest_size", "nearest_exact")
    check_all({n: RESAMPLED[n] for n in names}, ints(0, 255, 1, 3, 5, 6, dtype=torch.uint8))


GRIDS: Fns = {
    f"{mode}_{padding}_{align}": lambda x, g, m=mode, p=padding, a=align: F.grid_sample(
        x, g, mode=m, padding_mode=p, align_corners=a
    )
    for mode in ("bilinear", "nearest", "bicubic")
    for padding in ("zeros", "border", "reflection")
    for align in (True, False)
}


def test_grids() -> None:
    more: Fns = {
        "affine": lambda x, g: F.grid_sample(
            x, F.affine_grid(torch.tensor([[[0.5, 0.2, 0], [-0.2, 0.6, 0.1]]]).expand(2, 2, 3),
                             [2, 3, 4, 4], align_corners=False), align_corners=False),
    }  # fmt: skip
    check_all({**GRIDS, **more}, randn(2, 3, 5, 6), randn(2, 4, 3, 2, seed=1) * 0.7, scale=4)


NORMS: Fns = {
    "layer": lambda x, w: F.layer_norm(x, (8,), w, w),
    "layer_plain": lambda x, w: F.layer_norm(x, (6, 8)),
    "rms": lambda x, w: F.rms_norm(x, (8,), w),
    "rms_plain": lambda x, w: F.rms_norm(x, (8,), eps=1e-3),
    "group": lambda x, w: F.group_norm(x, 2, w[:6], w[:6]),
    "group_plain": lambda x, w: F.group_norm(x, 3),
    "instance": lambda x, w: F.instance_norm(x, weight=w[:6], bias=w[:6]),
    "batch": lambda x, w: F.batch_norm(x, w[:6], w[:6].abs(), w[:6], w[:6]),
    "batch_stats": lambda x, w: F.batch_norm(x, None, None, training=True),
}


@pytest.mark.parametrize("dtype", TWO, ids=str)
def test_norms(dtype: torch.dtype) -> None:
    check_all(NORMS, randn(3, 6, 8, dtype=dtype), randn(8, seed=1, dtype=dtype), scale=5)


ATTENTION: Fns = {
    "plain": lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v),
    "scale": lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, scale=0.3),
    "causal": lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "bias": lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, q[..., :7]),
    "mask": lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m),
    "three": lambda q, k, v, m: F.scaled_dot_product_attention(q[0], k[0], v[0], m[0, 0]),
    "three_mask": lambda q, k, v, m: F.scaled_dot_product_attention(
        q[0], k[0], v[0], m[0, :1].expand(4, 5, 7)
    ),
    "two": lambda q, k, v, m: F.scaled_dot_product_attention(q[0, 0], k[0, 0], v[0, 0]),
    "shared": lambda q, k, v, m: F.scaled_dot_product_attention(
        q, k[:, :2], v[:, :2], enable_gqa=True
    ),
    "one_kv": lambda q, k, v, m: F.scaled_dot_product_attention(q, k[:, :1], v[:, :1]),
}


def test_attention() -> None:
    m = ints(0, 2, 2, 1, 5, 7, dtype=torch.bool)
    m[0, 0, 1] = False  # a query that sees nothing
    check_all(ATTENTION, randn(2, 4, 5, 8), randn(2, 4, 7, 8, seed=1), randn(2, 4, 7, 8, seed=2), m)
