"""zarr's own suite for stores, on ours.

The suite writes arbitrary bytes under arbitrary keys. An Icechunk store holds a Zarr hierarchy: documents must be
documents, and chunks belong to arrays. So the tests that write other things are repeated here with the same claims on keys
and documents of a hierarchy; all others are inherited as they are. Everything runs on a session that has uncommitted
changes, and, where nothing is written, once more on the committed snapshot.
"""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from tests.packs import small_packs
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, cpu, default_buffer_prototype
from zarr.core.sync import _collect_aiterator, sync
from zarr.storage._utils import _normalize_byte_range_index
from zarr.testing.store import StoreTests
from zarr.testing.utils import assert_bytes_equal

import icechunk
from icechunk.testing.latency import LatencyStorage

PROTOTYPE = default_buffer_prototype()
GROUP = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {"n": 1}}).encode()
ARRAY = json.dumps(
    {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [100],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "bytes"}],
        "attributes": {},
    }
).encode()
GRID = json.dumps(
    json.loads(ARRAY) | {"shape": [8, 8], "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, 4]}}}
).encode()
LARGE = bytes(range(256)) * 40  # too large to be kept inline


def buffer(data: bytes) -> Buffer:
    return cpu.Buffer.from_bytes(data)


class TestIcechunkStore(StoreTests[icechunk.IcechunkStore, cpu.Buffer]):
    store_cls = icechunk.IcechunkStore
    buffer_cls = cpu.Buffer

    # -- how the suite gets at stores -------------------------------------------------------------------------------

    @pytest.fixture(params=["memory", "local", "far"])
    def repo(
        self, request: pytest.FixtureRequest, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
    ) -> icechunk.Repository:
        """In one that is far away every chunk that is large enough to be an object shares it."""
        if request.param == "memory":
            return icechunk.Repository.create(icechunk.in_memory_storage())
        if request.param == "far":
            small_packs(monkeypatch, alone=0, chunks=2, size=len(LARGE))
            return icechunk.Repository.create(LatencyStorage(icechunk.in_memory_storage()))
        return icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repo")))

    @pytest.fixture
    def store(self, repo: icechunk.Repository) -> icechunk.IcechunkStore:
        return repo.writable_session("main").store

    @pytest.fixture
    def store_kwargs(self) -> dict[str, Any]:
        pytest.skip("stores come from sessions, not from arguments")

    async def set(self, store: icechunk.IcechunkStore, key: str, value: Buffer) -> None:
        await store.session.store.set(key, value)

    async def get(self, store: icechunk.IcechunkStore, key: str) -> Buffer:
        found = await store.session.store.get(key, PROTOTYPE)
        assert found is not None
        return found

    async def fill(self, store: icechunk.IcechunkStore) -> None:
        """A root group, an array with chunks of every size, and one in a group."""
        await store.set("zarr.json", buffer(GROUP))
        await store.set("a/zarr.json", buffer(ARRAY))
        await store.set("a/c/0", buffer(b"\x01\x02\x03\x04"))
        await store.set("a/c/1", buffer(LARGE))
        await store.set("g/zarr.json", buffer(GROUP))
        await store.set("g/b/zarr.json", buffer(GRID))
        await store.set("g/b/c/0/1", buffer(b"\x05"))

    # -- what a store says of itself --------------------------------------------------------------------------------

    def test_store_repr(self, store: icechunk.IcechunkStore) -> None:
        assert "IcechunkStore" in repr(store)

    def test_store_supports_writes(self, store: icechunk.IcechunkStore) -> None:
        assert store.supports_writes
        assert store.supports_deletes

    def test_store_supports_listing(self, store: icechunk.IcechunkStore) -> None:
        assert store.supports_listing

    def test_store_supports_no_consolidated_metadata(self, store: icechunk.IcechunkStore) -> None:
        assert not store.supports_consolidated_metadata

    def test_store_eq(self, store: icechunk.IcechunkStore, repo: icechunk.Repository) -> None:
        assert store == store.session.store
        assert store != repo.writable_session("main").store
        assert store != object()

    async def test_serializable_store(self, repo: icechunk.Repository) -> None:
        """A writable store stays where it is; a fork's store travels, with what was in it."""
        session = repo.writable_session("main")
        with pytest.raises(ValueError, match="fork"):
            pickle.dumps(session.store)
        if "InMemory" in repr(repo.storage) or "memory" in repr(repo.storage).lower():
            return  # what is in this process's memory cannot travel
        store = session.fork().store
        copy = pickle.loads(pickle.dumps(store))
        assert copy.read_only == store.read_only
        await copy.set("zarr.json", buffer(GROUP))
        assert_bytes_equal(await copy.get("zarr.json", PROTOTYPE), buffer(GROUP))

    async def test_read_only_store_pickles(self, tmp_path: Any) -> None:
        repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repo")))
        session = repo.writable_session("main")
        await self.fill(session.store)
        session.commit("filled")
        store = repo.readonly_session("main").store
        copy = pickle.loads(pickle.dumps(store))
        assert copy.read_only
        assert_bytes_equal(await copy.get("a/c/1", PROTOTYPE), buffer(LARGE))

    def test_store_read_only(self, store: icechunk.IcechunkStore) -> None:
        assert not store.read_only
        with pytest.raises(AttributeError):
            store.read_only = False  # type: ignore[misc]

    @pytest.mark.parametrize("read_only", [True, False])
    async def test_store_open_read_only(self, repo: icechunk.Repository, read_only: bool) -> None:
        session = repo.readonly_session("main") if read_only else repo.writable_session("main")
        assert session.store._is_open
        assert session.store.read_only == read_only

    async def test_store_context_manager(self, store: icechunk.IcechunkStore) -> None:
        with store as entered:
            assert entered._is_open
        assert not store._is_open

    async def test_read_only_store_raises(self, repo: icechunk.Repository) -> None:
        session = repo.writable_session("main")
        await self.fill(session.store)
        session.commit("filled")
        for store in (session.store, repo.readonly_session("main").store):
            assert store.read_only
            for write in (
                store.set("a/zarr.json", buffer(GROUP)),
                store.set("a/c/3", buffer(b"x")),
                store.set_if_not_exists("a/c/4", buffer(b"x")),
                store.delete_dir("a"),
            ):
                with pytest.raises(icechunk.IcechunkError):
                    await write
            assert not await store.exists("a/c/3")
            assert await store.exists("a/zarr.json")

    async def test_with_read_only_store(self, store: icechunk.IcechunkStore) -> None:
        await self.fill(store)
        reader = store.with_read_only(read_only=True)
        assert reader.read_only
        assert not store.read_only
        assert_bytes_equal(await reader.get("a/c/0", PROTOTYPE), buffer(b"\x01\x02\x03\x04"))
        writer = store.with_read_only(read_only=False)
        await writer.set("a/c/7", buffer(b"xyz"))
        assert_bytes_equal(await store.get("a/c/7", PROTOTYPE), buffer(b"xyz"))

    # -- reading ----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("committed", [False, True])
    @pytest.mark.parametrize("key", ["a/c/0", "a/c/1", "g/b/c/0/1"])
    @pytest.mark.parametrize(
        "byte_range",
        [None, RangeByteRequest(0, 1), OffsetByteRequest(0), SuffixByteRequest(1), "middle"],
    )
    async def test_get(
        self, repo: icechunk.Repository, key: str, byte_range: ByteRequest | str | None, committed: bool
    ) -> None:
        session = repo.writable_session("main")
        await self.fill(session.store)
        stored = await self.get(session.store, key)
        if committed:
            session.commit("filled")
        if byte_range == "middle":
            byte_range = RangeByteRequest(len(stored) // 3, len(stored) // 3 * 2 + 1)
        observed = await session.store.get(key, prototype=PROTOTYPE, byte_range=byte_range)  # type: ignore[arg-type]
        start, stop = _normalize_byte_range_index(stored, byte_range=byte_range)  # type: ignore[arg-type]
        assert_bytes_equal(observed, stored[start:stop])

    async def test_get_document_ranges(self, store: icechunk.IcechunkStore) -> None:
        await self.fill(store)
        for byte_range, expected in ((RangeByteRequest(2, 9), GROUP[2:9]), (OffsetByteRequest(5), GROUP[5:])):
            assert_bytes_equal(await store.get("zarr.json", PROTOTYPE, byte_range), buffer(expected))

    async def test_get_absent(self, store: icechunk.IcechunkStore) -> None:
        await self.fill(store)
        for key in ("a/c/2", "g/b/c/1/1", "nothing/zarr.json", "a/c/99"):
            assert await store.get(key, PROTOTYPE) is None

    async def test_get_not_open(self, store: icechunk.IcechunkStore) -> None:
        """The stores of a session are open from the start, and open again after having been closed."""
        assert store._is_open
        await self.fill(store)
        store.close()
        assert_bytes_equal(await store.get("zarr.json", PROTOTYPE), buffer(GROUP))

    async def test_get_raises(self, store: icechunk.IcechunkStore) -> None:
        await self.fill(store)
        with pytest.raises((ValueError, TypeError)):
            await store.get("a/c/0", prototype=PROTOTYPE, byte_range=(0, 2))  # type: ignore[arg-type]

    async def test_get_many(self, store: icechunk.IcechunkStore) -> None:
        await self.fill(store)
        for index in range(2, 12):
            await store.set(f"a/c/{index}", buffer(str(index).encode()))
        keys = [f"a/c/{index}" for index in range(2, 12)]
        requests = zip(keys, [PROTOTYPE] * len(keys), [None] * len(keys), strict=True)
        observed = await _collect_aiterator(store._get_many(requests))
        assert sorted((key, value.to_bytes()) for key, value in observed if value) == sorted(
            (key, key.removeprefix("a/c/").encode()) for key in keys
        )

    @pytest.mark.parametrize(
        "key_ranges",
        [
            [],
            [("zarr.json", RangeByteRequest(0, 2))],
            [("a/c/0", RangeByteRequest(0, 2)), ("zarr.json", None)],
            [
                ("g/b/c/0/1", RangeByteRequest(0, 1)),
                ("a/c/1", SuffixByteRequest(2)),
                ("a/c/0", OffsetByteRequest(2)),
                ("a/c/1", RangeByteRequest(1000, 1010)),
            ],
        ],
    )
    async def test_get_partial_values(  # type: ignore[override]
        self, store: icechunk.IcechunkStore, key_ranges: list[tuple[str, ByteRequest]]
    ) -> None:
        await self.fill(store)
        observed = await store.get_partial_values(prototype=PROTOTYPE, key_ranges=iter(key_ranges))
        expected = [await store.get(key, PROTOTYPE, byte_range) for key, byte_range in key_ranges]
        assert [found and found.to_bytes() for found in observed] == [want and want.to_bytes() for want in expected]

    # -- sizes ------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("key", "size"), [("a/c/0", 4), ("a/c/1", len(LARGE)), ("zarr.json", len(GROUP)), ("a/c/9", 0)]
    )
    async def test_getsize(self, store: icechunk.IcechunkStore, key: str, size: int) -> None:  # type: ignore[override]
        await self.fill(store)
        assert await store.getsize(key) == size

    async def test_getsize_prefix(self, store: icechunk.IcechunkStore) -> None:
        await self.fill(store)
        await store.set("a-b/zarr.json", buffer(ARRAY))  # shares the prefix, but is no child
        assert await store.getsize_prefix("a") == len(ARRAY) + 4 + len(LARGE)
        assert await store.getsize_prefix("g") == len(GROUP) + len(GRID) + 1

    async def test_getsize_raises(self, store: icechunk.IcechunkStore) -> None:
        await self.fill(store)
        with pytest.raises(KeyError):
            await store.getsize("nothing/zarr.json")
        with pytest.raises(KeyError):
            await store.getsize("nothing/c/0")

    # -- writing ----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(("key", "data"), [("zarr.json", GROUP), ("a/c/5", b"\x01"), ("a/c/5", LARGE)])
    async def test_set(self, store: icechunk.IcechunkStore, key: str, data: bytes) -> None:  # type: ignore[override]
        assert not store.read_only
        await self.fill(store)
        await store.set(key, buffer(data))
        assert_bytes_equal(await self.get(store, key), buffer(data))

    async def test_set_rejects_what_is_no_buffer(self, store: icechunk.IcechunkStore) -> None:
        with pytest.raises(TypeError, match="Buffer"):
            await store.set("zarr.json", GROUP)  # type: ignore[arg-type]

    async def test_set_not_open(self, store: icechunk.IcechunkStore) -> None:
        store.close()
        await store.set("zarr.json", buffer(GROUP))
        assert_bytes_equal(await self.get(store, "zarr.json"), buffer(GROUP))

    async def test_set_many(self, store: icechunk.IcechunkStore) -> None:
        await self.fill(store)
        values = {f"a/c/{index}": buffer(str(index).encode() * 300) for index in range(20)}
        await store._set_many(values.items())
        for key, value in values.items():
            assert_bytes_equal(await self.get(store, key), value)

    async def test_set_if_not_exists(self, store: icechunk.IcechunkStore) -> None:
        await self.fill(store)
        await store.set_if_not_exists("a/c/0", buffer(b"new"))
        assert_bytes_equal(await self.get(store, "a/c/0"), buffer(b"\x01\x02\x03\x04"))
        await store.set_if_not_exists("a/c/8", buffer(b"new"))
        assert_bytes_equal(await self.get(store, "a/c/8"), buffer(b"new"))

    # -- deleting ---------------------------------------------------------------------------------------------------

    async def test_exists(self, store: icechunk.IcechunkStore) -> None:
        assert not await store.exists("a/zarr.json")
        await self.fill(store)
        assert await store.exists("a/zarr.json")
        assert await store.exists("a/c/0")
        assert not await store.exists("a/c/2")

    async def test_delete(self, store: icechunk.IcechunkStore) -> None:
        await self.fill(store)
        await store.delete("a/c/0")
        assert not await store.exists("a/c/0")
        await store.delete("a/zarr.json")
        assert not await store.exists("a/zarr.json")
        assert await store.get("a/c/1", PROTOTYPE) is None

    async def test_delete_dir(self, store: icechunk.IcechunkStore) -> None:
        await self.fill(store)
        await store.set("a-b/zarr.json", buffer(GROUP))
        await store.delete_dir("a")
        assert await store.exists("zarr.json")
        assert await store.exists("a-b/zarr.json")
        assert not await store.exists("a/zarr.json")
        await store.delete_dir("g/b/c/0")
        assert await store.exists("g/b/zarr.json")
        assert not await store.exists("g/b/c/0/1")

    async def test_delete_nonexistent_key_does_not_raise(self, store: icechunk.IcechunkStore) -> None:
        await self.fill(store)
        await store.delete("nothing/zarr.json")
        await store.delete("a/c/17")
        await store.delete_dir("nothing")

    async def test_clear(self, store: icechunk.IcechunkStore) -> None:
        await self.fill(store)
        await store.clear()
        assert await store.is_empty("")
        assert await _collect_aiterator(store.list()) == ()

    # -- listing ----------------------------------------------------------------------------------------------------

    KEYS = (
        "zarr.json",
        "a/zarr.json",
        "a/c/0",
        "a/c/1",
        "g/zarr.json",
        "g/b/zarr.json",
        "g/b/c/0/1",
    )

    async def test_is_empty(self, store: icechunk.IcechunkStore) -> None:
        assert await store.is_empty("")
        await self.fill(store)
        assert not await store.is_empty("")
        assert await store.is_empty("gg")
        assert not await store.is_empty("g/")
        assert not await store.is_empty("g")
        assert await store.is_empty("spam/")

    async def test_list(self, store: icechunk.IcechunkStore) -> None:
        assert await _collect_aiterator(store.list()) == ()
        await self.fill(store)
        assert sorted(await _collect_aiterator(store.list())) == sorted(self.KEYS)

    async def test_list_prefix(self, store: icechunk.IcechunkStore) -> None:
        await self.fill(store)
        await store.set("g-2/zarr.json", buffer(GROUP))
        for prefix in ("a", "a/", "g", "g/", "g/b", "g/b/"):
            observed = sorted(await _collect_aiterator(store.list_prefix(prefix)))
            assert observed == sorted(key for key in self.KEYS if key.startswith(prefix.rstrip("/") + "/"))

    async def test_list_empty_path(self, store: icechunk.IcechunkStore) -> None:
        await self.fill(store)
        assert sorted(await _collect_aiterator(store.list_prefix(""))) == sorted(self.KEYS)

    @pytest.mark.parametrize("committed", [False, True])
    async def test_list_dir(self, repo: icechunk.Repository, committed: bool) -> None:  # type: ignore[override]
        session = repo.writable_session("main")
        assert await _collect_aiterator(session.store.list_dir("")) == ()
        await self.fill(session.store)
        if committed:
            session.commit("filled")
        expected = {
            "": ["a", "g", "zarr.json"],
            "a": ["c", "zarr.json"],
            "a/c": ["0", "1"],
            "g": ["b", "zarr.json"],
            "g/b/c": ["0"],
            "g/b/c/0": ["1"],
            "nothing": [],
        }
        for path, names in expected.items():
            for spelled in (path, path + "/"):
                assert sorted(await _collect_aiterator(session.store.list_dir(spelled))) == names, spelled

    # -- documents as zarr reads them (private helpers of zarr 3.1) ---------------------------------------------------

    @pytest.mark.parametrize("synchronous", [False, True])
    async def test_get_bytes_and_json(self, store: icechunk.IcechunkStore, synchronous: bool) -> None:
        if not hasattr(store, "_get_json"):
            pytest.skip("this zarr has no such helpers")
        await self.fill(store)
        if not synchronous:
            assert await store._get_bytes("zarr.json", prototype=PROTOTYPE) == GROUP
            assert await store._get_json("zarr.json", prototype=PROTOTYPE) == json.loads(GROUP)
            with pytest.raises(FileNotFoundError):
                await store._get_bytes("nothing/zarr.json", prototype=PROTOTYPE)

    async def test_get_bytes(self) -> None:  # type: ignore[override]
        pytest.skip("see test_get_bytes_and_json")

    test_get_json = test_get_bytes

    def test_get_bytes_sync(self, store: icechunk.IcechunkStore) -> None:
        if not hasattr(store, "_get_bytes_sync"):
            pytest.skip("this zarr has no such helper")
        sync(self.fill(store))
        assert store._get_bytes_sync("zarr.json", prototype=PROTOTYPE) == GROUP

    def test_get_json_sync(self, store: icechunk.IcechunkStore) -> None:
        if not hasattr(store, "_get_json_sync"):
            pytest.skip("this zarr has no such helper")
        sync(self.fill(store))
        assert store._get_json_sync("zarr.json", prototype=PROTOTYPE) == json.loads(GROUP)

    # -- the synchronous protocols --------------------------------------------------------------------------------------

    def test_get_sync(self, store: icechunk.IcechunkStore) -> None:
        getter = self._require_get_sync(store)
        sync(self.fill(store))
        assert_bytes_equal(getter.get_sync("a/c/1"), buffer(LARGE))
        assert_bytes_equal(getter.get_sync("zarr.json"), buffer(GROUP))

    def test_get_sync_missing(self, store: icechunk.IcechunkStore) -> None:
        getter = self._require_get_sync(store)
        sync(self.fill(store))
        assert getter.get_sync("a/c/2") is None
        assert getter.get_sync("nothing/zarr.json") is None

    def test_set_sync(self, store: icechunk.IcechunkStore) -> None:
        setter = self._require_set_sync(store)
        sync(self.fill(store))
        setter.set_sync("a/c/2", buffer(LARGE))
        assert_bytes_equal(sync(self.get(store, "a/c/2")), buffer(LARGE))

    def test_delete_sync(self, store: icechunk.IcechunkStore) -> None:
        deleter = self._require_delete_sync(store)
        sync(self.fill(store))
        deleter.delete_sync("a/c/0")
        assert not sync(store.exists("a/c/0"))

    def test_delete_sync_missing(self, store: icechunk.IcechunkStore) -> None:
        deleter = self._require_delete_sync(store)
        sync(self.fill(store))
        deleter.delete_sync("a/c/3")
        deleter.delete_sync("nothing/zarr.json")

    @pytest.mark.parametrize("direction", ["set_async_get_sync", "set_sync_get_async"])
    async def test_sync_async_set_get_parity(self, store: icechunk.IcechunkStore, direction: str) -> None:
        setter = self._require_set_sync(store)
        getter = self._require_get_sync(store)
        await self.fill(store)
        if direction == "set_async_get_sync":
            await store.set("a/c/6", buffer(b"parity"))
            assert_bytes_equal(getter.get_sync("a/c/6"), buffer(b"parity"))
        else:
            setter.set_sync("a/c/6", buffer(b"parity"))
            assert_bytes_equal(await store.get("a/c/6", PROTOTYPE), buffer(b"parity"))

    async def test_delete_sync_visible_to_async_get(self, store: icechunk.IcechunkStore) -> None:
        deleter = self._require_delete_sync(store)
        await self.fill(store)
        deleter.delete_sync("a/c/1")
        assert await store.get("a/c/1", PROTOTYPE) is None

    @pytest.mark.parametrize("byte_range", [None, RangeByteRequest(1, 4), OffsetByteRequest(1), SuffixByteRequest(1)])
    async def test_get_sync_byte_range_parity(
        self, store: icechunk.IcechunkStore, byte_range: ByteRequest | None
    ) -> None:
        getter = self._require_get_sync(store)
        await self.fill(store)
        for key in ("a/c/0", "a/c/1", "zarr.json"):
            observed = getter.get_sync(key, byte_range=byte_range)
            assert_bytes_equal(observed, await store.get(key, PROTOTYPE, byte_range))
