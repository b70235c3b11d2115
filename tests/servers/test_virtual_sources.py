"""Virtual chunks in every kind of store: what one implementation points at, the other reads, with its own credentials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from icechunk._driver import run
from tests.interop.conftest import data, engines, oracle, ours
from tests.interop.language import step
from tests.interop.oracle import VERSIONS, Engine, Program
from tests.servers.backends import AZURE_ACCOUNT, AZURE_KEY, BUCKET, Backend
from tests.servers.conftest import Start

__all__ = ["data", "engines", "oracle", "ours"]  # fixtures
pytestmark = pytest.mark.interop

CONTENT = bytes(range(200))
NAME = "some data.bin"


@dataclass(frozen=True)
class Source:
    """Where virtual chunks lie: the prefix of the container, its store and credentials, and how it is reached by URL."""

    prefix: str
    store: dict[str, Any]
    credentials: dict[str, Any] | None = None

    @property
    def config(self) -> dict[str, Any]:
        return {"containers": {self.prefix: self.store}}

    @property
    def authorize(self) -> dict[str, Any]:
        return {self.prefix: self.credentials}

    def url(self) -> str:
        return self.prefix + NAME.replace(" ", "%20")


def in_backend(backend: Backend, scheme: str, store: dict[str, Any], credentials: dict[str, Any]) -> Source:
    folder = f"sources-{scheme}"
    run(backend.storage(folder).put(NAME, CONTENT))
    return Source(f"{scheme}://{BUCKET}/{folder}/", store, credentials)


def s3(start: Start, _: pytest.FixtureRequest) -> Source:
    backend = start("ministack")
    store = {"region": "us-east-1", "endpoint_url": backend.url, "allow_http": True, "force_path_style": True}
    key = {"access_key_id": "test", "secret_access_key": "test"}
    return in_backend(backend, "s3", {"s3_store": store}, {"s3_credentials": key})


def gcs(start: Start, _: pytest.FixtureRequest) -> Source:
    backend = start("fake-gcs")
    store = {"opts": {"google_base_url": backend.url, "allow_http": "true"}}
    key = backend.arguments["service_account_key"].replace("{url}", backend.url)
    return in_backend(backend, "gs", {"gcs_store": store}, {"gcs_credentials": {"service_account_key": key}})


def azure(start: Start, _: pytest.FixtureRequest) -> Source:
    backend = start("azurite")
    endpoint = f"{backend.url}/{AZURE_ACCOUNT}"
    options = {"azure_storage_endpoint": endpoint, "azure_allow_http": "true", "account": AZURE_ACCOUNT}
    return in_backend(
        backend, "az", {"ObjectStoreConfig.Azure": [options]}, {"azure_credentials": {"access_key": AZURE_KEY}}
    )


def http(_: Start, request: pytest.FixtureRequest) -> Source:
    url, root = request.getfixturevalue("nginx")
    (root / NAME).write_bytes(CONTENT)
    return Source(f"{url}/", {"http_store": {"opts": {"allow_http": "true"}}})


def local(_: Start, request: pytest.FixtureRequest) -> Source:
    directory = request.getfixturevalue("tmp_path") / "sources"
    directory.mkdir()
    (directory / NAME).write_bytes(CONTENT)
    return Source(f"file://{directory}/", {"local_filesystem_store": {"path": f"{directory}/"}})


SOURCES: tuple[Callable[[Start, pytest.FixtureRequest], Source], ...] = (s3, gcs, azure, http, local)
CASES = [
    pytest.param(make, version, spec, id=f"{make.__name__}-{version}-{spec}")
    for make in SOURCES
    for version, specs in VERSIONS.items()
    for spec in specs
    if not (make is http and version == "1.1.21")  # it forgets the port of an address
]


@pytest.mark.parametrize(("make", "oracle", "spec"), CASES, indirect=["oracle"])
@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_virtual_chunks_of_one_are_read_by_the_other(
    make: Callable[[Start, pytest.FixtureRequest], Source],
    oracle: Engine,
    ours: Engine,
    spec: int,
    first: str,
    start_backend: Start,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    source = make(start_backend, request)
    writer, reader = (ours, oracle) if first == "ours" else (oracle, ours)
    program = Program(tmp_path / "repo")

    def points_at(chunk: int, offset: int) -> list[list[Any]]:
        ref = {"at": [chunk], "url": source.url(), "offset": offset, "length": 8}
        return [step("virtual", path="v", refs=[ref]), step("commit", message=f"chunk {chunk}")]

    array = step("array", path="v", shape=[24], chunks=[8], dtype="u1", compress=False)
    create = step("create", spec=spec, config=source.config, authorize=source.authorize)
    program.run(writer, [create, step("session"), array, *points_at(0, 10), step("session"), *points_at(1, 192)])
    expected = [*range(10, 18), *range(192, 200), *[0] * 8]
    again = step("open", authorize=source.authorize)
    for engine in (writer, reader):
        *_, found = program.run(engine, [again, step("read", path="v")])
        assert found == expected, engine.name
    program.run(reader, [again, step("session"), *points_at(2, 50)])
    *_, found = program.run(writer, [again, step("read", path="v")])
    assert found == [*range(10, 18), *range(192, 200), *range(50, 58)]
