// Map of all pages on a canvas: pan, zoom, choose a page by pointer or keyboard.

import { coloursOf, columnsOf } from "./colours.js";

const FOOT = 48; // CSS pixels
const CLOSE = 14; // pixels within which a click finds a point
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class PageMap {
  /**
   * onChoose(row): a page was chosen; onMove(row): the keyboard moved to a page; onHover(row, x, y):
   * the pointer is over a page (null: over none), at this place of the canvas in CSS pixels.
   */
  constructor(canvas, atlas, { onChoose, onMove, onHover = () => {} }) {
    Object.assign(this, { canvas, atlas, onChoose, onMove, onHover });
    this.marks = new Map();
    this.cursor = null;
    this.colours = coloursOf(atlas, columnsOf(atlas)[0]).colours; // of 0: not drawn
    this.showAll();
    canvas.addEventListener("pointerdown", (event) => this._press(event));
    canvas.addEventListener("pointermove", (event) => this._drag(event));
    canvas.addEventListener("pointerup", (event) => this._release(event));
    canvas.addEventListener("pointercancel", () => (this.pressed = null));
    canvas.addEventListener("pointerleave", () => this.onHover(null));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this._zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, ...this._place(event));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this._key(event));
  }

  /** Let three buttons zoom in, zoom out and show the whole map. */
  connect(buttons) {
    const [closer, farther, whole] = buttons.querySelectorAll("button");
    closer.onclick = () => this._zoom(1.5);
    farther.onclick = () => this._zoom(1 / 1.5);
    whole.onclick = () => this.showAll();
  }

  /**
   * Give the canvas as many pixels as it has on the screen, also later when its size changes. The
   * view is kept if it was moved or zoomed.
   */
  followSize() {
    const follow = () => {
      const box = this.canvas.getBoundingClientRect();
      const density = Math.min(2, window.devicePixelRatio);
      const [width, height] = [box.width, box.height].map((side) => Math.round(side * density));
      if (width === 0 || height === 0) return;
      if (width === this.canvas.width && height === this.canvas.height) return;
      Object.assign(this.canvas, { width, height });
      if (!this.wasMoved) this.showAll();
      // At once: a new size clears the canvas, and a frame later it would flicker.
      cancelAnimationFrame(this.frame);
      this._draw();
    };
    new ResizeObserver(follow).observe(this.canvas);
    follow();
  }

  /** Show the whole map. */
  showAll() {
    this.wasMoved = false;
    const { x, y } = this.atlas;
    let [left, right, top, bottom] = [Infinity, -Infinity, Infinity, -Infinity];
    for (let row = 0; row < x.length; row++) {
      left = Math.min(left, x[row]);
      right = Math.max(right, x[row]);
      top = Math.min(top, y[row]);
      bottom = Math.max(bottom, y[row]);
    }
    const { width, height } = this.canvas;
    // The buttons on the map cover its foot.
    const foot = (FOOT * width) / (this.canvas.getBoundingClientRect().width || width);
    const free = height - foot;
    this.scale = 0.94 * Math.min(width / (right - left || 1), free / (bottom - top || 1));
    this.centre = [(left + right) / 2, (top + bottom) / 2 - foot / 2 / this.scale];
    this.draw();
  }

  /** Mark a point, { x, y } or a row, with a letter; null removes the mark. */
  mark(letter, point) {
    if (point === null) this.marks.delete(letter);
    else this.marks.set(letter, point);
    this.draw();
  }

  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this._draw());
  }

  _draw() {
    const { canvas, atlas } = this;
    const { width, height } = canvas;
    const context = canvas.getContext("2d");
    // Pixels are set directly: a call of the canvas for each of 100,000 points takes too long.
    const picture = context.createImageData(width, height);
    const pixels = new Uint32Array(picture.data.buffer);
    const spread = 0.25 * Math.sqrt((width * height) / atlas.pages);
    const side = Math.round(Math.min(0.01 * Math.max(width, height), Math.max(2, spread)));
    const insets = Array.from({ length: side }, (_, line) => {
      const [radius, away] = [side / 2, line + 0.5 - side / 2]; // of a disc
      return Math.round(radius - Math.sqrt(radius * radius - away * away));
    });
    const [left, top] = [width / 2 - side / 2, height / 2 - side / 2];
    for (let row = 0; row < atlas.pages; row++) {
      const x = Math.round(left + (atlas.x[row] - this.centre[0]) * this.scale);
      const y = Math.round(top - (atlas.y[row] - this.centre[1]) * this.scale);
      if (x < 0 || y < 0 || x > width - side || y > height - side) continue;
      if (this.colours[row] === 0) continue;
      for (let line = 0; line < side; line++) {
        const start = (y + line) * width + x;
        pixels.fill(this.colours[row], start + insets[line], start + side - insets[line]);
      }
    }
    context.putImageData(picture, 0, 0);
    const ink = getComputedStyle(canvas).color;
    if (this.cursor !== null) this._ring(context, this._at(this.cursor), ink, "");
    for (const [letter, point] of this.marks) this._ring(context, this._at(point), ink, letter);
  }

  _ring(context, [x, y], ink, letter) {
    context.strokeStyle = ink;
    context.lineWidth = 2;
    context.beginPath();
    context.arc(x, y, 8, 0, 2 * Math.PI);
    context.stroke();
    context.fillStyle = ink;
    context.font = "bold 16px system-ui, sans-serif";
    context.fillText(letter, x + 11, y + 6);
  }

  _at(point) {
    return typeof point === "number"
      ? this._screen(this.atlas.x[point], this.atlas.y[point])
      : this._screen(point.x, point.y);
  }

  _screen(x, y) {
    const { width, height } = this.canvas;
    return [
      width / 2 + (x - this.centre[0]) * this.scale,
      height / 2 - (y - this.centre[1]) * this.scale,
    ];
  }

  _place(event) {
    const box = this.canvas.getBoundingClientRect();
    const factor = this.canvas.width / box.width;
    return [(event.clientX - box.left) * factor, (event.clientY - box.top) * factor];
  }

  /** Return the page nearest to a place on the screen in a direction, or null. */
  _nearest([x, y], most, allowed = () => true) {
    let [best, found] = [most * most, null];
    for (let row = 0; row < this.atlas.pages; row++) {
      const [px, py] = this._screen(this.atlas.x[row], this.atlas.y[row]);
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance >= best || this.colours[row] === 0 || !allowed(px - x, py - y)) continue;
      [best, found] = [distance, row];
    }
    return found;
  }

  _press(event) {
    if (!event.isPrimary) return; // a second finger would move the map by leaps
    this.canvas.setPointerCapture(event.pointerId);
    this.pressed = { start: this._place(event), last: this._place(event), moved: false };
  }

  _drag(event) {
    if (!event.isPrimary) return;
    const [x, y] = this._place(event);
    if (!this.pressed) {
      this.onHover(this._nearest([x, y], CLOSE), event.offsetX, event.offsetY);
      return;
    }
    this.onHover(null);
    const { start, last } = this.pressed;
    if (Math.hypot(x - start[0], y - start[1]) > 4) this.pressed.moved = true;
    if (this.pressed.moved) this._pan(x - last[0], y - last[1]);
    this.pressed.last = [x, y];
  }

  _release(event) {
    if (!event.isPrimary) return;
    const pressed = this.pressed;
    this.pressed = null;
    if (!pressed || pressed.moved) return;
    const row = this._nearest(this._place(event), CLOSE);
    if (row !== null) this._choose(row);
  }

  _pan(x, y) {
    this.wasMoved = true;
    this.centre[0] -= x / this.scale;
    this.centre[1] += y / this.scale;
    this.draw();
  }

  _zoom(factor, x = this.canvas.width / 2, y = this.canvas.height / 2) {
    this.wasMoved = true;
    const offset = [x - this.canvas.width / 2, y - this.canvas.height / 2];
    this.centre[0] += (offset[0] / this.scale) * (1 - 1 / factor);
    this.centre[1] -= (offset[1] / this.scale) * (1 - 1 / factor);
    this.scale *= factor;
    this.draw();
  }

  _choose(row) {
    this.cursor = row;
    this.draw();
    this.onChoose(row);
  }

  _key(event) {
    if (event.key === "+" || event.key === "=") this._zoom(1.3);
    else if (event.key === "-") this._zoom(1 / 1.3);
    else if (event.key === "0") this.showAll();
    else if (event.key === "Enter" && this.cursor !== null) this._choose(this.cursor);
    else if (KEYS[event.key]) this._step(...KEYS[event.key]);
    else return;
    event.preventDefault();
  }

  _step(dx, dy) {
    const { width, height } = this.canvas;
    const from = this.cursor === null ? [width / 2, height / 2] : this._at(this.cursor);
    // Within 45 degrees of the direction; from nowhere, the page nearest to the middle.
    const row = this._nearest(from, Infinity, (x, y) => {
      const along = x * dx + y * dy;
      return this.cursor === null || (along > 0.5 && Math.abs(x * dy + y * dx) <= along);
    });
    if (row === null) return;
    this.cursor = row;
    const [x, y] = this._at(row);
    if (x < 0 || y < 0 || x > width || y > height) this._pan(width / 2 - x, height / 2 - y);
    this.draw();
    this.onMove(row);
  }
}
