"""xarray's engine `icechunk`: what it opens, at which version, and what it leaves to others."""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from xarray.backends import plugins

import icechunk
from icechunk.xarray import to_icechunk
from icechunk.xarray_backend import IcechunkBackendEntrypoint

from .conftest import air

ROOT = Path(__file__).parent.parent.parent
BACKEND = IcechunkBackendEntrypoint()


pytestmark = pytest.mark.usefixtures("xarray_engine")


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A repository with two commits of a tree of groups, the first of them tagged."""
    url = str(tmp_path / "air")
    put(url, air(), 0)
    repo = icechunk.open_repository(url)
    repo.create_tag("v1", repo.lookup_branch("main"))
    put(url, air(), 1)
    return url


def put(url: str, dataset: xr.Dataset, more: float) -> str:
    session = icechunk.open(url, "a")
    dataset = dataset.assign(t=dataset.t + more)
    to_icechunk(xr.DataTree.from_dict({"/": dataset, "/model/run": run_of(dataset)}), session, mode="w")
    return session.commit(str(more))


def run_of(dataset: xr.Dataset) -> xr.Dataset:
    return dataset[["t"]] * 2


def expected(more: float) -> xr.Dataset:
    return air().assign(t=air().t + more)


def opened(where: Any, **options: Any) -> xr.Dataset:
    return xr.open_dataset(where, engine="icechunk", **options)


# ---- what is opened


@pytest.mark.parametrize(
    ("version", "arguments", "more"),
    [
        ("", {}, 1),
        ("@main", {}, 1),
        ("@v1", {}, 0),
        ("@tag:v1", {}, 0),
        ("", {"branch": "main"}, 1),
        ("", {"tag": "v1"}, 0),
        ("?", {"as_of": "2100-01-01"}, 1),
    ],
)
def test_versions(url: str, version: str, arguments: dict[str, Any], more: float) -> None:
    place = f"file://{url}?as_of=2100-01-01" if version == "?" else url + version
    if version == "?":
        arguments = {}
    xr.testing.assert_equal(opened(place, **arguments).load(), expected(more))


def test_every_way_to_say_where(url: str) -> None:
    repo = icechunk.open_repository(url)
    session = repo.readonly_session("main")
    first = repo.lookup_tag("v1")
    for where in (url, Path(url), f"file://{url}", repo, session, session.store, repo.storage):
        xr.testing.assert_equal(opened(where).load(), expected(1))
    for where in (url, repo, repo.storage):
        xr.testing.assert_equal(opened(where, snapshot_id=first).load(), expected(0))
        xr.testing.assert_equal(opened(where, as_of=repo.lookup_snapshot(first).written_at).load(), expected(0))


def test_what_is_being_written(url: str) -> None:
    session = icechunk.open(url, "r+")
    zarr.open_array(session.store, path="wind")[...] = 9
    assert float(opened(session).wind.mean()) == 9
    assert float(opened(session.store.with_read_only(True)).wind.mean()) == 9
    session.discard_changes()


def test_groups(url: str) -> None:
    run = run_of(expected(1))
    for group in ("model/run", "/model/run", "model/run/"):
        xr.testing.assert_equal(opened(url, group=group).load(), run.drop_vars(("time", "lat", "lon")))
    groups = xr.open_groups(url, engine="icechunk")
    assert sorted(groups) == ["/", "/model", "/model/run"]
    xr.testing.assert_equal(groups["/model/run"].load(), run.drop_vars(("time", "lat", "lon")))
    below = xr.open_groups(f"{url}@v1", engine="icechunk", group="model")
    assert sorted(below) in (["/", "/run"], [".", "run"])


def test_trees(url: str) -> None:
    tree = xr.open_datatree(url, engine="icechunk")
    xr.testing.assert_equal(tree["model/run"].to_dataset().load(), run_of(expected(1)))
    xr.testing.assert_equal(tree.to_dataset().load(), expected(1))
    assert tree.encoding["source"].startswith(f"{url}@snapshot:")
    below = xr.open_datatree(url, engine="icechunk", group="model", tag="v1", drop_variables="height")
    assert "height" not in below["run"].variables
    assert float(below["run"]["t"].max()) == 2 * float(expected(0).t.max())
    assert xr.open_datatree(url, engine="icechunk", decode_times=False)["time"].dtype.kind == "i"
    tree.close()


def test_like_the_engine_for_zarr(url: str) -> None:
    store = icechunk.open(url).store
    for options in (
        {"decode_times": False},
        {"mask_and_scale": False, "decode_coords": "all"},
        {"drop_variables": ["wind", "name"]},
        {"decode_cf": False},
        {"chunks": {"time": 12, "lat": 4}},
        {"chunks": "auto", "drop_variables": "t"},
    ):
        ours, theirs = opened(url, **options), xr.open_dataset(store, engine="zarr", consolidated=False, **options)
        xr.testing.assert_identical(ours, theirs)
        assert ours.chunks == theirs.chunks
        for name, one in ours.variables.items():
            assert repr(one.encoding) == repr(theirs.variables[name].encoding), name


def test_options_reach_storage_and_repository(tmp_path: Path, url: str) -> None:
    with pytest.raises(TypeError, match="takes no option 'region'"):
        opened(url, storage_options={"region": "x"})
    config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=7)
    dataset = opened(url, config=config, authorize_virtual_chunk_access={"s3://b/": None})
    assert dataset.t.shape == (12, 4, 5)
    with pytest.raises(TypeError, match="config is a RepositoryConfig"):
        opened(url, config=3)


def test_many_at_once(url: str) -> None:
    both = xr.open_mfdataset(
        [f"file://{url}@v1", f"file://{url}@main"],
        engine="icechunk",
        combine="nested",
        concat_dim="version",
        join="exact",
    )
    assert float((both.t.isel(version=1) - both.t.isel(version=0)).mean()) == 1


# ---- dask


def test_versions_do_not_get_mixed_up_by_dask(url: str) -> None:
    """xarray names the pieces after the URL, and dask takes pieces of one name for the same."""
    repo = icechunk.open_repository(url)
    before = [opened(url, chunks={}), opened(repo, chunks={}), xr.open_datatree(url, engine="icechunk", chunks={})["/"]]
    put(url, air(), 5)
    after = [opened(url, chunks={}), opened(repo, chunks={}), xr.open_datatree(url, engine="icechunk", chunks={})["/"]]
    for then, now in zip(before, after, strict=True):
        assert float((now.t - then.t).mean()) == 4
    assert opened(url, chunks={}).t.data.name == after[0].t.data.name, "the same is called the same"
    assert opened(url, chunks={"time": -1}).t.data.name != after[0].t.data.name


def test_pieces_travel(url: str, elsewhere: dict[str, Any]) -> None:
    dataset = opened(url, chunks={})
    assert float(dataset.t.sum().compute(**elsewhere)) == float(expected(1).t.sum())
    again = pickle.loads(pickle.dumps(opened(url)))
    xr.testing.assert_equal(again.load(), expected(1))
    assert type(opened(url).t.chunk(time=4).variable) is xr.Variable


# ---- consolidated metadata


@pytest.mark.parametrize("consolidated", [True, False, None])
def test_consolidated_has_no_effect(url: str, consolidated: bool | None) -> None:
    xr.testing.assert_equal(opened(url, consolidated=consolidated, zarr_format=3).load(), expected(1))
    store = icechunk.open(url).store
    xr.testing.assert_equal(xr.open_zarr(store, consolidated=consolidated, chunks=None).load(), expected(1))
    assert set(xr.open_datatree(url, engine="icechunk", consolidated=consolidated).groups) == {
        "/",
        "/model",
        "/model/run",
    }


@pytest.mark.parametrize("consolidated", [True, False, None])
def test_nothing_is_consolidated(url: str, consolidated: bool | None, recwarn: pytest.WarningsRecorder) -> None:
    session = icechunk.open(url, "r+")
    air().to_zarr(session.store, mode="w", consolidated=consolidated)
    assert zarr.open_group(session.store, mode="r").metadata.consolidated_metadata is None
    session.commit("again")
    xr.DataTree(air()).to_zarr(icechunk.open(f"{url}/tree", "a").store, consolidated=consolidated or False)
    assert not [one for one in recwarn if "onsolidated" in str(one.message)]


def test_consolidated_metadata_from_elsewhere_is_not_believed(url: str) -> None:
    """A `zarr.json` that was copied key by key from another store may hold it, and it would go stale."""
    session = icechunk.open(url, "r+")
    group = zarr.open_group(session.store, mode="a")
    raw = zarr.core.sync.sync(session.store.get("zarr.json", zarr.core.buffer.default_buffer_prototype()))
    inline = b'"consolidated_metadata":{"kind":"inline","must_understand":false,"metadata":{}},'
    stale = raw.to_bytes().replace(b"{", b"{" + inline, 1)
    zarr.core.sync.sync(session.store.set("zarr.json", group.store_path.store and type(raw).from_bytes(stale)))
    assert {"t", "wind"} <= set(opened(session).variables)
    assert {"t", "wind"} <= set(xr.open_zarr(session.store).variables)
    session.discard_changes()


# ---- errors


def test_groups_that_are_not_there(url: str, tmp_path: Path) -> None:
    for open_them in (xr.open_dataset, xr.open_groups, xr.open_datatree):
        with pytest.raises(
            FileNotFoundError, match=r"no group /nope in .*air@snapshot:\w+; it has /, /model, /model/run"
        ):
            open_them(url, engine="icechunk", group="nope")
    with pytest.raises(FileNotFoundError, match=r"/t in .* is an array"):
        opened(url, group="t")
    icechunk.open(tmp_path / "empty", "a")
    with pytest.raises(FileNotFoundError, match="nothing was written to it yet"):
        opened(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no group /x in snapshot"):
        opened(icechunk.open(tmp_path / "empty"), group="x")


def test_versions_that_are_not_there(url: str) -> None:
    with pytest.raises(icechunk.RefNotFoundError, match="did you mean `main`"):
        opened(f"{url}@mian")
    with pytest.raises(icechunk.RefNotFoundError, match="there is no tag `nope`"):
        opened(icechunk.open_repository(url), tag="nope")
    with pytest.raises(icechunk.RepositoryNotFoundError):
        opened(f"{url}/deeper")


def test_arguments_that_do_not_fit(url: str) -> None:
    session = icechunk.open(url)
    for where in (session, session.store):
        with pytest.raises(ValueError, match="is open already; leave branch out"):
            opened(where, branch="main")
    with pytest.raises(ValueError, match="leave region out"):
        opened(icechunk.open_repository(url), storage_options={"region": "x"})
    with pytest.raises(TypeError, match="takes no lock"):
        xr.open_groups(url, engine="icechunk", lock=None)
    with pytest.raises(ValueError, match=r"branch: the URL says it|what follows the `@`"):
        opened(f"{url}@main", branch="main")
    for wrong in (3, b"air"):
        with pytest.raises(TypeError):
            opened(wrong)


def test_the_source_is_told_without_secrets(url: str) -> None:
    source = opened(f"{url}@main").encoding["source"]
    assert source == f"{url}@snapshot:{icechunk.open(url).snapshot_id}"
    put(url, air(), 3)
    xr.testing.assert_equal(opened(source).load(), expected(1))
    assert "source" not in opened(icechunk.open(url)).encoding


# ---- guessing


def test_ours_is_opened_without_naming_the_engine(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = icechunk.open(url)
    for where in (url, f"{url}@v1", f"file://{url}", Path(url), session, session.store, icechunk.open_repository(url)):
        assert xr.open_dataset(where).t.shape == (12, 4, 5)
    monkeypatch.chdir(Path(url).parent)
    assert set(xr.open_datatree("air@v1").groups) == {"/", "/model", "/model/run"}


@pytest.mark.parametrize("spec", [1, 2])
def test_directories_of_both_formats(tmp_path: Path, spec: int) -> None:
    icechunk.open_repository(tmp_path / "air.zarr", create=True, spec_version=spec)
    assert BACKEND.guess_can_open(tmp_path / "air.zarr")
    assert BACKEND.guess_can_open(str(tmp_path / "air.zarr@v1")), "whether there is such a version is another question"


@pytest.mark.parametrize(
    "where",
    [
        "s3://bucket/air@main",
        "s3://bucket/air@v1.2",
        "gs://bucket/air@snapshot:1CECHNKREP0F1RSTCMT0",
        "az://container/air@tag:v1",
        "https://host/air@branch:main",
        "r2://bucket/air@main?account_id=x",
    ],
)
def test_urls_that_are_ours(where: str) -> None:
    assert BACKEND.guess_can_open(where)


@pytest.mark.parametrize(
    "where",
    [
        "s3://bucket/air",
        "s3://bucket/air@home.nc",
        "s3://bucket/air@home/data.zarr",
        "s3://key:secret@bucket/air",
        "s3://bucket/air.zarr?versionId=3",
        "https://host/dods/air",
        "https://user:word@host/air",
        "https://host/air@main",
        "memory://nobody/made/this",
        "gopher://host/air@main",
        "air.nc",
        "air@main",
        "",
        b"CDF\x01",
        memoryview(b"CDF\x01"),
        3,
        None,
    ],
)
def test_what_is_left_to_others(where: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not BACKEND.guess_can_open(where)


def test_directories_that_are_no_repositories(tmp_path: Path) -> None:
    air().to_zarr(tmp_path / "air.zarr", zarr_format=3, consolidated=False)
    (tmp_path / "git").mkdir()
    (tmp_path / "git" / "repo").write_bytes(b"something else")
    for name in ("air.zarr", "git", "nothing", "git/repo"):
        assert not BACKEND.guess_can_open(str(tmp_path / name))
    assert "t" in xr.open_dataset(tmp_path / "air.zarr", consolidated=False), "the engine for Zarr opens it"


def test_memory_is_ours_where_it_was_made() -> None:
    name = f"memory://test/{os.urandom(4).hex()}"
    assert not BACKEND.guess_can_open(name)
    icechunk.open(name, "a")
    assert BACKEND.guess_can_open(f"{name}@main")


# ---- how xarray finds it


def test_the_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["entry-points"]["xarray.backends"]["icechunk"].partition(":")
    assert getattr(importlib.import_module(module), name) is IcechunkBackendEntrypoint
    plugins.detect_parameters(BACKEND.open_dataset)  # refuses signatures that xarray cannot use


def test_installed_it_is_found(url: str, tmp_path: Path) -> None:
    """As installers leave it: a directory beside the package, with the entry points of the project."""
    info = tmp_path / "icechunk-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: icechunk\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        "[xarray.backends]\nicechunk = icechunk.xarray_backend:IcechunkBackendEntrypoint\n"
    )
    program = (
        "import sys, xarray as xr\n"
        "engine = xr.backends.list_engines()['icechunk']\n"
        "assert not {'icechunk.repository', 'icechunk.store'} & set(sys.modules), 'little is loaded before it is used'\n"
        "print(type(engine).__name__, *xr.open_dataset(sys.argv[1] + '@v1', engine='icechunk').t.shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, url],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "src")])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["IcechunkBackendEntrypoint", "12", "4", "5"]


def test_arguments_are_told() -> None:
    told = inspect.getdoc(IcechunkBackendEntrypoint) or ""
    for name in ("group", "branch", "tag", "snapshot_id", "as_of", "storage_options", "consolidated", "zarr_format"):
        assert f"`{name}`" in told


def test_arrays_at_the_root_stay_readable(tmp_path: Path) -> None:
    session = icechunk.open(tmp_path / "plain", "a")
    zarr.create_group(session.store).create_array("x", data=np.arange(3), dimension_names=["x"])
    session.commit("x")
    assert opened(tmp_path / "plain").x.values.tolist() == [0, 1, 2]
