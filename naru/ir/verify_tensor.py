"""The rules of a TensorFunction, as tables of checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from naru.errors import IRError
from naru.ir.expr import Call, Const, Lanes, Load, Read, Reduce, Splat, Var, walk
from naru.ir.simplify import Interval, known
from naru.ir.tensor import Axis, Stage, Tensor, TensorFunction, reads
from naru.ir.text_loop import read_func
from naru.ir.text_tensor import TensorPrinter
from naru.ir.verify_expr import check_expr, index_problem, out_of_bounds
from naru.ir.verify_loop import verify_func

Problems = Iterator[str]


@dataclass
class Before:
    """What is there before a stage: tensors, and the axes of all stages so far."""

    tensors: set[Tensor]
    axes: set[Var] = field(default_factory=set[Var])


def _axes(s: Stage) -> tuple[Axis, ...]:
    return (*s.axes, *s.reduction)


def _own_shape(s: Stage, before: Before) -> Problems:
    if s.place:
        return
    for d, (a, n) in enumerate(zip(s.axes, s.tensor.shape, strict=True)):
        if a.extent is not n:
            yield f"axis {d} does not run over dim {d} of {s.tensor.name}"


def _own_axes(s: Stage, before: Before) -> Problems:
    seen: set[Var] = set()
    for a in _axes(s):
        if a.var in seen:
            yield f"axis {a.var.name} appears twice"
        seen.add(a.var)
        yield from index_problem(f"axis {a.var.name}", a.extent)
        size = known(a.extent)
        if size is not None and size - 1 > a.var.hi:
            yield f"axis {a.var.name} runs to {size - 1}, but its declared range ends at {a.var.hi}"
    for a in _axes(s):
        for e in walk(a.extent):
            if e in seen:
                yield f"the extent of axis {a.var.name} depends on an axis"


def _place(s: Stage, before: Before) -> Problems:
    own = {a.var for a in s.axes}
    for d, i in enumerate(s.place):
        yield from index_problem(f"place {d}", i)
        for e in walk(i):
            if isinstance(e, Read) or (isinstance(e, Var) and e not in own):
                yield f"place {d} is no function of the stage's axes"


def _once(s: Stage, before: Before) -> Problems:
    if s.tensor in before.tensors:
        yield f"{s.tensor.name} is defined twice"


def _values(s: Stage, before: Before) -> Problems:
    for e in walk(s.value):
        yield from check_expr(e)
        if e.shape:
            yield f"a tile value of shape {e.shape}; stages work on single elements"
        if isinstance(e, Load):
            yield f"{e.buffer.name}: a Load belongs in loop IR; stages have Read"
        elif isinstance(e, Lanes | Splat | Reduce) or (isinstance(e, Call) and e.fn != "fma"):
            yield f"{type(e).__name__} belongs in loop IR"
    own = {a.var for a in _axes(s)}
    for e in walk(s.value):
        if isinstance(e, Var) and e in before.axes and e not in own:
            yield f"{e.name} is an axis of another stage"


def _reads(s: Stage, before: Before) -> Problems:
    ranges: dict[Var, Interval] = {}
    for a in _axes(s):
        size = known(a.extent)
        if size:
            ranges[a.var] = (0, size - 1)
    empty = any(known(a.extent) == 0 for a in _axes(s))
    for r in reads(s.value):
        if r.tensor not in before.tensors:
            yield f"{r.tensor.name} is neither an input nor an earlier stage"
        if not empty:
            yield from out_of_bounds(r.tensor.name, r.tensor.shape, r.index, (), ranges)


def _init(s: Stage, before: Before) -> Problems:
    if s.init is not None and (not isinstance(s.init, Const) or s.init.dtype != s.tensor.dtype):
        yield f"init: expected a constant of dtype {s.tensor.dtype}"
    if s.init is not None and s.combine is None:
        yield "init without a reduction"


STAGE_CHECKS: tuple[Callable[[Stage, Before], Problems], ...] = (
    _own_shape,
    _own_axes,
    _place,
    _once,
    _values,
    _reads,
    _init,
)


def _inputs(tf: TensorFunction) -> Problems:
    if len(set(tf.inputs)) != len(tf.inputs):
        yield "an input appears twice"
    for t in tf.inputs:
        for d in t.shape:
            yield from index_problem(f"{t.name}: a dim", d)


def _outputs(tf: TensorFunction) -> Problems:
    made = {s.tensor for s in tf.stages}
    for t in tf.outputs:
        if tf.opaque is None and t not in made:
            yield f"output {t.name} is not the tensor of a stage"


def _opaque(tf: TensorFunction) -> Problems:
    if tf.opaque is None:
        return
    if tf.stages:
        yield "an opaque kernel has no stages"
    try:
        func = read_func(tf.opaque)
    except IRError as e:
        yield from e.problems
        return
    expected = [*tf.inputs, *tf.outputs]
    if len(func.buffers) != len(expected):
        yield f"the kernel has {len(func.buffers)} buffers, expected {len(expected)}"
    for b, t in zip(func.buffers, expected, strict=False):
        if (b.dtype, len(b.shape)) != (t.dtype, len(t.shape)):
            yield (
                f"the kernel's {b.name} is {b.dtype} of rank {len(b.shape)}, "
                f"{t.name} is {t.dtype} of rank {len(t.shape)}"
            )
    yield from verify_func(func)


FUNCTION_CHECKS: tuple[Callable[[TensorFunction], Problems], ...] = (_inputs, _outputs, _opaque)


def verify_tensor_function(tf: TensorFunction) -> list[str]:
    """Every violation of the rules of a TensorFunction, with its line."""
    printer = TensorPrinter()
    lines = printer.function(tf)
    problems = [f"line 1, `{lines[0]}`: {p}" for check in FUNCTION_CHECKS for p in check(tf)]
    before = Before(set(tf.inputs))
    for s in tf.stages:
        line = printer.line_of[s]
        found: Mapping[str, None] = dict.fromkeys(p for c in STAGE_CHECKS for p in c(s, before))
        problems += [f"line {line}, `{lines[line - 1].strip()}`: {p}" for p in found]
        before.tensors.add(s.tensor)
        before.axes |= {a.var for a in _axes(s)}
    return problems
