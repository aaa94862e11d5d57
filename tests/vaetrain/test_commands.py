"""Commands that use a trained model: embed, search, interpolate, sample and evaluate."""

import json
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.build import build
from shards.building.options import BuildOptions
from shards.errors import UserError
from shards.format.layout import MAX_DEPTH
from shards.open import open_index
from shards.reading.shard_files import ShardFiles
from tests.support.paths import REPO
from tests.vaetrain.pages_one_by_one import (
    MAX_HEIGHT,
    SAMPLE_FILE,
    WIDTH,
    encode_one_by_one,
    fitted_space,
)
from vaetrain.inference.trained_model import TrainedModel
from vaetrain.page_pictures import BRIGHTNESS, GAP, PAPER


def command(name: str, monkeypatch, *arguments: object) -> None:
    """Run a command in this process."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    assert import_module(f"vaetrain.{name}").main() == 0


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def latents(run_folder) -> dict[str, np.ndarray]:
    """The arrays that `embed` writes."""
    out = run_folder / "latents"  # no suffix is added to the given name
    with pytest.MonkeyPatch.context() as monkeypatch:
        command(
            "embed",
            monkeypatch,
            run_folder / "run",
            "--shards",
            run_folder / "shards",
            "--out",
            out,
        )
    with np.load(out, allow_pickle=False) as arrays:
        return dict(arrays)


def test_embed_writes_every_page_with_its_names(run_folder, layouts, latents):
    everything = range(len(layouts))
    assert latents["ids"].tolist() == list(everything)
    assert latents["mu"].dtype == np.float32
    mu, _, structure = encode_one_by_one(run_folder, everything)
    assert latents["mu"] == pytest.approx(mu.numpy(), abs=1e-5)
    vectors = fitted_space(run_folder, len(layouts)).vectors(mu, structure)
    assert latents["embedding"] == pytest.approx(vectors.numpy(), abs=1e-4)
    files = ShardFiles(open_index(run_folder / "shards"))
    stored = [json.loads(files.members(number)["json"]) for number in everything]
    # The ids of the sample are valid keys, so they are unchanged.
    texts = {"keys": "id", "page_ids": "id", "labels": "label", "templates": "template"}
    for name, key in texts.items():
        assert latents[name].tolist() == [page[key] for page in stored]
        assert sorted(latents[name]) == sorted(page[key] for page in layouts)


def test_search_prints_the_page_itself_first_and_draws_a_sheet(
    run_folder, layouts, tmp_path, monkeypatch, capsys
):
    query, sheet = tmp_path / "page.json", tmp_path / "sheet.png"
    query.write_text(json.dumps(layouts[13]))
    capsys.readouterr()
    where = [run_folder / "run", "--shards", run_folder / "shards"]
    command("search", monkeypatch, *where, "--query", query, "--top", 5, "--sheet", sheet)
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0][:3] == [layouts[13][key] for key in ("id", "label", "template")]
    distances = [float(line[3]) for line in lines]
    assert len(lines) == 5
    assert distances == sorted(distances)
    assert distances[0] == pytest.approx(0, abs=1e-4)
    drawn = picture(sheet)
    assert drawn.shape[1] == 6 * (WIDTH + GAP)
    step = WIDTH + GAP
    np.testing.assert_array_equal(drawn[:, :WIDTH], drawn[:, step : step + WIDTH])


def test_search_for_more_pages_than_exist_prints_all(run_folder, layouts, monkeypatch, capsys):
    where = [run_folder / "run", "--shards", run_folder / "shards"]
    command("search", monkeypatch, *where, "--query", SAMPLE_FILE, "--top", 1000)
    assert len(capsys.readouterr().out.splitlines()) == len(layouts)


def test_control_characters_in_a_label_are_replaced(
    tmp_path, run_folder, layouts, monkeypatch, capsys
):
    source = tmp_path / "odd.json"
    source.write_text(json.dumps({**layouts[0], "label": "a\tb\n\x1b[2J"}))
    build([source], tmp_path / "shards", BuildOptions(workers=1))
    capsys.readouterr()
    where = [run_folder / "run", "--shards", tmp_path / "shards"]
    command("search", monkeypatch, *where, "--query", source)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.split("\t")[1] == "a b  [2J"


def test_search_and_embed_give_ids_of_any_script_beside_the_keys(
    tmp_path, run_folder, layouts, monkeypatch, capsys
):
    ids = ["登录页0", "登录页1", "a\u202eb\tc"]
    source, out = tmp_path / "pages.jsonl", tmp_path / "out.npz"
    records = [{**layouts[n], "id": name} for n, name in enumerate(ids)]
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    build([source], tmp_path / "shards", BuildOptions(workers=1, keep_duplicates=True))
    where = [run_folder / "run", "--shards", tmp_path / "shards"]
    command("embed", monkeypatch, *where, "--out", out)
    with np.load(out, allow_pickle=False) as arrays:
        stored = dict(zip(arrays["page_ids"].tolist(), arrays["keys"].tolist(), strict=True))
    assert set(stored) == set(ids)
    capsys.readouterr()
    command("search", monkeypatch, *where, "--query", source)
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0][4] == ids[0]
    shown = {line[4]: line[0] for line in lines}
    assert shown == {name: stored[name] for name in ids[:2]} | {"a\\u202eb\\tc": stored[ids[2]]}


def test_interpolation_starts_and_ends_at_the_reconstructions(
    run_folder, layouts, tmp_path, monkeypatch
):
    a, b = (tmp_path / name for name in ("a.json", "b.json"))
    low = {"w": 64, "h": 40, "r": {"b": [0, 0, 64, 40], "c": [{"b": [8, 8, 30, 20]}]}}
    a.write_text(json.dumps(low))
    b.write_text(json.dumps(layouts[3]))
    out = tmp_path / "path.png"
    command("interpolate", monkeypatch, run_folder / "run", a, b, "--out", out, "--steps", 3)
    drawn = picture(out)
    step = WIDTH + GAP
    columns = [drawn[:, place * step : place * step + WIDTH] for place in range(5)]
    trained = TrainedModel(run_folder / "run")
    first, last = trained.read_page(a), trained.read_page(b)
    assert int(last.heights) == MAX_HEIGHT
    heights = [40, 40, (40 + MAX_HEIGHT) // 2, MAX_HEIGHT, MAX_HEIGHT]
    for column, height in zip(columns, heights, strict=True):
        assert (column[height:] == PAPER).all()
        assert (column[:height] != PAPER).any()
    for column, page in ((columns[1], first), (columns[3], last)):
        (made,) = trained.decode(trained.encode(page), page.heights)
        differs = np.abs(column[: len(made)].astype(int) - made)
        assert differs.max() <= 1  # one grey level: rounding differs with padding
    assert columns[0][1, 1] == round(255 * BRIGHTNESS / MAX_DEPTH)
    assert columns[0][15, 20] == round(255 * BRIGHTNESS * 2 / MAX_DEPTH)


def test_samples_depend_on_the_seed_alone(run_folder, tmp_path, monkeypatch):
    def drawn(*arguments: object) -> np.ndarray:
        command("sample", monkeypatch, run_folder / "run", "--out", tmp_path / "s.png", *arguments)
        return picture(tmp_path / "s.png")

    few = drawn("--count", 3, "--height", 37, "--seed", 5)
    many = drawn("--count", 20, "--height", 37, "--seed", 5)
    assert few.shape == (37 + GAP, 3 * (WIDTH + GAP))
    assert many.shape == (3 * (37 + GAP), 8 * (WIDTH + GAP))
    assert np.abs(many[: few.shape[0], : few.shape[1]].astype(int) - few).max() <= 1
    other = drawn("--count", 3, "--height", 37, "--seed", 6)
    assert np.abs(other.astype(int) - few).max() > 1
    assert drawn("--count", 1).shape == (MAX_HEIGHT + GAP, WIDTH + GAP)


@pytest.fixture(scope="module")
def run_with_prior(run_folder, tmp_path_factory) -> Path:
    """A copy of the run, with a prior fitted by the command."""
    run = tmp_path_factory.mktemp("prior") / "run"
    shutil.copytree(run_folder / "run", run)
    settings = ["prior.steps=3", "prior.width=16", "prior.blocks=1"]
    with pytest.MonkeyPatch.context() as patch:
        command("fit_prior", patch, run, "--shards", run_folder / "shards", *settings)
    return run


def test_a_fitted_prior_gives_each_sample_a_height_of_a_training_page(
    run_folder, run_with_prior, tmp_path, monkeypatch
):
    out = tmp_path / "pages"
    command("sample", monkeypatch, run_with_prior, "--out", f"{out}/", "--count", 12)
    pages = [picture(path) for path in sorted(out.iterdir())]
    data = TrainedModel(run_with_prior).open_shards(run_folder / "shards")
    heights = {int(h) for batch in data.pages(data.select("train")) for h in batch.heights}
    assert len(pages) == 12
    assert {len(page) for page in pages} <= heights
    assert len({len(page) for page in pages}) > 1
    assert all(page.shape[1] == WIDTH for page in pages)


def test_a_sample_as_file_is_its_picture_on_the_sheet_without_brightening(
    run_with_prior, tmp_path, monkeypatch
):
    shared = ("--count", 1, "--height", 40, "--seed", 3)
    (tmp_path / "pages").mkdir()
    command("sample", monkeypatch, run_with_prior, "--out", tmp_path / "pages", *shared)
    command("sample", monkeypatch, run_with_prior, "--out", tmp_path / "s.png", *shared)
    page = picture(tmp_path / "pages" / "page-00000.png")
    sheet = picture(tmp_path / "s.png")[:40, :WIDTH]
    assert page.shape == sheet.shape
    expected = np.clip(page.astype(float) * BRIGHTNESS, 0, 255)
    assert np.abs(expected - sheet).max() <= BRIGHTNESS


def test_samples_of_a_label(run_with_prior, run_folder, tmp_path, monkeypatch):
    label = TrainedModel(run_with_prior).prior.labels[0]
    out = tmp_path / "s.png"
    command("sample", monkeypatch, run_with_prior, "--out", out, "--count", 2, "--label", label)
    assert out.exists()
    with pytest.raises(UserError, match="'spaceship': unknown"):
        command("sample", monkeypatch, run_with_prior, "--out", out, "--label", "spaceship")
    with pytest.raises(UserError, match=r"no fitted prior; .*fit_prior"):
        command("sample", monkeypatch, run_folder / "run", "--out", out, "--label", label)


def test_a_damaged_prior_is_refused(run_with_prior, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(run_with_prior, run)
    path = run / "final" / "prior.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"prior.safetensors: damaged"):
        command("sample", monkeypatch, run, "--out", tmp_path / "s.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--shards", "s"], "not the directory of a finished run"),
        (["{run}", "--shards", "s", "lr.warmup_epochs=1"], "only settings of the prior"),
        (["{run}", "--shards", "s", "prior.steps=0"], "prior.steps"),
    ],
)
def test_fits_that_cannot_be_made_are_refused(run_with_prior, monkeypatch, arguments, message):
    arguments = [each.format(run=run_with_prior) for each in arguments]
    with pytest.raises(UserError, match=message):
        command("fit_prior", monkeypatch, *arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("sample", ["run", "--out", "s.png", "--height", "tall"], "whole number"),
        ("sample", ["run", "--out", "s.png", "--count", "0"], "1..1024"),
        ("sample", ["run", "--out", "none/s.png"], "no folder"),
        ("interpolate", ["run", "a", "b", "--out", "none/p.png"], "no folder"),
        ("search", ["run", "--shards", "s", "--query", "q", "--top", "few"], "whole number"),
        ("embed", ["run", "--out", "o.npz"], "--shards"),
        ("evaluate", ["run", "--shards", "s", "--json", "none/m.json"], "no folder"),
    ],
)
def test_invalid_arguments_are_refused_with_one_line(monkeypatch, capsys, name, arguments, message):
    with pytest.raises(SystemExit) as caught:
        command(name, monkeypatch, *arguments)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_too_large_height_and_a_missing_model_are_refused(run_folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=f"--height: is 200.*{MAX_HEIGHT}"):
        command("sample", monkeypatch, run_folder / "run", "--out", out, "--height", 200)
    with pytest.raises(UserError, match="no trained model"):
        command("embed", monkeypatch, tmp_path, "--shards", run_folder / "shards", "--out", out)
    assert not out.exists()


@pytest.mark.parametrize("name", ["embed", "search", "evaluate"])
def test_a_damaged_shard_is_named_in_one_line(run_folder, tmp_path, name):
    shutil.copytree(run_folder / "shards", tmp_path / "shards")
    shard = tmp_path / "shards" / "train-000001.tar"
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    shard.write_bytes(data)
    out = tmp_path / "out"
    rest = {
        "embed": ["--out", out],
        "search": ["--query", SAMPLE_FILE],
        "evaluate": ["--json", out],
    }
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            f"vaetrain.{name}",
            run_folder / "run",
            "--shards",
            shard.parent,
            *rest[name],
        ],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"vaetrain.{name}: {shard}")
    assert not out.exists()


@pytest.mark.parametrize(
    "name",
    ["embed", "search", "interpolate", "sample", "fit_prior", "evaluate", "export", "reconstruct"],
)
def test_help_does_not_import_torch(name):
    command_line = [sys.executable, "-X", "importtime", "-m", f"vaetrain.{name}", "--help"]
    done = subprocess.run(command_line, cwd=REPO, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0
    assert " torch\n" not in done.stderr  # importing it takes seconds
