/** Server-sent events out of a byte stream: EventSource itself can send no token. */

/** Yields {id: number | null, name, data} for each event; data is parsed JSON. Comments are left out. */
export async function* readEvents(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const event = parseEvent(block);
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** One event out of its lines, or null where there is no data in it. */
export function parseEvent(block) {
  const fields = { id: null, event: "message", data: [] };
  for (const line of block.split("\n")) {
    const [, field, value] = line.match(/^([^:]*): ?(.*)$/) ?? [null, line, ""];
    if (field === "data") fields.data.push(value);
    else if (field) fields[field] = value;
  }
  if (!fields.data.length) return null;
  return { id: fields.id === null ? null : Number(fields.id), name: fields.event, data: JSON.parse(fields.data.join("\n")) };
}
