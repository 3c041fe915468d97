// Which forms suit a model's inputs, and the plain ones: texts, an image, JSON.
import { button, bytesText, make, shapeText } from "./dom.js";
import { padForm, squareOf } from "./pad.js";
import { dropTarget, tableForm, tableOf } from "./table.js";

const IMAGES = ["image/png", "image/jpeg", "image/webp", "image/bmp", "image/gif"];
const WRITTEN = 2048; // elements that are written out in the editor
const MOST = 4_000_000; // elements that it stands for at all

// [{title, make}]: the first is the one that suits best; JSON suits all.
export function formsOf(model) {
  const alone = model.required.length === 1 ? model.required[0] : null;
  const forms = [];
  if (alone && squareOf(alone)) forms.push({ title: "Draw", make: padForm });
  if (alone && takesPixels(alone)) forms.push({ title: "Image", make: imageForm });
  if (alone && takesTexts(alone)) forms.push({ title: "Texts", make: textsForm });
  if (tableOf(model)) forms.push({ title: "Table", make: tableForm });
  return [...forms, { title: "JSON", make: jsonForm }];
}

// ---- texts ----

function takesTexts({ datatype, shape }) {
  const one = shape.slice(1).every((d) => d === 1);
  return datatype === "BYTES" && (shape.length === 0 || (one && (shape[0] === -1 || shape[0] === 1)));
}

function textsForm(model, trial) {
  const [{ name, datatype, shape }] = model.required;
  const area = make("textarea", { rows: 6, spellcheck: "false", "aria-label": `${name}, one text a line` });
  const several = shape[0] === -1;
  const send = () => {
    const data = several ? area.value.replace(/\n$/, "").split("\n") : [area.value];
    const sizes = shape.map((d) => (d === -1 ? data.length : d));
    return trial.send({ body: JSON.stringify({ inputs: [{ name, datatype, shape: sizes, data }] }) });
  };
  const note = several ? "Each line is a text." : "One text.";
  return make("div", {}, area, make("div", { class: "act" }, button("Run", send, { class: "main" }), make("span", { class: "soft" }, note)));
}

// ---- an image ----

function takesPixels({ datatype, shape }) {
  if (datatype !== "UINT8") return false;
  const channels = shape[2];
  const open = (d) => d === -1 || d >= 8;
  if (shape.length === 2) return shape.every(open);
  if (shape.length === 3) return [1, 3, 4].includes(channels);
  return shape.length === 4 && shape[3] === 3;
}

function imageForm(model, trial) {
  const preview = make("img", { class: "preview", alt: "", hidden: true });
  const note = make("p", { class: "soft", role: "status" });
  const take = ([file]) => {
    field.value = "";
    if (!file) return undefined;
    if (!IMAGES.includes(file.type)) return trial.refuse(`Expected a PNG, JPEG, WebP, BMP or GIF, got ${file.name}${file.type && `, ${file.type}`}.`);
    URL.revokeObjectURL(preview.src);
    Object.assign(preview, { src: URL.createObjectURL(file), alt: file.name, hidden: false });
    note.textContent = `${file.name}, ${bytesText(file.size)}`;
    return trial.send({ body: file, media: file.type, file: file.name });
  };
  const field = make("input", { type: "file", class: "unseen", accept: IMAGES.join(","), change: () => take(field.files) });
  const drop = make("div", { class: "drop tall" }, preview, make("label", { class: "file" }, field, make("span", {}, "Choose"), " or drop an image"), note);
  dropTarget(drop, take);
  return drop;
}

// ---- JSON ----

// The smallest sizes that a tensor's open dims may have, by symbol where it has a name.
const smallest = (model, dim) => (typeof dim === "number" && dim >= 0 ? dim : Math.max(1, model.sizes[dim]?.[0] ?? 1));
const elements = (shape) => shape.reduce((a, b) => a * b, 1);
const zero = (datatype) => (datatype === "BYTES" ? "" : datatype === "BOOL" ? false : 0);

function jsonForm(model, trial) {
  const sizes = new Map(); // of open dims: by symbol, or by place where they have none
  const keyOf = (input, dim, k) => (typeof dim === "string" ? dim : `${input.name}[${k}]`);
  const area = make("textarea", { class: "code", rows: 14, spellcheck: "false", "aria-label": "The request in JSON", "aria-describedby": "json-note" });
  const shapeOf = (input) => input.dims.map((dim, k) => (input.shape[k] >= 0 ? dim : sizes.get(keyOf(input, dim, k))));
  const fill = () => (area.value = requestText(model.required.map((input) => ({ input, shape: shapeOf(input) }))));
  const editors = [];
  for (const input of model.required)
    input.dims.forEach((dim, k) => {
      const key = keyOf(input, dim, k);
      if (input.shape[k] >= 0 || sizes.has(key)) return;
      sizes.set(key, smallest(model, dim));
      const field = make("input", { type: "number", min: 0, value: sizes.get(key), input: () => sizes.set(key, Math.max(0, Math.trunc(field.valueAsNumber || 0))) && fill() });
      editors.push(make("label", {}, `${key} `, field));
    });
  fill();
  const send = () => {
    try {
      return trial.send({ body: expand(area.value) });
    } catch (error) {
      return trial.refuse(error.message);
    }
  };
  const note = "As data, “zeros” and “random” stand for as many numbers as the shape has.";
  return make(
    "div", {}, editors.length ? make("div", { class: "sizes" }, "Sizes: ", ...editors) : null, area,
    make("div", { class: "act" }, button("Run", send, { class: "main" }), make("span", { class: "soft", id: "json-note" }, note)),
  );
}

// A request of zeros, a line for each tensor's data.
function requestText(tensors) {
  const items = tensors.map(({ input, shape }) => {
    const many = elements(shape) > WRITTEN && input.datatype !== "BYTES";
    const data = many ? '"zeros"' : JSON.stringify(Array(Math.min(elements(shape), MOST)).fill(zero(input.datatype)));
    const line = (key, value) => `      "${key}": ${value}`;
    const lines = [line("name", JSON.stringify(input.name)), line("datatype", `"${input.datatype}"`), line("shape", JSON.stringify(shape)), line("data", data)];
    return `    {\n${lines.join(",\n")}\n    }`;
  });
  return `{\n  "inputs": [\n${items.join(",\n")}\n  ]\n}`;
}

// The request as it is sent. What is no JSON goes as it is: the server says what is wrong with it.
function expand(text) {
  if (!/"(zeros|random)"/.test(text)) return text;
  let request;
  try {
    request = JSON.parse(text);
  } catch {
    return text;
  }
  for (const tensor of Array.isArray(request.inputs) ? request.inputs : []) {
    if (tensor?.datatype === "BYTES" || (tensor?.data !== "zeros" && tensor?.data !== "random")) continue;
    const size = Array.isArray(tensor.shape) ? elements(tensor.shape) : 0;
    if (!(size <= MOST)) throw new Error(`${tensor.name}: ${shapeText(tensor.shape)} is more than a page should send as JSON.`);
    const value = tensor.data === "zeros" ? () => zero(tensor.datatype) : randomOf(tensor.datatype);
    tensor.data = Array.from({ length: size }, value);
  }
  return JSON.stringify(request);
}

function randomOf(datatype) {
  if (datatype === "BOOL") return () => Math.random() < 0.5;
  if (/^(FP|BF)/.test(datatype)) return () => Number((2 * Math.random() - 1).toFixed(4));
  return () => Math.floor(2 * Math.random()); // 0 and 1 fit every integer, and most tables
}
