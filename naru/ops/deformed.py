"""The columns of a deformable convolution: what its offsets point at, in order of the weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from naru.errors import ModelError
from naru.ir.expr import Expr
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import add, floordiv, index, known, prod, sub
from naru.ops.contraction import wide
from naru.ops.kernel_text import KernelText, indent
from naru.ops.operands import (
    check_equal,
    check_kind,
    check_same_dtype,
    compute_dtype,
    given,
    ints,
    operand,
    optional,
    shape_text,
)
from naru.ops.registry import Arrays, Attrs, Op, Sample, Types, register
from naru.ops.samples import random
from naru.ops.sampling import LANES, MOST_TAPS, Sampler, live, sampled, zero_of
from naru.targets import Target

Array = np.ndarray


@dataclass(frozen=True)
class Windows:
    """How a deformable convolution slides: numbers for each spatial axis. `groups`: of channels
    that share offsets."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    groups: int

    @property
    def taps(self) -> int:
        return math.prod(self.kernel)

    def counts(self, sizes: Sequence[Expr]) -> list[Expr]:
        """How many windows there are along each axis."""
        rank = len(self.kernel)
        return [
            add(
                floordiv(sub(add(d, self.pads[k] + self.pads[rank + k]),
                             self.dilations[k] * (self.kernel[k] - 1) + 1), self.strides[k]), 1)
            for k, d in enumerate(sizes)
        ]  # fmt: skip


def windows_of(attrs: Attrs, rank: int) -> Windows:
    """The attributes of deform_columns. Raises ModelError."""
    names = ("kernel", "strides", "dilations", "pads")
    kernel, strides, dilations, pads = (ints(attrs, n) for n in names)
    groups = int(attrs["groups"])
    lengths = (len(kernel), len(strides), len(dilations), len(pads) // 2)
    if any(n != rank for n in lengths) or min(*kernel, *strides, *dilations, groups) < 1:
        raise ModelError(
            f"deform_columns: kernel {kernel}, strides {strides}, dilations {dilations}, pads "
            f"{pads} and groups {groups} don't fit {rank} spatial axes"
        )
    return Windows(kernel, strides, dilations, pads, groups)


def infer_deform_columns(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x [N, C, *S], offsets [N, groups · taps · rank of S, P], and a mask [N, groups · taps, P]
    (may be left out) -> [N, C, taps, P], P being all windows: what DeformConv of opset 19 or 22
    multiplies with its weights. attrs kernel, strides, dilations, pads, groups."""
    op = "deform_columns"
    x, offset, mask = operand(op, types, 0), operand(op, types, 1, rank=3), optional(types, 2)
    check_kind(op, x.dtype, "f")
    check_same_dtype(op, [t for t in (x, offset, mask) if t is not None])
    rank = x.rank - 2
    if rank < 1 or 2**rank > MOST_TAPS:
        raise ModelError(f"{op}: expected x [N, C, *S], got {shape_text(x.shape)}")
    w = windows_of(attrs, rank)
    if (known(x.shape[1]) or 0) % w.groups:
        raise ModelError(f"{op}: {known(x.shape[1])} channels cannot make {w.groups} groups")
    places = prod(w.counts(x.shape[2:]))
    n = check_equal(op, "sizes of the batch", x.shape[0], offset.shape[0])
    check_equal(op, "offsets of a window", offset.shape[1], index(w.groups * w.taps * rank))
    check_equal(op, "numbers of windows and offsets", places, offset.shape[2])
    if mask is not None:
        if mask.rank != 3:
            raise ModelError(f"{op}: expected a mask of rank 3, got {shape_text(mask.shape)}")
        check_equal(op, "sizes of the batch of the mask", n, mask.shape[0])
        check_equal(op, "numbers of a window's mask", mask.shape[1], index(w.groups * w.taps))
        check_equal(op, "numbers of windows and masks", places, mask.shape[2])
    return (TensorType(x.dtype, (n, x.shape[1], index(w.taps), offset.shape[2])),)


def ref_deform_columns(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x, offset = given(arrays), given(arrays, 1)
    mask = arrays[2] if len(arrays) > 2 else None
    rank = x.ndim - 2
    w = windows_of(attrs, rank)
    counts = [known(n) or 0 for n in w.counts([index(d) for d in x.shape[2:]])]
    at = np.stack([i.reshape(-1) for i in np.indices(counts)])
    out = np.zeros((*x.shape[:2], w.taps, offset.shape[2]), x.dtype)
    share = x.shape[1] // w.groups
    with np.errstate(all="ignore"):
        for i, g in itertools.product(range(len(x)), range(w.groups)):
            channels = slice(g * share, (g + 1) * share)
            for tap, steps in enumerate(itertools.product(*map(range, w.kernel))):
                row = g * w.taps + tap
                places = [
                    (at[k] * w.strides[k] - w.pads[k] + steps[k] * w.dilations[k]).astype(
                        wide(x).dtype
                    )
                    + wide(offset[i, row * rank + k])
                    for k in range(rank)
                ]
                read = sampled(wide(x[i, channels]), places, "linear", "zeros", True)
                read = read if mask is None else read * wide(mask[i, row])
                out[i, channels, tap] = read.astype(x.dtype)
    return (out,)


def opaque_deform_columns(n: Node, target: Target) -> str:
    """Parameters: x, offset, mask (if there), out, sizes. Threads share blocks of windows."""
    types = {name: i.type for name, i in zip(("x", "offset", "mask"), n.inputs, strict=False) if i}
    x, rank = types["x"], types["x"].rank - 2
    w, value = windows_of(dict(n.attrs), rank), compute_dtype(types["x"].dtype)
    whole = all((known(d) or 0) > 0 for d in x.shape[2:])
    s = Sampler(rank, "linear", "zeros", True, value, value, zero_of(x.dtype), whole)
    result = s.result("x", "i, g * CG + c", x.dtype)
    result = f"{result} * m" if "mask" in types else result
    result = result if value == x.dtype else f"{x.dtype}({result})"
    inner = [*_offsets(w, value), *s.lines()]
    if "mask" in types:
        inner.append(f"m: {value}[{LANES}] = {_live_row(value, 'mask', 'row')}")
    store = f"out[i, g * CG + c, tap, first:first + {LANES}]"
    inner += ["for c in range(CG):", f"    store({store}, {result}, live)"]
    loops = [f"for g in range({w.groups}):"]
    loops += ["    " * (k + 1) + f"for s{k} in range({d}):" for k, d in enumerate(w.kernel)]
    body = [
        f"blocks: index = (P + {LANES - 1}) // {LANES}",
        "for t in parallel(N * blocks):",
        "    i: index = t // blocks",
        f"    first: index = t % blocks * {LANES}",
        f"    live: bool[{LANES}] = {live('P')}",
        *indent([*s.reads(), *_starts(w, value), *loops], 1),
        *indent(inner, rank + 2),
    ]
    text = KernelText(*types.values(), n.type)
    buffers = [text.buffer(name, t) for name, t in (types | {"out": n.type}).items()]
    sizes = {"N": n.type.shape[0], "P": n.type.shape[3], "CG": floordiv(x.shape[1], w.groups)}
    sizes |= {f"S{k}": d for k, d in enumerate(x.shape[2:])}
    sizes |= {f"O{k}": d for k, d in enumerate(w.counts(x.shape[2:]))}
    filled = text.fill("\n".join(indent(body, 1)), sizes)
    return f"{text.head('deform_columns', *buffers)}\n{filled}\n"


def _live_row(dtype: str, buffer: str, row: str) -> str:
    """A block of a row of offsets or masks."""
    return f"{dtype}(load({buffer}[i, {row}, first:first + {LANES}], live))"


def _starts(w: Windows, value: str) -> list[str]:
    """Where the windows of a block begin: `start{k}` along each axis."""
    lines = [f"rest{len(w.kernel)}: index[{LANES}] = lanes({LANES}) + splat(first, {LANES})"]
    for k in reversed(range(len(w.kernel))):
        of, rest = f"splat(O{k}, {LANES})", f"rest{k + 1}"
        at = f"{rest} % {of}" if k else rest
        lines += [f"rest{k}: index[{LANES}] = {rest} // {of}"] if k else []
        where = f"i32({at} * {w.strides[k]} - {w.pads[k]})"
        lines.append(f"start{k}: {value}[{LANES}] = {value}({where})")
    return lines


def _offsets(w: Windows, value: str) -> list[str]:
    """The places of tap (s0, s1, …) in a block: what the offsets add to where it would be."""
    tap = "s0"
    for k, size in list(enumerate(w.kernel))[1:]:
        tap = f"({tap}) * {size} + s{k}"
    rank = len(w.kernel)
    lines = [f"tap: index = {tap}", f"row: index = g * {w.taps} + tap"]
    for k, d in enumerate(w.dilations):
        moved = _live_row(value, "offset", f"row * {rank} + {k}")
        lines.append(f"v{k}: {value}[{LANES}] = start{k} + {value}(s{k} * {d}) + {moved}")
    return lines


def _deform_columns_samples() -> Iterable[Sample]:
    def case(
        x: tuple[int, ...], places: int, kernel: tuple[int, ...], *, groups: int = 1,
        mask: bool = True, dtype: str = "f32", **more: Any,
    ) -> Sample:  # fmt: skip
        rank, taps = len(kernel), math.prod(kernel)
        ones = (1,) * rank
        usual = {"strides": ones, "dilations": ones, "pads": (0,) * (2 * rank)}
        shape = (x[0], groups * taps, places)
        masks = random(*shape, seed=2, dtype=dtype) if mask else None
        offset = random(x[0], shape[1] * rank, places, seed=1, dtype=dtype, scale=0.7)
        attrs = {"kernel": kernel, **usual, "groups": groups, **more}
        return Sample((random(*x, dtype=dtype), offset, masks), attrs)

    yield case((2, 3, 4, 5), 12, (2, 2))
    yield case((1, 4, 5, 5), 9, (3, 3), groups=2, mask=False)
    yield case((1, 4, 5, 6), 9, (3, 2), groups=4, strides=(2, 2), pads=(1, 0, 2, 1))
    yield case((1, 2, 7, 7), 25, (2, 2), dilations=(2, 2))
    yield case((1, 2, 9), 7, (3,))
    yield case((1, 2, 3, 4, 3), 12, (2, 2, 2))
    yield case((0, 2, 3, 3), 4, (2, 2))
    yield case((1, 2, 3, 3), 4, (2, 2), dtype="f16")
    yield case((1, 2, 3, 3), 4, (2, 2), dtype="f64")
    wild = case((1, 1, 3, 3), 4, (2, 2))
    offset = given(wild.inputs, 1).copy()
    offset[0, :4, 0] = (np.nan, np.inf, -np.inf, 1e30)
    yield Sample((wild.inputs[0], offset, wild.inputs[2]), wild.attrs)


register(Op("deform_columns", "opaque", infer_deform_columns, ref_deform_columns,
            opaque=opaque_deform_columns, samples=_deform_columns_samples))  # fmt: skip
