"""Every model of the zoo as a WebAssembly package: loaded in Node, and its self-test passed."""

from __future__ import annotations

import json
import subprocess
import warnings
from pathlib import Path

import pytest

from naru.errors import NaruError
from naru.library.web import write_web
from naru.library.write import Request
from naru.options import Options
from naru.pipeline import build_parts
from naru.targets import TARGETS
from tests.targets.machine import need
from tests.zoo import CASES

pytestmark = pytest.mark.slow
PARTS = 8

SCRIPT = """
import { readFileSync } from "node:fs";
const names = JSON.parse(readFileSync(process.argv[2], "utf8"));
const failed = {};
for (const name of names) {
  try {
    const { load } = await import(`./${name}/m.js`);
    const model = await load({ threads: 1 });
    await model.selftest();
    model.dispose();
  } catch (error) {
    failed[name] = `${error.code ?? error.name}: ${error.message}`;
  }
}
console.log(JSON.stringify(failed));
"""


def packages(names: list[str], folder: Path) -> list[str]:
    """Writes a package for each case that has one, with something to test with."""
    made: list[str] = []
    options = Options(TARGETS["wasm32-simd128"])
    for name in names:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                parts = build_parts(CASES[name].model().SerializeToString(), options)
            write_web([parts], folder / name, Request("m", "wasm"))
        except NaruError:  # texts run on the host; other tests say which models are refused
            continue
        if len(parts[1]["golden"]) > 64:
            made.append(name)
    return made


@pytest.mark.parametrize("part", range(PARTS))
def test_selftests(part: int, tmp_path: Path) -> None:
    names = packages(sorted(CASES)[part::PARTS], tmp_path)
    assert len(names) > 0.7 * len(CASES) / PARTS
    (tmp_path / "names.json").write_text(json.dumps(names))
    (tmp_path / "test.mjs").write_text(SCRIPT)
    done = subprocess.run(
        [need("node", "nodejs"), str(tmp_path / "test.mjs"), str(tmp_path / "names.json")],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}
