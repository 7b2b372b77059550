/** Elements without markup in strings: text from a server or a reader is only ever text. */

export const byId = (id) => document.getElementById(id);

/** An element with properties, attributes (names with a dash, and role) and children. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** Tell a screen reader something without moving the focus. */
export function say(text) { byId("live").textContent = text; }

/** A file into the reader's downloads. */
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
