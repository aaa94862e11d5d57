"""Random draws that belong to the sample: a counter-based generator on any device.

Every draw is a pure function of (seed, epoch, sample id, purpose, position), so how a batch is cut
over ranks, workers and accumulation steps changes nothing. The generator is splitmix64 (Steele, Lea
and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014), whose n-th output needs
no state: it mixes `key + (n + 1) * GAMMA`. All of it is int64 tensor arithmetic, which wraps like
the paper's unsigned one, on whatever device the inputs are; nothing is ever read by the host.
"""

import hashlib
import math

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15 - 2**64  # the golden ratio's bits, as the signed number torch wants
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def sample_keys(seed: int, epochs: Tensor, ids: Tensor, purpose: str) -> Tensor:
    """One 64-bit key per sample for one purpose.

    Args:
        seed: any integer.
        epochs, ids: Long (B,), or of shapes that broadcast.
        purpose: what the draws are for; other purposes get independent draws.

    Returns: Long (B,).
    """
    # hashlib, not hash(): Python salts the latter, so that every rank would draw something else.
    digest = hashlib.blake2b(f"{purpose}/{seed}".encode(), digest_size=8).digest()
    root = int.from_bytes(digest, "little", signed=True)
    return random_bits(random_bits(root, epochs), ids)


def random_bits(keys: Tensor | int, positions: Tensor) -> Tensor:
    """Output number `positions` (from 0) of splitmix64 seeded with `keys`: 64 mixed bits.

    Args:
        keys: Long (...) or one signed 64-bit integer.
        positions: Long (...), any values; broadcast against the keys.

    Returns: Long of the broadcast shape.
    """
    z = (positions + 1) * _GAMMA + keys
    # In place from here: on a CPU the passes over memory are what noise for every pixel costs.
    z.bitwise_xor_(_shifted(z, 30)).mul_(_MIX_1)
    z.bitwise_xor_(_shifted(z, 27)).mul_(_MIX_2)
    return z.bitwise_xor_(_shifted(z, 31))


def uniform(keys: Tensor, positions: Tensor) -> Tensor:
    """Float32 in [0, 1), exact multiples of 2^-24, of the broadcast shape of the arguments."""
    return _shifted(random_bits(keys, positions), 40).float().mul_(2.0**-24)


def normal(keys: Tensor, positions: Tensor) -> Tensor:
    """Standard normal float32 (Box and Muller, 1958), of the broadcast shape of the arguments.

    The two uniforms are the halves of one 64-bit output; none is beyond 6.7 standard deviations.
    """
    bits = random_bits(keys, positions)
    radius = _shifted(bits, 32).add_(1).float().mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
    angle = bits.bitwise_and_(0xFFFFFFFF).float().mul_(2.0 * math.pi * 2.0**-32)
    return radius.mul_(angle.cos_())


def pixel_bits(keys: Tensor, height: int, width: int) -> Tensor:
    """Sixteen random bits for every pixel, int16 (B, height, width), from keys (B,).

    Four pixels side by side share one output: a fourth of the work where a whole image needs noise.
    """
    bits = random_bits(keys.view(-1, 1, 1), grid_positions(height, -(-width // 4), keys.device))
    return bits.view(torch.int16)[:, :, :width]


def grid_positions(height: int, width: int, device: torch.device | str) -> Tensor:
    """The position of every pixel, Long (height, width): `y << 32 | x`.

    It doesn't depend on the size, so that a page gets the same noise however far it is padded.
    """
    rows = torch.arange(height, device=device).unsqueeze(1)
    return rows.bitwise_left_shift(32) + torch.arange(width, device=device)


def _shifted(bits: Tensor, places: int) -> Tensor:
    """`bits >> places` with zeros shifted in; torch's own shift copies the sign."""
    return bits.bitwise_right_shift(places).bitwise_and_((1 << (64 - places)) - 1)
