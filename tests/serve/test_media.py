"""Arrow streams, images and rows as bodies."""

from __future__ import annotations

import asyncio
import io
import struct
from collections.abc import Callable
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


def stream(*batches: pa.RecordBatch, compression: str | None = None) -> bytes:
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, batches[0].schema, options=options) as writer:
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
        ("dense", stream(pa.record_batch([], pa.schema([]))), "expected at least one column"),
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


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_batches(folder: Path, compression: str) -> None:
    """They are taken, but not decompressed where that would take more than a body may."""
    x = np.ones((20, 4), np.float32)
    small = stream(pa.record_batch({"x": lists(x)}), compression=compression)
    zeros = pa.array(np.zeros(1 << 20, np.float32))
    words = pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), pa.array(["0" * (1 << 20)]))
    bombs = [
        stream(pa.record_batch({"x": column}), compression=compression) for column in (zeros, words)
    ]
    halves = [pa.record_batch({"x": zeros[: 1 << 13]})] * 3  # of which each would fit

    async def check(app: Application) -> None:
        found = read(await send(app, "dense", small))
        assert found["y"].to_pylist() == (x @ W).tolist()
        before = pa.total_allocated_bytes()
        for body in (*bombs, stream(*halves, compression=compression)):
            assert len(body) < app.plane.settings.max_body
            assert (await send(app, "dense", body)).status == 413
        app.room.limit = 1 << 14
        assert (await send(app, "dense", stream(halves[0], compression=compression))).status == 503
        assert pa.total_allocated_bytes() <= before
        assert app.room.held == 0

    serving(folder, check, max_body=1 << 16)


def test_buffers_that_lie_upon_each_other(folder: Path) -> None:
    ones = pa.array(np.ones(1000, np.float32))
    body = stream(pa.record_batch({"a": ones, "b": ones, "c": ones}))
    second = struct.pack("<qq", 4000, 4000)
    assert second in body

    async def check(app: Application) -> None:
        for place in ((0, 9000), (4000, -1)):
            answer = await send(app, "pair", body.replace(second, struct.pack("<qq", *place)))
            assert answer.error == "the stream's buffers are not within their message"
        none = pa.record_batch(dict[str, Any]())
        assert "column 'a' is missing" in (await send(app, "pair", stream(none))).error

    serving(folder, check)


def test_rows_without_bytes(folder: Path) -> None:
    nothing = pa.array([], pa.float32())
    rows = pa.Array.from_buffers(pa.list_(pa.float32(), 0), 1 << 30, [None], children=[nothing])

    async def check(app: Application) -> None:
        answer = await send(app, "dense", stream(pa.record_batch({"c0": rows})))
        assert answer.error == "record batch 0: column 'c0': expected FP32, got lists"

    serving(folder, check)


async def stream_out(
    app: Application, model: str, body: bytes, see: Callable[[bytes], bool]
) -> bool:
    """Shows the answer's pieces as they come; the client goes where `see` says so. Did the stream
    come to its end?"""
    gone, messages = asyncio.Event(), [{"type": "http.request", "body": body}]
    ended = False

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def take(message: Any) -> None:
        nonlocal ended
        ended = message["type"] == "http.response.body" and not message.get("more_body", False)
        if see(message.get("body", b"")):
            gone.set()

    path = f"/v2/models/{model}/infer"
    headers = [(b"content-type", MEDIA.encode())]
    await app({"type": "http", "method": "POST", "path": path, "headers": headers}, receive, take)
    return ended


def test_a_stream_whose_later_batch_fails(folder: Path) -> None:
    good, bad = (pa.record_batch({"word": pa.array([w])}) for w in ("1.5", "naru"))
    nulls = pa.record_batch({"word": pa.array([None], pa.string())})

    async def check(app: Application) -> None:
        for count, batch in enumerate((bad, nulls)):
            body, pieces, held = stream(good, good, batch, good), list[bytes](), set[int]()

            def see(piece: bytes, pieces: list[bytes] = pieces, held: set[int] = held) -> bool:
                pieces.append(piece)
                held.add(app.room.held)
                return False

            assert not await stream_out(app, "parsed", body, see)
            found = pa.ipc.open_stream(b"".join(pieces))
            assert [found.read_next_batch()["y"].to_pylist() for _ in range(2)] == [[1.5]] * 2
            assert held == {len(body)}  # as long as the stream goes on
            assert app.room.held == 0
            servable = app.plane.find("parsed", None)
            assert servable is not None
            assert servable.statistics.refused == {"invalid argument": count + 1}

    serving(folder, check)


def test_a_stream_whose_client_goes(folder: Path) -> None:
    batch = pa.record_batch({"word": pa.array(["1.5"])})

    async def check(app: Application) -> None:
        servable = app.plane.find("parsed", None)
        assert servable is not None
        assert not await stream_out(app, "parsed", stream(*[batch] * 5), bool)
        assert servable.statistics.runs == 1  # what nobody would have is not run
        assert app.room.held == 0

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


def test_damaged_images(pixels: Path) -> None:
    """What Pillow says of them is told, and neither where they lie in memory nor a 500."""
    file = io.BytesIO()
    Image.new("RGB", (20, 10)).save(file, "png")
    png = file.getvalue()
    at = png.index(b"IDAT") + 4

    async def check(app: Application) -> None:
        for body, message in (
            (b"\x89PNG", "the body: cannot read it as an image: the format is not known"),
            (png[: at + 2] + png[at + 9 :], "the body: cannot read it as an image"),
            (png[: at - 5] + b"\x01" + png[at - 4 :], "broken PNG file"),  # a chunk of one byte
        ):
            headers = {"content-type": "image/png"}
            answer = await ask(app, "POST", "/v2/models/mean/infer", body, headers)
            assert answer.status == 400
            assert message in answer.error
            assert "0x" not in answer.error
        assert app.room.held == 0

    serving(pixels, check)


def test_a_small_file_of_a_huge_image(pixels: Path) -> None:
    """There must be room for the pixels before they are there."""
    file = io.BytesIO()
    Image.new("RGB", (20, 10)).save(file, "gif")
    gif = bytearray(file.getvalue())
    gif[6:10] = struct.pack("<HH", 9000, 9000)

    async def check(app: Application) -> None:
        headers = {"content-type": "image/gif"}
        answer = await ask(app, "POST", "/v2/models/mean/infer", bytes(gif), headers)
        assert answer.status == 413
        assert app.room.held == 0

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
            ('[{"rooms": "x", "city": "Oslo"}]', "row 0: 'rooms': expected a number, got a text"),
            ('[{"rooms": 3, "city": "Paris"}]', "the category 'Paris'"),
        ):
            answer = await ask(app, "POST", path, row.encode())
            assert answer.status == 400
            assert message in answer.error

    serving(tmp_path, check)


def test_numbers_beyond_the_datatype(folder: Path) -> None:
    """They are refused as they are in tensors, and do not become infinities."""
    column = pa.record_batch({f"c{k}": pa.array([1e39]) for k in range(4)})
    rows = b'[{"a": 1e39, "b": 0, "c": 0}]'

    async def check(app: Application) -> None:
        answer = await send(app, "dense", stream(column))
        assert answer.status == 400
        assert "column 'c0': a number is out of the range of FP32" in answer.error
        answer = await ask(app, "POST", "/v2/models/pair/infer", rows)
        assert answer.status == 400
        assert "overflow" in answer.error

    serving(folder, check)


def test_categories_are_texts(folder: Path) -> None:
    """As dataframes have them: rows share their texts."""
    words = pa.array(["b", "a", "b"]).dictionary_encode()
    nulls = pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array(["a", None]))

    async def check(app: Application) -> None:
        plain = await send(app, "texts", stream(pa.record_batch({"word": ["b", "a", "b"]})))
        answer = await send(app, "texts", stream(pa.record_batch({"word": words})))
        assert (answer.status, plain.status) == (200, 200)
        assert answer.body == plain.body
        answer = await send(app, "texts", stream(pa.record_batch({"word": nulls})))
        assert "column 'word' has nulls" in answer.error
        twice = pa.RecordBatch.from_arrays([pa.array(["a"])] * 2, ["word", "word"])
        answer = await send(app, "texts", stream(twice))
        assert "there are two columns 'word'" in answer.error

    serving(folder, check)


def test_names_of_columns_are_utf8(folder: Path) -> None:
    body = stream(pa.record_batch({"word": ["naru"]})).replace(b"word", b"w\xffrd")

    async def check(app: Application) -> None:
        answer = await send(app, "texts", body)
        assert answer.status == 400
        assert "record batch 0: 'utf-8'" in answer.error

    serving(folder, check)


@pytest.mark.parametrize("offsets", [[0, 2_000_000_000, 4], [0, 3, 1], [0, -5, 4]])
def test_texts_lie_within_their_column(folder: Path, offsets: list[int]) -> None:
    """A record batch whose offsets lead elsewhere is read by nobody."""
    places = pa.py_buffer(np.array(offsets, np.int32).tobytes())
    batch = pa.record_batch({"word": pa.StringArray.from_buffers(2, places, pa.py_buffer(b"naru"))})
    bad = pa.StringArray.from_buffers(
        1, pa.py_buffer(np.array([0, 4], np.int32).tobytes()), pa.py_buffer(b"a\xff\xfeb")
    )

    async def check(app: Application) -> None:
        for body in (stream(batch), stream(pa.record_batch({"word": bad}))):
            answer = await send(app, "texts", body)
            assert answer.status == 400
            assert "record batch 0" in answer.error

    serving(folder, check, load_at_start=0)
