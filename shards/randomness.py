"""Counter-based random numbers for each sample, on any device.

Every number is a pure function of (seed, epoch, sample id, purpose, position), so the numbers do
not depend on how a batch is cut into ranks, reader processes and accumulation steps. The generator
is splitmix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA
2014). Its n-th output needs no state: it mixes `key + (n + 1) * GAMMA`. The computation is int64
tensor arithmetic, which wraps like the paper's unsigned arithmetic, on the device of the inputs,
without synchronising host and device.
"""

import hashlib
import math

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15 - 2**64  # bits of the golden ratio, as a signed number for torch
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def sample_keys(seed: int, epochs: Tensor, ids: Tensor, purpose: str) -> Tensor:
    """Return one 64-bit key per sample for one purpose.

    Args:
        seed: any integer.
        epochs, ids: Long (B,), or of shapes that broadcast.
        purpose: name of the use; different purposes get independent random numbers.

    Returns: Long (B,).
    """
    return random_bits(random_bits(purpose_root(seed, purpose), epochs), ids)


def purpose_root(seed: int, purpose: str) -> int:
    """Return the signed 64-bit integer from which `sample_keys` derives all keys."""
    # Python salts hash(), so every rank would get other numbers; hashlib does not.
    digest = hashlib.blake2b(f"{purpose}/{seed}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def random_bits(keys: Tensor | int, positions: Tensor | int) -> Tensor:
    """Return output number `positions` (from 0) of splitmix64 seeded with `keys`: 64 bits.

    Args:
        keys: Long (...) or one signed 64-bit integer.
        positions: Long (...) or one integer, any values; broadcast against the keys. At least one
            of the two is a tensor.

    Returns: Long of the broadcast shape.
    """
    if isinstance(keys, Tensor) and isinstance(positions, Tensor):
        z = torch.add(keys, positions, alpha=_GAMMA).add_(_GAMMA)
    elif isinstance(keys, Tensor):
        z = keys + _signed((positions + 1) * _GAMMA)
    else:
        z = (positions * _GAMMA).add_(_signed(keys + _GAMMA))
    # In place from here: on a CPU, noise for every pixel is bound by the passes over memory.
    z.bitwise_xor_(_shifted(z, 30)).mul_(_MIX_1)
    z.bitwise_xor_(_shifted(z, 27)).mul_(_MIX_2)
    return z.bitwise_xor_(_shifted(z, 31))


def uniform(keys: Tensor, positions: Tensor | int) -> Tensor:
    """Return float32 in [0, 1), exact multiples of 2^-24, of the arguments' broadcast shape."""
    return _shifted(random_bits(keys, positions), 40).float().mul_(2.0**-24)


def normal(keys: Tensor, positions: Tensor) -> Tensor:
    """Return standard normal float32 (Box and Muller, 1958), of the arguments' broadcast shape.

    The two uniform numbers are the halves of one 64-bit output. The largest absolute value is
    below 6.7.
    """
    return normal_of_bits(random_bits(keys, positions))


def normal_of_bits(bits: Tensor) -> Tensor:
    """Return standard normal float32 from outputs of `random_bits`, which are overwritten."""
    radius = _shifted(bits, 32).add_(1).float().mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
    angle = bits.bitwise_and_(0xFFFFFFFF).float().mul_(2.0 * math.pi * 2.0**-32)
    return radius.mul_(angle.cos_())


def pixel_bits(keys: Tensor, height: int, width: int) -> Tensor:
    """Return sixteen random bits for every pixel, int16 (B, height, width), from keys (B,).

    Four pixels side by side share one 64-bit output, which is a fourth of the work.
    """
    bits = random_bits(keys.view(-1, 1, 1), grid_positions(height, -(-width // 4), keys.device))
    return bits.view(torch.int16)[:, :, :width]


def grid_positions(height: int, width: int, device: torch.device | str) -> Tensor:
    """Return the position of every pixel, Long (height, width): `y << 32 | x`.

    It does not depend on the size, so a page gets the same noise with any padding.
    """
    rows = torch.arange(height, device=device).unsqueeze(1)
    return rows.bitwise_left_shift(32) + torch.arange(width, device=device)


def _signed(number: int) -> int:
    """Return the signed 64-bit integer that equals a number modulo 2^64."""
    return (number + 2**63) % 2**64 - 2**63


def _shifted(bits: Tensor, places: int) -> Tensor:
    """Return `bits >> places` with zeros shifted in; torch's own shift copies the sign."""
    return bits.bitwise_right_shift(places).bitwise_and_((1 << (64 - places)) - 1)
