"""`naru.check_op`: does what is compiled for a custom operator agree with its meaning?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from naru.compiler import choose_target
from naru.custom.registering import Custom, find_custom, make, results_of
from naru.custom.signature import NEEDED, plain
from naru.dtypes import DTYPES, FROM_NUMPY, is_float
from naru.errors import NaruError
from naru.ir.expr import Const, Expr, Var
from naru.ir.graph import Graph, TensorType, make_input
from naru.ir.interp_tensor import run_tensor_function
from naru.ir.tensor import Tensor, TensorFunction
from naru.ops.operands import shape_text
from naru.ops.registry import OPS
from naru.options import Options
from naru.pipeline import build
from naru.runtime.native_model import NativeModel
from naru.schedule.group import root_of
from naru.targets import Target

TOLERANCE = {"f64": 1e-9, "f32": 1e-5, "f16": 2e-3, "bf16": 2e-2}  # of the largest value
ROUGH = 0.2  # for floats of eight bits and less


def check_op(
    domain: str,
    name: str,
    *samples: Sequence[np.ndarray | None],
    attrs: dict[str, Any] | None = None,
    version: int | None = None,
    tolerance: float | None = None,
) -> None:
    """Compiles a registered operator for the shapes of each sample (its operands), as they are and
    with every size above 1 a symbol, runs it, and compares with the meaning. A kernel is run by the
    interpreter first, which finds accesses out of bounds. NaruError says what differs."""
    custom = find_custom(domain, name, version)
    given = {k: v for k, v in custom.signature.attributes.items() if v not in (None, NEEDED)}
    values = {k: plain(v) for k, v in {**given, **(attrs or {})}.items()}
    for k, sample in enumerate(samples):
        where = f"{custom.label}, sample {k}"
        arrays = [None if a is None else np.asarray(a) for a in sample]
        for symbolic in (False, True):
            _check(custom, arrays, values, tolerance, symbolic, where)


def _check(
    custom: Custom,
    arrays: Sequence[np.ndarray | None],
    attrs: dict[str, Any],
    tolerance: float | None,
    symbolic: bool,
    where: str,
) -> None:
    sizes = {n: Var(f"n{n}", lo=1) for a in arrays if a is not None for n in a.shape if n > 1}

    def dim(n: int) -> Expr:
        return sizes[n] if symbolic and n in sizes else Const(n)

    inputs = [
        None
        if a is None
        else make_input(f"x{k}", TensorType(FROM_NUMPY[a.dtype], tuple(map(dim, a.shape))))
        for k, a in enumerate(arrays)
    ]
    results = tuple(make(custom, inputs, attrs))
    names = tuple(f"y{k}" for k in range(len(results)))
    graph = Graph("custom", tuple(i for i in inputs if i is not None), results, names)
    wanted = results_of(custom, arrays, attrs)
    if not symbolic:
        _check_types(wanted, graph, where)
    present = [a for a in arrays if a is not None]
    target = choose_target(None)
    if custom.kernel is not None:
        got = _interpreted(graph, target, present)
        _compare(got, wanted, tolerance, f"{where}: the kernel, interpreted")
    made: Any = NativeModel(build(graph, Options(target), tested=False))(*present)
    outputs = cast("Sequence[np.ndarray]", made if isinstance(made, tuple) else (made,))
    _compare(outputs, wanted, tolerance, where)


def _check_types(wanted: Sequence[np.ndarray], graph: Graph, where: str) -> None:
    """The meaning gives what was declared."""
    if len(wanted) != len(graph.outputs):
        raise NaruError(
            f"its meaning gives {len(wanted)} results, {len(graph.outputs)} are declared",
            where=where,
        )
    for k, (a, n) in enumerate(zip(wanted, graph.outputs, strict=True)):
        declared = f"{DTYPES[n.type.dtype].numpy.name}{shape_text(n.type.shape)}"
        if f"{a.dtype.name}[{', '.join(map(str, a.shape)) or '()'}]" != declared:
            raise NaruError(
                f"its meaning gives {a.dtype.name}{list(a.shape)} as result {k}, "
                f"declared is {declared}",
                where=where,
            )


def _interpreted(graph: Graph, target: Target, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """What the kernel gives when the interpreter of loop IR runs it."""
    root = root_of(graph)
    opaque = OPS[root.op].opaque
    assert opaque is not None
    text = opaque(root, target)
    inputs = [Tensor(str(n.attr("name")), n.type.dtype, n.type.shape) for n in graph.inputs]
    outputs = [Tensor(f"y{k}", t.dtype, t.shape) for k, t in enumerate(root.types)]
    function = TensorFunction("custom", tuple(inputs), (), tuple(outputs), text)
    return list(run_tensor_function(function, arrays))


def _compare(
    got: Sequence[np.ndarray], wanted: Sequence[np.ndarray], tolerance: float | None, where: str
) -> None:
    for k, (a, b) in enumerate(zip(got, wanted, strict=True)):
        dtype = FROM_NUMPY[b.dtype]
        bound = TOLERANCE.get(dtype, ROUGH) if tolerance is None else tolerance
        x, y = np.asarray(a).astype(np.float64), b.astype(np.float64)
        if x.shape != y.shape:
            raise NaruError(f"result {k} has the shape {x.shape}, expected {y.shape}", where=where)
        finite = np.isfinite(y)
        largest = float(np.abs(y[finite]).max(initial=0.0))
        limit = bound * max(largest, 1e-30) if is_float(dtype) else 0.0
        with np.errstate(all="ignore"):
            wrong = ~(np.isclose(x, y, rtol=bound if limit else 0, atol=limit, equal_nan=True))
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise NaruError(
                f"{int(wrong.sum())} of {wrong.size} elements of result {k} differ from the "
                f"meaning, the first at {at}: {x[at]!r}, expected {y[at]!r}",
                where=where,
            )
