/** Masks as the server sends them: gzip of packed bits (lowest bit first), cropped to their box; and labels made of them. */

/** Bytes of a gzip stream or Blob. */
export async function gunzip(blob) {
  return new Uint8Array(await new Response(blob.stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
}

/**
 * One mask out of the body and headers of an answer.
 *
 * @returns {Promise<{box: number[], shape: number[], bits: Uint8Array}>} Box k0 k1 j0 j1 i0 i1 in the volume, shape K J I
 *     of the crop, and its packed bits in kji order.
 * @throws {Error} The body is shorter than its headers promise.
 */
export async function decodeMask(blob, headers) {
  const [box, shape] = ["X-Mask-Box", "X-Mask-Shape"].map((name) => (headers.get(name) ?? "").split(",").map(Number));
  const bits = await gunzip(blob);
  if (box.length !== 6 || shape.length !== 3 || bits.length * 8 < shape[0] * shape[1] * shape[2]) {
    throw new Error("Expected a mask of the size that its headers tell; what came is shorter. Ask again.");
  }
  return { box, shape, bits };
}

/** Write a label wherever a mask is set. `labels` is the whole volume in kji order, i fastest, as in its file. */
export function paint(labels, shapeKji, mask, label) {
  const [, rows, columns] = shapeKji;
  const [k0, , j0, , i0] = mask.box;
  const [K, J, I] = mask.shape;
  let bit = 0;
  for (let k = 0; k < K; k++) {
    for (let j = 0; j < J; j++) {
      let voxel = ((k0 + k) * rows + j0 + j) * columns + i0;
      for (let i = 0; i < I; i++, bit++, voxel++) {
        if ((mask.bits[bit >> 3] >> (bit & 7)) & 1) labels[voxel] = label;
      }
    }
  }
}

/**
 * Labels of the segments that are shown: segment n of the list gets label n + 1, large ones first, so that a
 * tumour stays on top of its organ, and a hidden segment covers nothing.
 *
 * @param {{mask: object, voxels: number, shown: boolean}[]} segments
 */
export function paintAll(labels, shapeKji, segments) {
  labels.fill(0);
  const order = segments.map((segment, index) => ({ segment, index })).filter(({ segment }) => segment.shown && segment.mask);
  order.sort((a, b) => b.segment.voxels - a.segment.voxels);
  for (const { segment, index } of order) paint(labels, shapeKji, segment.mask, index + 1);
  return labels;
}

/** Voxel (k, j, i) in the middle of a box, rounded down. */
export function centre(box) {
  return [0, 2, 4].map((axis) => Math.floor((box[axis] + box[axis + 1] - 1) / 2));
}
