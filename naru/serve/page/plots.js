// What the server does, second by second, from the differences of its statistics.
import { draw, make, numberText, timeText } from "./dom.js";

const SECONDS = 60; // that are seen
const WIDTH = 300;
const HEIGHT = 72;
const TOP = 6; // room above the highest line

// The sums that differences are taken of.
export function total(stats) {
  const sum = { at: performance.now(), success: 0, fail: 0, queue: 0, compute: 0, waiting: 0 };
  for (const s of stats) {
    const parts = s.inference_stats;
    sum.success += parts.success.count;
    sum.fail += parts.fail.count;
    sum.queue += parts.queue.ns;
    sum.compute += parts.compute_input.ns + parts.compute_infer.ns + parts.compute_output.ns;
    sum.waiting += s.queue_size;
  }
  return sum;
}

// What lies between two sums; null where the later is smaller: the server has begun anew.
export function between(before, after) {
  const seconds = (after.at - before.at) / 1000;
  const answered = after.success - before.success;
  const failed = after.fail - before.fail;
  if (answered < 0 || failed < 0 || seconds <= 0) return null;
  return {
    at: after.at,
    answered: answered / seconds,
    failed: failed / seconds,
    queue: answered ? (after.queue - before.queue) / answered / 1e6 : null,
    compute: answered ? (after.compute - before.compute) / answered / 1e6 : null,
    waiting: after.waiting,
  };
}

const perSecond = (x) => `${numberText(Number(x.toPrecision(3)))}/s`;

const PLOTS = [
  { title: "Requests", text: perSecond, lines: [["answered", "main"], ["failed", "other"]], least: 1 },
  { title: "Latency", text: timeText, lines: [["compute", "main"], ["queue", "other"]], least: 0.01 },
  { title: "Queue", text: (x) => String(Math.round(x)), lines: [["waiting", "main"]], least: 1 },
];

export class Plots {
  constructor(place) {
    this.samples = [];
    this.before = null;
    this.parts = PLOTS.map((plot) => this.part(plot));
    place.replaceChildren(...this.parts.map((p) => p.element));
    this.show();
  }

  part(plot) {
    const values = plot.lines.map(([key, look]) => ({ key, look, value: make("b"), line: draw("path", { class: `line ${look}` }), area: draw("path", { class: `area ${look}` }) }));
    const most = make("span", { class: "most" });
    const picture = draw(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
      ...[0.25, 0.5, 0.75].map((part) => draw("line", { class: "grid", x1: 0, x2: WIDTH, y1: HEIGHT * part, y2: HEIGHT * part })),
      ...values.flatMap((v) => [v.area, v.line]),
    );
    const keys = values.map((v) => make("span", { class: `key ${v.look}` }, v.value, ` ${v.key}`));
    const element = make("div", { class: "plot card" }, make("h2", {}, plot.title, most), make("p", {}, ...keys), picture);
    return { ...plot, values, most, element };
  }

  // The statistics as they are now: one more point.
  add(stats) {
    const sum = total(stats);
    const sample = this.before && between(this.before, sum);
    this.before = sum;
    if (sample) this.samples.push(sample);
    while (this.samples.length && sum.at - this.samples[0].at > SECONDS * 1000) this.samples.shift();
    this.show();
  }

  // What comes next does not follow on what was: the page was hidden, or another model is looked at.
  pause() {
    this.before = null;
    if (this.samples.length) this.samples.push({ at: performance.now() });
  }

  clear() {
    this.before = null;
    this.samples = [];
    this.show();
  }

  show() {
    const last = this.samples.at(-1);
    for (const { values, most, text, least } of this.parts) {
      const seen = this.samples.flatMap((s) => values.map((v) => s[v.key] ?? 0));
      const top = Math.max(least, ...seen);
      most.textContent = `most ${text(top)}`;
      most.hidden = !seen.some(Boolean);
      for (const { key, value, line, area } of values) {
        value.textContent = typeof last?.[key] === "number" ? text(last[key]) : "–";
        const runs = this.runs(key, top);
        line.setAttribute("d", runs.map((r) => `M${r.map((p) => p.join(" ")).join("L")}`).join(""));
        area.setAttribute("d", runs.map((r) => `M${r[0][0]} ${HEIGHT}L${r.map((p) => p.join(" ")).join("L")}L${r.at(-1)[0]} ${HEIGHT}Z`).join(""));
      }
    }
  }

  // The points of a line, in pieces where values are missing.
  runs(key, top) {
    const now = this.samples.at(-1)?.at ?? 0;
    const runs = [[]];
    for (const s of this.samples) {
      if (typeof s[key] !== "number") runs.push([]);
      else {
        const x = WIDTH * (1 - (now - s.at) / (SECONDS * 1000));
        const y = HEIGHT - 1 - ((HEIGHT - TOP - 1) * s[key]) / top;
        runs.at(-1).push([x.toFixed(1), y.toFixed(1)]);
      }
    }
    return runs.filter((r) => r.length).map((r) => (r.length > 1 ? r : [r[0], r[0]])); // one point is a dot
  }
}
