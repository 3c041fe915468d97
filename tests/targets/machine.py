"""Runs a kernel where this process cannot: WebAssembly in Node. (AArch64: see arm.py.)"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from naru.artifact.wasm import WasmModule

SECONDS = 60


def need(tool: str, package: str) -> str:
    """The path of a program. Without it the test fails: `make test-slow` makes sure of it."""
    found = shutil.which(tool)
    if found is None:
        pytest.fail(f"{tool} is missing: expected it on PATH (Debian: apt-get install {package})")
    return found


def padded(data: bytes) -> bytes:
    """To a multiple of 64 bytes, so that what follows is aligned."""
    return data + bytes(-len(data) % 64)


NODE = """
const fs = require("fs");
// Node 20 has relaxed SIMD, but not without being asked; it is on in later ones.
if (process.version.startsWith("v20.")) {
  require("v8").setFlagsFromString("--experimental-wasm-relaxed-simd");
}
const [path, input, output, name, free, bytes, threads, ...places] = process.argv.slice(1);
const instance = new WebAssembly.Instance(new WebAssembly.Module(fs.readFileSync(path)));
const { memory, __heap_base } = instance.exports;
if (__heap_base.value !== Number(free)) throw new Error("heap base " + __heap_base.value);
const data = fs.readFileSync(input);
const end = __heap_base.value + data.length + Number(bytes);
const missing = Math.ceil((end - memory.buffer.byteLength) / 65536);
if (missing > 0) memory.grow(missing);
const all = new Uint8Array(memory.buffer);
all.set(data, __heap_base.value);
const pointers = places.map((p) => __heap_base.value + Number(p));
const n = Number(threads);
for (let tid = 0; tid < n; tid++) instance.exports[name](...pointers, tid, n);
const last = pointers[pointers.length - 1];
fs.writeFileSync(output, all.slice(last, last + Number(bytes)));
"""


def run_node(
    module: WasmModule,
    name: str,
    operands: Sequence[np.ndarray],
    result: np.ndarray,
    folder: Path,
    threads: int = 1,
) -> np.ndarray:
    """Runs an exported kernel on operands; returns what it wrote to its last buffer."""
    node = need("node", "nodejs")
    inputs = [padded(x.tobytes()) for x in operands]
    places = [sum(map(len, inputs[:k])) for k in range(len(inputs) + 1)]
    code, data, output = (folder / f for f in ("module.wasm", "input", "output"))
    code.write_bytes(module.code)
    data.write_bytes(b"".join(inputs))
    numbers = [module.heap_base, result.nbytes, threads, *places]
    done = subprocess.run(
        [node, "-e", NODE, code, data, output, name, *map(str, numbers)],
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return np.frombuffer(output.read_bytes(), result.dtype).reshape(result.shape)
