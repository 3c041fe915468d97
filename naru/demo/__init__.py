"""The demo: two networks trained on handwritten digits, run on 200 images they never saw."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from naru.compiler import compile as compile_model
from naru.runtime.model import Model

FOLDER = Path(__file__).parent
MODELS = {"digits_mlp": (64,), "digits_cnn": (1, 8, 8)}  # name -> shape of one image


@dataclass(frozen=True)
class Result:
    """What the demo found out about one model. Times are seconds."""

    name: str
    compile_seconds: float
    accuracy: float
    one_image: float
    all_images: float
    images: int
    kernels: list[dict[str, Any]]


def load_images() -> tuple[np.ndarray, np.ndarray]:
    """(images float32 [200, 8, 8] in 0..1, labels [200]): held out when the models were trained."""
    with np.load(FOLDER / "digits_test.npz") as data:
        return data["images"].astype(np.float32) / 16, data["labels"]


def shortest(model: Model, x: np.ndarray, *, rounds: int = 200) -> float:
    """The fastest of several calls, in seconds."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        model(x)
        best = min(best, time.perf_counter() - start)
    return best


def run(name: str) -> tuple[Model, Result]:
    """Compiles one of MODELS, classifies the images and times it."""
    images, labels = load_images()
    x = np.ascontiguousarray(images.reshape(len(images), *MODELS[name]))
    start = time.perf_counter()
    model = compile_model(FOLDER / f"{name}.onnx")
    seconds = time.perf_counter() - start
    logits = model(x)
    accuracy = float((np.asarray(logits).argmax(axis=1) == labels).mean())
    result = Result(
        name,
        seconds,
        accuracy,
        shortest(model, x[:1]),
        shortest(model, x, rounds=50),
        len(x),
        model.manifest["kernels"],
    )
    return model, result


def show() -> None:
    """Prints what `run` finds for both models, as tables for people."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for name in MODELS:
        _, r = run(name)
        console.print(
            f"[bold]{r.name}.onnx[/bold]: compiled in {r.compile_seconds:.2f} s; "
            f"{r.accuracy:.1%} of {r.images} held-out digits right; "
            f"{r.one_image * 1e6:.2f} µs for one image, {r.all_images * 1e6:.0f} µs for all"
        )
        table = Table("kernel", "operators", "result", "code", title_justify="left")
        for k in r.kernels:
            table.add_row(k["name"], " · ".join(k["ops"]), k["shape"], f"{k['size']} B")
        console.print(table)
    console.print("Look inside: [bold]naru explain[/bold], [bold]naru doctor[/bold].")
