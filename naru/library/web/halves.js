// Part of a package's script (see web.py) where a model has floats in 16 bits, which are given and
// kept as those bits.

const single = new Float32Array(1);
const bits = new Uint32Array(single.buffer);

function fromHalf(h) {
  bits[0] = (h & 0x7fff) << 13;
  const x = (h & 0x7c00) === 0x7c00 ? (h & 0x3ff ? NaN : Infinity) : single[0] * 2 ** 112;
  return h & 0x8000 ? -x : x;
}

// Into `single` and `bits`; what is not exact becomes the odd neighbour, so that the rounding that
// follows is that of x. (Boldo and Melquiond, 2008)
function toOdd(x) {
  single[0] = x;
  if (single[0] === x) return;
  if (Math.abs(single[0]) > Math.abs(x)) bits[0]--;
  bits[0] |= 1;
}

function toHalf(x) {
  toOdd(x);
  const sign = (bits[0] >>> 16) & 0x8000;
  const size = bits[0] & 0x7fffffff;
  if (size > 0x7f800000) return sign | 0x7e00;
  if (size >= 0x477ff000) return sign | 0x7c00;
  if (size >= 0x38800000) return sign | ((size - 0x38000000 + 0xfff + ((size >>> 13) & 1)) >>> 13);
  single[0] = Math.abs(x) + 0.5; // the last bit of 0.5 is the smallest number of half precision
  return sign | (bits[0] - 0x3f000000);
}

function fromBrain(h) {
  bits[0] = h << 16;
  return single[0];
}

function toBrain(x) {
  toOdd(x);
  return x !== x ? 0x7fc0 : (bits[0] + 0x7fff + ((bits[0] >>> 16) & 1)) >>> 16;
}

const makeCodes = () => ({
  float16: { decode: fromHalf, encode: toHalf },
  bfloat16: { decode: fromBrain, encode: toBrain },
});

