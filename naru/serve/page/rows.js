// Tables as text: CSV in, the JSON of rows out, CSV out. Numbers stay the texts that they are, so
// that long ones lose no digits.

const NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;

// Lines of cells (RFC 4180; the separator is the one of , ; and tab that the first line has most of).
export function parseCsv(text) {
  text = text.replace(/^\ufeff/, "");
  const separator = separatorOf(text);
  const lines = [];
  let line = [];
  let cell = "";
  let quoted = false;
  const endCell = () => {
    line.push(cell);
    cell = "";
  };
  const endLine = () => {
    endCell();
    if (line.length > 1 || line[0] !== "") lines.push(line);
    line = [];
  };
  for (let k = 0; k < text.length; k++) {
    const c = text[k];
    if (quoted) {
      if (c !== '"') cell += c;
      else if (text[k + 1] === '"') cell += text[++k];
      else quoted = false;
    } else if (c === '"' && cell === "") quoted = true;
    else if (c === separator) endCell();
    else if (c === "\n") endLine();
    else if (c !== "\r") cell += c;
  }
  endLine();
  return lines;
}

function separatorOf(text) {
  const first = text.slice(0, Math.max(0, text.indexOf("\n")) || undefined);
  const times = (c) => first.split(c).length;
  return [",", ";", "\t"].reduce((best, c) => (times(c) > times(best) ? c : best));
}

const isNumber = (text) => text.trim() !== "" && !Number.isNaN(Number(text));
const isMissing = (text) => ["", "nan", "na", "null", "none"].includes(text.trim().toLowerCase());

// The rows of lines in the order of the columns [{name, datatype}], and whether the first line was
// their names. Throws an Error where names are there and one is missing.
export function toRows(lines, columns, named) {
  const [first] = lines;
  if (!first) return { rows: [], header: false };
  const names = first.map((n) => n.trim());
  const known = columns.every((c) => names.includes(c.name));
  const odd = first.some((cell, k) => columns[k] && columns[k].datatype !== "BYTES" && !isNumber(cell) && !isMissing(cell) && !/^(true|false|[+-]?inf(inity)?)$/i.test(cell.trim()));
  if (!known && !odd) return { rows: lines, header: false };
  const body = lines.slice(1);
  if (!named) return { rows: body, header: true };
  const missing = columns.filter((c) => !names.includes(c.name)).map((c) => c.name);
  if (missing.length) throw new Error(`Column ${missing.join(", ")} is missing; the table has ${names.join(", ")}.`);
  const places = columns.map((c) => names.indexOf(c.name));
  return { rows: body.map((line) => places.map((k) => line[k] ?? "")), header: true };
}

// A cell as JSON for a datatype. What does not fit goes to the server as a text, which says so.
export function cellJson(text, datatype) {
  if (datatype === "BYTES") return JSON.stringify(text);
  const trimmed = text.trim();
  if (datatype === "BOOL") {
    if (/^(true|1)$/i.test(trimmed)) return "true";
    if (/^(false|0)$/i.test(trimmed)) return "false";
  }
  if (NUMBER.test(trimmed)) return trimmed;
  const float = /^(FP|BF)/.test(datatype);
  if (isMissing(trimmed)) return float ? "NaN" : "null";
  if (float && /^[+-]?inf(inity)?$/i.test(trimmed)) return trimmed.startsWith("-") ? "-Infinity" : "Infinity";
  return isNumber(trimmed) ? String(Number(trimmed)) : JSON.stringify(text);
}

// The body of a request: a list of lists for one matrix, of objects for columns that are inputs.
export function rowsJson(rows, columns, matrix) {
  const last = columns.at(-1);
  const line = matrix
    ? (row) => `[${row.map((cell, k) => cellJson(cell, (columns[k] ?? last).datatype)).join(",")}]`
    : (row) => `{${columns.map((c, k) => `${JSON.stringify(c.name)}:${cellJson(row[k] ?? "", c.datatype)}`).join(",")}}`;
  return `[${rows.map(line).join(",")}]`;
}

const csvCell = (value) => {
  const text = value === null || value === undefined ? "" : String(value);
  return /[",;\n\r\t]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};

export const toCsv = (names, rows) => [names, ...rows].map((r) => r.map(csvCell).join(",")).join("\n") + "\n";
