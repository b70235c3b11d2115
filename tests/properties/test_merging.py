"""Random work in a session, its forks, and in sessions of others: merging loses nothing in silence.

The judge knows nothing of how merging works. For every zarr key it knows what a fork saw when it was made, what the fork has,
and what the session has before and after the merge. Where only one side changed something, that is what must be there
afterwards; where both did, differently, the merge must have said so. An error must have changed nothing.
"""

from __future__ import annotations

import pickle
import random
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

import icechunk
from icechunk._driver import run
from tests.packs import small_packs
from tests.session.helpers import array_json, buffer, group_json

pytestmark = pytest.mark.filterwarnings("ignore:a session with uncommitted changes")

PATHS = ("a", "g/a", "g/b", "b", "b/x")
SHAPES = ((4, 3), (4, 3), (2, 3), (6, 3), (4,), (0, 3))


@dataclass
class View:
    """What can be read, by path and key: documents, and where the bytes of each chunk are. `ids` are those of nodes."""

    items: dict[tuple[str, str], Any] = field(default_factory=dict)
    ids: dict[str, bytes] = field(default_factory=dict, compare=False)


def view(session: icechunk.Session) -> View:
    workspace = session._workspace
    found = View()
    for node in run(workspace.view()).nodes():
        assert node.path not in found.ids
        found.ids[node.path] = node.id
        found.items[node.path, "zarr.json"] = node.metadata
        if node.is_array:
            for coords, ref in run(workspace.chunk_table(node)).items():
                assert run(workspace.chunk_ref(node, coords)) == ref
                found.items[node.path, str(coords)] = ref
    return found


@dataclass
class Fork:
    session: icechunk.ForkSession
    saw: View


@dataclass
class Walk:
    """One random program; `tally` counts how merges ended."""

    dice: random.Random
    repo: icechunk.Repository
    tally: Counter[str] = field(default_factory=Counter)
    forks: list[Fork] = field(default_factory=list)
    number: int = 0

    def __post_init__(self) -> None:
        self.session = self.repo.writable_session("main")

    def edit(self, session: icechunk.Session) -> None:
        """One change of whatever kind, if it is possible."""
        dice, store = self.dice, session.store
        path = dice.choice(PATHS)
        self.number += 1
        kinds = ["chunk", "bulk", "array", "group", "delete", "erase"]
        if (shape := self.shape_of(session, path)) is not None and 0 in shape:
            kinds[:2] = ["array", "array"]  # a chunk could be written beforehand, which shows only when the array grows
        try:
            match dice.choices(kinds, [12, 2, 5, 1, 1, 2])[0]:
                case "chunk":
                    coords = (
                        f"{dice.randrange(6)}/{dice.randrange(3)}" if dice.random() < 0.9 else str(dice.randrange(4))
                    )
                    data = buffer(bytes([self.number % 250, dice.randrange(2)]) * dice.choice([1, 300]))
                    run(store.set(f"{path}/c/{coords}", data))
                case "bulk":
                    start = dice.randrange(4)
                    specs = [
                        icechunk.VirtualChunkSpec([row, 1], f"s3://b/{self.number}", 0, 9) for row in range(start, 4)
                    ]
                    store.set_virtual_refs(path, specs, validate_containers=False)
                case "array":
                    shape = dice.choice(SHAPES)
                    more = {"data_type": "uint16"} if dice.random() < 0.1 else {}
                    document = array_json(shape, (1,) * len(shape), attributes={"n": dice.randrange(2)}, **more)
                    run(store.set(f"{path}/zarr.json", buffer(document)))
                case "group":
                    run(store.set("g/zarr.json", buffer(group_json(n=dice.randrange(2)))))
                case "delete":
                    run(store.delete_dir(dice.choice([path, "g"])))
                case "erase":
                    run(store.delete(f"{path}/c/{dice.randrange(4)}/{dice.randrange(3)}"))
        except (icechunk.InvalidInputError, icechunk.NodeNotFoundError, icechunk.AlreadyExistsError):
            pass

    @staticmethod
    def shape_of(session: icechunk.Session, path: str) -> list[int] | None:
        node = run(session._workspace.view()).find(f"/{path}")
        return None if node is None else [dimension.chunks for dimension in node.shape]

    def fork(self, session: icechunk.Session) -> None:
        made = session.fork()
        self.forks.append(Fork(made, view(made)))

    def others_commit(self) -> None:
        other = self.repo.writable_session("main")
        for _ in range(self.dice.randint(1, 3)):
            self.edit(other)
        other.commit("others", allow_empty=True) if self.repo.spec_version == 2 else self._commit_if_changed(other)
        try:
            self.session.rebase(icechunk.BasicConflictSolver())
        except icechunk.RebaseFailedError:
            self.session.discard_changes()
            self.session.rebase(icechunk.ConflictDetector())

    @staticmethod
    def _commit_if_changed(session: icechunk.Session) -> None:
        if session.has_uncommitted_changes:
            session.commit("others")

    def merge(self) -> None:
        """Merge some forks, and judge what came of it."""
        self.dice.shuffle(self.forks)
        count = self.dice.choice([1, 1, 2, 3])
        forks, self.forks = self.forks[:count], self.forks[count:]
        if self.dice.random() < 0.5:
            forks = [Fork(pickle.loads(pickle.dumps(fork.session)), fork.saw) for fork in forks]
        before = view(self.session)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                self.session.merge(*(fork.session for fork in forks))
            except icechunk.SessionStateError as error:
                assert error.kind == "merge-failed"
                assert view(self.session) == before
                self.tally["refused"] += 1
                return
        told = [warning for warning in caught if warning.category is icechunk.MergeOverlapWarning]
        self.tally["told" if told else "silent"] += 1
        after, expected = view(self.session), before
        if not told:
            for fork in forks:
                expected = combined(fork.saw, view(fork.session), expected)
            assert after == expected

    def step(self) -> None:
        dice = self.dice
        sessions = [self.session, *(fork.session for fork in self.forks)]
        match dice.choices(["edit", "fork", "others", "merge", "commit"], [12, 3, 1, 2, 0.3])[0]:
            case "edit":
                self.edit(dice.choice(sessions))
            case "fork" if len(self.forks) < 4:
                self.fork(dice.choice(sessions) if dice.random() < 0.2 else self.session)
            case "others":
                self.others_commit()
            case "merge" if self.forks:
                self.merge()
            case "commit":
                self.commit()

    def commit(self) -> None:
        before = view(self.session)
        if self.session.has_uncommitted_changes:
            self.session.commit("all")
        stored = view(self.repo.readonly_session("main"))
        assert stored == before
        self.session = self.repo.writable_session("main")


def combined(saw: View, made: View, now: View) -> View:
    """What must be there after a merge that says nothing: by key, from whichever side changed it.

    A node that both sides deleted or replaced was there for neither of them.
    """
    result = View()
    for path in saw.ids.keys() | made.ids.keys() | now.ids.keys():
        result.ids[path] = now.ids.get(path) or made.ids.get(path) or b""
        if made.ids.get(path) == saw.ids.get(path):
            result.ids[path] = now.ids.get(path, b"")
        elif now.ids.get(path) == saw.ids.get(path):
            result.ids[path] = made.ids.get(path, b"")
        if not result.ids[path]:
            del result.ids[path]
    for key in saw.items.keys() | made.items.keys() | now.items.keys():
        path = key[0]
        before, theirs, ours = saw.items.get(key), made.items.get(key), now.items.get(key)
        if saw.ids.get(path) not in (made.ids.get(path), now.ids.get(path)):
            before = None
        assert theirs in (before, ours) or ours == before, f"{key} was changed on both sides, and nothing was said"
        value = ours if theirs == before else theirs
        if value is not None:
            result.items[key] = value
    return result


def walk(seed: int, spec: int) -> Counter[str]:
    dice = random.Random(seed)
    config = icechunk.RepositoryConfig(pack_small_chunks=seed % 2 == 1)
    made = Walk(dice, icechunk.Repository.create(icechunk.in_memory_storage(), config, spec_version=spec))
    for path in ("", "g/"):
        run(made.session.store.set(f"{path}zarr.json", buffer(group_json())))
    for path in ("a", "g/a"):
        run(made.session.store.set(f"{path}/zarr.json", buffer(array_json((4, 3)))))
    made.session.commit("base")
    made.session = made.repo.writable_session("main")
    for _ in range(60):
        made.step()
    made.commit()
    return made.tally


@pytest.mark.parametrize("spec", [1, 2], ids=["spec1", "spec2"])
@pytest.mark.parametrize("walks", [pytest.param(150, id="few"), pytest.param(5000, id="many", marks=pytest.mark.slow)])
def test_merging_loses_nothing_in_silence(spec: int, walks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    small_packs(monkeypatch, alone=0, chunks=3, size=600)
    tally: Counter[str] = Counter()
    for seed in range(walks):
        try:
            tally += walk(seed, spec)
        except BaseException as error:
            error.add_note(f"seed {seed}, spec {spec}")
            raise
    assert min(tally[outcome] for outcome in ("silent", "told", "refused")) > walks / 10, tally
