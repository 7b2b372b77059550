/** A volume in three planes and 3D, by NiiVue, with the labels of its segments above it to the voxel. */

import { arrayAxes, toMm, toVoxel } from "./geometry.js";
import { paintAll } from "./masks.js";

const PLANES = { axial: "AXIAL", coronal: "CORONAL", sagittal: "SAGITTAL", render: "RENDER" };
/** Left, top, width and height of axial, coronal, sagittal and 3D, in parts of a tall and of a wide canvas. */
const TALL = [[0, 0, 1, 0.5], [0, 0.5, 0.5, 0.25], [0, 0.75, 0.5, 0.25], [0.5, 0.5, 0.5, 0.5]];
const wide = (side) => [[0, 0, 0.58, 1], [0.58, 0, 0.42, side], [0.58, side, 0.42, side], [0.58, 2 * side, 0.42, 1 - 2 * side]];
/** Grey with little body, so that the segments are seen inside the patient in 3D. */
const GLASS = { R: [0, 255], G: [0, 255], B: [0, 255], A: [0, 70], I: [0, 255] };
const CT_AIR = -900;
const UINT8 = 2;
const UINT16 = 512;
const LABEL_INTENT = 1002;

export class VolumeView {
  /** @param {(at: {ijk: number[], value: number}) => void} onMove Called when the cross-hair moved. */
  constructor(canvas, onMove) {
    this.canvas = canvas;
    this.onMove = onMove;
    this.opacity = 0.5;
    this.segments = [];
  }

  async start() {
    const { Niivue } = globalThis.niivue;
    this.nv = new Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [0.36, 0.76, 0.79, 0.8], fontColor: [0.75, 0.8, 0.85, 1], crosshairGap: 4,
      isRadiologicalConvention: true, dragAndDropEnabled: false, loadingText: "", logLevel: "silent", crosshairWidth: 0.5,
    });
    await this.nv.attachToCanvas(this.canvas);
    this.nv.addColormap("glass", GLASS);
    this.nv.setRenderAzimuthElevation(150, 35);
    this.nv.setScale(1.3);
    new ResizeObserver(() => this.layOut()).observe(this.canvas);
    this.nv.onLocationChange = ({ mm, values }) => this.onMove({ ijk: this.voxelAt(mm), value: values[0]?.value });
  }

  /** Shows the volume in a Blob. The name's suffix tells NiiVue the format. */
  async open(blob, name) {
    if (!this.nv) await this.start();
    const { NVImage } = globalThis.niivue;
    const image = await NVImage.loadFromFile({ file: new File([blob], name), name });
    this.close();
    this.image = image;
    this.affine = image.hdr.affine;
    this.shapeKji = [image.hdr.dims[3], image.hdr.dims[2], image.hdr.dims[1]];
    this.auto = [image.cal_min, image.cal_max];
    this.axes = arrayAxes(this.affine);
    image.colormap = "glass";
    this.nv.addVolume(image);
    this.setView("all");
    this.goTo(this.shapeKji.map((size) => Math.floor(size / 2)));
  }

  close() {
    if (!this.image) return;
    for (const volume of [...this.nv.volumes]) this.nv.removeVolume(volume);
    this.image = this.overlay = null;
    this.segments = [];
  }

  /**
   * The overlay has the header of the image itself, and so its grid, whatever its axes and frame are.
   *
   * @param {{mask, voxels, shown, colour}[]} segments
   */
  setSegments(segments) {
    this.segments = segments;
    if (this.overlay) this.nv.removeVolume(this.overlay);
    this.overlay = null;
    if (!segments.some((segment) => segment.mask)) return;
    const { NVImage } = globalThis.niivue;
    const wide = segments.length > 255;
    const overlay = new NVImage();
    overlay.id = "segments";
    overlay.name = "segments";
    const size = this.shapeKji.reduce((product, side) => product * side, 1);
    overlay.img = new (wide ? Uint16Array : Uint8Array)(size);
    overlay.hdr = Object.assign({}, this.image.hdr, {
      dims: [3, ...this.image.hdr.dims.slice(1, 4), 1, 1, 1, 1], datatypeCode: wide ? UINT16 : UINT8,
      numBitsPerVoxel: wide ? 16 : 8, intent_code: LABEL_INTENT, scl_slope: 1, scl_inter: 0, cal_min: 0, cal_max: 0,
    });
    paintAll(overlay.img, this.shapeKji, segments);
    overlay.calculateRAS();
    overlay.calMinMax();
    overlay.setColormapLabel(colours(segments));
    overlay.opacity = this.opacity;
    this.overlay = overlay;
    this.nv.addVolume(overlay);
  }

  /** After `shown` of a segment changed. */
  repaint() {
    if (!this.overlay) return;
    paintAll(this.overlay.img, this.shapeKji, this.segments);
    this.nv.updateGLVolume();
  }

  setOpacity(opacity) {
    this.opacity = opacity;
    if (this.overlay) this.nv.setOpacity(1, opacity);
  }

  setWindow(low, high) {
    this.image.cal_min = low;
    this.image.cal_max = high;
    this.nv.updateGLVolume();
  }

  window() { return [this.image.cal_min, this.image.cal_max]; }

  /** CT by its header or, as NIfTI has no modality, by the air around the patient. */
  isCt(modality) { return modality === "CT" || (!modality && this.image.global_min <= CT_AIR); }

  /** Lengths in mm along the patient's axes. */
  extents() {
    return this.axes.map((axis) => this.shapeKji[2 - axis] * Math.hypot(...[0, 1, 2].map((row) => this.affine[row][axis])));
  }

  setView(name) {
    this.viewName = name;
    this.layOut();
  }

  layOut() {
    if (!this.image) return;
    const { SLICE_TYPE: types } = globalThis.niivue;
    if (this.viewName in PLANES) {
      this.nv.clearCustomLayout();
      this.nv.setSliceType(types[PLANES[this.viewName]]);
      return;
    }
    const { clientWidth: width, clientHeight: height } = this.canvas;
    // Coronal and sagittal get the height that a few slices or a whole body need, 3D the rest.
    const [across, , along] = this.extents();
    const places = width > height ? wide(Math.min(0.3, Math.max(0.12, (0.5 * width * along) / across / height))) : TALL;
    const order = [types.AXIAL, types.CORONAL, types.SAGITTAL, types.RENDER];
    this.nv.setSliceType(types.MULTIPLANAR);
    this.nv.setCustomLayout(order.map((sliceType, index) => ({ sliceType, position: places[index] })));
  }

  /** Moves the cross-hair to a voxel k, j, i. */
  goTo([k, j, i]) {
    this.nv.scene.crosshairPos = this.nv.mm2frac(toMm(this.affine, [i, j, k]), 0, true);
    this.nv.drawScene();
    this.nv.createOnLocationChange();
  }

  voxelAt(mm) {
    return toVoxel(this.affine, mm).map((at, axis) => Math.min(Math.max(Math.round(at), 0), this.shapeKji[2 - axis] - 1));
  }

  /** The segment on top at a voxel i, j, k, or undefined. */
  segmentAt([i, j, k]) {
    const [, rows, columns] = this.shapeKji;
    return this.segments[(this.overlay?.img[(k * rows + j) * columns + i] ?? 0) - 1];
  }
}

/** A label table of NiiVue: 0 is clear. */
function colours(segments) {
  const channel = (index) => [0, ...segments.map((segment) => segment.colour[index])];
  return {
    R: channel(0), G: channel(1), B: channel(2), A: [0, ...segments.map(() => 255)],
    I: [0, ...segments.map((_, index) => index + 1)], labels: ["", ...segments.map((segment) => segment.name)],
  };
}
