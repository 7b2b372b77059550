/** What was dropped or chosen, as one blob to send: a file as it is, a folder of DICOM files as a zip. */

import { byId, element } from "./dom.js";
import { zip } from "./zip.js";

const SUFFIX = /(\.nii\.gz|\.nii|\.nrrd|\.mha|\.zip|\.dcm|\.png|\.jpe?g|\.tiff?)$/;
const HIDDEN = /(^|\/)(\.|__MACOSX)/;

/** Files of a drop, also those inside folders. */
export async function droppedFiles(transfer) {
  // The entries must be taken before the first await: the browser empties the list then.
  const entries = [...transfer.items].filter((item) => item.kind === "file").map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile());
  return (await Promise.all(entries.map(filesOf))).flat();
}

async function filesOf(entry) {
  if (!entry || entry instanceof File) return entry ? [entry] : [];
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return (await Promise.all(found.map(filesOf))).flat();
    found.push(...some);
  }
}

/**
 * One blob and its suffix out of files.
 *
 * @returns {Promise<{blob: Blob, suffix: string, notice: string}>}
 * @throws {Error} Nothing in it can be an image.
 */
export async function asOne(files) {
  const shown = files.filter((file) => !HIDDEN.test(file.webkitRelativePath || file.name));
  if (shown.length === 1) {
    const suffix = shown[0].name.toLowerCase().match(SUFFIX)?.[1] ?? ((await isDicom(shown[0])) ? ".dcm" : "");
    if (suffix) return { blob: shown[0], suffix, notice: "" };
    throw new Error("Expected a NIfTI, NRRD, MHA, DICOM, zip, PNG, JPEG or TIFF file; this file is none of them.");
  }
  const dicom = [];
  for (const file of shown) if (await isDicom(file)) dicom.push(file);
  if (!dicom.length) {
    throw new Error(`Expected one file or a folder of DICOM files; got ${files.length} files, none of them DICOM.`);
  }
  // Names may tell who the patient is. The order is that of the names, so the same folder is the same upload.
  dicom.sort((a, b) => ((a.webkitRelativePath || a.name) < (b.webkitRelativePath || b.name) ? -1 : 1));
  const blob = await zip(dicom.map((file, index) => ({ name: `${String(index).padStart(5, "0")}.dcm`, blob: file })));
  const left = files.length - dicom.length;
  return { blob, suffix: ".zip", notice: left ? `${left} of ${files.length} files are not DICOM and were left out.` : "" };
}

async function isDicom(file) {
  return (await file.slice(128, 132).text()) === "DICM";
}

/** Asks which series of an archive to open; resolves with its index. */
export function chooseSeries(series, signal) {
  const box = byId("series");
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => { box.hidden = true; reject(signal.reason); }, { once: true });
    const buttons = series.map(({ index, modality, n_slices: slices, rows, columns }) => {
      const button = element("button", { type: "button" }, `${index}: ${modality}, ${slices} images of ${columns} x ${rows}`);
      button.addEventListener("click", () => { box.hidden = true; resolve(index); });
      return button;
    });
    box.replaceChildren(element("p", {}, `It holds ${series.length} DICOM series. Which one?`), ...buttons);
    box.hidden = false;
    buttons[0].focus();
  });
}
