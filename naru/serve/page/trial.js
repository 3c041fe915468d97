// One place where a model is tried: sends what a form made, shows the answer, the time that it took,
// and the line of curl that does the same.
import { asStream, countRows, MEDIA } from "./arrow.js";
import { outputsOf, showOutputs } from "./answer.js";
import { button, bytesText, count, make, save, timeText } from "./dom.js";
import { ask, curl, modelPath } from "./server.js";

const LONG = 20_000; // characters of a body that a line of curl still holds

// Whole numbers that JavaScript's are too coarse for stay the texts that they are, where the browser
// gives these.
const exact = (_, value, context) => (Number.isInteger(value) && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source ?? "") ? context.source : value);

export class Trial {
  constructor(model) {
    this.model = model;
    this.path = `${modelPath(model.name, model.version)}/infer`;
    this.sent = this.answered = 0;
    this.status = make("p", { class: "status" });
    this.said = make("p", { class: "unseen", role: "status" });
    this.error = make("p", { class: "error", role: "alert", hidden: true });
    this.outputs = make("div", { class: "outputs" });
    this.line = make("div", { class: "curl" });
    this.element = make("section", { class: "answer", "aria-label": "Answer" }, make("h2", {}, "Answer"), this.status, this.said, this.error, this.outputs, this.line);
    this.status.textContent = "No answer yet.";
  }

  // Sends {body, media, file}: `media` where it is not JSON, `file` what the body is called in the
  // line of curl. `quiet`: more like it follow, so it is not read out. True where an answer came.
  async send(request, quiet = false) {
    const number = ++this.sent;
    const begin = performance.now();
    if (!quiet) this.status.textContent = "Asking…";
    try {
      const headers = request.media ? { "Content-Type": request.media } : {};
      const response = await ask(this.path, { method: "POST", body: request.body, headers });
      const bytes = new Uint8Array(await response.arrayBuffer());
      if (number > this.answered) this.show(bytes, request, performance.now() - begin, quiet);
      return true;
    } catch (error) {
      if (number > this.answered) this.refuse(error.status ? `${error.status}: ${error.message}` : error.message);
      return false;
    } finally {
      if (number > this.answered) {
        this.answered = number;
        this.showCurl(request);
      }
    }
  }

  // Says why there is no answer.
  refuse(text) {
    this.error.textContent = text;
    this.error.hidden = false;
    this.status.textContent = "No answer.";
    this.outputs.replaceChildren();
  }

  // What is still on its way is no longer wanted.
  clear() {
    this.answered = this.sent;
    this.error.hidden = true;
    this.status.textContent = "No answer yet.";
    this.outputs.replaceChildren();
    this.line.replaceChildren();
  }

  show(bytes, request, took, quiet) {
    const parts = request.media === MEDIA ? this.showArrow(bytes) : this.showJson(bytes);
    this.error.hidden = true;
    this.status.replaceChildren(make("b", { class: "took" }, timeText(took)), ` there and back · ${parts.join(" · ")}`);
    if (!quiet) this.said.textContent = `Answered in ${timeText(took)}. ${this.outputs.querySelector(".first .class")?.textContent ?? ""}`;
  }

  showJson(bytes) {
    const text = new TextDecoder().decode(bytes);
    const answer = JSON.parse(text, exact);
    const outputs = outputsOf(answer);
    this.outputs.replaceChildren(...showOutputs(outputs, this.model));
    const shown = make("pre", {}, text.length > LONG ? `${text.slice(0, LONG)}…` : text);
    const keep = button("Save answer.json", () => save(bytes, "answer.json", "application/json"), { class: "link" });
    const raw = make("details", {}, make("summary", {}, "Answer in JSON"), shown, keep);
    this.outputs.append(raw);
    return [`version ${answer.model_version}`, bytesText(bytes.length)];
  }

  showArrow(bytes) {
    const keep = button("Save answer.arrows", () => save(bytes, "answer.arrows", MEDIA));
    this.outputs.replaceChildren(make("p", {}, keep));
    return [count(countRows(asStream(bytes)), "row"), count(bytes.length, "byte")];
  }

  showCurl(request) {
    const long = !request.file && request.body.length > LONG;
    const file = request.file ?? (long ? "request.json" : undefined);
    const into = request.media === MEDIA ? "answer.arrows" : undefined;
    const text = curl(this.path, { ...request, file, into });
    const copy = button("Copy", async () => {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
    });
    const parts = [make("code", { tabindex: "0" }, text)];
    // Browsers have a clipboard only for pages that came by https or from this machine.
    if (navigator.clipboard) parts.push(copy);
    if (long) parts.push(button("Save request.json", () => save(request.body, "request.json", "application/json")));
    this.line.replaceChildren(make("h3", {}, "The same from a shell"), ...parts);
  }
}
