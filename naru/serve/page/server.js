// Asks the server that the page came from, and nobody else.

const KEY = "naru-token";

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
};

// An answer that is none: its status (0: no answer at all) and what the server says.
export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// Told when a token is missing or wrong, with what the server says.
export const door = new EventTarget();

// The answer to a request. Throws a ServerError.
export async function ask(path, { method = "GET", body, headers = {} } = {}) {
  const all = { ...headers };
  if (token.get()) all.Authorization = `Bearer ${token.get()}`;
  let response;
  try {
    response = await fetch(path, { method, body, headers: all, cache: "no-store", credentials: "same-origin" });
  } catch {
    throw new ServerError(0, "The server does not answer.");
  }
  if (response.ok) return response;
  const error = new ServerError(response.status, await message(response));
  if (response.status === 401) door.dispatchEvent(new CustomEvent("closed", { detail: error.message }));
  throw error;
}

async function message(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error ?? text;
  } catch {
    return text || response.statusText;
  }
}

export const json = async (path, options) => (await ask(path, options)).json();

export function modelPath(name, version = "") {
  const path = `v2/models/${encodeURIComponent(name)}`;
  return version ? `${path}/versions/${encodeURIComponent(version)}` : path;
}

const quote = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

// The line for a shell that asks the same; `file`: where the body lies, which else stands in it.
export function curl(path, { body, media, file, into }) {
  const parts = ["curl"];
  if (token.get()) parts.push('-H "Authorization: Bearer $TOKEN"');
  if (media) parts.push(`-H ${quote(`Content-Type: ${media}`)}`);
  parts.push(file ? `--data-binary ${quote(`@${file}`)}` : `-d ${quote(body)}`);
  if (into) parts.push(`-o ${quote(into)}`);
  return [...parts, quote(new URL(path, document.baseURI).href)].join(" ");
}
