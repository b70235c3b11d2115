"""Sources that virtual chunks can point to: a directory, a web server, and an S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.web_server import Page, WebServer, web_server
from tests.storage.fake_s3 import FakeS3, Stored, serving

DATA = bytes(range(32))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.bin").write_bytes(DATA)
    return tmp_path / "data"


@pytest.fixture
def web() -> Iterator[WebServer]:
    with web_server() as server:
        server.pages["data/a.bin"] = Page(DATA)
        yield server


@pytest.fixture
def s3() -> Iterator[FakeS3]:
    with serving() as server:
        server.objects["data/a.bin"] = Stored(DATA, {})
        yield server
