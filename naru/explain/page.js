"use strict";
// Draws what the element #data holds. Texts of the model only ever become text nodes.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const SVG = $("graph").namespaceURI;
const COLOURS = {
  convolution: "convolution", "matrix product": "matrix", reduction: "reduction", control: "control",
  elementwise: "elementwise", movement: "movement", "by hand": "hand", other: "other",
};
const colour = (row) => `var(--${COLOURS[row?.kind] ?? "other"})`;
const rowOf = (step) => data.rows[step.row];
const selected = { row: null, step: null };

// ---- elements and numbers ----

function put(parent, tag, attributes = {}, text = null) {
  const svg = parent.namespaceURI === SVG || tag === "svg";
  const made = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return parent.appendChild(made);
}

function time(ns) {
  if (ns === null || ns === undefined) return "";
  if (ns >= 1e9) return `${(ns / 1e9).toFixed(2)} s`;
  if (ns >= 1e6) return `${(ns / 1e6).toFixed(ns >= 1e8 ? 0 : 2)} ms`;
  return `${(ns / 1e3).toFixed(ns >= 1e5 ? 0 : 2)} µs`;
}

function scaled(value, units) {
  let k = 0;
  for (; value >= 1000 && k < units.length - 1; k++) value /= 1000;
  return `${value >= 100 || k === 0 ? value.toFixed(0) : value.toFixed(1)} ${units[k]}`;
}

const bytes = (n) => scaled(n, ["B", "kB", "MB", "GB"]);
const flops = (n) => scaled(n, ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"]);
const percent = (x) => (x === null || x === undefined ? "" : `${(100 * x).toFixed(x < 0.0995 ? 1 : 0)}%`);
const nodesText = (nodes) => nodes.map((n) => (n.operator ? `${n.name} (${n.operator})` : n.name)).join(", ");
const shorten = (text, n) => (text.length > n ? `${text.slice(0, n - 1)}…` : text);
// How long a step took; where nothing was measured, what the compiler predicts for it.
const timeOf = (step) => step.ns ?? (rowOf(step) ? rowOf(step).ns / Math.max(1, rowOf(step).calls ?? 1) : 0);

// ---- head ----

function drawHead() {
  $("name").textContent = data.name;
  $("about").textContent = data.heading.slice(1, 3).map((t) => t.replace(/\s+/g, " ")).join(" · ");
  const sizes = Object.entries(data.sizes).map(([k, v]) => `${k} = ${v}`).join(", ");
  const tiles = data.timed
    ? [
        [time(data.total), `measured, one thread${sizes && ", " + sizes}`],
        [time(data.predicted), "predicted when compiling"],
        [flops(data.flops), "work"],
        [`${(data.flops / data.total).toFixed(1)} GFLOP/s`, `of ${data.roofs.gflops.toFixed(0)}`],
        [percent(data.at_roof / data.total), "of the roof"],
      ]
    : [[time(data.predicted), `predicted${sizes && ", " + sizes}`], ["not measured", data.untimed]];
  tiles.push([String(data.steps.length), `steps, ${data.rows.length} kernels`], [data.target, "target"]);
  for (const [value, label] of tiles) {
    const tile = put($("tiles"), "div", { class: "tile" });
    put(tile, "b", {}, value);
    put(tile, "span", {}, label);
  }
}

// ---- one run ----

function drawTimeline() {
  const width = $("timeline").clientWidth || 1200;
  const all = data.steps.reduce((sum, s) => sum + timeOf(s), 0) || 1;
  $("timeline").replaceChildren();
  $("run-note").textContent = data.timed ? "width: median time of the step" : "width: predicted time";
  let x = 0;
  data.steps.forEach((step, k) => {
    const w = (timeOf(step) / all) * width;
    const bar = put($("timeline"), "rect", {
      x, y: 2, width: Math.max(w, 0.8), height: 42, rx: Math.min(3, w / 3), "data-step": k,
      style: `fill: ${colour(rowOf(step))}`,
    });
    put(bar, "title", {}, `${step.name}  ${time(timeOf(step))}\n${step.nodes.map((n) => n[0]).join(", ")}`);
    bar.addEventListener("click", () => select(step.row, k));
    if (w > 46) put($("timeline"), "text", { x: x + 5, y: 20 }, shorten(step.name, Math.floor(w / 7)));
    if (w > 46) put($("timeline"), "text", { x: x + 5, y: 36 }, time(timeOf(step)));
    x += w;
  });
}

function drawLegend() {
  const kinds = new Map();
  for (const r of data.rows) kinds.set(r.kind, (kinds.get(r.kind) ?? 0) + r.ns);
  for (const [kind, ns] of [...kinds].sort((a, b) => b[1] - a[1])) {
    const item = put($("legend"), "span");
    put(item, "i", { style: `background: ${colour({ kind })}` });
    item.append(`${kind}  ${time(ns)}  ${percent(ns / (data.total || 1))}`);
  }
}

// ---- graph ----

const view = { x: 0, y: 0, scale: 1 };
const showView = () => $("scene").setAttribute("transform", `translate(${view.x} ${view.y}) scale(${view.scale})`);

function curve(points) {
  let path = `M${points[0]}`;
  for (let k = 1; k < points.length; k++) {
    const [ax, ay] = points[k - 1], [bx, by] = points[k], middle = (ay + by) / 2;
    path += `C${ax} ${middle} ${bx} ${middle} ${bx} ${by}`;
  }
  return path;
}

function drawGraph() {
  const scene = $("scene"), [w, h] = data.drawing.node;
  for (const e of data.drawing.edges) {
    const line = put(scene, "path", { class: "edge", d: curve(e.points), "data-tensor": e.tensor });
    const t = data.tensors[e.tensor];
    put(line, "title", {}, `${t.name ?? ""} ${t.dtype}[${t.shape}]`);
  }
  const most = Math.max(...data.steps.map(timeOf), 1e-9);
  for (const n of data.drawing.nodes) {
    const g = put(scene, "g", { transform: `translate(${n.x - w / 2} ${n.y})` });
    if (n.step === undefined) drawInterface(g, data.tensors[n.tensor], w, h);
    else drawStep(g, n.step, w, h, most);
  }
}

function drawInterface(g, tensor, w, h) {
  put(g, "rect", { class: "box", width: w, height: h, rx: h / 2 });
  put(g, "text", { class: "name", x: w / 2, y: 19, "text-anchor": "middle" }, shorten(tensor.name ?? "", 26));
  put(g, "text", { class: "soft", x: w / 2, y: 34, "text-anchor": "middle" }, shorten(`${tensor.dtype}[${tensor.shape}]`, 30));
}

function drawStep(g, k, w, h, most) {
  const step = data.steps[k], ns = timeOf(step), fill = `fill: ${colour(rowOf(step))}`;
  g.setAttribute("data-step", k);
  put(g, "rect", { class: "box", width: w, height: h, rx: 6 });
  put(g, "rect", { class: "heat", x: 5, width: (w - 5) * Math.min(1, ns / most), height: h, style: fill });
  put(g, "rect", { width: 5, height: h, rx: 2, style: fill });
  put(g, "text", { class: "name", x: 13, y: 18 }, shorten(step.name, 18));
  put(g, "text", { x: w - 8, y: 18, "text-anchor": "end" }, time(ns));
  put(g, "text", { class: "soft", x: 13, y: 34 }, shorten(rowOf(step)?.ops?.join(" ") ?? "", 20));
  put(g, "text", { class: "soft", x: w - 8, y: 34, "text-anchor": "end" }, rowOf(step)?.roof ? `${percent(rowOf(step).roof.share)} of roof` : "");
  put(g, "title", {}, step.nodes.map((n) => n.join("  ")).join("\n"));
  g.addEventListener("click", () => select(step.row, k));
}

function fit(all) {
  const { clientWidth: w, clientHeight: h } = $("graph"), d = data.drawing;
  const scale = all ? Math.min(w / d.width, h / d.height, 1) : Math.min(1, Math.max(0.8, w / d.width));
  Object.assign(view, { scale, x: (w - d.width * scale) / 2, y: 0 });
  showView();
}

function bringIntoView(k) {
  const n = data.drawing.nodes.find((m) => m.step === k);
  if (!n) return;
  const { clientWidth: w, clientHeight: h } = $("graph");
  const x = n.x * view.scale + view.x, y = n.y * view.scale + view.y;
  if (x > 60 && x < w - 60 && y > 10 && y < h - 60) return;
  Object.assign(view, { x: w / 2 - n.x * view.scale, y: h / 2 - n.y * view.scale });
  showView();
}

function moveGraph() {
  const graph = $("graph");
  let held = null;
  graph.addEventListener("pointerdown", (e) => { held = [e.clientX - view.x, e.clientY - view.y]; });
  graph.addEventListener("pointermove", (e) => {
    if (!held || !e.buttons) return;
    Object.assign(view, { x: e.clientX - held[0], y: e.clientY - held[1] });
    showView();
  });
  graph.addEventListener("pointerup", () => { held = null; });
  graph.addEventListener("wheel", (e) => {
    e.preventDefault();
    const box = graph.getBoundingClientRect(), x = e.clientX - box.left, y = e.clientY - box.top;
    const scale = Math.min(3, Math.max(0.05, view.scale * Math.exp(-e.deltaY / 500)));
    const by = scale / view.scale;
    Object.assign(view, { scale, x: x - (x - view.x) * by, y: y - (y - view.y) * by });
    showView();
  }, { passive: false });
  $("fit").addEventListener("click", () => fit(true));
  $("near").addEventListener("click", () => fit(false));
}

// ---- roofs ----

function drawRoof() {
  const roof = $("roof"), w = roof.clientWidth || 500, h = roof.clientHeight || 440;
  roof.replaceChildren();
  const points = data.rows.map((r, k) => [r, k]).filter(([r]) => r.measured?.gflops && r.measured.bytes);
  if (!data.roofs || !points.length) {
    $("roof-note").textContent = data.timed ? "No kernel here computes with numbers." : `Not measured: ${data.untimed}`;
    return;
  }
  const intensity = (r) => r.measured.flops / r.measured.bytes;
  const xs = points.map(([r]) => intensity(r)), ys = points.map(([r]) => r.measured.gflops);
  const ridge = data.roofs.gflops / Math.min(...data.roofs.levels.map((l) => l.rate));
  const low = [Math.min(...xs) / 2, Math.min(...ys, data.roofs.gflops / 10) / 2];
  const high = [Math.max(...xs, ridge) * 2, data.roofs.gflops * 2];
  const left = 46, bottom = 34, log = Math.log10;
  const X = (v) => left + ((log(v) - log(low[0])) / (log(high[0]) - log(low[0]))) * (w - left - 12);
  const Y = (v) => h - bottom - ((log(v) - log(low[1])) / (log(high[1]) - log(low[1]))) * (h - bottom - 12);
  drawGrid(roof, X, Y, low, high, w, h, left, bottom);
  put(roof, "line", { class: "line main", x1: X(low[0]), x2: X(high[0]), y1: Y(data.roofs.gflops), y2: Y(data.roofs.gflops) });
  put(roof, "text", { x: left + 6, y: Y(data.roofs.gflops) - 6 }, `${data.roofs.gflops.toFixed(0)} GFLOP/s, ${data.roofs.isa}`);
  for (const level of data.roofs.levels) drawSlope(roof, level, X, Y, low);
  const biggest = Math.max(...points.map(([r]) => r.ns));
  for (const [r, k] of points.sort((a, b) => b[0].ns - a[0].ns)) {
    const dot = put(roof, "circle", {
      cx: X(intensity(r)), cy: Y(r.measured.gflops), r: 3 + 15 * Math.sqrt(r.ns / biggest), "data-row": k,
      style: `fill: ${colour(r)}; stroke: ${colour(r)}`,
    });
    put(dot, "title", {}, `${r.name}  ${r.measured.gflops.toFixed(1)} GFLOP/s, ${percent(r.roof?.share)} of the roof`);
    dot.addEventListener("click", () => select(k, null));
  }
  const caches = data.roofs.levels.filter((l) => l.capacity !== null).map((l) => `${l.name} ${l.rate.toFixed(0)}`);
  const rest = data.rows.length - points.length;
  $("roof-note").textContent = `Dashed: the caches, ${caches.join(", ")} GB/s.`
    + (rest ? ` Not shown: ${rest} without arithmetic.` : "");
}

function drawGrid(roof, X, Y, low, high, w, h, left, bottom) {
  const powers = (a, b) => Array.from({ length: 40 }, (_, k) => 10 ** (k - 20)).filter((v) => v >= a && v <= b);
  for (const v of powers(low[0], high[0])) {
    put(roof, "line", { class: "grid", x1: X(v), x2: X(v), y1: 12, y2: h - bottom });
    put(roof, "text", { class: "soft", x: X(v), y: h - bottom + 14, "text-anchor": "middle" }, String(Number(v.toPrecision(1))));
  }
  for (const v of powers(low[1], high[1])) {
    put(roof, "line", { class: "grid", x1: left, x2: w - 12, y1: Y(v), y2: Y(v) });
    put(roof, "text", { class: "soft", x: left - 6, y: Y(v) + 4, "text-anchor": "end" }, String(Number(v.toPrecision(1))));
  }
  put(roof, "text", { class: "soft", x: (w + left) / 2, y: h - 4, "text-anchor": "middle" }, "FLOP for each byte");
  put(roof, "text", { class: "soft", x: 12, y: h / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${h / 2})` }, "GFLOP/s");
}

function drawSlope(roof, level, X, Y, low) {
  const start = Math.max(low[0], low[1] / level.rate), ridge = data.roofs.gflops / level.rate;
  if (ridge <= start) return;
  const memory = level.capacity === null, text = `${level.name} ${level.rate.toFixed(0)} GB/s`;
  const line = put(roof, "line", {
    class: memory ? "line main" : "line", x1: X(start), y1: Y(start * level.rate), x2: X(ridge), y2: Y(data.roofs.gflops),
  });
  put(line, "title", {}, text);
  const at = start * (ridge / start) ** 0.35;
  if (memory) put(roof, "text", { class: "soft", x: X(at) + 10, y: Y(at * level.rate) + 10 }, text);
}

// ---- table ----

const number = (text, value, cell) => ({ text, value, cell, right: true });
const COLUMNS = [
  { text: "kernel", value: (r) => r.name },
  { text: "kind", value: (r) => r.kind },
  { text: "nodes", value: (r) => nodesText(r.nodes) },
  { text: "shape", value: (r) => r.shape ?? "" },
  number("calls", (r) => r.measured?.calls ?? r.calls ?? 0),
  number("time", (r) => r.measured?.ns ?? null, time),
  number("share", (r) => (data.timed ? r.ns / data.total : null), percent),
  number("predicted", (r) => r.predicted_ns, time),
  number("GFLOP/s", (r) => r.measured?.gflops ?? null, (v) => v?.toFixed(1) ?? ""),
  number("GB/s", (r) => r.measured?.gigabytes_per_second ?? null, (v) => v?.toFixed(1) ?? ""),
  number("of roof", (r) => r.roof?.share ?? null, percent),
  { text: "roof", value: (r) => r.roof?.by ?? "" },
  number("could go", (r) => (r.roof ? r.above : null), time),
  number("code", (r) => r.size ?? null, (v) => (v === null ? "" : bytes(v))),
];
const order = { column: data.timed ? 5 : 7, down: true };

function drawTable() {
  const head = document.querySelector("thead"), body = document.querySelector("tbody");
  head.replaceChildren();
  body.replaceChildren();
  const line = put(head, "tr");
  COLUMNS.forEach((c, k) => {
    const th = put(line, "th", c.right ? { class: "number" } : {}, c.text);
    if (k === order.column) th.setAttribute("aria-sort", order.down ? "descending" : "ascending");
    th.addEventListener("click", () => {
      Object.assign(order, { down: k === order.column ? !order.down : Boolean(c.right), column: k });
      drawTable();
    });
  });
  const wanted = $("filter").value.toLowerCase(), value = COLUMNS[order.column].value;
  const text = (r) => `${r.name} ${r.kind} ${nodesText(r.nodes)} ${(r.ops ?? []).join(" ")}`.toLowerCase();
  const compare = ([a], [b]) => {
    const x = value(a), y = value(b);
    const less = typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : (x ?? -1) - (y ?? -1);
    return order.down ? -less : less;
  };
  for (const [r, k] of data.rows.map((r, k) => [r, k]).filter(([r]) => text(r).includes(wanted)).sort(compare)) {
    const row = put(body, "tr", { "data-row": k });
    COLUMNS.forEach((c, n) => {
      const cell = put(row, "td", c.right ? { class: "number" } : {}, (c.cell ?? String)(c.value(r)));
      if (n === 2) cell.title = cell.textContent;
      if (n === 0) cell.prepend(Object.assign(document.createElement("span"), { className: "dot", style: `background: ${colour(r)}` }));
    });
    row.addEventListener("click", () => select(k, data.steps.findIndex((s) => s.row === k)));
  }
  mark();
}

// ---- selection ----

function select(row, step) {
  Object.assign(selected, { row: row ?? null, step: step ?? null });
  if (step !== null && step >= 0) bringIntoView(step);
  mark();
  drawDetail();
}

function mark() {
  const step = data.steps[selected.step];
  for (const e of document.querySelectorAll("[data-step]")) {
    const k = Number(e.dataset.step);
    e.classList.toggle("selected", step ? k === selected.step : selected.row !== null && data.steps[k].row === selected.row);
  }
  for (const e of document.querySelectorAll("[data-row]"))
    e.classList.toggle("selected", Number(e.dataset.row) === selected.row);
  const touched = new Set(step ? [...step.reads, ...step.writes] : []);
  for (const e of document.querySelectorAll(".edge")) e.classList.toggle("touched", touched.has(Number(e.dataset.tensor)));
}

function drawDetail() {
  const detail = $("detail"), row = data.rows[selected.row], step = data.steps[selected.step];
  detail.replaceChildren();
  if (!row && !step) return void put(detail, "em", {}, "Click a step, a dot or a line of the table.");
  put(detail, "h3", {}, (row ?? step).name);
  if (row?.roof) {
    const bar = put(detail, "div", { class: "bar", title: "share of the roof" });
    put(bar, "i", { style: `width: ${Math.min(100, 100 * row.roof.share)}%; background: ${colour(row)}` });
  }
  const list = put(detail, "dl");
  const say = (term, ...texts) => {
    const shown = texts.filter((t) => t !== "" && t !== null && t !== undefined);
    if (shown.length) put(list, "dt", {}, term);
    for (const text of shown) put(list, "dd", { style: "grid-column: 2" }, text);
  };
  const names = step ? step.nodes.map(([name, operator]) => ({ name, operator })) : row.nodes;
  say("nodes", ...names.slice(0, 40).map((n) => nodesText([n])), names.length > 40 ? `… ${names.length} in all` : "");
  if (row) detailOfRow(row, say);
  if (step) {
    say("this step", `${time(timeOf(step))}${data.timed ? "" : " predicted"}`);
    const tensor = (k) => `${data.tensors[k].name ?? data.tensors[k].kind}: ${data.tensors[k].dtype}[${data.tensors[k].shape}]`;
    say("reads", ...step.reads.map(tensor));
    say("writes", ...step.writes.map(tensor));
    say("inside", ...(step.body ?? []).map((b) => `${b.name}  ${b.nodes.map((n) => n[0]).join(", ")}`));
  }
  if (row?.schedule) put(list, "pre", {}, row.schedule);
}

function detailOfRow(row, say) {
  const m = row.measured;
  say("kind", row.kind);
  say("ops", (row.ops ?? []).join(" · "));
  say("why", ...row.why);
  say("shape", row.shape);
  say("algorithm", row.algorithm);
  if (m) {
    say("measured", `${time(m.ns)} for ${m.calls} call${m.calls === 1 ? "" : "s"}, ${percent(m.ns / data.total)} of the run`);
    say("rate", m.gflops ? `${m.gflops.toFixed(1)} GFLOP/s` : "", m.gigabytes_per_second ? `${m.gigabytes_per_second.toFixed(1)} GB/s` : "");
  }
  if (row.predicted_ns !== null) say("predicted", time(row.predicted_ns));
  if (row.roof) say("roof", `${percent(row.roof.share)} of what ${row.roof.by} allows: ${time(row.roof.ns)}`);
  say("work", row.flops && `${row.flops} FLOP a call`, row.bytes && `${row.bytes} bytes a call`);
  if (row.size !== undefined) say("code", bytes(row.size));
}

document.addEventListener("keydown", (e) => {
  if (e.target.tagName === "INPUT" || !["ArrowLeft", "ArrowRight"].includes(e.key) || !data.steps.length) return;
  const next = (selected.step ?? -1) + (e.key === "ArrowRight" ? 1 : -1);
  const k = Math.min(data.steps.length - 1, Math.max(0, next));
  select(data.steps[k].row, k);
});
$("theme").addEventListener("click", () => {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = (root.dataset.theme ?? (dark ? "dark" : "light")) === "dark" ? "light" : "dark";
});
$("filter").addEventListener("input", drawTable);
addEventListener("resize", () => { drawTimeline(); drawRoof(); mark(); });

drawHead();
drawTimeline();
drawLegend();
drawGraph();
moveGraph();
fit(false);
drawRoof();
drawTable();
// What matters most is open at first.
const first = data.rows.reduce((best, r, k) => (best < 0 || r.ns > data.rows[best].ns ? k : best), -1);
if (first >= 0) select(first, data.steps.findIndex((s) => s.row === first));
drawDetail();
