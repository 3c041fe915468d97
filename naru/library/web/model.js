// Part of a package's script (see web.py): the model in memory, and how it is loaded.

// ---- the model ----

// Places in the context (abi.h, wasm_host.py), in words of 32 bits.
const HOST = 0,
  WEIGHTS = 1,
  ARENA = 2,
  IO = 3,
  DIMS = 4,
  ERROR = 8,
  TOP = 16,
  PATIENT = 19,
  BROKEN = 20,
  LIMIT = 22;
const JOB = 32; // how many jobs there were * 256 + threads of this one
// Nanoseconds on one core from which a run takes several: to wake workers takes some 20,000 to
// 50,000, much more than the native threads have that the plan's number is for.
const WORTH_WAKING = 200_000;

const isShared = (x) => Object.prototype.toString.call(x) === "[object SharedArrayBuffer]";

class Model {
  #memory;
  #code; // exports of the module
  #words; // memory as int32
  #shared;
  #ctx; // address of the context; the others are in #at
  #at = {};
  #slots; // [address, bytes] of inputs, outputs, arena
  #held = []; // dims of inputs that `input` gave out
  #key; // sizes that #plan is for
  #plan;
  #workers = [];
  #broken = "";

  constructor(memory, instance, stack, relaxed, weights, options) {
    const { inputs, outputs } = info;
    this.#memory = memory;
    this.#shared = isShared(memory.buffer);
    this.#code = instance.exports;
    this.info = info;
    this.relaxed = relaxed;
    this.threads = 1;
    const place = { size: this.#code.__heap_base.value };
    const take = (bytes) => [align(place.size), (place.size = align(place.size) + bytes)][0];
    this.#at.weights = take(HEADER + weights.full);
    this.#ctx = take(192);
    this.#at.dims = take(8 * MODEL.symbols.length);
    this.#at.plan = take(8 * (3 + outputs.reduce((n, t) => n + t.shape.length, 0)));
    this.#at.io = take(4 * (inputs.length + outputs.length + MODEL.pointers));
    this.#at.stacks = take(stack * (options.threads - 1));
    this.#at.heap = take(0);
    this.#slots = Array.from({ length: inputs.length + outputs.length + 1 }, () => [
      this.#at.heap,
      0,
    ]);
    this.#reserve(this.#at.heap);
    this.#setUp(options);
  }

  get weightsAt() {
    return this.#at.weights;
  }

  #setUp({ loopLimit = 0 }) {
    const w = this.#words,
      ctx = this.#ctx >>> 2;
    w.fill(0, this.#ctx >>> 2, this.#at.heap >>> 2);
    w[ctx + HOST] = this.#code.host();
    w[ctx + WEIGHTS] = this.#at.weights + HEADER;
    w[ctx + IO] = this.#at.io;
    w[ctx + DIMS] = this.#at.dims;
    w[ctx + PATIENT] = Number(mayWait());
    w[ctx + LIMIT] = loopLimit;
    w[ctx + LIMIT + 1] = Math.floor(loopLimit / 2 ** 32);
  }

  // ---- memory ----

  #reserve(end) {
    const missing = Math.ceil((end - this.#memory.buffer.byteLength) / PAGE);
    try {
      if (end >= 2 ** 32) throw RangeError("addresses have 32 bits");
      if (missing > 0) this.#memory.grow(missing);
    } catch (error) {
      throw new NaruError(
        "memory",
        `no memory: ${sizeText(end)} needed, ${sizeText(this.#memory.buffer.byteLength)} there`,
        error,
      );
    }
    this.#refresh();
  }

  // Growth makes a new buffer; the old one is gone, or shorter.
  #refresh() {
    const { buffer } = this.#memory;
    if (this.#words?.buffer !== buffer)
      this.#words = new Int32Array(buffer, 0, buffer.byteLength / 4);
  }

  // Makes room: `needs` bytes for each slot. Contents of inputs stay.
  #place(needs) {
    if (needs.every((bytes, k) => bytes <= this.#slots[k][1])) return;
    let end = this.#at.heap;
    const made = needs.map((bytes, k) => {
      const slot = [end, align(Math.max(bytes, this.#slots[k][1]))];
      end += slot[1];
      return slot;
    });
    this.#reserve(end + 64); // code may read of a tensor without elements
    const all = new Uint8Array(this.#memory.buffer, 0, end);
    for (let k = info.inputs.length; k-- > 0;) {
      const [from, bytes] = this.#slots[k];
      if (made[k][0] !== from) all.copyWithin(made[k][0], from, from + bytes);
    }
    this.#slots = made;
  }

  #long(at) {
    return this.#words[(at >>> 2) + 1] * 2 ** 32 + (this.#words[at >>> 2] >>> 0);
  }

  #view(dtype, dims, at) {
    const count = product(dims);
    return new (typeOf(dtype))(this.#memory.buffer, count ? at : 0, count);
  }

  // ---- sizes ----

  #askPlan(values) {
    const { dims, plan } = this.#at;
    values?.forEach((n, k) => {
      this.#words[(dims >>> 2) + 2 * k] = n;
      this.#words[(dims >>> 2) + 2 * k + 1] = 0;
    });
    this.#code.plan(dims, plan);
    let at = plan + 24;
    const shapes = info.outputs.map((t) => t.shape.map(() => this.#long((at += 8) - 8)));
    const threads = this.#long(plan + 8) < WORTH_WAKING ? 1 : this.#long(plan + 16);
    return { arena: this.#long(plan), threads, shapes };
  }

  // The plan for sizes of the symbols, and memory for it.
  #prepare(sizes) {
    const values = MODEL.symbols.map((s) => sizes.get(s.name)?.size ?? 0);
    const key = values.join();
    if (key === this.#key) {
      const w = this.#words,
        dims = this.#at.dims >>> 2;
      values.forEach((n, k) => ((w[dims + 2 * k] = n), (w[dims + 2 * k + 1] = 0)));
      return this.#plan;
    }
    const plan = this.#askPlan(values);
    if (plan.arena < 0)
      throw misuse(`these input sizes do not fit the model: ${MODEL.requires[-1 - plan.arena]}`);
    const needs = info.inputs.map((t) =>
      bytesOf(t.dtype, product(t.shape.map((d) => sizes.get(d)?.size ?? d))),
    );
    info.outputs.forEach((t, k) => {
      const short = plan.shapes[k].findIndex((d) => d < 0);
      if (!t.late && short >= 0)
        throw misuse(
          `these input sizes are too small: dim ${short} of the output ${quote(t.name)} ` +
            `would be ${plan.shapes[k][short]}`,
        );
      needs.push(t.late ? 0 : bytesOf(t.dtype, product(plan.shapes[k])));
    });
    needs.push(plan.arena);
    const total = needs.reduce((a, b) => a + b, this.#at.heap);
    if (total >= 2 ** 32)
      throw new NaruError(
        "memory",
        `these input sizes need ${sizeText(total)} of memory, WebAssembly has 4 GiB`,
      );
    this.#place(needs);
    this.#key = key;
    return (this.#plan = plan);
  }

  // ---- runs ----

  /** A view of an input's memory, to be filled before a run that is not given this input. */
  input(name, dims) {
    this.#check();
    const k = info.inputs.findIndex((t) => t.name === name);
    if (k < 0) throw noInput(name);
    const spec = info.inputs[k];
    const fixed = spec.shape.every((d) => typeof d === "number");
    dims = dims ? Array.from(dims) : (this.#held[k] ?? (fixed ? spec.shape : undefined));
    if (!dims)
      throw bad(
        name,
        `its sizes are not fixed: pass them, as in input(${quote(name)}, ${shapeText(spec.shape)})`,
      );
    bind(spec, { data: { length: product(dims) }, dims }, new Map());
    this.#refresh();
    this.#place(
      this.#slots.map(([, bytes], j) => (j === k ? bytesOf(spec.dtype, product(dims)) : bytes)),
    );
    this.#held[k] = dims;
    return this.#view(spec.dtype, dims, this.#slots[k][0]);
  }

  /** Runs the model: inputs by name to outputs by name. */
  run(inputs = {}) {
    this.#check();
    const given = this.#gather(inputs);
    const sizes = new Map();
    const dims = info.inputs.map((t, k) => given[k] && bind(t, given[k], sizes));
    const plan = this.#prepare(sizes);
    given.forEach(({ held }, k) => (this.#held[k] = held ? dims[k] : undefined));
    given.forEach(({ data, held }, k) => {
      if (!held) put(info.inputs[k], data, this.#memory.buffer, this.#slots[k][0]);
    });
    this.#call(plan);
    return this.#outputs(plan);
  }

  #check() {
    if (this.#broken) throw new NaruError(...this.#broken);
  }

  #gather(inputs) {
    checkObject("inputs", inputs);
    for (const name of Object.keys(inputs))
      if (!info.inputs.some((t) => t.name === name)) throw noInput(name);
    return info.inputs.map((t, k) => {
      if (Object.hasOwn(inputs, t.name) && inputs[t.name] !== undefined) {
        return this.#detach(t, describe(t, inputs[t.name]), this.#slots[k][0]);
      }
      const dims = this.#held[k];
      if (dims) return { data: { length: product(dims) }, dims, held: true };
      if (t.optional) return { data: crypto.getRandomValues(new BigInt64Array(1)) };
      throw misuse(`input ${quote(t.name)} is missing; expected ${specs()}`);
    });
  }

  // A value that lies in the model's own memory, which is about to move: what `input` gave stays
  // where it is, and moves along; of others, such as outputs of the last run, there are copies.
  // (Shared memory that has grown is another object for the same bytes.)
  #detach(spec, found, at) {
    const { data } = found;
    const { buffer } = this.#memory;
    if (data.buffer !== buffer && !(this.#shared && isShared(data.buffer))) return found;
    const held =
      data.buffer === buffer && data.byteOffset === at && data instanceof typeOf(spec.dtype);
    return held ? { ...found, held } : { ...found, data: data.slice() };
  }

  #call(plan) {
    const w = this.#words,
      ctx = this.#ctx >>> 2,
      io = this.#at.io >>> 2;
    this.#slots.slice(0, -1).forEach(([at], k) => (w[io + k] = at));
    info.outputs.forEach((t, k) => t.late && (w[io + info.inputs.length + k] = 0));
    const [arena, bytes] = this.#slots.at(-1);
    w[ctx + ARENA] = arena;
    w[ctx + TOP] = arena + bytes;
    w.fill(0, ctx + ERROR, ctx + ERROR + 8);
    const n = Math.max(1, Math.min(this.threads, plan.threads));
    if (n > 1) {
      Atomics.store(w, ctx + JOB, (w[ctx + JOB] & ~255) + 256 + n);
      Atomics.notify(w, ctx + JOB);
    }
    try {
      this.#code.run(this.#ctx, 0, n);
    } catch (error) {
      this.#fail(error.message);
    }
    this.#refresh();
    if (this.#words[ctx + BROKEN]) this.#fail("another thread stopped");
    if (this.#words[ctx + ERROR])
      throw failure(...[0, 1, 2, 3].map((k) => this.#long(this.#ctx + 4 * ERROR + 8 * k)));
  }

  // A trap leaves other threads waiting, and a stack behind.
  #fail(message) {
    this.#end([
      "trap",
      `the code stopped (${message}), which is a bug in naru; load the model again`,
    ]);
    this.#check();
  }

  #outputs(plan) {
    const late = info.outputs.some((t) => t.late);
    const shapes = late ? this.#askPlan().shapes : plan.shapes;
    const result = { __proto__: null };
    info.outputs.forEach((t, k) => {
      const at = this.#words[(this.#at.io >>> 2) + info.inputs.length + k] >>> 0;
      result[t.name] = new Tensor(t.dtype, shapes[k], this.#view(t.dtype, shapes[k], at));
    });
    return result;
  }

  // ---- threads ----

  // As many as are of use, which sizes that are fixed tell; one where workers cannot be started.
  async start(module, wanted, stack) {
    const fixed = info.inputs.every((t) => t.shape.every(Number.isInteger));
    const count = fixed ? Math.min(wanted, this.#prepare(new Map()).threads) : wanted;
    if (count < 2) return;
    const { startThread } = await more();
    const started = Array.from({ length: count - 1 }, (_, k) => {
      const job = {
        module,
        memory: this.#memory,
        ctx: this.#ctx,
        tid: k + 1,
        top: this.#at.stacks + stack * (k + 1),
      };
      return startThread(job, (worker) => this.#workers.push(worker));
    });
    const settled = await Promise.allSettled(started);
    if (settled.every((s) => s.status === "fulfilled")) this.threads = count;
    else this.#workers.splice(0).forEach((w) => w.terminate());
  }

  /** Compares a run with the outputs of the reference that `naru build` kept. */
  async selftest(golden = FILES.golden) {
    this.#check();
    return (await more()).selftest((inputs) => this.run(inputs), golden, MODEL.tolerance);
  }

  /** Ends its threads and lets go of its memory. */
  dispose() {
    this.#end(["disposed", "the model was disposed of"]);
  }

  #end(reason) {
    this.#broken ||= reason;
    this.#workers.splice(0).forEach((w) => w.terminate());
    this.#memory = this.#code = this.#words = undefined;
  }
}

const specs = () =>
  info.inputs.map((t) => `${t.name}: ${t.dtype}${shapeText(t.shape)}`).join(", ") || "no inputs";
const noInput = (name) => misuse(`there is no input ${quote(name)}; expected ${specs()}`);

// ---- loading ----

const FLAG = ["true or false", (x) => typeof x === "boolean"];
const SOURCE = ["an address, a Response or bytes", isSource];
// What `load` takes; see model.d.ts.
const OPTIONS = {
  __proto__: null,
  threads: ["a number from 1 to 255", (x) => Number.isInteger(x) && x > 0 && x < 256],
  relaxed: FLAG,
  cache: FLAG,
  loopLimit: ["a number of rounds", (x) => Number.isSafeInteger(x) && x >= 0],
  weights: SOURCE,
  wasm: [SOURCE[0], (x) => isSource(x) || x instanceof WebAssembly.Module],
  onProgress: ["a function", (x) => typeof x === "function"],
  signal: ["an AbortSignal", (x) => x instanceof AbortSignal],
};

function checkOptions(options) {
  checkObject("options", options);
  for (const [key, x] of Object.entries(options)) {
    const [expected, test] = OPTIONS[key] ?? [`one of ${Object.keys(OPTIONS)}`];
    if (x !== undefined && !test?.(x))
      throw misuse(`option ${quote(key)}: expected ${expected}, got ${textOf(x)}`);
  }
}

/** Loads the model. See model.d.ts for the options. */
export async function load(options = {}) {
  checkOptions(options);
  const stop = new AbortController();
  const { signal } = options;
  const abort = () => stop.abort(signal.reason);
  signal?.throwIfAborted();
  signal?.addEventListener("abort", abort, { once: true });
  let model;
  try {
    return await begin(options, stop.signal, (made) => (model = made));
  } catch (error) {
    stop.abort();
    model?.dispose();
    throw signal?.aborted ? signal.reason : error;
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}

async function begin(options, signal, made) {
  if (!hasSimd()) throw new NaruError("unsupported", "this engine has no SIMD for WebAssembly");
  const wanted = options.threads ?? Math.min(8, await countCores());
  const shares = canShareMemory();
  let kind = {
    shared: wanted > 1 && shares,
    relaxed: MODEL.weights.length > 1 && options.relaxed !== false && hasRelaxedSimd(),
  };
  const weightsOf = ({ relaxed }) => MODEL.weights[Number(relaxed)];
  const sourceOf = (kind) => options.weights ?? FILES[weightsOf(kind).file];
  const find = () => findWeights(sourceOf(kind), weightsOf(kind), options.cache !== false, signal);
  const early = options.wasm ? undefined : find(); // while the module compiles
  early?.catch(() => {}); // whether it failed is asked below
  const file = FILES[`${kind.relaxed ? "relaxed." : ""}${kind.shared ? "threads." : ""}wasm`];
  let module = await getModule(options.wasm ?? file, signal);
  if (!NODE && !options.wasm && !isOurs(module)) module = await getModule(file, signal, "reload"); // a cache had an old one
  kind = readRecord(module); // a module of the caller's choice decides itself
  if (kind.shared && !shares)
    throw new NaruError(
      "unsupported",
      "the module is one with threads, and memory cannot be shared here",
    );
  const tell = (progress) => {
    try {
      options.onProgress?.(progress);
    } catch (error) {
      throw new NaruError("input", `onProgress: ${error}`, error);
    }
  };
  const memory = makeMemory(kind.pages, kind.shared);
  const instance = await WebAssembly.instantiate(module, { env: { memory } });
  const stack = instance.exports.__heap_base.value - instance.exports.__stack_low.value;
  const threads = kind.shared ? wanted : 1;
  const weights = weightsOf(kind);
  const model = new Model(memory, instance, stack, kind.relaxed, weights, { ...options, threads });
  made(model);
  const source = sourceOf(kind);
  const again = !NODE && !isGiven(source) && (() => open(source, signal, "reload"));
  await getWeights(
    await (early ?? find()),
    again,
    memory,
    model.weightsAt,
    weights,
    tell,
    signal,
  );
  if (weights.halves)
    (await more()).widen(memory, model.weightsAt + HEADER, weights, CODES.float16.decode);
  await model.start(module, threads, stack);
  signal.throwIfAborted();
  return model;
}

/** As `load`, in a worker of its own: `run` returns a promise, and the page stays responsive. */
export const loadInWorker = async (options) => (await more()).loadInWorker(options);

/** For model.worker.js alone. */
export const internal = {
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
};
