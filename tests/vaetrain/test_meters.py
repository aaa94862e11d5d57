"""Warning about skipped steps; the sums are tested in tests/distributed, by comparing runs."""

from vaetrain.meters import MAX_LISTED, skipped_steps_warning


def test_warning_lists_a_limited_number_of_steps_and_pages():
    line = skipped_steps_warning(
        [[3, 5], list(range(100, 100 + MAX_LISTED + 2))], steps=9, images=72
    )
    assert line.startswith("warning: 2 of 9 steps up to 72 images skipped because ")
    assert "pages: 3, 5; 100, 101, " in line
    assert line.endswith(f"{100 + MAX_LISTED - 1} and 2 more")
    assert skipped_steps_warning([[7]] * (MAX_LISTED + 5), 50, 400).count("7") == MAX_LISTED
