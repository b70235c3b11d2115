"""Looking after a repository that the other implementation wrote: the very same objects go, and both read what stays."""

from __future__ import annotations

import contextlib
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.interop.descriptions import differences
from tests.interop.language import step
from tests.interop.oracle import VERSIONS, Engine, Program, StepFailed
from tests.interop.programs import Steps, commit, session, small_array

import icechunk
from icechunk._driver import run
from icechunk.testing.faults import Fault, FaultyStorage, Stopped, record_calls

pytestmark = pytest.mark.interop

FOLDERS = ("snapshots", "transactions", "manifests", "chunks")
PAIRS = [(version, spec) for version, specs in VERSIONS.items() for spec in specs]
FAR = datetime(2100, 1, 1, tzinfo=UTC)
CONFIG = {"inline_chunk_threshold_bytes": 0}


def history() -> Steps:
    """Five commits, a tag, a branch, and a branch that was deleted with what was on it."""
    steps: Steps = [*session(), step("group", path=""), *small_array("a"), *commit("c0", label="c0")]
    for number in range(1, 5):
        steps += [*session(), step("write", path="a", values={"fill": number}, where=[number % 4, 0])]
        steps += commit(f"c{number}", label=f"c{number}")
    return [
        *steps,
        step("tag", name="t", snapshot="@c1"),
        step("branch", name="b", snapshot="@c2"),
        step("branch", name="dead", snapshot="@c3"),
        *session("dead"),
        step("write", path="a", values={"fill": 9}, session="s"),
        *commit("dead"),
        step("delete_branch", name="dead"),
    ]


def files_of(repository: Path) -> set[str]:
    return {f"{folder}/{path.name}" for folder in FOLDERS for path in (repository / folder).glob("*")}


@pytest.mark.parametrize(("oracle", "spec"), PAIRS, indirect=["oracle"])
@pytest.mark.parametrize("first", ["ours", "theirs"])
@pytest.mark.parametrize("cut", [None, 2, 3, "future"])
def test_both_delete_the_same_objects(
    oracle: Engine, ours: Engine, spec: int, first: str, cut: int | str | None, tmp_path: Path, data: Path
) -> None:
    writer = ours if first == "ours" else oracle
    original = Program(tmp_path / "original", data)
    original.run(writer, [step("create", spec=spec, config=CONFIG), *history()])
    steps = [step("open")]
    if cut is not None:
        steps.append(step("expire", older_than=cut if cut == "future" else {"before": f"@c{cut}"}))
    steps += [step("collect", dry_run=True), step("collect"), step("collect")]
    left, reports = [], []
    for engine in (ours, oracle):
        program = Program(tmp_path / engine.name, data)
        program.labels = original.labels
        shutil.copytree(original.path, program.path)
        *_, planned, done, again = program.run(engine, steps)
        assert planned == done
        assert not any(again.values())
        reports.append(done)
        left.append(files_of(tmp_path / engine.name))
        assert not differences(program.describe(ours), program.describe(oracle)), f"{engine.name} collected"
    assert left[0] == left[1]
    assert reports[0] == reports[1]


@pytest.mark.parametrize(("oracle", "spec"), PAIRS, indirect=["oracle"])
@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_one_expires_the_other_collects(
    oracle: Engine, ours: Engine, spec: int, first: str, tmp_path: Path, data: Path
) -> None:
    """And the first one goes on as if nothing had been."""
    one, other = (ours, oracle) if first == "ours" else (oracle, ours)
    program = Program(tmp_path / "repo", data)
    program.run(one, [step("create", spec=spec, config=CONFIG), *history()])
    program.run(one, [step("expire", older_than={"before": "@c3"})])
    before = files_of(tmp_path / "repo")
    program.run(other, [step("open"), step("collect")])
    assert files_of(tmp_path / "repo") < before
    more: list[Any] = [*session(), step("write", path="a", values={"fill": 7}), *commit("afterwards")]
    for engine in (one, other):
        program.run(engine, [step("open"), *more])
    assert not differences(program.describe(ours), program.describe(oracle))


@pytest.mark.parametrize(("oracle", "spec"), PAIRS, indirect=["oracle"])
@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_one_rewrites_manifests_and_the_other_goes_on(
    oracle: Engine, ours: Engine, spec: int, first: str, tmp_path: Path, data: Path
) -> None:
    one, other = (ours, oracle) if first == "ours" else (oracle, ours)
    program = Program(tmp_path / "repo", data)
    program.run(other, [step("create", spec=spec, config=CONFIG), *history()])
    split = {"splitting": [[{"any": None}, [[{"axis": 0}, 1]]]], **CONFIG}
    program.run(one, [step("open", config=split), step("rewrite_manifests", message="split")])
    assert not differences(program.describe(ours), program.describe(oracle))
    more: list[Any] = [*session(), step("write", path="a", values={"fill": 7}), *commit("afterwards")]
    program.run(other, [step("open"), *more])
    assert not differences(program.describe(ours), program.describe(oracle))


@pytest.mark.parametrize(("oracle", "spec"), PAIRS, indirect=["oracle"])
@pytest.mark.parametrize("verb", ["expire and collect", "upgrade"])
def test_what_an_interruption_leaves_the_other_reads(
    oracle: Engine, ours: Engine, spec: int, verb: str, tmp_path: Path, data: Path
) -> None:
    """Stopped before any of its writes, or failing after it: what is on disk then is the same repository to both."""
    if verb == "upgrade" and (spec == 2 or oracle.name == "1.1.21"):
        pytest.skip("upgrading is from format 1, and 1.1.21 knows no other")
    original = Program(tmp_path / "original", data)
    original.run(ours, [step("create", spec=spec, config=CONFIG), *history()])

    async def act(storage: icechunk.Storage) -> None:
        repo = await icechunk.Repository.open_async(storage)
        if verb == "upgrade":
            await repo._upgrade(dry_run=False, delete_unused_v1_files=True, prefetch_concurrency=None)
        else:
            await repo.expire_snapshots_async(FAR)
            await repo.garbage_collect_async(FAR)

    def copy(name: str) -> Program:
        program = Program(tmp_path / name, data)
        shutil.copytree(original.path, program.path)
        return program

    calls = run(record_calls(icechunk.local_filesystem_storage(copy("calls").path), act))
    writes = [number for number, call in enumerate(calls) if call.verb in ("put", "delete")]
    assert len(writes) >= 4
    for number in writes:
        for how in ("stop", "after"):
            program = copy(f"{number}-{how}")
            storage = FaultyStorage(icechunk.local_filesystem_storage(program.path), Fault(number, how))
            with contextlib.suppress(Stopped, icechunk.IcechunkError):
                run(act(storage))
            assert not differences(program.describe(ours), program.describe(oracle)), f"{how} at {calls[number]}"


@pytest.mark.parametrize("solver", [None, "detect"])
def test_whoever_is_still_at_work_cannot_commit_to_branches_that_an_upgrade_has_closed(
    oracle: Engine, solver: str | None, tmp_path: Path, data: Path
) -> None:
    program = Program(tmp_path / "repo", data)
    array = step("array", path="a", shape=[4], chunks=[1], dtype="i4")
    program.run(oracle, [step("create", spec=1), step("session"), array, step("commit", message="first")])
    program.run(oracle, [step("session"), step("write", path="a", values={"fill": 3})])

    async def upgrade(storage: icechunk.Storage) -> None:
        repo = await icechunk.Repository.open_async(storage)
        await repo._upgrade(dry_run=False, delete_unused_v1_files=True, prefetch_concurrency=None)

    storage = icechunk.local_filesystem_storage(program.path)
    with contextlib.suppress(Stopped):  # the branches are closed, and not deleted yet
        run(upgrade(FaultyStorage(storage, Fault(0, "stop", frozenset({"delete"})))))
    with pytest.raises(StepFailed):
        oracle.do("commit", message="late", **({"solver": solver} if solver else {}))
    repo = icechunk.Repository.open(storage)
    assert [info.message for info in repo.ancestry(branch="main")] == ["first", "Repository initialized"]
    assert repo.list_branches() == {"main"}
