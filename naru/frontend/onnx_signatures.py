"""Operators beyond the standard, whose schemas the onnx package does not have: what a well-formed
node of one is, in a line of text.

`a a_scale a_zero? more* -> y mean?; axis block_size` reads: operands a and a_scale, a_zero that may
be left out, any number of further ones; the output y and one that may be left out; two attributes.
Kinds of attributes, dtypes and shapes are checked where they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TypeAlias

from onnx import NodeProto

from naru.errors import ModelError
from naru.frontend.onnx_node import OnnxNode
from naru.ir.graph import Node

Handler: TypeAlias = Callable[[OnnxNode], Node | Sequence[Node]]
Extension: TypeAlias = Mapping[str, tuple[str, Handler]]  # operator -> (signature, its function)


@cache
def _parts(signature: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    head, _, attributes = signature.partition(";")
    operands, _, outputs = head.partition("->")
    return tuple(operands.split()), tuple(outputs.split()), tuple(attributes.split())


def check_signature(node: NodeProto, signature: str, label: str) -> None:
    """As many operands and outputs as the signature has, and attributes that it knows, once each.
    An unknown attribute is refused: passed over, it would change what the node means."""
    operands, outputs, known = _parts(signature)
    for what, formals, found in (
        ("operands", operands, node.input),
        ("outputs", outputs, node.output),
    ):
        many = any(f.endswith("*") for f in formals)
        if len(found) > len(formals) and not many:
            raise ModelError(
                f"expected at most {len(formals)} {what} ({' '.join(formals)}), found {len(found)}",
                where=label,
            )
        for i, formal in enumerate(formals):
            if formal[-1] not in "?*" and (i >= len(found) or not found[i]):
                raise ModelError(f"{what[:-1]} {i} ({formal}) is missing", where=label)
    seen: set[str] = set()
    for a in node.attribute:
        if a.name not in known:
            raise ModelError(
                f"expected one of the attributes {', '.join(sorted(known)) or '(none)'}, "
                f"found {a.name!r}",
                where=label,
            )
        if a.name in seen:
            raise ModelError("it is given twice", where=f"{label}, attribute {a.name!r}")
        seen.add(a.name)
