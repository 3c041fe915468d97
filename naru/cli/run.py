"""naru run"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from naru.cli.group import EXISTING, WRITTEN, no_cache_option
from naru.cli.loading import load_model

if TYPE_CHECKING:
    from naru.runtime.session import Model


@click.command("run")
@click.argument("model", type=EXISTING)
@click.option(
    "-i", "--input", "inputs", metavar="[NAME=]FILE", multiple=True,
    help="An .npy (in the order of the inputs, or by name) or an .npz with names; repeatable.",
)  # fmt: skip
@click.option("-o", "--output", type=WRITTEN, help="An .npz, or an .npy for a single output.")
@no_cache_option
def run_command(model: Path, inputs: tuple[str, ...], output: Path | None, no_cache: bool) -> None:
    """Runs a MODEL, a bundle or an ONNX file, on arrays. Without --output, prints what comes out.

    \b
      naru run model.naru --input x.npy --output y.npy
      naru run model.naru --input ids=ids.npy --input mask=mask.npy --output out.npz
      naru run model.onnx --input all.npz
    """
    from naru.inputs import read_inputs, write_outputs

    loaded = load_model(model, cache=not no_cache)
    results = _by_name(loaded, loaded(read_inputs(loaded.inputs, inputs)))
    if output is not None:
        write_outputs(output, results)
        return
    import numpy as np

    with np.printoptions(threshold=20, edgeitems=4, linewidth=100):
        for name, array in results.items():
            shape = ", ".join(map(str, array.shape))
            click.echo(f"{name}: {array.dtype.name}[{shape}]\n{array}")


def _by_name(model: Model, result: Any) -> dict[str, Any]:
    names = [o.name for o in model.outputs]
    return dict(zip(names, result if len(names) > 1 else (result,), strict=True))
