/** Numbers and states as people read them. */

const NUMBER = new Intl.NumberFormat("en-GB", { maximumSignificantDigits: 3 });

export const percent = (part) => `${Math.round(100 * part)} %`;
export const megabytes = (bytes) => `${NUMBER.format(bytes / 1e6)} MB`;
export const millilitres = (ml) => `${ml >= 1000 ? Math.round(ml).toLocaleString("en-GB") : NUMBER.format(ml)} ml`;

/** "40 s", "3 min", "1 h 5 min". */
export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export const STATES = { found: "✓ Found", not_found: "✕ Not found", failed: "! Failed", waiting: "waiting" };

/** One line about a job that has not ended: place in the queue, or stage, slices and time left. */
export function progressLine(job) {
  if (job.state === "queued") {
    const before = job.position ?? 0;
    return before > 0 ? `In the queue, ${before} before this one` : "In the queue, next";
  }
  const { stage, done, total, seconds_left: left } = job.progress ?? {};
  const parts = [stage ? stage[0].toUpperCase() + stage.slice(1) : "Starting"];
  if (total > 0) parts[0] += ` ${done} of ${total}`;
  if (left != null) parts.push(`about ${duration(left)} left`);
  return parts.join(", ");
}

/** "256 x 256 x 20 voxels of 1.95 x 1.95 x 2 mm" or "640 x 480 pixels". */
export function sizeLine(volume) {
  const [k, j, i] = volume.shape_kji;
  if (volume.is_picture) return `Picture of ${i} x ${j} pixels`;
  const spacing = volume.spacing_mm.map((mm) => NUMBER.format(mm)).join(" x ");
  return `${volume.modality ? `${volume.modality}, ` : ""}${i} x ${j} x ${k} voxels of ${spacing} mm`;
}
