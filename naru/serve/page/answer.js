// What a model answered, as people read it: bars for scores, a picture, a table, or else numbers.
import { button, count, make, numberText, save, shapeText } from "./dom.js";
import { toCsv } from "./rows.js";

const ALL_BARS = 16; // so many classes stay in their order; of more the best are shown
const BEST = 10;
const MOST_ROWS = 100;
const MOST_COLUMNS = 24;
const MOST_NUMBERS = 200;

// The outputs of an answer in JSON, to tensors or to rows: [{name, shape, data}], data flat.
export function outputsOf(answer) {
  if (Array.isArray(answer.outputs)) return answer.outputs;
  return Object.entries(answer.outputs).map(([name, nested]) => {
    const shape = [];
    for (let level = nested; Array.isArray(level); level = level[0]) shape.push(level.length);
    return { name, shape, data: Array.isArray(nested) ? nested.flat(Infinity) : [nested] };
  });
}

// Elements for all outputs. `model` knows their labels and datatypes.
export function showOutputs(outputs, model) {
  const shown = [];
  const columns = [];
  for (const output of outputs) {
    const labels = model.labels[output.name] ?? [];
    if (isScores(output, model)) shown.push(titled(output, bars(output.data, labels)));
    else if (isPicture(output)) shown.push(titled(output, picture(output)));
    else if (output.shape.length <= 2 && output.shape.length > 0) columns.push(...columnsOf(output, labels));
    else shown.push(titled(output, numbers(output)));
  }
  const rows = Math.max(0, ...columns.map((c) => c.values.length));
  if (columns.length) shown.push(table(columns, rows, model));
  return shown;
}

const product = (shape) => shape.reduce((a, b) => a * b, 1);
const isFloat = (datatype) => /^(FP|BF)/.test(datatype);

function titled({ name, shape }, element) {
  return make("figure", {}, make("figcaption", {}, make("b", {}, name), ` ${shapeText(shape)}`), element);
}

// ---- scores ----

// One row of floats; what has a dim for rows alone is a number for each row.
function isScores({ name, shape, data }, model) {
  const output = model.outputs.find((o) => o.name === name);
  if (!output || !isFloat(output.datatype) || shape.length === 0 || shape.length > 2) return false;
  return shape.at(-1) >= 2 && shape.at(-1) === data.length && (shape.length === 2 || output.shape[0] !== -1);
}

// A bar for each class, from a line at zero: what is no probability may be negative.
function bars(scores, labels) {
  let order = scores.map((_, k) => k);
  const byScore = [...order].sort((a, b) => scores[b] - scores[a]);
  if (scores.length > ALL_BARS) order = byScore.slice(0, BEST);
  const shown = order.map((k) => scores[k]);
  const low = Math.min(0, ...shown);
  const most = Math.max(0, ...shown);
  const high = low === 0 && most <= 1 ? 1 : most; // of probabilities a full bar is certainty
  const range = high - low || 1;
  const list = make("ol", { class: "bars" });
  for (const k of order) {
    const fill = make("span", { class: "fill" });
    fill.style.left = `${(100 * (Math.min(0, scores[k]) - low)) / range}%`;
    fill.style.width = `${(100 * Math.abs(scores[k])) / range}%`;
    const label = labels[k] ?? String(k);
    list.append(
      make(
        "li", { class: k === byScore[0] ? "first" : "" },
        make("span", { class: "class", title: label }, label), make("span", { class: "track" }, fill),
        make("span", { class: "score" }, numberText(Number(scores[k].toPrecision(4)))),
      ),
    );
  }
  const rest = scores.length - order.length;
  return make("div", {}, list, rest ? make("p", { class: "soft" }, `and ${count(rest, "class", "classes")} with less`) : null);
}

// ---- a picture ----

function isPicture({ shape, data }) {
  const [height, width] = shape.slice(-2);
  return shape.length >= 3 && height >= 4 && width >= 4 && height * width === product(shape) && data.every((v) => typeof v === "number");
}

// Dark is low and light is high, whatever they are.
function picture({ shape, data }) {
  const [height, width] = shape.slice(-2);
  const canvas = make("canvas", { class: "picture", width, height, role: "img", "aria-label": "the output as a picture" });
  const image = new ImageData(width, height);
  const low = data.reduce((a, b) => Math.min(a, b), Infinity);
  const range = data.reduce((a, b) => Math.max(a, b), -Infinity) - low || 1;
  data.forEach((v, k) => image.data.set([0, 0, 0, 255].fill((255 * (v - low)) / range, 0, 3), 4 * k));
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// ---- a table ----

function columnsOf({ name, shape, data }, labels) {
  const width = shape.length > 1 ? shape[1] : 1;
  const column = (k) => Array.from({ length: shape[0] }, (_, row) => data[row * width + k]);
  if (width === 1) return [{ name, values: data, labels }];
  const called = (k) => (labels[k] !== undefined ? `${name}: ${labels[k]}` : `${name}[${k}]`);
  return Array.from({ length: width }, (_, k) => ({ name: called(k), values: column(k), labels: [] }));
}

function table(columns, rows, model) {
  const shown = columns.slice(0, MOST_COLUMNS);
  const cell = ({ values, labels }, k) => {
    const label = labels[values[k]];
    const text = values[k] === undefined ? "" : numberText(values[k]);
    return make("td", { class: typeof values[k] === "number" ? "number" : "" }, label ? `${text} · ${label}` : text);
  };
  const head = make("tr", {}, make("th", { scope: "col" }, "row"), ...shown.map((c) => make("th", { scope: "col", class: typeof c.values[0] === "number" ? "number" : "" }, c.name)));
  const body = Array.from({ length: Math.min(rows, MOST_ROWS) }, (_, k) =>
    make("tr", {}, make("th", { scope: "row" }, String(k)), ...shown.map((c) => cell(c, k))),
  );
  const left = [];
  if (rows > MOST_ROWS) left.push(count(rows - MOST_ROWS, "more row"));
  if (columns.length > MOST_COLUMNS) left.push(count(columns.length - MOST_COLUMNS, "more column"));
  const all = () => toCsv(columns.map((c) => c.name), Array.from({ length: rows }, (_, k) => columns.map((c) => c.values[k])));
  return make(
    "figure", {},
    make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Answer" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body))),
    make("p", { class: "soft" }, left.length ? `${left.join(" and ")} not shown ` : "", button("Save as CSV", () => save(all(), `${model.name}.csv`, "text/csv"), { class: "link" })),
  );
}

function numbers({ data }) {
  const shown = data.slice(0, MOST_NUMBERS).map(numberText).join(", ");
  return make("pre", {}, data.length > MOST_NUMBERS ? `${shown}, … ${data.length - MOST_NUMBERS} more` : shown);
}
