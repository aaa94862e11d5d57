// Counter-based random numbers, the same as those of shards/randomness.py.

const MASK = (1n << 64n) - 1n;
const GAMMA = 0x9e3779b97f4a7c15n;
const MIX_1 = 0xbf58476d1ce4e5b9n;
const MIX_2 = 0x94d049bb133111ebn;

/** Return output number `position` of splitmix64 seeded with `key`: 64 bits as a BigInt. */
export function randomBits(key, position) {
  let z = (key + (position + 1n) * GAMMA) & MASK;
  z = ((z ^ (z >> 30n)) * MIX_1) & MASK;
  z = ((z ^ (z >> 27n)) * MIX_2) & MASK;
  return z ^ (z >> 31n);
}

/** Return the key of sample `number`, from the root of its seed. */
export function sampleKey(root, number) {
  return randomBits(randomBits(BigInt(root), 0n), BigInt(number));
}

/** Return a number in [0, 1), a multiple of 2^-24. */
export function uniform(key, position) {
  return Number(randomBits(key, position) >> 40n) * 2 ** -24;
}

/** Return a standard normal number (Box and Muller 1958), computed in single precision. */
export function normal(key, position) {
  const bits = randomBits(key, position);
  const share = Math.fround(Number((bits >> 32n) + 1n)) * 2 ** -32;
  const radius = Math.fround(Math.sqrt(Math.fround(-2 * Math.fround(Math.log(share)))));
  const unit = Math.fround(2 * Math.PI * 2 ** -32);
  const angle = Math.fround(Math.fround(Number(bits & 0xffffffffn)) * unit);
  return Math.fround(radius * Math.fround(Math.cos(angle)));
}
