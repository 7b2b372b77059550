/** One job from its start, or from where a reload of the page left it, to masks on the screen. */

import { call, follow, getJson, patiently, postJson, randomId } from "./api.js";
import { byId, element, say } from "./dom.js";
import { decodeMask } from "./masks.js";
import { progressLine } from "./words.js";

const KEPT = "medsam3.job";

/** Id of the job that this tab last started, or null. */
export const keptJob = () => sessionStorage.getItem(KEPT);
export const forgetJob = () => sessionStorage.removeItem(KEPT);

/** Starts a job. Asked again with the same key, the server runs it once. */
export async function startJob(volumeId, concepts, chosen) {
  const headers = { "Idempotency-Key": randomId() };
  const order = { volume_id: volumeId, concepts, ...chosen };
  const job = await patiently(() => postJson("v1/jobs", order, { headers }));
  sessionStorage.setItem(KEPT, job.job_id);
  return job;
}

/** Takes an image and the results of its jobs off the server; what is gone already is as good. */
export async function removeImage(volume, jobIds) {
  for (const path of [...jobIds.map((id) => `v1/jobs/${id}`), `v1/volumes/${volume.volume_id}`]) {
    await call("DELETE", path).catch((error) => {
      if (error.status !== 404) throw error;
    });
  }
}

export const cancelJob = (job) => postJson(`v1/jobs/${job.job_id}/cancel`, {});

/**
 * Follows a job and returns it as it ended.
 *
 * @param {(finding: object) => void} onFinding Called for each concept as it ends.
 */
export async function followJob(job, onFinding, signal) {
  let stage = "";
  const show = (state) => {
    showProgress(state);
    const now = state.state === "queued" ? "in the queue" : state.progress?.stage;
    if (now && now !== stage) say(progressLine(state));
    stage = now || stage;
  };
  show(job);
  await follow(job.job_id, ({ name, data }) => {
    if (name === "queued") show({ state: "queued", position: data.position });
    else if (name === "progress") show({ state: "running", progress: data.progress ?? data });
    else if (name === "finding") onFinding(data.finding ?? data);
    else if (name === "lost") byId("progress-line").textContent = "The connection was lost; trying again. The job goes on.";
  }, signal);
  return getJson(`v1/jobs/${job.job_id}`, { signal });
}

function showProgress(state) {
  const bar = byId("progress");
  const fraction = state.state === "running" ? state.progress?.fraction : null;
  if (fraction == null) bar.removeAttribute("value");
  else bar.value = fraction;
  byId("progress-line").textContent = progressLine(state);
}

/** The segments of a finished job with their masks. */
export async function fetchSegments(job, signal) {
  const fetched = [];
  for (const segment of job.segments) {
    byId("progress-line").textContent = `Fetching mask ${fetched.length + 1} of ${job.segments.length}`;
    const path = `v1/jobs/${job.job_id}/segments/${segment.index}/mask`;
    const response = segment.box_kji ? await call("GET", path, { signal }) : null;
    const mask = response && (await decodeMask(await response.blob(), response.headers));
    fetched.push({ ...segment, mask, shown: true });
  }
  return fetched;
}

/** Patient axis that the slice numbers of a job count along, as its report says. */
export async function sliceAxis(job) {
  const report = await getJson(`v1/jobs/${job.job_id}/report`);
  return report.run?.axis ?? null;
}

export function showNotices(notices) {
  byId("notices").replaceChildren();
  addNotices(notices);
}

export function addNotices(notices) {
  byId("notices").append(...notices.map((notice) => element("li", {}, notice)));
  byId("notices").hidden = !byId("notices").children.length;
}
