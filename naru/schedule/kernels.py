"""The kernels of a model: each distinct fused body becomes one loop-IR function, once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from naru.dtypes import DTYPES
from naru.ir.expr import Binary, Call, Const, Expr, Select, Unary, Var, walk
from naru.ir.graph import Graph, Node, TensorType, make_input, toposort
from naru.ir.loop import For, Func, If, Stmt, statements
from naru.ir.simplify import add, compare, floordiv, known, mul, prod, select, substitute
from naru.ir.tensor import Stage, TensorFunction
from naru.ir.text_loop import read_func
from naru.ops.attention import How
from naru.ops.registry import OPS
from naru.ops.tile_product import PAIRS
from naru.schedule.analysis import SLOW_OPS
from naru.schedule.default import default_schedule
from naru.schedule.group import group_function, root_of
from naru.schedule.lower import lower, signature
from naru.schedule.prepare import prepare
from naru.schedule.regions import Region, find_regions
from naru.schedule.rewrites import at_size
from naru.schedule.steps import Schedule, print_schedule
from naru.schedule.tile_rows import find_tiles, is_packed, products_of
from naru.targets import Target

ALL_THREADS = Const(2**31 - 1)
SPLIT_FROM = 4000  # estimated nanoseconds from which a kernel is shared among threads
CYCLES_PER_NS = 2  # a clock that servers hold while all cores use wide vectors
BYTES_PER_NS = 16
TILE_MACS_PER_NS = 512  # of bf16 in matrix registers, beside what comes with them
ANCHORS = (  # ops that name a kernel
    "conv", "phase_conv", "matmul", "tile_product", "softmax", "layer_normalization",
    "max_pool", "average_pool",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Kernel:
    """A kernel and what `explain` says of it. `work` estimates nanoseconds on one core; `flops` and
    `bytes` count multiply-adds twice and each tensor once. `products`: of bf16 parts in matrix
    registers for each multiplication; 0 where they are not used."""

    name: str
    func: Func
    ops: tuple[str, ...]
    schedule: str
    work: Expr
    flops: Expr
    bytes: Expr
    sizes: tuple[Var, ...]  # the graph's symbols for the function's size parameters
    threads: Expr = field(default_factory=lambda: Const(1))
    products: int = 0

    @property
    def algorithm(self) -> str:
        """The rewrites that the schedules of its nests begin with ("direct" only where there is no
        other), or "by hand"."""
        found = re.findall(r"^algorithm\((.*)\)$", self.schedule, re.MULTILINE)
        words = dict.fromkeys(w for line in found for w in re.findall(r"'(\w+)[^']*'", line))
        named = [w for w in words if w != "direct"]
        return ", ".join(named or words) if found else self.schedule


@dataclass
class Kernels:
    """Makes kernels on demand, one for each distinct body."""

    target: Target
    fma: bool = True
    made: dict[Graph, Kernel] = field(default_factory=dict[Graph, Kernel])
    copier: Graph | None = None

    def get(self, body: Graph) -> Kernel:
        """The kernel of a body; made when first asked for."""
        found = self.made.get(body)
        if found is None:
            found = self.made[body] = self.make(body, f"k{len(self.made)}_{label(body)}")
        return found

    def copy_bytes(self) -> Kernel:
        """A kernel that copies n bytes; for the driver's own use."""
        n = Var("n")
        plain = TensorType("u8", (n,))
        if self.copier is None:
            given = make_input("p0", plain)
            out = Node("identity", (given,), (), (plain,))
            self.copier = Graph("copy_bytes", (given,), (out,), ("out",))
        return self.get(self.copier)

    def make(self, body: Graph, name: str) -> Kernel:
        """A kernel that is not shared. IRError for an op without lowering."""
        tf = group_function(body, self.target, name)
        ops = tuple(n.op for n in _computing(body))
        if tf.opaque is not None:
            func, text = read_func(tf.opaque), "by hand"
            func = Func(name, func.params, func.body)
            sizes = tf.symbols()  # the text lists them in this order
        else:
            tf, func, text = self.lower(prepare(tf), name)
            sizes = func.sizes
        work, flops, size = estimate(tf, self.target)
        root = OPS[root_of(body).op]
        if root.flops is not None:
            flops = root.flops(root_of(body))
            own = floordiv(flops, 2 * macs_per_ns(self.target))
            work = own if root.sparse else add(work, own)
        shared = any(isinstance(s, For) and s.kind == "parallel" for s in statements(func.body))
        threads = select(compare("gt", work, SPLIT_FROM), ALL_THREADS, Const(1))
        return Kernel(
            name, func, ops, text, work, flops, size, sizes, threads if shared else Const(1),
            _products(tf, root_of(body)),
        )  # fmt: skip

    def lower(self, tf: TensorFunction, name: str) -> tuple[TensorFunction, Func, str]:
        """The loop nest of a prepared function. Regions get nests of their own, a hot size gets one
        and a branch."""
        regions = find_regions(tf)
        if regions:
            return self.lower_regions(tf, regions, name)
        new, schedule = self.schedule(tf)
        func, text = lower(new, schedule, name, fma=self.fma), print_schedule(schedule)
        hot = hot_size(tf)
        if hot is None:
            return new, func, text
        special, faster = self.schedule(at_size(tf, hot, 1))
        one = lower(special, faster, name, fma=self.fma, like=func)
        branch = If(Binary("eq", hot, Const(1)), one.body, func.body)
        note = f"{text}\nwhen {hot.name} == 1:\n{print_schedule(faster)}"
        return new, Func(name, func.params, (branch,)), note

    def lower_regions(
        self, tf: TensorFunction, regions: Sequence[Region], name: str
    ) -> tuple[TensorFunction, Func, str]:
        """One nest after the other; they write to different places, so none waits for another. The
        function that is counted is that of a region with another algorithm, if there is one."""
        whole, counted = signature(tf, name), tf
        body: list[Stmt] = []
        notes: list[str] = []
        for region in regions:
            new, schedule = self.schedule(region.tf, whole=False)
            nest = lower(new, schedule, name, fma=self.fma, like=whole, origin=region.origin)
            body += nest.body
            notes.append(f"where {region}:\n{print_schedule(schedule)}")
            if schedule.algorithm[0].startswith("winograd"):
                counted = new
        return counted, Func(name, whole.params, tuple(body)), "\n".join(notes)

    def schedule(
        self, tf: TensorFunction, *, whole: bool = True
    ) -> tuple[TensorFunction, Schedule]:
        """The schedule of a prepared function; records of a tuner would be looked up here."""
        return default_schedule(tf, self.target, whole=whole)


def _products(tf: TensorFunction, root: Node) -> int:
    """Of bf16 in matrix registers for each multiplication."""
    if root.op == "attention":
        return len(PAIRS.get(How.of(dict(root.attrs)).parts, ()))
    tiles = find_tiles(tf)
    return 0 if tiles is None else products_of(tiles)


def hot_size(tf: TensorFunction) -> Var | None:
    """A symbol worth a nest of its own at 1: the rows of a matrix product (a batch of one), where a
    tile of many rows leaves the multiply-adds waiting for each other."""
    products = [s for s in tf.stages if s.combine == "add" and len(s.axes) == 2]
    if len(products) != 1 or not isinstance(products[0].value, Binary):
        return None
    extent = products[0].axes[0].extent
    return extent if isinstance(extent, Var) and extent.lo <= 1 else None


def label(body: Graph) -> str:
    """The op that names a kernel: its contraction or reduction, else its last one."""
    nodes = _computing(body)
    for op in ANCHORS:
        if any(n.op == op for n in nodes):
            return op
    return nodes[-1].op if nodes else "copy"


def _computing(body: Graph) -> list[Node]:
    return [n for n in toposort(*body.outputs) if n.op not in ("input", "constant", "get")]


def macs_per_ns(target: Target) -> int:
    """Multiply-adds of f32 in a nanosecond on one core."""
    return target.lanes("f32") * CYCLES_PER_NS * (2 if target.has_multiply_add else 1)


def estimate(tf: TensorFunction, target: Target) -> tuple[Expr, Expr, Expr]:
    """(nanoseconds on one core, roughly; floating-point operations; bytes read and written).

    A cycle takes one vector of operations, or the products and sums of two where the target fuses
    them; each tensor crosses from a cache once.
    """
    ops_per_ns = target.lanes("f32") * CYCLES_PER_NS
    size = add(
        *(mul(prod(t.shape), DTYPES[t.dtype].bytes) for t in (*tf.inputs, *tf.outputs)),
    )
    work, flops = floordiv(size, BYTES_PER_NS), Const(0)
    for s in tf.stages:
        points = prod([a.extent for a in (*s.axes, *s.reduction)])
        forms = _forms(s)
        nodes = [e for form in forms for e in walk(form) if e.dtype != "index"]
        if len(forms) > 1:  # what one reads, others have read
            nodes = [e for e in nodes if isinstance(e, Binary | Unary | Call)]
        cost = sum(8 if isinstance(e, Unary) and e.op in SLOW_OPS else 1 for e in nodes)
        cost = -(-cost // len(forms))
        product = (
            isinstance(s.value, Binary)
            and s.value.op in ("mul", "dot2", "dot4")
            and s.combine == "add"
        )
        if is_packed(s):
            work = add(work, floordiv(points, TILE_MACS_PER_NS))
            flops = add(flops, floordiv(mul(points, 2), products_of(s)))
        elif product:
            work = add(work, floordiv(points, macs_per_ns(target)))
            flops = add(flops, mul(points, 2))
        else:
            work = add(work, floordiv(mul(points, cost), ops_per_ns))
            numbers = [e for e in nodes if isinstance(e, Binary | Unary) and e.dtype != "bool"]
            count = len(numbers) + 2 * sum(isinstance(e, Call) for e in nodes)
            flops = add(flops, mul(points, count // len(forms)))
    return work, flops, size


def _forms(s: Stage) -> list[Expr]:
    """The values of a stage, one for each that an axis chooses (those of Winograd's transforms): of
    these each element has one."""
    axes = {a.var: a.extent for a in s.axes}
    chosen = (e for e in walk(s.value) if isinstance(e, Select) and isinstance(e.cond, Binary))
    found = [e.cond.a for e in chosen if isinstance(e.cond, Binary) and e.cond.op == "eq"]
    for v in dict.fromkeys(found):
        extent = known(axes[v]) if isinstance(v, Var) and v in axes else None
        if isinstance(v, Var) and extent:
            return [substitute(s.value, {v: Const(k)}) for k in range(extent)]
    return [s.value]
