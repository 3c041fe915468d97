"""The `.naru` file: its format, written and read. manifest.py has the manifest as types.

A bundle is a header, a JSON manifest, and sections of raw bytes::

    0      magic (8 bytes), format (u32), zero (u32), file size (u64), manifest size (u64),
           CRC32C of the manifest (u32), CRC32C of the 36 bytes before (u32)          little-endian
    40     manifest: UTF-8 JSON, keys sorted, no spaces
    4096k  sections in the order of their names, each at the next multiple of 4096, so that `code`
           can be mapped executable and `weights` shared by processes; zeros in between

Equal input gives equal bytes: the file holds no time, no path and no random number. Each section
carries its digest (CRC32C over the CRC32Cs of its 1 MiB chunks), the gaps are checked to be zero,
and the header and manifest carry CRCs, so that no flipped byte passes. The digests find damage,
not malice: a bundle is machine code, and loading it means trusting who made it.

The manifest (`?` marks what may be absent; more keys are kept and ignored)::

    format, abi     ints; naru: the version that wrote it
    needs?          [features without which it must not be run]; "host": see runtime/plan.py
    target          {name, triple, features: [LLVM names that the CPU must have]}
    source          {name, sha256?, files?, ...}            options: {...}
    symbols         [{name, lo, hi, kind: "input" | "kernel"}], inputs first; a dim of an input
                    binds an input symbol, a kernel symbol gets its value during the run
    entries         [{name, run, plan, dynamic, inputs, outputs, steps?, pointers?, requires?}]
                    run, plan: offsets in `code` of the functions in abi.h (0 in WebAssembly);
                    inputs: [{name, dtype, shape: [int | symbol name], optional?, widens?:
                    of float64, whether callers may pass other real numbers}];
                    outputs: [{name, dtype, shape: [int | formula text], late?, labels?: texts of
                    the classes, axis?: along which, top_of?: the output that it has the best of}];
                    requires: texts of the conditions on input sizes that plan checks;
                    steps: names of the steps, for errors and times. The first entry is what a call
                    runs; one named "profile" takes and gives the same and keeps times
    states          [] (reserved for named persistent buffers)
    memory          {arena: formula text, ...}
    packed?         [[offset, size, dtype]]: the arrays in the section `weights`, in bytes
    kernels         [{name, ops?, nodes?, why?, calls?, shape?, algorithm?, schedule?, flops?,
                    products?, bytes?, estimate?, offset?, size?}], for explain: flops, bytes and
                    estimate (nanoseconds on one core by a model) are formulas for one call;
                    products those of bf16 in matrix registers for each multiplication; offset
                    and size say where the kernel lies in `code`
    steps?          [{name, nodes: [[name, operator]], reads, writes, why?, body?}], for explain:
                    the steps of main; reads and writes are positions in `tensors`, body the
                    {name, nodes} of the steps inside an If or a Loop
    tensors?        [{dtype, shape, kind: "input" | "output" | "weight" | "value", name?}], likewise
    tolerance?      {rtol, atol}: how far a golden output may be off, as rms over the output:
                    rms(got - want) <= atol + rtol * rms(want)
    rows?           the symbol that is the first dim of every input and output, where row r of each
                    output is made of row r of the inputs alone (passes/independent_rows.py)
    columns?        {name of an input: [names of its columns]}, for tables (runtime/tables.py)
    fallback?       {target, bytes}: the section `fallback` is a whole bundle of the same model,
                    loaded where the CPU lacks a feature that `target` needs
    sections        [{name, offset, size, digest}], written by write_bundle

dtypes are numpy's names, and `bfloat16` and other names of ml_dtypes.

Versions. `format` counts changes of this description that break readers, `abi` those of abi.h that
break code. A runtime reads every format from OLDEST_FORMAT on and runs every ABI from OLDEST_ABI
(abi.h) on, up to its own; newer ones it refuses by number. What may be ignored is added without a
new number: a key, a section. What must not be ignored, but only some bundles use, gets a name
in `needs`; a runtime refuses names that are not in its FEATURES. The header, the place of the
manifest, and its key `naru` are the same in all formats: a refusal can say who wrote the file.
"""

from __future__ import annotations

import json
import os
import re
import struct
import tempfile
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

from ..errors import BundleError
from ..runtime import _native
from ..version import VERSION
from .golden import GoldenCase, unpack_golden
from .manifest import (
    ALIGN,
    Entry,
    Json,
    Reader,
    Section,
    Symbol,
    check_manifest,
    check_records,
    parse_json,
)

FORMAT = OLDEST_FORMAT = 1
FEATURES = frozenset(("host",))  # what this runtime has for `needs`
MAGIC = b"\x89NARU\r\n\x1a"

_HEAD = struct.Struct("<8sIIQQI")  # followed by the CRC of these bytes
_HEADER_SIZE = _HEAD.size + 4
_MAX_MANIFEST = 1 << 30
_SAFE_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,63}")

Bytes = bytes | bytearray | memoryview
BundleParts: TypeAlias = tuple[Mapping[str, Any], Mapping[str, Bytes]]  # manifest, sections
Source = str | os.PathLike[str] | Bytes | IO[bytes]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that has been read and checked. `data` is the whole file, mapped read-only."""

    manifest: Json
    symbols: tuple[Symbol, ...]
    entries: tuple[Entry, ...]
    sections: dict[str, Section]
    image: _native.Image = field(repr=False)
    data: memoryview = field(repr=False)

    def section(self, name: str) -> memoryview:
        """The bytes of a section, without a copy. Raises BundleError when there is none."""
        found = self.sections.get(name)
        if found is None:
            raise BundleError(
                f"the bundle has no section '{name}'; it has {_listed(self.sections)}"
            )
        return self.data[found.offset : found.offset + found.size]

    def golden(self) -> tuple[GoldenCase, ...]:
        """The golden vectors, or () when the bundle has none. Raises BundleError for vectors that
        do not fit the entries."""
        cases = unpack_golden(self.section("golden")) if "golden" in self.sections else ()
        counts = {e.name: (len(e.inputs), len(e.outputs)) for e in self.entries}
        for case in cases:
            if counts.get(case.entry) != (len(case.inputs), len(case.outputs)):
                raise BundleError(f"golden: a case does not fit the entry '{case.entry}'")
        return cases

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the same bytes to a file. Raises BundleError when it cannot be written."""
        with _replacing(path) as file:
            file.write(self.data)


def _listed(names: Mapping[str, object] | Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


# ---- writing ----


def write_bundle(
    dest: str | os.PathLike[str] | IO[bytes],
    manifest: Mapping[str, Any],
    sections: Mapping[str, Bytes],
) -> None:
    """Writes a bundle to a path (atomically: the old file stays until the new one is complete) or
    an open binary file.

    `manifest` is what the module's docstring says, without `sections`. Raises BundleError when it
    breaks that schema or the file cannot be written; then no partial file is left.
    """
    head, table = _layout(manifest, sections)
    written = json.loads(head[_HEADER_SIZE:])
    check_manifest(written, FORMAT, _file_size(table, len(head)))
    check_records(written)
    if isinstance(dest, (str, os.PathLike)):
        with _replacing(dest) as file:
            _write_parts(file, head, table, sections)
        return
    try:
        _write_parts(dest, head, table, sections)
        dest.flush()
    except OSError as error:
        raise BundleError(f"the bundle cannot be written: {error.strerror or error}") from error


def pack_bundle(manifest: Mapping[str, Any], sections: Mapping[str, Bytes]) -> bytes:
    """The bytes that write_bundle would write."""
    file = BytesIO()
    write_bundle(file, manifest, sections)
    return file.getvalue()


def make_bundle(manifest: Mapping[str, Any], sections: Mapping[str, Bytes]) -> Bundle:
    """A bundle that has no file: written to anonymous memory and read back like any other. Raises
    BundleError also where there is no room for it."""
    try:
        with _memory_file() as file:
            write_bundle(file, manifest, sections)
            return read_bundle(file, verify=False)
    except OSError as error:  # while the file is closed, whose rest is written then
        raise BundleError(f"the bundle cannot be written: {error.strerror or error}") from error


def _memory_file() -> IO[bytes]:
    try:
        return os.fdopen(os.memfd_create("naru", os.MFD_CLOEXEC), "w+b")
    except (AttributeError, OSError):  # an old kernel, or a sandbox that forbids it
        return tempfile.TemporaryFile()


def _layout(
    manifest: Mapping[str, Any], sections: Mapping[str, Bytes]
) -> tuple[bytes, tuple[Section, ...]]:
    """Header with manifest, and the table of sections.

    Where the sections start depends on the manifest's length, which depends on the offsets' digits;
    a start that is found to be too early is moved on, so this ends after two or three rounds.
    """
    if "sections" in manifest:
        raise BundleError("the manifest must not bring its own 'sections'")
    for name in sections:
        if not _SAFE_NAME.fullmatch(name):
            raise BundleError(f"'{name}' is not a section name")
    digests = {name: _native.digest(sections[name]) for name in sorted(sections)}
    start = ALIGN
    while True:
        table: list[Section] = []
        offset = start
        for name, digest in digests.items():
            size = memoryview(sections[name]).nbytes
            table.append(Section(name, offset, size, digest))
            offset = _align(offset + size)
        text = _dump({**manifest, "sections": [_section_json(s) for s in table]})
        if _HEADER_SIZE + len(text) <= start:
            break
        start = _align(_HEADER_SIZE + len(text))
    size = _file_size(table, _HEADER_SIZE + len(text))
    head = _HEAD.pack(MAGIC, FORMAT, 0, size, len(text), _native.crc32c(text))
    return head + struct.pack("<I", _native.crc32c(head)) + text, tuple(table)


def _align(offset: int) -> int:
    return -(-offset // ALIGN) * ALIGN


def _file_size(table: Sequence[Section], head: int) -> int:
    return table[-1].offset + table[-1].size if table else head


def _section_json(section: Section) -> Json:
    return {
        "name": section.name,
        "offset": section.offset,
        "size": section.size,
        "digest": section.digest,
    }


def _dump(manifest: Json) -> bytes:
    try:
        text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BundleError(f"the manifest is not plain JSON: {error}") from error
    return text.encode()


def _write_parts(
    file: IO[bytes], head: bytes, table: Sequence[Section], sections: Mapping[str, Bytes]
) -> None:
    file.write(head)
    at = len(head)
    for section in table:
        file.write(bytes(section.offset - at))
        file.write(sections[section.name])
        at = section.offset + section.size


@contextmanager
def _replacing(path: str | os.PathLike[str]) -> Generator[IO[bytes]]:
    """A new file beside `path` that takes its place when the block ends well. A link stays: what it
    points to is replaced."""
    if not isinstance(cast(object, path), (str, os.PathLike)):
        raise BundleError(f"expected a path to save to, got {type(path).__name__}")
    target = Path(path)
    temporary: Path | None = None
    try:
        if target.is_symlink():
            target = target.resolve()
        if not target.name or (target.exists() and not target.is_file()):
            raise BundleError(
                "expected the name of a file, found a directory, a device or nothing",
                where=str(path) or "''",
                hint="the path of a new file, or of one that may be replaced",
            )
        temporary = target.with_name(f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise BundleError(
            f"the bundle cannot be written: {error.strerror or error}",
            where=str(target),
            hint="a folder that exists, may be written and has room",
        ) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # some file systems cannot; the file itself is safe
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


# ---- reading ----


def read_bundle(
    source: Source, *, verify: bool = True, but: Collection[str] = (), records: bool = True
) -> Bundle:
    """Maps a bundle from a path or an open file, or copies it from bytes, and checks all of it.

    `verify=False` skips the digests of the sections (a large file is then read only where used);
    `but` names sections to skip (Section.check does it later), `records=False` leaves to
    `check_records` what it checks.
    Raises BundleError, which says what is wrong: not a bundle, another version, damaged.
    """
    where = str(source) if isinstance(source, (str, os.PathLike)) else None
    try:
        image = _open_image(source)
        data = memoryview(image)
        version, manifest = _read_manifest(data)
        _check_versions(version, manifest)
        symbols, entries, sections = check_manifest(manifest, version, len(data))
        if records:
            check_records(manifest)
        _check_layout(data, sections)
        for section in sections:
            if verify and section.name not in but:
                section.check(data)
    except BundleError as error:
        if where and error.where is None:
            raise BundleError(error.message, where=where, hint=error.hint) from None
        raise
    return Bundle(manifest, symbols, entries, {s.name: s for s in sections}, image, data)


def _open_image(source: Source) -> _native.Image:
    try:
        if isinstance(source, (str, os.PathLike)):
            with Path(source).open("rb") as file:
                return _native.Image(file.fileno())
        if isinstance(source, (bytes, bytearray, memoryview)):
            return _native.Image(source)
        if not hasattr(source, "fileno"):
            kind = type(source).__name__
            raise BundleError(f"expected a path, bytes or an open file, got {kind}")
        return _native.Image(source.fileno())
    except FileNotFoundError:
        raise BundleError("there is no such file") from None
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) else None
        raise BundleError(f"the bundle cannot be read: {text or error}") from error


def _read_manifest(data: memoryview) -> tuple[int, Json]:
    """The format and the manifest, which are found the same way in every format."""
    if len(data) < _HEADER_SIZE:
        raise BundleError(f"not a naru bundle: {len(data)} bytes are less than a header")
    magic, version, zero, size, length, crc = _HEAD.unpack(data[: _HEAD.size])
    if magic != MAGIC:
        raise BundleError("not a naru bundle: it does not start with the magic number")
    (head_crc,) = struct.unpack("<I", data[_HEAD.size : _HEADER_SIZE])
    if head_crc != _native.crc32c(data[: _HEAD.size]):
        raise BundleError("damaged: the header does not match its checksum")
    if zero != 0 or size != len(data):
        raise BundleError(f"damaged: expected {size} bytes, the file has {len(data)}")
    if length > min(_MAX_MANIFEST, size - _HEADER_SIZE):
        raise BundleError(f"damaged: the manifest's {length} bytes do not fit in the file")
    text = data[_HEADER_SIZE : _HEADER_SIZE + length]
    if _native.crc32c(text) != crc:
        raise BundleError("damaged: the manifest does not match its checksum")
    manifest = parse_json(bytes(text), "the manifest")
    if not isinstance(manifest, dict):
        raise BundleError("the manifest is not a JSON object")
    return version, cast(Json, manifest)


def _check_versions(version: int, manifest: Json) -> None:
    """Refuses a format that this runtime does not read, and needs that it does not meet."""
    check_range(manifest, "format", version, OLDEST_FORMAT, FORMAT)
    needs = Reader(manifest, "$").texts("needs", required=False)
    unknown = [name for name in needs if name not in FEATURES]
    if unknown:
        listed = _listed(unknown)
        raise BundleError(
            f"{_made_by(manifest)} and needs {listed}, which naru {VERSION} does not have",
            hint=_NEWER_HINT,
        )


_NEWER_HINT = f"upgrade naru or naru-runtime, or compile the model with naru {VERSION}"


def check_range(manifest: Json, what: str, found: int, oldest: int, newest: int) -> None:
    """Raises BundleError when a version of the bundle is outside what this runtime takes."""
    if oldest <= found <= newest:
        return
    taken = str(newest) if oldest == newest else f"{oldest} to {newest}"
    raise BundleError(
        f"{_made_by(manifest)} with {what} {found}; naru {VERSION} takes {what} {taken}",
        hint=_NEWER_HINT if found > newest else f"compile the model again, with naru {VERSION}",
    )


def _made_by(manifest: Json) -> str:
    maker = manifest.get("naru")
    return f"made by naru {maker}" if isinstance(maker, str) else "made by another naru"


def _check_layout(data: memoryview, sections: Sequence[Section]) -> None:
    """Sections follow each other, and the gaps are zero."""
    (length,) = struct.unpack_from("<Q", data, 24)
    at = _HEADER_SIZE + length
    for section in sorted(sections, key=lambda s: (s.offset, s.size)):
        if section.offset < at:
            raise BundleError(f"section '{section.name}' overlaps what is before it")
        if section.offset - at >= ALIGN or any(data[at : section.offset]):
            raise BundleError(f"damaged: stray bytes before section '{section.name}'")
        at = section.offset + section.size
    if at != len(data):
        raise BundleError("damaged: stray bytes at the end")
