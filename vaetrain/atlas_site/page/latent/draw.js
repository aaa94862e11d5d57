// Layouts and pictures as the model's input: the same values as shards/ gives.

import { halfEven } from "./paths.js";

const MOST_BOXES = 20000;
const MOST_BYTES = 32 * 2 ** 20;
const MOST_SIDE = 32767;
const MOST_AREA = 1e8;
const MOST_DEPTH = 40;
const ONE = 65536;

/** Return the rows of a page scaled to a width. */
export function scaledHeight(width, height, toWidth) {
  return Math.max(1, Math.floor((2 * height * toWidth + width) / (2 * width)));
}

/** Return a file as { image, height }: a layout in JSON, or a picture. Throws an Error to show. */
export async function readFile(file, width, maxHeight) {
  if (file.size > MOST_BYTES) throw new Error("The file has more than 32 MB.");
  const start = new Uint8Array(await file.slice(0, 8).arrayBuffer());
  const isPng = [137, 80, 78, 71, 13, 10, 26, 10].every((byte, at) => start[at] === byte);
  if (isPng || (start[0] === 255 && start[1] === 216)) return readPicture(file, width, maxHeight);
  return drawLayout(parseLayout(await file.text()), width, maxHeight);
}

/** Return width, height and boxes [x0, y0, x1, y1] of a layout; of JSON lines the first one. */
export function parseLayout(text) {
  let record;
  try {
    record = JSON.parse(text);
  } catch {
    try {
      record = JSON.parse(text.trimStart().split("\n", 1)[0]);
    } catch {
      throw new Error("The file is neither a layout in JSON nor a PNG or JPEG picture.");
    }
  }
  const isObject = record !== null && typeof record === "object";
  if (isObject && "r" in record) return compact(record);
  if (isObject && ("activity" in record || Array.isArray(record.bounds))) return rico(record);
  if (isObject && "bounds" in record) return bounds(record);
  throw new Error(
    "The layout has none of the schemas compact, bounds and RICO; others are read by " +
      "python -m vaetrain.search.",
  );
}

function compact(record) {
  const size = canvas(record.w, record.h);
  return collect(record.r, "c", size, [0, 0], (node, left, top) => {
    const [x, y, w, h] = numbers(node.b);
    return [left + x, top + y, left + x + w, top + y + h];
  });
}

function bounds(record) {
  const corner = (node) => {
    const { x, y, width, height } = node.bounds ?? {};
    return numbers([x, y, width, height]);
  };
  const [left, top, width, height] = corner(record);
  return collect(record, "children", canvas(width, height), [left, top], (node, x0, y0) => {
    const [x, y, w, h] = corner(node);
    return [x0 + x, y0 + y, x0 + x + w, y0 + y + h];
  });
}

function rico(record) {
  const root = record.activity?.root ?? record;
  const [left, top, right, bottom] = numbers(root.bounds);
  const size = canvas(right - left, bottom - top);
  return collect(root, "children", size, [left, top], (node) =>
    node["visible-to-user"] === false || ["invisible", "gone"].includes(node.visibility)
      ? null
      : numbers(node.bounds),
  );
}

/** Return the boxes of a tree in preorder, clipped to the canvas, without those of no area. */
function collect(root, key, [width, height], [left, top], boxOf) {
  const boxes = [];
  const stack = [[root, 0, 0]];
  for (let number = 0; stack.length > 0; number++) {
    if (number >= MOST_BOXES) throw new Error(`The layout has more than ${MOST_BOXES} boxes.`);
    const [node, x, y] = stack.pop();
    if (node === null || typeof node !== "object") throw new Error("A box is not an object.");
    const box = boxOf(node, x, y);
    if (box === null) continue;
    const clipped = [
      clip(box[0] - left, width), clip(box[1] - top, height),
      clip(box[2] - left, width), clip(box[3] - top, height),
    ];
    if (clipped[2] > clipped[0] && clipped[3] > clipped[1]) boxes.push(clipped);
    const children = node[key] ?? [];
    if (!Array.isArray(children)) throw new Error(`"${key}" of a box is not a list.`);
    const origin = [Number.isNaN(box[0]) ? x : box[0], Number.isNaN(box[1]) ? y : box[1]];
    for (let at = children.length - 1; at >= 0; at--) {
      if (children[at] !== null) stack.push([children[at], ...origin]);
    }
  }
  if (boxes.length === 0) throw new Error("The layout has no visible box.");
  return { width, height, boxes };
}

function clip(value, most) {
  return Math.min(Math.max(value, 0), most);
}

function numbers(values) {
  if (values === undefined || values === null) return [NaN, NaN, NaN, NaN];
  if (!Array.isArray(values) || values.length !== 4) throw new Error("A box is not four numbers.");
  return values.map((value) => {
    if (value === null || value === undefined) return NaN;
    if (typeof value !== "number" || Math.abs(value) > 1e9) {
      throw new Error("A box has a value that is no number of pixels.");
    }
    return value;
  });
}

function canvas(width, height) {
  const sides = [width, height].map((side) => {
    const rounded = Math.max(1, Math.floor(side + 0.5));
    if (typeof side !== "number" || !(side > 0) || rounded > MOST_SIDE) {
      throw new Error(`A side of the canvas is not between 1 and ${MOST_SIDE} pixels.`);
    }
    return rounded;
  });
  if (sides[0] * sides[1] > MOST_AREA) throw new Error("The canvas is too large.");
  return sides;
}

/** Return a layout drawn at a width: nesting depth / 40, antialiased by area, as `draw` does. */
export function drawLayout(layout, width, maxHeight) {
  const height = Math.min(scaledHeight(layout.width, layout.height, width), maxHeight);
  const scale = width / layout.width;
  const fixed = (edge, most) => halfEven(Math.min(Math.max(edge * scale, 0), most) * ONE);
  const columns = width + 1;
  // Running sums of impulses at the corners; all are whole numbers below 2^53.
  const total = new Float64Array(columns * (height + 1));
  for (const [x0, y0, x1, y1] of layout.boxes.map((box) => box.map(Math.fround))) {
    const across = impulses(fixed(x0, width), fixed(x1, width), width);
    const down = impulses(fixed(y0, height), fixed(y1, height), height);
    for (const [y, weightY] of down) {
      for (const [x, weightX] of across) total[y * columns + x] += weightY * weightX;
    }
  }
  const image = new Float32Array(width * height);
  for (let y = 0; y < height; y++) {
    let sum = 0;
    for (let x = 0; x < width; x++) {
      sum += total[y * columns + x];
      const above = y === 0 ? 0 : total[(y - 1) * columns + x];
      total[y * columns + x] = sum + above;
      image[y * width + x] = Math.min(1, total[y * columns + x] / (ONE * ONE) / MOST_DEPTH);
    }
  }
  return { image, height };
}

/** Return the positions and weights whose running sum is the coverage from first to last. */
function impulses(first, last, length) {
  const end = Math.max(first, last);
  const [a, b] = [first, end].map((edge) => Math.min(Math.floor(edge / ONE), length - 1));
  const [u, v] = [first - a * ONE, end - b * ONE];
  return [[a, ONE - u], [a + 1, u], [b, v - ONE], [b + 1, -v]];
}

/** Return a picture as grey values / 255 at a width. Of pictures of that width they are exact. */
async function readPicture(file, width, maxHeight) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Error("The picture is damaged.");
  }
  if (bitmap.width > MOST_SIDE || bitmap.height > MOST_SIDE) {
    throw new Error("The picture is too large.");
  }
  const rows = scaledHeight(bitmap.width, bitmap.height, width);
  if (rows * width > MOST_AREA || bitmap.width * bitmap.height > MOST_AREA) {
    throw new Error("The picture is too large.");
  }
  const surface = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = surface.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  let grey = new Float64Array(bitmap.width * bitmap.height);
  for (let at = 0; at < grey.length; at++) {
    const [r, g, b] = data.subarray(4 * at, 4 * at + 3);
    grey[at] = Math.floor(((0.299 * r + 0.587 * g + 0.114 * b + 0.5) * data[4 * at + 3]) / 255);
  }
  if (bitmap.width !== width || bitmap.height !== rows) {
    grey = shrunk(grey, bitmap.width, bitmap.height, width, rows);
  }
  const height = Math.min(rows, maxHeight);
  return { image: Float32Array.from(grey.subarray(0, width * height), (v) => v / 255), height };
}

/** Return grey values resized by means over boxes, first along rows, then along columns. */
function shrunk(grey, width, height, toWidth, toHeight) {
  const narrow = new Float64Array(toWidth * height);
  ranges(width, toWidth).forEach(([first, last], x) => {
    for (let y = 0; y < height; y++) {
      let sum = 0;
      for (let i = first; i < last; i++) sum += grey[y * width + i];
      narrow[y * toWidth + x] = Math.floor(sum / (last - first) + 0.5);
    }
  });
  const small = new Float64Array(toWidth * toHeight);
  ranges(height, toHeight).forEach(([first, last], y) => {
    for (let x = 0; x < toWidth; x++) {
      let sum = 0;
      for (let i = first; i < last; i++) sum += narrow[i * toWidth + x];
      small[y * toWidth + x] = Math.floor(sum / (last - first) + 0.5);
    }
  });
  return small;
}

/** Return which positions each new position is the mean of: [first, last) each. */
function ranges(from, to) {
  const scale = from / to;
  const support = Math.max(scale, 1) / 2;
  return Array.from({ length: to }, (_, at) => {
    const centre = (at + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - support + 0.5));
    const last = Math.min(from, Math.floor(centre + support + 0.5));
    return last > first ? [first, last] : [first, first + 1];
  });
}
