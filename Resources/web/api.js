/** Calls to the server this page came from: token, client id, errors as sentences, and progress as a stream. */

import { readEvents } from "./events.js";

const ROOT = new URL("../", import.meta.url);
const TOKEN = "medsam3.token";
const CLIENT = "medsam3.client";
const TRIES = 4;

/** A refusal of the server, or silence (status 0). The message is a sentence for the reader. */
export class ServerError extends Error {
  constructor(status, code, message, details = {}) {
    super(message);
    Object.assign(this, { status, code, details });
  }
}

/** Asks the reader for a token and resolves once there is one; the page sets it. */
let askToken = null;
export function onUnauthorised(ask) { askToken = ask; }

export function keepToken(token) { sessionStorage.setItem(TOKEN, token); }

/** A random id. crypto.randomUUID is missing on plain HTTP beyond localhost. */
export function randomId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function headersOf(extra) {
  if (!sessionStorage.getItem(CLIENT)) sessionStorage.setItem(CLIENT, randomId());
  const headers = { "X-Client": sessionStorage.getItem(CLIENT), ...extra };
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.Authorization = `Bearer ${token}`;
  return headers;
}

/**
 * One request; a missing token is asked for and the request sent again.
 *
 * @returns {Promise<Response>} An answer of 2xx.
 * @throws {ServerError} Anything else, or no answer.
 */
export async function call(method, path, { json, body = null, headers = {}, signal } = {}) {
  const sent = json === undefined ? body : JSON.stringify(json);
  const type = json === undefined ? {} : { "Content-Type": "application/json" };
  let response;
  try {
    response = await fetch(new URL(path, ROOT), { method, body: sent, headers: headersOf({ ...type, ...headers }), signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ServerError(0, "unreachable", "The server does not answer. Is it running, and is the network there?");
  }
  if (response.ok) return response;
  const refusal = await refusalOf(response);
  if (response.status === 401 && askToken) {
    await askToken(refusal.message);
    return call(method, path, { json, body, headers, signal });
  }
  throw refusal;
}

async function refusalOf(response) {
  const said = await response.json().catch(() => ({}));
  const message = said.message || `The server answered ${response.status} and gave no reason.`;
  return new ServerError(response.status, said.code || "unknown", message, said);
}

export const getJson = async (path, options) => (await call("GET", path, options)).json();
export const postJson = async (path, json, options) => (await call("POST", path, { json, ...options })).json();

/** The same request again while the server does not answer; an idempotency key in it makes that safe. */
export async function patiently(request, signal) {
  for (let tried = 1; ; tried++) {
    try {
      return await request();
    } catch (error) {
      if (error.status !== 0 || tried === TRIES) throw error;
      await pause(500 * 2 ** tried, signal);
    }
  }
}

export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}

const LAST = new Set(["done", "failed", "cancelled"]);

/**
 * The events of a job until its last one. A dropped connection is taken up again where it ended.
 *
 * @param {(event: {name: string, data: object}) => void} onEvent Also called with the name "lost" when the connection drops.
 */
export async function follow(jobId, onEvent, signal) {
  let after = 0;
  for (let tried = 0; ; tried++) {
    try {
      const headers = { Accept: "text/event-stream", ...(after ? { "Last-Event-ID": String(after) } : {}) };
      const response = await call("GET", `v1/jobs/${jobId}/events`, { headers, signal });
      for await (const event of readEvents(response.body)) {
        after = event.id ?? after;
        tried = 0;
        onEvent(event);
        if (LAST.has(event.name)) return;
      }
    } catch (error) {
      if (signal?.aborted || error instanceof ServerError && error.status) throw error;
    }
    onEvent({ name: "lost", data: {} });
    await pause(Math.min(8000, 500 * 2 ** tried), signal);
  }
}
