"""Reads a PyTorch model: an nn.Module with example inputs, or an ExportedProgram.

A module is exported (torch.export), in eval mode and without gradients, and taken apart into ATen
operators, but for those that we have whole. What users wrote decides the names: of inputs, the
arguments of forward(); of outputs, keys of dicts and fields of dataclasses; of sizes, the Dims.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

from naru.errors import InputError, UnsupportedError
from naru.frontend.onnx_scope import identifier
from naru.frontend.torch_export import (
    DynamicShapes,
    cannot_export,
    export,
    names_of_dims,
    read_example,
)
from naru.frontend.torch_import import Missing, TorchImporter
from naru.frontend.torch_library import library
from naru.frontend.torch_script import as_traceable
from naru.frontend.torch_sizes import Sizes
from naru.frontend.torch_tables import decompositions
from naru.ir.expr import Expr
from naru.ir.graph import Graph, Node


def is_torch(source: object) -> bool:
    """Is it a module or an exported program? PyTorch is not loaded to tell."""
    names = {f"{t.__module__}.{t.__qualname__}" for t in type(source).__mro__}
    return bool(names & {
        "torch.nn.modules.module.Module", "torch.export.exported_program.ExportedProgram",
    })  # fmt: skip


def read_torch(
    model: Any,
    example: Any = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: DynamicShapes = None,
    name: str | None = None,
) -> Graph:
    """The graph of a module or ExportedProgram.

    example: what forward() takes: a tuple, or the only tensor; kwargs: its keyword arguments. Both
    are only looked at for their shapes and dtypes.
    dynamic_shapes: sizes that may change, as torch.export takes them, or by names alone:
    `{"x": {0: "batch"}}` or `({0: "batch"},)`; arguments left out are fixed.
    Raises ModelError where PyTorch cannot export it, UnsupportedError with all operators that naru
    has not, InputError where the example does not fit.
    """
    torch = library()
    called = name or _name_of(model)
    if isinstance(model, library("torch.export").ExportedProgram):
        if example is not None or kwargs or dynamic_shapes:
            raise InputError("an ExportedProgram has its example inputs and shapes already")
        return _read_program(model, called, names_of_dims(model), None)
    if not isinstance(model, torch.nn.Module):
        found = type(cast(object, model)).__name__
        raise InputError(f"expected an nn.Module or an ExportedProgram, got {found}")
    if isinstance(model, torch.jit.ScriptModule):
        model = as_traceable(model)
    args, named = read_example(model, example, kwargs)
    program, names = export(model, args, named, dynamic_shapes, called)
    return _read_program(program, called, names, list(inspect.signature(model.forward).parameters))


def _name_of(model: Any) -> str:
    return identifier(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(model).__name__).lower(), "model")


# --- the program ----------------------------------------------------------------------------------


def _read_program(
    program: Any, name: str, names: Mapping[Any, str], parameters: Sequence[str] | None
) -> Graph:
    torch = library()
    _refuse_mutation(program, name)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            core = program.run_decompositions(decompositions())
    except Exception as error:
        raise cannot_export(error, name) from error
    _refuse_mutation(core, name)
    importer = TorchImporter(Sizes(names, core.range_constraints))
    values, inputs = _leaves(core, importer, parameters)
    out = importer.run(core.graph_module, values)
    outputs, output_names = _outputs(core, importer, out)
    return importer.graph(identifier(name, "model"), inputs, outputs, output_names)


def _refuse_mutation(program: Any, where: str) -> None:
    """UnsupportedError where running changes buffers or inputs, all of them named."""
    signature = program.graph_signature
    problems = [
        f"buffer {b!r}: running the model changes it; try: pass it in and return the new one"
        for b in signature.buffers_to_mutate.values()
    ]
    problems += [
        f"input {i!r}: running the model changes it; try: x = x + 1 instead of x += 1"
        for i in signature.user_inputs_to_mutate.values()
    ]
    if problems:
        raise UnsupportedError(problems, where=where)


def _leaves(
    program: Any, importer: TorchImporter, parameters: Sequence[str] | None
) -> tuple[dict[Any, Any], list[Node]]:
    """The values of all placeholders, and the inputs among them."""
    places = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
    values: dict[Any, Any] = {}
    inputs: list[Node] = []
    leaves = iter(leaves_of(program, parameters))
    for spec in program.graph_signature.input_specs:
        place = places[spec.arg.name]
        if spec.kind.name == "USER_INPUT":
            path, value = next(leaves)
            if path is None:
                values[place] = value
                continue
            made = importer.input(path, place.meta["val"])
            values[place] = made
            if isinstance(made, Node):
                inputs.append(made)
            continue
        if not place.users:
            continue
        values[place] = importer.constant(_tensor_of(program, spec), str(spec.target))
    return values, inputs


def leaves_of(
    program: Any, parameters: Sequence[str] | None = None
) -> list[tuple[str | None, Any]]:
    """What a program takes, in order: (the name of an input, None), or (None, the number, text or
    None that is in the program)."""
    user = [s.arg for s in program.graph_signature.input_specs if s.kind.name == "USER_INPUT"]
    paths = _input_paths(program.call_spec.in_spec, [a.name for a in user], parameters)
    return [
        (None, a.value) if hasattr(a, "value") else (path, None)
        for path, a in zip(paths, user, strict=True)
    ]


def _tensor_of(program: Any, spec: Any) -> Any:
    target = spec.target
    found = program.state_dict.get(target)
    return program.constants[target] if found is None else found


def _children(spec: Any) -> list[tuple[str, Any]]:
    """(name, subtree) of each part of a nested structure."""
    parts = list(spec.children()) if hasattr(spec, "children") else list(spec.children_specs)
    context = spec.context
    fields = getattr(spec.type, "_fields", None)
    keys: Any = fields if fields else context
    if isinstance(keys, list | tuple) and keys and isinstance(keys[0], list | tuple):
        keys = cast("Any", keys[0])  # of a dataclass: fields, and those left out
    is_named = isinstance(keys, list | tuple) and len(cast("list[Any]", keys)) == len(parts)
    names = [str(k) for k in cast("list[Any]", keys)] if is_named else map(str, range(len(parts)))
    return list(zip(names, parts, strict=True))


def _paths(spec: Any, path: str) -> list[str]:
    """The paths of the leaves of a nested structure: `x.0.mask`."""
    if spec.is_leaf():
        return [path]
    return [
        leaf
        for name, part in _children(spec)
        for leaf in _paths(part, f"{path}.{name}" if path else name)
    ]


def _input_paths(spec: Any, places: Sequence[str], parameters: Sequence[str] | None) -> list[str]:
    """Names of the user's inputs. Those of positional arguments are forward()'s; of a program that
    comes without one, what its placeholders begin with."""
    (_, positional), (_, named) = _children(spec)
    out: list[str] = []
    for k, (_, part) in enumerate(_children(positional)):
        leaves = _paths(part, "")
        first = places[len(out)] if leaves else ""
        if parameters is not None and k < len(parameters):
            name = parameters[k]
        else:
            tail = re.sub(r"\W", "_", leaves[0]) if leaves else ""
            name = first.removesuffix(f"_{tail}") if tail else first
        out += [f"{name}.{leaf}" if leaf else name for leaf in leaves]
    for name, part in _children(named):
        out += _paths(part, name)
    return out


def _outputs(program: Any, importer: TorchImporter, out: Any) -> tuple[list[Node], list[str]]:
    """Outputs and their names: keys of a dict, else `output`, `output.0`, …"""
    spec = program.call_spec.out_spec
    named = not spec.is_leaf() and [n for n, _ in _children(spec)] != [
        str(k) for k in range(len(_children(spec)))
    ]
    paths = _paths(spec, "" if named else "output")
    nodes: list[Node] = []
    names: list[str] = []
    for path, value in zip(paths, out, strict=True):
        if value is None or isinstance(value, Missing):
            continue
        if isinstance(value, Expr):
            value = importer.sizes.number(value)
        if not isinstance(value, Node):
            importer.report(f"output {path!r}", f"the number {value!r}", "return tensors only")
            continue
        nodes.append(value)
        names.append(path)
    if not nodes and not importer.problems:
        importer.report("the outputs", "none of them is a tensor", "return tensors")
    return nodes, names
