"""naru as a backend of torch.compile.

    model = torch.compile(model.eval(), backend="naru")
    with torch.no_grad():
        y = model(x)

PyTorch (dynamo) finds the graphs in Python code, and asks for each of them here. Weights become
constants of the compiled model; where they are changed afterwards, it is compiled again. (A write
of a few elements behind PyTorch's back is not seen: docs/pytorch.md.) What naru cannot compile is
run by PyTorch, after one warning that says why: that is what torch.compile promises. Gradients are
not for us.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from naru.compiler import choose_target, one_at_a_time
from naru.errors import NaruError, NaruWarning, UnsupportedError
from naru.frontend.onnx_node import Unsupported
from naru.frontend.torch_library import (
    dtype_name,
    entries,
    items,
    library,
    to_numpy,
    to_tensor,
)
from naru.frontend.torch_program import read_torch
from naru.options import Options
from naru.pipeline import build
from naru.runtime.model import Model
from naru.runtime.session import open_model

Compiled: TypeAlias = Callable[..., Any]
OPTIONS = ("target", "precision")
NO_SIZE = (-1, 0)
MOST_STATES = 4  # compiled models that one graph keeps, of other weights
SAMPLES = 64  # elements of a weight that each call looks at


def naru_backend(
    gm: Any, example_inputs: Sequence[Any], *, options: Mapping[str, Any] | None = None, **_: Any
) -> Compiled:
    """What torch.compile calls with a graph and examples of its inputs. options: `target` and
    `precision`, as naru.compile has them: `torch.compile(m, backend="naru", options={…})`."""
    unknown = [k for k in options or {} if k not in OPTIONS]
    if unknown:
        raise NaruError(f"options: expected {' or '.join(OPTIONS)}, found {', '.join(unknown)}")
    return _Traced(gm, dict(options or {})).compiled(example_inputs)


def register() -> None:
    """Makes `backend="naru"` known where no package metadata does (a source tree)."""
    library("torch._dynamo").register_backend(naru_backend, name="naru")


def _warn(reasons: str) -> None:
    warnings.warn(f"this part of the model is run by PyTorch: {reasons}", NaruWarning, stacklevel=3)


@dataclass
class _Traced:
    """A graph of dynamo, and what its placeholders are."""

    gm: Any
    options: dict[str, Any]

    def compiled(self, example: Sequence[Any]) -> Compiled:
        """The function that computes the graph: by naru, or by PyTorch after a warning."""
        reason = self._not_for_us(example)
        try:
            if reason is None:
                return _Call(self, example)
        except UnsupportedError as error:
            reason = "; ".join(error.problems)
        except (NaruError, Unsupported) as error:
            reason = str(error)
        _warn(reason or "")
        return self.gm.forward

    def _not_for_us(self, example: Sequence[Any]) -> str | None:
        """Why a graph is not even tried."""
        torch = library()
        tensors = [x for x in example if isinstance(x, torch.Tensor)]
        if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
            return "it may need gradients; call it under torch.no_grad() or inference_mode()"
        if any(x.device.type != "cpu" for x in tensors):
            return "its tensors are not on the CPU"
        if self._aliased():
            return "a result shares its memory with another or with an input; try: y.clone()"
        return None

    def _aliased(self) -> bool:
        """Are two results, or a result and an input, views of one memory?"""
        (out,) = [n for n in self.gm.graph.nodes if n.op == "output"]
        results = [m for n in items(out.args[0]) or [] if (m := _memory(n)) is not None]
        inputs = {_memory(n) for n in self.places}
        return len(set(results)) < len(results) or any(m in inputs for m in results)

    @property
    def places(self) -> list[Any]:
        return [n for n in self.gm.graph.nodes if n.op == "placeholder"]

    def is_weight(self, k: int, value: Any) -> bool:
        """Is it a parameter or buffer of a module, which calls give again and again?"""
        torch, fake = library(), library("torch._subclasses.fake_tensor").FakeTensor
        if not isinstance(value, torch.Tensor) or isinstance(value, fake):
            return False
        told = entries(self.places[k].meta.get("tensor_dict")) or {}
        return isinstance(value, torch.nn.Parameter) or "_dynamo_static_input_type" in told

    def numbers(self, example: Sequence[Any]) -> dict[int, float]:
        """Python's floats, which dynamo passes as tensors that only `item` reads."""
        fake = library("torch._subclasses.fake_tensor").FakeTensor
        return {
            k: x.item()
            for k, (n, x) in enumerate(zip(self.places, example, strict=True))
            if n.users and all(u.target == "item" for u in n.users) and not isinstance(x, fake)
        }

    def with_numbers(self, numbers: Mapping[int, float]) -> Any:
        """The graph with these floats in it."""
        torch = library()
        if not numbers:
            return self.gm
        graph = torch.fx.Graph()
        graph.output(graph.graph_copy(self.gm.graph, copied := {}))
        for k, value in numbers.items():
            for item in list(copied[self.places[k]].users):
                _put(torch, item, value)
        return torch.fx.GraphModule(self.gm, graph)

    def sizes(self) -> dict[int, tuple[int, int]]:
        """Which dim of which tensor each placeholder that is a size has; of one that nothing reads
        any. Raises Unsupported."""
        seen = [n.meta.get("example_value", n.meta.get("val")) for n in self.places]
        found: dict[int, tuple[int, int]] = {}
        dims = {
            str(d.node.expr): (k, axis)
            for k, t in enumerate(seen)
            if hasattr(t, "shape")
            for axis, d in enumerate(t.shape)
            if hasattr(d, "node")
        }
        for k, value in enumerate(seen):
            if hasattr(value, "shape"):
                continue
            if not self.places[k].users:
                found[k] = NO_SIZE
                continue
            place = dims.get(str(value.node.expr)) if hasattr(value, "node") else None
            if place is None:
                raise Unsupported(f"{self.places[k].name}: a number that no tensor has as a size")
            found[k] = place
        return found

    def dynamic(self, k: int) -> dict[int, Any]:
        """The axes of a tensor that dynamo has seen with several sizes."""
        seen = self.places[k].meta.get("example_value", self.places[k].meta.get("val"))
        way = library("torch.export").Dim.DYNAMIC
        return {axis: way for axis, d in enumerate(seen.shape) if _is_symbolic(d)}


def _memory(node: Any) -> int | None:
    """What tells the memory of a node's tensor from that of others; None of what is no tensor."""
    torch = library()
    if not isinstance(node, torch.fx.Node):
        return None
    seen = node.meta.get("example_value", node.meta.get("val"))
    if not isinstance(seen, torch.Tensor) or seen.layout != torch.strided:
        return None
    return seen.untyped_storage()._cdata


def _is_symbolic(size: Any) -> bool:
    """Is it a size that may change? (Of such a tensor the others may be SymInts of a number.)"""
    return hasattr(size, "node") and not size.node.expr.is_number


def _put(torch: Any, node: Any, value: float) -> None:
    """A number in the place of a node, wherever that is read."""

    def chosen(n: Any) -> Any:
        return value if n is node else n

    for user in list(node.users):
        user.args = torch.fx.map_arg(user.args, chosen)
        user.kwargs = torch.fx.map_arg(user.kwargs, chosen)
    node.graph.erase_node(node)


@dataclass(frozen=True)
class _Weight:
    """A weight as it was compiled. `version` counts writes (None: made under inference_mode, where
    nothing counts them). What writes through `.data` or numpy is not counted, so a sample of the
    contents is kept too: what it is looked at through, and its bytes."""

    tensor: Any
    place: int
    version: int | None
    sample: np.ndarray
    seen: bytes

    def is_still(self, tensor: Any) -> bool:
        """Is this the tensor, with the same contents as far as can be told cheaply?"""
        return (
            tensor is self.tensor
            and tensor.data_ptr() == self.place
            and _version(tensor) == self.version
            and self.sample.tobytes() == self.seen
        )


def _weight(tensor: Any) -> _Weight:
    """Notes a weight. Raises Unsupported for one that is no dense tensor of numbers."""
    sample = _sample(tensor)
    return _Weight(tensor, tensor.data_ptr(), _version(tensor), sample, sample.tobytes())


def _version(tensor: Any) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _sample(tensor: Any) -> np.ndarray:
    """Some SAMPLES elements, spread evenly along each axis, as integers in the tensor's memory."""
    torch = library()
    dtype_name(tensor.dtype)
    if tensor.layout != torch.strided:
        raise Unsupported("a weight that is no dense tensor", "a dense one: x.to_dense()")
    each = max(1, round(SAMPLES ** (1 / max(1, tensor.dim()))))
    grid = tensor.detach()[tuple(slice(None, None, -(-n // each) or 1) for n in tensor.shape)]
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return np.asarray(grid.resolve_neg().view(bits[tensor.element_size()]).numpy())


@dataclass(frozen=True)
class _State:
    """A compiled model, the weights and numbers that are constants of it by their place among the
    arguments, and the arguments that it takes. `form`: where tensors stand among the results."""

    weights: Mapping[int, _Weight]
    numbers: Mapping[int, float]
    given: Sequence[int]
    model: Model
    form: Sequence[tuple[bool, Any]]

    def fits(self, args: Sequence[Any]) -> bool:
        """Are the weights and numbers still those?"""
        return all(w.is_still(args[k]) for k, w in self.weights.items()) and all(
            repr(args[k].item()) == repr(v) for k, v in self.numbers.items()
        )

    def replaces(self, other: _State) -> bool:
        """Is the other one of the same tensors and numbers, but with contents that are gone?"""
        same = all(w.tensor is other.weights[k].tensor for k, w in self.weights.items())
        return same and repr(self.numbers) == repr(other.numbers)

    def __call__(self, args: Sequence[Any]) -> Any:
        made: Any = self.model(*[to_numpy(args[k]) for k in self.given])
        results = iter([to_tensor(y) for y in items(made) or [made]])
        return tuple(next(results) if is_tensor else value for is_tensor, value in self.form)


class _Call:
    """A compiled graph; called with what dynamo's graph takes. Dynamo calls one graph with the
    weights of several modules of a class, so the last few compiled models are kept, newest first;
    in a tuple that is replaced as a whole, as other threads may be calling too."""

    def __init__(self, traced: _Traced, example: Sequence[Any]) -> None:
        self._traced = traced
        self._states: tuple[_State, ...] = (_state(traced, example),)

    def __call__(self, *args: Any) -> Any:
        return self._fitting(args)(args)

    def _fitting(self, args: Sequence[Any]) -> _State:
        for state in self._states:
            if state.fits(args):
                return state
        with one_at_a_time:
            for state in self._states:  # another thread may have made it
                if state.fits(args):
                    return state
            made = _state(self._traced, args)
            kept = [s for s in self._states if not made.replaces(s)]
            self._states = (made, *kept[: MOST_STATES - 1])
            return made


def _state(traced: _Traced, example: Sequence[Any]) -> _State:
    """Compiles a graph for the weights and numbers among these arguments."""
    sizes = traced.sizes()
    weights = {k: _weight(x) for k, x in enumerate(example) if traced.is_weight(k, x)}
    numbers = traced.numbers(example)
    apart = {*weights, *numbers, *sizes}
    given = [k for k in range(len(example)) if k not in apart]
    fixed = {k: example[k] for k in (*weights, *numbers)}
    module = _wrapped(traced.with_numbers(numbers), fixed, given, sizes)
    args = tuple(_real(example[k]) for k in given)
    shapes = {"args": tuple(traced.dynamic(k) for k in given)}
    some = any(shapes["args"])
    chosen = Options(
        choose_target(traced.options.get("target")), traced.options.get("precision", "fp32")
    )
    with one_at_a_time:
        with library("torch._guards").tracing(None):
            graph = read_torch(
                module, args, dynamic_shapes=shapes if some else None, name="compiled"
            )
        bundle = build(graph, chosen, tested=False)
    return _State(weights, numbers, given, open_model(bundle), module.form)


def _real(x: Any) -> Any:
    """An example tensor with contents: of a fake one, zeros in the sizes that it was seen with."""
    torch, fake = library(), library("torch._subclasses.fake_tensor").FakeTensor
    if not isinstance(x, fake):
        return x.detach()
    shape = [d.node.hint if hasattr(d, "node") else d for d in x.shape]
    return torch.zeros(shape, dtype=x.dtype)


def _wrapped(
    gm: Any, weights: Mapping[int, Any], given: Sequence[int], sizes: Mapping[int, tuple[int, int]]
) -> Any:
    """The graph as a module of its own tensors: weights are buffers, sizes are taken from tensors,
    and only tensors come out. `form` says where they stood among the results."""
    torch = library()
    (out,) = [n for n in gm.graph.nodes if n.op == "output"]
    results = items(out.args[0])
    if results is None:
        raise Unsupported("a result that is no tuple")
    form = [_form_of(torch, r) for r in results]

    module = torch.nn.Module()
    module.inner, module.form = gm, form
    for k, w in weights.items():
        module.register_buffer(f"weight_{k}", w.detach())

    def forward(*args: Any) -> Any:
        values: dict[int, Any] = dict(zip(given, args, strict=True))
        values |= {k: getattr(module, f"weight_{k}") for k in weights}
        values |= {k: values[t].shape[n] if t >= 0 else 1 for k, (t, n) in sizes.items()}
        made = module.inner(*(values[k] for k in range(len(values))))
        return tuple(y for y, (is_tensor, _) in zip(made, form, strict=True) if is_tensor)

    module.forward = forward
    return module.eval()


def _form_of(torch: Any, result: Any) -> tuple[bool, Any]:
    """(is it a tensor, else the value that it always is). Raises Unsupported for sizes."""
    if not isinstance(result, torch.fx.Node):
        return False, result
    value = result.meta.get("example_value", result.meta.get("val"))
    if not isinstance(value, torch.Tensor):
        raise Unsupported(f"{result.name}: a result that is a number")
    return True, None
