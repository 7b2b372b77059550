/** The parts of the page that need no browser: `node --test Testing/server/page_parts.test.mjs`. */

import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { test } from "node:test";
import { gzipSync, crc32 as oracle } from "node:zlib";

import { parseEvent, readEvents } from "../../Resources/web/events.js";
import { arrayAxes, toMm, toVoxel } from "../../Resources/web/geometry.js";
import { centre, decodeMask, paint, paintAll } from "../../Resources/web/masks.js";
import { digestHere, sha256 } from "../../Resources/web/sha256.js";
import { duration, millilitres, progressLine, sizeLine } from "../../Resources/web/words.js";
import { crc32, zip } from "../../Resources/web/zip.js";

const hex = (bytes) => Buffer.from(bytes).toString("hex");

for (const size of [0, 1, 55, 56, 63, 64, 65, 119, 120, 5_000_003]) {
  test(`SHA-256 of ${size} bytes, with and without the browser's help`, async () => {
    const bytes = randomBytes(size);
    const expected = createHash("sha256").update(bytes).digest("hex");
    assert.equal(hex(await digestHere(new Blob([bytes]))), expected);
    assert.equal(await sha256(new Blob([bytes])), expected);
  });
}

test("CRC-32", { skip: !oracle }, () => {
  const bytes = randomBytes(1000);
  assert.equal(crc32(bytes), oracle(bytes));
  assert.equal(crc32(new Uint8Array()), 0);
});

test("a zip refuses what it cannot hold", async () => {
  const files = Array.from({ length: 65536 }, () => ({ name: "x", blob: new Blob() }));
  await assert.rejects(zip(files), /at most 65,535 files/);
});

const headers = (box, shape) => new Headers({ "X-Mask-Box": box, "X-Mask-Shape": shape });

test("a mask is painted into its box, lowest bit first", async () => {
  // A crop of 2 x 1 x 5 voxels: bits 1, 0, 1, 1, 0 and 0, 1, 0, 0, 1.
  const mask = await decodeMask(new Blob([gzipSync(Uint8Array.of(0b01001101, 0b10))]), headers("1,3,0,1,2,7", "2,1,5"));
  const labels = new Uint8Array(3 * 2 * 8);
  paint(labels, [3, 2, 8], mask, 9);
  const set = [...labels.keys()].filter((voxel) => labels[voxel]);
  assert.deepEqual(set, [2, 4, 5].map((i) => 16 + i).concat([3, 6].map((i) => 32 + i)));
  assert.ok(set.every((voxel) => labels[voxel] === 9));
});

test("a mask that is shorter than its headers is refused", async () => {
  const body = new Blob([gzipSync(Uint8Array.of(1))]);
  await assert.rejects(decodeMask(body, headers("0,3,0,3,0,3", "3,3,3")), /shorter/);
  await assert.rejects(decodeMask(body, new Headers()), /shorter/);
});

test("small segments lie on large ones, and a hidden one covers nothing", () => {
  const whole = { mask: { box: [0, 1, 0, 1, 0, 4], shape: [1, 1, 4], bits: Uint8Array.of(15) }, voxels: 4, shown: true };
  const part = { mask: { box: [0, 1, 0, 1, 1, 3], shape: [1, 1, 2], bits: Uint8Array.of(3) }, voxels: 2, shown: true };
  const none = { mask: null, voxels: 0, shown: true };
  const painted = (segments) => [...paintAll(new Uint8Array(4).fill(7), [1, 1, 4], segments)];
  assert.deepEqual(painted([part, whole, none]), [2, 1, 1, 2]);
  assert.deepEqual(painted([{ ...part, shown: false }, whole]), [2, 2, 2, 2]);
  assert.deepEqual(painted([]), [0, 0, 0, 0]);
});

test("the centre of a box is in it", () => {
  assert.deepEqual(centre([0, 1, 2, 4, 5, 10]), [0, 2, 7]);
});

test("axes of an array that lies across and upside down", () => {
  const affine = [[0.1, 0, -3, 5], [0, -2, 0.2, 6], [4, 0.1, 0, 7], [0, 0, 0, 1]];
  assert.deepEqual(arrayAxes(affine), [2, 1, 0]);
  const voxel = toVoxel(affine, toMm(affine, [3, 4, 5]));
  voxel.forEach((at, axis) => assert.ok(Math.abs(at - [3, 4, 5][axis]) < 1e-9));
});

test("axes of an oblique volume with thick slices are told by direction, not by spacing", () => {
  const [c, s] = [Math.cos(0.5), Math.sin(0.5)];
  assert.deepEqual(arrayAxes([[1, 0, 0, 0], [0, c, -9 * s, 0], [0, s, 9 * c, 0], [0, 0, 0, 1]]), [0, 1, 2]);
});

const collect = async (chunks) => {
  const found = [];
  for await (const event of readEvents(ReadableStream.from(chunks.map((chunk) => new TextEncoder().encode(chunk))))) found.push(event);
  return found;
};

test("events come whole however the stream is cut, without comments", async () => {
  const text = 'id: 1\nevent: progress\ndata: {"done": 1}\n\n: still here\n\nid: 2\nevent: done\ndata: {}\n\nid: 3\nda';
  const expected = [{ id: 1, name: "progress", data: { done: 1 } }, { id: 2, name: "done", data: {} }];
  for (const size of [1, 2, 7, 1000]) assert.deepEqual(await collect(text.match(new RegExp(`[^]{1,${size}}`, "g"))), expected);
});

test("events with other line ends and without an id", () => {
  assert.deepEqual(parseEvent("event: x\ndata: 1"), { id: null, name: "x", data: 1 });
  assert.equal(parseEvent(": comment"), null);
});

test("a line end of two characters that is cut in the middle", async () => {
  const events = await collect(["id: 4\r", "\nevent: done\r\ndata: {}\r\n\r", "\n"]);
  assert.deepEqual(events, [{ id: 4, name: "done", data: {} }]);
});

test("numbers as people read them", () => {
  assert.deepEqual([0.2, 59, 90, 3600, 7500].map(duration), ["1 s", "59 s", "2 min", "60 min", "2 h 5 min"]);
  assert.deepEqual([0, 0.0123, 12.34, 1432.6].map(millilitres), ["0 ml", "0.0123 ml", "12.3 ml", "1,433 ml"]);
});

test("a line about a job that runs", () => {
  assert.equal(progressLine({ state: "queued", position: 0 }), "In the queue, next");
  assert.equal(progressLine({ state: "queued", position: 3 }), "In the queue, 3 before this one");
  const progress = { stage: "features", done: 3, total: 20, seconds_left: 61 };
  assert.equal(progressLine({ state: "running", progress }), "Features 3 of 20, about 61 s left");
  assert.equal(progressLine({ state: "running", progress: null }), "Starting");
});

test("a line about an image", () => {
  assert.equal(sizeLine({ is_picture: true, shape_kji: [1, 2, 3] }), "Picture of 3 x 2 pixels");
  assert.equal(
    sizeLine({ is_picture: false, modality: "CT", shape_kji: [4, 5, 6], spacing_mm: [0.5, 0.25, 3] }),
    "CT, 6 x 5 x 4 voxels of 0.5 x 0.25 x 3 mm",
  );
});
