"""Damaged files: whatever stands in them, only an `IcechunkError` comes out, and what cannot be read is named.

A repository with a bit of everything, the same each time, is made for each format. One of its files is damaged, at random but from fixed
seeds; then everything that can be done with a repository is done. Memory is bounded while that goes on, so a file that
claims to be large ends in a failure here, not in a dead machine.
"""

from __future__ import annotations

import contextlib
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import icechunk
from icechunk.storage.memory import MemoryStorage
from tests.fuzz.damage import damages
from tests.fuzz.samples import Walk, sample

pytestmark = pytest.mark.filterwarnings("ignore::icechunk.UncommittedChangesWarning", "ignore::RuntimeWarning")

MEMORY = 1 << 30
"""Bytes that damaged files of a few hundred may make us ask for, beyond what the process has already."""

KINDS = {
    "snapshot": r"snapshots/(?!1CECHNKREP0F1RSTCMT0)",
    "manifest": r"manifests/",
    "log": r"transactions/(?!1CECHNKREP0F1RSTCMT0)",
    "repo": r"repo$",
    "ref": r"refs/.*ref\.json$",
    "configuration": r"config\.yaml$",
    "chunk": r"chunks/",
    "first": r".*/1CECHNKREP0F1RSTCMT0$",
}
OF_SPEC = {1: set(KINDS) - {"repo"}, 2: set(KINDS) - {"ref", "configuration"}}
CASES = [
    pytest.param(spec, kind, id=f"spec{spec}-{kind}") for spec in (1, 2) for kind in KINDS if kind in OF_SPEC[spec]
]
COUNTS = [pytest.param(24, id="few"), pytest.param(600, id="many", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("virtual") / "data.bin"
    file.write_bytes(bytes(range(256)))
    return file


@pytest.fixture(scope="module")
def samples(data: Path) -> dict[int, MemoryStorage]:
    return {spec: sample(spec, data, compressed_locations=spec == 2) for spec in (1, 2)}


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Refuse memory beyond a limit, where the system can."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    former = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, former)


def files(storage: MemoryStorage, kind: str) -> list[str]:
    return sorted(path for path in storage._objects if re.match(KINDS[kind], path))


def with_file(storage: MemoryStorage, path: str, content: bytes) -> MemoryStorage:
    twin = storage.copy()
    twin._objects[path] = twin._objects[path]._replace(data=content)
    return twin


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(("spec", "kind"), CASES)
def test_damage_is_reported(samples: dict[int, MemoryStorage], data: Path, spec: int, kind: str, count: int) -> None:
    base = samples[spec]
    paths = files(base, kind)
    noticed = 0
    with little_memory():
        for number in range(count):
            dice = random.Random(f"{spec}-{kind}-{number}")
            path = dice.choice(paths)
            content = base._objects[path].data
            ways = damages(content)
            way = list(ways)[number % len(ways)]
            broken = ways[way](content, dice)
            try:
                walk = Walk(with_file(base, path, broken), data).everything()
                assert_named(walk, path)
            except BaseException as error:
                error.add_note(f"{path}, {way}, number {number}: {broken.hex()}")
                raise
            noticed += bool(walk.errors)
    assert noticed > count / 4, "the damage does no harm, so this tests nothing"


def assert_named(walk: Walk, path: str) -> None:
    """A file that cannot be read is called by its name."""
    for error in walk.errors:
        if isinstance(error, icechunk.FormatError) and error.kind in ("invalid-file-format", "deserialization"):
            assert path in error.message, f"{error.message!r} does not name {path}"


def test_the_sample_is_whole(samples: dict[int, MemoryStorage], data: Path) -> None:
    for spec, storage in samples.items():
        errors = Walk(storage.copy(), data).everything().errors
        # the storage has a clock of its own, so that it is the same every time; a commit in format 1 notices that
        errors = [error for error in errors if getattr(error, "kind", None) != "snapshot-timestamp"]
        # what an empty first snapshot does not have
        assert {type(error) for error in errors} <= {icechunk.NodeNotFoundError, icechunk.errors.ObjectNotFoundError}
        assert len(errors) <= 4, spec
