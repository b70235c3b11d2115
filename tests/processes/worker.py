"""One of several processes that work on a repository in a directory: `python worker.py DIRECTORY SPEC NAME JOB [N]`.

It says `ready`, waits for a line on standard input, does its job, and prints a line for everything that it was told is
done. Errors that the job may meet are printed as `error KIND`; any other ends the process with a traceback.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

import icechunk
from icechunk._driver import run
from tests.session.helpers import array_json, big, buffer

SIDE = 64
"""The array has so many chunks along each of its two axes; process and number of a commit are the coordinates."""


def say(*words: object) -> None:
    print(*words, flush=True)


def write(session: icechunk.Session, key: str, data: bytes) -> None:
    run(session.store.set(key, buffer(data)))


def prepare(directory: str, spec: int) -> None:
    """A repository with one array, for the processes to write to."""
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(directory), spec_version=spec)
    session = repo.writable_session("main")
    write(session, "a/zarr.json", array_json((SIDE, SIDE)))
    session.commit("array")


def content(name: str, number: int) -> bytes:
    """What commit `number` of a process writes: small chunks and large ones in turn."""
    return f"{name}:{number}".encode() if number % 2 else big(int(name), 1000 + number)


def commit(repo: icechunk.Repository, name: str, count: int) -> None:
    for number in range(count):
        session = repo.writable_session("main")
        write(session, f"a/c/{name}/{number}", content(name, number))
        snapshot = session.commit(f"{name}:{number}", rebase_with=icechunk.ConflictDetector())
        say(name, number, snapshot)


def commit_plainly(repo: icechunk.Repository, name: str, count: int) -> None:
    """Without a solver: whoever is second is told so, and does it again."""
    for number in range(count):
        while True:
            session = repo.writable_session("main")
            write(session, f"a/c/{name}/{number}", content(name, number))
            try:
                snapshot = session.commit(f"{name}:{number}")
            except icechunk.ConflictError as error:
                assert error.kind == "commit-conflict"
                session.discard_changes()
                continue
            say(name, number, snapshot)
            break


def commit_to_own_branch(repo: icechunk.Repository, name: str, count: int) -> None:
    repo.create_branch(f"branch-{name}", repo.lookup_branch("main"))
    for number in range(count):
        session = repo.writable_session(f"branch-{name}")
        write(session, f"a/c/{name}/{number}", content(name, number))
        say(name, number, session.commit(f"{name}:{number}"))


def create(directory: str, spec: int) -> None:
    try:
        icechunk.Repository.create(icechunk.local_filesystem_storage(directory), spec_version=spec)
    except icechunk.IcechunkError as error:
        say("error", error.kind)
    else:
        say("created")


def open_or_create(directory: str, spec: int) -> None:
    repo = icechunk.Repository.open_or_create(icechunk.local_filesystem_storage(directory), create_version=spec)
    say("opened", repo.lookup_branch("main"))


def refs(repo: icechunk.Repository, name: str, count: int) -> None:
    """Try to be the first to make each of many tags and branches."""
    tip = repo.lookup_branch("main")
    for number in range(count):
        for kind, make in (("tag", repo.create_tag), ("branch", repo.create_branch)):
            attempt(lambda make=make, number=number: make(f"n{number}", tip), kind, number)


def attempt(make: Callable[[], None], *words: object) -> None:
    try:
        make()
    except icechunk.IcechunkError as error:
        say("error", error.kind)
    else:
        say(*words)


def look_after(repo: icechunk.Repository, name: str, count: int) -> None:
    """Read everything, and collect what nobody needs, again and again while others commit."""
    from datetime import UTC, datetime, timedelta

    for number in range(count):
        store = repo.readonly_session("main").store
        for key in store.list():
            assert run(store.get(key)) is not None, key
        history = [info.message for info in repo.ancestry(branch="main")]
        assert len(set(history)) == len(history)
        repo.garbage_collect(datetime.now(UTC) - timedelta(hours=1))
        say(name, number, len(history))


ON_STORAGE = {"create": create, "open_or_create": open_or_create}
ON_REPOSITORY = {job.__name__: job for job in (commit, commit_plainly, commit_to_own_branch, refs, look_after)}


def main(directory: str, spec: str, name: str, job: str, count: str = "1") -> None:
    warnings.simplefilter("ignore", icechunk.UncommittedChangesWarning)
    say("ready")
    sys.stdin.readline()
    if job in ON_STORAGE:
        ON_STORAGE[job](directory, int(spec))
    else:
        ON_REPOSITORY[job](icechunk.Repository.open(icechunk.local_filesystem_storage(directory)), name, int(count))


if __name__ == "__main__":
    main(*sys.argv[1:])
