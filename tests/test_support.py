"""The table of operators says what is true: it, its page and the registry name the same, and some
of it is measured anew."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from naru import support
from naru.cli import ops
from naru.dtypes import DTYPES
from naru.frontend.onnx_tables import operators
from tools import measure_operators, operator_cases

ROOT = Path(__file__).resolve().parent.parent
# What is known to be wrong (docs/conformance.md).
WRONG = {("DFT", 17), ("DFT", 20)}
ANEW = "python tools/measure_operators.py -k '^(%s)$'"


def test_the_table_names_what_the_registry_names() -> None:
    known = {(d, n) for d, names in operators().items() for n in names}
    rows = support.read()
    missing = sorted(n for d, n in known - set(rows))
    assert not missing, ANEW % "|".join(missing)
    # (Of com.microsoft, those that naru lacks are as the installed ONNX Runtime has them.)
    foreign = {key for key in set(rows) - known if key[0] != "com.microsoft"}
    gone = sorted(n for _, n in foreign - set(operator_cases.schemas()))
    assert not gone, f"{gone}: take these lines out of naru/support.json"


def test_every_operator_with_a_function_was_seen_to_work() -> None:
    rows = support.read()
    listed = [(d, n) for d, names in operators().items() for n in names]
    names = [n for d, n in listed if not rows[d, n].works]
    assert not names, f"add a case to tests/zoo/one_node.py, then {ANEW % '|'.join(names)}"


def test_rows_are_well_formed() -> None:
    known = {*DTYPES, "string"}
    for op in support.read().values():
        found = {d for some in op.versions.values() for d in some} | set(op.speed)
        assert found <= known, op.name
        assert set(op.classes) <= set(support.CLASSES), op.name
        assert not op.works or op.speed, f"{op.name} has no speed"
        for version, reasons in op.why.items():
            refused = {d for some in reasons.values() for d in some}
            assert not refused & set(op.versions[version]), op.name
            wrong = [r for r in reasons if r.startswith(("differs", "fails"))]
            assert not wrong or (op.name, version) in WRONG, (
                f"{op.name}, version {version}: {wrong}"
            )


def test_the_file_is_as_the_tool_writes_it() -> None:
    text = support.FILE.read_text(encoding="utf-8")
    content = {d: rows for d, rows in support.content().items() if d != "measured"}
    assert measure_operators.write(content) == text
    assert len(text) < 200_000


def test_the_page_is_the_table() -> None:
    page = (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")
    assert page == support.page(support.read()), "python tools/measure_operators.py --page"


def test_the_command_knows_the_classes() -> None:
    assert tuple(support.CLASSES) == ops.CLASSES


def test_dtypes_in_short() -> None:
    assert support.dtypes_text(("f32", "f16", "f64", "bf16", "i64")) == "floats i64"
    assert support.dtypes_text(()) == "-"


@pytest.mark.slow
def test_measured_anew() -> None:
    """One operator of each kind."""
    names = "^(Celu|Conv|CumSum|Squeeze|StringSplit|BiasGelu|Scaler)$"
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "measure_operators.py", "--check", "-k", names],
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
