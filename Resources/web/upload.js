/** A file to the server, once: checksum, chunks that are compressed on the way and can be taken up again. */

import { call, getJson, patiently, postJson } from "./api.js";
import { sha256 } from "./sha256.js";

const CHUNK = 8 << 20;
const PACKED = /\.(gz|png|jpe?g)$/;

/**
 * @param {Blob} blob
 * @param {string} suffix For example ".nii.gz". The name itself stays here: it may be that of a patient.
 * @param {(stage: string, fraction: number) => void} onProgress
 * @param {(series: object[], signal: AbortSignal) => Promise<number>} chooseSeries Asks the reader where an archive
 *     holds several.
 * @returns {Promise<object>} The volume as the server sees it.
 */
export async function upload(blob, suffix, onProgress, chooseSeries, signal) {
  onProgress("Checking", 0);
  const opening = { filename: `image${suffix}`, bytes: blob.size, sha256: await sha256(blob) };
  const opened = await postJson("v1/volumes", opening, { signal });
  if (opened.volume_id) return opened;
  const path = `v1/uploads/${opened.upload_id}`;
  const size = Math.min(opened.chunk_bytes ?? CHUNK, CHUNK);
  let received = opened.received;
  while (received < blob.size) {
    onProgress("Sending", received / blob.size);
    received = await send(path, blob, received, size, !PACKED.test(suffix), signal);
  }
  onProgress("Reading", 1);
  try {
    return await postJson(`${path}/complete`, {}, { signal });
  } catch (error) {
    if (error.code !== "series") throw error;
    const index = await chooseSeries(error.details.series, signal);
    return postJson(`${path}/complete?series=${index}`, {}, { signal });
  }
}

/** Sends one chunk and returns how much the server has; it knows better than we do after an interruption. */
async function send(path, blob, offset, size, compress, signal) {
  const chunk = blob.slice(offset, offset + size);
  const packed = compress && globalThis.CompressionStream;
  const body = packed ? await new Response(chunk.stream().pipeThrough(new CompressionStream("gzip"))).blob() : chunk;
  const headers = { "Content-Type": "application/octet-stream", ...(packed ? { "Content-Encoding": "gzip" } : {}) };
  let again = false;
  return patiently(async () => {
    if (again) {
      const { received } = await getJson(path, { signal });
      if (received !== offset) return received;
    }
    again = true;
    return (await (await call("PUT", `${path}?offset=${offset}`, { body, headers, signal })).json()).received;
  }, signal);
}
