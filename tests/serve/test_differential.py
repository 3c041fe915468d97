"""naru and a real Triton are asked the same, byte for byte; where they differ is a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from serve import pages
from serve.differential import CASES, DIFFERENCES
from serve.servers import naru_server, triton_server
from serve.wire import Answer, send

# What naru has not, it says by 501; what it has and cannot do now, by 503.
NOT_THE_CLIENTS = (501, 503)


@pytest.mark.clients
def test_the_same_bytes_to_triton(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with (
        triton_server(tmp_path / "triton") as (triton, _),
        naru_server(tmp_path / "models", "--allow-model-control") as (naru, _),
    ):
        answers = {name: (send(naru, asked), send(triton, asked)) for name, asked in CASES.items()}
    for name, (ours, _) in answers.items():
        expect_form(name, ours)
    listed = {name for names in DIFFERENCES.values() for name in names}
    assert listed <= set(CASES)
    unlisted = {n: _texts(a) for n, a in answers.items() if n not in listed and not _alike(*a)}
    assert unlisted == {}, "these differ and do not stand in DIFFERENCES"
    alike = {n: _texts(answers[n]) for n in listed if _alike(*answers[n])}
    assert alike == {}, "these stand in DIFFERENCES and do not differ"
    pages.check_part("count", f"{len(CASES)} requests, {len(listed)} answered otherwise.", request)
    pages.check_part(
        "differences",
        pages.table(
            ("why", "requests", "naru", "Triton"),
            [row for why, names in DIFFERENCES.items() for row in _rows(why, names, answers)],
        ),
        request,
    )


def _rows(
    why: str, names: Sequence[str], answers: Mapping[str, tuple[Answer, Answer]]
) -> list[tuple[str, ...]]:
    """The requests that were answered otherwise for one reason, those with the same answers in one
    row."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in names:
        ours, theirs = answers[name]
        if ours.status == theirs.status:
            key = (_long(ours), _long(theirs))
        else:
            key = (str(ours.status), str(theirs.status or "closed"))
        found.setdefault(key, []).append(name)
    return [(why, "; ".join(same), *texts) for texts, same in found.items()]


def expect_form(name: str, answer: Answer) -> None:
    """Errors have the protocol's form, and are not the server's fault."""
    if answer.status == 200 or not answer.body:
        assert answer.status < 500, name
        return
    value = answer.json
    assert answer.headers["content-type"] == "application/json", name
    if name != "ready of what is unloaded":
        assert list(value) == ["error"], name
        assert isinstance(value["error"], str), name
    assert answer.status < 500 or answer.status in NOT_THE_CLIENTS, name


def _alike(ours: Answer, theirs: Answer) -> bool:
    return str(ours) == str(theirs)


def _texts(answers: tuple[Answer, Answer]) -> str:
    return " | ".join(f"{a.status}: {a}" for a in answers)


def _long(answer: Answer) -> str:
    text = str(answer)
    return text if len(text) <= 100 else text[:97] + "..."
