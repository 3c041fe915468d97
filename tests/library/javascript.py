"""Runs scripts in Node on a WebAssembly package, and takes what they say as JSON."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tests.targets.machine import need

SECONDS = 120

PRELUDE = """
import { readFileSync } from "node:fs";
import { load, loadInWorker, info, NaruError } from "FOLDER/m.js";

const folder = "FOLDER";
const toBase64 = (x) => Buffer.from(x.buffer, x.byteOffset, x.byteLength).toString("base64");
// Outputs as the test reads them.
const plain = (outputs) =>
  Object.fromEntries(
    Object.entries(outputs).map(([k, t]) => [k, { ...t, data: toBase64(t.data) }]),
  );
const given = JSON.parse(readFileSync(process.argv[2], "utf8"));
const arrays = Object.fromEntries(
  Object.entries(given).map(([k, { type, dims, data }]) => {
    const bytes = Uint8Array.from(Buffer.from(data, "base64"));
    return [k, { data: new globalThis[type](bytes.buffer), dims }];
  }),
);
const failure = async (action) => {
  try {
    await action();
    return null;
  } catch (error) {
    return [error.code ?? error.name, error.message, error.nodes ?? null];
  }
};
const say = (value) => console.log(JSON.stringify(value));
"""

TYPES = {
    "float32": "Float32Array",
    "float64": "Float64Array",
    "float16": "Uint16Array",
    "bfloat16": "Uint16Array",
    "int8": "Int8Array",
    "int32": "Int32Array",
    "int64": "BigInt64Array",
    "uint8": "Uint8Array",
    "bool": "Uint8Array",
}


def run_node(
    folder: Path,
    script: str,
    arrays: Mapping[str, np.ndarray] | None = None,
    flags: tuple[str, ...] = (),
) -> Any:
    """What a script says of the package `m` in a folder. It has PRELUDE's names, `arrays` too."""
    packed = {
        k: {
            "type": TYPES[x.dtype.name],
            "dims": list(x.shape),
            "data": base64.b64encode(np.ascontiguousarray(x).tobytes()).decode(),
        }
        for k, x in (arrays or {}).items()
    }
    given, program = folder / "test.json", folder / "test.mjs"
    given.write_text(json.dumps(packed))
    program.write_text(PRELUDE.replace("FOLDER", str(folder)) + script)
    done = subprocess.run(
        [need("node", "nodejs"), *flags, str(program), str(given)],
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


def to_arrays(outputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What `plain` made of outputs."""
    found: dict[str, np.ndarray] = {}
    for name, t in outputs.items():
        kind = ml_dtypes.bfloat16 if t["dtype"] == "bfloat16" else np.dtype(t["dtype"])
        found[name] = np.frombuffer(base64.b64decode(t["data"]), kind).reshape(t["dims"])
    return found
