"""The WebAssembly package in Node where files, memory, threads or the data fail it."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import TensorProto, helper

from naru.artifact.wasm import custom_section, link_wasm, with_custom_section, with_shared_memory
from naru.codegen.objects import compile_module
from naru.codegen.wasm_host import ENTRIES, HOST_TEXT, host_target
from naru.targets import TARGETS
from tests.library.javascript import run_node
from tests.library.packages import Package, model_of

WASM = TARGETS["wasm32-simd128"]


def test_failures_of_a_run_name_their_nodes(package: Package) -> None:
    node = helper.make_node("ConstantOfShape", ["size"], ["y"], name="fill")
    kinds = {"size": (TensorProto.INT64, [1])}
    folder = package(model_of([node], kinds, {"y": (TensorProto.FLOAT, [None])}))
    said = run_node(
        folder,
        """
        const model = await load();
        const sizes = [-3, 2 ** 40, 2];
        const found = [];
        for (const size of sizes) found.push(await failure(() => model.run({ size: [size] })));
        say([found, model.run({ size: [3] }).y.numbers()]);
        """,
    )
    (small, large, fine), numbers = said
    assert small[0] == large[0] == "run"
    assert small[1] == 'step "bind_dim" of "fill": got a size of -3, the least is 0'
    assert "got a size of 1099511627776, the most is" in large[1]
    assert small[2] == large[2] == ["fill"]
    assert fine is None
    assert numbers == [0, 0, 0]


def test_files_that_are_wrong(digits: Path, digits_cnn: Path, tmp_path: Path) -> None:
    other = digits_cnn
    weights = (digits / "m.weights").read_bytes()
    flipped = bytearray(weights)
    flipped[5000] ^= 4
    for name, content in {
        "short": weights[:-7],
        "empty": b"",
        "long": weights + b"x",
        "flipped": bytes(flipped),
        "page": b"<!doctype html><html>" + bytes(100),
        "broken.wasm": (digits / "m.wasm").read_bytes()[:500],
        "foreign.wasm": b"\0asm\1\0\0\0",
    }.items():
        (tmp_path / name).write_bytes(content)
    said = run_node(
        digits,
        f"""
        const at = (name) => `{tmp_path}/${{name}}`;
        const files = {{
          short: {{ weights: at("short") }}, empty: {{ weights: at("empty") }},
          long: {{ weights: at("long") }},
          flipped: {{ weights: at("flipped") }}, page: {{ weights: at("page") }},
          other: {{ weights: "{other}/m.weights" }}, missing: {{ weights: at("missing") }},
          bytes: {{ weights: readFileSync(at("short")) }},
          broken: {{ wasm: at("broken.wasm") }}, foreign: {{ wasm: at("foreign.wasm") }},
          swapped: {{ wasm: "{other}/m.wasm" }},
          absent: {{ wasm: at("missing.wasm") }}, threads: {{ threads: 0 }},
        }};
        const found = {{}};
        for (const [name, options] of Object.entries(files))
          found[name] = await failure(() => load({{ threads: 2, ...options }}));
        const read = (kind) => readFileSync(`${{folder}}/m.${{kind}}`);
        const model = await load({{ weights: read("weights"), wasm: read("wasm") }});
        await model.selftest();
        say(found);
        """,
    )
    expected = {
        "short": ("weights", f"ends after {len(weights) - 7} of {len(weights)} bytes"),
        "empty": ("weights", "ends after 0 of"),
        "long": ("weights", "is longer than"),
        "flipped": ("weights", "is damaged: it does not match its checksum"),
        "page": ("weights", 'is none: it begins with "<!doctype html><'),
        "other": ("weights", "belongs to another model, or another build"),
        "missing": ("download", "no such file"),
        "bytes": ("weights", "ends after"),
        "broken": ("module", "the WebAssembly module"),
        "foreign": ("module", "that naru did not make"),
        "swapped": ("module", "of another build"),
        "absent": ("download", "no such file"),
        "threads": ("input", 'option "threads": expected a number from 1 to 255'),
    }
    for name, (code, message) in expected.items():
        assert said[name][0] == code, (name, said[name])
        assert message in said[name][1], name


def test_misuse_is_told(digits: Path) -> None:
    said = run_node(
        digits,
        """
        const module = await import(`${folder}/m.js`);
        const wrong = {
          null: null, text: "m.wasm", unknown: { thread: 2 }, relaxed: { relaxed: "no" },
          cache: { cache: 0 }, loopLimit: { loopLimit: -1 }, weights: { weights: 5 },
          wasm: { wasm: {} }, signal: { signal: {} }, onProgress: { onProgress: "x" },
          thrower: { onProgress: () => { throw Error("of the page"); } },
        };
        const found = {};
        for (const [name, options] of Object.entries(wrong))
          for (const how of ["load", "loadInWorker"])
            found[`${name} ${how}`] = await failure(() => module[how](options));
        const blob = new Blob([readFileSync(`${folder}/m.weights`)]);
        const model = await load({ weights: blob, threads: undefined });
        found.address = await failure(() => load({ weights: "http://[" }));
        const round = {};
        round.data = round;
        found["round call"] = await failure(() => model.run({ image: round }));
        for (const inputs of [null, 5, "x"])
          found[`run ${inputs}`] = await failure(() => model.run(inputs));
        const goldens = { bytes: Uint8Array.of(9, 9, 9, 9, 9), five: 5 };
        for (const [name, golden] of Object.entries(goldens))
          found[`golden ${name}`] = await failure(() => model.selftest(golden));
        await model.selftest(new Blob([readFileSync(`${folder}/m.golden`)]));
        say(found);
        """,
    )
    assert said["address"][0] == "download"
    expected = {
        "null": "options: expected an object, got null",
        "text": "options: expected an object, got m.wasm",
        "unknown": 'option "thread": expected one of threads,relaxed,cache',
        "relaxed": 'option "relaxed": expected true or false, got no',
        "cache": 'option "cache": expected true or false, got 0',
        "loopLimit": 'option "loopLimit": expected a number of rounds, got -1',
        "weights": 'option "weights": expected an address, a Response or bytes, got 5',
        "wasm": 'option "wasm": expected an address, a Response or bytes, got object',
        "signal": 'option "signal": expected an AbortSignal, got object',
        "onProgress": 'option "onProgress": expected a function, got x',
        "round call": "expected float32 (Float32Array or numbers), got object as data",
        "thrower": "onProgress: Error: of the page",
        "run null": "inputs: expected an object, got null",
        "run 5": "inputs: expected an object, got 5",
        "run x": "inputs: expected an object, got x",
        "golden five": "golden: expected an address, a Response or bytes",
        "golden bytes": "the golden vectors are damaged: ",
    }
    for name, message in expected.items():
        for how in ("",) if " " in name else (" load", " loadInWorker"):
            code, text, *_ = said[name + how]
            assert code == ("selftest" if name == "golden bytes" else "input"), name + how
            assert message in text, name + how


SERVER = """
import { createServer } from "node:http";

const asked = [];
const server = createServer((request, response) => {
  asked.push(request.url);
  const file = readFileSync(folder + "/" + request.url.split("/").pop());
  if (request.url.startsWith("/gone/")) response.writeHead(404).end();
  else if (request.url.startsWith("/cut/") && request.url.endsWith("weights")) {
    response.writeHead(200, { "content-length": file.length });
    response.write(file.subarray(0, 20000), () => setTimeout(() => response.destroy(), 20));
  } else if (request.url.startsWith("/slow/")) {
    response.writeHead(200, { "content-length": file.length });
    response.write(file.subarray(0, 20000));
  } else {
    const type = request.url.startsWith("/typed/") ? "wasm" : "octet-stream";
    response.writeHead(200, { "content-type": `application/${type}` }).end(file);
  }
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const from = (place) => {
  const base = `http://127.0.0.1:${server.address().port}/${place}/m.`;
  return { weights: base + "weights", wasm: base + "wasm" };
};
"""


def test_a_worker_that_ends_meanwhile(digits: Path) -> None:
    """What it was asked is rejected, and nothing is thrown elsewhere; a load that is aborted leaves
    no worker."""
    said = run_node(
        digits,
        """
        const own = [];
        process.on("uncaughtException", (error) => own.push(error.message));
        const found = new Set();
        for (let k = 0; k < 8; k++) {
          const model = await loadInWorker();
          const running = failure(() => model.run({ image: new Float32Array(64) }));
          for (const end = performance.now() + 3; performance.now() < end; );
          model.dispose();
          found.add((await running)?.[0] ?? "done");
        }
        const loaded = [];
        for (let k = 0; k < 20; k++) {
          const stop = new AbortController();
          const loading = failure(() => loadInWorker({ signal: stop.signal }));
          for (let j = 0; j < k; j++) await null;
          stop.abort();
          loaded.push((await loading)?.[0] ?? "loaded");
        }
        say([own, [...found], loaded]);
        """,
    )
    own, found, loaded = said
    assert not own
    assert set(found) <= {"disposed", "done"}
    assert set(loaded) <= {20, "AbortError"}


def test_downloads(digits: Path) -> None:
    said = run_node(
        digits,
        SERVER
        + """
        const progress = [];
        for (const place of ["typed", "untyped"]) {
          const model = await load({ ...from(place), onProgress: (p) => progress.push(p) });
          await model.selftest();
        }
        const gone = await failure(() => load({ weights: from("gone").weights }));
        const cut = await failure(() => load({ weights: from("cut").weights }));
        const stop = new AbortController();
        const { weights } = from("slow");
        const onProgress = () => stop.abort();
        const aborted = await failure(() => load({ weights, signal: stop.signal, onProgress }));
        const before = await failure(() => load({ signal: AbortSignal.abort() }));
        server.closeAllConnections();
        server.close();
        say({ progress: progress.at(-1), gone, cut, aborted, before });
        """,
    )
    size = (digits / "m.weights").stat().st_size
    assert said["progress"] == {"loaded": size, "total": size}
    assert said["gone"][0] == "download"
    assert "the server answered 404" in said["gone"][1]
    assert said["cut"][0] == "download"
    assert said["aborted"][0] in ("AbortError", 20)
    assert said["before"][0] in ("AbortError", 20)


def test_memory_that_is_refused(digits: Path, package: Package) -> None:
    said = run_node(
        digits,
        """
        const found = [];
        for (const threads of [1, 2]) {
          const model = await load({ threads });
          const large = { data: new Float32Array(64 * 100000), dims: [100000, 64] };
          found.push(await failure(() => model.run({ image: large })));
          found.push(model.run({ image: new Float32Array(64) }).logits.dims); // it still runs
        }
        say(found);
        """,
        flags=("--wasm-max-mem-pages=200",),
    )
    for failed, dims in (said[:2], said[2:]):
        assert failed[0] == "memory"
        assert "no memory: " in failed[1]
        assert dims == [1, 10]
    # An output of any size: the code itself asks for memory.
    node = helper.make_node("Expand", ["x", "shape"], ["y"], name="grow")
    kinds = {"x": (TensorProto.FLOAT, [1]), "shape": (TensorProto.INT64, [1])}
    folder = package(model_of([node], kinds, {"y": (TensorProto.FLOAT, [None])}))
    said = run_node(
        folder,
        """
        const model = await load();
        const small = model.run({ x: [7], shape: [3] }).y.numbers();
        const large = model.run({ x: [7], shape: [1000000] }).y.data;
        const seen = [large.length, large[0], large.at(-1)];
        const huge = await failure(() => model.run({ x: [7], shape: [10000000] }));
        say([small, seen, huge, model.run({ x: [2], shape: [2] }).y.numbers()]);
        """,
        flags=("--wasm-max-mem-pages=200",),
    )
    assert said[0] == [7, 7, 7]
    assert said[1] == [1000000, 7, 7]
    assert said[2][0] == "memory"
    assert "grow" in said[2][2]
    assert said[3] == [2, 2]


def test_more_than_2_gib(digits: Path) -> None:
    """Memory that nobody writes costs nothing."""
    said = run_node(
        digits,
        """
        const found = [];
        for (const threads of [1, 2]) {
          const model = await load({ threads });
          const view = model.input("image", [10_000_000, 64]);
          const large = [view.length, view.at(-1)];
          const checks = (await model.selftest()).length;
          found.push([large, checks, await failure(() => model.input("image", [2 ** 24, 64]))]);
          found.push(model.run({ image: new Float32Array(64) }).logits.dims);
        }
        say(found);
        """,
    )
    for (large, checks, refused), dims in (said[:2], said[2:]):
        assert (large, checks, dims) == ([640_000_000, 0], 1, [1, 10])
        assert refused[0] == "memory"
        assert "no memory: 4.0 GiB needed" in refused[1]


ASKS = """
declare ptr @host()
define void @naru_plan(ptr %dims, ptr %out) { ret void }
define void @naru_run(ptr %ctx, i64 %tid, i64 %n) {
  %host = call ptr @host()
  %entry = getelementptr i8, ptr %host, i32 8
  %alloc = load ptr, ptr %entry
  %size = load i64, ptr %ctx
  %memory = call ptr %alloc(ptr %ctx, i64 %size)
  %out = getelementptr i8, ptr %ctx, i32 8
  store ptr %memory, ptr %out
  ret void
}
"""


def test_no_memory_ends_at_4_gib(tmp_path: Path) -> None:
    """`top` would be 0, the next address that is given."""
    host = compile_module(HOST_TEXT, host_target(WASM))
    asks = compile_module(ASKS, WASM)
    made = link_wasm([("host", host), ("asks", asks)], ENTRIES, import_memory=True)
    (tmp_path / "asks.wasm").write_bytes(made.code)
    (tmp_path / "m.js").write_text("export const [load, loadInWorker, info, NaruError] = [];")
    said = run_node(
        tmp_path,
        """
        const memory = new WebAssembly.Memory({ initial: 65536 });
        const module = new WebAssembly.Module(readFileSync(folder + "/asks.wasm"));
        const { exports } = new WebAssembly.Instance(module, { env: { memory } });
        const ctx = exports.__heap_base.value;
        const words = new Uint32Array(memory.buffer, ctx, 32);
        const ask = (top, size) => {
          words.set([size, 0], 0);
          words[16] = top;
          exports.run(ctx, 0, 1);
          return [words[2], words[16]];
        };
        say([ask(2 ** 32 - 256, 128), ask(2 ** 32 - 128, 128), ask(2 ** 32 - 128, 1)]);
        """,
    )
    end = 2**32
    assert said == [[end - 256, end - 128], [0, end - 128], [end - 128, end - 64]]


TRAPS = """
declare void @llvm.trap()
define void @plan(ptr %dims, ptr %out) {
  store i64 0, ptr %out
  %estimate = getelementptr i64, ptr %out, i32 1
  store i64 NANOSECONDS, ptr %estimate
  %threads = getelementptr i64, ptr %out, i32 2
  store i64 4, ptr %threads
  ret void
}
define ptr @host() { ret ptr null }
define void @run(ptr %ctx, i32 %tid, i32 %n) {
  %hit = icmp eq i32 %tid, TID
  br i1 %hit, label %stop, label %end
stop:
  call void @llvm.trap()
  unreachable
end:
  ret void
}
"""


def write_traps(digits: Path, tid: int, nanoseconds: int) -> None:
    """A module for `digits` whose thread `tid` stops, and that takes so long by its plan."""
    record = custom_section((digits / "m.threads.wasm").read_bytes(), "naru")
    assert record is not None
    text = TRAPS.replace("TID", str(tid)).replace("NANOSECONDS", str(nanoseconds))
    made = link_wasm(
        [("traps", compile_module(text, WASM))], ("run", "plan", "host"), import_memory=True
    )
    module = with_custom_section(with_shared_memory(made.code, 65536), "naru", record)
    (digits / "traps.wasm").write_bytes(module)


def test_short_runs_wake_no_threads(digits: Path) -> None:
    write_traps(digits, 1, 199_999)
    said = run_node(
        digits,
        """
        const model = await load({ threads: 4, wasm: folder + "/traps.wasm" });
        const run = () => failure(() => model.run({ image: new Float32Array(64) }));
        const first = await run();
        await new Promise((resolve) => setTimeout(resolve, 100));
        say([model.threads, first, await run()]);
        """,
    )
    assert said == [4, None, None]


@pytest.mark.parametrize("tid", [0, 2])
def test_a_trap_says_something(digits: Path, tid: int) -> None:
    write_traps(digits, tid, 200_000)
    said = run_node(
        digits,
        """
        const model = await load({ threads: 4, wasm: folder + "/traps.wasm" });
        const run = () => failure(() => model.run({ image: new Float32Array(64) }));
        const first = await run();
        await new Promise((resolve) => setTimeout(resolve, 100));
        say([first, await run()]);
        """,
    )
    # The others don't wait here: a run may be over before one of them stops.
    assert (said[0] is None and tid) or said[0][0] == "trap"
    assert said[1][0] == "trap"
    assert "load the model again" in said[1][1]


def test_endless_loops_end(package: Package) -> None:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["keep"], ["going"]),
            helper.make_node("Add", ["value", "value"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("keep", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, [2]),
        ],
        [
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [2]),
        ],
    )
    node = helper.make_node("Loop", ["", "go", "x"], ["y"], body=body, name="forever")
    kinds = {"go": (TensorProto.BOOL, []), "x": (TensorProto.FLOAT, [2])}
    folder = package(model_of([node], kinds, {"y": (TensorProto.FLOAT, [2])}))
    said = run_node(
        folder,
        """
        const model = await load({ loopLimit: 50 });
        const done = model.run({ go: false, x: [1, 2] }).y.numbers();
        say([done, await failure(() => model.run({ go: true, x: [1, 2] }))]);
        """,
    )
    assert said[0] == [1, 2]
    assert said[1][0] == "run"
    assert "it goes on after 50 rounds" in said[1][1]
    assert "forever" in said[1][2]
