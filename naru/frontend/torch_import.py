"""One traced PyTorch program (torch.fx, ATen operators without side effects) into our graph.

Operators are read one by one in order; what cannot be read is remembered with the module it stands
in, and so is everything else that cannot, so that users see all of it at once.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from naru.errors import ModelError, NaruError, UnsupportedError
from naru.frontend.onnx_node import Unsupported, emit, type_text
from naru.frontend.torch_call import AtenCall
from naru.frontend.torch_library import dtype_name, entries, items, library, to_numpy
from naru.frontend.torch_sizes import Sizes
from naru.frontend.torch_tables import IGNORED, find_handler, short_name
from naru.ir.expr import Const, Expr, Var
from naru.ir.graph import Graph, Node, TensorType, get_output, make_constant, make_input, toposort
from naru.ir.simplify import TRUE, known
from naru.ops.operands import dim_text


@dataclass(frozen=True)
class Missing:
    """Stands for a value that could not be made, which has been reported."""


Value: TypeAlias = Any  # a Node, Missing, a list of these, or what Python has
Values: TypeAlias = dict[Any, Value]
# Instead of ONNX's Cast, which the checks of our operators speak of.
TO_ONE_DTYPE = "x.float() for one of them, or x.to(y.dtype)"
_INLINED = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4, "hints_wrapper": 0}


@dataclass
class TorchImporter:
    """The state of one import. `notes` maps our nodes to the labels of PyTorch's, `operators` these
    to operators. `attribute`: what a get_attr node names."""

    sizes: Sizes
    notes: dict[Node, str] = field(default_factory=dict[Node, str])
    operators: dict[str, str] = field(default_factory=dict[str, str])
    problems: list[str] = field(default_factory=list[str])
    needs: list[Expr] = field(default_factory=list[Expr])
    _constants: dict[int, Node] = field(default_factory=dict[int, Node])

    # --- leaves -----------------------------------------------------------------------------------

    def constant(self, tensor: Any, name: str) -> Value:
        """A parameter or buffer, once for all that share it."""
        try:
            made = self._constants.get(id(tensor))
            if made is None:
                made = self._constants[id(tensor)] = make_constant(to_numpy(tensor))
        except Unsupported as error:
            return self.report(name, error.reason, error.hint)
        self.notes.setdefault(made, name)
        return made

    def type_of(self, fake: Any, like: str = "dim") -> TensorType | None:
        """The type of a tensor as PyTorch sees it; None for what is no tensor."""
        if not hasattr(fake, "shape"):
            return None
        dims = [self.sizes.expr(n, f"{like}_{k}") for k, n in enumerate(fake.shape)]
        return TensorType(dtype_name(fake.dtype), tuple(dims))

    def input(self, name: str, fake: Any) -> Value:
        """An input of the program."""
        sizes = enumerate(getattr(fake, "shape", ()))
        conditions = [self.sizes.multiple(n, f"{name}_{k}") for k, n in sizes]
        self.needs += [c for c in conditions if c is not None]
        try:
            t = self.type_of(fake, name)
        except Unsupported as error:
            return self.report(f"input {name!r}", error.reason, error.hint)
        if t is None:
            return self.report(
                f"input {name!r}", "a number that is no tensor",
                "torch.tensor, or a number that stays as it is",
            )  # fmt: skip
        odd = [d for d in t.shape if not isinstance(d, Var | Const)]
        if odd:
            return self.report(
                f"input {name!r}", f"the size {dim_text(odd[0])}, which is no size of its own",
                "a Dim for that size",
            )  # fmt: skip
        made = make_input(name, t)
        self.sizes.found_in(made)
        return made

    def report(self, where: str, reason: str, hint: str | None) -> Missing:
        """Remembers a problem and goes on."""
        text = f"{where}: {reason}" + (f"; try: {hint}" if hint else "")
        if text not in self.problems:
            self.problems.append(text)
        return Missing()

    # --- nodes ------------------------------------------------------------------------------------

    def run(self, module: Any, values: Values) -> Value:
        """Reads the nodes of a graph module, whose placeholders have values; gives its output."""
        for node in module.graph.nodes:
            if node.op == "output":
                return self.argument(node.args[0], values)
            if node.op == "get_attr":
                values[node] = self._attribute(module, node)
            elif node.op == "call_function":
                values[node] = self._call(module, node, values)
        return None

    def _attribute(self, module: Any, node: Any) -> Value:
        found = module
        for part in str(node.target).split("."):
            found = getattr(found, part)
        return self.constant(found, str(node.target)) if hasattr(found, "dtype") else found

    def argument(self, a: Any, values: Mapping[Any, Value]) -> Value:
        """An argument of a node: tensors as our nodes, sizes as expressions."""
        if (parts := items(a)) is not None:
            return [self.argument(x, values) for x in parts]
        torch = library()
        if isinstance(a, torch.fx.Node):
            if a in values:
                return values[a]
            return self._number(a.meta["val"])
        return self._number(a) if isinstance(a, torch.SymInt | torch.SymFloat) else a

    def _number(self, value: Any) -> Value:
        """A size that tracing left symbolic."""
        torch = library()
        if isinstance(value, torch.SymInt):
            return self.sizes.expr(value)
        return self.sizes.number(value) if isinstance(value, torch.SymFloat) else value

    def _call(self, module: Any, node: Any, values: Values) -> Value:
        torch, target = library(), node.target
        if target is operator.getitem:
            whole: Any = values.get(node.args[0])
            return whole if isinstance(whole, Missing) else whole[node.args[1]]
        if isinstance(target, torch._ops.HigherOrderOperator):
            return self._guarded(node, target.name(), lambda: self._higher(node, values))
        if not isinstance(target, torch._ops.OpOverload):
            return None if not node.users else self._plain(node)
        name = short_name(target)
        if name == "_assert_scalar":
            self._asserted(node.args[0])
        if name in IGNORED or name.startswith("sym_"):
            return self._plain(node)
        if not node.users:
            return None
        return self._guarded(node, name, lambda: self._aten(node, name, values))

    def _plain(self, node: Any) -> Value:
        """Arithmetic of sizes: PyTorch has the result."""
        value = node.meta.get("val")
        try:
            return self._number(value)
        except Unsupported as error:
            return self.report(self.label(node, "size"), error.reason, error.hint)

    def _asserted(self, node: Any) -> None:
        """A condition on sizes that PyTorch left to be asked when running."""
        torch = library()
        value = node.meta.get("val") if isinstance(node, torch.fx.Node) else None
        found = self.sizes.equality(value) if isinstance(value, torch.SymBool) else None
        if found is not None and found is not TRUE and found not in self.needs:
            self.needs.append(found)

    def _guarded(self, node: Any, name: str, read: Callable[[], Value]) -> Value:
        """What `read` gives, or a problem with the label of the node."""
        label = self.label(node, name)
        where = f"{label} ({name})"
        try:
            out = read()
        except Unsupported as error:
            return self.report(where, error.reason, error.hint)
        except UnsupportedError as error:
            return self.report(where, "; ".join(error.problems), None)
        except NaruError as error:
            hint = TO_ONE_DTYPE if "Cast" in (error.hint or "") else error.hint
            return self.report(where, error.message if error.message else str(error), hint)
        self.operators.setdefault(label, name)
        self._note(out, label)
        return out

    def _aten(self, node: Any, name: str, values: Values) -> Value:
        handler = find_handler(node.target)
        args, fakes = self._arguments(node, values)
        if any(isinstance(a, Missing) for a in _flat(args.values())):
            return Missing()
        if handler is None:
            raise Unsupported(f"naru has no operator for {node.target}")
        raw = node.meta["val"]
        many = isinstance(raw, list | tuple)
        raws: list[Any] = items(raw) or [raw]
        results = tuple(self._result(r) for r in raws)
        call = AtenCall(name, args, fakes, results, _wanted(node, len(raws)), self.sizes, raws)
        made = handler(call)
        out = [made] if isinstance(made, Node) else list(made)
        for k, (n, t) in enumerate(zip(out, results, strict=False)):
            _check(n, t if k or many or t is not None else None)
        return out if many else out[0]

    def _result(self, fake: Any) -> TensorType | None:
        return self.type_of(fake)

    def _arguments(self, node: Any, values: Values) -> tuple[dict[str, Value], dict[str, Any]]:
        """Arguments by the names of the schema, as ours and as PyTorch's."""
        torch = library()
        args: dict[str, Value] = {}
        fakes: dict[str, Any] = {}

        def seen(a: Any) -> Any:
            if (parts := items(a)) is not None:
                return [seen(x) for x in parts]
            return a.meta.get("val") if isinstance(a, torch.fx.Node) else a

        for k, parameter in enumerate(node.target._schema.arguments):
            if k < len(node.args):
                given = node.args[k]
            elif parameter.name in node.kwargs:
                given = node.kwargs[parameter.name]
            elif parameter.has_default_value():
                given = parameter.default_value
            else:
                continue
            args[parameter.name] = self.argument(given, values)
            fakes[parameter.name] = seen(given)
        return args, fakes

    # --- graphs inside ----------------------------------------------------------------------------

    def _higher(self, node: Any, values: Values) -> Value:
        """An operator that runs graphs: what only wraps one is opened, a choice is an `if`."""
        name = node.target.name()
        args = [self.argument(a, values) for a in node.args]
        if any(isinstance(a, Missing) for a in _flat(args)):
            return Missing()
        if name in _INLINED:
            at = _INLINED[name]
            return self._body(args[at], args[at + 1 :])
        if name == "cond":
            return self._cond(args[0], args[1], args[2], args[3])
        raise Unsupported(
            f"the higher-order operator {name!r}", "torch.cond, or a loop of fixed length"
        )

    def _body(self, module: Any, operands: Sequence[Value]) -> Value:
        places = [n for n in module.graph.nodes if n.op == "placeholder"]
        return self.run(module, dict(zip(places, operands, strict=True)))

    def _cond(self, pred: Value, then: Any, orelse: Any, operands: Sequence[Value]) -> Value:
        if isinstance(pred, bool):
            return self._body(then if pred else orelse, operands)
        if not isinstance(pred, Node):
            raise Unsupported("a choice by the size of an input", "a condition of tensors")
        tensors = [n for n in operands if isinstance(n, Node)]
        bodies: list[Graph] = []
        for k, module in enumerate((then, orelse)):
            inner = [make_input(f"operand_{i}", n.type) for i, n in enumerate(tensors)]
            rest = iter(inner)
            given = [next(rest) if isinstance(n, Node) else n for n in operands]
            out = self._body(module, given)
            if any(not isinstance(n, Node) for n in out):
                raise Unsupported("a branch with a part that is not supported")
            names = tuple(f"out_{i}" for i in range(len(out)))
            bodies.append(Graph(("then", "orelse")[k], tuple(inner), tuple(out), names))
        node = emit("if", pred, *tensors, then=bodies[0], orelse=bodies[1])
        return [get_output(node, k) for k in range(len(node.types))]

    # --- labels -----------------------------------------------------------------------------------

    def label(self, node: Any, op: str) -> str:
        """The module that a node stands in: of a layer of torch.nn its path, else that and the
        node's own name."""
        stack = list((entries(node.meta.get("nn_module_stack")) or {}).values())
        path, kind = (str(stack[-1][0]), str(stack[-1][1])) if stack else ("", "")
        path = path.removeprefix("L['self']").strip(".")
        if path.startswith("_empty"):
            path = ""
        layer = path and path not in self.operators and _is_layer(kind, op)
        name = str(node.name)
        return path if layer else f"{path}.{name}" if path else name

    def _note(self, out: Value, label: str) -> None:
        """Notes a label beside every new node of one conversion."""
        stack = [n for n in _flat([out]) if isinstance(n, Node)]
        while stack:
            n = stack.pop()
            if n in self.notes or n.op in ("input", "constant"):
                continue
            self.notes[n] = label
            stack.extend(c for c in n.inputs if c is not None)

    def graph(
        self, name: str, inputs: Sequence[Node], outputs: Sequence[Node], names: Sequence[str]
    ) -> Graph:
        """The graph, once everything could be read. Raises UnsupportedError with all problems."""
        if self.problems:
            raise UnsupportedError(self.problems, where=name)
        if self.needs:
            what = "what PyTorch found to hold while it traced the model"
            asked = emit("with_sizes", outputs[0], needs=tuple(self.needs), what=what)
            outputs = (asked, *outputs[1:])
        notes = {n: self.notes[n] for n in toposort(*outputs) if n in self.notes}
        return Graph(name, tuple(inputs), tuple(outputs), tuple(names), notes, self.operators)


def _is_layer(kind: str, op: str) -> bool:
    """Is an operator what a module of torch.nn is named after: conv2d of Conv2d?"""
    if not kind.startswith("torch.nn.modules"):
        return False
    layer, name = (re.sub(r"\d+d?|_", "", n.lower()) for n in (kind.rsplit(".", 1)[-1], op))
    return layer in name or name in layer


def _flat(values: Any) -> list[Value]:
    out: list[Value] = []
    for v in values:
        parts = items(v)
        out += [v] if parts is None else _flat(parts)
    return out


def _wanted(node: Any, count: int) -> list[bool]:
    """Which results something reads."""
    read = {u.args[1] for u in node.users if u.target is operator.getitem}
    return [k in read for k in range(count)] if read else [True] * count


def _check(n: Node | None, t: TensorType | None) -> None:
    """A result is what PyTorch says it is: of one dtype and rank, with the sizes that are known."""
    if n is None or t is None:
        return
    pairs = zip(n.type.shape, t.shape, strict=False)
    differ = any(known(a) is not None and known(b) is not None and a is not b for a, b in pairs)
    if n.type.dtype != t.dtype or n.type.rank != t.rank or differ:
        wanted = type_text(make_input("it", t))
        raise ModelError(f"PyTorch makes {wanted} of it, naru {type_text(n)}")
