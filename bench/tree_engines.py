"""Adapters (see `naru.bench.engines`) of what runs tree ensembles, for bench/trees.py.

A case is a folder: `model.txt` (LightGBM) or `model.json` (XGBoost), `model.onnx` of the same
trees, `model.naru`, and what the compilers among the rivals have made once. The one feed is a
matrix; the ways are batches of its rows, in turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from naru.bench.engines import Files, Way
from naru.bench.feeds import Array, Feed

BATCHES = (1, 100, 10_000)
DIFFERENT = 4096  # rows at least that come in turn, so that branches are not learnt


class TreeEngine:
    """What all have in common. `_open` gives a function from a matrix to predictions."""

    package = ""

    def __init__(self, threads: int) -> None:
        self.version = metadata.version(self.package)
        self.threads = threads
        self.settings: dict[str, Any] = {"threads": threads}

    def _open(self, model: Path) -> Callable[[Array], Any]:
        raise NotImplementedError

    def load(self, files: Files, feed: Feed) -> None:
        self._predict = self._open(Path(files.model))

    def ways(self, feeds: Sequence[Feed]) -> dict[str, Way]:
        rows = feeds[0]["features"]
        return {str(b): Way(self._predict, _batches(rows, b)) for b in BATCHES}

    def outputs(self, feed: Feed) -> list[Array]:
        return [np.asarray(self._predict(feed["features"]))]


def _batches(rows: Array, size: int) -> list[Array]:
    count = max(2, DIFFERENT // size)
    return [np.ascontiguousarray(rows[k * size : (k + 1) * size]) for k in range(count)]


class Naru(TreeEngine):
    package = "naru"

    def _open(self, model: Path) -> Callable[[Array], Any]:
        from naru.runtime.session import load

        return load(model.with_suffix(".naru"), threads=self.threads)


class LightGBM(TreeEngine):
    package = "lightgbm"

    def _open(self, model: Path) -> Callable[[Array], Any]:
        import lightgbm

        booster = lightgbm.Booster(model_file=str(model))
        return lambda rows: booster.predict(rows, num_threads=self.threads)


class XGBoost(TreeEngine):
    package = "xgboost-cpu"

    def _open(self, model: Path) -> Callable[[Array], Any]:
        import xgboost

        booster = xgboost.Booster({"nthread": self.threads}, model_file=str(model))
        return booster.inplace_predict


class OnnxRuntime(TreeEngine):
    package = "onnxruntime"

    def _open(self, model: Path) -> Callable[[Array], Any]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        path = str(model.with_suffix(".onnx"))
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda rows: session.run(None, {"features": rows})[0]


class Lleaves(TreeEngine):
    """Compiles LightGBM's trees to branches, by LLVM. Its code is kept beside the model."""

    package = "lleaves"

    def _open(self, model: Path) -> Callable[[Array], Any]:
        import lleaves

        made = lleaves.Model(model_file=str(model))
        with _noting(model.with_suffix(".lleaves")) as compiled:
            made.compile(cache=str(compiled))
        return lambda rows: made.predict(rows, n_jobs=self.threads)


class Tl2cgen(TreeEngine):
    """Treelite's trees as C, compiled by GCC. Its library is kept beside the model."""

    package = "tl2cgen"

    def _open(self, model: Path) -> Callable[[Array], Any]:
        import tl2cgen
        import treelite

        lightgbm = model.suffix == ".txt"
        with _noting(model.with_suffix(".so")) as library:
            if not library.exists():
                read = (
                    treelite.frontend.load_lightgbm_model
                    if lightgbm
                    else treelite.frontend.load_xgboost_model
                )
                tl2cgen.export_lib(
                    read(model), toolchain="gcc", libpath=library, params={"parallel_comp": 16}
                )
        predictor = tl2cgen.Predictor(library, nthread=self.threads)
        dtype = "float64" if lightgbm else "float32"
        return lambda rows: predictor.predict(tl2cgen.DMatrix(rows, dtype=dtype))


class _noting:
    """Notes how long it took to make a file, beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Path:
        self.there, self.start = self.path.exists(), time.perf_counter()
        return self.path

    def __exit__(self, *_: object) -> None:
        if not self.there and self.path.exists():
            seconds = time.perf_counter() - self.start
            self.path.with_name(f"{self.path.name}.seconds").write_text(f"{seconds:.2f}\n")
