"""What the tests of the PyTorch front end share: compile a module, run it, compare with PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from naru.compiler import choose_target
from naru.frontend.torch_library import to_numpy
from naru.frontend.torch_program import read_torch
from naru.ir.graph import Graph
from naru.options import Options
from naru.pipeline import build
from naru.runtime.model import Model
from naru.runtime.session import open_model


def compile_graph(graph: Graph) -> Model:
    return open_model(build(graph, Options(choose_target(None)), tested=False))


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, fn: Any) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, *args: Any) -> Any:
        return self.fn(*args)


def flat(value: Any) -> list[torch.Tensor]:
    """Tensors of a nested result."""
    return [t for t in tree_leaves(value) if isinstance(t, torch.Tensor)]


TOLERANCES = {torch.float32: 2e-5, torch.float64: 1e-9, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def assert_same(got: np.ndarray, want: torch.Tensor, scale: float = 1.0) -> None:
    expected = to_numpy(want)
    assert got.dtype == expected.dtype, (got.dtype, expected.dtype)
    assert got.shape == expected.shape, (got.shape, expected.shape)
    if want.dtype in TOLERANCES and expected.size:
        a, b = got.astype(np.float64), expected.astype(np.float64)
        near = TOLERANCES[want.dtype] * scale
        finite = b[np.isfinite(b)]
        size = max(1.0, float(np.abs(finite).max())) if finite.size else 1.0
        np.testing.assert_allclose(a, b, rtol=near, atol=near * min(size, 1e4))
    else:
        np.testing.assert_array_equal(got, expected)


def run(model: Model, args: Sequence[torch.Tensor]) -> list[np.ndarray]:
    made = model(*[to_numpy(a) for a in args])
    if isinstance(made, Mapping):
        return [np.asarray(made[k]) for k in made]
    return [np.asarray(m) for m in made] if isinstance(made, tuple | list) else [np.asarray(made)]


def check_module(
    module: nn.Module,
    args: Sequence[Any],
    *others: Sequence[Any],
    dynamic: Any = None,
    scale: float = 1.0,
    **kwargs: Any,
) -> Model:
    """Compiles a module for an example and compares, on it and on further operands."""
    graph = read_torch(module, tuple(args), kwargs=kwargs or None, dynamic_shapes=dynamic)
    model = compile_graph(graph)
    for given in (args, *others):
        with torch.no_grad():
            want = flat(module(*given, **kwargs))
        got = run(model, flat((list(given), kwargs)))
        assert len(got) == len(want)
        for a, b in zip(got, want, strict=True):
            assert_same(a, b, scale)
    return model


def check(fn: Any, *args: Any, **more: Any) -> Model:
    return check_module(Function(fn).eval(), args, **more)


class Named(nn.Module):
    """Functions of the same operands, each an output of its own."""

    def __init__(self, fns: Mapping[str, Any]) -> None:
        super().__init__()
        self.fns = dict(fns)

    def forward(self, *args: Any) -> dict[str, Any]:
        return {name: fn(*args) for name, fn in self.fns.items()}


def check_all(fns: Mapping[str, Any], *args: torch.Tensor, scale: float = 1.0) -> None:
    """Functions of the same operands, compiled together; all that differ are named."""
    module = Named(fns).eval()
    with torch.no_grad():
        wanted = module(*args)
    graph = read_torch(module, args)
    made = run(compile_graph(graph), args)
    wrong: list[str] = []
    for name, got in zip(graph.output_names, made, strict=True):
        head, _, rest = name.partition(".")
        want = wanted[head][int(rest)] if rest else wanted[head]
        try:
            assert_same(got, want, scale)
        except AssertionError as error:
            wrong.append(f"{name}: {str(error).strip()[:600]}")
    assert not wrong, "\n".join(wrong)
