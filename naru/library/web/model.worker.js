// What is not always needed of the module beside this file: threads, the model in a worker, the
// self-test. It is imported when needed, and workers start here, too.

import { NaruError, info, internal, load } from "./model.js";

const {
  NODE,
  Tensor,
  align,
  checkOptions,
  isSource,
  nodeModule,
  product,
  quote,
  readAll,
  toURL,
  typeOf,
} = internal;
const NAME = "naru"; // by which a worker knows that it is one of ours

// ---- the side that calls ----

async function newWorker() {
  const url = new URL("./model.worker.js", import.meta.url);
  if (!NODE) return new Worker(url, { type: "module", name: NAME });
  return new (await nodeModule("worker_threads")).Worker(url, { workerData: NAME, execArgv: [] });
}

// Calls of a worker's methods. In Node, a worker without calls does not keep the program alive.
function connect(worker, onProgress) {
  const waiting = new Map();
  let count = 0;
  let dead;
  const stop = (error) => {
    dead = error;
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  };
  const tell = (progress) => {
    try {
      onProgress?.(progress);
    } catch (error) {
      stop(new NaruError("input", `onProgress: ${error}`, error));
    }
  };
  const onMessage = ({ id, progress, value, error }) => {
    if (dead) return; // what was under way when it ended
    if (progress) return tell(progress);
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (!waiting.size) worker.unref?.();
    if (error) reject(Object.assign(new NaruError(error.code, error.message), error));
    else resolve(value);
  };
  const onError = (e) =>
    stop(new NaruError("worker", `a worker failed: ${e.message ?? "it could not be started"}`));
  if (NODE) worker.on("message", onMessage).on("error", onError);
  else Object.assign(worker, { onmessage: (e) => onMessage(e.data), onerror: onError });
  const call = (method, args) =>
    new Promise((resolve, reject) => {
      if (dead) throw dead;
      try {
        worker.postMessage({ id: ++count, method, args });
      } catch (error) {
        throw new NaruError("input", `cannot be sent to a worker: ${error.message}`, error);
      }
      waiting.set(count, { resolve, reject });
      worker.ref?.();
    });
  return Object.assign(call, { stop });
}

/** One more thread for a model: its worker, once it waits for jobs. `onWorker` has it at once. */
export async function startThread(job, onWorker) {
  const worker = await newWorker();
  onWorker(worker);
  await connect(worker)("work", job);
}

export async function loadInWorker(given = {}) {
  checkOptions(given);
  const { onProgress, signal, wasm, weights, ...options } = given;
  signal?.throwIfAborted();
  const worker = await newWorker();
  const call = connect(worker, onProgress);
  const end = (error) => (worker.terminate(), call.stop(error));
  let abort;
  const aborted = new Promise((_, reject) => {
    abort = () => (end(signal.reason), reject(signal.reason));
  });
  signal?.addEventListener("abort", abort, { once: true });
  if (signal?.aborted) abort();
  const send = async () =>
    call("load", { ...options, wasm: await sendable(wasm), weights: await sendable(weights) });
  try {
    const loaded = await Promise.race([aborted, send()]);
    const revive = ([name, t]) => [name, new Tensor(t.dtype, t.dims, t.data)];
    return {
      info,
      ...loaded,
      run: async (inputs) =>
        Object.fromEntries(Object.entries(await call("run", inputs)).map(revive)),
      selftest: async (golden) => call("selftest", await sendable(golden)),
      dispose: () => end(new NaruError("disposed", "the model was disposed of")),
    };
  } catch (error) {
    end(error);
    throw error;
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}

// Addresses are relative to this page, and objects of the platform stay here.
async function sendable(source) {
  if (typeof source === "string" || source instanceof URL) return String(await toURL(source));
  return source instanceof Response ? readAll(source) : source;
}

// ---- the side that is called ----

// Places in the context (abi.h, wasm_host.py), in words of 32 bits.
const BROKEN = 20;
const JOB = 32;
const LOOKS = 20000; // for the next job, before it sleeps: some tens of microseconds

let model;
const methods = {
  work,
  load: async (options, tell) => {
    model = await load({ ...options, onProgress: (progress) => tell({ progress }) });
    return { threads: model.threads, relaxed: model.relaxed };
  },
  run: (inputs) => {
    const outputs = Object.entries(model.run(inputs)); // views of memory: what is sent are copies
    return Object.fromEntries(outputs.map(([name, t]) => [name, { ...t, data: t.data.slice() }]));
  },
  selftest: (golden) => model.selftest(golden),
};

// One thread of every run that has so many.
async function work({ module, memory, ctx, tid, top }, tell) {
  const { exports } = await WebAssembly.instantiate(module, { env: { memory } });
  const words = new Int32Array(memory.buffer);
  const at = ctx >>> 2;
  let seen = Atomics.load(words, at + JOB);
  tell({});
  for (;;) {
    for (let k = 0; k < LOOKS && Atomics.load(words, at + JOB) === seen; k++);
    Atomics.wait(words, at + JOB, seen);
    seen = Atomics.load(words, at + JOB);
    const n = seen & 255;
    if (tid >= n) continue;
    try {
      exports.__stack_pointer.value = top;
      exports.run(ctx, tid, n);
    } catch {
      Atomics.store(words, at + BROKEN, 1);
    }
  }
}

async function answer({ id, method, args }, port) {
  const tell = (what) => port.postMessage({ id, ...what });
  try {
    tell({ value: await methods[method](args, tell) });
  } catch (error) {
    const { code = "worker", message, ...more } = error;
    tell({ error: { ...more, code, message } });
  }
}

if (!NODE && globalThis.name === NAME) {
  self.onmessage = (event) => answer(event.data, self);
} else if (NODE) {
  nodeModule("worker_threads").then(({ parentPort, workerData }) => {
    if (workerData === NAME) parentPort.on("message", (m) => answer(m, parentPort));
  });
}

// ---- weights in half precision ----

/** Half precision to single, in place, from the end: `halves` are pairs (where in the result, how
 * many), in order; the rest is copied. */
export function widen({ buffer }, at, { size, full, halves }, decode) {
  const bytes = new Uint8Array(buffer, at, full);
  let read = size;
  let end = full;
  for (const [start, count] of [...halves].reverse()) {
    const rest = end - start - 4 * count;
    bytes.copyWithin(start + 4 * count, read - rest, read);
    read -= rest + 2 * count;
    const from = new Uint16Array(buffer, at + read, count);
    const to = new Float32Array(buffer, at + start, count);
    for (let k = count; k-- > 0;) to[k] = decode(from[k]);
    end = start;
  }
}

// ---- the self-test ----

/** Runs the golden vectors of a file; what was off, as `Check`s. */
export async function selftest(run, source, { rtol, atol }) {
  if (!isSource(source))
    throw new NaruError("input", "golden: expected an address, a Response or bytes");
  const checks = readGolden(await readAll(source)).flatMap(({ inputs, outputs }) => {
    const got = run(Object.fromEntries(info.inputs.map((t, k) => [t.name, inputs[k]])));
    return info.outputs.map((t, k) => {
      const { error, size } = distance(got[t.name], outputs[k]);
      return { output: t.name, error, limit: size === undefined ? 0 : atol + rtol * size };
    });
  });
  if (!checks.length)
    throw new NaruError("selftest", "the model has no golden vector to test with");
  const failed = checks.filter((c) => !(c.error <= c.limit));
  const listed = failed.map((c) => `${quote(c.output)} is off by ${c.error}, limit ${c.limit}`);
  if (failed.length) throw new NaruError("selftest", `the self-test failed: ${listed.join("; ")}`);
  return checks;
}

function readGolden(bytes) {
  try {
    return parseGolden(bytes);
  } catch (error) {
    throw new NaruError("selftest", `the golden vectors are damaged: ${error.message}`, error);
  }
}

// See pack_golden in naru/artifact/golden.py.
function parseGolden(bytes) {
  if (bytes.length < 4) return [];
  const length = new DataView(bytes.buffer).getUint32(0, true);
  const index = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  const body = align(4 + length);
  const read = ({ dtype, shape, offset }) => {
    const data = new (typeOf(dtype))(bytes.buffer, body + offset, product(shape));
    return new Tensor(dtype, shape, data);
  };
  return index.map(({ inputs, outputs }) => ({
    inputs: inputs.map(read),
    outputs: outputs.map(read),
  }));
}

// Root mean squares of error and output. Integers must be equal, and what is not finite, and floats
// of 8 bits and less, of which there are only the bits.
function distance(got, want) {
  if (got.dims.join() !== want.dims.join()) return { error: Infinity };
  if (!/^b?float(16|32|64)/.test(got.dtype))
    return { error: want.data.filter((x, k) => x !== got.data[k]).length };
  const [a, b] = [got.numbers(), want.numbers()];
  const finite = b.filter(Number.isFinite);
  const largest = finite.reduce((most, x) => Math.max(most, Math.abs(x)), 1); // squares overflow
  const rms = (values) =>
    largest *
    Math.sqrt(values.reduce((sum, x) => sum + (x / largest) ** 2, 0) / Math.max(1, finite.length));
  return { error: rms(b.map((x, k) => (Object.is(x, a[k]) ? 0 : a[k] - x))), size: rms(finite) };
}
