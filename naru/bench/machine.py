"""What a figure depends on besides the code: traits of the machine that may be published.

No host name, no user, no path.
"""

from __future__ import annotations

import platform
import re
import subprocess
from typing import Any

from naru import demo
from naru.bench.compiling import ROOT
from naru.compiler import compile_bundle
from naru.doctor import examine

VERSIONS = ("naru", "python", "numpy", "llvmlite", "llvm", "onnx")  # an engine tells its own


def traits() -> dict[str, Any]:
    """CPU, caches, memory, system and versions, as values for JSON."""
    report = examine(probe=False)
    cpu = report["cpu"]
    release = re.match(r"\d+(\.\d+)?", platform.release())
    # Asked of the compiler: it may not use all that the CPU has.
    target = compile_bundle(demo.FOLDER / "digits_mlp.onnx").manifest["target"]["name"]
    return {
        "cpu": cpu["name"],
        "architecture": cpu["machine"],
        "target": target,
        "features": cpu["features"],
        "cores": report["threads"]["usable_cores"],
        "caches": cpu["caches"],
        "memory_gib": round(cpu["memory_limit"] / 2**30),
        "system": f"{platform.system()} {release[0] if release else ''}".strip(),
        "versions": {k: report["versions"].get(k) for k in VERSIONS},
    }


def commit() -> dict[str, Any] | None:
    """The commit that is measured, and whether files differ from it; None outside a checkout."""
    if not (ROOT / ".git").exists():
        return None
    identity = _git("rev-parse", "HEAD")
    changed = bool(_git("status", "--porcelain", "--", "naru", "bench", "models"))
    return {"id": identity, "changed": changed} if identity else None


def _git(*args: str) -> str:
    try:
        done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()
