"""Pre- and postprocessing that is declared: what is read, how it fits, and what it computes.

Resampling is compared with PyTorch, to rounding, and with Pillow, which rounds twice to whole
numbers on the way.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from onnx import ModelProto, TensorProto, helper
from PIL import Image as Pillow
from zoo import build as zoo

import naru
from naru.cli import naru as command
from naru.cli.classes import print_classes
from naru.demo import FOLDER, load_images
from naru.errors import InputError
from naru.processing import Image, Processing, Scores, read_processing

Array = np.ndarray
RNG = np.random.default_rng(7)


def identity(*shape: int | str | None, dtype: int = TensorProto.FLOAT) -> ModelProto:
    """A model that gives what it takes: what preprocessing made, to look at."""
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    x = helper.make_tensor_value_info("x", dtype, shape)
    y = helper.make_tensor_value_info("y", dtype, None)
    graph = helper.make_graph(nodes, "same", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def pixels(height: int, width: int, channels: int = 3) -> Array:
    """An image with soft and hard edges."""
    rng = np.random.default_rng(height * 1000 + width)
    coarse = rng.integers(0, 256, (height // 7 + 2, width // 7 + 2, channels), np.uint8)
    layers = [
        np.asarray(Pillow.fromarray(coarse[..., c]).resize((width, height)))
        for c in range(channels)
    ]
    image = np.stack(layers, -1)
    image[height // 3 : height // 2, width // 4 : width // 2] = 255
    return np.ascontiguousarray(image)


# --- declarations ---------------------------------------------------------------------------------


def test_texts_and_mappings_say_the_same() -> None:
    text = "image(input=x, resize=256, crop=224x200, mean=imagenet, std=(0.2, 0.2, 0.3), invert)"
    same = {"input": "x", "resize": 256, "crop": [224, 200], "mean": "imagenet", "invert": True}
    want = Image(
        "x", resize=256, crop=(224, 200), mean=(0.485, 0.456, 0.406), std=(0.2, 0.2, 0.3),
        invert=True,
    )  # fmt: skip
    assert read_processing(text) == Processing((want,))
    assert read_processing({**same, "std": [0.2, 0.2, 0.3]}) == Processing((want,))
    assert read_processing("serving:0=image(range=-1..1, background=#ff0080, pixels=rgba)") == (
        Processing((Image("serving:0", "rgba", (255.0, 0.0, 128.0), range=(-1.0, 1.0)),))
    )
    assert read_processing(None, "y=softmax(axis=1)", top=3, labels=["a", "b"]) == Processing(
        (), (Scores("y", "softmax", 1, 3, ("a", "b")),)
    )
    assert read_processing(None, labels=["a"]) == Processing((), (Scores(labels=("a",)),))
    assert not read_processing()


def test_declarations_are_printed_as_they_are_read() -> None:
    for text in (
        "image",
        "x=image(pixels=rgba, background=(255, 0, 128), resize=256, crop=224x200, antialias=no)",
        "image(resize=32x48, letterbox, fill=114.0, range=-1..1, mean=(0.485, 0.456, 0.406))",
        "image(mean=(0.48145466, 0.4578275, 0.40821073))",
        "softmax",
        "y=none(axis=2, top=3)",
    ):
        kind = "preprocess" if "image" in text else "postprocess"
        assert read_processing(**{kind: text}).as_json() == {kind: [text]}  # pyright: ignore


def test_labels_of_files(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("cat\ndog\n\n", encoding="utf-8")
    (tmp_path / "list.json").write_text('["cat", "dog"]', encoding="utf-8")
    (tmp_path / "numbers.json").write_text('{"1": "dog", "0": "cat"}', encoding="utf-8")
    (tmp_path / "config.json").write_text('{"id2label": {"0": "cat", "1": "dog"}}', "utf-8")
    for name in ("lines.txt", "list.json", "numbers.json", "config.json"):
        (scores,) = read_processing(None, "softmax", labels=tmp_path / name).scores
        assert scores.labels == ("cat", "dog"), name
    whole = {
        "preprocess": {"resize": "8x8", "pixels": "grey"},
        "postprocess": ["softmax(labels=lines.txt)"],
    }
    path = tmp_path / "m.processing.json"
    path.write_text(json.dumps(whole), encoding="utf-8")
    assert read_processing(file=path) == Processing(
        (Image(pixels="grey", resize=(8, 8)),), (Scores("", "softmax", labels=("cat", "dog")),)
    )


def test_all_mistakes_of_declarations_are_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        read_processing(
            ["image(resiz=256, mean=(1,2), letterbox=maybe)", "image(resize=200, crop=224)"],
            ["argmax(top=2)", "x=topk(3)"],
            labels={0: "cat", 2: "dog"},
        )
    text = str(caught.value)
    for part in (
        "there is no setting 'resiz'; did you mean 'resize'?",
        "mean: expected 1 or 3 numbers",
        "letterbox: expected yes or no, found 'maybe'",
        "crop: 224x224 is more than resize=200 leaves",
        "argmax leaves one number",
        "x=topk(3): expected none(…), softmax(…), sigmoid(…), argmax(…)",
        "labels: expected a label for each class (none for 1)",
        "expected one declaration an input, by name, found 2",
    ):
        assert part in text, part


def test_values_are_checked_as_texts_are(tmp_path: Path) -> None:
    mean = np.array([0.5, 0.25, 0.125], np.float32)
    assert read_processing(Image(mean=mean)).images == (Image(mean=(0.5, 0.25, 0.125)),)  # pyright: ignore
    (tmp_path / "numbers.json").write_text('{"preprocess": 5, "postprocess": [6]}', "utf-8")
    with pytest.raises(InputError) as caught:
        read_processing(
            [Image(filter="cubic"), {"input": "x", "fill": 10**400}],
            Scores("y", "max"),
            file=tmp_path / "numbers.json",
        )
    text = str(caught.value)
    for part in (
        "filter: expected one of nearest, box, bilinear, bicubic, found 'cubic'",
        "fill: expected a number",
        "function: expected one of none, softmax, sigmoid, argmax, found 'max'",
        "numbers.json: preprocess: expected a declaration or a list of some, found 5",
        "6: expected none(…)",
    ):
        assert part in text, part
    with pytest.raises(InputError, match="preprocess: expected a declaration"):
        read_processing(5)  # pyright: ignore


# --- fitting them to a model ----------------------------------------------------------------------


def test_all_that_does_not_fit_is_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        naru.compile(
            identity(8, 5, 200, 224), preprocess="image(resize=224x224, mean=imagenet)",
            postprocess="z=softmax",
        )  # fmt: skip
    text = str(caught.value)
    for part in (
        "input 'x': batch (one image at a time): expected 1, found 8",
        "input 'x': [8, 5, 200, 224]: neither axis 1 nor axis 3 has 1 or 3 elements",
        "softmax: there is no output 'z'; the model has y",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("shape", "declared", "problem"),
    [
        ((1, 3, 8, 8), "z=image(resize=8x8)", "there is no input 'z'; the model has x"),
        ((1, 3, 8), "image(resize=8x8)", "[N, C, H, W] or [N, H, W, C], found [1, 3, 8]"),
        ((1, 64), "image", "of rank 2: say resize=HxW"),
        ((1, 60), "image(resize=8x8)", "elements (64 pixels, grey): expected 64, found 60"),
        ((1, 192), "image(resize=8x8)", "say layout=NCHW or layout=NHWC"),
        ((1, 3, 8, 3), "image", "both may be channels; say layout=NCHW or layout=NHWC"),
        ((1, 3, 8, 8), "image(resize=9x8)", "height: expected 9, found 8"),
        ((1, 3, 8, 8), "image(resize=6)", "resize=6 is less than its 8x8"),
        ((1, 3, "h", "w"), "image", "its height and width are not fixed; say resize=HxW"),
        ((1, 3, "s", "s"), "image(resize=4x5)", "'s' would be 4 and 5"),
        ((1, 1, 8, 8), "image(mean=imagenet)", "mean: 3 numbers, and it has 1 channel"),
        ((1, 3, 8, 8), "image(colors=grey, layout=NCHW)", "(grey, axis 1): expected 1, found 3"),
    ],
)  # fmt: skip
def test_what_does_not_fit(shape: tuple[Any, ...], declared: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        naru.compile(identity(*shape), preprocess=declared)
    assert problem in str(caught.value)


def test_scores_that_do_not_fit() -> None:
    model = identity(2, 10, 4)
    for declared, problem in (
        ("softmax(axis=3)", "expected an axis in -3..2, found 3"),
        ("softmax(axis=1, top=2)", "top: expected classes along the last axis"),
        ("sigmoid(top=5)", "top=5: it has 4 classes"),
        ({"function": "none", "labels": ["a", "b"]}, "labels: 2 for 4 classes"),
    ):
        with pytest.raises(InputError) as caught:
            naru.compile(model, postprocess=declared)
        assert problem in str(caught.value)
    with pytest.raises(InputError, match="softmax: expected floats, found i64"):
        naru.compile(identity(2, 3, dtype=TensorProto.INT64), postprocess="softmax")


# --- resizing -------------------------------------------------------------------------------------

FILTERS = {
    "nearest": Pillow.Resampling.NEAREST,
    "box": Pillow.Resampling.BOX,
    "bilinear": Pillow.Resampling.BILINEAR,
    "bicubic": Pillow.Resampling.BICUBIC,
}


def resized(image: Array, height: int, width: int, filter: str) -> Array:
    """By Pillow."""
    return np.asarray(Pillow.fromarray(image).resize((width, height), FILTERS[filter]))


@pytest.mark.parametrize("filter", FILTERS)
def test_resizing_is_that_of_pillow(filter: str) -> None:
    model = naru.compile(identity(1, 24, 20, 3), preprocess=f"image(range=0..255, filter={filter})")
    most = 0 if filter == "nearest" else 1.5  # Pillow rounds after each axis
    for height, width in ((75, 103), (24, 20), (7, 9), (301, 11), (1, 1), (23, 61)):
        image = pixels(height, width) // 2 + 64  # and clips there what overshoots
        got = np.asarray(model(image))[0]
        off = np.abs(got - resized(image, 24, 20, filter))
        assert off.max() <= most, (height, width)
        assert off.mean() <= 0.5, (height, width)


@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", ["yes", "no"])
def test_resizing_is_that_of_pytorch(filter: str, antialias: str) -> None:
    declared = f"image(range=0..255, filter={filter}, antialias={antialias})"
    model = naru.compile(identity(1, 3, 24, 20), preprocess=declared)
    for height, width in ((75, 100), (7, 9), (25, 19)):
        image = pixels(height, width)
        if (filter, antialias) == ("bicubic", "no"):  # PyTorch's kernel is another one then
            continue
        planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        want = torch.nn.functional.interpolate(
            planes, (24, 20), mode=filter, antialias=antialias == "yes"
        )
        clipped = want.clamp(0, 255).numpy()
        np.testing.assert_allclose(np.asarray(model(image)), clipped, rtol=1e-5, atol=2e-3)


def test_the_shorter_side_and_the_middle() -> None:
    """As torchvision's presets have it: Resize(20), CenterCrop(16), which rounds halves to even."""
    model = naru.compile(identity(1, 16, 16, 3), preprocess="image(resize=20, range=0..255)")
    for height, width, rows, columns in ((40, 70, 20, 35), (66, 40, 33, 20), (20, 20, 20, 20)):
        image = pixels(height, width)
        whole = resized(image, rows, columns, "bilinear").astype(np.float32)
        top, left = round((rows - 16) / 2), round((columns - 16) / 2)
        want = whole[top : top + 16, left : left + 16]
        assert np.abs(np.asarray(model(image))[0] - want).max() <= 1.5


def test_letterbox_keeps_the_ratio() -> None:
    model = naru.compile(
        identity(1, 3, "h", "w"),
        preprocess="image(resize=32x48, letterbox, fill=114, range=0..255)",
    )
    for height, width, rows, columns in ((64, 64, 32, 32), (10, 60, 8, 48), (33, 5, 32, 5)):
        image = pixels(height, width)
        want = np.full((32, 48, 3), 114, np.float32)
        top, left = (32 - rows) // 2, (48 - columns) // 2
        want[top : top + rows, left : left + columns] = resized(image, rows, columns, "bilinear")
        got = np.asarray(model(image))
        assert got.shape == (1, 3, 32, 48)
        assert np.abs(got[0].transpose(1, 2, 0) - want).max() <= 1.5, (height, width)


def test_without_resizing() -> None:
    """The model's symbols become those of the image."""
    model = naru.compile(identity("n", 3, "h", "w"), preprocess="image(resize=none, range=-1..1)")
    assert model.inputs[0].shape == ("h", "w", 3)
    image = pixels(5, 9)
    want = image.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(np.asarray(model(image)), want, atol=1e-6)


# --- colours and numbers --------------------------------------------------------------------------

GREY = np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_what_becomes_of_channels(layout: str) -> None:
    def run(channels: int, declared: str, image: Array) -> Array:
        shape = (1, channels, 6, 8) if layout == "NCHW" else (1, 6, 8, channels)
        model = naru.compile(identity(*shape), preprocess=f"image({declared}, layout={layout})")
        out = np.asarray(model(image))[0]
        return out.transpose(1, 2, 0) if layout == "NCHW" else out

    image = pixels(6, 8, 4)
    shares = image / 255
    color, alpha = shares[..., :3], shares[..., 3:]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for channels, declared, given, want in (
        (3, "mean=imagenet, std=imagenet", image[..., :3], (color - mean) / std),
        (3, "colors=bgr, mean=(0.1, 0.2, 0.3)", image[..., :3], color[..., ::-1] - [0.1, 0.2, 0.3]),
        (3, "pixels=rgba", image, color),
        (3, "pixels=rgba, background=white", image, color * alpha + 1 - alpha),
        (1, "pixels=rgba, background=black, invert", image, 1 - (color * alpha) @ GREY[:, None]),
        (1, "std=0.5", image[..., :3], color @ GREY[:, None] / 0.5),
        (1, "pixels=grey", image[..., 0], shares[..., :1]),
        (3, "pixels=grey, std=0.5", image[..., 0], np.repeat(shares[..., :1], 3, -1) * 2),
    ):
        given = np.ascontiguousarray(given)
        np.testing.assert_allclose(run(channels, declared, given), want, atol=2e-6)


def test_models_of_whole_numbers_and_of_halves() -> None:
    image = pixels(12, 10)
    model = naru.compile(identity(1, 6, 5, 3, dtype=TensorProto.UINT8), preprocess="image")
    got, want = np.asarray(model(image))[0], resized(image, 6, 5, "bilinear")
    assert got.dtype == np.uint8
    assert np.abs(got.astype(int) - want).max() <= 1
    half = naru.compile(identity(1, 6, 5, 3, dtype=TensorProto.FLOAT16), preprocess="image")
    assert np.abs(np.asarray(half(image))[0].astype(np.float32) * 255 - want).max() <= 1.2
    with pytest.raises(InputError, match="it takes uint8"):
        naru.compile(
            identity(1, 6, 5, 3, dtype=TensorProto.UINT8), preprocess="image(mean=imagenet)"
        )


def test_several_inputs() -> None:
    """One of them an image; the batch that both have is one image then."""
    nodes = [helper.make_node("Mul", ["x", "s"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 4, 4])
    s = helper.make_tensor_value_info("s", TensorProto.FLOAT, ["n", 1, 1, 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "scaled", [x, s], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    with pytest.raises(InputError, match="which input is the image"):
        naru.compile(model, preprocess="image(pixels=grey)")
    made = naru.compile(model, preprocess="x=image(pixels=grey, range=0..255)")
    assert [i.shape for i in made.inputs] == [("height", "width"), (1, 1, 1, 1)]
    image = pixels(4, 4, 1)[..., 0]
    scale = np.full((1, 1, 1, 1), 2, np.float32)
    np.testing.assert_allclose(np.asarray(made(image, scale))[0, 0], image * 2.0, atol=1e-3)


# --- scores ---------------------------------------------------------------------------------------


def test_scores_and_the_best_of_them() -> None:
    names = ["one", "two", "three", "four", "five"]
    x = RNG.standard_normal((3, 5)).astype(np.float32) * 3
    exps = np.exp(x.astype(np.float64))
    softmax = exps / exps.sum(1, keepdims=True)
    model = naru.compile(identity("n", 5), postprocess="softmax", labels=names, top=2)
    assert [o.name for o in model.outputs] == ["y", "y_top_scores", "y_top_classes"]
    y, best, which = (np.asarray(a) for a in model(x))
    np.testing.assert_allclose(y, softmax, rtol=2e-6)
    order = np.argsort(-softmax, 1)[:, :2]
    np.testing.assert_array_equal(which, order)
    np.testing.assert_array_equal(best, np.take_along_axis(y, order, 1))
    assert model.labels == dict.fromkeys(("y", "y_top_scores", "y_top_classes"), tuple(names))
    record = model.manifest["entries"][0]["outputs"][0]
    assert (record["labels"], record["axis"]) == (names, 1)
    np.testing.assert_allclose(
        np.asarray(naru.compile(identity("n", 5), postprocess="sigmoid")(x)), exps / (1 + exps),
        rtol=2e-6,
    )  # fmt: skip


def test_classes_of_pixels() -> None:
    """A segmentation: along axis 1."""
    x = RNG.standard_normal((1, 4, 3, 5)).astype(np.float32)
    model = naru.compile(identity(1, 4, 3, 5), postprocess="argmax(axis=1)", labels=list("abcd"))
    np.testing.assert_array_equal(np.asarray(model(x)), x.argmax(1))
    record = model.manifest["entries"][0]["outputs"][0]
    assert record["labels"] == list("abcd")
    assert "axis" not in record
    scores = naru.compile(identity(1, 4, 3, 5), postprocess="softmax(axis=1)", labels=list("abcd"))
    np.testing.assert_allclose(np.asarray(scores(x)).sum(1), 1, rtol=1e-6)
    assert scores.manifest["entries"][0]["outputs"][0]["axis"] == 1


# --- whole artifacts ------------------------------------------------------------------------------

DRAWN = "image(pixels=rgba, background=white, invert, filter=box{})"


def drawing(digit: Array) -> Array:
    """A digit as a canvas of 280 x 280 has it: black ink on transparent paper."""
    ink = Pillow.fromarray((digit * 255).astype(np.uint8)).resize((280, 280), FILTERS["bicubic"])
    canvas = np.zeros((280, 280, 4), np.uint8)
    canvas[..., 3] = np.asarray(ink)
    return canvas


@pytest.mark.parametrize(("name", "more"), [("digits_cnn", ""), ("digits_mlp", ", resize=8x8")])
def test_drawn_digits(name: str, more: str) -> None:
    """As right as the models are on their own 8 x 8 pixels (99%), within one digit."""
    model = naru.compile(
        FOLDER / f"{name}.onnx", preprocess=DRAWN.format(more), postprocess="softmax",
        labels=list("0123456789"), top=1,
    )  # fmt: skip
    images, labels = load_images()
    found = [int(model(drawing(i))[2][0, 0]) for i in images]
    assert np.mean(np.array(found) == labels) >= 0.985
    model.selftest()


def test_the_declaration_is_part_of_the_key_and_of_the_bytes(tmp_path: Path) -> None:
    with naru_cache(tmp_path):
        made = [
            naru.compile(identity(1, 8, 8, 3), preprocess=declared)
            for declared in (None, "image", "image(invert)", "image")
        ]
    shapes = [m.inputs[0].shape for m in made]
    assert shapes == [(1, 8, 8, 3), *[("height", "width", 3)] * 3]
    image = np.full((4, 4, 3), 255, np.uint8)
    assert [float(np.asarray(m(image)).max()) for m in made[1:]] == [1, 0, 1]
    assert made[1].manifest == made[3].manifest
    assert made[2].manifest["options"]["preprocess"] == ["image(invert)"]
    steps = {n for s in made[1].manifest["steps"] for n, _ in s["nodes"]}
    assert {"preprocess.resize", "preprocess.normalize"} <= steps


def naru_cache(folder: Path) -> Any:
    from naru import knobs

    return knobs.scope(cache_dir=folder)


def test_the_command_line_takes_images_and_tells_names(tmp_path: Path) -> None:
    images, labels = load_images()
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    (tmp_path / "names.txt").write_text("\n".join(names), encoding="utf-8")
    ink = Pillow.fromarray((255 - images[3] * 255).astype(np.uint8)).resize((80, 80))
    ink.save(tmp_path / "digit.png")
    bundle = str(tmp_path / "digits.naru")
    arguments = ["compile", str(FOLDER / "digits_cnn.onnx"), "-o", bundle, "--preprocess"]
    arguments += ["image(invert, filter=box)", "--postprocess", "softmax", "--top", "2"]
    arguments += ["--labels", str(tmp_path / "names.txt")]
    run = CliRunner().invoke
    done = run(command, arguments)
    assert done.exit_code == 0, done.output
    told = run(command, ["run", bundle, "--input", str(tmp_path / "digit.png")])
    lines = told.output.splitlines()
    assert lines[0] == "logits:"
    assert lines[1].split()[0] == names[labels[3]]
    assert lines[1].rstrip().endswith("█")
    assert len(lines) == 3


def test_classes_of_integers_and_of_unknown_number(capsys: pytest.CaptureFixture[str]) -> None:
    """Scores of unsigned dtypes are ranked as numbers; more classes than labels go by number."""
    body = "(uint8[1,c] x) => (uint8[1,c] y) { y = Identity(x) }"
    model = naru.compile(zoo.text(body), labels=["cat", "dog", "owl"])
    (name,) = print_classes(model, {"y": model(np.array([[0, 200, 100, 7]], np.uint8))})
    assert name == "y"
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert shown == ["dog", "owl", "3", "cat"]


def test_labels_that_are_no_texts() -> None:
    with pytest.raises(InputError, match="label 1 has half of a surrogate pair"):
        read_processing(None, labels=["a", "b\ud800"])
