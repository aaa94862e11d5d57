"""What a log says of steps; their sums are tested where runs are compared (tests/distributed)."""

from vaetrain.meters import MOST_TOLD, left_out


def test_steps_that_were_left_out_are_told_with_as_many_pages_as_a_line_holds():
    line = left_out([[3, 5], list(range(100, 100 + MOST_TOLD + 2))], steps=9, images=72)
    assert line.startswith("warning: 2 of 9 steps up to 72 images were left out, ")
    assert "pages: 3, 5; 100, 101, " in line
    assert line.endswith(f"{100 + MOST_TOLD - 1} and 2 more")
    assert left_out([[7]] * (MOST_TOLD + 5), 50, 400).count("7") == MOST_TOLD
