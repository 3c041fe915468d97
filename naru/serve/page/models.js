// The list of models: only the rows in sight are elements, so that thousands cost nothing.
import { count, find, make } from "./dom.js";

const HEIGHT = 58; // of a row in pixels, as page.css has it
const SPARE = 6; // rows above and below those in sight

// Items of the repository's index as models: [{name, versions: [{version, state, reason}]}].
export function group(index) {
  const models = new Map();
  for (const { name, version, state, reason } of index) {
    if (!models.has(name)) models.set(name, { name, versions: [] });
    models.get(name).versions.push({ version: version ?? "", state, reason: reason ?? "" });
  }
  return [...models.values()];
}

// What the model's state is in a word, and why: that of the version that answers, the last.
export function stateOf(model) {
  const { state, reason } = model.versions.at(-1);
  if (state === "READY" && reason.startsWith("not loaded")) return { word: "not loaded", kind: "idle", reason };
  const kind = state === "READY" ? (reason ? "warned" : "ready") : state === "LOADING" ? "idle" : "broken";
  return { word: state.toLowerCase(), kind, reason };
}

export class ModelList {
  // `choose` is called with the name of the model that is clicked on.
  constructor(choose) {
    this.choose = choose;
    this.models = [];
    this.shown = [];
    this.load = new Map(); // name -> {rows, runs, waiting}
    this.chosen = null;
    this.made = new Map(); // position -> the element of its row
    this.active = 0; // position of the row that the keys are at
    this.list = find("list");
    this.rows = find("rows");
    this.list.addEventListener("scroll", () => this.draw());
    this.list.addEventListener("keydown", (event) => this.key(event));
    this.list.addEventListener("focus", () => this.draw());
    this.list.addEventListener("blur", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(this.list);
    find("filter").addEventListener("input", () => {
      this.list.scrollTop = this.active = 0;
      this.filter();
    });
    find("filter").addEventListener("keydown", (event) => {
      if (event.key !== "ArrowDown" && event.key !== "Enter") return;
      event.preventDefault();
      if (event.key === "Enter" && this.shown.length) this.choose(this.shown[0].name);
      else this.list.focus();
    });
  }

  setModels(models) {
    this.models = models;
    this.filter();
  }

  // From the statistics: what was put together, and how many wait.
  setLoad(stats) {
    this.load.clear();
    for (const s of stats) {
      const sum = this.load.get(s.name) ?? { rows: 0, runs: 0, waiting: 0 };
      sum.rows += s.inference_count;
      sum.runs += s.execution_count;
      sum.waiting += s.queue_size;
      this.load.set(s.name, sum);
    }
    this.draw();
  }

  setChosen(name) {
    this.chosen = name;
    const at = this.shown.findIndex((m) => m.name === name);
    if (at >= 0) this.moveTo(at);
    this.draw();
  }

  filter() {
    const words = find("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (m) => {
      const text = `${m.name} ${stateOf(m).word}`.toLowerCase();
      return words.every((w) => text.includes(w));
    };
    this.shown = words.length ? this.models.filter(fits) : this.models;
    this.active = Math.max(0, Math.min(this.active, this.shown.length - 1));
    const all = count(this.models.length, "model");
    find("count").textContent = words.length ? `${this.shown.length.toLocaleString("en")} of ${all}` : all;
    this.rows.style.height = `${this.shown.length * HEIGHT}px`;
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.list.scrollTop / HEIGHT) - SPARE);
    const last = Math.min(this.shown.length, Math.ceil((this.list.scrollTop + this.list.clientHeight) / HEIGHT) + SPARE);
    for (const [k, row] of this.made)
      if (k < first || k >= last) {
        row.remove();
        this.made.delete(k);
      }
    for (let k = first; k < last; k++) this.drawRow(k);
    if (this.made.has(this.active)) this.list.setAttribute("aria-activedescendant", `row-${this.active}`);
    else this.list.removeAttribute("aria-activedescendant");
  }

  // A row stays the same element while it is in sight, and so do its parts: browsers drop a click
  // whose place went away between the button's ways down and up.
  drawRow(k) {
    if (!this.made.has(k)) this.made.set(k, this.rows.appendChild(this.newRow(k)));
    const row = this.made.get(k);
    const model = this.shown[k];
    const { word, kind, reason } = stateOf(model);
    row.classList.toggle("active", k === this.active && document.activeElement === this.list);
    row.ariaSelected = String(model.name === this.chosen);
    [row.ariaSetSize, row.ariaPosInSet, row.title] = [String(this.shown.length), String(k + 1), reason];
    const [name, state, about] = row.querySelectorAll(".model-name, .state, .about");
    state.className = `state ${kind}`;
    for (const [part, text] of [[name, model.name], [state, word], [about, this.about(model, kind, reason)]])
      if (part.textContent !== text) part.textContent = text;
  }

  newRow(k) {
    const top = make("span", { class: "top" }, make("span", { class: "model-name" }), make("span", { class: "state" }));
    const row = make("div", { id: `row-${k}`, role: "option", class: "row", click: () => this.choose(this.shown[k].name) }, top, make("span", { class: "about" }));
    row.style.top = `${k * HEIGHT}px`;
    return row;
  }

  about(model, kind, reason) {
    if (kind === "broken" && reason) return reason;
    const names = model.versions.map((v) => v.version);
    const parts = [names.length > 4 ? `${names.length} versions, last ${names.at(-1)}` : `version${names.length > 1 ? "s" : ""} ${names.join(", ")}`];
    const load = this.load.get(model.name);
    if (load?.runs) parts.push(`${count(Number((load.rows / load.runs).toFixed(1)), "row")} a run`);
    if (load) parts.push(`queue ${load.waiting}`);
    return parts.join(" · ");
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.list.clientHeight / HEIGHT) - 1);
    const last = this.shown.length - 1;
    const to = {
      ArrowDown: this.active + 1, ArrowUp: this.active - 1, Home: 0, End: last,
      PageDown: this.active + page, PageUp: this.active - page,
    }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      this.moveTo(Math.max(0, Math.min(last, to)));
    } else if ((event.key === "Enter" || event.key === " ") && this.shown[this.active]) {
      event.preventDefault();
      this.choose(this.shown[this.active].name);
    }
  }

  moveTo(k) {
    this.active = k;
    const top = k * HEIGHT;
    const bottom = top + HEIGHT - this.list.clientHeight;
    if (this.list.scrollTop > top) this.list.scrollTop = top;
    else if (this.list.scrollTop < bottom) this.list.scrollTop = bottom;
    this.draw();
  }
}
