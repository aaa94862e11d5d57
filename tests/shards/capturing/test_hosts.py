"""Hosts: one request at a time, and an endless response does not block its host for ever."""

import asyncio
import time

from shards.capturing.hosts import HostQueue


def test_requests_to_a_host_never_overlap_and_other_hosts_do_not_wait():
    open_now = {"a": 0, "b": 0}
    both: list[bool] = []

    async def request(queue: HostQueue, host: str) -> None:
        ended = asyncio.Event()
        await queue.hold(host, ended)
        open_now[host] += 1
        assert open_now[host] == 1
        await asyncio.sleep(0.005)
        both.append(all(open_now.values()))
        open_now[host] -= 1
        ended.set()

    async def run() -> None:
        queue = HostQueue()
        await asyncio.gather(*(request(queue, host) for host in "aaaabbbb"))

    asyncio.run(run())
    assert any(both)


def test_an_endless_response_frees_its_host_after_a_time():
    async def run() -> float:
        queue = HostQueue(hold_seconds=0.05)
        await queue.hold("a", asyncio.Event())
        start = time.monotonic()
        async with queue.request("a"):
            return time.monotonic() - start

    assert 0.03 < asyncio.run(run()) < 2


def test_a_request_that_ended_while_it_waited_does_not_occupy_the_host():
    async def run() -> None:
        queue, ended = HostQueue(hold_seconds=60), asyncio.Event()
        ended.set()
        await queue.hold("a", ended)
        await asyncio.wait_for(queue.hold("a", asyncio.Event()), 1)

    asyncio.run(run())
