"""The pages of documentation: their length, links, paths, commands and settings."""

from __future__ import annotations

import configparser
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from launch.study import describe_sweep, load_study
from tests.support.paths import REPO
from vaetrain.augmentation.config import AugmentConfig
from vaetrain.augmentation.policy import OPS, load_policy
from vaetrain.config.command import experiment_path, parse_command
from vaetrain.config.experiment import describe_settings, load_experiment

PAGES = [REPO / name for name in ("README.md", "ARCHITECTURE.md", "NOTES.md")]
PAGES += [*sorted((REPO / "docs").glob("*.md")), REPO / "benchmarks" / "README.md"]
USER_PAGES = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
RECIPES = REPO / "docs" / "extending.md"  # its code is tested by test_extending.py
LONGEST = {"README.md": 150, "ARCHITECTURE.md": 200}

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^    [^\n]*\n)+", re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
SETTING = re.compile(r"^  ([a-z_0-9.]+)=", re.MULTILINE)
FILES = re.compile(r"\.(safetensors|onnx|yaml|json|jsonl|npz|png|py|md)$")
KEYS = set(SETTING.findall(describe_settings() + "\n" + describe_sweep()))
SECTIONS = {key.partition(".")[0] for key in KEYS if "." in key}

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPO)))
by_user_page = pytest.mark.parametrize("page", USER_PAGES, ids=lambda p: str(p.relative_to(REPO)))


def fences(page: Path) -> Iterator[tuple[str, str]]:
    """Yield language and text of every fenced block of a page."""
    for match in FENCE.finditer(page.read_text()):
        yield match[1], match[2]


def without_fences(page: Path) -> str:
    """Return a page's text without its fenced blocks."""
    return FENCE.sub("", page.read_text())


def commands(page: Path) -> list[list[str]]:
    """Return the words of every command in the indented blocks of a page."""
    found = []
    for block in INDENTED.findall(without_fences(page)):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                found.append(words)
    return found


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = HEADING.findall(without_fences(page))
    plain = [re.sub(r"[^\w\- ]", "", heading.strip().lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


def module_arguments(words: list[str]) -> tuple[str, list[str]] | None:
    """Return the module that a command runs by `-m`, and its arguments; None if it runs none."""
    if words[0] not in ("python", "accelerate") or "-m" not in words:
        return None
    place = words.index("-m")
    return words[place + 1], words[place + 2 :]


@cache
def help_text(module: str) -> str:
    """Return the text of `python -m module --help`."""
    command = [sys.executable, "-m", module, "--help"]
    run = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("name", LONGEST)
def test_pages_for_starting_are_short(name):
    assert len((REPO / name).read_text().splitlines()) <= LONGEST[name]


def test_every_page_is_in_the_index():
    index = (REPO / "docs" / "README.md").read_text()
    readme = (REPO / "README.md").read_text()
    for page in (REPO / "docs").glob("*.md"):
        if page.name != "README.md":
            assert f"]({page.name})" in index
            assert f"](docs/{page.name})" in readme


@by_page
def test_links_resolve(page):
    for target in LINK.findall(without_fences(page)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


@by_page
def test_paths_exist(page):
    if page == RECIPES:
        return
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPO, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    folders = {str(parent) for name in tracked for parent in Path(name).parents}
    top = {name.partition("/")[0] for name in tracked if "/" in name}
    for token in INLINE.findall(without_fences(page)):
        if re.fullmatch(r"[\w/.-]+\.(py|sh|sbatch)", token):
            name = token.removeprefix("./")
            assert any(f"/{file}".endswith(f"/{name}") for file in tracked), token
        elif re.fullmatch(r"[\w-]+(/[\w-]+)*/", token) and token.partition("/")[0] in top:
            assert token.rstrip("/") in folders, token


def test_identifiers_in_the_architecture_exist():
    """Names of functions, classes and modules in the text occur in the source."""
    folders = ("shards", "vaetrain", "launch", "benchmarks")
    source = [path.read_text() for folder in folders for path in (REPO / folder).rglob("*.py")]
    words = set(re.findall(r"\w+", "\n".join(source)))
    for token in INLINE.findall(without_fences(REPO / "ARCHITECTURE.md")):
        if re.fullmatch(r"[A-Za-z]*[_A-Z][\w.]*", token) and not FILES.search(token):
            assert set(token.split(".")) <= words, token


@by_user_page
def test_modules_and_their_flags_exist(page):
    for words in commands(page):
        if found := module_arguments(words):
            module, arguments = found
            if not module.startswith(("shards", "vaetrain", "launch", "benchmarks", "tests")):
                continue
            assert importlib.util.find_spec(module) is not None, module
            for word in arguments:
                if word.startswith("--"):
                    flag = word.partition("=")[0]
                    assert re.search(rf"{flag}\b", help_text(module)), f"{module} {flag}"


@by_page
def test_modules_in_the_text_exist(page):
    for token in INLINE.findall(without_fences(page)):
        for module in re.findall(r"python -m ([\w.]+)", token):
            assert importlib.util.find_spec(module) is not None, token


@by_user_page
def test_training_commands_are_accepted(page):
    """The trainer's own parser and settings accept them."""
    for words in commands(page):
        if "vaetrain/train.py" not in words:
            continue
        place = words.index("vaetrain/train.py")
        before = words[:place]
        assert before in (["accelerate", "launch"], ["python"]), words
        arguments = [word for word in words[place + 1 :] if word != "--help"]
        parsed = parse_command(arguments)
        load_experiment(experiment_path(parsed.experiment), parsed.settings)
        assert parsed.config_file is None or (REPO / parsed.config_file).is_file(), words


@by_user_page
def test_study_commands_are_accepted(page):
    for words in commands(page):
        found = module_arguments(words)
        if found and found[0] in ("launch.sweep", "launch.report"):
            study, *rest = found[1]
            load_study(REPO / study, [word for word in rest if "=" in word])


@by_user_page
def test_settings_of_other_commands_exist(page):
    for words in commands(page):
        for word in words:
            key, equals, _ = word.partition("=")
            if equals and re.fullmatch(r"[a-z_]+(\.[a-z_0-9]+)+", key):
                assert key in KEYS, word


@by_page
def test_settings_in_the_text_exist(page):
    if page == RECIPES:
        return
    for token in INLINE.findall(without_fences(page)):
        match = re.fullmatch(r"([a-z]+)\.([a-z_0-9.]+)(=.*)?", token)
        if match and match[1] in SECTIONS and not FILES.search(token):
            assert f"{match[1]}.{match[2]}" in KEYS, token


@by_user_page
def test_scripts_accept_their_commands(page):
    """Scripts exist, and those with a dry run accept the command."""
    for words in commands(page):
        environment = os.environ | {
            key: value for key, _, value in (w.partition("=") for w in words if w[0].isupper())
        }
        words = [word for word in words if not word[0].isupper()]
        if words and words[0] == "sbatch":
            environment, words = environment | {"DRY_RUN": "1"}, words[1:]
        if not words or not words[0].removeprefix("./").startswith("launch/"):
            continue
        script = REPO / words[0]
        assert os.access(script, os.X_OK), words
        if script.name == "multinode.sh":
            words = [words[0], "--dry-run", *words[1:]]
        elif "DRY_RUN" not in environment:
            continue
        run = subprocess.run(words, cwd=REPO, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert "vaetrain/train.py" in run.stdout


@by_user_page
def test_extras_exist(page):
    setup = configparser.ConfigParser()
    setup.read(REPO / "setup.cfg")
    for words in commands(page):
        if words[0] == "pip" and "-r" in words:
            assert (REPO / words[words.index("-r") + 1]).is_file(), words
        elif words[0] == "pip":
            extras = re.search(r"\[(.*)\]", words[-1])[1].split(",")
            assert set(extras) <= set(setup["options.extras_require"]), words


@by_user_page
def test_yaml_blocks_are_accepted(page, tmp_path):
    """Studies, policies and experiments are read by their own readers."""
    for language, text in fences(page):
        if language != "yaml" or page == RECIPES:
            continue
        file = tmp_path / "block.yaml"
        file.write_text(text)
        tree = yaml.safe_load(text)
        if "sweep" in tree:
            load_study(file, [])
        elif set(tree) <= set(OPS):
            load_policy(AugmentConfig(policy=str(file)))
        else:
            load_experiment(file, [])


@by_user_page
def test_python_blocks_compile_and_import(page):
    for language, text in fences(page):
        if language != "python" or page == RECIPES:
            continue
        compile(text, str(page), "exec")
        for line in text.splitlines():
            if line.startswith(("from vaetrain", "import vaetrain")):
                exec(line, {})


def test_a_wrong_page_is_noticed(tmp_path):
    """A page with a wrong setting, flag and link has all of them found."""
    page = tmp_path / "page.md"
    page.write_text("See [x](missing.md).\n\n    python -m shards.build DIR --outt data/x\n")
    with pytest.raises(AssertionError, match=r"missing\.md"):
        test_links_resolve(page)
    with pytest.raises(AssertionError, match="outt"):
        test_modules_and_their_flags_exist(page)
