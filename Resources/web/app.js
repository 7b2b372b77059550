/** The page: opens an image, asks for concepts on it, shows the answers. Read from `start` on. */

import { call, getJson, pause, postJson } from "./api.js";
import { ConceptField } from "./concepts.js";
import { byId, element, save, say } from "./dom.js";
import { centre } from "./masks.js";
import { asOne, chooseSeries, droppedFiles } from "./opening.js";
import { Results } from "./results.js";
import { addNotices, cancelJob, fetchSegments, followJob, forgetJob, keptJob, removeImage, showNotices, sliceAxis, startJob } from "./run.js";
import { chosenSettings, offerSettings } from "./settings.js";
import { wireToken } from "./token.js";
import { upload } from "./upload.js";
import { megabytes, percent, sizeLine } from "./words.js";
import { showable, Viewer } from "./viewer.js";

const MODEL_WAIT_MS = 2000;

const viewer = new Viewer();
const results = new Results(viewer);
const concepts = new ConceptField(update);
const page = { volume: null, job: null, jobIds: [], running: false, opening: null, limits: {} };

function showError(error) {
  byId("error").hidden = !error;
  byId("error").textContent = error ? error.message : "";
}

/** What the buttons say and whether they can be pressed. */
function update() {
  const button = byId("segment");
  button.textContent = page.running ? "Cancel" : "Segment";
  button.classList.toggle("stop", page.running);
  button.disabled = page.running ? !page.job : !(page.volume && concepts.all().length);
  for (const opener of document.querySelectorAll("#drop button")) opener.disabled = page.running;
  byId("progress-block").hidden = !page.running && !page.opening;
  byId("forget").hidden = !page.volume || page.running;
}

/** Runs an action; what goes wrong is shown as its sentence. */
async function attempt(action) {
  showError(null);
  try {
    return await action();
  } catch (error) {
    if (error.name !== "AbortError") showError(error);
    return null;
  } finally {
    update();
  }
}

/** Nothing of the image in front of the reader. */
function clearImage() {
  Object.assign(page, { volume: null, job: null, jobIds: [] });
  forgetJob();
  results.hide();
  showNotices([]);
  viewer.clear();
}

/** What the reader sent leaves the server now, and not only when its time is up. */
const removeFromServer = () => attempt(async () => {
  await removeImage(page.volume, page.jobIds);
  clearImage();
  byId("image-line").textContent = "No image yet.";
  say("The image and its results are no longer on the server.");
});

/** A new image takes the place of the old one; what is still on its way for that is stopped. */
async function openWith(action) {
  page.opening?.abort();
  const opening = new AbortController();
  page.opening = opening;
  clearImage();
  update();
  await attempt(async () => {
    try {
      const volume = await action(opening.signal);
      if (opening.signal.aborted) return;
      page.volume = volume;
      addNotices(volume.notices ?? []);
      byId("image-line").textContent = sizeLine(volume);
      say(`Image ready: ${sizeLine(volume)}`);
      byId("concept").focus();
    } finally {
      if (page.opening === opening) page.opening = null;
    }
  });
  if (!page.volume && !page.opening) byId("image-line").textContent = "No image yet.";
}

const openFiles = (files) => openWith(async (signal) => {
  const { blob, suffix, notice } = await asOne([...files]);
  if (notice) addNotices([notice]);
  if (blob.size > page.limits.upload_bytes) {
    throw new Error(`Expected at most ${megabytes(page.limits.upload_bytes)}, got ${megabytes(blob.size)}; crop or resample the image first.`);
  }
  // Seen at once where the browser can read it. What it cannot read the server may know all the same.
  if (showable(suffix)) await viewer.open(blob, suffix).catch(() => viewer.clear());
  const volume = await upload(blob, suffix, (stage, fraction) => {
    byId("progress").value = fraction;
    byId("progress-line").textContent = stage === "Sending" ? `Sending, ${percent(fraction)} of ${megabytes(blob.size)}` : `${stage} the image`;
    byId("progress-block").hidden = false;
  }, chooseSeries, signal);
  if (!viewer.shows(volume.shape_kji)) await showFromServer(volume);
  return volume;
});

const openSample = (name) => openWith(async (signal) => {
  byId("progress").removeAttribute("value");
  byId("progress-line").textContent = "Opening the sample";
  const file = async () => (await call("GET", `v1/samples/${name}/file`, { signal })).blob();
  const [volume] = await Promise.all([postJson(`v1/samples/${name}`, {}, { signal }), file().then((blob) => show(blob, ".nii.gz"))]);
  return volume;
});

/** The image as the server has read it: for what a browser cannot read, and after a reload of the page. */
async function showFromServer(volume) {
  const response = await call("GET", `v1/volumes/${volume.volume_id}/preview`);
  await show(await response.blob(), volume.is_picture ? ".png" : ".nii.gz");
}

/** What cannot be shown can be segmented all the same, and its files fetched. */
async function show(blob, suffix) {
  try {
    await viewer.open(blob, suffix);
  } catch {
    viewer.clear();
    addNotices(["This browser cannot show the image (a volume needs WebGL 2). It can be segmented all the same."]);
  }
}

async function segment() {
  concepts.settle();
  Object.assign(page, { running: true, job: null });
  update();
  viewer.setSegments([]);
  showNotices(page.volume.notices ?? []);
  results.begin(concepts.all());
  await attempt(async () => {
    try {
      await watch(await startJob(page.volume.volume_id, concepts.all(), chosenSettings()));
    } catch (error) {
      results.stop("no answer");
      throw error;
    } finally {
      page.running = false;
    }
  });
}

/** Follows a job to its end and shows what it found. */
async function watch(job) {
  page.job = job;
  page.jobIds.push(job.job_id);
  update();
  const ended = await followJob(job, (finding) => results.answer(finding));
  page.job = ended;
  addNotices(ended.notices ?? []);
  if (ended.state === "cancelled") {
    results.stop("cancelled");
    say("Cancelled");
    return;
  }
  if (ended.state === "failed") throw new Error(ended.error?.message ?? "The job failed and gave no reason.");
  const axis = await sliceAxis(ended);
  const segments = await fetchSegments(ended);
  results.end(ended.findings, segments, { axis, isPicture: page.volume.is_picture });
  viewer.setSegments(segments);
  const first = segments.find((one) => one.box_kji);
  if (first) viewer.goTo(centre(first.box_kji));
  const found = ended.findings.filter((finding) => finding.state === "found").length;
  say(`Done: ${found} of ${ended.findings.length} concepts found`);
}

/** After a reload: the image and the job that this tab was at. */
async function resume() {
  if (!keptJob()) return;
  const job = await getJson(`v1/jobs/${keptJob()}`).catch(() => null);
  const volume = job && (await getJson(`v1/volumes/${job.volume_id}`).catch(() => null));
  if (!volume) return forgetJob();
  page.volume = volume;
  page.running = true;
  byId("image-line").textContent = sizeLine(volume);
  job.concepts.forEach((concept) => concepts.add(concept));
  results.begin(job.concepts);
  update();
  try {
    await showFromServer(volume);
    await watch(job);
  } finally {
    page.running = false;
  }
}

async function download(format) {
  const path = format === "report" ? "report" : `segmentation?format=${format}`;
  const blob = await (await call("GET", `v1/jobs/${page.job.job_id}/${path}`)).blob();
  save(blob, format === "report" ? "report.json" : `segmentation.${format}`);
}

function wire() {
  wireToken();
  byId("open-file").addEventListener("click", () => byId("file").click());
  byId("open-folder").addEventListener("click", () => byId("folder").click());
  for (const id of ["file", "folder"]) {
    byId(id).addEventListener("change", (event) => {
      const files = [...event.target.files];
      event.target.value = "";
      if (files.length) openFiles(files);
    });
  }
  byId("forget").addEventListener("click", removeFromServer);
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (page.running) attempt(() => cancelJob(page.job));
    else if (page.volume && concepts.all().length) segment();
  });
  byId("downloads").addEventListener("click", (event) => {
    const format = event.target.dataset.download;
    if (format) attempt(() => download(format));
  });
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      document.body.classList.toggle("dragging", name === "dragover");
    });
  }
  document.addEventListener("drop", async (event) => {
    const files = await droppedFiles(event.dataTransfer);
    if (page.running) showError(new Error("Expected no other image while a job runs; cancel it first."));
    else if (files.length) openFiles(files);
  });
}

/** What the model is, as soon as an engine has loaded it, and what can be chosen. */
async function showModel() {
  for (;;) {
    const { model, limits, settings_schema: schema } = await getJson("v1/capabilities");
    page.limits = limits ?? {};
    if (model) {
      offerSettings(schema, await getJson("v1/models"), model.name);
      byId("model-line").textContent = model.demonstration
        ? "Demonstration model: it shows that the parts work, and no more."
        : `Model ${model.name}.`;
      return;
    }
    byId("model-line").textContent = "The model is being loaded.";
    await pause(MODEL_WAIT_MS);
  }
}

async function showSamples() {
  const samples = await getJson("v1/samples");
  byId("samples").replaceChildren(...samples.map(({ name, title }) => {
    const button = element("button", { type: "button", textContent: samples.length > 1 ? title : "Sample", title });
    button.addEventListener("click", () => openSample(name));
    return button;
  }));
}

async function start() {
  wire();
  await attempt(async () => {
    await showSamples();
    // Not waited for: an image can be opened, and a job queued, while the model is being loaded.
    attempt(showModel);
    await resume();
  });
}

start();
