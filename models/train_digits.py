"""Train the demo models: two classifiers of real handwritten digits, written as plain ONNX files.

The data are the 1,797 test images of the UCI "Optical Recognition of Handwritten Digits" set, as
shipped inside scikit-learn (8x8 pixels, values 0 to 16). Run from the repository root:

    python models/train_digits.py

It takes about 15 seconds and writes `digits_mlp.onnx`, `digits_cnn.onnx` and `digits_test.npz` into
`naru/demo/`. The ONNX files are built with `onnx.helper`, so that their names are clean and
BatchNormalization stays a node of its own (an exporter would fold it away).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

SEED = 20240
TEST_IMAGES = 200
EPSILON = 1e-5  # of the batch norms
WHITE = 16.0  # the largest pixel value of the data set; the models take pixels divided by it
SOURCE = (
    "Trained by models/train_digits.py of naru on the UCI 'Optical Recognition of Handwritten "
    "Digits' data (E. Alpaydin, C. Kaynak, CC BY 4.0) as shipped with scikit-learn."
)


@dataclass(frozen=True)
class Split:
    """Images as float32 [n, 1, 8, 8] in 0..1, and labels, for training and the held-out test."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


def load_split() -> Split:
    """The data set, split once and for all: 200 stratified images are never trained on."""
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / WHITE).astype(np.float32).reshape(-1, 1, 8, 8)
    parts = train_test_split(
        images, labels, test_size=TEST_IMAGES, stratify=labels, random_state=SEED
    )
    train_images, test_images, train_labels, test_labels = (torch.from_numpy(p) for p in parts)
    return Split(train_images, train_labels, test_images, test_labels)


def make_mlp() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 10))


def make_cnn() -> nn.Sequential:
    # The first two convolutions have no bias: the batch norm behind them has one.
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16, eps=EPSILON),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32, eps=EPSILON),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 40, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(40, 10),
    )


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image moved by -1, 0 or 1 pixel in both directions: people don't write centred."""
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    moves = torch.randint(0, 3, (len(images), 2), generator=generator).tolist()
    return torch.stack(
        [image[:, dy : dy + 8, dx : dx + 8] for image, (dy, dx) in zip(padded, moves, strict=True)]
    )


def train(model: nn.Sequential, split: Split, *, epochs: int, augment: bool) -> None:
    """Adam with a cosine schedule, on one thread, from a fixed seed."""
    generator = torch.Generator().manual_seed(SEED)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    model.train()
    for _ in range(epochs):
        images = split.train_images
        if augment:
            images = shifted(images, generator)
        for batch in torch.randperm(len(images), generator=generator).split(64):
            optimiser.zero_grad()
            loss_of(model(images[batch]), split.train_labels[batch]).backward()
            optimiser.step()
        schedule.step()
    model.eval()


def accuracy(model: nn.Sequential, split: Split) -> float:
    with torch.no_grad():
        guesses = model(split.test_images).argmax(dim=1)
    return (guesses == split.test_labels).float().mean().item()


def initializer(name: str, values: torch.Tensor) -> TensorProto:
    return numpy_helper.from_array(values.detach().numpy().astype(np.float32), name)


def model_proto(
    name: str,
    nodes: list[onnx.NodeProto],
    weights: list[TensorProto],
    input_shape: list[int | str],
) -> onnx.ModelProto:
    """A checked model with one input `image` and one output `logits`."""
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        weights,
        doc_string=SOURCE,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17)],
        producer_name="naru/models/train_digits.py",
        ir_version=8,
        doc_string=SOURCE,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def mlp_to_onnx(model: nn.Sequential) -> onnx.ModelProto:
    weights = [
        initializer("hidden.weight", model.get_parameter("1.weight")),
        initializer("hidden.bias", model.get_parameter("1.bias")),
        initializer("output.weight", model.get_parameter("3.weight")),
        initializer("output.bias", model.get_parameter("3.bias")),
    ]
    nodes = [
        helper.make_node(
            "Gemm", ["image", "hidden.weight", "hidden.bias"], ["hidden"], "hidden", transB=1
        ),
        helper.make_node("Relu", ["hidden"], ["hidden.relu"], "hidden.relu"),
        helper.make_node(
            "Gemm", ["hidden.relu", "output.weight", "output.bias"], ["logits"], "output", transB=1
        ),
    ]
    return model_proto("digits_mlp", nodes, weights, ["batch", 64])


def cnn_to_onnx(model: nn.Sequential) -> onnx.ModelProto:
    state = model.state_dict()
    weights: list[TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    value = "image"

    def add(op_type: str, name: str, *params: str, output: str = "", **attributes: Any) -> None:
        """Appends a node that reads the value of the one before, and then weights."""
        nonlocal value
        nodes.append(
            helper.make_node(op_type, [value, *params], [output or name], name, **attributes)
        )
        value = output or name

    def weight(name: str, parameter: str) -> str:
        weights.append(initializer(name, state[parameter]))
        return name

    def conv_weight(layer: int, name: str) -> str:
        return weight(f"{name}.weight", f"{layer}.weight")

    def norm_weights(layer: int, name: str) -> list[str]:
        """In the order of ONNX, with its names."""
        return [
            weight(f"{name}.scale", f"{layer}.weight"),
            weight(f"{name}.bias", f"{layer}.bias"),
            weight(f"{name}.mean", f"{layer}.running_mean"),
            weight(f"{name}.var", f"{layer}.running_var"),
        ]

    same: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    for number, layer in ((1, 0), (2, 3)):
        add("Conv", f"conv{number}", conv_weight(layer, f"conv{number}"), **same)
        parameters = norm_weights(layer + 1, f"norm{number}")
        add("BatchNormalization", f"norm{number}", *parameters, epsilon=EPSILON)
        add("Relu", f"relu{number}")
    add("MaxPool", "pool", kernel_shape=[2, 2], strides=[2, 2])
    add("Conv", "conv3", conv_weight(7, "conv3"), weight("conv3.bias", "7.bias"), **same)
    add("Relu", "relu3")
    add("GlobalAveragePool", "average")
    add("Flatten", "features", axis=1)
    output = weight("output.weight", "11.weight"), weight("output.bias", "11.bias")
    add("Gemm", "output", *output, output="logits", transB=1)
    return model_proto("digits_cnn", nodes, weights, ["batch", 1, 8, 8])


def main() -> None:
    parser = argparse.ArgumentParser(description="train the demo models")
    demo = Path(__file__).resolve().parent.parent / "naru" / "demo"
    parser.add_argument("--out", type=Path, default=demo, help="folder to write to")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    # One thread: the order of sums, and so the files, must not depend on the number of cores.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    split = load_split()
    recipes = (
        ("digits_mlp", make_mlp, mlp_to_onnx, 60, False),
        ("digits_cnn", make_cnn, cnn_to_onnx, 40, True),
    )
    for name, make, to_onnx, epochs, augment in recipes:
        torch.manual_seed(SEED)
        model = make()
        train(model, split, epochs=epochs, augment=augment)
        path = out / f"{name}.onnx"
        path.write_bytes(to_onnx(model).SerializeToString(deterministic=True))
        print(f"{path.name}: {path.stat().st_size:,} bytes, accuracy {accuracy(model, split):.1%}")
    images = (split.test_images[:, 0] * WHITE).round().to(torch.uint8).numpy()
    labels = split.test_labels.to(torch.uint8).numpy()
    path = out / "digits_test.npz"
    np.savez_compressed(path, images=images, labels=labels)
    print(f"{path.name}: {path.stat().st_size:,} bytes, {len(labels)} images")


if __name__ == "__main__":
    main()
