"""The programs and commands of docs/languages.md: each prints what naru's own runtime gives."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from library.programs import blocks, files, run

import naru
from naru.building import build

MODEL = Path(naru.__file__).parent / "demo" / "digits_cnn.onnx"
PAGE = "languages.md"
LANGUAGES = ("Rust", "Go", "Java", "C#")
SECTIONS = ("Rust", "Go", "Java", "Android", "C#")  # that have commands, in the page's order
COMMANDS: dict[str, str] = dict(zip(SECTIONS, blocks(PAGE, "sh"), strict=True))
# That the compilers have nothing to say, besides.
STRICT = {
    "Rust": "rustc --edition 2021 -D warnings --emit metadata -o main.rmeta main.rs",
    "Go": 'go vet main.go && test -z "$(gofmt -l main.go)"',
    "Java": "javac -Xlint:all -Werror -d strict DigitsCnn.java && "
    'cc -Wall -Wextra -Werror -fsyntax-only -Idist -I"$JAVA_HOME/include" '
    '-I"$JAVA_HOME/include/linux" digits.c',
    "C#": "mcs -warnaserror -unsafe -out:strict.exe Digits.cs",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page, and dist/."""
    made = tmp_path_factory.mktemp("languages")
    build(MODEL, made / "dist")
    for name, text in files(PAGE).items():
        (made / name).write_text(text, encoding="utf-8")
    return made


def shell(script: str, where: Path) -> str:
    """What a script prints, which ends at its first failure."""
    java = shutil.which("javac")
    home = Path(java).resolve().parent.parent if java else ""
    setting = f'export JAVA_HOME="{home}" GOFLAGS= GOCACHE="{where}/go-cache"\n'
    return run("bash", "-e", "-u", "-c", setting + script, cwd=where)


def check_print(said: str) -> None:
    """`class 3: 0.1234 …`"""
    image = (np.arange(64, dtype=np.float32) / 64).reshape(1, 1, 8, 8)
    (want,) = naru.compile(MODEL)(image)
    found = re.fullmatch(r"class (\d): ([-\d. ]+)\n", said)
    assert found, said
    assert int(found[1]) == want.argmax()
    np.testing.assert_allclose(np.array(found[2].split(), float), want, atol=6e-5)


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_program(language: str, folder: Path) -> None:
    shell(STRICT[language], folder)
    check_print(shell(COMMANDS[language], folder))


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_program_tells_why(language: str, folder: Path) -> None:
    """Without its weights each ends with the text of the library."""
    weights = folder / "dist" / "digits_cnn.weights"
    weights.rename(folder / "moved")
    try:
        with pytest.raises(AssertionError, match=r"digits_cnn\.weights: cannot be read: No such"):
            shell(COMMANDS[language], folder)
    finally:
        (folder / "moved").rename(weights)


def test_python(folder: Path) -> None:
    check_print(run(sys.executable, "-I", "-W", "error", folder / "digits.py", cwd="/"))


@pytest.mark.slow
def test_android(folder: Path, tmp_path: Path) -> None:
    """The command for the NDK's clang, given to Zig's; musl stands in for Android's C library."""
    shutil.copy(MODEL, tmp_path)
    shutil.copy(folder / "digits.c", tmp_path)
    (tmp_path / "app/src/main/jniLibs/arm64-v8a").mkdir(parents=True)
    naru_ = f"{sys.executable} -m naru"
    clang = f"{sys.executable} -m ziglang cc -target aarch64-linux-musl"
    clang += ' -I"$JAVA_HOME/include" -I"$JAVA_HOME/include/linux"'
    script = re.sub(r"^naru", naru_, COMMANDS["Android"])
    script = re.sub(r"\$NDK\S+-clang", clang, script)
    root = Path(naru.__file__).parent.parent
    shell(f'export PYTHONPATH="{root}{os.pathsep}${{PYTHONPATH:-}}"\n{script}', tmp_path)
    library = tmp_path / "app/src/main/jniLibs/arm64-v8a/libdigits.so"
    assert "AArch64" in run("readelf", "-h", library)
    assert "Java_DigitsCnn_run" in run("nm", "-D", "--defined-only", library)
    for line in run("readelf", "-lW", library).splitlines():
        assert "LOAD" not in line or line.endswith("0x4000"), line
