// Part of a package's script (see web.py): inputs, outputs, and what is said of a failed run.

// ---- dtypes ----

// Types that JavaScript lacks are given as their bits.
const TYPES = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array,
  bfloat16: Uint16Array,
  int8: Int8Array,
  int16: Int16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  uint8: Uint8Array,
  uint16: Uint16Array,
  uint32: Uint32Array,
  uint64: BigUint64Array,
  bool: Uint8Array,
  int4: Int8Array,
  int2: Int8Array,
};
const typeOf = (dtype) => TYPES[dtype] ?? Uint8Array;
const NARROW = [
  "Int8Array",
  "Uint8Array",
  "Int16Array",
  "Uint16Array",
  "Int32Array",
  "Uint32Array",
];
const ALSO = {
  int64: NARROW,
  uint64: ["Uint8Array", "Uint16Array", "Uint32Array"],
  uint8: ["Uint8ClampedArray"],
  bool: ["Int8Array"],
  float16: ["Float32Array", "Float16Array"],
  bfloat16: ["Float32Array"],
};
// The least and the greatest of dtypes that are narrower than an element of their array.
const RANGES = { bool: [0, 1], int4: [-8, 7], uint4: [0, 15], int2: [-2, 1], uint2: [0, 3] };
const bytesOf = (dtype, count) => typeOf(dtype).BYTES_PER_ELEMENT * count;

const CODES = null; // of floats in 16 bits, where the model has some; see halves.js

/** An output: `data` is a view of the model's memory, valid until the next `run`, `input`
 * or `selftest`. */
class Tensor {
  constructor(dtype, dims, data) {
    this.dtype = dtype;
    this.dims = dims;
    this.data = data;
  }

  /** A copy as plain numbers. */
  numbers() {
    const decode = CODES[this.dtype]?.decode ?? Number;
    return Array.from(this.data, (x) => decode(x));
  }
}

// ---- inputs ----

const quote = (name) => JSON.stringify(name);
const shapeText = (shape) => `[${shape.join(", ")}]`;
const misuse = (text) => new NaruError("input", text);
const bad = (name, text) => misuse(`input ${quote(name)}: ${text}`);
const textOf = (x) => (Object(x) === x ? typeof x : String(x));

function checkObject(what, x) {
  if (x === null || typeof x !== "object")
    throw misuse(`${what}: expected an object, got ${textOf(x)}`);
}

// {data: typed or plain array, dims?} of whatever was passed.
function describe(spec, value) {
  const own = typeOf(spec.dtype).name;
  const expected = (got) =>
    bad(spec.name, `expected ${spec.dtype} (${own} or numbers), got ${got}`);
  if (["number", "bigint", "boolean"].includes(typeof value))
    return { data: [value], scalar: true };
  if (Array.isArray(value)) return flatten(spec, value);
  if (ArrayBuffer.isView(value)) {
    const tag = value[Symbol.toStringTag];
    if (tag === own || ALSO[spec.dtype]?.includes(tag)) return { data: value };
    throw expected(`${tag}; try ${own}.from(x)`);
  }
  if (value?.data === undefined)
    throw expected(`${textOf(value)} without data`);
  if (!Array.isArray(value.data) && !ArrayBuffer.isView(value.data))
    throw expected(`${textOf(value.data)} as data`);
  const { data, dims } = describe(spec, value.data);
  return { data, dims: value.dims ? Array.from(value.dims) : dims };
}

// Arrays in arrays have the sizes of the input.
function flatten(spec, data) {
  const dims = [data.length];
  for (; Array.isArray(data[0]); data = data.flat()) {
    const size = data[0].length;
    if (!data.every((x) => Array.isArray(x) && x.length === size))
      throw bad(spec.name, `the arrays of dim ${dims.length} have not the same size`);
    dims.push(size);
  }
  return dims.length > 1 ? { data, dims } : { data };
}

// The sizes of an input. `bound`: what earlier inputs said of the symbols; it is added to.
function bind(spec, { data, dims, scalar }, bound) {
  const count = data.length;
  const free = spec.shape.filter((d) => typeof d === "string" && !bound.has(d));
  const known = spec.shape.map((d) => bound.get(d)?.size ?? d);
  const expected = `expected shape ${shapeText(spec.shape)}`;
  if (!dims) {
    if (free.length > 1 || (scalar && spec.shape.length))
      throw bad(
        spec.name,
        `${expected}: pass { data, dims: ${shapeText(spec.shape)} } with numbers as dims`,
      );
    const rest = product(known.filter((d) => d !== free[0]));
    const fits = free.length ? rest > 0 && Number.isInteger(count / rest) : rest === count;
    if (!fits)
      throw bad(
        spec.name,
        `${expected}, ${free.length ? `a multiple of ${rest}` : rest} elements, got ${count}`,
      );
    dims = known.map((d) => (d === free[0] ? count / rest : d));
  }
  if (dims.length !== spec.shape.length)
    throw bad(spec.name, `${expected}, got ${shapeText(dims)}`);
  spec.shape.forEach((want, axis) => checkDim(spec, want, dims, axis, bound));
  if (product(dims) !== count)
    throw bad(spec.name, `${shapeText(dims)} has ${product(dims)} elements, got ${count}`);
  return dims;
}

function checkDim(spec, want, dims, axis, bound) {
  const got = dims[axis];
  const wrong = (text) =>
    bad(spec.name, `expected shape ${shapeText(spec.shape)}, got ${shapeText(dims)}: ${text}`);
  if (!Number.isInteger(got) || got < 0) throw wrong(`dim ${axis} is no size`);
  if (typeof want === "number") {
    if (got !== want) throw wrong(`dim ${axis} must be ${want}`);
    return;
  }
  const { lo, hi } = MODEL.symbols.find((s) => s.name === want);
  if (got < lo || got > hi) throw wrong(`dim ${axis} must be in ${lo}..${hi}`);
  const first = bound.get(want);
  if (!first) bound.set(want, { size: got, giver: spec.name });
  else if (first.size !== got)
    throw wrong(`dim ${axis} must be ${first.size}, as in ${quote(first.giver)}`);
}

// Writes values into memory, without a change of any.
function put(spec, data, buffer, at) {
  const Type = typeOf(spec.dtype);
  const [least, greatest] = RANGES[spec.dtype] ?? [-Infinity, Infinity];
  const tag = data[Symbol.toStringTag];
  const view = new Type(buffer, at, data.length);
  if (tag === "Uint8ClampedArray" || (tag === Type.name && greatest === Infinity)) {
    view.set(data);
  } else if (tag === "Float16Array") {
    view.set(new Uint16Array(data.buffer, data.byteOffset, data.length));
  } else if (spec.dtype.endsWith("int64")) {
    putLong(spec, data, view);
  } else {
    const code = CODES[spec.dtype]?.encode;
    const exact = !code && !/^Float/.test(Type.name);
    for (let k = 0; k < data.length; k++) {
      const x = typeof data[k] === "boolean" ? Number(data[k]) : data[k];
      if (typeof x === "number") view[k] = code ? code(x) : x;
      if (typeof x !== "number" || (exact && view[k] !== x) || x < least || x > greatest)
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
  for (const [unit, size] of [
    ["GiB", 2 ** 30],
    ["MiB", 2 ** 20],
    ["KiB", 2 ** 10],
  ])
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
  const [kind, text] = FAILURES[code]?.(a, b, c) ?? [
    "run",
    `the code reported failure ${code} (${a}, ${b}, ${c})`,
  ];
  const error = new NaruError(kind, text);
  if (code !== 4 && MODEL.steps[a]) [error.step, error.nodes] = MODEL.steps[a];
  return error;
}
