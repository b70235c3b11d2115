"""Real processes on a real disk: they race, they are killed, and nothing that was acknowledged is lost.

The quick run has fewer processes and commits than the slow one; both do the same.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import icechunk
from icechunk._driver import run
from tests.invariants import assert_whole, contents, messages
from tests.processes.worker import content, prepare

ROOT = Path(__file__).parents[2]
SCALES = [pytest.param((4, 10), id="few"), pytest.param((8, 50), id="many", marks=pytest.mark.slow)]
BEGINNING = ["array", "Repository initialized"]


@pytest.fixture(params=[1, 2], ids=["spec1", "spec2"])
def spec(request: pytest.FixtureRequest) -> int:
    return request.param


@contextlib.contextmanager
def workers(directory: Path, spec: int, *jobs: tuple[object, ...]) -> Iterator[list[subprocess.Popen[str]]]:
    """A process for each job, all let go at once."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    begun = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.processes.worker", str(directory), str(spec), str(name), *map(str, job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        for name, job in enumerate(jobs)
    ]
    try:
        for process in begun:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.communicate()[1]
        for process in begun:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        yield begun
    finally:
        for process in begun:
            process.kill()
            process.communicate()


def said(begun: list[subprocess.Popen[str]]) -> list[list[list[str]]]:
    """The words of each line that each process printed; all must end well."""
    output = [process.communicate() for process in begun]
    for process, (_, errors) in zip(begun, output, strict=True):
        assert process.returncode == 0, errors
    return [[line.split() for line in out.splitlines()] for out, _ in output]


def opened(directory: Path) -> icechunk.Repository:
    return run(assert_whole(icechunk.local_filesystem_storage(str(directory))))


def assert_arrived(directory: Path, lines: list[list[list[str]]], branch: str = "main") -> None:
    """Every commit that was acknowledged is in the history once, under the id that was told, and its chunk is there."""
    repo = opened(directory)
    acknowledged = {(name, int(number)): snapshot for each in lines for name, number, snapshot in each}
    history = {info.message: info.id for info in repo.ancestry(branch=branch)}
    found = run(contents(repo, branch))
    assert len(history) == len(run(messages(repo, branch))), "a commit is there twice"
    for (name, number), snapshot in acknowledged.items():
        assert history[f"{name}:{number}"] == snapshot
        assert found[f"a/c/{name}/{number}"] == content(name, number)
    assert history.keys() - BEGINNING == {f"{name}:{number}" for name, number in acknowledged}
    assert len([key for key in found if "/c/" in key]) == len(acknowledged)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("job", ["commit", "commit_plainly"])
def test_many_commit_to_one_branch(tmp_path: Path, spec: int, job: str, scale: tuple[int, int]) -> None:
    count, commits = scale
    prepare(str(tmp_path), spec)
    with workers(tmp_path, spec, *[(job, commits)] * count) as begun:
        lines = said(begun)
    assert [len(each) for each in lines] == [commits] * count
    assert_arrived(tmp_path, lines)


@pytest.mark.parametrize("scale", SCALES)
def test_many_commit_to_branches_of_their_own(tmp_path: Path, spec: int, scale: tuple[int, int]) -> None:
    count, commits = scale
    prepare(str(tmp_path), spec)
    with workers(tmp_path, spec, *[("commit_to_own_branch", commits)] * count) as begun:
        lines = said(begun)
    for name, each in enumerate(lines):
        assert_arrived(tmp_path, [each], f"branch-{name}")


@pytest.mark.parametrize("scale", SCALES)
def test_others_read_and_collect_meanwhile(tmp_path: Path, spec: int, scale: tuple[int, int]) -> None:
    count, commits = scale
    prepare(str(tmp_path), spec)
    jobs = [*[("commit", commits)] * (count - 2), *[("look_after", commits)] * 2]
    with workers(tmp_path, spec, *jobs) as begun:
        lines = said(begun)
    assert_arrived(tmp_path, lines[:-2])


def test_eight_create_a_repository(tmp_path: Path, spec: int) -> None:
    with workers(tmp_path, spec, *[("create",)] * 8) as begun:
        lines = [line for each in said(begun) for line in each]
    assert Counter(map(tuple, lines)) == {("created",): 1, ("error", "parent-directory-not-clean"): 7}
    assert run(messages(opened(tmp_path))) == ["Repository initialized"]


def test_eight_open_or_create_a_repository(tmp_path: Path, spec: int) -> None:
    with workers(tmp_path, spec, *[("open_or_create",)] * 8) as begun:
        lines = [line for each in said(begun) for line in each]
    assert len(lines) == 8 and len(set(map(tuple, lines))) == 1
    assert run(messages(opened(tmp_path))) == ["Repository initialized"]


def test_each_tag_and_branch_is_made_by_one(tmp_path: Path, spec: int) -> None:
    prepare(str(tmp_path), spec)
    names = 10
    with workers(tmp_path, spec, *[("refs", names)] * 8) as begun:
        lines = [tuple(line) for each in said(begun) for line in each]
    made = Counter(line for line in lines if line[0] != "error")
    assert made == {(kind, str(number)): 1 for kind in ("tag", "branch") for number in range(names)}
    errors = {line[1] for line in lines if line[0] == "error"}
    assert errors <= {"tag-already-exists", "branch-already-exists", "branch-update-conflict"}
    repo = opened(tmp_path)
    assert repo.list_tags() == {f"n{number}" for number in range(names)} == repo.list_branches() - {"main"}


@pytest.mark.parametrize(
    ("rounds", "seed"), [pytest.param(3, 1, id="few"), pytest.param(25, 2, id="many", marks=pytest.mark.slow)]
)
def test_processes_killed_at_random(tmp_path: Path, spec: int, rounds: int, seed: int) -> None:
    """Whoever is killed in the middle of a commit leaves a repository that is whole, and in nobody's way."""
    prepare(str(tmp_path), spec)
    dice = random.Random(seed)
    acknowledged: set[str] = set()
    kills = 0
    for number in range(rounds):
        with workers(tmp_path, spec, *[("commit", 64)] * 3) as begun:
            names = iter(dice.sample(range(3), 3))
            # told of a few commits, or of none: then it is killed, which is in the middle of the next one
            for name in names:
                process = begun[name]
                assert process.stdout is not None
                for _ in range(dice.randrange(4)):
                    line = process.stdout.readline().split()
                    acknowledged.add(line[2])
                process.kill()
                kills += 1
                acknowledged |= {
                    line.split()[2] for line in process.communicate()[0].splitlines() if line.count(" ") == 2
                }
        repo = opened(tmp_path)
        history = [info.id for info in repo.ancestry(branch="main")]
        assert acknowledged <= set(history), f"round {number}"
        assert run(contents(repo)).keys() >= {"a/zarr.json"}
    assert kills == 3 * rounds and len(acknowledged) >= rounds
    session = repo.writable_session("main")
    session.commit("after all", allow_empty=True)
    assert run(messages(opened(tmp_path)))[0] == "after all"
