"""The output file: whole after a kill, continued, and refused if it is something else."""

import gzip
import json
import os
import signal
import subprocess
import sys

import pytest

from shards.atomic_files import CannotWrite
from shards.build import build
from shards.building.options import BuildOptions
from shards.capturing.output import OutputFile
from shards.errors import UserError
from tests.support.paths import REPO

NAMES = ["out.jsonl.gz", "out.jsonl"]


def record(number: int) -> dict:
    """Return a small layout."""
    box = {"b": [0, 0, 50 + number, 60]}
    return {"id": f"page-{number}", "w": 100, "h": 100, "r": {"b": [0, 0, 100, 100], "c": [box]}}


def ids_in(path) -> list[str]:
    """Return the ids of a file as other programs read it."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line)["id"] for line in data.splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_layouts_are_appended_and_found_again(name, tmp_path):
    path = tmp_path / "new" / name
    with OutputFile(path) as output:
        assert output.ids == set()
        output.append(record(0))
        output.append(record(1))
    with OutputFile(path) as output:
        assert output.ids == {"page-0", "page-1"}
        output.append(record(2))
    assert ids_in(path) == ["page-0", "page-1", "page-2"]
    options = BuildOptions(workers=1, keep_duplicates=True)
    assert build([path], tmp_path / "shards", options).counts["kept"] == 3


@pytest.mark.parametrize("name", NAMES)
def test_every_truncation_is_continued_from_the_last_whole_layout(name, tmp_path):
    path = tmp_path / name
    with OutputFile(path) as output:
        output.append(record(0))
        first = path.stat().st_size
        output.append(record(1))
    whole = path.read_bytes()
    for size in range(first, len(whole)):
        path.write_bytes(whole[:size])
        with OutputFile(path) as output:
            assert output.ids == {"page-0"}
            output.append(record(1))
        assert path.read_bytes() == whole


@pytest.mark.parametrize("name", NAMES)
def test_nothing_captured_leaves_no_file(name, tmp_path):
    with OutputFile(tmp_path / name):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_compressed_again_in_one_piece_is_continued(tmp_path):
    path = tmp_path / "out.jsonl.gz"
    lines = [json.dumps(record(number)) + "\n" for number in range(3000)]
    path.write_bytes(gzip.compress("".join(lines).encode()))
    with OutputFile(path) as output:
        assert len(output.ids) == 3000
        output.append(record(3000))
    assert len(ids_in(path)) == 3001


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("out.jsonl.gz", b"not gzip at all"),
        ("out.jsonl.gz", gzip.compress(b"notes of mine\n", mtime=0)),
        ("out.jsonl.gz", gzip.compress(b'{"id": 3, "r": {}}\n', mtime=0)),
        ("out.jsonl", b"notes of mine\n"),
        ("out.jsonl", b"[1]\n"),
        ("out.jsonl", b"no line end"),
    ],
)
def test_a_file_of_something_else_is_refused_and_kept(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"choose another --out"), OutputFile(path):
        pass
    assert path.read_bytes() == content


def test_other_names_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"must end in .jsonl.gz or .jsonl"):
        OutputFile(tmp_path / "out.json")


def test_a_second_capture_into_the_same_file_is_refused(tmp_path):
    path = tmp_path / "out.jsonl"
    with (
        OutputFile(path),
        pytest.raises(UserError, match="another capture writes it"),
        OutputFile(path),
    ):
        pass


def test_a_full_disk_leaves_whole_layouts(full_disk):
    path = full_disk.folder / "out.jsonl.gz"
    with OutputFile(path) as output:
        output.append(record(0))
        big = record(1)
        big["r"]["c"] = [{"b": [n, n, 7 + n % 9, 9]} for n in range(3000)]
        with full_disk.filled(), pytest.raises(CannotWrite, match=r"out.jsonl.gz: cannot be"):
            output.append(big)
        output.append(record(2))
    assert ids_in(path) == ["page-0", "page-2"]


def test_a_kill_leaves_whole_layouts(tmp_path):
    path = tmp_path / "out.jsonl.gz"
    code = (
        "import itertools, pathlib, sys\n"
        "from shards.capturing.output import OutputFile\n"
        "from tests.shards.capturing.test_output import record\n"
        "with OutputFile(pathlib.Path(sys.argv[1])) as output:\n"
        "    for number in itertools.count():\n"
        "        output.append(record(number))\n"
        "        number == 20 and print('written', flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    count = len(ids_in(path))
    assert count > 20
    with OutputFile(path) as output:
        assert len(output.ids) == count
