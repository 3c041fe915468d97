"""Loop IR to Triton source: text of a module with one @triton.jit function and its grid.

The parallel loops around the whole body become program ids, the innermost one axis 0. Tiles are
Triton's blocks, so their sizes are powers of two. Stack buffers are variables: they must be used as
whole tiles at constant places. `dot` is tl.dot in full precision (no TF32). Triton itself is not
needed to write the text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from naru.dtypes import is_float, is_integer
from naru.errors import IRError
from naru.ir.expr import (
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
    Shape,
    Splat,
    Unary,
    Var,
    children,
    walk,
)
from naru.ir.loop import Alloc, Assign, Buffer, For, Func, If, Let, Stmt, Store, While, operands
from naru.ir.simplify import bounds, known, mul, prod, sub, substitute
from naru.ir.text_expr import Names

DTYPES = {
    **{f"f{bits}": f"tl.float{bits}" for bits in (16, 32, 64)},
    **{f"i{bits}": f"tl.int{bits}" for bits in (8, 16, 32, 64)},
    **{f"u{bits}": f"tl.uint{bits}" for bits in (8, 16, 32, 64)},
    "bf16": "tl.bfloat16",
    "bool": "tl.int1",
    "index": "tl.int64",
}
# How tightly Python's operators bind, and their symbols.
COMPARISON, SUM, PRODUCT, ATOM = 1, 6, 7, 9
OPERATORS = {
    "lt": ("<", 1), "le": ("<=", 1), "eq": ("==", 1), "ne": ("!=", 1), "gt": (">", 1),
    "ge": (">=", 1), "or": ("|", 2), "xor": ("^", 3), "and": ("&", 4), "shl": ("<<", 5),
    "shr": (">>", 5), "add": ("+", SUM), "sub": ("-", SUM), "mul": ("*", PRODUCT),
    "div": ("/", PRODUCT),
}  # fmt: skip
FUNCTIONS = {
    "exp": "tl.exp", "log": "tl.log", "sqrt": "tl.sqrt_rn", "sin": "tl.sin", "cos": "tl.cos",
    "erf": "tl.erf", "floor": "tl.floor", "ceil": "tl.ceil", "abs": "tl.abs",
}  # fmt: skip
REDUCTIONS = {"add": "tl.sum", "min": "tl.min", "max": "tl.max"}
LARGEST_GRID = 3  # dims
SAFE_OFFSET = 2**31  # elements from here on need 64 bits
NAN = "propagate_nan=tl.PropagateNan.ALL"
INDENT = "    "


def emit_triton(func: Func) -> str:
    """The module's text: `name(buffers..., sizes...)`, and `name_grid(sizes...)`, what to launch.

    IRError says what of the function Triton cannot express, and how to schedule it instead."""
    writer = _Writer(func)
    grid = writer.kernel()
    sizes = ", ".join(writer.names.get(v) for v in func.sizes)
    parts = [
        "import triton",
        "import triton.language as tl",
        "",
        "",
        "@triton.jit",
        *writer.lines,
        "",
        "",
        f"def {writer.name}_grid({sizes}):",
        f"{INDENT}return ({', '.join(grid)},)",
    ]
    return "\n".join(parts) + "\n"


Slot = tuple[Buffer, tuple[int, ...]]  # a tile of a stack buffer: where it starts


@dataclass
class _Writer:
    """One kernel in the making."""

    func: Func
    lines: list[str] = field(default_factory=list[str])
    names: Names = field(default_factory=lambda: Names(("tl", "triton")))
    slots: dict[Slot, str] = field(default_factory=dict[Slot, str])
    shapes: dict[Buffer, Shape] = field(default_factory=dict[Buffer, Shape])
    shared: dict[Expr, str] = field(default_factory=dict[Expr, str])
    unrolled: dict[Var, Expr] = field(default_factory=dict[Var, Expr])
    temporaries: int = 0
    name: str = ""

    def kernel(self) -> list[str]:
        """Writes the function; returns the dims of the grid."""
        self.name = self.names.declare(self.func, self.func.name)
        params = [self.names.declare(p, p.name) for p in (*self.func.buffers, *self.func.sizes)]
        self.lines.append(f"def {self.name}({', '.join(params)}):")
        body = self.func.body
        loops: list[For] = []
        while len(body) == 1 and isinstance(body[0], For) and body[0].kind == "parallel":
            loops.append(body[0])
            body = body[0].body
        if any(isinstance(s, For) and s.kind == "parallel" for s in body):
            raise self.error(
                "more than one parallel loop at one level; cover an extent by one kind of tile: "
                "split(stage, axis, (size,), (0,))"
            )
        if len(loops) > LARGEST_GRID:
            raise self.error(f"a grid has at most {LARGEST_GRID} dims, not {len(loops)}")
        for axis, loop in enumerate(reversed(loops)):
            at = f"tl.program_id({axis}).to(tl.int64)"
            start = "" if known(loop.start) == 0 else f" + {self.text(loop.start)}"
            self.put(1, f"{self.names.declare(loop.var, loop.var.name)} = {at}{start}")
        self.block(body, 1)
        return [self.text(sub(x.stop, x.start)) for x in reversed(loops)] or ["1"]

    def error(self, message: str) -> IRError:
        return IRError([message], where=f"{self.func.name} in Triton")

    def put(self, depth: int, text: str) -> None:
        self.lines.append(INDENT * depth + text)

    # ---- statements ----

    def block(self, body: Sequence[Stmt], depth: int) -> None:
        before = len(self.lines)
        for s in body:
            self.statement(s, depth)
        if len(self.lines) == before:
            self.put(depth, "pass")

    def statement(self, s: Stmt, depth: int) -> None:
        if isinstance(s, For) and s.kind == "unroll":
            self.unroll(s, depth)
            return
        if isinstance(s, Let | Assign | Store):
            self.share(operands(s), depth)
        match s:
            case For():
                ends = f"{self.text(s.start)}, {self.text(s.stop)}"
                with self.names.scope():
                    name = self.names.declare(s.var, s.var.name)
                    self.put(depth, f"for {name} in range({ends}):")
                    self.block(s.body, depth + 1)
            case While():
                self.put(depth, f"while {self.text(s.cond)}:")
                self.block(s.body, depth + 1)
            case If():
                self.put(depth, f"if {self.text(s.cond)}:")
                self.block(s.then, depth + 1)
                if s.orelse:
                    self.put(depth, "else:")
                    self.block(s.orelse, depth + 1)
            case Let() | Assign():
                value = self.text(s.value)
                self.put(depth, f"{self.names.get(s.var)} = {value}")
            case Store():
                self.store(s, depth)
            case Alloc():
                pass  # a variable begins with its first assignment
            case _:
                raise self.error("a kernel cannot call another one")
        self.shared.clear()

    def unroll(self, s: For, depth: int) -> None:
        start, stop = known(self.now(s.start)), known(self.now(s.stop))
        if start is None or stop is None:
            raise self.error(f"for {s.var.name}: unroll needs constant bounds")
        for i in range(start, stop):
            self.unrolled[s.var] = Const(i)
            self.block(s.body, depth)
        del self.unrolled[s.var]

    def now(self, e: Expr) -> Expr:
        """e with the variables of unrolled loops replaced by their present values."""
        return substitute(e, self.unrolled) if self.unrolled else e

    def share(self, roots: Sequence[Expr], depth: int) -> None:
        """Names the parts that a statement uses more than once."""
        uses: dict[Expr, int] = {}
        for e in walk(*(self.now(r) for r in roots)):
            for c in children(e):
                uses[c] = uses.get(c, 0) + 1
        for e, count in uses.items():
            if count > 1 and not isinstance(e, Const | Var | Load) and (children(e) or e.shape):
                text = self.text(e)
                self.temporaries += 1
                self.shared[e] = f"t{self.temporaries}"
                self.put(depth, f"{self.shared[e]} = {text}")

    def store(self, s: Store, depth: int) -> None:
        value, index = self.now(s.value), tuple(self.now(i) for i in s.index)
        if s.buffer.space in ("stack", "tile", "shared"):
            if s.mask is not None:
                raise self.error(f"{s.buffer.name}: a variable is not written under a mask")
            text = self.text(value)
            self.put(depth, f"{self.variable(s.buffer, index, value.shape)} = {text}")
            return
        tile = () if any(i.shape for i in index) else value.shape
        where = f"{self.names.get(s.buffer)} + {self.offset(s.buffer, index, tile)}"
        mask = "" if s.mask is None else f", mask={self.text(self.now(s.mask))}"
        self.put(depth, f"tl.store({where}, {self.text(value)}{mask})")

    # ---- memory ----

    def variable(self, buffer: Buffer, index: tuple[Expr, ...], tile: Shape) -> str:
        """The variable that holds a tile of a stack buffer."""
        at = tuple(known(i) for i in index)
        if None in at or self.shapes.setdefault(buffer, tile) != tile:
            raise self.error(
                f"{buffer.name}: a stack buffer is used as whole tiles of one shape, at constant "
                "places (unroll loops over tiles; vectorise both loops of the result)"
            )
        key = (buffer, tuple(i for i in at if i is not None))
        if key not in self.slots:
            whole = not any(key[1])
            suffix = "" if whole else "_" + "_".join(map(str, key[1]))
            self.slots[key] = self.names.declare(key, buffer.name + suffix)
        return self.slots[key]

    def offset(self, buffer: Buffer, index: tuple[Expr, ...], tile: Shape) -> str:
        """Elements from the start of a buffer in memory to each lane."""
        terms: list[str] = []
        first = len(index) - len(tile)
        stride: Expr = Const(1)
        total = known(prod(buffer.shape))
        for d in reversed(range(len(index))):
            text = self.place(index[d], d - first, tile)
            if text:
                one = known(stride) == 1
                if not one and (total is None or total >= SAFE_OFFSET):
                    text = f"tl.cast({text}, tl.int64)"
                terms.append(text if one else f"{text} * {self.text(stride, ATOM)}")
            stride = mul(stride, buffer.shape[d])
        return " + ".join(reversed(terms)) if terms else "0"

    def place(self, at: Expr, lane: int, tile: Shape) -> str:
        """One subscript; with lanes of its own when it is the `lane`-th of a tile (from 0)."""
        if lane < 0:
            return "" if known(at) == 0 else self.text(at, PRODUCT)
        lanes = self.text(Lanes(tile[lane]))
        text = lanes if known(at) == 0 else f"{self.text(at, SUM)} + {lanes}"
        if len(tile) < 2:
            return text
        return (text if text == lanes else f"({text})") + ("[:, None]", "[None, :]")[lane]

    def lanes(self, n: int) -> str:
        if n & (n - 1):
            raise self.error(f"a tile has {n} lanes, expected a power of two")
        return f"tl.arange(0, {n})"

    # ---- expressions ----

    def text(self, e: Expr, level: int = 0) -> str:
        """e as Triton, in brackets if it binds less tightly than `level`."""
        e = self.now(e)
        if e in self.shared:
            return self.shared[e]
        own, text = self.binary(e) if isinstance(e, Binary) else (ATOM, self.node(e))
        return f"({text})" if own < level or (level == ATOM and text[0] == "-") else text

    def node(self, e: Expr) -> str:
        match e:
            case Const():
                return _constant(e)
            case Var():
                return self.names.get(e)
            case Lanes():
                return self.lanes(e.n)
            case Unary():
                return self.unary(e)
            case Binary():
                return self.binary(e)[1]
            case Select():
                return f"tl.where({self.text(e.cond)}, {self.text(e.a)}, {self.text(e.b)})"
            case Cast():
                if e.dtype == "bool":
                    return f"({self.text(e.x, SUM)} != 0)"
                return f"tl.cast({self.text(e.x)}, {DTYPES[e.dtype]})"
            case Splat():
                return self.splat(e)
            case Reduce():
                if e.op not in REDUCTIONS:
                    raise self.error(f"reduce_{e.op} is not available")
                return f"{REDUCTIONS[e.op]}({self.text(e.x)}, 0)"
            case Call():
                args = ", ".join(self.text(a) for a in e.args)
                if e.fn == "dot":
                    return f'tl.dot({args}, input_precision="ieee")'
                name = {"transposed": "trans", "interleaved": "interleave"}.get(e.fn, e.fn)
                return f"tl.{name}({args})"
            case Load():
                return self.load(e)
            case Read():
                raise self.error(f"a Read of {e.tensor.name} belongs to a TensorFunction")

    def unary(self, e: Unary) -> str:
        x = self.text(e.x, ATOM)
        match e.op:
            case "neg":
                return f"-{x}"
            case "not":
                return f"({x} == 0)" if e.dtype == "bool" else f"~{x}"
            case "isnan":
                return f"({x} != {x})"
            case "bits":
                return f"tl.cast({x}, {DTYPES[e.dtype]}, bitcast=True)"
            case _ if e.op in FUNCTIONS:
                return f"{FUNCTIONS[e.op]}({self.text(e.x)})"
            case _:
                raise self.error(f"{e.op} is not available; write it as arithmetic")

    def binary(self, e: Binary) -> tuple[int, str]:
        """How tightly it binds, and the text."""
        kind = e.a.dtype
        if e.op in ("min", "max"):
            nan = f", {NAN}" if is_float(kind) else ""
            a, b = self.operand(e.a, e.b, 0), self.operand(e.b, e.a, 0)
            return ATOM, f"tl.{e.op}imum({a}, {b}{nan})"
        if is_integer(kind) and e.op in ("div", "floordiv", "mod"):
            return self.divide(e)
        if e.op == "dot2":
            a, b = self.operand(e.a, e.b, ATOM), self.operand(e.b, e.a, ATOM)
            low = f"({a} << 16 >> 16) * ({b} << 16 >> 16)"
            return SUM, f"{low} + ({a} >> 16) * ({b} >> 16)"
        if e.op == "dot4":
            a, b = self.operand(e.a, e.b, ATOM), self.operand(e.b, e.a, ATOM)
            parts = (f"({a} << {k} >> 24) * ({b} << {k} >> 24)" for k in (24, 16, 8, 0))
            return SUM, " + ".join(parts)
        if e.op not in OPERATORS:
            raise self.error(f"{e.op} of {kind} is not available")
        symbol, own = OPERATORS[e.op]
        left = SUM if own == COMPARISON else own
        return own, f"{self.operand(e.a, e.b, left)} {symbol} {self.operand(e.b, e.a, own + 1)}"

    def operand(self, e: Expr, other: Expr, level: int) -> str:
        """An operand of an operation on tiles; a splat is left to Triton's broadcasting where the
        other operand makes the result as large."""
        e, other = self.now(e), self.now(other)
        if not isinstance(e, Splat) or e in self.shared or not other.shape:
            return self.text(e, level)
        if not isinstance(other, Splat):
            return self.lifted(e) if e.x.shape else self.text(e.x, level)
        crossing = e.x.shape and other.x.shape and e.axis != other.axis
        return self.lifted(e) if crossing else self.text(e, level)

    def lifted(self, e: Splat) -> str:
        """A rank-1 tile as a row or a column."""
        return self.text(e.x, ATOM) + ("[None, :]" if e.axis else "[:, None]")

    def divide(self, e: Binary) -> tuple[int, str]:
        """Triton divides integers towards zero; floordiv and mod round towards minus infinity."""
        a, b = self.operand(e.a, e.b, PRODUCT), self.operand(e.b, e.a, ATOM)
        if _is_natural(e) or e.op == "div":
            return PRODUCT, f"{a} {'%' if e.op == 'mod' else '//'} {b}"
        wrong = f"({a} % {b} != 0) & (({a} < 0) != ({b} < 0))"
        if e.op == "mod":
            return SUM, f"{a} % {b} + tl.where({wrong}, {b}, 0)"
        return SUM, f"{a} // {b} - tl.where({wrong}, 1, 0)"

    def splat(self, e: Splat) -> str:
        if not e.x.shape:
            return f"tl.full({e.shape}, {self.text(e.x)}, {DTYPES[e.dtype]})"
        return f"tl.broadcast_to({self.lifted(e)}, {e.shape})"

    def load(self, e: Load) -> str:
        if e.buffer.space in ("stack", "tile", "shared"):
            return self.variable(e.buffer, e.index, e.shape)
        where = f"{self.names.get(e.buffer)} + {self.offset(e.buffer, e.index, e.tile)}"
        if e.mask is None:
            return f"tl.load({where})"
        return f"tl.load({where}, mask={self.text(e.mask)}, other=0)"


def _is_natural(e: Binary) -> bool:
    """Is the dividend certainly >= 0 and the divisor > 0?"""
    divisor = e.b.x if isinstance(e.b, Splat) else e.b
    return e.dtype[0] == "u" or (bounds(e.a)[0] >= 0 and bounds(divisor)[0] > 0)


def _constant(e: Const) -> str:
    if e.dtype == "bool":
        return str(bool(e.value))
    if is_float(e.dtype):
        value = float(e.value)
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    return str(int(e.value))
