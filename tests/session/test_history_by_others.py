"""A repository that has been open for long, while others look after its history."""

from datetime import UTC, datetime, timedelta

import pytest

import icechunk
from icechunk.testing.counting import CountingStorage

from .helpers import array_json, put


@pytest.fixture
def counting(storage):
    return CountingStorage(storage)


@pytest.fixture
def open_for_long(counting, storage, spec):
    icechunk.Repository.create(storage, spec_version=spec)
    repo = icechunk.Repository.open(counting)
    for number in range(6):
        session = repo.writable_session("main")
        put(session.store, f"a{number}/zarr.json", array_json())
        session.commit(f"c{number}")
    assert len(history(repo)) == 7
    return repo


def history(repo):
    return [info.message for info in repo.ancestry(branch="main")]


def expire(storage, keep, *, collect):
    other = icechunk.Repository.open(storage)
    times = [info.written_at for info in other.ancestry(branch="main")]
    other.expire_snapshots(times[keep - 1])
    if collect:
        other.garbage_collect(datetime.now(UTC) + timedelta(days=1))


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_what_others_collected_is_not_shown(open_for_long, storage, keep):
    times = [info.written_at for info in open_for_long.ancestry(branch="main")]
    expire(storage, keep, collect=True)
    expected = [*(f"c{number}" for number in (5, 4, 3, 2)[:keep]), "Repository initialized"]
    assert history(open_for_long) == expected
    for info in open_for_long.ancestry(branch="main"):
        assert open_for_long.readonly_session(snapshot_id=info.id).snapshot_id == info.id
    found = open_for_long.readonly_session("main", as_of=times[keep])
    assert found.snapshot_id == "1CECHNKREP0F1RSTCMT0"


def test_what_others_expired_can_be_read_as_long_as_it_is_shown(open_for_long, storage):
    expire(storage, 2, collect=False)
    for info in open_for_long.ancestry(branch="main"):
        assert open_for_long.readonly_session(snapshot_id=info.id).snapshot_id == info.id


@pytest.mark.parametrize("collect", [False, True])
def test_committing_on_top_of_what_others_expired(open_for_long, storage, collect):
    session = open_for_long.writable_session("main")
    put(session.store, "mine/zarr.json", array_json())
    other = icechunk.Repository.open(storage).writable_session("main")
    put(other.store, "theirs/zarr.json", array_json())
    other.commit("theirs")
    expire(storage, 2, collect=collect)
    session.commit("mine", rebase_with=icechunk.ConflictDetector())
    assert history(open_for_long)[:3] == ["mine", "theirs", "c5"]
    names = open_for_long.readonly_session("main").store
    assert {"mine", "theirs", "a0"} <= set(names.list_dir(""))


def test_a_history_that_is_known_costs_one_look(open_for_long, counting, spec):
    counting.reset()
    history(open_for_long)
    assert sum(counting.counts.values()) <= 2  # the branch, or the repo file; and whether the oldest is still there
