"""dft: discrete Fourier transforms of a length that is known at run time only.

Lengths that are known are matrix products (naru/frontend/onnx_fourier.py). Here the length is split
into its prime factors while running, one pass over the signal for each (Stockham's form of the
algorithm of Cooley and Tukey 1965): a length with a large prime factor costs that factor times as
many multiply-adds.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from naru.errors import ModelError
from naru.ir.expr import Expr
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import add, floordiv, index, known, mul, prod
from naru.ops.kernel_text import by_hand, indent, tiled
from naru.ops.operands import (
    check_kind,
    check_same_dtype,
    given,
    operand,
    shape_text,
)
from naru.ops.registry import Arrays, Attrs, Op, Sample, Types, register
from naru.ops.samples import random
from naru.targets import Target

Array = np.ndarray


def infer_dft(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x [B, N, A, 1 or 2] (f32, f64) along N, cropped or filled with zeros to n; w [2, n], the
    cosines and sines of a turn in n steps (clockwise: sines below 0) -> (results [B, m, A, 2], and
    two buffers [B · A, 2, n] to work in).

    attrs scaled: divide by n; half: the results up to n // 2 only; real: x has those only, and the
    result is [B, n, A, 1]."""
    x, w = operand("dft", types, 0, 4), operand("dft", types, 1, 2)
    dtype = check_same_dtype("dft", [x, w])
    check_kind("dft", dtype, "f")
    if dtype not in ("f32", "f64") or known(x.shape[3]) not in (1, 2) or known(w.shape[0]) != 2:
        raise ModelError(
            "dft: expected f32 or f64 [B, N, A, 1 or 2] and [2, n], "
            f"got {dtype}{shape_text(x.shape)} and {shape_text(w.shape)}"
        )
    n = w.shape[1]
    results = add(floordiv(n, 2), 1) if attrs.get("half") else n
    planes = 1 if attrs.get("real") else 2
    out = TensorType(dtype, (x.shape[0], results, x.shape[2], index(planes)))
    work = TensorType(dtype, (mul(x.shape[0], x.shape[2]), index(2), n))
    return out, work, work


def _signal(x: Array, n: int, real: bool) -> Array:
    """x as complex numbers [B, n, A]."""
    z = np.zeros((x.shape[0], n, x.shape[2]), np.complex128)
    part = x[:, :n].astype(np.float64)
    z[:, : part.shape[1]] = part[..., 0] + 1j * (part[..., 1] if x.shape[3] == 2 else 0)
    if real:
        half = n // 2 + 1
        z[:, half:] = z[:, 1 : n - half + 1][:, ::-1].conj()
    return z


def ref_dft(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x, w = given(arrays), given(arrays, 1).astype(np.float64)
    n, real = w.shape[1], bool(attrs.get("real"))
    results = n // 2 + 1 if attrs.get("half") else n
    turns = np.indices((results, n)).prod(0) % max(n, 1)
    matrix = w[0][turns] + 1j * w[1][turns] if n else np.zeros((results, 0))
    y = np.einsum("kn,bna->bka", matrix, _signal(x, n, real))
    y = y / n if attrs.get("scaled") and n else y
    out = np.stack([y.real] if real else [y.real, y.imag], -1).astype(x.dtype)
    work = np.zeros((x.shape[0] * x.shape[2], 2, n), x.dtype)
    return out, work, work


def _load(dtype: str, planes: int, real: bool) -> list[str]:
    """The signal of a line, as two planes."""
    at = f"((b * N0 + source) * A + a) * {planes}"
    lines = [
        "for j in range(N):",
        f"    source: index = {'min(j, N - j)' if real else 'j'}",
        f"    re = {dtype}(0.0)",
        f"    im = {dtype}(0.0)",
        "    if source < N0:",
        f"        re = x[{at}]",
        f"        im = x[{at} + 1]" if planes == 2 else "        pass",
    ]
    if real:  # what lies behind the middle is the mirror image, conjugate
        lines += ["    if j > source:", "        im = -im"]
    return [*lines, "    ping[base + j] = re", "    ping[base + N + j] = im"]


def _passes(dtype: str) -> list[str]:
    """One pass for each prime factor p of n: s results have been separated, m are to come."""
    return [
        "s = 1",
        "m = N",
        "p = 2",
        "while m > 1:",
        "    while m % p != 0:",
        "        p = p + 1",
        "        if p * p > m:",
        "            p = m",
        "    taken: index = p",
        "    done: index = s",
        "    rest: index = m // p",
        "    for k in range(rest):",
        "        for i in range(taken):",
        "            first: index = k * i * done",
        "            step: index = i * (N // taken)",
        "            for q in range(done):",
        f"                re = {dtype}(0.0)",
        f"                im = {dtype}(0.0)",
        "                t = first",
        "                for j in range(taken):",
        "                    here: index = base + q + done * (k + rest * j)",
        f"                    c: {dtype} = w[t]",
        f"                    d: {dtype} = w[N + t]",
        "                    re = re + ping[here] * c - ping[here + N] * d",
        "                    im = im + ping[here] * d + ping[here + N] * c",
        "                    t = t + step",
        "                    if t >= N:",
        "                        t = t - N",
        "                to: index = base + q + done * (taken * k + i)",
        "                pong[to] = re",
        "                pong[to + N] = im",
        *indent(tiled("2 * N", None, lambda at: f"ping[{at('base')}] = pong[{at('base')}]")),
        "    s = done * taken",
        "    m = rest",
    ]


def opaque_dft(n: Node, target: Target) -> str:
    """Parameters: x, w, out, ping, pong, sizes. Lines are independent."""
    x, w = (given(n.inputs, k).type for k in range(2))
    attrs = dict(n.attrs)
    planes, real = known(x.shape[3]) or 1, bool(attrs.get("real"))
    to = f"((b * M + k) * A + a) * {1 if real else 2}"
    scale = f"{x.dtype}(1.0) / {x.dtype}(N)" if attrs.get("scaled") else f"{x.dtype}(1.0)"
    store = [
        f"scale: {x.dtype} = {scale}",
        "for k in range(min(M, N)):",
        f"    out[{to}] = ping[base + k] * scale",
        *([] if real else [f"    out[{to} + 1] = ping[base + N + k] * scale"]),
    ]
    if attrs.get("half"):  # of no elements: one result
        zero = [f"    out[{to} + {j}] = {x.dtype}(0.0)" for j in range(2)]
        store += ["for k in range(min(M, N), M):", *zero]
    line = [
        "b: index = line // A",
        "a: index = line % A",
        "base: index = line * 2 * N",
        *_load(x.dtype, planes, real),
        *_passes(x.dtype),
        *store,
    ]
    sizes: dict[str, Expr] = {
        "LINES": mul(x.shape[0], x.shape[2]), "A": x.shape[2], "N0": x.shape[1], "N": w.shape[1],
        "M": n.type.shape[1],
    }  # fmt: skip
    body = ["for line in parallel(LINES):", *indent(line)]
    return by_hand(n, ("x", "w"), ("out", "ping", "pong"), body, sizes)


def _flops(n: Node) -> Expr:
    """Of a length whose largest prime factor is small: about eight passes."""
    return mul(64, prod(n.types[1].shape))


def _waves(n: int, dtype: str, inverse: bool) -> Array:
    angle = 2 * np.pi * np.arange(n) / max(n, 1)
    return np.stack([np.cos(angle), np.sin(angle) * (1 if inverse else -1)]).astype(dtype)


def _samples() -> Iterable[Sample]:
    for n in (1, 2, 3, 4, 7, 12, 30, 32):
        yield Sample((random(2, n, 3, 2, dtype="f64"), _waves(n, "f8", False)))
    for size, n in ((5, 8), (9, 6), (0, 3), (4, 0)):
        yield Sample((random(1, size, 1, 1, dtype="f64"), _waves(n, "f8", False)))
    for n in (1, 5, 8):
        yield Sample((random(2, n, 1, 1), _waves(n, "f4", False)), {"half": True})
        yield Sample((random(2, n, 2, 2), _waves(n, "f4", True)), {"scaled": True})
        half = random(1, n // 2 + 1, 2, 2)
        yield Sample((half, _waves(n, "f4", True)), {"scaled": True, "real": True})
        yield Sample((half[..., :1].copy(), _waves(n, "f4", True)), {"real": True})
    yield Sample((random(0, 4, 2, 2), _waves(4, "f4", False)))


register(Op("dft", "opaque", infer_dft, ref_dft, opaque=opaque_dft, flops=_flops,
            samples=_samples))  # fmt: skip
