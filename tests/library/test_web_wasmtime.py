"""The same module in another engine, wasmtime, by the contract of codegen/wasm_host.py alone."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import wasmtime

from naru.building import build
from naru.demo import FOLDER as DEMO
from naru.demo import load_images
from tests.library.javascript import run_node, to_arrays


class Guest:
    """A module with its memory: host of abi.h as docs/webassembly.md describes it."""

    def __init__(self, folder: Path) -> None:
        self.store = wasmtime.Store(wasmtime.Engine())
        module = wasmtime.Module.from_file(self.store.engine, str(folder / "m.wasm"))
        limits = wasmtime.Limits(16, 1024)
        self.memory = wasmtime.Memory(self.store, wasmtime.MemoryType(limits))
        self.exports: Any = wasmtime.Instance(self.store, module, [self.memory]).exports(self.store)
        self.top = self.exports["__heap_base"].value(self.store)

    def take(self, data: bytes) -> int:
        """Puts bytes into memory, at a multiple of 64."""
        at = -(-self.top // 64) * 64
        self.top = at + len(data)
        while self.top > self.memory.data_len(self.store):
            self.memory.grow(self.store, 1)
        self.memory.write(self.store, data, at)
        return at

    def read(self, at: int, size: int) -> bytes:
        return bytes(self.memory.read(self.store, at, at + size))

    def call(self, name: str, *args: int) -> int:
        return self.exports[name](self.store, *args)


def test_the_contract_in_wasmtime(tmp_path: Path) -> None:
    build(DEMO / "digits_mlp.onnx", tmp_path, platform="wasm", name="m", cache=False)
    images = np.ascontiguousarray(load_images()[0].reshape(200, 64)[:5])
    guest = Guest(tmp_path)
    weights = guest.take((tmp_path / "m.weights").read_bytes()) + 64
    dims, plan = guest.take(struct.pack("<q", 5)), guest.take(bytes(8 * 5))
    guest.call("plan", dims, plan)
    arena_bytes, _, threads, batch, classes = struct.unpack("<5q", guest.read(plan, 40))
    assert (batch, classes) == (5, 10)
    assert threads >= 1
    image, logits = guest.take(images.tobytes()), guest.take(bytes(4 * 50))
    arena, io = guest.take(bytes(arena_bytes)), guest.take(struct.pack("<2I", image, logits))
    # host, weights, arena, io, dims, state, trace, padding; error; top, barrier, patience; limit
    top = -(-(guest.top + 256) // 64) * 64
    words = (guest.call("host"), weights, arena, io, dims, 0, 0, 0, *(0,) * 8, top, *(0,) * 7)
    ctx = guest.take(struct.pack(f"<{len(words)}I", *words))
    assert guest.top <= top
    guest.call("run", ctx, 0, 1)
    assert guest.read(ctx + 32, 8) == bytes(8)  # no error
    got = np.frombuffer(guest.read(logits, 200), np.float32).reshape(5, 10)
    said = run_node(tmp_path, "say(plain((await load()).run(arrays)));", {"image": images})
    assert np.array_equal(got, to_arrays(said)["logits"])
