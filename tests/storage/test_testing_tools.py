"""The tools that test other things, tested: counting, latency, faults, schedules."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import permutations
from math import comb

import pytest

from icechunk._driver import concurrent_map, pause, run
from icechunk.errors import PreconditionFailedError
from icechunk.storage.base import ABSENT, ALWAYS, ByteRange, Storage, Unchanged
from icechunk.storage.memory import MemoryStorage
from icechunk.storage.wrappers import Call
from icechunk.testing.counting import CountingStorage, Request
from icechunk.testing.faults import Fault, FaultyStorage, InjectedError, Stopped, every_fault, record_calls
from icechunk.testing.latency import LatencyStorage
from icechunk.testing.schedules import Outcome, explore, touches
from icechunk.testing.storage_suite import paths_in, read


class TestCounting:
    async def test_requests_made_together_are_one_link(self) -> None:
        storage = CountingStorage(MemoryStorage())

        async def copy(index: int) -> None:
            await storage.put(f"a/{index}", b"1234")
            await read(storage, f"a/{index}", ByteRange(0, 3))

        await concurrent_map(copy, range(20), 64)
        assert storage.depth == 2
        assert storage.counts == {"put": 20, "get": 20}
        assert (storage.bytes_written, storage.bytes_read) == (80, 60)

    async def test_a_limit_makes_the_chain_longer(self) -> None:
        storage = CountingStorage(MemoryStorage())
        await concurrent_map(lambda index: storage.put(f"a/{index}", b""), range(20), 5)
        assert storage.depth == 4

    async def test_one_after_the_other(self) -> None:
        storage = CountingStorage(MemoryStorage())
        await storage.put("a", b"xyz")
        await storage.exists("a")
        await paths_in(storage)
        await storage.delete(["a"])
        assert [(request.verb, request.depth) for request in storage.requests] == [
            *(("put", 1), ("exists", 2), ("list", 3), ("delete", 4))
        ]
        storage.reset()
        assert (storage.depth, storage.requests) == (0, [])

    def test_failures_count(self) -> None:
        storage = CountingStorage(FaultyStorage(MemoryStorage(), Fault(0, "before")))
        with pytest.raises(InjectedError):
            run(storage.put("a", b"xyz"))
        assert storage.requests == [Request("put", ("a",), 3, 1)]


class TestLatency:
    def test_each_request_waits_for_its_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        waited: list[float] = []
        monkeypatch.setattr("time.sleep", waited.append)
        storage = LatencyStorage(MemoryStorage(), write_latency_ms=30, read_latency_ms=20)
        run(storage.put("a", b""))
        run(storage.get("a"))
        run(paths_in(storage))
        run(storage.delete(["a"]))
        assert waited == [0.03, 0.02, 0.02, 0.03]
        assert storage.concurrency > 1


class TestFaults:
    def test_a_request_fails_before_it_is_done(self) -> None:
        storage = FaultyStorage(MemoryStorage(), Fault(1, "before"))
        run(storage.put("a", b"1"))
        with pytest.raises(InjectedError):
            run(storage.put("b", b"2"))
        run(storage.put("c", b"3"))
        assert run(paths_in(storage.inner)) == ["a", "c"]

    def test_a_request_is_done_and_its_answer_lost(self) -> None:
        storage = FaultyStorage(MemoryStorage(), Fault(0, "after"))
        with pytest.raises(InjectedError):
            run(storage.put("a", b"1"))
        assert run(paths_in(storage.inner)) == ["a"]

    def test_nothing_happens_after_a_stop(self) -> None:
        storage = FaultyStorage(MemoryStorage(), Fault(1, "stop"))
        run(storage.put("a", b"1"))
        for _ in range(2):
            with pytest.raises(Stopped):
                run(storage.put("b", b"2"))
        assert run(paths_in(storage.inner)) == ["a"]

    def test_some_verbs_only(self) -> None:
        storage = FaultyStorage(MemoryStorage(), Fault(1, "before", frozenset({"put"})))
        run(storage.put("a", b"1"))
        run(storage.get("a"))
        with pytest.raises(InjectedError):
            run(storage.put("b", b"2"))
        run(paths_in(storage))

    async def test_every_step_of_an_operation_fails_once(self) -> None:
        async def operation(storage: Storage) -> None:
            await storage.put("chunk", b"1")
            await storage.put("ref", b"chunk", only_if=ABSENT)

        calls = await record_calls(MemoryStorage(), operation)
        assert list(map(str, calls)) == ["put chunk", "put ref"]
        outcomes = []
        for fault in every_fault(calls):
            storage = FaultyStorage(MemoryStorage(), fault)
            with pytest.raises((InjectedError, Stopped)):
                await operation(storage)
            outcomes.append((str(fault), await paths_in(storage.inner)))
        assert outcomes == [
            ("request-0-before", []),
            ("request-0-after", ["chunk"]),
            ("request-0-stop", []),
            ("request-1-before", ["chunk"]),
            ("request-1-after", ["chunk", "ref"]),
            ("request-1-stop", ["chunk"]),
        ]


async def counter() -> Storage:
    storage = MemoryStorage()
    await storage.put("counter", b"0")
    return storage


async def careless(storage: Storage) -> None:
    number = int(await read(storage, "counter"))
    await storage.put("counter", b"%d" % (number + 1), only_if=ALWAYS)


async def careful(storage: Storage) -> int:
    lost = 0
    while True:
        data, version = await storage.get("counter")
        try:
            await storage.put("counter", b"%d" % (int(bytes(data)) + 1), only_if=Unchanged(version))
            return lost
        except PreconditionFailedError:
            lost += 1
            await pause(0.5)


def simulate(order: Sequence[str]) -> bytes:
    """What two writers, who each read and append twice, leave when they take turns in this order."""
    log = ""
    held: dict[str, str | None] = {"a": None, "b": None}
    for letter in order:
        read_before = held[letter]
        if read_before is None:
            held[letter] = log
        else:
            log, held[letter] = read_before + letter, None
    return log.encode()


class TestSchedules:
    def test_a_race_is_found(self) -> None:
        async def check(storage: Storage, outcomes: list[Outcome]) -> None:
            assert await read(storage, "counter") == b"2"

        with pytest.raises(AssertionError) as caught:
            explore(counter, [careless, careless], check)
        assert "0: get counter\n  1: get counter\n  0: put counter\n  1: put counter" in caught.value.__notes__[0]

    @pytest.mark.parametrize(("count", "orders"), [(2, 4), (3, 108)])
    def test_what_is_safe_is_safe_in_every_order(self, count: int, orders: int) -> None:
        worst = 0

        async def check(storage: Storage, outcomes: list[Outcome]) -> None:
            nonlocal worst
            assert await read(storage, "counter") == b"%d" % count
            worst = max(worst, *(outcome.result for outcome in outcomes))

        explored = explore(counter, [careful] * count, check)
        assert explored.complete == orders
        assert worst == count - 1

    def test_all_orders_that_matter_are_tried(self) -> None:
        seen: list[bytes] = []

        def writer(letter: bytes) -> object:
            async def write(storage: Storage) -> None:
                for _ in range(2):
                    await storage.put("log", await read(storage, "log") + letter)

            return write

        async def empty() -> Storage:
            storage = MemoryStorage()
            await storage.put("log", b"")
            return storage

        async def check(storage: Storage, outcomes: list[Outcome]) -> None:
            seen.append(await read(storage, "log"))

        explored = explore(empty, [writer(b"a"), writer(b"b")], check)  # type: ignore[list-item]
        assert explored.complete == len(seen)
        assert set(seen) == {simulate(order) for order in set(permutations("aaaabbbb"))}
        assert explored.complete < comb(8, 4)

    def test_what_does_not_touch_is_not_tried_twice(self) -> None:
        def writer(name: str) -> object:
            async def write(storage: Storage) -> None:
                for index in range(8):
                    await storage.put(f"{name}/{index}", b"")

            return write

        async def check(storage: Storage, outcomes: list[Outcome]) -> None:
            assert len(await paths_in(storage)) == 25

        explored = explore(counter, [writer("a"), writer("b"), writer("c")], check)  # type: ignore[list-item]
        assert explored.complete == 1
        assert explored.pruned < 100

    def test_failures_are_outcomes(self) -> None:
        async def create(storage: Storage) -> str:
            await storage.put("new", b"", only_if=ABSENT)
            return "made it"

        winners: set[int] = set()

        async def check(storage: Storage, outcomes: list[Outcome]) -> None:
            won = [index for index, outcome in enumerate(outcomes) if outcome.result == "made it"]
            lost = [outcome.error for outcome in outcomes if outcome.error is not None]
            assert len(won) == 1
            assert [type(error) for error in lost] == [PreconditionFailedError]
            winners.update(won)

        explore(counter, [create, create], check)
        assert winners == {0, 1}

    def test_requests_made_together_go_one_by_one(self) -> None:
        async def actor(storage: Storage) -> None:
            await concurrent_map(lambda index: storage.put(f"a/{index}", b""), range(5), 5)
            await asyncio.to_thread(int)  # what wants a thread does not need one

        async def check(storage: Storage, outcomes: list[Outcome]) -> None:
            assert [outcome.error for outcome in outcomes] == [None]

        assert explore(counter, [actor], check).complete == 1

    def test_actors_that_differ_from_run_to_run_are_refused(self) -> None:
        runs = 0

        async def fickle(storage: Storage) -> None:
            nonlocal runs
            runs += 1
            await (storage.get("counter") if runs % 2 else storage.delete(["counter"]))
            await storage.put("counter", b"")

        async def check(storage: Storage, outcomes: list[Outcome]) -> None:
            return

        with pytest.raises(RuntimeError, match="not deterministic"):
            explore(counter, [fickle, careful], check)

    def test_what_waits_for_ever_is_reported(self) -> None:
        async def stuck(storage: Storage) -> None:
            await asyncio.get_running_loop().create_future()

        async def check(storage: Storage, outcomes: list[Outcome]) -> None:
            return

        with pytest.raises(RuntimeError, match="wait for each other"):
            explore(counter, [stuck], check)

    def test_too_many_orders_are_refused(self) -> None:
        async def check(storage: Storage, outcomes: list[Outcome]) -> None:
            return

        with pytest.raises(RuntimeError, match="more than 10 orders"):
            explore(counter, [careful] * 3, check, limit=10)

    @pytest.mark.parametrize(
        ("one", "other", "expected"),
        [
            (Call("get", ("a",)), Call("get", ("a",)), False),
            (Call("get", ("a",)), Call("put", ("a",)), True),
            (Call("put", ("a",)), Call("put", ("b",)), False),
            (Call("delete", ("a", "b")), Call("exists", ("b",)), True),
            (Call("list", ("refs/",)), Call("put", ("refs/x",)), True),
            (Call("delete", ("chunks/x",)), Call("list", ("refs/",)), False),
            (Call("list", ("",)), Call("list", ("",)), False),
        ],
    )
    def test_what_touches(self, one: Call, other: Call, expected: bool) -> None:
        assert touches(one, other) is touches(other, one) is expected
