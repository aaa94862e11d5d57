"""Hundreds of bad files: each is refused quickly in one line; good files beside them are read.

The files are those of `tests.corpus`.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml

from launch.study import load_study
from shards.build import build
from shards.building.options import BuildOptions
from shards.errors import DamagedShards, UserError
from shards.format.index import REJECTS_NAME, Index
from shards.format.png import encode_png
from shards.inspect import describe
from shards.open import open_index
from shards.page_file import read_page
from shards.reading.collator import Collator
from shards.reading.shard_files import ShardFiles
from shards.verify import find_damage
from tests.corpus import BadFile, settings, write_files
from tests.corpus.pages import (
    LAYOUT,
    bad_dumps,
    bad_layouts,
    bad_lines,
    bad_pictures,
    write_odd_files,
)
from tests.corpus.runs import write_bad_checkpoints, write_bad_models
from tests.corpus.shards import write_bad_shards
from tests.support.paths import REPO
from vaetrain import load_model
from vaetrain.artifacts import checkpoint
from vaetrain.artifacts.checkpoint import Checkpoint
from vaetrain.artifacts.final_model import newest_checkpoint, write_final
from vaetrain.augmentation.config import AugmentConfig
from vaetrain.augmentation.policy import load_policy
from vaetrain.config.experiment import as_dict, load_experiment
from vaetrain.engines.engine_files import read_engine_file
from vaetrain.model.vae import VAE
from vaetrain.startup import RELAUNCHED, start

SECONDS = 20  # limit for one file
ENGINE = REPO / "accelerate_configs" / "ddp.yaml"
TINY = load_experiment(None, ["data.width=16", "data.max_height=16", "model.latent_dim=1"])


@contextmanager
def time_limit(bad: BadFile) -> Iterator[None]:
    """Fail if a file takes more than `SECONDS`."""

    def fail(*_: object) -> None:
        raise AssertionError(f"{bad.path} hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check_line(bad: BadFile, text: str) -> None:
    """Assert that a message is one short printable line with the expected text."""
    assert len(text.splitlines()) == 1, text
    assert text.isprintable(), text
    assert len(text) < 1000, text
    assert bad.message in text


def check_refused(
    files: list[BadFile], read: Callable[[Path], object], *refusals: type[Exception]
) -> None:
    """Assert that every file is refused with one of these exceptions and a line that names it."""
    assert files
    for bad in files:
        with time_limit(bad):
            try:
                read(bad.path)
            except refusals as error:
                check_line(bad, str(error))
            else:
                raise AssertionError(f"{bad.path} was read")


def write_good_pages(folder: Path) -> int:
    """Write valid pages into a folder; return their number."""
    lines = [json.dumps({**LAYOUT, "id": f"good-{n}", "w": 300 + n}) + "\n" for n in range(9)]
    (folder / "good.jsonl").write_text("".join(lines))
    (folder / "good.json").write_text(json.dumps({**LAYOUT, "w": 400}))
    return len(lines) + 1


def built(folder: Path, out: Path, store: str) -> tuple[Index, list[dict]]:
    """Build shards of a folder; return their index and the rejects."""
    build([folder], out, BuildOptions(store=store, png_width=16, workers=1, keep_duplicates=True))
    assert not list(find_damage(out))
    rejects = [json.loads(line) for line in (out / REJECTS_NAME).read_text().splitlines()]
    assert all(reject["reason"].isprintable() for reject in rejects)
    return open_index(out), rejects


def test_bad_layouts_are_refused(tmp_path):
    bad = [*bad_layouts(), *bad_dumps()]
    files = write_files(tmp_path / "pages", bad) + write_odd_files(tmp_path / "pages")
    check_refused(
        files, lambda path: read_page(path, width=32, max_height=64, stride=16), UserError
    )
    count = write_good_pages(tmp_path / "pages")
    index, rejects = built(tmp_path / "pages", tmp_path / "shards", "boxes")
    assert len(index) == count
    assert len(rejects) == len(files)
    # The name that is not UTF-8 is escaped in the message.
    assert len({str(bad.path) for bad in files} - {reject["file"] for reject in rejects}) <= 1


def test_bad_lines_are_refused_and_good_lines_are_built(tmp_path):
    lines = list(bad_lines())
    files = write_files(tmp_path / "pages", ((name, data) for name, data, _ in lines))
    count = write_good_pages(tmp_path / "pages") + sum(good for *_, good in lines)
    index, rejects = built(tmp_path / "pages", tmp_path / "shards", "boxes")
    assert len(index) == count
    assert {reject["file"] for reject in rejects} == {str(bad.path) for bad in files}


def test_bad_pictures_are_refused(tmp_path):
    files = write_files(tmp_path / "pages", bad_pictures())
    check_refused(
        files, lambda path: read_page(path, width=32, max_height=64, stride=16), UserError
    )
    count = write_good_pages(tmp_path / "pages") + 1
    (tmp_path / "pages" / "good.png").write_bytes(encode_png(np.zeros((9, 9), np.uint8)))
    index, rejects = built(tmp_path / "pages", tmp_path / "shards", "png")
    assert len(index) == count
    assert {reject["file"] for reject in rejects} == {str(bad.path) for bad in files}


def read_every_sample(folder: Path) -> int:
    """Return the number of readable samples; raise DamagedShards if the index is damaged."""
    index = open_index(folder)
    assert all(line.isprintable() for line in describe(index))
    collator = Collator(ShardFiles(index), width=32, max_height=64, ladder=np.array([64]), seed=0)
    read = 0
    for number in range(len(index)):
        try:
            batch = collator.batch(np.array([number]), np.array([0]), training=True)
        except DamagedShards as error:
            check_line(BadFile(folder, ""), str(error))
        else:
            assert batch.images().isfinite().all()
            read += 1
    return read


def test_bad_shards_are_reported_and_their_good_samples_are_read(tmp_path):
    source = tmp_path / "pages"
    source.mkdir()
    write_good_pages(source)
    options = BuildOptions(shard_mb=0.005, workers=1, keep_duplicates=True)
    build([source], tmp_path / "whole", options)
    whole = open_index(tmp_path / "whole")
    assert len(whole.shards) > 3
    (tmp_path / "bad").mkdir()
    files = list(write_bad_shards(tmp_path / "bad", tmp_path / "whole"))
    for bad in files:
        with time_limit(bad):
            problems = list(find_damage(bad.path))
            assert problems, f"{bad.path}: no damage found"
            for line in problems:
                assert line.startswith(str(bad.path))
                check_line(bad, line)
            try:
                read = read_every_sample(bad.path)
            except DamagedShards as error:
                check_line(bad, str(error))
            else:
                # The samples of the other shards are still read.
                damaged = whole.shards[0].samples if bad.message == whole.shards[0].name else 0
                # Refused although its boxes are valid, because other tools would follow the link.
                assert read == 0 or not bad.path.name.startswith(("type-", "name-"))
                assert read >= (len(whole) - damaged if bad.message.endswith(".tar") else 0)


def test_bad_experiments_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(RELAUNCHED, raising=False)
    whole = yaml.safe_dump(as_dict(TINY)).encode()
    files = write_files(tmp_path / "yaml", settings.bad_yaml(whole))
    texts, keys = zip(*settings.SETTINGS, strict=True)
    numbered = write_files(tmp_path / "settings", settings.numbered(texts))
    files += [BadFile(bad.path, key) for bad, key in zip(numbered, keys, strict=True)]
    monkeypatch.chdir(tmp_path)
    for bad in files:
        with time_limit(bad), pytest.raises(SystemExit) as exit:
            start(["--experiment", str(bad.path)])
        assert exit.value.code == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        check_line(bad, printed.err.removesuffix("\n"))
    assert not list(tmp_path.glob("runs"))


def test_bad_engine_files_policies_and_studies_are_refused(tmp_path):
    read: dict[str, tuple[tuple[str, ...], Callable[[Path], object]]] = {
        "engine": (settings.ENGINES, read_engine_file),
        "policy": (settings.POLICIES, lambda path: load_policy(AugmentConfig(policy=str(path)))),
        "study": (settings.STUDIES, lambda path: load_study(path, [])),
    }
    for kind, (texts, reader) in read.items():
        files = write_files(tmp_path / kind, settings.bad_yaml(ENGINE.read_bytes()))
        check_refused(files, reader, UserError)
        files = write_files(tmp_path / f"{kind}-settings", settings.numbered(texts))
        if kind == "study":  # the message may name a setting of the base instead of the file
            files = [BadFile(bad.path, "") for bad in files]
        check_refused(files, reader, UserError)


def test_bad_checkpoints_are_skipped_for_an_older_one(tmp_path):
    model = VAE(TINY.model, 16, 16)
    weights = dict(model.state_dict())
    state = {"experiment": as_dict(TINY)}
    saved = Checkpoint(16, {"a": weights["skip_gate"]}, weights, {}, {}, state)
    whole = checkpoint.save(tmp_path / "whole", saved, keep=1)
    run = tmp_path / "run"
    checkpoint.save(run / "checkpoints", saved, keep=1)
    files = list(write_bad_checkpoints(tmp_path / "bad", whole))
    check_refused(files, checkpoint.load, checkpoint.DamagedCheckpoint)
    newer = run / "checkpoints" / f"{32:012d}"
    for bad in files:
        bad.path.rename(newer)
        log: list[str] = []
        assert newest_checkpoint(run / "checkpoints", log.append).images == 16
        check_line(BadFile(bad.path, str(newer)), *log)
        newer.rename(bad.path)
    assert load_model(run).latent_dim == 1


def test_bad_final_models_are_refused(tmp_path):
    model = VAE(TINY.model, 16, 16)
    write_final(tmp_path / "whole", model, TINY, {}, {})
    assert load_model(tmp_path / "whole").latent_dim == 1
    files = list(write_bad_models(tmp_path / "bad", tmp_path / "whole"))
    check_refused(files, load_model, UserError)


def test_the_corpus_has_at_least_300_files():
    yaml_files = list(settings.bad_yaml(ENGINE.read_bytes()))
    texts = (*settings.SETTINGS, *settings.ENGINES, *settings.POLICIES, *settings.STUDIES)
    files = [*bad_layouts(), *bad_lines(), *bad_pictures(), *yaml_files]
    assert len(files) + len(texts) >= 300  # in addition to shards, checkpoints and final models
