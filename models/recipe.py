"""Weights that behave like trained ones, and the export to ONNX.

No weights are downloaded. What matters of trained weights for a test or a benchmark is that
activations stay around 1: rounding errors are then as small as in a real model, and nothing is
denormal, infinite or dead, which would change both results and times. So:

* convolutions: He initialisation; dense layers and embeddings: Xavier;
* norms: gammas within 10 % of 1 and small betas, all different (an exporter shares equal ones);
* the last gamma of each residual branch around 0.2: without that the activations of a deep residual
  network grow until every rounding error is magnified;
* the statistics of batch norms are measured, on normal inputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

OPSET = 17
SMALL_GAMMA = 0.2
MEASURED_BATCHES = 2

Axes = Mapping[int, str]


def initialise(network: nn.Module, small: Sequence[nn.Module] = ()) -> None:
    """Fills the weights of the usual layers; `small` are the norms that end residual branches."""
    endings = {id(module) for module in small}
    for module in network.modules():
        bias = getattr(module, "bias", None)
        if isinstance(module, nn.modules.conv._ConvNd):
            _he(module)
        elif isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":  # GPT-2's linear
            nn.init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
        elif isinstance(module, nn.RNNBase):
            _recurrent(module)
        elif isinstance(module, _BatchNorm | nn.LayerNorm | nn.GroupNorm):
            middle = SMALL_GAMMA if id(module) in endings else 1.0
            nn.init.uniform_(module.weight, 0.9 * middle, 1.1 * middle)
        else:
            continue
        if isinstance(bias, torch.Tensor):
            nn.init.normal_(bias, std=0.05)


def _he(module: nn.modules.conv._ConvNd) -> None:
    """std = sqrt(2 / products that are added up in one output element)."""
    taps = 1
    for size, stride in zip(module.kernel_size, module.stride, strict=True):
        # A transposed convolution scatters: stride s leaves each output 1/s of the taps.
        taps *= size // stride if module.transposed else size
    nn.init.normal_(module.weight, std=(2 * module.groups / (taps * module.in_channels)) ** 0.5)


def _recurrent(module: nn.RNNBase) -> None:
    """Xavier from the input, orthogonal from the state, so that the state neither grows nor fades.
    Each weight holds the matrices of all gates, one below the other."""
    for name, weight in module.named_parameters():
        for gate in weight.data.split(module.hidden_size):
            if name.startswith("weight_ih"):
                nn.init.xavier_uniform_(gate)
            elif name.startswith("weight_hh"):
                nn.init.orthogonal_(gate)
            else:
                nn.init.normal_(gate, std=0.05)


def measure_norms(network: nn.Module, shape: Sequence[int]) -> None:
    """Sets the statistics of all batch norms to those of normal inputs of this shape."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the average of all batches that follow
    network.train()
    with torch.no_grad():
        for _ in range(MEASURED_BATCHES):
            network(torch.randn(*shape))
    for norm in norms:
        norm.momentum = 0.1
    network.eval()


def export(
    network: nn.Module,
    examples: Mapping[str, torch.Tensor],
    outputs: Sequence[str],
    path: Path,
    *,
    axes: Mapping[str, Axes] | None = None,
    as_written: bool = False,
) -> None:
    """Writes ONNX as `torch.onnx.export` does it when asked for nothing special.

    `examples` are traced, by input name: a symbolic size in `axes` must not be 1 there, or it
    becomes a constant. With `as_written` nothing is folded and batch norms stay nodes of their own.
    """
    unfolded = {
        "training": torch.onnx.TrainingMode.PRESERVE,
        "do_constant_folding": False,
    }
    with warnings.catch_warnings():
        # The exporter that traces is deprecated, but it is what most files out there come from,
        # and the newer one folds the shape chains away.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            tuple(examples.values()),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(examples),
            output_names=list(outputs),
            dynamic_axes={name: dict(named) for name, named in (axes or {}).items()},
            **(unfolded if as_written else {}),
        )
