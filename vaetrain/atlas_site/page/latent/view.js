// Parts of the page: pictures of pages, buttons that save them, and lists of pages.

import { layoutOf, svgOf } from "./regions.js";

/** Make an element with properties and children; text is set as text, never as markup. */
export function element(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("aria-") || key === "role") node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children);
  return node;
}

/** Draw a picture, grey values in [0, 1], on a canvas of its size. */
export function paint(canvas, image, width, height, brightness) {
  canvas.width = width;
  canvas.height = height;
  const pixels = new ImageData(width, height);
  const bytes = pixels.data; // clamps to 0..255
  for (let at = 0; at < width * height; at++) {
    const grey = Math.round(image[at] * brightness * 255);
    bytes[4 * at] = bytes[4 * at + 1] = bytes[4 * at + 2] = grey;
    bytes[4 * at + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

/** A computed page with the buttons that save it. */
export class Result {
  constructor(place, name, brightness) {
    this.name = name;
    this.brightness = brightness;
    this.canvas = element("canvas", { width: 1, height: 1, role: "img", "aria-label": name });
    this.text = element("p", { className: "hint" });
    const save = (title, ending, make) =>
      element("button", { type: "button", disabled: true, textContent: title, onclick: () => {
        download(`${this.name.replaceAll(/[^\w-]+/g, "-")}.${ending}`, make());
      } });
    this.buttons = [
      save("Save SVG", "svg", () => svgOf(this.image, this.width, this.height, brightness)),
      save("Save layout", "json", () => layoutOf(this.image, this.width, this.height)),
    ];
    const row = element("div", { className: "row" }, ...this.buttons);
    place.replaceChildren(
      element("div", { className: "result" }, this.canvas, this.text, row),
    );
  }

  /** Show a picture; the name is that of the saved files. */
  show(image, width, height, name, text) {
    Object.assign(this, { image, width, height, name });
    paint(this.canvas, image, width, height, this.brightness);
    this.canvas.setAttribute("aria-label", `${name}, ${width} x ${height} pixels`);
    this.text.textContent = text;
    for (const button of this.buttons) button.disabled = false;
  }
}

function download(name, content) {
  const url = URL.createObjectURL(new Blob([content]));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/** Return an image of a page's thumbnail. */
export async function thumbnail(atlas, row) {
  const url = URL.createObjectURL(await atlas.picture(row));
  const done = () => URL.revokeObjectURL(url);
  return element("img", { alt: "", src: url, onload: done, onerror: done });
}

/** Show a list of pages as buttons; `pages` has { row, distance? }. */
export async function listPages(list, atlas, pages, onChoose) {
  const items = await Promise.all(pages.map(async ({ row, distance }) => {
    const page = await atlas.page(row);
    const lines = [page.id, page.label];
    if (distance !== undefined) lines.push(`distance ${distance.toFixed(3)}`);
    const button = element("button", { type: "button", onclick: () => onChoose(row) },
      await thumbnail(atlas, row), ...lines.map((line) => named(line)));
    button.title = page.id;
    return element("li", {}, button);
  }));
  list.replaceChildren(...items);
}

/** Show one chosen page. */
export async function showCard(card, title, atlas, page) {
  const facts = [
    ["label", page.label],
    ["template", page.template],
    ["height", `${page.height} rows`],
    ["error", page.error.toPrecision(3)],
  ];
  if (page.cluster >= 0) facts.push(["cluster", String(page.cluster)]);
  card.replaceChildren(
    element("strong", { textContent: title }),
    await thumbnail(atlas, page.row),
    named(page.id),
    ...facts.map(([name, value]) => named(`${name}: ${value}`)),
  );
  card.dataset.row = page.row;
}

function named(text) {
  return element("span", { className: "name", textContent: text, dir: "auto" });
}
