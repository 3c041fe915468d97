"""naru as a backend of torch.compile.

    model = torch.compile(model.eval(), backend="naru")
    with torch.no_grad():
        y = model(x)

PyTorch (dynamo) finds the graphs in Python code, and asks for each of them here. Weights become
constants of the compiled model; where they are changed afterwards, it is compiled again. What naru
cannot compile is run by PyTorch, after one warning that says why: that is what torch.compile
promises. Gradients are not for us.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from naru.compiler import choose_target
from naru.errors import NaruError, NaruWarning, UnsupportedError
from naru.frontend.onnx_node import Unsupported
from naru.frontend.torch_library import entries, items, library, to_numpy
from naru.frontend.torch_program import read_torch
from naru.options import Options
from naru.pipeline import build
from naru.runtime.model import Model
from naru.runtime.session import open_model

Compiled: TypeAlias = Callable[..., Any]
OPTIONS = ("target", "precision")
NO_SIZE = (-1, 0)


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
        return None

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


class _Call:
    """A compiled graph; called with what dynamo's graph takes."""

    def __init__(self, traced: _Traced, example: Sequence[Any]) -> None:
        self.traced = traced
        self._compile(example)

    def _compile(self, example: Sequence[Any]) -> None:
        traced, sizes = self.traced, self.traced.sizes()
        self.weights = {k: x._version for k, x in enumerate(example) if traced.is_weight(k, x)}
        self.numbers = traced.numbers(example)
        apart = {*self.weights, *self.numbers, *sizes}
        self.given = [k for k in range(len(example)) if k not in apart]
        fixed = {k: example[k] for k in (*self.weights, *self.numbers)}
        module = _wrapped(traced.with_numbers(self.numbers), fixed, self.given, sizes)
        args = tuple(_real(example[k]) for k in self.given)
        shapes = {"args": tuple(traced.dynamic(k) for k in self.given)}
        some = any(shapes["args"])
        with library("torch._guards").tracing(None):
            graph = read_torch(
                module, args, dynamic_shapes=shapes if some else None, name="compiled"
            )
        chosen = Options(
            choose_target(traced.options.get("target")), traced.options.get("precision", "fp32")
        )
        self.model: Model = open_model(build(graph, chosen, tested=False))
        self.form = module.form

    def __call__(self, *args: Any) -> Any:
        if any(args[k]._version != v for k, v in self.weights.items()) or any(
            args[k].item() != v for k, v in self.numbers.items()
        ):
            self._compile(args)
        made: Any = self.model(*[_array(args[k]) for k in self.given])
        results = iter([_tensor(y) for y in items(made) or [made]])
        return tuple(next(results) if is_tensor else value for is_tensor, value in self.form)


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


def _array(tensor: Any) -> np.ndarray:
    """The tensor's own memory, where it lies in order."""
    return to_numpy(tensor)


def _tensor(array: Any) -> Any:
    """A tensor of an array's memory, which is the tensor's alone from now on."""
    torch = library()
    made = np.ascontiguousarray(array).reshape(array.shape)
    if not made.flags.writeable:
        made = made.copy()
    if made.dtype.name in FOREIGN:
        bits, dtype = FOREIGN[made.dtype.name]
        return torch.from_numpy(made.view(bits)).view(getattr(torch, dtype))
    return torch.from_numpy(made)


FOREIGN = {
    "bfloat16": ("int16", "bfloat16"),
    **{
        f"float8_{kind}": ("uint8", f"float8_{kind}")
        for kind in ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz")
    },
}
