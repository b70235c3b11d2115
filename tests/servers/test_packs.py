"""Many small chunks in a real store: they go there and come back in few requests, whoever reads them."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import zarr

import icechunk
from icechunk import chunk_packs
from icechunk._driver import iterate
from tests.interop.conftest import data, engines, oracle, ours
from tests.interop.language import step
from tests.interop.oracle import VERSIONS, Engine, Program
from tests.servers.backends import Backend
from tests.servers.fault_proxy import Passing, Proxy, proxy_of

__all__ = ["data", "engines", "oracle", "ours"]  # fixtures

CHUNKS, LENGTH = 500, 512
"""Chunks of an array, and values of eight bytes in each."""
VALUES = np.arange(CHUNKS * LENGTH, dtype="f8")
FEW = CHUNKS // 10


def about_chunks(proxy: Proxy, *verbs: str) -> list[Passing]:
    """The requests for objects of chunks that passed."""
    with proxy.lock:
        return [one for one in proxy.passed if one.verb in verbs and "/chunks/" in unquote(one.path)]


def write(storage: icechunk.Storage, spec: int) -> None:
    repo = icechunk.Repository.create(storage, spec_version=spec)
    session = repo.writable_session("main")
    array = zarr.create_array(
        session.store, name="a", shape=VALUES.shape, chunks=(LENGTH,), dtype="f8", compressors=None, filters=None
    )
    array[:] = VALUES
    assert (array[:] == VALUES).all(), "before the commit"
    session.commit("many small chunks")
    assert (array[:] == VALUES).all(), "after it"


def opened(storage: icechunk.Storage) -> zarr.Array:
    return zarr.open_array(icechunk.Repository.open(storage).readonly_session("main").store, path="a", mode="r")


def count_chunk_objects(storage: icechunk.Storage) -> int:
    return sum(len(batch) for batch in iterate(storage.list("chunks/")))


@pytest.mark.parametrize("spec", [1, 2])
def test_few_requests_for_many_chunks(backend: Backend, spec: int) -> None:
    with proxy_of(backend.url) as proxy:
        storage = backend.at(proxy.url).storage(f"packs-{id(proxy)}")
        write(storage, spec)
        alone = chunk_packs.ALONE
        assert alone < len(about_chunks(proxy, "PUT", "POST")) < alone + FEW
        proxy.reset()
        assert (opened(storage)[:] == VALUES).all()
        assert 0 < len(about_chunks(proxy, "GET")) < alone + FEW
        proxy.reset()
        assert (opened(storage)[-LENGTH:] == VALUES[-LENGTH:]).all()
        assert [one.sent for one in about_chunks(proxy, "GET")] == [LENGTH * 8], "more than the one that was wanted"


@pytest.mark.interop
@pytest.mark.parametrize(
    ("oracle", "spec"), [(version, spec) for version, specs in VERSIONS.items() for spec in specs], indirect=["oracle"]
)
def test_the_rust_implementation_reads_and_collects_packs(
    backend: Backend, oracle: Engine, spec: int, tmp_path: Path, data: Path
) -> None:
    """It reads every chunk, collects nothing that is needed, writes over some of a pack, and both read the rest."""
    storage = backend.storage(prefix := f"packs-{oracle.name}-{spec}")
    write(storage, spec)
    program = Program(tmp_path, data)
    program.path = json.dumps(backend.place(prefix))
    _, values = program.run(oracle, [step("open"), step("read", path="a")])
    assert (np.array(values) == VALUES).all()
    objects = count_chunk_objects(storage)
    changed = [[0, LENGTH * 40]]
    program.run(
        oracle,
        [
            step("session"),
            step("write", path="a", values={"fill": -1}, where=changed),
            step("commit", message="written over"),
            step("expire", older_than="future"),
            step("collect"),
        ],
    )
    # some that were alone are gone, and no pack is
    assert count_chunk_objects(storage) < objects + 40
    array = opened(storage)
    expected = np.where(np.arange(len(VALUES)) < LENGTH * 40, -1, VALUES)
    assert (array[:] == expected).all()
    (values,) = program.run(oracle, [step("read", path="a")])
    assert (np.array(values) == expected).all()
