"""Whole networks as WebAssembly packages in Node, against ONNX Runtime; declarations under tsc."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from models.catalog import MODELS
from naru.building import build
from naru.demo import FOLDER as DEMO
from tests.library.javascript import run_node, to_arrays
from tests.targets.machine import need
from tests.test_named_models import session_of

pytestmark = pytest.mark.slow
TOLERANCE = 2e-5  # relative rms error, as in test_named_models.py


@pytest.mark.parametrize("name", ["mobilenet_v2", "minilm_l6"])
def test_against_onnxruntime(name: str, tmp_path: Path) -> None:
    model = MODELS[name]
    build(model.path(), tmp_path, platform="wasm", name="m", cache=False)
    (feed,) = model.feeds(1)
    said = run_node(
        tmp_path,
        """
        const found = [];
        for (const threads of [1, 2]) {
          const model = await load({ threads });
          await model.selftest();
          found.push([model.threads, plain(model.run(arrays))]);
          model.dispose();
        }
        say(found);
        """,
        feed,
    )
    assert [threads for threads, _ in said] == [1, 2]
    session = session_of(model.path())
    outputs = [o.name for o in session.get_outputs()]
    for _, found in said:
        got = to_arrays(found)
        results = [np.asarray(x, np.float64) for x in session.run(None, dict(feed))]
        for output, want in zip(outputs, results, strict=True):
            error = np.sqrt(np.mean((got[output].astype("f8") - want) ** 2))
            assert error <= TOLERANCE * np.sqrt(np.mean(want**2)), output
    assert said[0][1] == said[1][1]  # bit for bit


USES = """
import { load, loadInWorker, info, NaruError } from "./m.js";

const model = await load({ threads: 2, onProgress: ({ loaded }) => console.log(loaded + 1) });
const { logits } = model.run({ image: new Float32Array(64) });
const ten: 10 = logits.dims[1];
const data: Float32Array = logits.data;
const numbers: number[] = logits.numbers();
model.run({ image: [1, 2, 3] });
model.run({ image: { data: new Float32Array(128), dims: [2, 64] } });
model.input("image", [1, 64]).fill(0);
model.run();
const name: "image" = info.inputs[0].name;
const worker = await loadInWorker();
const later: Float32Array = (await worker.run({ image: data })).logits.data;
const checks = await model.selftest();
console.log(ten, numbers, name, later, checks[0].error, NaruError);
// @ts-expect-error: no such input
model.run({ picture: new Float32Array(64) });
// @ts-expect-error: another dtype
model.run({ image: new Float64Array(64) });
// @ts-expect-error: no such output
model.run({ image: data }).scores;
// @ts-expect-error: no such option
await load({ thread: 2 });
"""


def test_declarations(tmp_path: Path) -> None:
    build(DEMO / "digits_mlp.onnx", tmp_path, platform="wasm", name="m", cache=False)
    (tmp_path / "uses.ts").write_text(USES)
    options = {
        "compilerOptions": {
            "strict": True,
            "noEmit": True,
            "target": "es2022",
            "module": "es2022",
            "moduleResolution": "bundler",
            "lib": ["es2022", "dom"],
            "types": [],
        },
        "files": ["uses.ts"],
    }
    (tmp_path / "tsconfig.json").write_text(json.dumps(options))
    tsc = [need("npx", "npm"), "--yes", "--package", "typescript@5", "tsc", "-p", str(tmp_path)]
    done = subprocess.run(tsc, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
