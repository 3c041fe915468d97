"""Is a program well-formed? Every form has tables of checks; all violations are listed.

Each violation names the line, in the text that `text.py` prints, of the node that it is about.
"""

from __future__ import annotations

from naru.errors import IRError
from naru.ir.graph import Graph
from naru.ir.loop import Func
from naru.ir.tensor import TensorFunction
from naru.ir.text_graph import Infer
from naru.ir.text_loop import callee_order
from naru.ir.verify_graph import verify_graph
from naru.ir.verify_loop import verify_func
from naru.ir.verify_tensor import verify_tensor_function

__all__ = ["check", "verify", "verify_func", "verify_graph", "verify_tensor_function"]


def verify(program: Graph | TensorFunction | Func, *, infer: Infer | None = None) -> list[str]:
    """Every violation; of a Func, also those of the functions that it invokes."""
    match program:
        case Graph():
            return verify_graph(program, infer)
        case TensorFunction():
            return verify_tensor_function(program)
        case Func():
            order = callee_order([program])
            if len(order) == 1:
                return verify_func(program)
            return [f"{f.name}: {p}" for f in order for p in verify_func(f)]


def check(
    program: Graph | TensorFunction | Func,
    where: str | None = None,
    *,
    infer: Infer | None = None,
) -> None:
    """Raises IRError with every violation. `where`: what made the program (a pass, a step)."""
    problems = verify(program, infer=infer)
    if problems:
        raise IRError(problems, where=where or program.name)
