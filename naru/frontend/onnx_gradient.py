"""Gradient, of ai.onnx.preview.training: derivatives of a value of the graph, by going backwards
from it to the tensors that it is differentiated by. Rules of single ops are in derivatives.py.

The node names a part of the graph: from `xs`, by which it is differentiated, and `zs`, which are
held, to `y`; its operands are what these tensors are taken to be. Of a tensor y, the sum of its
elements is differentiated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from naru.dtypes import is_float
from naru.errors import ModelError
from naru.frontend.derivatives import COMPOSITIONS, FLAT, RULES, ones, zeros
from naru.frontend.onnx_node import AlreadyReported, OnnxNode, Unsupported, emit, type_text
from naru.frontend.onnx_scope import Missing
from naru.frontend.onnx_signatures import Handler
from naru.ir.expr import Var, free_vars
from naru.ir.graph import Node, defined_symbols, get_output, toposort
from naru.ops.registry import OPS, with_inputs


def gradient(c: OnnxNode) -> Sequence[Node]:
    """The derivative of y by each of xs."""
    xs, zs = c.get_strs("xs") or (), c.get_strs("zs") or ()
    if not xs or len(c.inputs) != len(xs) + len(zs):
        raise ModelError(
            f"expected an operand for each of xs and zs, found {len(c.inputs)} for {(*xs, *zs)}"
        )
    if len(c.outputs) > len(xs):
        raise ModelError(f"expected at most {len(xs)} outputs, found {len(c.outputs)}")
    named = [_value(c, name) for name in (*xs, *zs)]
    y = _value(c, c.get_str("y", ""))
    if not is_float(y.type.dtype):
        raise ModelError(f"expected a float as y, found {type_text(y)}")
    given = {n: c[k] for k, n in enumerate(named)}
    for n, value in given.items():
        if (n.type.dtype, n.type.shape) != (value.type.dtype, value.type.shape):
            raise Unsupported(f"an operand {type_text(value)} for what is {type_text(n)}")
    found = differentiate(y, named[: len(xs)], named[len(xs) :])
    return _replaced(found, given)


def _value(c: OnnxNode, name: str) -> Node:
    """A value of the graph by its name."""
    found = c.scope.find(name)
    if isinstance(found, Missing):
        raise AlreadyReported
    if found is None:
        raise ModelError(f"expected a value called {name!r}, found none")
    if not isinstance(found, Node):
        raise ModelError(f"expected a tensor called {name!r}, found a sequence")
    return found


def differentiate(y: Node, xs: Sequence[Node], held: Sequence[Node]) -> list[Node]:
    """The derivative of the sum of y by each of xs, zeros where y does not depend on it."""
    y, order, moving = _moving(y, xs, held)
    gradients: dict[Node, Node] = {y: ones(y)}
    makers = {v: get_output(n, 0) for n in order for v in defined_symbols(n)}
    for n in reversed(order):
        g = gradients.get(n)
        if g is None or n not in moving or n in xs:
            continue
        rule = RULES.get(n.op)
        if rule is None:
            raise Unsupported(f"naru has no derivative of {n.op} yet")
        for x, part in zip(n.inputs, rule(n, _behind(g, n, makers)), strict=True):
            if x is None or x not in moving:
                continue
            if part is None:
                raise Unsupported(f"naru has no derivative of {n.op} by that operand yet")
            before = gradients.get(x)
            gradients[x] = part if before is None else emit("add", before, part)
    return [gradients.get(x) or zeros(x) for x in xs]


def _behind(g: Node, n: Node, makers: Mapping[Var, Node]) -> Node:
    """g, kept back until the sizes of n's operands are known, where data decide them."""
    asked = free_vars(*(d for x in n.inputs if x is not None for d in x.type.shape))
    found = dict.fromkeys(makers[v] for v in asked if v in makers)
    return emit("with_sizes", g, *found) if found else g


def _moving(
    y: Node, xs: Sequence[Node], held: Sequence[Node]
) -> tuple[Node, Sequence[Node], set[Node]]:
    """y, its nodes in order, and those that change with xs. Ops that stand for compositions of
    others are replaced by these."""
    made: dict[Node, Node] = {n: n for n in (*xs, *held)}
    moving: set[Node] = set(xs)
    pending: list[tuple[Node, Node | None]] = [(n, None) for n in reversed(toposort(y))]
    while pending:
        n, composition = pending.pop()
        if composition is not None:
            made[n] = made[composition]
        if n in made:
            continue
        new = with_inputs(n, [None if i is None else made[i] for i in n.inputs])
        changes = any(i in moving for i in new.inputs)
        expand = COMPOSITIONS.get(new.op) or (OPS[new.op].expand if new.op in OPS else None)
        if changes and expand is not None and new.op not in RULES:
            inner = expand(new)
            pending.append((n, inner))
            pending += [(m, None) for m in reversed(toposort(inner))]
            continue
        if changes and is_float(new.type.dtype) and new.op not in FLAT:
            moving.add(new)
        made[n] = made[new] = new
    return made[y], toposort(made[y]), moving


def _replaced(roots: Sequence[Node], given: Mapping[Node, Node]) -> list[Node]:
    """The nodes with some others in the place of those named."""
    if all(a is b for a, b in given.items()):
        return list(roots)
    made: dict[Node, Node] = dict(given)
    for n in toposort(*roots):
        if n not in made:
            made[n] = with_inputs(n, [None if i is None else made[i] for i in n.inputs])
    return [made[n] for n in roots]


TABLE: dict[str, Handler] = {"Gradient": gradient}
