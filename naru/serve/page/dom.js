// Elements and numbers. Whatever the server says only ever becomes text nodes.

export const find = (id) => document.getElementById(id);

// An element with attributes (functions become listeners, true and false are there or not) and
// children: elements, or texts.
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

// The same for a picture.
export function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((c) => c !== null && c !== undefined));
  return made;
}

export const button = (text, click, attributes = {}) => make("button", { type: "button", click, ...attributes }, text);

export const count = (n, one, several = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : several}`;

export function timeText(ms) {
  if (ms < 1) return `${Math.round(1000 * ms)} µs`;
  return ms < 10 ? `${ms.toFixed(2)} ms` : ms < 1000 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(2)} s`;
}

export function bytesText(n) {
  const units = ["bytes", "kB", "MB", "GB"];
  let k = 0;
  for (; n >= 1000 && k < units.length - 1; k++) n /= 1000;
  return `${k && n < 100 ? n.toFixed(1) : Math.round(n)} ${units[k]}`;
}

// A number as short as it stays itself to the eye.
export function numberText(value) {
  if (typeof value !== "number") return typeof value === "string" ? value : JSON.stringify(value);
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size >= 1e6 || size < 1e-4 ? value.toExponential(3) : String(Number(value.toPrecision(5)));
}

export const shapeText = (dims) => `[${dims.map((d) => (d === -1 ? "?" : d)).join(", ")}]`;

// Offers bytes or a text as a file.
export function save(parts, name, type = "application/octet-stream") {
  const href = URL.createObjectURL(new Blob([parts], { type }));
  make("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10_000);
}
