// The page "Map": all pages as points; what they are coloured by; the chosen page and its like.

import { COLOURS, coloursOf, columnsOf, groupsOf, TITLES } from "./colours.js";
import { connectSearch, element, listPages, namedPages, neighboursOf, showCard, thumbnail } from "./lists.js";
import { PageMap } from "./map.js";
import { Atlas } from "./store.js";

const MOST_FOUND = 24;
const HOVER_DELAY = 120; // ms; a pointer that crosses the map must not fetch every block
const $ = (id) => document.getElementById(id);

function report(text) {
  $("status").textContent = text;
}

/** Run a task and report its error in the page. */
async function guarded(task) {
  try {
    return await task();
  } catch (error) {
    report(`Error: ${error.message}`);
  }
}

function hintOf(column, groups) {
  const isCluster = column === "cluster";
  const typical = isCluster ? ", with its typical page (the one nearest to its middle)" : "";
  const meaning = isCluster ? "Clusters are groups of pages that the model finds alike. " : "";
  const grey = groups > COLOURS.length ? ` All after the largest ${COLOURS.length} are grey.` : "";
  return `${meaning}Click a ${column} to show it alone${typical}; click it again to show all pages.${grey}`;
}

class Overview {
  constructor(atlas) {
    this.atlas = atlas;
    this.chosen = null;
    this.before = null;
    this.choices = 0;
    this.alone = null;
    this.map = new PageMap($("map"), atlas, {
      onChoose: (row) => this.choose(row),
      onMove: (row) => guarded(async () => {
        const page = await atlas.page(row);
        report(`${page.id}, ${page.label}. Enter chooses it.`);
      }),
      onHover: (row, x, y) => this._hover(row, x, y),
    });
    this.map.followSize();
    this._connect();
    this.colour(columnsOf(atlas)[0]);
  }

  /** Choose a page: show it, its links, and the pages most like it. */
  choose(row, title = "Chosen page") {
    return guarded(async () => {
      const { atlas } = this;
      // A page whose block arrives late must not replace one that was chosen after it.
      const choice = ++this.choices;
      const page = await atlas.page(row);
      if (choice !== this.choices) return;
      if (this.chosen !== null && this.chosen.row !== row) this.before = this.chosen;
      this._hover(null);
      if (this.alone !== null && this.groupOf[row] !== this.alone) this._showAll();
      this.chosen = page;
      this.map.mark("", row);
      $("hint").hidden = true;
      $("chosen").hidden = false;
      $("page-title").textContent = title;
      const isCurrent = () => choice === this.choices;
      await showCard($("card"), title, atlas, page, isCurrent);
      if (!isCurrent()) return;
      this._links();
      report(`${title}: ${page.id}.`);
      await listPages($("like"), atlas, neighboursOf(page), (near) => this.choose(near), isCurrent);
      if (!isCurrent()) return;
      const images = Array.from($("chosen").querySelectorAll("img"));
      await Promise.all(images.map((image) => image.decode().catch(() => {})));
      $("page-title").parentElement.scrollIntoView({ block: "nearest" });
      history.replaceState(null, "", `#page=${row}`);
    });
  }

  /** Colour the points by a column and list what the colours stand for. */
  colour(column) {
    const { colours, legend, groupOf } = coloursOf(this.atlas, column);
    Object.assign(this, { column, groupOf, allColours: colours });
    this._showAll();
    $("colour").value = column;
    const groups = groupsOf(this.atlas, column);
    $("legend-hint").textContent = groupOf === null
      ? "From the smallest to the largest values."
      : hintOf(column, groups.length);
    $("legend").replaceChildren(...legend.map((entry, at) => {
      const swatch = element("span", { className: "swatch" });
      swatch.style.background = entry.colour;
      const name = element("span", { className: "name", textContent: entry.name, dir: "auto" });
      if (groupOf === null) return element("li", {}, swatch, name);
      const button = element("button", { type: "button", "aria-pressed": "false" }, swatch, name);
      button.onclick = () => this._isolate(button, entry.group, groups[at]);
      return element("li", {}, button);
    }));
  }

  /** Show the points of one group alone, or all again. */
  _isolate(button, group, { name, typical }) {
    const isOn = button.getAttribute("aria-pressed") !== "true";
    this._showAll();
    if (!isOn) return;
    button.setAttribute("aria-pressed", "true");
    this.alone = group;
    this.map.colours = this.allColours.map((colour, row) =>
      (this.groupOf[row] === group ? colour : 0));
    this.map.draw();
    const count = this.groupOf.reduce((sum, other) => sum + (other === group), 0);
    $("alone").querySelector("span").textContent =
      `Only ${name}: ${count.toLocaleString("en")} of ${this.atlas.pages.toLocaleString("en")} pages`;
    $("alone").hidden = false;
    if (typical !== undefined) this.choose(typical, `Typical page of ${name}`);
  }

  _showAll() {
    this.alone = null;
    for (const button of $("legend").querySelectorAll("button")) {
      button.setAttribute("aria-pressed", "false");
    }
    $("alone").hidden = true;
    this.map.colours = this.allColours;
    this.map.draw();
  }

  _links() {
    if (!this.atlas.opens) return;
    const { row } = this.chosen;
    $("open").href = `latent.html#page=${row}`;
    $("morph").hidden = this.before === null;
    $("morph-hint").hidden = this.before !== null;
    if (this.before === null) return;
    $("morph").href = `latent.html#page=${this.before.row}&to=${row}`;
    $("morph-from").textContent = this.before.id;
  }

  _hover(row, x, y) {
    clearTimeout(this.timer);
    $("hover").hidden = true;
    if (row === null) return;
    this.hovered = row;
    this.timer = setTimeout(() => guarded(async () => {
      const page = await this.atlas.page(row);
      const image = await thumbnail(this.atlas, row);
      if (this.hovered !== row) return;
      const box = $("map").getBoundingClientRect();
      $("hover").replaceChildren(image, ...[page.id, page.label].map((text) =>
        element("span", { className: "name", textContent: text, dir: "auto" })));
      $("hover").style.left = `${Math.min(x + 16, box.width - 150)}px`;
      $("hover").style.top = `${Math.max(0, Math.min(y + 16, box.height - 190))}px`;
      $("hover").hidden = false;
    }), HOVER_DELAY);
  }

  _connect() {
    $("colour").append(...columnsOf(this.atlas).map((column) =>
      element("option", { value: column, textContent: TITLES[column] ?? column })));
    $("colour").onchange = () => this.colour($("colour").value);
    connectSearch(this.atlas, $("search"), $("found"), $("found-text"), MOST_FOUND,
      (row) => this.choose(row), guarded);
    $("alone").querySelector("button").onclick = () => this._showAll();
    this.map.connect($("zoom"));
    if (!this.atlas.opens) document.querySelectorAll(".opens").forEach((link) => link.remove());
  }
}

await guarded(async () => {
  const atlas = await Atlas.open(new URL("../", import.meta.url));
  const overview = new Overview(atlas);
  const show = () => {
    const [row] = namedPages(atlas);
    if (row !== null) overview.choose(row);
  };
  window.addEventListener("hashchange", show);
  window.overview = overview;
  $("total").textContent = atlas.pages.toLocaleString("en");
  report("");
  show();
  document.body.dataset.ready = "true";
});
