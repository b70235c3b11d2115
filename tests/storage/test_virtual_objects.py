"""Ranges of objects that are not ours, by their URLs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("obstore")

from icechunk._driver import run
from icechunk.config import S3Options, StorageRetriesSettings, StorageSettings
from icechunk.config.virtual import ObjectStoreConfig, VirtualChunkContainer
from icechunk.credentials import Credentials, GcsCredentials, s3_anonymous_credentials
from icechunk.errors import ErrorKind, IcechunkError, InvalidInputError, StorageError
from icechunk.format.chunk_ref import Virtual
from icechunk.storage.virtual_objects import VirtualObjects, virtual_reader
from icechunk.virtual import VirtualChunks
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


def test_ranges_side_by_side_are_one_request(reader: VirtualObjects, server: FakeS3) -> None:
    async def ask() -> list[bytes]:
        found = await asyncio.gather(*(reader.fetch("s3://bucket/data/a%20b.nc", at, at + 2) for at in range(0, 10, 2)))
        assert {etag for _, etag, _ in found} == {server.objects["data/a b.nc"].etag}
        return [bytes(data) for data, _, _ in found]

    assert asyncio.run(ask()) == [b"01", b"23", b"45", b"67", b"89"]
    assert server.verbs() == ["GET"]


def test_where_there_is_no_object_each_is_told(reader: VirtualObjects) -> None:
    async def ask() -> list[object]:
        ranges = (reader.fetch("s3://bucket/none", at, at + 2, facts=False) for at in range(0, 10, 2))
        return await asyncio.gather(*ranges, return_exceptions=True)

    assert [type(found) for found in asyncio.run(ask())] == [FileNotFoundError] * 5


def test_without_facts_only_the_bytes_are_waited_for(reader: VirtualObjects, server: FakeS3) -> None:
    assert run(reader.fetch("s3://bucket/data/a%20b.nc", 2, 5, facts=False)) == (b"234", None, None)
    assert bytes(run(reader.fetch("s3://bucket/data/a%20b.nc", 8, 20, facts=False))[0]) == b"89"
    assert server.verbs() == ["GET", "GET"]


def test_each_reference_is_held_to_what_it_says_of_the_object(server: FakeS3) -> None:
    options = S3Options(region="r", endpoint_url=server.url, allow_http=True, force_path_style=True)
    container = VirtualChunkContainer("s3://bucket/", ObjectStoreConfig.S3Compatible(options))
    anonymous = Credentials.S3(s3_anonymous_credentials())
    chunks = VirtualChunks({container.url_prefix: container}, {container.url_prefix: anonymous}, settings=QUICK)
    etag = server.objects["data/a b.nc"].etag
    url = "s3://bucket/data/a%20b.nc"
    refs = [
        Virtual(url, 0, 2),
        Virtual(url, 2, 2, etag),
        Virtual(url, 4, 2, '"of another object"'),
        Virtual(url, 6, 2, None, MODIFIED),
        Virtual(url, 8, 2, None, MODIFIED - 1),
    ]

    async def ask() -> list[Any]:
        return await asyncio.gather(*map(chunks.fetch, refs), return_exceptions=True)

    found = asyncio.run(ask())
    assert [found[at] for at in (0, 1, 3)] == [b"01", b"23", b"67"]
    assert [found[at].kind for at in (2, 4)] == [ErrorKind.VIRTUAL_CHUNK_MODIFIED] * 2
    assert server.verbs() == ["GET"]
