// A table to fill in, to paste into, or to drop a file on, for models whose inputs are columns.
import { asStream, MEDIA } from "./arrow.js";
import { button, bytesText, count, make } from "./dom.js";
import { parseCsv, rowsJson, toRows } from "./rows.js";

const MOST_COLUMNS = 64; // that are shown
const MOST_TAKEN = 1024; // that are a table at all, and rows that it must have
const SHOWN = 12; // rows

// The columns of a model that takes a table: {columns: [{name, datatype}], matrix, named, least}, where
// `least` rows are to begin with; else null.
export function tableOf(model) {
  const { required } = model;
  const [input] = required;
  if (required.length === 1 && input.dims.length === 2 && input.shape[1] >= 1 && input.shape[1] <= MOST_TAKEN) {
    const names = model.columns[input.name];
    const columns = Array.from({ length: input.shape[1] }, (_, k) => ({ name: names?.[k] ?? `${input.name}[${k}]`, datatype: input.datatype }));
    const least = Math.max(1, input.shape[0]); // -1: any number
    if (columns.length > 1 && least <= MOST_TAKEN) return { columns, matrix: true, named: Boolean(names), least };
  }
  const isColumn = ({ shape }) => shape.length > 0 && shape[0] === -1 && (shape.length === 1 || (shape.length === 2 && shape[1] === 1));
  if (!required.length || required.length < model.inputs.length || !required.every(isColumn)) return null;
  return { columns: required, matrix: false, named: true, least: 1 };
}

export const tableForm = (model, trial) => new Table(tableOf(model), trial).element;

class Table {
  constructor({ columns, matrix, named, least }, trial) {
    Object.assign(this, { columns, matrix, named, trial });
    this.rows = Array.from({ length: least }, () => this.zeros());
    this.grid = make("div", { class: "scroll" });
    this.note = make("p", { class: "soft", role: "status" });
    this.file = make("input", { type: "file", class: "unseen", accept: ".csv,.tsv,.txt,.arrow,.arrows,.feather", change: () => this.take(this.file.files) });
    const paste = make("textarea", {
      rows: 2, spellcheck: "false", placeholder: "or paste CSV here", "aria-label": "CSV",
      paste: (event) => this.paste(event),
      change: () => paste.value.trim() && this.takeText(paste.value, "what you wrote"),
    });
    const drop = make("div", { class: "drop" }, make("label", { class: "file" }, this.file, make("span", {}, "Choose"), " or drop a CSV or Arrow file"), paste);
    const act = make("div", { class: "act" }, button("Run", () => this.run(), { class: "main" }), button("Add a row", () => this.addRow()));
    this.element = make("div", { class: "table-form" }, this.grid, act, this.note, drop);
    dropTarget(drop, (files) => this.take(files));
    this.show();
  }

  zeros() {
    return this.columns.map((c) => (c.datatype === "BYTES" ? "" : c.datatype === "BOOL" ? "false" : "0"));
  }

  addRow() {
    this.rows.push([...(this.rows.at(-1) ?? this.zeros())]);
    this.show();
    if (this.rows.length <= SHOWN) this.grid.querySelector("tbody tr:last-child input")?.focus();
  }

  show() {
    const shown = this.rows.slice(0, SHOWN);
    const columns = this.columns.slice(0, MOST_COLUMNS);
    const head = make("tr", {}, make("th", { scope: "col" }, "row"), ...columns.map((c) => make("th", { scope: "col", title: c.datatype }, c.name)), make("th", {}, ""));
    const body = shown.map((row, r) => make("tr", {}, make("th", { scope: "row" }, String(r)), ...columns.map((c, k) => this.cell(row, r, c, k)), make("td", {}, this.remover(r))));
    this.grid.replaceChildren(make("table", { class: "edit" }, make("thead", {}, head), make("tbody", {}, ...body)));
    const more = [];
    if (this.rows.length > SHOWN) more.push(count(this.rows.length - SHOWN, "more row"));
    if (this.columns.length > MOST_COLUMNS) more.push(count(this.columns.length - MOST_COLUMNS, "more column"));
    this.note.textContent = more.length ? `and ${more.join(" and ")}` : "";
  }

  cell(row, r, column, k) {
    const field = make("input", {
      value: row[k] ?? "", "aria-label": `row ${r}, ${column.name}`, spellcheck: "false", autocomplete: "off",
      inputmode: column.datatype === "BYTES" ? "text" : "decimal",
      input: () => (row[k] = field.value),
      keydown: (event) => event.key === "Enter" && this.run(),
      paste: (event) => /[\t\n]/.test(event.clipboardData.getData("text").trim()) && this.paste(event),
    });
    return make("td", {}, field);
  }

  remover(r) {
    const remove = () => {
      this.rows.splice(r, 1);
      this.show();
    };
    return button("×", remove, { class: "link", "aria-label": `remove row ${r}` });
  }

  run() {
    return this.trial.send({ body: rowsJson(this.rows, this.columns, this.matrix) });
  }

  // ---- CSV and Arrow ----

  paste(event) {
    event.preventDefault();
    this.takeText(event.clipboardData.getData("text"), "what you pasted");
  }

  async take([file]) {
    this.file.value = "";
    if (!file) return;
    if (/\.(arrow|arrows|feather)$/i.test(file.name)) await this.sendArrow(file);
    else await this.takeText(await file.text(), file.name);
  }

  async takeText(text, source) {
    try {
      const { rows, header } = toRows(parseCsv(text), this.columns, this.named);
      this.rows = rows;
      this.show();
      const what = `${count(rows.length, "row")} from ${source}${header ? ", the first line are names" : ""}`;
      this.note.textContent = this.note.textContent ? `${what}; ${this.note.textContent}` : what;
      await this.run();
    } catch (error) {
      this.trial.refuse(error.message);
    }
  }

  async sendArrow(file) {
    const bytes = asStream(new Uint8Array(await file.arrayBuffer()));
    this.note.textContent = `${file.name}, ${bytesText(bytes.length)}, sent as a stream`;
    await this.trial.send({ body: bytes, media: MEDIA, file: file.name });
  }
}

// Lets files be dropped on an element.
export function dropTarget(element, take) {
  const over = (on) => (event) => {
    event.preventDefault();
    element.classList.toggle("over", on);
  };
  element.addEventListener("dragover", over(true));
  element.addEventListener("dragleave", over(false));
  element.addEventListener("drop", (event) => {
    over(false)(event);
    take(event.dataTransfer.files);
  });
}
