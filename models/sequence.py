"""Recurrent networks, dense networks and convolutions over time; one function a model."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from torch import nn

from .recipe import export, initialise

STEPS = {0: "batch", 1: "steps"}


class States(nn.Module):
    """A recurrent network whose only output is the state of every step."""

    def __init__(self, network: nn.RNNBase) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)[0]


def export_recurrent(network: nn.RNNBase, path: Path) -> None:
    """Input `x` [batch, steps, features], output `states` [batch, steps, directions * hidden]."""
    initialise(network)
    x = torch.randn(2, 5, network.input_size)
    export(States(network), {"x": x}, ["states"], path, axes={"x": STEPS, "states": STEPS})


def bilstm(path: Path) -> None:
    torch.manual_seed(20)
    export_recurrent(nn.LSTM(80, 256, num_layers=2, bidirectional=True, batch_first=True), path)


def gru(path: Path) -> None:
    torch.manual_seed(21)
    export_recurrent(nn.GRU(128, 256, batch_first=True), path)


def export_dense(sizes: tuple[int, ...], path: Path) -> None:
    """Dense layers with ReLU between them; input `x` [batch, sizes[0]], output `y`."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    network = nn.Sequential(*layers[:-1])
    initialise(network)
    batch = {0: "batch"}
    export(network, {"x": torch.randn(2, sizes[0])}, ["y"], path, axes={"x": batch, "y": batch})


def mlp_784_200_10(path: Path) -> None:
    torch.manual_seed(22)
    export_dense((784, 200, 10), path)


def mlp_64_128_128_10(path: Path) -> None:
    torch.manual_seed(23)
    export_dense((64, 128, 128, 10), path)


class GatedBlock(nn.Module):
    """WaveNet's block: a causal dilated convolution, tanh times sigmoid, a residual and a skip."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.past = (2 * dilation, 0)
        self.filter = nn.Conv1d(channels, channels, 3, dilation=dilation)
        self.gate = nn.Conv1d(channels, channels, 3, dilation=dilation)
        self.out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        padded = nn.functional.pad(x, self.past)
        skip = self.out(torch.tanh(self.filter(padded)) * torch.sigmoid(self.gate(padded)))
        return x + skip, skip


class Wavenet(nn.Module):
    """Eight gated blocks whose dilation doubles; their skips are added up."""

    def __init__(self, inputs: int, channels: int, blocks: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(inputs, channels, 1)
        self.blocks = nn.ModuleList(GatedBlock(channels, 1 << k) for k in range(blocks))
        self.last = nn.Sequential(
            nn.ReLU(), nn.Conv1d(channels, channels, 1), nn.ReLU(), nn.Conv1d(channels, outputs, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        total = torch.zeros(())
        for block in self.blocks:
            x, skip = block(x)
            total = total + skip
        return self.last(total)


def wavenet(path: Path) -> None:
    torch.manual_seed(24)
    network = Wavenet(32, 64, 8, 64)
    initialise(network)
    export(network, {"x": torch.randn(1, 32, 2000)}, ["y"], path)
