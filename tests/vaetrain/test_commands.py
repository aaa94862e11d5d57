"""The commands that use a trained model: embed, search, interpolate and sample."""

import gzip
import json
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shards.build import build
from shards.building.options import BuildOptions
from shards.errors import UserError
from shards.format.layout import MAX_DEPTH
from shards.open import open_index
from shards.page_file import read_page
from shards.reading.collator import Collator
from shards.reading.height_ladder import height_ladder
from shards.reading.shard_files import ShardFiles
from tests.support.models import restless
from vaetrain import load_model
from vaetrain.artifacts.final_model import write_final
from vaetrain.config.experiment import load_experiment
from vaetrain.inference.trained_model import TrainedModel
from vaetrain.model.vae import VAE
from vaetrain.page_pictures import BRIGHTNESS, GAP, PAPER

REPO = Path(__file__).resolve().parents[2]
SAMPLE = REPO / "shards" / "sample" / "npm-sample.jsonl.gz"
WIDTH, ROWS, DIMENSIONS = 64, 128, 8
EXPERIMENT = load_experiment(
    None,
    [
        f"data.width={WIDTH}",
        f"data.max_height={ROWS}",
        f"model.latent_dim={DIMENSIONS}",
        "data.workers=0",
    ],
)


@pytest.fixture(scope="module")
def layouts() -> list[dict]:
    """The layouts that the shards are built from."""
    with gzip.open(SAMPLE, "rt") as lines:
        return [json.loads(line) for line, _ in zip(lines, range(24), strict=False)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, layouts) -> Path:
    """Several shards of 24 pages, and a run whose model has seen nothing."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "pages.jsonl").write_text("".join(json.dumps(page) + "\n" for page in layouts))
    options = BuildOptions(workers=1, shard_mb=0.02, keep_duplicates=True)
    build([folder / "pages.jsonl"], folder / "shards", options)
    assert len(open_index(folder / "shards").shards) > 2
    model = restless(EXPERIMENT.model, WIDTH, ROWS, 0.05)
    write_final(folder / "run" / "final", model, EXPERIMENT, {}, {})
    return folder


def command(name: str, monkeypatch, *arguments: object) -> None:
    """Run a command in this process."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    assert import_module(f"vaetrain.{name}").main() == 0


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@torch.no_grad()
def by_hand(folder: Path, numbers: range) -> list[np.ndarray]:
    """`mu`, `logvar` and the structure of pages one by one."""
    model = load_model(folder / "run")
    files = ShardFiles(open_index(folder / "shards"))
    ladder = height_ladder(ROWS, model.stride)
    collator = Collator(files, width=WIDTH, max_height=ROWS, ladder=ladder, seed=0)
    parts = []
    for number in numbers:
        page = collator.batch(np.array([number]), np.array([0]), training=False)
        mu, logvar, levels = model.posterior(page.images(), page.heights)
        parts.append((mu, logvar, cell_statistics(levels[0][0][0])))
    return [torch.cat(part).double().numpy() for part in zip(*parts, strict=True)]


def cell_statistics(features: torch.Tensor) -> torch.Tensor:
    """Mean and deviation of one page's map (C, H, W) in cells of a quarter of its width."""
    cell = features.shape[2] // 4
    whole = torch.zeros(len(features), ROWS // 2, features.shape[2])
    whole[:, : features.shape[1]] = features
    cells = whole.unfold(1, cell, cell).unfold(2, cell, cell)
    means, deviations = cells.mean(dim=(3, 4)), cells.std(dim=(3, 4), correction=0)
    return torch.cat([means.flatten(), deviations.flatten()])[None]


def directions(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def latents(folder) -> dict[str, np.ndarray]:
    """What `embed` writes of the shards."""
    out = folder / "latents"  # no suffix is added to the name that was asked for
    with pytest.MonkeyPatch.context() as monkeypatch:
        command("embed", monkeypatch, folder / "run", "--shards", folder / "shards", "--out", out)
    with np.load(out, allow_pickle=False) as arrays:
        return dict(arrays)


def test_embed_writes_every_page_with_its_names(folder, layouts, latents):
    everything = range(len(layouts))
    assert latents["ids"].tolist() == list(everything)
    assert latents["mu"].dtype == np.float32
    assert latents["mu"] == pytest.approx(by_hand(folder, everything)[0], abs=1e-5)
    files = ShardFiles(open_index(folder / "shards"))
    told = [json.loads(files.members(number)["json"]) for number in everything]
    # The sample's ids are proper keys already.
    for name, key in (("keys", "id"), ("labels", "label"), ("templates", "template")):
        assert latents[name].tolist() == [page[key] for page in told]
        assert sorted(latents[name]) == sorted(page[key] for page in layouts)


@pytest.mark.parametrize("number", [0, 13])
def test_search_finds_the_page_itself_and_then_the_nearest(
    folder, layouts, latents, tmp_path, monkeypatch, capsys, number
):
    query, sheet = tmp_path / "page.json", tmp_path / "sheet.png"
    query.write_text(json.dumps(layouts[number]))
    capsys.readouterr()
    where = [folder / "run", "--shards", folder / "shards"]
    command("search", monkeypatch, *where, "--query", query, "--top", 5, "--sheet", sheet)
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    place = latents["keys"].tolist().index(layouts[number]["id"])
    mu, logvar, structure = by_hand(folder, range(len(layouts)))
    latent = directions((mu - mu.mean(0)) / np.sqrt(np.exp(logvar / 2).mean(0)))
    spread = structure.std(0)
    seen = directions((structure - structure.mean(0)) / np.maximum(spread, 0.1 * spread.mean()))
    apart = [1 - part @ part[place] for part in (latent, seen)]  # by cosines
    distances = np.sqrt(np.maximum(apart[0] + 2 * apart[1], 0))
    nearest = np.argsort(distances)[:5]
    assert lines[0][:3] == [layouts[number][key] for key in ("id", "label", "template")]
    assert [line[0] for line in lines] == latents["keys"][nearest].tolist()
    assert [float(line[3]) for line in lines] == pytest.approx(distances[nearest], abs=1e-4)
    drawn = picture(sheet)
    assert drawn.shape[1] == 6 * (WIDTH + GAP)
    step = WIDTH + GAP
    np.testing.assert_array_equal(drawn[:, :WIDTH], drawn[:, step : step + WIDTH])


def test_search_shows_no_more_pages_than_there_are(folder, layouts, monkeypatch, capsys):
    where = [folder / "run", "--shards", folder / "shards"]
    command("search", monkeypatch, *where, "--query", SAMPLE, "--top", 1000)
    assert len(capsys.readouterr().out.splitlines()) == len(layouts)


def test_a_label_cannot_break_a_line_of_the_answer(tmp_path, folder, layouts, monkeypatch, capsys):
    source = tmp_path / "odd.json"
    source.write_text(json.dumps({**layouts[0], "label": "a\tb\n\x1b[2J"}))
    build([source], tmp_path / "shards", BuildOptions(workers=1))
    capsys.readouterr()
    where = [folder / "run", "--shards", tmp_path / "shards"]
    command("search", monkeypatch, *where, "--query", source)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.split("\t")[1] == "a b  [2J"


def test_interpolation_goes_from_one_page_to_the_other(folder, layouts, tmp_path, monkeypatch):
    a, b = (tmp_path / name for name in ("a.json", "b.json"))
    low = {"w": 64, "h": 40, "r": {"b": [0, 0, 64, 40], "c": [{"b": [8, 8, 30, 20]}]}}
    a.write_text(json.dumps(low))
    b.write_text(json.dumps(layouts[3]))
    out = tmp_path / "way.png"
    command("interpolate", monkeypatch, folder / "run", a, b, "--out", out, "--steps", 3)
    drawn = picture(out)
    step = WIDTH + GAP
    columns = [drawn[:, place * step : place * step + WIDTH] for place in range(5)]
    trained = TrainedModel(folder / "run")
    first, last = trained.read_page(a), trained.read_page(b)
    assert int(last.heights) == ROWS
    heights = [40, 40, (40 + ROWS) // 2, ROWS, ROWS]
    for column, height in zip(columns, heights, strict=True):
        assert (column[height:] == PAPER).all()
        assert (column[:height] != PAPER).any()
    for column, page in ((columns[1], first), (columns[3], last)):
        (made,) = trained.decode(trained.encode(page), page.heights)
        differs = np.abs(column[: len(made)].astype(int) - made)
        assert differs.max() <= 1  # a grey level: pages are padded further beside taller ones
    assert columns[0][1, 1] == round(255 * BRIGHTNESS / MAX_DEPTH)
    assert columns[0][15, 20] == round(255 * BRIGHTNESS * 2 / MAX_DEPTH)


def test_samples_depend_on_the_seed_and_on_nothing_else(folder, tmp_path, monkeypatch):
    def drawn(*arguments: object) -> np.ndarray:
        command("sample", monkeypatch, folder / "run", "--out", tmp_path / "s.png", *arguments)
        return picture(tmp_path / "s.png")

    few = drawn("--count", 3, "--height", 37, "--seed", 5)
    many = drawn("--count", 20, "--height", 37, "--seed", 5)
    assert few.shape == (37 + GAP, 3 * (WIDTH + GAP))
    assert many.shape == (3 * (37 + GAP), 8 * (WIDTH + GAP))
    assert np.abs(many[: few.shape[0], : few.shape[1]].astype(int) - few).max() <= 1
    other = drawn("--count", 3, "--height", 37, "--seed", 6)
    assert np.abs(other.astype(int) - few).max() > 1
    assert drawn("--count", 1).shape == (ROWS + GAP, WIDTH + GAP)


def test_samples_are_decoded_from_the_standard_normal(folder, tmp_path, monkeypatch):
    drawn = []

    def decode(self: VAE, z: torch.Tensor, heights: torch.Tensor, size, ladder) -> torch.Tensor:
        drawn.append(z)
        return torch.zeros(len(z), 1, *size)

    monkeypatch.setattr(VAE, "decode", decode)
    command("sample", monkeypatch, folder / "run", "--out", tmp_path / "s.png", "--count", 1024)
    z = torch.cat(drawn)
    assert z.shape == (1024, DIMENSIONS)
    assert z.mean(0).abs().max() < 0.15
    assert (z.std(0) - 1).abs().max() < 0.1
    assert (z.T.corrcoef() - torch.eye(DIMENSIONS)).abs().max() < 0.15


class TestReadPage:
    """One file as a batch."""

    def read(self, path: Path, width: int = 16):
        return read_page(path, width=width, max_height=32, stride=16)

    def test_a_picture_of_a_layout_is_the_layout(self, tmp_path):
        layout = {"w": 16, "h": 20, "r": {"b": [0, 0, 16, 20], "c": [{"b": [4, 5, 6, 7]}]}}
        (tmp_path / "page.json").write_text(json.dumps(layout))
        page = self.read(tmp_path / "page.json")
        grey = (page.images()[0, 0, :20] * 255).round().byte().numpy()
        assert grey[6, 5] == round(2 / MAX_DEPTH * 255)
        Image.fromarray(grey).save(tmp_path / "page.png")
        again = self.read(tmp_path / "page.png")
        assert again.size == page.size
        assert again.heights.tolist() == page.heights.tolist() == [20]
        assert (again.images() - page.images()).abs().max() <= 0.5 / 255 + 1e-6

    def test_it_is_scaled_to_the_width_and_cut_at_the_top(self, tmp_path):
        grey = np.zeros((200, 32), np.uint8)
        grey[:64] = 100
        Image.fromarray(grey).save(tmp_path / "page.png")
        page = self.read(tmp_path / "page.png")
        assert page.size == (32, 16)
        assert page.heights.tolist() == [32]
        assert (page.images() * 255).round().unique().tolist() == [100]

    def test_of_lines_the_first_counts(self, tmp_path):
        lines = [{"w": 16, "h": high, "r": {"b": [0, 0, 16, high]}} for high in (7, 9)]
        (tmp_path / "pages.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert self.read(tmp_path / "pages.jsonl").heights.tolist() == [7]

    @pytest.mark.parametrize(
        ("name", "content", "says"),
        [
            ("a.json", b'{"w": 1', "cut off"),
            ("a.json", b"[]", "not a layout"),
            ("a.json", b"", "JSON is cut off"),
            ("a.jsonl", b"\n", "holds no layout"),
            ("a.jsonl.gz", b"{}", "damaged gzip"),
            ("a.png", b"no picture", "not a PNG"),
            ("missing.json", None, "No such file"),
        ],
    )
    def test_what_is_wrong_is_said_in_one_line(self, tmp_path, name, content, says):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as caught:
            self.read(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_needle_is_not_scaled_to_gigabytes(self, tmp_path):
        Image.fromarray(np.zeros((32767, 1), np.uint8)).save(tmp_path / "needle.png")
        with pytest.raises(UserError, match="too large"):
            self.read(tmp_path / "needle.png", width=128)


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("sample", ["run", "--out", "s.png", "--count", "0"], "1..1024"),
        ("sample", ["run", "--out", "none/s.png"], "no folder"),
        ("interpolate", ["run", "a", "b", "--out", "."], "is a folder"),
        ("search", ["run", "--shards", "s", "--query", "q", "--top", "few"], "whole number"),
        ("embed", ["run", "--out", "o.npz"], "--shards"),
        ("evaluate", ["run", "--shards", "s", "--json", "none/m.json"], "no folder"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(monkeypatch, capsys, name, arguments, says):
    with pytest.raises(SystemExit) as caught:
        command(name, monkeypatch, *arguments)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_what_the_model_cannot_do_is_refused(folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=f"--height: is 200.*{ROWS}"):
        command("sample", monkeypatch, folder / "run", "--out", out, "--height", 200)
    with pytest.raises(UserError, match="no trained model"):
        command("embed", monkeypatch, tmp_path, "--shards", folder / "shards", "--out", out)
    assert not out.exists()


@pytest.mark.parametrize("name", ["embed", "search", "evaluate"])
def test_a_damaged_shard_gets_one_line_naming_it(folder, tmp_path, name):
    shutil.copytree(folder / "shards", tmp_path / "shards")
    shard = tmp_path / "shards" / "train-000001.tar"
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    shard.write_bytes(data)
    out = tmp_path / "out"
    rest = {"embed": ["--out", out], "search": ["--query", SAMPLE], "evaluate": ["--json", out]}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            f"vaetrain.{name}",
            folder / "run",
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


@pytest.mark.parametrize("name", ["embed", "search", "interpolate", "sample"])
def test_help_is_quick(name):
    command_line = [sys.executable, "-X", "importtime", "-m", f"vaetrain.{name}", "--help"]
    done = subprocess.run(command_line, cwd=REPO, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0
    assert " torch\n" not in done.stderr  # what takes the seconds
