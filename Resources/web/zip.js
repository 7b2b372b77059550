/** A zip of files without compression: a folder of DICOM files as one upload. The upload compresses its chunks. */

const TABLE = new Uint32Array(256).map((_, index) => {
  let value = index;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

const LIMIT = 0xffffffff;

/** CRC-32 of bytes, as a zip wants it. */
export function crc32(bytes) {
  let crc = LIMIT;
  for (const byte of bytes) crc = TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ LIMIT) >>> 0;
}

/**
 * A Blob that is a zip of blobs, in their order.
 *
 * @param {{name: string, blob: Blob}[]} files Names are ASCII.
 * @throws {RangeError} More files or bytes than a zip without extensions can hold.
 */
export async function zip(files) {
  const size = files.reduce((sum, file) => sum + file.blob.size, 0);
  if (files.length > 65535 || size > LIMIT - 200 * files.length) {
    throw new RangeError("Expected at most 65,535 files and 4 GB in a folder; convert the series to one NIfTI or NRRD file first.");
  }
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const { name, blob } of files) {
    const bytes = new TextEncoder().encode(name);
    const crc = crc32(new Uint8Array(await blob.arrayBuffer()));
    const common = [[20, 2], [0, 2], [0, 2], [0, 2], [0x21, 2], [crc, 4], [blob.size, 4], [blob.size, 4], [bytes.length, 2], [0, 2]];
    const local = record([[0x04034b50, 4], ...common]);
    directory.push(record([[0x02014b50, 4], [20, 2], ...common, [0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]]), bytes);
    parts.push(local, bytes, blob);
    offset += local.length + bytes.length + blob.size;
  }
  const length = directory.reduce((sum, part) => sum + part.length, 0);
  const count = files.length;
  const end = record([[0x06054b50, 4], [0, 2], [0, 2], [count, 2], [count, 2], [length, 4], [offset, 4], [0, 2]]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}

/** Little-endian bytes of [value, size in bytes] pairs. */
function record(fields) {
  const bytes = fields.flatMap(([value, size]) => Array.from({ length: size }, (_, index) => (value >>> (8 * index)) & 255));
  return Uint8Array.from(bytes);
}
