"""What a local storage leaves on the disk: which files, under which names, and which never."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk._driver import run
from icechunk.errors import InvalidInputError, StorageError
from icechunk.storage._names import decode_part, encode_part, encode_path
from icechunk.storage.base import ABSENT, ALWAYS, ByteRange, Unchanged
from icechunk.storage.local import LocalStorage
from icechunk.testing.storage_suite import listing, paths_in, read

LOCK = ".icechunk.lock"


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


def files_under(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


# the names that the Rust implementation gives to the branch `xCy`, for every C that it encodes
ENCODED = {
    **{chr(code): f"%{code:02X}" for code in (*range(1, 32), 127)},
    **{c: f"%{ord(c):02X}" for c in '"#%*<>?[\\]^`{|}~'},
    "\x80": "%C2%80",
    "\xa0": "%C2%A0",
    "é": "%C3%A9",
    "日": "%E6%97%A5",
    "\U0001f9ca": "%F0%9F%A7%8A",
}
KEPT = [chr(code) for code in range(32, 127) if chr(code) not in ENCODED and chr(code) != "/"]


@pytest.mark.parametrize(("character", "code"), ENCODED.items())
def test_what_is_encoded_in_names(character: str, code: str) -> None:
    assert encode_part(f"x{character}y", windows=False) == f"x{code}y"


@pytest.mark.parametrize("character", KEPT)
def test_what_is_kept_in_names(character: str) -> None:
    assert encode_part(f"x{character}y", windows=False) == f"x{character}y"


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("branch.a:b", "branch.a%3Ab"),
        ("tag.v1.", "tag.v1%2E"),
        ("tag.v1 ", "tag.v1%20"),
        ("nul", "%6Eul"),
        ("COM1.txt", "%43OM1.txt"),
        ("console", "console"),
        ("a.b", "a.b"),
    ],
)
def test_what_windows_cannot_name(part: str, name: str) -> None:
    assert encode_part(part, windows=True) == name
    assert decode_part(name, windows=True) == part


@given(
    part=st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1),
    windows=st.booleans(),
)
def test_names_come_back(part: str, windows: bool) -> None:
    if part in (".", ".."):
        return
    name = encode_part(part, windows=windows)
    assert decode_part(name, windows=windows) == part
    assert name.isascii()
    assert "/" not in name and "#" not in name
    if windows:
        assert not re.search(r'[<>:"\\|?*\x00-\x1f]|[. ]\Z', name)


@given(name=st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1))
def test_a_name_that_is_listed_can_be_read(name: str) -> None:
    part = decode_part(name, windows=False)
    if part not in (None, ".", ".."):
        assert encode_part(part or "", windows=False) == name


@given(st.text())
def test_no_path_leads_out(path: str) -> None:
    try:
        name = encode_path(path)
    except InvalidInputError:
        return
    assert os.path.normpath(name) == name
    assert not os.path.isabs(name)
    assert name.split("/")[0] != ".."


def test_objects_are_files_of_the_same_name(storage: LocalStorage, tmp_path: Path) -> None:
    run(storage.put("refs/branch.é/ref.json", b"{}"))
    run(storage.put("chunks/ABC", [b"12", b"34"]))
    assert files_under(tmp_path) == {"refs/branch.%C3%A9/ref.json", "chunks/ABC"}
    assert (tmp_path / "chunks/ABC").read_bytes() == b"1234"


def test_names_written_by_others_are_decoded(storage: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "refs/branch.%C3%A9").mkdir(parents=True)
    (tmp_path / "refs/branch.%C3%A9/ref.json").write_bytes(b"{}")
    assert run(paths_in(storage)) == ["refs/branch.é/ref.json"]
    assert run(read(storage, "refs/branch.é/ref.json")) == b"{}"


def test_files_that_are_no_objects_are_not_listed_but_count(storage: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "a%zz").write_bytes(b"")
    (tmp_path / "b~").write_bytes(b"")
    assert run(paths_in(storage)) == []
    assert not run(storage.is_empty())


def test_the_lock_is_made_by_conditional_writes_only(storage: LocalStorage, tmp_path: Path) -> None:
    run(storage.put("a", b""))
    run(read(storage, "a"))
    run(paths_in(storage))
    run(storage.delete(["a"]))
    assert LOCK not in files_under(tmp_path)
    run(storage.put("refs/b", b"", only_if=ABSENT))
    assert files_under(tmp_path) == {LOCK, "refs/b"}


def test_the_lock_is_no_object(storage: LocalStorage) -> None:
    run(storage.put("refs/b", b"", only_if=ABSENT))
    assert run(paths_in(storage)) == ["refs/b"]
    for path in (LOCK, LOCK.upper()):
        with pytest.raises(InvalidInputError):
            run(storage.get(path))
        with pytest.raises(InvalidInputError):
            run(storage.delete([path]))
    run(storage.put(f"refs/{LOCK}", b"not at the root"))
    assert run(paths_in(storage, "refs/")) == [f"refs/{LOCK}", "refs/b"]


def test_empty_means_without_objects(storage: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "refs" / "branch.main").mkdir(parents=True)
    (tmp_path / LOCK).touch()
    (tmp_path / "refs" / "new#123").touch()
    assert run(storage.is_empty())
    (tmp_path / "refs" / "branch.main" / "ref.json").touch()
    assert not run(storage.is_empty())


def test_a_root_that_does_not_exist_is_empty_and_stays_away(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "nowhere")
    assert run(storage.is_empty())
    assert run(paths_in(storage)) == []
    assert run(storage.delete(["a"])).failed == []
    assert not (tmp_path / "nowhere").exists()


def test_temporary_files_are_invisible(storage: LocalStorage, tmp_path: Path) -> None:
    run(storage.put("chunks/A", b"x"))
    (tmp_path / "chunks" / "new#17").write_bytes(b"half of someth")
    (tmp_path / "chunks" / "B#1").write_bytes(b"by another implementation")
    assert run(paths_in(storage)) == ["chunks/A"]


def test_a_bulk_delete_sweeps_old_temporary_files(storage: LocalStorage, tmp_path: Path) -> None:
    run(storage.put("chunks/A", b"x"))
    young, old = tmp_path / "chunks" / "new#1", tmp_path / "chunks" / "new#2"
    for path in (young, old):
        path.touch()
    os.utime(old, (0, 0))
    run(paths_in(storage))
    assert old.exists(), "a list changes nothing"
    run(storage.delete(["chunks/A"]))
    assert files_under(tmp_path) == {"chunks/new#1"}


def test_a_failed_write_leaves_nothing(storage: LocalStorage, tmp_path: Path) -> None:
    run(storage.put("a", b"x"))
    for condition in (ALWAYS, ABSENT):
        with pytest.raises(StorageError):
            run(storage.put("a/b", b"under a file", only_if=condition))
    (tmp_path / "directory" / "full").mkdir(parents=True)
    with pytest.raises(StorageError):
        run(storage.put("directory", b"over a directory"))
    assert files_under(tmp_path) == {"a"}


def test_links_that_lead_round_in_circles(storage: LocalStorage, tmp_path: Path) -> None:
    run(storage.put("chunks/A", b"x"))
    (tmp_path / "chunks" / "self").symlink_to(tmp_path / "chunks")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert "chunks/A" in run(paths_in(storage))


def test_chunks_on_another_disk(
    storage: LocalStorage, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (tmp_path / "chunks").symlink_to(elsewhere)
    run(storage.put("chunks/A", b"x"))
    run(storage.put("ref", b"", only_if=ABSENT))
    assert (elsewhere / "A").exists()
    assert run(paths_in(storage)) == ["chunks/A", "ref"]


def test_relative_roots_are_resolved_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = LocalStorage("here")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    run(storage.put("a", b"x"))
    assert (tmp_path / "here" / "a").exists()
    assert storage.describe()["path"] == str((tmp_path / "here").resolve())


def test_files_get_ordinary_permissions(storage: LocalStorage, tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        run(storage.put("a/b", b"x"))
        run(storage.put("ref", b"x", only_if=ABSENT))
    finally:
        os.umask(mask)
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "ref").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o750


def test_the_version_is_the_content(storage: LocalStorage, tmp_path: Path) -> None:
    version = run(storage.put("a", b"one"))
    assert run(storage.put("b", b"one")) == version
    os.utime(tmp_path / "a", (0, 0))
    run(storage.put("a", b"two", only_if=Unchanged(version)))
    (tmp_path / "b").write_bytes(b"changed by hand")
    assert run(storage.get("b"))[1] != version


def test_a_range_of_a_file_larger_than_memory(storage: LocalStorage, tmp_path: Path) -> None:
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(1 << 40)
    assert run(read(storage, "huge", ByteRange(-4))) == bytes(4)
    assert run(read(storage, "huge", ByteRange((1 << 40) - 3))) == bytes(3)
    assert [info.size for info in run(listing(storage))] == [1 << 40]
