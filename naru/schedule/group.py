"""A fused group (a small Graph) -> the TensorFunction of its kernel, by each op's `lower`."""

from __future__ import annotations

from dataclasses import replace

from naru.dtypes import is_float
from naru.errors import IRError
from naru.ir.expr import Const, Expr, Read
from naru.ir.graph import Graph, Node, toposort
from naru.ir.tensor import Tensor, TensorFunction
from naru.ops.registry import OPS, Emit
from naru.targets import Target


def group_function(body: Graph, target: Target, name: str = "kernel") -> TensorFunction:
    """The TensorFunction of a body: inputs in order, layouts as in the types; one output, or those
    of a kernel written by hand (for the target)."""
    root = root_of(body)
    opaque = OPS[root.op].opaque
    inputs = tuple(_tensor(n, f"p{k}") for k, n in enumerate(body.inputs))
    if opaque is not None:
        outputs = tuple(Tensor(f"out{k}", t.dtype, t.shape) for k, t in enumerate(root.types))
        return TensorFunction(name, inputs, (), outputs, opaque(root, target))
    emit = Emit()
    made: dict[Node, Tensor] = dict(zip(body.inputs, inputs, strict=True))
    for n in toposort(root):
        if n in made:
            continue
        if n.op == "constant":
            made[n] = _scalar(emit, n)
            continue
        lower = OPS[n.op].lower
        if lower is None:
            raise IRError([f"{n.op}: has neither a lowering nor a kernel"])
        operands = [None if x is None else made[x] for x in n.inputs]
        made[n] = lower(emit, n, operands)[0]
    return _finish(emit, name, inputs, made[root], root)


def root_of(body: Graph) -> Node:
    """The node whose result, or results, leave the kernel of a body."""
    root = body.outputs[0]
    return root.inputs[0] if root.op == "get" and root.inputs[0] is not None else root


def _tensor(n: Node, name: str) -> Tensor:
    return Tensor(name, n.type.dtype, n.type.shape, n.type.layout)


def _scalar(emit: Emit, n: Node) -> Tensor:
    """A constant of one element becomes part of the code."""
    if n.data is None or n.data.size != 1:
        raise IRError([f"{n.op}: expected a constant of one element inside of a group"])
    item = n.data.reshape(-1)[0]
    value = Const(float(item) if is_float(n.type.dtype) else item.item(), n.type.dtype)
    return emit.stage("c", n.type.shape, lambda *_: value)


def _finish(
    emit: Emit, name: str, inputs: tuple[Tensor, ...], result: Tensor, root: Node
) -> TensorFunction:
    """Gives the result its layout; a result that is an operand as it is gets a copying stage."""
    shape, layout = root.type.shape, root.type.layout
    stages = list(emit.stages)
    if result in inputs or any(s.tensor is result and s.combine is not None for s in stages):

        def copy(*at: Expr) -> Expr:
            return Read(result, at)

        emit.stage("copy", shape, copy)
        stages = list(emit.stages)
        result = stages[-1].tensor
    out = Tensor("out", result.dtype, shape, layout)
    stages = [replace(s, tensor=out) if s.tensor is result else s for s in stages]
    return TensorFunction(name, inputs, tuple(stages), (out,))
