"""The local storage on Windows, as far as that can be told elsewhere: all of its tests, on a system with the ways of Windows."""

from __future__ import annotations

import ntpath
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import icechunk
from icechunk._driver import run
from icechunk.errors import ObjectNotFoundError, PreconditionFailedError
from icechunk.storage._names import decode_part, encode_part, long_name
from icechunk.storage.base import ABSENT, Storage, Unchanged
from icechunk.testing.storage_suite import StorageSuite

if sys.platform == "win32":
    pytest.skip("there the other tests tell", allow_module_level=True)

from tests.storage.windows import WindowsOs, windows


@pytest.fixture(scope="module")
def there() -> Iterator[tuple[Any, WindowsOs]]:
    with windows() as found:
        yield found


class TestOnWindows(StorageSuite):
    picklable = False  # its class is a copy, under a name that is taken

    @pytest.fixture
    def storage(self, there: tuple[Any, WindowsOs], tmp_path: Path) -> Storage:
        storage: Storage = there[0].LocalStorage(tmp_path / "root")
        return storage


@pytest.fixture
def storage(there: tuple[Any, WindowsOs], tmp_path: Path) -> Storage:
    storage: Storage = there[0].LocalStorage(tmp_path / "root")
    return storage


def test_the_copies_are_those_of_windows(there: tuple[Any, WindowsOs]) -> None:
    local, _ = there
    assert local.encode_path("refs/branch.a:b/nul") == "refs/branch.a%3Ab/%6Eul"
    assert icechunk.storage.local.encode_path("a:b") == "a:b"


def test_a_file_that_somebody_reads_is_replaced_and_removed_when_he_is_done(
    storage: Storage, there: tuple[Any, WindowsOs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, system = there
    version = run(storage.put("ref", b"one", only_if=ABSENT))
    waits: list[float] = []
    held: list[int] = []

    def let_go(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            system.close(held.pop())

    monkeypatch.setattr("time.sleep", let_go)
    for action in (
        lambda: storage.put("ref", b"two", only_if=Unchanged(version)),
        lambda: storage.put("ref", b"three"),
        lambda: storage.delete(["ref"]),
    ):
        waits.clear()
        held.append(system.open(str(tmp_path / "root" / "ref"), os.O_RDONLY))
        run(action())
        assert len(waits) == 3 and waits == sorted(waits)
    assert not run(storage.exists("ref"))


def test_who_reads_for_ever_is_an_error_and_leaves_nothing(
    storage: Storage, there: tuple[Any, WindowsOs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(storage.put("a", b"one"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    descriptor = there[1].open(str(tmp_path / "root" / "a"), os.O_RDONLY)
    try:
        with pytest.raises(icechunk.StorageError, match="cannot write `a`"):
            run(storage.put("a", b"two"))
        result = run(storage.delete(["a"]))
        assert [path for path, _ in result.failed] == ["a"]
    finally:
        there[1].close(descriptor)
    assert bytes(run(storage.get("a"))[0]) == b"one"
    assert sorted(os.listdir(tmp_path / "root")) == ["a"]


def test_a_directory_is_no_object(storage: Storage) -> None:
    run(storage.put("refs/branch.main/ref.json", b"x"))
    with pytest.raises(ObjectNotFoundError):
        run(storage.get("refs"))
    with pytest.raises(icechunk.StorageError, match="cannot be both"):
        run(storage.put("refs", b"x"))


def test_of_many_who_create_one_wins(storage: Storage) -> None:
    won: list[int] = []

    def create(number: int) -> None:
        try:
            run(storage.put("refs/x", b"%d" % number, only_if=ABSENT))
            won.append(number)
        except PreconditionFailedError:
            pass

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert bytes(run(storage.get("refs/x"))[0]) == b"%d" % won[0]


@pytest.mark.parametrize("spec", [1, 2])
def test_a_repository(there: tuple[Any, WindowsOs], tmp_path: Path, spec: int) -> None:
    import zarr

    storage = there[0].LocalStorage(tmp_path / "root")
    repo = icechunk.Repository.create(storage, spec_version=spec)
    with repo.transaction("main", message="some data") as store:
        zarr.create_array(store, name="a", shape=(4,), chunks=(1,), dtype="i4")[:] = 7
    repo.create_branch("nul.d:x", repo.lookup_branch("main"))
    repo.create_tag("v1. ", repo.lookup_branch("main"))
    again = icechunk.Repository.open(there[0].LocalStorage(tmp_path / "root"))
    assert again.list_branches() == {"main", "nul.d:x"} and again.list_tags() == {"v1. "}
    assert zarr.open_array(again.readonly_session(tag="v1. ").store, path="a")[:].tolist() == [7] * 4
    again.delete_branch("nul.d:x")
    assert again.list_branches() == {"main"}


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("con", "%63on"),
        ("NUL.txt", "%4EUL.txt"),
        ("aux .c", "%61ux .c"),
        ("CONIN$", "%43ONIN$"),
        ("conout$.x", "%63onout$.x"),
        ("console", "console"),
        ("com10", "com10"),
        ("a:b", "a%3Ab"),
        ("v1.", "v1%2E"),
    ],
)
def test_names(part: str, name: str) -> None:
    assert encode_part(part, windows=True) == name
    assert decode_part(name, windows=True) == part


def test_long_names() -> None:
    deep = "\\".join(["directory"] * 20)
    assert long_name(rf"C:\{deep}", windows=True) == rf"\\?\C:\{deep}"
    assert long_name(rf"\\server\share\{deep}", windows=True) == rf"\\?\UNC\server\share\{deep}"
    assert long_name(rf"\\?\C:\{deep}", windows=True) == rf"\\?\C:\{deep}"
    assert long_name(r"C:\data\air", windows=True) == r"C:\data\air"
    assert long_name("/data/" + "x" * 300, windows=False) == "/data/" + "x" * 300
    assert ntpath.isabs(long_name(rf"C:\{deep}", windows=True))


def test_a_drive_that_is_not_there_is_an_error(
    storage: Storage, there: tuple[Any, WindowsOs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going up from it ends nowhere, as `Z:\\` is its own parent."""

    def refuse(path: str, exist_ok: bool) -> None:
        raise FileNotFoundError(2, "The system cannot find the path specified", path)

    monkeypatch.setattr(os.path, "isdir", lambda path: False)
    monkeypatch.setattr(there[1], "makedirs", refuse, raising=False)
    with pytest.raises(icechunk.StorageError, match="cannot find the path"):
        run(storage.put("a", b"x"))
