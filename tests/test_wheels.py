"""The two wheels: installed for themselves, together, and one without the other.

Each environment starts empty, and no C compiler is in reach of what runs there.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from naru.demo import FOLDER

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.slow

SLIM_LIMIT = 300_000  # bytes


class Environment:
    """A virtual environment that lies in a folder."""

    def __init__(self, folder: Path) -> None:
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        self.bin, self.folder = folder / "bin", folder

    def pip(self, *args: object) -> None:
        run(sys.executable, "-m", "pip", "--quiet", "--python", self.bin / "python", *args)

    def run(self, command: str, *args: object) -> str:
        """What a command of the environment prints; it finds no compiler, and no source of ours."""
        environment = {"PATH": str(self.bin), "CC": "no-such-compiler", "HOME": str(self.folder)}
        return run(self.bin / command, *args, cwd=self.folder, env=environment)

    def python(self, program: str) -> str:
        return self.run("python", "-c", program)


def run(*command: object, **options: Any) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By the name of the distribution. Built by the Python of the tests, to download nothing."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, ROOT / "tools/build_wheels.py", "--no-isolation", "--out", out)
    assert len(list(out.glob("*.tar.gz"))) == 2
    return {path.name.partition("-")[0]: path for path in out.glob("*.whl")}


def test_the_two_packages(wheels: dict[str, Path], tmp_path: Path) -> None:
    slim = Environment(tmp_path / "slim")
    slim.pip("install", "--no-compile", wheels["naru_runtime"])
    full = Environment(tmp_path / "full")
    full.pip("install", "--no-compile", wheels["naru"])

    bundle = compile_demo(full, tmp_path)
    for folder in ("onnx", "llvmlite", "click", "rich", "ml_dtypes", "naru"):
        assert not list(slim.folder.glob(f"lib/*/site-packages/{folder}"))
    check_runtime(slim, bundle, tmp_path)

    # Together, in this order; then each is taken away while the other stays.
    full.pip("install", wheels["naru_runtime"])
    check_compiler(full, bundle)
    check_runtime(full, bundle, tmp_path)
    full.pip("uninstall", "--yes", "naru_runtime")
    check_compiler(full, bundle)

    slim.pip("install", "--no-deps", wheels["naru"])
    slim.pip("uninstall", "--yes", "naru")
    check_runtime(slim, bundle, tmp_path)


def compile_demo(full: Environment, folder: Path) -> Path:
    """A bundle that the installed compiler made."""
    report = full.run("naru", "doctor", "--no-probe")
    assert "problem" not in report, report
    bundle = folder / "digits.naru"
    full.run("naru", "compile", FOLDER / "digits_cnn.onnx", "-o", bundle)
    return bundle


def check_compiler(environment: Environment, bundle: Path) -> None:
    environment.python(f"import naru; naru.load({str(bundle)!r}).selftest(); naru.compile")


def check_runtime(environment: Environment, bundle: Path, folder: Path) -> None:
    """By the package, and by its command, with the same result."""
    image = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
    np.save(folder / "x.npy", image)
    environment.python(
        "import numpy as np, naru_runtime as naru\n"
        f"model = naru.load({str(bundle)!r})\n"
        "model.selftest()\n"
        f"np.save({str(folder / 'y.npy')!r}, model(np.load({str(folder / 'x.npy')!r})))\n"
    )
    command = ("run", bundle, "--input", folder / "x.npy", "--output", folder / "z.npy")
    environment.run("naru-runtime", *command)
    np.testing.assert_array_equal(np.load(folder / "y.npy"), np.load(folder / "z.npy"))
    assert "passed" in environment.run("naru-runtime", "selftest", bundle)
    assert "image: float32[batch, 1, 8, 8]" in environment.run("naru-runtime", "info", bundle)


def test_what_the_wheels_hold(wheels: dict[str, Path]) -> None:
    """No file of one is a file of the other, the slim one is small, and both name a manylinux."""
    files = {name: set(zipfile.ZipFile(path).namelist()) for name, path in wheels.items()}
    assert not files["naru"] & files["naru_runtime"]
    assert wheels["naru_runtime"].stat().st_size < SLIM_LIMIT
    for name, path in wheels.items():
        assert "manylinux" in path.name
        folders = {file.partition("/")[0] for file in files[name]}
        assert {f for f in folders if not f.endswith(".dist-info")} == {name}
