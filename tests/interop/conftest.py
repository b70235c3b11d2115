"""Fixtures of the exchange with the Rust implementation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.interop.oracle import VERSIONS, Engine, Local, Oracle, python_of


@pytest.fixture(scope="session")
def engines() -> Iterator[dict[str, Engine]]:
    """The oracles started so far by version, and the package under test as `"ours"`.

    `ICECHUNK_TEST_SUBJECT=/path/to/python` puts another implementation in the place of ours: it tests the tests.
    """
    subject = os.environ.get("ICECHUNK_TEST_SUBJECT")
    started: dict[str, Engine] = {"ours": Oracle("subject", subject) if subject else Local()}
    yield started
    for engine in started.values():
        if isinstance(engine, Oracle):
            engine.close()


@pytest.fixture(params=VERSIONS)
def oracle(request: pytest.FixtureRequest, engines: dict[str, Engine]) -> Engine:
    """The Rust implementation, in each version; skipped where it is not installed."""
    return start(request.param, engines)


def start(version: str, engines: dict[str, Engine]) -> Engine:
    if version not in engines:
        python = python_of(version)
        if python is None:
            pytest.skip(f"the reference {version} is not installed (scripts/test does that)")
        engines[version] = Oracle(version, python)
    return engines[version]


@pytest.fixture
def ours(engines: dict[str, Engine]) -> Engine:
    return engines["ours"]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files for virtual chunks to point into."""
    directory = tmp_path_factory.mktemp("data")
    (directory / "sub").mkdir()
    content = bytes(range(256)) * 16
    (directory / "bytes.bin").write_bytes(content)
    (directory / "with space.bin").write_bytes(content[::-1])
    (directory / "sub" / "deep.bin").write_bytes(content[:64])
    return directory
