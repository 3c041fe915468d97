// The model that is looked at: what it takes and gives, and forms to try it.
import { count, make, shapeText } from "./dom.js";
import { formsOf } from "./forms.js";
import { json, modelPath } from "./server.js";
import { Trial } from "./trial.js";

// What the server says of a model, for the forms: its inputs and outputs with the names of open dims,
// the sizes that these may have, columns of tables and labels of classes. Throws a ServerError.
export async function describe(name, version) {
  const path = modelPath(name, version);
  const metadata = await json(path); // first, as it may load the model
  const config = await json(`${path}/config`);
  const facts = (key) => JSON.parse(config.parameters[key]?.string_value ?? "{}");
  const dims = facts("dims");
  const optional = new Set(config.input.filter((i) => i.optional).map((i) => i.name));
  const tensor = (t) => ({ ...t, dims: dims[t.name] ?? t.shape, optional: optional.has(t.name) });
  const inputs = metadata.inputs.map(tensor);
  return {
    name, version, config, inputs, required: inputs.filter((i) => !i.optional), outputs: metadata.outputs.map(tensor),
    sizes: facts("sizes"), columns: facts("columns"), labels: facts("labels"),
  };
}

// The page's part for a model; `versions`: [{version, state, reason}], `choose(version)`.
export function showModel(place, model, versions, choose) {
  const trial = new Trial(model);
  place.replaceChildren(
    head(model, versions, choose),
    make("div", { class: "two" }, make("div", { class: "card" }, make("h2", {}, "Try it"), tabs(formsOf(model), model, trial)), make("div", { class: "card" }, trial.element)),
    make("div", { class: "two" }, signature(model), configuration(model)),
  );
}

// The same where the server does not give it: why.
export function showProblem(place, name, version, versions, choose, text) {
  place.replaceChildren(head({ name, version }, versions, choose, ""), make("p", { class: "card error", role: "alert" }, text));
}

function head({ name, version }, versions, choose, state = stateText(version, versions)) {
  const select = make("select", { "aria-label": "Version", change: () => choose(select.value) });
  const latest = versions.at(-1)?.version;
  select.append(make("option", { value: "" }, `latest${latest ? `: ${latest}` : ""}`));
  for (const v of versions) if (v.version) select.append(make("option", { value: v.version }, v.version));
  select.value = version;
  return make("div", { class: "head" }, make("h2", { tabindex: "-1" }, name), make("label", {}, "Version ", select), make("p", { class: "soft" }, state));
}

function stateText(version, versions) {
  const { state, reason } = versions.find((v) => v.version === version) ?? versions.at(-1) ?? { state: "" };
  // That it was not loaded is no longer true: to ask what it takes has loaded it.
  return [state.toLowerCase(), reason?.startsWith("not loaded") ? "" : reason].filter(Boolean).join(": ");
}

// ---- tabs ----

function tabs(forms, model, trial) {
  const panel = make("div", { role: "tabpanel", id: "form", "aria-labelledby": "tab-0" });
  const made = new Map();
  const open = (k) => {
    list.forEach((tab, j) => {
      tab.setAttribute("aria-selected", String(j === k));
      tab.tabIndex = j === k ? 0 : -1;
    });
    if (!made.has(k)) made.set(k, forms[k].make(model, trial));
    panel.replaceChildren(made.get(k));
    panel.setAttribute("aria-labelledby", `tab-${k}`);
  };
  const key = (event, k) => {
    const to = { ArrowRight: k + 1, ArrowLeft: k - 1, Home: 0, End: forms.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = (to + forms.length) % forms.length;
    open(next);
    list[next].focus();
  };
  const list = forms.map(({ title }, k) =>
    make("button", { type: "button", role: "tab", id: `tab-${k}`, "aria-controls": "form", click: () => open(k), keydown: (event) => key(event, k) }, title),
  );
  open(0);
  return make("div", {}, make("div", { role: "tablist", "aria-label": "Ways to try the model", hidden: forms.length < 2 }, ...list), panel);
}

// ---- what it is ----

function signature(model) {
  const row = (kind) => (t) =>
    make("tr", {}, make("td", {}, kind + (t.optional ? ", optional" : "")), make("th", { scope: "row" }, t.name), make("td", {}, t.datatype), make("td", { class: "code" }, shapeText(t.dims)));
  const head = make("tr", {}, ...["", "name", "datatype", "shape"].map((text) => make("th", { scope: "col" }, text)));
  return make(
    "div", { class: "card" }, make("h2", {}, "Signature"),
    make("div", { class: "scroll" }, make("table", { id: "signature" }, make("thead", {}, head), make("tbody", {}, ...model.inputs.map(row("input")), ...model.outputs.map(row("output"))))),
  );
}

function configuration({ config }) {
  const most = config.max_batch_size;
  const delay = config.dynamic_batching?.max_queue_delay_microseconds;
  const batching = most ? `Requests are put together, to ${count(most, "row")} at most${delay ? `, waiting up to ${delay} µs` : ""}.` : "Each request runs by itself.";
  const workers = config.instance_group.reduce((sum, g) => sum + g.count, 0);
  return make(
    "div", { class: "card" }, make("h2", {}, "Configuration"),
    make("p", { id: "batching" }, `${batching} Up to ${count(workers, "run")} at once.`),
    make("details", {}, make("summary", {}, "All of it, in Triton's words"), make("pre", {}, JSON.stringify(config, null, 2))),
  );
}
