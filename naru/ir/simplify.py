"""Integer arithmetic of dims and subscripts: one canonical form, ranges, substitution.

An index expression is kept as a polynomial over atoms (Vars, and operations that are not + − ×),
so equal sizes are the same object, and `(4*i + j) // 4` with 0 ≤ j < 4 is `i`.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar
from weakref import WeakKeyDictionary

from naru.ir.expr import (
    COMPARE,
    Binary,
    Cast,
    Const,
    Expr,
    Lanes,
    Load,
    Read,
    Select,
    Unary,
    Var,
    children,
    free_vars,
    walk,
    with_children,
)

Monomial = tuple[Expr, ...]
Poly = dict[Monomial, int]
Interval = tuple[int, int]
INF = 2**62
LEAVES = (Const, Var, Lanes)
LONG = 160  # characters of an order key; the rest of a longer one is hashed
AGE = re.compile(r"~\d{9}")  # of a Var in an order key
T = TypeVar("T")

ZERO, ONE = Const(0), Const(1)
TRUE, FALSE = Const(True, "bool"), Const(False, "bool")


def index(value: int | Expr) -> Expr:
    """An int as a Const of dtype index; an Expr as it is."""
    return Const(int(value)) if isinstance(value, int) else value


# What is known of a node is remembered: an expression is a DAG, and a formula of nested maxima
# would take exponential time without.
_keys: WeakKeyDictionary[Expr, str] = WeakKeyDictionary()
_intervals: WeakKeyDictionary[Expr, Interval] = WeakKeyDictionary()


def _remembered(e: Expr, memo: WeakKeyDictionary[Expr, T], compute: Callable[[Expr], T]) -> T:
    """compute(e), operands first and without recursion: compute finds them in the memo."""
    found = memo.get(e)
    stack = [e] if found is None else []
    while stack:
        x = stack[-1]
        missing = [c for c in children(x) if not isinstance(c, LEAVES) and c not in memo]
        if missing:
            stack += missing
        else:
            found = memo[stack.pop()] = compute(x)
    assert found is not None
    return found


def order_key(e: Expr) -> str:
    """A text that orders atoms the same way in every process. Vars of one name: by age."""
    if isinstance(e, Var):
        return f"{e.name}~{e.serial:09d}"
    return f"#{e.value}" if isinstance(e, Const) else _remembered(e, _keys, _order_key)


def _order_key(e: Expr) -> str:
    kind = e.op if isinstance(e, Binary) else _kind(e)
    text = f"{kind}({','.join(map(order_key, children(e)))})"
    if len(text) <= LONG:
        return text
    # Serial numbers depend on what the process did before, so the digest must not depend on them:
    # in it Vars are numbered as they come, and behind it stand their ages, which can be compared.
    ages: dict[str, int] = {}
    plain = AGE.sub(lambda m: f"~{ages.setdefault(m[0], len(ages))}", text)
    digest = hashlib.blake2b(plain.encode(), digest_size=16).hexdigest()
    return f"{plain[: LONG // 2]}|{digest}{''.join(ages)}"


def _kind(e: Expr) -> str:
    match e:
        case Unary():
            return e.op
        case Cast():
            return e.dtype
        case Load():
            return e.buffer.name
        case Read():
            return e.tensor.name
        case _:
            return type(e).__name__


def to_poly(e: Expr) -> Poly:
    """e as a sum of integer multiples of products of atoms."""
    out: Poly = {}
    stack = [(e, 1)]
    while stack:
        x, factor = stack.pop()
        if isinstance(x, Const):
            out[()] = out.get((), 0) + factor * int(x.value)
        elif not isinstance(x, Binary) or x.dtype != "index" or x.op not in ("add", "sub", "mul"):
            out[(x,)] = out.get((x,), 0) + factor
        elif x.op != "mul":
            stack += [(x.b, factor if x.op == "add" else -factor), (x.a, factor)]
        elif isinstance(x.b, Const):
            stack.append((x.a, factor * int(x.b.value)))
        else:
            for m, c in _times(to_poly(x.a), to_poly(x.b)).items():
                out[m] = out.get(m, 0) + factor * c
    return {m: c for m, c in out.items() if c}


def _plus(a: Poly, b: Poly, sign: int = 1) -> Poly:
    out = dict(a)
    for m, c in b.items():
        out[m] = out.get(m, 0) + sign * c
    return {m: c for m, c in out.items() if c}


def _times(a: Poly, b: Poly) -> Poly:
    out: Poly = {}
    for ma, ca in a.items():
        for mb, cb in b.items():
            m = tuple(sorted((*ma, *mb), key=order_key))
            out[m] = out.get(m, 0) + ca * cb
    return {m: c for m, c in out.items() if c}


def from_poly(p: Poly) -> Expr:
    """The canonical expression: monomials in `order_key` order, the constant last."""
    terms = sorted(
        ((m, c) for m, c in p.items() if m),
        key=lambda t: ([order_key(a) for a in t[0]], t[1]),
    )
    out: Expr | None = None
    for m, c in [t for t in terms if t[1] > 0] + [t for t in terms if t[1] < 0]:
        product: Expr = m[0]
        for atom in m[1:]:
            product = Binary("mul", product, atom)
        size = abs(c)
        if size != 1:
            product = Binary("mul", product, _constant(size, product))
        if out is None:
            out = product if c > 0 else Binary("mul", product, _constant(-1, product))
        else:
            out = Binary("add" if c > 0 else "sub", out, product)
    rest = p.get((), 0)
    if out is None:
        return Const(rest)
    if rest:
        return Binary("add" if rest > 0 else "sub", out, Const(abs(rest)))
    return out


def _constant(value: int, like: Expr) -> Expr:
    return Const(value, like.dtype)


def add(*xs: int | Expr) -> Expr:
    """The sum, in canonical form."""
    p: Poly = {}
    for x in xs:
        p = _plus(p, to_poly(index(x)))
    return from_poly(p)


def sub(a: int | Expr, b: int | Expr) -> Expr:
    """a − b."""
    return from_poly(_plus(to_poly(index(a)), to_poly(index(b)), -1))


def mul(*xs: int | Expr) -> Expr:
    """The product."""
    p: Poly = {(): 1}
    for x in xs:
        p = _times(p, to_poly(index(x)))
    return from_poly(p)


def prod(xs: Iterable[int | Expr]) -> Expr:
    """The product of a shape; 1 for an empty one."""
    return mul(1, *xs)


def _split(a: Expr, b: Expr) -> tuple[Poly, Poly]:
    """a = b·q + r by exact division of monomials: (q, r)."""
    q: Poly = {}
    r: Poly = {}
    divisor = int(b.value) if isinstance(b, Const) else None
    for m, c in to_poly(a).items():
        if divisor is not None:
            quotient, rest = divmod(c, divisor)
            if quotient and rest and m:  # keep a term whole unless it divides, constants excepted
                quotient, rest = 0, c
            if quotient:
                q[m] = quotient
            if rest:
                r[m] = rest
        elif b in m:
            left = list(m)
            left.remove(b)
            q[tuple(left)] = q.get(tuple(left), 0) + c
        else:
            r[m] = c
    return q, r


def _scaled(r: Poly, divisor: int) -> tuple[int, Poly, Poly] | None:
    """r = g·u + v with 0 ≤ v < g for a g > 1 that divides the divisor: then r // divisor is
    u // (divisor / g), whatever v is. So 4·i + lane, with four lanes, stays in one panel of 16."""
    if divisor < 0:
        return None
    for g in sorted({math.gcd(c, divisor) for m, c in r.items() if m}, reverse=True):
        u: Poly = {m: c // g for m, c in r.items() if not c % g or not m}
        v: Poly = {m: c % g if not m else c for m, c in r.items() if c % g}
        u = {m: c for m, c in u.items() if c}
        if g > 1 and u and within(from_poly(v), Const(g)):
            return g, u, v
    return None


def floordiv(a: int | Expr, b: int | Expr) -> Expr:
    """Rounds towards minus infinity. b > 0 is assumed for symbols."""
    a, b = index(a), index(b)
    if isinstance(b, Const):
        if b.value == 1:
            return a
        if b.value == 0:
            return Binary("floordiv", a, b)  # fails when it runs
        if isinstance(a, Const):
            return Const(int(a.value) // int(b.value))
    q, r = _split(a, b)
    rest = from_poly(r)
    if rest is ZERO or within(rest, b):
        return from_poly(q)
    scaled = _scaled(r, int(b.value)) if isinstance(b, Const) else None
    if scaled is not None and isinstance(b, Const):
        return add(from_poly(q), floordiv(from_poly(scaled[1]), int(b.value) // scaled[0]))
    # A constant remainder is folded into the quotient only when that cannot change the floor.
    return add(from_poly(q), Binary("floordiv", rest, b)) if q else Binary("floordiv", rest, b)


def mod(a: int | Expr, b: int | Expr) -> Expr:
    """a − b·floor(a / b)."""
    a, b = index(a), index(b)
    if isinstance(b, Const):
        if b.value == 1:
            return ZERO
        if b.value == 0:
            return Binary("mod", a, b)  # fails when it runs
        if isinstance(a, Const):
            return Const(int(a.value) % int(b.value))
    r = _split(a, b)[1]
    rest = from_poly(r)
    if rest is ZERO or within(rest, b):
        return rest
    scaled = _scaled(r, int(b.value)) if isinstance(b, Const) else None
    if scaled is not None and isinstance(b, Const):
        g, u, v = scaled
        return add(mul(g, mod(from_poly(u), int(b.value) // g)), from_poly(v))
    return Binary("mod", rest, b)


def within(e: Expr, size: Expr) -> bool:
    """Is 0 ≤ e < size certain?"""
    if isinstance(e, Binary) and e.op == "mod" and e.b is size:  # positive, as in floordiv
        return True
    return bounds(e)[0] >= 0 and bounds(sub(size, e))[0] > 0


def ceildiv(a: int | Expr, b: int | Expr) -> Expr:
    """a / b rounded up."""
    return floordiv(sub(add(a, b), 1), b)


def round_up(a: int | Expr, b: int) -> Expr:
    """The next multiple of b."""
    return mul(ceildiv(a, b), b)


def minimum(a: int | Expr, b: int | Expr) -> Expr:
    """The smaller, decided now where ranges allow."""
    a, b = index(a), index(b)
    if a in _parts("min", b) or bounds(sub(a, b))[0] >= 0:
        return b
    if b in _parts("min", a) or bounds(sub(b, a))[0] >= 0:
        return a
    return Binary("min", *sorted((a, b), key=order_key))


def maximum(a: int | Expr, b: int | Expr) -> Expr:
    """The larger, decided now where ranges allow."""
    a, b = index(a), index(b)
    if a in _parts("max", b) or bounds(sub(b, a))[0] >= 0:
        return b
    if b in _parts("max", a) or bounds(sub(a, b))[0] >= 0:
        return a
    return Binary("max", *sorted((a, b), key=order_key))


def _parts(op: str, e: Expr) -> set[Expr]:
    """The operands of nested minima or maxima: max(max(x, y), y) is max(x, y)."""
    parts: set[Expr] = set()
    stack = [e]
    while stack:
        x = stack.pop()
        if isinstance(x, Binary) and x.op == op and x not in parts:
            stack += [x.a, x.b]
        parts.add(x)
    return parts


def compare(op: str, a: int | Expr, b: int | Expr) -> Expr:
    """A comparison of indices as a bool expression, folded where ranges decide it."""
    a, b = index(a), index(b)
    if a.shape or b.shape:
        return Binary(op, a, b)
    lo, hi = bounds(sub(a, b))
    verdict = {
        "lt": (hi < 0, lo >= 0),
        "le": (hi <= 0, lo > 0),
        "gt": (lo > 0, hi <= 0),
        "ge": (lo >= 0, hi < 0),
        "eq": (lo == hi == 0, lo > 0 or hi < 0),
        "ne": (lo > 0 or hi < 0, lo == hi == 0),
    }[op]
    if verdict[0] or verdict[1]:
        return TRUE if verdict[0] else FALSE
    coarse = _coarse(op, sub(a, b))
    return Binary(op, a, b) if coarse is None else compare(op, coarse, 0)


def _coarse(op: str, difference: Expr) -> Expr | None:
    """What may stand for a difference that is compared with 0, without what cannot matter: for
    32·i + lane - 64 < 0, with lanes below 32, i - 2."""
    if op not in ("lt", "ge"):
        return None
    scaled = _scaled(to_poly(difference), 0)
    return from_poly(scaled[1]) if scaled is not None and any(scaled[2]) else None


def logical_and(a: Expr, b: Expr) -> Expr:
    """a and b, without the constants."""
    if a is FALSE or b is FALSE:
        return FALSE
    return b if a is TRUE else a if b is TRUE else Binary("and", a, b)


def logical_or(a: Expr, b: Expr) -> Expr:
    """a or b, without the constants."""
    if a is TRUE or b is TRUE:
        return TRUE
    return b if a is FALSE else a if b is FALSE else Binary("or", a, b)


def select(cond: Expr, a: Expr, b: Expr) -> Expr:
    """a where cond else b, folded when the condition is known."""
    return a if cond is TRUE or a is b else b if cond is FALSE else Select(cond, a, b)


def bounds(e: Expr) -> Interval:
    """An interval that holds e for every value of its Vars; (-INF, INF) where nothing is known."""
    if isinstance(e, Const):
        return int(e.value), int(e.value)
    return _atom_bounds(e) if isinstance(e, Var) else _remembered(e, _intervals, _bounds)


def _bounds(e: Expr) -> Interval:
    lo, hi = 0, 0
    for m, c in to_poly(e).items():
        a, b = 1, 1
        for atom in m:
            x, y = _atom_bounds(atom)
            corners = (a * x, a * y, b * x, b * y)
            a, b = min(corners), max(corners)
        lo, hi = lo + min(a * c, b * c), hi + max(a * c, b * c)
    return max(lo, -INF), min(hi, INF)


def _atom_bounds(e: Expr) -> Interval:
    match e:
        case Var() if not e.mutable:
            return e.lo, e.hi
        case Lanes():
            return 0, e.n - 1
        case Binary(op="floordiv", b=Const() as d) if int(d.value) > 0:
            lo, hi = bounds(e.a)
            return lo // int(d.value), hi // int(d.value)
        case Binary(op="floordiv") if bounds(e.b)[0] > 0 and bounds(e.a)[0] >= 0:
            return 0, bounds(e.a)[1] // bounds(e.b)[0]
        case Binary(op="mod") if bounds(e.b)[0] >= 0:  # of 0 there is none
            return 0, min(bounds(e.b)[1] - 1, INF)
        case Binary(op="min" | "max" as op):
            (a, b), (c, d) = bounds(e.a), bounds(e.b)
            pick = min if op == "min" else max
            return pick(a, c), pick(b, d)
        case Select():
            (a, b), (c, d) = bounds(e.a), bounds(e.b)
            return min(a, c), max(b, d)
        case Cast(dtype="index") if e.x.dtype == "bool":
            return 0, 1
        case _:
            return -INF, INF


def substitute(e: Expr, values: Mapping[Var, Expr]) -> Expr:
    """e with Vars replaced, index arithmetic brought into canonical form again."""
    return rebuild((e,), values)[0]


def rebuild(roots: Sequence[Expr], values: Mapping[Var, Expr]) -> tuple[Expr, ...]:
    """`substitute` for several roots that share parts."""
    done: dict[Expr, Expr] = {}
    for e in walk(*roots):
        if isinstance(e, Var):
            done[e] = values.get(e, e)
            continue
        old = children(e)
        new = tuple(done[c] for c in old)
        done[e] = e if all(map(lambda a, b: a is b, old, new)) else normal(with_children(e, new))
    return tuple(done[r] for r in roots)


def normal(e: Expr) -> Expr:
    """One node in canonical form, its operands being so already."""
    if isinstance(e, Binary) and e.a.dtype == "index" and not e.shape:
        makers = {"add": add, "sub": sub, "mul": mul, "floordiv": floordiv, "mod": mod}
        if e.op in makers:
            return makers[e.op](e.a, e.b)
        if e.op in ("min", "max"):
            return (minimum if e.op == "min" else maximum)(e.a, e.b)
        return compare(e.op, e.a, e.b) if e.op in COMPARE else e
    if isinstance(e, Select):
        return select(e.cond, e.a, e.b)
    if isinstance(e, Binary) and e.op == "and" and e.dtype == "bool":
        return logical_and(e.a, e.b)
    if isinstance(e, Binary) and e.op == "or" and e.dtype == "bool":
        return logical_or(e.a, e.b)
    return e


def evaluate(e: Expr, values: Mapping[Var, int]) -> int:
    """The value of an index expression; every Var must be given."""
    result = substitute(e, {v: Const(int(x)) for v, x in values.items()})
    if not isinstance(result, Const):
        missing = ", ".join(v.name for v in free_vars(result))
        raise ValueError(f"not a constant: {missing or 'it depends on memory'}")
    return int(result.value)


def known(e: Expr) -> int | None:
    """The int of a constant, else None."""
    return int(e.value) if isinstance(e, Const) else None


def free_of(e: Expr, *variables: Var) -> bool:
    """Does none of the Vars occur in e?"""
    return not any(x in variables for x in walk(e) if isinstance(x, Var))
