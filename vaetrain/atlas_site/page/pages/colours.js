// Colours of the points by a column of the pages, with their legend.

export const COLOURS = ["#3b82f6", "#ef7d22", "#2fa84f", "#d64545", "#8f63d2", "#9a6a4f", "#d965b4",
  "#1ba8b8", "#b5a51c", "#5c6bc0"];
export const PLAIN = "#8a90a0";
const RAMP = [[49, 91, 196], [76, 164, 205], [236, 164, 67], [214, 56, 56]]; // of numbers
const STEPS = 32;
const NUMBERS = { height: "heights", error: "errors" };
export const TITLES = { error: "reconstruction error" }; // of columns that are shown by another name
const GROUPS = { cluster: "clusterOf", label: "labelOf", template: "templateOf" };

/** Return the columns that an atlas can be coloured by. */
export function columnsOf(atlas) {
  const groups = Object.keys(GROUPS).filter((name) => groupsOf(atlas, name).length > 0);
  return [...groups, ...Object.keys(NUMBERS)];
}

/** Return the groups of a column, { name, size, typical? }, the largest first. */
export function groupsOf(atlas, column) {
  return { cluster: atlas.clusters, label: atlas.labels, template: atlas.templates }[column] ?? [];
}

/**
 * Return { colours, legend, groupOf } of a column: a colour per page, and what each one stands for,
 * as { colour, name, group }. groupOf holds the group of each page; null: the column has numbers.
 */
export function coloursOf(atlas, column) {
  return column in NUMBERS ? byNumber(atlas[NUMBERS[column]]) : byGroup(atlas, column);
}

function byGroup(atlas, column) {
  const groupOf = atlas[GROUPS[column]];
  const groups = groupsOf(atlas, column);
  const numberOf = (group, at) => group.number ?? at;
  const colours = new Map();
  const legend = groups.map((group, at) => {
    const colour = at < COLOURS.length ? COLOURS[at] : PLAIN;
    colours.set(numberOf(group, at), pixelOf(colour));
    return { colour, name: `${group.name} (${group.size})`, group: numberOf(group, at) };
  });
  const plain = pixelOf(PLAIN);
  return {
    colours: Uint32Array.from(groupOf, (group) => colours.get(group) ?? plain), legend, groupOf,
  };
}

function byNumber(values) {
  // The ends are quantiles: one page of 10,000 rows must not give all others the same colour.
  const sorted = Float32Array.from(values).sort();
  const at = (share) => sorted[Math.floor(share * (sorted.length - 1))];
  const [low, high] = [at(0.02), at(0.98)];
  const ramp = Array.from({ length: STEPS }, (_, step) => {
    const place = (step / (STEPS - 1)) * (RAMP.length - 1);
    const from = Math.min(Math.floor(place), RAMP.length - 2);
    const mixed = RAMP[from].map((v, i) => Math.round(v + (place - from) * (RAMP[from + 1][i] - v)));
    return `#${mixed.map((v) => v.toString(16).padStart(2, "0")).join("")}`;
  });
  const pixels = ramp.map(pixelOf);
  const scale = (STEPS - 1) / (high - low || 1);
  const colours = Uint32Array.from(values, (value) =>
    pixels[Math.min(STEPS - 1, Math.max(0, Math.round((value - low) * scale)))]);
  const text = (value) => (value >= 10 ? Math.round(value) : value.toPrecision(2));
  const legend = [0, 0.5, 1].map((share) => ({
    colour: ramp[Math.round(share * (STEPS - 1))], name: `${text(low + share * (high - low))}`,
  }));
  return { colours, legend, groupOf: null };
}

/** Return a colour as an opaque pixel of an image, whose bytes are red, green, blue, opacity. */
export function pixelOf(colour) {
  const value = parseInt(colour.slice(1), 16);
  const [red, green, blue] = [value >> 16, (value >> 8) & 255, value & 255];
  return new Uint32Array(Uint8Array.of(red, green, blue, 255).buffer)[0];
}
