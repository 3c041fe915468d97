"""The rewrites that a schedule's first line names: TensorFunction -> TensorFunction with the same
meaning, chosen for a kernel, where those of rewrites.py are for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from naru.errors import ScheduleError
from naru.ir.expr import Expr, Read, Unary, Var, children, walk, with_children
from naru.ir.simplify import floordiv, known, mod, mul, normal, substitute
from naru.ir.tensor import Axis, Stage, Tensor, TensorFunction, reads
from naru.schedule.analysis import SLOW_OPS
from naru.schedule.rewrites import join_last_dims, map_reads
from naru.schedule.split_sums import split_sum
from naru.schedule.tile_rows import cross_rows
from naru.schedule.winograd import winograd


def copy_operand(tf: TensorFunction, stage: Stage, tensor: Tensor, name: str) -> TensorFunction:
    """The stage reads a copy of one of its operands, a new plain stage that a schedule can place:
    `copy[i, k] = tensor[i, k]` over the Vars at which the stage reads it. ScheduleError where it
    reads it at other places too."""
    found = [r for r in reads(stage.value) if r.tensor is tensor]
    if len(found) != 1 or not all(isinstance(i, Var) for i in found[0].index):
        raise ScheduleError(
            f"copy {tensor.name}: expected {stage.tensor.name!r} to read it once, at plain axes"
        )
    read = found[0]
    extents = {a.var: a.extent for a in (*stage.axes, *stage.reduction)}
    used = [i for i in read.index if isinstance(i, Var)]
    axes = tuple(Axis(Var(f"c{k}", hi=v.hi), extents[v]) for k, v in enumerate(used))
    copy = Tensor(name, tensor.dtype, tuple(a.extent for a in axes))
    at = dict(zip(used, (a.var for a in axes), strict=True))
    made = Stage(copy, axes, substitute(read, dict(at)))
    value = map_reads(stage.value, lambda r: Read(copy, tuple(used)) if r is read else r)
    stages: list[Stage] = []
    for s in tf.stages:
        stages += [made, replace(s, value=value)] if s is stage else [s]
    return replace(tf, stages=tuple(stages))


def keep_terms(tf: TensorFunction, stage: Stage) -> tuple[TensorFunction, Stage] | None:
    """What a reduction over rows of the result reduces, where the result is made of the same, as a
    plain stage that both read: exp(x - max) of a softmax. None where there is no such expression,
    or it is quickly computed again."""
    out = next(s for s in tf.stages if s.tensor in tf.outputs)
    places = {r.index for r in reads(out.value) if r.tensor is stage.tensor}
    rows = dict(zip(places.pop(), stage.axes, strict=True)) if len(places) == 1 else {}
    others = [a for a in out.axes if a.var not in rows]
    if len(stage.reduction) != 1 or not others or others != list(out.axes[-1:]):
        return None
    if stage.reduction[0].extent is not others[0].extent:
        return None
    at: dict[Var, Expr] = {s.var: v for v, s in rows.items()}
    back: dict[Expr, Expr] = {others[0].var: stage.reduction[0].var}
    back.update({v: s.var for v, s in rows.items()})
    terms = substitute(stage.value, {**at, stage.reduction[0].var: others[0].var})
    slow = any(isinstance(e, Unary) and e.op in SLOW_OPS for e in walk(terms))
    if not slow or terms.dtype != out.tensor.dtype or terms not in walk(out.value):
        return None
    axes = tuple(Axis(Var(a.var.name, hi=a.var.hi), a.extent) for a in out.axes)
    kept = Tensor(f"{stage.tensor.name}_terms", terms.dtype, tuple(a.extent for a in axes))
    value = substitute(terms, {o.var: n.var for o, n in zip(out.axes, axes, strict=True)})
    made = Stage(kept, axes, value)
    inside = Read(kept, tuple(back[a.var] for a in out.axes))
    stages: list[Stage] = []
    for s in tf.stages:
        if s is stage:
            stages += [made, replace(s, value=inside)]
        elif s is out:
            read = Read(kept, tuple(a.var for a in out.axes))
            stages.append(replace(s, value=exchange(s.value, terms, read)))
        else:
            stages.append(s)
    return replace(tf, stages=tuple(stages)), made


def exchange(e: Expr, old: Expr, new: Expr) -> Expr:
    """e with one expression in the place of another."""
    done: dict[Expr, Expr] = {}
    for x in walk(e):
        parts = tuple(done[c] for c in children(x))
        done[x] = new if x is old else normal(with_children(x, parts)) if parts else x
    return done[e]


def join_dims(tf: TensorFunction, tensor: Tensor) -> TensorFunction:
    """The last two dims of an input count as one: the same memory, another shape. A layout with a
    block so becomes a matrix whose rows a matrix instruction takes as they are."""
    return join_last_dims(tf, {tensor: len(tensor.shape) - 2})


def cross_lines(tf: TensorFunction, stage: Stage) -> tuple[TensorFunction, Stage] | None:
    """The lines of an image and the pixels of one count as one axis, so that tiles may cross lines:

        R0[y, x, n] = sum over k of p0[y, x, k] * w[k, n]
        ->  R0[q, n] = sum over k of p0[q // 7, q % 7, k] * w[k, n]

    None where the stage has no such axes, or the result does not read it at them."""
    out = next(s for s in tf.stages if s.tensor in tf.outputs)
    at = tuple(a.var for a in out.axes)
    found = [r.index for r in reads(out.value) if r.tensor is stage.tensor]
    if len(at) < 3 or found != [at] or len(tf.stages) != 2:
        return None
    made = [_cross(s) for s in (stage, out)]
    new = {stage.tensor: made[0].tensor, out.tensor: made[1].tensor}
    read = Read(made[0].tensor, tuple(a.var for a in made[1].axes))
    value = map_reads(made[1].value, lambda r: read if r.tensor is stage.tensor else r)
    stages = (made[0], replace(made[1], value=value))
    outputs = tuple(new.get(t, t) for t in tf.outputs)
    return replace(tf, stages=stages, outputs=outputs), made[0]


def _cross(s: Stage) -> Stage:
    """A stage of axes (…, y, x, n) as one of (…, q, n)."""
    *outer, y, x, n = s.axes
    extent = mul(y.extent, x.extent)
    q = Axis(Var(y.var.name, hi=int(known(extent) or 2**31 - 1) - 1), extent)
    at: dict[Var, Expr] = {y.var: floordiv(q.var, x.extent), x.var: mod(q.var, x.extent)}
    axes = (*outer, q, n)
    tensor = Tensor(s.tensor.name, s.tensor.dtype, tuple(a.extent for a in axes))
    return replace(s, tensor=tensor, axes=axes, value=substitute(s.value, at))


OF_STAGE: dict[str, Callable[[TensorFunction, Stage], Sequence[Any] | None]] = {
    "parts": split_sum,
    "terms": keep_terms,
    "lines": cross_lines,
    "winograd": winograd,
    "tiles": cross_rows,
}


def apply_algorithm(tf: TensorFunction, algorithm: Sequence[str]) -> TensorFunction:
    """The rewrites that a schedule's first line names, of a prepared function: "direct" is none,
    "copy A" is `copy_operand`, "join B" is `join_dims`, "parts R" is `split_sum`, "terms R" is
    `keep_terms`, "lines R" is `cross_lines`, "winograd R" is `winograd`, "tiles R" is
    `cross_rows`. ScheduleError names what is not known."""
    for line in algorithm:
        word, _, name = line.partition(" ")
        if line == "direct":
            continue
        stage = next((s for s in tf.stages if s.tensor.name == name), None)
        rewrite = OF_STAGE.get(word)
        made = rewrite(tf, stage) if rewrite is not None and stage is not None else None
        if made is not None:
            tf = made[0]
            continue
        tensor = next((t for t in tf.inputs if t.name == name), None)
        if word not in ("copy", "join") or tensor is None:
            raise ScheduleError(
                f"algorithm({line!r}): there is no such rewrite of {tf.name!r}",
                hint="'direct', 'copy INPUT', 'join INPUT' or, of a long sum, 'parts STAGE', "
                "of rows that are made of what it reduces 'terms STAGE', of an image 'lines "
                "STAGE', of filters in a form for tiles 'winograd STAGE', of packed operands "
                "'tiles STAGE'",
            )
        if word == "join":
            tf = join_dims(tf, tensor)
            continue
        users = [s for s in tf.stages if any(r.tensor is tensor for r in reads(s.value))]
        if not users:
            raise ScheduleError(f"algorithm({line!r}): nothing reads {name!r}")
        tf = copy_operand(tf, users[0], tensor, "A")
    return tf
