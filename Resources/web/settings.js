/** What the reader may choose about a run: the settings that the server's schema knows, and its models. */

import { byId, element } from "./dom.js";

const WORDS = {
  mode: ["Slices", { auto: "as the model does best", detect: "each by itself", track: "objects followed", fuse: "both, merged" }],
  speed: ["Speed", { fast: "fast", balanced: "balanced", exact: "exact (slow)" }],
  overlap: ["Overlap", { exclusive: "none: the surest concept", nested: "a part in its whole", keep: "every mask whole" }],
  axis: ["Look along", { auto: "the best axis", 0: "left-right", 1: "front-back", 2: "head-foot", all: "all three, voting" }],
  instances: ["Keep the objects of a concept apart"],
};

/** Makes the fields. What a server does not know is not offered. */
export function offerSettings(schema, models, current) {
  const fields = Object.entries(WORDS).map(([name, [label, options]]) => {
    const known = schema?.properties?.[name];
    if (!known) return null;
    if (!options) return checkbox(name, label, known.default);
    return choice(name, label, (known.enum ?? []).map((value) => [value, options[value] ?? value]), known.default);
  });
  const ready = models.filter((model) => model.state === "ready");
  if (ready.length > 1) {
    const named = ready.map(({ name, title, demonstration }) => [name, `${title || name}${demonstration ? " (demonstration)" : ""}`]);
    fields.unshift(choice("model", "Model", named, current));
  }
  byId("settings-fields").replaceChildren(...fields.filter(Boolean));
  byId("settings").hidden = !byId("settings-fields").children.length;
}

/** What was chosen, as an order of a job has it: the defaults are left to the server. */
export function chosenSettings() {
  const order = { settings: {} };
  for (const field of byId("settings-fields").querySelectorAll("select, input")) {
    const value = field.type === "checkbox" ? field.checked : field.value;
    if (String(value) === field.dataset.usual) continue;
    if (field.name === "model") order.model = value;
    else order.settings[field.name] = value;
  }
  return order;
}

function choice(name, label, options, usual) {
  const select = element("select", { id: `set-${name}`, name }, ...options.map(([value, text]) => element("option", { value }, text)));
  select.value = select.dataset.usual = usual;
  return element("div", {}, element("label", { htmlFor: select.id }, label), select);
}

function checkbox(name, label, usual) {
  const box = element("input", { id: `set-${name}`, name, type: "checkbox", checked: usual });
  box.dataset.usual = String(usual);
  return element("div", { className: "tick" }, box, element("label", { htmlFor: box.id }, label));
}
