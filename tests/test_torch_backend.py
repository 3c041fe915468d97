"""torch.compile with naru behind it, against PyTorch itself."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

import naru.torch_backend
from naru.errors import NaruError, NaruWarning
from naru.torch_backend import naru_backend, register


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.manual_seed(0)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    assert a.dtype == b.dtype
    assert a.is_contiguous()
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def compiled(fn: Any, **options: Any) -> Any:
    return torch.compile(fn, backend=naru_backend, **options)


@torch.no_grad()
def test_module() -> None:
    model = Net().eval()
    fast = compiled(model)
    x = torch.randn(2, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", NaruWarning)
        close(fast(x), model(x))
        y = fast(x)
        z = fast(x + 1)
    close(y, model(x))  # each result has its own memory
    close(z, model(x + 1))
    close(fast(x.permute(0, 1, 3, 2)), model(x.permute(0, 1, 3, 2)))


@torch.no_grad()
def test_weights_that_change() -> None:
    model = Net().eval()
    fast = compiled(model)
    x = torch.randn(1, 3, 8, 8)
    close(fast(x), model(x))
    model.fc.weight.mul_(2)
    assert model.norm.running_mean is not None
    model.norm.running_mean.add_(0.5)
    close(fast(x), model(x))


@torch.no_grad()
def test_weights_that_change_unseen() -> None:
    """What PyTorch does not count as a write: `.data`, numpy, and tensors of inference mode."""
    model = nn.Linear(8, 4)
    fast = compiled(model)
    x = torch.randn(2, 8)
    close(fast(x), model(x))
    model.weight.data.mul_(2)
    close(fast(x), model(x))
    model.bias.data = torch.randn(4)
    close(fast(x), model(x))
    model.bias.numpy()[:] = 7
    close(fast(x), model(x))

    with torch.inference_mode():
        model = nn.Linear(8, 4)
        fast = compiled(model)
        close(fast(x), model(x))
        model.weight.mul_(2)
        close(fast(x), model(x))


@torch.no_grad()
def test_modules_of_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dynamo has one graph for all of them; each is compiled once."""
    made: list[Any] = []
    build = naru.torch_backend.build
    monkeypatch.setattr(
        naru.torch_backend, "build", lambda *a, **k: made.append(a) or build(*a, **k)
    )
    models = [nn.Linear(5, 3) for _ in range(3)]
    fast = [compiled(m) for m in models]
    x = torch.randn(2, 5)
    for _ in range(3):
        for f, m in zip(fast, models, strict=True):
            close(f(x), m(x))
    assert len(made) == 3
    with ThreadPoolExecutor(4) as pool:
        for m, y in zip(
            models * 4, pool.map(torch.no_grad()(lambda f: f(x)), fast * 4), strict=True
        ):
            close(y, m(x))


@torch.no_grad()
def test_results_that_share_memory() -> None:
    def twice(x: torch.Tensor) -> Any:
        y = x + 1
        return y, y.view(-1)

    x = torch.zeros(2, 3)
    with pytest.warns(NaruWarning, match="shares its memory"):
        y, flat = compiled(twice)(x)
    y.add_(1)
    assert flat[0] == 2
    with pytest.warns(NaruWarning, match="shares its memory"):
        turned = compiled(lambda x: x.t())(x)
    turned.add_(1)
    assert x[0, 0] == 1


@torch.no_grad()
def test_sizes_that_change() -> None:
    model = Net().eval()
    fast = compiled(model, dynamic=True)
    for n in (2, 5, 3):
        x = torch.randn(n, 3, 8, 8)
        close(fast(x), model(x))

    fast = compiled(lambda x: (x * x.shape[0]).sum(0) + x.shape[1], dynamic=True)
    for shape in ((2, 3), (4, 5)):
        x = torch.randn(shape)
        close(fast(x), (x * shape[0]).sum(0) + shape[1])


@torch.no_grad()
def test_numbers_that_change() -> None:
    class Scaled(nn.Module):
        by = 0.5

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.by

    model = Scaled()
    fast = compiled(model, dynamic=True)
    x = torch.randn(3, 4)
    for by in (0.5, 1.5, 2.5):
        model.by = by
        close(fast(x), x * by)


@torch.no_grad()
def test_several_results() -> None:
    def f(x: torch.Tensor, half: torch.Tensor) -> Any:
        return {"a": x + 1, "b": (half * 2, None, 3), "same": x}

    x, half = torch.randn(3), torch.randn(2, dtype=torch.bfloat16)
    made = compiled(f)(x, half)
    close(made["a"], x + 1)
    assert torch.equal(made["b"][0], half * 2)
    assert made["b"][1:] == (None, 3)
    assert torch.equal(made["same"], x)


@torch.no_grad()
def test_breaks_in_the_graph() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        y = torch.sin(x)
        if y.sum() > 0:
            return y * 2
        return y - 1

    fast = compiled(f)
    for x in (torch.ones(3), -torch.ones(3)):
        close(fast(x), f(x))


def test_what_is_left_to_pytorch() -> None:
    """One warning, which says why."""
    model = Net().eval()
    x = torch.randn(1, 3, 8, 8)
    with pytest.warns(NaruWarning, match="gradients"):
        y = compiled(model)(x)
    y.sum().backward()
    assert model.fc.weight.grad is not None

    def odd(x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svd(x)[1] + torch.rand(1)

    with torch.no_grad(), pytest.warns(NaruWarning) as caught:
        compiled(odd)(torch.randn(3, 3))
    text = "".join(str(w.message) for w in caught)
    assert "svd" in text
    assert "random" in text


@torch.no_grad()
def test_changed_inputs_are_left_to_pytorch() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        x.add_(1)
        return x * 2

    x = torch.zeros(2)
    with pytest.warns(NaruWarning, match="changes it"):
        y = compiled(f)(x)
    assert torch.equal(y, torch.full((2,), 2.0))
    assert torch.equal(x, torch.ones(2))


@torch.no_grad()
def test_name_and_options() -> None:
    register()
    assert "naru" in torch._dynamo.list_backends(exclude_tags=None)
    x = torch.randn(4)
    fast = torch.compile(torch.sin, backend="naru", options={"precision": "portable"})
    close(fast(x), torch.sin(x))
    with pytest.raises(NaruError, match="found speed"):
        naru_backend(None, [], options={"speed": 1})
