"""Small models with inputs for the measurement of operators (tools/measure_operators.py): the
standard's own tests, the zoo, the cases of the test suite for com.microsoft; and each of them with
the one node it has in another version or with another element type."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, defs, helper, numpy_helper

from naru.dtypes import DTYPES, FROM_NUMPY
from naru.frontend.onnx import read_onnx
from naru.ops.evaluate import evaluate

Schema = defs.OpSchema
MOST_SIZE = 4096  # elements of an input that dims are enlarged to, about
NAMES = {"": "ai.onnx"}  # of the domain that the file leaves empty
OF_ONNX = {
    f"tensor({TensorProto.DataType.Name(d.onnx).lower()})": d.name
    for d in DTYPES.values()
    if d.onnx
}
OTHERS = {"tensor(string)": "string"}  # complex numbers are left out: naru has none


@dataclass(frozen=True)
class Case:
    """A model, its inputs, and where somebody else says so the outputs (else the meaning decides).
    `tolerance`: (relative, absolute) of these outputs."""

    name: str
    model: ModelProto
    inputs: tuple[Any, ...]
    wanted: tuple[Any, ...] | None = None
    tolerance: tuple[float, float] = (1e-3, 1e-7)

    @property
    def nodes(self) -> list[NodeProto]:
        return list(self.model.graph.node)

    @property
    def node(self) -> NodeProto | None:
        """The only node, where there is one only."""
        return self.nodes[0] if len(self.nodes) == 1 else None


# --- schemas --------------------------------------------------------------------------------------


def domain_name(domain: str) -> str:
    return NAMES.get(domain, domain)


@cache
def schemas() -> dict[tuple[str, str], dict[int, Schema]]:
    """(domain, operator) -> version -> schema, of the standard and, where it is installed, of ONNX
    Runtime for com.microsoft."""
    found: dict[tuple[str, str], dict[int, Schema]] = {}
    for s in [*defs.get_all_schemas_with_history(), *_microsoft()]:
        found.setdefault((domain_name(s.domain), s.name), {})[s.since_version] = s
    return {k: dict(sorted(v.items())) for k, v in sorted(found.items())}


def _microsoft() -> list[Any]:
    try:
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError:
        return []
    return [s for s in state.get_all_operator_schema() if s.domain == "com.microsoft"]


def version_of(domain: str, op: str, opset: int) -> int | None:
    """The version of an operator that an opset has."""
    known = schemas().get((domain_name(domain), op), {})
    return max((v for v in known if v <= opset), default=None)


def _type_of(formal: Any) -> str:
    return formal.type_str if hasattr(formal, "type_str") else formal.typeStr


def allowed(schema: Schema, variable: str) -> list[str]:
    """The element types of a type variable, in naru's names; sequences and optionals by what they
    hold."""
    listed = {c.type_param_str: list(c.allowed_type_strs) for c in schema.type_constraints}.get(
        variable, [variable]
    )
    inner = [
        "tensor(" + t.rpartition("tensor(")[2].rstrip(")") + ")" for t in listed if "tensor(" in t
    ]
    names = [n for n in map({**OF_ONNX, **OTHERS}.get, inner) if n]
    return list(dict.fromkeys(names))


def principal(schema: Schema, node: NodeProto | None = None) -> tuple[str, int | None]:
    """The type variable that a version is listed by, and the position of an operand that has it
    (None: a result has it): the first operand that may have several types."""
    formals = list(schema.inputs)
    for k, formal in enumerate(formals):
        given = node is None or (k < len(node.input) and node.input[k])
        if given and len(allowed(schema, _type_of(formal))) > 1:
            return _type_of(formal), k
    for formal in schema.outputs:
        if len(allowed(schema, _type_of(formal))) > 1:
            return _type_of(formal), None
    return (_type_of(formals[0]), 0) if formals else (_type_of(schema.outputs[0]), None)


# --- where cases come from ------------------------------------------------------------------------


@cache
def all_cases() -> tuple[Case, ...]:
    """Every case as its source has it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the suite's own making
        return (*_official(), *_of_tests(), *_of_zoo())


def _official() -> Iterator[Case]:
    from onnx.backend.test.loader import load_model_tests
    from onnx.backend.test.runner import _normalize_tensor

    for kind in ("node", "simple"):
        for t in load_model_tests(kind=kind):
            if t.model is None or not t.data_sets or t.name.endswith("_expanded"):
                continue  # (those are compositions of other operators)
            given, wanted = t.data_sets[0]
            name = t.name.removeprefix("test_")
            yield Case(
                f"{kind}/{name}",
                t.model,
                tuple(_normalize_tensor(x) for x in given),
                tuple(_normalize_tensor(x) for x in wanted),
                (t.rtol, t.atol),
            )


def _of_zoo() -> Iterator[Case]:
    from zoo import CASES

    for case in CASES.values():
        if "large" in case.tags:
            continue
        feed = list(case.feeds())[-1]
        yield Case(f"zoo/{case.name}", case.model(), tuple(feed.values()))


def _of_tests() -> Iterator[Case]:
    from zoo import one_node

    from tests.frontend import test_microsoft, test_quantized

    made: dict[str, int] = {}
    rows = [(c.op, c.operands, c.attrs, c.outputs, c.domain) for c in test_microsoft.CASES]
    for op, operands, attrs in test_quantized.CASES:
        rows.append((op, operands, attrs, test_quantized.OUTPUTS.get(op, 1), "com.microsoft"))
    rows += [(op, operands, attrs, 1, "") for op, operands, attrs in test_quantized.STANDARD]
    rows += [(c.op, c.operands, c.attrs, c.outputs, c.domain) for c in one_node.CASES]
    for op, operands, attrs, outputs, domain in rows:
        made[op] = made.get(op, 0) + 1
        model = test_quantized.model_of(op, operands, attrs, domain=domain, outputs=outputs)
        if domain not in ("", "com.microsoft"):
            version = defs.get_schema(op, domain=domain).since_version
            model.opset_import.append(helper.make_opsetid(domain, version))
        names = {i.name for i in model.graph.input}
        given = [a for k, a in enumerate(operands) if a is not None and f"i{k}" in names]
        yield Case(f"tests/{op}-{made[op]}", model, tuple(given))


# --- the same node in another version, with another element type ----------------------------------


def opset_of(model: ModelProto, domain: str) -> int:
    for o in model.opset_import:
        if ("" if o.domain == "ai.onnx" else o.domain) == domain:
            return o.version
    return 1


def with_version(case: Case, version: int) -> Case | None:
    """The case in an older or newer version of its operator: operands that are attributes there
    become attributes, and the other way round. None where that cannot be."""
    node = case.node
    assert node is not None
    domain = node.domain
    known = schemas().get((domain_name(domain), node.op_type), {})
    now, wanted = version_of(domain, node.op_type, opset_of(case.model, domain)), known.get(version)
    if now == version or now is None or wanted is None:
        return case if now == version else None
    model = ModelProto.FromString(case.model.SerializeToString())
    for o in model.opset_import:
        if o.domain in (domain, domain or "ai.onnx"):
            o.version = version
    arrays = dict(zip((i.name for i in model.graph.input), case.inputs, strict=False))
    arrays |= {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    if not _move_operands(model.graph.node[0], known[now], wanted, arrays, model):
        return None
    used = set(model.graph.node[0].input)
    inputs = [(i, a) for i, a in zip(model.graph.input, case.inputs, strict=True) if i.name in used]
    del model.graph.input[:]
    model.graph.input.extend(i for i, _ in inputs)
    _forget_outputs(model)
    return replace(case, model=model, inputs=tuple(a for _, a in inputs), wanted=None)


def _move_operands(
    node: NodeProto, now: Schema, wanted: Schema, arrays: dict[str, Any], model: ModelProto
) -> bool:
    formals, attributes = list(wanted.inputs), dict(wanted.attributes)
    for k in range(len(node.input) - 1, 0, -1):
        if k < len(formals) or (formals and wanted.max_input > len(formals)):
            continue
        name = now.inputs[min(k, len(now.inputs) - 1)].name
        given = node.input[k]
        del node.input[k]
        if given and name in attributes:
            if arrays.get(given) is None:
                return False
            node.attribute.append(_attribute(name, attributes[name], arrays[given]))
    kept = [a for a in node.attribute if a.name in attributes]
    for a in node.attribute:
        place = next((k for k, f in enumerate(formals) if f.name == a.name), None)
        if a.name in attributes or place is None:
            continue
        while len(node.input) <= place:
            node.input.append("")
        node.input[place] = f"{a.name}_operand"
        kind = np.float32 if a.type in (AttributeProto.FLOAT, AttributeProto.FLOATS) else np.int64
        value = np.asarray(helper.get_attribute_value(a), kind)
        model.graph.initializer.append(numpy_helper.from_array(value, f"{a.name}_operand"))
    del node.attribute[:]
    node.attribute.extend(kept)
    del node.output[wanted.max_output :]
    del model.graph.output[len(node.output) :]
    return all(not a.required or a.name in {k.name for k in kept} for a in attributes.values())


def _attribute(name: str, formal: Any, value: Any) -> AttributeProto:
    plain = np.asarray(value).reshape(-1).tolist()
    many = formal.type in (defs.OpSchema.AttrType.INTS, defs.OpSchema.AttrType.FLOATS)
    kind = float if "FLOAT" in str(formal.type) else int
    converted = [kind(v) for v in plain]
    return helper.make_attribute(name, converted if many else converted[0])


def with_dtype(case: Case, dtype: str) -> Case | None:
    """The case with its principal type variable bound to another element type; None where it has
    that type by something that cannot be changed here."""
    if dtype == "string":
        return with_texts(case)
    node = case.node
    assert node is not None
    version = version_of(node.domain, node.op_type, opset_of(case.model, node.domain))
    if version is None or dtype not in DTYPES:
        return None
    schema = schemas()[domain_name(node.domain), node.op_type][version]
    variable, place = principal(schema, node)
    if dtype_of(case) == dtype:
        return case
    model = ModelProto.FromString(case.model.SerializeToString())
    to = DTYPES[dtype]
    if place is None:
        value = next((a for a in model.graph.node[0].attribute if a.name == "value"), None)
        if value is None:
            return None
        array = converted(numpy_helper.to_array(value.t), to.numpy)
        value.t.CopyFrom(numpy_helper.from_array(array))
        _forget_outputs(model)
        return replace(case, model=model, wanted=None)
    names = _of_type(schema, node, variable)
    inputs = list(case.inputs)
    for k, info in enumerate(model.graph.input):
        if info.name in names:
            if not isinstance(inputs[k], np.ndarray):
                return None
            inputs[k] = converted(inputs[k], to.numpy)
            info.type.tensor_type.elem_type = to.onnx
    for t in model.graph.initializer:
        if t.name in names:
            t.CopyFrom(
                numpy_helper.from_array(converted(numpy_helper.to_array(t), to.numpy), t.name)
            )
    _forget_outputs(model)
    return replace(case, model=model, inputs=tuple(inputs), wanted=None)


def _of_type(schema: Schema, node: NodeProto, variable: str) -> set[str]:
    """The operands and results whose element type a variable stands for."""
    sides = ((node.input, list(schema.inputs)), (node.output, list(schema.outputs)))
    return {
        n
        for names, formals in sides
        for k, n in enumerate(names)
        if n and _type_of(formals[min(k, len(formals) - 1)]) == variable
    }


def with_texts(case: Case) -> Case | None:
    """The case with texts in place of numbers, for what moves and compares them only: wanted are
    the texts for what the numpy meaning gives for the numbers. None where there is no such case, or
    attributes name numbers, or it adds (the standard allows texts in Col2Im, and nobody knows what
    for)."""
    numbered = with_dtype(case, "i64")
    if numbered is None or numbered.node is None or numbered.node.domain == "ai.onnx.ml":
        return None
    bodies = any(a.type == AttributeProto.GRAPH for a in numbered.node.attribute)
    if bodies or numbered.node.op_type in ("Col2Im", "TfIdfVectorizer"):
        return None
    node = numbered.node
    version = version_of(node.domain, node.op_type, opset_of(case.model, node.domain))
    schema = schemas()[domain_name(node.domain), node.op_type][version or 1]
    variable, place = principal(schema, node)
    if place is None:
        return None
    names = _of_type(schema, node, variable)
    model = ModelProto.FromString(numbered.model.SerializeToString())
    for t in model.graph.initializer:
        if t.name in names:
            t.CopyFrom(numpy_helper.from_array(np.abs(numpy_helper.to_array(t)), t.name))
    inputs = tuple(
        np.abs(a) if i.name in names else a
        for i, a in zip(model.graph.input, numbered.inputs, strict=True)
    )
    _forget_outputs(model)
    results = evaluate(read_onnx(model), inputs)
    for i in model.graph.input:
        if i.name in names:
            i.type.tensor_type.elem_type = TensorProto.STRING
    for t in model.graph.initializer:
        if t.name in names:
            t.CopyFrom(numpy_helper.from_array(_named(numpy_helper.to_array(t)), t.name))
    given = (
        _named(a) if i.name in names else a for i, a in zip(model.graph.input, inputs, strict=True)
    )
    outputs = [o for o in node.output if o]
    wanted = (_named(r) if n in names else r for n, r in zip(outputs, results, strict=True))
    return replace(case, model=model, inputs=tuple(given), wanted=tuple(wanted))


def _named(numbers: np.ndarray) -> np.ndarray:
    """A text for each number, in the same order; the empty one for 0."""
    out = np.empty(numbers.shape, object)
    out.reshape(-1)[:] = [f"{n:07}" if n else "" for n in numbers.reshape(-1).tolist()]
    return out


def converted(a: np.ndarray, to: np.dtype) -> np.ndarray:
    """About the same numbers in another type: fractions become multiples of a quarter, sizes stay
    in range, and what may be negative and is not to be loses its sign."""
    kind = DTYPES[FROM_NUMPY[to]].kind
    if a.dtype not in FROM_NUMPY:
        return np.zeros(a.shape, to)
    if kind == "b":
        return a.astype(np.float64) > 0
    if kind == "f":
        return a.astype(np.float64).astype(to)
    wide = a.astype(np.float64)
    if DTYPES[FROM_NUMPY[a.dtype]].kind == "f":
        finite = np.where(np.isfinite(wide), wide, 1.0)
        wide = np.rint(finite * 4) if np.any(finite % 1) else finite
    bits = DTYPES[FROM_NUMPY[to]].bits
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if kind == "i" else (0, 2**bits - 1)
    wide = np.abs(wide) if kind == "u" else wide
    return np.clip(wide, max(low, -1000), min(high, 1000)).astype(np.int64).astype(to)


def _forget_outputs(model: ModelProto) -> None:
    """Outputs without types: they follow from the inputs."""
    names = [o for o in model.graph.node[-1].output if o]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in names)
    del model.graph.value_info[:]


def with_constants(case: Case) -> Case | None:
    """The case with the integers among its operands but the first as constants: sizes and axes,
    which a model usually fixes. None where there are none."""
    fixed = [
        k
        for k, a in enumerate(case.inputs)
        if k and isinstance(a, np.ndarray) and a.dtype.kind in "iuf" and a.size <= 64 and a.ndim < 2
    ]
    if not fixed:
        return None
    model = ModelProto.FromString(case.model.SerializeToString())
    for k in fixed:
        name = model.graph.input[k].name
        model.graph.initializer.append(numpy_helper.from_array(case.inputs[k], name))
    kept = [i for k, i in enumerate(model.graph.input) if k not in fixed]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    inputs = tuple(a for k, a in enumerate(case.inputs) if k not in fixed)
    return replace(case, model=model, inputs=inputs)


def enlarged(case: Case) -> ModelProto | None:
    """The model with larger inputs of tensors of rank 2 and more, as a user's are: kernels for five
    elements say little. None where there is nothing to enlarge."""
    most = max((math.prod(a.shape) for a in case.inputs if isinstance(a, np.ndarray)), default=0)
    if not 0 < most < MOST_SIZE:
        return None
    model = ModelProto.FromString(case.model.SerializeToString())
    for info in model.graph.input:
        for d in info.type.tensor_type.shape.dim:
            if d.dim_value > 1:
                d.dim_value *= 16
    for o in model.graph.output:
        o.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    return model


def dtype_of(case: Case) -> str | None:
    """The element type that the case's only node is listed by."""
    node = case.node
    assert node is not None
    version = version_of(node.domain, node.op_type, opset_of(case.model, node.domain))
    if version is None:
        return None
    schema = schemas()[domain_name(node.domain), node.op_type][version]
    return dtype_in(node, schema, element_types(case.model))


def element_types(model: ModelProto) -> dict[str, str]:
    """Value -> element type, of all values of the main graph that types are known of."""
    with suppress(Exception):  # of the inference; what is declared remains
        model = onnx.shape_inference.infer_shapes(model)
    found: dict[str, str] = {}
    for info in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        code = _element(info.type)
        if code in _CODES:
            found[info.name] = _CODES[code]
    for t in model.graph.initializer:
        if t.data_type in _CODES:
            found[t.name] = _CODES[t.data_type]
    return found


_CODES = {
    **{d.onnx: d.name for d in DTYPES.values() if d.onnx},
    TensorProto.STRING: "string",
}


def _element(t: onnx.TypeProto) -> int:
    kind = t.WhichOneof("value")
    if kind == "sequence_type":
        return _element(t.sequence_type.elem_type)
    if kind == "optional_type":
        return _element(t.optional_type.elem_type)
    return t.tensor_type.elem_type if kind == "tensor_type" else 0


def dtype_in(node: NodeProto, schema: Schema, types: dict[str, str]) -> str | None:
    """The element type that a node is listed by."""
    place = principal(schema, node)[1]
    names: Sequence[str] = node.output if place is None else node.input[place:]
    for name in names:
        if name in types:
            return types[name]
    return None
