"""Linking: what the blob computes, where things lie, and what is refused."""

from __future__ import annotations

import ctypes
import mmap
import platform

import pytest

from naru.artifact.link import LinkError, link
from tests.runtime.programs import compile_ir

AARCH64 = "aarch64-unknown-linux-gnu"
TABLE = "@table = {linkage} constant [4 x i64] [i64 10, i64 20, i64 30, i64 40]\n"
LOOK_UP = """
define i64 @look_up(i64 %k) align 64 {
  %p = getelementptr [4 x i64], ptr @table, i64 0, i64 %k
  %v = load i64, ptr %p
  ret i64 %v
}
"""
CALLER = """
declare i64 @look_up(i64)
define i64 @twice(i64 %k) {
  %a = call i64 @look_up(i64 %k)
  %b = mul i64 %a, 2
  ret i64 %b
}
"""
SWITCH = """
define double @switch(i64 %k, double %x) {
  switch i64 %k, label %other [
    i64 0, label %a
    i64 1, label %b
    i64 2, label %c
    i64 3, label %d
    i64 4, label %e
  ]
a:
  %va = fadd double %x, 1.5
  ret double %va
b:
  %vb = fmul double %x, 2.5
  ret double %vb
c:
  %vc = fdiv double 3.5, %x
  ret double %vc
d:
  %vd = fsub double 4.5, %x
  ret double %vd
e:
  %ve = fdiv double %x, 5.5
  ret double %ve
other:
  ret double 0.125
}
"""

native = pytest.mark.skipif(platform.machine() != "x86_64", reason="runs x86-64 code")


def callable_at(code: bytes, offset: int, restype: type, *argtypes: type):
    """A ctypes function at an offset of a blob, and the memory to keep alive."""
    memory = mmap.mmap(-1, len(code), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return ctypes.CFUNCTYPE(restype, *argtypes)(address + offset), memory


@native
@pytest.mark.parametrize("linkage", ["internal", "hidden", "external"])
def test_calls_and_constants_across_objects(linkage: str) -> None:
    table = TABLE.format(linkage="" if linkage == "external" else linkage)
    objects = [("a.o", compile_ir(CALLER)), ("b.o", compile_ir(table + LOOK_UP))]
    linked = link(objects, ["twice", "look_up"])
    twice, _memory = callable_at(
        linked.code, linked.offsets["twice"], ctypes.c_int64, ctypes.c_int64
    )
    assert [twice(k) for k in range(4)] == [20, 40, 60, 80]


@native
def test_jump_tables_and_constant_pools() -> None:
    linked = link([("s.o", compile_ir(SWITCH))], ["switch"])
    switch, _memory = callable_at(
        linked.code, linked.offsets["switch"], ctypes.c_double, ctypes.c_int64, ctypes.c_double
    )
    assert [switch(k, 2.0) for k in range(6)] == [3.5, 5.0, 1.75, 2.5, 2.0 / 5.5, 0.125]


@native
def test_address_through_the_offset_table_becomes_direct() -> None:
    """An external function's address is taken through the GOT, which the blob does not have."""
    text = """
    declare i64 @look_up(i64)
    define ptr @address() { ret ptr @look_up }
    define i64 @tail(i64 %k) {
      %r = tail call i64 @look_up(i64 %k) nonlazybind
      ret i64 %r
    }
    """
    text = text.replace("declare i64 @look_up(i64)", "declare i64 @look_up(i64) nonlazybind")
    table = TABLE.format(linkage="internal")
    linked = link(
        [("a", compile_ir(text)), ("b", compile_ir(table + LOOK_UP))], ["address", "tail"]
    )
    tail, _memory = callable_at(linked.code, linked.offsets["tail"], ctypes.c_int64, ctypes.c_int64)
    assert tail(2) == 30


def test_each_text_section_starts_at_a_multiple_of_64() -> None:
    table = TABLE.format(linkage="internal")
    objects = [("a", compile_ir(CALLER)), ("b", compile_ir(table + LOOK_UP))]
    linked = link(objects, ["twice", "look_up"])
    assert all(offset % 64 == 0 for offset in linked.offsets.values())


def test_equal_input_gives_equal_bytes() -> None:
    objects = [("s", compile_ir(SWITCH))]
    assert link(objects, ["switch"]) == link(objects, ["switch"])


def test_aarch64_addresses() -> None:
    """adrp + add of the table, read back from the instructions."""
    text = TABLE.format(linkage="internal") + LOOK_UP
    objects = [("a", compile_ir(CALLER, triple=AARCH64)), ("b", compile_ir(text, triple=AARCH64))]
    linked = link(objects, ["look_up", "twice"])
    at = linked.offsets["look_up"]
    words = [int.from_bytes(linked.code[k : k + 4], "little") for k in range(at, at + 16, 4)]
    adrp = next(w for w in words if w & 0x9F000000 == 0x90000000)
    add = next(w for w in words if w & 0xFFC00000 == 0x91000000)
    page = (adrp >> 29 & 3 | (adrp >> 5 & 0x7FFFF) << 2) << 12
    table = (at & ~0xFFF) + page + (add >> 10 & 0xFFF)
    assert linked.code[table : table + 16] == (10).to_bytes(8, "little") + (20).to_bytes(
        8, "little"
    )


def test_aarch64_offset_table_becomes_direct() -> None:
    text = "@far = external constant i64\ndefine i64 @get() { %v = load i64, ptr @far ret i64 %v }"
    far = "@far = constant i64 77"
    objects = [("a", compile_ir(text, triple=AARCH64)), ("b", compile_ir(far, triple=AARCH64))]
    linked = link(objects, ["get", "far"])
    words = [int.from_bytes(linked.code[k : k + 4], "little") for k in range(0, 16, 4)]
    assert words[1] & 0xFFC00000 == 0x91000000
    assert words[1] >> 10 & 0xFFF == linked.offsets["far"] & 0xFFF


def test_undefined_symbols_are_all_listed_with_their_users() -> None:
    text = """
    declare double @exp(double)
    declare void @memset(ptr, i32, i64)
    define double @f(double %x) {
      call void @memset(ptr null, i32 0, i64 8)
      %y = call double @exp(double %x)
      ret double %y
    }
    """
    with pytest.raises(LinkError) as caught:
        link([("f.o", compile_ir(text))], ["f", "g"])
    assert caught.value.problems == (
        "'memset' is undefined, used by f.o",
        "'exp' is undefined, used by f.o",
        "no object defines the entry 'g'",
    )
    assert "try: define it" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("@state = global i64 5", "w: .data is writable data, 8 bytes (state)"),
        ("@state = global i64 0", "w: .bss is writable data, 8 bytes (state)"),
        ("@state = common global i64 0", "w: 'state' is writable data (a common symbol)"),
        (
            "@x = constant i8 1\n@p = constant ptr @x",
            "w: .data.rel.ro is writable data, 8 bytes (p)",
        ),
    ],
)
def test_writable_data_is_refused(text: str, problem: str) -> None:
    with pytest.raises(LinkError) as caught:
        link([("w", compile_ir(text))], [])
    assert problem in caught.value.problems


def test_absolute_addresses_are_refused() -> None:
    text = TABLE.format(linkage="internal") + LOOK_UP
    with pytest.raises(LinkError, match="an absolute address") as caught:
        link([("a", compile_ir(text, reloc="static", codemodel="large"))], [])
    assert "reloc='pic'" in str(caught.value)


def test_two_definitions_are_refused_and_weak_ones_give_way() -> None:
    strong = compile_ir("define i64 @f() { ret i64 1 }")
    weak = compile_ir("define weak i64 @f() { ret i64 2 }")
    with pytest.raises(LinkError, match="defined by both a and b"):
        link([("a", strong), ("b", strong)], ["f"])
    assert link([("w", weak), ("s", strong)], ["f"]).offsets["f"] == 64


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\x7fELF\x01\x01" + bytes(80), bytes(200)])
def test_what_is_not_an_object_is_refused(data: bytes) -> None:
    with pytest.raises(LinkError):
        link([("x", data)], [])


def test_truncated_objects_are_refused() -> None:
    data = compile_ir(SWITCH)
    for size in range(0, len(data) - 1, 97):
        with pytest.raises(LinkError):
            link([("x", data[:size])], ["switch"])


def test_different_machines_are_refused() -> None:
    text = "define void @f() { ret void }"
    with pytest.raises(LinkError, match="different machines"):
        link([("a", compile_ir(text)), ("b", compile_ir(text, triple=AARCH64))], [])
