"""Which function reads which ATen operator, and which operators PyTorch is asked to take apart.

An operator with a row here is kept whole: what PyTorch would decompose it into says less.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from naru.frontend import (
    torch_contractions,
    torch_creation,
    torch_elementwise,
    torch_indexing,
    torch_movement,
    torch_norms,
    torch_pooling,
    torch_recurrent,
    torch_reductions,
    torch_resample,
)
from naru.frontend.torch_call import Handler
from naru.frontend.torch_library import library

_MODULES = (
    torch_contractions, torch_creation, torch_elementwise, torch_indexing, torch_movement,
    torch_norms, torch_pooling, torch_recurrent, torch_reductions, torch_resample,
)  # fmt: skip
TABLE: dict[str, Handler] = {name: fn for m in _MODULES for name, fn in m.TABLE.items()}
# What has no meaning but to check or to be there.
IGNORED = (
    "_assert_async", "_assert_scalar", "_assert_tensor_metadata", "sym_constrain_range",
    "sym_constrain_range_for_size", "_functional_assert_async",
)  # fmt: skip
# Overloads that are another operator than their name says: PyTorch takes these apart.
_OTHERWISE = (
    "aten.repeat_interleave.self_Tensor", "aten.where.default", "aten.searchsorted.Scalar",
    "aten.bucketize.Scalar", "aten.mean.dtype_out", "aten.normal.Tensor_float",
)  # fmt: skip


def short_name(target: Any) -> str:
    """`conv2d` of aten.conv2d.default; other libraries' operators with their namespace."""
    namespace, name = str(target.name()).split("::", 1)
    name = name.split(".")[0]
    return name if namespace == "aten" else f"{namespace}.{name}"


def find_handler(target: Any) -> Handler | None:
    """The function that reads an operator; None where there is none."""
    return None if str(target) in _OTHERWISE else TABLE.get(short_name(target))


@cache
def _decomposed() -> dict[Any, Any]:
    table = library("torch.export.exported_program").default_decompositions()
    return {op: fn for op, fn in table.items() if find_handler(op) is None}


def decompositions() -> Any:
    """The table for `ExportedProgram.run_decompositions`."""
    return dict(_decomposed())
