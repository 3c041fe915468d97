"""Measures which operators compile, in which versions, for which element types, and how fast the
kernels are that come out: writes naru/support.json (what `naru ops` and `naru check` read) and
docs/operators.md.

    python tools/measure_operators.py                  all operators: about ten minutes
    python tools/measure_operators.py -k '^Conv'       only these; the others stay as they were
    python tools/measure_operators.py -k Conv --check  measure, write nothing, say what differs

An operator counts as supported for an element type only if a model that has it was compiled and
run, and agreed with what the standard's test expects or else with the numpy meaning.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import onnx  # noqa: E402

import naru  # noqa: E402
from naru import pipeline, support  # noqa: E402
from naru.codegen.objects import compile_modules  # noqa: E402
from naru.dtypes import FROM_NUMPY, is_float  # noqa: E402
from naru.errors import ModelError, NaruError, UnsupportedError  # noqa: E402
from naru.frontend.onnx import read_onnx  # noqa: E402
from naru.frontend.onnx_foreign import needs_host  # noqa: E402
from naru.frontend.onnx_host import ALWAYS  # noqa: E402
from naru.frontend.onnx_import import has_function  # noqa: E402
from naru.frontend.onnx_plan import (  # noqa: E402
    CONSTANT,
    NATIVE,
    HostPlan,
    read_plan,
)
from naru.frontend.onnx_tables import operators  # noqa: E402
from naru.ir.expr import Binary, Call, Expr, Lanes, Load, Splat, free_vars, walk  # noqa: E402
from naru.ir.graph import Graph  # noqa: E402
from naru.ir.loop import Func, Store, operands, statements  # noqa: E402
from naru.ir.simplify import evaluate as evaluate_size  # noqa: E402
from naru.ir.text import print_graph  # noqa: E402
from naru.ops.evaluate import evaluate  # noqa: E402
from naru.ops.registry import OPS  # noqa: E402
from naru.options import Options  # noqa: E402
from naru.runtime.native_model import NativeModel  # noqa: E402
from naru.schedule.kernels import Kernel  # noqa: E402
from naru.targets import Target, get_target  # noqa: E402
from tools import operator_cases as cases  # noqa: E402
from tools.operator_cases import Case  # noqa: E402

TARGET = "x86-64-avx2"  # what is run, so that the file is the same from all newer CPUs
OTHERS = ("aarch64-neon", "wasm32-simd128")  # compiled, not run
PAGE = ROOT / "docs" / "operators.md"
ORDER = list(support.CLASSES)
HOST = {(d or "ai.onnx", n) for d, n in ALWAYS}  # Python runs them, whatever the element type
# What no case of one node can show, and tests of their own do: test_host.py, and in tests/frontend
# test_gradient.py, test_microsoft.py and test_operands.py.
SHOWN = {
    ("ai.onnx.ml", "CategoryMapper"): {"i64": "vectorised", "string": "vectorised"},
    ("ai.onnx.ml", "LabelEncoder"): dict.fromkeys(
        ("f32", "f64", "i16", "i32", "string"), "vectorised"
    ),
    ("ai.onnx.ml", "OneHotEncoder"): {"string": "vectorised"},
    ("ai.onnx.preview.training", "Gradient"): {"f32": "tuned", "f64": "tuned"},
    ("com.microsoft", "NhwcFusedConv"): {"f32": "tuned"},
}
DRIVER = ("run", "profile", "plan")  # what is no kernel among the modules of a model
MOST_CASES = 12  # of an operator that are tried for each version and element type
MOST_CLASSES = 8  # of cases that the kernels are looked at of
SHARE = 0.75  # of the estimated time: the kernels that take it together count
USUAL_SIZE = 64  # of a symbol, where times are estimated
TOLERANCE = {
    "f64": 1e-7, "f32": 1e-4, "f16": 5e-3, "bf16": 4e-2, "f8e4m3fn": 0.2, "f8e4m3fnuz": 0.2,
    "f8e5m2": 0.3, "f8e5m2fnuz": 0.3, "f6e2m3": 0.3, "f6e3m2": 0.3, "f4e2m1": 0.5, "f8e8m0": 0.5,
}  # fmt: skip


# --- how fast -------------------------------------------------------------------------------------


def kernel_class(func: Func) -> str:
    """tuned: sums of products over a tile of accumulators; vectorised: tiles; else scalar."""
    found = "scalar"
    for s in statements(func.body):
        exprs = [e for o in operands(s) for e in walk(o)]
        kept = isinstance(s, Store) and s.buffer.space in ("stack", "tile") and s.buffer.shape
        if isinstance(s, Store) and kept and any(map(_is_product, walk(s.value))):
            return "tuned"
        if any(e.shape and not isinstance(e, Splat | Lanes) for e in exprs):
            found = "vectorised"
    return found


def _is_product(e: Expr) -> bool:
    if isinstance(e, Call):
        return e.fn in ("fma", "dot") and bool(e.shape)
    if isinstance(e, Binary) and e.op == "add" and e.shape:
        parts = (e.a, e.b)
        return any(isinstance(p, Binary) and p.op in ("mul", "dot2") for p in parts) and any(
            isinstance(p, Load) for p in parts
        )
    return False


def model_class(kernels: Iterable[Kernel]) -> str:
    """That of the slowest of the kernels that take most of the time. Copies into other
    layouts count only where there is nothing else; free: no code of its own."""
    some = [k for k in kernels if not all(OPS[o].kind in ("view", "index") for o in k.ops)]
    some = some or list(kernels)
    moving = [k for k in some if not all(o in ("identity", "reshape") for o in k.ops)]
    if not moving:
        return "free"
    times = {k: _nanoseconds(k) for k in moving}
    found, taken = list[str](), 0.0
    for k in sorted(moving, key=lambda k: -times[k]):
        found.append(kernel_class(k.func))
        taken += times[k]
        if taken >= SHARE * sum(times.values()):
            break
    return max(found, key=ORDER.index)


def _nanoseconds(k: Kernel) -> float:
    sizes = {v: min(max(USUAL_SIZE, v.lo), v.hi) for v in free_vars(k.work)}
    return max(float(evaluate_size(k.work, sizes)), 1.0)


def class_of(case: Case, target: Target) -> str | None:
    """The class of a case's kernels, with larger inputs where those are sound."""
    fixed = cases.with_constants(case)
    for model in (cases.enlarged(case), case.model, fixed and fixed.model):
        if model is None:
            continue
        try:
            plan = read_plan(model) if _needs_plan(model) else None
            if plan is not None:
                return _plan_class(plan, target)
            stages = pipeline.lower(model.SerializeToString(), target)
        except Exception:  # enlarged dims need not fit each other
            continue
        return model_class(stages.program.kernels)
    return None


def _needs_plan(model: onnx.ModelProto) -> bool:
    """Is there something in it that native code cannot be, and not only might?"""
    if not needs_host(model):
        return False
    try:
        read_onnx(model)
    except UnsupportedError:
        return True
    return False


def _plan_class(plan: HostPlan, target: Target) -> str:
    """host, unless all steps are native."""
    if any(s.operator not in (NATIVE, CONSTANT) for s in plan.body.steps):
        return "host"
    found = [model_class(pipeline.lower(g, target).program.kernels) for g in plan.parts]
    return max(found, key=ORDER.index, default="free")


# --- does it agree --------------------------------------------------------------------------------


@dataclass
class Judge:
    """Compiles, runs, compares. The bundle of a graph that was seen to agree, with the same inputs,
    would be the same again."""

    target: Target
    agreed: set[str] = field(default_factory=set[str])
    compiled: int = 0

    def problem(self, case: Case) -> str | None:
        """Nothing where a compiled model agreed; else why not."""
        try:
            graph = read_onnx(case.model)
        except UnsupportedError as error:
            if case.wanted is not None and needs_host(case.model):
                return self._run_plan(case)
            return _reason(error.problems[0])
        except ModelError as error:
            return _invalid(case) or _reason(error.message)
        except Exception as error:
            return f"fails: {type(error).__name__}: {error}"[:160]
        try:
            return self._run(case, graph)
        except UnsupportedError as error:
            return _reason(error.problems[0])
        except NaruError as error:
            return _invalid(case) or f"fails: {_reason(error.message)}"
        except Exception as error:
            return f"fails: {type(error).__name__}: {error}"[:160]

    def _run_plan(self, case: Case) -> str | None:
        """Of a model that runs partly on the host: only the official expectation is there."""
        try:
            got = naru.compile(case.model, cache=False)(*case.inputs)
        except UnsupportedError as error:
            return _reason(error.problems[0])
        except NaruError as error:
            return f"fails: {_reason(error.message)}"
        outputs = list(got) if isinstance(got, tuple) else [got]
        for k, (a, b) in enumerate(zip(outputs, case.wanted or (), strict=True)):
            if not _alike(a, b, case):
                return f"differs: output {k}"
        return None

    def _run(self, case: Case, graph: Graph) -> str | None:
        digest = hashlib.sha256(print_graph(graph).encode())
        for a in (*case.inputs, *(case.wanted or ())):
            digest.update(a.tobytes() if isinstance(a, np.ndarray) else repr(a).encode())
        if digest.hexdigest() in self.agreed:
            return None
        self.compiled += 1
        model = NativeModel(pipeline.build(graph, Options(self.target), tested=False))
        got: Any = model(*case.inputs)
        outputs = list(got) if isinstance(got, tuple) else [got]
        wanted = case.wanted
        if wanted is None:
            wanted = tuple(evaluate(graph, list(case.inputs)))
        for k, (a, b) in enumerate(zip(outputs, wanted, strict=True)):
            if not _agree(a, b, case):
                return f"differs: output {k}"
        self.agreed.add(digest.hexdigest())
        return None


def _alike(a: Any, b: Any, case: Case) -> bool:
    """The same for sequences, maps and optionals."""
    if isinstance(b, list):
        same = isinstance(a, list) and len(a) == len(b)
        return same and all(_alike(x, y, case) for x, y in zip(a, b, strict=True))
    if isinstance(b, np.ndarray) and b.dtype == object:
        return np.shape(a) == b.shape and np.asarray(a).tolist() == b.tolist()
    return a is None if b is None else _agree(a, b, case)


def _agree(a: Any, b: Any, case: Case) -> bool:
    b = np.asarray(b) if isinstance(b, np.generic) else b
    if not isinstance(b, np.ndarray):
        return bool(np.all(np.asarray(a, object) == np.asarray(b, object)))
    a = np.asarray(a)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype not in FROM_NUMPY or b.dtype == np.bool_:
        return bool(np.array_equal(a, b))
    x, y = a.astype(np.float64), b.astype(np.float64)
    if not is_float(FROM_NUMPY[b.dtype]):
        far = np.abs(x - y)
        # A sum of floats that lies between two small integers may be rounded to either.
        near = b.dtype.itemsize <= 2 and far.max(initial=0) <= 1 and (far > 0).sum() <= 1
        return bool(near or not far.any())
    bound = TOLERANCE[FROM_NUMPY[b.dtype]]
    relative, absolute = case.tolerance if case.wanted is not None else (bound, bound)
    with np.errstate(all="ignore"):
        largest = float(np.abs(y[np.isfinite(y)]).max(initial=1.0))
        scale = 1.0 if case.wanted is not None else largest
        absolute = max(absolute * scale, bound if bound > 1e-3 else absolute)
        return bool(np.allclose(x, y, max(relative, bound), absolute, equal_nan=True))


def _invalid(case: Case) -> str | None:
    """Says that a model is not to be measured by: it is none by the standard's own checker."""
    if case.wanted is not None:
        return None
    try:
        onnx.checker.check_model(case.model, full_check=True)
    except Exception:  # whatever the checker raises, it found something
        return support.UNTESTED
    return None


def _reason(problem: str) -> str:
    """Why, without the names of one model."""
    text = re.sub(r"^(function \S+: )*(then_branch: |else_branch: )*(node|input) '[^']*'( \(\S+\))?"
                  r"(, opset \d+)?: ", "", problem.splitlines()[0])  # fmt: skip
    text = re.sub(r"; operands .*|; try: .*| \(operands .*", "", text)
    return (text[:117] + "...") if len(text) > 120 else text


# --- one operator ---------------------------------------------------------------------------------


@dataclass
class Findings:
    """What is known of one operator. `why`: (version, dtype) -> why it is not supported."""

    agreed: dict[int, set[str]] = field(default_factory=dict[int, set[str]])
    why: dict[tuple[int, str], str] = field(default_factory=dict[tuple[int, str], str])
    speed: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    targets: dict[str, str] = field(default_factory=dict[str, str])
    tests: list[bool] = field(default_factory=list[bool])

    def add(self, version: int, dtype: str) -> None:
        self.agreed.setdefault(version, set()).add(dtype)


class Measurement:
    """The findings of all operators that a pattern names."""

    def __init__(self, pattern: str, judge: Judge) -> None:
        self.pattern, self.judge = re.compile(pattern), judge
        self.found: dict[tuple[str, str], Findings] = {
            key: Findings() for key in cases.schemas() if self.pattern.search(key[1])
        }
        for domain, names in operators().items():
            for name in names:
                if self.pattern.search(name):
                    self.found.setdefault((domain, name), Findings())

    def run(self, tell: Callable[[tuple[str, str], dict[str, Any]], None]) -> None:
        """Measures, and tells of each operator when it is done."""
        own: dict[tuple[str, str], list[Case]] = {key: [] for key in self.found}
        mixed: dict[tuple[str, str], list[Case]] = {key: [] for key in self.found}
        for case in cases.all_cases():
            keys = {(cases.domain_name(n.domain), n.op_type) for n in case.nodes}
            if not keys & set(self.found):
                continue
            problem = self.judge.problem(case)
            self.note_whole(case, problem)
            node = case.node
            for key in keys & set(self.found) if node is None and problem is None else ():
                mixed[key].append(case)
            if node is not None and (key := (cases.domain_name(node.domain), node.op_type)) in own:
                own[key].append(case)
                self.note_failure(key, case, problem)
                if case.name.startswith("node/"):
                    self.found[key].tests.append(problem is None)
        for key, listed in own.items():
            start = time.perf_counter()
            self.vary(key, listed)
            self.classify(key, listed)
            if key in HOST:
                some = self.found[key]
                self.take_all(key, some)
                some.speed = {d: {"host"} for dtypes in some.agreed.values() for d in dtypes}
            elif key in SHOWN:
                self.take_shown(key, self.found[key])
            elif not self.found[key].speed:
                for case in mixed[key][:MOST_CLASSES]:
                    self.classify_mixed(key, case)
            tell(key, as_json(key, self.found[key]))
            seconds = time.perf_counter() - start
            print(f"{key[0]}.{key[1]:28} {seconds:6.1f} s", file=sys.stderr, flush=True)

    def take_all(self, key: tuple[str, str], found: Findings) -> None:
        """What Python moves, it moves whatever its element type; that it does is shown by the
        standard's tests as a whole, and by tests/test_host.py."""
        found.why.clear()
        for version, schema in cases.schemas().get(key, {}).items():
            variable, _ = cases.principal(schema)
            for dtype in cases.allowed(schema, variable):
                found.add(version, dtype)

    def take_shown(self, key: tuple[str, str], found: Findings) -> None:
        """What other tests show, in each version that allows it."""
        for dtype, kind in SHOWN[key].items():
            found.speed.setdefault(dtype, set()).add(kind)
            for version, schema in cases.schemas()[key].items():
                if dtype in cases.allowed(schema, cases.principal(schema)[0]):
                    found.add(version, dtype)

    def classify_mixed(self, key: tuple[str, str], case: Case) -> None:
        """The class of a model of several nodes, for an operator that has no case of its own:
        control flow, which is as fast as its bodies."""
        found, schemas = self.found[key], cases.schemas().get(key)
        if schemas is None or not found.agreed:
            return
        node = next(n for n in case.nodes if (cases.domain_name(n.domain), n.op_type) == key)
        dtype = cases.dtype_in(node, schemas[max(schemas)], cases.element_types(case.model))
        kind = class_of(case, self.judge.target)
        if dtype and kind:
            found.speed.setdefault(dtype, set()).add(kind)

    def note_whole(self, case: Case, problem: str | None) -> None:
        """Notes every operator of a model that agreed, in its version, for its element type."""
        if problem is not None:
            return
        types = cases.element_types(case.model)
        for n in case.nodes:
            key = (cases.domain_name(n.domain), n.op_type)
            version = cases.version_of(n.domain, n.op_type, cases.opset_of(case.model, n.domain))
            if key not in self.found:
                continue
            if version is None:  # no schema says anything of it
                version, dtype = 1, types.get(n.input[0])
            else:
                dtype = cases.dtype_in(n, cases.schemas()[key][version], types)
            if dtype is not None:
                self.found[key].add(version, dtype)

    def note_failure(self, key: tuple[str, str], case: Case, problem: str | None) -> None:
        """Notes why a case fails as it stands, which may be the only case of that element type."""
        n = case.nodes[0]
        version = cases.version_of(n.domain, n.op_type, cases.opset_of(case.model, n.domain))
        dtype = cases.dtype_of(case)
        if problem is not None and version is not None and dtype is not None:
            self.found[key].why.setdefault((version, dtype), problem)

    def vary(self, key: tuple[str, str], listed: list[Case]) -> None:
        """Every version with every element type that it allows, until a case agrees."""
        found = self.found[key]
        for version, schema in cases.schemas().get(key, {}).items():
            variable, _ = cases.principal(schema)
            for dtype in cases.allowed(schema, variable):
                if dtype in found.agreed.get(version, set()):
                    continue
                reasons: list[str] = []
                for case in self.variants(listed, version, dtype):
                    problem = self.judge.problem(case)
                    if problem is None:
                        found.add(version, dtype)
                        break
                    reasons.append(problem)
                else:
                    told = [r for r in reasons if r != support.UNTESTED]
                    unknown = support.UNTESTED if is_known(key, schema) else support.NONE
                    found.why.setdefault((version, dtype), told[0] if told else unknown)

    def variants(self, listed: list[Case], version: int, dtype: str) -> Iterator[Case]:
        tried = 0
        for case in listed:
            if tried >= MOST_CASES:
                return
            try:
                other = cases.with_version(case, version)
                other = other and cases.with_dtype(other, dtype)
            except Exception:  # values that the other form cannot hold
                continue
            if other is None:
                continue
            tried += 1
            yield other
            fixed = cases.with_constants(other)
            if fixed is not None:
                yield fixed

    def classify(self, key: tuple[str, str], listed: list[Case]) -> None:
        """The classes of the kernels for each element type of the newest version, and whether other
        targets compile them."""
        found = self.found[key]
        if not found.agreed:
            return
        newest = max(found.agreed)
        if key not in cases.schemas():
            kinds = {class_of(case, self.judge.target) for case in listed}
            found.speed = {d: {k for k in kinds if k} for d in found.agreed[1]}
            return
        for dtype in sorted(set().union(*found.agreed.values())):
            version = newest if dtype in found.agreed[newest] else None
            count = MOST_CLASSES if dtype == "f32" else MOST_CLASSES // 4
            kinds: dict[str, Case] = {}
            for case in itertools.islice(self.varied(listed, version, dtype), MOST_CASES):
                kind = class_of(case, self.judge.target)
                if kind is not None:
                    kinds.setdefault(kind, case)
                    count -= 1
                if not count:
                    break
            if kinds:
                found.speed[dtype] = set(kinds)
                self.note_others(found, dtype, next(iter(kinds.values())))

    def note_others(self, found: Findings, dtype: str, case: Case) -> None:
        """Notes the targets that have no objects for a case."""
        for name in OTHERS:
            problem = None if name in found.targets else compiles(case, get_target(name))
            if problem:
                found.targets[name] = f"{dtype}: {problem}"

    def varied(self, listed: list[Case], version: int | None, dtype: str) -> Iterator[Case]:
        for case in listed:
            try:
                other = case if version is None else cases.with_version(case, version)
                other = other and cases.with_dtype(other, dtype)
            except Exception:
                continue
            if other is not None:
                yield other


def is_known(key: tuple[str, str], schema: Any) -> bool:
    """Is there a handler here or a body in the standard?"""
    domain, name = key
    own = name in operators().get(domain, [])
    return own or (domain != "com.microsoft" and has_function(schema))


def compiles(case: Case, target: Target) -> str | None:
    """Why a target has no objects for a case; None where it has."""
    try:
        stages = pipeline.lower(case.model.SerializeToString(), target)
    except NaruError as error:
        return None if isinstance(error, ModelError | UnsupportedError) else _reason(str(error))
    try:
        compile_modules([t for n, t in stages.modules if n not in DRIVER], target)
    except Exception as error:
        return _reason(f"{type(error).__name__}: {error}")
    return None


# --- what is written ------------------------------------------------------------------------------


def as_json(key: tuple[str, str], f: Findings) -> dict[str, Any]:
    """The row of an operator."""
    versions = cases.schemas().get(key, {1: None})
    row: dict[str, Any] = {"versions": {}}
    before: set[str] = set()
    for v in versions:
        now = f.agreed.get(v, set[str]())
        grown = bool(before) and before <= now
        row["versions"][str(v)] = ("+ " if grown else "") + " ".join(
            sorted(now - before if grown else now)
        )
        before = now
    why: dict[str, dict[str, list[str]]] = {}
    for (version, dtype), reason in f.why.items():
        if dtype not in f.agreed.get(version, set()):
            why.setdefault(str(version), {}).setdefault(reason, []).append(dtype)
    if why:
        row["why"] = {
            v: {r: " ".join(sorted(d)) for r, d in some.items()} for v, some in why.items()
        }
    speed: dict[str, list[str]] = {}
    for dtype, classes in f.speed.items():
        text = " ".join(sorted(classes, key=ORDER.index))
        speed.setdefault(text, []).append(dtype)
    if speed:
        row["speed"] = {c: " ".join(sorted(d)) for c, d in sorted(speed.items())}
    if f.targets:
        row["lacks"] = dict(sorted(f.targets.items()))
    if f.tests:
        row["tests"] = [sum(f.tests), len(f.tests)]
    return row


def write(rows: dict[str, dict[str, Any]]) -> str:
    """JSON with a line an operator, sorted."""
    head = {"target": TARGET, "others": list(OTHERS), "onnx": onnx.__version__}
    parts = [f' "measured": {json.dumps(head)}']
    for domain in sorted(rows):
        listed = [f'  "{n}": {json.dumps(rows[domain][n])}' for n in sorted(rows[domain])]
        parts.append(f' "{domain}": {{\n' + ",\n".join(listed) + "\n }")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-k", default="", help="only operators whose names match")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if rows differ")
    parser.add_argument("--page", action="store_true", help="only write docs/operators.md anew")
    args = parser.parse_args()
    old = json.loads(support.FILE.read_text()) if support.FILE.exists() else {}
    if not args.page:
        warnings.simplefilter("ignore")
        judge = Judge(get_target(TARGET))
        rows = {d: dict(r) for d, r in old.items() if d != "measured"}

        def note(key: tuple[str, str], row: dict[str, Any]) -> None:
            rows.setdefault(key[0], {})[key[1]] = row
            if not args.check:
                support.FILE.write_text(write(rows), encoding="utf-8")

        Measurement(args.k, judge).run(note)
        print(f"{judge.compiled} models compiled", file=sys.stderr)
        if args.check:
            return tell_differences(old, json.loads(write(rows)))
    PAGE.write_text(support.page(support.read()), encoding="utf-8")
    return 0


def tell_differences(old: dict[str, Any], new: dict[str, Any]) -> int:
    count = 0
    for domain in sorted({*old, *new} - {"measured"}):
        for name in sorted({*old.get(domain, {}), *new.get(domain, {})}):
            a, b = old.get(domain, {}).get(name), new.get(domain, {}).get(name)
            if a != b:
                print(f"{domain}.{name}:\n  was {json.dumps(a)}\n  is  {json.dumps(b)}")
                count += 1
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
