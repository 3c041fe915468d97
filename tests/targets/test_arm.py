"""Whole models on AArch64, under QEMU: every case of the zoo, a sample of the standard's own tests,
three networks. What comes out is compared with a reference, and with what the code for x86-64 gives
in this process: precision `strict` means the same bits wherever multiply-adds are fused.
"""

from __future__ import annotations

import re
import subprocess
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import zoo

from models.catalog import MODELS, Feed
from naru.artifact.bundle import Bundle
from naru.building import build as build_library
from naru.dtypes import is_float_array
from naru.errors import NaruWarning
from naru.frontend.onnx import read_onnx
from naru.library.toolchain import find_toolchain
from naru.ops.evaluate import evaluate
from naru.options import Options
from naru.pipeline import build
from naru.runtime.native_model import NativeModel
from naru.targets import TARGETS
from tests.codegen.native import runnable
from tests.targets.arm import Arm, ArmModel
from tests.targets.machine import need
from tests.test_models import assert_close
from tools import operator_cases

pytestmark = pytest.mark.slow
DEMO = Path(__file__).resolve().parents[2] / "naru" / "demo"
X86 = "x86-64-avx2"
# A CPU that QEMU knows for each target, with as little more as there is.
CPUS = {"aarch64-neon": "cortex-a57", "aarch64-dotprod": "neoverse-n1", "aarch64-i8mm": "max"}
LEVELS = ("aarch64-dotprod", "aarch64-i8mm")
# Cases in which more features may make a difference: small integers and narrow floats.
MORE = [
    n for n in zoo.CASES if re.match(r"cast_|.*(quanti|integer|qlinear|bits)|transformer|tiny", n)
]
EVERY = 8  # of the standard's tests one in so many is run
PARTS = 4  # in which they are run


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arm]:
    with Arm(tmp_path_factory.mktemp("arm"), CPUS["aarch64-neon"]) as machine:
        yield machine


@pytest.fixture(scope="module", params=LEVELS)
def level(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Arm]]:
    """A target with more features than NEON, and a machine that has them."""
    with Arm(tmp_path_factory.mktemp("arm"), CPUS[request.param]) as machine:
        yield request.param, machine


def compiled(source: bytes, target: str, precision: str = "strict") -> Bundle:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NaruWarning)
        return build(source, Options(TARGETS[target], precision), tested=False)


def run_both(
    arm: Arm, source: bytes, feeds: Sequence[Any], target: str = "aarch64-neon"
) -> list[tuple[np.ndarray, ...]]:
    """The outputs on AArch64 for each feed (by position or by name), which have the bits of those
    on x86-64."""
    runnable(X86)
    there, here = ArmModel(arm, compiled(source, target)), NativeModel(compiled(source, X86))
    seed = {t.name: np.int64(0) for t in here.inputs if t.optional}
    results: list[tuple[np.ndarray, ...]] = []
    for feed in feeds:
        args, names = ((), feed) if isinstance(feed, Mapping) else (feed, {})
        got, same = there(*args, **names, **seed), here(*args, **names, **seed)
        same = same if isinstance(same, tuple) else (same,)
        for x, y in zip(got, same, strict=True):
            assert (x.dtype, x.shape) == (y.dtype, y.shape)
            assert x.tobytes() == y.tobytes() or is_nan_alike(x, y), f"{x} is not {y}"
        results.append(got)
    there.close()
    return results


def is_nan_alike(x: np.ndarray, y: np.ndarray) -> bool:
    """The same bits but for NaNs, whose sign and payload differ between CPUs."""
    if x.dtype.kind not in "fV":
        return False
    nan = np.isnan(x.astype(np.float64))
    a, b = (np.where(nan, 0, v.view(f"u{v.itemsize}")) for v in (x, y))
    return np.array_equal(nan, np.isnan(y.astype(np.float64))) and np.array_equal(a, b)


# ---- the zoo ----


@pytest.mark.parametrize("name", zoo.CASES)
def test_zoo(name: str, arm: Arm) -> None:
    case = zoo.CASES[name]
    source, feeds = case.model().SerializeToString(), list(case.feeds())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NaruWarning)
        graph = read_onnx(source)
    for feed, got in zip(feeds, run_both(arm, source, feeds), strict=True):
        want = evaluate(graph, [feed[str(n.attr("name"))] for n in graph.inputs])
        for k, (g, w) in enumerate(zip(got, want, strict=True)):
            assert_close(g, np.asarray(w), case.tolerance, f"output {k}")


@pytest.mark.parametrize("name", MORE)
def test_levels(name: str, level: tuple[str, Arm]) -> None:
    target, arm = level
    case = zoo.CASES[name]
    run_both(arm, case.model().SerializeToString(), list(case.feeds()), target)


@pytest.mark.parametrize("name", ["tiny_resnet", "transformer_pre_norm", "lstm_wide", "unary_gelu"])
def test_portable(name: str, arm: Arm) -> None:
    """Precision `portable`: the bits of a CPU that fuses nothing."""
    case = zoo.CASES[name]
    source = case.model().SerializeToString()
    baseline = runnable("x86-64-baseline").name
    there = ArmModel(arm, compiled(source, "aarch64-neon", "portable"))
    here = NativeModel(compiled(source, baseline, "portable"))
    for feed in case.feeds():
        want = here(**feed)
        for x, y in zip(there(**feed), want if isinstance(want, tuple) else (want,), strict=True):
            np.testing.assert_array_equal(x, y)
    there.close()


# ---- the standard's own tests ----


def node_tests() -> list[operator_cases.Case]:
    """One in EVERY, without those that are compositions of other operators."""
    found = [c for c in operator_cases.all_cases() if c.name.startswith("node/")]
    return found[::EVERY]


@pytest.mark.parametrize("part", range(PARTS))
def test_standard(part: int, arm: Arm) -> None:
    """Those that need texts or sequences run on the host, in Python, and are left out."""
    ran, failed = 0, []
    for case in node_tests()[part::PARTS]:
        try:
            ran += check_standard(case, arm)
        except AssertionError as error:
            failed.append(f"{case.name}: {error}")
    assert not failed, "\n".join(failed)
    assert ran > 150 // PARTS


def check_standard(case: operator_cases.Case, arm: Arm) -> bool:
    """False where the model is not native as a whole."""
    source = case.model.SerializeToString()
    if "host" in compiled(source, "aarch64-neon").manifest.get("needs", ()):
        return False
    (got,) = run_both(arm, source, [case.inputs])
    graph = read_onnx(source)
    want = evaluate(graph, [*case.inputs, *[np.array(0)] * (len(graph.inputs) - len(case.inputs))])
    for k, (g, w) in enumerate(zip(got, map(np.asarray, want), strict=True)):
        narrow = is_float_array(w.dtype) and w.itemsize < 4
        rounding = float(ml_dtypes.finfo(w.dtype).eps) if narrow else 1e-5
        assert_close(g, w, rounding, f"output {k}")
    return True


# ---- networks ----


def digits() -> tuple[Path, Feed]:
    images = np.load(DEMO / "digits_test.npz")["images"][:5] / np.float32(16)
    return DEMO / "digits_cnn.onnx", {"image": images.astype(np.float32).reshape(-1, 1, 8, 8)}


def named(name: str, **sizes: int) -> tuple[Path, Feed]:
    (feed,) = MODELS[name].feeds(1, **sizes)
    return MODELS[name].path(), feed


NETWORKS = {
    "digits_cnn": digits,
    "mobilenet_v2": lambda: named("mobilenet_v2"),
    "minilm_l6": lambda: named("minilm_l6", sequence=17),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_network(name: str, arm: Arm) -> None:
    path, feed = NETWORKS[name]()
    source = path.read_bytes()
    (got,) = run_both(arm, source, [feed])
    graph = read_onnx(source)
    want = evaluate(graph, [feed[str(n.attr("name"))] for n in graph.inputs], float64=True)
    for g, w in zip(got, want, strict=True):
        difference = g.astype(np.float64) - w
        error = np.sqrt(np.mean(difference**2) / np.mean(np.square(w, dtype=np.float64)))
        print(f"{name}: relative rms error {error:.1e}")
        assert error < 2e-5


# ---- the native library ----


def test_library_chooses_its_level(tmp_path: Path) -> None:
    """A library of three levels, and the example that comes with it, linked by Zig's compiler: each
    CPU gets the best that it has, and all of them the numbers of this process."""
    platform = "aarch64-linux-musl"
    isa = ",".join(CPUS)
    build_library(
        DEMO / "digits_cnn.onnx", tmp_path,
        platform=platform, isa=isa, emit="static", embed=True, compiler="zig",
    )  # fmt: skip
    find_toolchain(platform, "zig").compile(
        ["-static", "-O1", "example.c", "digits_cnn.a", "-o", "example"], tmp_path
    )
    x = (np.arange(4 * 64) % 17 / 17).astype(np.float32).reshape(4, 1, 8, 8)
    logits = NativeModel(compiled((DEMO / "digits_cnn.onnx").read_bytes(), X86))(x)
    for target, cpu in CPUS.items():
        done = subprocess.run(
            [need("qemu-aarch64", "qemu-user"), "-cpu", cpu, str(tmp_path / "example")],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        head, numbers = done.stdout.splitlines()[:2]
        assert f"on {target}:" in head
        found = [float(n) for n in numbers.split(":")[2].split()[:10]]
        np.testing.assert_allclose(found, logits.reshape(-1)[:10], rtol=1e-5)
