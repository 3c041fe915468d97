"""What is fuzzed: seeds, how the n-th case is made, and what may happen when it is read.

A case is (target, number) and nothing else: the same on every machine and in every run.
"""

from __future__ import annotations

import importlib
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

import naru
from naru.artifact.bundle import read_bundle
from naru.artifact.formulas import arena_bytes
from naru.cli import main
from naru.errors import IRError, NaruError, RunError
from naru.frontend.onnx import read_onnx
from naru.inputs import choose_sizes, random_inputs
from naru.runtime.model import TensorInfo
from naru.runtime.native_model import NativeModel
from tests import zoo

from . import boosting_mutations, bundle_mutations, byte_mutations, onnx_mutations
from .boosters import check_lightgbm, check_xgboost, lightgbm_files, xgboost_files
from .graphs import check_graph, make_graph
from .operators import NAMES, check_case, check_nth, make_case

COMPILED = ("gemm_bias", "split_model", "nonzero_model", "scalar_model")
LARGEST = 1 << 20  # elements of an input that a fuzzed bundle is called with
LARGEST_SEED = 12_000
COMPILE_OPERATORS_EVERY = int(os.environ.get("NARU_FUZZ_COMPILE_OPERATORS_EVERY", "1"))
COMPILE_EVERY = int(os.environ.get("NARU_FUZZ_COMPILE_EVERY", "40"))


@dataclass(frozen=True)
class Target:
    """`make(n)` gives the bytes of case n; `check` reads them, and any exception is a failure."""

    make: Callable[[int], bytes]
    check: Callable[[bytes, int], str]


@cache
def models() -> tuple[bytes, ...]:
    """Serialised models of the zoo, the small ones."""
    # Whole networks are large, and need torch.
    cases = [c.model() for _, c in sorted(zoo.CASES.items()) if "network" not in c.tags]
    return tuple(d for m in cases if len(d := m.SerializeToString()) <= LARGEST_SEED)


@cache
def bundles() -> tuple[bytes, ...]:
    """Bundles of a few models, with their code replaced by returns."""
    made: list[bytes] = []
    for name in COMPILED:
        model = naru.compile(zoo.CASES[name].model().SerializeToString(), cache=False)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.naru"
            model.save(path)
            parts = bundle_mutations.parts_of(path.read_bytes())
        made.append(bundle_mutations.with_returns(parts))
    return tuple(made)


def _case(
    seeds: Callable[[], Sequence[bytes]],
    mutate: Callable[[bytes, Sequence[bytes], Random], bytes],
    name: str,
) -> Callable[[int], bytes]:
    def make(n: int) -> bytes:
        rng = Random(f"{name}/{n}")
        found = seeds()
        return mutate(found[n % len(found)], found, rng)

    return make


# ---- the importer ----


def check_model(data: bytes, n: int) -> str:
    """Imports a model; every few that can be imported is compiled and tested as well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read_onnx(data)
        except NaruError as error:
            return _refused(error)
        if n % COMPILE_EVERY == 0:
            return check_compiled(data)
    return "read"


def check_compiled(data: bytes) -> str:
    """Compiles a model and runs its golden vector."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            naru.compile(data, cache=False).selftest()
        except RunError as error:
            # Its own message apart, a run may fail: an index computed from data is out of range.
            if "self-test failed" in str(error):
                raise AssertionError(str(error)) from None
            return _refused(error)
        except IRError:
            raise  # it says that the compiler is wrong, not the model
        except NaruError as error:
            return _refused(error)
    return "compiled"


def _refused(error: NaruError) -> str:
    """The message is for people: not empty, and not longer than a screen or two."""
    text = str(error)
    assert text.strip(), f"{type(error).__name__} without a message"
    text.encode()  # it can be printed
    return type(error).__name__


# ---- boosting ----


def _booster(
    seeds: Callable[[], Sequence[bytes]],
    mutate: Callable[[bytes, Sequence[bytes], Random], bytes],
    name: str,
    check: Callable[[bytes], str],
) -> Target:
    """Reads a model; every few that can be read is compiled and tested as well."""

    def checked(data: bytes, n: int) -> str:
        try:
            found = check(data)
        except NaruError as error:
            return _refused(error)
        return check_compiled(data) if n % COMPILE_EVERY == 0 else found

    return Target(_case(seeds, mutate, name), checked)


# ---- the bundle reader ----


def check_bundle(data: bytes, n: int) -> str:
    """Reads all there is in a bundle; loads and calls it, the code being only returns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            bundle = read_bundle(data)
            bundle.golden()
            sizes = choose_sizes(bundle.symbols, {})
            with suppress(NaruError, ValueError, SyntaxError):
                arena_bytes(bundle.manifest.get("memory", {}), sizes)
            model = NativeModel(bundle)
        except NaruError as error:
            return _refused(error)
        outcome = "loaded"
        for entry in model.entries:
            outcome = _call(model, entry)
        with suppress(NaruError):
            model.selftest()
        if n % 20 == 0:
            _through_cli(data)
    return outcome


def check_damage(data: bytes, n: int) -> str:
    """Damage of which the checksums know nothing is noticed, wherever it is."""
    if data in bundles():
        return "not damaged"
    try:
        read_bundle(data)
    except NaruError as error:
        return _refused(error)
    raise AssertionError("the damage was not noticed")


def _call(model: NativeModel, entry: str) -> str:
    """Calls an entry without inputs, and with such as the manifest asks for."""
    call = model.entry(entry)
    with suppress(NaruError):
        call()
    try:
        inputs = _inputs_for(model, entry)
        if inputs is None:
            return "loaded"
        call(inputs)
    except NaruError as error:
        return _refused(error)
    return "called"


def _inputs_for(model: NativeModel, entry: str) -> dict[str, np.ndarray] | None:
    """Arrays of the declared shapes; None where they would be absurdly large."""
    bundle = model._bundle
    declared = next(e for e in bundle.entries if e.name == entry).inputs
    sizes = choose_sizes(bundle.symbols, {})
    specs = [TensorInfo(t.name, t.dtype, t.shape) for t in declared]
    counts = [math.prod(d if isinstance(d, int) else sizes[d] for d in t.shape) for t in declared]
    if any(n > LARGEST for n in counts):
        return None
    try:
        return random_inputs(specs, bundle.symbols)
    except ValueError:  # numpy has no array of these dims, although one of them is 0
        return None


def _through_cli(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as sink:
        path = Path(folder) / "model.naru"
        path.write_bytes(data)
        with redirect_stdout(sink), redirect_stderr(sink):
            assert main(["explain", str(path)]) in (0, 1)


def misbehave(_data: bytes, n: int) -> str:
    """What the driver must survive and report: case 1 crashes, case 2 takes all memory."""
    if n == 1:
        os.abort()
    return "never seen" if n == 2 and bytearray(1 << 40) else "fine"


def _served(name: str) -> Target:
    """A server's libraries are loaded only where one is asked."""

    def case() -> Any:
        return importlib.import_module("tests.fuzz.serving").CASES[name]

    return Target(lambda n: case()[0](n), lambda data, n: case()[1](data, n))


def _operator(name: str) -> Target:
    return Target(
        lambda n: make_case(*_split(name), n).model.SerializeToString(),
        lambda _, n: check_case(name, n, native=n % COMPILE_OPERATORS_EVERY == 0),
    )


def _split(name: str) -> tuple[str, str]:
    domain, _, op = name.rpartition(".")
    return domain, op


TARGETS = {
    "misbehaving": Target(lambda n: b"", misbehave),
    "onnx_bytes": Target(_case(models, byte_mutations.damage, "onnx_bytes"), check_model),
    "onnx": Target(_case(models, onnx_mutations.mutate, "onnx"), check_model),
    "lightgbm": _booster(
        lightgbm_files, boosting_mutations.mutate_text, "lightgbm", check_lightgbm
    ),
    "xgboost": _booster(xgboost_files, boosting_mutations.mutate_json, "xgboost", check_xgboost),
    "xgboost_ubjson": _booster(
        xgboost_files, boosting_mutations.mutate_ubjson, "xgboost_ubjson", check_xgboost
    ),
    "bundle_bytes": Target(_case(bundles, byte_mutations.damage, "bundle_bytes"), check_damage),
    "bundle": Target(_case(bundles, bundle_mutations.mutate, "bundle"), check_bundle),
    # A server, asked by HTTP and gRPC.
    **{name: _served(name) for name in ("serve_http", "serve_bytes", "serve_grpc")},
    # Results compared: numpy's meaning, compiled code, ONNX Runtime.
    "operators": Target(lambda n: b"", lambda _, n: check_nth(n)),
    "graphs": Target(
        lambda n: make_graph(n).model.SerializeToString(), lambda _, n: check_graph(n)
    ),
    **{f"op:{name}": _operator(name) for name in NAMES},
}
