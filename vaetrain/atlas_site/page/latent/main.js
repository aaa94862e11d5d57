// The page "Latent": connects the controls with the model.

import { connectSearch, element, listPages, namedPages, neighboursOf, showCard } from "../pages/lists.js";
import { PageMap } from "../pages/map.js";
import { Atlas } from "../pages/store.js";
import { readFile } from "./draw.js";
import { Models } from "./models.js";
import { between, heightBetween, moved } from "./paths.js";
import { paint, Result } from "./view.js";

const LIKE_FILE = 12; // pages shown for a dropped file
const MOST_FOUND = 24;
const MOST_NAME = 40; // characters of an id in the name of a file
const PLACING = 5; // pages whose mean place is a dropped file's place on the map
const $ = (id) => document.getElementById(id);

function report(text) {
  $("status").textContent = text;
}

/** Return a function that runs a task again if it was requested while it ran. */
function latest(task) {
  let running = false;
  let again = false;
  return async () => {
    if (running) {
      again = true;
      return;
    }
    running = true;
    do {
      again = false;
      await guarded(task);
    } while (again);
    running = false;
  };
}

/** Run a task and report its error in the page. */
async function guarded(task) {
  try {
    return await task();
  } catch (error) {
    report(`Error: ${error.message}`);
  }
}

class LatentPage {
  constructor(atlas) {
    this.atlas = atlas;
    this.models = new Models(atlas);
    this.chosen = { A: null, B: null };
    this.choices = { A: 0, B: 0 };
    this.map = new PageMap($("map"), atlas, {
      onChoose: (row) => this.choose(row),
      onMove: (row) => guarded(async () => {
        const page = await atlas.page(row);
        report(`${page.id}, ${page.label}. Enter chooses it.`);
      }),
    });
    const result = (id, name) => new Result($(id), name, atlas.brightness);
    this.results = {
      morph: result("morph", "morph"),
      vary: result("vary", "variation"),
      chosen: result("chosen", "sample"),
      dropped: result("dropped", "file"),
      rebuilt: result("rebuilt", "reconstruction"),
    };
    this.morph = latest(() => this._morph());
    this.vary = latest(() => this._vary());
    this.sample = latest(() => this._sample());
    this._connect();
  }

  get target() {
    return document.querySelector("input[name=target]:checked").value;
  }

  /** Choose a page as A or B; the choice then goes to the other one. */
  choose(row, letter = this.target) {
    const other = letter === "A" ? "B" : "A";
    // Before the page is read, so that a second click during this sets the other page.
    document.querySelector(`input[name=target][value=${other}]`).checked = true;
    const choice = ++this.choices[letter];
    const isCurrent = () => choice === this.choices[letter];
    return guarded(async () => {
      const page = await this.atlas.page(row);
      page.mu = await this.atlas.latent(row);
      if (!isCurrent()) return;
      this.chosen[letter] = page;
      this.map.mark(letter, row);
      await showCard($(`card-${letter}`), `Page ${letter}`, this.atlas, page, isCurrent);
      if (!isCurrent()) return;
      report(`Page ${letter}: ${page.id}. The next choice sets page ${other}.`);
      if (letter === "A") {
        await listPages($("like-A"), this.atlas, neighboursOf(page), (near) =>
          this.choose(near), isCurrent);
      }
      await Promise.all([this.morph(), this.vary()]);
    });
  }

  async _morph() {
    const { A, B } = this.chosen;
    const share = Number($("share").value) / 100;
    $("share-text").textContent = `${Math.round(100 * share)} %`;
    if (!A || !B) return;
    const z = Float32Array.from(between(Array.from(A.mu), Array.from(B.mu), share));
    const height = heightBetween(A.height, B.height, share);
    await this._decoded("morph", z, height, `morph-${Math.round(100 * share)}-${A.id.slice(0, MOST_NAME)}-${B.id.slice(0, MOST_NAME)}`);
  }

  async _vary() {
    const { A } = this.chosen;
    const values = ["x", "y"].map((axis) => Number($(`pad-${axis}`).value));
    const dot = $("pad").firstElementChild;
    [dot.style.left, dot.style.top] = values.map((value) => `${((value + 3) / 6) * 100}%`);
    if (!A) return;
    const z = moved(A.mu, ...["x", "y"].map((axis, at) => [this._direction(axis), values[at]]));
    await this._decoded("vary", z, A.height, "variation");
  }

  /** Return the vector of one unit on an axis of the pad. */
  _direction(axis) {
    const choice = $(`axis-${axis}`).value;
    const { A, B } = this.chosen;
    if (choice === "B") return B ? B.mu.map((value, at) => value - A.mu[at]) : A.mu.map(() => 0);
    const { axes, deviations } = this.atlas.directions;
    return axes[choice].map((value) => value * deviations[choice]);
  }

  async _decoded(name, z, height, title) {
    const [image] = await this.models.decode([z], [height]);
    this.results[name].show(image, this.atlas.width, height, title, `${height} rows`);
    this.results[name].z = z;
  }

  async _sample() {
    const { atlas } = this;
    const within = (id, least, most, otherwise) => {
      const value = Math.round(Number($(id).value));
      if ($(id).value === "" || !Number.isFinite(value)) return otherwise;
      return Math.min(most, Math.max(least, value));
    };
    const seed = within("seed", 0, atlas.roots.length - 1, 0);
    const height = within("height", 1, atlas.max_height, null);
    const label = $("label").value === "" ? null : $("label").selectedOptions[0].textContent;
    report("Sampling …");
    const count = within("count", 1, 24, 6);
    const { latents, heights } = await this.models.sample(seed, count, height, label);
    const images = await this.models.decode(latents, heights);
    const items = images.map((image, at) => {
      const canvas = element("canvas", { "aria-hidden": "true" });
      paint(canvas, image, atlas.width, heights[at], atlas.brightness);
      const name = { "aria-label": `Sample ${at}, ${heights[at]} rows` };
      const properties = { type: "button", onclick: () => show(at), ...name };
      const button = element("button", properties, canvas);
      return element("li", {}, button);
    });
    const show = (at) => {
      const title = `sample-${seed}-${at}`;
      this.results.chosen.show(images[at], atlas.width, heights[at], title, `${heights[at]} rows`);
      this.results.chosen.z = latents[at];
      items.forEach((item, other) =>
        item.firstElementChild.setAttribute("aria-pressed", String(other === at)));
    };
    $("samples").replaceChildren(...items);
    show(0);
    report(`${images.length} samples of seed ${seed}.`);
  }

  /** Show a dropped file, its reconstruction and its nearest pages, and place it on the map. */
  open(file) {
    return guarded(async () => {
      const { atlas } = this;
      report("Reading the file …");
      const { image, height } = await readFile(file, atlas.width, atlas.max_height);
      this.results.dropped.show(image, atlas.width, height, "file", "as the model sees it");
      const { mu, embedding } = await this.models.encode(image, height);
      this.results.dropped.embedding = embedding;
      await this._decoded("rebuilt", mu, height, "reconstruction");
      const near = await atlas.nearest(embedding, LIKE_FILE, (share) =>
        report(`Comparing with all pages: ${Math.round(100 * share)} %`));
      const first = near.slice(0, PLACING);
      const weights = first.map(({ distance }) => 1 / Math.max(distance, 1e-3));
      const sum = weights.reduce((a, b) => a + b, 0);
      const mean = (values) =>
        first.reduce((total, { row }, at) => total + (weights[at] / sum) * values[row], 0);
      this.map.mark("file", { x: mean(atlas.x), y: mean(atlas.y) });
      await listPages($("like-file"), atlas, near, (row) => this.choose(row));
      report("The file is marked on the map; its nearest pages are listed.");
    });
  }

  _connect() {
    const { atlas } = this;
    const option = (value, textContent) => element("option", { value, textContent });
    for (const [at, axis] of ["x", "y"].entries()) {
      const names = atlas.directions.axes.map((_, number) =>
        option(String(number), `main direction ${number + 1}`));
      $(`axis-${axis}`).append(...names, option("B", "towards page B"));
      $(`axis-${axis}`).selectedIndex = Math.min(at, names.length);
      $(`axis-${axis}`).onchange = this.vary;
      $(`pad-${axis}`).oninput = this.vary;
    }
    const labels = atlas.prior?.labels ?? [];
    $("label").append(option("", "any"), ...labels.map((label, at) => option(String(at), label)));
    $("height").max = atlas.max_height;
    if (atlas.clusters.length > 0) {
      $("typical-label").hidden = false;
      $("typical").append(option("", "…"), ...atlas.clusters.map((cluster) =>
        option(String(cluster.typical), `${cluster.name} (${cluster.size} pages)`)));
      $("typical").onchange = () => {
        if ($("typical").value !== "") this.choose(Number($("typical").value));
      };
    }
    this.map.connect($("zoom"));
    $("random").onclick = () => this.choose(Math.floor(Math.random() * atlas.pages));
    connectSearch(atlas, $("search"), $("found"), $("found-text"), MOST_FOUND,
      (row) => this.choose(row), guarded);
    $("share").oninput = this.morph;
    $("sample").onclick = this.sample;
    $("pad-reset").onclick = () => {
      $("pad-x").value = $("pad-y").value = 0;
      this.vary();
    };
    $("pad").onpointerdown = (event) => $("pad").setPointerCapture(event.pointerId);
    $("pad").onpointermove = (event) => event.buttons > 0 && this._point(event);
    $("pad").onpointerup = (event) => this._point(event);
    $("file").onchange = () => $("file").files.length > 0 && this.open($("file").files[0]);
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      $("drop").classList.add("over");
    });
    document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      $("drop").classList.remove("over");
      if (event.dataTransfer.files.length > 0) this.open(event.dataTransfer.files[0]);
    });
  }

  _point(event) {
    const box = $("pad").getBoundingClientRect();
    $("pad-x").value = (6 * (event.clientX - box.left)) / box.width - 3;
    $("pad-y").value = (6 * (event.clientY - box.top)) / box.height - 3;
    this.vary();
  }
}

await guarded(async () => {
  const atlas = await Atlas.open(new URL("../", import.meta.url), { model: true });
  const page = new LatentPage(atlas);
  const [first, second] = namedPages(atlas);
  // Without names: typical pages of the two largest clusters, which are more telling than page 0.
  const [typical, other] = atlas.clusters.map((cluster) => cluster.typical);
  await page.choose(first ?? typical ?? 0, "A");
  const like = page.chosen.A.neighbours.at(-1) ?? page.chosen.A.row;
  await page.choose(second ?? (first === null ? other : undefined) ?? like, "B");
  window.addEventListener("hashchange", async () => {
    const [row, other] = namedPages(atlas);
    if (row !== null) await page.choose(row, "A");
    if (other !== null) await page.choose(other, "B");
  });
  window.latentPage = page;
  document.body.dataset.ready = "true";
  if ($("status").textContent.startsWith("Error")) return;
  report(`${atlas.pages} pages. Choose two of them on the map or by their names.`);
});
