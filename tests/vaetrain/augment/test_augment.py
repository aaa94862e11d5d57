"""Augmentation: each operation against an oracle, and all of them blind to how a batch is cut."""

import dataclasses

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as oracle

from shards.reader import Batch
from vaetrain.augment.added import add_boxes
from vaetrain.augment.pipeline import Augment
from vaetrain.augment.pixels import (
    add_salt_and_pepper_,
    adjust_tone,
    corrupt,
    erase_,
    erased_rectangles,
    page_means,
)
from vaetrain.augment.policy import CHOICES, NAMES, OPS, Chance, Policy, load_policy
from vaetrain.augment.strengths import Drawn, draw_strengths
from vaetrain.augment.warp import perspective, resample, rotation
from vaetrain.config import AugmentConfig
from vaetrain.settings import ConfigError

WIDTH, ROWS = 64, 96
HEIGHTS = [96, 40, 77, 64, 96, 13]


def a_batch(heights=HEIGHTS, rows=ROWS, epoch=0) -> Batch:
    """Pages of a few random boxes each, the first box being the page."""
    boxes, owner = [], []
    for number, height in enumerate(heights):
        draw = np.random.default_rng(number)
        corners = draw.uniform(0, [WIDTH - 8, height - 8], (12, 2)).clip(0)
        sides = draw.uniform(2, 30, (12, 2))
        inner = np.concatenate([corners, (corners + sides).clip(0, [WIDTH, height])], 1)
        boxes.append(np.concatenate([[[0, 0, WIDTH, height]], inner]))
        owner += [number] * 13
    count = len(heights)
    return Batch(
        ids=torch.arange(count) + 100,
        epochs=torch.full((count,), epoch),
        heights=torch.tensor(heights),
        size=(rows, WIDTH),
        tops=torch.zeros(count, dtype=torch.long),
        canvas=torch.tensor([[WIDTH, height] for height in heights], dtype=torch.float32),
        boxes=torch.from_numpy(np.concatenate(boxes)).float(),
        owner=torch.tensor(owner),
    )


def part_of(batch: Batch, first: int, last: int, rows: int) -> Batch:
    """Pages [first, last) of a batch, padded to other rows."""
    here = slice(first, last)
    mine = (batch.owner >= first) & (batch.owner < last)
    return Batch(
        ids=batch.ids[here],
        epochs=batch.epochs[here],
        heights=batch.heights[here],
        size=(rows, WIDTH),
        tops=batch.tops[here],
        canvas=batch.canvas[here],
        boxes=batch.boxes[mine],
        owner=batch.owner[mine] - first,
    )


def as_pictures(batch: Batch) -> Batch:
    """The same pages as pixels, as shards without boxes hold them."""
    pixels = (batch.images() * 255).round().to(torch.uint8)
    return dataclasses.replace(batch, boxes=None, owner=None, pixels=pixels)


def only(name: str, magnitude: float, probability: float = 1.0) -> Augment:
    return Augment(Policy({name: Chance(probability, magnitude)}))


def named(name: str) -> Augment:
    return Augment(load_policy(AugmentConfig(policy=name)))


def drawn(strength: float, u: list[float], pages: int = 1) -> Drawn:
    spare = torch.tensor([u + [0.0] * (8 - len(u))] * pages)
    return Drawn(torch.full((pages,), strength), spare)


def a_picture(height: int = 48) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 1, height, WIDTH, generator=generator)


@pytest.mark.parametrize("kind", ["boxes", "pictures"])
def test_none_is_the_page_itself(kind):
    batch = a_batch() if kind == "boxes" else as_pictures(a_batch())
    inputs, targets = named("none")(batch, seed=0)
    assert inputs is targets
    assert torch.equal(targets, batch.images())


@pytest.mark.parametrize("name", OPS)
def test_at_no_strength_nothing_happens(name):
    inputs, targets = only(name, 0.0)(a_batch(), seed=0)
    assert torch.equal(inputs, targets)
    assert torch.equal(targets, a_batch().images())


@pytest.mark.parametrize("name", OPS)
def test_at_full_strength_something_happens_on_the_page_alone(name):
    inputs, targets = only(name, OPS[name].full)(a_batch(), seed=0)
    clean = a_batch().images()
    assert not torch.equal(inputs, clean)
    assert torch.equal(targets, clean) == OPS[name].corrupts
    for image in (inputs, targets):
        assert ((image >= 0) & (image <= 1)).all()
        for number, height in enumerate(HEIGHTS):
            assert (image[number, :, height:] == 0).all()


@pytest.mark.parametrize("kind", ["boxes", "pictures"])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "none"])
def test_a_page_is_augmented_the_same_in_any_batch(name, kind):
    batch, augment = a_batch(), named(name)
    change = as_pictures if kind == "pictures" else lambda same: same
    whole = augment(change(batch), seed=3)
    for first, last in ((0, 1), (1, 4), (4, 6)):
        for rows in (ROWS, 160):
            part = augment(change(part_of(batch, first, last, rows)), seed=3)
            for ours, theirs in zip(part, whole, strict=True):
                expected = theirs[first:last]
                if rows == ROWS:
                    assert torch.equal(ours, expected)
                else:
                    torch.testing.assert_close(ours[:, :, :ROWS], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["translate", "scale", "perspective"])
def test_what_lies_outside_the_canvas_never_enters_it(name):
    outside, nowhere = a_batch(), a_batch()
    last_of_pages = slice(12, None, 13)
    for number, height in enumerate(HEIGHTS):
        below = torch.tensor([5.0, height + 0.5, WIDTH - 5.0, height + 60.0])
        outside.boxes[last_of_pages][number] = below
    nowhere.boxes[last_of_pages] = 0
    augment = only(name, OPS[name].full)
    assert torch.equal(augment(outside, seed=0)[1], augment(nowhere, seed=0)[1])


@pytest.mark.parametrize("change", [{"seed": 4}, {"epoch": 1}])
def test_other_seeds_and_epochs_give_other_pages(change):
    augment = named("default")
    first = augment(a_batch(), seed=3)[0]
    other = augment(a_batch(epoch=change.get("epoch", 0)), seed=change.get("seed", 3))[0]
    assert not torch.equal(first, other)


def test_flipping_mirrors_the_page():
    _, flipped = only("flip", 1.0)(a_batch(), seed=0)
    torch.testing.assert_close(flipped, a_batch().images().flip(3), rtol=0, atol=1e-4)


def test_a_flip_of_boxes_is_the_flip_of_their_picture():
    _, of_boxes = only("flip", 1.0)(a_batch(), seed=0)
    _, of_pictures = only("flip", 1.0)(as_pictures(a_batch()), seed=0)
    torch.testing.assert_close(of_pictures, of_boxes, rtol=0, atol=1 / 255)


@pytest.mark.parametrize("degrees", [-30.0, 5.0, 90.0])
def test_rotation_is_torchvisions(degrees):
    picture, heights = a_picture(WIDTH), torch.tensor([WIDTH])
    matrix = rotation(torch.tensor([degrees]), torch.tensor([[WIDTH / 2, WIDTH / 2]]))
    ours = resample(picture, matrix, heights)
    theirs = oracle.rotate(picture, -degrees, oracle.InterpolationMode.BILINEAR)
    inside = slice(2, -2)
    difference = (ours - theirs).abs()[:, :, inside, inside]
    assert difference.mean() < 2e-3
    assert difference.quantile(0.99) < 0.02


def test_perspective_is_torchvisions():
    picture, heights = a_picture(), torch.tensor([48])
    inward = torch.tensor([[[6.0, 3.0], [2.0, 5.0], [8.0, 1.0], [4.0, 7.0]]])
    ours = resample(picture, perspective(inward, torch.tensor([[WIDTH, 48.0]]).double()), heights)
    corners = [[0, 0], [WIDTH, 0], [WIDTH, 48], [0, 48]]
    signs = [[1, 1], [-1, 1], [-1, -1], [1, -1]]
    moved = [
        [x + sx * float(dx), y + sy * float(dy)]
        for (x, y), (sx, sy), (dx, dy) in zip(corners, signs, inward[0], strict=True)
    ]
    theirs = oracle.perspective(
        picture, corners, moved, interpolation=oracle.InterpolationMode.BILINEAR
    )
    inside = (slice(None), slice(None), slice(8, 40), slice(10, 54))
    assert (ours - theirs)[inside].abs().mean() < 5e-3


def test_brightness_and_contrast_are_torchvisions():
    picture, heights = a_picture(), torch.tensor([48])
    brighter = adjust_tone(picture, {"brightness": drawn(0.4, [1.0])}, heights)
    torch.testing.assert_close(brighter, oracle.adjust_brightness(picture, 1.4))
    flatter = adjust_tone(picture, {"contrast": drawn(0.4, [0.0])}, heights)
    torch.testing.assert_close(flatter, oracle.adjust_contrast(picture, 0.6), rtol=0, atol=1e-5)


def test_the_mean_of_a_page_is_exact_in_any_order_and_padding():
    picture, heights = a_picture() * 0.01, torch.tensor([48])
    mean = page_means(picture, heights)
    torch.testing.assert_close(mean, picture.mean((1, 2, 3)), rtol=0, atol=1e-6)
    order = torch.randperm(picture.numel(), generator=torch.Generator().manual_seed(0))
    shuffled = picture.flatten()[order].view_as(picture)
    assert torch.equal(page_means(shuffled, heights), mean)
    padded = torch.nn.functional.pad(picture, (0, 0, 0, 16))
    assert torch.equal(page_means(padded, heights), mean)


def test_erasing_is_torchvisions():
    picture, heights = a_picture(), torch.tensor([48])
    draws = drawn(0.33, [0.7, 0.6, 0.3, 0.8])
    corners, sides = erased_rectangles(draws, heights, WIDTH)
    (x, y), (w, h) = corners[0].tolist(), sides[0].tolist()
    assert 0.02 * 48 * WIDTH * 0.8 < w * h <= 0.33 * 48 * WIDTH * 1.1
    theirs = oracle.erase(picture, y, x, h, w, torch.zeros(1, 1, 1, 1))
    assert torch.equal(erase_(picture, corners, sides), theirs)


def test_salt_and_pepper_take_their_share():
    bits = torch.arange(-(2**15), 2**15).view(1, 1, 256, 256).float()
    picture = torch.full((1, 1, 256, 256), 0.5)
    spoilt = add_salt_and_pepper_(picture, bits, torch.tensor([0.04]))
    assert (spoilt == 0).float().mean() == pytest.approx(0.02, abs=1e-4)
    assert (spoilt == 1).float().mean() == pytest.approx(0.02, abs=1e-4)
    assert (spoilt == 0.5).float().mean() == pytest.approx(0.96, abs=2e-4)


def test_noise_has_its_standard_deviation():
    picture, heights = torch.full((1, 1, 512, 512), 0.5), torch.tensor([512])
    keys = torch.tensor([12345])
    noisy = corrupt(picture, {"noise": drawn(0.05, [])}, keys, keys, heights)
    assert float(noisy.std()) == pytest.approx(0.05, rel=0.01)
    assert float(noisy.mean()) == pytest.approx(0.5, abs=5e-4)


def many(name: str, probability: float, magnitude: float) -> torch.Tensor:
    """The strengths of an operation on ten thousand pages."""
    policy = Policy({name: Chance(probability, magnitude)})
    keys = torch.arange(10_000) * 7919
    return draw_strengths(policy, keys)[name].strength


def test_operations_happen_as_often_as_they_should():
    strengths = many("rotate", 0.3, 5.0)
    assert (strengths > 0).float().mean() == pytest.approx(0.3, abs=0.02)
    assert set(strengths.tolist()) == {0.0, 5.0}


def test_randaugment_applies_as_many_as_asked():
    policy = load_policy(AugmentConfig(policy="randaugment", ops=3, level=0.5, denoise=False))
    strengths = draw_strengths(policy, torch.arange(200) * 7919)
    applied = torch.stack([(strengths[name].strength > 0).long() for name in CHOICES]).sum(0)
    assert (applied == 3).all()


@pytest.mark.parametrize(("name", "of_each"), [("lines", 1), ("boxes", 1), ("text", 7)])
def test_added_boxes_are_as_many_as_asked_and_lie_on_the_page(name, of_each):
    pages, strength = 2000, 1.5
    heights = torch.arange(pages) % 90 + 6
    draws = {name: drawn(strength, [], pages)}
    boxes, owner = add_boxes(heights, WIDTH, draws, torch.arange(pages) * 7919)
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(1)
    assert (boxes[~has_area] == 0).all()
    filled = has_area.view(-1, of_each).any(1).sum() / pages
    assert filled == pytest.approx(strength, abs=0.05)
    assert (boxes >= 0).all()
    if name != "text":  # of a text that is cut off by a low page, the rows run on below it
        assert (boxes[:, 3] <= heights[owner]).all()
    assert (boxes[:, 2] <= WIDTH).all()


def test_dropout_leaves_out_its_share_but_never_the_page():
    _, emptied = only("dropout", 1.0)(a_batch(), seed=0)
    page = torch.full((1,), 1 / 40)
    for number, height in enumerate(HEIGHTS):
        assert (emptied[number, 0, :height] == page).all()


def test_a_clean_input_where_denoising_is_off():
    policy = load_policy(AugmentConfig(policy="strong", denoise=False))
    inputs, targets = Augment(policy)(a_batch(), seed=0)
    assert inputs is targets


def test_a_policy_file_and_its_mistakes(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("flip: {probability: 0.5, magnitude: 1}\n")
    assert load_policy(AugmentConfig(policy=str(path))).chances == {"flip": Chance(0.5, 1.0)}
    for text, says in (
        ("spin: {probability: 1, magnitude: 1}", "spin: there is no such operation"),
        ("flip: {probability: 2, magnitude: 1}", "flip.probability: 2 is not allowed"),
        ("flip: 3", "flip: allowed is"),
        ("[1, 2]", "is no policy file: not a mapping"),
        ("flip: [", "is not YAML"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=says):
            load_policy(AugmentConfig(policy=str(path)))
    with pytest.raises(ConfigError, match="neither a policy nor a file"):
        load_policy(AugmentConfig(policy="stronger"))
