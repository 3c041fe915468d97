"""Train a small transformer on real handwritten digits, and count what classes of precision change.

The eight lines of an image are eight tokens. The data are those of `train_digits.py`. Run from the
repository root:

    python models/train_rows.py --check            right answers by precision, on this machine
    python models/train_rows.py --output FOLDER    digits_rows.onnx and digits_rows.npz are kept

It takes a minute. The files stay out of the repository.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import naru
from naru.targets import host_target

SEED = 20240
WIDTH, HEADS, LAYERS = 64, 4, 2
DEMO = Path(__file__).parent.parent / "naru" / "demo"


class Rows(nn.Module):
    """Images [batch, 8, 8] in 0..1 -> scores [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, WIDTH)
        self.place = nn.Parameter(torch.randn(8, WIDTH) * 0.1)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embed(image) + self.place).mean(1))


def train(folder: Path) -> Path:
    """Writes the model and its test images; gives the model's path."""
    torch.manual_seed(SEED)
    digits: Any = load_digits()
    images = (digits.images / 16).astype(np.float32)
    x, rest, y, labels = train_test_split(images, digits.target, test_size=0.5, random_state=SEED)
    model = Rows()
    steps = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.01)
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    for _ in range(60):
        for part in torch.randperm(len(x)).split(64):
            loss = nn.functional.cross_entropy(model(x[part]), y[part])
            steps.zero_grad()
            loss.backward()
            steps.step()
    path = folder / "digits_rows.onnx"
    example = torch.zeros(len(rest), 8, 8)
    torch.onnx.export(
        model.eval(), (example,), path, input_names=["image"], output_names=["scores"],
        dynamo=False,
    )  # fmt: skip
    np.savez(folder / "digits_rows.npz", images=rest, labels=labels)
    return path


def check(path: Path) -> None:
    """Prints right answers of the transformer and of the convolutional network."""
    rows, cnn = np.load(path.with_suffix(".npz")), np.load(DEMO / "digits_test.npz")
    shown = (cnn["images"] / 16).astype(np.float32)[:, None]
    cases = (
        ("digits_rows", path, rows["images"], rows["labels"]),
        ("digits_cnn", DEMO / "digits_cnn.onnx", shown, cnn["labels"]),
    )
    for name, model, images, labels in cases:
        for precision in ("strict", "fp32", "bf16"):
            made = naru.compile(str(model), target=host_target(), precision=precision)
            scores = np.asarray(made(image=images))
            right = np.mean(scores.argmax(-1) == labels)
            print(
                f"{name:12} {host_target().name} {precision:7} {right:.2%} right of {len(labels)}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description="a transformer on handwritten digits")
    parser.add_argument("--check", action="store_true", help="count right answers")
    parser.add_argument("--output", type=Path, help="folder of the files")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = train(args.output or Path(folder))
        if args.check:
            check(path)


if __name__ == "__main__":
    main()
