"""Nine classic CNNs whose graphs ship inside the package `onnx`, with weights that mean something.

The package's files (`onnx/backend/test/data/light`, exported by Caffe2 long ago, opset 9) fill
every weight with 0.02. Here the graph stays as it is, and the weights become initialisers by the
recipe of `recipe.py`; that file needs torch, this one doesn't.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

FOLDER = Path(onnx.__file__).parent / "backend/test/data/light"
MEASURED_IMAGES = 4
SMALL_GAMMA = 0.2
# Variances below this share of a layer's mean are raised to it: a norm must not blow up a channel
# that happened to be quiet on the images it was measured on.
LEAST_VARIANCE = 0.05

Array = NDArray[np.float32]


def light_bvlc_alexnet(path: Path) -> None:
    fill("light_bvlc_alexnet", path)


def light_densenet121(path: Path) -> None:
    fill("light_densenet121", path)


def light_inception_v1(path: Path) -> None:
    fill("light_inception_v1", path)


def light_inception_v2(path: Path) -> None:
    fill("light_inception_v2", path)


def light_resnet50(path: Path) -> None:
    fill("light_resnet50", path)


def light_shufflenet(path: Path) -> None:
    fill("light_shufflenet", path)


def light_squeezenet(path: Path) -> None:
    fill("light_squeezenet", path)


def light_vgg19(path: Path) -> None:
    fill("light_vgg19", path)


def light_zfnet512(path: Path) -> None:
    fill("light_zfnet512", path)


def fill(name: str, path: Path) -> None:
    """Writes the package's model with weights by the recipe."""
    model = onnx.load(FOLDER / f"{name}.onnx")
    weights = make_weights(model)
    store(model, weights)
    statistics = measure(model)
    store(model, weights | statistics)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def make_weights(model: onnx.ModelProto) -> dict[str, Array]:
    """Values of every weight by its name; batch norms have mean 0 and variance 1 for now."""
    shapes = weight_shapes(model)
    branches = {node.input[0] for node in model.graph.node if node.op_type == "Sum"}
    weights: dict[str, Array] = {}
    behind: dict[str, str] = {}  # a weight in another shape -> the weight
    for node in model.graph.node:
        if node.op_type in ("Unsqueeze", "Reshape") and node.input[0] in shapes:
            behind[node.output[0]] = node.input[0]
            continue
        for position, value in enumerate(node.input):
            weight = behind.get(value, value)
            if weight in shapes:
                ends_branch = node.output[0] in branches
                weights[weight] = make(node.op_type, position, weight, shapes[weight], ends_branch)
    return weights


def weight_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The float tensors among the initialisers, and what ConstantOfShape makes of the others."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    shapes = {
        name: tuple(tensor.dims)
        for name, tensor in tensors.items()
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
    for node in model.graph.node:
        if node.op_type == "ConstantOfShape":
            shapes[node.output[0]] = tuple(numpy_helper.to_array(tensors[node.input[0]]).tolist())
    return shapes


def make(
    op_type: str, position: int, name: str, shape: tuple[int, ...], ends_branch: bool
) -> Array:
    """Values for a weight that is operand `position` of an `op_type`."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    match op_type, position:
        case (("Conv" | "Gemm"), 1):  # all are [outputs, inputs, ...]
            values = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        case (("BatchNormalization" | "Mul"), 1):
            values = rng.uniform(0.9, 1.1, shape) * (SMALL_GAMMA if ends_branch else 1.0)
        case (("Conv" | "Gemm" | "BatchNormalization"), 2):
            values = rng.standard_normal(shape) * 0.05
        case "Add", 1:
            values = rng.standard_normal(shape) * 0.05
        case "BatchNormalization", 3:
            values = np.zeros(shape)
        case "BatchNormalization", 4:
            values = np.ones(shape)
        case _:
            raise ValueError(f"{name}: no rule for operand {position} of {op_type}")
    return values.astype(np.float32)


def store(model: onnx.ModelProto, weights: dict[str, Array]) -> None:
    """Makes these the model's weights, in place of what stood for them.

    As the newer versions of the file format allow, weights are no longer inputs too: as inputs they
    could be replaced in a run, and no compiler could fold them.
    """
    graph = model.graph
    nodes = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    read = {value for node in nodes for value in node.input}
    others = [t for t in graph.initializer if t.name not in weights and t.name in read]
    inputs = [v for v in graph.input if v.name in read - {t.name for t in graph.initializer}]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    for field, values in (("node", nodes), ("input", inputs), ("initializer", others + tensors)):
        graph.ClearField(field)
        getattr(graph, field).extend(values)
    model.ir_version = 8


def measure(model: onnx.ModelProto) -> dict[str, Array]:
    """Mean and variance of what each batch norm reads, over a few normal images.

    On a batch of one image, a batch norm in training is an instance norm, which divides by the
    statistics of what it reads itself: so one run measures all of them.
    """
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    if not norms:
        return {}
    session = measuring_session(model, [norm.input[0] for norm in norms])
    image = session.get_inputs()[0]
    rng = np.random.default_rng(0)
    sums = [(0.0, 0.0) for _ in norms]
    for _ in range(MEASURED_IMAGES):
        feed = {image.name: rng.standard_normal(image.shape).astype(np.float32)}
        read = cast("list[Array]", session.run(None, feed))
        sums = [
            (mean + x.mean(axis=(0, 2, 3)), square + (x**2).mean(axis=(0, 2, 3)))
            for (mean, square), x in zip(sums, read, strict=True)
        ]
    statistics: dict[str, Array] = {}
    for norm, (mean, square) in zip(norms, sums, strict=True):
        mean, square = np.asarray(mean) / MEASURED_IMAGES, np.asarray(square) / MEASURED_IMAGES
        variance = square - mean**2
        least = LEAST_VARIANCE * variance.mean()
        statistics[norm.input[3]] = mean.astype(np.float32)
        statistics[norm.input[4]] = np.maximum(variance, least).astype(np.float32)
    return statistics


def measuring_session(model: onnx.ModelProto, outputs: list[str]) -> onnxruntime.InferenceSession:
    """The model with instance norms for its batch norms, and these values as its outputs."""
    measured = onnx.ModelProto()
    measured.CopyFrom(model)
    for node in measured.graph.node:
        if node.op_type == "BatchNormalization":
            node.op_type = "InstanceNormalization"
            del node.input[3:]
    measured.graph.ClearField("output")
    measured.graph.output.extend(map(helper.make_empty_tensor_value_info, outputs))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of each weight that instance norms don't read
    return onnxruntime.InferenceSession(
        measured.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
