"""Targets and knobs: the tables, the host's detection, values of the environment."""

from __future__ import annotations

import itertools
import platform
from pathlib import Path

import pytest
from llvmlite import binding

from naru import knobs, targets
from naru.dtypes import DTYPES
from naru.errors import NaruError, TargetError
from naru.runtime import _native
from naru.targets import (
    TARGETS,
    get_target,
    host_features,
    host_target,
    parse_cpuinfo,
    parse_sysctl,
    select_target,
)


@pytest.fixture(scope="module", autouse=True)
def _llvm() -> None:
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()


@pytest.mark.parametrize("name", TARGETS)
def test_table_agrees_with_llvm(name: str) -> None:
    target = TARGETS[name]
    machine = binding.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.feature_string, codemodel="small"
    )
    assert str(machine.target_data) == target.data_layout
    assert target.name == name
    assert target.has_fma == (target.has("fma") or target.arch == "aarch64")


@pytest.mark.parametrize("name", TARGETS)
def test_lanes_fill_a_register(name: str) -> None:
    target = TARGETS[name]
    for dtype in DTYPES:
        assert target.lanes(dtype) * target.element_bits(dtype) == target.vector_bits
    assert target.element_bits("index") == target.pointer_bits


def test_element_bits_are_those_of_the_dtypes() -> None:
    target = TARGETS["x86-64-avx2"]
    for dtype in DTYPES.values():
        assert target.element_bits(dtype.name) == max(dtype.bits, 8)


def test_levels_of_x86_include_the_lower_ones() -> None:
    levels = [set(t.features) for t in TARGETS.values() if t.arch == "x86_64"]
    for higher, lower in itertools.pairwise(levels):
        assert lower < higher


def test_names() -> None:
    assert get_target("avx2") is TARGETS["x86-64-avx2"]
    assert get_target("x86_64-AVX512") is TARGETS["x86-64-avx512"]
    assert get_target("host") is host_target()
    with pytest.raises(TargetError, match=r"unknown target 'avx9'[\s\S]*x86-64-avx2.*host"):
        get_target("avx9")


def test_selection_by_features() -> None:
    features = set(TARGETS["x86-64-amx"].features)
    assert select_target("x86_64", features).name == "x86-64-amx"
    assert select_target("AMD64", features - {"amx-int8"}).name == "x86-64-avx512"
    # A virtual machine may hide any single feature: one hole and the level does not count.
    assert select_target("x86_64", features - {"avx512vl"}).name == "x86-64-avx2"
    assert select_target("x86_64", features - {"fma"}).name == "x86-64-baseline"
    assert select_target("arm64", {"fp-armv8", "neon"}).name == "aarch64-neon"
    graviton2 = {"fp-armv8", "neon", "rdm", "fullfp16", "dotprod", "crc", "aes"}
    assert select_target("aarch64", graviton2).name == "aarch64-dotprod"
    assert select_target("aarch64", {*graviton2, "bf16", "i8mm", "sve"}).name == "aarch64-i8mm"
    assert select_target("aarch64", graviton2 - {"fullfp16"}).name == "aarch64-neon"
    with pytest.raises(TargetError, match="no known target fits this machine"):
        select_target("sparc64", features)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86-64 host")
def test_host() -> None:
    assert set(host_target().features) <= host_features()
    masked = [f for f in host_features() if f.startswith(("amx", "avx512"))]
    assert host_target(masked).vector_bits <= 256
    assert host_target(["avx", *masked]).name == "x86-64-baseline"


def test_host_whose_kernel_refuses_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "host_features", lambda: set(TARGETS["x86-64-amx"].features))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    for permitted, name in ((True, "x86-64-amx"), (False, "x86-64-avx512")):
        monkeypatch.setattr(targets._native, "request_amx", lambda found=permitted: found)
        assert host_target().name == name


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc/cpuinfo")
def test_host_agrees_with_what_the_runtime_finds() -> None:
    """A bundle for the host's target must load on the host: the runtime asks cpuid itself."""
    known = {f for t in TARGETS.values() for f in t.features if t.arch == host_target().arch}
    assert host_features() & known == set(_native.features()) & known


def test_cpuinfo_of_x86() -> None:
    text = (
        "processor\t: 0\nflags\t\t: fpu sse sse2 pni sse4_1 abm avx512_vnni avx512f amx_tile bmi1\n"
        "processor\t: 1\nflags\t\t: fpu sse sse2 pni sse4_1 abm avx512_vnni amx_tile bmi1\n"
    )
    found = parse_cpuinfo(text)
    assert {"sse2", "sse3", "sse4.1", "lzcnt", "avx512vnni", "amx-tile", "bmi"} <= found
    assert "avx512f" not in found  # not on every processor


def test_cpuinfo_of_arm() -> None:
    found = parse_cpuinfo("processor\t: 0\nFeatures\t: fp asimd asimddp sve\n")
    assert found == {"fp-armv8", "neon", "dotprod", "sve"}


def test_cpuinfo_without_flags() -> None:
    assert parse_cpuinfo("") == frozenset()


def test_sysctl() -> None:
    found = parse_sysctl("FPU SSE SSE2 SSE3 FMA SSE4.1 AVX1.0\nAVX2 BMI1 BMI2\nLAHF LZCNT\n")
    assert {"sse3", "fma", "sse4.1", "avx", "avx2", "bmi", "sahf", "lzcnt"} <= found


def test_knobs_from_an_environment() -> None:
    found = knobs.read(
        {
            "NARU_DEBUG": "3",
            "NARU_DUMP": "out",
            "NARU_CHECK": "2",
            "NARU_CACHE_DIR": "~/c",
            "NARU_CACHE_BYTES": "1.5 GiB",
            "NARU_WORKERS": "0",
            "NARU_THREADS": "",
        }
    )
    assert (found.debug, found.dump, found.check) == (3, Path("out"), 2)
    assert found.cache_dir == Path.home() / "c"
    assert found.cache_bytes == 3 << 29
    assert (found.workers, found.threads) == (0, None)


def test_knobs_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    found = knobs.read({})
    assert (found.debug, found.dump, found.check, found.cache_bytes) == (0, None, 1, 2 << 30)
    assert found.cache_dir.is_absolute()
    monkeypatch.setattr("sys.platform", "linux")
    assert knobs.read({"XDG_CACHE_HOME": "/c"}).cache_dir == Path("/c/naru")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("DEBUG", "7"),
        ("DEBUG", "yes"),
        ("CHECK", "-1"),
        ("CACHE_BYTES", "2X"),
        ("CACHE_BYTES", "-1"),
        ("CACHE_BYTES", "inf"),
        ("CACHE_BYTES", "nan"),
        ("CACHE_DIR", "~nobody-of-that-name/x"),
        ("THREADS", "0"),
    ],
)
def test_malformed_knobs(name: str, text: str) -> None:
    with pytest.raises(NaruError, match=rf"NARU_{name}='[^']*': expected a?.*[\s\S]*try: NARU_"):
        knobs.read({f"NARU_{name}": text})


def test_scope_restores() -> None:
    before = knobs.current()
    with knobs.scope(debug=4) as inner:
        assert inner is knobs.current()
        assert inner.debug == 4
        with (
            pytest.raises(NaruError, match=r"unknown knob debgu[\s\S]*debug"),
            knobs.scope(debgu=1),
        ):
            pass
        with pytest.raises(KeyError), knobs.scope(check=0):
            raise KeyError
        assert knobs.current() is inner
    assert knobs.current() == before


def test_every_knob_is_described() -> None:
    with knobs.scope(threads=3):
        rows = {name: (value, text) for name, value, text in knobs.describe()}
    assert rows["NARU_THREADS"][0] == "3"
    assert all(text for _, text in rows.values())
    assert len(rows) == 11
