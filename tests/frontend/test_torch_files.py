"""Files of PyTorch: programs, TorchScript, checkpoints; and what is refused, with all there is to
say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_models
from safetensors.torch import save_file
from torch import nn
from torch_models import compile_graph, run

import naru
from naru.errors import InputError, ModelError, NaruError, NaruWarning, UnsupportedError
from naru.frontend.reading import Reading
from naru.frontend.source import open_source
from naru.frontend.torch_checkpoints import load_checkpoint
from naru.frontend.torch_files import torch_kind
from naru.frontend.torch_program import is_torch, read_torch

SCRIPT = "ignore:(`torch.jit|Converting a tensor to a Python).*"


class Small(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        if y.size(2) > 3:
            y = y * 2
        return self.fc(y.mean((2, 3)))


@pytest.fixture
def model() -> Small:
    torch.manual_seed(1)
    return Small().eval()


X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
DIMS = {"x": {0: "batch"}}


def same(graph: Any, model: nn.Module, x: torch.Tensor) -> None:
    (got,) = run(compile_graph(graph), (x,))
    torch_models.assert_same(got, model(x).detach())


def head(path: Path) -> bytes:
    return path.read_bytes()[:16]


def read_torch_file(source: Path | bytes, example: Any = None, dynamic_shapes: Any = None) -> Any:
    return open_source(source, Reading(example, dynamic_shapes))


def test_program(tmp_path: Path, model: Small) -> None:
    path = tmp_path / "small.pt2"
    program = torch.export.export(model, (X,), dynamic_shapes={"x": {0: torch.export.Dim("n")}})
    torch.export.save(program, path)
    assert torch_kind(head(path), path) == "pt2"
    graph = read_torch_file(path)
    assert graph.name == "small"
    assert [n.attr("name") for n in graph.inputs] == ["x"]
    same(graph, model, torch.cat([X, X]))
    graph = read_torch(program)
    assert [d.name for d in graph.symbols] == ["n"]
    same(graph, model, X)
    with pytest.raises(InputError, match="it says all itself"):
        read_torch_file(path, X)


@pytest.mark.filterwarnings(SCRIPT)
@pytest.mark.parametrize("how", ["trace", "script"])
def test_torchscript(tmp_path: Path, model: Small, how: str) -> None:
    made = torch.jit.trace(model, X) if how == "trace" else torch.jit.script(model)
    path = tmp_path / "small.pt"
    torch.jit.save(made, path)
    assert torch_kind(head(path), path) == "TorchScript"
    assert torch_kind(head(path), path.read_bytes()) == "TorchScript"
    same(read_torch_file(path.read_bytes(), X), model, X)
    # Code that asks for a size fixes all of them: TorchScript has numbers there.
    if how == "trace":
        graph = read_torch_file(path, X, dynamic_shapes=DIMS)
        assert [d.name for d in graph.symbols] == ["batch"]
        same(graph, model, torch.cat([X, X]))
    else:
        with pytest.raises(ModelError, match="specialized it"):
            read_torch_file(path, X, dynamic_shapes=DIMS)
    with pytest.raises(InputError, match="example"):
        read_torch_file(path)


@pytest.mark.filterwarnings(SCRIPT)
def test_torchscript_in_training_mode(model: Small) -> None:
    with pytest.raises(InputError, match="training mode"):
        read_torch(torch.jit.script(model.train()), X)


def test_kinds(tmp_path: Path, model: Small) -> None:
    torch.save(model.state_dict(), a := tmp_path / "a.pt")
    torch.save(model.state_dict(), b := tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    save_file(model.state_dict(), c := tmp_path / "c.safetensors")
    assert [torch_kind(head(p), p) for p in (a, b)] == ["checkpoint"] * 2
    assert torch_kind(head(c), c) == "safetensors"
    for data in (b"", b"tree\nversion=v3\n", b"\x08\x08\x12\x07pytorch1234567", b"PK\x03\x04rest"):
        assert torch_kind(data, data) is None
    with pytest.raises(InputError, match="weights and no program"):
        read_torch_file(a)
    program = "from naru.frontend.torch_files import torch_kind; import sys; "
    program += f"torch_kind(b'PK\\x03\\x04', {str(a)!r}); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


# --- checkpoints ----------------------------------------------------------------------------------


def test_checkpoint(tmp_path: Path, model: Small) -> None:
    path = tmp_path / "w.pt"
    torch.save(model.state_dict(), path)
    loaded = load_checkpoint(path, Small)
    assert not loaded.steps
    assert not loaded.module.training
    same(read_torch(loaded.module, X), model, X)


def test_wrappers(tmp_path: Path, model: Small) -> None:
    path = tmp_path / "w.pt"
    state = {f"module._orig_mod.{k}": v for k, v in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}}, path)
    loaded = load_checkpoint(path, f"{__name__}:Small" if __name__ in sys.modules else Small)
    assert loaded.left_out == ("epoch", "optimizer")
    assert len(loaded.steps) == 3
    assert all(a in " ".join(loaded.steps) for a in ("'state_dict'", "'module.'", "'_orig_mod.'"))
    assert torch.equal(loaded.module(X), model(X))


def test_what_modules_save_beside_weights(tmp_path: Path) -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"scale": 2.0}

        def set_extra_state(self, state: Any) -> None:
            pass

    state = Extra(3, 2).state_dict()
    torch.save(state, with_extra := tmp_path / "with.pt")
    torch.save(nn.Linear(3, 2).state_dict(), without := tmp_path / "without.pt")
    torch.save(dict(state, _extra_state=torch.ones(5)), tensor := tmp_path / "tensor.pt")
    for path in (with_extra, without, tensor):
        for kind in (Extra, nn.Linear):
            load_checkpoint(path, kind, arguments={"in_features": 3, "out_features": 2})


def test_safetensors(tmp_path: Path, model: Small) -> None:
    path = tmp_path / "w.safetensors"
    save_file({k: v.to(torch.float16) if v.is_floating_point() else v
               for k, v in model.state_dict().items()}, path)  # fmt: skip
    loaded = load_checkpoint(path, Small, arguments={"width": 8})
    assert loaded.steps == ("weights cast: float16 -> float32",)


def test_all_that_does_not_fit(tmp_path: Path, model: Small) -> None:
    state = dict(model.state_dict())
    state["extra"] = state.pop("fc.bias")
    path = tmp_path / "w.pt"
    torch.save(state, path)
    with pytest.raises(ModelError) as caught:
        load_checkpoint(path, Small, arguments={"width": 4})
    text = str(caught.value)
    assert "1 missing: fc.bias" in text
    assert "1 not expected: extra" in text
    assert "conv.weight: [4, 3, 3, 3] expected, [8, 3, 3, 3] found" in text


def test_weights_of_two_names(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
            self.out.weight = self.embed.weight

    made = Tied()
    path = tmp_path / "w.safetensors"
    save_file({"embed.weight": made.embed.weight.detach()}, path)
    loaded = load_checkpoint(path, Tied)
    assert torch.equal(loaded.module.out.weight, made.embed.weight)


def test_pickles_are_not_trusted(tmp_path: Path, model: Small) -> None:
    path = tmp_path / "whole.pt"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(ModelError, match=r"any code(.|\n)*torch.nn.modules.linear.Linear"):
        load_checkpoint(path, Small)
    trusted = ["torch.nn.modules.linear.Linear"]
    loaded = load_checkpoint(path, nn.Linear, arguments={"in_features": 2, "out_features": 2},
                             trust=trusted)  # fmt: skip
    assert loaded.steps == ("a whole module",)
    loaded = load_checkpoint(path, nn.Linear, arguments={"in_features": 2, "out_features": 2},
                             trust=True)  # fmt: skip
    assert loaded.steps == ("a whole module",)
    with pytest.raises(ModelError, match=r"trust_pickle=True \(--trust-pickle\)"):
        load_checkpoint(path, nn.Linear)
    with pytest.raises(ModelError, match="other than tensors"):  # before it asks for the class
        naru.compile(path)
    with pytest.raises(InputError, match="a list of names"):
        load_checkpoint(path, nn.Linear, trust="torch.nn.Linear")


class Evil:
    def __reduce__(self) -> Any:
        return print, ("it ran",)


@pytest.mark.parametrize("new", [True, False])
def test_no_advice_to_run_what_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], new: bool
) -> None:
    path = tmp_path / "w.pt"
    torch.save({"w": torch.zeros(1), "x": Evil()}, path, _use_new_zipfile_serialization=new)
    with pytest.raises(ModelError, match="other than tensors") as caught:
        load_checkpoint(path, Small)
    assert "weights_only" not in str(caught.value)
    assert "builtins.print']" not in str(caught.value)
    assert "it ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("nowhere.at_all:Net", "cannot be found"),
        ("torch.nn", "package.module:Class"),
        ("torch.nn:Linear", "cannot be made"),
        ("torch:zeros", "cannot be made"),
        (3, "expected a class"),
    ],
)
def test_no_such_module(tmp_path: Path, module: Any, message: str) -> None:
    torch.save({"weight": torch.zeros(1)}, path := tmp_path / "w.pt")
    with pytest.raises(InputError, match=message):
        load_checkpoint(path, module)


def test_damaged_files(tmp_path: Path, model: Small) -> None:
    torch.save(model.state_dict(), path := tmp_path / "w.pt")
    data = path.read_bytes()
    for cut in (0, 3, 100, len(data) // 2):
        path.write_bytes(data[:cut])
        with pytest.raises(ModelError):
            load_checkpoint(path, Small)
        with pytest.raises(NaruError):
            naru.compile(path, cache=False)
    with pytest.raises(ModelError, match=r"cannot be read|no such file"):
        naru.compile(tmp_path / "none.pt", cache=False)
    torch.save([1, 2], path)
    with pytest.raises(ModelError, match="state dict"):
        load_checkpoint(path, Small)


# --- what is refused ------------------------------------------------------------------------------


def test_what_is_torch(model: Small) -> None:
    assert is_torch(model)
    assert is_torch(torch.export.export(model, (X,)))
    assert not is_torch(np.zeros(1))
    assert not is_torch("model.onnx")


def test_training_mode_is_restored(model: Small) -> None:
    model.train()
    model.conv.eval()
    before = {n: m.training for n, m in model.named_modules()}
    with pytest.warns(UserWarning, match="training mode"):
        graph = read_torch(model, X)
    assert {n: m.training for n, m in model.named_modules()} == before
    model.eval()
    same(graph, model, X)


def test_all_operators_are_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.noise = nn.Dropout()

        def forward(self, x: torch.Tensor) -> Any:
            return torch.linalg.svd(x)[1], torch.rand_like(x), torch.fft.fft(x).abs()

    with pytest.raises(UnsupportedError) as caught:
        read_torch(Odd().eval(), torch.randn(3, 3))
    assert len(caught.value.problems) >= 3
    text = str(caught.value)
    assert "random numbers" in text
    assert "svd" in text


def test_what_running_changes() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count += 1
            x.add_(1)
            return x * self.count

    with pytest.raises(UnsupportedError) as caught:
        read_torch(Counter().eval(), torch.zeros(2))
    assert "buffer 'count'" in str(caught.value)
    assert "input 'x'" in str(caught.value)


def test_a_choice_by_data(capsys: pytest.CaptureFixture[str]) -> None:
    class Chooses(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ModelError, match=r"torch\.where"):
        read_torch(Chooses().eval(), torch.zeros(2))
    assert "def forward" not in capsys.readouterr().err


def test_operands_of_two_dtypes() -> None:
    class Product(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.matmul(x, y)

    with pytest.raises(UnsupportedError, match=r"f32 and f64; try: x\.float\(\)"):
        read_torch(Product().eval(), (torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.float64)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "example"),
        ({"example": (X, X)}, "does not fit"),
        ({"example": X, "dynamic_shapes": {"y": {0: "n"}}}, "found y"),
        ({"example": X, "dynamic_shapes": {"x": {0: "a b"}}}, "identifier"),
        ({"example": X, "dynamic_shapes": ({5: "b"},)}, r"4 dims \(0 to 3\), found 5"),
        ({"example": X, "dynamic_shapes": {"x": {-1: "b"}}}, "found -1"),
        ({"example": X, "dynamic_shapes": {"x": ("b", None)}}, "expected 4 sizes.*found 2"),
    ],
)
def test_wrong_arguments(model: Small, arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_torch(model, **arguments)
    with pytest.raises(InputError, match=r"nn\.Module"):
        read_torch("model", X)


def test_names(model: Small) -> None:
    class Nested(nn.Module):
        def forward(self, pair: Any, *, options: Any, scale: float = 2.0) -> Any:
            return {"sum": pair[0] + pair[1], "both": [options["mask"] * scale, pair[0] * 1]}

    args = ((torch.ones(2), torch.ones(2)),)
    graph = read_torch(Nested().eval(), args, kwargs={"options": {"mask": torch.ones(3)}})
    assert [n.attr("name") for n in graph.inputs] == ["pair.0", "pair.1", "options.mask"]
    assert graph.output_names == ("sum", "both.0", "both.1")
    graph = read_torch(model, X)
    assert graph.output_names == ("output",)
    assert {"conv", "norm", "fc"} <= set(graph.operators)
    assert graph.operators["conv"] == "conv2d"


def test_a_mapping_as_example() -> None:
    """Inputs are in the order of forward()'s arguments, whatever the mapping's."""

    class Both(nn.Module):
        def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return first - second

    graph = read_torch(Both().eval(), {"second": torch.zeros(3), "first": torch.zeros(3)})
    assert [n.attr("name") for n in graph.inputs] == ["first", "second"]


def test_limits_of_sizes_are_told() -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if x.shape[0] > 3 else x + 1

    model, x = Branches().eval(), torch.zeros(2, 3)
    with pytest.warns(NaruWarning, match=r"n in 0\.\.3"):
        read_torch(model, x, dynamic_shapes={"x": {0: "n"}})
    dim = torch.export.Dim("n", max=3)
    (n,) = read_torch(model, x, dynamic_shapes={"x": {0: dim}}).symbols
    assert n.hi == 3


def test_sizes_as_numbers() -> None:
    class Sized(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            n = x.shape[0]
            return x * n + x.shape[1] ** -0.5, torch.arange(n) * 2, torch.ones(n * 2 + 1) * (n // 2)

    torch_models.check_module(
        Sized().eval(), (torch.randn(4, 9),), (torch.randn(7, 3),),
        dynamic={"x": {0: "rows", 1: "columns"}},
    )  # fmt: skip


def test_cond() -> None:
    class Chooses(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: -x, (x,))[..., :2]

    model = Chooses().eval()
    torch_models.check_module(model, (torch.ones(3, 4),), (-torch.ones(3, 4),))


def test_inputs_that_nothing_reads() -> None:
    class Passes(nn.Module):
        def forward(self, x: torch.Tensor, unused: torch.Tensor) -> Any:
            return x, torch.arange(3), x

    torch_models.check_module(Passes().eval(), (torch.ones(2), torch.ones(3)))
