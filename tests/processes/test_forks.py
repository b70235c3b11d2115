"""Processes that are forked off while chunks lie in packs that are not stored: whoever writes on reads what he wrote.

Parent and child begin with the same memory. If both went on to fill the same pack, each would put its chunks at the same
places of the same object.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

import icechunk
from icechunk._driver import run
from tests.invariants import assert_whole, contents
from tests.packs import PACKED, small_packs
from tests.processes.worker import write
from tests.session.helpers import array_json, big, get

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here"),
    pytest.mark.filterwarnings(
        "ignore::icechunk.UncommittedChangesWarning",
        "ignore::icechunk.MergeOverlapWarning",
        "ignore:This process:DeprecationWarning",  # of forking where there are threads
    ),
]
PATIENCE = 60.0
"""Seconds after which a process hangs."""
SIDE = 16


@pytest.fixture(params=[1, 2], ids=["spec1", "spec2"])
def repo(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> icechunk.Repository:
    small_packs(monkeypatch, chunks=4)
    storage = icechunk.local_filesystem_storage(str(tmp_path))
    repo = icechunk.Repository.create(storage, PACKED, spec_version=request.param)
    session = repo.writable_session("main")
    write(session, "a/zarr.json", array_json((SIDE, SIDE)))
    session.commit("array")
    return repo


@contextmanager
def forked_off(act: Callable[[], Any]) -> Iterator[Connection]:
    """A child that acts and sends what that returned; it must end well, and is ended where it hangs."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=lambda: there.send(act()))
    process.start()
    there.close()
    try:
        yield here
        process.join(PATIENCE)
        assert process.exitcode == 0, "the child failed" if process.exitcode is not None else "the child hangs"
    finally:
        if process.is_alive():
            process.kill()
        process.join()


def answer(here: Connection) -> Any:
    assert here.poll(PATIENCE), "the child hangs"
    return here.recv()


def chunk(who: int, number: int) -> tuple[str, bytes]:
    return f"a/c/{who}/{number}", big(1 + who * SIDE + number)


def write_all(session: icechunk.Session, who: int, numbers: range) -> None:
    for number in numbers:
        write(session, *chunk(who, number))


def assert_reads(session: icechunk.Session, who: int, numbers: range) -> None:
    for number in numbers:
        key, data = chunk(who, number)
        assert get(session.store, key) == data, key


def assert_holds(repo: icechunk.Repository, *parts: tuple[int, range], branch: str = "main") -> None:
    """Exactly these chunks are on a branch, as they were written."""
    run(assert_whole(repo.storage))
    found = run(contents(icechunk.Repository.open(repo.storage), branch))
    expected = dict(chunk(who, number) for who, numbers in parts for number in numbers)
    assert {key: data for key, data in found.items() if "/c/" in key} == expected


BEFORE, PARENT, CHILD, GRANDCHILD = range(4)


def test_both_go_on_with_a_fork_and_both_parts_are_merged(repo: icechunk.Repository) -> None:
    session = repo.writable_session("main")
    fork = session.fork()
    write_all(fork, BEFORE, range(3))  # one alone, two in a pack that is open

    def child() -> bytes:
        write_all(fork, CHILD, range(7))
        assert_reads(fork, BEFORE, range(3))
        assert_reads(fork, CHILD, range(7))
        return pickle.dumps(fork)

    with forked_off(child) as here:
        write_all(fork, PARENT, range(6))
        ours = pickle.dumps(fork)
        theirs = answer(here)
    assert_reads(fork, PARENT, range(6))
    session.merge(pickle.loads(ours), pickle.loads(theirs))
    session.commit("both")
    assert_holds(repo, (BEFORE, range(3)), (PARENT, range(6)), (CHILD, range(7)))


def test_a_child_of_a_child_goes_on_too(repo: icechunk.Repository) -> None:
    session = repo.writable_session("main")
    fork = session.fork()
    write_all(fork, BEFORE, range(3))

    def grandchild() -> bytes:
        write_all(fork, GRANDCHILD, range(2))
        return pickle.dumps(fork)

    def child() -> tuple[bytes, bytes]:
        write_all(fork, CHILD, range(2))
        with forked_off(grandchild) as here:
            write_all(fork, CHILD, range(2, 4))
            return pickle.dumps(fork), answer(here)

    with forked_off(child) as here:
        write_all(fork, PARENT, range(2))
        parts = [pickle.dumps(fork), *answer(here)]
    session.merge(*map(pickle.loads, parts))
    session.commit("all")
    assert_holds(repo, (BEFORE, range(3)), (PARENT, range(2)), (CHILD, range(4)), (GRANDCHILD, range(2)))


def test_the_parent_commits_and_the_child_reads_what_is_his(repo: icechunk.Repository) -> None:
    """The child's copy of the session is one of its own, which may still become a snapshot."""
    session = repo.writable_session("main")
    write_all(session, BEFORE, range(3))
    committed = multiprocessing.get_context("fork").Event()

    def child() -> str:
        write_all(session, CHILD, range(3))
        assert committed.wait(PATIENCE)
        for _ in range(2):
            assert_reads(session, BEFORE, range(3))
            assert_reads(session, CHILD, range(3))
            write_all(session, CHILD, range(3, 6))
        return session.flush("the child's")

    with forked_off(child) as here:
        write_all(session, PARENT, range(3))
        session.commit("the parent's")
        committed.set()
        repo.create_branch("child", answer(here))
    assert_reads(session, BEFORE, range(3))
    assert_holds(repo, (BEFORE, range(3)), (PARENT, range(3)))
    assert_holds(repo, (BEFORE, range(3)), (CHILD, range(6)), branch="child")


def test_a_child_that_ends_takes_nothing_with_it(repo: icechunk.Repository) -> None:
    session = repo.writable_session("main")
    write_all(session, BEFORE, range(3))

    def child() -> None:
        write_all(session, CHILD, range(3))
        session.discard_changes()

    with forked_off(child) as here:
        assert answer(here) is None
    write_all(session, BEFORE, range(3, 5))
    session.commit("all of the parent's")
    assert_holds(repo, (BEFORE, range(5)))


def test_forking_while_threads_fill_packs(repo: icechunk.Repository) -> None:
    """Wherever they are just then, the child can write; and no chunk of theirs is lost."""
    session = repo.writable_session("main")
    fork = session.fork()
    stop = threading.Event()
    errors: list[BaseException] = []

    def hammer(number: int) -> None:
        try:
            write_all(session, number, range(SIDE))
            while not stop.is_set():
                write_all(session, number, range(SIDE))
        except BaseException as error:
            errors.append(error)

    def child() -> bytes:
        write_all(fork, 9, range(5))
        assert_reads(fork, 9, range(5))
        return pickle.dumps(fork)

    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(8):
            with forked_off(child) as here:
                arrived = pickle.loads(answer(here))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors
    session.merge(arrived)
    session.commit("all")
    assert_holds(repo, *[(number, range(SIDE)) for number in range(3)], (9, range(5)))
