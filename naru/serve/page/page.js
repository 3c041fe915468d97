// Puts the page together: the list of models, the one that is looked at, the plots, the door.
import { find, make } from "./dom.js";
import { describe, showModel, showProblem } from "./model.js";
import { group, ModelList } from "./models.js";
import { Plots } from "./plots.js";
import { door, json, modelPath, token } from "./server.js";

const SECOND = 1000;
const INDEX_EVERY = 5 * SECOND;
const SHARE = 9; // pauses are so many times as long as what they follow took, so that the page is no load

const list = new ModelList((name) => goTo(name, ""));
const plots = new Plots(find("plots"));
let chosen = null; // {name, version}
let looks = 0; // at models; a later one makes an earlier one's answer void

// ---- which model ----

const goTo = (name, version) => (location.hash = `#/${[name, version].filter(Boolean).map(encodeURIComponent).join("/")}`);

function fromHash() {
  try {
    const [name, version = ""] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
    return name ? { name, version } : null;
  } catch {
    return null; // somebody wrote a % that stands for nothing
  }
}

async function look() {
  const number = ++looks;
  const before = chosen;
  chosen = fromHash();
  list.setChosen(chosen?.name ?? null);
  plots.clear();
  find("plots").setAttribute("aria-label", chosen ? `Load of ${chosen.name}` : "Load of the server");
  if (!chosen) return find("model").replaceChildren(make("p", { class: "card soft" }, "Choose a model to see what it takes and gives, and to try it."));
  const { name, version } = chosen;
  const place = find("model");
  const choose = (other) => goTo(name, other);
  try {
    place.ariaBusy = "true"; // to load it may take a while
    const model = await describe(name, version);
    if (number === looks) showModel(place, model, versionsOf(name), choose);
  } catch (error) {
    const text = error.status ? `${error.status}: ${error.message}` : error.message;
    if (number === looks) showProblem(place, name, version, versionsOf(name), choose, text);
  } finally {
    if (number === looks) place.ariaBusy = "false";
  }
  if (number === looks && before) place.querySelector("h2").focus({ preventScroll: true });
  return refreshIndex(); // what was not loaded is now
}

const versionsOf = (name) => list.models.find((m) => m.name === name)?.versions ?? [];

// ---- what changes by itself ----

async function refreshIndex() {
  list.setModels(group(await json("v2/repository/index", { method: "POST" })));
  if (chosen) list.setLoad((await json("v2/models/stats")).model_stats);
}

async function refreshPlots() {
  const before = chosen;
  if (chosen && !versionsOf(chosen.name).length) return; // there is no such model
  const path = chosen ? `${modelPath(chosen.name, chosen.version)}/stats` : "v2/models/stats";
  const { model_stats: stats } = await json(path);
  if (before !== chosen) return;
  plots.add(stats);
  if (!chosen) list.setLoad(stats);
}

// Does something again and again while the page is seen; `every` in milliseconds.
async function repeat(action, every) {
  for (;;) {
    const begin = performance.now();
    try {
      if (find("door").hidden) await action();
      tell();
    } catch (error) {
      tell(error);
    }
    const took = performance.now() - begin;
    await new Promise((resolve) => setTimeout(resolve, Math.max(every - took, SHARE * took)));
    if (document.hidden) await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
  }
}

document.addEventListener("visibilitychange", () => document.hidden && plots.pause());

// ---- the server, and its door ----

let about = "";

// In the head of the page: that the server answers, or why not.
function tell(error) {
  const isDown = error?.status === 0;
  const text = isDown ? error.message : about;
  const place = find("server");
  if (place.textContent !== text) place.textContent = text;
  place.classList.toggle("down", isDown);
}

door.addEventListener("closed", ({ detail }) => {
  find("door").hidden = false;
  find("door-note").textContent = detail;
});

find("door").addEventListener("submit", async (event) => {
  event.preventDefault();
  token.set(find("token").value.trim());
  find("door").hidden = true;
  await start();
});

async function start() {
  try {
    const { name, version } = await json("v2");
    about = `${name} ${version} · ${location.host}`;
    tell();
    await refreshIndex();
  } catch (error) {
    tell(error);
    if (error.status !== 401) find("model").replaceChildren(make("p", { class: "card error", role: "alert" }, error.message));
    return;
  }
  if (!fromHash() && list.models.length === 1) history.replaceState(null, "", `#/${encodeURIComponent(list.models[0].name)}`);
  await look();
}

// A file that misses its place must not take the place of the page.
for (const name of ["dragover", "drop"])
  addEventListener(name, (event) => event.dataTransfer.types.includes("Files") && event.preventDefault());

addEventListener("hashchange", look);
await start();
repeat(refreshPlots, SECOND);
repeat(refreshIndex, INDEX_EVERY);
