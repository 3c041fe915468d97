"""Runs loop IR in plain Python: the definition of the IR. Everything fast is compared with it.

A function is turned into Python source once, a line for each operation, so nothing is dispatched
while it runs. Every access is checked. Buffers are numpy arrays, written in place.

A kernel's `parallel` loops are divided by (tid, n): with n threads the whole kernel runs n times,
one after another, thread t doing iterations [start + len*t // n, start + len*(t+1) // n). Where
threads meet, each waits for the others. A driver (a function that calls kernels or services) runs
once, and each Invoke runs its kernel for that many threads.
"""

from __future__ import annotations

import random
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import numpy as np

from naru.dtypes import DTYPES, is_float
from naru.errors import IRError, RunError
from naru.ir.arithmetic import (
    NATIVE,
    binary,
    cast,
    constant,
    dot,
    fma,
    fma_f32,
    interleaved,
    reduce_tree,
    unary,
)
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
    Splat,
    Unary,
    Var,
    walk,
)
from naru.ir.loop import (
    Alloc,
    Assign,
    Buffer,
    For,
    Func,
    If,
    Invoke,
    Let,
    Ref,
    Stmt,
    Store,
    While,
    meets,
    operands,
    statements,
)
from naru.ir.simplify import known
from naru.ir.text_loop import LoopPrinter

Argument: TypeAlias = "np.ndarray | int | float | None"
# CPython allows 20 loops inside each other in one function.
DEEPEST = 18
INDENT = " "


@dataclass
class Host:
    """What the driver's services do here. `error`: the arguments of the first fail(…)."""

    error: tuple[int, ...] | None = None
    io: dict[int, np.ndarray] = field(default_factory=dict[int, np.ndarray])
    marks: list[int] = field(default_factory=list[int])
    barriers: int = 0
    allocated: int = 0


@dataclass(frozen=True)
class Address:
    """A byte address: a Ref that was evaluated."""

    array: np.ndarray
    offset: int

    def bytes(self) -> np.ndarray:
        """Everything from here on as bytes."""
        return self.array.reshape(-1).view(np.uint8)[self.offset :]


class Fault(Exception):
    """Something went wrong at the statement that is running."""


class Stop(Exception):
    """fail(…): the run is over."""


@dataclass
class Run:
    """The state of one run: which part of parallel loops is done now, and in which order."""

    host: Host
    funcs: Mapping[str, Func]
    order: random.Random | None
    tid: int = 0
    threads: int = 1

    def chunk(self, start: int, stop: int) -> Sequence[int]:
        """The iterations of a parallel loop that the current thread does."""
        size = max(0, stop - start)
        lo, hi = (start + size * t // self.threads for t in (self.tid, self.tid + 1))
        if self.order is None:
            return range(lo, hi)
        mine = list(range(lo, hi))
        self.order.shuffle(mine)
        return mine

    def invoke(self, func: Func, args: Sequence[Any], threads: int) -> None:
        """A kernel on `threads` threads, one after another; in turn, where they meet."""
        outer = self.tid, self.threads
        n = max(1, min(threads, self.threads if not is_driver(func) else 1))
        if meets(func) and n < self.threads:
            n = 1
        self.threads = n
        runs = [compiled(func).parts(args, self) for _ in range(n)]
        waiting = list(range(n))
        while waiting:
            still = [tid for tid in waiting if self._go_on(tid, runs[tid])]
            if still and still != waiting:
                raise IRError(["some threads meet where others don't come"], where=func.name)
            waiting = still
        self.tid, self.threads = outer

    def _go_on(self, tid: int, thread: Iterator[None]) -> bool:
        """A thread, up to where it meets others; False: it has ended."""
        self.tid = tid
        return next(thread, self) is None

    def service(self, name: str, args: Sequence[Any]) -> None:
        """A service of the driver, `alloc` excepted."""
        match name, args:
            case ("barrier", ()) | ("next_round", (_, _)):
                self.host.barriers += 1
            case "set_io", (k, Address() as ref):
                self.host.io[int(k)] = ref.bytes()
            case "mark", (k,):
                self.host.marks.append(int(k))
            case "fail", _:
                if self.host.error is None:
                    self.host.error = tuple(int(a) for a in args)
                raise Stop
            case _ if name in self.funcs:
                self.invoke(self.funcs[name], args, 1)
            case _:
                raise Fault(f"there is no service {name} with {len(args)} arguments")

    def alloc(self, size: int, dtype: np.dtype) -> np.ndarray:
        """Growable memory for a driver."""
        if size < 0:
            raise Fault(f"alloc of {size} bytes")
        self.host.allocated += size
        return fresh((size // dtype.itemsize,), dtype)


def is_driver(func: Func) -> bool:
    """Does it call kernels, or services that are a driver's?"""
    called = [s.callee for s in statements(func.body) if isinstance(s, Invoke)]
    return any(c not in ("barrier", "prefetch") for c in called)


def fresh(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Memory with undefined contents: values that nobody takes for results (NaN, -1)."""
    made = np.empty(shape, dtype)
    if dtype == np.bool_:
        made[...] = True
    else:
        made.reshape(-1).view(np.uint8)[...] = 0xFF
    return made


def bind(name: str, given: Any, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray | None:
    """An argument as the array that a buffer parameter stands for. None: allocated later."""
    if given is None:
        return None
    if not isinstance(given, np.ndarray | Address):
        raise Fault(f"{name}: expected an array, got {type(given).__name__}")
    at = given if isinstance(given, Address) else Address(given, 0)  # pyright: ignore[reportUnknownArgumentType]
    array = np.asarray(at.array)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if at.offset == 0 and array.dtype == dtype and array.shape == shape:
        return array
    if at is not given:  # the caller's array, not an address in a driver
        if array.dtype not in (dtype, np.uint8):
            raise Fault(f"{name}: expected {dtype}, got {array.dtype}")
        if array.dtype == dtype and array.nbytes != size:
            raise Fault(f"{name}: expected shape {shape}, got {array.shape}")
    if not array.flags.c_contiguous:
        raise Fault(f"{name}: the array is not contiguous")
    if not 0 <= at.offset <= array.nbytes - size:
        raise Fault(
            f"{name}: needs {size} bytes at offset {at.offset}, "
            f"the memory there has {array.nbytes} bytes in all"
        )
    memory = at.bytes()
    return memory[:size].view(dtype).reshape(shape)


def scalar(name: str, given: Any, dtype: str) -> Any:
    """An argument as the value of a scalar parameter."""
    if isinstance(given, Address) or np.ndim(given):
        raise Fault(f"{name}: expected a number, got an array")
    return constant(given, dtype)


def outside(name: str, index: Sequence[Any], tile: Sequence[int], shape: Sequence[int]) -> NoReturn:
    """Reports an access that is out of bounds."""
    at = ", ".join(str(int(i)) for i in index)
    size = f" and {tuple(tile)} elements from there" if tile else ""
    raise Fault(f"{name}[{at}]{size}: out of bounds, the shape is {tuple(map(int, shape))}")


def lanes(
    name: str,
    array: np.ndarray,
    index: Sequence[Any],
    tile: tuple[int, ...],
    mask: Any,
    shape: tuple[int, ...],
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Which lanes of an access are on, and the coordinates of those, checked."""
    on = np.broadcast_to(True if mask is None else mask, shape)
    parts: list[np.ndarray] = []
    first = len(index) - len(tile)
    for d, i in enumerate(index):
        at = np.asarray(i, np.int64)
        if d >= first:
            along = [1] * len(tile)
            along[d - first] = tile[d - first]
            at = at + np.arange(tile[d - first]).reshape(along)
        chosen = np.broadcast_to(at, shape)[on]
        bad = (chosen < 0) | (chosen >= array.shape[d])
        if bad.any():
            lane = int(np.flatnonzero(bad)[0])
            raise Fault(
                f"{name}: index {int(chosen[lane])} of dim {d}, in one of the lanes, is out of "
                f"bounds, the shape is {array.shape}"
            )
        parts.append(chosen)
    return on, tuple(parts)


def gather(
    name: str,
    array: np.ndarray,
    index: Sequence[Any],
    tile: tuple[int, ...],
    mask: Any,
    shape: tuple[int, ...],
) -> Any:
    """A load with a mask or with indices that are tiles; lanes that are off are 0."""
    on, parts = lanes(name, array, index, tile, mask, shape)
    result = np.zeros(shape, array.dtype)
    result[on] = array[parts]
    return result[()]


def scatter(
    name: str,
    array: np.ndarray,
    index: Sequence[Any],
    tile: tuple[int, ...],
    mask: Any,
    value: Any,
    shape: tuple[int, ...],
) -> None:
    """A store with a mask or with indices that are tiles."""
    on, parts = lanes(name, array, index, tile, mask, shape)
    if parts and array.size:
        flat = np.ravel_multi_index(parts, array.shape)
        if len(np.unique(flat)) != len(flat):
            raise Fault(f"{name}: two lanes of a store hit the same element")
    array[parts] = np.broadcast_to(np.asarray(value, array.dtype), shape)[on]


class Compiler:
    """Turns one function into Python source."""

    def __init__(self, func: Func) -> None:
        self.func = func
        self.env: dict[str, Any] = {
            "bind": bind, "scalar": scalar, "outside": outside, "gather": gather,
            "scatter": scatter, "fresh": fresh, "Address": Address, "where": np.where,
            "full": np.full,
        }  # fmt: skip
        self.lines: list[str] = []
        self.stmt_of: dict[int, Stmt] = {}
        self.stmt: Stmt | None = None
        self.name_of: dict[object, str] = {}
        self.shape_of: dict[Buffer, tuple[str, ...]] = {}
        self.count = 0
        self.loops = 0
        self.parallel = False
        self.driver = is_driver(func)

    def source(self) -> str:
        """The Python source; `env` holds what it refers to."""
        names = [self._new(p, "v" if isinstance(p, Var) else "b") for p in self.func.params]
        self._emit(0, "def kernel(args, run):")
        if names:
            self._emit(1, f"{', '.join(names)}, = args")
        for p in self.func.sizes:
            self._emit(1, f"{self.name_of[p]} = scalar({p.name!r}, {self.name_of[p]}, {p.dtype!r})")
        for b in self.func.buffers:
            self._bind(b)
        self._block(self.func.body, 1)
        self._emit(1, "return")
        return "\n".join(self.lines)

    def _new(self, thing: object, prefix: str) -> str:
        self.count += 1
        self.name_of[thing] = name = f"{prefix}{self.count}"
        return name

    def _emit(self, depth: int, text: str) -> None:
        self.lines.append(INDENT * depth + text)
        if self.stmt is not None:
            self.stmt_of[len(self.lines)] = self.stmt

    def _global(self, value: Any) -> str:
        self.count += 1
        self.env[f"g{self.count}"] = value
        return f"g{self.count}"

    def _bind(self, b: Buffer) -> None:
        dims = self._exprs(1, *b.shape)
        kind = self._global(DTYPES[b.dtype].numpy)
        name = self.name_of[b]
        self._emit(
            1, f"{name} = bind({b.name!r}, {name}, {kind}, ({''.join(d + ', ' for d in dims)}))"
        )
        self.shape_of[b] = tuple(dims)

    def _block(self, body: Sequence[Stmt], depth: int) -> None:
        for s in body:
            self.stmt = s
            self._statement(s, depth)
        if not body:
            self._emit(depth, "pass")

    def _statement(self, s: Stmt, depth: int) -> None:
        match s:
            case For():
                self._for(s, depth)
            case While():
                self._emit(depth, "while True:")
                self._emit(depth + 1, f"if not {self._exprs(depth + 1, s.cond)[0]}: break")
                self._nested(s.body, depth + 1)
            case If():
                self._emit(depth, f"if {self._exprs(depth, s.cond)[0]}:")
                self._block(s.then, depth + 1)
                self.stmt = s
                self._emit(depth, "else:")
                self._block(s.orelse, depth + 1)
            case Let() | Assign():
                value = self._exprs(depth, s.value)[0]
                name = self.name_of.get(s.var) or self._new(s.var, "v")
                self._emit(depth, f"{name} = {value}")
            case Store():
                self._store(s, depth)
            case Alloc():
                self._alloc(s.buffer, depth)
            case Invoke():
                self._invoke(s, depth)

    def _for(self, s: For, depth: int) -> None:
        start, stop = self._exprs(depth, s.start, s.stop)
        divided = s.kind == "parallel" and not self.parallel
        name = self._new(s.var, "v")
        over = f"run.chunk({start}, {stop})" if divided else f"range({start}, {stop})"
        self._emit(depth, f"for {name} in {over}:")
        outer, self.parallel = self.parallel, self.parallel or divided
        self._nested(s.body, depth + 1)
        self.parallel = outer

    def _nested(self, body: Sequence[Stmt], depth: int) -> None:
        """The body of a loop; very deep ones go into a function of their own."""
        self.loops += 1
        if self.loops % DEEPEST:
            self._block(body, depth)
        else:
            self.count += 1
            inner = f"n{self.count}"
            every = statements(tuple(body))
            assigned = {s.var for s in every if isinstance(s, Assign)}
            outer = sorted(self.name_of[v] for v in assigned if v in self.name_of)
            self._emit(depth, f"def {inner}():")
            if outer:
                self._emit(depth + 1, f"nonlocal {', '.join(outer)}")
            self._block(body, depth + 1)
            waits = any(isinstance(s, Invoke) and s.callee == "barrier" for s in every)
            self._emit(depth, f"{'yield from ' if waits and not self.driver else ''}{inner}()")
        self.loops -= 1

    def _alloc(self, b: Buffer, depth: int) -> None:
        dims = [known(d) for d in b.shape]
        if any(d is None for d in dims):
            raise IRError([f"{b.name}: expected a constant shape on the stack"])
        kind = self._global(DTYPES[b.dtype].numpy)
        name = self.name_of.get(b) or self._new(b, "b")
        self._emit(depth, f"{name} = fresh({tuple(d for d in dims if d is not None)}, {kind})")
        self.shape_of[b] = tuple(map(str, dims))

    def _invoke(self, s: Invoke, depth: int) -> None:
        values: list[str] = []
        exprs = iter(self._exprs(depth, *operands(s)))
        for a in s.args:
            value = next(exprs)
            values.append(
                f"Address({self._buffer(a.buffer)}, {value})" if isinstance(a, Ref) else value
            )
        args = f"({''.join(v + ', ' for v in values)})"
        if isinstance(s.callee, Func):
            self._emit(depth, f"run.invoke({self._global(s.callee)}, {args}, {next(exprs)})")
        elif s.callee == "prefetch":
            self._emit(depth, "pass")
        elif s.callee == "barrier" and not self.driver:
            self._emit(depth, "yield")
        elif s.callee == "alloc":
            which = known(s.args[0]) if not isinstance(s.args[0], Ref) else None
            if which is None or not 0 <= which < len(self.func.buffers):
                raise IRError(["alloc: expected the number of a buffer parameter"])
            b = self.func.buffers[which]
            kind = self._global(DTYPES[b.dtype].numpy)
            self._emit(depth, f"{self.name_of[b]} = run.alloc({values[1]}, {kind})")
            self.shape_of[b] = (f"len({self.name_of[b]})",)
        else:
            self._emit(depth, f"run.service({s.callee!r}, {args})")

    def _buffer(self, b: Buffer) -> str:
        name = self.name_of.get(b)
        if name is None:
            raise IRError([f"{b.name}: the buffer is neither a parameter nor allocated"])
        return name

    def _store(self, s: Store, depth: int) -> None:
        values = self._exprs(depth, *operands(s))
        rank = len(s.index)
        at, value = values[:rank], values[rank]
        name = self._buffer(s.buffer)
        tiled = any(i.shape for i in s.index)
        shape = s.value.shape
        for i in s.index:
            shape = shape or i.shape
        tile = () if tiled else s.value.shape
        if s.mask is not None or tiled:
            mask = values[rank + 1] if s.mask is not None else "None"
            where = f"{s.buffer.name!r}, {name}, ({''.join(i + ', ' for i in at)}), {tile}, {mask}"
            self._emit(depth, f"scatter({where}, {value}, {shape})")
            return
        self._check(s.buffer, at, tile, depth)
        self._emit(depth, f"{name}[{self._subscript(at, tile)}] = {value}")

    def _subscript(self, at: Sequence[str], tile: Sequence[int]) -> str:
        first = len(at) - len(tile)
        parts = [i if d < first else f"{i}:{i} + {tile[d - first]}" for d, i in enumerate(at)]
        return ", ".join(parts) or "()"

    def _check(self, b: Buffer, at: Sequence[str], tile: Sequence[int], depth: int) -> None:
        first = len(at) - len(tile)
        dims = self.shape_of[b]
        tests = [
            f"0 <= {i} < {n}" if d < first else f"0 <= {i} <= {n} - {tile[d - first]}"
            for d, (i, n) in enumerate(zip(at, dims, strict=True))
        ]
        if tests:
            where = f"{b.name!r}, ({''.join(i + ', ' for i in at)}), {tuple(tile)}"
            shape = "".join(n + ", " for n in dims)
            self._emit(depth, f"if not ({' and '.join(tests)}): outside({where}, ({shape}))")

    def _exprs(self, depth: int, *roots: Expr) -> list[str]:
        """Emits the operations of expressions, each once; returns the names of the results."""
        names: dict[Expr, str] = {}
        for e in walk(*roots):
            text = self._expr(e, names, depth)
            if not isinstance(e, Const | Var | Lanes):
                self.count += 1
                self._emit(depth, f"t{self.count} = {text}")
                text = f"t{self.count}"
            names[e] = text
        return [names[r] for r in roots]

    def _expr(self, e: Expr, names: Mapping[Expr, str], depth: int) -> str:
        """Python for one node."""
        match e:
            case Const():
                plain = e.dtype in ("index", "bool")
                value = constant(e.value, e.dtype)
                return f"({value!r})" if plain else self._global(value)
            case Var():
                if e not in self.name_of:
                    raise IRError([f"{e.name} is used before it has a value"])
                return self.name_of[e]
            case Unary():
                return f"{self._global(unary(e.op, e.x.dtype))}({names[e.x]})"
            case Binary():
                return self._binary(e, names[e.a], names[e.b])
            case Select() if e.cond.shape:
                return f"where({names[e.cond]}, {names[e.a]}, {names[e.b]})"
            case Select():
                chosen = f"({names[e.a]} if {names[e.cond]} else {names[e.b]})"
                same = e.a.shape == e.b.shape
                kind = self._global(DTYPES[e.dtype].numpy)
                return chosen if same else f"full({e.shape}, {chosen}, {kind})"
            case Cast():
                return f"{self._global(cast)}({names[e.x]}, {e.x.dtype!r}, {e.dtype!r})"
            case Read():
                raise IRError([f"{e.tensor.name}: Read belongs to a TensorFunction"])
            case Load():
                return self._load(e, names, depth)
            case Splat():
                kind = self._global(DTYPES[e.dtype].numpy)
                x = names[e.x] if e.axis else f"{names[e.x]}[:, None]"
                return f"full({e.shape}, {x}, {kind})"
            case Lanes():
                return self._global(np.arange(e.n, dtype=np.int64))
            case Reduce():
                tree = self._global(reduce_tree)
                return f"{tree}({e.op!r}, {e.dtype!r}, {names[e.x]})"
            case Call():
                args = ", ".join(names[a] for a in e.args)
                if e.fn == "transposed":
                    return f"{args}.T.copy()"
                if e.fn == "interleaved":
                    return f"{self._global(interleaved)}({args})"
                if e.fn == "fma" and e.dtype == "f32" and not e.shape:
                    return f"{self._global(fma_f32)}({args})"
                return f"{self._global(fma if e.fn == 'fma' else dot)}({args}, {e.dtype!r})"

    def _binary(self, e: Binary, a: str, b: str) -> str:
        kind = e.a.dtype
        if e.op in NATIVE:
            return f"{a} {NATIVE[e.op]} {b}"
        if kind == "index" and not e.shape and e.op in ("floordiv", "mod"):
            return f"{a} {'//' if e.op == 'floordiv' else '%'} {b}"
        if kind == "index" and not e.shape and e.op in ("min", "max"):
            return f"{e.op}({a}, {b})"
        if is_float(kind) and e.op == "div":
            return f"{a} / {b}"
        return f"{self._global(binary(e.op, kind))}({a}, {b})"

    def _load(self, e: Load, names: Mapping[Expr, str], depth: int) -> str:
        at = [names[i] for i in e.index]
        name = self._buffer(e.buffer)
        tiled = any(i.shape for i in e.index)
        if e.mask is not None or tiled:
            mask = "None" if e.mask is None else names[e.mask]
            shape = e.shape or (e.mask.shape if e.mask is not None else ())
            where = f"{e.buffer.name!r}, {name}, ({''.join(i + ', ' for i in at)}), {e.tile}"
            return f"gather({where}, {mask}, {shape})"
        self._check(e.buffer, at, e.tile, depth)
        access = f"{name}[{self._subscript(at, e.tile)}]"
        if e.tile:
            return f"{access}.copy()"
        return f"int({access})" if e.dtype == "index" else access


class Compiled:
    """A function ready to run."""

    def __init__(self, func: Func) -> None:
        compiler = Compiler(func)
        source = compiler.source()
        self.file = f"<loop IR {func.name} {id(func)}>"
        self.name, self.stmt_of = func.name, compiler.stmt_of
        exec(compile(source, self.file, "exec"), compiler.env)
        self.fn: Callable[[Sequence[Any], Run], Iterator[None] | None] = compiler.env["kernel"]
        self.func = weakref.ref(func)
        self.count = len(func.params)

    def call(self, args: Sequence[Any], run: Run) -> None:
        """Runs a driver, which stops nowhere."""
        deque(self.parts(args, run), maxlen=0)

    def parts(self, args: Sequence[Any], run: Run) -> Iterator[None]:
        """Runs it, with a stop at each barrier of a kernel; what goes wrong becomes an IRError that
        names the statement."""
        if len(args) != self.count:
            raise IRError([f"{self.name}: expected {self.count} arguments, got {len(args)}"])
        try:
            yield from self.fn(args, run) or ()
        except Fault as e:
            raise self.error(e, str(e)) from None
        except ZeroDivisionError as e:
            raise self.error(e, "division of an integer by zero") from None
        except (OverflowError, ValueError) as e:
            raise self.error(e, str(e)) from e

    def error(self, e: BaseException, message: str) -> IRError:
        """The error with the line of the program at which it happened."""
        func = self.func()
        rows = [f.lineno for f in traceback.extract_tb(e.__traceback__) if f.filename == self.file]
        stmt = self.stmt_of.get(rows[-1]) if rows and rows[-1] is not None else None
        if func is None or stmt is None:
            return IRError([message], where=self.name)
        printer = LoopPrinter()
        printer.func(func)
        line = printer.line_of.get(stmt, 1)
        text = printer.lines[line - 1].strip()
        return IRError([f"{message}\n    {text}"], where=f"{self.name}, line {line}")


_compiled: weakref.WeakKeyDictionary[Func, Compiled] = weakref.WeakKeyDictionary()


def compiled(func: Func) -> Compiled:
    """The function as Python, made once."""
    found = _compiled.get(func)
    if found is None:
        found = _compiled[func] = Compiled(func)
    return found


def run(
    func: Func,
    args: Sequence[Argument],
    *,
    funcs: Mapping[str, Func] | None = None,
    threads: int = 1,
    shuffle: int | None = None,
    host: Host | None = None,
) -> None:
    """Runs a function on arrays, which it writes in place, and sizes.

    An array of the right number of elements, or of bytes, is accepted for any shape. `threads`:
    how many the run has. `shuffle`: a seed; iterations of parallel loops come in random order.
    `host` keeps what the services of a driver did. Raises IRError naming buffer, index and line,
    RunError when the program calls fail(…) and there is no host to ask.
    """
    state = Run(host or Host(), funcs or {}, None if shuffle is None else random.Random(shuffle))
    state.threads = threads
    with np.errstate(all="ignore"):
        try:
            if is_driver(func):
                compiled(func).call(args, state)
            else:
                state.invoke(func, args, threads)
        except Stop:
            if host is None:
                raise RunError(f"{func.name}: fail{state.host.error}") from None
