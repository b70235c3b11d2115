"""Observed and modelled data as their makers published them, made virtual by VirtualiZarr's own writer and parser."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import icechunk
from icechunk.xarray import to_icechunk

virtualizarr = pytest.importorskip("virtualizarr")
iris_sample_data = pytest.importorskip("iris_sample_data")
hvsampledata = pytest.importorskip("hvsampledata")

IRIS = Path(iris_sample_data.path)
NEMO = sorted((IRIS / "NEMO").glob("*.nc"))
FILES = {
    "sea surface temperature": IRIS / "ostia_monthly.nc",
    "air temperature, 240 years": IRIS / "A1B_north_america.nc",
    "ocean grid": IRIS / "orca2_votemper.nc",
    "southern oscillation": IRIS / "SOI_Darwin.nc",
    "NCEP air": Path(hvsampledata.__file__).parent / "_data" / "air_temperature_small.nc",
    "ocean model": NEMO[0],
}


def registry() -> Any:
    from obspec_utils.registry import ObjectStoreRegistry
    from obstore.store import LocalStore

    return ObjectStoreRegistry({"file://": LocalStore()})


def virtual(path: Path, loadable: list[str]) -> xr.Dataset:
    from virtualizarr.parsers import HDFParser

    return virtualizarr.open_virtual_dataset(
        f"file://{path}", registry=registry(), parser=HDFParser(), loadable_variables=loadable, decode_times=False
    )


def coordinates(path: Path) -> list[str]:
    with xr.open_dataset(path, engine="h5netcdf", decode_times=False) as data:
        return [str(name) for name in data.dims if name in data.variables]


def repository(place: Path, *sources: Path) -> icechunk.Repository:
    """A repository in `place` that may read what lies beside the sources."""
    config = icechunk.RepositoryConfig.default()
    prefixes = {f"file://{source.parent}/" for source in sources}
    for prefix in prefixes:
        store = icechunk.local_filesystem_store(prefix.removeprefix("file://"))
        config.set_virtual_chunk_container(icechunk.VirtualChunkContainer(prefix, store))
    return icechunk.Repository.create(
        icechunk.local_filesystem_storage(place), config, icechunk.containers_credentials(dict.fromkeys(prefixes))
    )


def their_writer(dataset: xr.Dataset, session: icechunk.Session, **options: Any) -> None:
    dataset.vz.to_icechunk(session.store, **options)


def our_writer(dataset: xr.Dataset, session: icechunk.Session, **options: Any) -> None:
    to_icechunk(dataset, session, **options)


Writer = Callable[..., None]


def read(repo: icechunk.Repository) -> xr.Dataset:
    store = repo.readonly_session("main").store
    return xr.open_zarr(store, consolidated=False, chunks=None, decode_times=False).load()


@pytest.mark.parametrize("writer", [their_writer, our_writer])
@pytest.mark.parametrize("name", FILES)
def test_a_file_becomes_arrays_and_stays_where_it_is(tmp_path: Path, name: str, writer: Writer) -> None:
    path = FILES[name]
    repo = repository(tmp_path / "repo", path)
    session = repo.writable_session("main")
    writer(virtual(path, coordinates(path)), session)
    session.commit(name)
    with xr.open_dataset(path, engine="h5netcdf", decode_times=False) as expected:
        found = read(repo)
        assert set(found.variables) == set(expected.variables)
        for each in expected.variables:
            np.testing.assert_array_equal(found[each].values, expected[each].values, err_msg=str(each))
    assert repo.readonly_session("main").all_virtual_chunk_locations()


@pytest.mark.parametrize("writer", [their_writer, our_writer])
def test_months_are_appended_one_commit_each(tmp_path: Path, writer: Writer) -> None:
    repo = repository(tmp_path / "repo", *NEMO)
    keep = ["votemper"]
    for number, path in enumerate(NEMO):
        month = virtual(path, coordinates(path))
        month = month.drop_vars([each for each in month.variables if "time_counter" not in month[each].dims])
        month = month[list(month.data_vars)]
        session = repo.writable_session("main")
        writer(month, session, **({"append_dim": "time_counter"} if number else {}))
        session.commit(path.name)
        keep = [str(each) for each in month.data_vars]
    found = read(repo)
    with xr.open_mfdataset(
        NEMO, engine="h5netcdf", combine="nested", concat_dim="time_counter", decode_times=False, data_vars="minimal",
        coords="minimal", compat="override",
    ) as expected:  # fmt: skip
        for each in keep:
            np.testing.assert_array_equal(found[each].values, expected[each].values, err_msg=each)
    assert [one.message for one in repo.ancestry(branch="main")][:-1] == [path.name for path in NEMO[::-1]]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="this VirtualiZarr has no parser of Icechunk repositories")
def test_their_parser_reads_references_back(tmp_path: Path) -> None:
    from obspec_utils.registry import ObjectStoreRegistry
    from obstore.store import LocalStore
    from virtualizarr.parsers import IcechunkParser

    path = FILES["sea surface temperature"]
    repo = repository(tmp_path / "repo", path)
    session = repo.writable_session("main")
    their_writer(virtual(path, coordinates(path)), session)
    session.commit("virtual")
    again = virtualizarr.open_virtual_dataset(
        f"file://{tmp_path}/repo",
        registry=ObjectStoreRegistry({"file://": LocalStore("/")}),
        parser=IcechunkParser(),
        loadable_variables=coordinates(path),
        decode_times=False,
    )
    copy = repository(tmp_path / "copy", path)
    session = copy.writable_session("main")
    their_writer(again, session)
    session.commit("the same references")
    assert copy.readonly_session("main").all_virtual_chunk_locations()
    xr.testing.assert_identical(read(copy), read(repo))
