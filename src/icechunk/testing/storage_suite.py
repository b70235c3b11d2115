"""What every storage must do, as tests to be inherited.

Subclass `StorageSuite` in a test module and say how to make an empty storage::

    class TestMyStorage(StorageSuite):
        @pytest.fixture
        def storage(self):
            return MyStorage(...)

Every test runs twice: driven without an event loop, and inside asyncio. The class attributes say what a storage cannot
do; leave them alone where it can. pytest is all that is needed.
"""

from __future__ import annotations

import asyncio
import inspect
import pickle
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar, TypeVar

import pytest

from icechunk._driver import concurrent_map, run
from icechunk.errors import InvalidInputError, ObjectNotFoundError, PreconditionFailedError
from icechunk.storage.base import ABSENT, ByteRange, ObjectInfo, Storage, Unchanged, Version

T = TypeVar("T")

Drive = Callable[[Coroutine[Any, Any, Any]], Any]


def _both_ways(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The async `test` as a plain one, driven as the fixture `drive` says."""

    def driven(self: Any, storage: Storage, drive: Drive) -> None:
        drive(test(self, storage))

    driven.__name__ = driven.__qualname__ = test.__name__
    driven.__doc__ = test.__doc__
    return driven


async def listing(storage: Storage, prefix: str = "") -> list[ObjectInfo]:
    """All objects under `prefix`, by path."""
    return sorted([info async for batch in storage.list(prefix) for info in batch])


async def paths_in(storage: Storage, prefix: str = "") -> list[str]:
    """The paths of all objects under `prefix`, sorted."""
    return [info.path for info in await listing(storage, prefix)]


async def read(storage: Storage, path: str, byte_range: ByteRange | None = None) -> bytes:
    """What stands at `path`."""
    data, _ = await storage.get(path, byte_range=byte_range)
    return bytes(data)


def at_once(count: int, work: Callable[[int], T]) -> list[T]:
    """`work(i)` for each `i` below `count`, on threads that all begin together."""
    barrier = threading.Barrier(count)
    results: dict[int, T] = {}
    errors: list[BaseException] = []

    def body(index: int) -> None:
        barrier.wait()
        try:
            results[index] = work(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [results[index] for index in range(count)]


def increment(storage: Storage, path: str) -> int:
    """Add one to the number at `path` by compare-and-swap; how many tries were lost to others."""
    lost = 0
    while True:
        data, version = run(storage.get(path))
        try:
            run(storage.put(path, b"%d" % (int(bytes(data)) + 1), only_if=Unchanged(version)))
        except PreconditionFailedError:
            lost += 1
        else:
            return lost


class StorageSuite:
    """The tests; see the module. Override the fixture `storage`."""

    conditional: ClassVar[bool] = True
    """Whether writes can have preconditions."""
    picklable: ClassVar[bool] = True
    """Whether a storage can be pickled."""
    dated: ClassVar[bool] = True
    """Whether `modified_at` can tell."""
    odd_names: ClassVar[tuple[str, ...]] = (
        "refs/branch.é/ref.json",
        "refs/branch.日本/ref.json",
        "refs/branch.a b/ref.json",
        "refs/branch.100%/ref.json",
        "refs/branch.%C3%A9/ref.json",
        "refs/branch.x~y#1?z/ref.json",
        "refs/branch.a+b&c=d;e,f:g@h!$'(i)/ref.json",
        'refs/branch.a\\b"<c>[d]{e}|^`*/ref.json',
        "refs/tag.v1.0./ref.json",
        "refs/tag..../ref.json",
        "refs/tag.x/ref.json.deleted",
    )
    """Names that must go in and come out unchanged."""
    threads: ClassVar[int] = 16
    increments: ClassVar[int] = 5
    many: ClassVar[int] = 1100
    """More objects than are listed or deleted at once."""

    @pytest.fixture
    def storage(self) -> Storage:
        """An empty storage."""
        raise TypeError(f"{type(self).__name__} must override the fixture `storage`")

    @pytest.fixture(params=["blocking", "asyncio"])
    def drive(self, request: pytest.FixtureRequest) -> Drive:
        """What runs the coroutines of a test."""
        return run if request.param == "blocking" else asyncio.run

    # ---------------------------------------------------------------------------------------------- get and put

    @_both_ways
    async def test_get_gives_what_was_put(self, storage: Storage) -> None:
        await storage.put("a/b", b"hello")
        assert await read(storage, "a/b") == b"hello"

    @_both_ways
    async def test_put_replaces(self, storage: Storage) -> None:
        await storage.put("a", b"one")
        await storage.put("a", b"three")
        assert await read(storage, "a") == b"three"
        await storage.put("a", b"2")
        assert await read(storage, "a") == b"2"

    @_both_ways
    async def test_an_object_may_be_empty(self, storage: Storage) -> None:
        await storage.put("empty", b"")
        assert await read(storage, "empty") == b""
        assert [info.size for info in await listing(storage)] == [0]

    @_both_ways
    async def test_big_objects(self, storage: Storage) -> None:
        data = bytes(range(256)) * 12_000
        await storage.put("big", data)
        assert await read(storage, "big") == data
        assert await read(storage, "big", ByteRange(1_000_000, 2_000_001)) == data[1_000_000:2_000_001]

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(bytearray(b"hello world"), id="bytearray"),
            pytest.param(memoryview(b"hello world"), id="memoryview"),
            pytest.param([b"hello", memoryview(b" "), bytearray(b"world")], id="pieces"),
            pytest.param([b"", b"hello world"], id="empty piece"),
            pytest.param([memoryview(b"hello world" * 20_000)], id="one big piece"),
        ],
    )
    def test_anything_that_holds_bytes_can_be_put(self, storage: Storage, drive: Drive, data: Any) -> None:
        async def scenario() -> None:
            await storage.put("a", data)
            assert await read(storage, "a") == (b"".join(data) if isinstance(data, list) else bytes(data))

        drive(scenario())

    @_both_ways
    async def test_what_was_put_does_not_change_with_the_buffer(self, storage: Storage) -> None:
        buffer = bytearray(b"before")
        await storage.put("a", buffer)
        buffer[:] = b"after!"
        assert await read(storage, "a") == b"before"

    @_both_ways
    async def test_a_missing_object(self, storage: Storage) -> None:
        await storage.put("a/b", b"")
        for path in ("missing", "a/missing", "a"):
            with pytest.raises(ObjectNotFoundError):
                await storage.get(path)
            with pytest.raises(ObjectNotFoundError):
                await storage.get(path, byte_range=ByteRange(0, 1))
            assert not await storage.exists(path)
        assert await storage.exists("a/b")

    @_both_ways
    async def test_content_type_and_metadata_are_taken(self, storage: Storage) -> None:
        await storage.put("a", b"{}", content_type="application/json", metadata={"ic_spec_ver": "2"})
        assert await read(storage, "a") == b"{}"

    @pytest.mark.parametrize(
        ("byte_range", "expected"),
        [
            (ByteRange(0, 10), b"0123456789"),
            (ByteRange(2, 5), b"234"),
            (ByteRange(7), b"789"),
            (ByteRange(0), b"0123456789"),
            (ByteRange(7, 100), b"789"),
            (ByteRange(9, 10), b"9"),
            (ByteRange(-3), b"789"),
            (ByteRange(-10), b"0123456789"),
            (ByteRange(-100), b"0123456789"),
            (ByteRange(4, 4), b""),
            (ByteRange(10), b""),
            (ByteRange(10, 12), b""),
            (ByteRange(50, 60), b""),
        ],
        ids=str,
    )
    def test_ranges(self, storage: Storage, drive: Drive, byte_range: ByteRange, expected: bytes) -> None:
        async def scenario() -> None:
            await storage.put("digits", b"0123456789")
            assert await read(storage, "digits", byte_range) == expected

        drive(scenario())

    @_both_ways
    async def test_many_at_once(self, storage: Storage) -> None:
        async def put(index: int) -> None:
            await storage.put(f"many/{index}", b"%d" % index)

        async def get(index: int) -> bytes:
            return await read(storage, f"many/{index}")

        await concurrent_map(put, range(40), 8)
        assert await concurrent_map(get, range(40), 8) == [b"%d" % index for index in range(40)]

    # ------------------------------------------------------------------------------------------------- versions

    @_both_ways
    async def test_put_and_get_agree_on_the_version(self, storage: Storage) -> None:
        put = await storage.put("a", b"one")
        assert put.is_known
        assert (await storage.get("a"))[1] == put
        assert (await storage.get("a"))[1] == put

    @_both_ways
    async def test_another_content_is_another_version(self, storage: Storage) -> None:
        first = await storage.put("a", b"one")
        second = await storage.put("a", b"two")
        assert first != second
        assert (await storage.get("a"))[1] == second

    @_both_ways
    async def test_get_if_changed(self, storage: Storage) -> None:
        first = await storage.put("a", b"one")
        assert await storage.get_if_changed("a", first) is None
        second = await storage.put("a", b"two")
        found = await storage.get_if_changed("a", first)
        assert found is not None
        assert (bytes(found[0]), found[1]) == (b"two", second)
        with pytest.raises(ObjectNotFoundError):
            await storage.get_if_changed("missing", first)

    @_both_ways
    async def test_the_time_of_modification(self, storage: Storage) -> None:
        await storage.put("a", b"one")
        (info,) = await listing(storage)
        assert info.modified > 1_500_000_000
        modified = await storage.modified_at("a")
        if self.dated:
            assert modified is not None
            assert abs(modified.timestamp() - info.modified) < 2
            with pytest.raises(ObjectNotFoundError):
                await storage.modified_at("missing")

    # ---------------------------------------------------------------------------------------------------- lists

    @_both_ways
    async def test_lists(self, storage: Storage) -> None:
        sizes = {"repo": 1, "refs/branch.main/ref.json": 2, "refs/tag.a/ref.json": 3, "refsX/a": 4, "snapshots/A": 5}
        for path, size in sizes.items():
            await storage.put(path, b"x" * size)
        assert {info.path: info.size for info in await listing(storage)} == sizes
        assert await paths_in(storage, "refs/") == ["refs/branch.main/ref.json", "refs/tag.a/ref.json"]
        assert await paths_in(storage, "refs/tag.a/") == ["refs/tag.a/ref.json"]
        assert await paths_in(storage, "nothing/") == []

    @_both_ways
    async def test_a_listing_tells_the_etags_of_versions_or_none(self, storage: Storage) -> None:
        for content in (b"first", b"second"):
            await storage.put("a/b", content)
            (info,) = await listing(storage, "a/")
            _, version = await storage.get("a/b")
            assert info.etag in (None, version.etag)

    @_both_ways
    async def test_a_list_may_be_long(self, storage: Storage) -> None:
        async def put(index: int) -> None:
            await storage.put(f"chunks/{index:05d}", b"x")

        await concurrent_map(put, range(self.many), 16)
        assert await paths_in(storage, "chunks/") == [f"chunks/{index:05d}" for index in range(self.many)]

    @_both_ways
    async def test_odd_names(self, storage: Storage) -> None:
        for name in self.odd_names:
            await storage.put(name, name.encode())
        for name in self.odd_names:
            assert await read(storage, name) == name.encode()
        assert await paths_in(storage) == sorted(self.odd_names)
        assert await paths_in(storage, "refs/") == sorted(self.odd_names)
        assert (await storage.delete(self.odd_names)).failed == []
        assert await paths_in(storage) == []

    @_both_ways
    async def test_prefixes_with_odd_names(self, storage: Storage) -> None:
        for name in self.odd_names:
            await storage.put(name, b"")
            prefix = name.rpartition("/")[0] + "/"
            assert name in await paths_in(storage, prefix)

    @_both_ways
    async def test_is_empty(self, storage: Storage) -> None:
        assert await storage.is_empty()
        await storage.put("a/b/c", b"")
        assert not await storage.is_empty()
        await storage.delete(["a/b/c"])
        assert await storage.is_empty()

    @pytest.mark.parametrize(
        "path", ["", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/..", "a/../b", "a/./b", "a\0b"], ids=repr
    )
    def test_what_is_no_path(self, storage: Storage, drive: Drive, path: str) -> None:
        for attempt in (
            lambda: storage.get(path),
            lambda: storage.put(path, b"x"),
            lambda: storage.put(path, b"x", only_if=ABSENT),
            lambda: storage.delete([path]),
            lambda: storage.exists(path),
        ):
            with pytest.raises(InvalidInputError):
                drive(_awaited(attempt()))
        assert drive(storage.is_empty())

    @pytest.mark.parametrize("prefix", ["/", "a", "../", "a/../", "a//", "/a/"])
    def test_what_is_no_prefix(self, storage: Storage, drive: Drive, prefix: str) -> None:
        with pytest.raises(InvalidInputError):
            drive(listing(storage, prefix))

    # ------------------------------------------------------------------------------------------------- deletion

    @_both_ways
    async def test_delete(self, storage: Storage) -> None:
        for path in ("a", "b/c", "b/d"):
            await storage.put(path, b"x")
        result = await storage.delete(["a", "b/c", "missing", "b/missing"])
        assert result.failed == []
        assert result.deleted == 4
        assert await paths_in(storage) == ["b/d"]
        assert (await storage.delete([])).deleted == 0

    @_both_ways
    async def test_deleting_many(self, storage: Storage) -> None:
        paths = [f"chunks/{index:05d}" for index in range(self.many)]

        async def put(path: str) -> None:
            await storage.put(path, b"x")

        await concurrent_map(put, paths, 16)
        assert (await storage.delete(paths)).deleted == len(paths)
        assert await storage.is_empty()

    # ----------------------------------------------------------------------------------------------- conditions

    @_both_ways
    async def test_create_only_what_is_absent(self, storage: Storage) -> None:
        self._needs_conditions()
        version = await storage.put("a/b", b"one", only_if=ABSENT)
        assert (await storage.get("a/b"))[1] == version
        with pytest.raises(PreconditionFailedError):
            await storage.put("a/b", b"two", only_if=ABSENT)
        assert await read(storage, "a/b") == b"one"
        await storage.delete(["a/b"])
        await storage.put("a/b", b"three", only_if=ABSENT)
        assert await read(storage, "a/b") == b"three"

    @_both_ways
    async def test_replace_only_what_is_unchanged(self, storage: Storage) -> None:
        self._needs_conditions()
        first = await storage.put("a", b"one", only_if=ABSENT)
        second = await storage.put("a", b"two", only_if=Unchanged(first))
        with pytest.raises(PreconditionFailedError):
            await storage.put("a", b"three", only_if=Unchanged(first))
        assert await read(storage, "a") == b"two"
        _, read_version = await storage.get("a")
        assert read_version == second
        await storage.put("a", b"four", only_if=Unchanged(read_version))
        assert await read(storage, "a") == b"four"

    @_both_ways
    async def test_what_is_gone_is_not_unchanged(self, storage: Storage) -> None:
        self._needs_conditions()
        version = await storage.put("a/b", b"one")
        await storage.delete(["a/b"])
        with pytest.raises(PreconditionFailedError):
            await storage.put("a/b", b"two", only_if=Unchanged(version))
        with pytest.raises(PreconditionFailedError):
            await storage.put("never", b"two", only_if=Unchanged(version))
        assert await storage.is_empty()

    @_both_ways
    async def test_nothing_is_unchanged_since_an_unknown_version(self, storage: Storage) -> None:
        self._needs_conditions()
        await storage.put("a", b"one")
        with pytest.raises(InvalidInputError):
            await storage.put("a", b"two", only_if=Unchanged(Version()))
        assert await read(storage, "a") == b"one"

    @_both_ways
    async def test_a_version_survives_pickling(self, storage: Storage) -> None:
        self._needs_conditions()
        version = await storage.put("a", b"one")
        kept = pickle.loads(pickle.dumps(version))
        assert kept == version
        await storage.put("a", b"two", only_if=Unchanged(kept))
        assert await read(storage, "a") == b"two"

    def test_of_many_who_create_one_wins(self, storage: Storage) -> None:
        self._needs_conditions()

        def create(index: int) -> bool:
            try:
                run(storage.put("contested/ref", b"%d" % index, only_if=ABSENT))
            except PreconditionFailedError:
                return False
            return True

        won = at_once(self.threads, create)
        assert won.count(True) == 1
        assert run(read(storage, "contested/ref")) == b"%d" % won.index(True)

    def test_of_many_who_update_none_is_lost(self, storage: Storage) -> None:
        self._needs_conditions()
        run(storage.put("counter", b"0"))
        at_once(self.threads, lambda _: [increment(storage, "counter") for _ in range(self.increments)])
        assert run(read(storage, "counter")) == b"%d" % (self.threads * self.increments)

    def test_readers_see_whole_objects(self, storage: Storage) -> None:
        contents = [bytes([65 + index]) * (50_000 + 10_000 * index) for index in range(4)]
        run(storage.put("a", contents[0]))
        seen: set[bytes] = set()

        def work(index: int) -> None:
            for turn in range(15):
                if index == 0:
                    run(storage.put("a", contents[turn % 4]))
                else:
                    seen.add(run(read(storage, "a")))

        at_once(4, work)
        assert seen <= set(contents)

    # ---------------------------------------------------------------------------------------------------- others

    @_both_ways
    async def test_a_pickled_storage_is_the_same_storage(self, storage: Storage) -> None:
        if not self.picklable:
            pytest.skip("cannot be pickled")
        await storage.put("a", b"one")
        twin = pickle.loads(pickle.dumps(storage))
        assert await read(twin, "a") == b"one"
        await twin.put("a", b"two")
        assert await read(storage, "a") == b"two"

    def test_it_says_what_it_is(self, storage: Storage) -> None:
        facts = storage.describe()
        assert isinstance(facts["type"], str)
        assert storage.concurrency >= 1

    def _needs_conditions(self) -> None:
        if not self.conditional:
            pytest.skip("knows no conditions")


async def _awaited(value: Awaitable[T]) -> T:
    return await value


assert all(
    not inspect.iscoroutinefunction(test) for name, test in vars(StorageSuite).items() if name.startswith("test")
)
