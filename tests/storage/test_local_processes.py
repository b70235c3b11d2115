"""Local storages used by several processes at once, and by processes that are killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from icechunk._driver import run
from icechunk.storage.base import ABSENT, Unchanged
from icechunk.storage.local import LocalStorage
from icechunk.testing.storage_suite import increment, paths_in, read

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

PRELUDE = """
import os, pickle, signal, sys
from icechunk._driver import run
from icechunk.errors import PreconditionFailedError
from icechunk.storage.base import ABSENT, Unchanged
from icechunk.storage.local import LocalStorage
from icechunk.testing.storage_suite import increment
storage = LocalStorage(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def processes(count: int, body: str, root: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that run `body` with a `storage` at `root`, all let go at once."""
    begun = [
        subprocess.Popen(
            [sys.executable, "-c", PRELUDE + body, str(root), str(index)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    try:
        for process in begun:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in begun:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        yield begun
    finally:
        for process in begun:
            process.kill()
            process.communicate()


def results(begun: list[subprocess.Popen[str]]) -> list[str]:
    """What the processes printed; all must end well."""
    output = [process.communicate()[0] for process in begun]
    assert [process.returncode for process in begun] == [0] * len(begun)
    return output


def test_no_update_of_any_process_is_lost(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    run(storage.put("counter", b"0"))
    with processes(8, "for _ in range(50): increment(storage, 'counter')", tmp_path) as begun:
        results(begun)
    assert run(read(storage, "counter")) == b"400"
    assert run(paths_in(storage)) == ["counter"]


def test_each_name_is_created_by_one_process(tmp_path: Path) -> None:
    body = """
for number in range(100):
    try:
        run(storage.put(f"refs/{number}/ref", sys.argv[2].encode(), only_if=ABSENT))
        print(number)
    except PreconditionFailedError:
        pass
"""
    with processes(8, body, tmp_path) as begun:
        won = [[int(number) for number in output.split()] for output in results(begun)]
    assert sorted(number for numbers in won for number in numbers) == list(range(100))
    storage = LocalStorage(tmp_path)
    for index, numbers in enumerate(won):
        for number in numbers:
            assert run(read(storage, f"refs/{number}/ref")) == str(index).encode()


def test_processes_killed_at_random(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    run(storage.put("counter", b"0"))
    body = """
for number in range(10**9):
    run(storage.put(f"chunks/{sys.argv[2]}-{number}", b"c" * 50_000))
    increment(storage, "counter")
    print(number, flush=True)
"""
    dice = random.Random(7)
    acknowledged = killed = 0
    for _ in range(2):
        with processes(3, body, tmp_path) as begun:
            for process in begun:
                assert process.stdout is not None
                lines = dice.randrange(1, 12)
                for _ in range(lines):
                    assert process.stdout.readline()
                acknowledged += lines
                process.kill()
                killed += 1
            acknowledged += sum(len(list(process.stdout or ())) for process in begun)
    reached = int(run(read(storage, "counter")))
    assert acknowledged <= reached <= acknowledged + killed
    assert increment(storage, "counter") == 0, "the lock is free"
    for path in run(paths_in(storage, "chunks/")):
        assert run(read(storage, path)) == b"c" * 50_000


@posix
def test_killed_at_every_step(tmp_path: Path) -> None:
    """A process dies just before the n-th thing that it asks of the system, for every n."""
    storage = LocalStorage(tmp_path)
    version = run(storage.put("ref", b"0", only_if=ABSENT))
    step = 0
    while True:
        step += 1
        status = in_child(die_at, step, tmp_path)
        found, version = run(storage.get("ref"))
        assert bytes(found) in (b"%d" % (step - 1), b"%d" % step)
        if bytes(found) == b"%d" % step:
            assert run(read(storage, f"chunks/{step}")) == b"chunk"
        # whatever it left, others go on at once
        run(storage.put("ref", b"%d" % step, only_if=Unchanged(version)))
        if status == 0:
            break
    assert step > 15
    listed = set(run(paths_in(storage)))
    assert listed <= {"ref", *(f"{kind}/{number}" for kind in ("chunks", "tags") for number in range(step + 1))}
    left = {path.name for path in tmp_path.rglob("*") if path.is_file() and "#" in path.name}
    assert all(name.rpartition("#")[2].isdecimal() for name in left)


def publish(root: Path, step: int) -> None:
    storage = LocalStorage(root)
    run(storage.put(f"chunks/{step}", b"chunk"))
    _, version = run(storage.get("ref"))
    run(storage.put("ref", b"%d" % step, only_if=Unchanged(version)))
    run(storage.put(f"tags/{step}", b"", only_if=ABSENT))


def die_at(step: int, root: Path) -> None:
    """Publish, but send this process SIGKILL just before its `step`-th call of the system."""
    left = step

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for name in ("open", "close", "read", "write", "lseek", "link", "replace", "rename", "unlink", "mkdir", "fstat"):
        setattr(os, name, counted(getattr(os, name)))
    publish(root, step)


def in_child(work: Callable[..., object], *args: object) -> int:
    """Do `work(*args)` in a forked child; its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(20)
            work(*args)
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@posix
def test_a_child_forked_while_a_thread_writes(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    run(storage.put("counter", b"0"))
    stop = threading.Event()
    done: list[int] = []

    def write() -> None:
        while not stop.is_set():
            done.append(increment(storage, "counter"))

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            assert in_child(increment, storage, "counter") == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert int(run(read(storage, "counter"))) == 10 + len(done)


@posix
def test_a_child_forked_while_the_lock_is_held_does_not_keep_it(tmp_path: Path) -> None:
    body = """
with storage._site.lock.held():
    if os.fork() == 0:
        print("child", os.getpid(), flush=True)
        signal.pause()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    run(LocalStorage(tmp_path).put("counter", b"0"))
    with processes(1, body, tmp_path) as (process,):
        assert process.stdout is not None
        child = int(process.stdout.readline().split()[1])
        process.wait()
        try:
            assert in_child(increment, LocalStorage(tmp_path), "counter") == 0
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_storage_can_be_sent_to_another_process(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "root")
    run(storage.put("a", b"from here"))
    (tmp_path / "pickled").write_bytes(pickle.dumps(storage))
    body = """
twin = pickle.loads(open(sys.argv[1] + "/pickled", "rb").read())
assert bytes(run(twin.get("a"))[0]) == b"from here"
run(twin.put("b", b"from there", only_if=ABSENT))
"""
    with processes(1, body, tmp_path) as begun:
        results(begun)
    assert run(read(storage, "b")) == b"from there"


def test_waiting_for_the_lock_leaves_the_event_loop_alone(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    version = run(storage.put("ref", b"0", only_if=ABSENT))

    async def scenario() -> None:
        with storage._site.lock.held():
            waiting = asyncio.ensure_future(storage.put("ref", b"1", only_if=Unchanged(version)))
            for _ in range(20):  # the loop goes on: other requests are answered
                assert await read(storage, "ref") == b"0"
            assert not waiting.done()
        await waiting

    asyncio.run(scenario())
    assert run(read(storage, "ref")) == b"1"
