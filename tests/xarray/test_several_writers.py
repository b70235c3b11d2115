"""Jobs that know nothing of each other write parts of one dataset, and commit with a solver."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

import icechunk
from icechunk.xarray import to_icechunk

SOLVER = icechunk.ConflictDetector()
TIMES = 12


def months(start: int, stop: int, value: float) -> xr.Dataset:
    """Some months of a dataset that has one chunk for every three of them."""
    shape = (stop - start, 4)
    return xr.Dataset({"ice": (("time", "x"), np.full(shape, value))})


@pytest.fixture(params=[1, 2], ids=["spec1", "spec2"])
def repo(request: pytest.FixtureRequest) -> icechunk.Repository:
    repo = icechunk.Repository.create(icechunk.in_memory_storage(), spec_version=request.param)
    session = repo.writable_session("main")
    to_icechunk(months(0, TIMES, 0), session, encoding={"ice": {"chunks": (3, 4)}})
    session.commit("a year")
    return repo


def stored(repo: icechunk.Repository) -> list[float]:
    data = xr.open_zarr(repo.readonly_session("main").store, consolidated=False, chunks=None)
    return data["ice"].values[:, 0].tolist()


Write = Callable[[icechunk.Session], None]


def region(start: int, stop: int, value: float, **options: bool) -> Write:
    def write(session: icechunk.Session) -> None:
        to_icechunk(months(start, stop, value), session, region={"time": slice(start, stop)}, **options)

    return write


def append(count: int, value: float) -> Write:
    def write(session: icechunk.Session) -> None:
        to_icechunk(months(0, count, value), session, append_dim="time")

    return write


def both(repo: icechunk.Repository, first: Write, second: Write) -> icechunk.Session:
    """Two sessions begin together; the second is returned once the first has committed."""
    one, two = repo.writable_session("main"), repo.writable_session("main")
    first(one)
    second(two)
    one.commit("first")
    return two


def test_regions_of_neighbouring_chunks(repo: icechunk.Repository) -> None:
    both(repo, region(0, 3, 1), region(3, 9, 2)).commit("second", rebase_with=SOLVER)
    assert stored(repo) == [1.0] * 3 + [2.0] * 6 + [0.0] * 3


@pytest.mark.parametrize(
    "solver", [SOLVER, icechunk.BasicConflictSolver(on_chunk_conflict=icechunk.VersionSelection.Fail)]
)
def test_regions_that_share_a_chunk(repo: icechunk.Repository, solver: icechunk.ConflictSolver) -> None:
    session = both(repo, region(0, 2, 1, safe_chunks=False), region(2, 6, 2, safe_chunks=False))
    with pytest.raises(icechunk.RebaseFailedError, match="Chunk double update at /ice") as caught:
        session.commit("second", rebase_with=solver)
    assert [conflict.conflicted_chunks for conflict in caught.value.conflicts] == [[[0, 0]]]
    assert stored(repo) == [1.0] * 2 + [0.0] * 10
    session.discard_changes()
    session = repo.writable_session("main")  # as the error says: again, on top of the first
    region(2, 6, 2, safe_chunks=False)(session)
    session.commit("second")
    assert stored(repo) == [1.0] * 2 + [2.0] * 4 + [0.0] * 6


@pytest.mark.parametrize("counts", [(3, 3), (3, 6), (1, 2)])
def test_appending_at_the_same_time(repo: icechunk.Repository, counts: tuple[int, int]) -> None:
    session = both(repo, append(counts[0], 1), append(counts[1], 2))
    with pytest.raises(icechunk.RebaseFailedError) as caught:
        session.commit("second", rebase_with=SOLVER)
    kinds = {conflict.conflict_type for conflict in caught.value.conflicts}
    assert icechunk.ConflictType.ZarrMetadataDoubleUpdate in kinds
    assert stored(repo) == [0.0] * 12 + [1.0] * counts[0]
    session.discard_changes()
    session = repo.writable_session("main")
    append(counts[1], 2)(session)
    session.commit("second")
    assert stored(repo) == [0.0] * 12 + [1.0] * counts[0] + [2.0] * counts[1]


@pytest.mark.parametrize("append_first", [False, True])
def test_appending_while_a_region_is_written(repo: icechunk.Repository, append_first: bool) -> None:
    writes = [append(3, 1), region(0, 3, 2)]
    session = both(repo, *(writes if append_first else writes[::-1]))
    if append_first:  # its metadata changed below the chunks: only the solver can say that they still mean the same
        with pytest.raises(icechunk.RebaseFailedError, match="Chunks updated in updated array"):
            session.commit("second", rebase_with=SOLVER)

        class OursStand(icechunk.ConflictSolver):
            def resolve(self, conflict: icechunk.Conflict) -> icechunk.VersionSelection:
                return icechunk.VersionSelection.UseOurs

        session.commit("second", rebase_with=OursStand())
    else:
        session.commit("second", rebase_with=SOLVER)
    assert stored(repo) == [2.0] * 3 + [0.0] * 9 + [1.0] * 3


def test_forks_that_append_and_write_regions(repo: icechunk.Repository) -> None:
    session = repo.writable_session("main")
    more, early = session.fork(), session.fork()
    append(3, 1)(more)
    region(0, 3, 2)(early)
    session.merge(early, more)
    session.commit("both")
    assert stored(repo) == [2.0] * 3 + [0.0] * 9 + [1.0] * 3
