"""The WebAssembly package in Node: what it computes, what it takes, what is in it."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import naru
from naru.building import build
from naru.demo import FOLDER as DEMO
from naru.demo import load_images
from naru.errors import InputError, UnsupportedError
from naru.library import web_types
from naru.library.inspect import read_provenance
from naru.library.web import SOURCES
from tests.library.javascript import run_node, to_arrays
from tests.library.packages import Package, model_of
from tests.targets.machine import need
from tests.zoo.build import weight

Array = np.ndarray


def node_version() -> int:
    """The first number of Node's version."""
    done = subprocess.run([need("node", "nodejs"), "--version"], capture_output=True, check=True)
    return int(done.stdout[1:].split(b".")[0])


def digits_images() -> Array:
    return load_images()[0].reshape(200, 64)


# ---- what it computes ----


def baseline(source: bytes | Path, *inputs: Array) -> Array:
    """Native code that multiplies and adds, as WebAssembly does."""
    return naru.compile(source, target="x86-64-baseline", cache=False)(*inputs)


def test_equals_native_code_and_passes_its_selftest(digits: Path) -> None:
    said = run_node(
        digits,
        """
        const model = await load({ threads: 1 });
        const checks = await model.selftest();
        say({ checks, outputs: plain(model.run({ image: arrays.image })) });
        """,
        {"image": digits_images()},
    )
    assert [c["output"] for c in said["checks"]] == ["logits"]
    assert 0 < said["checks"][0]["error"] < said["checks"][0]["limit"]
    want = baseline(DEMO / "digits_mlp.onnx", digits_images())
    assert np.array_equal(to_arrays(said["outputs"])["logits"], want)


def test_selftest_compares_the_bits_of_small_floats(digits: Path) -> None:
    said = run_node(
        digits,
        """
        const { selftest } = await import(`${folder}/m.worker.js`);
        const index = (dtype) => JSON.stringify([{
          inputs: [{ dtype: "float32", shape: [0, 64], offset: 0 }],
          outputs: [{ dtype, shape: [2], offset: 0 }],
        }]);
        const found = [];
        for (const dtype of ["float8e4m3fn", "float32"])
          for (const last of [1, 2]) {
            const text = new TextEncoder().encode(index(dtype));
            const golden = new Uint8Array(Math.ceil((4 + text.length) / 64) * 64 + 8);
            golden[0] = text.length & 255;
            golden[1] = text.length >> 8;
            golden.set(text, 4);
            const data = dtype === "float32" ? new Float32Array(2) : Uint8Array.of(0, last);
            golden[golden.length - 7] = data[1]; // the second byte
            if (last === 2) data[1] = 1;
            const numbers = () => Array.from(data);
            const run = () => ({ logits: { dtype, dims: [2], data, numbers } });
            found.push(await failure(() => selftest(run, golden, { rtol: 10, atol: 10 })));
          }
        say(found);
        """,
    )
    assert said[0] is said[2] is None
    assert said[1][0] == "selftest"
    assert said[3] is None  # within the tolerance


def test_relaxed_simd(digits: Path, package: Package) -> None:
    plain = package(DEMO / "digits_mlp.onnx")
    assert not list(plain.glob("*relaxed*"))
    script = """
        const model = await load({ threads: 1 });
        await model.selftest();
        const without = await load({ threads: 1, relaxed: false });
        say([model.relaxed, plain(model.run(arrays)), without.relaxed, plain(without.run(arrays))]);
    """
    flags = () if node_version() >= 22 else ("--experimental-wasm-relaxed-simd",)
    said = run_node(digits, script, {"image": digits_images()}, flags)
    assert (said[0], said[2]) == (True, False)
    fused, separate = (to_arrays(x)["logits"] for x in (said[1], said[3]))
    assert np.array_equal(separate, baseline(DEMO / "digits_mlp.onnx", digits_images()))
    assert np.abs(fused - separate).max() <= 1e-5 * np.abs(separate).max()
    assert run_node(plain, script, {"image": digits_images()}, flags)[0] is False


def test_portable_code_comes_once(package: Package) -> None:
    folder = package(DEMO / "digits_mlp.onnx", isa=None, precision="portable")
    assert not list(folder.glob("*relaxed*"))
    assert [v["name"] for v in read_provenance(folder / "m.wasm")["levels"]] == ["wasm32-simd128"]
    assert run_node(folder, "say((await (await load()).selftest()).length);") == 1


def test_convolutions(digits_cnn: Path) -> None:
    images = load_images()[0].reshape(200, 1, 8, 8)
    said = run_node(
        digits_cnn,
        """
        const model = await load({ threads: 1 });
        await model.selftest();
        say(plain(model.run({ image: arrays.image })));
        """,
        {"image": images},
    )
    (got,) = to_arrays(said).values()
    want = baseline(DEMO / "digits_cnn.onnx", images)
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


def test_threads_give_the_same_bits(digits: Path) -> None:
    said = run_node(
        digits,
        """
        const one = await load({ threads: 1 });
        const four = await load({ threads: 4 });
        const image = { data: new Float32Array(512 * 64), dims: [512, 64] };
        image.data.set(arrays.image.data);
        const same = [];
        for (const batch of [512, 1, 7, 512, 300]) {
          const some = { data: image.data.subarray(0, 64 * batch), dims: [batch, 64] };
          const run = (model) => toBase64(model.run({ image: some }).logits.data);
          same.push(run(one) === run(four));
        }
        four.dispose();
        say([one.threads, four.threads, same]);
        """,
        {"image": digits_images()},
    )
    assert said == [1, 4, [True] * 5]


def test_threads_meet_inside_a_kernel(package: Package) -> None:
    """A step of a recurrent layer that is long enough to be shared."""
    hidden, float32 = 128, TensorProto.FLOAT
    weights = {"w": weight(1, 4 * hidden, 8), "r": weight(1, 4 * hidden, hidden)}
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=hidden)
    x, y = (float32, [20, 1, 8]), (float32, [20, 1, 1, hidden])
    model = model_of([node], {"x": x}, {"y": y}, weights)
    given = np.random.default_rng(0).standard_normal((20, 1, 8)).astype(np.float32)
    said = run_node(
        package(model),
        """
        const found = [];
        for (const threads of [1, 2, 3]) {
          const model = await load({ threads });
          for (let k = 0; k < 3; k++) found.push(plain(model.run({ x: arrays.x })));
          model.dispose();
        }
        say(found);
        """,
        {"x": given},
    )
    want = baseline(model, given)
    for outputs in said:
        np.testing.assert_array_equal(to_arrays(outputs)["y"], want)


def test_in_a_worker(digits: Path) -> None:
    said = run_node(
        digits,
        """
        let seen = 0;
        const onProgress = ({ loaded }) => (seen = loaded);
        const model = await loadInWorker({ threads: 2, onProgress });
        const direct = await load({ threads: 1 });
        const both = [await model.run(arrays), direct.run(arrays)];
        const [a, b] = both.map((r) => toBase64(r.logits.data));
        const numbers = (await model.run(arrays)).logits.numbers().length;
        const wrong = await failure(() => model.run({ picture: arrays.image }));
        const checks = await model.selftest();
        model.dispose();
        const after = await failure(() => model.run(arrays));
        say({ seen, threads: model.threads, same: a === b, numbers, wrong, checks, after });
        """,
        {"image": digits_images()},
    )
    assert said["seen"] == (digits / "m.weights").stat().st_size
    assert (said["threads"], said["same"], said["numbers"]) == (2, True, 2000)
    assert said["wrong"][0] == "input"
    assert 'there is no input "picture"' in said["wrong"][1]
    assert len(said["checks"]) == 1
    assert said["after"][0] == "disposed"


def test_shapes_that_data_decide(package: Package) -> None:
    node = helper.make_node("NonZero", ["x"], ["y"])
    x, y = (TensorProto.FLOAT, ["n", "m"]), (TensorProto.INT64, [2, None])
    folder = package(model_of([node], {"x": x}, {"y": y}))
    values = np.array([[0, 2, 0], [3, 0, 4]], np.float32)
    said = run_node(
        folder,
        """
        const model = await load();
        const first = model.run(arrays);
        const zero = model.run({ x: { data: new Float32Array(4), dims: [2, 2] } });
        say([plain(model.run(arrays)), first.y.dims, zero.y.dims, zero.y.numbers(), info]);
        """,
        {"x": values},
    )
    assert np.array_equal(to_arrays(said[0])["y"], np.stack(np.nonzero(values)))
    assert said[1:4] == [[2, 3], [2, 0], []]
    assert said[4]["outputs"][0]["late"] is True


def test_images_in_and_classes_out(package: Package) -> None:
    labels = [f"digit {k}" for k in range(10)]
    declared = {
        "preprocess": "image(pixels=rgba, background=white, invert, filter=box)",
        "postprocess": "softmax",
        "labels": labels,
        "top": 3,
    }
    folder = package(DEMO / "digits_cnn.onnx", **declared)
    canvas = np.zeros((280, 280, 4), np.uint8)
    canvas[60:220, 130:150, 3] = 255
    said = run_node(
        folder,
        """
        const model = await load();
        const [{ name }] = info.inputs;
        const pixels = new Uint8ClampedArray(arrays.canvas.data); // as in ImageData
        const outputs = model.run({ [name]: { data: pixels, dims: [280, 280, 4] } });
        say([info.labels, plain(outputs), info.outputs]);
        """,
        {"canvas": canvas},
    )
    assert said[0] == labels
    scores, *best = said[2]
    assert (scores["labels"], scores["axis"]) == (labels, 1)
    assert [t["top_of"] for t in best] == [scores["name"]] * 2
    script, types = ((folder / f"m.{end}").read_text() for end in ("js", "d.ts"))
    assert script.count('"digit 7"') == 1
    assert types.count('readonly "labels": readonly ["digit 0", "digit 1"') == 2
    native = naru.compile(
        DEMO / "digits_cnn.onnx", target="x86-64-baseline", cache=False, **declared
    )
    want = native(canvas)
    for got, expected in zip(to_arrays(said[1]).values(), want, strict=True):
        assert got.shape == expected.shape
        assert np.abs(got.astype("f8") - expected).max() <= 1e-5


def test_weights_that_halves_do_not_hold(package: Package) -> None:
    """Those too small for half precision stay as they are."""
    weights = numpy_helper.from_array(np.full((1024,), 1e-9, np.float32), "w")
    kind = (TensorProto.FLOAT, [1024])
    mul = helper.make_node("Mul", ["x", "w"], ["y"])
    proto = onnx.load_from_string(model_of([mul], {"x": kind}, {"y": kind}))
    proto.graph.initializer.append(weights)
    said = run_node(
        package(proto.SerializeToString(), half_weights=True),
        "const m = await load(); say(plain(m.run(arrays)));",
        {"x": np.ones(1024, np.float32)},
    )
    assert (to_arrays(said)["y"] == np.float32(1e-9)).all()


def test_half_weights(package: Package, digits: Path) -> None:
    folder = package(DEMO / "digits_mlp.onnx", half_weights=True)
    said = run_node(
        folder,
        """
        const model = await load();
        await model.selftest();
        say([info.classes, plain(model.run(arrays))]);
        """,
        {"image": digits_images()},
    )
    assert said[0] == {"arithmetic": "fp32", "weights": "fp16"}
    small, large = ((f / "m.weights").stat().st_size for f in (folder, digits))
    assert small < 0.52 * large
    got = to_arrays(said[1])["logits"]
    graph = onnx.load(DEMO / "digits_mlp.onnx")
    for w in graph.graph.initializer:
        values = numpy_helper.to_array(w)
        if values.size >= 256:
            w.CopyFrom(numpy_helper.from_array(values.astype(np.float16).astype("f4"), w.name))
    want = baseline(graph.SerializeToString(), digits_images())
    assert np.abs(got - want).max() < 2e-3 * np.abs(want).max()


def test_indices_of_64_bits(package: Package) -> None:
    """What is far out of range is not what its low half is: results are those of native code."""
    far = 2**32
    names = ("i", "o", "s")
    nodes = [
        helper.make_node("Gather", ["x", "i"], ["y"]),
        helper.make_node("OneHot", ["o", "depth", "pair"], ["z"]),
        helper.make_node("ScatterElements", ["x", "s", "u"], ["w"]),
    ]
    proto = onnx.load_from_string(
        model_of(
            nodes,
            {"x": (TensorProto.FLOAT, [6]), "i": (TensorProto.INT64, [4]),
             "o": (TensorProto.INT64, [3]), "s": (TensorProto.INT64, [1])},
            {"y": (TensorProto.FLOAT, [4]), "z": (TensorProto.FLOAT, [3, 3]),
             "w": (TensorProto.FLOAT, [6])},
        )
    )  # fmt: skip
    for name, value in {
        "depth": np.array(3, np.int64),
        "pair": np.array([0, 1], np.float32),
        "u": np.array([9], np.float32),
    }.items():
        proto.graph.initializer.append(numpy_helper.from_array(value, name))
    feed = {
        "x": np.arange(6, dtype=np.float32),
        **dict(
            zip(names, ([far + 1, -far - 1, 5, 2**62], [1, far + 1, 0], [far + 1]), strict=True)
        ),
    }
    feed = {k: np.asarray(v) for k, v in feed.items()}
    model = proto.SerializeToString()
    said = run_node(package(model), "const m = await load(); say(plain(m.run(arrays)));", feed)
    wanted = naru.compile(model, cache=False)(*feed.values())
    for got, want in zip(to_arrays(said).values(), wanted, strict=True):
        assert np.array_equal(got, want)


# ---- inputs ----


def test_inputs_of_many_kinds(digits: Path) -> None:
    said = run_node(
        digits,
        """
        const model = await load();
        const data = Float32Array.from({ length: 128 }, (_, k) => Math.fround(Math.sin(k)));
        const kinds = {
          typed: data, plain: [...data], sized: { data, dims: [2, 64] }, list: { data: [...data] },
          nested: [[...data.subarray(0, 64)], [...data.subarray(64)]],
        };
        const run = (image) => toBase64(model.run({ image }).logits.data);
        const outputs = Object.values(kinds).map(run);
        const view = model.input("image", [2, 64]);
        view.set(data);
        outputs.push(toBase64(model.run().logits.data));
        const again = model.run().logits; // the view keeps its contents
        outputs.push(toBase64(again.data));
        const copied = again.numbers();
        const first = again.data[0];
        model.run({ image: new Float32Array(64) });
        const none = model.run({ image: [] }).logits.dims;
        say({ same: new Set(outputs).size, view: [view.length, view instanceof Float32Array],
              copied: [copied.length, copied[0] === first], none });
        """,
    )
    assert said == {"same": 1, "view": [128, True], "copied": [20, True], "none": [0, 10]}


WRONG_INPUTS = {
    "{}": 'input "image" is missing; expected image: float32[batch, 64]',
    "{ imag: x }": 'there is no input "imag"; expected image: float32[batch, 64]',
    "{ image: new Float64Array(64) }": "expected float32 (Float32Array or numbers), got Float64",
    "{ image: new Float32Array(65) }": "[batch, 64], a multiple of 64 elements, got 65",
    "{ image: { data: x, dims: [2, 32] } }": "got [2, 32]: dim 1 must be 64",
    "{ image: { data: x, dims: [64] } }": "expected shape [batch, 64], got [64]",
    "{ image: { data: x, dims: [-1, 64] } }": "dim 0 is no size",
    "{ image: { data: x, dims: [2, 64] } }": "[2, 64] has 128 elements, got 64",
    "{ image: 'text' }": "got text without data",
    "{ image: null }": "got null",
    "{ image: { dims: [1, 64] } }": "got object without data",
    "{ image: Array(64).fill('1') }": "element 0 is 1, which is no float32",
    "{ image: 3 }": "expected shape [batch, 64]",
    "{ image: [[1, 2], [3, 4]] }": "expected shape [batch, 64], got [2, 2]: dim 1 must be 64",
    "{ image: [[1, 2], [3]] }": "the arrays of dim 1 have not the same size",
    "{ image: [[1, 2], 3] }": "the arrays of dim 1 have not the same size",
}


def test_wrong_inputs_are_told(digits: Path) -> None:
    calls = ", ".join(f"() => model.run({call})" for call in WRONG_INPUTS)
    said = run_node(
        digits,
        f"""
        const model = await load();
        const x = new Float32Array(64);
        const found = [];
        for (const call of [{calls}]) found.push(await failure(call));
        const good = model.run({{ image: x }}).logits.dims;
        const views = [];
        for (const name of ["image", "y"]) views.push(await failure(() => model.input(name)));
        say([found, good, views]);
        """,
    )
    for (code, message, _), expected in zip(said[0], WRONG_INPUTS.values(), strict=True):
        assert code == "input"
        assert expected in message
    assert said[1] == [1, 10]
    assert "its sizes are not fixed: pass them" in said[2][0][1]
    assert 'there is no input "y"' in said[2][1][1]


def test_every_dtype(package: Package) -> None:
    kinds = {
        "f4": TensorProto.FLOAT,
        "f8": TensorProto.DOUBLE,
        "f2": TensorProto.FLOAT16,
        "bf": TensorProto.BFLOAT16,
        "i1": TensorProto.INT8,
        "i4": TensorProto.INT32,
        "i8": TensorProto.INT64,
        "u1": TensorProto.UINT8,
        "b1": TensorProto.BOOL,
    }
    nodes = [helper.make_node("Concat", [k, k], [f"{k}_out"], axis=0) for k in kinds]
    three, six = (
        {k: (t, [3]) for k, t in kinds.items()},
        {f"{k}_out": (t, [6]) for k, t in kinds.items()},
    )
    folder = package(model_of(nodes, three, six))
    said = run_node(
        folder,
        """
        const model = await load();
        const base = {
          f4: [0.5, -1, 3], f8: [0.1, 2, 3], f2: [0.5, -2, 65504], bf: [1, -0.5, 256],
          i1: [-128, 0, 127], i4: [-(2 ** 31), 0, 2 ** 31 - 1], i8: [-(2 ** 40), 7, 2 ** 53 - 1],
          u1: [0, 128, 255], b1: [true, false, true],
        };
        const numbers = (outputs) =>
          Object.fromEntries(Object.entries(outputs).map(([k, t]) => [k, t.numbers()]));
        const first = numbers(model.run(base));
        const typed = numbers(model.run({
          ...base, f2: Float32Array.of(0.5, -2, 65504), bf: Float32Array.of(1, -0.5, 256),
          i8: BigInt64Array.from([-(2n ** 40n), 7n, 2n ** 53n - 1n]),
          u1: Uint8ClampedArray.of(0, 128, 255), b1: Uint8Array.of(1, 0, 1),
        }));
        const large = model.run({ ...base, f2: [1e6, 0, -1e6], f4: [1e300, 0, 0] });
        const infinite = [...large.f2_out.data.slice(0, 3), large.f4_out.data[0] === Infinity];
        const narrow = model.run({ ...base, i8: Int32Array.of(-1, 2, -3) }).i8_out;
        const wrong = [];
        for (const [k, x] of [
          ["i1", [200, 0, 0]], ["i4", [0.5, 0, 0]], ["i8", [2 ** 53, 0, 0]], ["i8", [1.5, 0, 0]],
          ["i8", [2n ** 63n, 0, 0]], ["i8", new Float32Array(3)], ["u1", [-1, 0, 0]],
          ["b1", [0, "x", 0]], ["b1", [2, 0, 0]], ["b1", Uint8Array.of(0, 2, 0)], ["i4", [1, 2]],
        ])
          wrong.push(await failure(() => model.run({ ...base, [k]: x })));
        const same = JSON.stringify(first) === JSON.stringify(typed);
        say([first, same, narrow.numbers(), narrow.data instanceof BigInt64Array, wrong, infinite]);
        """,
    )
    first = said[0]
    assert first["f2_out"] == [0.5, -2, 65504] * 2
    assert first["bf_out"] == [1, -0.5, 256] * 2
    assert first["i8_out"] == [-(2**40), 7, 2**53 - 1] * 2
    assert first["i4_out"] == [-(2**31), 0, 2**31 - 1] * 2
    assert first["b1_out"] == [1, 0, 1] * 2
    assert first["f8_out"] == [0.1, 2, 3] * 2
    assert said[1:4] == [True, [-1, 2, -3] * 2, True]
    assert all(w is not None and w[0] == "input" for w in said[4]), said[4]
    assert "element 0 is 200, which is no int8" in said[4][0][1]
    assert "element 1 is 2, which is no bool" in said[4][9][1]
    assert said[5] == [0x7C00, 0, 0xFC00, True]


def of_values(names: str, script: str) -> Any:
    """What a script says of values.js alone."""
    source = (SOURCES / "halves.js").read_text() + (SOURCES / "values.js").read_text()
    source = source.replace("const CODES = null;", "const CODES = makeCodes();")
    engine = "const NaruError = class extends Error { constructor(_, text) { super(text); } };"
    program = f"{engine}\n{source}\n{script}\nconsole.log(JSON.stringify({names}));"
    node = [need("node", "nodejs"), "--input-type=module"]
    done = subprocess.run(node, input=program, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_types_and_script_know_the_same_arrays() -> None:
    arrays, also = of_values(
        "[arrays, ALSO]",
        "const arrays = Object.fromEntries(Object.entries(TYPES).map(([k, T]) => [k, T.name]));",
    )
    assert arrays == web_types.ARRAYS
    also["float16"].remove("Float16Array")  # which TypeScript's libraries lack
    assert also == {k: list(v) for k, v in web_types.ALSO.items()}


def test_elements_of_less_than_a_byte() -> None:
    script = """
        const refused = {};
        for (const dtype of ["int4", "uint4", "int2", "uint2", "bool", "float8e5m2"]) {
          refused[dtype] = [];
          for (const x of [-9, -8, -3, -2, -1, 0, 1, 2, 3, 4, 7, 8, 15, 16, 255, 256])
            try {
              put({ name: "x", dtype }, [x], new ArrayBuffer(1), 0);
            } catch (error) {
              if (!error.message.includes(`which is no ${dtype}`)) throw error;
              refused[dtype].push(x);
            }
        }
    """
    values = (-9, -8, -3, -2, -1, 0, 1, 2, 3, 4, 7, 8, 15, 16, 255, 256)
    ranges = {"int4": (-8, 7), "uint4": (0, 15), "int2": (-2, 1), "uint2": (0, 3), "bool": (0, 1)}
    refused = of_values("refused", script)
    for dtype, (low, high) in {**ranges, "float8e5m2": (0, 255)}.items():
        assert refused[dtype] == [x for x in values if not low <= x <= high], dtype


def test_half_precision_rounds_to_nearest(package: Package) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    kinds = {"x": (TensorProto.FLOAT16, ["n"])}
    folder = package(model_of([node], kinds, {"y": kinds["x"]}))
    rng = np.random.default_rng(3)
    values = np.concatenate(
        [rng.standard_normal(500), rng.standard_normal(500) * 10.0 ** rng.integers(-9, 5, 500)]
    ).astype(np.float32)
    edges = np.array([0, -0.0, np.inf, 65519, 65520, 2**-25, 2**-24], np.float32)
    # Rounded to single precision first, these would be ties.
    between = [1 + 2**-11 + 2**-40, 1 + 3 * 2**-11 - 2**-40]
    values = np.concatenate([values, edges, between])
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    said = run_node(
        folder,
        """
        const model = await load();
        const { y } = model.run({ x: Array.from(arrays.x.data) });
        say([plain({ y }), y.numbers().every((v, k) => Object.is(v, arrays.back.data[k]))]);
        """,
        {"x": values, "back": halves.astype(np.float32)},
    )
    got = to_arrays(said[0])["y"]
    assert np.array_equal(got.view(np.uint16), halves.view(np.uint16))
    assert said[1]


def test_sizes_that_must_agree(package: Package) -> None:
    node = helper.make_node("Add", ["a", "b"], ["c"])
    kind = (TensorProto.FLOAT, ["n", "m"])
    folder = package(model_of([node], {"a": kind, "b": kind}, {"c": kind}))
    said = run_node(
        folder,
        """
        const model = await load();
        const x = (n, m) => ({ data: new Float32Array(n * m).fill(1), dims: [n, m] });
        const { c } = model.run({ a: x(2, 3), b: new Float32Array(6) }); // b has the sizes of a
        // A view of an output as an input, where memory moves.
        const big = model.run({ a: model.run({ a: x(2, 3), b: x(2, 3) }).c, b: x(2, 3) });
        const sum = big.c.numbers();
        const grown = model.run({ a: x(500, 300), b: x(500, 300) }).c.numbers();
        const views = [model.input("a", [2, 2]), model.input("b", [2, 2])];
        views[0].fill(1);
        model.input("b", [2, 2]).fill(5);
        const filled = model.run().c.numbers();
        say([c.dims, sum, grown.every((v) => v === 2), filled,
             await failure(() => model.run({ a: new Float32Array(6), b: x(2, 3) })),
             await failure(() => model.run({ a: x(2, 3), b: x(3, 2) }))]);
        """,
    )
    assert said[:4] == [[2, 3], [3] * 6, True, [6] * 4]
    assert "pass { data, dims: [n, m] }" in said[4][1]
    assert 'dim 0 must be 2, as in "a"' in said[5][1]


def test_views_of_inputs_are_inputs(package: Package) -> None:
    """Also where the sizes of another input move them."""
    node = helper.make_node("Concat", ["a", "b"], ["z"], axis=0)
    f4 = TensorProto.FLOAT
    folder = package(model_of([node], {"a": (f4, ["n"]), "b": (f4, ["k"])}, {"z": (f4, [None])}))
    said = run_node(
        folder,
        """
        const found = [];
        for (const threads of [1, 2]) { // with two, memory is shared
          const model = await load({ threads });
          let v = model.input("b", [4]);
          v.fill(7);
          const first = model.run({ a: new Float32Array(1000).fill(1), b: v }).z.numbers();
          const again = model.run({ a: [2] }).z.numbers(); // b keeps its contents
          v = model.input("b", [4]); // as the input for which it is not
          v.fill(5);
          const other = model.run({ a: v, b: new Float32Array(100000).fill(3) }).z.numbers();
          found.push([first, again, other.slice(0, 5), other.length]);
        }
        say(found);
        """,
    )
    assert said == [[[1] * 1000 + [7] * 4, [2] + [7] * 4, [5] * 4 + [3], 100004]] * 2


# ---- the package ----


def test_what_is_written(digits: Path, package: Package) -> None:
    again = package(DEMO / "digits_mlp.onnx", isa=None)
    names = {p.name for p in again.iterdir()}
    assert names == {
        *("m.wasm", "m.threads.wasm", "m.relaxed.wasm", "m.relaxed.threads.wasm", "m.weights"),
        *("m.js", "m.worker.js", "m.d.ts", "m.golden"),
        *(
            "m.json",
            "package.json",
            "index.html",
            "demo.css",
            "demo.js",
            "README.md",
            ".naru-files",
        ),
    }
    for name in names:
        assert (again / name).read_bytes() == (digits / name).read_bytes(), name
    record = read_provenance(again / "m.threads.wasm")
    assert [v["name"] for v in record["levels"]] == ["wasm32-simd128", "wasm32-relaxed"]
    assert record["inputs"][0]["name"] == "image"
    assert json.loads((again / "package.json").read_text())["types"] == "./m.d.ts"
    types = (again / "m.d.ts").read_text()
    assert '"image": Value<Float32Array, number, readonly [number, 64]>;' in types
    assert '"logits": Tensor<"float32", Float32Array, readonly [number, 10]>;' in types


def test_records_that_are_damaged(digits: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    whole = (digits / "m.wasm").read_bytes()
    for content in (whole[:-1], whole[:500], whole[:8] + b"\0\xff\xff\xff\xff\xff", whole[:8]):
        bad.write_bytes(content)
        with pytest.raises(InputError, match=r"damaged library|says nothing"):
            read_provenance(bad)
    for content in (b"\2\1\xff", b"\0", b"\2\x05a"):  # a name that is none
        bad.write_bytes(whole[:8] + b"\0" + content)
        with pytest.raises(InputError, match="damaged library"):
            read_provenance(bad)
    record = json.loads((digits / "m.json").read_text())
    bad.write_text(json.dumps(record))
    assert read_provenance(bad) == record
    told = set(record) - {"naru", "levels", "format", "symbols"}
    for key in sorted(told):
        bad.write_text(json.dumps({k: v for k, v in record.items() if k != key}))
        with pytest.raises(InputError, match=rf"its record is damaged: \$\.{key}"):
            read_provenance(bad)
    bad.write_text('{"naru": 1, "levels": [], "format": 1}')
    with pytest.raises(InputError, match="its record is damaged"):
        read_provenance(bad)


def test_the_runtime_is_small(digits: Path) -> None:
    script = (digits / "m.js").read_text()
    table = next(line for line in script.split("\n") if line.startswith("const MODEL = "))
    glue = script.replace(table, "")
    assert len(gzip.compress(glue.encode(), 9)) <= 10_000
    assert len(gzip.compress((digits / "m.worker.js").read_bytes(), 9)) <= 3_000
    # No code from text, no BigInt for sizes, and no inline script in the page.
    for name in ("model.js", "model.worker.js", "demo.js"):
        text = (SOURCES / name).read_text()
        assert "eval(" not in text
        assert "Function(" not in text
    assert "<script>" not in (SOURCES / "index.html").read_text()


def test_what_makes_no_package(tmp_path: Path) -> None:
    texts = helper.make_node("StringNormalizer", ["x"], ["y"], case_change_action="UPPER")
    model = model_of([texts], {"x": (TensorProto.STRING, [2])}, {"y": (TensorProto.STRING, [None])})
    with pytest.raises(UnsupportedError, match="StringNormalizer"):
        build(model, tmp_path / "a", platform="wasm", name="m", cache=False)
    with pytest.raises(InputError, match="--embed is for native libraries"):
        build(DEMO / "digits_mlp.onnx", tmp_path / "a", platform="wasm", embed=True, cache=False)
    with pytest.raises(InputError, match="--emit static is for native libraries"):
        build(DEMO / "digits_mlp.onnx", tmp_path / "a", platform="wasm", emit="static", cache=False)
    for name, file in (("demo", "demo.css"), ("Package", "package.json"), ("index", "index.html")):
        with pytest.raises(InputError, match=f"{name}.* is taken by the package's own {file}") as e:
            build(DEMO / "digits_mlp.onnx", tmp_path / "a", platform="wasm", name=name)
        assert e.value.hint == "--name NAME"
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder"):
        build(DEMO / "digits_mlp.onnx", tmp_path / "file", platform="wasm", cache=False)


def test_names_of_all_kinds(tmp_path: Path) -> None:
    build(DEMO / "digits_mlp.onnx", tmp_path, platform="wasm", name="Zahlen-é v2.1#", cache=False)
    script = next(p for p in tmp_path.iterdir() if p.name.endswith(".worker.js"))
    shutil.copy(script.with_name(script.name.replace(".worker", "")), tmp_path / "m.js")
    said = run_node(tmp_path, "say((await (await load()).selftest()).length);")
    assert said == 1
