// What a worker of the module beside this file does: one thread of its runs, or, for `loadInWorker`,
// the whole model.

const NODE = Boolean(globalThis.process?.versions?.node);

// Places in the context (abi.h, wasm_host.py), in words of 32 bits.
const BROKEN = 20;
const JOB = 32;
const LOOKS = 20000; // for the next job, before it sleeps: some tens of microseconds

let model;
const methods = {
  work,
  load: async (options, tell) => {
    const { load } = await import("./model.js");
    model = await load({ ...options, onProgress: (progress) => tell({ progress }) });
    return { threads: model.threads, relaxed: model.relaxed };
  },
  run: (inputs) => {
    const outputs = Object.entries(model.run(inputs)); // views of memory: what is sent are copies
    return Object.fromEntries(outputs.map(([name, t]) => [name, { ...t, data: t.data.slice() }]));
  },
  selftest: (golden) => model.selftest(golden),
};

async function answer({ id, method, args }, port) {
  const tell = (what) => port.postMessage({ id, ...what });
  try {
    tell({ value: await methods[method](args, tell) });
  } catch (error) {
    const { code = "worker", message, ...more } = error;
    tell({ error: { ...more, code, message } });
  }
}

// Sleeps between jobs, after looking for the next one a while.
async function work({ module, memory, ctx, tid, top }, tell) {
  const { exports } = await WebAssembly.instantiate(module, { env: { memory } });
  const words = new Int32Array(memory.buffer);
  const at = ctx >> 2;
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

if (NODE) {
  const name = "node:worker_threads"; // no bundler for browsers may look for it
  import(/* @vite-ignore */ /* webpackIgnore: true */ name).then(({ parentPort }) => parentPort.on("message", (m) => answer(m, parentPort)));
} else {
  self.onmessage = (event) => answer(event.data, self);
}
