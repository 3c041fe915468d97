"""What a figure depends on besides the code: traits of the machine that may be published.

No host name, no user, no path.
"""

from __future__ import annotations

import platform
import re
import subprocess
from typing import Any

from cases import ROOT, identity

import naru
from naru.doctor import examine

VERSIONS = ("naru", "python", "numpy", "llvmlite", "llvm", "onnx", "onnxruntime")


def traits() -> dict[str, Any]:
    """CPU, caches, memory, system and versions, as values for JSON."""
    report = examine(probe=False)
    cpu = report["cpu"]
    release = re.match(r"\d+(\.\d+)?", platform.release())
    return {
        "cpu": cpu["name"],
        "architecture": cpu["machine"],
        "target": naru.compile(identity(), cache=False).manifest["target"]["name"],
        "features": cpu["features"],
        "cores": report["threads"]["usable_cores"],
        "caches": cpu["caches"],
        "memory_gib": round(cpu["memory_limit"] / 2**30),
        "system": f"{platform.system()} {release[0] if release else ''}".strip(),
        "versions": {k: report["versions"].get(k) for k in VERSIONS},
    }


def commit() -> dict[str, Any]:
    """The commit that was measured, and whether files differed from it."""
    return {
        "id": _git("rev-parse", "HEAD") or None,
        "changed": bool(_git("status", "--porcelain", "--", "naru", "bench")),
    }


def _git(*args: str) -> str:
    try:
        done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()
