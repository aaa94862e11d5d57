// Computed pages as elements: pictures, and buttons that save them.

import { element } from "../pages/lists.js";
import { layoutOf, svgOf } from "./regions.js";

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
        const file = `${this.name.replaceAll(/[^\w-]+/g, "-")}.${ending}`;
        download(file, make());
        this.saved.textContent = `Saved ${file}`;
      } });
    this.buttons = [
      save("Save boxes (SVG)", "svg", () => svgOf(this.image, this.width, this.height, brightness)),
      save("Save boxes (layout JSON)", "json", () => layoutOf(this.image, this.width, this.height)),
    ];
    this.saved = element("p", { className: "hint", role: "status" });
    const row = element("div", { className: "row" }, ...this.buttons);
    place.replaceChildren(
      element("div", { className: "result" }, this.canvas, this.text, row, this.saved),
    );
  }

  /** Show a picture; the name is that of the saved files. */
  show(image, width, height, name, text) {
    Object.assign(this, { image, width, height, name });
    paint(this.canvas, image, width, height, this.brightness);
    this.canvas.setAttribute("aria-label", `${name}, ${width} x ${height} pixels`);
    this.text.textContent = text;
    this.saved.textContent = "";
    for (const button of this.buttons) button.disabled = false;
  }
}

function download(name, content) {
  const url = URL.createObjectURL(new Blob([content]));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
