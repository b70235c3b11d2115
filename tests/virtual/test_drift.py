"""Sources that are not what the references were made from any more."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import icechunk
from icechunk.virtual import file_etag
from tests.servers.web_server import Page, WebServer
from tests.storage.fake_s3 import FakeS3, Stored
from tests.virtual.conftest import DATA
from tests.virtual.making import chunk, files, objects, opened, pages, repository

NEW = DATA[::-1]
Drifting = tuple[icechunk.Storage, dict[str, Any], Callable[[], None]]


@pytest.fixture(params=["files-etag", "files-time", "web-etag", "web-time", "s3-etag"])
def drifting(request: pytest.FixtureRequest, directory: Path, s3: FakeS3, web: WebServer) -> Drifting:
    """A repository with a chunk that has a checksum, what opens it, and what replaces its source."""
    kind, by = request.param.split("-")
    file = directory / "a.bin"
    os.utime(file, (1_700_000_000, 1_700_000_000))
    container = {"files": files(directory), "web": pages(web), "s3": objects(s3)}[kind]
    etag = {
        "files": file_etag(file.stat()),
        "web": web.pages["data/a.bin"].etag,
        "s3": s3.objects["data/a.bin"].etag.strip('"'),
    }[kind]
    checksum = etag if by == "etag" else datetime.fromtimestamp(1_700_000_000, UTC)

    def replace() -> None:
        file.write_bytes(NEW)
        web.pages["data/a.bin"] = Page(NEW, 1_700_000_001)
        s3.objects["data/a.bin"] = Stored(NEW, {})

    storage = repository([container], [f"{container.url_prefix}a.bin"], checksum=checksum)
    anonymous = icechunk.s3_credentials(anonymous=True) if kind == "s3" else None
    return storage, {container.url_prefix: anonymous}, replace


def test_by_default_they_are_refused(drifting: Drifting) -> None:
    storage, authorized, replace = drifting
    repo = opened(storage, authorized)
    assert chunk(repo) == DATA[8:16]
    replace()
    with pytest.raises(icechunk.StorageError, match="virtual_drift='warn'") as caught:
        chunk(repo)
    assert caught.value.kind == icechunk.ErrorKind.VIRTUAL_CHUNK_MODIFIED


def test_a_warning_instead_once_per_object(drifting: Drifting) -> None:
    storage, authorized, replace = drifting
    repo = opened(storage, authorized, virtual_drift="warn")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert chunk(repo) == DATA[8:16]
    replace()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert chunk(repo) == NEW[8:16]
        assert chunk(repo) == NEW[8:16]
    assert [one.category for one in caught] == [icechunk.SourceDriftWarning]
    assert "a.bin" in str(caught[0].message)


def test_or_nothing_at_all(drifting: Drifting) -> None:
    storage, authorized, replace = drifting
    replace()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert chunk(opened(storage, authorized, virtual_drift="ignore")) == NEW[8:16]


def test_reopening_changes_it(drifting: Drifting) -> None:
    storage, authorized, replace = drifting
    replace()
    repo = opened(storage, authorized)
    assert chunk(repo.reopen(virtual_drift="ignore")) == NEW[8:16]
    assert chunk(repo.reopen(virtual_drift="ignore").reopen()) == NEW[8:16]
    with pytest.raises(icechunk.StorageError):
        chunk(repo)


@pytest.mark.parametrize("drift", ["error", "warn", "ignore"])
def test_what_became_too_short_is_always_refused(directory: Path, drift: Any) -> None:
    container = files(directory)
    storage = repository([container], [f"{container.url_prefix}a.bin"])
    (directory / "a.bin").write_bytes(DATA[:10])
    with pytest.raises(icechunk.StorageError, match="not enough data") as caught:
        chunk(opened(storage, {container.url_prefix: None}, virtual_drift=drift))
    assert caught.value.kind == icechunk.ErrorKind.INVALID_OBJECT_SIZE


def test_weak_etags_and_quotes_do_not_matter() -> None:
    from icechunk.format.chunk_ref import Virtual
    from icechunk.virtual import has_drifted

    for stored in ("abc", '"abc"', 'W/"abc"'):
        ref = Virtual("s3://b/k", 0, 1, stored)
        assert not any(has_drifted(ref, found, 9e9) for found in ("abc", '"abc"', 'W/"abc"', None))
        assert has_drifted(ref, '"abcd"', 0)
    newer = Virtual("s3://b/k", 0, 1, None, 100)
    assert [has_drifted(newer, "x", at) for at in (None, 99.0, 100.0, 100.5)] == [False, False, False, True]
    assert not has_drifted(Virtual("s3://b/k", 0, 1), "x", 1e10)
