"""The command that reconstructs the pages of shards."""

import copy
import itertools
import json

import numpy as np
import pytest
from PIL import Image

from shards.build import build
from shards.building.options import BuildOptions
from shards.errors import UserError
from shards.open import open_index
from shards.reading.shard_files import ShardFiles
from tests.support.models import perturbed_model
from tests.vaetrain.conftest import EXPERIMENT
from tests.vaetrain.pages_one_by_one import MAX_HEIGHT, WIDTH
from tests.vaetrain.test_commands import command
from vaetrain.artifacts.final_model import write_final
from vaetrain.inference import refinement
from vaetrain.inference.trained_model import TrainedModel
from vaetrain.page_pictures import depth_pages


def test_every_page_is_written_and_its_layouts_can_be_built_again(
    run_folder, layouts, tmp_path, monkeypatch
):
    out, file = tmp_path / "pages", tmp_path / "pages.jsonl"
    shards = run_folder / "shards"
    where = [run_folder / "run", "--shards", shards, "--out", out, "--layouts", file]
    command("reconstruct", monkeypatch, *where, "--svg", tmp_path / "svg")
    pictures = sorted(out.iterdir())
    keys = [path.stem.partition("-")[2] for path in pictures]
    files = ShardFiles(open_index(shards))
    assert keys == [files.key(number) for number in range(len(layouts))]
    assert len(list((tmp_path / "svg").iterdir())) == len(layouts)
    trained = TrainedModel(run_folder / "run")
    data = trained.open_shards(shards)
    for batch in data.pages(data.select("all")):
        made = depth_pages(trained.reconstruct(batch), batch.heights)
        for number, page in zip(batch.ids.tolist(), made, strict=True):
            grey = np.asarray(Image.open(pictures[number]))
            assert grey.shape == (batch.heights[batch.ids == number].item(), WIDTH)
            assert np.abs(grey / 255 - page).max() < 0.003
    records = [json.loads(line) for line in file.read_text().splitlines()]
    texts = {(page["id"], page["label"], page["template"]) for page in layouts}
    assert {(r["id"], r["label"], r["template"]) for r in records} == texts
    report = build([file], tmp_path / "again", BuildOptions(workers=1, keep_duplicates=True))
    assert report.counts["rejected"] == sum(record["n"] == 0 for record in records)


def test_limit_latent_and_refine(run_folder, tmp_path, monkeypatch):
    """With skip connections the latent alone decodes to other pages; it is refined by default."""
    settings = copy.deepcopy(EXPERIMENT)
    settings.model.skips = "gated"
    model = perturbed_model(settings.model, WIDTH, MAX_HEIGHT, 0.2)
    write_final(tmp_path / "run" / "final", model, settings, {}, {})
    shards = run_folder / "shards"
    where = [tmp_path / "run", "--shards", shards, "--limit", 3]
    trained = TrainedModel(tmp_path / "run")
    data = trained.open_shards(shards)
    (batch,) = data.pages(data.select("all").spaced(3))
    monkeypatch.setattr(refinement, "STEPS", 3)
    expected = {
        (): trained.reconstruct(batch),
        ("--latent", "vector"): trained.reconstruct_refined(batch, 3, skips=False)[0],
        ("--latent", "vector", "--refine", 0): trained.reconstruct(batch, skips=False),
        ("--latent", "vector", "--refine", 1): trained.reconstruct_refined(batch, 1, skips=False)[
            0
        ],
    }
    found = []
    for number, (options, images) in enumerate(expected.items()):
        out = tmp_path / str(number)
        command("reconstruct", monkeypatch, *where, "--out", out, *options)
        found.append([np.asarray(Image.open(path)) / 255 for path in sorted(out.iterdir())])
        for picture, page in zip(found[-1], depth_pages(images, batch.heights), strict=True):
            assert np.abs(picture - page).max() < 0.003
    for one, other in itertools.combinations(found, 2):
        assert all(np.abs(a - b).max() > 0.004 for a, b in zip(one, other, strict=True))


def test_shards_without_pages_of_the_split_are_refused(run_folder, tmp_path, monkeypatch):
    build([run_folder / "pages.jsonl"], tmp_path / "s", BuildOptions(workers=1, val_fraction=0))
    where = [run_folder / "run", "--shards", tmp_path / "s", "--out", tmp_path / "o"]
    with pytest.raises(UserError, match="no pages of the split 'val'"):
        command("reconstruct", monkeypatch, *where, "--split", "val")
    assert not (tmp_path / "o").exists()


def test_interpolation_and_samples_as_folders_with_layouts(
    run_folder, layouts, tmp_path, monkeypatch
):
    ends = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, layout in zip(ends, layouts, strict=False):
        path.write_text(json.dumps(layout))
    options = ["--layouts", tmp_path / "l.jsonl", "--out", f"{tmp_path}/pages/"]
    command("interpolate", monkeypatch, run_folder / "run", *ends, *options, "--steps", 3)
    names = [path.name for path in sorted((tmp_path / "pages").iterdir())]
    assert names == [f"page-0000{number}.png" for number in range(3)]
    assert len((tmp_path / "l.jsonl").read_text().splitlines()) == 3
    options = ["--layouts", tmp_path / "s.jsonl", "--out", tmp_path / "s.png", "--count", 2]
    command("sample", monkeypatch, run_folder / "run", *options)
    records = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [(r["id"], r["w"], r["h"]) for r in records] == [
        (f"sample-0-0000{number}", WIDTH, MAX_HEIGHT) for number in range(2)
    ]
