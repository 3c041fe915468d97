"""naru run"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from naru.cli.group import EXISTING, WRITTEN, as_json_option, hugepages_option, no_cache_option
from naru.cli.loading import load_model
from naru.cli.printing import print_json

if TYPE_CHECKING:
    from naru.inputs import Array
    from naru.runtime.model import Model


@click.command("run")
@click.argument("model", type=EXISTING)
@click.option(
    "-i", "--input", "inputs", metavar="[NAME=]FILE", multiple=True,
    help="An .npy or image (in the order of the inputs, or by name), or an .npz; repeatable.",
)  # fmt: skip
@click.option("-o", "--output", type=WRITTEN, help="An .npz, or an .npy for a single output.")
@hugepages_option
@no_cache_option
@as_json_option
def run_command(
    model: Path, inputs: tuple[str, ...], output: Path | None, no_cache: bool, as_json: bool
) -> None:
    """Runs a MODEL (a bundle or a model file) on arrays. Without --output, prints what comes out.

    \b
      naru run model.naru --input x.npy --output y.npy
      naru run model.naru --input ids=ids.npy --input mask=mask.npy --output out.npz
      naru run model.onnx --input all.npz
      naru run model.naru --input photo.jpg
    """
    from naru.cli.classes import print_classes
    from naru.inputs import read_inputs, write_outputs

    loaded = load_model(model, cache=not no_cache)
    results = _by_name(loaded, loaded(read_inputs(loaded.inputs, inputs)))
    if output is not None:
        write_outputs(output, results)
    if as_json:
        print_json({"outputs": [_as_json(n, a, output) for n, a in results.items()]})
    elif output is None:
        told = print_classes(loaded, results)
        _print_arrays({n: a for n, a in results.items() if n not in told})


def _by_name(model: Model, result: Any) -> dict[str, Any]:
    names = [o.name for o in model.outputs]
    return dict(zip(names, result if len(names) > 1 else (result,), strict=True))


def _as_json(name: str, array: Any, output: Path | None) -> dict[str, Any]:
    """What an output is, and its elements in row-major order unless they went into a file; JSON
    lacks NaN and infinities, which become texts. Sequences and maps as they are."""
    if not hasattr(array, "dtype"):
        return {"name": name, "value": _plain(array)}
    about = {"name": name, "dtype": _dtype(array), "shape": list(array.shape)}
    if output is not None:
        return {**about, "file": str(output)}
    return {**about, "values": _plain(array.reshape(-1).tolist())}


def _dtype(array: Any) -> str:
    return "string" if array.dtype == object else array.dtype.name


def _plain(value: Any) -> Any:
    """What JSON can hold."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list):
        return [_plain(v) for v in cast("list[Any]", value)]
    if hasattr(value, "dtype"):
        return _plain(value.tolist())
    finite = not isinstance(value, float) or -float("inf") < value < float("inf")
    return value if finite else str(value)


def _print_arrays(results: dict[str, Any]) -> None:
    import numpy as np

    with np.printoptions(threshold=20, edgeitems=4, linewidth=100):
        for name, value in results.items():
            if not isinstance(value, np.ndarray):
                click.echo(f"{name}:\n{value}")
                continue
            array = cast("Array", value)
            click.echo(f"{name}: {_dtype(array)}[{', '.join(map(str, array.shape))}]\n{array}")
