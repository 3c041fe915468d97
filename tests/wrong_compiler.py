"""A compiler that is wrong, for the tests of verify: an op of it gives 1 % too much.

python wrong_compiler.py FAULT script.py      runs a script with it
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import naru.ops  # fills the registry
from naru.ir.expr import Binary, Const, Read
from naru.ir.graph import Node
from naru.ir.tensor import Tensor
from naru.ops.registry import OPS, Emit, Op

_ = naru.ops


def faulty(op: Op, shows: Callable[[Node], bool]) -> Op:
    """The op, lowered wrongly for the nodes that `shows` says."""
    right = op.lower
    assert right is not None

    def lower(e: Emit, n: Node, ins: Sequence[Tensor | None]) -> Sequence[Tensor]:
        (made,) = right(e, n, ins)
        if not shows(n):
            return (made,)
        more = Const(1.01, made.dtype)
        return (e.stage("wrong", made.shape, lambda *i: Binary("mul", Read(made, i), more)),)

    return replace(op, lower=lower)


def _is_fused(n: Node) -> bool:
    return n.inputs[0] is not None and n.inputs[0].op != "input"


def _is_symbolic(n: Node) -> bool:
    return not isinstance(n.type.shape[0], Const)


# name -> (op, for which nodes it is wrong)
FAULTS: dict[str, tuple[str, Callable[[Node], bool]]] = {
    "always": ("tanh", lambda n: True),
    "fused": ("tanh", _is_fused),
    "symbolic": ("tanh", _is_symbolic),
    "four columns": ("tanh", lambda n: n.type.shape[-1] == Const(4)),
}


def wrong_op(fault: str) -> Op:
    """The op that a fault makes wrong."""
    name, shows = FAULTS[fault]
    return faulty(OPS[name], shows)


if __name__ == "__main__":
    op = wrong_op(sys.argv[1])
    OPS[op.name] = op
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
