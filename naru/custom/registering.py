"""`naru.register_op`: an operator gets a meaning and a way to be compiled."""

from __future__ import annotations

import hashlib
import inspect
import io
import marshal
import pickle
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

import numpy as np

from naru.custom import composition, kernel
from naru.custom.signature import NEEDED, Signature, read_signature
from naru.errors import InputError, ModelError, NaruError
from naru.frontend.onnx_check import find_schema
from naru.frontend.onnx_node import OnnxNode
from naru.frontend.onnx_signatures import Handler
from naru.frontend.onnx_tables import CUSTOM, find_handler
from naru.ir.expr import INT_MAX
from naru.ir.graph import Node, TensorType, get_output
from naru.ir.text_expr import identifier
from naru.ops.registry import OPS, Arrays, Attrs, Op, Types, apply, register
from naru.targets import Target

F = TypeVar("F", bound=Callable[..., Any])
RESULT = "result"  # the attribute that says which result of a composition a node is


@dataclass(frozen=True)
class Custom:
    """One registered operator: versions `since` to `until` of its domain."""

    domain: str
    name: str
    since: int
    until: int
    op: str  # its name among naru's ops
    signature: Signature
    meaning: Callable[..., Any]
    build: Callable[..., Any]
    opset: int
    kernel: str | None

    @property
    def label(self) -> str:
        return f"{self.domain}.{self.name}"


_registered: dict[tuple[str, str], list[Custom]] = {}


def register_op(
    domain: str,
    name: str,
    *,
    meaning: Callable[..., Any],
    kernel: str | None = None,
    version: int = 1,
    until: int | None = None,
    opset: int = 21,
) -> Callable[[F], F]:
    """Registers an operator of a domain, from its `version` on (`until` the last, if there is one).

    meaning: numpy arrays (and attributes by name) -> the result, or a tuple of results: what is
    right, for golden vectors, `verify` and constants. Floats may come as float64.
    kernel: None, and the decorated function is a composition: it is given a Composer and a Value
    for each operand, and returns Values made with `c.op` (operators of `opset`). Or the text of a
    kernel in loop IR, and the decorated function says which types the results have.
    Raises InputError for a name that is taken, IRError for a kernel that is not valid.
    """
    last = INT_MAX if until is None else until
    _check_name(domain, name, version, last)

    def decorate(f: F) -> F:
        skip = 0 if kernel is not None else 1
        signature = read_signature(f, skip=skip)
        op = _op_name(domain, name, version)
        custom = Custom(domain, name, version, last, op, signature, meaning, f, opset, kernel)
        register(_composed(custom) if kernel is None else _by_hand(custom))
        _registered.setdefault((domain, name), []).append(custom)
        CUSTOM.setdefault(domain, {})[name] = partial(_extension, domain, name)
        return f

    return decorate


def unregister_op(domain: str, name: str) -> None:
    """Forgets all versions of an operator that `register_op` knows."""
    for custom in _registered.pop((domain, name), []):
        OPS.pop(custom.op, None)
    CUSTOM.get(domain, {}).pop(name, None)
    if not CUSTOM.get(domain, True):
        del CUSTOM[domain]


def find_custom(domain: str, name: str, version: int | None = None) -> Custom:
    """The operator at a version of its domain (default: the newest), else InputError."""
    found = [
        c
        for c in _registered.get((domain, name), [])
        if version is None or c.since <= version <= c.until
    ]
    if not found:
        what = f"{domain}.{name} is registered"
        raise InputError(f"no operator {what} for version {'any' if version is None else version}")
    return max(found, key=lambda c: c.since)


def digest() -> str:
    """A digest of all that is registered, a part of the cache's keys; empty if nothing is. Of a
    function it has the code, the defaults and the values that it encloses, not the functions that
    it calls by name. InputError for a value whose contents cannot be told."""
    if not _registered:
        return ""
    made = hashlib.sha256()
    for key in sorted(_registered):
        for c in _registered[key]:
            parts = (c.domain, c.name, c.since, c.until, c.opset, c.kernel)
            made.update(repr(parts).encode())
            for f in (c.meaning, c.build):
                made.update(_contents(f, c.label))
    return made.hexdigest()


class _Contents(pickle.Pickler):
    """Writes functions as what they do, not as a name that says nothing of it. Nothing reads the
    bytes, so what `bytes` and `str` would make of the arguments does not matter."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, FunctionType):
            code = obj.__code__.replace(co_filename="", co_firstlineno=0)
            cells = [c.cell_contents for c in obj.__closure__ or ()]
            # As a state, which comes after the function is noted: it may enclose itself.
            return bytes, (marshal.dumps(code),), (obj.__defaults__, obj.__kwdefaults__, cells)
        if isinstance(obj, MethodType):
            return bytes, (), (obj.__func__, obj.__self__)
        if isinstance(obj, ModuleType):
            return str, (obj.__name__,)
        return NotImplemented


def _contents(f: Callable[..., Any], label: str) -> bytes:
    """The bytes that say what a function, or an object that can be called, does."""
    written, call = io.BytesIO(), type(f).__call__
    parts = (f, inspect.unwrap(f), call if isinstance(call, FunctionType) else None)
    try:
        _Contents(written).dump(parts)
    except Exception as error:  # whatever a user's object raises
        raise InputError(
            f"{label}: a function of it holds what no key of the cache can tell: {error}",
            hint="enclose plain values and arrays, or compile with cache=False",
        ) from error
    return written.getvalue()


# Domains and names whose characters an identifier can have; the dots become underscores.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9]*(\.[A-Za-z0-9]+)*/[A-Za-z0-9]+")


def _op_name(domain: str, name: str, version: int) -> str:
    """A name that no other operator has; where characters were lost, a digest tells them apart."""
    stem = identifier(f"{domain}_{name}_{version}")
    if _PLAIN.fullmatch(f"{domain}/{name}"):
        return stem
    return f"{stem}_x{hashlib.sha256(f'{domain}/{name}'.encode()).hexdigest()[:12]}"


def _check_name(domain: str, name: str, since: int, until: int) -> None:
    if not domain or not name or domain == "ai.onnx":
        raise InputError(
            f"expected a domain of your own and a name, found {domain!r} and {name!r}",
            hint="the empty domain is that of the standard",
        )
    if not 1 <= since <= until:
        raise InputError(f"{domain}.{name}: expected versions from 1 on, found {since}..{until}")
    own = _registered.get((domain, name), [])
    taken = not own and find_handler(name, domain, since) is not None
    if taken or find_schema(name, INT_MAX, domain) is not None:
        raise InputError(f"{domain}.{name} is an operator that naru or the standard has")
    for c in own:
        if since <= c.until and c.since <= until:
            raise InputError(
                f"{domain}.{name} is registered already, for versions {c.since} to "
                f"{'any' if c.until == INT_MAX else c.until}",
                hint="give the older one an `until`, or naru.unregister_op",
            )


def _extension(domain: str, name: str, version: int) -> tuple[str, Handler]:
    """What the front end asks for: the signature and the function of a version of the domain."""
    try:
        custom = find_custom(domain, name, version)
    except InputError as error:
        raise ModelError(error.message) from None
    return custom.signature.text, partial(_handle, custom)


def _handle(custom: Custom, c: OnnxNode) -> Sequence[Node]:
    attrs = {k: v for k, v in custom.signature.read(c).items() if v is not None}
    inputs = list(c.inputs) + [None] * (len(custom.signature.operands) - len(c.inputs))
    results = make(custom, inputs, attrs)
    if len(c.outputs) > len(results):
        raise ModelError(f"expected at most {len(results)} outputs, found {len(c.outputs)}")
    return results


def make(custom: Custom, inputs: Sequence[Node | None], attrs: Attrs) -> Sequence[Node]:
    """The results of an operator over operands."""
    if custom.kernel is not None:
        n = apply(custom.op, *inputs, **attrs)
        return [get_output(n, k) for k in range(len(n.types))]
    types = [None if n is None else n.type for n in inputs]
    count = len(composition.result_types(*_composition(custom), types, dict(attrs)))
    return [apply(custom.op, *inputs, **{RESULT: k}, **attrs) for k in range(count)]


def _composition(custom: Custom) -> tuple[Callable[..., Any], str, int]:
    return custom.build, custom.label, custom.opset


def results_of(custom: Custom, arrays: Arrays, attrs: Attrs) -> tuple[np.ndarray, ...]:
    """What the meaning gives."""
    try:
        found = custom.meaning(*arrays, **attrs)
    except NaruError:
        raise
    except Exception as error:  # whatever a user's function raises is no failure of naru
        kinds = ", ".join("-" if a is None else f"{a.dtype}{list(a.shape)}" for a in arrays)
        raise InputError(
            f"{custom.label}: its meaning fails for {kinds}: {type(error).__name__}: {error}"
        ) from error
    listed: list[Any] = list(found) if isinstance(found, tuple | list) else [found]  # pyright: ignore[reportUnknownArgumentType]
    return tuple(np.asarray(a) for a in listed)


def _with_defaults(custom: Custom, attrs: Attrs) -> dict[str, Any]:
    """All attributes; those that are left out (nodes hold no None) by their defaults."""
    left_out = {k: d for k, d in custom.signature.attributes.items() if d is not NEEDED}
    return {**left_out, **{k: v for k, v in attrs.items() if k != RESULT}}


def _composed(custom: Custom) -> Op:
    def infer(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        plain = _with_defaults(custom, attrs)
        made = composition.result_types(*_composition(custom), types, plain)
        return (made[int(attrs[RESULT])],)

    def ref(arrays: Arrays, attrs: Attrs) -> tuple[np.ndarray, ...]:
        results, k = results_of(custom, arrays, _with_defaults(custom, attrs)), int(attrs[RESULT])
        if k >= len(results):
            raise ModelError(
                f"{custom.label}: its meaning gives {len(results)} results, the composition more"
            )
        return (results[k],)

    def expand(n: Node) -> Node:
        attrs: dict[str, Any] = dict(n.attrs)
        plain = _with_defaults(custom, attrs)
        made = composition.compose(*_composition(custom), n.inputs, plain)
        return made[int(attrs[RESULT])]

    return Op(custom.op, "elementwise", infer, ref, expand=expand)


def _by_hand(custom: Custom) -> Op:
    assert custom.kernel is not None
    template = kernel.read_template(custom.label, custom.kernel)
    if NEEDED not in custom.signature.attributes.values():
        kernel.check_template(custom.label, custom.kernel, custom.signature.attributes)

    def infer(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        given = [None if t is None else kernel.type_of(t) for t in types]
        plain = _with_defaults(custom, attrs)
        results = kernel.tensor_types(custom.label, custom.build(*given, **plain))
        same = list(range(len(types)))
        kernel.fill(custom.label, template, types, results, plain, same)  # do they fit it?
        return results

    def ref(arrays: Arrays, attrs: Attrs) -> tuple[np.ndarray, ...]:
        return results_of(custom, arrays, _with_defaults(custom, attrs))

    def opaque(n: Node, target: Target) -> str:
        attrs = _with_defaults(custom, dict(n.attrs))
        types = [None if i is None else i.type for i in n.inputs]
        return kernel.fill(custom.label, template, types, n.types, attrs, kernel.same_operands(n))

    return Op(custom.op, "opaque", infer, ref, opaque=opaque)
