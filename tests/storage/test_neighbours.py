"""Ranges that are asked for together: what goes out, and what each caller gets."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk._driver import run
from icechunk.storage.neighbours import Answer, Neighbours

URL = "s3://bucket/file"
MB = 1 << 20
DATA = os.urandom(4 * MB)


@dataclass
class Far:
    """An object far away: what was asked for, and what to answer."""

    asked: list[tuple[str, int, int, bool]] = field(default_factory=list)
    failing: dict[tuple[int, int], Exception] = field(default_factory=dict)
    gate: asyncio.Event | None = None
    cancelled: int = 0

    async def fetch(self, url: str, start: int, stop: int, facts: bool) -> Answer:
        self.asked.append((url, start, stop, facts))
        if self.gate is not None:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if (start, stop) in self.failing:
            raise self.failing[start, stop]
        return memoryview(DATA)[start:stop], "etag" if facts else None, 7.0 if facts else None

    @property
    def ranges(self) -> list[tuple[int, int]]:
        return [(start, stop) for _, start, stop, _ in self.asked]


@pytest.fixture
def far() -> Far:
    return Far()


def at_once(far: Far, *ranges: tuple[int, int], facts: bool = False, url: str = URL) -> list[Any]:
    """What each of these ranges gets, an exception where it fails."""

    async def ask() -> list[Any]:
        neighbours = Neighbours(far.fetch)
        found = await asyncio.gather(
            *(neighbours.fetch(url, start, stop, facts) for start, stop in ranges), return_exceptions=True
        )
        assert not neighbours._waiting, "no event loop is kept"
        return found

    return asyncio.run(ask())


def data_of(answers: list[Answer]) -> list[bytes]:
    return [bytes(data) for data, _, _ in answers]


def test_ranges_side_by_side_are_one_request(far: Far) -> None:
    ranges = [(2000, 3000), (0, 1000), (1000, 2000), (3000, 3001)]
    assert data_of(at_once(far, *ranges)) == [DATA[start:stop] for start, stop in ranges]
    assert far.ranges == [(0, 3001)]


def test_the_same_range_is_fetched_once(far: Far) -> None:
    assert data_of(at_once(far, (5, 10), (5, 10), (0, 20))) == [DATA[5:10], DATA[5:10], DATA[:20]]
    assert far.ranges == [(0, 20)]


def test_small_gaps_are_read_over_and_large_ones_not(far: Far) -> None:
    at_once(far, (0, 10), (1000, 1010), (MB, MB + 10))
    assert sorted(far.ranges) == [(0, 1010), (MB, MB + 10)]


def test_other_objects_are_not_mixed_in(far: Far) -> None:
    async def ask() -> list[Answer]:
        neighbours = Neighbours(far.fetch)
        return await asyncio.gather(neighbours.fetch("a", 0, 10, False), neighbours.fetch("b", 10, 20, False))

    assert data_of(asyncio.run(ask())) == [DATA[:10], DATA[10:20]]
    assert len(far.asked) == 2


def test_what_a_request_brings_is_bounded(far: Far) -> None:
    step = 256 << 10
    at_once(far, *((start, start + step) for start in range(0, 4 * MB, step)))
    assert sorted(far.ranges) == [(0, 2 * MB), (2 * MB, 4 * MB)]


def test_large_ranges_go_alone(far: Far) -> None:
    at_once(far, (0, MB), (MB, 2 * MB), (2 * MB, 2 * MB + 5))
    assert sorted(far.ranges) == [(0, MB), (MB, 2 * MB), (2 * MB, 2 * MB + 5)]


def test_nobody_holds_the_whole_by_holding_a_part(far: Far) -> None:
    assert all(type(data) is bytes for data, _, _ in at_once(far, (0, 1000), (1000, 2000)))


def test_what_is_known_of_the_object_goes_to_all(far: Far) -> None:
    assert [(etag, modified) for _, etag, modified in at_once(far, (0, 5), (5, 9), facts=True)] == [("etag", 7.0)] * 2


@pytest.mark.parametrize("facts", [True, False])
def test_a_lone_range_is_passed_on_as_it_is(far: Far, facts: bool) -> None:
    at_once(far, (3, 9), facts=facts)
    assert far.asked == [(URL, 3, 9, facts)]


def test_without_an_event_loop(far: Far) -> None:
    assert bytes(run(Neighbours(far.fetch).fetch(URL, 3, 9, True))[0]) == DATA[3:9]


def test_where_the_object_ends_too_early(far: Far) -> None:
    end = len(DATA)
    assert data_of(at_once(far, (end - 10, end - 5), (end - 5, end + 5), (end + 5, end + 9))) == [
        DATA[-10:-5],
        DATA[-5:],
        b"",
    ]


def test_the_failure_of_one_is_not_that_of_others(far: Far) -> None:
    far.failing = {(0, 30): OSError("too much at once"), (10, 20): OSError("a hole")}
    first, second, third = at_once(far, (0, 10), (10, 20), (20, 30))
    assert data_of([first, third]) == [DATA[:10], DATA[20:30]]
    assert isinstance(second, OSError)
    assert str(second) == "a hole"
    assert second.__context__ is None
    assert len(far.asked) == 4


def test_who_gives_up_leaves_the_others_their_answers(far: Far) -> None:
    async def ask() -> list[Answer]:
        far.gate = asyncio.Event()
        neighbours = Neighbours(far.fetch)
        tasks = [asyncio.ensure_future(neighbours.fetch(URL, at, at + 10, False)) for at in (0, 10, 20)]
        while not far.asked:
            await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        far.gate.set()
        return await asyncio.gather(*tasks[1:])

    assert data_of(asyncio.run(ask())) == [DATA[10:20], DATA[20:30]]
    assert far.ranges == [(0, 30)]


def test_nobody_waits_nothing_is_fetched(far: Far) -> None:
    async def ask(begun: bool) -> None:
        far.gate = asyncio.Event()
        neighbours = Neighbours(far.fetch)
        tasks = [asyncio.ensure_future(neighbours.fetch(URL, at, at + 10, False)) for at in (0, 10)]
        await asyncio.sleep(0)
        while begun and not far.asked:
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert not neighbours._waiting
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run(ask(False))
    assert not far.asked
    asyncio.run(ask(True))
    assert far.cancelled == 1


def test_many_event_loops_at_once(far: Far) -> None:
    neighbours = Neighbours(far.fetch)
    wrong: list[int] = []

    def work(base: int) -> None:
        async def ask() -> None:
            for turn in range(20):
                begins = [base + turn * 100 + at for at in range(0, 100, 10)]
                answers = await asyncio.gather(*(neighbours.fetch(URL, at, at + 10, False) for at in begins))
                wrong.extend(
                    at for at, data in zip(begins, data_of(answers), strict=True) if data != DATA[at : at + 10]
                )

        asyncio.run(ask())

    threads = [threading.Thread(target=work, args=(number * 5000,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(far.asked) == 80


@given(st.lists(st.tuples(st.integers(0, 3 * MB), st.integers(1, 70_000)), min_size=1, max_size=20))
def test_everybody_gets_what_he_asked_for(ranges: list[tuple[int, int]]) -> None:
    far = Far()
    wanted = [(start, start + size) for start, size in ranges]
    assert data_of(at_once(far, *wanted)) == [DATA[start:stop] for start, stop in wanted]
    assert len(far.asked) <= len(set(wanted))
    assert all(stop - start <= 2 * MB for start, stop in far.ranges)
    assert sum(stop - start for start, stop in far.ranges) <= sum(size for _, size in ranges) + 20 * 16384
