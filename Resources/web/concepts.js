/** The field for concepts: chips of what was chosen, and completion from the server's vocabulary (an ARIA combobox). */

import { getJson } from "./api.js";
import { byId, element, say } from "./dom.js";

const SHOWN = 12;
const WAIT_MS = 120;

export class ConceptField {
  /** @param {() => void} onChange Called whenever a concept came or went. */
  constructor(onChange) {
    this.chosen = [];
    this.onChange = onChange;
    this.input = byId("concept");
    this.list = byId("options");
    this.active = -1;
    this.asked = 0;
    this.input.addEventListener("input", () => this.typed());
    this.input.addEventListener("keydown", (event) => this.key(event));
    this.input.addEventListener("blur", () => this.close());
    // Keeps the focus in the field, so that a click is not a blur first.
    this.list.addEventListener("mousedown", (event) => event.preventDefault());
    this.list.addEventListener("click", (event) => this.add(event.target.closest("li")?.dataset.name));
  }

  /** The chosen concepts and what stands in the field still. */
  all() { return [...new Set([...this.chosen, ...words(this.input.value)])]; }

  /** What stands in the field becomes concepts. */
  settle() { words(this.input.value).forEach((word) => this.add(word)); }

  add(name) {
    if (!name) return;
    if (!this.chosen.includes(name)) this.chosen.push(name);
    this.input.value = "";
    this.close();
    this.draw();
    say(`${name} added`);
  }

  remove(name) {
    this.chosen = this.chosen.filter((other) => other !== name);
    this.draw();
    this.input.focus();
    say(`${name} removed`);
  }

  draw() {
    byId("chips").replaceChildren(...this.chosen.map((name) => {
      const button = element("button", { type: "button", textContent: "✕", "aria-label": `Remove ${name}` });
      button.addEventListener("click", () => this.remove(name));
      return element("li", {}, name, " ", button);
    }));
    this.onChange();
  }

  typed() {
    if (this.input.value.includes(",")) return this.settle();
    this.onChange();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.complete(), WAIT_MS);
  }

  async complete() {
    const typed = this.input.value.trim();
    const turn = ++this.asked;
    if (!typed) return this.close();
    // Without suggestions any text can be asked for all the same, so a failing vocabulary stops nobody.
    const found = await getJson(`v1/concepts?limit=${SHOWN}&q=${encodeURIComponent(typed)}`).catch(() => []);
    if (turn === this.asked && document.activeElement === this.input) this.open(found);
  }

  open(found) {
    this.list.replaceChildren(...found.map((concept, index) => {
      const also = concept.synonyms?.length ? element("small", {}, `also: ${concept.synonyms.join(", ")}`) : "";
      const option = element("li", { role: "option", id: `option-${index}`, "aria-selected": "false" }, concept.name, also);
      option.dataset.name = concept.name;
      return option;
    }));
    this.list.hidden = !found.length;
    this.input.setAttribute("aria-expanded", String(found.length > 0));
    this.mark(-1);
    say(found.length ? `${found.length} suggestions` : "No suggestion; any text can be asked for");
  }

  close() {
    clearTimeout(this.timer);
    this.asked++;
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.mark(-1);
  }

  mark(index) {
    this.active = index;
    [...this.list.children].forEach((option, at) => option.setAttribute("aria-selected", String(at === index)));
    if (index < 0 || this.list.hidden) return this.input.removeAttribute("aria-activedescendant");
    this.input.setAttribute("aria-activedescendant", `option-${index}`);
    this.list.children[index].scrollIntoView({ block: "nearest" });
  }

  key(event) {
    const count = this.list.hidden ? 0 : this.list.children.length;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && count) this.mark((this.active + step + (this.active < 0 && step < 0 ? 1 : 0) + count) % count);
    else if (event.key === "Escape" && count) this.close();
    else if (event.key === "Enter" && (this.active >= 0 || this.input.value.trim())) {
      if (this.active >= 0) this.add(this.list.children[this.active].dataset.name);
      else this.settle();
    } else if (event.key === "Backspace" && !this.input.value && this.chosen.length) this.remove(this.chosen.at(-1));
    else return;
    event.preventDefault();
  }
}

const words = (text) => text.split(",").map((word) => word.trim()).filter(Boolean);
