"""Random networks and random chains of operators against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch_models import assert_same, compile_graph, flat, run

from naru.frontend.torch_program import read_torch

Draw = Callable[[Any], Any]
SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True}

ACTIVATIONS = [
    nn.ReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.ELU, nn.Tanh, nn.Sigmoid, nn.Mish, nn.Softplus,
    nn.LeakyReLU, nn.Hardsigmoid, nn.Softsign, nn.ReLU6, nn.CELU, nn.SELU, nn.LogSigmoid,
]  # fmt: skip


def image_layer(draw: Draw, c: int, h: int, w: int) -> nn.Module:
    """A layer that takes [N, c, h, w]."""
    kind = draw(
        st.sampled_from(["conv", "transposed", "pool", "norm", "act", "up", "pad", "shuffle"])
    )
    if kind == "conv":
        k = draw(st.integers(1, min(3, h, w)))
        groups = draw(st.sampled_from([g for g in (1, 2, c) if c % g == 0]))
        out = groups * draw(st.integers(1, 3))
        padding: Any = draw(st.sampled_from([0, 1, k // 2]))
        return nn.Conv2d(c, out, k, draw(st.integers(1, 2)), padding, groups=groups,
                         bias=draw(st.booleans()))  # fmt: skip
    if kind == "transposed":
        return nn.ConvTranspose2d(c, draw(st.integers(1, 4)), 2, draw(st.integers(1, 2)))
    if kind == "pool":
        k = draw(st.integers(1, min(3, h, w)))
        pool = draw(st.sampled_from([nn.MaxPool2d, nn.AvgPool2d]))
        if draw(st.booleans()):
            size = draw(st.integers(1, 3)), draw(st.integers(1, 3))
            return draw(st.sampled_from([nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d]))(size)
        return pool(k, draw(st.integers(1, 2)), draw(st.integers(0, k // 2)),
                    ceil_mode=draw(st.booleans()))  # fmt: skip
    if kind == "norm":
        return draw(st.sampled_from([nn.BatchNorm2d(c), nn.GroupNorm(1, c), nn.LayerNorm([c, h, w]),
                                     nn.InstanceNorm2d(c, affine=True) if h * w > 1 else
                                     nn.BatchNorm2d(c)]))  # fmt: skip
    if kind == "up":
        mode = draw(st.sampled_from(["nearest", "bilinear", "bicubic"]))
        return nn.Upsample(scale_factor=draw(st.sampled_from([2, 1.5])), mode=mode)
    if kind == "pad":
        return draw(st.sampled_from([nn.ZeroPad2d(1), nn.ReplicationPad2d((1, 0, 2, 1))]))
    if kind == "shuffle":
        return nn.PixelShuffle(2) if c % 4 == 0 else nn.Identity()
    return draw(st.sampled_from(ACTIVATIONS))()


@st.composite
def networks(draw: Draw) -> tuple[nn.Module, torch.Tensor]:
    seed = draw(st.integers(0, 1000))
    torch.manual_seed(seed)
    x = torch.randn(draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(3, 8)),
                    draw(st.integers(3, 8)))  # fmt: skip
    y, layers = x, list[nn.Module]()
    for _ in range(draw(st.integers(1, 5))):
        layer = image_layer(draw, *y.shape[1:]).eval()
        with torch.no_grad():
            made = layer(y)
        if 0 < made.numel() < 20_000 and made.shape[1] <= 12:
            layers.append(layer)
            y = made
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(y[0].numel(), 3)).eval(), x


def compare(module: nn.Module, args: tuple[torch.Tensor, ...], **more: Any) -> None:
    with torch.no_grad():
        wanted = flat(module(*args))
    made = run(compile_graph(read_torch(module, args, **more)), args)
    assert len(made) == len(wanted)
    for got, want in zip(made, wanted, strict=True):
        assert_same(got, want, 20)


@settings(max_examples=8, **SETTINGS)
@given(networks())
def test_networks(case: tuple[nn.Module, torch.Tensor]) -> None:
    compare(case[0], (case[1],))


@pytest.mark.slow
@settings(max_examples=80, **SETTINGS)
@given(networks())
def test_many_networks(case: tuple[nn.Module, torch.Tensor]) -> None:
    compare(case[0], (case[1],))


# --- chains of operators --------------------------------------------------------------------------

ONE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "flip": lambda x: x.flip(-1),
    "roll": lambda x: x.roll(1, 0),
    "t": lambda x: x.transpose(0, -1),
    "sum": lambda x: x.sum(-1, keepdim=True),
    "cumsum": lambda x: x.cumsum(0),
    "softmax": lambda x: x.float().softmax(-1),
    "max": lambda x: x.amax(0, keepdim=True),
    "argmax": lambda x: x.argmax(-1, keepdim=True),
    "half": lambda x: x / 2,
    "floor": lambda x: torch.floor_divide(x, 3) if x.dtype != torch.bool else x,
    "mod": lambda x: torch.remainder(x, 3) if x.dtype != torch.bool else x,
    "clamp": lambda x: x.clamp(-1, 2) if x.dtype != torch.bool else x,
    "relu": lambda x: torch.relu(x) if x.dtype != torch.bool else x,
    "greater": lambda x: x > 0,
    "long": lambda x: x.nan_to_num().clamp(-1e6, 1e6).long() if x.is_floating_point() else x.long(),
    "int8": lambda x: x.nan_to_num().clamp(-100, 100).to(torch.int8),
    "double": lambda x: x.double(),
    "flat": lambda x: x.reshape(-1, x.shape[-1]),
    "new": lambda x: x[None],
    "stride": lambda x: x[..., ::2],
    "last": lambda x: x[-1:],
    "pad": lambda x: F.pad(x, (1, 2)),
    "repeat": lambda x: x.repeat_interleave(2, 0),
    "sort": lambda x: x.sort(dim=-1, stable=True)[0] if x.dtype != torch.bool else x,
    "tril": lambda x: x.tril() if x.dim() > 1 else x,
    "neg": lambda x: -x if x.dtype not in (torch.bool, torch.uint8) else ~x,
}
TWO: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": torch.add,
    "mul": torch.mul,
    "max": torch.maximum,
    "div": lambda a, b: a / (b.abs() + 1 if b.dtype != torch.bool else b + 1),
    "eq": torch.eq,
    "lt": torch.lt,
    "where": lambda a, b: torch.where(a > b, a, b),
    "and": torch.logical_and,
}


class Chain(nn.Module):
    def __init__(self, steps: list[tuple[str, int, int]]) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        values = [x]
        for name, a, b in self.steps:
            if name in ONE:
                made = ONE[name](values[a % len(values)])
            else:
                left, right = values[a % len(values)], values[b % len(values)]
                try:
                    torch.broadcast_shapes(left.shape, right.shape)
                except RuntimeError:
                    continue
                made = TWO[name.removeprefix("2")](left, right)
            if made.numel() <= 4000 and made.dim() <= 5:
                values.append(made)
        return values[1:] or [x * 1]


DTYPES = [
    torch.float32,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.int8,
    torch.bool,
]
STEP = st.tuples(
    st.sampled_from([*ONE, *(f"2{n}" for n in TWO)]), st.integers(0, 9), st.integers(0, 9)
)


@st.composite
def chains(draw: Draw) -> tuple[nn.Module, torch.Tensor]:
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 12, shape)
    x = torch.from_numpy(values).to(draw(st.sampled_from(DTYPES)))
    return Chain(draw(st.lists(STEP, min_size=1, max_size=7))).eval(), x


@settings(max_examples=12, **SETTINGS)
@given(chains())
def test_chains(case: tuple[nn.Module, torch.Tensor]) -> None:
    compare(case[0], (case[1],))


@pytest.mark.slow
@settings(max_examples=150, **SETTINGS)
@given(chains())
def test_many_chains(case: tuple[nn.Module, torch.Tensor]) -> None:
    compare(case[0], (case[1],))
