"""naru compile"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from naru.cli.group import (
    EXISTING,
    WRITTEN,
    as_json_option,
    isa_option,
    no_cache_option,
    precision_option,
    processing_options,
    reading_options,
)
from naru.cli.loading import compile_source
from naru.cli.printing import join, print_json, say
from naru.cli.progress import progress
from naru.errors import InputError
from naru.units import format_bytes

if TYPE_CHECKING:
    from naru.frontend.reading import Reading
    from naru.processing import Processing


@click.command("compile")
@click.argument("model", type=EXISTING)
@click.option("-o", "--output", type=WRITTEN, help="Where to write. Default: beside the model.")
@isa_option
@click.option(
    "--fallback", metavar="NAME",
    help="A lesser target that the bundle has code for too, for CPUs that lack --isa.",
)  # fmt: skip
@precision_option
@processing_options
@reading_options
@no_cache_option
@as_json_option
def compile_command(
    model: Path,
    output: Path | None,
    isa: str,
    fallback: str | None,
    precision: str,
    processing: Processing,
    reading: Reading,
    no_cache: bool,
    as_json: bool,
) -> None:
    """Compiles a MODEL (of ONNX, PyTorch, scikit-learn, LightGBM, XGBoost) into a bundle.

    \b
      naru compile model.onnx                        writes model.naru, for this CPU
      naru compile model.onnx -o m.naru --isa avx2   for any CPU with AVX2
      naru compile model.onnx --isa amx --fallback avx512
      naru compile model.onnx --precision strict     bit-equal on all FMA targets
      naru compile model.onnx --preprocess 'image(mean=imagenet, std=imagenet)' --top 2
      naru compile credit.txt                        LightGBM's and XGBoost's own files
      naru compile net.pt2                           a program that torch.export saved
      naru compile weights.pt --module net:Net --input 'x: f32[batch, 3, 32, 32]'
      naru compile pipeline.pkl --trust-pickle       scikit-learn
    """
    from naru.explain.host import count_kernels, host_operators, interface

    output = output or model.with_suffix(".naru")
    if model.suffix == ".naru":
        raise InputError(f"{model} is a bundle already", hint=f"naru run {model}")
    if output == model:
        raise InputError(f"{model}: the output would replace the model", hint="another -o")
    start = time.perf_counter()
    made = compile_source(
        model,
        isa,
        precision,
        cache=not no_cache,
        fallback=fallback,
        processing=processing,
        reading=reading,
    )
    with progress(f"writing {output.name}"):
        made.save(output)
    inputs, outputs = interface(made)
    seconds = time.perf_counter() - start
    size = output.stat().st_size
    kernels, on_host = count_kernels(made), host_operators(made)
    target: str = made.manifest["target"]["name"]
    lesser: dict[str, Any] | None = made.manifest.get("fallback")
    if as_json:
        print_json(
            {
                "output": str(output),
                "bytes": size,
                "target": target,
                "fallback": lesser,
                "precision": precision,
                "kernels": kernels,
                "host": list(on_host),
                "seconds": round(seconds, 3),
                "inputs": list(map(str, inputs)),
                "outputs": list(map(str, outputs)),
            }
        )
        return
    say(
        f"{output}: {format_bytes(size)}, {kernels} kernels for {target}, {seconds:.2f} s\n"
        f"  inputs   {join(inputs)}\n  outputs  {join(outputs)}"
        + (f"\n  fallback {lesser['target']}, {format_bytes(lesser['bytes'])}" if lesser else "")
        + (f"\n  on the host: {', '.join(on_host)}" if on_host else "")
    )
