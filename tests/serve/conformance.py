"""What a client asks of a server of the Open Inference Protocol, as tables of rows: the parts that
those of HTTP and gRPC have alike.

It runs in an environment that has the client (tests/serve/clients-requirements.txt) and needs
nothing of naru.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
X = np.arange(8, dtype=np.float32).reshape(2, 4)
Y = X @ (np.arange(4)[:, None] + np.arange(3)).astype(np.float32)
WORDS = np.array(["naru", "나루", ""], object)
SHOUT = ["NARU", "나루", ""]


@dataclass(frozen=True)
class Session:
    """A protocol's module of the client, a client of it, and the server's address."""

    module: Any
    client: Any
    address: str

    def input(self, name: str, array: Array, datatype: str, **options: Any) -> Any:
        """An input with its data."""
        given = self.module.InferInput(name, list(array.shape), datatype)
        given.set_data_from_numpy(array, **options)
        return given

    def x(self, **options: Any) -> list[Any]:
        """The input of the model `dense`."""
        return [self.input("x", X, "FP32", **options)]

    def output(self, name: str, **options: Any) -> Any:
        """A wish for an output."""
        return self.module.InferRequestedOutput(name, **options)

    def y(self, **options: Any) -> list[Any]:
        """A wish for that of the model `dense`."""
        return [self.output("y", **options)]

    def pair(self, **options: Any) -> list[Any]:
        """The inputs of the model `pair`, not in its order; the options are of one of them."""
        a, c = np.array([1, 2], np.float32), np.array([3, 4])
        b = self.input("b", a, "FP32", **options)
        return [self.input("c", c, "INT64"), self.input("a", a, "FP32"), b]


@dataclass(frozen=True)
class Row:
    """One thing that a client asks: `run` raises where the answer is not what it must be.

    `others`: what other servers were found to answer, by the name of the server; one that is not
    named was not asked."""

    name: str
    run: Callable[[Session], None]
    others: Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """What is asked with one module of the client. `others`: servers that were asked once, with the
    same client, and are not asked again here, and their versions."""

    module: str
    others: Mapping[str, str] = field(default_factory=dict[str, str])
    rows: list[Row] = field(default_factory=list[Row])

    def row(self, name: str, *others: str) -> Callable[[Callable[[Session], None]], None]:
        """Puts a function into the table, with what the others made of the same."""

        def add(run: Callable[[Session], None]) -> None:
            measured = dict(zip(self.others, others, strict=bool(others)))
            self.rows.append(Row(name, run, measured))

        return add

    def ask(self, address: str) -> dict[str, str | None]:
        """For each row nothing, or what went wrong."""
        module: Any = importlib.import_module(self.module)
        with module.InferenceServerClient(address) as client:
            session = Session(module, client, address)
            return {row.name: _problem(row, session) for row in self.rows}


def _problem(row: Row, session: Session) -> str | None:
    try:
        row.run(session)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def expect(got: object, wanted: object) -> None:
    """Raises AssertionError that says what was got."""
    if got != wanted:
        raise AssertionError(f"expected {wanted!r}, got {got!r}")


def expect_y(result: Any) -> None:
    """The result of `dense` for X."""
    got = result.as_numpy("y")
    if got is None or got.dtype != np.float32 or not np.array_equal(got, Y):
        raise AssertionError(f"expected {Y.tolist()}, got {got!r}")


def refusal(ask: Callable[[], object]) -> tuple[str, str]:
    """The status and the text of what is refused."""
    error: Any = importlib.import_module("tritonclient.utils").InferenceServerException
    try:
        ask()
    except error as found:
        return str(found.status()).removeprefix("StatusCode."), str(found.message())
    raise AssertionError("expected a refusal, got an answer")


def wrong(session: Session) -> list[Callable[[], object]]:
    """Requests that are a client's mistake."""
    s = session
    return [
        lambda: s.client.infer("no-such-model", s.x()),
        lambda: s.client.infer("dense", s.x(), "77"),
        lambda: s.client.infer("dense", [s.input("no_such_input", X, "FP32")]),
        lambda: s.client.infer("dense", [s.input("x", X.astype(np.int32), "INT32")]),
        lambda: s.client.infer("dense", [s.input("x", X[:, :3].copy(), "FP32")]),
    ]
