"""Algorithm rewrites: TensorFunction -> TensorFunction with the same meaning, before any loop.

Those that every kernel wants are listed in prepare.py; those that a schedule names are in
algorithms.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from naru.ir.expr import Const, Expr, Read, Var, children, free_vars, walk, with_children
from naru.ir.graph import Layout
from naru.ir.simplify import (
    add,
    ceildiv,
    floordiv,
    free_of,
    known,
    mod,
    mul,
    normal,
    prod,
    substitute,
)
from naru.ir.tensor import Axis, Stage, Tensor, TensorFunction, reads
from naru.schedule.cook_toom import TAPS

T = TypeVar("T")
ReadMap = Callable[[Read], Expr]


def map_reads(e: Expr, fn: ReadMap) -> Expr:
    """e with each Read replaced by fn(read), whose indices have been mapped already."""
    done: dict[Expr, Expr] = {}
    for x in walk(e):
        old = children(x)
        new = tuple(done[c] for c in old)
        same = all(a is b for a, b in zip(old, new, strict=True))
        y = x if same else normal(with_children(x, new))
        # Only what was a Read: a select whose sides became one Read has been mapped already.
        done[x] = fn(y) if isinstance(x, Read) and isinstance(y, Read) else y
    return done[e]


def map_stages(tf: TensorFunction, fn: ReadMap) -> tuple[Stage, ...]:
    """All stages with their reads mapped."""
    return tuple(replace(s, value=map_reads(s.value, fn)) for s in tf.stages)


def inline_stages(tf: TensorFunction) -> TensorFunction:
    """Plain stages that are not outputs are replaced by their expression wherever they are read."""
    bodies: dict[Tensor, Stage] = {}
    kept: list[Stage] = []

    def expand(r: Read) -> Expr:
        s = bodies.get(r.tensor)
        if s is None:
            return r
        at = {a.var: i for a, i in zip(s.axes, r.index, strict=True)}
        return substitute(s.value, at)

    for s in tf.stages:
        new = replace(s, value=map_reads(s.value, expand))
        if s.combine is None and s.tensor not in tf.outputs:
            bodies[s.tensor] = new
        else:
            kept.append(new)
    return replace(tf, stages=tuple(kept))


def end_plainly(tf: TensorFunction) -> TensorFunction:
    """An output that is itself a reduction gets a stage of its own that copies it, so that
    accumulators always live apart from the result."""
    stages = list(tf.stages)
    outputs: list[Tensor] = []
    for t in tf.outputs:
        s = next(x for x in stages if x.tensor is t)
        if s.combine is None and not any(r.tensor is t for x in stages for r in reads(x.value)):
            outputs.append(t)
            continue
        out = Tensor(f"{t.name}_out", t.dtype, t.shape, t.layout)
        axes = tuple(Axis(Var(a.var.name, hi=a.var.hi), a.extent) for a in s.axes)
        stages.append(Stage(out, axes, Read(t, tuple(a.var for a in axes))))
        outputs.append(out)
    return replace(tf, stages=tuple(stages), outputs=tuple(outputs))


def physical_shape(shape: tuple[Expr, ...], layout: Layout | None) -> tuple[Expr, ...]:
    """The row-major shape in memory of a tensor of this logical shape."""
    if layout is None:
        return shape
    if layout.winograd:
        shape = (*shape[:-2], *(Const(layout.winograd + TAPS - 1),) * 2)
    if layout.block is None:
        return tuple(shape[a] for a in layout.order)
    axis, size = layout.block
    outer = [ceildiv(shape[a], size) if a == axis else shape[a] for a in layout.order]
    return (*outer, Const(size))


def physical_index(index: tuple[Expr, ...], layout: Layout | None) -> tuple[Expr, ...]:
    """Where the element at a logical index lies in the physical shape."""
    if layout is None:
        return index
    if layout.block is None:
        return tuple(index[a] for a in layout.order)
    axis, size = layout.block
    outer = [floordiv(index[a], size) if a == axis else index[a] for a in layout.order]
    return (*outer, mod(index[axis], size))


def use_layouts(tf: TensorFunction) -> TensorFunction:
    """Tensors get their physical shapes; reads are mapped; output axes run in physical order. What
    is kept in the form of an algorithm stays as it is until that algorithm reads it."""
    inputs = {t: t if t.layout and t.layout.winograd else _physical(t) for t in tf.inputs}
    outputs = {t: _physical(t) for t in tf.outputs}

    def read(r: Read) -> Expr:
        new = inputs.get(r.tensor, r.tensor)
        return r if new is r.tensor else Read(new, physical_index(r.index, r.tensor.layout))

    stages: list[Stage] = []
    for s in map_stages(tf, read):
        if s.tensor in outputs and s.tensor.layout is not None:
            axes = tuple(s.axes[a] for a in s.tensor.layout.order)
            s = replace(s, tensor=outputs[s.tensor], axes=axes)
        stages.append(s)
    made = tuple(outputs[t] for t in tf.outputs)
    return replace(tf, inputs=tuple(inputs.values()), stages=tuple(stages), outputs=made)


def _physical(t: Tensor) -> Tensor:
    return t if t.layout is None else Tensor(t.name, t.dtype, physical_shape(t.shape, t.layout))


def align_reductions(tf: TensorFunction) -> TensorFunction:
    """The axes of a reduction follow the order in which its reader runs them, so that lanes lie
    next to each other in its accumulators too."""
    stages = list(tf.stages)
    for k in reversed(range(len(stages))):
        t = stages[k].tensor
        if stages[k].combine is None:
            continue
        found = [(s, r) for s in stages for r in reads(s.value) if r.tensor is t]
        position = {a.var: p for s, _ in found[:1] for p, a in enumerate(s.axes)}
        order = sorted(
            range(len(t.shape)),
            key=lambda d: max((position.get(v, d) for _, r in found[:1] for i in r.index[d : d + 1]
                               for v in free_vars(i)), default=d),
        )  # fmt: skip
        if order == list(range(len(t.shape))):
            continue
        new = Tensor(t.name, t.dtype, tuple(t.shape[d] for d in order))

        def read(r: Read, t: Tensor = t, new: Tensor = new, order: list[int] = order) -> Expr:
            return Read(new, tuple(r.index[d] for d in order)) if r.tensor is t else r

        axes = tuple(stages[k].axes[d] for d in order)
        stages[k] = replace(stages[k], tensor=new, axes=axes)
        stages = [replace(s, value=map_reads(s.value, read)) for s in stages]
    return replace(tf, stages=tuple(stages))


def _is_one(e: Expr) -> bool:
    return isinstance(e, Const) and e.value == 1


def drop_unit_dims(tf: TensorFunction) -> TensorFunction:
    """Axes that run once and dims of size 1 disappear."""
    squeezed: dict[Tensor, Tensor] = {}
    for t in (*tf.inputs, *(s.tensor for s in tf.stages)):
        shape = tuple(d for d in t.shape if not _is_one(d))
        squeezed[t] = t if len(shape) == len(t.shape) else Tensor(t.name, t.dtype, shape)

    def read(r: Read) -> Expr:
        index = tuple(i for i, d in zip(r.index, r.tensor.shape, strict=True) if not _is_one(d))
        return Read(squeezed[r.tensor], index)

    stages: list[Stage] = []
    for s in map_stages(tf, read):
        zero = {a.var: Const(0) for a in (*s.axes, *s.reduction) if _is_one(a.extent)}
        axes = tuple(a for a in s.axes if not _is_one(a.extent))
        reduction = tuple(a for a in s.reduction if not _is_one(a.extent))
        value = substitute(s.value, zero)
        combine, init = s.combine, s.init
        if s.combine is not None and not reduction:  # a reduction over one element only
            reduction = s.reduction[:1]
        kept = zip(s.place, s.tensor.shape, strict=True) if s.place else ()
        place = tuple(substitute(i, zero) for i, d in kept if not _is_one(d))
        stages.append(Stage(squeezed[s.tensor], axes, value, reduction, combine, init, place))
    return replace(
        tf,
        inputs=tuple(squeezed[t] for t in tf.inputs),
        stages=tuple(stages),
        outputs=tuple(squeezed[t] for t in tf.outputs),
    )


def collapse_axes(tf: TensorFunction) -> TensorFunction:
    """Two neighbouring axes of a stage that every access uses side by side and whole become one:
    rows of a batch, the pixels of a 1×1 convolution, all of an elementwise kernel."""
    changed = True
    while changed:
        changed = False
        for s in tf.stages:
            for k in range(len(s.axes) - 1):
                merges = _merges(tf, s, k)
                if merges is not None:
                    tf = _merge(tf, merges)
                    changed = True
                    break
            if changed:
                break
    return tf


Merges = dict[Tensor, int]  # tensor -> the first of the two dims that become one


def _merges(tf: TensorFunction, stage: Stage, k: int) -> Merges | None:
    """Which dims of which tensors must merge when axes k, k+1 of the stage do; None: they can't."""
    merges: Merges = {}
    todo = [(stage.tensor, k)]
    while todo:
        tensor, at = todo.pop()
        if merges.setdefault(tensor, at) != at:
            return None
        definition = tf.stage_of(tensor)
        if definition is not None:
            found = _uses(definition, definition.axes[at], definition.axes[at + 1])
            if found is None:
                return None
            todo += [x for x in found.items() if merges.get(x[0]) != x[1]]
    for s in tf.stages:  # every other reader must see both dims side by side too
        for r in reads(s.value):
            at = merges.get(r.tensor)
            if at is None:
                continue
            pair = _axis_pair(s, r, at)
            if pair is None or merges.get(s.tensor) != pair:
                return None
    return merges


def _uses(s: Stage, a: Axis, b: Axis) -> Merges | None:
    """The dims at which the stage's reads have [.., a, b, ..]; None when a or b occur elsewhere."""
    found: Merges = {}

    def read(r: Read) -> Expr:
        j = _side_by_side(r, a, b)
        if j is None or found.setdefault(r.tensor, j) != j:
            return r
        # Accounted for. A fresh Var takes its place: a constant could fold away what is left.
        return Var("seen", r.dtype)

    probe = map_reads(s.value, read)
    return found if free_of(probe, a.var, b.var) else None


def _side_by_side(r: Read, a: Axis, b: Axis) -> int | None:
    """The dim j at which a read has [.., a, b, ..] over two whole dims, and neither elsewhere."""
    for j in range(len(r.index) - 1):
        if r.index[j] is a.var and r.index[j + 1] is b.var:
            rest = (*r.index[:j], *r.index[j + 2 :])
            whole = r.tensor.shape[j] is a.extent and r.tensor.shape[j + 1] is b.extent
            return j if whole and all(free_of(i, a.var, b.var) for i in rest) else None
    return None


def _axis_pair(s: Stage, r: Read, at: int) -> int | None:
    for k in range(len(s.axes) - 1):
        if r.index[at] is s.axes[k].var and r.index[at + 1] is s.axes[k + 1].var:
            return k
    return None


def _merge(tf: TensorFunction, merges: Merges) -> TensorFunction:
    new = {
        t: Tensor(t.name, t.dtype, _join(t.shape, k, mul(t.shape[k], t.shape[k + 1])))
        for t, k in merges.items()
    }
    stages: list[Stage] = []
    for s in tf.stages:
        axes = s.axes
        fused: Axis | None = None
        if s.tensor in merges:
            k = merges[s.tensor]
            extent = mul(axes[k].extent, axes[k + 1].extent)
            fused = Axis(Var(axes[k].var.name, hi=_last(extent)), extent)
            axes = _join(axes, k, fused)

        def read(r: Read, fused: Axis | None = fused) -> Expr:
            at = merges.get(r.tensor)
            if at is None or fused is None:  # a reader of merged dims has merged axes: see _merges
                return r
            return Read(new[r.tensor], _join(r.index, at, fused.var))

        value = map_reads(s.value, read)
        stages.append(replace(s, tensor=new.get(s.tensor, s.tensor), axes=axes, value=value))
    return replace(
        tf,
        inputs=tuple(new.get(t, t) for t in tf.inputs),
        stages=tuple(stages),
        outputs=tuple(new.get(t, t) for t in tf.outputs),
    )


def _join(xs: tuple[T, ...], k: int, new: T) -> tuple[T, ...]:
    return (*xs[:k], new, *xs[k + 2 :])


def _last(extent: Expr) -> int:
    return max(int(extent.value) - 1, 0) if isinstance(extent, Const) else 2**31 - 2


def join_far_dims(tf: TensorFunction) -> TensorFunction:
    """Where a plain result's lanes run along one dim of an input and several dims follow it, these
    count as one: the input becomes a matrix that tiles can be turned from (see rows.py).

        out[y, x, c] = p0[c, y + 1, x]   ->   out[y, x, c] = p0[c, 56 y + x + 56]
    """
    if len(tf.stages) != 1 or not tf.stages[0].axes:
        return tf
    last = tf.stages[0].axes[-1].var
    joined: dict[Tensor, int] = {}
    for t in tf.inputs:
        found = {r.index for r in reads(tf.stages[0].value) if r.tensor is t}
        dims = {i.index(last) if last in i else -1 for i in found}
        d = dims.pop() if len(dims) == 1 else -1
        apart = all(free_of(e, last) for i in found for k, e in enumerate(i) if k != d)
        if 0 <= d < len(t.shape) - 2 and apart and all(known(n) for n in t.shape[d + 1 :]):
            joined[t] = d + 1
    return join_last_dims(tf, joined)


def join_last_dims(tf: TensorFunction, first: Mapping[Tensor, int]) -> TensorFunction:
    """The dims of some inputs, from the `first` of each on, count as one: the same memory, another
    shape."""
    joined = {
        t: Tensor(t.name, t.dtype, (*t.shape[:d], prod(t.shape[d:]))) for t, d in first.items()
    }

    def read(r: Read) -> Expr:
        new = joined.get(r.tensor)
        if new is None:
            return r
        d = first[r.tensor]
        at: Expr = Const(0)
        for i, size in zip(r.index[d:], r.tensor.shape[d:], strict=True):
            at = add(mul(at, size), i)
        return Read(new, (*r.index[:d], at))

    inputs = tuple(joined.get(t, t) for t in tf.inputs)
    return replace(tf, inputs=inputs, stages=map_stages(tf, read)) if joined else tf


def name_axes(tf: TensorFunction) -> TensorFunction:
    """Short names for schedules: axes i0, i1, …, those of reductions k0, k1, …; stages R0, R1, … in
    order, the result `out`."""
    stages: list[Stage] = []
    renamed: dict[Tensor, Tensor] = {}
    reductions = 0
    for s in tf.stages:
        if s.tensor in tf.outputs:
            name = "out" if len(tf.outputs) == 1 else f"out{tf.outputs.index(s.tensor)}"
        else:
            name, reductions = f"R{reductions}", reductions + 1
        renamed[s.tensor] = Tensor(name, s.tensor.dtype, s.tensor.shape)
        axes = tuple(Axis(Var(f"i{k}", hi=a.var.hi), a.extent) for k, a in enumerate(s.axes))
        loops = tuple(Axis(Var(f"k{k}", hi=a.var.hi), a.extent) for k, a in enumerate(s.reduction))
        at = {o.var: n.var for o, n in zip((*s.axes, *s.reduction), (*axes, *loops), strict=True)}
        value = substitute(s.value, dict(at))
        value = map_reads(value, lambda r: Read(renamed.get(r.tensor, r.tensor), r.index))
        place = tuple(substitute(i, dict(at)) for i in s.place)
        made = replace(s, tensor=renamed[s.tensor], axes=axes, reduction=loops, value=value)
        stages.append(replace(made, place=place))
    return replace(tf, stages=tuple(stages), outputs=tuple(renamed[t] for t in tf.outputs))


def at_size(tf: TensorFunction, symbol: Var, size: int) -> TensorFunction:
    """The function for one value of a dim symbol."""
    at = {symbol: Const(size)}

    def fixed(xs: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return tuple(substitute(x, at) for x in xs)

    tensors = {
        t: Tensor(t.name, t.dtype, fixed(t.shape), t.layout)
        for t in (*tf.inputs, *(s.tensor for s in tf.stages))
    }

    def axes(xs: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(Axis(a.var, substitute(a.extent, at)) for a in xs)

    stages = tuple(
        replace(
            s,
            tensor=tensors[s.tensor],
            axes=axes(s.axes),
            reduction=axes(s.reduction),
            value=map_reads(substitute(s.value, at), lambda r: Read(tensors[r.tensor], r.index)),
        )
        for s in tf.stages
    )
    return replace(
        tf,
        inputs=tuple(tensors[t] for t in tf.inputs),
        stages=stages,
        outputs=tuple(tensors[t] for t in tf.outputs),
    )
