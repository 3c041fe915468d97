"""What a library says of itself, read from its file without loading it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, cast

from naru.artifact.bundle import read_bundle
from naru.artifact.link import LinkError
from naru.artifact.manifest import MAX_DIM, Reader, parse_json
from naru.artifact.wasm import custom_section
from naru.errors import BundleError, InputError
from naru.library.provenance import FORMAT, provenance
from naru.library.signature import Signature
from naru.library.weights import describe_weights

SECTION = "naru"  # of a WebAssembly module; in ELF ".naru"
_ELF, _WASM, _BUNDLE = b"\x7fELF", b"\0asm", b"\x89NARU"
_ARCHIVE = b"!<arch>\n"


def read_provenance(path: Path) -> dict[str, Any]:
    """The record of a shared or static library or an object (ELF), a WebAssembly module, a bundle,
    or a library's JSON file (see provenance.py). Nothing of the file is run. InputError for a file
    that has none or is damaged; BundleError for a bundle that cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    head = data[:8]
    if head[:5] == _BUNDLE:
        return _of_bundle(path)
    try:
        if head == _ARCHIVE:
            data, head = _member(data), _ELF
        if head[:4] == _ELF:
            text = _elf_section(data, "." + SECTION)
        elif head[:4] == _WASM:
            text = custom_section(data, SECTION)
        else:
            text = data if data.lstrip()[:1] == b"{" else None
    except (LinkError, struct.error, IndexError, UnicodeDecodeError, ValueError, OverflowError):
        raise InputError(f"{path}: a damaged library: its sections cannot be read") from None
    if text is None:
        raise InputError(
            f"{path}: says nothing of where it comes from; expected a library, a module, a "
            "bundle or a JSON file that naru wrote",
        )
    return _parse(text, path)


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    try:
        value = parse_json(text, "it")
    except BundleError as error:
        raise InputError(f"{path}: its record is damaged: {error.message}") from None
    record = cast("dict[str, Any]", value)
    if not isinstance(value, dict) or "naru" not in record or "levels" not in record:
        raise InputError(f"{path}: it is not a record that naru wrote")
    if record.get("format") != FORMAT:
        raise InputError(
            f"{path}: its record has the format {record.get('format')}, this naru reads {FORMAT}",
            hint="a newer naru",
        )
    return _checked(record, path)


def _checked(record: dict[str, Any], path: Path) -> dict[str, Any]:
    try:
        _check(Reader(record, "$"))
    except BundleError as error:
        problem = str(error).removeprefix("manifest: ")
        raise InputError(f"{path}: its record is damaged: {problem}") from None
    return record


def _check(record: Reader) -> None:
    """What `naru inspect` tells is there. Raises BundleError."""
    for symbol in record.objects("symbols"):
        symbol.text("name")
        symbol.number("lo", 0, MAX_DIM)
        symbol.number("hi", 0, MAX_DIM)
    for key in ("naru", "name", "platform"):
        record.text(key)
    for key in ("source", "options", "sbom"):
        record.object(key)
    memory = record.object("memory")
    memory.text("arena")
    if "where" in memory.value:
        memory.object("where")
    weights = record.object("weights")
    weights.number("size", 0, MAX_DIM)
    weights.text("sha256")
    for level in record.objects("levels"):
        level.text("name")
        level.number("code", 0, MAX_DIM)
        level.number("kernels", 0, MAX_DIM)
    for tensor in (*record.objects("inputs"), *record.objects("outputs")):
        tensor.text("name")
        tensor.text("dtype")
        tensor.items("shape")
        tensor.texts("labels", required=False)


def _of_bundle(path: Path) -> dict[str, Any]:
    bundle = read_bundle(path)
    manifest = bundle.manifest
    if "host" in manifest:
        raise BundleError(
            f"{path}: a model that runs partly on the host", hint=f"naru explain {path}"
        )
    sections = {n: bundle.section(n) for n in bundle.sections}
    name = manifest["source"].get("name") or path.stem
    signature = Signature(name, (), (), (), 0, 0, (), ())
    weights = describe_weights(sections.get("weights", memoryview(b"")))
    if not isinstance(manifest["source"].get("files", {}), dict):
        raise InputError(f"{path}: its record is damaged: $.source.files: expected an object")
    record = provenance([(manifest, sections)], signature, weights, platform="naru")
    if "fallback" in manifest:
        record["fallback"] = manifest["fallback"]
    return _checked(record, path)


def _member(data: bytes) -> bytes:
    """The first ELF file in an archive of `ar`: members of 60 bytes of head, sizes in decimal."""
    at = len(_ARCHIVE)
    while at + 60 <= len(data):
        digits = data[at + 48 : at + 58].strip()
        if not digits.isdigit():
            raise ValueError("a size that is none")
        size = int(digits)
        content = data[at + 60 : at + 60 + size]
        if content[:4] == _ELF:
            return content
        at += 60 + size + size % 2
    raise ValueError("no object in it")


def _elf_section(data: bytes, wanted: str) -> bytes | None:
    """The content of a section of a 64-bit little-endian ELF file."""
    if data[4:6] != b"\2\1":
        raise ValueError("not a 64-bit little-endian file")
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    rows = [struct.unpack_from("<IIQQQQ", data, table + k * size) for k in range(count)]
    for name, _, _, _, offset, length in rows:
        start = rows[names][4] + name
        if data[start : data.index(b"\0", start)].decode() == wanted:
            if offset + length > len(data):
                raise ValueError("cut short")
            return data[offset : offset + length]
    return None
