"""The search for a policy: what is drawn, which go on, and one real search, small."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shards.build import build
from shards.building.options import BuildOptions
from shards.errors import UserError
from vaetrain.augment.search import Trainings, candidates, halve, random_policy, rungs
from vaetrain.augmentation.config import AugmentConfig
from vaetrain.augmentation.policy import CHOICES, OPS, load_policy

REPO = Path(__file__).resolve().parents[3]
SMALL = (
    "data.width=64",
    "data.max_height=128",
    "data.val_templates=[]",
    "data.workers=0",
    "model.latent_dim=8",
    "model.start=random",
    "train.global_batch_size=8",
    "lr.warmup_epochs=0.1",
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("search") / "shards"
    build([REPO / "shards" / "sample"], folder, BuildOptions(count=40, workers=1))
    return folder


def search(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vaetrain.augment.search", *map(str, arguments)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        (2, [(2, 8192)]),
        (4, [(4, 8192)]),
        (5, [(5, 2048), (2, 8192)]),
        (16, [(16, 2048), (4, 8192)]),
        (64, [(64, 512), (16, 2048), (4, 8192)]),
    ],
)
def test_a_quarter_goes_on_to_four_times_the_images(trials, expected):
    assert rungs(trials, 8192) == expected


def test_no_round_is_without_images():
    assert rungs(64, 3) == [(64, 1), (16, 1), (4, 3)]


def test_halving_finds_the_best_though_early_scores_are_rough():
    chance, told = random.Random(0), []

    def score(name: str, images: int) -> float:
        told.append((name, images))
        return int(name) + chance.uniform(-4, 4) * 100 / images

    names = [str(number) for number in range(16)]
    chance.shuffle(names)
    ranking = halve(names, 1600, score)
    assert [name for name, _ in ranking][:1] == ["0"]
    assert [loss for _, loss in ranking] == sorted(loss for _, loss in ranking)
    assert told[:16] == [(name, 400) for name in names]
    assert [images for _, images in told[16:]] == [1600] * 4


def test_a_loss_that_is_not_finite_never_wins():
    losses = {"a": float("inf"), "b": 2.0, "c": 1.0}
    assert [name for name, _ in halve(list(losses), 8, lambda n, _: losses[n])] == ["c", "b", "a"]


def test_policies_are_of_the_seed_and_within_the_limits():
    policies = candidates(200, 0, denoise=True)
    assert list(policies)[:3] == ["none", "default", "random 0"]
    assert len(policies) == 200
    assert candidates(300, 0, denoise=True) | policies == candidates(300, 0, denoise=True)
    assert candidates(3, 1, denoise=True)["random 0"] != policies["random 0"]
    drawn = [policy.chances for name, policy in policies.items() if name.startswith("random")]
    for name, op in OPS.items():
        used = [chances[name] for chances in drawn if name in chances]
        assert 70 < len(used) < 130
        assert all(0 <= chance.probability <= 1 for chance in used)
        assert all(0 <= chance.magnitude <= op.full for chance in used)
        # Gentle ones and strong ones.
        assert min(chance.magnitude for chance in used) < 0.05 * op.full
        assert max(chance.magnitude for chance in used) > 0.6 * op.full


def test_nothing_spoils_the_input_where_denoising_is_off():
    for policy in candidates(30, 0, denoise=False).values():
        assert set(policy.chances) <= set(CHOICES)


@pytest.fixture(scope="module")
def found(shards) -> subprocess.CompletedProcess[str]:
    """A search over three policies, of one round."""
    settings = (f"data.shards={shards}", *SMALL)
    return search("--trials", 3, "--images", 16, *settings)


def test_a_search_leaves_the_best_policy_where_auto_finds_it(shards, found):
    assert found.returncode == 0, found.stderr
    rows = [json.loads(line) for line in (shards / "policy.trials.jsonl").read_text().splitlines()]
    assert [row["images"] for row in rows] == [16, 16, 16]
    assert [row["policy"] == {} for row in rows] == [True, False, False]
    assert len({row["loss"] for row in rows}) == 3
    best = min(rows, key=lambda row: row["loss"])
    policy = load_policy(AugmentConfig(policy="auto"), shards)
    assert policy == load_policy(AugmentConfig(policy=str(shards / "policy.yaml")))
    chances = {name: vars(chance) for name, chance in policy.chances.items()}
    assert chances == best["policy"]
    told = [float(line.split("\t")[0]) for line in found.stdout.splitlines()[:-1]]
    assert told == pytest.approx(sorted(row["loss"] for row in rows), rel=1e-5)
    assert found.stdout.splitlines()[-1].endswith("train with augment.policy=auto")


def test_the_same_search_trains_nothing_again(shards, found, tmp_path):
    copy = tmp_path / "again.trials.jsonl"
    shutil.copy(shards / "policy.trials.jsonl", copy)
    before, out = copy.read_bytes(), tmp_path / "again.yaml"
    settings = ("--trials", 3, "--images", 16, f"data.shards={shards}", *SMALL)
    again = search(*settings, "--out", out)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[:-1] == found.stdout.splitlines()[:-1]
    assert copy.read_bytes() == before
    assert out.read_bytes() == (shards / "policy.yaml").read_bytes()


def a_trainer(script: str) -> list[str]:
    return [sys.executable, "-c", script]


WRITES = """
import pathlib, sys
run = pathlib.Path(sys.argv[sys.argv.index("--run-dir") + 1])
run.mkdir()
(run / "metrics.jsonl").write_text('{"split": "val", "images": 8%s}\\n')
"""


def test_other_settings_are_trained_for_themselves(tmp_path):
    table = tmp_path / "table.jsonl"
    (policy,) = [random_policy(random.Random(0), CHOICES)]
    one = Trainings(a_trainer(WRITES % ', "loss": 0.5'), table, "one")
    other = Trainings(a_trainer(WRITES % ', "loss": 0.25'), table, "other")
    assert one.loss(policy, 8) == 0.5
    assert Trainings(a_trainer("1 / 0"), table, "one").loss(policy, 8) == 0.5
    assert other.loss(policy, 8) == 0.25
    diverged = Trainings(a_trainer(WRITES % ""), table, "diverged")
    assert diverged.loss(policy, 8) == float("inf")


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("import sys; sys.exit('error: data.width: 3 is not allowed')", "data.width: 3"),
        ("1 / 0", "ZeroDivisionError"),
        ("import os; os._exit(7)", "exit status 7"),
        ("", "no validation pages"),
    ],
)
def test_a_training_that_fails_ends_the_search(tmp_path, script, says):
    trainings = Trainings(a_trainer(script), tmp_path / "table.jsonl", "one")
    with pytest.raises(UserError, match=says):
        trainings.loss(random_policy(random.Random(0), CHOICES), 8)
    assert not list(tmp_path.iterdir())


def test_mistakes_get_one_line_and_leave_nothing(shards, tmp_path):
    (tmp_path / "odd.trials.jsonl").write_text("[3")
    for arguments, says in (
        (("--trials", 1), "must be a whole number in 2.."),
        ((f"data.shards={tmp_path}",), "index.json"),
        (("data.width=x",), "data.width: 'x' is not a whole number"),
        (("--experiment", "nothing.yaml"), "there is no such experiment file"),
        (("--out", tmp_path / "no" / "p.yaml"), "there is no folder"),
        ((f"data.shards={shards}", "--out", tmp_path / "odd.yaml"), "is no table of trials"),
        ((f"data.shards={shards}", "data.width=100"), "data.width: 100 is not a multiple"),
    ):
        done = search(*arguments)
        assert done.returncode == (1 if says == "index.json" else 2), done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith("vaetrain.augment.search: ")
        assert says in line
    assert [path.name for path in tmp_path.iterdir()] == ["odd.trials.jsonl"]
