// node node.mjs FOLDER: measures the package in a folder; writes result.json there.
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import * as ort from "onnxruntime-web";
import { measure } from "./rounds.mjs";

const folder = process.argv[2];
const get = async (file) => new Uint8Array(await readFile(join(folder, file))).slice();
const work = JSON.parse(await readFile(join(folder, "work.json"), "utf8"));
const naru = await import(pathToFileURL(join(folder, "m.js")));
const found = await measure(work, naru, ort, get);
const versions = { node: process.version, v8: process.versions.v8 };
await writeFile(join(folder, "result.json"), JSON.stringify({ ...found, versions }));
process.exit(0);
