"""naru compile"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from naru.cli.group import (
    EXISTING,
    WRITTEN,
    as_json_option,
    isa_option,
    no_cache_option,
    precision_option,
)
from naru.cli.loading import compile_source
from naru.cli.printing import bytes_text, join, print_json, say
from naru.cli.progress import progress
from naru.errors import InputError


@click.command("compile")
@click.argument("model", type=EXISTING)
@click.option("-o", "--output", type=WRITTEN, help="Where to write. Default: beside the model.")
@isa_option
@precision_option
@no_cache_option
@as_json_option
def compile_command(
    model: Path, output: Path | None, isa: str, precision: str, no_cache: bool, as_json: bool
) -> None:
    """Compiles an ONNX MODEL into a bundle.

    \b
      naru compile model.onnx                        writes model.naru, for this CPU
      naru compile model.onnx -o m.naru --isa avx2   for any CPU with AVX2
      naru compile model.onnx --precision strict     bit-equal on all FMA targets
    """
    output = output or model.with_suffix(".naru")
    if model.suffix == ".naru":
        raise InputError(f"{model} is a bundle already", hint=f"naru run {model}")
    if output == model:
        raise InputError(f"{model}: the output would replace the model", hint="another -o")
    start = time.perf_counter()
    made = compile_source(model, isa, precision, cache=not no_cache)
    with progress(f"writing {output.name}"):
        made.save(output)
    main_entry = made.entries[0]
    seconds = time.perf_counter() - start
    size = output.stat().st_size
    kernels: Sequence[Any] = made.manifest.get("kernels", [])
    target: str = made.manifest["target"]["name"]
    if as_json:
        print_json(
            {
                "output": str(output),
                "bytes": size,
                "target": target,
                "precision": precision,
                "kernels": len(kernels),
                "seconds": round(seconds, 3),
                "inputs": list(map(str, main_entry.inputs)),
                "outputs": list(map(str, main_entry.outputs)),
            }
        )
        return
    say(
        f"{output}: {bytes_text(size)}, {len(kernels)} kernels for {target}, {seconds:.2f} s\n"
        f"  inputs   {join(main_entry.inputs)}\n  outputs  {join(main_entry.outputs)}"
    )
