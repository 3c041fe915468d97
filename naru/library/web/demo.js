// A page that runs the model on random numbers and shows how long it takes.
import { load } from "./model.js";

const find = (id) => document.getElementById(id);
const cell = (kind, text) => Object.assign(document.createElement(kind), { textContent: text });

function addRow(table, ...texts) {
  const row = table.insertRow();
  row.append(...texts.map((text, k) => cell(k ? "td" : "th", text)));
}

const shapeText = ({ dtype, shape }) => `${dtype}[${shape.join(", ")}]`;

const whole = (from, to) => () => from + Math.floor((to - from) * Math.random());
// Random numbers by dtype; those of 16 bits as their bits, from 0.125 to 1. Others are 0 or 1.
const RANDOM = {
  float32: Math.random,
  float64: Math.random,
  float16: whole(0x3000, 0x3c00),
  bfloat16: whole(0x3e00, 0x3f80),
};

// Sizes that are not fixed are those of the self-test.
function fill(model) {
  const { inputs, example } = model.info;
  for (const t of inputs) {
    const view = model.input(
      t.name,
      t.shape.map((d) => example[d] ?? d),
    );
    const long = view instanceof BigInt64Array || view instanceof BigUint64Array;
    const value = RANDOM[t.dtype] ?? whole(0, 2);
    for (let k = 0; k < view.length; k++) view[k] = long ? BigInt(value()) : value();
  }
}

// Clocks of browsers have steps of up to 0.1 ms, so short runs are timed many at once.
function measure(model) {
  const times = [];
  const end = performance.now() + 500;
  let outputs;
  let runs = 0;
  let many = 1;
  do {
    fill(model);
    const start = performance.now();
    for (let k = 0; k < many; k++) outputs = model.run();
    const took = performance.now() - start;
    times.push(took / many);
    runs += many;
    if (took < 5) many *= 2;
  } while (performance.now() < end);
  return { outputs, median: times.sort((a, b) => a - b)[times.length >> 1], runs };
}

function show(model) {
  const { outputs, median, runs } = measure(model);
  find("state").textContent =
    `${median.toFixed(3)} ms, the median of ${runs} runs on random numbers`;
  find("outputs").replaceChildren();
  for (const [name, t] of Object.entries(outputs)) {
    const first = { ...t, data: t.data.subarray(0, 10), numbers: t.numbers }.numbers();
    const more = t.data.length > 10 ? ", …" : "";
    addRow(
      find("outputs"),
      name,
      `${t.dtype}[${t.dims.join(", ")}]`,
      first.map((x) => +x.toPrecision(5)).join(", ") + more,
    );
  }
}

try {
  const model = await load({
    loopLimit: 10_000, // random numbers may ask for endless loops
    onProgress: ({ loaded, total }) =>
      Object.assign(find("progress"), { value: loaded, max: total }),
  });
  find("progress").remove();
  const { info } = model;
  const facts = find("facts");
  for (const t of info.inputs) addRow(facts, `input ${t.name}`, shapeText(t));
  for (const t of info.outputs) addRow(facts, `output ${t.name}`, shapeText(t));
  addRow(facts, "threads", model.threads);
  addRow(facts, "relaxed SIMD", model.relaxed ? "yes" : "no");
  addRow(
    facts,
    "bytes",
    Object.entries(info.sizes)
      .map(([name, n]) => `${name} ${n.toLocaleString()}`)
      .join(", "),
  );
  addRow(
    facts,
    "self-test",
    (await model.selftest())
      .map((c) => `${c.output}: off by ${c.error.toPrecision(2)}, limit ${c.limit.toPrecision(2)}`)
      .join("; "),
  );
  find("run").disabled = false;
  find("run").onclick = () => show(model);
  show(model);
} catch (error) {
  find("state").className = "error";
  find("state").textContent = `${error.code ?? error.name}: ${error.message}`;
}
