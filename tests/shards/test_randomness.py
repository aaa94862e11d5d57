"""The counter-based generator against a big-integer reference, and its statistics."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from shards.randomness import grid_positions, normal, pixel_bits, random_bits, sample_keys, uniform

MASK = 2**64 - 1


def splitmix64(key: int, position: int) -> int:
    """Return a SplitMix64 output of unsigned big integers, as the paper and Java define it."""
    z = (key + (position + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def keys_of(count: int, purpose: str = "test", seed: int = 1, epoch: int = 0) -> torch.Tensor:
    ids = torch.arange(count)
    return sample_keys(seed, torch.full_like(ids, epoch), ids, purpose)


def ks_distance(values: torch.Tensor, cdf) -> float:
    """Return the Kolmogorov-Smirnov distance; above 1.95 / sqrt(n) for n values with p = 0.001."""
    ordered = values.double().flatten().sort().values
    steps = torch.arange(len(ordered) + 1, dtype=torch.double) / len(ordered)
    expected = cdf(ordered)
    return max((steps[1:] - expected).max().item(), (expected - steps[:-1]).max().item())


def normal_cdf(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def test_published_outputs_of_splitmix64():
    # The first outputs for the seed 1234567, the test vector of most published ports.
    bits = random_bits(torch.tensor(1234567), torch.arange(3))
    assert [b & MASK for b in bits.tolist()] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_random_bits_equal_the_big_integer_reference():
    extremes = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 0x0123456789ABCDEF])
    keys, positions = extremes.unsqueeze(1), extremes.unsqueeze(0)
    bits = random_bits(keys, positions)
    for key, row in zip(extremes.tolist(), bits.tolist(), strict=True):
        for position, value in zip(extremes.tolist(), row, strict=True):
            assert value & MASK == splitmix64(key, position)


def test_inputs_are_not_modified():
    keys, positions = keys_of(3), torch.arange(3)
    normal(keys, positions), uniform(keys, positions)
    assert torch.equal(keys, keys_of(3))
    assert torch.equal(positions, torch.arange(3))


def test_sample_keys_are_stable_over_versions():
    # A changed key changes every resumed run: these numbers must never move.
    keys = sample_keys(7, torch.tensor([0, 3]), torch.tensor([5, 10**9]), "eps")
    assert keys.tolist() == [-6777085404007283946, -785074743776971030]


def test_uniform_statistics():
    u = uniform(keys_of(64).view(-1, 1), torch.arange(2000))
    assert u.dtype == torch.float32
    assert u.min() >= 0
    assert u.max() < 1
    assert torch.equal(u * 2**24, (u * 2**24).round())
    assert ks_distance(u, lambda x: x) < 1.95 / math.sqrt(u.numel())


def test_normal_statistics():
    n = normal(keys_of(64).view(-1, 1), torch.arange(2000))
    assert n.dtype == torch.float32
    assert torch.isfinite(n).all()
    assert ks_distance(n, normal_cdf) < 1.95 / math.sqrt(n.numel())
    moments = [(n.double() ** power).mean().item() for power in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.06)


def test_normal_is_finite_at_every_extreme_of_its_bits(monkeypatch):
    extremes = torch.tensor([0, -1, 0xFFFFFFFF, -(2**32), 2**63 - 1, -(2**63)])
    monkeypatch.setattr("shards.randomness.random_bits", lambda keys, positions: extremes.clone())
    n = normal(torch.tensor(0), torch.arange(len(extremes)))
    assert torch.isfinite(n).all()
    assert n.abs().max() < 6.7


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("purposes", lambda: keys_of(100, purpose="other")),
        ("seeds", lambda: keys_of(100, seed=2)),
        ("epochs", lambda: keys_of(100, epoch=1)),
        ("ids", lambda: keys_of(101)[1:]),
    ],
)
def test_independence_between(name, other):
    positions = torch.arange(1000)
    a = normal(keys_of(100).view(-1, 1), positions)
    b = normal(other().view(-1, 1), positions)
    n = a.numel()
    assert abs((a * b).mean().item()) < 4 / math.sqrt(n), name
    assert abs(((a**2 - 1) * (b**2 - 1)).mean().item()) < 4 * 2 / math.sqrt(n), name


def test_independence_between_neighbouring_pixels():
    field = normal(keys_of(1), grid_positions(300, 300, "cpu"))
    for near in (field[1:, :] * field[:-1, :], field[:, 1:] * field[:, :-1]):
        assert abs(near.mean().item()) < 4 / math.sqrt(near.numel())


def test_every_bit_is_fair():
    bits = random_bits(keys_of(50).view(-1, 1), torch.arange(400))
    for place in range(64):
        ones = (bits >> place & 1).double().mean().item()
        assert abs(ones - 0.5) < 4.5 * 0.5 / math.sqrt(bits.numel())


def test_same_draws_in_any_partition_of_the_batch():
    positions = grid_positions(37, 53, "cpu")
    keys = keys_of(6)
    for draw in (random_bits, uniform, normal):
        whole = draw(keys.view(-1, 1, 1), positions)
        order = torch.tensor([4, 0, 5, 2, 1, 3])
        for part in order.split([1, 2, 3]):
            assert torch.equal(draw(keys[part].view(-1, 1, 1), positions), whole[part])


def test_a_position_does_not_depend_on_the_size():
    large = grid_positions(700, 300, "cpu")
    assert torch.equal(grid_positions(40, 20, "cpu"), large[:40, :20])
    assert large[699, 299] == (699 << 32) + 299


def test_pixel_bits_are_uniform_independent_and_do_not_depend_on_the_size():
    bits = pixel_bits(keys_of(3), 300, 101)
    assert (bits.shape, bits.dtype) == ((3, 300, 101), torch.int16)
    assert torch.equal(pixel_bits(keys_of(3)[1:2], 40, 33), bits[1:2, :40, :33])
    assert ks_distance((bits.double() + 32768) / 65536, lambda x: x) < 1.95 / math.sqrt(90_900)
    values = bits.double() / 2**15
    for near in (values[:, :, 1:] * values[:, :, :-1], values[:, 1:] * values[:, :-1]):
        assert abs(near.mean().item()) < 4 / 3 / math.sqrt(near.numel())


def test_fake_cuda_tensors_work_without_synchronising():
    with FakeTensorMode():
        ids = torch.zeros(4, dtype=torch.long, device="cuda")
        keys = sample_keys(0, ids, ids, "eps").view(-1, 1, 1)
        positions = grid_positions(8, 5, ids.device)
        for draw, dtype in (
            (random_bits, torch.long),
            (uniform, torch.float),
            (normal, torch.float),
        ):
            out = draw(keys, positions)
            assert (out.shape, out.dtype, out.device.type) == ((4, 8, 5), dtype, "cuda")


# On a CPU, test_fake_cuda_tensors_work_without_synchronising stands in.
@pytest.mark.gpu
def test_a_gpu_gives_the_same_bits():
    keys, positions = keys_of(5).view(-1, 1), torch.arange(1000)
    for draw in (random_bits, uniform):
        assert torch.equal(draw(keys.cuda(), positions.cuda()).cpu(), draw(keys, positions))
    torch.testing.assert_close(
        normal(keys.cuda(), positions.cuda()).cpu(), normal(keys, positions), rtol=0, atol=1e-5
    )
