// Times a model in naru and in ONNX Runtime Web, in turn. The same in Node and in a page.

const ARRAYS = { float32: Float32Array, int64: BigInt64Array, int32: Int32Array, bool: Uint8Array };
const SETTLING = 1500; // ms that a way is called before it counts: engines compile hot code late
const LEAST_CALLS = 5;
const LEAST = 3; // times in a turn

/**
 * `work`: { inputs: [[{ name, dtype, dims, file }, …], …], rounds, turn } with several sets of
 * inputs, taken in turn, and the ms of a turn. `get(file)` gives the bytes of a file beside the
 * package, `naru` is the package's module, `ort` that of ONNX Runtime Web. Returns the ms of a call
 * by way and round, and what each way gives for the first inputs.
 */
export async function measure(work, naru, ort, get) {
  const feeds = await Promise.all(work.inputs.map((set) => readFeed(set, get)));
  const ways = {};
  const kinds = { naru: [1, false], "naru.relaxed": [1, true], "naru.threads": [2, true] };
  for (const [name, [threads, relaxed]] of Object.entries(kinds)) {
    const model = await naru.load({ threads, relaxed, cache: false });
    if (model.relaxed === relaxed && model.threads === threads)
      ways[name] = (feed) => model.run(feed);
    else model.dispose();
  }
  ways.onnxruntime = await onnxruntime(ort, await get("model.onnx"), feeds);
  const outputs = {};
  for (const [name, call] of Object.entries(ways)) {
    outputs[name] = Object.values(await call(feeds[0])).map((t) => ({
      dims: [...t.dims],
      data: Array.from(t.data, Number),
    }));
    await settle(call, feeds);
  }
  const times = Object.fromEntries(Object.keys(ways).map((name) => [name, []]));
  for (let round = 0; round < work.rounds; round++) {
    for (const name of shuffled(Object.keys(ways))) {
      times[name].push(await median(ways[name], feeds, work.turn));
    }
  }
  return { times, outputs };
}

async function readFeed(set, get) {
  const feed = {};
  for (const { name, dtype, dims, file } of set) {
    const bytes = await get(file);
    feed[name] = { data: new ARRAYS[dtype](bytes.buffer), dims, dtype };
  }
  return feed;
}

async function onnxruntime(ort, file, feeds) {
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = "error";
  const session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
  const tensors = new Map(
    feeds.map((feed) => [
      feed,
      Object.fromEntries(
        Object.entries(feed).map(([k, t]) => [k, new ort.Tensor(t.dtype, t.data, t.dims)]),
      ),
    ]),
  );
  return (feed) => session.run(tensors.get(feed));
}

async function settle(call, feeds) {
  const start = performance.now();
  for (let k = 0; k < LEAST_CALLS || performance.now() - start < SETTLING; k++) {
    const result = call(feeds[k % feeds.length]);
    if (result instanceof Promise) await result;
    if (k < LEAST_CALLS) await new Promise((go) => setTimeout(go, 50)); // a compiler may be at work
  }
}

/**
 * The median ms of a call. Short calls are timed many at once, for clocks of pages are coarse. The
 * first call of a turn does not count: caches hold what others left, and idle cores sleep.
 */
async function median(call, feeds, turn) {
  const found = [];
  let many = 1;
  await call(feeds[0]);
  for (const start = performance.now(); performance.now() - start < turn || found.length < LEAST; ) {
    const from = performance.now();
    for (let k = 0; k < many; k++) {
      const result = call(feeds[k % feeds.length]);
      if (result instanceof Promise) await result;
    }
    const took = performance.now() - from;
    if (took < 1) many *= 2;
    else found.push(took / many);
  }
  return found.sort((a, b) => a - b)[found.length >> 1];
}

function shuffled(names) {
  for (let k = names.length - 1; k > 0; k--) {
    const other = Math.floor(Math.random() * (k + 1));
    [names[k], names[other]] = [names[other], names[k]];
  }
  return names;
}
