/** The right half of the page: one of two views, its tools and its sliders. */

import { byId, element } from "./dom.js";
import { PictureView } from "./picture_view.js";
import { VolumeView } from "./volume_view.js";

const PICTURES = /\.(png|jpe?g)$/;
const VOLUMES = /\.(nii|nii\.gz|nrrd|mha)$/;
const PLANES = ["Sagittal", "Coronal", "Axial"];
const ARRAY = ["i", "j", "k"];
/** Level and width in HU, as radiologists use them. */
const PRESETS = {
  auto: ["Automatic"], soft: ["CT soft tissue", 40, 400], lung: ["CT lung", -600, 1500], bone: ["CT bone", 400, 1800],
  brain: ["CT brain", 40, 80], liver: ["CT liver", 80, 150], own: ["Own"],
};

/** Whether the browser can show a file of this suffix by itself. */
export const showable = (suffix) => PICTURES.test(suffix) || VOLUMES.test(suffix);

export class Viewer {
  constructor() {
    this.volumes = new VolumeView(byId("volume-canvas"), (at) => this.moved(at));
    this.pictures = new PictureView(byId("picture-canvas"));
    this.view = null;
    byId("preset").replaceChildren(...Object.entries(PRESETS).map(([value, [name]]) => element("option", { value }, name)));
    byId("view").addEventListener("change", (event) => this.volumes.setView(event.target.value));
    byId("opacity").addEventListener("input", (event) => this.view?.setOpacity(Number(event.target.value)));
    byId("preset").addEventListener("change", (event) => this.preset(event.target.value));
    for (const id of ["level", "width"]) byId(id).addEventListener("change", () => this.ownWindow());
    // NiiVue changes the window when the right button drags a box.
    byId("volume-canvas").addEventListener("pointerup", () => setTimeout(() => this.showWindow(), 100));
  }

  /** Shows a file; resolves when it is on the screen. */
  async open(blob, suffix) {
    const picture = PICTURES.test(suffix);
    const view = picture ? this.pictures : this.volumes;
    byId("empty").hidden = true;
    byId("volume-canvas").hidden = picture;
    byId("picture-canvas").hidden = !picture;
    await view.open(blob, `image${suffix}`);
    this.view = view;
    byId("toolbar").hidden = false;
    for (const part of document.querySelectorAll(".for-volume")) part.hidden = picture;
    byId("sliders").hidden = byId("readout").hidden = picture;
    view.setOpacity(Number(byId("opacity").value));
    if (picture) return;
    byId("view").value = "all";
    this.makeSliders();
    this.preset(this.volumes.isCt("") ? "soft" : "auto");
  }

  clear() {
    this.view?.close();
    this.view = null;
    for (const id of ["toolbar", "sliders", "readout", "volume-canvas", "picture-canvas"]) byId(id).hidden = true;
    byId("empty").hidden = false;
  }

  /** Whether what is shown has the shape that the server tells. */
  shows(shapeKji) { return this.view?.shapeKji.join() === shapeKji.join(); }

  setSegments(segments) { this.view?.setSegments(segments); }
  repaint() { this.view?.repaint(); }

  /** Goes to a voxel k, j, i. */
  goTo(kji) { if (this.view === this.volumes) this.volumes.goTo(kji); }

  /** Goes to a slice across a patient axis (0, 1, 2), elsewhere staying near a voxel k, j, i. */
  goToSlice(patientAxis, slice, near) {
    if (this.view !== this.volumes) return;
    const kji = [...near];
    kji[2 - this.volumes.axes[patientAxis]] = slice;
    this.volumes.goTo(kji);
  }

  /** One slider for each axis of the array, from head to foot first, numbered as the file is. */
  makeSliders() {
    const boxes = [2, 1, 0].map((patient) => {
      const axis = this.volumes.axes[patient];
      const last = this.volumes.shapeKji[2 - axis] - 1;
      const id = `slice-${ARRAY[axis]}`;
      const input = element("input", { id, type: "range", min: 0, max: last, step: 1, disabled: last === 0 });
      input.addEventListener("input", () => {
        const kji = [2, 1, 0].map((other) => Number(byId(`slice-${ARRAY[other]}`).value));
        this.volumes.goTo(kji);
      });
      const label = element("label", { htmlFor: id }, `${PLANES[patient]} `, element("span", { id: `${id}-at` }));
      return element("div", {}, label, input);
    });
    byId("sliders").replaceChildren(...boxes);
    this.volumes.goTo(this.volumes.shapeKji.map((size) => Math.floor(size / 2)));
  }

  moved({ ijk, value }) {
    ijk.forEach((at, axis) => {
      const slider = byId(`slice-${ARRAY[axis]}`);
      if (!slider) return;
      slider.value = at;
      byId(`slice-${ARRAY[axis]}-at`).textContent = `${at} / ${slider.max}`;
    });
    const segment = this.volumes.segmentAt(ijk);
    const intensity = Number.isFinite(value) ? `, intensity ${Math.round(value * 10) / 10}` : "";
    byId("readout").textContent = `Voxel ${ijk.join(", ")}${intensity}${segment ? `: ${segment.name}` : ""}`;
  }

  preset(name) {
    const [, level, width] = PRESETS[name];
    if (name === "auto") this.volumes.setWindow(...this.volumes.auto);
    else if (width) this.volumes.setWindow(level - width / 2, level + width / 2);
    this.showWindow(name);
  }

  ownWindow() {
    const [level, width] = ["level", "width"].map((id) => Number(byId(id).value));
    if (width > 0) this.volumes.setWindow(level - width / 2, level + width / 2);
    this.showWindow("own");
  }

  showWindow(preset) {
    if (this.view !== this.volumes) return;
    const [low, high] = this.volumes.window();
    const shown = [(low + high) / 2, high - low].map((number) => String(Number(number.toPrecision(4))));
    if (!preset && shown.join() !== `${byId("level").value},${byId("width").value}` && byId("level").value) byId("preset").value = "own";
    [byId("level").value, byId("width").value] = shown;
    if (preset) byId("preset").value = preset;
  }
}
