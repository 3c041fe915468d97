"""Pickles, looked at without running them.

A pickle is a program: it imports what it likes and calls it. `inspect_pickle` reads the opcodes and
says what would be imported, without importing anything; `load_pickle` runs a file, and only where
its caller says that it is trusted. Files of joblib are pickles with arrays in between; they, and
plain pickles, may be compressed; PyTorch's are pickles in a zip file.

Time and memory are bounded: what is unpacked has a limit, and opcodes are counted
(pickle_scan.py).
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from naru.errors import InputError, ModelError, NaruWarning, UnsupportedError
from naru.frontend.pickle_loading import NotAllowed, load_freely, load_listed
from naru.frontend.pickle_scan import Import, Scan, scan

MOST_BYTES = 1 << 30  # of a pickle, unpacked, that is looked at
MOST_MEMBERS = 10_000  # of a zip file
BLOCK = 1 << 16
HEAD = 4096  # bytes that tell what it is
UNKNOWN_AUTHOR = "do not load it unless you know who wrote it"

GZIP, BZIP2, XZ, ZLIB, ZIP = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x78", b"PK\x03\x04"
LZMA = b"\x5d\x00\x00"

# Its classes do nothing but hold data when they are restored without a call.
SAFE_PACKAGE = "sklearn"
# Modules of compiled classes, which are restored by a call.
CALLED_MODULES = ("sklearn.tree._tree", "sklearn.tree._criterion", "sklearn.tree._splitter",
                  "sklearn._loss._loss", "sklearn.metrics._dist_metrics",
                  "sklearn.linear_model._sgd_fast",
                  "sklearn.neighbors._kd_tree", "sklearn.neighbors._ball_tree",
                  "sklearn.neighbors._quad_tree")  # fmt: skip
# Functions that pickles of these call to restore arrays and the like.
SAFE_NAMES = frozenset(
    {
        "builtins.dict", "builtins.list", "builtins.set", "builtins.frozenset", "builtins.tuple",
        "builtins.int", "builtins.float", "builtins.bool", "builtins.str", "builtins.bytes",
        "builtins.bytearray", "builtins.complex", "builtins.object", "builtins.slice",
        "builtins.range",
        "collections.OrderedDict", "collections.defaultdict", "collections.Counter",
        "copyreg._reconstructor", "copy_reg._reconstructor", "_codecs.encode",
        "datetime.datetime", "datetime.date", "datetime.timedelta", "datetime.time",
        "decimal.Decimal", "fractions.Fraction",
        "numpy.ndarray", "numpy.dtype", "numpy.matrix", "numpy.random.mtrand.RandomState",
        "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
        "numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer",
        "numpy.random._pickle.__randomstate_ctor", "numpy.random._pickle.__generator_ctor",
        "numpy.random._pickle.__bit_generator_ctor", "numpy.random._mt19937.MT19937",
        "numpy.random._pcg64.PCG64", "numpy.random.bit_generator.SeedSequence",
        "numpy.random.bit_generator.__pyx_unpickle_SeedSequence",
        "numpy.ma.core._mareconstruct", "numpy.ma.core.MaskedArray",
        "joblib.numpy_pickle.NumpyArrayWrapper",
        "scipy.sparse._csr.csr_matrix", "scipy.sparse._csc.csc_matrix",
        "scipy.sparse._csr.csr_array", "scipy.sparse._csc.csc_array",
        "scipy.interpolate._interpolate.interp1d", "scipy.interpolate._bsplines.BSpline",
    }
)  # fmt: skip
# Modules of it that reach out of themselves: they read files, or run code.
UNSAFE_MODULES = ("sklearn.datasets", "sklearn.externals", "sklearn.utils._testing",
                  "sklearn.conftest", "sklearn.utils.parallel")  # fmt: skip
NUMPY_SCALARS = ("bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
                 "float16", "float32", "float64", "longdouble", "complex64", "complex128", "str_",
                 "bytes_", "object_", "intp", "datetime64", "timedelta64", "bool")  # fmt: skip
CURE = (
    "a format that holds data only: ONNX; skops' .skops for scikit-learn, which names what it "
    "holds; booster.save_model('m.txt') of LightGBM, or ('m.json') of XGBoost; torch.export's "
    ".pt2; safetensors for weights"
)


# Modules whose functions reach beyond the program: no message proposes to trust them.
DANGEROUS = frozenset(
    ("os", "posix", "nt", "subprocess", "_posixsubprocess", "builtins", "__builtin__", "sys",
     "shutil", "socket", "importlib", "runpy", "pty", "ctypes", "code", "codeop", "commands",
     "webbrowser", "pickle", "_pickle", "marshal", "types", "operator", "_operator", "functools",
     "io", "_io", "pathlib", "tempfile", "urllib", "http", "multiprocessing", "asyncio", "timeit",
     "pdb", "bdb", "profile", "cProfile", "platform", "signal", "threading", "pip", "joblib",
     "imp", "zipimport", "pkgutil", "pydoc", "ftplib", "smtplib", "linecache", "glob")
)  # fmt: skip


def is_dangerous(name: str) -> bool:
    """Does a name that is not known to be safe lie in a module that reaches beyond the program?"""
    harmless = name.endswith(("Error", "Exception", "Warning"))
    return name.split(".")[0] in DANGEROUS and not harmless


def is_safe(i: Import, called: bool = False) -> bool:
    """Is it known to do nothing but restore data? `called`: with arguments that the file has."""
    whole = str(i).replace("__builtin__.", "builtins.")  # as protocol 2 has it
    if whole in SAFE_NAMES or (i.module == "numpy" and i.name in NUMPY_SCALARS):
        return True
    if i.module.split(".")[0] != SAFE_PACKAGE or "." in i.name:
        return False
    if any(i.module == m or i.module.startswith(f"{m}.") for m in UNSAFE_MODULES):
        return False
    if i.name.startswith("__pyx_unpickle_"):
        return True
    # Classes begin with capitals; the functions of the package are not needed.
    is_class = i.name.lstrip("_")[:1].isupper()
    return is_class and (not called or i.module in CALLED_MODULES)


@dataclass(frozen=True)
class Report:
    """What a file would import. `kind`: pickle, joblib or torch; `compression`: of the whole file;
    `opcodes`: how many there are; `unresolved`: imports whose names the file computes."""

    kind: str
    compression: str | None
    protocol: int
    opcodes: int
    imports: tuple[Import, ...]
    unresolved: int = 0
    called: frozenset[Import] = frozenset()
    holds: str | None = None  # what, in words, where that can be told

    @property
    def has_packages(self) -> bool:
        """Are there imports other than those that plain data have?"""
        return any(str(i) not in SAFE_NAMES for i in self.imports)

    @property
    def unknown(self) -> tuple[Import, ...]:
        """The imports that are not known to be safe."""
        return tuple(i for i in self.imports if not is_safe(i, i in self.called))

    @property
    def safe(self) -> bool:
        """Are all imports known?"""
        return not self.unknown and not self.unresolved

    @property
    def cure(self) -> str:
        """What to save instead."""
        return CURE

    def __str__(self) -> str:
        packed = f", {self.compression}" if self.compression else ""
        lines = [f"{self.kind}{packed}, protocol {self.protocol}, {self.opcodes} opcodes"]
        unknown = self.unknown
        lines += [f"  {'UNKNOWN' if i in unknown else 'known  '} {i}" for i in self.imports]
        if self.unresolved:
            lines.append(f"  UNKNOWN {self.unresolved} imports or calls whose names it computes")
        return "\n".join(lines)


# --- telling what a file is -----------------------------------------------------------------------


def is_pickle(head: bytes) -> bool:
    """Does a file begin as a pickle does, plain or compressed? Of protocols 0 and 1, which have no
    mark, only what restores an object is told."""
    if is_plain_pickle(head):
        return True
    return _compression(head) is not None and is_plain_pickle(_first_bytes(head))


def is_plain_pickle(head: bytes) -> bool:
    """Does it begin as a pickle that is not compressed?"""
    if head[:1] == b"\x80":
        return head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    begins = (b"ccopy_reg\n", b"ccopyreg\n", b"c__builtin__\n", b"(i", b"(lp", b"(dp", b"cnumpy",
              b"csklearn", b"}q\x00", b"]q\x00", b"cjoblib")  # fmt: skip
    return head.startswith(begins)


def is_skops(source: str | os.PathLike[str] | bytes) -> bool:
    """Is it a file of skops: a zip file with a `schema.json`?"""
    try:
        with _opened(source) as file, zipfile.ZipFile(file) as z:
            return "schema.json" in z.namelist()[:MOST_MEMBERS]
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return False


def _compression(head: bytes) -> str | None:
    marks = {"gzip": GZIP, "bzip2": BZIP2, "xz": XZ, "lzma": LZMA}
    for name, mark in marks.items():
        if head.startswith(mark):
            return name
    two = head[:2]
    if len(two) == 2 and two[:1] == ZLIB and int.from_bytes(two, "big") % 31 == 0:
        return "zlib"
    return None


def _first_bytes(head: bytes) -> bytes:
    """What a compressed file begins with, unpacked."""
    try:
        return _decompressor(_compression(head)).decompress(head, 64)
    except (OSError, zlib.error, lzma.LZMAError, EOFError, ValueError):
        return b""


class _Inflate:
    """zlib's and gzip's objects, with the method of the others."""

    def __init__(self, bits: int) -> None:
        self.made = zlib.decompressobj(bits)

    def decompress(self, data: bytes, most: int) -> bytes:
        return self.made.decompress(data, most)


def _decompressor(name: str | None) -> Any:
    if name == "bzip2":
        return bz2.BZ2Decompressor()
    if name in ("xz", "lzma"):
        return lzma.LZMADecompressor(memlimit=1 << 28)
    return _Inflate(zlib.MAX_WBITS | 16 if name == "gzip" else zlib.MAX_WBITS)


# --- reading --------------------------------------------------------------------------------------


def inspect_pickle(source: str | os.PathLike[str] | bytes) -> Report:
    """What a pickle would import, without running it. ModelError for what is none, is cut short,
    or goes beyond the limits."""
    where = "pickle" if isinstance(source, bytes) else Path(source).name
    try:
        with _opened(source) as file:
            head = file.read(HEAD)
            file.seek(0)
            if head.startswith(ZIP):
                return _inspect_zip(file)
            name = _compression(head)
            if name is None:
                return _scan(_Bounded(file), None)
            return _scan(_Bounded(_unpacked(file, name)), name)
    except ModelError as error:
        raise ModelError(error.message, where=where, hint=error.hint) from None
    except OSError as error:
        raise ModelError(f"cannot be read: {error}", where=where) from None
    except (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError,
            NotImplementedError) as error:  # fmt: skip
        raise ModelError(f"it is damaged: {error}", where=where) from None


def _opened(source: str | os.PathLike[str] | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")


def _unpacked(file: BinaryIO, name: str) -> Any:
    if name == "gzip":
        return gzip.GzipFile(fileobj=file)
    if name == "bzip2":
        return bz2.BZ2File(file)
    if name in ("xz", "lzma"):
        return lzma.LZMAFile(file)
    return _ZlibFile(file)


class _ZlibFile:
    """A zlib stream as a file that is read forward."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.made, self.rest = file, zlib.decompressobj(), b""

    def read(self, count: int) -> bytes:
        parts: list[bytes] = []
        while count > 0 and not self.made.eof:
            data = self.made.unconsumed_tail or self.file.read(1 << 16)
            if not data:
                break
            parts.append(self.made.decompress(data, count))
            count -= len(parts[-1])
        return b"".join(parts)


class _Bounded:
    """A file that gives no more than MOST_BYTES in all."""

    def __init__(self, file: Any, left: int | None = None) -> None:
        self.file, self.ahead = file, b""
        self.left = MOST_BYTES if left is None else left

    def read(self, count: int) -> bytes:
        self._take(count)
        out = self.ahead[:count]
        self.ahead = self.ahead[count:]
        if len(out) < count:
            if count < BLOCK:  # opcodes are read byte by byte
                self.ahead = self.file.read(BLOCK)
                more = count - len(out)
                out, self.ahead = out + self.ahead[:more], self.ahead[more:]
            else:
                out += self.file.read(count - len(out))
        return out

    def skip(self, count: int) -> None:
        """Reads without keeping. ModelError where there is not as much."""
        self._take(count)
        inside = self.ahead[:count]
        self.ahead = self.ahead[count:]
        count -= len(inside)
        while count > 0:
            more = self.file.read(min(count, 1 << 20))
            if not more:
                raise ModelError("the file ends within its data", hint="it is cut short")
            count -= len(more)

    def line(self, keep: int) -> tuple[bytes, int]:
        """The first `keep` bytes of a line, without its end; and its size with that."""
        kept, size = bytearray(), 0
        while True:
            if not self.ahead:
                self.ahead = self.file.read(BLOCK)
                if not self.ahead:
                    raise ModelError(
                        "expected a pickle: it ends within an opcode", hint="it is cut short"
                    )
            end = self.ahead.find(b"\n")
            count = len(self.ahead) if end < 0 else end
            kept += self.ahead[: min(count, max(0, keep - size))]
            count += end >= 0
            self._take(count)
            self.ahead = self.ahead[count:]
            size += count
            if end >= 0:
                return bytes(kept), size

    def all(self) -> bytes:
        """All that is left, unpacked."""
        parts: list[bytes] = []
        while part := self.read(1 << 20):
            self.left += (1 << 20) - len(part)
            parts.append(part)
        return b"".join(parts)

    def peek(self) -> bytes:
        """The next byte, which stays."""
        if not self.ahead:
            self.ahead = self.file.read(BLOCK)
        return self.ahead[:1]

    def _take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise ModelError(f"it has, or says that it has, more than {MOST_BYTES} bytes")


def _scan(source: _Bounded, compression: str | None) -> Report:
    """The pickle, and those behind it, as old files of PyTorch have several."""
    found = Scan()
    _scan_all(source, found)
    kind = "joblib" if found.joblib else "pickle"
    return _report(kind, compression, found)


def _scan_all(source: _Bounded, found: Scan) -> None:
    scan(source, found)
    while source.peek() == b"\x80":
        try:
            scan(source, found)
        except ModelError:  # no pickle; or one that hides something
            found.unresolved += 1
            return


def _report(kind: str, compression: str | None, found: Scan) -> Report:
    imports = tuple(sorted(found.imports, key=str))
    called = frozenset(found.called)
    opcodes, unresolved = found.opcodes, found.unresolved
    return Report(
        kind, compression, found.protocol, opcodes, imports, unresolved, called, found.holds
    )


def _inspect_zip(file: BinaryIO) -> Report:
    """All pickles in a zip file, whatever they are called."""
    found, left = Scan(), MOST_BYTES
    with zipfile.ZipFile(file) as z:
        infos = z.infolist()
        if len(infos) > MOST_MEMBERS:
            raise ModelError(f"it has more than {MOST_MEMBERS} members")
        if any(i.filename == "schema.json" for i in infos):
            raise ModelError(
                "it is a file of skops, not a pickle",
                hint="skops.io.load(path, trusted=[...]), and compile the object",
            )
        some = False
        for info in infos:
            with z.open(info) as member:
                head = member.read(64)
            if not (_is_pickle_member(info.filename) or is_plain_pickle(head)):
                continue
            some = True
            with z.open(info) as member:
                bounded = _Bounded(member, left)
                _scan_all(bounded, found)
                left = bounded.left
        if not some:
            raise ModelError("it is a zip file without a pickle in it")
    return _report("torch", "zip", found)


def _is_pickle_member(name: str) -> bool:
    return name.endswith(".pkl")


# --- loading --------------------------------------------------------------------------------------


def load_pickle(
    source: str | os.PathLike[str] | bytes, *, trusted: bool | Sequence[str] = False
) -> Any:
    """Runs a pickle, or a file of joblib, and gives the object.

    trusted: True, where you know who wrote the file: it may do anything that you may; or the names
    of the imports that you trust besides the known ones (`inspect_pickle` lists them). InputError
    otherwise, with what the file would import. ModelError for a file that cannot be loaded."""
    where = "pickle" if isinstance(source, bytes) else Path(source).name
    check_trusted(trusted)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror or error}", where=where) from None
    if not isinstance(trusted, bool):
        trusted = tuple(trusted)
    if trusted is not True:
        _check_trust(_inspect_bytes(data, where), trusted or (), where)
    if data.startswith(ZIP):
        raise UnsupportedError(
            ["a pickle of PyTorch; try: torch.load(path, weights_only=True) into the module, and "
             "compile that"],
            where=where,
        )  # fmt: skip
    return _loaded(data, None if trusted is True else frozenset(trusted or ()), where)


def check_trusted(trusted: object) -> None:
    """InputError for a text, where a list of names is wanted."""
    if isinstance(trusted, str | bytes):
        raise InputError(
            f"trust_pickle: expected True or a list of names, got the text {trusted!r}",
            hint=f"trust_pickle=[{trusted!r}]",
        )


def _inspect_bytes(data: bytes, where: str) -> Report:
    try:
        return inspect_pickle(data)
    except ModelError as error:
        raise ModelError(error.message, where=where, hint=error.hint) from None


def _check_trust(report: Report, names: Sequence[str], where: str) -> None:
    unknown = [str(i) for i in report.unknown if str(i) not in names]
    if names and not unknown and not report.unresolved:
        return
    listed = "\n  ".join(str(report).splitlines())
    plain = report.holds is not None and not report.has_packages
    holds = f"({report.holds}, no estimator) " if plain else ""
    if report.unresolved or any(is_dangerous(n) for n in unknown):
        hint = UNKNOWN_AUTHOR
    else:
        trust = f"[{', '.join(repr(n) for n in unknown[:8])}]" if unknown else "True"
        hint = f"trust_pickle={trust} (--trust-pickle trusts all), if you know who wrote it"
    raise InputError(
        f"a pickle can run any code when it is loaded, and this one {holds}is not "
        f"trusted:\n  {listed}",
        where=where,
        hint=f"{hint}; or {report.cure}",
    )


def _made(data: bytes, names: frozenset[str] | None) -> Any:
    """The object. `names`: what it may import besides what is known; None: anything."""
    if names is None:
        return load_freely(data)

    def allowed(module: str, name: str, called: bool) -> bool:
        made = Import(module, name)
        return str(made) in names or is_safe(made, called)

    packed = _compression(data[:HEAD])
    file = io.BytesIO(data)
    if packed is not None:
        file = io.BytesIO(_Bounded(_unpacked(file, packed)).all())
    return load_listed(file, allowed)


def _loaded(data: bytes, names: frozenset[str] | None, where: str) -> Any:
    """The object. What scikit-learn says of other versions is a NaruWarning."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            made = _made(data, names)
        except ModuleNotFoundError as error:
            package = (error.name or "").split(".")[0]
            extra = {"sklearn": "sklearn", "torch": "torch"}.get(package)
            hint = f"pip install 'naru[{extra}]'" if extra else f"install {package or 'it'}"
            raise ModelError(
                f"it needs the package {package}, which is not installed", where=where, hint=hint
            ) from None
        except NotAllowed as error:
            raise ModelError(str(error), where=where, hint=UNKNOWN_AUTHOR) from None
        except Exception as error:
            raise ModelError(
                f"it cannot be loaded: {type(error).__name__}: {error}",
                where=where,
                hint="the versions of the packages that it was saved with",
            ) from None
    for w in said:
        if "version" in str(w.message) and hasattr(w.message, "original_sklearn_version"):
            old, new = (getattr(w.message, f"{k}_sklearn_version") for k in ("original", "current"))
            warnings.warn(
                f"{where}: it was saved by scikit-learn {old}, and here is {new}: results may "
                "differ; save it again",
                NaruWarning,
                stacklevel=4,
            )
            break
    return made
