"""The same model gives the same bytes: in another process, under another hash seed, after other
models, with any number of workers. (model, options, target, version) is all that counts.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import zoo

from naru.ir.expr import Expr, Var
from naru.ir.simplify import add, maximum
from naru.ir.text_expr import print_expr

ROOT = Path(__file__).resolve().parent.parent
# Symbols, layouts, control flow, data-dependent dims, shared weights: whatever could be reordered.
MODELS = (
    "attention", "conv_bn_relu_residual", "gemm_bias", "if_nested", "loop_model_1", "while_model",
    "nonzero_model", "softmax_axes", "reshape_minus_one",
)  # fmt: skip
PROGRAM = """
import hashlib, sys
from pathlib import Path
from naru.options import Options
from naru.pipeline import build
from naru.targets import get_target
for name in sys.argv[2:]:
    source = Path(sys.argv[1], name + ".onnx").read_bytes()
    for target in ("x86-64-avx2", "aarch64-neon"):
        data = build(source, Options(get_target(target), "fp32"), name).data
        print(name, target, hashlib.sha256(data).hexdigest())
"""


def digests(folder: Path, names: Sequence[str], **settings: str) -> dict[str, str]:
    """`model target` -> digest of the bundle, made one after the other in a fresh process."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **settings}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), *names],
        env=env, cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())


def test_bundles_are_the_same_bytes(tmp_path: Path) -> None:
    names = list(MODELS)
    for name in names:
        (tmp_path / f"{name}.onnx").write_bytes(zoo.CASES[name].model().SerializeToString())
    here = digests(tmp_path, names, PYTHONHASHSEED="0", NARU_WORKERS="0")
    assert len(here) == 2 * len(names)
    # In the other order: each was compiled after others, so its symbols have other ages.
    there = digests(tmp_path, names[::-1], PYTHONHASHSEED="4242", NARU_WORKERS="2")
    assert here == there


def test_canonical_order_does_not_depend_on_what_was_made_before() -> None:
    """Long keys are cut and hashed; the ages of Vars, which begin anywhere, must not be hashed."""
    found: set[str] = set()
    for _ in range(20):
        symbols = [Var(f"symbol_{k}") for k in range(9)]
        a, b = (_nested(symbols, other) for other in (symbols[4], symbols[8]))
        found |= {print_expr(add(a, b)), print_expr(add(b, a))}
        for _ in range(7):
            Var("between")
    assert len(found) == 1


def _nested(symbols: list[Var], middle: Var) -> Expr:
    """max(max(…, middle), …): two of them differ only far from both ends of their keys."""
    out: Expr = symbols[0]
    for v in (*symbols[1:4], middle, *symbols[5:8]):
        out = maximum(out, v)
    return out
