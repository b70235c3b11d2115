"""Each server is started once, by the first test that needs it, and ended with the last."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("obstore")

from tests.servers.backends import (
    Backend,
    start_azurite,
    start_fake_gcs,
    start_ministack,
    start_nginx,
    start_seaweedfs,
)
from tests.servers.ceph import start_ceph
from tests.servers.swift import start_swift

Start = Callable[[str], Backend]

DEFAULT = {"ministack": start_ministack, "azurite": start_azurite, "fake-gcs": start_fake_gcs}
SLOW = {"seaweedfs": start_seaweedfs, "ceph": start_ceph}
WITHOUT_CONDITIONS = {"swift": start_swift}
STARTERS = {**DEFAULT, **SLOW, **WITHOUT_CONDITIONS}


@pytest.fixture(scope="session")
def start_backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Gives the running store of a name; the test is skipped where it cannot be started."""
    running: dict[str, Backend | str] = {}
    with contextlib.ExitStack() as stack:

        def start(name: str) -> Backend:
            if name not in running:
                try:
                    running[name] = stack.enter_context(STARTERS[name](tmp_path_factory.mktemp(name)))
                except pytest.skip.Exception as why:
                    running[name] = str(why)
            found = running[name]
            if isinstance(found, str):
                pytest.skip(found)
            return found

        yield start


def backends() -> list[object]:
    """The names of all stores that know conditions, as parameters; those that are heavy to start are for slow runs."""
    return [*DEFAULT, *[pytest.param(name, marks=pytest.mark.slow) for name in SLOW]]


@pytest.fixture(params=backends())
def backend(request: pytest.FixtureRequest, start_backend: Start) -> Backend:
    """Each store in turn."""
    return start_backend(request.param)


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A web server and the directory that it serves."""
    with start_nginx(tmp_path_factory.mktemp("nginx")) as started:
        yield started
