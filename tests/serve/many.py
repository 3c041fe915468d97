"""Many bundles of one model with weights of their own, made without compiling each."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from serve import models

import naru
from naru.artifact.bundle import read_bundle, write_bundle
from naru.artifact.golden import GoldenCase, pack_golden


def scaled_copies(folder: Path, count: int) -> None:
    """`models.dense` as bundles m0 .. m(count-1): what m(k) gives is (k + 1) times as large."""
    with TemporaryDirectory() as work:
        source = models.dense(Path(work) / "dense.onnx")
        naru.compile(source).save(Path(work) / "dense.naru")
        bundle = read_bundle((Path(work) / "dense.naru").read_bytes())
    sections = {name: bytes(bundle.section(name)) for name in bundle.sections}
    manifest = {k: v for k, v in bundle.manifest.items() if k != "sections"}
    weights = np.frombuffer(sections["weights"], np.float32)
    cases = bundle.golden()
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        scale = np.float32(k + 1)
        golden = [GoldenCase(c.entry, c.inputs, tuple(o * scale for o in c.outputs)) for c in cases]
        own = {"weights": (weights * scale).tobytes(), "golden": pack_golden(golden)}
        write_bundle(folder / f"m{k}.naru", manifest, {**sections, **own})
