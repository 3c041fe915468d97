"""Targets: what code may use on a CPU, and the table of known ones.

A target is fixed by its name alone, so a bundle is the same on whatever machine it was made. `cpu`
is the baseline that LLVM may assume, `features` what it may use besides, `tune` only a scheduling
model: LLVM's own guess of the host is wrong on virtual machines, where CPU names are masked.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from naru.errors import TargetError, nearest
from naru.runtime import _native

_ELEMENT_BITS = {
    **dict.fromkeys(("f64", "i64", "u64"), 64),
    **dict.fromkeys(("f32", "i32", "u32"), 32),
    **dict.fromkeys(("f16", "bf16", "i16", "u16"), 16),
    **dict.fromkeys(("i8", "u8", "bool", "int4", "uint4", "int2", "uint2"), 8),
    **dict.fromkeys(("f8e4m3fn", "f8e4m3fnuz", "f8e5m2", "f8e5m2fnuz", "f8e8m0"), 8),
    **dict.fromkeys(("f6e2m3", "f6e3m2", "f4e2m1"), 8),
}


@dataclass(frozen=True)
class Target:
    """One instruction set with its register file and the cache sizes that schedules assume.

    `features` are LLVM's names; `vector_bits` is the width of a vector register, `registers` their
    number; `l1` and `l2` are bytes of data cache one core has to itself, on nearly all CPUs the row
    stands for (of those with AVX2, Intel's before 2021 have half of that L2).
    """

    name: str
    triple: str
    cpu: str
    tune: str
    features: tuple[str, ...]
    vector_bits: int
    registers: int
    pointer_bits: int
    has_fma: bool
    l1: int
    l2: int
    data_layout: str

    @property
    def arch(self) -> str:
        """x86_64, aarch64 or wasm32."""
        return self.triple.partition("-")[0]

    @property
    def has_amx(self) -> bool:
        """Whether AMX tiles of bf16 and int8 may be used."""
        return "amx-tile" in self.features

    @property
    def has_multiply_add(self) -> bool:
        """Whether a·b + c is one operation: with one rounding (`has_fma`) or, with relaxed SIMD,
        one or two, as the machine likes."""
        return self.has_fma or self.has("relaxed-simd")

    @property
    def is_recompiled(self) -> bool:
        """Whether an engine compiles the code once more, as V8 does with WebAssembly: it begins a
        block with all its loads, so that their results need registers at once; adds what is not in
        the offset of an access; unrolls short loops itself; and knows no fetching ahead."""
        return self.arch == "wasm32"

    @property
    def multiplies_bytes(self) -> bool:
        """Whether sums of products of bytes are made of four at a time (`dot4`), not of pairs of 16
        bits. The levels of an architecture agree: those of a library share their weights."""
        return self.arch == "aarch64"

    @property
    def masked(self) -> bool:
        """Whether masked loads and stores of vectors cost no more than plain ones."""
        return "avx512f" in self.features

    @property
    def feature_string(self) -> str:
        """`features` as LLVM reads them: "+avx2,+fma"."""
        return ",".join(f"+{f}" for f in self.features)

    @property
    def attributes(self) -> str:
        """Function attributes every function for this target gets (`codegen.objects` adds them).

        `no-builtins` keeps LLVM from turning loops into calls of memset and memcpy, which code
        cannot reach. Without `prefer-vector-width` LLVM halves 512-bit vectors of its own making.
        """
        parts = ['"no-builtins"', f'"tune-cpu"="{self.tune}"']
        if self.vector_bits == 512:
            parts.append('"prefer-vector-width"="512"')
        return " ".join(parts)

    def has(self, feature: str) -> bool:
        """Whether code may use a feature, spelled as LLVM spells it."""
        return feature in self.features

    def element_bits(self, dtype: str) -> int:
        """Bits of one element in memory; `index` is as wide as a pointer."""
        return self.pointer_bits if dtype == "index" else _ELEMENT_BITS[dtype]

    def lanes(self, dtype: str) -> int:
        """Elements of a dtype in one vector register."""
        return self.vector_bits // self.element_bits(dtype)


_X86_LAYOUT = "e-m:e-p270:32:32-p271:32:32-p272:64:64-i64:64-i128:128-f80:128-n8:16:32:64-S128"
_ARM_LAYOUT = (
    "e-m:e-p270:32:32-p271:32:32-p272:64:64-i8:8:32-i16:16:32-i64:64-i128:128-n32:64-S128-Fn32"
)
_WASM_LAYOUT = "e-m:e-p:32:32-p10:8:8-p20:8:8-i64:64-i128:128-n32:64-S128-ni:1:10:20"

_SSE2 = ("cmov", "cx8", "fxsr", "mmx", "sse", "sse2")
_AVX2 = (
    *_SSE2,
    *("sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "cx16", "sahf", "lzcnt", "movbe"),
    *("bmi", "bmi2", "avx", "avx2", "f16c", "fma"),
)
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_AMX = (
    *_AVX512,
    *("avx512ifma", "avx512vbmi", "avx512vbmi2", "avx512vnni", "avx512bitalg"),
    *("avx512vpopcntdq", "avx512bf16", "gfni"),
    *("amx-tile", "amx-bf16", "amx-int8"),
)
_NEON = ("fp-armv8", "neon")
_DOTPROD = (*_NEON, "rdm", "fullfp16", "dotprod")
_I8MM = (*_DOTPROD, "bf16", "i8mm")
_WASM = ("simd128", "sign-ext", "nontrapping-fptoint", "bulk-memory", "bulk-memory-opt")
_KIB = 1024


def _x86(
    name: str, cpu: str, tune: str, features: tuple[str, ...], bits: int, l1: int, l2: int
) -> Target:
    registers = 32 if bits == 512 else 16
    triple, fma = "x86_64-unknown-linux-gnu", "fma" in features
    return Target(name, triple, cpu, tune, features, bits, registers, 64, fma, l1, l2, _X86_LAYOUT)


def _wasm(name: str, features: tuple[str, ...]) -> Target:
    # Of the 16 xmm registers of x86-64, V8 keeps one for itself.
    return Target(
        name, "wasm32-unknown-unknown", "generic", "generic", features, 128, 15, 32,
        has_fma=False, l1=32 * _KIB, l2=256 * _KIB, data_layout=_WASM_LAYOUT,
    )  # fmt: skip


def _arm(name: str, features: tuple[str, ...], l1: int, l2: int) -> Target:
    # Of the scheduling models, V1's keeps the most constants of long polynomials in registers.
    triple, tune = "aarch64-unknown-linux-gnu", "neoverse-v1"
    return Target(name, triple, "generic", tune, features, 128, 32, 64, True, l1, l2, _ARM_LAYOUT)


# From the most to the least capable: the host is the first whose features it all has.
TARGETS: dict[str, Target] = {
    t.name: t
    for t in (
        # amx-tile means Sapphire Rapids and later.
        _x86("x86-64-amx", "x86-64-v4", "sapphirerapids", _AMX, 512, 48 * _KIB, 2048 * _KIB),
        # Skylake-X has the smallest caches. Of all scheduling models, Sapphire Rapids' is the one
        # under which LLVM keeps 12x2, 14x2 and 9x3 tiles of accumulators free of spills.
        _x86("x86-64-avx512", "x86-64-v4", "sapphirerapids", _AVX512, 512, 32 * _KIB, 1280 * _KIB),
        _x86("x86-64-avx2", "x86-64-v3", "haswell", _AVX2, 256, 32 * _KIB, 512 * _KIB),
        _x86("x86-64-baseline", "x86-64", "haswell", _SSE2, 128, 32 * _KIB, 256 * _KIB),
        # Neoverse V1, V2 and N2 (Graviton3 and 4, Axion, Cobalt), Apple M2. SVE is left alone.
        _arm("aarch64-i8mm", _I8MM, 64 * _KIB, 1024 * _KIB),
        # Neoverse N1 (Graviton2, Altra), Cortex-A76 (Raspberry Pi 5), Apple M1.
        _arm("aarch64-dotprod", _DOTPROD, 64 * _KIB, 512 * _KIB),
        _arm("aarch64-neon", _NEON, 64 * _KIB, 512 * _KIB),
        _wasm("wasm32-relaxed", (*_WASM, "relaxed-simd")),
        _wasm("wasm32-simd128", _WASM),
    )
}

_SHORT_NAMES = {
    "amx": "x86-64-amx",
    "avx512": "x86-64-avx512",
    "avx2": "x86-64-avx2",
    "baseline": "x86-64-baseline",
    "sse2": "x86-64-baseline",
    "i8mm": "aarch64-i8mm",
    "dotprod": "aarch64-dotprod",
    "neon": "aarch64-neon",
    "wasm": "wasm32-simd128",
    "simd128": "wasm32-simd128",
    "relaxed": "wasm32-relaxed",
}


def get_target(name: str) -> Target:
    """The target of a name, a short name ("avx2") or "host". TargetError lists the known ones."""
    if name == "host":
        return host_target()
    key = name.lower().replace("_", "-")
    found = TARGETS.get(_SHORT_NAMES.get(key, key))
    if found is None:
        known = [*TARGETS, *sorted(_SHORT_NAMES), "host"]
        meant = nearest(name, known)
        raise TargetError(
            f"unknown target {name!r}" + (f"; {meant}" if meant else ""),
            hint=f"one of: {', '.join(known)}",
        )
    return found


def host_target(mask: Collection[str] = ()) -> Target:
    """The best known target that this machine runs, as if it lacked the features in `mask`; without
    AMX where the kernel does not permit this process to use it.

    TargetError when the machine's architecture is not in the table, or a masked or missing feature
    leaves nothing. A machine whose features cannot be read counts as its architecture's baseline.
    """
    refused = () if _native.request_amx() else ("amx-tile",)
    return select_target(platform.machine(), host_features().difference(mask, refused))


def select_target(machine: str, features: Collection[str]) -> Target:
    """The first target of the table for a machine (as uname names it) with these features."""
    arch = _ARCHITECTURES.get(machine.lower(), machine.lower())
    for target in TARGETS.values():
        if target.arch == arch and set(target.features) <= set(features):
            return target
    wanted = sorted({t.arch for t in TARGETS.values()})
    raise TargetError(
        f"no known target fits this machine ({machine} with {len(features)} features)",
        hint=f"name one with target=...; architectures: {', '.join(wanted)}",
    )


# What a model that has nothing for matrix registers needs of x86-64-amx.
WITHOUT_TILES = "x86-64-avx512"

_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}

# Where Linux and LLVM spell a feature differently and no rule of `_llvm_name` covers it.
_LINUX_NAMES = {
    "pni": "sse3",
    "abm": "lzcnt",
    "lahf_lm": "sahf",
    "bmi1": "bmi",
    "sha_ni": "sha",
    "pclmulqdq": "pclmul",
    "3dnowprefetch": "prfchw",
    "avx_vnni": "avxvnni",
    "fp": "fp-armv8",
    "asimd": "neon",
    "asimddp": "dotprod",
    "asimdhp": "fullfp16",
    "lahf": "sahf",
    "avx1.0": "avx",
    "asimdrdm": "rdm",
}


def _llvm_name(flag: str) -> str:
    if flag in _LINUX_NAMES:
        return _LINUX_NAMES[flag]
    if flag.startswith(("avx512_", "avx512")):
        return flag.replace("avx512_", "avx512")
    if flag.startswith("amx_"):
        return flag.replace("_", "-")
    return flag.replace("sse4_", "sse4.")


def parse_cpuinfo(text: str) -> frozenset[str]:
    """Features (LLVM's names) of Linux's /proc/cpuinfo: those that every listed processor has.

    The kernel lists what it also saves and restores, so a feature here is usable.
    """
    common: set[str] | None = None
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags = set(value.split())
            common = flags if common is None else common & flags
    return frozenset(_llvm_name(f) for f in common or ())


def parse_sysctl(text: str) -> frozenset[str]:
    """Features of the three `machdep.cpu.*features` lines of macOS's sysctl on x86."""
    return frozenset(_llvm_name(f) for f in text.lower().split())


@cache
def host_features() -> frozenset[str]:
    """This machine's features in LLVM's names; at least its architecture's baseline."""
    arch = _ARCHITECTURES.get(platform.machine().lower(), platform.machine().lower())
    baseline: tuple[str, ...] = {"x86_64": _SSE2, "aarch64": ("fp-armv8", "neon")}.get(arch, ())
    found: frozenset[str] = frozenset()
    if platform.system() == "Linux":
        found = _linux_features()
    elif platform.system() == "Darwin" and arch == "x86_64":
        found = _darwin_features()
    return found | frozenset(baseline)


def _linux_features() -> frozenset[str]:
    try:
        return parse_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace"))
    except OSError:
        return frozenset()


def _darwin_features() -> frozenset[str]:
    names = ("features", "leaf7_features", "extfeatures")
    command = ["/usr/sbin/sysctl", "-n", *(f"machdep.cpu.{n}" for n in names)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return frozenset()
    return parse_sysctl(done.stdout)
