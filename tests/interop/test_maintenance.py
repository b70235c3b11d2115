"""Looking after a repository that the other implementation wrote: the very same objects go, and both read what stays."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.interop.descriptions import differences
from tests.interop.language import step
from tests.interop.oracle import VERSIONS, Engine, Program
from tests.interop.programs import Steps, commit, session, small_array

pytestmark = pytest.mark.interop

FOLDERS = ("snapshots", "transactions", "manifests", "chunks")
PAIRS = [(version, spec) for version, specs in VERSIONS.items() for spec in specs]
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
