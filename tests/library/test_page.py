"""The programs and commands of docs/library.md, one after the other, as a reader types them."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from library.programs import DOCS, blocks, files, run

import naru
from naru.building import ALL_EMITS
from naru.library.toolchain import PLATFORMS

DEMO = Path(naru.__file__).parent / "demo"
PAGE = "library.md"
# What the command of a block prints, by a part of the block.
PRINTED = {
    "./digits\n": r"x86-64-\w+: -?\d+\.\d{4}\n",
    "./digits-cpp": r"x86-64-\w+: -?\d+\.\d{4}\n",
    "./options": r"\d+ bytes for a batch of 64: -?\d+\.\d{4}\n",
    "./any": r"digits_cnn: image of rank 4, self-test passed\n"
    r"digits_mlp: image of rank 2, self-test passed\n",
    "./two": "both run\n",
}


@pytest.mark.slow
def test_commands(tmp_path: Path) -> None:
    for model in ("digits_cnn.onnx", "digits_mlp.onnx"):
        shutil.copy(DEMO / model, tmp_path)
    for name, text in files(PAGE).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    root = Path(naru.__file__).parent.parent
    setting = f'export PYTHONPATH="{root}{os.pathsep}${{PYTHONPATH:-}}"\n'
    setting += f'naru() {{ "{sys.executable}" -m naru "$@"; }}\n'
    seen = set[str]()
    for block in blocks(PAGE, "sh"):
        strict = re.sub(r"^(cc|c\+\+) ", r"\1 -Wall -Wextra -Werror ", block, flags=re.MULTILINE)
        said = run("bash", "-e", "-u", "-c", setting + strict, cwd=tmp_path, seconds=600)
        for part, pattern in PRINTED.items():
            if part in block:
                seen.add(part)
                assert re.search(pattern, said), said
    assert seen == set(PRINTED)
    assert json.loads((tmp_path / "sbom.json").read_text())["specVersion"] == "1.6"
    image = np.tile((np.arange(64, dtype=np.float32) / 64).reshape(1, 1, 8, 8), (2, 1, 1, 1))
    want = naru.compile(DEMO / "digits_cnn.onnx")(image)[0, 0]
    assert f"{want:.4f}" in run("./digits", cwd=tmp_path)


def test_tables() -> None:
    """The page lists what there is: forms, platforms, statuses, options."""
    text = (DOCS / PAGE).read_text(encoding="utf-8")
    header = (Path(naru.__file__).parent / "library" / "c" / "library.h").read_text()
    statuses = re.findall(r"^    (NARU_\w+) = \d", header, re.MULTILINE)[1:]
    fields = header[header.index("typedef struct naru_options") : header.index("} naru_options")]
    fields = re.sub(r"/\*.*?\*/", "", fields, flags=re.DOTALL)
    options = re.findall(r"(\w+)(?:\)\([^)]*\))?;", fields)
    assert len(statuses) == 9
    assert {"weights", "level", "threads", "parallel", "heap", "flags"} <= set(options)
    for word in (*ALL_EMITS, *PLATFORMS, *statuses, *(o for o in options if o != "size")):
        assert f"`{word}`" in text, word
