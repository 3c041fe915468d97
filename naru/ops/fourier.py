"""dft: discrete Fourier transforms of a length that is known at run time only.

Lengths that are known are matrix products (naru/frontend/onnx_fourier.py). Here the length is split
into its prime factors while running, one pass over the signal for each (Stockham's form of the
algorithm of Cooley and Tukey 1965): a length with a large prime factor costs that factor times as
many multiply-adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from naru.errors import ModelError
from naru.ir.expr import Expr
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import add, ceildiv, floordiv, index, known, mul, prod
from naru.ops.kernel_text import by_hand, indent
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
LANES = 8  # lines that are transformed side by side


def infer_dft(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x [B, N, A, 1 or 2] (f32, f64) along N, cropped or filled with zeros to n; w [2, n], the
    cosines and sines of a turn in n steps (clockwise: sines below 0) -> (results [B, m, A, 2], and
    two buffers [blocks of lines, 2, n, LANES] to work in).

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
    work = TensorType(dtype, (_blocks(x.shape), index(2), n, index(LANES)))
    return out, work, work


def _blocks(shape: Sequence[Expr]) -> Expr:
    """Lines are transformed LANES at a time."""
    return ceildiv(mul(shape[0], shape[2]), LANES)


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
    work = np.zeros((-(-x.shape[0] * x.shape[2] // LANES), 2, n, LANES), x.dtype)
    return out, work, work


def _load(dtype: str, planes: int, real: bool) -> list[str]:
    """The signals of a block of lines, as two planes. Where there are fewer lines, the last one
    stands for the rest."""
    at = f"((b * N0 + source) * A + a) * {planes}"
    lines = [
        f"for l in range({LANES}):",
        f"    line: index = min(block * {LANES} + l, LINES - 1)",
        "    b: index = line // A",
        "    a: index = line % A",
        "    for j in range(N):",
        f"        source: index = {'min(j, N - j)' if real else 'j'}",
        f"        re = {dtype}(0.0)",
        f"        im = {dtype}(0.0)",
        "        if source < N0:",
        f"            re = x[{at}]",
        f"            im = x[{at} + 1]" if planes == 2 else "            pass",
    ]
    if real:  # what lies behind the middle is the mirror image, conjugate
        lines += ["        if j > source:", "            im = -im"]
    return [
        *lines,
        f"        ping[base + j * {LANES} + l] = re",
        f"        ping[base + (N + j) * {LANES} + l] = im",
    ]


def _passes(dtype: str) -> list[str]:
    """One pass for each prime factor p of n: s results have been separated, m are to come."""

    def tile(buffer: str, at: str) -> str:
        return f"{buffer}[{at}:{at} + {LANES}]"

    def total(plane: int) -> str:
        return f"sums[{plane}, 0:{LANES}]"

    imaginary = f"N * {LANES}"
    return [
        "s = 1",
        "m = N",
        "p = 2",
        "while m > 1:",
        "    while m % p != 0:",
        "        p = p + 1",
        "        if p * p > m:",
        "            p = m",
        "    r = p",
        "    if m % 4 == 0:",  # two factors at once: fewer passes over the signal
        "        r = 4",
        "    taken: index = r",
        "    done: index = s",
        "    rest: index = m // taken",
        "    for k in range(rest):",
        "        for i in range(taken):",
        "            first: index = k * i * done",
        "            step: index = i * (N // taken)",
        "            for q in range(done):",
        f"                sums: {dtype}[2, {LANES}] @ stack",
        f"                {total(0)} = splat({dtype}(0.0), {LANES})",
        f"                {total(1)} = splat({dtype}(0.0), {LANES})",
        "                t = first",
        "                for j in range(taken):",
        f"                    here: index = base + (q + done * (k + rest * j)) * {LANES}",
        f"                    c: {dtype}[{LANES}] = splat(w[t], {LANES})",
        f"                    d: {dtype}[{LANES}] = splat(w[N + t], {LANES})",
        f"                    re: {dtype}[{LANES}] = {tile('ping', 'here')}",
        f"                    im: {dtype}[{LANES}] = {tile('ping', f'here + {imaginary}')}",
        f"                    {total(0)} = {total(0)} + re * c - im * d",
        f"                    {total(1)} = {total(1)} + im * c + re * d",
        "                    t = t + step",
        "                    if t >= N:",
        "                        t = t - N",
        f"                to: index = base + (q + done * (taken * k + i)) * {LANES}",
        f"                {tile('pong', 'to')} = {total(0)}",
        f"                {tile('pong', f'to + {imaginary}')} = {total(1)}",
        "    for j in range(2 * N):",
        f"        moved: index = base + j * {LANES}",
        f"        {tile('ping', 'moved')} = {tile('pong', 'moved')}",
        "    s = done * taken",
        "    m = rest",
    ]


def opaque_dft(n: Node, target: Target) -> str:
    """Parameters: x, w, out, ping, pong, sizes. Blocks of lines are independent."""
    x, w = (given(n.inputs, k).type for k in range(2))
    attrs = dict(n.attrs)
    planes, real = known(x.shape[3]) or 1, bool(attrs.get("real"))
    to = f"((line // A * M + k) * A + line % A) * {1 if real else 2}"
    scale = f"{x.dtype}(1.0) / {x.dtype}(N)" if attrs.get("scaled") else f"{x.dtype}(1.0)"
    plane = f"out[{to} + 1] = ping[base + (N + k) * {LANES} + l] * scale"
    store = [
        f"out[{to}] = ping[base + k * {LANES} + l] * scale",
        *([] if real else [plane]),
    ]
    rows = ["for k in range(min(M, N)):", *indent(store)]
    if attrs.get("half"):  # of no elements: one result
        zero = [f"out[{to} + {j}] = {x.dtype}(0.0)" for j in range(2)]
        rows += ["for k in range(min(M, N), M):", *indent(zero)]
    block = [
        f"base: index = block * 2 * N * {LANES}",
        *_load(x.dtype, planes, real),
        *_passes(x.dtype),
        f"scale: {x.dtype} = {scale}",
        f"for l in range({LANES}):",
        f"    line: index = block * {LANES} + l",
        "    if line < LINES:",
        *indent(rows, 2),
    ]
    sizes: dict[str, Expr] = {
        "LINES": mul(x.shape[0], x.shape[2]), "BLOCKS": _blocks(x.shape), "A": x.shape[2],
        "N0": x.shape[1], "N": w.shape[1], "M": n.type.shape[1],
    }  # fmt: skip
    body = ["for block in parallel(BLOCKS):", *indent(block)]
    return by_hand(n, ("x", "w"), ("out", "ping", "pong"), body, sizes)


def _flops(n: Node) -> Expr:
    """Of a length whose largest prime factor is small: about eight passes."""
    return mul(8, prod(n.types[1].shape))


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
            samples=_samples, work=2))  # fmt: skip
