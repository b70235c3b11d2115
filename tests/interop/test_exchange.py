"""What one implementation writes, the other sees alike; and each goes on where the other stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.interop.descriptions import anonymous, differences
from tests.interop.language import step
from tests.interop.oracle import VERSIONS, Engine, Program
from tests.interop.programs import CONTENTS, Content, continuation

pytestmark = pytest.mark.interop


def extensions() -> list[Any]:
    """What only we write: by version of the reader and format."""
    return [
        pytest.param(version, content, spec, "ours", id=f"{version}-spec{spec}-{content}-extension")
        for version, specs in VERSIONS.items()
        for content in CONTENTS
        for spec in content.extension
        if spec in specs
    ]


def cases() -> list[Any]:
    return [
        pytest.param(version, content, spec, first, id=f"{version}-spec{spec}-{content}-{first}")
        for version, specs in VERSIONS.items()
        for content in CONTENTS
        for spec in content.specs
        if spec in specs and content.api <= int(version[0])
        for first in ("ours", "theirs")
    ]


@pytest.mark.parametrize(("oracle", "content", "spec", "first"), [*cases(), *extensions()], indirect=["oracle"])
def test_exchange(
    oracle: Engine, ours: Engine, content: Content, spec: int, first: str, tmp_path: Path, data: Path
) -> None:
    """Write with one; both see the same. Then commit in turn, and both see the same after each commit."""
    skip_what_zarr_changed(content, ours, oracle)
    writer, reader = (ours, oracle) if first == "ours" else (oracle, ours)
    program = Program(tmp_path / "repo", data)
    creation = step("create", spec=spec, config=content.config, authorize=list(content.authorize))
    program.run(writer, [creation, *content.steps])
    written = program.describe(writer, content.authorize)
    assert not differences(written, program.describe(reader, content.authorize)), "as written"

    opening = step("open", authorize=list(content.authorize))
    for number, engine in enumerate((reader, writer, reader)):
        program.run(engine, [opening, *continuation(number)])
        seen = program.describe(ours, content.authorize)
        assert not differences(seen, program.describe(oracle, content.authorize)), f"{engine.name} committed on top"


@pytest.mark.parametrize(("oracle", "content", "spec", "first"), cases(), indirect=["oracle"])
def test_relay(
    oracle: Engine, ours: Engine, content: Content, spec: int, first: str, tmp_path: Path, data: Path
) -> None:
    """The same program, handed over at every commit, gives what one implementation alone gives."""
    skip_what_zarr_changed(content, ours, oracle)
    alone = Program(tmp_path / "alone", data)
    creation = step("create", spec=spec, config=content.config, authorize=list(content.authorize))
    alone.run(oracle, [creation, *content.steps])

    runners = (ours, oracle) if first == "ours" else (oracle, ours)
    relay = Program(tmp_path / "relay", data)
    opening = step("open", authorize=list(content.authorize))
    relay.run(runners[0], [creation])
    for turn, leg in enumerate(legs(content.steps)):
        relay.run(runners[turn % 2], [opening, *leg])
    expected = anonymous(alone.describe(oracle, content.authorize))
    for reader in (oracle, ours):
        seen = anonymous(relay.describe(reader, content.authorize))
        assert not differences(expected, seen), f"read by {reader.name}"


def skip_what_zarr_changed(content: Content, *engines: Engine) -> None:
    if content.same_zarr and len({engine.do("about")["zarr"] for engine in engines}) > 1:
        pytest.skip("these two run different versions of zarr, which spell this differently")


def legs(steps: list[list[Any]]) -> list[list[list[Any]]]:
    """The program cut before each step that starts a session, unless other sessions are open then."""
    cut: list[list[list[Any]]] = [[]]
    open_sessions: set[str] = set()
    for name, arguments in steps:
        session = arguments.get("session", "s")
        if not open_sessions and cut[-1]:
            cut.append([])
        if name in ("session", "rearrange"):
            open_sessions.add(session)
        elif name == "fork":
            open_sessions.add(arguments["to"])
        elif name == "merge":
            open_sessions -= set(arguments["others"])
        elif name in ("commit", "commit_empty", "amend", "flush"):
            open_sessions.discard(session)
        cut[-1].append([name, arguments])
    return cut
