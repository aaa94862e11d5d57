"""Pages at two widths, found by the metadata in their shards."""

import json

import numpy as np
import pytest
import torch

from shards.build import build
from shards.building.options import BuildOptions
from tests.support.engines import FakeEngine
from vaetrain.data.config import DataConfig
from vaetrain.data.loading import PageReader
from vaetrain.data.widths import other_widths

# Template, path and viewport of each page.
PAGES = {
    "wide": ("a", "index", 1280),
    "narrow": ("a", "index", 390),
    "other template": ("b", "index", 390),
    "other path": ("a", "about", 390),
    "twice": ("c", "x", 390),
    "twice again": ("c", "x", 390),
    "without a path": ("a", None, 1280),
    "without a width": ("b", "index", None),
}


@pytest.fixture
def data(tmp_path) -> PageReader:
    lines = []
    for place, (name, (template, path, width)) in enumerate(PAGES.items()):
        page = {"id": name, "template": template, "source": "s", "url_path": path}
        page |= {"viewport": width, "w": 100, "h": 100}
        page |= {"r": {"b": [0, 0, 100, 100], "c": [{"b": [0, 0, 10 + 9 * place, 30]}]}}
        lines.append(json.dumps({key: value for key, value in page.items() if value is not None}))
    (tmp_path / "pages.jsonl").write_text("\n".join(lines))
    build([tmp_path / "pages.jsonl"], tmp_path / "shards", BuildOptions(workers=1))
    config = DataConfig(shards=str(tmp_path / "shards"), width=64, max_height=64, workers=0)
    return PageReader(tmp_path / "shards", config, FakeEngine(), 16)


def test_a_page_has_its_other_width_only_if_there_is_one_page_of_it(data):
    ids = torch.from_numpy(np.random.default_rng(0).permutation(len(data.index)))
    others = other_widths(data, ids)
    names = [data.collator.files.metadata(number)["id"] for number in ids.tolist()]
    assert len(names) == len(PAGES)
    found = {names[place]: names[other] for place, other in enumerate(others) if other >= 0}
    assert found == {"wide": "narrow", "narrow": "wide"}
