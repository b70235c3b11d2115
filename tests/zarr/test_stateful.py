"""zarr's own state machines, on ours: random operations on a store and on a model must always look alike.

To zarr's rules we add our own: commit and go on in a new session, read the commit through a read-only session, abandon
the changes and start over from the last commit.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import zarr
from hypothesis import HealthCheck, assume, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test
from tests.packs import small_packs
from zarr.abc.store import OffsetByteRequest, RangeByteRequest
from zarr.core.buffer import Buffer, cpu
from zarr.core.sync import sync
from zarr.storage import MemoryStore
from zarr.testing.stateful import SyncStoreWrapper, ZarrHierarchyStateMachine, ZarrStoreStateMachine
from zarr.testing.strategies import chunk_paths

import icechunk

RUNS = settings(
    deadline=None,
    derandomize=True,
    max_examples=12,
    stateful_step_count=25,
    suppress_health_check=list(HealthCheck),
)
MANY_RUNS = settings(RUNS, max_examples=150, stateful_step_count=40)


def new_repository() -> icechunk.Repository:
    """With a small threshold, so that inline and native chunks both occur; those of which some more come are packed."""
    config = icechunk.RepositoryConfig(pack_small_chunks=True)
    config.inline_chunk_threshold_bytes = 20
    return icechunk.Repository.create(icechunk.in_memory_storage(), config)


@pytest.fixture(autouse=True)
def packs_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    small_packs(monkeypatch, alone=3, chunks=5, size=60)


class Hierarchy(ZarrHierarchyStateMachine):
    """Groups and arrays, written through zarr, against a MemoryStore."""

    def __init__(self) -> None:
        self.repo = new_repository()
        super().__init__(self.repo.writable_session("main").store)
        self.saved: tuple[dict[str, Buffer], set[str], set[str]] | None = None

    def _remember(self) -> None:
        """What the model looks like at this commit."""
        self.saved = (dict(self.model._store_dict), set(self.all_groups), set(self.all_arrays))

    @initialize()
    def init_store(self) -> None:
        zarr.group(store=self.store)

    @precondition(lambda self: self.store.session.has_uncommitted_changes)
    @rule()
    def commit(self) -> None:
        before = sorted(self._sync_iter(self.store.list()))
        snapshot = self.store.session.commit("by hypothesis")
        note(f"committed {snapshot}")
        committed = self.repo.readonly_session(snapshot_id=snapshot).store
        assert sorted(self._sync_iter(committed.list())) == before
        self.store = self.repo.writable_session("main").store
        self._remember()

    @precondition(lambda self: self.saved is not None)
    @rule()
    def abandon(self) -> None:
        note("abandoning")
        self.store = self.repo.writable_session("main").store
        self.model = MemoryStore(copy.copy(self.saved[0]))
        self.all_groups, self.all_arrays = set(self.saved[1]), set(self.saved[2])

    @precondition(lambda self: bool(self.all_groups | self.all_arrays))
    @rule(data=st.data())
    def check_list_dir(self, data: Any) -> None:
        """An array always shows its chunk directory, even while that is empty."""
        path = data.draw(st.sampled_from(sorted(self.all_groups | self.all_arrays)))
        optional = {"c"} if path in self.all_arrays else set()
        model_ls = set(self._sync_iter(self.model.list_dir(path)))
        store_ls = set(self._sync_iter(self.store.list_dir(path)))
        assert model_ls | optional == store_ls | optional

    @precondition(lambda self: bool(self.all_arrays))
    @rule(data=st.data())
    def delete_some_chunks(self, data: Any) -> None:
        """delete_dir below an array removes the chunks whose coordinates begin so."""
        path = data.draw(st.sampled_from(sorted(self.all_arrays)))
        array = zarr.open_array(path=path, store=self.model)
        chunk = data.draw(chunk_paths(ndim=array.ndim, numblocks=array.cdata_shape))
        directory = f"{path}/c/{chunk}".rstrip("/")
        note(f"delete_dir {directory}")
        for key in list(self.model._store_dict):
            if key == directory or key.startswith(directory + "/"):
                del self.model._store_dict[key]
        self._sync(self.store.delete_dir(directory))

    @precondition(lambda self: bool(self.all_arrays) or bool(self.all_groups))
    @rule(data=st.data())
    def delete_dir(self, data: Any) -> None:
        path = data.draw(st.sampled_from(sorted(self.all_groups | self.all_arrays)))
        note(f"delete_dir {path}")
        self._sync(self.model.delete_dir(path))
        self._sync(self.store.delete_dir(path))
        gone = {node for node in self.all_groups | self.all_arrays if node == path or node.startswith(path + "/")}
        self.all_groups -= gone
        self.all_arrays -= gone

    @rule()
    def clear(self) -> None:
        if len(self.all_arrays) + len(self.all_groups) < 5:
            return  # else nothing ever grows
        self._sync(self.store.clear())
        self._sync(self.model.clear())
        assert self._sync(self.store.is_empty(""))
        self.all_groups.clear()
        self.all_arrays.clear()
        zarr.group(store=self.store)
        zarr.group(store=self.model)


def document(kind: str, number: int) -> bytes:
    grid = {"name": "regular", "configuration": {"chunk_shape": [1, 1]}}
    array = {"shape": [3, 3], "chunk_grid": grid, "data_type": "uint8", "fill_value": 0, "codecs": [{"name": "bytes"}]}
    common = {"zarr_format": 3, "node_type": kind, "attributes": {"n": number}}
    return json.dumps(common | (array if kind == "array" else {})).encode()


ARRAYS = ("a", "g/b", "g/a")
GROUPS = ("", "g", "g-1")
CHUNKS = ("c/0/0", "c/0/2", "c/1/0", "c/2/2")


def metadata_key(path: str) -> str:
    return f"{path}/zarr.json".lstrip("/")


keys = st.one_of(
    st.sampled_from([metadata_key(path) for path in (*ARRAYS, *GROUPS)]),
    st.sampled_from([f"{path}/{chunk}" for path in ARRAYS for chunk in CHUNKS]),
)


class Keys(ZarrStoreStateMachine):
    """Single keys against a dict, with keys and documents that belong to a hierarchy."""

    def __init__(self) -> None:
        self.repo = new_repository()
        super().__init__(self.repo.writable_session("main").store)
        self.saved: dict[str, Buffer] = {}

    @rule(key=keys, data=st.binary(min_size=1, max_size=60), number=st.integers(0, 9))
    def set(self, key: str, data: bytes, number: int) -> None:
        path, _, name = key.rpartition("/")
        if name == "zarr.json":
            data = document("array" if path in ARRAYS else "group", number)
        else:
            assume(metadata_key(key.split("/c/")[0]) in self.model)  # chunks need their array
        note(f"set {key} to {data!r}")
        self.store.set(key, cpu.Buffer.from_bytes(data))
        self.model[key] = cpu.Buffer.from_bytes(data)

    @precondition(lambda self: bool(self.model))
    @rule(data=st.data())
    def delete(self, data: Any) -> None:
        """Deleting a node's document deletes the node, with all that is below."""
        key = data.draw(st.sampled_from(sorted(self.model)))
        note(f"delete {key}")
        self.store.delete(key)
        below = key.removesuffix("zarr.json")
        for other in list(self.model):
            if other == key or (key.endswith("zarr.json") and other.startswith(below)):
                del self.model[other]

    @rule(key=keys)
    def get_invalid_zarr_keys(self, key: str) -> None:
        assume(key not in self.model)
        array = metadata_key(key.split("/c/")[0])
        assume("/c/" not in key or array in self.model or int(icechunk.__version__[0]) > 1)
        assert self.store.get(key, self.prototype) is None

    @precondition(lambda self: bool(self.model))
    @rule(data=st.data())
    def get_partial_values(self, data: Any) -> None:
        """Ranges that lie inside the value; what lies outside is an error here."""
        key = data.draw(st.sampled_from(sorted(self.model)))
        value = self.model[key].to_bytes()
        start = data.draw(st.integers(0, len(value) - 1))
        end = data.draw(st.integers(start + 1, len(value)))
        requests = [(key, RangeByteRequest(start, end)), (key, OffsetByteRequest(start)), (key, None)]
        observed = self.store.get_partial_values(iter(requests), self.prototype)
        assert [found.to_bytes() for found in observed] == [value[start:end], value[start:], value]

    @rule(key=keys)
    def exists(self, key: str) -> None:
        assert self.store.exists(key) == (key in self.model)

    @rule(path=st.sampled_from([*ARRAYS, *GROUPS]))
    def list_prefix(self, path: str) -> None:
        """Everything of a node; what is no node has no prefix."""
        if metadata_key(path) not in self.model:
            return
        below = f"{path}/".lstrip("/")
        observed = sorted(self.store._sync_iter(self.store.store.list_prefix(path)))
        assert observed == sorted(key for key in self.model if key.startswith(below))

    @rule()
    def is_empty(self) -> None:
        """Only what a group shows counts: nodes whose parents are missing are not seen from above."""
        if "zarr.json" in self.model or not self.model:
            assert self.store.is_empty("") == (not self.model)

    @invariant()
    def check_zarr_keys(self) -> None:
        for key in self.store.list():
            assert self.store.exists(key)

    @rule(path=st.sampled_from(["g", "a", "g/b"]))
    def getsize_prefix(self, path: str) -> None:
        if metadata_key(path) not in self.model:
            return
        expected = sum(len(value) for key, value in self.model.items() if key.startswith(path + "/"))
        assert sync(self.store.store.getsize_prefix(path)) == expected

    @rule()
    def clear(self) -> None:
        if len(self.model) < 5:
            return
        self.store.clear()
        self.model.clear()
        assert list(self.store.list()) == []

    @precondition(lambda self: self.store.store.session.has_uncommitted_changes)
    @rule()
    def commit(self) -> None:
        self.store.store.session.commit("by hypothesis")
        self.saved = dict(self.model)
        self.store = SyncStoreWrapper(self.repo.writable_session("main").store)

    @rule()
    def abandon(self) -> None:
        self.store.store.session.discard_changes()
        self.model = dict(self.saved)


@pytest.mark.parametrize("machine", [Hierarchy, Keys])
def test_state_machine(machine: type) -> None:
    run_state_machine_as_test(machine, settings=RUNS)


@pytest.mark.slow
@pytest.mark.parametrize("machine", [Hierarchy, Keys])
def test_state_machine_at_length(machine: type) -> None:
    run_state_machine_as_test(machine, settings=MANY_RUNS)
