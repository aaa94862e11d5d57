"""Embedding, compared with pages that are encoded one by one."""

import numpy as np
import pytest

from tests.vaetrain.pages_one_by_one import encode_one_by_one
from vaetrain.inference.embedding import embed_pages
from vaetrain.inference.trained_model import TrainedModel


def test_every_page_has_one_row_in_order_of_ids(run_folder, layouts):
    trained = TrainedModel(run_folder / "run")
    arrays = embed_pages(trained, trained.open_shards(run_folder / "shards"))
    pages = range(len(layouts))
    assert arrays["ids"].tolist() == list(pages)
    assert arrays["mu"].dtype == np.float32
    assert arrays["mu"] == pytest.approx(encode_one_by_one(run_folder, pages)[0], abs=1e-5)
    by_key = {page["id"]: page for page in layouts}
    rows = zip(*(arrays[name] for name in ("keys", "labels", "templates")), strict=True)
    for key, label, template in rows:
        assert (label, template) == (by_key[key]["label"], by_key[key]["template"])
