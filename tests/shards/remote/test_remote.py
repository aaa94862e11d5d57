"""Shards on a server: retries, verification, and a cache of bounded size."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from shards.atomic_files import sha256_of
from shards.build import build
from shards.building.options import BuildOptions
from shards.errors import DamagedShards
from shards.format.index import Index, header_bytes
from shards.open import open_index
from shards.reading import checked_files
from shards.reading.collator import Collator
from shards.reading.datasets import EvaluationDataset, TrainingDataset
from shards.reading.sample_order import SampleOrder
from shards.reading.selection import select
from shards.reading.shard_files import ShardFiles
from shards.remote import cache
from shards.remote.cache import CacheOptions
from shards.verify import main
from tests.support.page_server import PageServer, served_by_s3
from tests.support.paths import REPO, SAMPLE

LADDER = np.arange(16, 513, 16)
EPOCHS = 300  # timed


@pytest.fixture(scope="module")
def local(shards) -> Index:
    return open_index(shards)


@pytest.fixture
def server(local, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = PageServer(local.folder)
    found.start()
    yield found
    found.stop()


@pytest.fixture
def bucket(local):
    """Return the address of the shards in an S3 server, and the server."""
    with served_by_s3(local.folder) as found:
        yield found


def options(folder: Path, gigabytes: float = 1.0, patience: float = 20.0) -> CacheOptions:
    return CacheOptions(str(folder), gigabytes, patience)


def everything(index: Index) -> list[dict[str, bytes]]:
    files = ShardFiles(index)
    return [files.members(number) for number in range(len(index))]


def cached(folder: Path) -> int:
    """Return the bytes of complete and partial shards in a cache, read under its lock."""
    sizes = {}
    with (folder / "room.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path in [*folder.glob("*.part"), *folder.glob("*.tar")]:
            with contextlib.suppress(FileNotFoundError):  # renamed in between
                stat = path.stat()
                sizes[stat.st_ino] = stat.st_size
    return sum(sizes.values())


@pytest.mark.parametrize("fault", [500, "truncated", "flipped"])
def test_failing_requests_are_retried_until_the_bytes_are_right(local, server, tmp_path, fault):
    server.every, server.fault = 3, fault
    index = open_index(server.url, options(tmp_path))
    assert np.array_equal(index.table, local.table)
    assert everything(index) == everything(local)
    before = len(server.tars)
    assert len(set(server.tars)) == len(local.shards) < before
    assert {path.suffix for path in tmp_path.iterdir()} <= {".tar", ".lock", ".used", ""}
    assert everything(open_index(server.url, options(tmp_path))) == everything(local)
    assert len(server.tars) == before


def test_the_cache_stays_within_its_size(local, server, tmp_path):
    largest = max(shard.bytes for shard in local.shards)
    index = open_index(server.url, options(tmp_path, gigabytes=2 * largest / 1e9))
    files = ShardFiles(index)
    for number in np.random.default_rng(0).permutation(len(index))[:40]:
        assert files.members(int(number)) == ShardFiles(local).members(int(number))
        assert 0 < cached(tmp_path) <= 2 * largest


def test_a_fetched_shard_is_hashed_once_by_all_processes_of_a_machine(
    local, server, tmp_path, monkeypatch
):
    hashed = []

    def counted(file) -> str:
        path = Path(file if isinstance(file, Path) else file.name)
        hashed.append(path.stem[:64])
        return sha256_of(file)

    monkeypatch.setattr(cache, "sha256_of", counted)
    monkeypatch.setattr(checked_files, "sha256_of", counted)
    for _ in range(3):
        everything(open_index(server.url, options(tmp_path)))
    of_shards = [name for name in hashed if name != "index"]
    assert sorted(of_shards) == sorted(shard.sha256 for shard in local.shards)
    one = tmp_path / f"{local.shards[0].sha256}.tar"
    one.write_bytes(one.read_bytes()[:-1] + b"!")
    before = len(server.tars)
    assert everything(open_index(server.url, options(tmp_path))) == everything(local)
    assert len(server.tars) == before + 1


def test_a_shard_that_another_process_removes_at_once_is_fetched_again(
    local, server, tmp_path, monkeypatch
):
    rename, removed = Path.rename, []

    def removing(path: Path, target: Path) -> Path:
        renamed = rename(path, target)
        if target.suffix == ".tar" and not removed:
            removed.append(target)
            target.unlink()
        return renamed

    monkeypatch.setattr(Path, "rename", removing)
    assert everything(open_index(server.url, options(tmp_path))) == everything(local)
    assert len(removed) == 1


def test_the_shard_that_was_not_used_for_longest_is_removed(local, server, tmp_path):
    room = sum(shard.bytes for shard in local.shards) - 1
    shards = open_index(server.url, options(tmp_path, gigabytes=room / 1e9)).cache
    first, second, *others = local.shards
    for shard in (first, second, first, *others):
        shards.open(shard).close()
        time.sleep(0.01)  # more than a tick of the file system's clock
    left = {path.stem for path in tmp_path.glob("*.tar")}
    assert second.sha256 not in left
    assert first.sha256 in left
    assert {path.stem for path in tmp_path.glob("*.used")} == left


def test_files_of_other_programs_in_the_folder_are_kept(local, server, tmp_path):
    others = [tmp_path / name for name in ("mine.tar", "app.1.lock", f"{'z' * 64}.tar")]
    for path in others:
        path.write_bytes(b"x" * 100_000)
        os.utime(path, (0, 0))  # the least recently used of all
    everything(open_index(server.url, options(tmp_path, gigabytes=1e-9)))
    assert all(path.stat().st_size == 100_000 for path in others)


def test_a_checksum_that_is_a_path_is_refused(local, tmp_path, monkeypatch):
    """The cache names its files by the checksums of an untrusted index."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    outside, cache = tmp_path / "mine.tar", tmp_path / "deep" / "cache"
    outside.write_bytes(b"x" * 1000)
    server = PageServer(shutil.copytree(local.folder, tmp_path / "pages"))
    path = server.folder / "index.json"
    header = json.loads(path.read_bytes())
    header["shards"][0]["sha256"] = "../../mine"
    path.write_bytes(header_bytes(header))
    server.start()
    try:
        with pytest.raises(DamagedShards, match='entry 0 of "shards" is damaged'):
            everything(open_index(server.url, options(cache, patience=0.3)))
    finally:
        server.stop()
    assert outside.read_bytes() == b"x" * 1000


def verify(location: str, capsys, monkeypatch) -> tuple[int, list[str]]:
    """Run the verify command; return its exit status and the lines it prints."""
    monkeypatch.setattr(sys, "argv", ["verify", location])
    monkeypatch.setattr("shards.verify.PATIENCE", 0.3)
    status = main()
    return status, capsys.readouterr().out.splitlines()


def test_verify_fetches_all_shards_of_a_server_again(local, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    server = PageServer(shutil.copytree(local.folder, tmp_path / "pages"))
    server.start()
    try:
        everything(open_index(server.url))  # a complete cache, which verify must not use
        before = len(server.tars)
        status, lines = verify(server.url, capsys, monkeypatch)
        assert status == 0
        assert lines == [f"{server.url}: whole, 60 samples in {len(local.shards)} shards"]
        assert len(server.tars) == before + len(local.shards)
        damaged, missing = (server.folder / shard.name for shard in local.shards[1:3])
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
        missing.unlink()
        (server.folder / "rejects.jsonl").unlink()
        status, lines = verify(server.url, capsys, monkeypatch)
        assert status == 1
        assert [line.partition(": ")[0] for line in lines] == [
            f"{server.url}/{name}" for name in ("rejects.jsonl", damaged.name, missing.name)
        ]
        (server.folder / "index.json").write_text("{}")
        status, lines = verify(server.url, capsys, monkeypatch)
        assert status == 1
        assert "index.json: is damaged" in lines[0]
    finally:
        server.stop()


def test_an_evaluation_fetches_each_shard_less_than_twice(local, server, tmp_path):
    room = 2 * max(shard.bytes for shard in local.shards)

    def ids(index: Index) -> list[int]:
        files = ShardFiles(index)
        collator = Collator(files, width=32, max_height=64, ladder=np.array([64]), seed=0)
        reader = EvaluationDataset(
            select(index, "all", width=32, max_height=64), collator, batch_size=4
        )
        return [
            number
            for batch in map(reader.__getitem__, range(len(reader)))
            for number in batch.ids.tolist()
        ]

    assert sorted(ids(open_index(server.url, options(tmp_path, room / 1e9)))) == list(range(60))
    assert len(local.shards) <= len(server.tars) < 2 * len(local.shards)
    # A cache with room for all shards gives the same order.
    assert ids(open_index(server.url, options(tmp_path / "large"))) == ids(local)


def test_a_damaged_file_in_the_cache_is_fetched_again(local, server, tmp_path):
    everything(open_index(server.url, options(tmp_path)))
    damaged = sorted(tmp_path.glob("*.tar"))[0]
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + b"!")
    assert everything(open_index(server.url, options(tmp_path))) == everything(local)
    assert damaged.read_bytes() == content


def test_prefetch_fetches_all_shards(local, server, tmp_path):
    index = open_index(server.url, options(tmp_path))
    index.cache.prefetch(iter(index.shards))
    for _ in range(400):
        if len(list(tmp_path.glob("*.tar"))) == len(index.shards):
            break
        threading.Event().wait(0.02)
    before = len(server.requests)
    assert everything(index) == everything(local)
    assert len(server.requests) == before


def test_processes_share_a_cache(local, server, tmp_path):
    """Each process gets right bytes; with room for all shards, none is fetched twice."""
    code = (
        "import sys\nfrom shards.open import open_index\n"
        "from shards.remote.cache import CacheOptions\n"
        "index = open_index(sys.argv[1], CacheOptions(sys.argv[2], float(sys.argv[3]), 20.0))\n"
        "for _ in range(3):\n"
        "    for shard in index.shards[int(sys.argv[4]):] + index.shards[:int(sys.argv[4])]:\n"
        "        with index.cache.open(shard) as file:\n"
        "            assert len(file.read()) == shard.bytes\n"
    )
    largest = max(shard.bytes for shard in local.shards)
    for name, gigabytes in (("large", 1.0), ("small", 2 * largest / 1e9)):
        server.requests.clear()
        server.every, server.fault = int(name == "small"), "slow"
        folder = tmp_path / name
        folder.mkdir()
        command = [sys.executable, "-c", code, server.url, str(folder), str(gigabytes)]
        readers = [subprocess.Popen([*command, str(first)], cwd=REPO) for first in range(3)]
        while any(reader.poll() is None for reader in readers):
            assert cached(folder) <= gigabytes * 1e9
            time.sleep(0.005)
        assert [reader.returncode for reader in readers] == [0, 0, 0]
        assert set(server.tars) == {f"/{local.folder.name}/{shard.name}" for shard in local.shards}
        assert name == "small" or len(server.tars) == len(local.shards)


@pytest.mark.parametrize(
    ("every", "fault", "message"),
    [
        (1, 404, "no such file"),
        (1, 403, "no permission"),
        (1, 503, "tried for"),
        (1, "flipped", "SHA-256 differs from index.json, in 4 attempts"),
    ],
)
def test_a_failed_fetch_is_reported_in_one_line(local, server, tmp_path, every, fault, message):
    index = open_index(server.url, options(tmp_path, patience=30 if fault == "flipped" else 0.3))
    server.every, server.fault = every, fault
    with pytest.raises(DamagedShards) as caught:
        ShardFiles(index).members(0)
    assert str(caught.value).startswith(f"{server.url}/{local.shards[0].name}: cannot be fetched (")
    assert message in str(caught.value)
    assert not list(tmp_path.glob("*.tar"))
    server.fault = "flipped"
    with pytest.raises(DamagedShards, match=r"index\.json: is damaged"):
        open_index(server.url, options(tmp_path / "other"))


def test_s3_gives_the_bytes_of_the_disk(bucket, local, tmp_path):
    url, server = bucket
    index = open_index(url, options(tmp_path, patience=0.5))
    assert np.array_equal(index.table, local.table)
    assert everything(index) == everything(local)
    with pytest.raises(DamagedShards, match="no such file"):
        open_index("s3://bucket/other", options(tmp_path))
    with pytest.raises(DamagedShards, match="no such file"):
        open_index("s3://another/pages", options(tmp_path))
    server.stop()
    with pytest.raises(DamagedShards, match=r"s3://bucket/pages/index\.json: .*tried for"):
        open_index(url, options(tmp_path, patience=0.5))
    assert everything(index) == everything(local)


def test_an_unreachable_server_is_reported_in_one_line(tmp_path):
    with pytest.raises(DamagedShards, match="tried for") as caught:
        open_index("http://127.0.0.1:9/pages", options(tmp_path, patience=0.3))
    assert "http://127.0.0.1:9/pages/index.json" in str(caught.value)


def test_a_full_disk_is_reported_without_retries(local, server, tmp_path, monkeypatch):
    index = open_index(server.url, options(tmp_path, patience=60))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    monkeypatch.setattr("shards.remote.client.Remote.fetch", full)
    with pytest.raises(DamagedShards, match="No space left on device"):
        ShardFiles(index).members(0)


@pytest.mark.slow
def test_a_full_cache_is_as_fast_as_the_disk(tmp_path, monkeypatch, tables):
    """Epochs from cache and disk are timed alternately, after an epoch that fills the cache.

    CPU time is compared, because other processes change it far less than wall time.
    """
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    build([SAMPLE], tmp_path / "pages", BuildOptions(workers=1, shard_mb=0.4))
    server = PageServer(tmp_path / "pages")
    server.start()
    cache = open_index(server.url, options(tmp_path / "cache"))
    readers = {}
    for name, index in (("disk", open_index(tmp_path / "pages")), ("cache", cache)):
        chosen = select(index, "all", width=128, max_height=512)
        order = SampleOrder(chosen, seed=0, global_batch_size=16, window_shards=4, ladder=LADDER)
        collator = Collator(ShardFiles(index), width=128, max_height=512, ladder=LADDER, seed=0)
        readers[name] = TrainingDataset(order, collator, rank=0, world_size=1, micro_batch_size=16)
    steps = -(-len(chosen) // 16)
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    for epoch in range(1 + EPOCHS):
        for name in sorted(readers, reverse=bool(epoch % 2)):  # in alternating order
            start = time.process_time()
            for number in range(epoch * steps, (epoch + 1) * steps):
                readers[name][number]
            seconds[name].append(time.process_time() - start)
        if epoch == 0:
            fetched = len(server.requests)
    server.stop()
    assert len(server.requests) == fetched
    assert len(server.tars) == len(cache.shards) > 4
    ratios = np.array(seconds["disk"][1:]) / np.array(seconds["cache"][1:])
    drawn = np.random.default_rng(0).choice(ratios, (1000, EPOCHS))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    interval = f"{np.median(ratios):.3f} (95%: {low:.3f} - {high:.3f})"
    tables["pages a second from a full cache, of the disk's"] = [interval]
    assert high - low < 0.05, interval
    assert np.median(ratios) >= 0.95, interval
