// Reader of the atlas' files: its description, and the pages in blocks.

const KEPT_BLOCKS = 12;
const KINDS = {
  texts: (response) => response.json(),
  pictures: (response) => response.arrayBuffer(),
  latents: async (response) => new Float32Array(await response.arrayBuffer()),
  vectors: async (response) => fromHalf(new Uint16Array(await response.arrayBuffer())),
};
const FILES = {
  texts: (block) => `pages/blocks/${block}.json`,
  pictures: (block) => `pages/blocks/${block}.png.bin`,
  latents: (block) => `latent/blocks/${block}.mu.bin`,
  vectors: (block) => `latent/blocks/${block}.vectors.bin`,
};

export class Atlas {
  /** Open the atlas at the URL `base`, which ends with a slash; `model`: with what the model needs. */
  static async open(base, { model = false } = {}) {
    const json = (response) => response.json();
    const [description, points, more] = await Promise.all([
      get(base, "pages/pages.json", json),
      get(base, "pages/points.bin", (response) => response.arrayBuffer()),
      model ? get(base, "latent/latent.json", json) : {},
    ]);
    return new Atlas(base, { ...description, ...more }, points);
  }

  constructor(base, description, points) {
    Object.assign(this, description);
    this.base = base;
    const column = (Kind, number) => new Kind(points, 4 * number * this.pages, this.pages);
    [this.x, this.y, this.heights, this.errors] = [0, 1, 2, 3].map((n) => column(Float32Array, n));
    [this.clusterOf, this.labelOf, this.templateOf] = [4, 5, 6].map((n) => column(Int32Array, n));
    this.kept = new Map();
  }

  get blocks() {
    return Math.ceil(this.pages / this.block);
  }

  /** Return one kind of values of a block; the most recent ones are kept. */
  read(kind, number) {
    const name = FILES[kind](number);
    const known = this.kept.get(name);
    const found = known ?? get(this.base, name, KINDS[kind]);
    this.kept.delete(name);
    this.kept.set(name, found);
    found.catch(() => this.kept.delete(name));
    if (this.kept.size > KEPT_BLOCKS * 3) this.kept.delete(this.kept.keys().next().value);
    return found;
  }

  /** Return texts and numbers of a page. */
  async page(row) {
    const { texts, at } = await this._textsOf(row);
    const names = ["id", "label", "template", "height", "error", "cluster", "neighbours", "distances"];
    return { row, ...Object.fromEntries(names.map((name) => [name, texts[name][at]])) };
  }

  /** Return the thumbnail of a page as a PNG file. */
  async picture(row) {
    const { texts, block, at } = await this._textsOf(row);
    const bytes = await this.read("pictures", block);
    const start = at === 0 ? 0 : texts.ends[at - 1];
    return new Blob([bytes.slice(start, texts.ends[at])], { type: "image/png" });
  }

  /** Return the latent of a page. */
  async latent(row) {
    const block = Math.floor(row / this.block);
    const at = (row - block * this.block) * this.dimensions;
    return (await this.read("latents", block)).slice(at, at + this.dimensions);
  }

  /** Return rows and distances of the `count` pages nearest to an embedding, nearest first. */
  async nearest(vector, count, progress = () => {}) {
    let found = [];
    for (let block = 0; block < this.blocks; block++) {
      progress(block / this.blocks);
      const vectors = await this.read("vectors", block);
      for (let at = 0, row = block * this.block; at < vectors.length; at += vector.length, row++) {
        let sum = 0;
        for (let i = 0; i < vector.length; i++) {
          const difference = vectors[at + i] - vector[i];
          sum += difference * difference;
        }
        if (found.length < count || sum < found[found.length - 1].sum) {
          found.push({ row, sum });
          found.sort((a, b) => a.sum - b.sum || a.row - b.row);
          found = found.slice(0, count);
        }
      }
    }
    return found.map(({ row, sum }) => ({ row, distance: Math.sqrt(sum) }));
  }

  /**
   * Find the pages that have every word of a text in their id, label or template. Return the first
   * `count` rows, and the number of all; a text that comes before the last block was read ends it.
   */
  async search(text, count) {
    const words = text.toLowerCase().split(/\s+/);
    const search = (this.searches = (this.searches ?? 0) + 1);
    const rows = [];
    let all = 0;
    for (let block = 0; block < this.blocks && search === this.searches; block++) {
      const texts = await this.read("texts", block);
      for (let at = 0; at < texts.id.length; at++) {
        const names = [texts.id[at], texts.label[at], texts.template[at]].join("\n").toLowerCase();
        if (!words.every((word) => names.includes(word))) continue;
        if (all++ < count) rows.push(block * this.block + at);
      }
    }
    return { rows, all };
  }

  async _textsOf(row) {
    const block = Math.floor(row / this.block);
    return { texts: await this.read("texts", block), block, at: row - block * this.block };
  }
}

async function get(base, name, convert) {
  const response = await fetch(new URL(name, base));
  if (!response.ok) throw new Error(`${name}: cannot be read (${response.status})`);
  return convert(response);
}

/** Convert numbers of half precision (IEEE 754 binary16) to a Float32Array. */
export function fromHalf(halves) {
  const numbers = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) {
    const bits = halves[i];
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    const size = exponent === 0
      ? fraction * 2 ** -24
      : (1 + fraction / 1024) * 2 ** (exponent - 15);
    numbers[i] = bits & 0x8000 ? -size : size;
  }
  return numbers;
}
