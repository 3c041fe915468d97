"""`naru explain`: what is in a bundle: kernels, what was fused and why, sizes, memory, times."""

from __future__ import annotations

import ast
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from naru.artifact.bundle import Bundle
from naru.errors import IRError, NaruError, TargetError
from naru.inputs import Array
from naru.ir.expr import Var
from naru.ir.simplify import evaluate
from naru.ir.text_expr import ExprReader, Source
from naru.runtime.session import Model, StepTime

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Measured:
    """All calls of one kernel in a run on one thread: nanoseconds, and the work that its formulas
    give at the sizes of that run (None where they use a size that only a kernel knows)."""

    calls: int
    ns: float
    flops: int | None
    bytes: int | None

    @property
    def gflops(self) -> float | None:
        """GFLOP/s."""
        return self.flops / self.ns if self.flops and self.ns else None

    @property
    def gigabytes_per_second(self) -> float | None:
        """GB/s, each tensor counted once."""
        return self.bytes / self.ns if self.bytes and self.ns else None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What `explain` found. `kernels` are the manifest's records, each with what was measured;
    `steps` are times in the order of the run, `sizes` the symbols' values in it; `untimed` says why
    nothing was measured."""

    kernels: tuple[tuple[Json, Measured | None], ...]
    steps: tuple[StepTime, ...]
    sizes: Mapping[str, int]
    untimed: str | None

    @property
    def ns(self) -> float:
        """The sum of all steps."""
        return sum(s.ns for s in self.steps)

    def as_json(self, bundle: Bundle) -> Json:
        """Plain values, with the manifest's general part."""
        general = ("naru", "target", "source", "options", "symbols", "entries", "memory")
        return {
            **{key: bundle.manifest[key] for key in general if key in bundle.manifest},
            "sections": {s.name: s.size for s in bundle.sections.values()},
            "kernels": [{**k, "measured": m and asdict(m)} for k, m in self.kernels],
            "steps": [asdict(s) for s in self.steps],
            "sizes": dict(self.sizes),
            "untimed": self.untimed,
        }


def explain(bundle: Bundle, inputs: Mapping[str, Array] | None = None) -> Explanation:
    """Collects what the manifest says, and measures each step where this CPU can run the code.

    `inputs` are what the measured runs get (default: those of the golden vector). Raises
    BundleError for a damaged bundle; an unfit CPU is no error.
    """
    if inputs is None and (golden := bundle.golden()):
        names = [t.name for t in bundle.entries[0].inputs]
        inputs = dict(zip(names, golden[0].inputs, strict=True))
    sizes = _sizes(bundle, inputs or {})
    steps, untimed = _measure(bundle, inputs)
    kernels: Sequence[Json] = bundle.manifest.get("kernels", [])
    pairs = tuple((k, _measured(k, steps, sizes)) for k in kernels)
    return Explanation(pairs, steps, sizes if steps else {}, untimed)


def _measure(
    bundle: Bundle, inputs: Mapping[str, Array] | None
) -> tuple[tuple[StepTime, ...], str | None]:
    if "profile" not in [e.name for e in bundle.entries]:
        return (), "the bundle has no profile entry"
    if inputs is None:
        return (), "the bundle has no golden vector to run; give --input"
    try:
        return Model(bundle, threads=1).profile(dict(inputs)), None
    except TargetError as e:
        return (), e.message


def _sizes(bundle: Bundle, inputs: Mapping[str, Array]) -> dict[str, int]:
    return {
        dim: size
        for spec in bundle.entries[0].inputs
        if spec.name in inputs
        for dim, size in zip(spec.shape, inputs[spec.name].shape, strict=False)
        if isinstance(dim, str)
    }


def _measured(kernel: Json, steps: Sequence[StepTime], sizes: Mapping[str, int]) -> Measured | None:
    """The sum over the steps that bear the kernel's name."""
    own = [s.ns for s in steps if s.name == kernel.get("name")]
    if not own:
        return None
    flops, traffic = (formula(kernel.get(key), sizes) for key in ("flops", "bytes"))
    n = len(own)
    return Measured(n, sum(own), flops and flops * n, traffic and traffic * n)


def formula(text: object, sizes: Mapping[str, int]) -> int | None:
    """The value of a manifest's formula; None when it is not one or uses other symbols."""
    variables = {name: Var(name) for name in sizes}
    try:
        source = Source(str(text))
        statement = source.parse(str(text)).body[0]
        if not isinstance(statement, ast.Expr):
            return None
        reader = ExprReader(source, lambda name: variables.get(name))
        expression = reader.expr(statement.value, "index")
        return evaluate(expression, {variables[n]: size for n, size in sizes.items()})
    except (IRError, IndexError, ValueError):
        return None


def arena_bytes(memory: Json, sizes: Mapping[str, int]) -> int | None:
    """The arena's size: `memory`'s formula, which may use names that its `where` defines."""
    where = memory.get("where", {})
    values = dict(sizes)
    waiting = dict(cast(Mapping[str, object], where)) if isinstance(where, dict) else {}
    while waiting:
        found = {name: formula(text, values) for name, text in waiting.items()}
        solved = {name: value for name, value in found.items() if value is not None}
        if not solved:
            break
        values |= solved
        waiting = {name: text for name, text in waiting.items() if name not in solved}
    return formula(memory.get("arena"), values)


# ---- machine code ----

_MACHINES = {"x86_64": "i386:x86-64", "aarch64": "aarch64"}


def disassemble(bundle: Bundle, kernel: str | None = None) -> str:
    """The machine code as assembly text, of one kernel where the manifest says where it lies.

    Uses binutils' objdump. NaruError when it is missing, or there is no such kernel.
    """
    program = shutil.which("objdump")
    if program is None:
        raise NaruError("--asm needs objdump, which is not on the PATH", hint="install binutils")
    arch = str(bundle.manifest["target"]["triple"]).partition("-")[0]
    if arch not in _MACHINES:
        raise NaruError(f"--asm knows no disassembler for {arch}")
    code = bytes(bundle.section("code"))
    start, stop = _range_of(bundle, kernel, len(code))
    command = [program, "-D", "-b", "binary", "-m", _MACHINES[arch], "--no-show-raw-insn"]
    command += [f"--start-address={start}", f"--stop-address={stop}"]
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        file.write(code)
        file.flush()
        done = subprocess.run([*command, file.name], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NaruError(f"objdump failed: {done.stderr.strip()}")
    return done.stdout.partition("<.data")[2].partition("\n")[2]


def _range_of(bundle: Bundle, kernel: str | None, size: int) -> tuple[int, int]:
    if kernel is None:
        return 0, size
    kernels: Sequence[Json] = bundle.manifest.get("kernels", [])
    for record in kernels:
        if record.get("name") != kernel:
            continue
        if "offset" not in record:
            return 0, size
        return record["offset"], record["offset"] + record["size"]
    names = ", ".join(str(k.get("name")) for k in kernels)
    raise NaruError(f"there is no kernel {kernel!r}; the bundle has: {names}")
