"""Storages around storages: that each changes what it says, and nothing else."""

from __future__ import annotations

import pytest

from icechunk._driver import run
from icechunk.errors import (
    ErrorKind,
    InvalidInputError,
    ObjectNotFoundError,
    PreconditionFailedError,
    ReadOnlyError,
    StorageError,
)
from icechunk.storage.base import ABSENT, Storage, Unchanged
from icechunk.storage.memory import MemoryStorage
from icechunk.storage.wrappers import (
    PrefixStorage,
    ReadOnlyStorage,
    RetryingStorage,
    UnconditionalStorage,
    is_transient,
)
from icechunk.testing.faults import Fault, FaultyStorage
from icechunk.testing.storage_suite import paths_in, read


@pytest.fixture
def memory() -> MemoryStorage:
    return MemoryStorage()


def patient(storage: Storage, *faults: Fault, tries: int = 3) -> tuple[RetryingStorage, FaultyStorage]:
    faulty = FaultyStorage(storage, *faults)
    return RetryingStorage(faulty, tries=tries, first_pause=0, longest_pause=0), faulty


class TestReadOnly:
    def test_reads_pass(self, memory: MemoryStorage) -> None:
        run(memory.put("a/b", b"x"))
        storage = ReadOnlyStorage(memory)
        assert storage.read_only and not memory.read_only
        assert run(read(storage, "a/b")) == b"x"
        assert run(paths_in(storage)) == ["a/b"]

    def test_writes_do_not(self, memory: MemoryStorage) -> None:
        run(memory.put("a", b"x"))
        storage = ReadOnlyStorage(memory)
        for attempt in (storage.put("a", b"y"), storage.put("b", b"y", only_if=ABSENT), storage.delete(["a"])):
            with pytest.raises(ReadOnlyError) as caught:
                run(attempt)  # type: ignore[arg-type]
            assert caught.value.kind == ErrorKind.READ_ONLY_STORAGE
        assert run(read(memory, "a")) == b"x"


class TestPrefix:
    def test_it_sees_only_what_is_below(self, memory: MemoryStorage) -> None:
        for path in ("in/a", "in/b/c", "inner/d", "e"):
            run(memory.put(path, path.encode()))
        storage = PrefixStorage(memory, "in")
        assert run(paths_in(storage)) == ["a", "b/c"]
        assert run(paths_in(storage, "b/")) == ["b/c"]
        assert run(read(storage, "b/c")) == b"in/b/c"
        assert not run(storage.is_empty())
        assert run(PrefixStorage(memory, "in/b/c").is_empty())

    def test_it_writes_only_below(self, memory: MemoryStorage) -> None:
        storage = PrefixStorage(memory, "in/")
        run(storage.put("a", b"x", only_if=ABSENT))
        run(memory.put("a", b"outside"))
        run(storage.delete(["a"]))
        assert run(paths_in(memory)) == ["a"]
        with pytest.raises(InvalidInputError):
            run(storage.get("../a"))


class TestUnconditional:
    def test_conditions_are_dropped_as_told(self, memory: MemoryStorage) -> None:
        stale = run(memory.put("a", b"1"))
        run(memory.put("a", b"2"))
        run(UnconditionalStorage(memory).put("a", b"3", only_if=Unchanged(stale)))
        run(UnconditionalStorage(memory).put("a", b"4", only_if=ABSENT))
        assert run(read(memory, "a")) == b"4"
        with pytest.raises(PreconditionFailedError):
            run(UnconditionalStorage(memory, update=False).put("a", b"5", only_if=Unchanged(stale)))
        with pytest.raises(PreconditionFailedError):
            run(UnconditionalStorage(memory, create=False).put("a", b"5", only_if=ABSENT))


class TestRetrying:
    @pytest.mark.parametrize("how", ["before", "after"])
    @pytest.mark.parametrize("verb", ["get", "put", "list", "delete", "exists", "modified_at"])
    def test_a_passing_failure_is_not_noticed(self, memory: MemoryStorage, verb: str, how: str) -> None:
        run(memory.put("a", b"x"))
        calls = {
            "get": lambda s: read(s, "a"),
            "put": lambda s: s.put("b", b"y"),
            "list": lambda s: paths_in(s),
            "delete": lambda s: s.delete(["a"]),
            "exists": lambda s: s.exists("a"),
            "modified_at": lambda s: s.modified_at("a"),
        }
        storage, faulty = patient(memory, Fault(0, how), Fault(1, how))  # type: ignore[arg-type]
        run(calls[verb](storage))  # type: ignore[arg-type]
        assert [call.verb for call in faulty.calls] == [verb] * 3

    def test_it_gives_up(self, memory: MemoryStorage) -> None:
        run(memory.put("a", b"x"))
        storage, faulty = patient(memory, *(Fault(n, "before") for n in range(10)))
        with pytest.raises(StorageError):
            run(storage.get("a"))
        assert len(faulty.calls) == 3

    def test_facts_about_the_object_are_no_failures(self, memory: MemoryStorage) -> None:
        run(memory.put("a", b"x"))
        storage, faulty = patient(memory)
        with pytest.raises(ObjectNotFoundError):
            run(storage.get("missing"))
        with pytest.raises(PreconditionFailedError):
            run(storage.put("a", b"y", only_if=ABSENT))
        assert len(faulty.calls) == 2

    def test_a_create_whose_answer_was_lost_succeeds(self, memory: MemoryStorage) -> None:
        storage, _ = patient(memory, Fault(0, "after"))
        version = run(storage.put("a", b"mine", only_if=ABSENT))
        assert run(memory.get("a"))[1] == version

    def test_an_update_whose_answer_was_lost_succeeds(self, memory: MemoryStorage) -> None:
        first = run(memory.put("a", b"1"))
        storage, _ = patient(memory, Fault(0, "after"))
        second = run(storage.put("a", b"2", only_if=Unchanged(first)))
        run(storage.put("a", b"3", only_if=Unchanged(second)))
        assert run(read(memory, "a")) == b"3"

    def test_what_others_wrote_meanwhile_is_not_ours(self, memory: MemoryStorage) -> None:
        class Rival(FaultyStorage):
            async def put(self, path, data, **options):  # type: ignore[no-untyped-def, override]
                if not self.calls:
                    await memory.put(path, b"theirs")
                return await super().put(path, data, **options)

        storage = RetryingStorage(Rival(memory, Fault(0, "before")), tries=3, first_pause=0)
        with pytest.raises(PreconditionFailedError):
            run(storage.put("a", b"mine", only_if=ABSENT))
        assert run(read(memory, "a")) == b"theirs"

    def test_what_is_transient(self) -> None:
        assert is_transient(StorageError("slow down", ErrorKind.THROTTLED))
        assert is_transient(StorageError("reset", ErrorKind.OBJECT_STORE))
        assert not is_transient(StorageError("no space left on device", ErrorKind.IO))
        assert not is_transient(PreconditionFailedError("moved"))
        assert not is_transient(ObjectNotFoundError("gone"))
