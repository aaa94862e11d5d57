"""The canvas: what is drawn pixel by pixel equals what is taken from whole pages."""

import torch

from vaetrain.prior.canvas import (
    ABOVE,
    MARKS,
    NEIGHBOURS,
    SIDE,
    STEPS,
    VALUES,
    WINDOW,
    Canvas,
    to_values,
)


def some_values(rows: int = 9, width: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 3, (2, rows, width), generator=generator) * STEPS
    values[:, 3:6, 2:9] = 7
    return values


def test_values_are_sixths_of_a_level():
    images = torch.tensor([[[[0.0, 1 / 40, 2.5 / 40, 1.0, 1 / 240]]]])
    assert to_values(images).tolist() == [[[0, 6, 15, VALUES - 1, 1]]]


def test_pixels_that_are_put_one_by_one_give_the_canvas_of_the_whole_pages():
    values = some_values()
    whole = Canvas.of(values)
    drawn = Canvas(*values.shape, values.device)
    for page in range(2):
        for row in range(values.shape[1]):
            for column in range(values.shape[2]):
                at = [torch.tensor([x]) for x in (page, row, column)]
                drawn.put(drawn.places(*at), values[page, row, column].view(1), *at[1:])
    assert torch.equal(drawn.marks, whole.marks)
    assert torch.equal(drawn.runs, whole.runs)


def test_runs_count_equal_pixels():
    values = torch.zeros(1, 4, 8, dtype=torch.long)
    values[0, 2:, 5:] = 6
    canvas = Canvas.of(values)
    at = [torch.tensor([x]) for x in (0, 3, 7)]
    assert canvas.runs[canvas.places(*at)].tolist() == [[2.0, 1.0]]  # columns 5, 6 and row 2
    at = [torch.tensor([x]) for x in (0, 1, 4)]
    assert canvas.runs[canvas.places(*at)].tolist() == [[4.0, 1.0]]


def test_a_pixel_sees_its_neighbours_and_none_that_is_drawn_later():
    values = some_values()
    row, column = 6, 5
    at = [torch.tensor([x]) for x in (1, row, column)]
    canvas = Canvas.of(values)
    window, neighbours, runs = canvas.around(canvas.places(*at))
    expected = [values[1, row + y, column + x].item() for y, x in NEIGHBOURS]
    assert neighbours.tolist() == [expected]
    assert window.shape == (1, WINDOW)
    assert WINDOW == MARKS * (ABOVE * (2 * SIDE + 1) + SIDE)
    later = values.clone()
    later[:, row, column:] = 30
    later[:, row + 1 :] = 30
    other = Canvas.of(later).around(canvas.places(*at))
    for one, two in zip((window, neighbours, runs), other, strict=True):
        assert torch.equal(one, two)
