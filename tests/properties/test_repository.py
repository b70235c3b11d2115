"""Everything that can be done to a repository, in any order, against a model of dictionaries.

Several sessions are open at once, so commits meet, rebase and conflict; branches and tags come and go; history expires
and is collected. After every step what can be seen is what the model says, in both formats. The clock is the test's, and
an hour passes with every step.
"""

from __future__ import annotations

import contextlib
import pickle
import random
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import icechunk
from icechunk._driver import run
from tests.aging import Clock
from tests.invariants import assert_whole, unreachable, visible
from tests.packs import small_packs
from tests.properties.model import Changes, Commit, Model, Node, Tree, Work, in_grid, is_below, join
from tests.session.helpers import array_json, buffer, group_json

pytestmark = pytest.mark.filterwarnings(
    "ignore::icechunk.UncommittedChangesWarning", "ignore::icechunk.MergeOverlapWarning"
)

PATHS = ("", "a", "g", "g/b", "g/h", "g/h/k")
GRIDS = ((3,), (2, 2), (1, 3), (4, 1), ())
FOREIGN = bytes(range(256))
DETECTOR = icechunk.ConflictDetector()

paths = st.sampled_from(PATHS)
grids = st.sampled_from(GRIDS)
data = st.binary(min_size=1, max_size=4) | st.binary(min_size=30, max_size=40)  # in the manifest, and objects
picks = st.integers(0, 1000)
names = st.sampled_from(["x", "y", "z"])

several = st.lists(st.tuples(st.integers(0, 1), picks, picks, data), min_size=1, max_size=5)
steps = st.integers(-2, 2)
edits = st.one_of(
    st.tuples(st.just("set_group"), paths, st.integers(0, 1)),
    st.tuples(st.just("set_array"), paths, grids, st.integers(0, 1)),
    st.tuples(st.just("delete_node"), paths, st.sampled_from(["key", "directory"])),
    *[st.tuples(st.just("change_chunk"), picks, st.tuples(picks, picks), data, st.sampled_from("wwwwdv"))] * 3,
    st.tuples(st.just("move_chunks"), picks, st.tuples(steps, steps), st.integers(0, 3)),
    st.tuples(st.just("fork_and_merge"), several),
)
ref_changes = st.one_of(
    st.tuples(st.sampled_from(["create_branch", "create_tag"]), names, picks),
    st.tuples(st.sampled_from(["delete_branch", "delete_tag"]), names),
    st.tuples(st.just("reset_branch"), picks, picks, st.none() | picks),
)
looks = st.one_of(
    st.tuples(st.just("repository_again"), st.sampled_from(["open", "reopen", "pickle"])),
    st.tuples(st.sampled_from(["read_any_commit", "describe"]), picks),
    st.tuples(st.just("diff"), picks, picks),
)
maintenance = st.one_of(
    st.tuples(st.just("move"), picks, paths, paths),
    st.tuples(st.just("rewrite_manifests"), picks),
    st.tuples(st.just("expire"), picks, st.booleans(), st.booleans()),
    st.tuples(st.just("collect"), picks),
    st.tuples(st.just("upgrade"), st.integers(0, 5)),
)


def pick(options, number):
    """One of some sorted things, by a number that hypothesis chose."""
    return options[number % len(options)]


class RepositoryMachine(RuleBasedStateMachine):
    """`works` are the open sessions, each with what the model says of it; `known` the commits that can be named."""

    spec = 2

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        small_packs(self.patch, alone=0, chunks=2, size=40)
        self.clock = Clock(self.patch)
        self.directory = tempfile.TemporaryDirectory()
        self.foreign = Path(self.directory.name).resolve() / "foreign.bin"
        self.foreign.write_bytes(FOREIGN)
        self.authorized = icechunk.containers_credentials({f"file://{self.foreign.parent}/": None})
        self.works: list[tuple[icechunk.Session, Work]] = []
        self.known: list[str] = []
        self.number = 0

    def teardown(self) -> None:
        try:
            if self.known:
                self.check_all()
        finally:
            for session, _ in self.works:
                session.discard_changes()
            self.patch.undo()
            self.directory.cleanup()

    def check_all(self) -> None:
        """In the end, by somebody else: the repository is whole, and every commit that is reached is what it was."""
        repo = icechunk.Repository.open(self.storage, None, self.authorized)
        run(assert_whole(self.storage, repo))
        for one in sorted(self.model.reachable()):
            assert run(visible(repo.readonly_session(snapshot_id=one).store)) == self.model.commits[one].tree.visible()
        for tip in {*self.model.branches.values(), *self.model.tags.values()}:
            history = list(repo.ancestry(snapshot_id=tip))
            assert [info.id for info in history] == self.model.history(tip)
            assert [info.message for info in history] == [self.model.commits[info.id].message for info in history]

    # --- what may come next -------------------------------------------------------------------------------------------

    @rule(session=st.integers(0, 2), branch=picks, changes=st.lists(edits, min_size=1, max_size=6))
    def edit(self, session, branch, changes):
        """Some changes in one of up to three sessions, which is opened for it if need be."""
        if session >= len(self.works):
            self.open_session(branch)
        session, work = pick(self.works, session)
        for what, *arguments in changes:
            getattr(self, what)(session, work, *arguments)
            self.check(session, work)

    @precondition(lambda self: self.works)
    @rule(
        number=picks,
        how=st.sampled_from(["commit"] * 3 + ["commit_rebasing"] * 5 + ["rebase", "flush", "amend", "discard"]),
    )
    def publish(self, number, how):
        getattr(self, how)(*pick(self.works, number))

    @rule(change=ref_changes)
    def change_refs(self, change):
        what, *arguments = change
        getattr(self, what)(*arguments)

    @rule(look=looks)
    def look_around(self, look):
        what, *arguments = look
        getattr(self, what)(*arguments)

    @rule(work=maintenance)
    def look_after(self, work):
        what, *arguments = work
        getattr(self, what)(*arguments)

    # --- the repository -----------------------------------------------------------------------------------------------

    @initialize(updates=st.integers(1, 5), split=st.booleans(), packed=st.booleans())
    def create(self, updates, split, packed):
        config = icechunk.RepositoryConfig(
            inline_chunk_threshold_bytes=8, num_updates_per_repo_info_file=updates, pack_small_chunks=packed
        )
        if split:
            axis = icechunk.ManifestSplitDimCondition.Axis(0)
            sizes = {icechunk.ManifestSplitCondition.AnyArray(): {axis: 1}}
            config.manifest = icechunk.ManifestConfig(splitting=icechunk.ManifestSplittingConfig.from_dict(sizes))
        prefix, store = f"file://{self.foreign.parent}/", icechunk.local_filesystem_store(str(self.foreign.parent))
        config.set_virtual_chunk_container(icechunk.VirtualChunkContainer(prefix, store))
        self.storage = self.clock.storage()
        self.repo = icechunk.Repository.create(self.storage, config, self.authorized, spec_version=self.spec)
        root = self.repo.lookup_branch("main")
        self.model = Model(root, {}, {"main": root})
        self.add_commit(root, None, None, "Repository initialized", Tree(), Changes())

    def repository_again(self, how):
        if how == "open":
            self.repo = icechunk.Repository.open(self.storage, None, self.authorized)
        elif how == "reopen":
            self.repo = self.repo.reopen()
        else:
            self.repo = pickle.loads(pickle.dumps(self.repo))

    @invariant()
    def refs_are_where_they_are(self):
        if self.known:
            self.clock.forward(timedelta(hours=1))
            assert {name: self.repo.lookup_branch(name) for name in self.repo.list_branches()} == self.model.branches
            assert {name: self.repo.lookup_tag(name) for name in self.repo.list_tags()} == self.model.tags

    def create_branch(self, name, number):
        target = pick(self.known, number)
        if name in self.model.branches:
            with pytest.raises((icechunk.AlreadyExistsError, icechunk.ConflictError)):
                self.repo.create_branch(name, target)
        else:
            self.repo.create_branch(name, target)
            self.model.branches[name] = target

    def create_tag(self, name, number):
        target = pick(self.known, number)
        if name in self.model.used_tags:
            with pytest.raises(icechunk.AlreadyExistsError):
                self.repo.create_tag(name, target)
        else:
            self.repo.create_tag(name, target)
            self.model.tags[name] = target
            self.model.used_tags.add(name)

    def delete_branch(self, name):
        if name in self.model.branches:
            self.repo.delete_branch(name)
            del self.model.branches[name]
        else:
            with pytest.raises(icechunk.RefNotFoundError):
                self.repo.delete_branch(name)

    def delete_tag(self, name):
        if name in self.model.tags:
            self.repo.delete_tag(name)
            del self.model.tags[name]
        else:
            with pytest.raises(icechunk.RefNotFoundError):
                self.repo.delete_tag(name)

    def reset_branch(self, branch, number, guess):
        name, target = pick(sorted(self.model.branches), branch), pick(self.known, number)
        expected = None if guess is None else pick(self.known, guess)
        if expected is not None and expected != self.model.branches[name]:
            with pytest.raises(icechunk.ConflictError):
                self.repo.reset_branch(name, target, from_snapshot_id=expected)
        else:
            self.repo.reset_branch(name, target, from_snapshot_id=expected)
            self.model.branches[name] = target

    def read_any_commit(self, number):
        one = pick(self.known, number)
        session = pickle.loads(pickle.dumps(self.repo.readonly_session(snapshot_id=one)))
        assert run(visible(session.store)) == self.model.commits[one].tree.visible()
        for name, tip in self.model.branches.items():
            if one in self.model.history(tip):
                at = self.model.commits[one].written
                assert self.repo.readonly_session(name, as_of=at).snapshot_id == one

    def diff(self, start, end):
        start, end = pick(self.known, start), pick(self.known, end)
        if start not in self.model.history(end)[1:]:
            with pytest.raises(icechunk.InvalidInputError):
                self.repo.diff(from_snapshot_id=start, to_snapshot_id=end)
            return
        found = self.repo.diff(from_snapshot_id=start, to_snapshot_id=end)
        before, after = self.model.commits[start].tree.nodes, self.model.commits[end].tree.nodes
        alive, former = {node.identity for node in after.values()}, {node.identity for node in before.values()}
        missed = self.model.missed(start, end, self.spec)
        if missed and not any(commit.changes.moved or commit.lost for _, commit in missed):
            new = {"/" + path for path, node in after.items() if node.identity not in former}
            gone = {"/" + path for path, node in before.items() if node.identity not in alive}
            assert found.new_groups | found.new_arrays == new
            assert found.deleted_groups | found.deleted_arrays == gone

    def describe(self, number):
        metadata = {"number": number}
        if self.spec == 2:
            self.repo.set_metadata(metadata)
            assert self.repo.get_metadata() == metadata
        else:
            with pytest.raises(icechunk.FormatError):
                self.repo.set_metadata(metadata)

    def rewrite_manifests(self, branch):
        name = pick(sorted(self.model.branches), branch)
        base = self.model.branches[name]
        rewritten = self.repo.rewrite_manifests("rewritten", branch=name)
        self.add_commit(rewritten, base, name, "rewritten", self.model.commits[base].tree, Changes())

    # --- sessions -----------------------------------------------------------------------------------------------------

    def add_commit(self, snapshot, parent, branch, message, tree, changes):
        written = self.repo.lookup_snapshot(snapshot).written_at
        self.model.commits[snapshot] = Commit(
            snapshot, parent, message, tree.committed(), written, self.stored(snapshot), changes, parent
        )
        self.known.append(snapshot)
        if branch is not None:
            self.model.branches[branch] = snapshot

    def stored(self, snapshot):
        """When the file of a snapshot was written last."""
        return run(self.storage.modified_at(f"snapshots/{snapshot}"))

    def start(self, branch):
        name = pick(sorted(self.model.branches), branch)
        base = self.model.branches[name]
        origin = self.model.commits[base].tree
        return Work(base, name, origin.copy(), origin, self.clock.look())

    def end(self, session):
        self.works = [item for item in self.works if item[0] is not session]

    def check(self, session, work):
        assert run(visible(session.store)) == work.tree.visible()
        assert session.has_uncommitted_changes == bool(work.changes)

    def open_session(self, branch):
        work = self.start(branch)
        session = self.repo.writable_session(work.branch)
        assert session.snapshot_id == work.base
        self.works.append((session, work))

    def set_group(self, session, work, path, title):
        self.set_node(session, work, path, Node(group_json(title=title)))

    def set_array(self, session, work, path, grid, title):
        document = array_json(grid, (1,) * len(grid), attributes={"title": title})
        self.set_node(session, work, path, Node(document, grid))

    def set_node(self, session, work, path, node):
        former = work.tree.nodes.get(path)
        key = join(path, "zarr.json")
        if former is not None and former.is_array != node.is_array:
            with pytest.raises(icechunk.AlreadyExistsError):
                run(session.store.set(key, buffer(node.document)))
        else:
            run(session.store.set(key, buffer(node.document)))
            work.create(path, node)

    def delete_node(self, session, work, path, how):
        if how == "key":
            run(session.store.delete(join(path, "zarr.json")))
        else:
            run(session.store.delete_dir(path))
        if path in work.tree.nodes or (how == "directory" and path == ""):
            work.delete(path)

    def change_chunk(self, session, work, array, indices, data, kind):
        if not work.tree.arrays():
            return
        path = pick(work.tree.arrays(), array)
        grid = work.tree.nodes[path].grid
        at = tuple(index % (count + (index > 900)) for index, count in zip(indices, grid, strict=False))
        key = join(path, "/".join(["c", *map(str, at)]))
        if not in_grid(at, grid):
            with pytest.raises(icechunk.InvalidInputError):
                run(session.store.set(key, buffer(data)))
            run(session.store.delete(key))
        elif kind == "v":
            start = indices[0] % 200
            session.store.set_virtual_ref(key, f"file://{self.foreign}", offset=start, length=7)
            work.set_chunk(path, at, FOREIGN[start : start + 7])
        elif kind == "w":
            run(session.store.set(key, buffer(data)))
            work.set_chunk(path, at, data)
        else:
            run(session.store.delete(key))
            work.set_chunk(path, at, None)

    def move_chunks(self, session, work, array, offset, row):
        """Shift the chunks of an array, or delete a row of them."""
        if not work.tree.arrays():
            return
        path = pick(work.tree.arrays(), array)
        grid = work.tree.nodes[path].grid
        offset = offset[: len(grid)]
        if row and grid:
            run(session.store.delete_dir(join(path, f"c/{row - 1}")))
            for at in [at for at in work.tree.chunks_of(path) if at[0] == row - 1]:
                work.set_chunk(path, at, None)
        else:
            session.shift_array("/" + path, offset)
            if grid:
                work.shift(path, offset)

    def fork_and_merge(self, session, work, writes):
        if not work.tree.arrays():
            return
        forks = [pickle.loads(pickle.dumps(session.fork())) for _ in range(2)]
        for fork, array, index, value in sorted(writes, key=lambda write: write[0]):  # as they are merged
            path = pick(work.tree.arrays(), array)
            at = tuple(index % count for count in work.tree.nodes[path].grid)
            run(forks[fork].store.set(join(path, "/".join(["c", *map(str, at)])), buffer(value)))
            work.set_chunk(path, at, value)
        session.merge(*forks)

    def discard(self, session, work):
        session.discard_changes()
        self.check(session, replace(work, tree=self.model.commits[work.base].tree, changes=Changes()))
        self.end(session)

    # --- publishing ---------------------------------------------------------------------------------------------------

    def commit_rebasing(self, session, work):
        self.commit(session, work, rebasing=True)

    def commit(self, session, work, *, rebasing=False):
        message, solver = self.message("commit"), DETECTOR if rebasing else None
        tip = self.model.branches.get(work.branch)
        if not work.changes:
            with pytest.raises(icechunk.NoChangesToCommitError):
                session.commit(message)
            return
        if tip is None or (tip != work.base and not rebasing):
            with pytest.raises((icechunk.ConflictError, icechunk.RefNotFoundError)) as caught:
                session.commit(message, rebase_with=solver)
            assert not isinstance(caught.value, icechunk.RebaseFailedError)
            self.check(session, work)
            return
        rebased = self.model.rebased(work, self.spec)
        if rebased is None:
            self.assert_rebase_fails(session, lambda: session.commit("late", rebase_with=solver))
            return
        snapshot = session.commit(message, rebase_with=solver)
        self.end(session)
        self.add_commit(snapshot, tip, work.branch, message, rebased.tree, rebased.changes)
        assert session.read_only and session.snapshot_id == snapshot
        assert run(visible(session.store)) == self.model.commits[snapshot].tree.visible()

    def rebase(self, session, work):
        rebased = self.model.rebased(work, self.spec)
        if work.branch not in self.model.branches:
            with pytest.raises(icechunk.RefNotFoundError):
                session.rebase(DETECTOR)
        elif rebased is None:
            self.assert_rebase_fails(session, lambda: session.rebase(DETECTOR))
        else:
            session.rebase(DETECTOR)
            self.works = [(each, rebased if each is session else other) for each, other in self.works]
            self.check(session, rebased)
            assert session.snapshot_id == rebased.base

    def assert_rebase_fails(self, session, call):
        work = next(work for each, work in self.works if each is session)
        self.end(session)
        with contextlib.suppress(icechunk.RebaseFailedError, icechunk.SessionStateError):
            call()
            # whoever read the history before it was cut, in the older format, may still know it, and be right
            assert self.spec == 1 and work.base not in self.model.history(self.model.branches[work.branch])
            rebased = self.model.rebased(work, 2)
            assert rebased is not None
            assert run(visible(session.store)) == rebased.tree.visible()
            if session.read_only:
                tip = self.model.branches[work.branch]
                self.add_commit(session.snapshot_id, tip, work.branch, "late", rebased.tree, rebased.changes)
                return
        assert not session.read_only
        session.discard_changes()

    def message(self, what):
        self.number += 1
        return f"{what} {self.number}"

    def flush(self, session, work):
        if work.base not in self.known:
            return
        snapshot = session.flush("flushed")
        self.end(session)
        self.add_commit(snapshot, work.base, None, "flushed", work.tree, work.changes)
        assert run(visible(session.store)) == work.tree.committed().visible()

    def amend(self, session, work):
        if not work.changes:
            return
        message, replaced = self.message("amended"), self.model.commits[work.base]
        if replaced.parent is None:
            with pytest.raises(icechunk.SessionStateError):
                session.amend(message)
        elif self.model.branches.get(work.branch) != work.base:
            with pytest.raises((icechunk.ConflictError, icechunk.NotFoundError)):
                session.amend(message)
            self.check(session, work)
        elif not replaced.changes.moved:
            snapshot = session.amend(message)
            self.end(session)
            changes = replaced.changes.merged(work.changes)
            self.add_commit(snapshot, replaced.parent, work.branch, message, work.tree, changes)
            self.model.commits[snapshot].made_on, self.model.commits[snapshot].lost = replaced.made_on, replaced.lost

    def move(self, branch, source, to):
        work = self.start(branch)
        nodes = work.tree.nodes
        group = nodes.get(to.rpartition("/")[0])
        session = self.repo.rearrange_session(work.branch)
        possible = (
            source in nodes
            and not is_below(to, source)
            and not any(is_below(path, to) for path in nodes)
            and group is not None
            and not group.is_array
        )
        if not possible:
            with pytest.raises(icechunk.IcechunkError):
                session.move("/" + source, "/" + to)
            return
        session.move("/" + source, "/" + to)
        work.move(source, to)
        assert run(visible(session.store)) == work.tree.visible()
        self.add_commit(session.commit("moved"), work.base, work.branch, "moved", work.tree, work.changes)

    # --- maintenance --------------------------------------------------------------------------------------------------

    def expire(self, number, branches, tags):
        cutoff = self.model.commits[pick(self.known, number)].written
        parents = {one: self.model.commits[one].parent for one in self.known}
        released = self.repo.expire_snapshots(cutoff, delete_expired_branches=branches, delete_expired_tags=tags)
        assert released == self.model.expire(self.known, cutoff, branches, tags, self.spec)
        for one, parent in parents.items():
            if self.model.commits[one].parent != parent and self.spec == 1:
                self.model.commits[one].stored = self.stored(one)  # its file was written anew
        if self.spec == 2:
            self.known = [one for one in self.known if one not in released]

    def collect(self, number):
        """Never of what is younger than a session that is open, as the rule is."""
        cutoff = self.model.commits[pick(self.known, number)].stored
        cutoff = min([cutoff, *(work.opened for _, work in self.works)])
        self.repo.garbage_collect(cutoff)
        self.known = self.model.collect(self.known, cutoff, self.spec)
        assert not run(unreachable(self.repo, cutoff))
        for session, work in self.works:
            if work.base not in self.known:
                session.discard_changes()
                self.end(session)

    def upgrade(self, chance):
        if chance or self.spec == 2:
            return
        for session, _ in self.works:
            session.discard_changes()
        self.works.clear()
        self.repo = icechunk.upgrade_icechunk_repository(self.repo, dry_run=False)
        self.spec = 2
        self.known = [one for one in self.known if one in self.model.reachable()]
        for one in self.known:  # what had expired before is forgotten for good
            self.model.commits[one].made_on = self.model.commits[one].parent


class OlderFormat(RepositoryMachine):
    """Repositories of format version 1, some of which are upgraded at some time."""

    spec = 1


def random_edit(dice):
    """As `edits` draws them."""
    number, path = dice.randrange(1001), dice.choice(PATHS)
    some = dice.randbytes(dice.choice((2, 33)))
    kinds = [
        "set_group",
        "set_array",
        "set_array",
        "delete_node",
        *["change_chunk"] * 8,
        "move_chunks",
        "fork_and_merge",
    ]
    match dice.choice(kinds):
        case "set_group":
            return "set_group", path, dice.randrange(2)
        case "set_array":
            return "set_array", path, dice.choice(GRIDS), dice.randrange(2)
        case "delete_node":
            return "delete_node", path, dice.choice(["key", "directory"])
        case "move_chunks":
            return "move_chunks", number, (dice.randint(-2, 2), dice.randint(-2, 2)), dice.randint(0, 3)
        case "fork_and_merge":
            writes = [(dice.randrange(2), dice.randrange(99), dice.randrange(99), some) for _ in range(3)]
            return "fork_and_merge", writes
        case _:
            return "change_chunk", number, (dice.randrange(1001), dice.randrange(1001)), some, dice.choice("wwwwdv")


def random_step(machine, dice):
    """As the rules draw them, with more weight on what leads to commits that meet."""
    number, other, name = dice.randrange(1001), dice.randrange(1001), dice.choice(["x", "y", "z"])
    kind = dice.choices(["edit", "publish", "refs", "look", "maintain"], [10, 8, 3, 2, 3])[0]
    if kind == "edit" or (kind == "publish" and not machine.works):
        branch = number if dice.random() < 0.3 else 0
        return "edit", dice.randrange(3), branch, [random_edit(dice) for _ in range(dice.randint(1, 5))]
    if kind == "publish":
        ways = {"commit": 3, "commit_rebasing": 6, "rebase": 2, "flush": 1, "amend": 1, "discard": 1}
        return "publish", number, dice.choices(list(ways), list(ways.values()))[0]
    if kind == "refs":
        one = dice.choice(["create_branch", "create_tag", "delete_branch", "delete_tag", "reset_branch"])
        if one == "reset_branch":
            return "change_refs", (one, number, other, dice.choice([None, number]))
        return "change_refs", (one, name, *([number] if one.startswith("create") else []))
    if kind == "look":
        one = dice.choice(["repository_again", "read_any_commit", "describe", "diff"])
        how = dice.choice(["open", "reopen", "pickle"])
        arguments = {"repository_again": (how,), "diff": (number, other)}.get(one, (number,))
        return "look_around", (one, *arguments)
    one = dice.choice(["move", "move", "rewrite_manifests", "expire", "expire", "collect", "collect", "upgrade"])
    arguments = {
        "move": (number, dice.choice(PATHS), dice.choice(PATHS)),
        "expire": (number, dice.random() < 0.3, dice.random() < 0.3),
        "upgrade": (dice.randrange(6),),
    }.get(one, (number,))
    return "look_after", (one, *arguments)


def walk(machine_type, seed, steps):
    """One random walk; a failure tells all its steps."""
    dice = random.Random(seed)
    machine, taken = machine_type(), []
    try:
        machine.create(dice.randint(1, 5), dice.random() < 0.5, packed=seed % 2 == 1)
        for _ in range(steps):
            name, *arguments = random_step(machine, dice)
            taken.append((name, *arguments))
            getattr(machine, name)(*arguments)
            machine.refs_are_where_they_are()
        machine.teardown()
    except BaseException as error:
        error.add_note(f"seed {seed}:\n  " + "\n  ".join(map(str, taken)))
        raise


machines = pytest.mark.parametrize("machine", [RepositoryMachine, OlderFormat], ids=["spec2", "spec1"])
slow = pytest.mark.slow


@machines
@pytest.mark.parametrize(
    ("walks", "steps"), [pytest.param(40, 60, id="few"), pytest.param(1500, 80, id="many", marks=slow)]
)
def test_random_walks(machine, walks, steps):
    for seed in range(walks):
        walk(machine, seed, steps)


def test_a_walk_that_once_went_wrong():
    """A rebase past commits that somebody else has expired and collected since this client looked at the history."""
    walk(OlderFormat, 716, 80)


@machines
# which examples are tried depends on ids and times that a run draws, so each run looks at others
@pytest.mark.parametrize(
    "examples",
    [
        pytest.param(8, id="few"),
        pytest.param(30, id="some", marks=slow),
        pytest.param(1500, id="many", marks=slow),
    ],
)
def test_whatever_is_done_the_model_agrees(machine, examples):
    """As the walks, drawn by hypothesis, which tries the odd corners first."""
    profile = settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],  # a failure names all its steps; to shrink it takes minutes
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=profile)
