"""The same steps, on two implementations, have the same outcome: values, conflicts, errors and what remains on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.interop.conftest import start
from tests.interop.descriptions import anonymous, differences
from tests.interop.language import step
from tests.interop.oracle import Engine, Program, StepFailed
from tests.interop.programs import CONFIG, commit, session, small_array

pytestmark = pytest.mark.interop

Steps = list[list[Any]]
BASE: Steps = [
    *session(),
    step("group", path="g"),
    *small_array("g/a"),
    *small_array("g/b"),
    step("group", path="h"),
    *commit("base", label="base"),
]


def both(oracle: Engine, ours: Engine, tmp_path: Path, data: Path) -> list[tuple[Engine, Program]]:
    return [(engine, Program(tmp_path / engine.name, data)) for engine in (oracle, ours)]


def specs_of(oracle: Engine) -> tuple[int, ...]:
    return (1, 2) if oracle.name.startswith("2") else (1,)


# -- conflicts ------------------------------------------------------------------------------------------------------

CHANGES: dict[str, Steps] = {
    "chunk 00": [step("write", path="g/a", values={"fill": 50}, where=[[0, 2], [0, 2]])],
    "chunk 00 and 11": [
        step("write", path="g/a", values={"fill": 60}, where=[[0, 2], [0, 2]]),
        step("write", path="g/a", values={"fill": 60}, where=[[2, 4], [2, 4]]),
    ],
    "delete chunk 00": [step("delete_key", key="g/a/c/0/0")],
    "attributes of a": [step("attributes", path="g/a", attributes={"x": 1})],
    "resize a": [step("resize", path="g/a", shape=[8, 4])],
    "attributes of g": [step("attributes", path="g", attributes={"x": 1})],
    "attributes of h": [step("attributes", path="h", attributes={"x": 1})],
    "delete a": [step("delete", path="g/a")],
    "delete g": [step("delete", path="g")],
    "delete h": [step("delete", path="h")],
    "recreate a": [step("delete", path="g/a"), *small_array("g/a", "f4")],
    "new n": [step("group", path="g/n")],
    "new array n": small_array("g/n"),
    "new n/m": [step("group", path="g/n"), step("group", path="g/n/m")],
    "new h/n": [step("group", path="h/n")],
    "chunk of b": [step("write", path="g/b", values={"fill": 70}, where=[[0, 2], [0, 2]])],
}


# both recreate: the Rust package ends with two nodes at one path, which is a defect
DEFECTS = {("recreate a", "recreate a")}


@pytest.fixture(params=["1.1.21", "2.3.0"])
def rebasing(request: pytest.FixtureRequest, engines: dict[str, Engine]) -> Engine:
    return start(request.param, engines)


@pytest.mark.parametrize("solver", ["detect", "ours", "theirs"])
@pytest.mark.parametrize("theirs", CHANGES)
def test_rebase(rebasing: Engine, ours: Engine, theirs: str, solver: str, tmp_path: Path, data: Path) -> None:
    """Every pair of changes: the same conflicts, or the same repository after the rebase."""
    outcomes = []
    for engine, program in both(rebasing, ours, tmp_path, data):
        program.run(engine, [step("create", spec=specs_of(rebasing)[-1]), *BASE])
        outcome = {}
        for number, (name, change) in enumerate(CHANGES.items()):
            if (theirs, name) in DEFECTS:
                continue
            branch = f"b{number}"
            mine = [[verb, {**arguments, "session": "mine"}] for verb, arguments in change]
            program.run(
                engine,
                [
                    step("branch", name=branch, snapshot="@base"),
                    *session(branch),
                    step("session", branch=branch, session="mine"),
                    *CHANGES[theirs],
                    *commit(f"theirs {branch}"),
                    *mine,
                ],
            )
            (result,) = program.run(engine, [step("rebase", session="mine", solver=solver)])
            if not result["conflicts"]:
                program.run(engine, [step("commit", message=f"mine {branch}", session="mine")])
            outcome[name] = sorted(map(str, result["conflicts"]))
        outcomes.append((outcome, anonymous(program.describe(engine))))
    assert outcomes[0][0] == outcomes[1][0]
    assert not differences(outcomes[0][1]["trees"], outcomes[1][1]["trees"])


# -- errors ---------------------------------------------------------------------------------------------------------

MISTAKES: dict[str, Steps] = {
    "create over": [step("create", spec=1)],
    "unknown branch": [step("session", branch="nope")],
    "unknown branch to delete": [step("delete_branch", name="nope")],
    "main branch": [step("delete_branch", name="main")],
    "branch that exists": [step("branch", name="main", snapshot="@base")],
    "bad id": [step("branch", name="x", snapshot="nope")],
    "unknown id": [step("branch", name="x", snapshot="ZZZZZZZZZZZZZZZZZZZ0")],
    "tag twice": [step("tag", name="t", snapshot="@base"), step("tag", name="t", snapshot="@base")],
    "tag again": [
        step("tag", name="t", snapshot="@base"),
        step("delete_tag", name="t"),
        step("tag", name="t", snapshot="@base"),
    ],
    "unknown tag": [step("delete_tag", name="nope")],
    "nothing to commit": [*session(), *commit("nothing")],
    "committed twice": [*session(), step("group", path="x"), *commit("once"), *commit("twice")],
    "tip moved": [
        *session(),
        step("session", session="late"),
        step("group", path="x"),
        *commit("first"),
        step("group", path="y", session="late"),
        step("commit", message="late", session="late"),
    ],
    "reset from elsewhere": [step("reset_branch", name="main", snapshot="@base", expected="1CECHNKREP0F1RSTCMT0")],
    "diff backwards": [step("diff", start="@base", end="1CECHNKREP0F1RSTCMT0")],
    "chunk outside": [*session(), step("set_key", key="g/a/c/9/9", text="x")],
    "chunk of a group": [*session(), step("set_key", key="g/c/0", text="x")],
    "chunk of nothing": [*session(), step("set_key", key="nope/c/0", text="x")],
    "not a key": [*session(), step("set_key", key="foo", text="x")],
    "not json": [*session(), step("set_key", key="x/zarr.json", text="{")],
    "no node type": [*session(), step("set_key", key="x/zarr.json", text="{}")],
    "group over array": [
        *session(),
        step("set_key", key="g/a/zarr.json", text='{"node_type":"group","zarr_format":3}'),
    ],
    "old metadata": [*session(), step("set_key", key="x/.zgroup", text="{}")],
    "not a location": [
        *session(),
        step("virtual", path="g/a", refs=[{"at": [0, 0], "url": "nothing", "offset": 0, "length": 1}]),
    ],
    "commit of a fork": [*session(), step("fork", to="f"), step("commit", message="x", session="f")],
    "merge of a session": [
        *session(),
        step("session", session="o"),
        step("fork", to="f"),
        step("merge", session="f", others=["o"]),
    ],
    "expired everything": [step("expire", older_than="future"), *session(), step("read", path="g/a")],
    "move in a plain session": [*session(), step("move", source="/g/a", target="/z")],
    "amend of nothing": [
        step("branch", name="x", snapshot="1CECHNKREP0F1RSTCMT0"),
        *session("x"),
        step("group", path=""),
        step("amend", message="x"),
    ],
}
ONLY_2 = {"move in a plain session", "amend of nothing"}


@pytest.mark.parametrize(
    ("mistake", "spec"),  # in format 1 the Rust package neither amends nor moves; we do
    [(mistake, spec) for spec in (1, 2) for mistake in MISTAKES if spec == 2 or mistake not in ONLY_2],
)
def test_mistakes(
    engines: dict[str, Engine], ours: Engine, mistake: str, spec: int, tmp_path: Path, data: Path
) -> None:
    """The same step of a wrong program fails, with the class and the code of the 2.x package, and does no damage."""
    outcomes = []
    for engine, program in both(start("2.3.0", engines), ours, tmp_path, data):
        program.run(engine, [step("create", spec=spec), *BASE])
        failed = []
        for number, (name, arguments) in enumerate(MISTAKES[mistake]):
            try:
                program.step(engine, name, arguments)
            except StepFailed as error:
                failed.append((number, error.kind, error.classes))
        outcomes.append((failed, anonymous(program.describe(engine))))
    expected, seen = outcomes[0][0], outcomes[1][0]
    assert [failure[:2] for failure in seen] == [failure[:2] for failure in expected]
    for failure, reference in zip(seen, expected, strict=True):
        assert reference[2][0] in failure[2], "whoever catches the class of the Rust package catches ours"
    assert not differences(outcomes[0][1]["trees"], outcomes[1][1]["trees"])


@pytest.mark.parametrize("mistake", sorted(set(MISTAKES) - ONLY_2))
def test_mistakes_in_1x(engines: dict[str, Engine], ours: Engine, mistake: str, tmp_path: Path, data: Path) -> None:
    """What 1.x refuses is refused, whatever the class; a missing node is a KeyError in both."""
    outcomes = []
    for engine, program in both(start("1.1.21", engines), ours, tmp_path, data):
        program.run(engine, [step("create", spec=1), *BASE])
        failed = []
        for number, (name, arguments) in enumerate(MISTAKES[mistake]):
            try:
                program.step(engine, name, arguments)
            except StepFailed:
                failed.append(number)
        outcomes.append(failed)
    assert outcomes[0] == outcomes[1]


# -- other operations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [1, 2])
@pytest.mark.parametrize("cut", range(6))
@pytest.mark.parametrize("dropping", [False, True])
def test_expire_and_collect(
    engines: dict[str, Engine], ours: Engine, spec: int, cut: int, dropping: bool, tmp_path: Path, data: Path
) -> None:
    """The same snapshots are released, the same objects deleted, and the same repository remains.

    In format 1 the Rust package also reports snapshots that a branch or tag still holds, and keeps them; we do not.
    """
    steps: Steps = [*session(), step("group", path=""), *small_array("a"), *commit("c0", label="c0")]
    for number in range(1, 5):
        steps += [*session(), step("write", path="a", values={"fill": number}, where=[number % 4, 0])]
        steps += commit(f"c{number}", label=f"c{number}")
    steps += [
        step("tag", name="t", snapshot="@c1"),
        step("branch", name="b", snapshot="@c2"),
        step("branch", name="dead", snapshot="@c3"),
        *session("dead"),
        step("group", path="dead"),
        *commit("dead"),
        step("delete_branch", name="dead"),
    ]
    when = "future" if cut == 5 else {"before": f"@c{cut}"}
    outcomes = []
    for engine, program in both(start("2.3.0", engines), ours, tmp_path, data):
        config = {"inline_chunk_threshold_bytes": 0}
        program.run(engine, [step("create", spec=spec, config=config), *steps])
        names = {snapshot: label for label, snapshot in program.labels.items()}
        released, dry, summary, again = program.run(
            engine,
            [
                step("expire", older_than=when, branches=dropping, tags=dropping),
                step("collect", dry_run=True),
                step("collect"),
                step("collect"),
            ],
        )
        outcomes.append(
            (
                sorted(names.get(one, "other") for one in released),
                dry,
                summary,
                again,
                anonymous(program.describe(engine)),
            )
        )
    (released, *collected, remaining), ours_released = outcomes[0], outcomes[1][0]
    held = {info["message"] for history in remaining["histories"].values() for info in history}
    assert ours_released == (released if spec == 2 else [one for one in released if one not in held])
    assert list(outcomes[1][1:4]) == collected
    assert not differences(remaining, outcomes[1][4])


@pytest.mark.parametrize("spec", [1, 2])
def test_stored_conditions(engines: dict[str, Engine], ours: Engine, spec: int, tmp_path: Path, data: Path) -> None:
    """Conditions have no fields to look at in the Rust package once stored; their printed form is compared."""
    oracle = start("2.3.0", engines)
    for engine in (oracle, ours):
        program = Program(tmp_path / engine.name, data)
        program.run(engine, [step("create", spec=spec, config=CONFIG.config)])
        seen = [reader.do("preload_condition", path=program.path) for reader in (oracle, ours)]
        assert seen[0] == seen[1]


def test_operations_log(engines: dict[str, Engine], ours: Engine, tmp_path: Path, data: Path) -> None:
    oracle = start("2.3.0", engines)
    logs = []
    for engine, program in both(oracle, ours, tmp_path, data):
        program.run(
            engine,
            [
                step("create", spec=2, config={"num_updates_per_repo_info_file": 5}),
                *BASE,
                step("branch", name="b", snapshot="@base"),
                step("reset_branch", name="b", snapshot="@base"),
                step("tag", name="t", snapshot="@base"),
                step("delete_tag", name="t"),
                step("set_metadata", metadata={"a": 1}),
                step("save_config", config={"inline_chunk_threshold_bytes": 1}),
                step("set_flag", name="move_node", value=True),
                *session("b"),
                step("group", path="x"),
                step("amend", message="amended"),
                step("delete_branch", name="b"),
                *session(),
                step("group", path="y"),
                step("flush", message="detached"),
                step("expire", older_than={"before": "@base"}),
                step("collect"),
            ],
        )
        for reader in (oracle, ours):
            log = program.run(reader, [step("open"), step("changes")])[1]
            logs.append(log)
    assert len(logs[0]) == 14
    assert logs[0] == logs[1] == logs[2] == logs[3]
