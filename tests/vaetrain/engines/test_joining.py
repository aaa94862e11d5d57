"""Messages of a rank that waits for others, at a real store."""

import re
import socket
import time
from datetime import timedelta

import pytest
import torch.distributed as dist

from vaetrain.engines import joining
from vaetrain.engines.joining import Joining
from vaetrain.engines.launching.rank_variables import Ranks


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def wait(capsys, pattern: str) -> str:
    printed = ""
    for _ in range(200):
        printed += capsys.readouterr().out
        if re.search(pattern, printed):
            return printed
        time.sleep(0.05)
    raise AssertionError(printed)


def test_the_number_of_missing_ranks_and_the_address_are_said(monkeypatch, capsys):
    monkeypatch.setattr(joining, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(joining, "AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(joining, "POLL_SECONDS", 0.05)
    port = free_port()
    first, second = (
        Joining(Ranks(rank, 4, rank, 4, address=f"127.0.0.1:{port}")) for rank in (0, 1)
    )
    with first.announced():
        # Nothing answers there yet.
        printed = wait(capsys, "waiting")
        assert f"waiting for 3 more ranks at 127.0.0.1:{port} since 0 s; this is rank 0" in printed
        store = dist.TCPStore("127.0.0.1", port, is_master=True, timeout=timedelta(seconds=5))
        with second.announced():
            wait(capsys, "waiting for 2 more ranks .* this is rank 0")
        assert first.joined == 2
    capsys.readouterr()
    time.sleep(0.3)
    assert capsys.readouterr().out == ""
    del store


def test_a_process_alone_waits_for_nobody():
    with Joining(Ranks()).announced():
        assert not [t for t in joining.threading.enumerate() if "_watch" in t.name]


@pytest.mark.parametrize(
    ("local_rank", "launched", "prints"), [(0, True, 1), (1, True, 0), (1, False, 1)]
)
def test_the_first_rank_of_each_machine_prints(monkeypatch, local_rank, launched, prints):
    monkeypatch.setattr(joining, "is_under_launcher", lambda: launched)
    assert Joining(Ranks(1, 2, local_rank, 2, address="a:1"))._prints == bool(prints)
