"""The benchmark of the atlas, on few made-up pages."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import atlas
from benchmarks.support.made_atlas import MadePages
from tests.support.chromium import needs_chromium
from tests.support.paths import REPO


def test_made_pages_have_labels_templates_and_pictures():
    pages = MadePages(45)
    index = pages.data.index
    records = index.rows(pages.ids)
    assert np.bincount(records["template"]).tolist() == [10, 10, 10, 10, 5]
    assert pages.labels(slice(19, 21)) == (["label 19", "label 0"], ["made-1", "made-2"])
    assert pages.names(slice(3, 5))[1] == ["page-00000003", "page-00000004"]
    assert all(picture.startswith(b"\x89PNG") for picture in pages.pictures(slice(40, 50)))
    assert len(pages.pictures(slice(40, 50))) == 5


def test_rounds_are_printed_with_their_range(capsys):
    rounds = [{"frames/s": value} for value in (3.0, 1.0, 2.0)]
    atlas.print_rounds({"index.html": rounds})
    assert capsys.readouterr().out.splitlines() == [
        "index.html",
        "  frames/s             2.00  (1.00 to 3.00; 3 rounds)",
    ]


@pytest.mark.slow
@needs_chromium
def test_made_atlas_is_opened_and_dragged(tmp_path):
    def command(*arguments: str) -> str:
        # A process of its own: a browser of another test may run in this one.
        run = [sys.executable, "-m", "benchmarks.atlas", *arguments]
        return subprocess.run(run, cwd=REPO, capture_output=True, text=True, check=True).stdout

    folder = tmp_path / "site"
    command("made", "40", "--out", str(folder))
    assert json.loads((folder / "pages" / "pages.json").read_text())["pages"] == 40
    printed = command("browse", str(folder), "--rounds", "1", "--seconds", "1")
    assert "index.html" in printed
    assert "charts.html" in printed
    assert printed.count("frames/s") == 2
