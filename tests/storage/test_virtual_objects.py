"""Ranges of objects that are not ours, by their URLs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("obstore")

from icechunk._driver import run
from icechunk.config import S3Options, StorageRetriesSettings, StorageSettings
from icechunk.config.virtual import ObjectStoreConfig, VirtualChunkContainer
from icechunk.credentials import Credentials, GcsCredentials, s3_anonymous_credentials
from icechunk.errors import ErrorKind, IcechunkError, InvalidInputError, StorageError
from icechunk.storage.virtual_objects import VirtualObjects, virtual_reader
from tests.storage.fake_s3 import FakeS3, Stored, serving

QUICK = StorageSettings(retries=StorageRetriesSettings(max_tries=1))
MODIFIED = 1_700_000_000  # what the server says of everything


@pytest.fixture
def server() -> Iterator[FakeS3]:
    with serving() as state:
        state.objects["data/a b.nc"] = Stored(b"0123456789", {})
        yield state


@pytest.fixture
def reader(server: FakeS3) -> VirtualObjects:
    options = S3Options(region="r", endpoint_url=server.url, allow_http=True, force_path_style=True)
    container = VirtualChunkContainer("s3://bucket/", ObjectStoreConfig.S3Compatible(options))
    return virtual_reader(container, Credentials.S3(s3_anonymous_credentials()), QUICK)


def fetch(reader: VirtualObjects, url: str, start: int = 2, stop: int = 5) -> bytes:
    return bytes(run(reader.fetch(url, start, stop))[0])


@pytest.mark.parametrize(
    "url", ["s3://bucket/data/a%20b.nc", "s3://bucket/data/a b.nc", "s3://user@bucket:9/data/a%20b.nc?x=1#y"]
)
def test_urls(reader: VirtualObjects, url: str) -> None:
    assert fetch(reader, url) == b"234"


def test_an_object_that_ends_too_early(reader: VirtualObjects) -> None:
    assert fetch(reader, "s3://bucket/data/a%20b.nc", 8, 20) == b"89"
    assert fetch(reader, "s3://bucket/data/a%20b.nc", 10, 20) == b""


def test_it_says_which_object_the_bytes_are_of(reader: VirtualObjects, server: FakeS3) -> None:
    data, etag, modified = run(reader.fetch("s3://bucket/data/a%20b.nc", 2, 5))
    assert (bytes(data), etag, modified) == (b"234", server.objects["data/a b.nc"].etag, MODIFIED)
    assert server.verbs() == ["GET"]


def test_missing_objects_and_failures(reader: VirtualObjects, server: FakeS3) -> None:
    with pytest.raises(FileNotFoundError):
        fetch(reader, "s3://bucket/data/missing")
    server.faults = [("GET", 403)]
    with pytest.raises(StorageError, match="check the credentials") as caught:
        fetch(reader, "s3://bucket/data/a%20b.nc")
    assert caught.value.kind == ErrorKind.VIRTUAL_CHUNK_FETCH


@pytest.mark.parametrize("url", ["s3://bucket//data/x", "s3://bucket/data/../x", "s3://bucket/data//x", "s3://bucket/"])
def test_keys_that_cannot_be_named(reader: VirtualObjects, url: str) -> None:
    with pytest.raises(InvalidInputError, match="cannot address key") as caught:
        fetch(reader, url)
    assert caught.value.kind == ErrorKind.INVALID_VIRTUAL_REF


def test_web_servers(server: FakeS3) -> None:
    container = VirtualChunkContainer(f"{server.url}/bucket/", ObjectStoreConfig.Http(None, {"x-who": "me"}))
    reader = virtual_reader(container, None, QUICK)
    assert fetch(reader, f"{server.url}/bucket/data/a%20b.nc") == b"234"
    assert server.asked[-1].headers["x-who"] == "me"


@pytest.mark.parametrize(
    ("store", "credentials", "kind"),
    [
        (ObjectStoreConfig.S3(S3Options()), Credentials.Gcs(GcsCredentials.Anonymous()), ErrorKind.INVALID_CREDENTIALS),
        (ObjectStoreConfig.InMemory(), None, ErrorKind.INVALID_VIRTUAL_REF),
        (ObjectStoreConfig.Azure({}), None, ErrorKind.STORAGE_CONFIG),
    ],
)
def test_what_cannot_be_read(store: Any, credentials: Any, kind: ErrorKind) -> None:
    with pytest.raises(IcechunkError) as caught:
        virtual_reader(VirtualChunkContainer("x://b/", store), credentials, None)
    assert caught.value.kind == kind


def test_other_stores() -> None:
    for url, store in (
        ("gs://bucket/", ObjectStoreConfig.Gcs({"google_skip_signature": "true"})),
        ("az://container/", ObjectStoreConfig.Azure({"account": "a"})),
        ("tigris://bucket/", ObjectStoreConfig.Tigris(S3Options(region="iad"))),
    ):
        store_of = virtual_reader(VirtualChunkContainer(url, store), None, None)._store(url.split("/")[2])
        facts = store_of.describe()
        assert facts.get("bucket", facts.get("container")) in ("bucket", "container")
        assert store_of.read_only
