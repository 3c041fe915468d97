"""How far the aims are met that bench/results/README.md states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cases import MODELS

from naru.bench.report import format_seconds


@dataclass(frozen=True)
class Aim:
    """A figure that should be at most (or, `least`, at least) a limit."""

    text: str
    find: Callable[[dict[str, Any]], float]
    limit: float
    least: bool = False
    unit: str = ""

    def met(self, value: float) -> bool:
        return value >= self.limit if self.least else value <= self.limit

    def format(self, value: float) -> str:
        if self.unit == "s":
            return format_seconds(value)
        return f"{value:.0%}" if self.unit == "%" else f"{value:.2f}"


def find_case(record: dict[str, Any], name: str) -> dict[str, Any]:
    """The case of a name. KeyError when it was not measured."""
    for case in record["cases"]:
        if case["name"] == name:
            return case
    raise KeyError(name)


def seconds(record: dict[str, Any], case: str, way: str) -> float:
    """Of a call in the hot regime. KeyError when it was not measured."""
    return find_case(record, case)["seconds"][way]["hot"]["median"]


def load_seconds(record: dict[str, Any], case: str) -> float:
    """Of naru's load."""
    load = find_case(record, case)["load"]["naru"]
    return load["again"] or load["first"]


def _ratio(name: str) -> Callable[[dict[str, Any]], float]:
    return lambda r: find_case(r, name)["ratios"]["onnxruntime.run"]["hot"]["median"]


def _compile(key: str) -> Callable[[dict[str, Any]], float]:
    return lambda r: find_case(r, "resnet50")["compile"][key]


def _named(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The measured cases that are networks of the catalog. KeyError when there are none."""
    found = [c for c in record["cases"] if c["name"] in MODELS and c.get("ratios")]
    if not found:
        raise KeyError("no network was measured")
    return found


def _slowest(record: dict[str, Any]) -> float:
    return max(c["ratios"]["onnxruntime.run"]["hot"]["median"] for c in _named(record))


def _least_scaling(record: dict[str, Any]) -> float:
    """The least gain by a second thread, over networks of more than 5 ms."""
    long = [c for c in _named(record) if c["seconds"]["naru.call"]["hot"]["median"] > 0.005]
    return min(c["ratios"]["naru@2.call"]["hot"]["median"] for c in long)


def _longest_load(record: dict[str, Any]) -> float:
    return max(load_seconds(record, c["name"]) for c in _named(record))


AIMS = (
    Aim(
        "GEMM 1024, share of the roof",
        lambda r: find_case(r, "gemm_1024")["roof_share"]["naru.call"]["median"],
        0.80, least=True, unit="%",
    ),
    Aim("slowest network, time / ONNX Runtime's", _slowest, 1.3),
    Aim("two threads, least gain over one (> 5 ms)", _least_scaling, 1.6, least=True),
    Aim("digits CNN, time / session.run's", _ratio("digits_cnn"), 1.0),
    Aim("digits MLP, time / session.run's", _ratio("digits_mlp"), 1.0),
    Aim("MLP 784-200-10, time / session.run's", _ratio("mlp_784_200_10"), 1.0),
    Aim("empty call", lambda r: seconds(r, "empty", "naru.call"), 0.4e-6, unit="s"),
    Aim("compile ResNet-50", _compile("cold"), 15, unit="s"),
    Aim("compile BERT-base", lambda r: find_case(r, "bert_base")["compile"]["cold"], 10, unit="s"),
    Aim("the same, from the cache", _compile("cached"), 0.5, unit="s"),
    Aim("load ResNet-50", lambda r: load_seconds(r, "resnet50"), 0.015, unit="s"),
    Aim("load any network", _longest_load, 0.015, unit="s"),
    Aim("import naru; naru.load", lambda r: r["imports"]["naru.load"]["median"], 0.150, unit="s"),
)  # fmt: skip


def judge(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Every aim whose figure was measured: {aim, limit, found, met}."""
    judged: list[dict[str, Any]] = []
    for aim in AIMS:
        try:
            value = aim.find(record)
        except KeyError:
            continue
        sign = "≥" if aim.least else "≤"
        judged.append(
            {
                "aim": aim.text,
                "limit": f"{sign} {aim.format(aim.limit)}",
                "found": aim.format(value),
                "met": aim.met(value),
            }
        )
    return judged
