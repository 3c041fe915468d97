"""Files and requests made to hurt: whatever they hold, the answer is a NaruError (over a network, a
refusal) or a result, and soon.

A worker process that crashes, hangs or runs out of memory is a failure like an exception. Files
that once made one lie in `corpus/`, named after what was wrong, and are read again here.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from naru.frontend.onnx_tables import operators

from .driver import fuzz, report
from .operators import NAMES, check_case
from .targets import check_bundle, check_compiled, check_model

# Numbers of cases. What a number stands for changes with the zoo, hence the corpus.
QUICK = {"onnx_bytes": 1000, "onnx": 3000, "bundle_bytes": 1000, "bundle": 3000,
         "lightgbm": 600, "xgboost": 600, "xgboost_ubjson": 600}  # fmt: skip
# Conversations with a server, streams of bytes, and calls of gRPC.
SERVING = {"serve_http": 2500, "serve_bytes": 2000, "serve_grpc": 2000}
CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())


def check(target: str, start: int, end: int) -> None:
    found = fuzz(target, start, end)
    assert not found.failures, report(target, found)
    assert sum(found.outcomes.values()) == end - start
    # All refused at the door, or nothing ever refused: then the mutations are of no use.
    assert len(found.outcomes) > 1, found.outcomes


@pytest.mark.parametrize("target", QUICK)
def test_damaged_files_are_read_or_refused(target: str) -> None:
    check(target, 0, QUICK[target])


@pytest.mark.slow
@pytest.mark.parametrize("target", QUICK)
def test_many_more_damaged_files(target: str) -> None:
    check(target, QUICK[target], 12 * QUICK[target])


@pytest.mark.slow
@pytest.mark.parametrize("target", SERVING)
def test_requests_that_are_not_as_they_should_be(target: str) -> None:
    check(target, 0, SERVING[target])


OPERATOR_CASES = 5  # of each operator
GRAPHS = 60


@pytest.mark.slow
def test_operators_at_random() -> None:
    check("operators", 0, OPERATOR_CASES * len(NAMES))


@pytest.mark.slow
def test_graphs_at_random() -> None:
    found = fuzz("graphs", 0, GRAPHS)
    assert not found.failures, report("graphs", found)
    assert found.outcomes == {"right": GRAPHS}


def test_a_few_operators_at_random() -> None:
    for name in ("Add", "ReduceSum", "Slice", "Gather"):
        for n in range(3):
            assert check_case(name, n) in ("right", "alone")


def test_every_operator_is_drawn() -> None:
    """But for those that must be named here."""
    left_out = {"FlexAttention", "OptionalGetElement", "OptionalHasElement",
                "SimplifiedLayerNormalization", "SwiGLU", "TreeEnsemble", "CategoryMapper",
                "Gradient", "SVMClassifier", "SVMRegressor",
                "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
                "RandomUniformLike"}  # fmt: skip
    known = {n for d, names in operators().items() if d != "com.microsoft" for n in names}
    assert known - {n.rpartition(".")[2] for n in NAMES} == left_out


def test_crashes_are_reported_and_do_not_end_the_run() -> None:
    found = fuzz("misbehaving", 0, 4)
    assert found.outcomes == {"fine": 2}
    assert "misbehave" in found.failures[1]
    assert "MemoryError" in found.failures[2]
    assert "tests.fuzz.worker misbehaving 1 2" in report("misbehaving", found)


@pytest.mark.parametrize("path", CORPUS, ids=lambda p: p.name)
def test_past_failures(path: Path) -> None:
    data = path.read_bytes()
    if path.suffix == ".naru":
        check_bundle(data, 0)
    else:
        check_model(data, 1)
        check_compiled(data)
