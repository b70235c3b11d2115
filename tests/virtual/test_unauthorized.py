"""What may not be read is said when the repository is opened, once, with the line that is missing."""

from __future__ import annotations

import asyncio
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest

import icechunk
from tests.servers.web_server import WebServer
from tests.storage.fake_s3 import FakeS3
from tests.virtual.conftest import DATA
from tests.virtual.making import chunk, files, objects, opened, pages, repository


def warnings_of(action: Any) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    return [one for one in caught if issubclass(one.category, icechunk.UnauthorizedContainersWarning)]


def test_one_warning_names_them_all_and_the_line_to_add(directory: Path, s3: FakeS3, web: WebServer) -> None:
    containers = [files(directory), objects(s3, anonymous=True), pages(web)]
    storage = repository(containers, [f"{one.url_prefix}a.bin" for one in containers])
    (warning,) = warnings_of(lambda: icechunk.Repository.open(storage))
    text = str(warning.message)
    assert all(one.url_prefix in text for one in containers)
    assert "(files)" in text
    assert warning.filename == __file__
    line = next(line for line in text.splitlines() if "authorize_virtual_chunk_access=" in line)
    given = eval(f"dict({line.strip()})", {"icechunk": icechunk, "dict": dict})
    assert warnings_of(lambda: icechunk.Repository.open(storage, **given)) == []
    repo = icechunk.Repository.open(storage, **given)
    assert [chunk(repo, index) for index in range(3)] == [DATA[8:16]] * 3


def test_in_an_event_loop_too(directory: Path) -> None:
    storage = repository([files(directory)], [])

    async def open_it() -> None:
        await icechunk.Repository.open_async(storage)

    (warning,) = warnings_of(lambda: asyncio.run(open_it()))
    assert warning.filename == __file__


def test_what_was_authorized_is_not_named_and_what_fits_nothing_is(directory: Path, s3: FakeS3) -> None:
    storage = repository([files(directory), objects(s3)], [])
    given = icechunk.containers_credentials({f"file://{directory}": None, "s3://bucket/": None})
    (warning,) = warnings_of(lambda: icechunk.Repository.open(storage, None, given))
    first, _, last = str(warning.message).partition("\n")
    assert "s3://bucket/data/" in first
    assert "file://" not in str(warning.message)
    assert "no container has the prefix s3://bucket/, which was authorized" in last


@pytest.mark.parametrize("how", ["open_or_create", "reopen"])
def test_other_ways_to_open(directory: Path, how: str) -> None:
    storage = repository([files(directory)], [])
    if how == "open_or_create":
        assert len(warnings_of(lambda: icechunk.Repository.open_or_create(storage))) == 1
    else:
        repo = opened(storage)
        assert warnings_of(lambda: repo.reopen()) == [], "it was said before"


def test_who_writes_references_is_not_bothered(directory: Path) -> None:
    assert warnings_of(lambda: repository([files(directory)], [f"file://{directory}/a.bin"])) == []


def test_containers_without_a_url_are_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    from icechunk.virtual_access import report_unauthorized

    old = icechunk.VirtualChunkContainer("s3", icechunk.s3_store())
    caplog.set_level(logging.DEBUG, "icechunk.virtual")
    assert warnings_of(lambda: report_unauthorized([old])) == []
    assert "s3 has no URL" in caplog.text


def test_reading_says_it_again(s3: FakeS3) -> None:
    storage = repository([objects(s3)], ["s3://bucket/data/a.bin"])
    with pytest.raises(icechunk.InvalidInputError, match=r'"s3://bucket/data/": icechunk.s3_credentials') as caught:
        chunk(opened(storage))
    assert caught.value.kind == icechunk.ErrorKind.UNAUTHORIZED_VIRTUAL_CHUNK_CONTAINER
    assert s3.asked == []


# --------------------------------------------------------------------------------------------- public, without asking


def test_public_sources_need_no_authorization_where_the_user_says_so(s3: FakeS3, web: WebServer) -> None:
    containers = [objects(s3), pages(web)]
    storage = repository(containers, [f"{one.url_prefix}a.bin" for one in containers])
    prefixes = [one.url_prefix for one in containers]
    assert warnings_of(lambda: icechunk.Repository.open(storage, anonymous_virtual_access=prefixes)) == []
    repo = opened(storage, anonymous_virtual_access=prefixes)
    assert [chunk(repo, index) for index in range(2)] == [DATA[8:16]] * 2
    assert "authorization" not in s3.asked[-1].headers
    assert repo.authorized_virtual_container_prefixes == set()


def test_only_below_the_prefixes_that_were_named(s3: FakeS3) -> None:
    storage = repository([objects(s3)], ["s3://bucket/data/a.bin"])
    for prefixes in (["s3://bucket/dat"], ["s3://other/"], []):
        with pytest.raises(icechunk.InvalidInputError):
            chunk(opened(storage, anonymous_virtual_access=prefixes))
    assert chunk(opened(storage, anonymous_virtual_access=["s3://bucket"])) == DATA[8:16]


def test_never_local_files(directory: Path) -> None:
    prefix = f"file://{directory}/"
    storage = repository([files(directory)], [f"{prefix}a.bin"])
    for anonymous in (True, [prefix]):
        with pytest.raises(icechunk.InvalidInputError) as caught:
            chunk(opened(storage, anonymous_virtual_access=anonymous))
        assert caught.value.kind == icechunk.ErrorKind.UNAUTHORIZED_VIRTUAL_CHUNK_CONTAINER


def test_hosts_of_this_network_only_by_name(s3: FakeS3, web: WebServer) -> None:
    containers = [objects(s3), pages(web)]
    storage = repository(containers, [f"{one.url_prefix}a.bin" for one in containers])
    repo = opened(storage, anonymous_virtual_access=True)
    for index in range(2):
        with pytest.raises(icechunk.InvalidInputError):
            chunk(repo, index)
    assert s3.asked == [] and web.asked == []


@pytest.mark.parametrize(
    ("container", "covered"),
    [
        (("s3://b/", icechunk.s3_store(region="us-east-1")), True),
        (("s3://b/", icechunk.s3_store(endpoint_url="http://169.254.169.254")), False),
        (("s3://b/", icechunk.s3_store(endpoint_url="http://minio:9000")), False),
        (("https://example.org/data/", icechunk.http_store()), True),
        (("http://10.0.0.7/data/", icechunk.http_store()), False),
        (("http://[::1]/data/", icechunk.http_store()), False),
        (("http://router.local/data/", icechunk.http_store()), False),
        (("gs://b/", icechunk.gcs_store()), True),
        (("gs://b/", icechunk.gcs_store({"google_base_url": "http://127.0.0.1:1"})), False),
        (("az://b/", icechunk.ObjectStoreConfig.Azure({"account": "a"})), True),
        (("file:///data/", icechunk.local_filesystem_store("/data")), False),
    ],
)
def test_what_is_public(container: Any, covered: bool) -> None:
    from icechunk.virtual_access import VirtualPolicy

    policy = VirtualPolicy.of("error", True)
    assert (policy.anonymous_credentials(icechunk.VirtualChunkContainer(*container)) is not None) is covered


def test_an_authorization_counts_more(s3: FakeS3) -> None:
    storage = repository([objects(s3)], ["s3://bucket/data/a.bin"])
    key = icechunk.s3_credentials(access_key_id="me", secret_access_key="secret")
    repo = opened(storage, {"s3://bucket/data/": key}, anonymous_virtual_access=["s3://bucket/"])
    assert chunk(repo) == DATA[8:16]
    assert "Credential=me/" in s3.asked[-1].headers["authorization"]


def test_the_policy_travels_with_the_repository(s3: FakeS3) -> None:
    import pickle

    storage = repository([objects(s3)], ["s3://bucket/data/a.bin"])
    repo = opened(storage, anonymous_virtual_access=["s3://bucket/"])
    store = pickle.loads(pickle.dumps(repo.readonly_session("main")))._core.virtual
    assert store.unauthorized() == []
    assert repo.reopen()._core.virtual.unauthorized() == []
    assert len(repo.reopen(anonymous_virtual_access=False)._core.virtual.unauthorized()) == 1


@pytest.mark.parametrize(
    ("options", "error"),
    [({"anonymous_virtual_access": "s3://b/"}, TypeError), ({"virtual_drift": "loud"}, ValueError)],
)
def test_what_is_no_policy(options: Any, error: type[Exception]) -> None:
    storage = repository([], [])
    with pytest.raises(error):
        icechunk.Repository.open(storage, **options)
