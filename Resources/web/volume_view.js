/** A volume in three planes and 3D, by NiiVue, with the labels of its segments above it to the voxel. */

import { arrayAxes, toMm, toVoxel } from "./geometry.js";
import { paintAll } from "./masks.js";

const PLANES = { all: "MULTIPLANAR", axial: "AXIAL", coronal: "CORONAL", sagittal: "SAGITTAL", render: "RENDER" };
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
    const { Niivue, SHOW_RENDER } = globalThis.niivue;
    this.nv = new Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [0.36, 0.76, 0.79, 0.8], fontColor: [0.75, 0.8, 0.85, 1], crosshairGap: 4,
      isRadiologicalConvention: true, multiplanarShowRender: SHOW_RENDER.ALWAYS, dragAndDropEnabled: false,
      scrollRequiresFocus: false, loadingText: "", logLevel: "error", isOrientCube: false, multiplanarEqualSize: false,
    });
    await this.nv.attachToCanvas(this.canvas);
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
    this.nv.addVolume(image);
    this.nv.setSliceType(this.nv.sliceTypeMultiplanar);
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

  setView(name) { this.nv.setSliceType(globalThis.niivue.SLICE_TYPE[PLANES[name]]); }

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
