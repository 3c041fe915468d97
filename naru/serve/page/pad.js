// A pad to draw on, for models that take a square picture of one channel: 1 is ink.
import { button, make } from "./dom.js";

const SIDE = 384; // of the pad in pixels, about
const PEN = 0.06; // width of the pen as a part of the side
const FITTED = 32; // pictures up to this side are of one thing, which fills them
const MARGINS = [[12, 0], [FITTED, 1 / 7]]; // around it, as parts of the side, by the picture's side
const STEP = 1 / 48; // that an arrow key moves the pen by

// The side of the picture that an input takes, and the shape of one such; null where it takes none.
export function squareOf({ datatype, dims, shape }) {
  if (!/^(FP|BF)/.test(datatype)) return null;
  const sizes = shape.map((d, k) => (d === -1 && k === 0 ? 1 : d));
  const [height, width] = sizes.slice(-2);
  const leading = sizes.slice(0, -2);
  if (dims.length >= 2 && height === width && height >= 4 && height <= 512 && leading.every((d) => d === 1)) return { side: height, shape: sizes };
  const flat = dims.length <= 2 && sizes.slice(0, -1).every((d) => d === 1) ? sizes.at(-1) : 0;
  return flat === 64 || flat === 784 ? { side: Math.sqrt(flat), shape: sizes } : null;
}

export function padForm(model, trial) {
  const input = model.required[0];
  const pad = new Pad(squareOf(input).side);
  let busy = false;
  let again = null; // whether another drawing waits, and the last was the end of a stroke
  pad.drawn = async (quiet) => {
    if (busy) return (again = { quiet });
    busy = true;
    do {
      const now = again ?? { quiet };
      again = null;
      await trial.send({ body: bodyOf(input, pad.values()) }, now.quiet);
    } while (again);
    busy = false;
  };
  pad.cleared = () => {
    again = null;
    trial.clear();
  };
  return pad.element;
}

function bodyOf(input, values) {
  const data = values.map((v) => Number(v.toFixed(3)));
  const { name, datatype } = input;
  return JSON.stringify({ inputs: [{ name, datatype, shape: squareOf(input).shape, data }] });
}

class Pad {
  constructor(side) {
    this.side = side;
    const size = side * Math.max(1, Math.round(SIDE / side));
    this.canvas = make("canvas", { class: "pad", width: size, height: size, tabindex: "0", role: "img", "aria-label": "Drawing area", "aria-describedby": "pad-keys" });
    this.ink = this.canvas.getContext("2d", { willReadFrequently: true });
    this.seen = make("canvas", { class: "seen", width: side, height: side, role: "img", "aria-label": "The drawing as the model sees it" });
    this.fitted = make("input", { type: "checkbox", change: () => this.blank || this.drawn(false) });
    this.fitted.checked = side <= FITTED;
    this.cursor = make("span", { class: "cursor", "aria-hidden": "true" });
    this.hint = make("span", { class: "hint", "aria-hidden": "true" }, "draw here");
    this.sheet = make("div", { class: "sheet" }, this.canvas, this.hint, this.cursor);
    this.element = make(
      "div", { class: "drawing" },
      this.sheet,
      make(
        "div", { class: "side" },
        make("figure", {}, this.seen, make("figcaption", {}, `what the model sees: ${side} × ${side}`)),
        make("label", { class: "check" }, this.fitted, " fit the drawing to the frame"),
        button("Clear", () => this.clear()),
        make("p", { class: "soft", id: "pad-keys" }, "Mouse, finger or pen. Keys: arrows move the pen, Space sets it down or lifts it, Esc clears."),
      ),
    );
    this.pointer = undefined;
    this.listen();
    this.clear();
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => event.pointerId === this.pointer && this.end());
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => this.sheet.classList.remove("keys"));
  }

  clear() {
    this.ink.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.blank = true;
    this.last = undefined;
    this.at = [0.3, 0.2]; // of the pen that the keys move, as parts of the side
    this.penDown = false;
    this.sheet.classList.remove("drawn", "keys");
    this.showSeen(new Float32Array(this.side * this.side));
    this.cleared?.();
  }

  // ---- pointers ----

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  down(event) {
    if (this.pointer !== undefined || event.button) return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.sheet.classList.remove("keys");
    this.pointer = event.pointerId;
    this.canvas.setPointerCapture(event.pointerId);
    this.lineTo(this.place(event), event);
    this.drawn(true);
  }

  move(event) {
    if (event.pointerId !== this.pointer) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const e of events.length ? events : [event]) this.lineTo(this.place(e), e);
    this.drawn(true);
  }

  end() {
    this.pointer = this.last = undefined;
    this.drawn(false);
  }

  lineTo([x, y], { pointerType, pressure } = {}) {
    const size = this.canvas.width;
    const wide = pointerType === "pen" ? 0.6 + 0.8 * pressure : 1;
    Object.assign(this.ink, { lineWidth: size * PEN * wide, lineCap: "round", lineJoin: "round", strokeStyle: "#000" });
    this.ink.beginPath();
    this.ink.moveTo(...(this.last ?? [x, y]).map((v) => v * size));
    this.ink.lineTo(x * size, y * size);
    this.ink.stroke();
    this.last = [x, y];
    this.blank = false;
    this.sheet.classList.add("drawn");
  }

  // ---- keys ----

  key(event) {
    const step = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key];
    if (event.key === "Escape") return this.clear();
    if (event.key !== " " && !step) return undefined;
    event.preventDefault();
    this.sheet.classList.add("keys");
    if (step) this.at = this.at.map((v, k) => Math.max(0, Math.min(1, v + step[k])));
    else this.penDown = !this.penDown;
    this.sheet.classList.toggle("pen-down", this.penDown);
    [this.cursor.style.left, this.cursor.style.top] = this.at.map((v) => `${100 * v}%`);
    if (!this.penDown) {
      if (!step) this.end();
      return undefined;
    }
    this.lineTo(this.at);
    return this.drawn(true);
  }

  // ---- what the model gets ----

  // The ink in each pixel of the picture, 0 to 1, row by row.
  values() {
    const size = this.canvas.width;
    const { data } = this.ink.getImageData(0, 0, size, size);
    const alpha = (x, y) => (x >= 0 && y >= 0 && x < size && y < size ? data[4 * (y * size + x) + 3] : 0);
    const { left, top, wide } = this.frame(data, size);
    const { side } = this;
    const border = (from, k) => Math.round(from + (k * wide) / side);
    const values = [];
    for (let y = 0; y < side; y++)
      for (let x = 0; x < side; x++) values.push(mean(alpha, border(left, x), border(left, x + 1), border(top, y), border(top, y + 1)));
    this.showSeen(values);
    return values;
  }

  // The square of the pad that becomes the picture: all of it, or what is drawn with a margin.
  frame(data, size) {
    if (!this.fitted.checked) return { left: 0, top: 0, wide: size };
    let [x0, x1, y0, y1] = [size, -1, size, -1];
    for (let k = 3, at = 0; k < data.length; k += 4, at++)
      if (data[k] > 16) {
        const x = at % size;
        const y = (at - x) / size;
        [x0, x1, y0, y1] = [Math.min(x0, x), Math.max(x1, x), Math.min(y0, y), Math.max(y1, y)];
      }
    if (x1 < 0) return { left: 0, top: 0, wide: size };
    const margin = MARGINS.find(([side]) => this.side <= side)?.[1] ?? MARGINS.at(-1)[1];
    const wide = (Math.max(x1 - x0, y1 - y0) + 1) / (1 - 2 * margin);
    return { left: (x0 + x1 + 1 - wide) / 2, top: (y0 + y1 + 1 - wide) / 2, wide };
  }

  showSeen(values) {
    const image = new ImageData(this.side, this.side);
    values.forEach((v, k) => (image.data[4 * k + 3] = 255 * v));
    this.seen.getContext("2d").putImageData(image, 0, 0);
  }
}

// Of the alphas of a rectangle, which has one pixel at least.
function mean(alpha, left, right, top, bottom) {
  let sum = 0;
  for (let y = top; y < Math.max(bottom, top + 1); y++) for (let x = left; x < Math.max(right, left + 1); x++) sum += alpha(x, y);
  return sum / (255 * Math.max(right - left, 1) * Math.max(bottom - top, 1));
}
