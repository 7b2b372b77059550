/** Which axis of an array lies along which of the patient, and from voxels to mm and back. Affines are 4 rows of 4. */

const ORDERS = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/**
 * For each patient axis (0 left-right, 1 front-back, 2 head-foot) the array axis (0 i, 1 j, 2 k) closest to it.
 * LPS and RAS give the same answer.
 */
export function arrayAxes(affine) {
  const lengths = [0, 1, 2].map((axis) => Math.hypot(affine[0][axis], affine[1][axis], affine[2][axis]));
  const fit = (order) => order.reduce((product, axis, patient) => product * Math.abs(affine[patient][axis] / lengths[axis]), 1);
  return ORDERS.reduce((best, order) => (fit(order) > fit(best) ? order : best));
}

/** Position in mm of a voxel i, j, k. */
export function toMm(affine, ijk) {
  return [0, 1, 2].map((row) => affine[row][0] * ijk[0] + affine[row][1] * ijk[1] + affine[row][2] * ijk[2] + affine[row][3]);
}

/** Voxel i, j, k (not rounded) at a position in mm, by Cramer's rule. */
export function toVoxel(affine, mm) {
  const rows = affine.slice(0, 3);
  const right = rows.map((row, index) => mm[index] - row[3]);
  const whole = determinant(rows);
  return [0, 1, 2].map((axis) => determinant(rows.map((row, r) => [0, 1, 2].map((c) => (c === axis ? right[r] : row[c])))) / whole);
}

function determinant(m) {
  return m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1])
    - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
    + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0]);
}
