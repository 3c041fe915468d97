// Part of a package's script (see web.py): the weights as they arrive, checked.

// ---- checksums: CRC32C over the CRC32Cs of 1 MiB chunks ----

const CHUNK = 1 << 20;
let table; // eight times 256 entries

function makeTable() {
  const made = new Int32Array(2048);
  for (let k = 0; k < 256; k++) {
    let crc = k;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
    made[k] = crc;
  }
  for (let k = 256; k < 2048; k++) made[k] = (made[k - 256] >>> 8) ^ made[made[k - 256] & 255];
  return made;
}

function crc32c(bytes, start = 0) {
  const t = (table ??= makeTable());
  let crc = ~start;
  let at = 0;
  if (bytes.byteOffset % 4 === 0) {
    const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2);
    for (let k = 0; k + 1 < words.length; k += 2, at += 8) {
      const a = crc ^ words[k];
      const b = words[k + 1];
      crc =
        t[1792 + (a & 255)] ^
        t[1536 + ((a >>> 8) & 255)] ^
        t[1280 + ((a >>> 16) & 255)] ^
        t[1024 + (a >>> 24)] ^
        t[768 + (b & 255)] ^
        t[512 + ((b >>> 8) & 255)] ^
        t[256 + ((b >>> 16) & 255)] ^
        t[b >>> 24];
    }
  }
  for (; at < bytes.length; at++) crc = (crc >>> 8) ^ t[(crc ^ bytes[at]) & 255];
  return ~crc >>> 0;
}

// ---- weights ----

/** Writes the file of weights to `at` in memory, checked. Throws before anything wrong is used. */
async function receive(response, memory, at, weights, onProgress, signal) {
  const total = HEADER + weights.size;
  const all = new Uint8Array(memory.buffer, at, total);
  const wrong = (text) => new NaruError("weights", `the file of weights ${text}`);
  const reader = response.body.getReader();
  signal.addEventListener("abort", () => reader.cancel().catch(() => {}));
  let loaded = 0;
  let done = HEADER; // up to where the digest goes
  let digest = 0;
  const fold = (end) => {
    digest = crc32c(new Uint8Array(Uint32Array.of(crc32c(all.subarray(done, end))).buffer), digest);
    done = end;
  };
  try {
    for (let part; (part = (await reader.read()).value);) {
      all.set(part.subarray(0, total - loaded), loaded);
      if (loaded < HEADER && loaded + part.length >= HEADER) checkHeader(all, weights, wrong);
      if ((loaded += part.length) > total)
        throw wrong(`is longer than the ${total} bytes of this model's`);
      while (loaded - done >= CHUNK) fold(done + CHUNK);
      onProgress({ loaded, total });
    }
  } finally {
    reader.cancel().catch(() => {}); // no download goes on for nobody
  }
  if (loaded < total) throw wrong(`ends after ${loaded} of ${total} bytes`);
  if (done < total) fold(total);
  if (digest !== weights.digest) throw wrong("is damaged: it does not match its checksum");
}

function checkHeader(all, weights, wrong) {
  const text = (from, to) => String.fromCharCode(...all.subarray(from, to));
  if (text(0, 8) !== "NARUWTS1")
    throw wrong(`is none: it begins with ${JSON.stringify(text(0, 16))}`);
  const found = [...all.subarray(24, 56)].map((b) => b.toString(16).padStart(2, "0")).join("");
  if (found !== weights.sha256)
    throw wrong("belongs to another model, or another build of this one");
}

async function openCache() {
  try {
    return await globalThis.caches?.open("naru");
  } catch {
    return undefined; // forbidden here
  }
}

// Begun while the module compiles.
async function findWeights(source, weights, cache, signal) {
  const url = isGiven(source) ? {} : await guard(source, () => toURL(source));
  const store = cache && /^http/.test(url.protocol) ? await openCache() : undefined;
  const key = `${url.origin}${url.pathname}?naru=${weights.sha256}`;
  const hit = await store?.match(key).catch(() => {});
  return { store, key, hit, response: hit ?? (await open(source, signal)) };
}

async function getWeights({ store, key, hit, response }, again, memory, at, weights, ...rest) {
  const get = (from) => guard("the weights", () => receive(from, memory, at, weights, ...rest));
  try {
    await get(response);
  } catch (error) {
    if (error.code !== "weights" || !again) throw error;
    await store?.delete(key); // damaged, or what a cache kept of an earlier build
    await get(await again());
    hit = undefined;
  }
  if (store && !hit)
    keep(store, key, new Uint8Array(memory.buffer, at, HEADER + weights.size).slice()).catch(
      () => {},
    );
}

// In place of what an earlier build kept; where there is no room, nothing is kept.
async function keep(store, key, bytes) {
  for (const old of await store.keys())
    if (old.url.startsWith(key.split("?")[0] + "?")) await store.delete(old);
  await store.put(key, new Response(bytes));
}
