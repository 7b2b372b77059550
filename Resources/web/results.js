/** One line for each asked concept: found with its numbers, not found, failed, or still waiting. */

import { byId, element } from "./dom.js";
import { centre } from "./masks.js";
import { millilitres, percent, STATES } from "./words.js";

const MANY = 24;

export class Results {
  /** @param {import("./viewer.js").Viewer} viewer */
  constructor(viewer) { this.viewer = viewer; }

  /** Before any answer: every concept waits. */
  begin(concepts) {
    this.lines = concepts.map((phrase) => ({ phrase, state: "waiting" }));
    this.draw([], null, true);
    byId("downloads").hidden = true;
    byId("results").hidden = false;
  }

  /** One answer more. */
  answer(finding) {
    const at = this.lines.findIndex((line) => line.phrase === finding.phrase);
    if (at >= 0) this.lines[at] = finding;
    this.draw([], null, true);
  }

  /**
   * The end: all findings, with their segments where there are any.
   *
   * @param {object[]} findings In the order asked.
   * @param {object[]} segments Segments of the job, each with `mask` and `shown`.
   * @param {{axis: number | null, isPicture: boolean}} how The patient axis that slice numbers count along.
   */
  end(findings, segments, how) {
    this.lines = findings;
    this.draw(segments, how, false);
    byId("downloads").hidden = !findings.length;
  }

  /** What has no answer when a job ended early says so. */
  stop(word) {
    this.lines = this.lines.map((line) => (line.state === "waiting" ? { ...line, word } : line));
    this.draw([], null, false);
  }

  hide() { byId("results").hidden = true; }

  draw(segments, how, busy) {
    byId("findings").setAttribute("aria-busy", String(busy));
    byId("findings").replaceChildren(...this.lines.map((finding, index) => {
      const own = segments.filter((segment) => segment.finding === index);
      const alone = own.length === 1 ? this.controls(own[0], how) : null;
      const several = own.length > 1 ? [element("ul", { className: "segments" }, ...own.map((segment) => this.line(segment, how)))] : [];
      return element("li", {}, head(finding, alone), ...this.facts(finding, how), ...this.review(finding, own, how), ...several);
    }));
  }

  facts(finding, how) {
    if (finding.state === "failed" || finding.state === "waiting") return note(finding.reason);
    const facts = [["Presence", percent(finding.presence)]];
    if (finding.state === "found") {
      facts.push(["Confidence", percent(finding.confidence)]);
      facts.push(how?.isPicture ? ["Pixels", finding.voxels.toLocaleString("en-GB")] : ["Volume", millilitres(finding.volume_ml)]);
    }
    const pairs = facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
    return [element("dl", { className: "facts" }, ...pairs), ...note(finding.reason)];
  }

  /** Slices to look at, each a button that goes there. */
  review(finding, segments, how) {
    const slices = how && !how.isPicture && how.axis !== null ? finding.review_slices ?? [] : [];
    const box = segments.find((segment) => segment.box_kji)?.box_kji;
    if (!slices.length || !box) return [];
    const buttons = slices.slice(0, MANY).map((slice) => {
      const label = `Go to slice ${slice} of ${finding.phrase}`;
      const button = element("button", { type: "button", textContent: slice, "aria-label": label });
      button.addEventListener("click", () => this.viewer.goToSlice(how.axis, slice, centre(box)));
      return button;
    });
    const more = slices.length > MANY ? ` and ${slices.length - MANY} more, see the report` : "";
    return [element("div", { className: "review row", role: "group", "aria-label": "Slices to review" }, "Slices to review ", ...buttons, more)];
  }

  /** A box that shows or hides a segment and, in a volume, a button that goes to its middle. */
  controls(segment, how) {
    const box = element("input", { type: "checkbox", checked: segment.shown, "aria-label": `Show ${segment.name}` });
    box.addEventListener("change", () => {
      segment.shown = box.checked;
      this.viewer.repaint();
    });
    if (how?.isPicture) return [box];
    const go = element("button", { type: "button", textContent: "Go to", "aria-label": `Go to ${segment.name}` });
    go.addEventListener("click", () => segment.box_kji && this.viewer.goTo(centre(segment.box_kji)));
    return [box, go];
  }

  /** One object of several of a concept. */
  line(segment, how) {
    const [box, ...go] = this.controls(segment, how);
    return element("li", {}, element("label", {}, box, segment.name), ...go);
  }
}

function head(finding, controls) {
  const swatch = element("span", { className: `swatch${finding.state === "found" ? "" : " none"}`, "aria-hidden": "true" });
  // A property set by script is no inline style to a content security policy.
  if (finding.state === "found") swatch.style.backgroundColor = `rgb(${finding.colour.join(" ")})`;
  const state = element("span", { className: `state ${finding.state}` }, finding.word ?? STATES[finding.state]);
  const name = element("span", { className: "name" }, finding.phrase);
  const [box, ...go] = controls ?? [""];
  return element("div", { className: "head" }, element("label", { className: "name row" }, box, swatch, name), state, ...go);
}

const note = (text) => (text ? [element("p", { className: "muted" }, text)] : []);
