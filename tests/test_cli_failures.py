"""What the command line says and leaves behind when something goes wrong, and how it shows what it
is doing. (What is wrong with models and bundles themselves: test_bad_input.py.)"""

from __future__ import annotations

import io
import json
import os
import pickle
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import lightgbm
import numpy as np
import onnx
import pytest
import torch
import zoo
from PIL import Image
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from torch import nn

from naru import cli, knobs
from naru.cli import crash, group, printing
from naru.cli import progress as shown
from naru.errors import nearest

ROOT = Path(__file__).parent.parent
SECRET = "a secret weight"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with knobs.scope(cache_dir=tmp_path / "cache", workers=0):
        yield


def save(name: str, body: str, weights: dict[str, Any] | None = None) -> Path:
    onnx.save(zoo.text(body, weights), name)
    return Path(name)


@pytest.fixture
def model() -> Path:
    return save("model.onnx", "(float[batch,seq] x) => (float[batch,seq] y) { y = Neg(x) }")


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr)."""
    code = cli.main([str(a) for a in args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """A command of bash in the current folder, where `naru` is this naru."""
    head = f'naru() {{ {shlex.quote(sys.executable)} -m naru "$@"; }}; '
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["bash", "-c", head + command], capture_output=True, text=True, check=False, env=env
    )


# ---- what is nearly right ----


def test_nearest() -> None:
    assert nearest("bathc", ["batch", "seq"]) == "did you mean 'batch'?"
    assert nearest("BATCH", ["batch"]) == "did you mean 'batch'?"
    assert nearest("x", ["batch"]) is None


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("complie", "model.onnx"), group.USAGE, "did you mean 'compile'?"),
        (("frobnicate",), group.USAGE, "the verbs are check, convert, compile, build"),
        (("verify", "model.onnx", "--sampels", "x"), group.USAGE, "--samples"),
        (("verify", "model.onnx", "--dims", "bach=2"), group.USER_ERROR, "did you mean 'batch'?"),
        (("compile", "model.onnx", "--isa", "avx51"), group.USER_ERROR, "did you mean 'avx512'?"),
        (("run", "model.onnx", "-i", "xx=y.npy"), group.USER_ERROR, "there is no input 'xx'"),
        (("compile", "weights.pt"), group.USER_ERROR, "torch.export.save"),
        (("compile", "net.h5"), group.USER_ERROR, "tf2onnx"),
        (("compile", "made.naru"), group.USER_ERROR, "is a bundle already"),
        (("run", "model.onnx", "-i", "text.npy"), group.USER_ERROR, "it is no array of numbers"),
        (("verify", "model.onnx", "--samples", "text.npz"), group.USER_ERROR, "no array of num"),
        (
            ("verify", "model.onnx", "--samples", "good.npz", "--dims", "seq=2"),
            group.USAGE,
            "--samples have sizes of their own",
        ),
        (
            ("verify", "model.onnx", "--dims", "batch=2000000000", "--dims", "seq=2000000000"),
            group.USER_ERROR,
            "not enough memory",
        ),
    ],
)
@pytest.mark.usefixtures("model")
def test_a_message_that_helps(
    capsys: pytest.CaptureFixture[str], args: tuple[str, ...], code: int, message: str
) -> None:
    for name in ("weights.pt", "net.h5", "made.naru", "text.npy", "text.npz"):
        Path(name).write_text("text\n")
    np.savez("good.npz", x=np.ones((2, 2), np.float32))
    before = set(Path().iterdir())
    got, out, err = run(capsys, *args)
    assert got == code, err
    assert not out
    assert message in err
    assert "Traceback" not in err
    assert set(Path().iterdir()) - before <= {Path("cache")}


# ---- JSON ----


@pytest.mark.parametrize(
    ("args", "code", "kind"),
    [
        (("compile", "model.onnx", "--isa", "z80"), group.USER_ERROR, "TargetError"),
        (("run", "model.onnx"), group.USER_ERROR, "InputError"),
        (("verify", "no.onnx"), group.USAGE, "UsageError"),
        (("compile", "unknown.onnx"), group.USER_ERROR, "UnsupportedError"),
    ],
)
@pytest.mark.usefixtures("model")
def test_errors_as_json(
    capsys: pytest.CaptureFixture[str], args: tuple[str, ...], code: int, kind: str
) -> None:
    """The message stays on stderr; stdout holds one document whatever happens."""
    save("unknown.onnx", "(float[4] x) => (float[4] y) { y = Frobnicate(x) }")
    got, out, err = run(capsys, *args, "--json")
    error = json.loads(out)["error"]
    assert got == error["exit_code"] == code
    assert error["kind"] == kind
    assert error["message"].splitlines()[0] in err
    if kind == "UnsupportedError":
        assert "Frobnicate" in error["problems"][0]


def test_run_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    save("model.onnx", "(float[n] x) => (float[n] y) { y = Neg(x) }")
    np.save("x.npy", np.array([1, np.inf, np.nan], np.float32))
    code, out, _ = run(capsys, "run", "model.onnx", "-i", "x.npy", "--json")
    assert code == group.OK
    assert json.loads(out)["outputs"] == [
        {"name": "y", "dtype": "float32", "shape": [3], "values": [-1.0, "-inf", "nan"]}
    ]
    out = run(capsys, "run", "model.onnx", "-i", "x.npy", "-o", "y.npy", "--json")[1]
    assert json.loads(out)["outputs"][0]["file"] == "y.npy"


# ---- bugs of naru ----


def test_a_bug_leaves_a_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {"w": np.frombuffer(SECRET.encode() * 16, np.uint8), "axes": np.array([0])}
    made = zoo.text("(uint8[240] x) => (uint8[240] y) { y = Add(x, w) }", weights)
    made.doc_string = SECRET
    onnx.save(made, "model.onnx")
    monkeypatch.setattr("naru.compiler.compile_bundle", lambda *a, **k: {}["a bug"])
    code, out, err = run(capsys, "compile", "model.onnx", "--json")
    assert code == group.CRASHED
    assert err.startswith("naru: error: this is a bug of naru: KeyError: 'a bug'")
    assert "Traceback" not in err
    (report,) = Path().glob("naru-crash-*.zip")
    assert json.loads(out)["error"]["report"] == str(report.resolve())
    with zipfile.ZipFile(report) as archive:
        parts = {n: archive.read(n).decode() for n in archive.namelist()}
    assert set(parts) == {"traceback.txt", "about.json", "model.onnx.txt"}
    assert "KeyError: 'a bug'" in parts["traceback.txt"]
    about = json.loads(parts["about.json"])
    assert about["arguments"] == ["compile", "model.onnx", "--json"]
    assert about["packages"]["numpy"] == np.__version__
    assert 'op_type: "Add"' in parts["model.onnx.txt"]
    assert SECRET not in parts["model.onnx.txt"]
    with knobs.scope(debug=1):
        assert "Traceback" in run(capsys, "compile", "model.onnx")[2]


def test_weights_anywhere_are_left_out() -> None:
    body = """(float[2] x, bool c) => (float[20] y) {
        k = Constant <value_floats = [1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,
            1.0,1.0,1.0,1.0,1.0]> ()
        y = If (c) <then_branch = a () => (float[20] u) { u = Neg(k) },
                    else_branch = b () => (float[20] v) { v = Identity(k) }> }"""
    made = zoo.text(body, {"few": np.array([7, 8])})
    branch = made.graph.node[-1].attribute[0].g
    branch.initializer.append(onnx.numpy_helper.from_array(np.full(100, 3.0), "deep"))
    crash.strip_weights(made)
    assert len(made.graph.node[0].attribute[0].floats) == crash.MOST_KEPT
    assert not branch.initializer[0].raw_data
    assert made.graph.initializer[0].raw_data, "axes and shapes stay"


def test_a_report_that_finds_no_place(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    def no_place(*_: object) -> None:
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr("naru.compiler.compile_bundle", lambda *a, **k: {}["a bug"])
    monkeypatch.setattr(zipfile, "ZipFile", no_place)
    code, _, err = run(capsys, "compile", model)
    assert code == group.CRASHED
    assert "no crash report could be written" in err


# ---- pipes, disks, Ctrl-C ----


def test_nobody_reads() -> None:
    done = shell("naru ops | head -n 1; echo ${PIPESTATUS[0]} >&2")
    assert done.stdout.count("\n") == 1
    assert done.stderr.strip() in ("0", "1"), "no message"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_stdout_is_full_or_closed() -> None:
    full = shell("naru ops > /dev/full")
    assert (full.returncode, full.stderr) == (1, "naru: error: No space left on device\n")
    closed = shell("naru ops >&-")
    assert (closed.returncode, closed.stderr) == (0, "")


def test_an_output_that_is_cut_short_replaces_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    np.save("x.npy", np.ones((2, 3), np.float32))
    Path("y.npy").write_bytes(b"before")

    def full(file: Any, _: object) -> None:
        file.write(b"half")
        raise OSError(28, os.strerror(28))

    before = set(Path().iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        code, _, err = run(capsys, "run", model, "-i", "x.npy", "-o", "y.npy", "--no-cache")
    assert code == group.USER_ERROR
    assert "y.npy: cannot write it: No space left on device" in err
    assert Path("y.npy").read_bytes() == b"before"
    assert set(Path().iterdir()) == before


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize(
    ("sent", "code", "said"),
    [
        (signal.SIGINT, group.INTERRUPTED, "interrupted"),
        (signal.SIGTERM, group.TERMINATED, ""),
    ],
)
@pytest.mark.parametrize("verb", ["compile", "build"])
def test_ended_while_compiling(verb: str, sent: signal.Signals, code: int, said: str) -> None:
    """Workers end too, and no file is left, whole or half."""
    body = " ".join(f"y{k} = MatMul(x, w{k})" for k in range(12))
    outs = ", ".join(f"float[n,{k + 40}] y{k}" for k in range(12))
    weights = {f"w{k}": np.ones((32, k + 40), np.float32) for k in range(12)}
    save("many.onnx", f"(float[n,32] x) => ({outs}) {{ {body} }}", weights)
    process = subprocess.Popen(
        [sys.executable, "-m", "naru", verb, "many.onnx", "--no-cache"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NARU_WORKERS": "2"},
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers: list[str] = []
    deadline = time.monotonic() + 60
    while len(workers) < 2 and process.poll() is None and time.monotonic() < deadline:
        workers = children.read_text().split()
        time.sleep(0.01)
    assert len(workers) == 2
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.strip() == said
    # (One that had just been started ends when it finds that nobody is there.)
    while any(Path(f"/proc/{w}").exists() for w in workers) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(Path(f"/proc/{w}").exists() for w in workers)
    assert [p.name for p in Path().iterdir()] == ["many.onnx"]


# ---- what is shown meanwhile ----


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=80)
    monkeypatch.setattr(shown, "console", lambda **_: terminal)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(shown, "PATIENCE", 0.0)
    with shown.progress("compiling m.onnx") as tell:
        tell("kernels", 3, 12)
        time.sleep(0.3)
    assert "compiling m.onnx: kernels 3/12" in screen.getvalue()
    screen.truncate(0)
    monkeypatch.setattr(shown, "PATIENCE", 60.0)
    with shown.progress("compiling m.onnx") as tell:
        tell("kernels", 3, 12)
    assert "compiling" not in screen.getvalue(), "what is quick shows nothing"


def test_progress_elsewhere_and_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "PATIENCE", 0.0)
    monkeypatch.setattr(shown, "console", lambda **_: pytest.fail("shows something"))
    with shown.progress("x") as tell:
        tell("kernels", 1, 2)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(printing.output, "quiet", True)
    with shown.progress("x") as tell:
        tell("kernels", 1, 2)


def test_rates_of_a_stage() -> None:
    stages = shown._Stages("compiling m.onnx")
    assert stages.line("import", 0, 1, 0.0) == "compiling m.onnx: import"
    assert stages.line("kernels", 10, 40, 1.0) == "compiling m.onnx: kernels 10/40"
    assert stages.line("kernels", 16, 40, 3.0) == "compiling m.onnx: kernels 16/40, 3.0/s"


def test_stages_have_names(model: Path) -> None:
    from naru.compiler import compile_bundle

    told: list[str] = []
    compile_bundle(model, cache=False, on_progress=lambda stage, done, total: told.append(stage))
    wanted = ["import", "passes", "schedules", "kernels", "golden vector", "bundle"]
    assert list(dict.fromkeys(told)) == wanted


@pytest.mark.parametrize("place", [0, 1])
def test_quiet(capsys: pytest.CaptureFixture[str], model: Path, place: int) -> None:
    args = ["compile", str(model)]
    args.insert(place, "-q")
    assert run(capsys, *args) == (group.OK, "", "")
    assert run(capsys, "verify", model, "-q") == (group.OK, "", "")
    assert "kernel" in run(capsys, "compile", model)[1], "it holds for one run"


def test_color(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    red = click.style("naru: error:", fg="red")
    args = ("compile", model, "--isa", "z80")
    assert run(capsys, *args)[2].startswith("naru: error:")
    assert run(capsys, *args, "--color", "always")[2].startswith(red)
    assert run(capsys, "--color", "always", *args)[2].startswith(red)
    assert run(capsys, *args, "--color", "never")[2].startswith("naru: error:")


def test_colors_of_the_environment() -> None:
    assert knobs.wants_color({}) is None
    assert knobs.wants_color({"NO_COLOR": "1", "FORCE_COLOR": "1"}) is False
    assert knobs.wants_color({"NO_COLOR": ""}) is None
    assert knobs.wants_color({"FORCE_COLOR": "1"}) is True


# ---- the examples of each help ----

# Verbs whose examples measure for a while have tests of their own.
EXAMPLES = [
    line.strip().split("   ")[0]
    for verb in (cli.compile_command, cli.run_command, cli.verify_command, cli.ops_command)
    for line in str(verb.help).splitlines()
    if line.strip().startswith("naru ")
]


def test_there_are_examples() -> None:
    assert len(EXAMPLES) > 10
    for verb in cli.VERBS:
        assert f"naru {verb.name}" in str(verb.help)


def save_foreign_models() -> None:
    """The files of other frameworks that examples name."""
    x, y = np.random.default_rng(0).normal(size=(90, 4)), np.arange(90) % 2
    booster = lightgbm.train({"verbosity": -1}, lightgbm.Dataset(x, y), 2)
    booster.save_model("credit.txt")
    Path("net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(3, 2, 1)\n"
        "    def forward(self, x):\n"
        "        return self.conv(x)\n"
    )
    made = nn.Conv2d(3, 2, 1)
    torch.save({f"conv.{k}": v for k, v in made.state_dict().items()}, "weights.pt")
    torch.export.save(torch.export.export(made, (torch.zeros(1, 3, 4, 4),)), "net.pt2")
    Path("pipeline.pkl").write_bytes(pickle.dumps(LogisticRegression().fit(x, y)))
    np.savez("rows.npz", features=x)


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_of_the_help(
    capsys: pytest.CaptureFixture[str], example: str, model: Path
) -> None:
    x = np.ones((2, 3), np.float32)
    np.save("x.npy", x)
    for name in ("all.npz", "real.npz"):
        np.savez(name, x=x)
    source = model
    if "ids=" in example:
        body = "(float[n,3] ids, float[n,3] mask) => (float[n,3] y) { y = Mul(ids, mask) }"
        source = save("two.onnx", body)
        np.save("ids.npy", x)
        np.save("mask.npy", x)
    pixels = ()
    if "image(" in example or "photo.jpg" in example:
        body = "(float[1,3,8,8] x) => (float[1,3,8,8] y) { y = Identity(x) }"
        source = save("model.onnx", body)
        Image.fromarray(np.zeros((9, 7, 3), np.uint8)).save("photo.jpg")
        pixels = ("--preprocess", "image")
    if "model.onnx" not in example and "model.naru" not in example:
        save_foreign_models()
    if "model.naru" in example:
        assert run(capsys, "compile", source, "-o", "model.naru", *pixels)[0] == group.OK
    code, _, err = run(capsys, *shlex.split(example)[1:])
    assert code == group.OK, err
