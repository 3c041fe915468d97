"""Whole networks, written in torch and exported to ONNX with their BatchNormalization kept.

Weights are random but behave like trained ones: He or Xavier initialisation, batch-norm statistics
measured on a few batches, and a small last gamma in each residual branch. Without the small gamma
the activations of a deep residual network grow until every rounding error is magnified, and a
comparison says nothing about the compiler.

An export is kept under `$NARU_TEST_CACHE` (default `~/.cache/naru-tests`), keyed by this file's
text and torch's version, so that it happens once.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from .build import add

if TYPE_CHECKING:
    import torch

OPSET = 17


def resnet50(batch: int | str = 1) -> onnx.ModelProto:
    """ResNet-50 v1.5 (stride in the 3x3), input `image` [batch, 3, 224, 224]; 1,000 logits."""
    return _cached(
        f"resnet50_{batch}", lambda path: _export_resnet((3, 4, 6, 3), 64, 224, 1000, batch, path)
    )


def tiny_resnet(batch: int | str = "batch") -> onnx.ModelProto:
    """The same blocks, one per stage, an eighth as wide, on 32x32: runs in a millisecond."""
    return _cached(
        f"tiny_resnet_{batch}", lambda path: _export_resnet((1, 1, 1, 1), 8, 32, 10, batch, path)
    )


def transformer(
    layers: int = 2, d: int = 128, heads: int = 4, ff: int = 512, *, post_norm: bool = False
) -> onnx.ModelProto:
    """An encoder on float `x` [batch, seq, d]; batch and seq symbolic, Shape chains kept."""
    name = f"transformer_{layers}_{d}_{heads}_{ff}_{'post' if post_norm else 'pre'}"
    return _cached(name, lambda path: _export_transformer(layers, d, heads, ff, post_norm, path))


def cache_folder() -> Path:
    """Where exports are kept: outside the repository, for they are large and can be made again."""
    default = Path.home() / ".cache" / "naru-tests"
    return Path(os.environ.get("NARU_TEST_CACHE") or default)


def _cached(name: str, export: Callable[[Path], None]) -> onnx.ModelProto:
    import torch

    key = hashlib.sha256(Path(__file__).read_bytes() + torch.__version__.encode()).hexdigest()[:12]
    path = cache_folder() / f"{name}-{key}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Two test processes may both be here; a rename is all-or-nothing, so neither reads half.
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        export(unfinished)
        unfinished.replace(path)
        for outdated in set(path.parent.glob(f"{name}-*.onnx")) - {path}:
            outdated.unlink(missing_ok=True)
    return onnx.load(path)


def _export(
    module: torch.nn.Module,
    example: torch.Tensor,
    path: Path,
    input_name: str,
    output_name: str,
    dynamic_axes: dict[str, dict[int, str]],
) -> None:
    """Writes ONNX with nothing folded: that is the compiler's work, and what we want to test."""
    import torch

    with warnings.catch_warnings():
        # The exporter that traces is deprecated, but the newer one folds the shape chains away.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (example,),
            path,
            dynamo=False,
            opset_version=OPSET,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            input_names=[input_name],
            output_names=[output_name],
            dynamic_axes=dynamic_axes,
        )


def _export_resnet(
    blocks: tuple[int, ...], width: int, size: int, classes: int, batch: int | str, path: Path
) -> None:
    import torch
    from torch import nn

    class Bottleneck(nn.Module):
        def __init__(self, channels: int, width: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
            self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(4 * width)
            self.downsample = None
            if stride != 1 or channels != 4 * width:
                self.downsample = nn.Sequential(
                    nn.Conv2d(channels, 4 * width, 1, stride, bias=False),
                    nn.BatchNorm2d(4 * width),
                )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(self.bn1(self.conv1(x)))
            y = torch.relu(self.bn2(self.conv2(y)))
            y = self.bn3(self.conv3(y))
            return torch.relu(y + (x if self.downsample is None else self.downsample(x)))

    torch.manual_seed(0)
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 7, 2, padding=3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1),
    ]
    channels = width
    for stage, count in enumerate(blocks):
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(Bottleneck(channels, width << stage, stride))
            channels = 4 * (width << stage)
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    network = nn.Sequential(*layers)

    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    last_norms = {id(m.bn3) for m in network.modules() if isinstance(m, Bottleneck)}
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    for norm in norms:
        # Gammas differ by a little, or the exporter would let all layers share one initialiser.
        middle = 0.2 if id(norm) in last_norms else 1.0
        nn.init.uniform_(norm.weight, 0.9 * middle, 1.1 * middle)
        nn.init.normal_(norm.bias, std=0.05)
        norm.momentum = None  # average over all batches that follow
    network.train()
    with torch.no_grad():
        for _ in range(2):
            network(torch.randn(4, 3, size, size))
    for norm in norms:
        norm.momentum = 0.1

    axes = {"image": {0: batch}, "logits": {0: batch}} if isinstance(batch, str) else {}
    # A batch of 1 would be traced as a constant in a symbolic export.
    example = torch.randn(batch if isinstance(batch, int) else 2, 3, size, size)
    _export(network, example, path, "image", "logits", axes)


def _export_transformer(
    layers: int, d: int, heads: int, ff: int, post_norm: bool, path: Path
) -> None:
    import torch
    from torch import nn

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
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.normal_(module.bias, std=0.02)
        elif isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.bias, std=0.05)
    axes = {"x": {0: "batch", 1: "seq"}, "y": {0: "batch", 1: "seq"}}
    _export(network, torch.randn(2, 5, d), path, "x", "y", axes)


add(
    "tiny_resnet",
    tiny_resnet,
    sizes=({"batch": 1}, {"batch": 3}),
    tolerance=1e-4,
    tags=("network",),
)
add("resnet50", resnet50, tolerance=1e-4, slow=True, tags=("network", "large"))
for post_norm in (False, True):
    add(
        f"transformer_{'post' if post_norm else 'pre'}_norm",
        lambda post_norm=post_norm: transformer(post_norm=post_norm),
        sizes=({"batch": 1, "seq": 1}, {"batch": 2, "seq": 9}, {"batch": 1, "seq": 64}),
        tolerance=1e-4,
        tags=("network",),
    )
