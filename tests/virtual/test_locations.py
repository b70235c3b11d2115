"""A location in a repository never leads out of its container: neither to another directory nor to another host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import icechunk
from icechunk._driver import run
from icechunk.format.chunk_ref import Virtual
from icechunk.virtual import VirtualChunks
from tests.servers.web_server import Page, WebServer
from tests.storage.fake_s3 import FakeS3, Stored
from tests.virtual.making import files, objects, pages

ANYBODY = icechunk.Credentials.S3(icechunk.s3_credentials(anonymous=True))
NOT_SERVED = (icechunk.ErrorKind.NO_CONTAINER_FOR_VIRTUAL_CHUNK, icechunk.ErrorKind.INVALID_VIRTUAL_REF)


def chunks(container: icechunk.VirtualChunkContainer, credentials: Any = None) -> VirtualChunks:
    return VirtualChunks({container.url_prefix: container}, {container.url_prefix: credentials})


def refused(virtual: VirtualChunks, location: str) -> None:
    with pytest.raises(icechunk.InvalidInputError) as caught:
        run(virtual.fetch(Virtual(location, 0, 3)))
    assert caught.value.kind in NOT_SERVED


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "x/../../secret",
        "%2e%2e/secret",
        "..%2fsecret",
        "%2E%2E%2Fsecret",
        "..\\secret",
        "x/..",
        "..",
    ],
)
@pytest.mark.parametrize("by_name", [False, True])
def test_no_other_directory(directory: Path, path: str, by_name: bool) -> None:
    (directory.parent / "secret").write_bytes(b"secret")
    container = files(directory)
    virtual = chunks(container)
    assert bytes(run(virtual.fetch(Virtual(f"{container.url_prefix}a.bin", 0, 3)))) == b"\0\1\2"
    refused(virtual, f"vcc://files/{path}" if by_name else f"{container.url_prefix}{path}")


def test_no_neighbour_whose_name_begins_alike(directory: Path) -> None:
    (directory.parent / "data2").write_bytes(b"secret")
    refused(chunks(files(directory)), f"file://{directory}2")
    refused(chunks(files(directory)), f"file://host{directory}/a.bin")


def hosts_that_deceive(mine: str, other: str) -> list[str]:
    return [
        f"{mine}%2F@{other}",
        f"{mine}%2f@{other}",
        f"{mine}@{other}",
        f"{mine}#@{other}",
        f"{mine}?@{other}",
        f"{mine}\\@{other}",
        f"{mine}.{other}",
        f"{mine}%00@{other}",
        f" {mine}",
        mine.upper() + "x",
        other,
    ]


def test_no_other_host(web: WebServer, s3: FakeS3) -> None:
    web.pages["data/b.bin"] = Page(b"secret")
    container = icechunk.VirtualChunkContainer(
        f"{web.url}/data/", icechunk.http_store(headers={"authorization": "Bearer of secrets"})
    )
    virtual = chunks(container)
    other = s3.url.partition("//")[2]
    for host in hosts_that_deceive(web.url.partition("//")[2], other):
        refused(virtual, f"http://{host}/data/a.bin")
    assert s3.asked == [] and web.asked == []
    assert bytes(run(virtual.fetch(Virtual(f"{web.url}/data/b.bin", 0, 3)))) == b"sec"
    assert web.asked[0].headers["authorization"] == "Bearer of secrets"


def test_no_other_bucket(s3: FakeS3) -> None:
    virtual = chunks(objects(s3), ANYBODY)
    for host in hosts_that_deceive("bucket", "other"):
        refused(virtual, f"s3://{host}/data/a.bin")
    assert s3.asked == []
    assert bytes(run(virtual.fetch(Virtual("s3://bucket/data/a.bin", 0, 3)))) == b"\0\1\2"


def test_the_longest_prefix_serves_with_its_own_key(s3: FakeS3) -> None:
    inner = icechunk.VirtualChunkContainer("s3://bucket/data/closed/", objects(s3).store)
    s3.objects["data/closed/b.bin"] = Stored(b"secret", {})
    keys = {
        prefix: icechunk.Credentials.S3(icechunk.s3_credentials(access_key_id=name, secret_access_key=f"key of {name}"))
        for prefix, name in (("s3://bucket/data/", "outer"), ("s3://bucket/data/closed/", "inner"))
    }
    virtual = VirtualChunks({one.url_prefix: one for one in (objects(s3), inner)}, keys)
    run(virtual.fetch(Virtual("s3://bucket/data/closed/b.bin", 0, 3)))
    run(virtual.fetch(Virtual("s3://bucket/data/a.bin", 0, 3)))
    run(virtual.fetch(Virtual("s3://bucket/data/%63losed/b.bin", 0, 3)))
    used = [asked.headers["authorization"].partition("Credential=")[2].partition("/")[0] for asked in s3.asked]
    assert used == ["inner", "outer", "inner"]


@given(
    st.text(
        st.sampled_from("ab./\\%25e2F@:?#\0 é"),
        max_size=20,
    )
)
def test_whatever_is_stored(tail: str) -> None:
    """What a container serves stays below its prefix once the path is decoded as a file system would."""
    import posixpath
    from urllib.parse import unquote

    container = icechunk.VirtualChunkContainer("file:///data/in/", icechunk.local_filesystem_store("/data/in"))
    virtual = chunks(container)
    for location in (f"file:///data/in/{tail}", f"file:///data/{tail}", f"file://{tail}", f"FILE:///data/in/{tail}"):
        found = virtual.container_of(location)
        if found is not None:
            path = unquote(found[1].partition("://")[2])
            assert (posixpath.normpath(path) + "/").startswith("/data/in/")


@pytest.mark.parametrize("location", ["file:///data/in/\0", "file:///data/in/a%00b"])
def test_names_no_file_can_have(location: str) -> None:
    container = icechunk.VirtualChunkContainer("file:///data/in/", icechunk.local_filesystem_store("/data/in"))
    with pytest.raises(icechunk.StorageError) as caught:
        run(chunks(container).fetch(Virtual(location, 0, 3)))
    assert caught.value.kind == icechunk.ErrorKind.VIRTUAL_CHUNK_FETCH


def test_keys_of_one_kind_of_store_are_no_keys_of_another(directory: Path) -> None:
    with pytest.raises(icechunk.InvalidInputError) as caught:
        run(chunks(files(directory), ANYBODY).fetch(Virtual(f"{files(directory).url_prefix}a.bin", 0, 3)))
    assert caught.value.kind == icechunk.ErrorKind.INVALID_CREDENTIALS
    given = icechunk.credentials.LocalFileSystemAccess
    assert run(chunks(files(directory), given).fetch(Virtual(f"{files(directory).url_prefix}a.bin", 0, 3)))


def test_a_page_that_moved(web: WebServer, s3: FakeS3) -> None:
    """Redirects are followed, and what was meant for the first host is not told to the second."""
    web.redirects["data/moved.bin"] = f"{s3.url}/bucket/data/a.bin"
    store = icechunk.http_store(headers={"authorization": "Bearer of secrets"})
    virtual = chunks(icechunk.VirtualChunkContainer(pages(web).url_prefix, store))
    assert bytes(run(virtual.fetch(Virtual(f"{web.url}/data/moved.bin", 0, 3)))) == b"\0\1\2"
    assert "authorization" in web.asked[0].headers
    assert "authorization" not in s3.asked[0].headers
