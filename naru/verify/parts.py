"""Some nodes of an ONNX model as a model of their own, fed with values that are known.

A step is a node that needs the model's inputs. What depends on no input, or on shapes only, belongs
to whatever reads it. A node of control flow is one step, with all of its body.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper
from onnx import numpy_helper as arrays
from onnx.external_data_helper import load_external_data_for_tensor

from naru.dtypes import DTYPES, FROM_NUMPY
from naru.frontend.onnx_check import bodies_of, domain_of, in_order, label_of, reads_of
from naru.inputs import Array
from naru.ir.expr import Var
from naru.ir.graph import TensorType
from naru.ir.simplify import known

_OF_SHAPES = ("Shape", "Size")  # ops whose results depend on no element
_IR_VERSION = 4  # the first in which initializers are no inputs


@dataclass(frozen=True)
class Part:
    """A model of some steps, with the arrays of its inputs and those that its outputs should be.
    `symbolic`: see `Whole.cut`."""

    model: ModelProto
    steps: tuple[int, ...]
    symbolic: bool
    inputs: dict[str, Array]
    wanted: dict[str, Array]


@dataclass
class Whole:
    """A model taken apart. `values`: the array of each name, the graph's inputs included, `types`
    what the compiler knows of them; both are filled in once they are known."""

    model: ModelProto
    folder: Path | None
    values: Mapping[str, Array] = field(default_factory=dict[str, Array])
    types: Mapping[str, TensorType] = field(default_factory=dict[str, TensorType])

    @cached_property
    def weights(self) -> dict[str, TensorProto]:
        """The initializers by name."""
        return {t.name: t for t in self.model.graph.initializer}

    @cached_property
    def inputs(self) -> dict[str, ValueInfoProto]:
        """The inputs by name. (Old files list the initializers among them.)"""
        return {i.name: i for i in self.model.graph.input if i.name not in self.weights}

    @cached_property
    def nodes(self) -> list[NodeProto]:
        """The nodes of the graph, definitions before uses."""
        return list(in_order(self.model.graph.node, {*self.inputs, *self.weights}, ""))

    @cached_property
    def reads(self) -> list[list[str]]:
        """The names that each node reads, its bodies included."""
        return [reads_of(n) for n in self.nodes]

    @cached_property
    def maker(self) -> dict[str, int]:
        """Which node makes a value."""
        return {o: k for k, n in enumerate(self.nodes) for o in n.output if o}

    @cached_property
    def moving(self) -> set[str]:
        """Values whose elements depend on elements of the inputs."""
        return self._reached(set(self.inputs), _OF_SHAPES)

    @cached_property
    def varying(self) -> set[str]:
        """Values that depend on the inputs, if only on their shapes."""
        return self._reached(set(self.inputs), ())

    def _reached(self, start: set[str], stops: Collection[str]) -> set[str]:
        found = start
        for node, reads in zip(self.nodes, self.reads, strict=True):
            if node.op_type not in stops and not found.isdisjoint(reads):
                found.update(o for o in node.output if o)
        return found

    def label(self, k: int) -> str:
        """How messages name a node."""
        return label_of(self.nodes[k])

    def steps_to(self, names: Iterable[str]) -> list[int]:
        """The steps that these values need, in order."""
        found: set[int] = set()
        stack = list(names)
        while stack:
            k = self.maker.get(stack.pop())
            if k is not None and k not in found:
                found.add(k)
                stack += self.reads[k]
        return sorted(k for k in found if self.varying.intersection(self.nodes[k].output))

    def parents(self, k: int) -> set[int]:
        """The steps whose results a step reads."""
        return {m for r in self.reads[k] if r in self.varying and (m := self.maker.get(r, -1)) >= 0}

    def exposing(self, steps: Collection[int]) -> ModelProto:
        """The model with every value that something reads as an output."""
        read = {r for reads in self.reads for r in reads} | {
            o.name for o in self.model.graph.output
        }
        names = [o for k in sorted(steps) for o in self.nodes[k].output if o in read]
        return self._assemble(range(len(self.nodes)), list(self.inputs.values()), names, {})

    # --- cutting ------------------------------------------------------------------------------

    def cut(
        self,
        steps: Iterable[int],
        among: Collection[int],
        *,
        symbolic: bool,
        only: Collection[str] = (),
    ) -> Part:
        """A part of some steps; its outputs are what the others of `among` (or the user) read, or
        `only` some values.

        What it reads from outside is an input with a known array: of constant shape, shapes that
        were computed being constants; or `symbolic`, of the shape that the compiler knows, the
        computation of shapes being part of the part.
        """
        chosen = set(steps)
        apart = self.varying - self.moving if symbolic else set[str]()
        nodes = self._closed(chosen, apart)
        made = {o for k in nodes for o in self.nodes[k].output}
        outside = {r for k in nodes for r in self.reads[k]} - made - set(self.weights)
        fixed = set[str]() if symbolic else outside - self.moving
        given = sorted(outside - fixed)
        read = only or self._read_elsewhere(chosen, among)
        outputs = [o for o in read if o in self.values]
        model = self._assemble(
            nodes,
            [self._declared(name, symbolic) for name in given],
            outputs,
            {name: self.values[name] for name in sorted(fixed)},
        )
        return Part(
            model,
            tuple(sorted(chosen)),
            symbolic,
            {name: self.values[name] for name in given},
            {name: self.values[name] for name in outputs},
        )

    def _closed(self, steps: set[int], apart: Collection[str]) -> set[int]:
        """The steps, and the nodes that make the constants (and values of `apart`) they read."""
        nodes = set(steps)
        stack = list(steps)
        while stack:
            for r in self.reads[stack.pop()]:
                k = self.maker.get(r)
                if k is not None and k not in nodes and (r not in self.varying or r in apart):
                    nodes.add(k)
                    stack.append(k)
        return nodes

    def _read_elsewhere(self, steps: set[int], among: Collection[int]) -> list[str]:
        read = {r for k in among if k not in steps for r in self.reads[k]}
        read.update(o.name for o in self.model.graph.output)
        return [o for k in sorted(steps) for o in self.nodes[k].output if o in read]

    def _declared(self, name: str, symbolic: bool) -> ValueInfoProto:
        """A value as an input: constant sizes, or the compiler's symbols where it has them."""
        array = self.values[name]
        dims: list[int | str] = [int(d) for d in array.shape]
        if symbolic and name in self.types:
            t = self.types[name]
            for axis, d in enumerate(t.shape):
                if known(d) is None:  # a formula has no name, and gets a symbol of its own
                    dims[axis] = d.name if isinstance(d, Var) else f"{name}_{axis}"
        return helper.make_tensor_value_info(name, onnx_dtype(array), dims)

    def _assemble(
        self,
        nodes: Iterable[int],
        inputs: list[ValueInfoProto],
        outputs: list[str],
        fixed: Mapping[str, Array],
    ) -> ModelProto:
        m = ModelProto(ir_version=max(self.model.ir_version, _IR_VERSION))
        m.opset_import.extend(self.model.opset_import)
        m.graph.name = self.model.graph.name or "part"
        m.graph.node.extend(self.nodes[k] for k in sorted(nodes))
        m.functions.extend(self._functions(m.graph.node))
        read = {r for n in m.graph.node for r in reads_of(n)}
        m.graph.initializer.extend(t for name, t in self.weights.items() if name in read)
        m.graph.initializer.extend(arrays.from_array(a, name) for name, a in fixed.items())
        m.graph.input.extend(inputs)
        m.graph.output.extend(ValueInfoProto(name=o) for o in outputs)
        return m

    def _functions(self, nodes: Iterable[NodeProto]) -> list[FunctionProto]:
        """The model's functions that nodes call, and those that these call."""
        by_key = {(f.domain, f.name, f.overload): f for f in self.model.functions}
        found: list[FunctionProto] = []
        stack = list(nodes) if by_key else []
        while stack:
            n = stack.pop()
            stack += [inner for body in bodies_of(n) for inner in body.node]
            f = by_key.pop((domain_of(n), n.op_type, n.overload), None)
            if f is not None:
                found.append(f)
                stack += f.node
        return found

    def complete(self, part: Part) -> ModelProto:
        """A part's model that stands alone: weights read in, outputs with their types."""
        m = ModelProto()
        m.CopyFrom(part.model)
        for t in m.graph.initializer:
            if t.data_location == TensorProto.EXTERNAL and self.folder is not None:
                load_external_data_for_tensor(t, str(self.folder))
                t.data_location = TensorProto.DEFAULT
                del t.external_data[:]
        for o in m.graph.output:
            array = part.wanted[o.name]
            shape: list[int | str] = [f"{o.name}_{k}" for k in range(array.ndim)]
            o.CopyFrom(helper.make_tensor_value_info(o.name, onnx_dtype(array), shape))
        return m


def onnx_dtype(array: Array) -> int:
    """The ONNX number of an array's dtype."""
    return DTYPES[FROM_NUMPY[array.dtype]].onnx
