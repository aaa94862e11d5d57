"""Search results, compared with distances between pages that are encoded one by one."""

import json

import numpy as np
import pytest

from tests.vaetrain.pages_one_by_one import encode_one_by_one, fitted_space
from vaetrain.inference.search import result_pictures, search_pages
from vaetrain.inference.trained_model import TrainedModel


@pytest.mark.parametrize("number", [0, 13])
def test_results_are_the_page_itself_and_the_nearest_pages(run_folder, layouts, tmp_path, number):
    query = tmp_path / "page.json"
    query.write_text(json.dumps(layouts[number]))
    trained = TrainedModel(run_folder / "run")
    data = trained.open_shards(run_folder / "shards")
    results = search_pages(trained, data, trained.read_page(query), 5)
    keys = [data.collator.files.key(page) for page in range(len(layouts))]
    place = keys.index(layouts[number]["id"])
    mu, _, structure = encode_one_by_one(run_folder, range(len(layouts)))
    vectors = fitted_space(run_folder, len(layouts)).vectors(mu, structure).numpy()
    distances = np.linalg.norm(vectors - vectors[place], axis=1)
    nearest = np.argsort(distances)[:5]
    first = results[0]
    expected = [layouts[number][key] for key in ("id", "label", "template")]
    assert [first.key, first.label, first.template] == expected
    assert [result.id for result in results] == nearest.tolist()
    assert [result.key for result in results] == [keys[page] for page in nearest]
    assert [r.distance for r in results] == pytest.approx(distances[nearest], abs=1e-4)


def test_pictures_of_results_are_in_their_order(run_folder, layouts, tmp_path):
    query = tmp_path / "page.json"
    query.write_text(json.dumps(layouts[3]))
    trained = TrainedModel(run_folder / "run")
    data = trained.open_shards(run_folder / "shards")
    results = search_pages(trained, data, trained.read_page(query), 4)
    pictures = result_pictures(data, results)
    for result, picture in zip(results, pictures, strict=True):
        (expected,) = result_pictures(data, [result])
        np.testing.assert_array_equal(picture, expected)
