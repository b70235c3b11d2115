"""Commits through a network that fails: nothing is lost, nothing is done twice, and in the end everything is done."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zarr

import icechunk
from icechunk._driver import run
from icechunk.errors import PreconditionFailedError
from icechunk.storage.base import ABSENT, Unchanged
from tests.servers.backends import Backend
from tests.servers.conftest import Start
from tests.servers.fault_proxy import KINDS, Kind, Passing, Proxy, at_random, every, proxy_of
from tests.servers.test_writers import check_nothing_is_lost, commit_many, new_repository

PATIENT = icechunk.StorageSettings(
    retries=icechunk.StorageRetriesSettings(max_tries=20, initial_backoff_ms=2, max_backoff_ms=20)
)
CONFIG = icechunk.RepositoryConfig(storage=PATIENT)


@pytest.fixture
def proxied(backend: Backend) -> Iterator[tuple[Backend, Proxy]]:
    with proxy_of(backend.url) as proxy:
        yield backend, proxy


@pytest.fixture
def ministack(start_backend: Start) -> Iterator[tuple[Backend, Proxy]]:
    backend = start_backend("ministack")
    with proxy_of(backend.url) as proxy:
        yield backend, proxy


def behind(backend: Backend, proxy: Proxy) -> tuple[icechunk.Storage, icechunk.Storage]:
    """A place in the store, seen through the proxy and directly."""
    prefix = f"faults-{id(proxy)}-{len(proxy.passed)}"
    return backend.at(proxy.url).storage(prefix).with_settings(PATIENT), backend.storage(prefix)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_failure(ministack: tuple[Backend, Proxy], kind: Kind) -> None:
    backend, proxy = ministack
    storage, direct = behind(backend, proxy)
    proxy.plan = every(4, kind)
    repo = icechunk.Repository.create(storage, CONFIG)
    for number in range(4):
        session = repo.writable_session("main")
        array = zarr.create_array(session.store, name=f"a{number}", shape=(400,), chunks=(200,), dtype="f8")
        array[:] = number + 1
        session.commit(f"number {number}")
    repo.create_tag("t", repo.lookup_branch("main"))
    repo.create_branch("b", repo.lookup_branch("main"))
    with pytest.raises(icechunk.IcechunkError, match="exists"):
        repo.create_tag("t", repo.lookup_branch("main"))
    assert sum(proxy.faults.values()) >= (1 if kind == "conflict" else 8)
    proxy.plan = None
    repo = icechunk.Repository.open(direct)
    assert [info.message for info in repo.ancestry(tag="t")][:4] == [f"number {number}" for number in (3, 2, 1, 0)]
    assert repo.list_branches() == {"main", "b"}
    group = zarr.open_group(repo.readonly_session("b").store, mode="r")
    assert [(group[f"a{number}"][:] == number + 1).all() for number in range(4)] == [True] * 4


@pytest.mark.parametrize("spec", [1, 2])
def test_writers_behind_a_bad_network(proxied: tuple[Backend, Proxy], spec: int) -> None:
    backend, proxy = proxied
    storage, direct = behind(backend, proxy)
    new_repository(storage, spec, 12)
    repo = icechunk.Repository.open(storage)
    repo = repo.reopen(CONFIG)
    repo.save_config()
    kinds: tuple[Kind, ...] = ("reset", "lost", "cut", "unavailable", "internal")
    if backend.name not in ("azurite", "fake-gcs"):
        kinds += ("slow-down", "too-many", "conflict")
    proxy.plan = at_random(spec, 0.15, *kinds)
    promised = commit_many(storage, writers=4, commits=3)
    assert sum(proxy.faults.values()) > 10
    check_nothing_is_lost(direct, promised, writers=4, commits=3)


def test_long_lists_and_deletes(proxied: tuple[Backend, Proxy]) -> None:
    """A listing goes on where it broke off."""
    backend, proxy = proxied
    storage, direct = behind(backend, proxy)
    names = [f"x/{number:02}" for number in range(60)]
    proxy.plan = every(4, "cut", "reset", "unavailable")
    for name in names:
        run(storage.put(name, b"x"))

    async def listed() -> list[str]:
        batches = storage._batches("x/", 7)  # type: ignore[attr-defined]
        return sorted([info.path async for batch in batches for info in batch])

    for _ in range(6):
        assert run(listed()) == names
    assert run(storage.delete(names)).failed == []
    assert run(direct.is_empty())


def lost(passing: Passing) -> Kind | None:
    return "lost" if passing.verb == "PUT" else None


def once(plan: object) -> object:
    """The plan, until it has once said that something fails."""
    done: list[object] = []

    def first(passing: Passing) -> object:
        found = None if done else plan(passing)  # type: ignore[operator]
        if found is not None:
            done.append(found)
        return found

    return first


def test_our_own_write_is_known_again(proxied: tuple[Backend, Proxy]) -> None:
    """A conditional write was done and its answer lost: the repetition finds it, and it counts."""
    backend, proxy = proxied
    storage, direct = behind(backend, proxy)
    proxy.plan = once(lost)  # type: ignore[assignment]
    version = run(storage.put("a", b"one", only_if=ABSENT))
    assert proxy.faults == {"lost": 1}
    assert run(direct.get("a"))[1] == version
    proxy.plan = once(lost)  # type: ignore[assignment]
    second = run(storage.put("a", b"two", only_if=Unchanged(version)))
    assert proxy.faults == {"lost": 2}
    data, found = run(direct.get("a"))
    assert (bytes(data), found) == (b"two", second)


def test_a_conflict_is_no_proof_that_something_is_there(ministack: tuple[Backend, Proxy]) -> None:
    """Amazon answers 409 when two writes meet, even if none of them is done in the end."""
    backend, proxy = ministack
    storage, _ = behind(backend, proxy)
    proxy.plan = once(lambda passing: "conflict" if passing.conditional else None)  # type: ignore[assignment]
    version = run(storage.put("a", b"one", only_if=ABSENT))
    proxy.plan = once(lambda passing: "conflict" if passing.conditional else None)  # type: ignore[assignment]
    run(storage.put("a", b"two", only_if=Unchanged(version)))
    assert bytes(run(storage.get("a"))[0]) == b"two"
    assert proxy.faults == {"conflict": 2}
    with pytest.raises(PreconditionFailedError):
        run(storage.put("a", b"three", only_if=ABSENT))


def test_a_real_conflict_costs_one_request(ministack: tuple[Backend, Proxy]) -> None:
    backend, proxy = ministack
    storage = backend.at(proxy.url).storage()
    version = run(storage.put("a", b"one", only_if=ABSENT))
    run(storage.put("a", b"two", only_if=Unchanged(version)))
    proxy.reset()
    with pytest.raises(PreconditionFailedError):
        run(storage.put("a", b"three", only_if=Unchanged(version)))
    assert [one.verb for one in proxy.passed] == ["PUT"]
