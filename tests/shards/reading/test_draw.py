"""Drawing against a naive reference: exact areas and depths with both algorithms."""

import functools
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import shards
from shards.format.layout import Layout, parse_layout, scaled_height
from shards.reading.draw import draw, place


@pytest.fixture(params=["row by row", "running sums"], autouse=True)
def algorithm(request, monkeypatch):
    """Run every test with both algorithms; a CPU uses the second for large batches."""
    if request.param == "running sums":
        monkeypatch.setattr("shards.reading.draw._MAX_ROWS", -1)


def coverage(first: np.ndarray, last: np.ndarray, length: int) -> np.ndarray:
    """Return the fraction of each unit cell of a line that each [first, last] covers, float64."""
    cells = np.arange(length)
    covered = np.minimum(last[:, None], cells + 1) - np.maximum(first[:, None], cells)
    return covered.clip(0)


def naive(boxes: np.ndarray, height: int, size: tuple[int, int]) -> np.ndarray:
    """Draw one image: the sum over boxes of row coverage times column coverage."""
    x0, y0, x1, y1 = boxes.T.astype(np.float64)
    rows = coverage(y0.clip(0), y1.clip(max=height), size[0])
    return (rows.T @ coverage(x0, x1, size[1]) / 40).clip(0, 1)


def random_boxes(rng: np.random.Generator, count: int, width: float, height: float) -> np.ndarray:
    corners = rng.uniform(-0.2, 1.2, (count, 2, 2)) * [width, height]
    return np.concatenate([corners.min(1), corners.max(1)], 1)


def batch_of(pages: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    owner = torch.repeat_interleave(torch.arange(len(pages)), torch.tensor([len(p) for p in pages]))
    return torch.from_numpy(np.concatenate(pages)), owner


def test_random_pages_equal_the_reference():
    rng = np.random.default_rng(0)
    size = (50, 33)
    pages = [random_boxes(rng, rng.integers(0, 90), 33, 50) for _ in range(200)]
    heights = rng.integers(1, 51, 200)
    images = draw(*batch_of(pages), torch.from_numpy(heights), size)
    assert images.shape == (200, 1, *size)
    assert images.dtype == torch.float32
    expected = np.stack([naive(p, h, size) for p, h in zip(pages, heights, strict=True)])
    np.testing.assert_allclose(images[:, 0].numpy(), expected, rtol=0, atol=1e-5)


SCALES = (0.1, 0.2, 0.37, 1.0)


@functools.cache
def real_layouts() -> list[Layout]:
    """Return fifty real pages of each of both widths, 1280 and 390 px."""
    sample = Path(shards.__file__).parent / "sample" / "npm-sample.jsonl.gz"
    with gzip.open(sample) as lines:
        return [parse_layout(json.loads(line)) for line, _ in zip(lines, range(50), strict=False)]


@pytest.mark.parametrize("scale", SCALES)
def test_random_layouts_at_any_scale_equal_the_reference(scale):
    rng = np.random.default_rng(1)
    width = round(160 * scale)
    canvas = np.stack([np.full(200, 160), rng.integers(20, 400, 200)], 1)
    pages = [random_boxes(rng, rng.integers(1, 60), w, h).round() for w, h in canvas]
    heights = np.array([scaled_height(160, int(h), width) for _, h in canvas])
    size = (int(heights.max()), width)
    boxes, owner = batch_of(pages)
    placed = place(boxes, owner, torch.from_numpy(canvas), torch.zeros(200), width)
    images = draw(placed, owner, torch.from_numpy(heights), size)
    expected = [naive(p * (width / 160), h, size) for p, h in zip(pages, heights, strict=True)]
    np.testing.assert_allclose(images[:, 0].numpy(), np.stack(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", SCALES)
def test_real_layouts_at_any_scale_equal_the_reference(scale):
    for layout in real_layouts():
        width = round(layout.width * scale)
        height = min(700, scaled_height(layout.width, layout.height, width))
        boxes, owner = batch_of([layout.boxes])
        canvas = torch.tensor([[layout.width, layout.height]])
        placed = place(boxes, owner, canvas, torch.zeros(1), width)
        image = draw(placed, owner, torch.tensor([height]), (height, width))[0, 0]
        expected = naive(layout.boxes * (width / layout.width), height, (height, width))
        np.testing.assert_allclose(image.numpy(), expected, rtol=0, atol=1e-5)


def test_no_drift_at_depth_40_and_4000_rows():
    # Nested boxes with awkward fractions, as deep as 1 to 45: inside it is exactly depth / 40.
    nested = [0.3, 0.7, 59.9, 3999.1] + np.arange(45)[:, None] * [0.37, 0.41, -0.37, -0.41]
    pages = [nested[: depth + 1] for depth in range(45)]
    images = draw(*batch_of(pages), torch.full((45,), 4000), (4000, 60))
    depths = torch.arange(1.0, 46).clamp_max(40).div(40).view(-1, 1, 1, 1)
    assert (images[:, :, 20:-20, 20:-20] == depths).all()


def test_edges_at_row_2000_are_exact():
    page = np.array([[10, 5001, 151, 5503]] * 39 + [[0, 0, 160, 6000]], dtype=np.float32)
    width, height = 59, scaled_height(160, 6000, 59)
    boxes, owner = batch_of([page])
    placed = place(boxes, owner, torch.tensor([[160, 6000]]), torch.zeros(1), width)
    image = draw(placed, owner, torch.tensor([height]), (height, width))[0, 0]
    expected = naive(page.astype(np.float64) * (width / 160), height, (height, width))
    np.testing.assert_allclose(image.numpy(), expected, rtol=0, atol=1e-5)


def test_a_hundred_thousand_boxes_leave_pixels_beside_them_at_0():
    rng = np.random.default_rng(2)
    page = random_boxes(rng, 100_000, 20, 20).clip(0, 20)
    image = draw(*batch_of([page]), torch.tensor([300]), (300, 40))[0, 0]
    assert (image[20:] == 0).all()
    assert (image[:, 20:] == 0).all()


def test_the_order_of_the_boxes_does_not_matter():
    rng = np.random.default_rng(3)
    boxes, owner = batch_of([random_boxes(rng, n, 30, 40) for n in (40, 0, 7)])
    heights = torch.tensor([40, 5, 23])
    image = draw(boxes, owner, heights, (40, 30))
    order = torch.from_numpy(rng.permutation(len(boxes)))
    torch.testing.assert_close(draw(boxes[order], owner[order], heights, (40, 30)), image)


def test_outside_and_empty_boxes_are_not_drawn():
    boxes = [
        [5, 5, 5, 9],
        [7, 5, 5, 9],
        [5, 9, 7, 5],
        [-9, 0, -1, 9],
        [30, 0, 40, 9],
        [0, -5, 9, 0],
        [0, 12, 9, 20],
    ]
    page = np.array(boxes, dtype=float)
    assert draw(*batch_of([page]), torch.tensor([12]), (20, 30)).sum() == 0


def test_an_empty_batch_of_boxes():
    boxes, owner = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    assert draw(boxes, owner, torch.tensor([3, 4]), (5, 6)).sum() == 0


def test_windows_are_rows_of_the_whole_page():
    rng = np.random.default_rng(4)
    boxes, owner = batch_of([random_boxes(rng, 60, 640, 2000)])
    canvas = torch.tensor([[640.0, 2000.0]])
    whole = draw(
        place(boxes, owner, canvas, torch.tensor([0]), 64), owner, torch.tensor([200]), (200, 64)
    )
    window = draw(
        place(boxes, owner, canvas, torch.tensor([37]), 64), owner, torch.tensor([50]), (50, 64)
    )
    torch.testing.assert_close(window, whole[:, :, 37:87], rtol=0, atol=1e-6)


def drawn_at(boxes: np.ndarray, width: int, height: int, parts: int) -> torch.Tensor:
    """Draw a page at 1 / `parts` of its size; return float64 (height / parts, width / parts)."""
    page, owner = batch_of([boxes])
    canvas, size = torch.tensor([[width, height]]), (height // parts, width // parts)
    placed = place(page, owner, canvas, torch.zeros(1), size[1])
    return draw(placed, owner, torch.tensor(size[:1]), size)[0, 0].double()


def pages_with_sides_of_tens() -> Iterator[tuple[np.ndarray, int, int]]:
    """Yield boxes, width and height of random pages, and of real pages cropped to 700 rows."""
    rng = np.random.default_rng(5)
    for _ in range(10):
        yield random_boxes(rng, 40, 200, 300).round(), 200, 300
    for layout in real_layouts()[::5]:
        yield layout.boxes, layout.width, min(700, layout.height // 10 * 10)


def test_the_total_does_not_depend_on_the_scale():
    for page in pages_with_sides_of_tens():
        totals = torch.stack([drawn_at(*page, parts).mean() for parts in (1, 5, 10)])
        assert totals[0] > 0.01
        torch.testing.assert_close(totals, totals[0].expand(3), rtol=1e-5, atol=0)


def test_a_fifth_of_the_size_is_the_mean_over_five_by_five():
    for page in pages_with_sides_of_tens():
        means = torch.nn.functional.avg_pool2d(drawn_at(*page, 1)[None], 5)[0]
        torch.testing.assert_close(drawn_at(*page, 5), means, rtol=0, atol=1e-5)


def test_outlines_are_one_pixel_inside_each_border():
    page = np.array([[2.0, 3.0, 12.0, 9.0], [4.0, 5.0, 5.5, 7.0]])
    image = draw(*batch_of([page]), torch.tensor([20]), (20, 16), style="outline")[0, 0]
    expected = torch.zeros(20, 16)
    expected[3:9, 2:12] = 1
    expected[4:8, 3:11] = 0
    expected[5:7, 4] = 1
    expected[5:7, 5] = 0.5
    assert torch.equal(image, expected)


def test_outlines_outside_the_page_are_not_drawn():
    page = np.array([[-5.0, -5.0, 30.0, 30.0]])
    assert draw(*batch_of([page]), torch.tensor([9]), (20, 16), style="outline").sum() == 0


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_fake_tensors_are_drawn_without_synchronising(device):
    with FakeTensorMode():
        boxes = torch.zeros(70, 4, device=device)
        owner = torch.zeros(70, dtype=torch.long, device=device)
        heights = torch.zeros(3, dtype=torch.long, device=device)
        placed = place(boxes, owner, torch.zeros(3, 2, device=device), heights, 16)
        for style in ("filled", "outline"):
            images = draw(placed, owner, heights, (32, 16), style)
            assert (images.shape, images.dtype) == ((3, 1, 32, 16), torch.float32)
            assert images.device.type == device


# On a CPU, fake CUDA tensors stand in: test_fake_tensors_are_drawn_without_synchronising.
@pytest.mark.gpu
def test_a_gpu_draws_the_same_image_without_synchronising():
    rng = np.random.default_rng(7)
    pages = [random_boxes(rng, n, 30, 40) for n in (40, 0, 700)]
    boxes, owner = batch_of([*pages, np.array([[0, 0, 30, 40.0]] * 7)])
    heights = torch.tensor([40, 5, 23, 40])
    on_gpu = [tensor.cuda() for tensor in (boxes, owner, heights)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        image = draw(*on_gpu, (40, 30))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(
        image.cpu(), draw(boxes, owner, heights, (40, 30)), rtol=0, atol=1e-6
    )
    assert (image[3] == torch.tensor(7.0) / torch.tensor(40.0)).all()
