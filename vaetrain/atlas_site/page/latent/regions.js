// A picture as boxes: the connected regions of each nesting level, for files to save.

const DEPTH = 40;
const LEAST_SIDE = 2; // pixels of a region's box
const LEAST_AREA = 12; // pixels of a region

/**
 * Return the regions of a picture as a tree { x, y, w, h, level, children }, in its pixels. The
 * region of level k around a pixel is the connected part of the pixels of at least that level, so
 * it lies in a region of level k - 1. The root is the page.
 */
export function regionsOf(image, width, height) {
  const levels = Uint8Array.from(image.subarray(0, width * height), (v) => Math.round(v * DEPTH));
  const root = { x: 0, y: 0, w: width, h: height, level: 0, children: [] };
  const highest = levels.reduce((most, level) => Math.max(most, level), 0);
  let parents = new Array(levels.length).fill(root);
  for (let level = 1; level <= highest; level++) {
    const next = parents.slice();
    const seen = new Uint8Array(levels.length);
    for (let start = 0; start < levels.length; start++) {
      if (levels[start] < level || seen[start]) continue;
      const pixels = connected(levels, level, start, width, height, seen);
      const box = boxAround(pixels, width);
      if (pixels.length < LEAST_AREA || box.w < LEAST_SIDE || box.h < LEAST_SIDE) continue;
      const region = { ...box, level, children: [] };
      parents[start].children.push(region);
      for (const pixel of pixels) next[pixel] = region;
    }
    parents = next;
  }
  return root;
}

function connected(levels, level, start, width, height, seen) {
  const pixels = [start];
  seen[start] = 1;
  for (let at = 0; at < pixels.length; at++) {
    const pixel = pixels[at];
    const x = pixel % width;
    const y = (pixel - x) / width;
    const near = [];
    if (x > 0) near.push(pixel - 1);
    if (x < width - 1) near.push(pixel + 1);
    if (y > 0) near.push(pixel - width);
    if (y < height - 1) near.push(pixel + width);
    for (const other of near) {
      if (!seen[other] && levels[other] >= level) {
        seen[other] = 1;
        pixels.push(other);
      }
    }
  }
  return pixels;
}

function boxAround(pixels, width) {
  let [left, top, right, bottom] = [Infinity, Infinity, -1, -1];
  for (const pixel of pixels) {
    const x = pixel % width;
    const y = (pixel - x) / width;
    left = Math.min(left, x);
    right = Math.max(right, x);
    top = Math.min(top, y);
    bottom = Math.max(bottom, y);
  }
  return { x: left, y: top, w: right - left + 1, h: bottom - top + 1 };
}

/** Return a layout of the compact schema that shards.build reads. */
export function layoutOf(image, width, height) {
  const root = regionsOf(image, width, height);
  const node = (region, parent) => ({
    b: [region.x - parent.x, region.y - parent.y, region.w, region.h],
    c: region.children.map((child) => node(child, region)),
  });
  // The page itself is a box of every layout; a region that fills it is that box.
  const only = root.children.length === 1 ? root.children[0] : null;
  const fills = only !== null && only.w === width && only.h === height;
  return JSON.stringify({ w: width, h: height, r: node(fills ? only : root, root) });
}

/** Return the regions as an SVG picture; deeper ones are brighter, as on the screen. */
export function svgOf(image, width, height, brightness) {
  const lines = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}">`,
    `<rect width="${width}" height="${height}" fill="#000"/>`,
  ];
  const add = (region) => {
    const grey = Math.min(255, Math.round((region.level / DEPTH) * brightness * 255));
    const { x, y, w, h } = region;
    lines.push(
      `<rect x="${x}" y="${y}" width="${w}" height="${h}" fill="rgb(${grey},${grey},${grey})"/>`,
    );
    region.children.forEach(add);
  };
  regionsOf(image, width, height).children.forEach(add);
  return [...lines, "</svg>"].join("\n");
}
