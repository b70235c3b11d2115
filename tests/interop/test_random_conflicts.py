"""Two sessions change things at random and meet: both implementations find the same conflicts, or make the same of it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.interop.conftest import start
from tests.interop.descriptions import anonymous, but_for_sizes, differences
from tests.interop.language import step
from tests.interop.oracle import Engine, Program, StepFailed
from tests.packs import small_packs

pytestmark = pytest.mark.interop

ARRAYS, GROUPS = ("a", "g/b", "g/h/c"), ("g", "g/h", "n")
arrays, groups, nodes = st.sampled_from(ARRAYS), st.sampled_from(GROUPS), st.sampled_from((*ARRAYS, *GROUPS))
corners = st.sampled_from([0, 2])


def write(path: str, i: int, j: int, value: int) -> list[Any]:
    return step("write", path=path, values={"fill": value}, where=[[i, i + 2], [j, j + 2]])


edits = st.one_of(
    *[st.builds(write, arrays, corners, corners, st.integers(1, 9))] * 3,
    st.builds(lambda path, n: step("attributes", path=path, attributes={"n": n}), nodes, st.integers(1, 3)),
    st.builds(lambda path, rows: step("resize", path=path, shape=[rows, 4]), arrays, st.sampled_from([2, 4, 6])),
    st.builds(lambda path: step("delete", path=path), nodes),
    st.builds(lambda path: step("group", path=path), st.sampled_from(("n", "n/o", "g/new"))),
    st.builds(
        lambda path: step("array", path=path, shape=[4, 4], chunks=[2, 2], dtype="i2"),
        st.sampled_from(("n", "n/o", "g/new")),
    ),
    st.builds(lambda path, i: step("delete_key", key=f"{path}/c/{i}/0"), arrays, st.integers(0, 1)),
)
sides = st.lists(edits, min_size=1, max_size=4)
BEGINNING = [
    step("session"),
    step("group", path=""),
    *(step("group", path=path) for path in ("g", "g/h")),
    *(step("array", path=path, shape=[4, 4], chunks=[2, 2], dtype="i2") for path in ARRAYS),
    *(step("write", path=path, values={"range": 1}) for path in ARRAYS),
    step("commit", message="beginning"),
]


def outcome(engine: Engine, program: Program, steps: list[list[Any]]) -> list[Any]:
    found: list[Any] = []
    for name, arguments in steps:
        try:
            result = program.step(engine, name, arguments)
            found.append(result if name == "rebase" else "done")
        except StepFailed as error:
            found.append(error.kind or "failed")
    return found


def in_order(results: list[Any]) -> list[Any]:
    """Without the order in which conflicts are told."""
    return [sorted(map(str, each["conflicts"])) if isinstance(each, dict) else each for each in results]


def check(
    oracle: Engine,
    ours: Engine,
    spec: int,
    packed: bool,
    solver: str,
    theirs: list[Any],
    later: list[Any],
    mine: list[Any],
) -> None:
    def of(session: str, edits: list[Any]) -> list[Any]:
        return [step(name, **arguments, session=session) for name, arguments in edits]

    steps = [
        *BEGINNING,
        step("session", session="mine"),
        *of("mine", mine),
        step("session", session="theirs"),
        *of("theirs", theirs),
        step("commit", message="theirs", session="theirs"),
        *([step("session", session="later"), *of("later", later)] if later else []),
        *([step("commit", message="later", session="later")] if later else []),
        step("rebase", session="mine", solver=solver),
        step("commit", message="mine", session="mine"),
    ]
    with tempfile.TemporaryDirectory() as directory:
        programs = {engine.name: Program(Path(directory) / engine.name) for engine in (oracle, ours)}
        results = {}
        for engine in (oracle, ours):
            program = programs[engine.name]
            program.run(engine, [step("create", spec=spec, config=PACKED if packed else None)])
            results[engine.name] = in_order(outcome(engine, program, steps))
        for number, (one, other) in enumerate(zip(results[oracle.name], results[ours.name], strict=True)):
            assert one == other, f"step {number}: {steps[number]}"
        expected = anonymous(programs[oracle.name].describe(oracle))
        for reader in (ours, oracle):
            seen = anonymous(programs[ours.name].describe(reader))
            if packed:
                expected, seen = but_for_sizes(expected), but_for_sizes(seen)
            assert not differences(expected, seen), f"read by {reader.name}"


COMMON = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
PACKED = {"inline_chunk_threshold_bytes": 0, "pack_small_chunks": True}
solvers = st.sampled_from(["detect", "detect", "ours", "theirs"])


@pytest.mark.parametrize("spec", [1, 2])
@pytest.mark.parametrize(
    "examples", [pytest.param(25, id="some"), pytest.param(500, id="many", marks=pytest.mark.slow)]
)
def test_random_conflicts(
    engines: dict[str, Engine], ours: Engine, spec: int, examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_packs(monkeypatch, alone=0, chunks=3, size=20)
    oracle = start("2.3.0", engines)

    @settings(max_examples=examples, **COMMON)
    @given(packed=st.booleans(), solver=solvers, theirs=sides, later=st.just([]) | sides, mine=sides)
    def meet(packed: bool, solver: str, theirs: list[Any], later: list[Any], mine: list[Any]) -> None:
        check(oracle, ours, spec, packed, solver, theirs, later, mine)

    meet()
