// As much of Arrow's IPC format as a page needs that hands streams on: where a stream lies in a file,
// and how many rows one has.

export const MEDIA = "application/vnd.apache.arrow.stream";
const MAGIC = "ARROW1";
const RECORD_BATCH = 3; // of the union MessageHeader

// The stream of a file: a file is one with eight bytes before it and an index behind it, which
// readers of streams leave alone.
export function asStream(bytes) {
  const head = String.fromCharCode(...bytes.subarray(0, MAGIC.length));
  return head === MAGIC ? bytes.subarray(8) : bytes;
}

// The rows of a stream's record batches. Throws an Error for what is no stream, or is cut off.
export function countRows(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let rows = 0;
  for (let at = 0; at < bytes.length; ) {
    if (view.getUint32(at, true) === 0xffffffff) at += 4;
    const size = view.getInt32(at, true);
    if (size === 0) return rows; // the mark of the end
    const message = table(view, at + 4 + view.getUint32(at + 4, true));
    if (message.byte(1) === RECORD_BATCH) rows += message.inner(2).long(0);
    at += 4 + size + message.long(3);
  }
  throw new Error("the stream is cut off");
}

// A table of FlatBuffers: its fields by number, 0 for those that are not there.
function table(view, at) {
  const fields = at - view.getInt32(at, true);
  const place = (k) => {
    const offset = 4 + 2 * k < view.getUint16(fields, true) ? view.getUint16(fields + 4 + 2 * k, true) : 0;
    return offset ? at + offset : 0;
  };
  return {
    byte: (k) => (place(k) ? view.getUint8(place(k)) : 0),
    long: (k) => (place(k) ? Number(view.getBigInt64(place(k), true)) : 0),
    inner: (k) => table(view, place(k) + view.getUint32(place(k), true)),
  };
}
