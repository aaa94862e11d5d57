"""A quick run of the validation benchmark."""

from __future__ import annotations

import pytest

from tests.benchmarks.quick_run import quick_run
from vaetrain.data.loading import MAX_COMPARED_PAGES


@pytest.mark.slow
def test_quick_run_shows_that_gathered_bytes_are_bounded(tmp_path):
    record, _ = quick_run("validation", tmp_path)
    gathered = {
        (entry["group"], entry["name"].partition(":")[0]): entry["median"]
        for entry in record["results"]
        if entry["name"].endswith("gathered")
    }
    bounded, unbounded = (gathered["3000 pages", name] for name in ("bounded", "all pages"))
    assert bounded / unbounded == pytest.approx(MAX_COMPARED_PAGES / 3000)
