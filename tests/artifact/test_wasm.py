"""The linker of WebAssembly objects. Engines run its modules in tests/targets/test_proof.py too."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from naru.artifact.link import LinkError
from naru.artifact.wasm import (
    DATA_START,
    WasmModule,
    custom_section,
    imported_pages,
    link_wasm,
    with_custom_section,
    with_shared_memory,
)
from naru.codegen.objects import compile_module
from naru.targets import TARGETS
from tests.targets.machine import need

TARGET = TARGETS["wasm32-simd128"]

# Two objects that call each other, read constants, use the stack and call through a pointer.
FIRST = """
@table = private constant [4 x i32] [i32 10, i32 20, i32 30, i32 40], align 64
declare i32 @twice(i32)
declare i32 @apply(ptr, i32)

define i32 @look(i32 %i) {
  %p = getelementptr i32, ptr @table, i32 %i
  %x = load i32, ptr %p
  %y = call i32 @twice(i32 %x)
  ret i32 %y
}

define i32 @through(i32 %x) {
  %y = call i32 @apply(ptr @twice, i32 %x)
  ret i32 %y
}
"""
SECOND = """
@pointer = private constant ptr @twice
define i32 @twice(i32 %x) noinline {
  %y = mul i32 %x, 2
  ret i32 %y
}

define i32 @apply(ptr %f, i32 %x) {
  %slot = alloca i32
  store volatile i32 %x, ptr %slot
  %v = load volatile i32, ptr %slot
  %y = call i32 %f(i32 %v)
  ret i32 %y
}

define i32 @stored(i32 %x) {
  %f = load volatile ptr, ptr @pointer
  %y = call i32 %f(i32 %x)
  ret i32 %y
}
"""
ENTRIES = ("look", "through", "stored")


def objects() -> list[tuple[str, bytes]]:
    return [("first", compile_module(FIRST, TARGET)), ("second", compile_module(SECOND, TARGET))]


def linked(**options: bool) -> WasmModule:
    return link_wasm(objects(), ENTRIES, **options)


def test_deterministic_and_small() -> None:
    module = linked()
    assert module == linked()
    assert module.code.startswith(b"\0asm\1\0\0\0")
    assert len(module.code) < 500
    assert module.heap_base % 64 == 0
    assert DATA_START + module.stack <= module.heap_base <= module.pages * 65536


def test_problems_are_listed_together() -> None:
    writable = compile_module("@state = global i32 7\ndefine ptr @f() { ret ptr @state }", TARGET)
    with pytest.raises(LinkError) as caught:
        link_wasm([*objects(), objects()[1], ("third", writable)], ["look", "missing"])
    text = str(caught.value)
    assert "'twice' is defined by both second and second" in text
    assert "third: .data.state is writable data, 4 bytes" in text
    assert "no object defines the entry 'missing'" in text


def test_undefined_functions_are_named() -> None:
    with pytest.raises(LinkError, match="'twice' is undefined, used by first"):
        link_wasm(objects()[:1], ["look"])


@pytest.mark.parametrize("end", [0, 4, 9, 40, 200, -1])
def test_truncated_objects_are_refused(end: int) -> None:
    with pytest.raises(
        LinkError, match=r"broken: (not a WebAssembly|a truncated|it has no symbols)"
    ):
        link_wasm([("broken", objects()[0][1][:end])], ["look"])


def test_a_linked_module_is_not_an_object() -> None:
    with pytest.raises(LinkError, match="not expected in an object"):
        link_wasm([("done", linked().code)], ["look"])


# Frames of 16, of 1000 (on a boundary of 64, which takes up to 63 more) and of 70000 bytes.
FRAMES = """
declare void @keep(ptr)
define void @top() {
  call void @small()
  call void @large()
  ret void
}
define void @small() noinline {
  %x = alloca [16 x i8], align 16
  call void @keep(ptr %x)
  ret void
}
define void @large() noinline {
  %x = alloca [70000 x i8], align 16
  call void @aligned()
  call void @keep(ptr %x)
  ret void
}
define void @aligned() noinline {
  %x = alloca [1000 x i8], align 64
  call void @keep(ptr %x)
  ret void
}
"""
KEEP = "define void @keep(ptr %x) noinline {\n  store volatile i8 0, ptr %x\n  ret void\n}"


def test_the_stack_is_as_deep_as_calls_are() -> None:
    parts = [("frames", compile_module(FRAMES, TARGET)), ("keep", compile_module(KEEP, TARGET))]
    module = link_wasm(parts, ["top"])
    assert 71000 <= module.stack <= 71000 + 3 * 64
    assert linked().stack <= 64


def test_endless_calls_are_refused() -> None:
    around = """
    define i32 @apply(ptr %f, i32 %x) noinline {
      %y = call i32 @stored(i32 %x)
      %z = add i32 %y, 1
      ret i32 %z
    }
    define i32 @stored(i32 %x) noinline {
      %y = call i32 @apply(ptr null, i32 %x)
      %z = mul i32 %y, 3
      ret i32 %z
    }
    define i32 @twice(i32 %x) { ret i32 %x }
    """
    with pytest.raises(LinkError, match="functions call each other in a circle"):
        link_wasm([("around", compile_module(around, TARGET))], ["apply"])


def test_memory_that_is_shared() -> None:
    module = linked(import_memory=True)
    shared = with_shared_memory(module.code, 300)
    assert imported_pages(module.code) == module.pages
    assert len(shared) == len(module.code) + 2  # the maximum
    assert with_shared_memory(module.code, 300) == shared
    for code in (shared, linked().code):
        with pytest.raises(LinkError, match="imports a memory that is not shared"):
            with_shared_memory(code, 300)
    for code in (b"", module.code[:-3], b"ELF" + module.code):
        with pytest.raises(LinkError, match=r"not a WebAssembly module|truncated or malformed"):
            custom_section(code, "x")


def test_custom_sections() -> None:
    code = with_custom_section(with_custom_section(linked().code, "a", b"1"), "naru", b"{}" * 90)
    assert custom_section(code, "naru") == b"{}" * 90
    assert custom_section(code, "a") == b"1"
    assert custom_section(code, "b") is None


CALLS = """
const fs = require("fs");
const module = new WebAssembly.Module(fs.readFileSync(process.argv[1]));
const memory = new WebAssembly.Memory({ initial: 10 });
const { exports: e } = new WebAssembly.Instance(module, { env: { memory } });
const found = [e.look(0), e.look(3), e.through(21), e.stored(8)];
const names = WebAssembly.Module.exports(module).map((x) => x.name).sort();
const imports = WebAssembly.Module.imports(module).map((x) => x.name);
console.log(JSON.stringify([found, names, imports]));
"""


@pytest.mark.slow
@pytest.mark.parametrize("import_memory", [False, True])
def test_in_node(import_memory: bool, tmp_path: Path) -> None:
    path = tmp_path / "module.wasm"
    path.write_bytes(linked(import_memory=import_memory).code)
    command = [need("node", "nodejs"), "-e", CALLS, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found, names, imports = json.loads(done.stdout)
    assert found == [20, 80, 42, 16]
    extra = ["__heap_base", "__indirect_function_table", "__stack_low", "__stack_pointer"]
    assert names == sorted([*ENTRIES, *extra, *([] if import_memory else ["memory"])])
    assert imports == (["memory"] if import_memory else [])
