"""Random programs, run by the Rust implementation and by ours: every step has the same outcome, and so has the whole."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from tests.interop.conftest import start
from tests.interop.descriptions import anonymous, but_for_sizes, differences
from tests.interop.language import step
from tests.interop.oracle import Engine, Program, StepFailed
from tests.packs import small_packs

pytestmark = pytest.mark.interop

ARRAYS = ("a", "g/a", "g/b", "h/x/y")
GROUPS = ("", "g", "h", "h/x")
NODES = (*ARRAYS, *GROUPS[1:])
SHAPES = st.sampled_from([[4, 4], [5, 3], [8, 2], [1, 1], [6, 6]])
CHUNKS = st.sampled_from([[2, 2], [1, 3], [4, 4]])

arrays, groups, nodes = st.sampled_from(ARRAYS), st.sampled_from(GROUPS), st.sampled_from(NODES)
small = st.integers(0, 7)
editing = st.one_of(
    st.builds(lambda path: step("group", path=path), groups),
    st.builds(
        lambda path, shape, chunks: step("array", path=path, shape=shape, chunks=chunks, dtype="i2"),
        arrays,
        SHAPES,
        CHUNKS,
    ),
    st.builds(lambda path, value: step("write", path=path, values={"fill": value}), arrays, small),
    st.builds(lambda path, first: step("write", path=path, values={"range": first}), arrays, small),
    st.builds(
        lambda path, row, value: step("write", path=path, values={"fill": value}, where=[[row, row + 2], [0, 1]]),
        arrays,
        st.integers(0, 3),
        small,
    ),
    st.builds(
        lambda path, i, j: step("delete_key", key=f"{path}/c/{i}/{j}"), arrays, st.integers(0, 2), st.integers(0, 2)
    ),
    st.builds(lambda path, shape: step("resize", path=path, shape=shape), arrays, SHAPES),
    st.builds(lambda path, value: step("attributes", path=path, attributes={"n": value}), nodes, small),
    st.builds(lambda path: step("delete", path=path), nodes),
)
finishing = st.one_of(
    st.just([step("commit", message="commit")]),
    st.just([step("commit", message="commit")]),
    st.just([step("status"), step("commit", message="commit")]),
    st.just([step("discard")]),
    st.just([step("flush", message="flushed")]),
)
names = st.sampled_from(["x", "y"])
between = st.one_of(
    st.builds(lambda name: step("tag", name=name, snapshot="@tip"), names),
    st.builds(lambda name: step("delete_tag", name=name), names),
    st.builds(lambda name: step("branch", name=name, snapshot="@tip"), names),
    st.builds(lambda name: step("reset_branch", name=name, snapshot="@tip"), names),
    st.builds(lambda name: step("delete_branch", name=name), names),
    st.just(step("rewrite_manifests", message="rewritten")),
)
FREE = ("session", "tag", "delete_tag", "branch", "reset_branch", "delete_branch", "rewrite_manifests")
branches = st.sampled_from(["main", "main", "main", "x", "y"])
leg = st.builds(
    lambda branch, edits, end, others: [step("session", branch=branch), *edits, *end, *others],
    branches,
    st.lists(editing, min_size=1, max_size=8),
    finishing,
    st.lists(between, max_size=2),
)
programs = st.lists(leg, min_size=1, max_size=6).map(lambda legs: list(itertools.chain.from_iterable(legs)))
configs = st.sampled_from(
    [
        {},
        {"inline_chunk_threshold_bytes": 0},
        {"inline_chunk_threshold_bytes": 0, "pack_small_chunks": True},
        {"splitting": [[{"any": True}, [[{"axis": 0}, 1], [{"any": True}, 2]]]]},
    ]
)


PACKED_BEFORE = [
    step("session", branch="main"),
    *(step("array", path=path, shape=[6, 6], chunks=[2, 2], dtype="i2") for path in ARRAYS),
    *(step("write", path=path, values={"range": 1}) for path in ARRAYS),
    step("commit", message="packed"),
]
"""What there is before programs in which chunks are packed, so that they have something to overwrite and to drop."""


@pytest.fixture(autouse=True)
def packs_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where chunks are packed, all are."""
    small_packs(monkeypatch, alone=0, chunks=3, size=20)


def run(engine: Engine, program: Program, creation: list[Any], steps: list[list[Any]]) -> list[Any]:
    """What each step came to: its result, or the code of its error. Messages of commits are numbered.

    Steps that need a session are left out where it could not be opened, or has ended.
    """
    program.run(engine, [creation])
    outcomes: list[Any] = []
    program.labels["tip"] = "1CECHNKREP0F1RSTCMT0"
    open_session = False
    for number, (name, arguments) in enumerate(steps):
        if name not in FREE and not open_session:
            outcomes.append("left out")
            continue
        if name in ("commit", "flush", "rewrite_manifests"):
            arguments = {**arguments, "message": f"{arguments['message']} {number}", "label": "tip"}
        try:
            result = program.step(engine, name, arguments)
            outcomes.append(result if name == "status" else "done")
            if name in ("session", "commit", "flush"):
                open_session = name == "session"
        except StepFailed as error:
            open_session = open_session and name != "session"
            outcomes.append(error.kind or "failed")  # errors of zarr have no code, and new names in new versions
    return outcomes


def check(oracle: Engine, ours: Engine, spec: int, config: Any, steps: list[list[Any]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        theirs, mine = Program(Path(directory) / "theirs"), Program(Path(directory) / "ours")
        creation = step("create", spec=spec, config=config)
        steps = [*PACKED_BEFORE, *steps] if "pack_small_chunks" in config else steps
        for number, (one, other) in enumerate(
            zip(run(oracle, theirs, creation, steps), run(ours, mine, creation, steps), strict=True)
        ):
            assert one == other, f"step {number}: {steps[number]}"
        expected = anonymous(theirs.describe(oracle))
        note(f"{len(steps)} steps, {len(expected['trees'])} snapshots")
        for program, reader in ((theirs, ours), (mine, oracle), (mine, ours)):
            seen = anonymous(program.describe(reader))
            if "pack_small_chunks" in config:
                expected, seen = but_for_sizes(expected), but_for_sizes(seen)
            assert not differences(expected, seen), f"{program.path} read by {reader.name}"


COMMON = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


@pytest.mark.parametrize("spec", [1, 2])
def test_random_programs(engines: dict[str, Engine], ours: Engine, spec: int) -> None:
    oracle = start("2.3.0", engines)

    @settings(max_examples=25, **COMMON)
    @given(config=configs, steps=programs)
    def some(config: Any, steps: list[list[Any]]) -> None:
        check(oracle, ours, spec, config, steps)

    some()


@pytest.mark.slow
@pytest.mark.parametrize("spec", [1, 2])
def test_many_random_programs(engines: dict[str, Engine], ours: Engine, spec: int) -> None:
    oracle = start("2.3.0", engines)

    @settings(max_examples=400, **COMMON)
    @given(config=configs, steps=programs)
    def many(config: Any, steps: list[list[Any]]) -> None:
        check(oracle, ours, spec, config, steps)

    many()
