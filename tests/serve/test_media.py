"""Arrow streams, images and rows as bodies."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from onnx import TensorProto, helper
from PIL import Image
from serve.asgi import Answer, ask
from serve.conftest import serving
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import naru
from naru.serve.arrow import MEDIA
from naru.serve.http import Application

W = (np.arange(4)[:, None] + np.arange(3)).astype(np.float32)


def stream(*batches: pa.RecordBatch) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()


async def send(app: Application, model: str, body: bytes) -> Answer:
    return await ask(app, "POST", f"/v2/models/{model}/infer", body, {"content-type": MEDIA})


def read(answer: Answer) -> pa.Table:
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == MEDIA
    return pa.ipc.open_stream(answer.body).read_all()


def lists(array: np.ndarray[Any, Any]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array.shape[1])


def test_columns_are_inputs_by_name(folder: Path) -> None:
    a = np.array([1, 2, 3], np.float32)
    batch = pa.record_batch({"c": pa.array([7, 8, 9]), "b": pa.array(a), "a": pa.array(a)})

    async def check(app: Application) -> None:
        found = read(await send(app, "pair", stream(batch, batch.slice(1))))
        assert found["total"].to_pylist() == [2, 4, 6, 4, 6]
        assert found["count"].to_pylist() == [8, 9, 10, 9, 10]

    serving(folder, check)


def test_a_matrix_as_lists_or_as_columns(folder: Path) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    as_lists = pa.record_batch({"x": lists(x)})
    as_columns = pa.record_batch({f"c{k}": pa.array(x[:, k]) for k in range(4)})
    doubles = pa.record_batch({f"c{k}": pa.array(x[:, k].astype(float)) for k in range(4)})

    async def check(app: Application) -> None:
        for batch in (as_lists, as_columns, doubles):
            found = read(await send(app, "dense", stream(batch)))
            assert found["y"].to_pylist() == (x @ W).tolist()

    serving(folder, check)


def test_texts(folder: Path) -> None:
    async def check(app: Application) -> None:
        batch = pa.record_batch({"word": pa.array(["naru", "나루"])})
        assert read(await send(app, "texts", stream(batch)))["shout"].to_pylist() == [
            "NARU",
            "나루",
        ]

    serving(folder, check)


def test_what_does_not_fit(folder: Path) -> None:
    x = np.zeros((2, 4), np.float32)
    cases = [
        ("dense", b"no stream", "the body is no Arrow stream"),
        ("dense", stream(pa.record_batch({"x": lists(x)}))[:-200], "record batch 0"),
        ("dense", stream(pa.record_batch({"x": lists(x[:, :3])})), "expected dim 1 to be 4"),
        ("dense", stream(pa.record_batch({"x": pa.array([None, None], pa.float32())})), "nulls"),
        ("dense", stream(pa.record_batch({"x": pa.array(["a", "b"])})), "FP32, got string"),
        ("pair", stream(pa.record_batch({"a": pa.array([1.0])})), "column 'b' is missing"),
        (
            "pair",
            stream(pa.record_batch({"a": [1.0], "b": [1.0], "c": [1.5]})),
            "column 'c': expected INT64, got double",
        ),
    ]  # fmt: skip

    async def check(app: Application) -> None:
        for model, body, message in cases:
            answer = await send(app, model, body)
            assert answer.status == 400
            assert message in answer.error

    serving(folder, check)


# ---- images ----


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mean[1, 3]: of the channels of an image of any size."""
    folder = tmp_path_factory.mktemp("pixels")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 1, 1])
    node = helper.make_node("GlobalAveragePool", ["x"], ["y"])
    graph = helper.make_graph([node], "mean", [x], [y])
    opset = helper.make_opsetid("", 21)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    made = naru.compile(model, preprocess="image(resize=8, crop=8)")
    made.save(folder / "mean.naru")
    return folder


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_images(pixels: Path, kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (20, 10), (255, 0, 51)).save(file, kind)

    async def check(app: Application) -> None:
        headers = {"content-type": f"image/{kind}"}
        answer = await ask(app, "POST", "/v2/models/mean/infer", file.getvalue(), headers)
        assert answer.status == 200, answer.body
        found = np.array(answer.json["outputs"]["y"]).ravel()
        assert np.allclose(found, [1, 0, 0.2], atol=0.02)
        broken = await ask(app, "POST", "/v2/models/mean/infer", b"no image", headers)
        assert broken.status == 400
        assert "cannot read it as an image" in broken.error

    serving(pixels, check)


def test_an_image_for_a_model_without_pixels(folder: Path) -> None:
    async def check(app: Application) -> None:
        headers = {"content-type": "image/png"}
        answer = await ask(app, "POST", "/v2/models/dense/infer", b"", headers)
        assert answer.status == 400
        assert "takes no pixels" in answer.error

    serving(folder, check)


# ---- tables ----


def test_rows_and_columns_of_a_pipeline(tmp_path: Path) -> None:
    """The whole of a scikit-learn pipeline with texts, asked with rows by name and with Arrow."""
    rooms, city = np.array([1, 2, 3, 4, 5, 6]), np.array(["Seoul", "Oslo"] * 3)
    table = pd.DataFrame({"rooms": rooms, "city": city})
    columns = ColumnTransformer(
        [("number", StandardScaler(), ["rooms"]), ("text", OneHotEncoder(), ["city"])]
    )
    pipeline = make_pipeline(columns, LogisticRegression()).fit(table, rooms > 3)
    naru.compile(pipeline).save(tmp_path / "dear.naru")
    want = pipeline.predict_proba(table)
    batch = pa.record_batch({"city": pa.array(city), "rooms": pa.array(rooms)})

    async def check(app: Application) -> None:
        path = "/v2/models/dear/infer"
        answer = await ask(app, "POST", path, str(table.to_json(orient="records")).encode())
        assert np.allclose(answer.json["outputs"]["probabilities"], want)
        found = read(await send(app, "dear", stream(batch)))
        assert np.allclose(found["probabilities"].to_pylist(), want)
        for row, message in (
            ('[{"rooms": 3, "cty": "Oslo"}]', "column 'city' is missing"),
            ('[{"rooms": "x", "city": "Oslo"}]', "column 'rooms': expected numbers"),
            ('[{"rooms": 3, "city": "Paris"}]', "the category 'Paris'"),
        ):
            answer = await ask(app, "POST", path, row.encode())
            assert answer.status == 400
            assert message in answer.error

    serving(tmp_path, check)
