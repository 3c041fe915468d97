"""Train the model of `naru demo --web`, which reads digits that people draw.

It takes a drawing of 64 x 64 pixels, finds the ink, centres and shrinks it to 16 x 16 by operators
of its own (a page has nothing to prepare), and classifies that with a small convolutional network.
It learns from the digits of train_digits.py, enlarged, and from strokes.py. Run from the root:

    python -m models.train_drawn

It takes some minutes on one thread and writes `naru/demo/digits_drawn.onnx`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import nn
from torch.nn import functional as F

from models.strokes import SIDE, write
from models.train_digits import EPSILON, SEED, initializer, load_split

CELLS = 16  # of a side of what the network sees
FILLED = 14.0  # of them, by the longer side of the drawing
INK = 0.3  # what is darker belongs to the drawing
LEAST = 8.0  # pixels: what is smaller is not enlarged to FILLED
WRITTEN = 8000  # pictures from strokes.py
EPOCHS = 20
SOURCE = (
    "Trained by models/train_drawn.py of naru on the UCI 'Optical Recognition of Handwritten "
    "Digits' data (E. Alpaydin, C. Kaynak, CC BY 4.0) as shipped with scikit-learn, and on drawn "
    "strokes."
)


# ---- finding the drawing, in PyTorch and in ONNX ----


def centre(drawing: torch.Tensor) -> torch.Tensor:
    """[n, 1, 64, 64] -> [n, 1, CELLS, CELLS]: each cell is the mean of the square that it covers,
    by two matrix products with the overlaps of cells and pixels."""
    at = torch.arange(SIDE, dtype=torch.float32)

    def ends(line: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inked = line > INK
        none = torch.tensor(float(SIDE)), torch.tensor(0.0)
        return torch.where(inked, at, none[0]).amin(1), torch.where(inked, at + 1, none[1]).amax(1)

    (top, bottom), (left, right) = ends(drawing.amax((1, 3))), ends(drawing.amax((1, 2)))
    longer = torch.maximum(bottom - top, right - left).clamp(min=LEAST)
    cell = (longer / FILLED)[:, None, None]

    def overlaps(middle: torch.Tensor) -> torch.Tensor:
        begin = middle[:, None, None] + _offsets()[:, None] * cell
        end = begin + cell
        covered = torch.minimum(end, at + 1) - torch.maximum(begin, at)
        return covered.clamp(min=0) / cell

    rows, columns = overlaps((top + bottom) / 2), overlaps((left + right) / 2)
    return (rows @ drawing[:, 0] @ columns.transpose(1, 2))[:, None]


def _offsets() -> torch.Tensor:
    return torch.arange(CELLS, dtype=torch.float32) - CELLS / 2


class Nodes:
    """A graph as it grows: nodes and constants."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []

    def add(self, name: str, op_type: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name, **attributes))
        return name

    def constant(self, name: str, values: Any) -> str:
        self.constants.append(initializer(name, torch.as_tensor(values, dtype=torch.float32)))
        return name


def add_centre(g: Nodes) -> str:
    """`centre`, of the value `drawing`."""
    at = g.constant("at", torch.arange(SIDE))
    behind = g.constant("behind", torch.arange(SIDE) + 1)
    none, all_ = g.constant("none", 0.0), g.constant("all", float(SIDE))
    ink, half = g.constant("ink", INK), g.constant("half", 0.5)
    middles: dict[str, str] = {}
    lengths: list[str] = []
    for axis, over in (("rows", [1, 3]), ("columns", [1, 2])):
        line = g.add(f"{axis}.line", "ReduceMax", "drawing", axes=over, keepdims=0)
        inked = g.add(f"{axis}.inked", "Greater", line, ink)
        places = g.add(f"{axis}.places", "Where", inked, at, all_)
        first = g.add(f"{axis}.first", "ReduceMin", places, axes=[1])
        places = g.add(f"{axis}.ends", "Where", inked, behind, none)
        last = g.add(f"{axis}.last", "ReduceMax", places, axes=[1])
        lengths.append(g.add(f"{axis}.length", "Sub", last, first))
        total = g.add(f"{axis}.sum", "Add", first, last)
        middles[axis] = g.add(f"{axis}.middle", "Mul", total, half)
    longer = g.add("longer", "Max", *lengths, g.constant("least", LEAST))
    cell = g.add("cell", "Div", longer, g.constant("filled", FILLED))  # [n, 1]
    g.constants.append(helper.make_tensor("last_axis", TensorProto.INT64, [1], [2]))
    sizes = g.add("cell.size", "Unsqueeze", cell, "last_axis")  # [n, 1, 1]
    offsets = g.add("cell.offsets", "Mul", cell, g.constant("offsets", _offsets()))
    for axis, middle in middles.items():
        begin = g.add(f"{axis}.cells", "Add", middle, offsets)
        begin = g.add(f"{axis}.begin", "Unsqueeze", begin, "last_axis")  # [n, CELLS, 1]
        end = g.add(f"{axis}.end", "Add", begin, sizes)
        upper = g.add(f"{axis}.upper", "Min", end, behind)
        lower = g.add(f"{axis}.lower", "Max", begin, at)
        covered = g.add(f"{axis}.covered", "Sub", upper, lower)
        covered = g.add(f"{axis}.overlap", "Relu", covered)
        g.add(axis, "Div", covered, sizes)  # [n, CELLS, SIDE]
    g.constants.append(helper.make_tensor("channel", TensorProto.INT64, [1], [1]))
    picture = g.add("picture", "Squeeze", "drawing", "channel")
    columns = g.add("columns.turned", "Transpose", "columns", perm=[0, 2, 1])
    shrunk = g.add("shrunk", "MatMul", g.add("shrunk.rows", "MatMul", "rows", picture), columns)
    return g.add("seen", "Unsqueeze", shrunk, "channel")


# ---- the network ----

LAYERS = ((1, 16, False), (16, 24, True), (24, 32, True))  # channels in and out, then pooling?


def make_network() -> nn.Sequential:
    layers: list[nn.Module] = []
    for inside, outside, pooled in LAYERS:
        layers.append(nn.Conv2d(inside, outside, 3, padding=1, bias=False))
        layers += [nn.BatchNorm2d(outside, eps=EPSILON), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pooled else []
    cells = (CELLS // 4) ** 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(LAYERS[-1][1] * cells, 10))


def to_onnx(network: nn.Sequential) -> onnx.ModelProto:
    """A checked model: `drawing`, float32 [batch, 1, 64, 64], 1 where ink is, gives `scores`,
    float32 [batch, 10], and `seen`, [batch, 1, CELLS, CELLS]."""
    state = network.state_dict()
    g = Nodes()
    value = add_centre(g)
    place = 0
    for number, (_, _, pooled) in enumerate(LAYERS, 1):
        weight = g.constant(f"conv{number}.weight", state[f"{place}.weight"])
        value = g.add(f"conv{number}", "Conv", value, weight, kernel_shape=[3, 3], pads=[1] * 4)
        norm = [
            g.constant(f"norm{number}.{ours}", state[f"{place + 1}.{theirs}"])
            for ours, theirs in (
                ("scale", "weight"),
                ("bias", "bias"),
                ("mean", "running_mean"),
                ("var", "running_var"),
            )
        ]
        value = g.add(f"norm{number}", "BatchNormalization", value, *norm, epsilon=EPSILON)
        value = g.add(f"relu{number}", "Relu", value)
        place += 3
        if pooled:
            value = g.add(f"pool{number}", "MaxPool", value, kernel_shape=[2, 2], strides=[2, 2])
            place += 1
    value = g.add("features", "Flatten", value, axis=1)
    weight = g.constant("output.weight", state[f"{place + 1}.weight"])
    bias = g.constant("output.bias", state[f"{place + 1}.bias"])
    g.add("scores", "Gemm", value, weight, bias, transB=1)
    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        g.nodes,
        "digits_drawn",
        [helper.make_tensor_value_info("drawing", kind, ["batch", 1, SIDE, SIDE])],
        [
            helper.make_tensor_value_info("scores", kind, ["batch", 10]),
            helper.make_tensor_value_info("seen", kind, ["batch", 1, CELLS, CELLS]),
        ],
        g.constants,
        doc_string=SOURCE,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17)],
        producer_name="naru/models/train_drawn.py",
        ir_version=8,
        doc_string=SOURCE,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


# ---- training ----


def enlarge(images: torch.Tensor) -> torch.Tensor:
    """[n, 1, 8, 8] -> [n, 1, 64, 64], blurred: 6 pixels for one, in the middle."""
    framed = F.pad(images, (1, 1, 1, 1))
    large = F.interpolate(framed, size=(60, 60), mode="bicubic", align_corners=False)
    return F.pad(large, (2, 2, 2, 2))


def sharpen(
    blurred: torch.Tensor, threshold: torch.Tensor, steepness: torch.Tensor
) -> torch.Tensor:
    """Ink with an edge; a low threshold makes strokes thick."""
    return torch.sigmoid((blurred - threshold) * steepness)


def warp(images: torch.Tensor, generator: torch.Generator, amount: float) -> torch.Tensor:
    """Each image turned, slanted, stretched and made smaller at random."""
    n = len(images)
    turn, slant, wide = (torch.randn(3, n, generator=generator) * amount).unbind()
    size = 0.95 * torch.exp(0.7 * torch.rand(n, generator=generator))
    c, s, wide, zero = turn.cos(), turn.sin(), wide.exp(), torch.zeros(n)
    rows = [(c * wide, slant * c - s, zero), (s * wide, c + slant * s, zero)]
    matrix = torch.stack([torch.stack(row, 1) for row in rows], 1) * size[:, None, None]
    grid = F.affine_grid(matrix, [n, 1, SIDE, SIDE], align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def written(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures from strokes.py, [count, 1, 64, 64], and their labels."""
    rng = np.random.default_rng(seed)
    pictures = np.stack([write(rng, k % 10) for k in range(count)])
    return torch.from_numpy(pictures)[:, None], torch.arange(count) % 10


def train(network: nn.Sequential) -> None:
    generator = torch.Generator().manual_seed(SEED)
    split = load_split()
    enlarged, (pictures, labels) = enlarge(split.train_images), written(WRITTEN, SEED)
    all_labels = torch.cat([split.train_labels, labels])
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    network.train()

    def between(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(len(enlarged), 1, 1, 1, generator=generator)

    for epoch in range(EPOCHS):
        scanned = sharpen(warp(enlarged, generator, 0.13), between(0.25, 0.6), between(10, 30))
        drawn = warp(pictures, generator, 0.06)
        seen = torch.cat([centre(scanned), centre(drawn)])
        total = 0.0
        for batch in torch.randperm(len(seen), generator=generator).split(64):
            optimiser.zero_grad()
            loss = loss_of(network(seen[batch]), all_labels[batch])
            loss.backward()
            optimiser.step()
            total += loss.item() * len(batch)
        schedule.step()
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {total / len(seen):.3f}", flush=True)
    network.eval()


def accuracy(network: nn.Sequential, drawings: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.no_grad():
        guesses = network(centre(drawings)).argmax(dim=1)
    return (guesses == labels).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description="train the model of `naru demo --web`")
    demo = Path(__file__).resolve().parent.parent / "naru" / "demo"
    parser.add_argument("--out", type=Path, default=demo, help="folder to write to")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    # One thread: the order of sums, and so the file, must not depend on the number of cores.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    network = make_network()
    train(network)
    path = out / "digits_drawn.onnx"
    path.write_bytes(to_onnx(network).SerializeToString(deterministic=True))
    split = load_split()
    enlarged = enlarge(split.test_images)
    scanned = sharpen(enlarged, torch.tensor(0.45), torch.tensor(24.0))
    print(
        f"{path.name}: {path.stat().st_size:,} bytes, "
        f"accuracy {accuracy(network, scanned, split.test_labels):.1%} of held-out digits, "
        f"{accuracy(network, *written(1000, SEED + 1)):.1%} of new drawings of the same hands"
    )


if __name__ == "__main__":
    main()
