"""Ranges that are asked for together: what goes out, and what each caller gets."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import threading
import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np
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


def test_nobody_holds_the_whole_by_holding_a_little_part(far: Far) -> None:
    parts = [data for data, _, _ in at_once(far, *((at, at + 1000) for at in range(0, 100_000, 1000)))]
    assert all(type(part) is bytes for part in parts)


def test_what_was_handed_out_is_not_kept() -> None:
    """A part lives as long as whoever asked for it wants, and no collector of circles is needed."""
    alive: list[weakref.ref[Any]] = []

    async def fetch(url: str, start: int, stop: int, facts: bool) -> Answer:
        data = np.frombuffer(DATA, np.uint8)[start:stop].copy()
        alive.append(weakref.ref(data))
        return memoryview(data), None, None

    async def ask() -> None:
        neighbours = Neighbours(fetch, ahead=True)
        for begin in range(0, 4 * MB, MB):
            await asyncio.gather(
                *(neighbours.fetch(URL, at, at + MB // 4, False) for at in range(begin, begin + MB, MB // 4))
            )
        await asyncio.sleep(0)
        assert alive
        assert not any(data() is not None for data in alive)

    gc.disable()
    try:
        asyncio.run(ask())
    finally:
        gc.enable()


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


# --- reading ahead -------------------------------------------------------------------------------------------------------


def in_turn(
    far: Far, *waves: list[tuple[int, int]], neighbours: Neighbours | None = None, url: str = URL
) -> list[bytes]:
    """What ranges of an object that never changes give, when each wave of them is asked for after the one before."""

    async def ask() -> list[bytes]:
        asked = neighbours or Neighbours(far.fetch, ahead=True)
        found: list[bytes] = []
        for wave in waves:
            found += data_of(await asyncio.gather(*(asked.fetch(url, start, stop, False) for start, stop in wave)))
        assert not asked._waiting
        assert not asked._under_way
        return found

    return asyncio.run(ask())


def test_who_reads_on_gets_what_comes_next_without_asking(far: Far) -> None:
    waves = [[(at, at + 1000)] for at in range(0, 1_000_000, 1000)]
    assert b"".join(in_turn(far, *waves)) == DATA[:1_000_000]
    assert far.ranges[:3] == [(0, 1000), (1000, 10_000), (10_000, 27_000)]
    assert len(far.ranges) < 10
    assert sum(stop - start for start, stop in far.ranges) < 2_000_000
    assert all(stop - start <= 2 * MB for start, stop in far.ranges)


def test_where_it_is_read_on_is_not_looked_at_too_closely(far: Far) -> None:
    """Chunks that were written at the same time are in no strict order."""
    waves = [[(3000, 4000), (0, 1000)], [(1000, 2000), (5000, 6000)], [(2000, 3000)], [(4000, 5000)], [(9000, 9999)]]
    assert in_turn(far, *waves) == [DATA[start:stop] for wave in waves for start, stop in wave]
    assert len(far.asked) == 2


def test_the_same_again_is_not_reading_on(far: Far) -> None:
    in_turn(far, *[[(1000, 2000)]] * 3)
    assert far.ranges == [(1000, 2000)] * 3


def test_here_and_there_is_not_reading_on(far: Far) -> None:
    waves = [[(at, at + 1000)] for at in (3 * MB, 2 * MB, 0, MB, 3 * MB)]
    in_turn(far, *waves)
    assert far.ranges == [wave[0] for wave in waves]


def test_each_object_is_read_on_by_itself(far: Far) -> None:
    async def ask() -> None:
        neighbours = Neighbours(far.fetch, ahead=True)
        for at in range(0, 10_000, 1000):
            for url in ("a", "b"):
                data, _, _ = await neighbours.fetch(url, at, at + 1000, False)
                assert bytes(data) == DATA[at : at + 1000]

    asyncio.run(ask())
    assert len(far.asked) == 4


def test_what_is_on_its_way_is_not_asked_for_again(far: Far) -> None:
    async def ask() -> list[Answer]:
        neighbours = Neighbours(far.fetch, ahead=True)
        await neighbours.fetch(URL, 0, 1000, False)
        far.gate = asyncio.Event()
        tasks = [asyncio.ensure_future(neighbours.fetch(URL, 1000, 2000, False))]
        while len(far.asked) < 2:
            await asyncio.sleep(0)
        tasks += [asyncio.ensure_future(neighbours.fetch(URL, at, at + 1000, False)) for at in (2000, 7000, 5000)]
        for _ in range(10):
            await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[2].cancel()
        far.gate.set()
        return await asyncio.gather(tasks[1], tasks[3])

    assert data_of(asyncio.run(ask())) == [DATA[2000:3000], DATA[5000:6000]]
    assert far.ranges == [(0, 1000), (1000, 10_000)]
    assert not far.cancelled


def test_who_gives_up_at_once_leaves_nothing_behind(far: Far) -> None:
    """A run whose members are gone before it has begun brings nothing, and nobody waits for it."""

    async def ask(turns: int) -> None:
        neighbours = Neighbours(far.fetch, ahead=True)
        tasks = [asyncio.ensure_future(neighbours.fetch(URL, at, at + 1000, False)) for at in (0, 1000)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        answer = await asyncio.wait_for(neighbours.fetch(URL, 500, 1500, False), 30)
        assert bytes(answer[0]) == DATA[500:1500]
        await asyncio.sleep(0)
        assert not neighbours._waiting
        assert not neighbours._under_way

    for turns in range(8):
        asyncio.run(ask(turns))


@pytest.mark.parametrize("objects", [1, 5, 10, 20, 60])
def test_objects_that_are_read_in_step(far: Far, objects: int) -> None:
    """As the variables of a dataset are, each of which lies in objects of its own: what is read ahead is not lost."""

    async def ask() -> None:
        neighbours = Neighbours(far.fetch, ahead=True)
        for at in range(0, 2 * MB, 16 << 10):
            for number in range(objects):
                data, _, _ = await neighbours.fetch(str(number), at, at + (16 << 10), False)
                assert bytes(data) == DATA[at : at + (16 << 10)]

    asyncio.run(ask())
    assert sum(stop - start for start, stop in far.ranges) < 3 * objects * 2 * MB
    assert len(far.asked) <= 128 * objects / 6


def test_who_reads_here_and_there_gets_little_more_than_he_asks_for(far: Far) -> None:
    async def ask() -> None:
        neighbours = Neighbours(far.fetch, ahead=True)
        for at in np.random.default_rng(0).integers(0, 128, 1000).tolist():
            url = str(at * 7 % 16)
            await neighbours.fetch(url, at << 14, (at + 1) << 14, False)

    asyncio.run(ask())
    assert sum(stop - start for start, stop in far.ranges) < 3 * (1000 << 14)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_does_not_wait_for_a_thread_that_it_does_not_have(far: Far) -> None:
    neighbours = Neighbours(far.fetch, ahead=True)
    assert neighbours._ahead is not None
    with neighbours._ahead._lock:  # as a thread of the parent may have it
        child = multiprocessing.get_context("fork").Process(
            target=in_turn, args=(far, [(0, 1000)], [(1000, 2000)]), kwargs={"neighbours": neighbours}
        )
        child.start()
    child.join(60)
    assert child.exitcode == 0


def test_reading_on_fails_and_each_asks_alone(far: Far) -> None:
    far.failing = {(1000, 19_000): OSError("not so much")}
    assert in_turn(far, [(0, 1000)], [(1000, 2000), (2000, 3000)]) == [DATA[:1000], DATA[1000:2000], DATA[2000:3000]]
    assert sorted(far.ranges) == [(0, 1000), (1000, 2000), (1000, 19_000), (2000, 3000)]


def test_reading_on_to_the_end(far: Far) -> None:
    end = len(DATA)
    waves = [[(end - 3000, end - 2000)], [(end - 2000, end - 1000)], [(end - 1000, end)], [(end - 500, end + 500)]]
    assert in_turn(far, *waves) == [DATA[-3000:-2000], DATA[-2000:-1000], DATA[-1000:], DATA[-500:]]


def test_what_is_kept_is_bounded(far: Far) -> None:
    neighbours = Neighbours(far.fetch, ahead=True)
    for number in range(200):
        in_turn(far, [(0, 1000)], [(1000, 2000)], neighbours=neighbours, url=f"pack {number}")
    assert neighbours._ahead is not None
    assert sum(len(kept.data) for kept in neighbours._ahead._kept.values()) <= 16 * MB
    assert len(neighbours._ahead._last) <= 64


def test_what_was_asked_for_whole_is_not_kept(far: Far) -> None:
    neighbours = Neighbours(far.fetch, ahead=True)
    step = 256 << 10
    in_turn(far, *([(at, at + step)] for at in range(0, 2 * MB + step, step)), neighbours=neighbours)
    assert neighbours._ahead is not None
    assert not neighbours._ahead._kept
    assert len(far.asked) == 2


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 3 * MB), st.integers(1, 70_000)), min_size=1, max_size=5),
        min_size=1,
        max_size=12,
    )
)
def test_everybody_gets_what_he_asked_for_also_in_turn(asked: list[list[tuple[int, int]]]) -> None:
    far = Far()
    waves = [[(start, start + size) for start, size in wave] for wave in asked]
    assert in_turn(far, *waves) == [DATA[start:stop] for wave in waves for start, stop in wave]
    assert len(far.asked) <= sum(len(set(wave)) for wave in waves)
