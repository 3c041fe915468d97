"""The official test of every operator, damaged: read, or refused in words that name the place."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper
from onnx.backend.test.loader import load_model_tests

from naru.errors import NaruError
from naru.frontend.onnx import read_onnx

ROUNDS = 2  # of damage for each test
INTS = (-1, 0, 1, 2, 7, -99, 99, 2**31, 2**63 - 1, -(2**63))
TYPES = (1, 2, 3, 6, 7, 9, 10, 11, 13, 16, 17, 21, 22)
VERSIONS = (1, 5, 7, 9, 10, 11, 12, 13, 15, 17, 18, 19, 21)
NAMES = re.compile(r"node '|input '|output '|initializer '|value '|function |opset")
Damage = Callable[[ModelProto, random.Random], str]


def an_attribute(m: ModelProto, rng: random.Random) -> str:
    a = rng.choice([a for n in m.graph.node for a in n.attribute])
    if a.type == AttributeProto.INT:
        a.i = rng.choice(INTS)
    elif a.type == AttributeProto.FLOAT:
        a.f = rng.choice((0.0, -1.0, 1e38, float("nan"), float("inf")))
    elif a.type == AttributeProto.STRING:
        a.s = rng.choice((b"", b"xx", b"\xff\xfe"))
    elif a.type == AttributeProto.INTS and a.ints and rng.random() < 0.5:
        a.ints[rng.randrange(len(a.ints))] = rng.choice(INTS)
    elif a.type == AttributeProto.INTS:
        a.ints.append(rng.choice(INTS))
    elif a.type == AttributeProto.FLOATS and a.floats:
        del a.floats[-1]
    return f"attribute {a.name} = {helper.get_attribute_value(a)!r:.60}"


def a_rank(m: ModelProto, rng: random.Random) -> str:
    i = rng.choice(m.graph.input)
    dims = i.type.tensor_type.shape.dim
    if rng.random() < 0.5:
        dims.add(dim_value=rng.choice((0, 1, 3)))
    else:
        del dims[-1]
    return f"{i.name} with {len(dims)} dims"


def a_size(m: ModelProto, rng: random.Random) -> str:
    i = rng.choice(m.graph.input)
    dim = rng.choice(i.type.tensor_type.shape.dim)
    dim.dim_value = rng.choice((-1, 0, 1, 2, 5, 2**40, 2**62))
    return f"{i.name} with a dim {dim.dim_value}"


def a_dtype(m: ModelProto, rng: random.Random) -> str:
    i = rng.choice(m.graph.input)
    i.type.tensor_type.elem_type = rng.choice(TYPES)
    return f"{i.name} of type {i.type.tensor_type.elem_type}"


def an_operand(m: ModelProto, rng: random.Random) -> str:
    n = rng.choice(m.graph.node)
    if rng.random() < 0.5:
        del n.input[-1]
        return "one operand fewer"
    k = rng.randrange(len(n.input))
    n.input[k] = ""
    return f"no operand {k}"


def an_opset(m: ModelProto, rng: random.Random) -> str:
    o = rng.choice(m.opset_import)
    o.version = rng.choice(VERSIONS)
    return f"opset {o.version} of {o.domain!r}"


def with_constants(m: ModelProto, arrays: list[Any], rng: random.Random) -> str:
    """Most inputs become weights, half of these damaged."""
    done: list[str] = []
    for i, x in zip(list(m.graph.input), arrays, strict=False):
        if not isinstance(x, np.ndarray) or x.dtype.kind in "OUS" or rng.random() < 0.2:
            continue
        kind = rng.choice(("whole", "value", "rank", "longer", "empty"))
        flat = x.reshape(-1).copy()
        if kind == "value" and flat.size and x.dtype.kind in "iu":
            low, high = np.iinfo(x.dtype).min, np.iinfo(x.dtype).max
            flat[rng.randrange(flat.size)] = rng.choice((0, 1, 100, low, high))
            x = flat.reshape(x.shape)
        elif kind == "rank":
            x = x[None]
        elif kind == "longer":
            x = np.concatenate([flat, flat[:1]])
        elif kind == "empty":
            x = flat[:0]
        m.graph.initializer.append(numpy_helper.from_array(x, i.name))
        m.graph.input.remove(i)
        done.append(f"{i.name} {kind}")
    return "constants: " + ", ".join(done)


DAMAGE: tuple[Damage, ...] = (an_attribute, a_rank, a_size, a_dtype, an_operand, an_opset)


def damaged() -> Iterator[tuple[str, ModelProto]]:
    rng = random.Random(29)
    for test in load_model_tests(kind="node"):
        if test.model is None or not test.data_sets:
            continue
        given: list[Any] = list(test.data_sets[0][0])
        arrays = [numpy_helper.to_array(x) if isinstance(x, TensorProto) else x for x in given]
        for _ in range(ROUNDS):
            model, said = ModelProto(), ""
            model.CopyFrom(test.model)
            if rng.random() < 0.5:
                said = with_constants(model, arrays, rng)
            if not said or rng.random() < 0.6:
                try:
                    said += f" {rng.choice(DAMAGE)(model, rng)}"
                except (IndexError, ValueError):  # this test has nothing of the kind
                    continue
            yield f"{test.name}: {said}", model


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_damaged_nodes_are_refused_by_name() -> None:
    refused, wrong = 0, list[str]()
    for said, model in damaged():
        try:
            read_onnx(model)
        except NaruError as error:
            refused += 1
            if not NAMES.search(str(error)):
                wrong.append(f"{said}: names nothing: {error}")
        except Exception as error:
            wrong.append(f"{said}: {type(error).__name__}: {error}")
    assert not wrong, "\n".join(wrong)
    assert refused > 1000
