// Draws strokes, hands the pixels to the model at every move, and shows what it says.
import { load } from "./model/digits.js";
import { EXAMPLES } from "./examples.js";
import { SIZES } from "./sizes.js";

const find = (id) => document.getElementById(id);
const make = (kind, className, textContent = "") => Object.assign(document.createElement(kind), { className, textContent });
const pad = find("pad");
const ink = pad.getContext("2d", { willReadFrequently: true });
const PEN = pad.width * 0.06;
const TRACE = 64; // runs in the line of times
const KEPT = 1000; // times that the median is of
const WARM = 20; // runs before the first that counts
const MEASURED = 15; // of each arithmetic before anybody draws
const SURE = 0.5; // what is less likely is no answer

// ---- the model ----

const models = {}; // by instruction set
const times = { plain: [], relaxed: [] }; // of the last runs, in milliseconds
const runs = {}; // how many there were
let model;
let used; // the instruction set of `model`

async function start() {
  models.plain = await load({ threads: 1, relaxed: false });
  const relaxed = await load({ threads: 1 });
  if (relaxed.relaxed) models.relaxed = relaxed;
  for (const input of document.querySelectorAll("#arithmetic input")) {
    input.disabled = !models[input.value];
    input.addEventListener("change", () => use(input.value));
  }
  showSizes();
  warm();
  use(relaxed.relaxed ? "relaxed" : "plain");
}

// Engines compile code well when it has run some times. By turns, so that both meet the same machine.
function warm() {
  for (let k = 0; k < WARM + MEASURED; k++)
    for (const kind of Object.keys(models)) {
      model = models[kind];
      const { time } = run();
      if (k >= WARM) times[kind].push(time);
    }
  for (const kind of Object.keys(models)) showMedian(kind);
}

function use(kind) {
  [model, used] = [models[kind], kind];
  document.querySelector(`#arithmetic input[value=${kind}]`).checked = true;
  showEngine();
  read();
}

function run() {
  const { data } = ink.getImageData(0, 0, pad.width, pad.height);
  const begin = performance.now();
  const outputs = model.run({ drawing: { data, dims: [pad.height, pad.width, 4] } });
  return { ...outputs, time: performance.now() - begin };
}

function read() {
  if (!used) return;
  const { scores, seen, time } = run();
  times[used].push(time);
  if (times[used].length > KEPT) times[used].shift();
  runs[used] = (runs[used] ?? MEASURED) + 1;
  showTimes();
  showSeen(seen);
  showScores(scores.numbers());
}

// ---- drawing ----

const { classList } = document.body;
const blank = () => !classList.contains("drawn");
const exampleThere = () => classList.contains("example");
let stroke; // the last points of the line that is being drawn
let shown; // an example that draws itself: the handle of its next step

function clear() {
  clearTimeout(shown);
  shown = stroke = undefined;
  ink.clearRect(0, 0, pad.width, pad.height);
  classList.remove("drawn", "example", "done");
  find("said").textContent = "";
  read();
}

// A line through the middles of the points, bent at them.
function moveTo([x, y], width = PEN) {
  classList.add("drawn");
  Object.assign(ink, { lineWidth: width, lineCap: "round", lineJoin: "round", strokeStyle: "#000" });
  const middle = stroke ? [(stroke.at[0] + x) / 2, (stroke.at[1] + y) / 2] : [x, y];
  ink.beginPath();
  ink.moveTo(...(stroke?.middle ?? middle));
  if (stroke) ink.quadraticCurveTo(...stroke.at, ...middle);
  else ink.lineTo(x, y);
  ink.stroke();
  stroke = { at: [x, y], middle };
}

function endStroke() {
  if (!stroke) return;
  ink.beginPath();
  ink.moveTo(...stroke.middle);
  ink.lineTo(...stroke.at);
  ink.stroke();
  stroke = undefined;
  read();
  say();
}

function place(event) {
  const { left, top, width, height } = pad.getBoundingClientRect();
  return [((event.clientX - left) / width) * pad.width, ((event.clientY - top) / height) * pad.height];
}

const widthOf = ({ pointerType, pressure }) => (pointerType === "pen" ? PEN * (0.6 + 0.8 * pressure) : PEN);
let pointer; // the one that draws
pad.addEventListener("pointerdown", (event) => {
  if (pointer !== undefined || event.button) return;
  event.preventDefault();
  pad.focus({ preventScroll: true });
  if (exampleThere()) clear();
  waiting = false;
  pointer = event.pointerId;
  pad.setPointerCapture(pointer);
  moveTo(place(event), widthOf(event));
  read();
});

pad.addEventListener("pointermove", (event) => {
  if (event.pointerId !== pointer) return;
  const events = event.getCoalescedEvents?.() ?? [];
  for (const e of events.length ? events : [event]) moveTo(place(e), widthOf(e));
  read();
});

for (const name of ["pointerup", "pointercancel"])
  pad.addEventListener(name, (event) => {
    if (event.pointerId !== pointer) return;
    pointer = undefined;
    endStroke();
  });

// ---- examples ----

// Points along a curve through those of a stroke (Catmull and Rom's spline).
function curve(points, steps = 9) {
  const at = (k) => points[Math.min(Math.max(k, 0), points.length - 1)];
  const made = [];
  for (let k = 0; k + 1 < points.length; k++)
    for (let j = 0; j < steps; j++) {
      const t = j / steps;
      made.push([0, 1].map((c) => {
        const [p, q, r, s] = [at(k - 1)[c], at(k)[c], at(k + 1)[c], at(k + 2)[c]];
        return q + (t * (r - p + t * (2 * p - 5 * q + 4 * r - s + t * (3 * (q - r) + s - p)))) / 2;
      }));
    }
  return [...made, points.at(-1)];
}

// In a hand that is never quite the same, and anywhere on the paper.
function example(digit) {
  const random = (from, to) => from + Math.random() * (to - from);
  const [size, slant, wide] = [random(0.5, 0.72), random(-0.1, 0.25), random(0.75, 1)];
  const [left, top] = [random(0.12, 0.86 - size), random(0.12, 0.88 - size)];
  const put = ([x, y]) => [left + size * (0.5 + (x - 0.5) * wide + (0.5 - y) * slant), top + size * y].map((v) => v * pad.width);
  return EXAMPLES[digit].map((stroke) => curve(stroke).map(put));
}

function drawExample(digit) {
  clear();
  classList.add("example");
  waiting = false;
  const points = example(digit).flatMap((stroke) => [...stroke, null]); // null: the pen is lifted
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const step = () => {
    const point = points.shift();
    if (point) moveTo(point);
    else endStroke();
    if (!points.length) return classList.add("done");
    if (still) return step();
    if (point) read();
    shown = setTimeout(step, point ? 14 : 120);
  };
  step();
}

let next = 3;
find("example").addEventListener("click", () => {
  drawExample(next);
  next = (next + 1 + Math.floor(Math.random() * 9)) % 10; // another than the last
});
find("clear").addEventListener("click", () => {
  waiting = false;
  clear();
  pad.focus({ preventScroll: true });
});
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || pointer !== undefined) return;
  if (/^\d$/.test(event.key)) drawExample(Number(event.key));
  else if (["Escape", "Delete", "Backspace"].includes(event.key)) find("clear").click();
});

// ---- what is shown ----

const rows = Array.from({ length: 10 }, (_, k) => {
  const row = make("li", "");
  const track = make("span", "track");
  const part = make("span", "part", "");
  const fill = track.appendChild(make("span", "fill"));
  row.append(make("span", "class", String(k)), track, part);
  find("bars").append(row);
  return { row, fill, part };
});

const percent = (x) => (x > 0.995 && x < 1 ? ">99%" : `${Math.round(100 * x)}%`);

function showScores(scores) {
  const order = scores.map((_, k) => k).sort((a, b) => scores[b] - scores[a]);
  const [first, second] = order;
  const unsure = scores[first] < SURE;
  const { labels } = model.info;
  rows.forEach(({ row, fill, part }, k) => {
    const score = blank() ? 0 : scores[k];
    row.classList.toggle("first", !blank() && k === first);
    fill.style.setProperty("--part", score.toFixed(3));
    part.textContent = blank() ? "" : percent(score);
  });
  classList.toggle("unsure", unsure && !blank());
  classList.toggle("empty", blank());
  find("digit").textContent = blank() ? "·" : unsure ? "?" : labels[first];
  find("sure").textContent = blank()
    ? "Nothing drawn yet."
    : unsure
      ? `Perhaps ${labels[first]}, perhaps ${labels[second]}.`
      : `${percent(scores[first])} sure`;
}

// For those who listen: when a stroke is done, not at every move.
const say = () => (find("said").textContent = `${find("digit").textContent}, ${find("sure").textContent}`);

function showSeen({ data, dims }) {
  const [height, width] = dims.slice(-2);
  const image = new ImageData(width, height);
  data.forEach((value, k) => (image.data[4 * k + 3] = 255 * value));
  Object.assign(find("seen"), { width, height }).getContext("2d").putImageData(image, 0, 0);
}

// Outside of an isolated page, browsers count in steps of 0.1 ms.
const timeText = (ms) => (ms < 0.005 ? "< 0.1 ms" : ms < 1 ? `${Math.round(1000 * ms)} µs` : `${ms.toFixed(2)} ms`);

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1];
}

const showMedian = (kind) => (find(`median-${kind}`).textContent = timeText(median(times[kind])));

function showTimes() {
  const all = times[used];
  const trace = all.slice(-TRACE);
  const most = Math.max(Math.min(Math.max(...trace), 4 * median(trace)), 1e-3); // what waits is cut off
  const points = trace.map((t, k) => `${k + TRACE - trace.length},${(19 - (18 * Math.min(t, most)) / most).toFixed(1)}`);
  document.querySelector("#trace polyline").setAttribute("points", points.join(" "));
  find("last").textContent = timeText(all.at(-1));
  find("median").textContent = timeText(median(all));
  find("runs").textContent = (runs[used] ?? MEASURED).toLocaleString("en");
  showMedian(used);
}

const kilobytes = (bytes) => (bytes / 1000).toFixed(1);

function showSizes() {
  const code = models.relaxed ? "digits.relaxed.wasm" : "digits.wasm";
  const parts = Object.entries({ code, weights: "digits.weights", JavaScript: "digits.js" });
  for (const [part, name] of parts) {
    const row = make("tr", "");
    row.append(Object.assign(make("th", "", part), { scope: "row" }), ...[SIZES[name][1], SIZES[name][0]].map((n) => make("td", "", kilobytes(n))));
    find("sizes").append(row);
  }
  find("total").textContent = `${kilobytes(parts.reduce((sum, [, name]) => sum + SIZES[name][1], 0))} kB`;
}

function addRow(list, name, value) {
  list.append(make("dt", "", name), make("dd", "", value));
}

function showEngine() {
  const list = find("engine");
  list.replaceChildren();
  addRow(list, "relaxed SIMD", models.relaxed ? (model.relaxed ? "in use" : "there, not used") : "not in this browser");
  addRow(list, "threads", String(model.threads));
  addRow(list, "weights", model.info.classes.weights);
}

// ---- the beginning ----

let waiting = true; // until somebody draws: then the page draws one itself

try {
  clear();
  await start();
  setTimeout(() => waiting && find("example").click(), 900);
} catch (error) {
  find("sure").className = "wrong";
  find("sure").textContent = `${error.code ?? error.name}: ${error.message}`;
}
