// The script of a package begins here: web.py puts engine.js, weights.js, values.js and model.js
// together, in this order, with the model's table. This part: the engine, files, the module.

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
const labelled = info.outputs.find((t) => t.labels);
if (labelled) info.labels = labelled.labels;

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

const isBytes = (x) =>
  ArrayBuffer.isView(x) || /(ArrayBuffer|Blob|File)\]$/.test(Object.prototype.toString.call(x));

const isGiven = (x) => isBytes(x) || x instanceof Response;
const isSource = (x) => typeof x === "string" || x instanceof URL || isGiven(x);

// Texts are addresses, relative to the page; in Node they may be paths.
async function toURL(source) {
  if (source instanceof URL) return source;
  if (NODE && !/^[a-z][a-z\d+.-]+:/i.test(source))
    return (await nodeModule("url")).pathToFileURL(source);
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
    if (NODE && url.protocol === "file:")
      return new Response(await (await nodeModule("fs/promises")).readFile(url, { signal }));
    const response =
      url === source.url ? source : await fetch(url, { signal, cache, credentials: "same-origin" });
    if (!response.ok) throw Error(`the server answered ${response.status} ${response.statusText}`);
    return response;
  });
}

// What a cache has may be of an earlier build.
const readAll = async (source) =>
  new Uint8Array(await (await open(source, undefined, "no-cache")).arrayBuffer());

// ---- the module ----

async function getModule(source, signal, cache) {
  if (source instanceof WebAssembly.Module) return source;
  const response = await open(source, signal, cache);
  return guard("the WebAssembly module", async () => {
    if (/^application\/wasm\b/.test(response.headers.get("content-type")))
      return WebAssembly.compileStreaming(response);
    return WebAssembly.compile(await response.arrayBuffer());
  });
}

// What `naru build` wrote into a module.
function recordOf(module) {
  const [section] = WebAssembly.Module.customSections(module, "naru");
  try {
    return JSON.parse(new TextDecoder().decode(section));
  } catch {
    return {};
  }
}

const isOurs = (module) => recordOf(module).web?.build === MODEL.build;

function readRecord(module) {
  const record = recordOf(module);
  if (isOurs(module)) return record.web;
  const found = record.name
    ? `of another build, of ${quote(record.name)}`
    : "that naru did not make";
  throw new NaruError(
    "module",
    `the WebAssembly module is one ${found}; expected that of this file`,
  );
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
