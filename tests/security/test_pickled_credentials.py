"""Repositories, sessions and forks that travel without their credentials, and workers that have their own."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import zarr

import icechunk
from icechunk.credentials import left_out
from icechunk.storage.base import Storage
from icechunk.storage.limited import LimitedStorage
from icechunk.storage.wrappers import ReadOnlyStorage
from tests.storage.fake_s3 import FakeS3, serving

SECRETS = ("MYSECRET0", "MYSECRET1", "MYSECRET2", "MYSECRET3")
KEY = {"access_key_id": "AKIAPARENT", "secret_access_key": SECRETS[0], "session_token": SECRETS[1]}


@pytest.fixture
def server() -> Iterator[FakeS3]:
    with serving() as server:
        yield server


def s3(url: str, **credentials: Any) -> Storage:
    return icechunk.s3_storage(
        bucket="b",
        prefix="p",
        region="us-east-1",
        endpoint_url=url,
        allow_http=True,
        force_path_style=True,
        **(credentials or KEY),
    )


@pytest.fixture
def repo(server: FakeS3) -> icechunk.Repository:
    config = icechunk.RepositoryConfig.default()
    store = icechunk.s3_store(region="us-east-1")
    config.set_virtual_chunk_container(icechunk.VirtualChunkContainer("s3://elsewhere/", store))
    virtual = icechunk.s3_credentials(access_key_id="AKIAVIRTUAL", secret_access_key=SECRETS[2])
    repo = icechunk.Repository.create(
        s3(server.url),
        config,
        authorize_virtual_chunk_access=icechunk.containers_credentials({"s3://elsewhere/": virtual}),
    )
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="a", shape=(4,), chunks=(1,), dtype="i8", fill_value=0)[:] = 7
    session.commit("sevens")
    return repo


def secretless(*things: Any) -> None:
    for thing in things:
        pickled = pickle.dumps(thing)
        assert not [secret for secret in (*SECRETS, "AKIAPARENT", "AKIAVIRTUAL") if secret.encode() in pickled]


def kept(repo: icechunk.Repository) -> list[Any]:
    """Everything of a repository that can be pickled."""
    session = repo.writable_session("main")
    fork = session.fork()
    reader = repo.readonly_session("main")
    return [repo, fork, fork.fork(), reader, reader.store, zarr.open_array(reader.store, path="a", mode="r")]


def test_by_default_credentials_travel(repo: icechunk.Repository) -> None:
    for thing in kept(repo):
        assert all(secret.encode() in pickle.dumps(thing) for secret in SECRETS[:3])


def test_on_request_they_do_not(repo: icechunk.Repository) -> None:
    secretless(*kept(repo.without_pickled_credentials()))
    assert repo._core.pickles_credentials, "the repository itself stays as it was"


def test_nor_later(repo: icechunk.Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    without = repo.without_pickled_credentials()
    secretless(*kept(without.reopen(icechunk.RepositoryConfig(inline_chunk_threshold_bytes=1))))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAWORKER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS[3])
    again = pickle.loads(pickle.dumps(without))
    secretless(*kept(again))
    renewed = again.reopen(
        authorize_virtual_chunk_access=icechunk.containers_credentials(
            {"s3://elsewhere/": icechunk.s3_credentials(access_key_id="AKIAVIRTUAL", secret_access_key=SECRETS[2])}
        )
    )
    secretless(renewed)


def keys_used(server: FakeS3) -> set[str]:
    signatures = (asked.headers.get("authorization", asked.headers.get("Authorization", "")) for asked in server.asked)
    return {part.partition("Credential=")[2].partition("/")[0] for part in signatures}


def test_here_they_are_used_as_ever(repo: icechunk.Repository, server: FakeS3) -> None:
    server.asked.clear()
    session = repo.without_pickled_credentials().writable_session("main")
    zarr.open_array(session.store, path="a")[0] = 8
    session.commit("eight")
    assert keys_used(server) == {"AKIAPARENT"}


def write_in_worker(fork: icechunk.ForkSession, row: int) -> icechunk.ForkSession:
    zarr.open_array(fork.store, path="a")[row] = row
    return fork


def be_worker(environment: dict[str, str]) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(environment)


def pool_with(environment: dict[str, str]) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=be_worker, initargs=(environment,))


def test_a_worker_uses_those_of_its_environment(repo: icechunk.Repository, server: FakeS3) -> None:
    session = repo.without_pickled_credentials().writable_session("main")
    fork = session.fork()
    server.asked.clear()
    with pool_with({"AWS_ACCESS_KEY_ID": "AKIAWORKER", "AWS_SECRET_ACCESS_KEY": SECRETS[3]}) as pool:
        back = pool.submit(write_in_worker, fork, 2).result()
    assert keys_used(server) == {"AKIAWORKER"}
    session.merge(back)
    session.commit("two")
    found = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")[:]
    assert found.tolist() == [7, 7, 2, 7]


def test_a_worker_without_any_says_what_is_missing(repo: icechunk.Repository, server: FakeS3, tmp_path: Path) -> None:
    fork = repo.without_pickled_credentials().writable_session("main").fork()
    (tmp_path / "fork").write_bytes(pickle.dumps(fork))
    script = (
        "import pickle, sys, zarr, icechunk\n"
        "fork = pickle.load(open(sys.argv[1], 'rb'))\n"
        "try:\n    zarr.open_array(fork.store, path='a')[:]\n"
        "except icechunk.StorageError as error:\n    print(error.kind, error)\n"
    )
    # the address at which a machine would have credentials is one where it has none
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {"AWS_METADATA_ENDPOINT": server.url, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "fork")], env=environment, capture_output=True, text=True
    )
    assert done.stdout.startswith("invalid-credentials object store error: there are no credentials"), done.stderr
    assert "AWS_ACCESS_KEY_ID" in done.stdout


# --- storages -----------------------------------------------------------------------------------------------------------


def refresh() -> icechunk.S3StaticCredentials:
    return icechunk.S3StaticCredentials(KEY["access_key_id"], SECRETS[0])


STORAGES = {
    "s3": lambda: s3("http://127.0.0.1:1"),
    "s3 refreshable": lambda: s3("http://127.0.0.1:1", get_credentials=refresh, scatter_initial_credentials=True),
    "s3 with a header": lambda: icechunk.s3_storage(
        bucket="b", prefix="p", region="r", headers={"Authorization": SECRETS[1], "x-team": "ice"}, **KEY
    ),
    "gcs": lambda: icechunk.gcs_storage(bucket="b", prefix="p", service_account_key=SECRETS[0]),
    "azure": lambda: icechunk.azure_storage(account="a", container="c", prefix="p", access_key=SECRETS[0]),
    "http": lambda: icechunk.http_storage("https://example.org/x", headers={"Authorization": SECRETS[1]}),
    "s3 with keys in headers": lambda: icechunk.s3_storage(
        bucket="b",
        prefix="p",
        region="r",
        headers={"x-amz-server-side-encryption-customer-key": SECRETS[1], "X-Auth": SECRETS[2]},
        read_headers={"Ocp-Apim-Subscription-Key": SECRETS[2]},
        anonymous=True,
    ),
    "wrapped": lambda: LimitedStorage(ReadOnlyStorage(s3("http://127.0.0.1:1")), 3),
}


@pytest.mark.parametrize("make", STORAGES.values(), ids=STORAGES)
def test_a_storage_without_credentials(make: Any) -> None:
    storage = make()
    assert any(secret.encode() in pickle.dumps(storage) for secret in SECRETS)
    without = storage.without_credentials()
    secretless(without)
    assert without.describe() == storage.describe() and without.read_only == storage.read_only
    secretless(without.without_credentials())


def test_what_is_no_secret_stays() -> None:
    with_header = STORAGES["s3 with a header"]().without_credentials()
    assert b"x-team" in pickle.dumps(with_header)
    anonymous = s3("http://127.0.0.1:1", anonymous=True)
    assert pickle.dumps(anonymous.without_credentials()) == pickle.dumps(anonymous)
    for storage in (icechunk.in_memory_storage(), icechunk.local_filesystem_storage("/tmp/nowhere")):
        assert storage.without_credentials() is storage
    for value in (
        icechunk.credentials.Credentials.HttpAccess(),
        icechunk.credentials.S3Credentials.Anonymous(),
        None,
    ):
        assert left_out(value) == value


def test_secrets_that_cannot_be_left_out() -> None:
    in_address = icechunk.http_storage("https://me:MYSECRET0@example.org/x")
    with pytest.raises(ValueError, match="part of the address") as caught:
        in_address.without_credentials()
    assert SECRETS[0] not in str(caught.value)


def test_a_password_in_the_address_of_a_proxy_cannot_be_left_out() -> None:
    behind_proxy = icechunk.http_storage("https://example.org/x", {"proxy_url": "http://me:MYSECRET0@proxy:8080"})
    with pytest.raises(ValueError, match="part of the address") as caught:
        behind_proxy.without_credentials()
    assert SECRETS[0] not in str(caught.value)


def with_container(server: FakeS3, prefix: str, store: Any) -> icechunk.Repository:
    config = icechunk.RepositoryConfig(
        virtual_chunk_containers={prefix: icechunk.VirtualChunkContainer(prefix, store, "theirs")}
    )
    return icechunk.Repository.open_or_create(s3(server.url), config, anonymous_virtual_access=True)


CONTAINERS = {
    "headers": (
        "https://example.org/data/",
        icechunk.http_store({"user_agent": "ice"}, {"Authorization": f"Bearer {SECRETS[2]}", "x-team": "ice"}),
    ),
    "gcs": ("gs://elsewhere/", icechunk.gcs_store({"google_service_account_key": SECRETS[2], "user_agent": "ice"})),
    "azure": (
        "az://elsewhere/",
        icechunk.ObjectStoreConfig.Azure({"account": "ice", "azure_storage_account_key": SECRETS[2]}),
    ),
}


@pytest.mark.parametrize(("prefix", "store"), CONTAINERS.values(), ids=CONTAINERS)
def test_secrets_in_options_of_virtual_chunk_containers_stay_too(server: FakeS3, prefix: str, store: Any) -> None:
    repo = with_container(server, prefix, store)
    assert SECRETS[2].encode() in pickle.dumps(repo)
    without = repo.without_pickled_credentials()
    secretless(without, without.writable_session("main").fork(), without.readonly_session("main").store)
    there = pickle.loads(pickle.dumps(without)).config.get_virtual_chunk_container(prefix)
    assert there is not None and there.name == "theirs" and "ice" in repr(there.store)
    assert without.config.get_virtual_chunk_container(prefix).store == store, "here they are still used"


def test_a_container_with_a_password_in_its_address_is_refused(server: FakeS3) -> None:
    options = icechunk.s3_store(region="r", endpoint_url="https://me:MYSECRET0@example.org")
    for prefix, store in (("https://me:MYSECRET0@example.org/", icechunk.http_store()), ("s3://elsewhere/", options)):
        with pytest.raises(ValueError, match="part of the address") as caught:
            with_container(server, prefix, store).without_pickled_credentials()
        assert SECRETS[0] not in str(caught.value)


def test_a_store_of_the_users_own_keeps_what_it_has() -> None:
    obstore = pytest.importorskip("obstore.store")
    from icechunk.storage.object_store import from_obstore

    own = from_obstore(obstore.S3Store("b", access_key_id="id", secret_access_key=SECRETS[0], region="r"))
    with pytest.raises(ValueError, match="made yourself"):
        own.without_credentials()
    local = from_obstore(obstore.MemoryStore())
    assert local.without_credentials() is local
