"""What an explanation says of real bundles: nodes, work, predictions, times, roofs."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
from zoo import CASES

from naru.artifact.bundle import Bundle
from naru.artifact.formulas import formula
from naru.compiler import compile_bundle
from naru.demo import FOLDER
from naru.explain import text
from naru.explain.report import Explanation, explain, kind_of
from naru.inputs import inputs_of, random_inputs
from naru.roofs import Level, Roofs
from naru.targets import TARGETS
from tests.codegen.native import without_tiles

ROOFS = Roofs(
    "avx2", 100.0, (Level("l1", 1000, 200.0), Level("l2", 9000, 100.0), Level("memory", None, 10.0))
)


@cache
def digits(target: str | None = None) -> Bundle:
    return compile_bundle(FOLDER / "digits_cnn.onnx", target=target or without_tiles(), cache=False)


@cache
def explained(target: str | None = None) -> tuple[Bundle, Explanation]:
    bundle = digits(target)
    return bundle, explain(bundle)


def of_case(name: str) -> tuple[Bundle, Explanation]:
    model = CASES[name].model().SerializeToString()
    bundle = compile_bundle(model, target=without_tiles(), cache=False)
    feed = next(iter(CASES[name].feeds()))
    return bundle, explain(bundle, dict(feed))


# ---- kernels ----


def test_kernels_know_their_nodes_and_operators() -> None:
    _, found = explained()
    by_name = {r.name: r for r in found.rows}
    assert by_name["k5_conv"].nodes == (("conv3", "Conv"), ("relu3", "Relu"))
    assert by_name["k7_matmul"].nodes == (("output", "Gemm"),)
    assert any("reduce_mean needs a whole row of it" in w for w in by_name["k5_conv"].why)


def test_predictions_are_formulas_of_the_manifest() -> None:
    """At the sizes of the run, for all calls; the same for whoever explains the bundle."""
    bundle, found = explained()
    assert found.sizes == {"batch": 2}
    for record, row in zip(bundle.manifest["kernels"], found.rows, strict=True):
        assert row.predicted == formula(record["estimate"], {"batch": 2}) * record["calls"]
    assert found.predicted == sum(r.predicted or 0 for r in found.rows)


def test_wider_vectors_are_predicted_to_be_faster() -> None:
    def predicted(target: str) -> int:
        return explain(digits(target)).predicted

    assert predicted("avx512") < predicted("avx2") < predicted("baseline")


def test_measured_kernels_stand_under_a_roof() -> None:
    _, found = explained()
    assert found.roofs is not None
    assert found.ns == pytest.approx(sum(r.measured.ns for r in found.rows if r.measured))
    for r in found.rows:
        assert r.measured is not None
        assert r.bound is not None
        assert r.measured.flops is not None
        assert r.measured.bytes is not None
        assert r.share == pytest.approx(r.bound.ns / r.measured.ns)
        assert r.bound.ns >= r.measured.flops / found.roofs.gflops * 0.999


def test_moving_data_is_no_arithmetic() -> None:
    _, found = explained()
    pad = next(r for r in found.rows if r.name == "k0_pad")
    assert pad.measured is not None
    assert pad.measured.flops == 0
    assert pad.bound is not None
    assert pad.bound.by != "compute"


@pytest.mark.parametrize(
    ("ops", "kind"),
    [
        (("transpose", "conv", "add"), "convolution"),
        (("softmax", "matmul"), "matrix product"),
        (("mul", "reduce_sum"), "reduction"),
        (("transpose", "add"), "elementwise"),
        (("pad",), "movement"),
        (("nonzero_count",), "by hand"),
        (("unheard_of",), "other"),
    ],
)
def test_kinds(ops: tuple[str, ...], kind: str) -> None:
    assert kind_of(ops) == kind


# ---- other targets, sizes, control flow ----


def test_foreign_bundle_is_explained_without_times() -> None:
    foreign = next(n for n in TARGETS if n.startswith("aarch64"))
    bundle, found = explained(foreign)
    assert found.untimed is not None
    assert "aarch64" in found.untimed
    assert found.steps == ()
    assert found.roofs is None
    assert found.predicted > 0
    assert all(r.measured is None and r.share is None for r in found.rows)
    lines = [*text.summary(found), *text.table(found.rows, found)]
    assert any("no times: the bundle is for aarch64" in line for line in lines)
    assert json.loads(json.dumps(found.as_json(bundle)))["untimed"] == found.untimed


def test_symbolic_sizes_follow_the_inputs() -> None:
    bundle = digits()
    few, many = (
        explain(bundle, random_inputs(inputs_of(bundle), bundle.symbols, {"batch": n}))
        for n in (1, 32)
    )
    assert (few.sizes, many.sizes) == ({"batch": 1}, {"batch": 32})
    conv = [next(r for r in f.rows if r.name == "k2_conv") for f in (few, many)]
    assert conv[0].measured is not None
    assert conv[1].measured is not None
    assert conv[1].measured.flops == 32 * (conv[0].measured.flops or 0)
    assert (conv[1].predicted or 0) > 10 * (conv[0].predicted or 0)


@pytest.mark.parametrize(("case", "op"), [("if_model_true", "if"), ("loop_model_5", "loop")])
def test_control_flow_has_rows_of_its_own(case: str, op: str) -> None:
    """The steps of a body have nodes, but only the whole has a time."""
    bundle, found = of_case(case)
    (row,) = [r for r in found.rows if r.kind == "control"]
    assert row.name == op
    assert row.measured is not None
    inside = [r for r in found.rows if r.name in row.record["ops"]]
    assert inside
    assert all(r.measured is None or r.measured.calls for r in inside)
    assert any(r.nodes for r in inside)
    report = found.as_json(bundle)
    assert [c["name"] for c in report["control"]] == [op]
    assert op in "\n".join(text.table(found.rows, found))


# ---- roofs ----


def test_bound_is_the_higher_of_both_times() -> None:
    assert ROOFS.bound(1000, 100) is not None
    compute, near, far = ROOFS.bound(10_000, 100), ROOFS.bound(100, 900), ROOFS.bound(100, 90_000)
    assert compute is not None
    assert (compute.ns, compute.by) == (100.0, "compute")
    assert near is not None
    assert (near.ns, near.by) == (4.5, "l1")
    assert far is not None
    assert (far.ns, far.by) == (9000.0, "memory")
    assert ROOFS.bound(0, 0) is None


def test_each_call_finds_its_bytes_where_they_fit() -> None:
    """Ten calls on 900 bytes each stay in L1; one call on 9000 does not."""
    many, one = ROOFS.bound(0, 9000, 10), ROOFS.bound(0, 9000, 1)
    assert many is not None
    assert one is not None
    assert (many.by, many.ns) == ("l1", 45.0)
    assert (one.by, one.ns) == ("l2", 90.0)


# ---- text and JSON ----


def test_text_fits_a_hundred_columns() -> None:
    bundle, found = explained()
    lines = [*text.heading(bundle, found), *text.summary(found), *text.table(found.rows, found)]
    lines += [line for r in found.rows for line in text.details(r)]
    assert max(map(len, lines)) <= 100
    assert any(line.startswith("  convolution        3 steps") for line in lines)


@pytest.mark.parametrize("order", text.ORDERS)
def test_orders(order: str) -> None:
    _, found = explained()
    rows = sorted(found.rows, key=text.ORDERS[order])
    if order == "time":
        assert [r.ns for r in rows] == sorted((r.ns for r in rows), reverse=True)
    elif order == "order":
        assert rows == list(found.rows)
    elif order == "share":
        assert rows[0].share == min(r.share or 0 for r in rows)
    assert {r.name for r in rows} == {r.name for r in found.rows}


NUMBER, MAYBE = (int, float), (int, float, type(None))
SCHEMA: dict[str, Any] = {
    "naru": str,
    "target": dict,
    "source": dict,
    "sections": dict,
    "steps": [{"name": str, "ns": NUMBER}],
    "sizes": dict,
    "threads": int,
    "untimed": (str, type(None)),
    "control": list,
    "roofs": {
        "isa": str,
        "gflops": NUMBER,
        "levels": [{"name": str, "capacity": (int, type(None)), "rate": NUMBER}],
    },
    "kernels": [
        {
            "name": str,
            "kind": str,
            "ops": list,
            "nodes": [{"name": str, "operator": str}],
            "why": list,
            "shape": str,
            "calls": int,
            "algorithm": str,
            "schedule": str,
            "flops": str,
            "bytes": str,
            "estimate": str,
            "offset": int,
            "size": int,
            "predicted_ns": MAYBE,
            "measured": {
                "calls": int,
                "ns": NUMBER,
                "flops": MAYBE,
                "bytes": MAYBE,
                "gflops": MAYBE,
                "gigabytes_per_second": MAYBE,
            },
            "roof": {"ns": NUMBER, "by": str, "share": NUMBER},
        }
    ],
}


def conforms(value: Any, schema: Any, where: str = "$") -> None:
    if isinstance(schema, dict):
        assert isinstance(value, dict), where
        assert schema.keys() <= value.keys(), (where, schema.keys() - value.keys())
        for key, inner in schema.items():
            conforms(value[key], inner, f"{where}.{key}")
    elif isinstance(schema, list):
        assert isinstance(value, list), where
        for k, item in enumerate(value):
            conforms(item, schema[0], f"{where}[{k}]")
    else:
        assert isinstance(value, schema), (where, value)


def test_json_has_the_documented_schema() -> None:
    bundle, found = explained()
    report = json.loads(json.dumps(found.as_json(bundle)))
    conforms(report, SCHEMA)
    assert len(report["kernels"]) == len(bundle.manifest["kernels"])
    assert sum(s["ns"] for s in report["steps"]) == pytest.approx(found.ns)


def test_unknown_sizes_leave_work_unknown() -> None:
    """A kernel whose size another one finds out has a time but no rates."""
    _, found = of_case("nonzero_model")
    unknown = [r for r in found.rows if r.measured and r.measured.flops is None]
    assert unknown
    assert all(r.bound is None and r.share is None and r.predicted is None for r in unknown)
    assert np.isfinite(found.ns)
