"""Where a model begins to differ: the first node, and the smallest part that differs by itself.

First by halving: the model up to a node, compiled as in the whole model (the same inputs, symbols
and fusion, up to the values that the rest needs), is right or wrong. Then that node alone is fed
with the other side's values, and where it is right alone, more and more of what is before it: a
fault of fusion shows only in a group. At last, nodes are left out as long as it still differs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from naru.artifact.cache import Cache
from naru.errors import NaruError
from naru.frontend.onnx import read_onnx
from naru.frontend.onnx_check import note_of
from naru.inputs import Array
from naru.options import Options, Progress, tell_nobody
from naru.pipeline import build
from naru.runtime.native_model import NativeModel
from naru.verify.compared import run
from naru.verify.differences import Difference, compare
from naru.verify.parts import Part, Whole
from naru.verify.sides import make_side

MOST_REMOVALS = 24  # nodes of a part above which none is tried to be left out
MOST_ROWS = 1 << 12  # elements of inputs above which fewer rows are tried


@dataclass(frozen=True)
class Culprit:
    """The first node (of `count`) after which a model differs, and the smallest part that does.
    `node` is how messages call it, `name` its name or first output."""

    node: str
    name: str
    position: int
    count: int
    part: Part
    labels: tuple[str, ...]
    model: ModelProto
    difference: Difference
    against: str

    @property
    def alone(self) -> bool:
        """Does the node differ by itself, not only together with others?"""
        return len(self.labels) == 1

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return {
            "node": self.node,
            "position": self.position,
            "of": self.count,
            "part": list(self.labels),
            "inputs": {n: f"{a.dtype.name}{list(a.shape)}" for n, a in self.part.inputs.items()},
            "difference": self.difference.as_json(),
        }


@dataclass
class Search:
    """What a search needs: how parts are compiled (`options`, `store` for objects), whom they are
    compared with, and the (relative, absolute) rms error that passes."""

    options: Options
    store: Cache | None
    against: str
    limits: tuple[float, float]
    tell: Progress = tell_nobody
    tried: int = 0

    def find(
        self, source: Path, sample: Mapping[str, Array], outputs: Sequence[str]
    ) -> Culprit | None:
        """The culprit of what differs in these outputs for a sample; None where the model without
        its other outputs doesn't differ. Raises NaruError where its inner values cannot be had."""
        whole = Whole(ModelProto.FromString(source.read_bytes()), source.parent)
        steps = whole.steps_to(outputs)
        if not steps:
            return None
        self._fill(whole, steps, sample)
        found = self._halve(whole, steps)
        if found is None:
            return None
        position, prefix = found
        trial = self._isolate(whole, steps, steps[position - 1], prefix) or prefix
        trial = self._fewer_rows(whole, self._fewer_steps(whole, steps, trial))
        assert trial.difference is not None
        k = whole.maker[trial.difference.output]
        return Culprit(
            whole.label(k),
            note_of(whole.nodes[k]),
            steps.index(k) + 1,
            len(steps),
            trial.part,
            tuple(whole.label(s) for s in trial.part.steps),
            whole.complete(trial.part),
            trial.difference,
            self.against,
        )

    def _fill(self, whole: Whole, steps: Sequence[int], sample: Mapping[str, Array]) -> None:
        """The other side's array of every value, and the compiler's type of it."""
        self.tell(f"inner values of {self.against}", 0, 1)
        exposing = whole.exposing(steps)
        graph = read_onnx(exposing, folder=whole.folder)
        types = {str(n.attr("name")): n.type for n in graph.inputs}
        types |= {o: n.type for o, n in zip(graph.output_names, graph.outputs, strict=True)}
        inputs = {name: sample[name] for name in whole.inputs}
        values = make_side(self.against, exposing, whole.folder)(inputs)
        whole.types, whole.values = types, {**values, **inputs}

    # --- halving ------------------------------------------------------------------------------

    def _halve(self, whole: Whole, steps: Sequence[int]) -> tuple[int, Trial] | None:
        """(how many steps it takes until the model differs, the model of these)."""

        def up_to(count: int) -> Trial:
            self.tell("halving", self.tried, self.tried + (high - low).bit_length())
            part = whole.cut(steps[:count], steps, symbolic=True)
            return self.attempt(part, whole.folder)

        low, high = 0, len(steps)
        wrong = up_to(high)
        if wrong.difference is None:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            trial = up_to(middle)
            if trial.difference is None:
                low = middle
            else:
                high, wrong = middle, trial
        return high, wrong

    # --- the smallest part --------------------------------------------------------------------

    def _isolate(self, whole: Whole, steps: Sequence[int], k: int, prefix: Trial) -> Trial | None:
        """The node alone, or with its group, or with ever more of what is before it: the first of
        these that differs when it is fed with the other side's values."""
        for chosen in _growing(whole, k, prefix):
            if len(chosen) >= len(prefix.part.steps):
                return None
            for symbolic in (False, True):
                self.tell(f"isolating {whole.label(k)}", self.tried, 0)
                trial = self.attempt(whole.cut(chosen, steps, symbolic=symbolic), whole.folder)
                if trial.difference is not None:
                    return trial
        return None

    def _fewer_steps(self, whole: Whole, steps: Sequence[int], trial: Trial) -> Trial:
        """Leaves out what the difference of one output does not need. (What is larger differs in
        nothing smaller, as `_isolate` found.)"""
        first = trial.part
        if len(first.steps) > MOST_REMOVALS:
            return trial
        for removed in (None, *first.steps):
            assert trial.difference is not None
            kept = [s for s in trial.part.steps if s != removed]
            output = trial.difference.output
            # Without the node that makes the output, what that node reads becomes the output.
            only = (output,) if whole.maker[output] != removed else ()
            smaller = whole.cut(kept, trial.part.steps, symbolic=first.symbolic, only=only)
            self.tell("leaving out nodes", self.tried, 0)
            found = self.attempt(smaller, whole.folder)
            trial = found if found.difference is not None else trial
        return trial

    def _fewer_rows(self, whole: Whole, trial: Trial) -> Trial:
        """The first rows of the inputs, where all have as many, and they are large."""
        inputs = [a for a in trial.part.inputs.values() if a.ndim]
        rows = {a.shape[0] for a in inputs}
        if len(rows) != 1 or max((a.size for a in inputs), default=0) <= MOST_ROWS:
            return trial
        for count in (1, rows.pop() // 8):
            self.tell("leaving out rows", self.tried, 0)
            smaller = self._first_rows(whole, trial.part, count)
            found = smaller and self.attempt(smaller, whole.folder)
            if found and found.difference is not None:
                return found
        return trial

    def _first_rows(self, whole: Whole, part: Part, count: int) -> Part | None:
        model = ModelProto()
        model.CopyFrom(part.model)
        for i in model.graph.input:
            if i.type.tensor_type.shape.dim and not i.type.tensor_type.shape.dim[0].dim_param:
                i.type.tensor_type.shape.dim[0].dim_value = count
        inputs = {
            name: np.ascontiguousarray(a[:count]) if a.ndim else a
            for name, a in part.inputs.items()
        }
        try:
            wanted = make_side(self.against, model, whole.folder)(inputs)
        except NaruError:  # a constant shape inside asks for all rows
            return None
        return replace(part, model=model, inputs=inputs, wanted=wanted)

    # --- one attempt --------------------------------------------------------------------------

    def attempt(self, part: Part, folder: Path | None) -> Trial:
        """Compiles and runs a part. What cannot be compiled alone differs in nothing."""
        self.tried += 1
        try:
            graph = read_onnx(part.model, folder=folder)
            made = build(graph, self.options, store=self.store, tested=False)
            got = run(NativeModel(made), part.inputs)
        except NaruError:
            return Trial(part, None, {})
        found = [
            compare(0, name, np.asarray(got[name]), want, *self.limits, against=self.against)
            for name, want in part.wanted.items()
        ]
        wrong = [d for d in found if not d.passed]
        worst = max(wrong, key=lambda d: d.rms_rel, default=None)
        return Trial(part, worst, made.manifest)


@dataclass(frozen=True)
class Trial:
    """A part that was compiled and run: its largest difference, if any, and its manifest."""

    part: Part
    difference: Difference | None
    manifest: Mapping[str, Any]


def _growing(whole: Whole, k: int, prefix: Trial) -> Iterator[set[int]]:
    """A step, the steps that share its kernel, then all at most 1, 2, 4, … steps before it."""
    yield {k}
    group = _group_of(whole, k, prefix)
    if len(group) > 1:
        yield group
    reached, edge = {k}, {k}
    for distance in itertools.count(1):
        edge = {p for s in edge for p in whole.parents(s)} - reached
        if not edge:
            return
        reached |= edge
        if distance.bit_count() == 1:
            yield set(reached)


def _group_of(whole: Whole, k: int, prefix: Trial) -> set[int]:
    """The steps of the model up to a step that one kernel computes together with it."""
    by_note = {note_of(whole.nodes[s]): s for s in prefix.part.steps}
    for kernel in prefix.manifest.get("kernels", ()):
        for notes in kernel["nodes"]:
            steps = {by_note[n] for n in notes.split(", ") if n in by_note}
            if k in steps:
                return steps
    return {k}
