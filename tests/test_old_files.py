"""Shards, checkpoints and models written by earlier versions still open, and give the same numbers.

`tests/fixtures/version_0_1/` was written before the modules moved into packages: shards of 16 real
pages, and for a VAE and a VAE-GAN an archive with a checkpoint at 16 images. Its tensors were
rounded to three bits of mantissa before that version saved them, so that the archives are small.
`expected.json` holds what that version computed from these files.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.open import open_index
from shards.reading.collator import Collator
from shards.reading.height_ladder import height_ladder
from shards.reading.shard_files import ShardFiles
from shards.verify import main as verify
from tests.support.paths import REPO
from vaetrain import load_model

FIXTURES = REPO / "tests" / "fixtures" / "version_0_1"
EXPECTED = json.loads((FIXTURES / "expected.json").read_text())


def unpack(kind: str, folder: Path) -> Path:
    """Unpack a run directory; return its path."""
    with tarfile.open(FIXTURES / f"{kind}.tar.xz") as archive:
        # Python 3.11.2, that of Debian 12, has no filters yet.
        archive.extractall(
            folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {})
        )
    return folder / kind


def validation_batch():
    """Read the validation pages of the fixture's shards, 32 px wide, at most 64 rows."""
    index = open_index(FIXTURES / "shards")
    ids = np.array(index.ids("val"))
    collator = Collator(
        ShardFiles(index), width=32, max_height=64, ladder=height_ladder(64, 16), seed=0
    )
    return collator.batch(ids, np.zeros_like(ids), training=False)


def test_old_shards_are_whole(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["shards.verify", str(FIXTURES / "shards")])
    assert verify() == 0, capsys.readouterr()


def test_an_old_final_model_gives_the_same_latents_and_pages(tmp_path):
    model, batch = load_model(unpack("vae", tmp_path)), validation_batch()
    assert batch.heights.tolist() == EXPECTED["heights"]
    mu, _ = model.encode(batch.images(), batch.heights)
    torch.testing.assert_close(mu, torch.tensor(EXPECTED["mu"]), rtol=1e-4, atol=1e-5)
    pages = model.decode(mu, batch.heights, batch.size)
    means = torch.tensor(EXPECTED["page_means"])
    torch.testing.assert_close(pages.mean(dim=(1, 2, 3)), means, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["vae", "vaegan"])
def test_training_resumes_from_an_old_checkpoint_with_the_same_losses(kind, tmp_path):
    run = unpack(kind, tmp_path)
    shutil.rmtree(run / "final", ignore_errors=True)
    command = [sys.executable, "vaetrain/train.py", "--run-dir", str(run)]
    # Settings whose defaults have changed since are among them.
    command += [f"data.shards={FIXTURES / 'shards'}", *EXPECTED["settings"][kind]]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["images"] > 16]
    assert len(lines) == len(EXPECTED[kind])
    for line, expected in zip(lines, EXPECTED[kind], strict=True):
        for key, value in expected.items():
            numeric = isinstance(value, float)
            assert line[key] == (pytest.approx(value, rel=1e-3) if numeric else value), key
