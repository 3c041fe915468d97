"""Discrete Fourier transforms as matrix products with constant matrices.

A complex signal is two planes, real and imaginary: [before, 2, n, behind], transformed along n.
Short ones are one product. Longer ones are split, n = a · b (Cooley and Tukey 1965): a product with
the matrix of a, factors, a product with the matrix of b, and so on; lengths with a large prime
factor are a convolution of a length that has none (Bluestein 1970). Tables are computed in double
precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from naru.errors import ModelError
from naru.frontend.onnx_movement import slice_axis
from naru.frontend.onnx_node import emit
from naru.ir.expr import Const, Expr
from naru.ir.graph import Node
from naru.ir.simplify import ZERO, known, mul, prod
from naru.ops.registry import constant

Array = np.ndarray
Complex = NDArray[np.complex128]
LARGEST = 2**18 + 2**15  # elements of a matrix that is multiplied with many signals,
FEW, LARGEST_OF_FEW = 8, 2**14  # with few of them
FACTOR = 64  # the most that one product of a longer transform takes on, if any as small divides it
PRIME = 512  # the largest prime factor that is not worth a convolution
LONGEST = 2**24


@dataclass(frozen=True)
class Part:
    """A signal z [before, planes, n, behind]."""

    z: Node
    n: int

    @property
    def planes(self) -> int:
        return known(self.z.type.shape[1]) or 2

    def count(self) -> int | None:
        """How many signals it has; None if that is not known."""
        return known(mul(self.z.type.shape[0], self.z.type.shape[3]))


def transform(x: Node, axis: int, n: int, *, inverse: bool, half: bool) -> Node:
    """x [..., 1 or 2] along an axis, cropped or filled with zeros to n. `half`: of a transform, the
    results up to n // 2; of an inverse one, x has those only, and the result is real."""
    if not 0 < n <= LONGEST:
        raise ModelError(f"expected a length in 1..{LONGEST}, found {n}")
    rank = x.type.rank
    real = inverse and half
    x = resized(x, axis, n // 2 + 1 if real else n)
    # The planes go before the axis.
    order = (*range(axis), rank - 1, *range(axis, rank - 1))
    z = emit("transpose", x, perm=order)
    before, behind = x.type.shape[:axis], x.type.shape[axis + 1 : -1]
    shape = (prod(before), x.type.shape[-1], x.type.shape[axis], prod(behind))
    part = Part(emit("reshape", z, shape=shape), n)
    results = n // 2 + 1 if half and not inverse else n
    if real:
        y = _inverse_of_half(part)
    elif _fits(part, 2 * results):
        y = _product(part, matrix(n, results, inverse))
    else:
        y = _along(_transformed(part, inverse), ZERO, Const(results))
        y = emit("mul", y, _table(np.array(1 / n), y)) if inverse else y
    planes, size = y.type.shape[1], y.type.shape[2]
    y = emit("reshape", y, shape=(*before, planes, size, *behind))
    back = (*range(axis), *range(axis + 1, rank), axis)
    return emit("transpose", y, perm=back)


def resized(x: Node, axis: int, n: int) -> Node:
    """The first n elements of an axis; zeros behind where there are fewer."""
    size = known(x.type.shape[axis])
    if size is None:
        raise ModelError("the size of the axis must be known")
    if size > n:
        return slice_axis(x, axis, ZERO, Const(n))
    pads = [0] * (2 * x.type.rank)
    pads[x.type.rank + axis] = n - size
    return x if size == n else emit("pad", x, pads=tuple(pads), mode="constant", value=0.0)


# --- tables ---------------------------------------------------------------------------------------


def waves(n: int, turns: Array, inverse: bool) -> Complex:
    """exp(∓2πi · turns / n) for whole numbers `turns`, complex."""
    angle = 2 * np.pi * (turns % n) / n
    return np.exp(1j * angle if inverse else -1j * angle)


def matrix(n: int, results: int, inverse: bool) -> Complex:
    """What a signal of n is multiplied with, complex[results, n]."""
    turns = np.arange(results)[:, None] * np.arange(n)
    w = waves(n, turns, inverse)
    return w / n if inverse else w


def planes_of(w: Complex, planes: int) -> Array:
    """A complex matrix [m, n] as a real one over planes, [2 · m, planes · n]."""
    if planes == 1:
        return np.concatenate([w.real, w.imag])
    return np.block([[w.real, -w.imag], [w.imag, w.real]])


def _table(values: Array, like: Node) -> Node:
    return constant(values, np.float64 if like.type.dtype == "f64" else np.float32)


# --- steps ----------------------------------------------------------------------------------------


def _fits(p: Part, rows: int) -> bool:
    """Is one product the best there is?"""
    count = p.count()
    largest = LARGEST_OF_FEW if count is not None and count < FEW else LARGEST
    return rows * p.planes * p.n <= largest


def _product(p: Part, w: Complex) -> Node:
    """w [m, n] times every signal -> [before, 2, m, behind]."""
    return _real_product(p, planes_of(w, p.planes), 2)


def _real_product(p: Part, w: Array, planes: int) -> Node:
    """The same with a real matrix over planes, [planes · m, planes of p · n]."""
    before, _, _, behind = p.z.type.shape
    rows, columns = w.shape
    if known(behind) == 1:
        flat = emit("reshape", p.z, shape=(before, Const(columns)))
        y = emit("matmul", flat, _table(w.T, p.z), exact=True)
    else:
        flat = emit("reshape", p.z, shape=(before, Const(columns), behind))
        y = emit("matmul", _table(w, p.z), flat)
    return emit("reshape", y, shape=(before, Const(planes), Const(rows // planes), behind))


def _along(z: Node, start: Expr, size: Expr) -> Node:
    """Some elements of the signals."""
    return z if z.type.shape[2] is size else slice_axis(z, 2, start, size)


def _times(z: Node, w: Complex) -> Node:
    """z [before, planes, …] times complex numbers [...], as many dims as follow the planes."""
    if known(z.type.shape[1]) == 1:
        return emit("mul", z, _table(np.stack([w.real, w.imag]), z))
    turned = emit("slice", z, starts=(-1,), ends=(-(2**31),), axes=(1,), steps=(-1,))
    straight = emit("mul", z, _table(np.stack([w.real, w.real]), z))
    return emit("add", straight, emit("mul", turned, _table(np.stack([-w.imag, w.imag]), z)))


def largest_prime(n: int) -> int:
    """The largest prime factor of n; 1 of 1."""
    found, p = 1, 2
    while p * p <= n:
        while n % p == 0:
            found, n = p, n // p
        p += 1
    return max(found, n)


def _first_factor(n: int) -> int:
    """What the first product of a transform takes on: n itself where nothing divides it."""
    if n <= FACTOR:
        return n
    fitting = [d for d in range(2, FACTOR + 1) if n % d == 0]
    if fitting:
        return min(fitting, key=lambda d: abs(d - n**0.5))
    return next(d for d in range(FACTOR + 1, n + 1) if n % d == 0)


def _transformed(p: Part, inverse: bool) -> Node:
    """All n results, of an inverse transform without the factor 1 / n."""
    n = p.n
    if largest_prime(n) > PRIME:
        return _convolved(p, inverse)
    before, _, _, behind = p.z.type.shape
    a = _first_factor(n)
    if a == n:
        turns = np.arange(n)[:, None] * np.arange(n)
        return _product(p, waves(n, turns, inverse))
    b = n // a
    # Element n1·b + n2 becomes result k1 + a·k2.
    first = Part(emit("reshape", p.z, shape=(before, Const(p.planes), Const(a), mul(b, behind))), a)
    turns = np.arange(a)[:, None] * np.arange(a)
    y = _product(first, waves(a, turns, inverse))
    y = emit("reshape", y, shape=(before, Const(2), Const(a), Const(b), behind))
    turns = np.arange(a)[:, None] * np.arange(b)
    y = _times(y, waves(n, turns, inverse)[..., None])
    y = emit("transpose", y, perm=(0, 1, 3, 2, 4))
    y = emit("reshape", y, shape=(before, Const(2), Const(b), mul(a, behind)))
    y = _transformed(Part(y, b), inverse)
    return emit("reshape", y, shape=(before, Const(2), Const(n), behind))


def _convolved(p: Part, inverse: bool) -> Node:
    """With k·m = (k² + m² - (k - m)²) / 2, a transform is a convolution between two products."""
    n = p.n
    size = 1 << (2 * n - 2).bit_length()
    at = np.arange(n)
    chirp = waves(2 * n, at * at, inverse)
    kernel = np.zeros(size, np.complex128)
    kernel[:n] = chirp.conj()
    kernel[size - n + 1 :] = chirp[1:][::-1].conj()
    z = _times(p.z, chirp[:, None])
    z = emit("pad", z, pads=(0, 0, 0, 0, 0, 0, size - n, 0), mode="constant", value=0.0)
    z = _times(_transformed(Part(z, size), False), np.fft.fft(kernel)[:, None] / size)
    z = _transformed(Part(z, size), True)
    return _times(_along(z, ZERO, Const(n)), chirp[:, None])


def _inverse_of_half(p: Part) -> Node:
    """n real numbers from the first n // 2 + 1 results of a transform -> [before, 1, n, behind]."""
    n, half = p.n, p.n // 2 + 1
    given = Part(p.z, half)
    if _fits(given, n):
        # Results between the first and the middle one stand for two.
        twice = np.full(half, 2.0)
        twice[0] = 1.0
        if n % 2 == 0:
            twice[-1] = 1.0
        w = waves(n, np.arange(n)[:, None] * np.arange(half), True) * twice / n
        real = np.concatenate([w.real, -w.imag], 1) if p.planes == 2 else w.real
        return _real_product(given, real, 1)
    z = p.z
    if n > half:  # the rest is the mirror image, conjugate
        turned = emit("slice", z, starts=(n - half,), ends=(0,), axes=(2,), steps=(-1,))
        if p.planes == 2:
            sign = np.array([1.0, -1.0]).reshape(2, 1, 1)
            turned = emit("mul", turned, _table(sign, z))
        z = emit("concat", z, turned, axis=2)
    y = slice_axis(_transformed(Part(z, n), True), 1, ZERO, Const(1))
    return emit("mul", y, _table(np.array(1 / n), y))
