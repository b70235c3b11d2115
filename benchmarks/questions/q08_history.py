"""How long does it take to look back, and to catch up: ancestry, differences, rebasing?

Histories have 2,000 commits of one chunk each; the difference is over 200 of them, the rebase over 100. For these two each
round is a new process, which has done the same before in a small repository: imports do not count.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.fixtures import GROUP, array_document, create, open_at, set_keys, small
from benchmarks.harness import Fixture, Row, Stopwatch


def history(path: Path, commits: int, spec: int = 1) -> None:
    repo = create(path, spec)
    session = repo.writable_session("main")
    set_keys(session.store, {"zarr.json": GROUP, "a/zarr.json": array_document((10_000,), (1,))})
    session.commit("array")
    for number in range(commits):
        session = repo.writable_session("main")
        set_keys(session.store, {f"a/c/{number}": b"chunk"})
        session.commit(f"chunk {number}")


def ancestry(place: Path) -> float:
    with Stopwatch() as watch:
        found = sum(1 for _ in open_at(place).ancestry(branch="main"))
    assert found > 2_000
    return watch.seconds


def practise() -> None:
    """A difference and a rebase."""
    import icechunk

    repo = small(None, commits=3)
    ids = [info.id for info in repo.ancestry(branch="main")]
    repo.diff(from_snapshot_id=ids[-1], to_branch="main")
    session, other = (repo.writable_session("main") for _ in range(2))
    set_keys(session.store, {"a1/c/1": b"ours"})
    set_keys(other.store, {"a2/c/1": b"theirs"})
    other.commit("theirs")
    session.rebase(icechunk.ConflictDetector())
    session.commit("ours")


def difference(place: Path) -> float:
    practise()
    repo = open_at(place)
    ids = [info.id for _, info in zip(range(201), repo.ancestry(branch="main"), strict=False)]
    repo = open_at(place)
    with Stopwatch() as watch:
        found = repo.diff(from_snapshot_id=ids[-1], to_branch="main")
    assert len(found.updated_chunks["/a"]) == 200
    return watch.seconds


def rebase(place: Path) -> float:
    import icechunk

    practise()
    repo = open_at(place)
    ids = [info.id for _, info in zip(range(101), repo.ancestry(branch="main"), strict=False)]
    tip = ids[0]
    repo.reset_branch("main", ids[-1])
    session = repo.writable_session("main")
    set_keys(session.store, {"a/c/9999": b"ours"})
    repo.reset_branch("main", tip)
    with Stopwatch() as watch:
        session.rebase(icechunk.ConflictDetector())
    session.commit("rebased")
    repo.reset_branch("main", tip)  # as it was, for the next round
    return watch.seconds


def _rows(spec: int) -> list[Row]:
    fixture = Fixture("history", history, {"commits": 2_000, "spec": spec})
    more = {"fixture": fixture, "needs": "1.1.21" if spec == 1 else "2.3.0"}
    return [
        Row(f"ancestry-{spec}", f"open + ancestry of 2,000 commits, disk, format {spec}", ancestry, **more),
        Row(
            f"diff-{spec}",
            f"difference over 200 commits, disk, format {spec}",
            difference,
            fresh=True,
            memory=True,
            **more,
        ),
        Row(f"rebase-{spec}", f"rebase over 100 commits, disk, format {spec}", rebase, fresh=True, memory=True, **more),
    ]


ROWS = [*_rows(1), *_rows(2)]
