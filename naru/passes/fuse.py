"""Fusion: which nodes become one kernel.

A kernel is built around at most one contraction or a chain of row reductions; elementwise work
after it is done while its results are in registers, cheap elementwise work before a row reduction
while it reads. A border of zeros around the result is written along with it. Pure index work
(transpose, slice) moves into its reader's index expressions where lanes stay contiguous. Every
group records why it ended where it did.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from naru.errors import IRError
from naru.ir.graph import Graph, Node, get_output, make_input, make_node, toposort, users
from naru.ir.simplify import known
from naru.ops.operands import sizes as dims_of
from naru.ops.registry import OPS
from naru.ops.tile_product import DEPTH, Window
from naru.passes.fuse_attention import attention_reason
from naru.passes.narrow_weights import is_widened, weights_reason
from naru.passes.registry import graph_pass
from naru.passes.tile_products import tiles_reason
from naru.passes.winograd_tile import algorithm_reason, is_tiled

SHORT_LINE = 8  # pixels
INDEX_OPS = ("transpose", "slice")


@dataclass
class Group:
    """Nodes that share a kernel; `root` is the one whose value leaves it. `anchor`: the kind of the
    node it is built around (contraction, reduction), empty if all are elementwise. `why`: why it
    ended where it did."""

    root: Node
    nodes: set[Node]
    anchor: str = ""
    why: list[str] = field(default_factory=list[str])

    def take(self, other: Group) -> None:
        """The other group's nodes and reasons become this one's."""
        self.nodes |= other.nodes
        self.anchor = self.anchor or other.anchor
        self.why += [w for w in other.why if w not in self.why]


@graph_pass
def fuse(g: Graph, *, limit: int = 48) -> Graph:
    """Replaces computing nodes by `group` nodes whose `body` is a Graph of one output, or of all
    those of a kernel written by hand.

    `limit`: most nodes in a group (long chains are cut: code and compile time grow with it)."""
    fusion = _Fusion(g, limit)
    for n in fusion.order:
        fusion.place(n)
    return fusion.rebuild()


def is_kernel(n: Node) -> bool:
    """Does the node compute (and not only name, view, or steer)?"""
    return n.op not in ("input", "constant", "get") and OPS[n.op].kind not in ("view", "control")


def keeps_lanes(n: Node) -> bool:
    """Does index work leave neighbours along the last axis neighbours?"""
    if n.op == "transpose":
        perm = n.attr("perm")
        if not isinstance(perm, tuple) or not perm:
            raise IRError([f"transpose: expected a permutation, found perm={perm!r}"])
        return perm[-1] == len(perm) - 1
    return n.op == "slice"


def is_frame(n: Node) -> bool:
    """Does the node put a border of numbers around its operand? What computes the operand can then
    write it into its place (see schedule/regions.py)."""
    if n.op != "pad" or n.attr("mode", "constant") != "constant":
        return False
    # What crops needs some of its operand only.
    widths = [known(p) for p in dims_of(dict(n.attrs), "pads")]
    grows = all(p is not None and p >= 0 for p in widths)
    # The batch may be any; where an image lies in its border must be known.
    still = known(n.type.shape[0]) is not None or widths[0] == widths[n.type.rank] == 0
    return grows and still and all(known(d) is not None for d in n.type.shape[1:])


def turns(n: Node) -> bool:
    """Does the node only change the layout?"""
    x = n.inputs[0] if n.op == "identity" else None
    return x is not None and x.type.layout is not n.type.layout


def has_short_lines(n: Node) -> bool:
    """Is it a dense convolution of such a small image that tiles run across its lines?"""
    width = known(n.type.shape[-1])
    dense = n.op == "conv" and n.type.rank == 4 and n.attr("group", 1) == 1
    return dense and width is not None and width < SHORT_LINE


def splits_rows(n: Node, p: Node) -> bool:
    """Is p a transpose, read as the left operand of the product n, but for which all rows would be
    one axis? Tiles then run across them, also where one of the axes is short."""
    right = n.inputs[1]
    rows_alone = right is not None and right.type.rank == 2 and n.type.rank > 2
    return rows_alone and p.op == "transpose" and keeps_lanes(p)


def packs_tiles(n: Node, g: Group) -> bool:
    """May products in tiles write their results as the parts that n packs? Where these are whole
    blocks of columns, of rows in the order in which they are made."""
    x, window = n.inputs[0], Window.of(dict(n.attrs))
    ops = {m.op for m in g.nodes}
    if x is None or x is not g.root or "tile_product" not in ops:
        return False
    if ops & {"concat", "pad", "transpose"}:
        return False
    if any(m.attr("places") for m in g.nodes):  # of windows: rows are not in order
        return False
    shape = [known(d) for d in x.type.shape]
    columns = shape[-1] if window is None else shape[1]
    if None in shape or columns is None or columns % DEPTH:
        return False
    if window is None:
        return all(d == 1 for d in shape[:-2])
    return window.phases == window.strides == (1, 1)


def is_framed(g: Group) -> bool:
    """Does the group write the result of a contraction into a border?"""
    return g.anchor == "contraction" and any(m.op == "pad" for m in g.nodes)


def shared_reason(p: Node) -> str:
    """Why a group ends at a node with several readers."""
    return f"ends at {p.op}: its value is needed by others too"


class _Fusion:
    def __init__(self, g: Graph, limit: int) -> None:
        self.g, self.limit = g, limit
        self.order = toposort(*g.outputs)
        self.position = {n: k for k, n in enumerate(self.order)}
        self.users = users(g)
        self.outputs = set(g.outputs)
        self.group: dict[Node, Group] = {}
        self.lazy: set[Node] = set()  # index work, weights to be widened: without a kernel so far

    # --- which group -----------------------------------------------------------------------------

    def place(self, n: Node) -> None:
        """Decides on n, whose operands are placed already."""
        if not is_kernel(n):
            return
        kind = OPS[n.op].kind
        if is_widened(n):
            self.lazy.add(n)
            return
        if n.op in INDEX_OPS:
            if n.op == "transpose" and keeps_lanes(n) and self.follow(n, n.inputs[0]):
                return
            self.lazy.add(n)
            return
        mine = Group(n, {n}, kind if kind in ("contraction", "reduction") else "")
        reasons = (algorithm_reason(n), attention_reason(n), weights_reason(n), tiles_reason(n))
        mine.why += [reason for reason in reasons if reason]
        if kind == "elementwise":
            self.join_elementwise(n, mine)
        elif kind == "reduction":
            self.join_prologue(n, mine)
        elif is_frame(n) or n.op == "pack_tiles":
            self.join_elementwise(n, mine)
        for m in mine.nodes:
            self.group[m] = mine

    def follow(self, n: Node, p: Node | None) -> bool:
        """Joins n to the group whose root it alone reads."""
        found = self.producer(n, p)
        if found is None or found.anchor != "contraction" or any(map(is_tiled, found.nodes)):
            return False
        if any(m.op == "tile_product" for m in found.nodes):
            return False
        found.nodes.add(n)
        found.root = n
        self.group[n] = found
        return True

    def producer(self, n: Node, p: Node | None) -> Group | None:
        """p's group, if n may be computed with it: nobody else needs p."""
        found = None if p is None else self.group.get(p)
        if p is None or found is None or found.root is not p or OPS[p.op].kind == "opaque":
            return None
        if p in self.outputs or any(u is not n for u in self.users[p]):
            found.why.append(shared_reason(p))
            return None
        return found

    def join_elementwise(self, n: Node, mine: Group) -> None:
        """n takes along the groups of its operands that may end in it."""
        for p in dict.fromkeys(n.inputs):
            found = self.producer(n, p)
            if found is None or p is None:
                continue
            reason = self.refuse(n, p, found, mine)
            if reason:
                found.why.append(f"ends at {p.op}: {reason}")
            else:
                mine.take(found)
        self.join_forks(n, mine)

    def join_forks(self, n: Node, mine: Group) -> None:
        """A value that several nodes need, all of them in this group by now (x · f(x), as GELU has
        it), does not have to leave a kernel either."""
        members = sorted(mine.nodes, key=self.position.__getitem__)
        waiting = [q for m in members for q in m.inputs if q is not None]
        # With an anchor in the group, what is left is read by it: a prologue, done at each read.
        while waiting and not mine.anchor:
            q = waiting.pop()
            found = self.group.get(q)
            if found is None or found.root is not q or q in mine.nodes or q in self.outputs:
                continue
            if OPS[q.op].kind == "opaque" or not mine.nodes.issuperset(self.users[q]):
                continue
            if self.refuse(n, q, found, mine):
                continue
            found.why = [w for w in found.why if w != shared_reason(q)]
            mine.take(found)
            members = sorted(found.nodes, key=self.position.__getitem__)
            waiting += [x for m in members for x in m.inputs if x is not None]

    def refuse(self, n: Node, p: Node, found: Group, mine: Group) -> str:
        """Why n can't take p's group along; empty if it can."""
        if len(found.nodes) + len(mine.nodes) > self.limit:
            return f"the kernel has {self.limit} nodes already"
        if found.anchor and mine.anchor:
            return (
                f"one kernel holds one {mine.anchor}, and {n.op} has another operand with its own"
            )
        if n.op == "pack_tiles" and found.anchor:
            return "" if packs_tiles(n, found) else "its parts are packed by a kernel of their own"
        if n.type.layout is not p.type.layout and n.op != "pack_tiles":
            return "the next step changes the layout"
        if found.anchor and any(u.op in ("gather", "repeat") for u in self.users[p]):
            return "the next step reads it at other places"
        if turns(p) and any(OPS[u.op].kind != "elementwise" for u in self.users[p]):
            return "the layout changes there, and not each element is read once"
        if found.anchor and n.type.shape != p.type.shape:
            if not is_frame(n) or p not in n.inputs:
                return "the next step broadcasts the result"
            return self.refuse_border(n, found)
        for a, b in ((found, mine), (mine, found)):
            if is_framed(a) and any(m.op in ("concat", "pad") for m in b.nodes):
                return "its result is made in several ways already"
        return ""

    def refuse_border(self, n: Node, found: Group) -> str:
        """Why what a group makes can't be written into n's border: each region must need the
        group's contraction at places of its own."""
        if found.anchor != "contraction":
            return "a border would move what it reduces"
        if any(m.op == "phase_conv" or m.attr("places") for m in found.nodes):
            return "a border would shift its phases"
        if any(map(is_tiled, found.nodes)) and n.type.shape[0] is not found.root.type.shape[0]:
            return "its images are made tile by tile, and others would stand beside them"
        if any(has_short_lines(m) for m in found.nodes):
            return "its lines are short, and tiles cross them"
        if any(m.op in ("concat", "pad") for m in found.nodes):
            return "its result is made in several ways already"
        return ""

    def join_prologue(self, n: Node, mine: Group) -> None:
        """Elementwise work on what a row reduction reads is done (again) each time it is read."""
        if n.op.endswith("_pool"):
            return
        p = n.inputs[0]
        found = self.producer(n, p)
        if found is None or p is None:
            return
        if found.anchor:
            found.why.append(f"ends at {p.op}: {n.op} needs a whole row of it")
        elif len(found.nodes) <= 6:
            mine.nodes |= found.nodes

    # --- the new graph ---------------------------------------------------------------------------

    def absorbs(self, n: Node, k: int, p: Node) -> bool:
        """May operand k of n, being lazy index work or narrow weights, be made where n reads it?"""
        kind = OPS[n.op].kind
        if is_widened(p):
            return kind == "contraction" and k == 1
        if n.op == "pack_tiles":
            return keeps_lanes(p)
        if kind == "contraction":
            return n.op == "matmul" and (not splits_rows(n, p) if k == 0 else keeps_lanes(p))
        return kind == "elementwise" and keeps_lanes(p) and n.type.layout is None

    def rebuild(self) -> Graph:
        """The graph over `group` nodes."""
        new: dict[Node, Node] = {}
        notes: dict[Node, str] = {}
        for n in self.order:
            owner = self.group.get(n)
            if owner is None and n not in self.lazy:
                new[n] = self.control(n, [None if x is None else new[x] for x in n.inputs])
                if n in self.g.notes:
                    notes[new[n]] = self.g.notes[n]
                continue
            if owner is None:
                reason = self.needed(n)
                if reason is None:
                    continue
                owner = Group(n, {n}, why=[reason] if reason else [])
            if owner.root is n:
                new[n] = self.make_group(n, owner, new)
                names = [self.g.notes[m] for m in owner.nodes if m in self.g.notes]
                notes[new[n]] = ", ".join(sorted(names))
        return self.g.with_outputs([new[n] for n in self.g.outputs], notes)

    def needed(self, n: Node) -> str | None:
        """Why lazy index work must be done in memory (empty: it is a result); None if all readers
        do it in their index expressions."""
        if n in self.outputs:
            return ""
        for u in self.users[n]:
            if u in self.lazy or u not in self.group:
                return f"ends at {n.op}: {u.op} reads it from memory"
            if any(x is n and not self.absorbs(u, k, n) for k, x in enumerate(u.inputs)):
                gap = "" if keeps_lanes(n) else ", where lanes are neighbours"
                return f"ends at {n.op}: {u.op} reads it from memory{gap}"
        return None

    def control(self, n: Node, inputs: list[Node | None]) -> Node:
        """A node that is no kernel, with its bodies fused too."""
        attrs = tuple(
            (k, fuse(v, limit=self.limit) if isinstance(v, Graph) else v) for k, v in n.attrs
        )
        return Node(n.op, tuple(inputs), attrs, n.types)

    def make_group(self, root: Node, owner: Group, new: dict[Node, Node]) -> Node:
        """The group node: its body over fresh inputs p0, p1, …, applied to what `new` has for them.
        Constants of one element and lazy index work that the reader absorbs go into the body."""
        body: dict[Node, Node] = {}
        outer: list[Node] = []
        params: list[Node] = []

        def operand(user: Node, k: int, x: Node | None) -> Node | None:
            if x is None:
                return None
            if x in owner.nodes and x is not user:
                return body[x]
            if x in self.lazy and x is not root and self.absorbs(user, k, x):
                inner = [operand(x, j, y) for j, y in enumerate(x.inputs)]
                return Node(x.op, tuple(inner), x.attrs, x.types)
            inside = OPS[root.op].kind != "opaque"  # else all operands are the kernel's parameters
            if x.data is not None and x.data.size == 1 and x.type.layout is None and inside:
                return x
            if x not in body:
                body[x] = make_input(f"p{len(params)}", new[x].type)
                params.append(body[x])
                outer.append(new[x])
            return body[x]

        for n in toposort(root):
            if n in owner.nodes:
                inputs = [operand(n, k, x) for k, x in enumerate(n.inputs)]
                body[n] = Node(n.op, tuple(inputs), n.attrs, n.types)
        results = tuple(get_output(body[root], k) for k in range(len(root.types)))
        names = ("out",) if len(results) == 1 else tuple(f"out{k}" for k in range(len(results)))
        graph = Graph("group", tuple(params), results, names)
        why = tuple(dict.fromkeys(owner.why))
        return make_node("group", outer, {"body": _shared(graph), "why": why}, root.types)


_bodies: WeakValueDictionary[tuple[Node, ...], Graph] = WeakValueDictionary()


def _shared(g: Graph) -> Graph:
    """One Graph object for equal bodies, so that a kernel is made once however often it occurs."""
    return _bodies.setdefault((*g.inputs, *g.outputs), g)
