// The trained model in the browser: encoding, decoding, and samples of the prior.

import * as ort from "./runtime/ort.wasm.bundle.min.mjs";
import { normal, randomBits, sampleKey, uniform } from "./random.js";

const STEPS = 32; // of Heun's method, as in vaetrain/prior/flow.py

ort.env.wasm.numThreads = 1; // several need headers that a plain static server does not send
ort.env.wasm.wasmPaths = {
  wasm: new URL("./runtime/ort-wasm-simd-threaded.wasm", import.meta.url).href,
};

export class Models {
  /** The graphs of an atlas; each is loaded when it is first used. */
  constructor(atlas) {
    this.atlas = atlas;
    this.sessions = new Map();
    this.queue = Promise.resolve();
  }

  /** Return `mu` and the embedding of a picture, Float32Array (rows * width), of `height` rows. */
  async encode(image, height) {
    const { rows, width } = this.atlas;
    const images = new Float32Array(rows * width);
    images.set(image.subarray(0, Math.min(image.length, height * width)));
    const outputs = await this._run("embedder", {
      images: new ort.Tensor("float32", images, [1, 1, rows, width]),
      heights: whole([height]),
    });
    return { mu: outputs.mu.data, embedding: outputs.embedding.data };
  }

  /** Return the pictures of latents, Float32Array (height * width) each, clipped to [0, 1]. */
  async decode(latents, heights) {
    const outputs = await this._run("decoder", {
      z: table(latents, this.atlas.dimensions),
      heights: whole(heights),
    });
    const { data, dims } = outputs.reconstruction;
    const size = dims[2] * dims[3];
    return heights.map((height, at) =>
      data.slice(at * size, at * size + height * dims[3]).map((v) => Math.min(1, Math.max(0, v))),
    );
  }

  /**
   * Draw latents and heights, as `python -m vaetrain.sample` does with the same seed.
   * height: rows of every page; null: drawn. label: a name; null: any.
   */
  async sample(seed, count, height, label) {
    const { prior, dimensions, roots } = this.atlas;
    const keys = Array.from({ length: count }, (_, number) => sampleKey(roots[seed], number));
    const noise = keys.map((key) =>
      Float32Array.from({ length: dimensions }, (_, at) => normal(key, BigInt(at))),
    );
    if (prior === null) {
      return { latents: noise, heights: keys.map(() => height ?? this.atlas.max_height) };
    }
    const number = label === null ? prior.labels.length : prior.labels.indexOf(label);
    const heights = keys.map((key) => height ?? drawnHeight(prior, key, number));
    const guidance = label === null ? 1 : prior.guidance;
    const ends = await this._integrate(noise, heights, number, guidance);
    const latents = ends.map((x) => x.map((value, at) => value * prior.std[at] + prior.mean[at]));
    return { latents, heights };
  }

  /** Integrate the prior's velocity from t = 0 to 1, see `Flow.decode_noise`. */
  async _integrate(noise, heights, label, guidance) {
    const step = 1 / STEPS;
    let x = noise;
    for (let at = 0; at < STEPS; at++) {
      const first = await this._velocity(x, at * step, heights, label, guidance);
      const ahead = x.map((row, n) => row.map((value, i) => value + step * first[n][i]));
      const second = await this._velocity(ahead, (at + 1) * step, heights, label, guidance);
      x = x.map((row, n) => row.map((v, i) => v + (step / 2) * (first[n][i] + second[n][i])));
    }
    return x;
  }

  async _velocity(x, time, heights, label, guidance) {
    const free = this.atlas.prior.labels.length;
    const wanted = await this._evaluate(x, time, heights, label);
    if (guidance === 1) return wanted;
    const without = await this._evaluate(x, time, heights, free);
    return wanted.map((row, n) =>
      row.map((value, i) => without[n][i] + guidance * (value - without[n][i])),
    );
  }

  async _evaluate(x, time, heights, label) {
    const { dimensions } = this.atlas;
    const outputs = await this._run("velocity", {
      x: table(x, dimensions),
      time: new ort.Tensor("float32", new Float32Array(x.length).fill(time), [x.length]),
      heights: whole(heights),
      labels: whole(x.map(() => label)),
    });
    const { data } = outputs.velocity;
    return x.map((_, n) => data.slice(n * dimensions, (n + 1) * dimensions));
  }

  /** Run a graph; one at a time, because the runtime has one thread. */
  _run(name, inputs) {
    const result = this.queue.then(async () => (await this._session(name)).run(inputs));
    this.queue = result.catch(() => {});
    return result;
  }

  _session(name) {
    if (!this.sessions.has(name)) {
      const url = new URL(`latent/graphs/${name}.onnx`, this.atlas.base).href;
      this.sessions.set(name, ort.InferenceSession.create(url, { executionProviders: ["wasm"] }));
    }
    return this.sessions.get(name);
  }
}

function drawnHeight(prior, key, label) {
  const all = label === prior.labels.length;
  const heights = prior.heights.filter((_, at) => all || prior.page_labels[at] === label);
  return heights[Math.floor(Math.fround(uniform(randomBits(key, -3n), 0n) * heights.length))];
}

function table(rows, columns) {
  const values = new Float32Array(rows.length * columns);
  rows.forEach((row, at) => values.set(row, at * columns));
  return new ort.Tensor("float32", values, [rows.length, columns]);
}

function whole(numbers) {
  return new ort.Tensor("int64", BigInt64Array.from(numbers, BigInt), [numbers.length]);
}
