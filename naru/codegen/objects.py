"""LLVM text to object code, and what can be read off the result: spills, undefined symbols.

Modules compile in worker processes (`serve`, fed over pipes) when there is enough to do: llvmlite
holds one global lock, so threads gain nothing, and multiprocessing would run the user's main again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import llvmlite
from llvmlite import binding

from naru import knobs
from naru.codegen.workers import WorkerPool, serve
from naru.errors import IRError, NaruError
from naru.targets import Target


class ObjectStore(Protocol):
    """Where compiled objects are kept: `artifact.cache.Cache` is one."""

    def get(self, key: str) -> bytes | None:
        """The bytes stored under a key, or None."""
        ...

    def put(self, key: str, data: bytes) -> object:
        """Stores bytes; never fails."""
        ...


# ---- one module ----


@cache
def _initialise() -> None:
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()


@cache
def _machine(target: Target, opt: int) -> binding.TargetMachine:
    _initialise()
    # Stand-alone wasm knows no position-independent code.
    reloc = "static" if target.arch == "wasm32" else "pic"
    return binding.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu,
        features=target.feature_string,
        opt=opt,
        reloc=reloc,
        codemodel="small",
    )


_DEFINE = re.compile(r"^(define\b.*\))([^)\n]*?)((?: ![^\n{]*)?\{)$", re.MULTILINE)


def add_attributes(text: str, target: Target) -> str:
    """The module with the target's function attributes and 64-byte alignment on every `define`."""

    def extend(m: re.Match[str]) -> str:
        head, rest, tail = m.groups()
        align = "" if re.search(r"\balign \d", rest) else " align 64"
        return f"{head} {target.attributes}{rest.rstrip()}{align} {tail.lstrip()}"

    return _DEFINE.sub(extend, text)


def _optimised(text: str, target: Target, opt: int) -> binding.ModuleRef:
    """Parses, verifies, optimises; in a context of its own, so that history does not matter."""
    machine = _machine(target, opt)
    try:
        module = binding.parse_assembly(add_attributes(text, target), binding.create_context())
        module.triple = target.triple
        module.data_layout = target.data_layout
        module.verify()
    except RuntimeError as e:
        raise IRError([f"LLVM refuses the module: {str(e).strip()}"]) from None
    tuning = binding.create_pipeline_tuning_options(speed_level=opt)
    # Schedules decide what becomes a vector; LLVM's vectorisers would only cost compile time.
    tuning.loop_vectorization = False
    tuning.slp_vectorization = False
    tuning.loop_interleaving = False
    builder = binding.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(module, builder)
    return module


def compile_module(text: str, target: Target, *, opt: int = 2) -> bytes:
    """The relocatable object file (ELF, or wasm) of one module of LLVM text; deterministic.

    IRError quotes what LLVM's parser or verifier says against the text.
    """
    return _machine(target, opt).emit_object(_optimised(text, target, opt))


def assembly(text: str, target: Target, *, opt: int = 2) -> str:
    """The assembly text of what `compile_module` emits."""
    return _machine(target, opt).emit_assembly(_optimised(text, target, opt))


def optimised_text(text: str, target: Target, *, opt: int = 2) -> str:
    """The LLVM text after the optimiser, for dumps."""
    return str(_optimised(text, target, opt))


# ---- many modules ----

# Seconds a byte of text takes to compile, and seconds until a worker is ready (both measured on one
# core); workers are worth starting when they save more than they cost.
_SECONDS_A_BYTE = 1e-6
_SECONDS_A_WORKER = 0.15


def compile_modules(
    texts: Sequence[str],
    target: Target,
    *,
    opt: int = 2,
    store: ObjectStore | None = None,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[bytes]:
    """The object of each text, in order; each distinct text is compiled once, and not at all when
    `store` has it.

    `workers`: processes to use, 0 for none (default: the knob, else by the amount of text).
    `on_progress(done, total)` counts distinct texts, from this thread.
    """
    keys = {text: object_key(text, target, opt) for text in dict.fromkeys(texts)}
    done: dict[str, bytes] = {}
    for text, key in keys.items():
        found = store.get(key) if store else None
        if found is not None:
            done[text] = found
    todo = [t for t in keys if t not in done]

    def finish(text: str, obj: bytes) -> None:
        done[text] = obj
        if store:
            store.put(keys[text], obj)
        if on_progress:
            on_progress(len(done), len(keys))

    if on_progress and done:
        on_progress(len(done), len(keys))
    count = _worker_count(todo, workers)
    if count == 0:
        for text in todo:
            finish(text, compile_module(text, target, opt=opt))
    else:
        settings = json.dumps({"target": asdict(target), "opt": opt}).encode()
        # The longest first, so that no worker is left alone with it at the end.
        todo.sort(key=len, reverse=True)
        with WorkerPool("naru.codegen.objects", settings, count) as pool:
            for k, (ok, reply) in pool.run([t.encode() for t in todo]):
                if not ok:
                    raise IRError([reply.decode()])
                finish(todo[k], reply)
    return [done[t] for t in texts]


def _worker_count(todo: Sequence[str], workers: int | None) -> int:
    asked = knobs.current().workers if workers is None else workers
    if asked is not None:
        return min(asked, len(todo))
    seconds = sum(map(len, todo)) * _SECONDS_A_BYTE
    count = min(usable_cpus(), len(todo), int(seconds / _SECONDS_A_WORKER))
    return count if count > 1 and sys.executable else 0


def usable_cpus() -> int:
    """CPUs this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def llvm_version() -> str:
    """The versions that decide what code comes out: llvmlite's and LLVM's."""
    return f"llvmlite {llvmlite.__version__}, LLVM {'.'.join(map(str, binding.llvm_version_info))}"


@cache
def _recipe() -> bytes:
    return Path(__file__).read_bytes() + llvm_version().encode()


def object_key(text: str, target: Target, opt: int = 2) -> str:
    """The key of a text's object: everything that decides its bytes."""
    digest = hashlib.blake2b(_recipe(), digest_size=20)
    digest.update(f"\0object\0{opt}\0{target!r}\0".encode())
    digest.update(text.encode())
    return digest.hexdigest()


def main() -> None:
    """A worker process: answers modules of LLVM text with objects (see workers.py)."""

    def make(settings: bytes) -> Callable[[bytes], bytes]:
        values: dict[str, Any] = json.loads(settings)
        fields: dict[str, Any] = values["target"]
        fields["features"] = tuple(fields["features"])
        target = Target(**fields)
        opt: int = values["opt"]

        def answer(text: bytes) -> bytes:
            try:
                return compile_module(text.decode(), target, opt=opt)
            except IRError as e:
                # The parent makes the IRError; the words around the problems are its business.
                raise NaruError("\n".join(e.problems)) from None

        return answer

    serve(make)


# ---- what the result says ----

_X86_VECTOR = re.compile(r"%[xyzt]mm\d+")
_X86_STACK = re.compile(r"(-?\w*\(%r[sb]p[^)]*\))")
_ARM_VECTOR = re.compile(r"^\s+(?:ldr|str|ldp|stp|ldur|stur)\s+q\d+.*\[sp")
_LABEL = re.compile(r'^("?)([A-Za-z_.$][^"]*?)\1:')


def spills_by_function(asm: str) -> dict[str, int]:
    """How many instructions of each function move vector or tile registers to or from the stack.

    Reads what `assembly` prints for x86-64 and aarch64; wasm has no registers to spill. Register
    arrays that LLVM left in memory count too: they are just as slow.
    """
    counts: dict[str, int] = {}
    name = ""
    body: list[str] = []
    for line in [*asm.splitlines(), "end:"]:
        label = _LABEL.match(line)
        # Labels that start with a dot are local: blocks and constants.
        if label and not label.group(2).startswith("."):
            if name:
                counts[name] = _count_in(body)
            name, body = label.group(2), []
        elif line.lstrip().startswith(".section"):
            if name:
                counts[name] = _count_in(body)
            name = ""
        else:
            body.append(line)
    return counts


def _count_in(body: list[str]) -> int:
    # The 64 bytes that configure the tiles are written by a vector store: not a spill.
    configuration: set[str] = set()
    framed = any("%rsp, %rbp" in line for line in body)
    for line in body:
        if "ldtilecfg" in line:
            configuration.update(_X86_STACK.findall(line))
    count = 0
    for line in body:
        if _ARM_VECTOR.match(line):
            count += 1
            continue
        at = _X86_STACK.search(line)
        if not at or not _X86_VECTOR.search(line) or at.group(1) in configuration:
            continue
        count += framed or "%rbp" not in at.group(1)
    return count


def count_spills(asm: str) -> int:
    """The sum of `spills_by_function`: a schedule of a hot kernel should have none."""
    return sum(spills_by_function(asm).values())


def undefined_symbols(obj: bytes) -> tuple[str, ...]:
    """Names of functions and data that an object file refers to but does not define, sorted.

    Reads 64-bit ELF and wasm; IRError for anything else.
    """
    if obj[:6] == b"\x7fELF\x02\x01":
        return tuple(sorted(_undefined_in_elf(obj)))
    if obj[:8] == b"\0asm\1\0\0\0":
        return tuple(sorted(_imported_by_wasm(obj)))
    raise IRError(["an object file is neither 64-bit ELF nor wasm"])


def _undefined_in_elf(obj: bytes) -> set[str]:
    (table,) = struct.unpack_from("<Q", obj, 40)
    size, count = struct.unpack_from("<HH", obj, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", obj, table + k * size) for k in range(count)]
    found: set[str] = set()
    for header in headers:
        kind, offset, length, link, entry = (header[k] for k in (1, 4, 5, 6, 9))
        if kind != 2:  # SHT_SYMTAB
            continue
        strings = headers[link][4]
        for at in range(offset, offset + length, entry):
            name, _, _, section = struct.unpack_from("<IBBH", obj, at)
            if name and section == 0:
                start = strings + name
                found.add(obj[start : obj.index(b"\0", start)].decode())
    return found


def _imported_by_wasm(obj: bytes) -> set[str]:
    """Functions of the import section. (Memory, table and stack pointer are always imported.)"""
    at = 8
    while at < len(obj):
        section = obj[at]
        length, at = _leb(obj, at + 1)
        if section == 2:
            return _functions_of_imports(obj, at)
        at += length
    return set()


def _functions_of_imports(obj: bytes, at: int) -> set[str]:
    found: set[str] = set()
    count, at = _leb(obj, at)
    for _ in range(count):
        length, at = _leb(obj, at)
        at += length  # the module's name: env
        length, at = _leb(obj, at)
        name, at = obj[at : at + length].decode(), at + length
        kind, at = obj[at], at + 1
        if kind == 0:
            found.add(name)
        at = _skip_import(obj, at, kind)
    return found


def _skip_import(obj: bytes, at: int, kind: int) -> int:
    """Past the description of an import: 0 function, 1 table, 2 memory, 3 global, 4 tag."""
    if kind == 3:
        return at + 2  # value type, mutability
    if kind in (1, 4):
        at += 1  # element type; attribute
    if kind in (0, 4):
        return _leb(obj, at)[1]
    flags, at = _leb(obj, at)
    for _ in range(2 if flags & 1 else 1):
        _, at = _leb(obj, at)
    return at


def _leb(obj: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = obj[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
