"""Convolutional networks, written in torch as torchvision writes them; one function a model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from .recipe import export, initialise, measure_norms

CLASSES = 1000


CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def conv_norm(
    channels: int, width: int, size: int, stride: int = 1, *, groups: int = 1, dims: int = 2
) -> nn.Sequential:
    """A convolution that keeps the size, up to its stride, with a batch norm in place of a bias."""
    convolution = CONVOLUTION[dims](
        channels, width, size, stride, padding=size // 2, groups=groups, bias=False
    )
    return nn.Sequential(convolution, NORM[dims](width))


def shortcut(channels: int, width: int, stride: int, dims: int = 2) -> nn.Module | None:
    """A projection where the branch changes the shape, else None."""
    if stride == 1 and channels == width:
        return None
    return conv_norm(channels, width, 1, stride, dims=dims)


class Basic(nn.Module):
    """Two convolutions of size 3 beside a shortcut: the block of ResNet-18."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, dims: int = 2) -> None:
        super().__init__()
        self.first = conv_norm(channels, width, 3, stride, dims=dims)
        self.last = conv_norm(width, width, 3, dims=dims)
        self.shortcut = shortcut(channels, width, stride, dims)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.last(torch.relu(self.first(x)))
        return torch.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride (v1.5), 1x1, beside a shortcut: the block of ResNet-50."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = conv_norm(channels, width, 1)
        self.middle = conv_norm(width, width, 3, stride)
        self.last = conv_norm(width, 4 * width, 1)
        self.shortcut = shortcut(channels, 4 * width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.last(torch.relu(self.middle(torch.relu(self.first(x)))))
        return torch.relu(y + (x if self.shortcut is None else self.shortcut(x)))


def make_resnet(
    block: type[Basic] | type[Bottleneck], counts: tuple[int, ...], width: int, classes: int
) -> nn.Sequential:
    layers: list[nn.Module] = [
        conv_norm(3, width, 7, 2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1),
    ]
    channels = width
    for stage, count in enumerate(counts):
        for position in range(count):
            stride = 2 if stage > 0 and position == 0 else 1
            layers.append(block(channels, width << stage, stride))
            channels = block.expansion * (width << stage)
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    )


def prepare(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Weights by the recipe. A residual block ends its branch with the conv_norm called `last`."""
    blocks = (Basic, Bottleneck, Inverted)
    initialise(network, [m.last[1] for m in network.modules() if isinstance(m, blocks)])
    measure_norms(network, shape)
    return network


def export_image(
    network: nn.Module, path: Path, size: int, *, symbolic: bool = False, as_written: bool = False
) -> None:
    """One input `image` [1 or "batch", 3, size, size], one output `logits`."""
    axes = {"image": {0: "batch"}, "logits": {0: "batch"}} if symbolic else None
    image = torch.randn(2 if symbolic else 1, 3, size, size)
    export(network, {"image": image}, ["logits"], path, axes=axes, as_written=as_written)


def resnet18(path: Path) -> None:
    torch.manual_seed(18)
    network = make_resnet(Basic, (2, 2, 2, 2), 64, CLASSES)
    export_image(prepare(network, (4, 3, 224, 224)), path, 224, symbolic=True)


def resnet50(path: Path) -> None:
    torch.manual_seed(50)
    network = make_resnet(Bottleneck, (3, 4, 6, 3), 64, CLASSES)
    export_image(prepare(network, (4, 3, 224, 224)), path, 224, as_written=True)


def tiny_resnet(path: Path) -> None:
    torch.manual_seed(0)
    network = make_resnet(Bottleneck, (1, 1, 1, 1), 8, 10)
    export_image(prepare(network, (4, 3, 32, 32)), path, 32, symbolic=True, as_written=True)


class SqueezeExcite(nn.Module):
    """Scales each channel by what a small network makes of all channels' means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, squeezed, 1)
        self.up = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = nn.functional.silu(self.down(nn.functional.adaptive_avg_pool2d(x, 1)))
        return x * torch.sigmoid(self.up(scale))


class Inverted(nn.Module):
    """1x1 wider, depthwise, (squeeze-excite,) 1x1 narrower; MobileNetV2's and EfficientNet's."""

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        ratio: int,
        size: int,
        stride: int,
        activation: type[nn.Module],
        excite: bool,
    ) -> None:
        super().__init__()
        hidden = ratio * channels
        layers: list[nn.Module] = []
        if ratio != 1:
            layers += [conv_norm(channels, hidden, 1), activation()]
        layers += [conv_norm(hidden, hidden, size, stride, groups=hidden), activation()]
        if excite:
            layers.append(SqueezeExcite(hidden, max(1, channels // 4)))
        self.layers = nn.Sequential(*layers)
        self.last = conv_norm(hidden, width, 1)
        self.residual = stride == 1 and channels == width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.last(self.layers(x))
        return x + y if self.residual else y


def make_inverted(
    stages: tuple[tuple[int, int, int, int, int], ...],
    last: int,
    activation: type[nn.Module],
    *,
    excite: bool,
) -> nn.Sequential:
    """`stages` lists (expansion ratio, width, blocks, stride of the first, kernel size)."""
    layers: list[nn.Module] = [conv_norm(3, 32, 3, 2), activation()]
    channels = 32
    for ratio, width, count, stride, size in stages:
        for position in range(count):
            layers.append(
                Inverted(
                    channels,
                    width,
                    ratio=ratio,
                    size=size,
                    stride=stride if position == 0 else 1,
                    activation=activation,
                    excite=excite,
                )
            )
            channels = width
    return nn.Sequential(
        *layers,
        conv_norm(channels, last, 1),
        activation(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(last, CLASSES),
    )


def mobilenet_v2(path: Path) -> None:
    torch.manual_seed(2)
    stages = (
        (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 32, 3, 2, 3), (6, 64, 4, 2, 3),
        (6, 96, 3, 1, 3), (6, 160, 3, 2, 3), (6, 320, 1, 1, 3),
    )  # fmt: skip
    network = make_inverted(stages, 1280, nn.ReLU6, excite=False)
    export_image(prepare(network, (4, 3, 224, 224)), path, 224)


def efficientnet_b0(path: Path) -> None:
    torch.manual_seed(3)
    stages = (
        (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3),
    )  # fmt: skip
    network = make_inverted(stages, 1280, nn.SiLU, excite=True)
    export_image(prepare(network, (4, 3, 224, 224)), path, 224)


class Unet(nn.Module):
    """A U-Net of depth 2, 32 channels at full size: 12.7 GFLOP on 256x256."""

    def __init__(self, channels: int = 3, width: int = 32, classes: int = 2) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.down1 = two_convolutions(channels, width)
        self.down2 = two_convolutions(width, 2 * width)
        self.bottom = two_convolutions(2 * width, 4 * width)
        self.grow2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.up2 = two_convolutions(4 * width, 2 * width)
        self.grow1 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.up1 = two_convolutions(2 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        full = self.down1(x)
        half = self.down2(self.pool(full))
        quarter = self.bottom(self.pool(half))
        half = self.up2(torch.cat((half, self.grow2(quarter)), dim=1))
        return self.head(self.up1(torch.cat((full, self.grow1(half)), dim=1)))


def two_convolutions(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        conv_norm(channels, width, 3), nn.ReLU(), conv_norm(width, width, 3), nn.ReLU()
    )


def unet(path: Path) -> None:
    torch.manual_seed(5)
    network = prepare(Unet(), (2, 3, 256, 256))
    export(network, {"image": torch.randn(1, 3, 256, 256)}, ["mask"], path)


def video3d(path: Path) -> None:
    torch.manual_seed(6)
    network = nn.Sequential(
        nn.Conv3d(3, 16, (3, 7, 7), (1, 2, 2), padding=(1, 3, 3), bias=False),
        nn.BatchNorm3d(16),
        nn.ReLU(),
        nn.MaxPool3d((1, 3, 3), (1, 2, 2), padding=(0, 1, 1)),
        Basic(16, 16, 1, dims=3),
        Basic(16, 32, 2, dims=3),
        Basic(32, 64, 2, dims=3),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(64, 101),
    )
    prepare(network, (2, 3, 8, 112, 112))
    export(network, {"clip": torch.randn(1, 3, 8, 112, 112)}, ["logits"], path)
