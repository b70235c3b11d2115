"""In which order a local storage brings things to disk, as seen by the calls it makes to the system."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest

from icechunk._driver import run
from icechunk.errors import StorageError
from icechunk.storage import _durability
from icechunk.storage.base import ABSENT, Unchanged
from icechunk.storage.local import LocalStorage
from icechunk.testing.storage_suite import read

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="reads descriptors from /proc")


class Disk:
    """Notes what is flushed and published, by the system calls that do it; `fail` makes flushing fail."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.events: list[str] = []
        self.fail = False
        fsync, replace, link = os.fsync, os.replace, os.link

        def noted_fsync(descriptor: int) -> None:
            if self.fail:
                raise OSError(errno.EIO, "the disk is broken")
            fsync(descriptor)
            self.events.append(f"flush {self.name(os.readlink(f'/proc/self/fd/{descriptor}'))}")

        def noted_replace(source: str, target: str) -> None:
            replace(source, target)
            self.events.append(f"publish {self.name(target)}")

        def noted_link(source: str, target: str) -> None:
            link(source, target)
            self.events.append(f"publish {self.name(target)}")

        monkeypatch.setattr(_durability, "_fsync", noted_fsync)
        monkeypatch.setattr(os, "replace", noted_replace)
        monkeypatch.setattr(os, "link", noted_link)

    def name(self, path: str) -> str:
        name = os.path.relpath(path, self.root)
        return "aside" if "#" in name else name

    def take(self) -> list[str]:
        events, self.events = self.events, []
        return events


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    monkeypatch.setattr(_durability, "_syncfs", None)  # as on macOS: one by one, which can be watched
    return Disk(tmp_path, monkeypatch)


def test_unconditional_writes_flush_nothing(disk: Disk, tmp_path: Path) -> None:
    run(LocalStorage(tmp_path).put("chunks/A", b"x"))
    assert disk.take() == ["publish chunks/A"]


def test_a_conditional_write_flushes_all_that_was_written_before_it(disk: Disk, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    run(storage.put("chunks/A", b"x"))
    run(LocalStorage(tmp_path).put("snapshots/B", b"x"))  # by another storage of this process
    disk.take()
    run(storage.put("refs/main/ref", b"B", only_if=ABSENT))
    events = disk.take()
    published = events.index("publish refs/main/ref")
    assert set(events[:published]) == {
        *("flush chunks/A", "flush snapshots/B", "flush aside"),
        *("flush chunks", "flush snapshots", "flush refs", "flush ."),  # the names in directories, new ones included
    }
    assert events[published + 1 :] == ["flush refs/main"]


def test_large_files_are_set_going_and_flushed_nevertheless(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(
        _durability, "_sync_file_range", lambda descriptor, *_: begun.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    )
    storage = LocalStorage(tmp_path)
    run(storage.put("chunks/small", b"x"))
    run(storage.put("chunks/large", bytes(1 << 20)))
    assert [disk.name(file) for file in begun] == ["aside"]
    run(LocalStorage(tmp_path / "other", fsync=False).put("chunks/large", bytes(1 << 20)))
    assert len(begun) == 1
    disk.take()
    run(storage.put("ref", b"1", only_if=ABSENT))
    events = disk.take()
    assert events.index("flush chunks/large") < events.index("publish ref")


def test_what_is_on_disk_is_not_flushed_again(disk: Disk, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    run(storage.put("chunks/A", b"x"))
    version = run(storage.put("ref", b"1", only_if=ABSENT))
    disk.take()
    run(storage.put("ref", b"2", only_if=Unchanged(version)))
    assert disk.take() == ["flush aside", "publish ref", "flush ."]


def test_a_pickled_storage_leaves_nothing_unflushed(disk: Disk, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    run(storage.put("chunks/A", b"x"))
    disk.take()
    pickle.dumps(storage)
    assert set(disk.take()) == {"flush chunks/A", "flush chunks", "flush ."}


def test_nothing_is_published_when_the_disk_fails(disk: Disk, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    version = run(storage.put("ref", b"1", only_if=ABSENT))
    run(storage.put("chunks/A", b"x"))
    disk.fail = True
    with pytest.raises(StorageError, match="the disk is broken"):
        run(storage.put("ref", b"2", only_if=Unchanged(version)))
    assert run(read(storage, "ref")) == b"1"
    assert not [path for path in tmp_path.rglob("*") if "#" in path.name]
    disk.fail = False
    disk.take()
    run(storage.put("ref", b"2", only_if=Unchanged(version)))
    assert "flush chunks/A" in disk.take()


def test_a_deleted_file_need_not_be_flushed(disk: Disk, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    run(storage.put("chunks/A", b"x"))
    run(storage.delete(["chunks/A"]))
    run(storage.put("ref", b"1", only_if=ABSENT))
    assert run(read(storage, "ref")) == b"1"


def test_a_decision_to_delete_lasts(disk: Disk, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    run(storage.put("refs/branch.a/ref.json", b"x", only_if=ABSENT))
    disk.take()
    run(storage.delete(["refs/branch.a/ref.json"]))
    assert disk.take() == ["flush refs/branch.a"]


def test_without_fsync_nothing_is_flushed(disk: Disk, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path, fsync=False)
    run(storage.put("chunks/A", b"x"))
    run(storage.put("ref", b"1", only_if=ABSENT))
    run(storage.delete(["chunks/A"]))
    assert disk.take() == ["publish chunks/A", "publish ref"]


@pytest.mark.parametrize("count", [3, 300, 12_000])
def test_many_files(tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if _durability._syncfs is None:
        pytest.skip("no syncfs here")
    flushed: list[int] = []
    real = _durability._syncfs

    def noted(descriptor: int) -> int:
        flushed.append(descriptor)
        return real(descriptor)

    monkeypatch.setattr(_durability, "_syncfs", noted)
    monkeypatch.setattr(_durability, "_LITTLE", 1 << 60)
    unflushed = _durability.Unflushed()
    for index in range(count):
        unflushed.add(f"{tmp_path}/{index}", str(tmp_path))
    unflushed.flush()
    assert len(flushed) == 1
    unflushed.flush()
    assert len(flushed) == 1, "nothing is left"


def test_a_failing_file_system_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_durability, "_syncfs", lambda descriptor: -1)
    monkeypatch.setattr(_durability, "_LITTLE", 1 << 60)
    monkeypatch.setattr("ctypes.get_errno", lambda: errno.EIO)
    storage = LocalStorage(tmp_path)
    run(storage.put("chunks/A", b"x"))
    with pytest.raises(StorageError):
        run(storage.put("ref", b"1", only_if=ABSENT))
    assert not (tmp_path / "ref").exists()
