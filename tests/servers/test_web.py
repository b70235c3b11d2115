"""Repositories on web servers: read by us and by the Rust package, never written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

import icechunk
from icechunk._driver import run
from icechunk.storage.base import ByteRange
from tests.interop.conftest import engines, start
from tests.interop.oracle import VERSIONS, Engine
from tests.servers.web_server import web_server

__all__ = ["engines"]  # a fixture


@pytest.fixture(params=["python", "nginx"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a web server, and the directory it serves."""
    if request.param == "nginx":
        yield request.getfixturevalue("nginx")
        return
    with web_server(tmp_path) as server:
        yield server.url, tmp_path


def write(root: Path, name: str, spec: int) -> None:
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(root / name), spec_version=spec)
    with repo.transaction("main", message="some data") as store:
        zarr.create_array(store, name="a", data=np.arange(6000.0).reshape(20, 300), chunks=(4, 300))
    repo.create_tag("v1", repo.lookup_branch("main"))


@pytest.mark.parametrize("spec", [1, 2])
def test_reading(served: tuple[str, Path], spec: int) -> None:
    url, root = served
    write(root, f"reading-{spec}", spec)
    repo = icechunk.Repository.open(icechunk.http_storage(f"{url}/reading-{spec}"))
    array = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")
    assert (array[:] == np.arange(6000.0).reshape(20, 300)).all()
    assert next(info.message for info in repo.ancestry(branch="main")) == "some data"
    with pytest.raises(icechunk.IcechunkError, match="read-only"), repo.transaction("main", message="no") as store:
        zarr.create_group(store, path="g")


def test_ranges_and_changes(served: tuple[str, Path]) -> None:
    url, root = served
    (root / "x").mkdir(exist_ok=True)
    (root / "x" / "a.bin").write_bytes(bytes(range(100)))
    storage = icechunk.http_storage(f"{url}/x")
    wanted = {
        ByteRange(3, 7): (3, 7),
        ByteRange(90): (90, 100),
        ByteRange(-5): (95, 100),
        ByteRange(95, 200): (95, 100),
    }
    for asked, (start_at, stop) in wanted.items():
        assert bytes(run(storage.get("a.bin", byte_range=asked))[0]) == bytes(range(start_at, stop))
    assert bytes(run(storage.get("a.bin", byte_range=ByteRange(100, 120)))[0]) == b""
    _, version = run(storage.get("a.bin"))
    assert run(storage.get_if_changed("a.bin", version)) is None
    (root / "x" / "a.bin").write_bytes(b"new")
    changed = run(storage.get_if_changed("a.bin", version))
    assert changed is not None and bytes(changed[0]) == b"new"
    assert not run(storage.exists("b.bin"))


def test_virtual_chunks(served: tuple[str, Path]) -> None:
    url, root = served
    (root / "sources").mkdir(exist_ok=True)
    (root / "sources" / "a b.bin").write_bytes(bytes(range(64)))
    prefix = f"{url}/sources/"
    config = icechunk.RepositoryConfig.default()
    config.set_virtual_chunk_container(icechunk.VirtualChunkContainer(prefix, icechunk.http_store()))
    repo = icechunk.Repository.create(
        icechunk.in_memory_storage(), config, icechunk.containers_credentials({prefix: None})
    )
    with repo.transaction("main", message="virtual") as store:
        zarr.create_array(store, name="a", shape=(16,), chunks=(8,), dtype="u1", compressors=None)
        store.set_virtual_ref("a/c/0", f"{prefix}a%20b.bin", offset=8, length=8)
        store.set_virtual_ref("a/c/1", f"{prefix}a%20b.bin", offset=40, length=8)
    array = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")
    assert array[:].tolist() == [*range(8, 16), *range(40, 48)]
    assert repo.check_virtual_access().ok


@pytest.mark.interop
@pytest.mark.parametrize("spec", [1, 2])
def test_the_rust_package_reads_it_too(served: tuple[str, Path], engines: dict[str, Engine], spec: int) -> None:
    url, root = served
    write(root, f"both-{spec}", spec)
    place = json.dumps({"http_storage": {"base_url": f"{url}/both-{spec}"}})
    theirs = start("2.3.0", engines)  # the first that reads repositories on the web
    theirs.do("open", path=place)
    assert theirs.do("read", path="a", branch="main") == np.arange(6000.0).reshape(20, 300).tolist()


@pytest.mark.interop
@pytest.mark.parametrize(
    ("version", "spec"), [(version, spec) for version, specs in VERSIONS.items() for spec in specs]
)
def test_what_the_rust_package_wrote_is_read_from_the_web(
    served: tuple[str, Path], engines: dict[str, Engine], version: str, spec: int
) -> None:
    url, root = served
    name = f"theirs-{version}-{spec}"
    theirs = start(version, engines)
    theirs.do("create", path=str(root / name), spec=spec, config={"inline_chunk_threshold_bytes": 0})
    theirs.do("session")
    theirs.do("array", path="a", shape=[4, 4], chunks=[2, 2], dtype="i4")
    theirs.do("write", path="a", values={"range": 1})
    theirs.do("tag", name="v 1", snapshot=theirs.do("commit", message="theirs"))
    repo = icechunk.Repository.open(icechunk.http_storage(f"{url}/{name}"))
    array = zarr.open_array(repo.readonly_session(tag="v 1").store, path="a", mode="r")
    assert array[:].tolist() == np.arange(1, 17).reshape(4, 4).tolist()
    assert [info.message for info in repo.ancestry(branch="main")] == ["theirs", "Repository initialized"]
