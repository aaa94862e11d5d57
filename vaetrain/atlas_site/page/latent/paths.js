// Points of the latent space: paths between two latents, and planes through one.

/** Return the point at `share` in [0, 1] of the path of `vaetrain.interpolate`. */
export function between(start, end, share) {
  const lengths = [norm(start), norm(end)];
  const product = start.reduce((sum, value, at) => sum + value * end[at], 0);
  const cosine = Math.min(1, Math.max(-1, product / (lengths[0] * lengths[1])));
  const angle = Math.acos(cosine);
  if (Math.min(...lengths) === 0 || Math.sin(angle) < 1e-4) {
    return start.map((value, at) => value + share * (end[at] - value));
  }
  const length = lengths[0] + share * (lengths[1] - lengths[0]);
  const first = (Math.sin((1 - share) * angle) / Math.sin(angle) / lengths[0]) * length;
  const second = (Math.sin(share * angle) / Math.sin(angle) / lengths[1]) * length;
  return start.map((value, at) => first * value + second * end[at]);
}

/** Return the height at `share` between two heights, rounded. */
export function heightBetween(first, last, share) {
  return Math.max(1, halfEven(first + share * (last - first)));
}

/** Return the latent that lies off another one along two directions; each [vector, amount]. */
export function moved(latent, ...steps) {
  const result = Float64Array.from(latent);
  for (const [direction, amount] of steps) {
    for (let at = 0; at < result.length; at++) result[at] += amount * direction[at];
  }
  return Float32Array.from(result);
}

/** Round to a whole number, halves to the even one, as PyTorch does. */
export function halfEven(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

function norm(vector) {
  return Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0));
}
