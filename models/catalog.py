"""The named models: real topologies with random weights, the same in every run.

    from models.catalog import MODELS
    model = MODELS["minilm_l6"]
    onnx_file = model.path()
    for feed in model.feeds(2, sequence=17):
        expected = onnxruntime_session.run(None, feed)

`path()` makes the file at its first use, and keeps it (see `kept.py`). Nothing heavy is imported
before that.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .kept import kept

HERE = Path(__file__).parent
RECIPE = HERE / "recipe.py"
LIBRARIES = {
    "light": ("onnx", "onnxruntime", "numpy"),
    "vision": ("torch",),
    "from_transformers": ("torch", "transformers"),
    "sequence": ("torch",),
}

Array = NDArray[Any]
Feed = dict[str, Array]
Values = Callable[[np.random.Generator, tuple[int, ...]], Array]


@dataclass(frozen=True)
class Input:
    """An input of a model: its shape, in which a name stands for a symbolic size, and how to make
    values of it, from a generator and a shape."""

    name: str
    shape: tuple[int | str, ...]
    values: Values

    def make(self, rng: np.random.Generator, dims: Mapping[str, int]) -> Array:
        shape = tuple(dims[size] if isinstance(size, str) else size for size in self.shape)
        return self.values(rng, shape)


@dataclass(frozen=True)
class NamedModel:
    """A model that the function called `name` in `models/<group>.py` makes.

    `dims` gives each symbolic size its default; `exporter` says where the file comes from, `opset`
    which operators it may use.
    """

    name: str
    group: str
    about: str
    inputs: tuple[Input, ...]
    dims: Mapping[str, int] = field(default_factory=dict)
    exporter: str = "torch"
    opset: int = 17

    def path(self) -> Path:
        """The ONNX file, made at its first use; read-only."""
        sources = [HERE / f"{self.group}.py"]
        if self.exporter == "torch":
            sources.append(RECIPE)
        return kept(self.name, self._make, sources, LIBRARIES[self.group])

    def _make(self, path: Path) -> None:
        module = importlib.import_module(f"models.{self.group}")
        getattr(module, self.name)(path)

    def feeds(self, count: int, **dims: int) -> list[Feed]:
        """`count` different sets of inputs, at the default sizes or those given by name."""
        unknown = set(dims) - set(self.dims)
        if unknown:
            raise ValueError(
                f"{self.name}: expected sizes of {sorted(self.dims)}, found {sorted(unknown)}"
            )
        sizes = {**self.dims, **dims}
        rng = np.random.default_rng([zlib.crc32(self.name.encode()), *sizes.values()])
        return [{i.name: i.make(rng, sizes) for i in self.inputs} for _ in range(count)]


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def tokens(vocabulary: int) -> Values:
    return lambda rng, shape: rng.integers(0, vocabulary, shape)


def ones(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.ones(shape, np.int64)


def zeros(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.zeros(shape, np.int64)


TEXT = ("batch", "sequence")
BERT_INPUTS = (
    Input("input_ids", TEXT, tokens(30522)),
    Input("attention_mask", TEXT, ones),
    Input("token_type_ids", TEXT, zeros),
)


def image(size: int, batch: int | str = 1, name: str = "image") -> tuple[Input]:
    return (Input(name, (batch, 3, size, size), normal),)


def light(name: str, about: str, input_name: str = "data_0") -> NamedModel:
    return NamedModel(
        f"light_{name}", "light", about, image(224, name=input_name), exporter="caffe2", opset=9
    )


MODELS: dict[str, NamedModel] = {
    model.name: model
    for model in (
        # vision.py
        NamedModel("resnet18", "vision", "ResNet-18", image(224, "batch"), {"batch": 1}),
        NamedModel("resnet50", "vision", "ResNet-50 v1.5, batch norms not folded", image(224)),
        NamedModel("tiny_resnet", "vision",
                   "ResNet-50's blocks, one a stage, an eighth as wide; batch norms not folded",
                   image(32, "batch"), {"batch": 1}),
        NamedModel("mobilenet_v2", "vision", "MobileNetV2: depthwise, ReLU6", image(224)),
        NamedModel("efficientnet_b0", "vision",
                   "EfficientNet-B0: depthwise, SiLU, squeeze-and-excite", image(224)),
        NamedModel("unet", "vision", "U-Net of depth 2: transposed convolutions, concats",
                   image(256)),
        NamedModel("video3d", "vision", "a small 3-D ResNet on clips of 8 frames",
                   (Input("clip", (1, 3, 8, 112, 112), normal),)),
        # from_transformers.py
        NamedModel("bert_base", "from_transformers", "BERT-base, last hidden state",
                   BERT_INPUTS, {"batch": 1, "sequence": 128}),
        NamedModel("minilm_l6", "from_transformers", "MiniLM-L6: BERT with 6 layers of 384",
                   BERT_INPUTS, {"batch": 1, "sequence": 64}),
        NamedModel("gpt2", "from_transformers",
                   "GPT-2 reading a prompt (prefill), logits; weights in a file beside it",
                   (Input("input_ids", TEXT, tokens(50257)), Input("attention_mask", TEXT, ones)),
                   {"batch": 1, "sequence": 64}),
        NamedModel("vit_base", "from_transformers", "ViT-base, patches of 16x16",
                   image(224, "batch", "pixel_values"), {"batch": 1}),
        NamedModel("convnext_tiny", "from_transformers",
                   "ConvNeXt-tiny: 7x7 depthwise, layer norm, GELU",
                   image(224, name="pixel_values")),
        NamedModel("whisper_tiny_encoder", "from_transformers",
                   "the encoder of Whisper-tiny, 30 s of sound",
                   (Input("input_features", (1, 80, 3000), normal),)),
        # sequence.py
        NamedModel("bilstm", "sequence", "bidirectional LSTM, 2 layers of 256",
                   (Input("x", ("batch", "steps", 80), normal),), {"batch": 1, "steps": 100}),
        NamedModel("gru", "sequence", "GRU of 256",
                   (Input("x", ("batch", "steps", 128), normal),), {"batch": 1, "steps": 100}),
        NamedModel("mlp_784_200_10", "sequence", "MLP with one hidden layer",
                   (Input("x", ("batch", 784), normal),), {"batch": 1}),
        NamedModel("mlp_64_128_128_10", "sequence", "MLP with two hidden layers",
                   (Input("x", ("batch", 64), normal),), {"batch": 1}),
        NamedModel("wavenet", "sequence", "gated causal convolutions, dilations 1 to 128",
                   (Input("x", (1, 32, 2000), normal),)),
        # light.py
        light("bvlc_alexnet", "AlexNet: grouped convolutions, LRN, large dense layers"),
        light("densenet121", "DenseNet-121: 58 concats"),
        light("inception_v1", "GoogLeNet: four branches a block, LRN"),
        light("inception_v2", "Inception v2: average pooling in the blocks"),
        light("resnet50", "ResNet-50 v1 as Caffe2 wrote it", "gpu_0/data_0"),
        light("shufflenet", "ShuffleNet: grouped convolutions, shuffled channels", "gpu_0/data_0"),
        light("squeezenet", "SqueezeNet 1.1"),
        light("vgg19", "VGG-19: 39 GFLOP of 3x3 convolutions, 550 MB of weights"),
        light("zfnet512", "ZFNet-512: large kernels, LRN", "gpu_0/data_0"),
    )
}  # fmt: skip
