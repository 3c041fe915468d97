"""`naru doctor`: what this machine is and what naru makes of it, for bug reports and for tuning."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from naru import knobs
from naru.artifact.cache import open_cache
from naru.errors import TargetError
from naru.roofs import TILES, read_rates
from naru.runtime import _native
from naru.targets import Target, host_target
from naru.units import format_bytes
from naru.version import VERSION

_PACKAGES = ("numpy", "llvmlite", "onnx", "onnxruntime", "ml_dtypes", "click", "rich")


def examine(*, probe: bool = True) -> dict[str, Any]:
    """Everything, as values for JSON. `probe` measures the roofs as well: about a second."""
    report: dict[str, Any] = {
        "versions": _versions(),
        "cpu": _cpu(),
        "threads": _threads(),
        "cache": _cache(),
        "knobs": _knobs(),
    }
    if probe:
        report["roofs"] = _roofs(report["cpu"]["caches"], report["threads"]["default"])
    report["problems"] = _problems(report)
    return report


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {
        "naru": VERSION,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    found["llvm"] = _llvm_version()
    return found


def _llvm_version() -> str | None:
    try:
        from llvmlite import binding
    except (ImportError, OSError):
        return None
    return ".".join(map(str, binding.llvm_version_info))


def _cpu() -> dict[str, Any]:
    target = _host()
    return {
        "name": _cpu_name(),
        "machine": platform.machine(),
        "target": target.name if target else None,
        "features": sorted(_native.features()),
        "caches": _native.cache_sizes(),
        "amx": {
            "present": "amx-tile" in _native.features(),
            "permitted": _native.request_amx(),
        },
        "memory_limit": _native.memory_limit(),
        "transparent_huge_pages": _chosen("/sys/kernel/mm/transparent_hugepage/enabled"),
    }


def _host() -> Target | None:
    try:
        return host_target()
    except TargetError:
        return None


def _cpu_name() -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return platform.processor() or None
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or None


def _chosen(path: str) -> str | None:
    """The word in brackets of a /sys file that lists choices."""
    try:
        text = Path(path).read_text(encoding="ascii")
    except OSError:
        return None
    return text.partition("[")[2].partition("]")[0] or None


def _threads() -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "usable_cores": _native.usable_cores(),
        "quota": _native.cpu_quota(),
        "default": _native.get_threads(),
    }


def _cache() -> dict[str, Any]:
    settings = knobs.current()
    found: dict[str, Any] = {"folder": str(settings.cache_dir), "limit": settings.cache_bytes}
    store = open_cache()
    if store is None:
        return {**found, "on": False}
    usage = store.usage()
    return {
        **found,
        "on": True,
        "entries": usage.entries,
        "bytes": usage.bytes,
        "writable": _is_writable(settings.cache_dir),
    }


def _is_writable(folder: Path) -> bool:
    """Whether the folder, or the nearest one above it that exists, can be written."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _knobs() -> dict[str, str]:
    return {name: value for name, value, _ in knobs.describe()}


def _roofs(caches: dict[str, int], threads: int) -> dict[str, Any]:
    """GFLOP/s by instruction set (fp32; of matrix registers bf16) and GB/s by memory level, of one
    core; the pool's times."""
    found: dict[str, Any] = {
        "gflops": _native.probe_fma(),
        "gigabytes_per_second": read_rates(caches),
    }
    if threads > 1:
        found["fork_join_seconds"] = _native.probe_fork_join(threads)
        found["barrier_seconds"] = _native.probe_barrier(threads)
    return found


def _problems(report: dict[str, Any]) -> list[str]:
    """What a user may want to change, each with what to do."""
    cpu, threads, cache = report["cpu"], report["threads"], report["cache"]
    found: list[str] = []
    if cpu["target"] is None:
        found.append(f"no target for this machine ({cpu['machine']}): only bundles for others")
    if cpu["amx"]["present"] and not cpu["amx"]["permitted"]:
        found.append("the CPU has AMX but the kernel does not permit it: compile with --isa avx512")
    target = _host()
    lacking = set(target.features) - set(cpu["features"]) if target else set[str]()
    if lacking:
        found.append(f"/proc/cpuinfo lists what cpuid does not: {', '.join(sorted(lacking))}")
    quota = threads["quota"]
    if quota is not None and quota < threads["usable_cores"]:
        found.append(f"the control group allows {quota:g} CPUs: more threads than that only wait")
    if cpu["transparent_huge_pages"] == "never":
        found.append("huge pages are off: large models read memory slower")
    if cache["on"] and not cache["writable"]:
        found.append(f"the cache folder {cache['folder']} is not writable: set NARU_CACHE_DIR")
    missing = [p for p in ("llvmlite", "onnx") if report["versions"][p] is None]
    if missing:
        found.append(f"not installed: {', '.join(missing)}; bundles run, but nothing compiles")
    if sys.maxsize < 2**32:
        found.append("this Python is 32-bit: naru needs a 64-bit one")
    return found


def report_lines(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(section, name, value) rows of a report, for a person to read."""
    cpu, threads, cache = report["cpu"], report["threads"], report["cache"]
    rows = [("versions", k, v or "not installed") for k, v in report["versions"].items()]
    amx = "no" if not cpu["amx"]["present"] else "permitted"
    if cpu["amx"]["present"] and not cpu["amx"]["permitted"]:
        amx = "present, not permitted"
    rows += [
        ("cpu", "name", f"{cpu['name'] or '?'} ({cpu['machine']})"),
        ("cpu", "target", cpu["target"] or "none"),
        ("cpu", "features", " ".join(cpu["features"])),
        ("cpu", "amx", amx),
        *(("cpu", f"cache {k}", format_bytes(n)) for k, n in cpu["caches"].items()),
        ("cpu", "memory", format_bytes(cpu["memory_limit"])),
        ("cpu", "huge pages", cpu["transparent_huge_pages"] or "?"),
        ("threads", "usable cores", f"{threads['usable_cores']} of {threads['cpus']} CPUs"),
        ("threads", "quota", "none" if threads["quota"] is None else f"{threads['quota']:g} CPUs"),
        ("threads", "most a run uses", str(threads["default"])),
    ]
    rows += _roof_lines(report.get("roofs", {}))
    held = "off"
    if cache["on"]:
        held = f"{cache['entries']} entries, {format_bytes(cache['bytes'])}"
        held += f" of {format_bytes(cache['limit'])}"
    rows += [("cache", "folder", cache["folder"]), ("cache", "holds", held)]
    return rows + [("knobs", k, v) for k, v in report["knobs"].items()]


def _roof_lines(roofs: dict[str, Any]) -> list[tuple[str, str, str]]:
    peaks: dict[str, float] = roofs.get("gflops", {})
    names = {k: f"bf16 {k}" if k == TILES else f"fp32 {k}" for k in peaks}
    rows = [("roofs", names[k], f"{v:.0f} GFLOP/s") for k, v in peaks.items()]
    rates: dict[str, float] = roofs.get("gigabytes_per_second", {})
    rows += [("roofs", f"read {k}", f"{v:.1f} GB/s") for k, v in rates.items()]
    for name in ("fork_join", "barrier"):
        seconds = roofs.get(f"{name}_seconds")
        if seconds is not None:
            rows.append(("roofs", name.replace("_", "-"), f"{seconds * 1e6:.2f} us"))
    return rows
