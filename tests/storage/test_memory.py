"""What is particular to storages in memory: identity, pickling, views."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from icechunk._driver import run
from icechunk.errors import ErrorKind, StorageError
from icechunk.storage.base import ByteRange
from icechunk.storage.memory import MemoryStorage
from icechunk.testing.storage_suite import paths_in, read


def test_each_storage_is_a_store_of_its_own() -> None:
    one, other = MemoryStorage(), MemoryStorage()
    run(one.put("a", b"x"))
    assert run(other.is_empty())


def test_pickling_gives_the_same_storage() -> None:
    storage = MemoryStorage()
    assert pickle.loads(pickle.dumps(storage)) is storage


def test_a_storage_that_is_gone_cannot_be_unpickled() -> None:
    pickled = pickle.dumps(MemoryStorage())
    with pytest.raises(StorageError, match="does not exist any more"):
        pickle.loads(pickled)


def test_another_process_is_told_that_it_cannot_have_it(tmp_path: Path) -> None:
    storage = MemoryStorage()
    (tmp_path / "pickled").write_bytes(pickle.dumps(storage))
    script = (
        "import pickle, sys\n"
        "from icechunk.errors import StorageError\n"
        "try:\n    pickle.loads(open(sys.argv[1], 'rb').read())\n"
        "except StorageError as error:\n    print(error.kind, error)\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "pickled")], capture_output=True, text=True, check=True
    ).stdout
    assert output.startswith(f"{ErrorKind.PICKLE} an in-memory storage lives in one process")


def test_a_copy_goes_its_own_way() -> None:
    storage = MemoryStorage()
    version = run(storage.put("a", b"x"))
    twin = storage.copy()
    assert run(twin.get("a"))[1] == version
    run(twin.put("b", b"y"))
    run(storage.put("c", b"z"))
    assert (run(paths_in(storage)), run(paths_in(twin))) == (["a", "c"], ["a", "b"])


def test_reads_copy_nothing_big() -> None:
    storage = MemoryStorage()
    data = bytes(1 << 20)
    run(storage.put("a", data))
    assert run(storage.get("a"))[0] is data
    part, _ = run(storage.get("a", byte_range=ByteRange(0, 1 << 19)))
    assert isinstance(part, memoryview) and part.obj is data


def test_the_clock_can_be_chosen() -> None:
    now = 1_700_000_000.0
    storage = MemoryStorage(clock=lambda: now)
    run(storage.put("a", b""))
    now += 3600
    run(storage.put("b", b""))
    modified = [run(storage.modified_at(path)) for path in ("a", "b")]
    assert modified[0] is not None and modified[1] is not None
    assert (modified[1] - modified[0]).total_seconds() == 3600


def test_attributes_are_kept() -> None:
    storage = MemoryStorage()
    run(storage.put("a", b"{}", content_type="application/json", metadata={"ic_spec_ver": "1"}))
    assert storage.attributes("a") == ("application/json", {"ic_spec_ver": "1"})
    run(storage.put("a", b"{}"))
    assert storage.attributes("a") == (None, {})
    assert run(read(storage, "a")) == b"{}"
