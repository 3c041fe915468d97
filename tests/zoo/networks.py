"""Whole networks: two of the named models (`models/catalog.py`), and small transformer encoders.

They are exported with nothing folded: that is the compiler's work, and what we want to test. Their
weights follow `models/recipe.py`, and files are kept as `models/kept.py` says.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from models.catalog import MODELS, RECIPE
from models.kept import kept

from .build import add


def resnet50() -> onnx.ModelProto:
    """ResNet-50 v1.5 (stride in the 3x3), input `image` [1, 3, 224, 224]; 1,000 logits."""
    return onnx.load(MODELS["resnet50"].path())


def tiny_resnet() -> onnx.ModelProto:
    """The same blocks, one per stage, an eighth as wide, on 32x32: runs in a millisecond."""
    return onnx.load(MODELS["tiny_resnet"].path())


def transformer(
    layers: int = 2, d: int = 128, heads: int = 4, ff: int = 512, *, post_norm: bool = False
) -> onnx.ModelProto:
    """An encoder on float `x` [batch, seq, d]; batch and seq symbolic, Shape chains kept."""
    path = kept(
        f"transformer_{layers}_{d}_{heads}_{ff}_{'post' if post_norm else 'pre'}",
        lambda path: _export_transformer(layers, d, heads, ff, post_norm, path),
        sources=(Path(__file__), RECIPE),
        libraries=("torch",),
    )
    return onnx.load(path)


def _export_transformer(
    layers: int, d: int, heads: int, ff: int, post_norm: bool, path: Path
) -> None:
    import torch
    from torch import nn

    from models.recipe import export, initialise

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
            self.project = nn.Linear(d, d)
            self.up, self.down = nn.Linear(d, ff), nn.Linear(ff, d)
            self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)

        def split(self, x: torch.Tensor) -> torch.Tensor:
            return x.view(x.shape[0], x.shape[1], heads, d // heads).transpose(1, 2)

        def attend(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
            scores = q @ k.transpose(-1, -2) / (d // heads) ** 0.5
            mixed = (torch.softmax(scores, dim=-1) @ v).transpose(1, 2)
            return self.project(mixed.reshape(mixed.shape[0], mixed.shape[1], d))

        def feed_forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down(nn.functional.gelu(self.up(x)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if post_norm:
                x = self.norm1(x + self.attend(x))
                return self.norm2(x + self.feed_forward(x))
            x = x + self.attend(self.norm1(x))
            return x + self.feed_forward(self.norm2(x))

    torch.manual_seed(0)
    network = nn.Sequential(*(Block() for _ in range(layers)))
    if not post_norm:
        network.append(nn.LayerNorm(d))
    initialise(network)
    axes = {"x": {0: "batch", 1: "seq"}, "y": {0: "batch", 1: "seq"}}
    export(network, {"x": torch.randn(2, 5, d)}, ["y"], path, axes=axes, as_written=True)


add(
    "tiny_resnet",
    tiny_resnet,
    sizes=({"batch": 1}, {"batch": 3}),
    tolerance=1e-4,
    tags=("network",),
)
for post_norm in (False, True):
    add(
        f"transformer_{'post' if post_norm else 'pre'}_norm",
        lambda post_norm=post_norm: transformer(post_norm=post_norm),
        sizes=({"batch": 1, "seq": 1}, {"batch": 2, "seq": 9}, {"batch": 1, "seq": 64}),
        tolerance=1e-4,
        tags=("network",),
    )
