/** A photograph with its masks, on a plain canvas, in the file's own pixels. */

import { paintAll } from "./masks.js";

export class PictureView {
  constructor(canvas) {
    this.canvas = canvas;
    this.opacity = 0.5;
    this.segments = [];
  }

  /** Masks fit the raster of the file, so a note of a camera about turning it is not followed. */
  async open(blob) {
    this.picture = await createImageBitmap(blob, { imageOrientation: "none" });
    this.shapeKji = [1, this.picture.height, this.picture.width];
    this.canvas.width = this.picture.width;
    this.canvas.height = this.picture.height;
    this.segments = [];
    this.draw();
  }

  close() {
    this.picture = null;
    this.segments = [];
  }

  setSegments(segments) {
    this.segments = segments;
    this.repaint();
  }

  repaint() { this.draw(); }

  setOpacity(opacity) {
    this.opacity = opacity;
    this.draw();
  }

  draw() {
    const context = this.canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(this.picture, 0, 0);
    if (!this.segments.length) return;
    const [, height, width] = this.shapeKji;
    const labels = paintAll(new Uint16Array(height * width), this.shapeKji, this.segments);
    const data = context.getImageData(0, 0, width, height);
    for (let pixel = 0; pixel < labels.length; pixel++) {
      if (!labels[pixel]) continue;
      const colour = this.segments[labels[pixel] - 1].colour;
      for (let channel = 0; channel < 3; channel++) {
        const at = 4 * pixel + channel;
        data.data[at] += this.opacity * (colour[channel] - data.data[at]);
      }
    }
    context.putImageData(data, 0, 0);
  }
}
