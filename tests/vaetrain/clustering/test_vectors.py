"""Embeddings in files: equal to those of `embed`, continued after an interruption."""

import numpy as np
import pytest

from shards.errors import UserError
from vaetrain.clustering import vectors as module
from vaetrain.clustering.vectors import STAMP, Vectors, embed_pages
from vaetrain.inference.embedding import embedding_arrays
from vaetrain.inference.trained_model import TrainedModel


def test_rows_of_parts_are_those_of_the_whole(tmp_path):
    whole = np.random.default_rng(0).standard_normal((23, 4)).astype(np.float32)
    np.save(tmp_path / "part.npy", whole[9:18])
    vectors = Vectors([whole[:9], tmp_path / "part.npy", whole[18:]])
    assert vectors.shape == (23, 4)
    assert len(vectors) == 23
    places = np.array([20, 3, 9, 17, 0, 3, 22])
    np.testing.assert_array_equal(vectors.rows(places), whole[places])
    firsts, chunks = zip(*vectors.chunks(), strict=True)
    assert firsts == (0, 9, 18)
    np.testing.assert_array_equal(np.concatenate(chunks), whole)


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "part-000000.npy"
    path.write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match=r"part-000000\.npy: is damaged; remove it"):
        Vectors([path])


def test_an_interrupted_pass_continues_after_the_last_whole_file(
    run_folder, layouts, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "PART", 9)
    trained = TrainedModel(run_folder / "run")
    data = trained.open_shards(run_folder / "shards")
    features = trained.features(data)
    expected = embedding_arrays(features, trained.space_for(features), data)["embedding"]
    calls, compute = [], module.features_of

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return compute(*arguments)

    monkeypatch.setattr(module, "features_of", interrupted)
    folder = tmp_path / "out" / "embedding"
    with pytest.raises(KeyboardInterrupt):
        embed_pages(trained, data, folder)
    first = folder / "part-000000.npy"
    assert sorted(path.name for path in folder.iterdir()) == [STAMP, first.name]
    before = first.stat().st_mtime_ns
    vectors = embed_pages(trained, data, folder)
    assert len(calls) == 2 + 2
    assert first.stat().st_mtime_ns == before
    assert vectors.shape == expected.shape
    assert vectors.rows(np.arange(len(layouts))) == pytest.approx(expected, abs=1e-4)
    next(trained.model.parameters()).data.view(-1)[0] += 0.5
    embed_pages(trained, data, folder)
    assert first.stat().st_mtime_ns != before
    assert len(calls) == 4 + 3


def test_a_folder_with_other_files_is_refused(run_folder, tmp_path):
    trained = TrainedModel(run_folder / "run")
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(UserError, match="holds other files"):
        embed_pages(trained, trained.open_shards(run_folder / "shards"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
