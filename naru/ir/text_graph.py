"""Text of the tensor graph.

    def g(x: f32[batch, 64] @ (1, 0), ids: i64[n], *, batch: index(1, 512)):
        w: f32[64, 10] = constant("3f2a9c0b12de")         # contents kept beside the text
        b: f32[10] = constant([0.5, 1.0, …])              # at most 16 elements
        z: f32[1000] = constant(0.0)                      # one value in every element
        a: f32[batch, 10] = matmul(x, w)
        s: i64[2] == [batch, 10] = shape(a)               # elements known as expressions
        p: (f32[batch, 3], i64[batch, 3]) = top_k(a, k=3, axis=-1)
        q: i64[batch, 3] = get(p, 1)
        r: f32[batch * 10] = reshape(a, shape=[batch * 10])
        def body(…): …                                    # a Graph among the attributes
        c: f32[10] = loop(None, b, body=body, carried=1)  # None: an optional operand left out
        return {"logits": a, "classes": q}

A layout is `@ (order)`, with blocks `@ (0, 1) @ block(1, 16)`, of filters for tiles with one more
`@ winograd(4)`. Attributes: `(1, 2)` is a tuple, `[n, 4]` a tuple of index expressions, `index(4)`
one expression, `data("…")` contents, `type(…)` a type. An op or attribute that is a word of Python
has a `_` behind it. Symbols are known by name, in the whole text; those with bounds other than
0..2^31-1 are listed behind the `*`. A parameter whose name is no Python name has its true name as
default. What a graph noted as a node's name is used to print it; what the text calls a node is
noted when it is read.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias

import numpy as np

from naru.dtypes import DTYPES, FROM_NUMPY, is_float
from naru.errors import IRError
from naru.ir.expr import (
    INT_MAX,
    Binary,
    Call,
    Cast,
    Const,
    Expr,
    Lanes,
    Load,
    Read,
    Reduce,
    Select,
    Splat,
    Unary,
    Var,
    walk,
)
from naru.ir.graph import (
    Attr,
    Data,
    Graph,
    Layout,
    Node,
    TensorType,
    make_constant,
    make_data,
    make_input,
    make_node,
    toposort,
)
from naru.ir.simplify import known
from naru.ir.text_expr import (
    RESERVED,
    ExprPrinter,
    ExprReader,
    Named,
    Names,
    Source,
    canonical,
    float_text,
    number,
    unword,
    word,
)

INLINE = 16  # constants of at most this many elements are written out
SHORT = 12  # hexadecimal digits of a digest in the text
EXPRS = (Const, Var, Unary, Binary, Select, Cast, Read, Load, Splat, Lanes, Reduce, Call)
INDENT = "    "
# (op, types of the operands, attributes) -> types of the results
Infer: TypeAlias = Callable[
    [str, Sequence[TensorType | None], Mapping[str, Any]], tuple[TensorType, ...]
]


def layout_text(layout: Layout | None) -> str:
    """` @ (1, 0) @ block(1, 16) @ winograd(4)`; nothing for row-major."""
    if layout is None:
        return ""
    block = f" @ block({layout.block[0]}, {layout.block[1]})" if layout.block else ""
    form = f" @ winograd({layout.winograd})" if layout.winograd else ""
    return f" @ {tuple(layout.order)}{block}{form}"


def read_layout(r: ExprReader, node: ast.expr) -> tuple[ast.expr, Layout | None]:
    """The reverse: what stands before the layout, and the layout."""
    order: tuple[int, ...] | None = None
    block: tuple[int, int] | None = None
    winograd = 0
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        part, node = node.right, node.left
        match part:
            case ast.Tuple():
                order = tuple(map(r.integer, part.elts))
            case ast.Call(func=ast.Name(id="block"), args=[axis, size]):
                block = r.integer(axis), r.integer(size)
            case ast.Call(func=ast.Name(id="winograd"), args=[tile]):
                winograd = r.integer(tile)
            case _:
                r.fail(part, "expected @ (order) @ block(axis, size) @ winograd(tile)")
    return node, None if order is None else Layout(order, block, winograd)


class GraphPrinter:
    """Prints a graph. Symbols and bodies share one set of names; each graph has its own nodes."""

    def __init__(self, symbols: Names | None = None, taken: Sequence[str] = ()) -> None:
        self.symbols = symbols or Names(taken)
        self.exprs = ExprPrinter(self.symbols)
        self.nodes: dict[Node, str] = {}
        self.lines: list[str] = []
        self.line_of: dict[Node, int] = {}

    def graph(self, g: Graph, name: str, depth: int = 0) -> None:
        """Appends the text of g."""
        order = toposort(*g.inputs, *g.outputs)
        bounded = self._name_symbols(order) if depth == 0 else []
        names = self.symbols
        for n in g.inputs:
            self.nodes[n] = names.declare(n, _wanted(g, n))
        params = ", ".join([*self._params(g), *(["*"] if bounded else []), *bounded])
        self._line(depth, f"def {name}({params}):")
        for n in order:
            if n not in self.nodes:
                self._node(g, n, depth + 1)
        results = ", ".join(
            f"{_quote(k)}: {self.nodes[n]}" for k, n in zip(g.output_names, g.outputs, strict=True)
        )
        self._line(depth + 1, f"return {{{results}}}")

    def _line(self, depth: int, text: str) -> None:
        self.lines.append(INDENT * depth + text)

    def _name_symbols(self, order: Sequence[Node]) -> list[str]:
        """Names every symbol, before any node; returns the text of those with bounds."""
        bounded: list[str] = []
        for v in graph_symbols(order):
            name = self.symbols.declare(v, v.name)
            if (v.lo, v.hi) != (0, INT_MAX) or v.dtype != "index":
                bounded.append(f"{name}: {v.dtype}({v.lo}, {v.hi})")
        return bounded

    def _params(self, g: Graph) -> list[str]:
        out: list[str] = []
        odd = False  # Python wants defaults to come last
        for n in g.inputs:
            raw, name = str(n.attr("name")), self.nodes[n]
            odd = odd or raw != name
            out.append(f"{name}: {self.type(n.type)}" + (f" = {_quote(raw)}" if odd else ""))
        return out

    def _node(self, g: Graph, n: Node, depth: int) -> None:
        for _, value in n.attrs:
            for body in bodies_of(value):
                if not self.symbols.has(body):
                    self._body(body, depth)
        call = f"{word(n.op)}({', '.join(self._operands(n))})"
        name = self.nodes[n] = self.symbols.declare(n, _wanted(g, n))
        self._line(depth, f"{name}: {self._types(n)} = {call}")
        self.line_of[n] = len(self.lines)

    def _body(self, body: Graph, depth: int) -> None:
        name = self.symbols.declare(body, body.name)
        with self.symbols.scope():
            inner = GraphPrinter(self.symbols)
            inner.lines, inner.line_of = self.lines, self.line_of
            inner.graph(body, name, depth)

    def _operands(self, n: Node) -> list[str]:
        out = ["None" if i is None else self.nodes[i] for i in n.inputs]
        if n.op == "constant" and isinstance(data := n.attr("data"), Data):
            return [_contents(data, self._shown(n)), *self._attrs(n, skip="data")]
        if n.op == "get" and [k for k, _ in n.attrs] == ["index"]:
            return [*out, self.attr(n.attr("index"))]
        return [*out, *self._attrs(n)]

    def _shown(self, n: Node) -> tuple[Expr, ...] | None:
        """The shape of a constant, where its type is that of its contents."""
        same = n.data is not None and FROM_NUMPY.get(n.data.dtype) == n.type.dtype
        return n.type.shape if same else None

    def _attrs(self, n: Node, skip: str = "") -> list[str]:
        return [f"{word(k)}={self.attr(v)}" for k, v in n.attrs if k != skip]

    def _types(self, n: Node) -> str:
        if len(n.types) != 1:
            return f"({', '.join(map(self.type, n.types))})"
        implied = n.data is not None and _implied_value(n.data) == n.type.value
        return self.type(n.type, value=not implied)

    def type(self, t: TensorType, value: bool = True) -> str:
        """`f32[n, 64] @ (1, 0) == [2, n]`."""
        text = f"{t.dtype}[{self.exprs.dims(t.shape)}]"
        text += layout_text(t.layout)
        if t.value is not None and value:
            text += f" == [{', '.join(self.exprs.text(v, 'index') for v in t.value)}]"
        return text

    def attr(self, value: Any) -> str:
        """An attribute's value."""
        match value:
            case None | bool() | int() | bytes():
                return repr(value)
            case str():
                return _quote(value)
            case float():
                return float_text(value)
            case Data():
                return f"data({_contents(value)})"
            case Graph():
                return self.symbols.get(value)
            case TensorType():
                return f"type({self.type(value)})"
            case tuple():
                items: tuple[Any, ...] = value  # pyright: ignore[reportUnknownVariableType]
                if items and all(isinstance(v, EXPRS) and v.dtype == "index" for v in items):
                    return f"[{', '.join(self.exprs.text(v, 'index') for v in items)}]"
                inner = ", ".join(map(self.attr, items))
                return f"({inner},)" if len(items) == 1 else f"({inner})"
            case Const():
                text = self.exprs.text(value, "index")
                return f"index({text})" if value.dtype == "index" else text
            case _:
                return self.exprs.text(value)


def _quote(text: str) -> str:
    """The text in double quotes where that is simple."""
    simple = text.isprintable() and '"' not in text and "\\" not in text
    return f'"{text}"' if simple else repr(text)


def _wanted(g: Graph, n: Node) -> str:
    """The name a node would like: what the graph noted, or that of its op."""
    if n.op == "input":
        return str(n.attr("name"))
    return g.notes.get(n) or (n.op if n.op != "constant" else "c")


def bodies_of(value: Any) -> list[Graph]:
    if isinstance(value, Graph):
        return [value]
    if isinstance(value, tuple):
        return [b for v in value for b in bodies_of(v)]  # pyright: ignore[reportUnknownVariableType]
    return []


def _exprs(value: Any) -> list[Expr]:
    """The expressions in an attribute."""
    if isinstance(value, EXPRS):
        return [value]
    if isinstance(value, TensorType):
        return [*value.shape, *(value.value or ())]
    if isinstance(value, Graph):
        return list(graph_symbols(toposort(*value.inputs, *value.outputs)))
    if isinstance(value, tuple):
        return [e for v in value for e in _exprs(v)]  # pyright: ignore[reportUnknownVariableType]
    return []


def graph_symbols(order: Sequence[Node]) -> list[Var]:
    """Every symbol in the types and attributes of nodes, in order of first appearance."""
    found: dict[Var, None] = {}
    for n in order:
        roots = [e for t in n.types for e in (*t.shape, *(t.value or ()))]
        roots += [e for _, v in n.attrs for e in _exprs(v)]
        for root in roots:
            if not isinstance(root, Const):
                found.update(dict.fromkeys(v for v in walk(root) if isinstance(v, Var)))
    return list(found)


def _items(array: np.ndarray, short: bool) -> list[str]:
    """The text of each element; short: as few digits as tell it from others of its dtype."""
    flat = array.reshape(-1)
    if is_float(FROM_NUMPY[array.dtype]):
        return [float_text(float(str(v)) if short else float(v)) for v in flat]
    return [repr(v.item()) for v in flat]


def _from_items(texts: Sequence[str], dtype: np.dtype) -> np.ndarray:
    if is_float(FROM_NUMPY[dtype]):
        return np.array([float(t) for t in texts]).astype(dtype)
    return np.array([t == "True" if dtype == np.bool_ else int(t) for t in texts], dtype)


def _contents(data: Data, shape: tuple[Expr, ...] | None = None) -> str:
    """`0.0` where all elements are the same, `[1, 2]` for few, or the digest. `shape`: what the
    text says of the shape (None: nothing, so that the digest is all)."""
    array = data.array
    digest = f'"{data.digest[:SHORT]}"'
    if shape is None or array.shape != tuple(map(known, shape)):
        return digest
    if not array.size:
        return "[]"
    uniform = _is_uniform(array.reshape(-1)[:INLINE]) and _is_uniform(array)  # few tell of most
    if array.size > INLINE and not uniform:
        return digest
    some = array.reshape(-1)[: 1 if uniform else INLINE]
    for short in (True, False):
        texts = _items(some, short)
        if _from_items(texts, array.dtype).tobytes() == some.tobytes():
            return texts[0] if uniform else f"[{', '.join(texts)}]"
    return digest  # a NaN with a message


def _is_uniform(array: np.ndarray) -> bool:
    """Are all elements the same, bit by bit?"""
    rows = np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(array.size, -1)
    return bool((rows == rows[0]).all())


def _implied_value(array: np.ndarray) -> tuple[Expr, ...] | None:
    """What a constant's type says of its elements unless told otherwise."""
    return make_constant(array).type.value if array.size <= 64 else None


def print_graph(g: Graph) -> str:
    """The text of a graph. `graph_constants` gives the contents that the text leaves out."""
    return print_graph_lines(g)[0]


def print_graph_lines(g: Graph) -> tuple[str, dict[Node, int]]:
    """The text and the line (from 1) of each node, nodes of bodies included."""
    printer = GraphPrinter()
    printer.graph(g, printer.symbols.declare(g, g.name or "g"))
    return "\n".join(printer.lines) + "\n", printer.line_of


def graph_constants(g: Graph) -> dict[str, np.ndarray]:
    """Every constant of a graph and its bodies by digest."""
    found: dict[str, np.ndarray] = {}
    for n in toposort(*g.outputs):
        for _, value in n.attrs:
            if isinstance(value, Data):
                found[value.digest] = value.array
            for body in bodies_of(value):
                found |= graph_constants(body)
    return found


class GraphReader:
    """Reads one graph and the bodies inside it."""

    def __init__(
        self, text: str, constants: Mapping[str, np.ndarray] | None, infer: Infer | None
    ) -> None:
        self.source = Source(text)
        self.tree = self.source.parse(text)
        # The text shows a part of a digest only.
        self.constants = {k[:SHORT]: v for k, v in (constants or {}).items()}
        self.infer = infer
        self.symbols: dict[str, Var] = {}
        self.nodes: dict[str, Node] = {}
        self.bodies: dict[str, Graph] = {}
        self.exprs = ExprReader(self.source, self._symbol)

    def fail(self, node: ast.AST, message: str) -> NoReturn:
        self.source.fail(node, message)

    def _symbol(self, name: str) -> Named | None:
        if name in self.nodes:
            return None
        return self.symbols.setdefault(name, Var(name)) if name not in RESERVED else None

    def read(self) -> Graph:
        """The only graph of the text."""
        body = [n for n in self.tree.body if not _is_text(n)]
        if len(body) != 1 or not isinstance(body[0], ast.FunctionDef):
            raise IRError(["expected one graph: def name(x: f32[n]):"])
        return self.graph(body[0])

    def graph(self, node: ast.FunctionDef) -> Graph:
        """A def as a Graph."""
        outer = self.nodes, self.bodies
        self.nodes, self.bodies = {}, dict(self.bodies)
        for arg in node.args.kwonlyargs:
            self._bounded(arg)
        inputs = self._inputs(node.args)
        notes: dict[Node, str] = {}
        outputs: dict[str, Node] = {}
        keys: list[str] | None = None
        for s in node.body:
            if isinstance(s, ast.FunctionDef):
                self.bodies[s.name] = self.graph(s)
            elif isinstance(s, ast.Return):
                keys, outputs = self._results(s)
            elif not _is_text(s):
                name, made = self.statement(s)
                notes.setdefault(made, name)
        if keys is None:
            self.fail(node.body[-1], 'expected `return {"name": node}` at the end')
        self.nodes, self.bodies = outer
        results = tuple(outputs[k] for k in keys)
        return Graph(node.name, inputs, results, tuple(keys), notes)

    def _bounded(self, arg: ast.arg) -> None:
        call = arg.annotation
        if not isinstance(call, ast.Call) or len(call.args) != 2:
            self.fail(arg, "expected the bounds of a symbol: n: index(1, 512)")
        lo, hi = map(self.exprs.integer, call.args)
        self.symbols.setdefault(arg.arg, Var(arg.arg, self.exprs.dtype(call.func), lo, hi))

    def _inputs(self, args: ast.arguments) -> tuple[Node, ...]:
        plain: list[ast.expr | None] = [None] * (len(args.args) - len(args.defaults))
        made: list[Node] = []
        for arg, default in zip(args.args, [*plain, *args.defaults], strict=True):
            if arg.annotation is None:
                self.fail(arg, f"{arg.arg} has no type: x: f32[n, 4]")
            name = arg.arg if default is None else self._string(default)
            made.append(make_input(name, self.type(arg.annotation)))
            self._bind(arg, arg.arg, made[-1])
        return tuple(made)

    def _bind(self, node: ast.AST, name: str, made: Node) -> None:
        if name in self.nodes:
            self.fail(node, f"{name} is defined twice")
        if name in self.symbols:
            self.fail(node, f"{name} is a dim already; name the tensor differently")
        self.nodes[name] = made

    def _results(self, node: ast.Return) -> tuple[list[str], dict[str, Node]]:
        if not isinstance(node.value, ast.Dict):
            self.fail(node, 'expected `return {"name": node, …}`')
        pairs: dict[str, Node] = {}
        for k, v in zip(node.value.keys, node.value.values, strict=True):
            if k is None:
                self.fail(v, 'expected "name": node')
            key = self._string(k)
            if key in pairs:
                self.fail(k, f"two outputs are called {key!r}")
            pairs[key] = self._operand(v)
        return list(pairs), pairs

    def _string(self, node: ast.expr) -> str:
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            self.fail(node, "expected a text in quotes")
        return node.value

    def _operand(self, node: ast.expr) -> Node:
        if not isinstance(node, ast.Name) or node.id not in self.nodes:
            name = node.id if isinstance(node, ast.Name) else "this"
            self.fail(node, f"{name} is no node defined above")
        return self.nodes[node.id]

    def statement(self, s: ast.stmt) -> tuple[str, Node]:
        """`name: type = op(operands, attributes)`; the type may be left out where it follows."""
        if isinstance(s, ast.AnnAssign) and s.value is not None:
            target, value, note = s.target, s.value, s.annotation
        elif isinstance(s, ast.Assign) and len(s.targets) == 1:
            target, value, note = s.targets[0], s.value, None
        else:
            self.fail(s, "expected name: type = op(…)")
        if not isinstance(target, ast.Name):
            self.fail(target, "expected a name")
        if not isinstance(value, ast.Call) or not isinstance(value.func, ast.Name):
            self.fail(value, "expected op(operands, attribute=value)")
        types = None if note is None else self.types(note)
        made = self._node(value, unword(value.func.id), types)
        self._bind(target, target.id, made)
        return target.id, made

    def _node(self, call: ast.Call, op: str, types: tuple[TensorType, ...] | None) -> Node:
        attrs = {unword(k.arg or ""): self.attr(k.value) for k in call.keywords}
        if op == "constant":
            return self._constant(call, types, attrs)
        args = call.args
        if op == "get" and len(args) == 2:
            attrs["index"] = self.attr(args[1])
            args = args[:1]
        inputs = [None if _is_none(a) else self._operand(a) for a in args]
        if types is None and op == "get" and inputs[0] is not None:
            types = (inputs[0].types[int(str(attrs["index"]))],)
        if types is None:
            if self.infer is None:
                self.fail(call, "expected a type: name: f32[n, 4] = …")
            given = [None if n is None else n.type for n in inputs]
            types = self.exprs.build(call, self.infer, op, given, attrs)
        assert types is not None
        return make_node(op, inputs, attrs, types)

    def _constant(
        self, call: ast.Call, types: tuple[TensorType, ...] | None, attrs: dict[str, Attr]
    ) -> Node:
        if len(call.args) != 1:
            self.fail(call, "expected constant(contents)")
        if types is None or len(types) != 1:
            self.fail(call, "a constant has a type: c: f32[2] = constant([1.0, 2.0])")
        data = make_data(self._array(call.args[0], types[0]))
        t = types[0]
        if t.value is None:
            t = TensorType(t.dtype, t.shape, t.layout, _implied_value(data.array))
        return make_node("constant", (), {"data": data, **attrs}, t)

    def _array(self, node: ast.expr, t: TensorType | None) -> np.ndarray:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = self.constants.get(node.value[:SHORT])
            if found is None:
                self.fail(node, "the contents of this constant were not given")
            return found
        if t is None:
            self.fail(node, "expected a digest")
        shape = tuple(map(known, t.shape))
        if any(n is None for n in shape):
            self.fail(node, "the shape of a constant is made of numbers")
        sizes = tuple(n for n in shape if n is not None)
        nodes = list(node.elts) if isinstance(node, ast.List) else [node]
        values = [self._element(n, t.dtype) for n in nodes]
        array = np.array(values, np.float64 if is_float(t.dtype) else None)
        array = array.astype(DTYPES[t.dtype].numpy)
        if not isinstance(node, ast.List):
            return np.full(sizes, array[0])
        if len(values) != int(np.prod(sizes, dtype=np.int64)):
            self.fail(node, f"expected {np.prod(sizes)} elements, found {len(values)}")
        return array.reshape(sizes)

    def _element(self, node: ast.expr, dtype: str) -> int | float | bool:
        e = self.exprs.expr(node, dtype)
        if not isinstance(e, Const) or e.dtype != dtype:
            self.fail(node, f"expected a number ({dtype})")
        return e.value

    def types(self, node: ast.expr) -> tuple[TensorType, ...]:
        """One type, or a tuple of them."""
        if isinstance(node, ast.Tuple):
            return tuple(self.type(n) for n in node.elts)
        return (self.type(node),)

    def type(self, node: ast.expr) -> TensorType:
        """`f32[n, 64] @ (1, 0) == [2, n]`."""
        value = None
        if isinstance(node, ast.Compare):
            if not isinstance(node.ops[0], ast.Eq) or len(node.ops) != 1:
                self.fail(node, "expected type == [values]")
            value, node = self._exprs(node.comparators[0]), node.left
        node, layout = read_layout(self.exprs, node)
        dtype, dims = self.exprs.typed(node)
        if dims is None:
            self.fail(node, f"a tensor has a shape: {dtype}[n], {dtype}[()]")
        shape = tuple(canonical(self.exprs.scalar(d, "index")) for d in dims)
        return TensorType(dtype, shape, layout, value)

    def _exprs(self, node: ast.expr) -> tuple[Expr, ...]:
        if not isinstance(node, ast.List):
            self.fail(node, "expected [index expressions]")
        return tuple(canonical(self.exprs.expr(n, "index")) for n in node.elts)

    def attr(self, node: ast.expr) -> Any:
        """An attribute's value."""
        match node:
            case ast.Constant():
                return node.value
            case ast.Tuple():
                return tuple(self.attr(n) for n in node.elts)
            case ast.List():
                return self._exprs(node)
            case ast.Name(id=name) if name in self.bodies:
                return self.bodies[name]
            case ast.Call(func=ast.Name(id="type"), args=[inner]):
                return self.type(inner)
            case ast.Call(func=ast.Name(id="data"), args=[inner]):
                return make_data(self._array(inner, None))
            case _:
                value = number(node)
                return self.exprs.expr(node, "index") if value is None else value


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_text(node: ast.stmt) -> bool:
    """A docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def read_graph(
    text: str,
    *,
    constants: Mapping[str, np.ndarray] | None = None,
    infer: Infer | None = None,
) -> Graph:
    """The graph of a text. `constants`: contents by digest, as `graph_constants` gives them.
    `infer`: computes the type of a node where the text leaves it out.

    Raises IRError with the line and a caret."""
    return GraphReader(text, constants, infer).read()
