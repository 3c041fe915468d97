"""Programs of PyTorch run nothing while they are loaded: texts in them are looked at first."""

from __future__ import annotations

import json
import os
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from naru.errors import ModelError
from naru.frontend import torch_files, torch_safety
from naru.frontend.torch_files import load_program, load_script
from naru.frontend.torch_safety import program_problem, script_problem


class Sized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"a-b": nn.Linear(4, 4)})
        self.register_buffer("größe", torch.ones(1))

    def forward(self, x: torch.Tensor, *, options: Any) -> Any:
        n = x.shape[0]
        y = self.parts["a-b"](x) + self.größe
        return {
            "a b": y.reshape(n * 4)[: n * 2],
            "c": torch.einsum("ij,kj->ik", x, options["m n"]),
            "d": torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: -x, (x,)),
            "e": nn.functional.interpolate(x[None, None], scale_factor=1.5),
        }


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("safety") / "sized.pt2"
    shapes = {"x": {0: torch.export.Dim("n", min=3)}, "options": {"m n": None}}
    args, named = (torch.ones(6, 4),), {"options": {"m n": torch.ones(2, 4)}}
    made = torch.export.export(Sized().eval(), args, named, dynamic_shapes=shapes)
    torch.export.save(made, path)
    return path


def test_what_torch_writes_is_loaded(program: Path) -> None:
    assert load_program(program, "sized.pt2") is not None


def changed(old: Path, new: Path, change: Callable[[str, bytes], bytes]) -> None:
    with zipfile.ZipFile(old) as a, zipfile.ZipFile(new, "w") as b:
        for name in a.namelist():
            b.writestr(name, change(name, a.read(name)))


def _model(value: Any, key: str, text: Any) -> bool:
    """Puts a text under the first such key."""
    if isinstance(value, dict):
        if key in value:
            value[key] = text
            return True
        return any(_model(v, key, text) for v in value.values())
    return isinstance(value, list) and any(_model(v, key, text) for v in value)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("expr_str", "__import__('os').mkdir(MADE)"),
        ("expr_str", "Max(1, \"__import__('os').mkdir(MADE)\")"),
        ("expr_str", "open(MADE, 'w')"),
        ("guards_code", ["__import__('os').mkdir(MADE) is None"]),
        ("guards_code", ["L['x\"); __import__(\"os\").mkdir(MADE)#'] == 1"]),
        ("target", "torch.save"),
        ("target", "torch.hub.load"),
        ("target", "torch.ops.load_library"),
        ("target", "torch.ops.aten.from_file.default"),
        ("target", "math.__class__"),
        ("target", "_operator.methodcaller"),
        ("name", "x=__import__('os').mkdir(MADE)"),
        ("in_spec", '[1, {"type": "collections.defaultdict", "context": {"default_factory_module":'
         ' "evil", "default_factory_name": "f", "dict_context": []}, "children_spec": []}]'),
        ("out_spec", '[1, {"type": "builtins.dict", "context": "[{\\"__enum__\\": true, \\"fqn\\":'
         ' \\"evil:f\\", \\"name\\": \\"x\\"}]", "children_spec": []}]'),
    ],
)  # fmt: skip
def test_texts_that_would_run(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, text: Any
) -> None:
    made, path = tmp_path / "made", tmp_path / "evil.pt2"
    text = json.loads(json.dumps(text).replace("MADE", json.dumps(repr(str(made)))[1:-1]))
    (tmp_path / "evil.py").write_text(f"open({str(made)!r}, 'w')\nf = dict\n")
    monkeypatch.syspath_prepend(tmp_path)

    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return data
        record = json.loads(data)
        assert _model(record, key, text)
        return json.dumps(record).encode()

    changed(program, path, change)
    with pytest.raises(ModelError, match="would be run") as caught:
        load_program(path, "evil.pt2")
    assert "if you know who wrote it" in str(caught.value)
    assert not made.exists()


def test_members_by_other_cases(program: Path, tmp_path: Path) -> None:
    path = tmp_path / "evil.pt2"
    changed(program, path, lambda _, data: data)
    with zipfile.ZipFile(path, "a") as z:
        z.writestr(z.namelist()[0].partition("/")[0] + "/data/constants/OPAQUE_obj_0", b"x")
    with pytest.raises(ModelError, match="would be run"):
        load_program(path, "evil.pt2")
    with zipfile.ZipFile(path, "w") as z:
        z.writestr(torch_safety.OLD, "{}")
    with pytest.raises(ModelError, match=r"before PyTorch 2\.8"):
        load_program(path, "evil.pt2")


@pytest.mark.parametrize(
    "guard",
    ["L['x'].size()[0] % 4 == 0", "2 <= L['x'].size()[1]", "L['y']['k'].stride()[0] != 1",
     "L['n'] == 3 and not (L['f'] == math.inf)", "math.isnan(L['v'])"],
)  # fmt: skip
def test_guards_that_torch_writes(guard: str) -> None:
    assert program_problem(json.dumps({"guards_code": [guard]}).encode()) is None


def test_no_json() -> None:
    for data in (b"{", b"\xff", b"[" * 100_000, b'{"expr_str": "' + b"(" * 10_000 + b'"}'):
        assert program_problem(data) is not None


def test_threads_keep_the_setting() -> None:
    """While any thread loads, pickles are restricted."""
    seen: list[str | None] = []

    def load(pause: float) -> None:
        with torch_files._weights_only():
            time.sleep(pause)
            seen.append(os.environ.get(torch_files.WEIGHTS_ONLY))

    before = os.environ.get(torch_files.WEIGHTS_ONLY)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(load, [0.01, 0.03, 0.02, 0.0]))
    assert seen == ["1"] * 4
    assert os.environ.get(torch_files.WEIGHTS_ONLY) == before


# --- TorchScript ----------------------------------------------------------------------------------


class Writes(nn.Module):
    """Writes a file when it is restored."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path: str = path

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return (self.path, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = state[1]
        torch.save(torch.ones(1), self.path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_scripts_that_write_files(tmp_path: Path) -> None:
    made, path = tmp_path / "made", tmp_path / "evil.pt"
    torch.jit.save(torch.jit.script(Writes(str(made))), path)
    with pytest.raises(ModelError, match="more than compute: 'save' in code/") as caught:
        load_script(path, "evil.pt")
    assert "torch.jit.load it and pass the module, if you know who" in str(caught.value)
    assert not made.exists()
    torch.jit.load(path)
    assert made.exists()  # it would have


@pytest.mark.parametrize(
    "code",
    ["t = torch\nt.save(x)", "torch . # c\n save(x)", "ops.evil.f(x)", "o = ops", "ops.\\\nevil.f",
     "getattr(torch, 'sa\\x76e')", "getattr(torch, name)", "g = getattr", "torch.from_file(x)",
     "x : __torch__.torch.classes.dist_c10d.FileStore"],
)  # fmt: skip
def test_names_of_scripts(code: str) -> None:
    assert script_problem(code)


def test_plain_scripts() -> None:
    code = "y = torch.add(x, 1)\nz = ops.prim.NumToTensor(n)\nw = ops.aten.relu(self.ops)\n"
    assert script_problem(code + 'v = getattr(self.parts, "a-b")\n') is None
