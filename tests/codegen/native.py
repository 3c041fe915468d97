"""Runs emitted LLVM text in this process: object, linked blob, executable pages, ctypes."""

from __future__ import annotations

import ctypes
import functools
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from naru.artifact.link import link
from naru.codegen.llvm import emit_kernel
from naru.codegen.objects import compile_module
from naru.ir.loop import Buffer, Func
from naru.targets import TARGETS, Target, host_features, host_target

X86 = ("x86-64-avx512", "x86-64-avx2", "x86-64-baseline")


def runnable(name: str) -> Target:
    """A target of the table; skips the test where this machine lacks a feature."""
    target = TARGETS[name]
    missing = set(target.features) - host_features()
    if missing or target.arch != "x86_64":
        pytest.skip(f"this machine cannot run {name}")
    return target


def without_tiles() -> Target:
    """This machine's target, as if it had no matrix registers: kernels and errors are then alike on
    all machines."""
    return host_target(mask=("amx-tile",))


class Blob:
    """Linked machine code in executable memory."""

    def __init__(self, texts: Sequence[str], entries: Sequence[str], target: Target) -> None:
        objects = [(f"module {i}", compile_module(t, target)) for i, t in enumerate(texts)]
        linked = link(objects, entries)
        size = -(-max(1, len(linked.code)) // mmap.PAGESIZE) * mmap.PAGESIZE
        access = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        self.pages = mmap.mmap(-1, size, prot=access)
        self.pages.write(linked.code)
        self.offsets = linked.offsets
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.pages))

    def function(self, name: str, *kinds: Any) -> Any:
        """A void function by name."""
        return ctypes.CFUNCTYPE(None, *kinds)(self.start + self.offsets[name])


class Native:
    """A kernel compiled for a target, called with arrays and sizes in the order of its params."""

    def __init__(self, func: Func, target: Target) -> None:
        self.func = func
        self.text = emit_kernel(func, target)
        self.blob = Blob([self.text], [func.name], target)
        kinds = [ctypes.c_void_p] * len(func.buffers)
        kinds += [ctypes.c_int64] * (len(func.sizes) + 2)
        self.entry = self.blob.function(func.name, *kinds)

    def __call__(self, *args: Any, tid: int = 0, n: int = 1) -> None:
        buffers, sizes = [], []
        for param, a in zip(self.func.params, args, strict=True):
            if isinstance(param, Buffer):
                assert isinstance(a, np.ndarray)
                assert a.flags.c_contiguous
                buffers.append(a.ctypes.data)
            else:
                sizes.append(int(a))
        self.entry(*buffers, *sizes, tid, n)


@functools.lru_cache(maxsize=64)
def native(func: Func, target: Target) -> Native:
    """`Native`, made once."""
    return Native(func, target)
