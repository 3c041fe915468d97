"""Exports an nn.Module by torch.export: in eval mode, without gradients, recurrent layers whole.

PyTorch takes a recurrent layer apart step by step while it traces, which fixes the number of steps.
So for that time its functions are replaced by operators that only say what sizes come out.
"""

from __future__ import annotations

import inspect
import io
import re
import sys
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import cache
from typing import Any, TypeAlias, cast

from naru.errors import InputError, ModelError, NaruWarning
from naru.frontend.torch_library import entries, items, library
from naru.ir.expr import INT_MAX

MOST_TRIES = 3
DynamicShapes: TypeAlias = "Mapping[str, Any] | Sequence[Any] | None"


# --- the example ----------------------------------------------------------------------------------


def read_example(
    model: Any, example: Any, kwargs: Mapping[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments in the order of forward()'s, numpy arrays as tensors."""
    torch = library()
    if example is None and not kwargs:
        if inspect.signature(model.forward).parameters:
            raise InputError(
                "a module has no shapes of its own: expected an example of what it takes",
                hint="example=torch.zeros(1, 3, 224, 224), or example=(ids, mask)",
            )
        example = ()
    several = items(example)
    given = tuple(several) if several is not None else () if example is None else (example,)
    if isinstance(example, Mapping) and not kwargs:
        given, kwargs = (), cast("Mapping[str, Any]", example)
    tree = library("torch.utils._pytree")

    def tensor(value: Any) -> Any:
        is_array = type(value).__module__ == "numpy" and hasattr(value, "dtype")
        return torch.as_tensor(value) if is_array else value

    args = tuple(tree.tree_map(tensor, given))
    named = dict(tree.tree_map(tensor, dict(kwargs or {})))
    try:
        inspect.signature(model.forward).bind(*args, **named)
    except TypeError as error:
        raise InputError(f"the example does not fit forward(): {error}") from None
    order = [k for k in inspect.signature(model.forward).parameters if k in named]
    return args, {k: named[k] for k in (*order, *(k for k in named if k not in order))}


# --- export ---------------------------------------------------------------------------------------


def export(
    model: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    dynamic_shapes: DynamicShapes,
    where: str,
) -> tuple[Any, dict[Any, str]]:
    """(an ExportedProgram, its symbols by the names of users). Raises ModelError."""
    bound = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    shapes, spec = _shapes(model, bound, dynamic_shapes)
    if shapes is not None:
        args, kwargs = _with_two(model, args, kwargs, spec)
    with _in_eval(model, where):
        program = _exported(model, args, kwargs, shapes, where)
    dims = _dims(program, spec)
    _tell_limits(program, dims, where)
    return program, {symbol: str(d.__name__) for symbol, d in dims.items()}


def _tell_limits(program: Any, dims: Mapping[Any, Any], where: str) -> None:
    """Warns of sizes that the code bounds from above, and not the user: by a choice by a size, made
    as for the example, or by a table. (From below, every window of a layer bounds them.)"""
    found: list[str] = []
    for symbol, d in dims.items():
        limits = program.range_constraints.get(symbol)
        if limits is None or not limits.upper.is_Integer or limits.upper >= INT_MAX:
            continue
        if limits.upper < getattr(d, "max", limits.upper):
            found.append(f"{d.__name__} in {limits.lower}..{limits.upper}")
    if found:
        warnings.warn(
            f"{where}: the code limits sizes: {', '.join(found)}; the model refuses others. That "
            "is right for a table of positions; an `if` on a size is decided by the example's; "
            "try: an example of the sizes that you need, or that limit in Dim(name, max=…)",
            NaruWarning,
            stacklevel=4,
        )


def _exported(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any, where: str
) -> Any:
    """Exported with the limits of sizes that PyTorch suggests. Where it has none to suggest, with
    its conditions on sizes in the program, to be asked when that runs."""
    last: Exception | None = None
    for deferred in (False, True):
        for _ in range(MOST_TRIES):
            try:
                return _traced(model, args, kwargs, shapes, deferred)
            except Exception as error:
                last = last or error
                refined = _refined(error, shapes)
            if refined is None:
                break
            shapes = refined
        if last is None or "Constraints violated" not in str(last):
            break
    assert last is not None
    raise cannot_export(last, where) from last


def _traced(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any, deferred: bool
) -> Any:
    torch = library()
    with torch.no_grad(), _recurrent_whole(), _no_dumps(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch about itself
        return torch.export.export(
            model,
            args,
            kwargs or None,
            dynamic_shapes=shapes,
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=deferred,
        )


@contextmanager
def _no_dumps() -> Generator[None]:
    """What is written to stderr meanwhile, but for the graph that PyTorch prints where it fails."""
    kept, dump = io.StringIO(), ""
    try:
        with redirect_stderr(kept):
            yield
    except Exception as error:
        dump = str(getattr(error, "partial_fx_graph", ""))
        raise
    finally:
        text = kept.getvalue()
        if sys.stderr:
            sys.stderr.write(text.replace(f"{dump}\n", "") if dump else text)


def _refined(error: Exception, shapes: Any) -> Any:
    """The shapes with the limits that PyTorch suggests (a height of at least 3, an even width);
    None where it suggests none, or to fix a size that may change."""
    said = str(error).split("\nThe error above occurred")[0].rstrip()
    if shapes is None or "Suggested fixes" not in said:
        return None
    fix = library("torch.export.dynamic_shapes").refine_dynamic_shapes_from_suggested_fixes
    tree = library("torch.utils._pytree")
    try:
        found = fix(said, shapes)
    except Exception:  # it reads texts of its own, and not all of them
        return None
    pairs = zip(tree.tree_leaves(shapes), tree.tree_leaves(found), strict=True)
    other = any(type(a) is not type(b) for a, b in pairs)  # a number, or 4 times another size
    return None if other else found


# --- recurrent layers -----------------------------------------------------------------------------

_SETTINGS = (
    "Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, "
    "bool bidirectional, bool batch_first"
)
_WHOLE = {
    "lstm": f"lstm(Tensor input, Tensor[] hx, {_SETTINGS}) -> (Tensor, Tensor, Tensor)",
    **{
        name: f"{name}(Tensor input, Tensor hx, {_SETTINGS}) -> (Tensor, Tensor)"
        for name in ("gru", "rnn_tanh", "rnn_relu")
    },
}


@cache
def _whole_operators() -> tuple[Any, dict[str, Any]]:
    """The operators that stand for recurrent layers; the library lives as long as they."""
    torch = library()
    made = torch.library.Library("naru", "DEF")
    for name, schema in _WHOLE.items():
        made.define(schema)
        torch.library.register_fake(f"naru::{name}", _sizes_of_layer, lib=made)
    return made, {name: getattr(torch.ops.naru, name) for name in _WHOLE}


def _sizes_of_layer(x: Any, hx: Any, params: Any, *settings: Any) -> tuple[Any, ...]:
    """What a recurrent layer gives: all states of the last layer, and the last ones of all."""
    torch, states = library(), items(hx) or [hx]
    bidirectional = settings[-2]
    width = states[0].shape[-1] * (2 if bidirectional else 1)
    return (x.new_empty(*x.shape[:-1], width), *(torch.empty_like(h) for h in states))


@contextmanager
def _recurrent_whole() -> Generator[None]:
    """For a while, calls of recurrent layers are calls of one operator each."""
    _, operators = _whole_operators()
    base = library("torch.overrides").TorchFunctionMode

    class Whole(base):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            whole = operators.get(getattr(func, "__name__", ""))
            # Of a packed sequence argument 3 is a list: PyTorch takes that apart.
            usual = whole is not None and len(args) == 9 and isinstance(args[3], bool)
            if whole is None or not usual or _has_projections(args):
                return func(*args, **(kwargs or {}))
            return whole(*args)

    with Whole():
        yield


def _has_projections(args: Sequence[Any]) -> bool:
    """Has an LSTM a matrix more for each layer?"""
    states = items(args[1])
    return states is not None and bool(states[0].shape[-1] != states[1].shape[-1])


def cannot_export(error: Exception, where: str) -> ModelError:
    """What PyTorch says, cut to what helps."""
    text = str(error).split("\nThe error above occurred")[0].split("\nFor more information")[0]
    text = re.sub(r"\n\s*from user code:.*", "", text, flags=re.DOTALL).strip()
    kind = type(error).__name__
    hint = "torch.export.export(model, args) must work first"
    if "ata-dependent" in text or "DataDependent" in kind:
        hint = "a choice that data decide: torch.where or torch.cond instead of `if`"
    elif "onstraint" in text or "specialized" in text:
        hint = "leave the dim out of dynamic_shapes, or give the sizes that PyTorch suggests"
    return ModelError(f"PyTorch cannot export it: {kind}: {text[:2000]}", where=where, hint=hint)


@contextmanager
def _in_eval(model: Any, where: str) -> Generator[None]:
    """The module in eval mode for a while; every part is as it was afterwards."""
    training = [m for m in model.modules() if getattr(m, "training", False)]
    if training:
        warnings.warn(
            f"{where} is in training mode: it is compiled as after model.eval(), without dropout "
            "and with the statistics that batch norm has kept",
            NaruWarning,
            stacklevel=5,
        )
    for m in training:
        m.training = False
    try:
        yield
    finally:
        for m in training:
            m.training = True


# --- shapes that change ---------------------------------------------------------------------------


def _shapes(model: Any, bound: Mapping[str, Any], given: DynamicShapes) -> tuple[Any, Any]:
    """(what torch.export takes, {argument: its spec}): names as Dims, everything left out fixed."""
    if given is None:
        return None, {}
    torch, tree = library(), library("torch.utils._pytree")
    names = list(bound)
    if not isinstance(given, Mapping):
        given = dict(zip(names, given, strict=False))
    unknown = [n for n in given if n not in bound]
    variadic = [p.name for p in inspect.signature(model.forward).parameters.values()
                if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]  # fmt: skip
    if unknown and not variadic:
        raise InputError(
            f"dynamic_shapes: expected arguments of forward() ({', '.join(names)}), "
            f"found {', '.join(map(str, unknown))}"
        )
    dims: dict[str, Any] = {}

    def dim(value: Any) -> Any:
        if isinstance(value, str):
            if not value.isidentifier():
                raise InputError(f"dynamic_shapes: expected an identifier, found {value!r}")
            return dims.setdefault(value, torch.export.Dim(value, min=0))
        return value

    def spec(value: Any, s: Any) -> Any:
        """The spec of one argument, in the form of the argument."""
        if s is None:
            return tree.tree_map(_fixed, value)
        by_axis, in_order = entries(s), items(s)
        if hasattr(value, "shape"):
            _check_axes(s, value)
            if by_axis is not None:
                return {k: dim(d) for k, d in by_axis.items()}
            return s if in_order is None else tuple(dim(d) for d in in_order)
        named, parts = entries(value), items(value)
        if named is not None and by_axis is not None:
            return {k: spec(v, by_axis.get(k)) for k, v in named.items()}
        if parts is not None and in_order is not None:
            if len(parts) != len(in_order):
                raise InputError(
                    f"dynamic_shapes: expected {len(parts)} specs for an argument of that many "
                    f"parts, found {len(in_order)}"
                )
            made = [spec(v, i) for v, i in zip(parts, in_order, strict=True)]
            return made if isinstance(value, list) else tuple(made)
        return s

    if unknown:
        return given, given
    full = {n: spec(v, given.get(n)) for n, v in bound.items()}
    return full, full


def _fixed(_: object) -> None:
    """The spec of a tensor whose sizes stay as they are."""


def _check_axes(spec: Any, tensor: Any) -> None:
    """InputError where the spec of a tensor is not of its axes."""
    by_axis, in_order, rank = entries(spec), items(spec), len(tensor.shape)
    odd = [k for k in by_axis or {} if not isinstance(k, int) or not 0 <= k < rank]
    if odd:
        raise InputError(
            f"dynamic_shapes: expected axes of a tensor of {rank} dims (0 to {rank - 1}), "
            f"found {', '.join(map(repr, odd))}"
        )
    if in_order is not None and len(in_order) != rank:
        raise InputError(
            f"dynamic_shapes: expected {rank} sizes for a tensor of {rank} dims, "
            f"found {len(in_order)}",
            hint="None for sizes that stay, or by axis: {0: 'batch'}",
        )


def _with_two(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The example with at least two elements along axes that may change: PyTorch takes an axis of
    one for fixed."""
    bound = inspect.signature(model.forward).bind(*args, **kwargs)

    def widened(value: Any, s: Any) -> Any:
        by_axis, in_order = entries(s), items(s)
        if hasattr(value, "shape"):
            pairs = by_axis.items() if by_axis is not None else enumerate(in_order or ())
            for axis, d in pairs:
                if d is not None and not isinstance(d, int) and value.shape[axis] == 1:
                    value = value.repeat_interleave(2, axis)
            return value
        named, parts = entries(value), items(value)
        if named is not None and by_axis is not None:
            return {k: widened(v, by_axis.get(k)) for k, v in named.items()}
        if parts is not None and in_order is not None:
            made = [widened(v, i) for v, i in zip(parts, in_order, strict=False)]
            return made if isinstance(value, list) else tuple(made)
        return value

    for name in bound.arguments:
        if name in spec:
            bound.arguments[name] = widened(bound.arguments[name], spec[name])
    return bound.args, bound.kwargs


def _dims(program: Any, spec: Mapping[str, Any]) -> dict[Any, Any]:
    """PyTorch's symbols -> the Dims that users gave, or that were made of their names."""
    tree = library("torch.utils._pytree")
    fakes = {n.name: n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder"}
    tensors = [fakes[u] for u in program.graph_signature.user_inputs
               if isinstance(u, str) and hasattr(fakes.get(u), "shape")]  # fmt: skip
    wanted = [s for s in tree.tree_leaves(dict(spec), is_leaf=_is_dims) if s is None or _is_dims(s)]
    found: dict[Any, Any] = {}
    if len(wanted) != len(tensors):
        return found
    for fake, dims in zip(tensors, wanted, strict=True):
        by_axis = entries(dims)
        pairs = by_axis.items() if by_axis is not None else enumerate(items(dims) or ())
        for axis, d in pairs:
            size = fake.shape[axis]
            name = getattr(d, "__name__", None)
            if name is None or isinstance(size, int) or not size.node.expr.is_Symbol:
                continue
            found.setdefault(size.node.expr, d)
    return found


def names_of_dims(program: Any) -> dict[Any, str]:
    """PyTorch's symbols -> the names of Dims, of a program that was exported in this process: it
    has them in notes of its tracer, which files do not keep."""
    shapes = (getattr(n.meta.get("val"), "shape", ()) for n in program.graph.nodes)
    size = next((d for shape in shapes for d in shape if hasattr(d, "node")), None)
    env = None if size is None else size.node.shape_env
    symbols = getattr(env, "source_to_var", {})
    told: dict[str, str] = getattr(env, "source_name_to_debug_name", {})
    return {
        symbols[source]: name
        for source, name in told.items()
        if source in symbols and name.isidentifier()
    }


def _is_dims(s: Any) -> bool:
    """Is it the spec of one tensor?"""
    by_axis, in_order = entries(s), items(s)
    if by_axis is not None:
        return all(isinstance(k, int) for k in by_axis)
    return in_order is not None and all(
        d is None or isinstance(d, int) or hasattr(d, "__name__") for d in in_order
    )
