"""Index arithmetic: polynomials over atoms, written with shared prefixes, and addresses from them.

An index is a sum of integer multiples of products of atoms (Vars, loads, quotients, …). Terms of
outer loops come first, so that `A[m0 + i, k]` becomes (A + m0·K) + k + i·K elements: the first sum
is made outside the loop over k, the constant at the end is part of the instruction.
"""

from __future__ import annotations

from typing import NamedTuple

from naru.codegen.llvm_build import NOTHING, Code, Monomial, MovingPointer, Poly, State, Value
from naru.codegen.llvm_types import memory_type, scalar_type, vector
from naru.dtypes import DTYPES
from naru.ir.expr import Binary, Const, Expr, Lanes, Shape, Splat, Var
from naru.ir.loop import Buffer
from naru.ir.simplify import bounds

Term = tuple[Monomial, int]


class Offset(NamedTuple):
    """Distance in elements from a buffer's start: the same for all lanes, and per lane."""

    scalar: Poly
    lanes: Poly


def poly(code: Code, e: Expr) -> Poly:
    """An index expression (scalar or tile) as a polynomial; a splat counts as its scalar."""
    done: dict[Expr, Poly] = code.polys
    stack = [e]
    while stack:
        x = stack[-1]
        if x in done:
            stack.pop()
            continue
        parts = _parts(x)
        missing = [p for p in parts if p not in done]
        if missing:
            stack.extend(missing)
            continue
        stack.pop()
        done[x] = _poly_of(code, x, [done[p] for p in parts])
    return done[e]


def _parts(e: Expr) -> tuple[Expr, ...]:
    if is_sum(e) and isinstance(e, Binary):
        return (e.a, e.b)
    return (e.x,) if isinstance(e, Splat) and e.dtype == "index" else ()


def is_sum(e: Expr) -> bool:
    """Is e an index expression that `poly` takes apart?"""
    return isinstance(e, Binary) and e.dtype == "index" and e.op in ("add", "sub", "mul")


def _poly_of(code: Code, e: Expr, parts: list[Poly]) -> Poly:
    if isinstance(e, Const):
        return {(): int(e.value)} if e.value else {}
    if len(parts) == 1:
        return parts[0]
    if not parts or not isinstance(e, Binary):
        return {(e,): 1}
    a, b = parts
    if e.op == "mul":
        return times(code, a, b)
    return plus(a, b, 1 if e.op == "add" else -1)


def plus(a: Poly, b: Poly, sign: int = 1) -> Poly:
    """a + sign·b."""
    out = dict(a)
    for m, c in b.items():
        out[m] = out.get(m, 0) + sign * c
    return {m: c for m, c in out.items() if c}


def times(code: Code, a: Poly, b: Poly) -> Poly:
    """a·b, the factors of each monomial in a fixed order."""
    out: Poly = {}
    for ma, ca in a.items():
        for mb, cb in b.items():
            m = tuple(sorted((*ma, *mb), key=code.serial)) if ma and mb else ma or mb
            out[m] = out.get(m, 0) + ca * cb
    return {m: c for m, c in out.items() if c}


def atoms(p: Poly) -> list[Expr]:
    """The distinct expressions that must be evaluated before p."""
    return list(dict.fromkeys(a for m in p for a in m))


def strides(code: Code, buffer: Buffer) -> list[Poly]:
    """Elements from one step of each dim to the next, row-major."""
    found = code.strides.get(buffer)
    if found is None:
        out: list[Poly] = [{(): 1}]
        for extent in reversed(buffer.shape[1:]):
            out.append(times(code, out[-1], poly(code, extent)))
        found = code.strides[buffer] = out[::-1]
    return found


def offset(code: Code, buffer: Buffer, index: tuple[Expr, ...]) -> Offset:
    """Where an access starts."""
    key = (buffer, *index)
    found = code.offsets.get(key)
    if found is None:
        total: Poly = {}
        for i, stride in zip(index, strides(code, buffer), strict=False):
            total = plus(total, times(code, poly(code, i), stride))
        found = code.offsets[key] = split(total)
    return Offset(*found)


def split(p: Poly) -> Offset:
    """The part that all lanes share, and the rest."""
    lanes = {m: c for m, c in p.items() if any(a.shape for a in m)}
    return Offset({m: c for m, c in p.items() if m not in lanes}, lanes)


def lane_values(lanes: Poly, count: int) -> list[int] | None:
    """The part of an offset that differs from lane to lane, as numbers; None where it depends on
    more than the lane."""
    total = [0] * count
    for m, c in lanes.items():
        values = [c] * count
        for atom in m:
            found = _lane_numbers(atom, count)
            if found is None:
                return None
            values = [a * b for a, b in zip(values, found, strict=True)]
        total = [a + b for a, b in zip(total, values, strict=True)]
    return total


def _lane_numbers(e: Expr, count: int) -> list[int] | None:
    if isinstance(e, Lanes):
        return list(range(count))
    if isinstance(e, Const) and e.dtype == "index":
        return [int(e.value)] * count
    if isinstance(e, Splat):
        return _lane_numbers(e.x, count)
    if not isinstance(e, Binary):
        return None
    a, b = _lane_numbers(e.a, count), _lane_numbers(e.b, count)
    if a is None or b is None:
        return None
    pairs = list(zip(a, b, strict=True))
    match e.op:
        case "floordiv" if 0 not in b:
            return [x // y for x, y in pairs]
        case "mod" if 0 not in b:
            return [x % y for x, y in pairs]
        case "add":
            return [x + y for x, y in pairs]
        case "mul":
            return [x * y for x, y in pairs]
        case _:
            return None


def lane_step(lanes: Poly) -> Poly | None:
    """The distance between neighbouring lanes where it is the same everywhere, else None."""
    out: Poly = {}
    for m, c in lanes.items():
        tiles = [a for a in m if a.shape]
        if len(tiles) != 1 or not isinstance(tiles[0], Lanes):
            return None
        rest = tuple(a for a in m if not a.shape)
        out[rest] = out.get(rest, 0) + c
    return out


# ---- values ----


def ordered(code: Code, p: Poly) -> tuple[list[Term], int]:
    """The terms of p, those of outer regions first, and its constant."""
    terms = [(m, c) for m, c in p.items() if m]
    terms.sort(key=lambda t: (_depth(code, t[0]), [code.serial(a) for a in t[0]]))
    return terms, p.get((), 0)


def _depth(code: Code, m: Monomial) -> int:
    return max((_atom(code, a).depth for a in m), default=0)


def _atom(code: Code, e: Expr) -> Value:
    """The value of an atom, as wide as an index."""
    found = code.known(e)
    if found is None:
        raise KeyError(e)
    if e.dtype == "index":
        return found
    key = ("widened", e)
    wide = code.known(key)
    if wide is None:
        kinds = (vector(k, e.shape) for k in (scalar_type(e.dtype, code.target), code.index))
        bits = DTYPES[e.dtype].bits
        if bits == int(code.index[1:]):
            return found
        how = "trunc" if bits > int(code.index[1:]) else "zext" if e.dtype[0] == "u" else "sext"
        narrow, index = kinds
        name = code.put(f"{how} {narrow} {found.text} to {index}", found.depth)
        wide = code.learn(key, Value((name,), found.depth), _state(code, (e,)))
    return wide


def _state(code: Code, m: Monomial) -> State:
    out = NOTHING
    for a in m:
        state = code.facts(a).state
        out = out | state if out else state
    return out


def _monomial(code: Code, m: Monomial, c: int, kind: str, shape: Shape) -> Value:
    """c · product of m; `kind` is the type of one lane."""
    row = vector(kind, shape)
    done: Value | None = None
    for i in range(len(m)):
        key = ("product", m[: i + 1], shape)
        found = code.known(key)
        if found is None:
            atom = _atom(code, m[i])
            text = atom.text if m[i].shape else code.splat(atom.text, atom.depth, kind, shape)
            if done is None:
                found = Value((text,), atom.depth)
            else:
                depth = max(done.depth, atom.depth)
                name = code.put(f"mul {row} {done.text}, {text}", depth)
                found = code.learn(key, Value((name,), depth), _state(code, m[: i + 1]))
        done = found
    if done is None:
        raise ValueError("an empty monomial is a constant")
    if c == 1:
        return done
    key = ("multiple", m, c, shape)
    found = code.known(key)
    if found is None:
        times_c = f"splat ({kind} {c})" if shape else str(c)
        name = code.put(f"mul {row} {done.text}, {times_c}", done.depth)
        found = code.learn(key, Value((name,), done.depth), _state(code, m))
    return found


def sum_value(code: Code, p: Poly, shape: Shape = ()) -> Value:
    """The value of p. All atoms must be known; tile atoms have `shape` (rank 1)."""
    kind = code.index
    row = vector(kind, shape)
    terms, constant = ordered(code, p)
    done: Value | None = None
    prefix: tuple[Term, ...] = ()
    state = NOTHING
    for m, c in terms:
        prefix, state = (*prefix, (m, c)), state | _state(code, m)
        key = ("sum", prefix, shape)
        found = code.known(key)
        if found is None:
            term = _monomial(code, m, c, kind, shape)
            if done is None:
                found = term
            else:
                depth = max(done.depth, term.depth)
                name = code.put(f"add {row} {done.text}, {term.text}", depth)
                found = code.learn(key, Value((name,), depth), state)
        done = found
    if done is None:
        return Value((f"splat ({kind} {constant})" if shape else str(constant),), 0)
    if not constant:
        return done
    key = ("sum", prefix, constant, shape)
    found = code.known(key)
    if found is None:
        plain = f"splat ({kind} {constant})" if shape else str(constant)
        name = code.put(f"add {row} {done.text}, {plain}", done.depth)
        found = code.learn(key, Value((name,), done.depth), state)
    return found


def pointer(code: Code, buffer: Buffer, base: Value, p: Poly, *, sure: bool) -> Value:
    """The address of element p of a buffer that starts at `base`. `sure`: the element exists, so
    that the parts of a sum without negative terms lie inside the buffer too."""
    kind = memory_type(buffer.dtype)
    terms, constant = ordered(code, p)
    inside = sure and constant >= 0 and all(_is_natural(m, c) for m, c in terms)
    gep = "getelementptr inbounds" if inside else "getelementptr"
    done, key, state = base, (base.text, kind, inside), NOTHING
    for m, c in terms:
        key, state = (*key, m, c), state | _state(code, m)
        found = code.known(key)
        if found is None:
            moving = _moving(code, done, kind, m, c)
            if moving is None:
                term = _monomial(code, m, c, code.index, ())
                depth = max(done.depth, term.depth)
                name = code.put(f"{gep} {kind}, ptr {done.text}, {code.index} {term.text}", depth)
                moving = Value((name,), depth)
            found = code.learn(key, moving, state)
        done = found
    if not constant:
        return done
    key = (*key, constant)
    found = code.known(key)
    if found is None:
        exact = f"{gep} nuw" if inside else gep
        name = code.put(f"{exact} {kind}, ptr {done.text}, {code.index} {constant}", done.depth)
        found = code.learn(key, Value((name,), done.depth), state)
    return found


def _moving(code: Code, start: Value, kind: str, m: Monomial, c: int) -> Value | None:
    """start + c·m where m is the count of an innermost loop, times what is the same in all of its
    iterations: a pointer that moves on by a step each time. None where m is anything else."""
    loop = next((code.loops[v] for v in m if isinstance(v, Var) and v in code.loops), None)
    if loop is None or start.depth >= loop.depth:
        return None
    others = tuple(a for a in m if not (isinstance(a, Var) and code.loops.get(a) is loop))
    if len(others) != len(m) - 1 or _depth(code, others) >= loop.depth:
        return None
    outside = loop.depth - 1
    step = _monomial(code, others, c, code.index, ()).text if others else str(c)
    first = start.text
    if loop.start != "0":
        far = code.put(f"mul {code.index} {loop.start}, {step}", outside)
        first = code.put(f"getelementptr {kind}, ptr {first}, {code.index} {far}", outside)
    pointer = MovingPointer(code.name(), first, kind, step)
    loop.pointers.append(pointer)
    return Value((pointer.here,), loop.depth)


def _is_natural(m: Monomial, c: int) -> bool:
    return c > 0 and all(bounds(a)[0] >= 0 for a in m)
