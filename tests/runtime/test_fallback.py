"""Bundles with code for a lesser CPU too: which of the two is loaded, saved and told of."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper, parser

import naru
from naru import knobs
from naru.artifact.bundle import BundleParts, pack_bundle, read_bundle
from naru.building import build as build_library
from naru.cli import main
from naru.compiler import compile_bundle
from naru.errors import BundleError, TargetError
from naru.library.inspect import read_provenance
from naru.options import Options
from naru.pipeline import build, build_parts
from naru.runtime import _native, native_model
from naru.runtime.host import HostModel
from naru.runtime.model import Model
from naru.runtime.session import load, open_model
from naru.targets import TARGETS, get_target
from tests.codegen.native import runnable
from tests.runtime.programs import TRIPLE, manifest
from tests.test_bf16 import matrices

AMX, LESSER, LEAST = (TARGETS[f"x86-64-{n}"] for n in ("amx", "avx2", "baseline"))
ROWS, DEPTH = 64, 128
X = np.random.default_rng(0).standard_normal((ROWS, DEPTH), np.float32)
REFUSED, HIDDEN = "a kernel that refuses", "a CPU without AMX"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path) -> Iterator[None]:
    with knobs.scope(cache_dir=tmp_path / "cache"):
        yield


@pytest.fixture(scope="module")
def parts() -> BundleParts:
    """A model with products in tiles, and the same for AVX2."""
    return build_parts(matrices(ROWS, DEPTH, 64), Options(AMX, fallback=LESSER), "chain")


@pytest.fixture(params=[HIDDEN, REFUSED])
def without_amx(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """No AMX for this process, for one reason or the other."""
    return deny(request.param, monkeypatch)


def deny(reason: str, monkeypatch: pytest.MonkeyPatch) -> str:
    present = set(_native.features())
    if reason == HIDDEN:
        seen = tuple(f for f in present if not f.startswith("amx"))
    else:
        seen = (*present, *AMX.features)
    monkeypatch.setattr(native_model._native, "features", lambda: seen)
    monkeypatch.setattr(native_model._native, "request_amx", lambda: False)
    return reason


def target_of(model: Model) -> str:
    return model.manifest["target"]["name"]


@pytest.mark.usefixtures("without_amx")
def test_the_fallback_runs_as_if_alone(parts: BundleParts, tmp_path: Path) -> None:
    runnable(LESSER.name)
    alone = build(matrices(ROWS, DEPTH, 64), Options(LESSER), "chain")
    wanted = np.asarray(open_model(alone)(X))
    path = tmp_path / "m.naru"
    path.write_bytes(pack_bundle(*parts))
    found = [load(path), load(path, verify=False), open_model(read_bundle(path))]
    found.append(pickle.loads(pickle.dumps(found[0])))
    for model in found:
        assert target_of(model) == LESSER.name
        assert np.asarray(model(X)).tobytes() == wanted.tobytes()
        assert model.selftest().checks
    assert read_bundle(path).section("fallback") == alone.data
    found[-1].save(tmp_path / "copy.naru")
    assert (tmp_path / "copy.naru").read_bytes() == path.read_bytes()


def test_amx_goes_first(parts: BundleParts) -> None:
    runnable(AMX.name)
    if not _native.request_amx():
        pytest.skip("this kernel does not permit AMX")
    model = load(pack_bundle(*parts))
    assert target_of(model) == AMX.name
    assert model.selftest().checks


def test_without_a_fallback(
    parts: BundleParts, without_amx: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    described, sections = parts
    bare = pack_bundle(described, {k: v for k, v in sections.items() if k != "fallback"})
    words = "does not let this process use AMX" if without_amx == REFUSED else "lacks .*amx-tile"
    with pytest.raises(TargetError, match=words) as e:
        load(bare)
    assert "--fallback" in str(e.value.hint)
    monkeypatch.setattr(native_model._native, "features", lambda: ("sse2",))
    with pytest.raises(TargetError, match=r"the fallback: .*'x86-64-avx2'; this CPU lacks .*avx2"):
        load(pack_bundle(*parts))


def test_what_is_built(parts: BundleParts) -> None:
    described, sections = parts
    inner = read_bundle(sections["fallback"])
    assert described["target"]["name"] == AMX.name
    size = len(sections["fallback"])
    assert described["fallback"] == {"target": LESSER.name, "bytes": size}
    assert inner.manifest["target"]["name"] == LESSER.name
    assert "fallback" not in inner.manifest
    # Nothing for tiles to do: then it runs on lesser CPUs as it is.
    few = matrices(1, DEPTH, 64)
    made, _ = build_parts(few, Options(AMX, fallback=get_target("avx512")))
    assert made["target"]["name"] == "x86-64-avx512"
    assert "fallback" not in made
    made, _ = build_parts(few, Options(AMX, fallback=LEAST))
    assert made["fallback"]["target"] == LEAST.name


def test_forms_of_both_are_dumped(tmp_path: Path) -> None:
    with knobs.scope(dump=tmp_path):
        build(matrices(ROWS, DEPTH, 64), Options(AMX, fallback=LEAST), tested=False)
    one, other = (p / "fused.graph.py" for p in (tmp_path, tmp_path / "fallback"))
    assert "tile_product" in one.read_text()
    assert "tile_product" not in other.read_text()


def test_a_model_partly_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its fallback is a whole bundle, plan and parts."""
    runnable(LESSER.name)
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 21]>
    g (seq(float[64,128]) s) => (seq(float[64,64]) t) {
        zero = Constant<value_int=0>()
        x = SequenceAt(s, zero)
        y = MatMul(x, w)
        z = Relu(y)
        t = SequenceConstruct(z)
    }""")
    w = np.random.default_rng(1).standard_normal((DEPTH, 64), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(w, "w"))
    source = model.SerializeToString()
    bundle = build(source, Options(AMX, fallback=LESSER), "rows")
    assert bundle.manifest["target"]["name"] == AMX.name
    deny(HIDDEN, monkeypatch)
    found = load(bytes(bundle.data))
    assert isinstance(found, HostModel)
    assert target_of(found) == LESSER.name
    wanted = open_model(build(source, Options(LESSER), "rows"))([X])
    np.testing.assert_array_equal(found([X])[0], wanted[0])
    assert len(pickle.dumps(found)) > len(bundle.data)


def test_a_model_on_the_host_without_tiles() -> None:
    """It asks for no AMX either."""
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 21]>
    g (seq(float[2]) s) => (seq(float[2]) t) {
        zero = Constant<value_int=0>()
        x = SequenceAt(s, zero)
        y = Relu(x)
        t = SequenceConstruct(y)
    }""")
    made, sections = build_parts(
        model.SerializeToString(), Options(AMX, fallback=get_target("avx512")), "rows"
    )
    assert "host" in made
    assert made["target"]["name"] == "x86-64-avx512"
    assert "fallback" not in sections


def test_damage(parts: BundleParts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fallback is checked where it is loaded."""
    runnable(LESSER.name)
    data = bytearray(pack_bundle(*parts))
    whole = read_bundle(bytes(data))
    inner = read_bundle(whole.section("fallback"))
    start = whole.sections["fallback"].offset
    deny(HIDDEN, monkeypatch)
    for name in ("code", "weights", "golden"):
        damaged = bytearray(data)
        damaged[start + inner.sections[name].offset] ^= 1
        with pytest.raises(BundleError, match=f"section '{name}' does not match its digest"):
            load(bytes(damaged))
    for wrong, words in (
        (b"nothing", "the fallback: not a naru bundle"),
        (pack_bundle({**manifest([]), "host": {}}, {}), "another kind of model"),
    ):
        with pytest.raises(BundleError, match=words):
            load(pack_bundle(parts[0], {**parts[1], "fallback": wrong}))
    for wrong in ({}, {"target": "x", "bytes": -1}, 5):
        with pytest.raises(BundleError, match=r"manifest: \$\.fallback"):
            pack_bundle({**parts[0], "fallback": wrong}, parts[1])


def test_what_can_be_a_fallback() -> None:
    Options(AMX, fallback=AMX)
    with pytest.raises(TargetError, match="aarch64-neon is not for the machines of x86-64-amx"):
        Options(AMX, fallback=get_target("neon"))
    with pytest.raises(TargetError, match=r"x86-64-amx needs .*amx-tile.*, which x86-64-avx2 has"):
        Options(LESSER, fallback=AMX)
    with pytest.raises(TargetError, match="precision strict"):
        Options(AMX, "strict", fallback=LEAST)
    assert AMX.triple == TRIPLE


def test_it_is_part_of_the_key(tmp_path: Path) -> None:
    source = matrices(ROWS, DEPTH, 64)
    with knobs.scope(cache_dir=tmp_path):
        made = [
            compile_bundle(source, target="amx", fallback=f)
            for f in ("avx2", None, "baseline", "avx2")
        ]
    targets = [b.manifest.get("fallback", {}).get("target") for b in made]
    assert targets == [LESSER.name, None, LEAST.name, LESSER.name]


@pytest.mark.usefixtures("without_amx")
def test_compile_loads_what_fits() -> None:
    runnable(LESSER.name)
    model = naru.compile(matrices(ROWS, DEPTH, 64), target="amx", fallback="avx2")
    assert target_of(model) == LESSER.name
    assert np.asarray(model(X)).shape == (ROWS, 64)


@pytest.mark.usefixtures("without_amx")
def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runnable(LESSER.name)
    source, output = tmp_path / "m.onnx", tmp_path / "m.naru"
    source.write_bytes(matrices(ROWS, DEPTH, 64))

    def run(*args: object) -> str:
        assert main([str(a) for a in args]) == 0
        return capsys.readouterr().out

    said = run("compile", source, "-o", output, "--isa", "amx", "--fallback", "avx2")
    about = read_bundle(output).manifest["fallback"]
    assert "fallback x86-64-avx2, " in said
    told = run("compile", source, "-o", output, "--isa", "amx", "--fallback", "avx2", "--json")
    assert json.loads(told)["fallback"] == about
    assert "a whole bundle for x86-64-avx2: " in run("inspect", output)
    assert json.loads(run("inspect", output, "--json"))["fallback"] == about
    np.save(tmp_path / "x.npy", X)
    run("run", output, "-i", tmp_path / "x.npy", "-o", tmp_path / "y.npy")
    assert np.load(tmp_path / "y.npy").shape == (ROWS, 64)
    assert "k0" in run("profile", output, "--runs", 1)
    assert "x86-64-amx" in run("explain", output)
    assert main(["compile", str(source), "-o", str(output), "--fallback", "neon"]) == 1
    assert "fallback aarch64-neon" in capsys.readouterr().err


def test_a_library_has_no_use_for_it(parts: BundleParts, tmp_path: Path) -> None:
    path = tmp_path / "chain.naru"
    path.write_bytes(pack_bundle(*parts))
    assert read_provenance(path)["fallback"] == parts[0]["fallback"]
    made = build_library(path, tmp_path / "dist")
    described, sections = parts
    bare = {k: v for k, v in described.items() if k != "fallback"}
    path.write_bytes(pack_bundle(bare, {k: v for k, v in sections.items() if k != "fallback"}))
    other = build_library(path, tmp_path / "other")
    for a, b in zip(made.files, other.files, strict=True):
        assert a.read_bytes() == b.read_bytes()
