"""Servers as processes: found where they are installed, started on free ports of this machine, ended when done.

`scripts/test` installs them under .cache/servers (see scripts/_servers.sh); ICECHUNK_TEST_SERVERS names other
directories to look in, before the PATH. A test whose server is not there is skipped and says which it was.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
INSTALLED = ROOT / ".cache" / "servers"
PLACES = ("python/bin", "seaweedfs/bin", "node/node_modules/.bin", "nginx/usr/sbin")
PATIENCE = 60.0


def find(*names: str) -> str:
    """The first of these programs that there is; the test is skipped where there is none."""
    named = os.environ.get("ICECHUNK_TEST_SERVERS", "").split(os.pathsep)
    usual = [str(INSTALLED / place) for place in PLACES]
    for place in filter(None, [*named, *usual, *os.environ.get("PATH", "").split(os.pathsep)]):
        for name in names:
            for found in (Path(place, name), *Path(place).glob(f"../lib/python*/site-packages/{name}")):
                if found.is_file():
                    return str(found)
    pytest.skip(f"{names[0]} is not installed (scripts/test does that)")


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@contextlib.contextmanager
def running(
    command: list[str], directory: Path, ready: Callable[[], bool], patience: float = PATIENCE, **environment: str
) -> Iterator[None]:
    """The program, from when it is `ready` until it is ended."""
    log = directory / "log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + patience
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"{command[0]} did not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        yield
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    """Whether something speaks HTTP there."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        ask(port, "GET", "/")
        return True
    return False


def ask(port: int, verb: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """One request, and its status and text."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(verb, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def must(port: int, verb: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
    """A request that succeeds."""
    status, text = ask(port, verb, path, body, headers)
    assert status in (200, 201), (verb, path, status, text)


def listens(port: int) -> bool:
    """Whether something accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
