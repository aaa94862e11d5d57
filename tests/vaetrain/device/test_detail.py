"""Fit and drawing of the prior's detail on fake CUDA tensors: nothing reads a value on the host."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from launch.diagnosis.device_path import OnlyOnDevice
from tests.support.fake_devices import CUDA, PAGES, ROWS, WIDTH
from vaetrain.prior.canvas import VALUES, Canvas
from vaetrain.prior.detail import COPIES, Detail

PIXELS = 50


def long(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.long, device=CUDA)


def test_the_likelihood_of_pixels_stays_on_the_device():
    fake = FakeTensorMode()
    with fake, torch.device(CUDA):
        detail, decoded = Detail(16), torch.empty(PAGES, 1, ROWS, WIDTH)
        page, row, column, values = (long(PIXELS) for _ in range(4))
        heights, canvas = long(PAGES), Canvas.of(long(PAGES, ROWS, WIDTH))
    with fake, OnlyOnDevice():
        context, coarse = detail.at(detail.contexts(decoded, heights), page, row, column)
        places = canvas.places(page, row, column)
        found = detail.log_probabilities(canvas, places, context, coarse, values)
    assert (found.shape, found.device, found.requires_grad) == ((PIXELS,), CUDA, True)


def test_a_step_of_drawing_stays_on_the_device():
    fake = FakeTensorMode()
    with fake, torch.device(CUDA):
        detail, decoded = Detail(16), torch.empty(PAGES, 1, ROWS, WIDTH)
        page, row, column, values = (long(PIXELS) for _ in range(4))
        heights, canvas = long(PAGES), Canvas(PAGES, ROWS, WIDTH, CUDA)
    with fake, OnlyOnDevice(), torch.no_grad():
        context, coarse = detail.at(detail.contexts(decoded, heights), page, row, column)
        places = canvas.places(page, row, column)
        choice, copied, new = detail(canvas, places, context, coarse)
        canvas.put(places, values, row, column)
    assert (choice.shape, copied.shape) == ((PIXELS, COPIES + 1), (PIXELS, COPIES))
    assert (new.shape, new.device) == ((PIXELS, VALUES), CUDA)
    assert {x.device for x in (canvas.marks, canvas.runs)} == {CUDA}
