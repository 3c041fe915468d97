// A compiled model: this file, its WebAssembly module and its weights, and nothing else to install.
// How to use it: README.md beside it; types: the file that ends in .d.ts.

const MODEL = null; // the table of the model, written by `naru build`
const FILES = null; // the addresses of its files, by their kind
const more = null; // imports the file of what is not always needed

const NODE = Boolean(globalThis.process?.versions?.node);
const PAGE = 65536;
const HEADER = 64; // bytes before the payload in a file of weights
const align = (at) => Math.ceil(at / 64) * 64;
const product = (dims) => dims.reduce((a, b) => a * b, 1);
const nodeModule = (name) => import(/* @vite-ignore */ /* webpackIgnore: true */ `node:${name}`);

/** What went wrong: `code` for programs, `message` for people. */
export class NaruError extends Error {
  constructor(code, message, cause) {
    super(message, cause && { cause });
    this.name = "NaruError";
    this.code = code;
  }
}

/** What the model takes and gives. */
export const info = MODEL.info;

// ---- what the engine has ----

// Is `op` valid, a vector instruction with three operands?
const validates = (...op) =>
  WebAssembly.validate(
    Uint8Array.of(
      ...[0, 97, 115, 109, 1, 0, 0, 0], // magic, version 1
      ...[1, 8, 1, 96, 3, 123, 123, 123, 1, 123], // a type: three v128 to one
      ...[3, 2, 1, 0], // a function of it
      ...[10, 10 + op.length, 1, 8 + op.length, 0, 32, 0, 32, 1, 32, 2, ...op, 11],
    ),
  );
const hasSimd = () => validates(0xfd, 0x52); // v128.bitselect
const hasRelaxedSimd = () => validates(0xfd, 0x85, 2); // f32x4.relaxed_madd

function canShareMemory() {
  if (!NODE && !globalThis.crossOriginIsolated) return false;
  try {
    return Boolean(new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true }));
  } catch {
    return false;
  }
}

// May this thread sleep? A browser's main thread may not.
function mayWait() {
  try {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 0);
    return true;
  } catch {
    return false;
  }
}

async function countCores() {
  if (!NODE) return globalThis.navigator?.hardwareConcurrency ?? 1;
  return (await nodeModule("os")).availableParallelism();
}

// ---- files ----

const isBytes = (x) => ArrayBuffer.isView(x) || /ArrayBuffer\]$/.test(Object.prototype.toString.call(x));

// Texts are addresses, relative to the page; in Node they may be paths.
async function toURL(source) {
  if (source instanceof URL) return source;
  if (NODE && !/^[a-z][a-z\d+.-]+:/i.test(source)) return (await nodeModule("url")).pathToFileURL(source);
  return new URL(source, globalThis.document?.baseURI ?? globalThis.location?.href);
}

// Errors of the platform become ours; those of a caller's signal pass.
async function guard(what, action) {
  try {
    return await action();
  } catch (error) {
    if (error instanceof NaruError || error?.name === "AbortError") throw error;
    const code = error instanceof WebAssembly.CompileError ? "module" : "download";
    const hint = /Security Policy/.test(error) ? "; script-src must have 'wasm-unsafe-eval'" : "";
    throw new NaruError(code, `${what}: ${error?.message ?? error}${hint}`, error);
  }
}

/** A Response of an address, a Response, or bytes. */
function open(source, signal, cache = "default") {
  return guard(isBytes(source) ? "the bytes that were given" : (source.url ?? source), async () => {
    if (isBytes(source)) return new Response(source);
    const url = source instanceof Response ? source.url : await toURL(source);
    if (NODE && url.protocol === "file:") return new Response(await (await nodeModule("fs/promises")).readFile(url, { signal }));
    const response = url === source.url ? source : await fetch(url, { signal, cache, credentials: "same-origin" });
    if (!response.ok) throw Error(`the server answered ${response.status} ${response.statusText}`);
    return response;
  });
}

const readAll = async (source) => new Uint8Array(await (await open(source)).arrayBuffer());

// ---- the module ----

async function getModule(source, signal, cache) {
  if (source instanceof WebAssembly.Module) return source;
  const response = await open(source, signal, cache);
  return guard("the WebAssembly module", async () => {
    if (/^application\/wasm\b/.test(response.headers.get("content-type"))) return WebAssembly.compileStreaming(response);
    return WebAssembly.compile(await response.arrayBuffer());
  });
}

// What `naru build` wrote into a module.
function recordOf(module) {
  const [section] = WebAssembly.Module.customSections(module, "naru");
  return section ? JSON.parse(new TextDecoder().decode(section)) : {};
}

const isOurs = (module) => recordOf(module).web?.build === MODEL.build;

function readRecord(module) {
  const record = recordOf(module);
  if (isOurs(module)) return record.web;
  const found = record.name ? `of another build, of ${quote(record.name)}` : "that naru did not make";
  throw new NaruError("module", `the WebAssembly module is one ${found}; expected that of this file`);
}

function makeMemory(initial, shared) {
  // Shared memory needs a limit, and some systems do not grant the addresses for a large one.
  for (let maximum = PAGE; ; maximum /= 2)
    try {
      return new WebAssembly.Memory(shared ? { initial, maximum, shared } : { initial });
    } catch (error) {
      if (!shared || maximum / 2 < Math.max(initial, 1024))
        throw new NaruError("memory", `no memory for ${sizeText(initial * PAGE)}`, error);
    }
}

// ---- checksums: CRC32C over the CRC32Cs of 1 MiB chunks ----

const CHUNK = 1 << 20;
let table; // eight times 256 entries

function makeTable() {
  const made = new Int32Array(2048);
  for (let k = 0; k < 256; k++) {
    let crc = k;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
    made[k] = crc;
  }
  for (let k = 256; k < 2048; k++) made[k] = (made[k - 256] >>> 8) ^ made[made[k - 256] & 255];
  return made;
}

function crc32c(bytes, start = 0) {
  const t = (table ??= makeTable());
  let crc = ~start;
  let at = 0;
  if (bytes.byteOffset % 4 === 0) {
    const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2);
    for (let k = 0; k + 1 < words.length; k += 2, at += 8) {
      const a = crc ^ words[k];
      const b = words[k + 1];
      crc =
        t[1792 + (a & 255)] ^ t[1536 + ((a >>> 8) & 255)] ^ t[1280 + ((a >>> 16) & 255)] ^ t[1024 + (a >>> 24)] ^
        t[768 + (b & 255)] ^ t[512 + ((b >>> 8) & 255)] ^ t[256 + ((b >>> 16) & 255)] ^ t[b >>> 24];
    }
  }
  for (; at < bytes.length; at++) crc = (crc >>> 8) ^ t[(crc ^ bytes[at]) & 255];
  return ~crc >>> 0;
}

// ---- weights ----

/** Writes the file of weights to `at` in memory, checked. Throws before anything wrong is used. */
async function receive(response, memory, at, weights, onProgress) {
  const total = HEADER + weights.size;
  const all = new Uint8Array(memory.buffer, at, total);
  const wrong = (text) => new NaruError("weights", `the file of weights ${text}`);
  const reader = response.body.getReader();
  let loaded = 0;
  let done = HEADER; // up to where the digest goes
  let digest = 0;
  const fold = (end) => {
    digest = crc32c(new Uint8Array(Uint32Array.of(crc32c(all.subarray(done, end))).buffer), digest);
    done = end;
  };
  try {
    for (let part; (part = (await reader.read()).value); ) {
      all.set(part.subarray(0, total - loaded), loaded);
      if (loaded < HEADER && loaded + part.length >= HEADER) checkHeader(all, weights, wrong);
      if ((loaded += part.length) > total) throw wrong(`is longer than the ${total} bytes of this model's`);
      while (loaded - done >= CHUNK) fold(done + CHUNK);
      onProgress?.({ loaded, total });
    }
  } finally {
    reader.cancel().catch(() => {}); // no download goes on for nobody
  }
  if (loaded < total) throw wrong(`ends after ${loaded} of ${total} bytes`);
  if (done < total) fold(total);
  if (digest !== weights.digest) throw wrong("is damaged: it does not match its checksum");
}

function checkHeader(all, weights, wrong) {
  const text = (from, to) => String.fromCharCode(...all.subarray(from, to));
  if (text(0, 8) !== "NARUWTS1") throw wrong(`is none: it begins with ${JSON.stringify(text(0, 16))}`);
  const found = [...all.subarray(24, 56)].map((b) => b.toString(16).padStart(2, "0")).join("");
  if (found !== weights.sha256) throw wrong("belongs to another model, or another build of this one");
}

// Half precision to single, in place, from the end: `weights.halves` are pairs (where in the result,
// how many), in order; the rest is copied.
function widen({ buffer }, at, { size, full, halves }) {
  const bytes = new Uint8Array(buffer, at, full);
  let read = size;
  let end = full;
  for (const [start, count] of [...halves].reverse()) {
    const rest = end - start - 4 * count;
    bytes.copyWithin(start + 4 * count, read - rest, read);
    read -= rest + 2 * count;
    const from = new Uint16Array(buffer, at + read, count);
    const to = new Float32Array(buffer, at + start, count);
    for (let k = count; k-- > 0; ) to[k] = fromHalf(from[k]);
    end = start;
  }
}

async function openCache() {
  try {
    return await globalThis.caches?.open("naru");
  } catch {
    return undefined; // forbidden here
  }
}

// Begun while the module compiles.
async function findWeights(source, weights, cache, signal) {
  const url = isBytes(source) || source instanceof Response ? {} : await toURL(source);
  const store = cache && /^http/.test(url.protocol) ? await openCache() : undefined;
  const key = `${url.origin}${url.pathname}?naru=${weights.sha256}`;
  const hit = await store?.match(key).catch(() => {});
  return { store, key, hit, response: hit ?? (await open(source, signal)) };
}

async function getWeights({ store, key, hit, response }, again, memory, at, weights, onProgress) {
  const get = (from) => guard("the weights", () => receive(from, memory, at, weights, onProgress));
  try {
    await get(response);
  } catch (error) {
    if (error.code !== "weights" || !again) throw error;
    await store?.delete(key); // damaged, or what a cache kept of an earlier build
    await get(await again());
    hit = undefined;
  }
  if (store && !hit) keep(store, key, new Uint8Array(memory.buffer, at, HEADER + weights.size).slice()).catch(() => {});
}

// In place of what an earlier build kept; where there is no room, nothing is kept.
async function keep(store, key, bytes) {
  for (const old of await store.keys()) if (old.url.startsWith(key.split("?")[0] + "?")) await store.delete(old);
  await store.put(key, new Response(bytes));
}

// ---- dtypes ----

// dtype: [array, numbers an element]. Types that JavaScript lacks are given as their bits.
const TYPES = {
  float32: [Float32Array, 1], float64: [Float64Array, 1], float16: [Uint16Array, 1], bfloat16: [Uint16Array, 1],
  int8: [Int8Array, 1], int16: [Int16Array, 1], int32: [Int32Array, 1], int64: [BigInt64Array, 1],
  uint8: [Uint8Array, 1], uint16: [Uint16Array, 1], uint32: [Uint32Array, 1], uint64: [BigUint64Array, 1],
  bool: [Uint8Array, 1], int4: [Int8Array, 1], int2: [Int8Array, 1],
  complex64: [Float32Array, 2], complex128: [Float64Array, 2],
}; // prettier-ignore
const typeOf = (dtype) => TYPES[dtype] ?? [Uint8Array, 1];
const NARROW = ["Int8Array", "Uint8Array", "Int16Array", "Uint16Array", "Int32Array", "Uint32Array"];
const ALSO = {
  int64: NARROW, uint64: ["Uint8Array", "Uint16Array", "Uint32Array"], uint8: ["Uint8ClampedArray"],
  bool: ["Int8Array"], float16: ["Float32Array", "Float16Array"], bfloat16: ["Float32Array"],
}; // prettier-ignore
const bytesOf = (dtype, count) => typeOf(dtype)[0].BYTES_PER_ELEMENT * typeOf(dtype)[1] * count;

const single = new Float32Array(1);
const bits = new Uint32Array(single.buffer);

function fromHalf(h) {
  bits[0] = (h & 0x7fff) << 13;
  const x = (h & 0x7c00) === 0x7c00 ? (h & 0x3ff ? NaN : Infinity) : single[0] * 2 ** 112;
  return h & 0x8000 ? -x : x;
}

function toHalf(x) {
  single[0] = x;
  const sign = (bits[0] >>> 16) & 0x8000;
  const size = bits[0] & 0x7fffffff;
  if (size > 0x7f800000) return sign | 0x7e00;
  if (size >= 0x477ff000) return sign | 0x7c00;
  if (size >= 0x38800000) return sign | ((size - 0x38000000 + 0xfff + ((size >>> 13) & 1)) >>> 13);
  single[0] = Math.abs(x) + 0.5; // the last bit of 0.5 is the smallest number of half precision
  return sign | (bits[0] - 0x3f000000);
}

function fromBrain(h) {
  bits[0] = h << 16;
  return single[0];
}

function toBrain(x) {
  single[0] = x;
  return x !== x ? 0x7fc0 : (bits[0] + 0x7fff + ((bits[0] >>> 16) & 1)) >>> 16;
}

/** An output: `data` is a view of the model's memory, valid until the next run. */
class Tensor {
  constructor(dtype, dims, data) {
    Object.assign(this, { dtype, dims, data });
  }

  /** A copy as plain numbers. */
  numbers() {
    const decode = { float16: fromHalf, bfloat16: fromBrain }[this.dtype] ?? Number;
    return Array.from(this.data, (x) => decode(x));
  }
}

// ---- inputs ----

const quote = (name) => JSON.stringify(name);
const shapeText = (shape) => `[${shape.join(", ")}]`;
const bad = (name, text) => new NaruError("input", `input ${quote(name)}: ${text}`);

// {data: typed or plain array, dims?} of whatever was passed.
function describe(spec, value) {
  const own = typeOf(spec.dtype)[0].name;
  const expected = (got) => bad(spec.name, `expected ${spec.dtype} (${own} or numbers), got ${got}`);
  if (["number", "bigint", "boolean"].includes(typeof value)) return { data: [value], scalar: true };
  if (Array.isArray(value)) return { data: value };
  if (ArrayBuffer.isView(value)) {
    const tag = value[Symbol.toStringTag];
    if (tag === own || ALSO[spec.dtype]?.includes(tag)) return { data: value };
    throw expected(`${tag}; try ${own}.from(x)`);
  }
  if (value?.data === undefined) throw expected(value === null ? "null" : `${typeof value} without data`);
  return { data: describe(spec, value.data).data, dims: value.dims && Array.from(value.dims) };
}

// The sizes of an input. `bound`: what earlier inputs said of the symbols; it is added to.
function bind(spec, { data, dims, scalar }, bound) {
  const count = data.length / typeOf(spec.dtype)[1];
  const free = spec.shape.filter((d) => typeof d === "string" && !bound.has(d));
  const known = spec.shape.map((d) => bound.get(d)?.size ?? d);
  const expected = `expected shape ${shapeText(spec.shape)}`;
  if (!dims) {
    if (free.length > 1 || (scalar && spec.shape.length))
      throw bad(spec.name, `${expected}: pass { data, dims: ${shapeText(spec.shape)} } with numbers as dims`);
    const rest = product(known.filter((d) => d !== free[0]));
    const fits = free.length ? rest > 0 && Number.isInteger(count / rest) : rest === count;
    if (!fits) throw bad(spec.name, `${expected}, ${product(known) || rest} elements${free.length ? " or a multiple" : ""}, got ${count}`);
    dims = known.map((d) => (d === free[0] ? count / rest : d));
  }
  if (dims.length !== spec.shape.length) throw bad(spec.name, `${expected}, got ${shapeText(dims)}`);
  spec.shape.forEach((want, axis) => checkDim(spec, want, dims, axis, bound));
  if (product(dims) !== count) throw bad(spec.name, `${shapeText(dims)} has ${product(dims)} elements, got ${count}`);
  return dims;
}

function checkDim(spec, want, dims, axis, bound) {
  const got = dims[axis];
  const wrong = (text) => bad(spec.name, `expected shape ${shapeText(spec.shape)}, got ${shapeText(dims)}: ${text}`);
  if (!Number.isInteger(got) || got < 0) throw wrong(`dim ${axis} is no size`);
  if (typeof want === "number") {
    if (got !== want) throw wrong(`dim ${axis} must be ${want}`);
    return;
  }
  const { lo, hi } = MODEL.symbols.find((s) => s.name === want);
  if (got < lo || got > hi) throw wrong(`dim ${axis} must be in ${lo}..${hi}`);
  const first = bound.get(want);
  if (!first) bound.set(want, { size: got, giver: spec.name });
  else if (first.size !== got) throw wrong(`dim ${axis} must be ${first.size}, as in ${quote(first.giver)}`);
}

// Writes values into memory, without a change of any.
function put(spec, data, buffer, at) {
  const [Type] = typeOf(spec.dtype);
  const tag = data[Symbol.toStringTag];
  const view = new Type(buffer, at, data.length);
  if (tag === Type.name || tag === "Uint8ClampedArray") {
    if (data.buffer !== buffer || data.byteOffset !== at) view.set(data);
  } else if (tag === "Float16Array") {
    view.set(new Uint16Array(data.buffer, data.byteOffset, data.length));
  } else if (spec.dtype.endsWith("int64")) {
    putLong(spec, data, view);
  } else {
    const code = { float16: toHalf, bfloat16: toBrain }[spec.dtype];
    const exact = !code && !/^(float|complex)/.test(spec.dtype);
    for (let k = 0; k < data.length; k++) {
      const x = typeof data[k] === "boolean" ? Number(data[k]) : data[k];
      view[k] = code ? code(x) : typeof x === "number" ? x : NaN;
      if (typeof x !== "number" || (exact && view[k] !== x))
        throw bad(spec.name, `element ${k} is ${String(data[k])}, which is no ${spec.dtype}`);
    }
  }
}

// Numbers of 64 bits, as two halves.
function putLong(spec, data, view) {
  const low = spec.dtype === "int64" ? Number.MIN_SAFE_INTEGER : 0;
  const halves = new Int32Array(view.buffer, view.byteOffset, 2 * view.length);
  for (let k = 0; k < data.length; k++) {
    const x = data[k];
    if (typeof x === "bigint") {
      view[k] = x;
      if (view[k] === x) continue;
    } else if (Number.isSafeInteger(x) && x >= low) {
      halves[2 * k] = x;
      halves[2 * k + 1] = Math.floor(x / 2 ** 32);
      continue;
    }
    throw bad(spec.name, `element ${k} is ${String(x)}, which is no ${spec.dtype}`);
  }
}

// ---- failures of a run ----

function sizeText(bytes) {
  if (!(bytes <= 2 ** 62)) return "more than 4 EiB";
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]])
    if (bytes >= size) return `${(bytes / size).toFixed(1)} ${unit}`;
  return `${bytes} bytes`;
}

const stepText = (k) => {
  const [name, nodes] = MODEL.steps[k] ?? [String(k), []];
  return `step ${quote(name)}${nodes.length ? ` of ${nodes.map(quote).join(", ")}` : ""}`;
};
// By the codes of abi.h.
const FAILURES = {
  1: (a, b, c) => ["run", `${stepText(a)}: index ${b} is out of range for a size of ${c}`],
  2: (a, b) => ["memory", `${stepText(a)}: no memory for ${sizeText(b)}`],
  3: (a, b, c) => ["run", `${stepText(a)}: got a size of ${b}, the most is ${c}`],
  4: (a) => ["run", `the values of these inputs do not fit the model: ${MODEL.requires[a]}`],
  5: (a, b, c) => ["run", `${stepText(a)}: got a size of ${b}, the least is ${c}`],
  7: (a, b) => ["run", `${stepText(a)}: it goes on after ${b} rounds, the most that are allowed`],
};

function failure(code, a, b, c) {
  const [kind, text] = FAILURES[code]?.(a, b, c) ?? ["run", `the code reported failure ${code} (${a}, ${b}, ${c})`];
  const error = new NaruError(kind, text);
  if (code !== 4 && MODEL.steps[a]) [error.step, error.nodes] = MODEL.steps[a];
  return error;
}

// ---- the model ----

// Places in the context (abi.h, wasm_host.py), in words of 32 bits.
const HOST = 0, WEIGHTS = 1, ARENA = 2, IO = 3, DIMS = 4, ERROR = 8, TOP = 16, PATIENT = 19, BROKEN = 20, LIMIT = 22; // prettier-ignore
const JOB = 32; // how many jobs there were * 256 + threads of this one

class Model {
  #memory;
  #code; // exports of the module
  #words; // memory as int32
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
    this.#slots = Array.from({ length: inputs.length + outputs.length + 1 }, () => [this.#at.heap, 0]);
    this.#reserve(this.#at.heap);
    this.#setUp(options);
  }

  get weightsAt() {
    return this.#at.weights;
  }

  #setUp({ loopLimit = 0 }) {
    const w = this.#words, ctx = this.#ctx >> 2; // prettier-ignore
    w.fill(0, this.#ctx >> 2, this.#at.heap >> 2);
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
      if (missing > 0) this.#memory.grow(missing);
    } catch (error) {
      throw new NaruError("memory", `no memory: ${sizeText(end)} needed, ${sizeText(this.#memory.buffer.byteLength)} there`, error);
    }
    this.#refresh();
  }

  // Growth makes a new buffer; the old one is gone, or shorter.
  #refresh() {
    const { buffer } = this.#memory;
    if (this.#words?.buffer !== buffer) this.#words = new Int32Array(buffer, 0, buffer.byteLength >> 2);
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
    this.#reserve(end);
    const all = new Uint8Array(this.#memory.buffer);
    for (let k = info.inputs.length; k-- > 0; ) {
      const [from, bytes] = this.#slots[k];
      all.copyWithin(made[k][0], from, from + bytes);
    }
    this.#slots = made;
  }

  #long(at) {
    return this.#words[(at >> 2) + 1] * 2 ** 32 + (this.#words[at >> 2] >>> 0);
  }

  #view(dtype, dims, at) {
    const [Type, parts] = typeOf(dtype);
    const count = product(dims) * parts;
    return new Type(this.#memory.buffer, count ? at : 0, count);
  }

  // ---- sizes ----

  #askPlan(values) {
    const { dims, plan } = this.#at;
    values?.forEach((n, k) => {
      this.#words[(dims >> 2) + 2 * k] = n;
      this.#words[(dims >> 2) + 2 * k + 1] = 0;
    });
    this.#code.plan(dims, plan);
    let at = plan + 24;
    const shapes = info.outputs.map((t) => t.shape.map(() => this.#long((at += 8) - 8)));
    return { arena: this.#long(plan), threads: this.#long(plan + 16), shapes };
  }

  // The plan for sizes of the symbols, and memory for it.
  #prepare(sizes) {
    const values = MODEL.symbols.map((s) => sizes.get(s.name)?.size ?? 0);
    const key = values.join();
    if (key === this.#key) {
      const w = this.#words, dims = this.#at.dims >> 2; // prettier-ignore
      values.forEach((n, k) => ((w[dims + 2 * k] = n), (w[dims + 2 * k + 1] = 0)));
      return this.#plan;
    }
    const plan = this.#askPlan(values);
    if (plan.arena < 0)
      throw new NaruError("input", `these input sizes do not fit the model: ${MODEL.requires[-1 - plan.arena]}`);
    const needs = info.inputs.map((t) => bytesOf(t.dtype, product(t.shape.map((d) => sizes.get(d)?.size ?? d))));
    info.outputs.forEach((t, k) => {
      const short = plan.shapes[k].findIndex((d) => d < 0);
      if (!t.late && short >= 0)
        throw new NaruError("input", `these input sizes are too small: dim ${short} of the output ${quote(t.name)} would be ${plan.shapes[k][short]}`);
      needs.push(t.late ? 0 : bytesOf(t.dtype, product(plan.shapes[k])));
    });
    needs.push(plan.arena);
    const total = needs.reduce((a, b) => a + b, this.#at.heap);
    if (total >= 2 ** 32) throw new NaruError("memory", `these input sizes need ${sizeText(total)} of memory, WebAssembly has 4 GiB`);
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
    if (!dims) throw bad(name, `its sizes are not fixed: pass them, as in input(${quote(name)}, ${shapeText(spec.shape)})`);
    bind(spec, { data: { length: product(dims) * typeOf(spec.dtype)[1] }, dims }, new Map());
    this.#refresh();
    this.#place(this.#slots.map(([, bytes], j) => (j === k ? bytesOf(spec.dtype, product(dims)) : bytes)));
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
    given.forEach(({ data, held }, k) => {
      if (!held) put(info.inputs[k], data, this.#memory.buffer, this.#slots[k][0]);
    });
    given.forEach(({ held }, k) => (this.#held[k] = held ? dims[k] : undefined));
    this.#call(plan);
    return this.#outputs(plan);
  }

  #check() {
    if (this.#broken) throw new NaruError(...this.#broken);
  }

  #gather(inputs) {
    for (const name of Object.keys(inputs)) if (!info.inputs.some((t) => t.name === name)) throw noInput(name);
    return info.inputs.map((t, k) => {
      if (Object.hasOwn(inputs, t.name) && inputs[t.name] !== undefined) {
        const found = describe(t, inputs[t.name]);
        const inside = found.data.buffer === this.#memory.buffer && found.data.byteOffset !== this.#slots[k][0];
        return inside ? { ...found, data: found.data.slice() } : found; // an output of the last run
      }
      const dims = this.#held[k];
      if (dims) return { data: { length: product(dims) * typeOf(t.dtype)[1] }, dims, held: true };
      if (t.optional) return { data: crypto.getRandomValues(new BigInt64Array(1)) };
      throw new NaruError("input", `input ${quote(t.name)} is missing; expected ${specs()}`);
    });
  }

  #call(plan) {
    const w = this.#words, ctx = this.#ctx >> 2, io = this.#at.io >> 2; // prettier-ignore
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
    const [code, ...rest] = [0, 1, 2, 3].map((k) => this.#long(this.#ctx + 4 * ERROR + 8 * k));
    if (code) throw failure(code, ...rest);
  }

  // A trap leaves other threads waiting, and a stack behind.
  #fail(message) {
    this.#end(["trap", `the code stopped (${message}), which is a bug in naru; load the model again`]);
    this.#check();
  }

  #outputs(plan) {
    const late = info.outputs.some((t) => t.late);
    const shapes = late ? this.#askPlan().shapes : plan.shapes;
    const result = {};
    info.outputs.forEach((t, k) => {
      const at = this.#words[(this.#at.io >> 2) + info.inputs.length + k] >>> 0;
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
      const job = { module, memory: this.#memory, ctx: this.#ctx, tid: k + 1, top: this.#at.stacks + stack * (k + 1) };
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

const specs = () => info.inputs.map((t) => `${t.name}: ${t.dtype}${shapeText(t.shape)}`).join(", ") || "no inputs";
const noInput = (name) => new NaruError("input", `there is no input ${quote(name)}; expected ${specs()}`);

// ---- loading ----

/** Loads the model. See README.md for the options. */
export async function load(options = {}) {
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
  if (!Number.isInteger(wanted) || wanted < 1 || wanted > 255)
    throw new NaruError("input", `threads: expected a number from 1 to 255, got ${wanted}`);
  const shares = canShareMemory();
  let kind = { shared: wanted > 1 && shares, relaxed: MODEL.weights.length > 1 && options.relaxed !== false && hasRelaxedSimd() };
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
    throw new NaruError("unsupported", "the module is one with threads, and memory cannot be shared here");
  const memory = makeMemory(kind.pages, kind.shared);
  const instance = await WebAssembly.instantiate(module, { env: { memory } });
  const stack = instance.exports.__heap_base.value - instance.exports.__stack_low.value;
  const threads = kind.shared ? wanted : 1;
  const weights = weightsOf(kind);
  const model = new Model(memory, instance, stack, kind.relaxed, weights, { ...options, threads });
  made(model);
  const source = sourceOf(kind);
  const again = !NODE && !isBytes(source) && !(source instanceof Response) && (() => open(source, signal, "reload"));
  await getWeights(await (early ?? find()), again, memory, model.weightsAt, weights, options.onProgress);
  if (weights.halves) widen(memory, model.weightsAt + HEADER, weights);
  await model.start(module, threads, stack);
  signal.throwIfAborted();
  return model;
}

/** As `load`, in a worker of its own: `run` returns a promise, and the page stays responsive. */
export const loadInWorker = async (options) => (await more()).loadInWorker(options);

/** For model.worker.js alone. */
export const internal = { NODE, Tensor, align, nodeModule, product, quote, readAll, toURL, typeOf };
