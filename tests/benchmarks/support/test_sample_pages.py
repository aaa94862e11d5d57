"""Pages of the built-in sample: one page a line in shards, and PNGs without padding."""

from __future__ import annotations

import numpy as np
from PIL import Image

from benchmarks.support.sample_pages import build_shards, sample_lines, write_pictures
from shards.open import open_index


def test_shards_have_one_training_page_for_each_line_and_keep_duplicates(tmp_path):
    lines = sample_lines()[:3]
    index = open_index(build_shards([*lines, lines[0]], tmp_path / "some"))
    assert len(index) == 4
    assert all(shard.name.startswith("train-") for shard in index.shards)


def test_pictures_are_the_pages_in_order_and_without_padding(stored, tmp_path):
    files = write_pictures(stored.boxes.one_pass(), tmp_path / "pictures")
    pages = [
        (page[0, :height], height)
        for batch in stored.boxes.one_pass()
        for page, height in zip(batch.images(), batch.heights.tolist(), strict=True)
    ]
    assert [file.name for file in files] == [f"{number:06}.png" for number in range(len(pages))]
    for file, (page, height) in zip(files, pages, strict=True):
        picture = np.asarray(Image.open(file))
        assert picture.shape == (height, 128)
        np.testing.assert_allclose(picture / 255, page, atol=0.501 / 255)
