"""The recipes of docs/extending.md, followed on a copy of the repository."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.support.paths import REPO

PAGE = REPO / "docs" / "extending.md"
PREPARATION = "Preparation"

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# The sentence before a block says what to do with it; it may be broken over lines.
CREATE = re.compile(r"Create `([^`]+)`:$")
APPEND = re.compile(r"Append to `([^`]+)`:$")
TABLE = re.compile(r"Append to the table `(\w+)` in `([^`]+)`:$")
REPLACE = re.compile(r"In `([^`]+)`, replace the line `([^`]+)` by:$")


class WrongRecipe(AssertionError):
    """A recipe that cannot be followed."""


@dataclass
class Recipe:
    """One section of the page.

    Attributes:
        edits: functions that change a copy of the repository, in order.
        commands: the words of each command of the section.
    """

    edits: list[Callable[[Path], None]] = field(default_factory=list)
    commands: list[list[str]] = field(default_factory=list)

    def apply(self, copy: Path) -> None:
        """Create and edit the files of the recipe."""
        for edit in self.edits:
            edit(copy)


def read_recipes(text: str) -> dict[str, Recipe]:
    """Return the recipes of the page by their headings."""
    sections = re.split(r"^## (.*)$", text, flags=re.MULTILINE)[1:]
    recipes = zip(sections[::2], sections[1::2], strict=True)
    return {title: read_recipe(body) for title, body in recipes}


def read_recipe(body: str) -> Recipe:
    """Return the edits and commands of a section."""
    recipe, end = Recipe(), 0
    for block in FENCE.finditer(body):
        instruction = body[end : block.start()].strip().replace("\n", " ")
        language, text, end = block[1], block[2], block.end()
        if language == "sh":
            recipe.commands += [shlex.split(line, comments=True) for line in text.splitlines()]
        else:
            recipe.edits.append(read_edit(instruction, text))
    return recipe


def read_edit(instruction: str, text: str) -> Callable[[Path], None]:
    """Return the edit that the sentence before a block asks for."""
    if match := CREATE.search(instruction):
        return lambda copy: create(copy / match[1], text)
    if match := APPEND.search(instruction):
        blank = "\n\n" if text.startswith(("def ", "class ", "@")) else ""
        return lambda copy: insert(copy / match[1], blank + text, len)
    if match := TABLE.search(instruction):
        return lambda copy: append_to_table(copy / match[2], match[1], text)
    if match := REPLACE.search(instruction):
        return lambda copy: replace(copy / match[1], match[2], text)
    raise WrongRecipe(f"no edit is described before the block: {instruction[-80:]!r}")


def create(path: Path, text: str) -> None:
    """Write a new file."""
    if path.exists():
        raise WrongRecipe(f"{path}: exists already")
    if not path.parent.is_dir():
        raise WrongRecipe(f"{path}: its folder does not exist")
    path.write_text(text)


def insert(path: Path, text: str, find_place: Callable[[list[str]], int]) -> None:
    """Insert text into an existing file, before the line that `find_place` returns."""
    if not path.is_file():
        raise WrongRecipe(f"{path}: does not exist")
    lines = path.read_text().splitlines(keepends=True)
    place = find_place(lines)
    path.write_text("".join([*lines[:place], text, *lines[place:]]))


def replace(path: Path, line: str, text: str) -> None:
    """Replace the only line of a file with this text."""
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    if lines.count(f"{line}\n") != 1:
        raise WrongRecipe(f"{path}: the line {line!r} occurs {lines.count(line)} times")
    path.write_text("".join(lines).replace(f"{line}\n", text))


def append_to_table(path: Path, name: str, text: str) -> None:
    """Append an entry to a table in a file, indented as the others and with a comma."""
    lines = path.read_text().splitlines() if path.is_file() else []
    place = end_of_table(lines, name)
    indent = re.match(" *", lines[place])[0] + "    "
    insert(path, textwrap.indent(text.rstrip() + ",\n", indent), lambda _: place)


def end_of_table(lines: list[str], name: str) -> int:
    """Return the index of the line that closes the only assignment to a name at the top level.

    A table that is a comprehension over a tuple of entries ends where the tuple does.
    """
    opens = re.compile(rf"{name}(: [^=]+)? = [({{\[]$")
    places = [number for number, line in enumerate(lines) if opens.match(line)]
    if len(places) != 1:
        raise WrongRecipe(f"the table {name} occurs {len(places)} times")
    place = next(n for n in range(places[0], len(lines)) if lines[n] in (")", "}", "]"))
    return place - 1 if lines[place - 1] == "    )" else place


def run(command: list[str], copy: Path) -> str:
    """Run a command in a copy of the repository; return its output."""
    python = str(Path(sys.executable).parent)
    environment = os.environ | {
        "PATH": os.pathsep.join([python, os.environ["PATH"]]),
        "PYTHONPATH": str(copy),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert done.returncode == 0, f"{shlex.join(command)}\n{output[-4000:]}"
    return output


def lines_of(copy: Path, name: str, split: str) -> list[dict]:
    """Return the lines of a run's metrics that belong to a split."""
    lines = (copy / "runs" / name / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["split"] == split]


def tensor_names(file: Path) -> set[str]:
    """Return the names of the tensors in a safetensors file."""
    with safe_open(file, "pt") as tensors:
        return set(tensors.keys())


RECIPES = read_recipes(PAGE.read_text())


def check_loss(copy: Path, outputs: list[str]) -> None:
    """Its value is logged, and is part of the loss."""
    for line in lines_of(copy, "huber", "train"):
        parts = line["recon"] + 0.1 * (1 - line["ssim"]) + 0.5 * line["huber"]
        assert line["huber"] > 0
        assert line["loss"] == pytest.approx(parts, rel=0.05)  # the rest is the KL, beta near 0


def check_block(copy: Path, outputs: list[str]) -> None:
    """The final model consists of such blocks."""
    names = tensor_names(copy / "runs" / "plain" / "final" / "model.safetensors")
    assert any(name.endswith("blocks.0.conv.weight") for name in names)
    assert not any(name.endswith("blocks.0.conv1.weight") for name in names)


def check_discriminator(copy: Path, outputs: list[str]) -> None:
    """It trains, and its own parameters are in the checkpoint."""
    assert lines_of(copy, "pool", "train")[-1]["d_loss"] > 0
    folder = max((copy / "runs" / "pool" / "checkpoints").iterdir())
    assert any("hidden.weight" in name for file in folder.glob("*.safetensors")
               for name in tensor_names(file))  # fmt: skip


def check_source_format(copy: Path, outputs: list[str]) -> None:
    """Two layouts become pages, the third is refused with its reason."""
    index = json.loads((copy / "data" / "flat" / "index.json").read_text())
    assert index["samples"] == 2
    (reject,) = (copy / "data" / "flat" / "rejects.jsonl").read_text().splitlines()
    assert "must be a list" in reject


def check_tracker(copy: Path, outputs: list[str]) -> None:
    """Every number of the last training line is in the file."""
    lines = (copy / "runs" / "csv" / "metrics.csv").read_text().splitlines()
    loss = lines_of(copy, "csv", "train")[-1]["loss"]
    assert f"16,train/loss,{loss}" in lines


def check_augmentation(copy: Path, outputs: list[str]) -> None:
    """The sheet is drawn, and the run's checkpoint names the operation in its policy."""
    assert (copy / "sheet.png").stat().st_size > 0
    folder = max((copy / "runs" / "darken" / "checkpoints").iterdir())
    assert any('"darken"' in file.read_text() for file in folder.glob("*.json"))


def check_metric(copy: Path, outputs: list[str]) -> None:
    """The validation and the evaluation report the metric."""
    assert 0 < lines_of(copy, "metric", "val")[-1]["max_error"] <= 1
    assert 0 < json.loads((copy / "metrics.json").read_text())["max_error"] <= 1


def check_engine(copy: Path, outputs: list[str]) -> None:
    """Two ranks of the engine compute the losses and norms of one process."""
    assert "engine=zero0 " in outputs[-1]
    assert "world_size=2" in outputs[-1]
    for one, two in zip(*(lines_of(copy, name, "train") for name in ("one", "two")), strict=True):
        for key in ("loss", "recon", "kl", "grad_norm"):
            assert two[key] == pytest.approx(one[key], rel=1e-4), key


def check_command(copy: Path, outputs: list[str]) -> None:
    """The command describes itself, and prints three pages by falling distance."""
    assert "usage: vaetrain.outliers" in outputs[-3]
    distances = [float(line.split("\t")[1]) for line in outputs[-1].splitlines()[-3:]]
    assert len(distances) == 3
    assert distances == sorted(distances, reverse=True)


CHECKS: dict[str, Callable[[Path, list[str]], None]] = {
    "Loss": check_loss,
    "Augmentation": check_augmentation,
    "Block": check_block,
    "Discriminator": check_discriminator,
    "Metric": check_metric,
    "Engine": check_engine,
    "Source format": check_source_format,
    "Tracker": check_tracker,
    "Command": check_command,
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A copy of the repository after the preparation."""
    copy = tmp_path_factory.mktemp("extending") / "repo"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build")
    shutil.copytree(REPO, copy, ignore=lambda folder, names: {
        *ignored(folder, names),
        *({"data", "runs"} & set(names) if Path(folder) == REPO else ()),
    })  # fmt: skip
    RECIPES[PREPARATION].apply(copy)
    for command in RECIPES[PREPARATION].commands:
        run(command, copy)
    return copy


def test_every_recipe_has_a_check():
    assert set(CHECKS) == set(RECIPES) - {PREPARATION}


@pytest.mark.slow
@pytest.mark.parametrize("title", CHECKS)
def test_a_recipe_works(title, prepared, tmp_path):
    """A recipe alone, on a copy of its own: its edits, its own test, its commands."""
    copy = tmp_path / "repo"
    shutil.copytree(prepared, copy)
    RECIPES[title].apply(copy)
    outputs = [run(command, copy) for command in RECIPES[title].commands]
    CHECKS[title](copy, outputs)


def test_all_recipes_work_together(prepared, tmp_path):
    """All pieces in one copy: all of their tests, and one training with all of their settings."""
    copy = tmp_path / "repo"
    shutil.copytree(prepared, copy)
    tests, settings = [], {}
    for title in CHECKS:
        RECIPES[title].apply(copy)
        for command in RECIPES[title].commands:
            if command[:3] == ["python", "-m", "pytest"]:
                tests.append(command[-1])
            if "vaetrain/train.py" in command:
                settings |= dict(word.split("=", 1) for word in command if "=" in word)
    run(["python", "-m", "pytest", "-q", *tests], copy)
    words = [f"{key}={value}" for key, value in (settings | {"name": "all"}).items()]
    run(["python", "vaetrain/train.py", "--experiment", "tiny.yaml", *words], copy)
    line = lines_of(copy, "all", "train")[-1]
    assert line["huber"] > 0
    assert line["d_loss"] > 0
    assert lines_of(copy, "all", "val")[-1]["max_error"] > 0
    assert (copy / "runs" / "all" / "metrics.csv").stat().st_size > 0


def test_a_wrong_recipe_is_noticed(tmp_path):
    """An edit whose file, line or table does not exist fails, and so does a block without edit."""
    (tmp_path / "a.py").write_text("TABLE = (\n    1,\n)\nx = 1\nx = 1\n")
    for instruction in (
        "Create `a.py`:",
        "Append to `b.py`:",
        "In `a.py`, replace the line `y = 1` by:",
        "In `a.py`, replace the line `x = 1` by:",
        "Append to the table `OTHER` in `a.py`:",
    ):
        recipe = read_recipe(f"{instruction}\n\n```python\n    2,\n```\n")
        with pytest.raises(WrongRecipe):
            recipe.apply(tmp_path)
    with pytest.raises(WrongRecipe):
        read_recipe("Look at this:\n\n```python\n    2,\n```\n")
    read_recipe("Append to the table `TABLE`\nin `a.py`:\n\n```py\n2\n```\n").apply(tmp_path)
    assert (tmp_path / "a.py").read_text().startswith("TABLE = (\n    1,\n    2,\n)\n")
