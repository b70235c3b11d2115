"""What one implementation writes into a store the other sees alike, and each goes on where the other stopped."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from tests.interop.conftest import data, engines, oracle, ours
from tests.interop.descriptions import differences
from tests.interop.language import step
from tests.interop.oracle import VERSIONS, Engine, Program
from tests.interop.programs import CONTENTS, continuation
from tests.servers.backends import Backend
from tests.servers.test_writers import check_nothing_is_lost, commit_many, new_repository

__all__ = ["data", "engines", "oracle", "ours"]  # fixtures

CONTENT = {content.name: content for content in CONTENTS}
pytestmark = pytest.mark.interop


@pytest.mark.parametrize(
    ("oracle", "spec"), [(version, spec) for version, specs in VERSIONS.items() for spec in specs], indirect=["oracle"]
)
@pytest.mark.parametrize(("content", "first"), [("inline and native", "ours"), ("branches and tags", "theirs")])
def test_round_trip(
    backend: Backend, oracle: Engine, ours: Engine, spec: int, content: str, first: str, tmp_path: Path, data: Path
) -> None:
    """Chunks of all sizes, branches and tags with odd names: both see the same, and commit in turn."""
    writer, reader = (ours, oracle) if first == "ours" else (oracle, ours)
    program = Program(tmp_path, data)
    program.path = json.dumps(backend.place())
    program.run(writer, [step("create", spec=spec, config=CONTENT[content].config), *CONTENT[content].steps])
    assert not differences(program.describe(writer), program.describe(reader)), "as written"
    for number, engine in enumerate((reader, writer)):
        program.run(engine, [step("open"), *continuation(number)])
        assert not differences(program.describe(ours), program.describe(oracle)), f"{engine.name} committed on top"


@pytest.mark.parametrize(
    ("oracle", "spec"), [(version, spec) for version, specs in VERSIONS.items() for spec in specs], indirect=["oracle"]
)
def test_both_at_once(backend: Backend, oracle: Engine, spec: int) -> None:
    """Writers of both implementations on one branch: nothing is lost, neither ours nor theirs."""
    prefix = f"mixed-{oracle.name}-{spec}"
    storage, place = backend.storage(prefix), json.dumps(backend.place(prefix))
    writers, commits = 4, 4
    new_repository(storage, spec, (writers + 1) * commits)
    theirs: list[str] = []

    def run_theirs() -> None:
        oracle.do("open", path=place)
        for turn in range(commits):
            oracle.do("session")
            where = [[writers * commits + turn, writers * commits + turn + 1]]
            oracle.do("write", path="a", values={"fill": 1 + writers}, where=where)
            theirs.append(oracle.do("commit", message=f"{writers}-{turn}", solver="detect"))

    other = threading.Thread(target=run_theirs)
    other.start()
    promised = commit_many(storage, writers, commits)
    other.join()
    assert len(theirs) == commits
    check_nothing_is_lost(storage, [*promised, *theirs], writers + 1, commits)
