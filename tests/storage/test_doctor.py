"""What a storage can do is found out by trying, and said with the settings that follow."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import icechunk
from icechunk._driver import run
from icechunk.storage.base import Buffer, ByteRange, Condition, Storage, Version
from icechunk.storage.memory import MemoryStorage
from icechunk.storage.wrappers import ReadOnlyStorage, StorageWrapper, UnconditionalStorage
from tests.storage.fake_s3 import FakeS3, serving

QUICK = icechunk.StorageSettings(retries=icechunk.StorageRetriesSettings(max_tries=1))


def examined(storage: Storage, blocking: bool = True) -> icechunk.storage.StorageReport:
    return storage.doctor() if blocking else asyncio.run(storage.doctor_async())


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("kind", ["memory", "files"])
def test_all_is_well(kind: str, blocking: bool, tmp_path: Path) -> None:
    storage = icechunk.in_memory_storage() if kind == "memory" else icechunk.local_filesystem_storage(tmp_path)
    run(storage.put("already/there", b"x"))
    report = examined(storage, blocking)
    assert report.ok, report
    assert report.safe_for_concurrent_commits
    assert report.settings == icechunk.StorageSettings()
    assert report.advice == ()
    assert "safe for concurrent commits: True" in str(report)
    assert "compare and swap" in report._repr_html_()
    assert [info.key for info in storage.list_objects_metadata()] == ["already/there"], "nothing is left behind"


@pytest.fixture
def s3() -> Iterator[FakeS3]:
    with serving() as server:
        server.clock = time.time()
        yield server


def storage_of(server: FakeS3) -> icechunk.Storage:
    return icechunk.s3_storage(
        bucket="b",
        prefix="p",
        region="r",
        endpoint_url=server.url,
        allow_http=True,
        force_path_style=True,
        access_key_id="test",
        secret_access_key="hidden-secret",
    ).with_settings(QUICK)


def test_an_object_store(s3: FakeS3) -> None:
    report = examined(storage_of(s3))
    assert report.ok, report
    assert s3.objects == {}
    assert "hidden-secret" not in str(report) + repr(report) + report._repr_html_()
    assert s3.url in str(report)


@pytest.mark.parametrize(
    ("conditions", "create", "update"),
    [("ignored", False, False), ("refused", False, False), ("of creation", None, False)],
)
def test_stores_without_conditions(s3: FakeS3, conditions: str, create: Any, update: Any) -> None:
    s3.conditions = conditions
    report = examined(storage_of(s3))
    assert not report.ok and not report.safe_for_concurrent_commits
    settings = report.settings
    assert (settings.unsafe_use_conditional_create, settings.unsafe_use_conditional_update) == (create, update)
    assert "unsafe_use_conditional_update=False" in report.advice[0]
    assert ("unsafe_use_conditional_create=False" in report.advice[0]) is (create is False)


def test_clocks_that_differ(s3: FakeS3) -> None:
    s3.clock = None  # in 2023
    report = examined(storage_of(s3))
    assert report["clock"].outcome == "fails"
    assert "behind the clock of this machine" in report["clock"].detail
    assert any("set the clock" in line for line in report.advice)
    assert report.safe_for_concurrent_commits


def test_what_can_only_be_read() -> None:
    inner = MemoryStorage()
    for there in ("nothing is there", "something is there"):
        report = examined(ReadOnlyStorage(inner))
        assert report["write and read"].outcome == "fails"
        assert [(finding.name, finding.outcome) for finding in report.findings[1:]] == [
            ("read", "works"),
            ("listing", "works"),
        ]
        assert report["listing"].detail == there
        assert not report.safe_for_concurrent_commits
        assert report.settings == icechunk.StorageSettings(), "what was not tried is not advised against"
        assert "reading is all" in report.advice[0]
        assert "verdict: it can be read from, but not written to" in str(report)
        run(inner.put("a", b"x"))


def test_what_cannot_be_used_at_all() -> None:
    with serving() as server:
        storage = storage_of(server)
    report = examined(storage)  # nobody answers there any more
    assert [(finding.name, finding.outcome) for finding in report.findings] == [
        ("write and read", "fails"),
        ("read", "fails"),
        ("listing", "fails"),
    ]
    assert report.verdict == "it cannot be used: nothing can be written or read here"
    assert report.advice == ("check the address, the bucket or container, and the credentials: nothing at all works",)


def test_nothing_is_left_behind_where_writing_went_wrong() -> None:
    class Stale(StorageWrapper):
        async def get(self, path: str, *, byte_range: ByteRange | None = None) -> tuple[Buffer, Version]:
            _, version = await self._inner.get(path)
            return b"old", version

    inner = MemoryStorage()
    report = examined(Stale(inner))
    assert "reads are stale" in report["write and read"].detail
    assert inner._objects == {}


def test_failures_are_told_on_one_line_and_advice_once(s3: FakeS3) -> None:
    s3.conditions = "refused"
    report = examined(storage_of(s3))
    assert report.verdict == "safe for one writer at a time only"
    for name in ("create if absent", "compare and swap"):
        assert report[name].detail == "this store does not know conditional writes, by which commits are kept apart"
    assert str(report).count("unsafe_use_conditional_update=False") == 1


class Forgetful(StorageWrapper):
    """Lists nothing, ignores ranges, does not delete, says nothing of times."""

    async def get(self, path: str, *, byte_range: ByteRange | None = None) -> tuple[Buffer, Version]:
        return await self._inner.get(path)

    async def list(self, prefix: str = "") -> Any:
        for batch in ():
            yield batch

    async def delete(self, paths: Any) -> Any:
        from icechunk.storage.base import DeleteResult

        return DeleteResult(0, [(path, "forbidden") for path in paths])

    async def modified_at(self, path: str) -> None:
        return None


def test_many_things_at_once() -> None:
    report = examined(Forgetful(MemoryStorage()))
    outcomes = {finding.name: finding.outcome for finding in report.findings}
    assert outcomes == {
        "write and read": "works",
        "create if absent": "works",
        "compare and swap": "works",
        "ranges": "fails",
        "listing": "fails",
        "clock": "unknown",
        "delete": "fails",
    }


def test_races_are_lost_where_conditions_are_not_atomic() -> None:
    """A store that looks, and then writes, passes every test but those of contention."""

    class Slow(StorageWrapper):
        async def put(self, path: str, data: Any, *, only_if: Condition | None = None, **more: Any) -> Version:
            from icechunk.errors import ObjectNotFoundError, PreconditionFailedError
            from icechunk.storage.base import ABSENT, Unchanged

            try:
                found = (await self._inner.get(path))[1]
            except ObjectNotFoundError:
                found = None
            if only_if == ABSENT and found is not None:
                raise PreconditionFailedError("there")
            if isinstance(only_if, Unchanged) and only_if.since != found:
                raise PreconditionFailedError("changed")
            await asyncio.sleep(0)
            return await self._inner.put(path, data)

    report = examined(Slow(MemoryStorage()), blocking=False)
    assert report["create if absent"].outcome == "fails"
    assert "at once" in report["create if absent"].detail
    assert report["compare and swap"].outcome == "fails"


# ------------------------------------------------------------------------------------------------- when one is created


def test_creating_a_repository_says_which_settings_are_missing(s3: FakeS3) -> None:
    s3.conditions = "refused"
    storage = storage_of(s3)
    with pytest.raises(icechunk.StorageError, match="unsafe_use_conditional_create=False") as caught:
        icechunk.Repository.create(storage, icechunk.RepositoryConfig(storage=QUICK))
    assert caught.value.kind == icechunk.ErrorKind.UNIMPLEMENTED
    assert "storage.doctor()" in caught.value.message
    report = storage.doctor()
    config = icechunk.RepositoryConfig(storage=report.settings)
    repo = icechunk.Repository.create(storage, config)
    with repo.transaction("main", message="one writer is fine") as store:
        import zarr

        zarr.create_group(store, path="g")
    assert next(iter(repo.ancestry(branch="main"))).message == "one writer is fine"


@pytest.mark.parametrize("conditions", ["ignored", "of creation"])
def test_creating_a_repository_where_conditions_are_ignored_warns(s3: FakeS3, conditions: str) -> None:
    s3.conditions = conditions
    with pytest.warns(icechunk.UnsafeStorageWarning, match="unsafe_use_conditional") as caught:
        icechunk.Repository.create(storage_of(s3))
    assert [one.filename for one in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        icechunk.Repository.open(storage_of(s3))


def test_where_they_are_honoured_or_switched_off_nothing_is_said(s3: FakeS3) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        icechunk.Repository.create(storage_of(s3))
        s3.objects.clear()
        s3.conditions = "ignored"
        off = icechunk.StorageSettings(unsafe_use_conditional_create=False, unsafe_use_conditional_update=False)
        icechunk.Repository.create(storage_of(s3), icechunk.RepositoryConfig(storage=off))
        icechunk.Repository.create(UnconditionalStorage(MemoryStorage()))
