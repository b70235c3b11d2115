"""One session used by many at once: threads and tasks that write, read, list, fork and commit, and are cancelled."""

import asyncio
import pickle
import threading

import pytest

import icechunk
from icechunk._driver import run
from icechunk.storage.wrappers import InterceptingStorage

from .helpers import PROTOTYPE, array_json, big, buffer, get, group_json, keys, put, with_array

pytestmark = pytest.mark.filterwarnings("ignore:a session with uncommitted changes")


class Between(InterceptingStorage):
    """Does something of the test's in the middle of a request, once."""

    def __init__(self, inner):
        super().__init__(inner)
        self._todo = []

    def before(self, verb, path, action):
        """Call `action` before the next request of this kind for something at or below `path` is made."""
        self._todo.append((verb, path, action, None))

    def after(self, verb, path, action):
        """Call `action` once the request was made, before its answer arrives."""
        self._todo.append((verb, path, None, action))

    async def intercept(self, call, perform):
        due = [one for one in self._todo if one[0] == call.verb and call.paths[0].startswith(one[1])][:1]
        for one in due:
            self._todo.remove(one)
            await self._act(one[2])
        result = await perform()
        for one in due:
            await self._act(one[3])
        return result

    async def _act(self, action):
        outcome = action() if action is not None else None
        if asyncio.iscoroutine(outcome):
            await outcome


@pytest.fixture
def storage():
    return Between(icechunk.in_memory_storage())


@pytest.fixture
def repo(storage, spec):
    return icechunk.Repository.create(storage, spec_version=spec)


def messages(repo):
    return [info.message for info in repo.ancestry(branch="main")]


def on_a_thread(action):
    thread = threading.Thread(target=action)
    thread.start()
    thread.join(10)


# --- what goes on while a commit is under way ---------------------------------------------------------------------------


def test_whoever_reads_while_a_commit_ends_sees_the_changes(repo, monkeypatch):
    with_array(repo)
    session = repo.writable_session("main")
    put(session.store, "a/c/0/0", b"old")
    session.commit("old")
    session = repo.writable_session("main")
    put(session.store, "a/c/0/1", b"new")
    run(session.store.delete("a/c/0/0"))
    assets = session._workspace.assets
    fetch = assets.manifest

    async def overtaken(manifest_id, size=None):
        monkeypatch.undo()
        on_a_thread(lambda: session.commit("new"))
        return await fetch(manifest_id, size)

    monkeypatch.setattr(assets, "manifest", overtaken)
    assert keys(session.store) == ["a/c/0/1", "a/zarr.json", "zarr.json"]
    assert session.read_only


def test_of_two_commits_at_once_one_has_nothing_to_commit(repo):
    session = repo.writable_session("main")
    put(session.store, "g/zarr.json", group_json())
    core = session._core
    make_writer = core.commit_writer

    def overtaken():
        core.commit_writer = make_writer
        on_a_thread(lambda: session.commit("first"))
        return make_writer()

    core.commit_writer = overtaken
    with pytest.raises(icechunk.ReadOnlyError):
        session.commit("second")
    assert messages(repo) == ["first", "Repository initialized"]


def test_no_move_is_lost_in_a_commit(repo, storage):
    with_array(repo)
    session = repo.rearrange_session("main")
    session.move("/a", "/b")
    refused = []

    def move():
        with pytest.raises(icechunk.SessionStateError) as caught:
            session.move("/b", "/c")
        refused.append(caught.value.kind)

    storage.before("put", "snapshots/", lambda: on_a_thread(move))
    session.commit("moved")
    assert refused == ["not-allowed"]
    assert keys(repo.readonly_session("main").store) == ["b/zarr.json", "zarr.json"]


# --- chunks on their way to storage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("meanwhile", ["delete", "replace", "change of rank"])
@pytest.mark.parametrize("committed", [True, False])
def test_a_chunk_does_not_bring_its_array_back(repo, storage, meanwhile, committed):
    session = repo.writable_session("main")
    put(session.store, "zarr.json", group_json())
    put(session.store, "a/zarr.json", array_json())
    if committed:
        session.commit("array")
        session = repo.writable_session("main")

    def change():
        if meanwhile != "change of rank":
            run(session.store.delete_dir("a"))
        if meanwhile != "delete":
            put(session.store, "a/zarr.json", array_json((4,), (1,)))

    storage.before("put", "chunks/", change)
    with pytest.raises(icechunk.NodeNotFoundError, match="while chunks of it were being written"):
        put(session.store, "a/c/0/0", big(1))
    left = ["zarr.json"] if meanwhile == "delete" else ["a/zarr.json", "zarr.json"]
    assert keys(session.store) == left
    session.commit("changed")
    assert keys(repo.readonly_session("main").store) == left


def test_a_chunk_that_arrives_after_its_array_was_discarded(repo, storage):
    session = repo.writable_session("main")
    put(session.store, "a/zarr.json", array_json())
    storage.before("put", "chunks/", session.discard_changes)
    with pytest.raises(icechunk.NodeNotFoundError):
        put(session.store, "a/c/0/0", big(1))
    assert not session.has_uncommitted_changes


# --- looking at what others change --------------------------------------------------------------------------------------


def test_listing_while_others_write(repo):
    session = repo.writable_session("main")
    put(session.store, "zarr.json", group_json())
    put(session.store, "a/zarr.json", array_json((1000,), (1,)))
    stop, failures = threading.Event(), []

    def look():
        try:
            while not stop.is_set():
                keys(session.store)
                session.status()
                assert session.has_uncommitted_changes
        except BaseException as error:
            failures.append(error)

    looking = [threading.Thread(target=look) for _ in range(2)]
    for thread in looking:
        thread.start()
    for number in range(150):
        put(session.store, f"g{number}/zarr.json", group_json())
        put(session.store, f"a/c/{number}", b"x")
        put(session.store, f"b{number}/zarr.json", array_json())
        put(session.store, f"b{number}/c/0/0", b"x")
    stop.set()
    for thread in looking:
        thread.join(30)
    assert not failures


def test_a_fork_holds_what_it_was_made_of(repo, storage):
    session = repo.writable_session("main")
    put(session.store, "a/zarr.json", array_json())
    put(session.store, "a/c/0/0", b"before")
    storage.before("put", "manifests/", lambda: put(session.store, "a/c/0/0", b"while forking"))
    fork = session.fork()
    assert get(fork.store, "a/c/0/0") == b"before"
    put(fork.store, "a/c/0/0", b"fork")
    with pytest.warns(icechunk.MergeOverlapWarning, match="1 chunks of /a"):
        session.merge(fork)
    session.commit("merged")
    assert get(repo.readonly_session("main").store, "a/c/0/0") == b"fork"


def test_pickling_a_fork_that_is_being_written_to(repo):
    with_array(repo, shape=(10_000,), chunks=(1,))
    fork = repo.writable_session("main").fork()
    stop, failures = threading.Event(), []

    def look():
        try:
            while not stop.is_set():
                pickle.dumps(fork)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(1000):
        put(fork.store, f"a/c/{number}", b"x")
        put(fork.store, f"g{number % 100}/zarr.json", group_json(n=number))
    stop.set()
    thread.join(30)
    assert not failures
    assert len(keys(pickle.loads(pickle.dumps(fork)).store)) == 1000 + 100 + 2


# --- commits that are interrupted ---------------------------------------------------------------------------------------


def steps(spec):
    ref = "repo" if spec == 2 else "refs/"
    return [("put", place) for place in ("manifests/", "transactions/", "snapshots/", ref)]


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_cancelled_commit_was_made_or_was_not(repo, storage, spec, when, step):
    with_array(repo)

    async def main():
        session = await repo.writable_session_async("main")
        await session.store.set("a/c/0/0", buffer(b"x"))
        task = asyncio.create_task(session.commit_async("cancelled"))

        async def cancel():
            task.cancel()
            for _ in range(5):
                await asyncio.sleep(0)

        getattr(storage, when)(*steps(spec)[step], cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        landed = [info.id async for info in repo.async_ancestry(branch="main") if info.message == "cancelled"]
        assert landed == ([session.snapshot_id] if session.read_only else [])
        if not session.read_only:
            await session.commit_async("again")

    asyncio.run(main())
    assert len(messages(repo)) == 3
    assert get(repo.readonly_session("main").store, "a/c/0/0") == b"x"


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_that_ctrl_c_stops_was_made_or_was_not(repo, storage, spec, when):
    with_array(repo)
    session = repo.writable_session("main")
    put(session.store, "a/c/0/0", b"x")

    def press():
        raise KeyboardInterrupt

    getattr(storage, when)("put", "repo" if spec == 2 else "refs/", press)
    with pytest.raises(KeyboardInterrupt):
        session.commit("interrupted")
    assert session.read_only == (when == "after")
    if not session.read_only:
        session.commit("again")
    assert len(messages(repo)) == 3 and repo.lookup_branch("main") == session.snapshot_id
    assert get(repo.readonly_session("main").store, "a/c/0/0") == b"x"


# --- transactions -------------------------------------------------------------------------------------------------------


def test_a_transaction_reports_what_went_wrong_in_it(repo):
    with pytest.raises(ZeroDivisionError), repo.transaction("main", message="outer") as store:
        put(store, "g/zarr.json", group_json())
        store.session.commit("inner")
        raise ZeroDivisionError
    assert messages(repo) == ["inner", "Repository initialized"]


# --- writing where nothing is -------------------------------------------------------------------------------------------

SIZES = pytest.mark.parametrize("size", [1, 1000], ids=["inline", "native"])


@SIZES
def test_of_many_threads_one_writes_where_nothing_is(repo, size):
    with_array(repo)
    session = repo.writable_session("main")
    start = threading.Barrier(8)

    def write(number):
        start.wait()
        for chunk in range(16):
            key = f"a/c/{chunk // 4}/{chunk % 4}"
            run(session.store.set_if_not_exists(key, buffer(big(number, size))))
            seen[number].append(get(session.store, key))
        run(session.store.set_if_not_exists("g/zarr.json", buffer(group_json(number=number))))
        seen[number].append(get(session.store, "g/zarr.json"))

    seen = [[] for _ in range(8)]
    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # whatever somebody saw after writing is what there was for everybody, from then on
    assert all(each == seen[0] for each in seen)


@SIZES
async def test_of_many_tasks_one_writes_where_nothing_is(repo, storage, size):
    async def create():
        session = await repo.writable_session_async("main")
        await session.store.set("a/zarr.json", buffer(array_json()))
        return session

    session = await create()
    store = session.store

    async def write(number):
        await store.set_if_not_exists("a/c/0/0", buffer(big(number, size)))
        return (await store.get("a/c/0/0", PROTOTYPE)).to_bytes()

    async def write_between():
        await store.set_if_not_exists("a/c/0/0", buffer(big(99, size)))

    storage.before("put", "chunks", write_between)
    seen = await asyncio.gather(*map(write, range(8)))
    assert len(set(seen)) == 1


def test_who_was_overtaken_while_uploading_does_not_write(repo, storage):
    with_array(repo)
    session = repo.writable_session("main")
    store = session.store
    storage.after("put", "chunks", lambda: put(store, "a/c/0/0", b"in between"))
    run(store.set_if_not_exists("a/c/0/0", buffer(big(1))))
    assert get(store, "a/c/0/0") == b"in between"
    storage.after("put", "chunks", lambda: run(store.delete("a/c/0/1")))
    run(store.set_if_not_exists("a/c/0/1", buffer(big(1))))
    assert get(store, "a/c/0/1") == big(1)


# --- merging ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("several", [False, True])
def test_what_is_written_while_a_merge_looks_up_what_a_fork_saw(repo, storage, several):
    with_array(repo, shape=(4, 16))
    caching = icechunk.CachingConfig(num_snapshot_nodes=0, num_chunk_refs=0)
    repo = repo.reopen(icechunk.RepositoryConfig(caching=caching))
    session = repo.writable_session("main")
    put(session.store, "a/c/0/0", big(1))
    forks = [session.fork() for _ in range(1 + several)]
    put(session.store, "a/c/0/0", big(2))
    for number, fork in enumerate(forks):
        put(fork.store, "a/c/0/0", big(10 + number))
        put(fork.store, f"a/c/1/{number}", big(20 + number))
    for folder in ("snapshots/", "manifests/"):
        storage.before("get", folder, lambda: put(session.store, f"a/c/3/{len(keys(session.store))}", big(3)))
    with pytest.warns(icechunk.MergeOverlapWarning, match="1 chunks of /a"):
        session.merge(*forks)
    between = [key for key in keys(session.store) if key.startswith("a/c/3/")]
    assert between and not storage._todo[1:], "something was written while the merge looked"
    session.commit("all of it")
    store = repo.readonly_session("main").store
    assert get(store, "a/c/0/0") == big(10 + several) and get(store, "a/c/1/0") == big(20)
    assert [get(store, key) for key in between] == [big(3)] * len(between)


def test_forks_are_merged_by_several_threads(repo):
    with_array(repo, shape=(16, 16))
    session = repo.writable_session("main")
    forks = [session.fork() for _ in range(16)]
    start = threading.Barrier(8)

    def merge(mine):
        start.wait()
        for number in mine:
            put(forks[number].store, f"a/c/{number}/0", big(number))
            put(session.store, f"a/c/{number}/1", big(number))
            session.merge(forks[number])

    threads = [threading.Thread(target=merge, args=([number, number + 8],)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys(session.store)) == 2 * 16 + 2
    session.discard_changes()
