/** SHA-256 of a file: by the browser where it offers it, else here (plain HTTP beyond localhost offers none). */

const STEP = 4 << 20;

/** Hexadecimal SHA-256 of a Blob. */
export async function sha256(blob) {
  const digest = globalThis.crypto?.subtle
    ? new Uint8Array(await crypto.subtle.digest("SHA-256", await blob.arrayBuffer()))
    : await digestHere(blob);
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The same without the browser's help, a few MB at a time. */
export async function digestHere(blob) {
  const state = new Uint32Array(INITIAL);
  const words = new Uint32Array(64);
  const whole = blob.size - (blob.size % 64);
  for (let start = 0; start < whole; start += STEP) {
    compress(state, words, new Uint8Array(await blob.slice(start, Math.min(start + STEP, whole)).arrayBuffer()));
  }
  compress(state, words, padded(new Uint8Array(await blob.slice(whole).arrayBuffer()), blob.size));
  const digest = new DataView(new ArrayBuffer(32));
  state.forEach((word, index) => digest.setUint32(4 * index, word));
  return new Uint8Array(digest.buffer);
}

/** The rest of the message, a one bit, zeros, and the length in bits. */
function padded(rest, size) {
  const block = new Uint8Array(rest.length < 56 ? 64 : 128);
  block.set(rest);
  block[rest.length] = 0x80;
  new DataView(block.buffer).setBigUint64(block.length - 8, BigInt(size) * 8n);
  return block;
}

const rotate = (x, n) => (x >>> n) | (x << (32 - n));

/** One round of FIPS 180-4, section 6.2.2, for each 64 bytes. */
function compress(state, w, bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let block = 0; block < bytes.length; block += 64) {
    for (let t = 0; t < 16; t++) w[t] = view.getUint32(block + 4 * t);
    for (let t = 16; t < 64; t++) {
      const a = w[t - 15];
      const b = w[t - 2];
      const s0 = rotate(a, 7) ^ rotate(a, 18) ^ (a >>> 3);
      const s1 = rotate(b, 17) ^ rotate(b, 19) ^ (b >>> 10);
      w[t] = w[t - 16] + s0 + w[t - 7] + s1;
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let t = 0; t < 64; t++) {
      const s1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
      const first = (h + s1 + ((e & f) ^ (~e & g)) + K[t] + w[t]) | 0;
      const s0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
      const second = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + first) | 0, c, b, a, (first + second) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((value, index) => { state[index] += value; });
  }
}

/** The first 64 primes. */
function primes() {
  const found = [];
  for (let n = 2; found.length < 64; n++) if (found.every((p) => n % p)) found.push(n);
  return found;
}

/** First 32 bits of the fraction of a prime's root of a degree, by whole numbers, as doubles are too short. */
function fraction(prime, degree) {
  const target = BigInt(prime) << BigInt(32 * degree);
  let low = 0n;
  let high = 1n << 40n;
  while (high - low > 1n) {
    const middle = (low + high) >> 1n;
    if (middle ** BigInt(degree) <= target) low = middle; else high = middle;
  }
  return Number(low & 0xffffffffn);
}

const K = new Uint32Array(primes().map((prime) => fraction(prime, 3)));
const INITIAL = primes().slice(0, 8).map((prime) => fraction(prime, 2));
