"""Ceph's object gateway on a cluster of one: the product behind many private clouds, and a strict reader of etags.

A monitor, a manager, one object daemon that keeps everything in memory, and the gateway, all on this machine; the programs
are Debian's, unpacked by scripts/test --all.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.backends import Backend, make_bucket, s3_backend
from tests.servers.programs import INSTALLED, PATIENCE, answers, free_port, listens, running

UNPACKED = INSTALLED / "ceph"
LIBRARIES = UNPACKED / "usr/lib/x86_64-linux-gnu"

CONF = """\
[global]
fsid = {fsid}
mon initial members = a
mon host = v2:127.0.0.1:{mon}
public network = 127.0.0.0/8
ms bind ipv6 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
keyring = {directory}/keyring
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
osd pool default pg num = 1
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
osd objectstore = memstore
memstore device bytes = 4294967296
osd class load list = *
osd class dir = {libraries}/rados-classes
erasure code dir = {libraries}/ceph/erasure-code
plugin dir = {libraries}/ceph
mgr module path = {unpacked}/usr/share/ceph/mgr
mgr initial modules =
log file = {directory}/$name.log
admin socket = {directory}/$name.asok
run dir = {directory}
pid file =
mon data = {directory}/mon-data
mgr data = {directory}/mgr-data
osd data = {directory}/osd-data
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{rgw}
rgw enable usage log = false
rgw thread pool size = 64
rgw gc processor period = 3600
rgw enable apis = s3
"""


class Cluster:
    """The programs of one cluster, and how they are called."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ports = {name: free_port() for name in ("mon", "rgw")}
        self.conf = directory / "ceph.conf"
        self.environment = {
            "LD_LIBRARY_PATH": f"{LIBRARIES}:{LIBRARIES}/ceph:{UNPACKED}/lib/x86_64-linux-gnu",
            "PYTHONPATH": str(UNPACKED / "usr/lib/python3/dist-packages"),
            "CEPH_CONF": str(self.conf),
        }
        for kind in ("mon", "mgr", "osd"):
            (directory / f"{kind}-data").mkdir()
        self.fsid = str(uuid.uuid4())
        places = {"directory": directory, "libraries": LIBRARIES, "unpacked": UNPACKED}
        self.conf.write_text(CONF.format(fsid=self.fsid, **places, **self.ports))

    def program(self, name: str, *arguments: str) -> list[str]:
        path = str(UNPACKED / "usr/bin" / name)
        return ["/usr/bin/python3", path, *arguments] if name == "ceph" else [path, *arguments]

    def call(self, name: str, *arguments: str) -> str:
        done = subprocess.run(
            self.program(name, *arguments),
            cwd=self.directory,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        if done.returncode:
            pytest.skip(f"{name} {arguments} failed: {done.stderr[-2000:]}")
        return done.stdout

    def daemon(self, name: str, *arguments: str, port: int | None = None) -> contextlib.AbstractContextManager[None]:
        room = self.directory / name
        room.mkdir()
        command = self.program(name, "-f", "-c", str(self.conf), *arguments)
        return running(command, room, lambda: port is None or listens(port), patience=2 * PATIENCE, **self.environment)

    def make_keys(self) -> None:
        ring = str(self.directory / "keyring")
        self.call("ceph-authtool", "--create-keyring", ring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        caps = [word for kind in ("mon", "osd", "mgr", "mds") for word in ("--cap", kind, "allow *")]
        for name in ("client.admin", "mgr.x", "client.rgw", "osd.0"):
            self.call("ceph-authtool", ring, "--gen-key", "-n", name, *caps)

    def make_monitor(self) -> None:
        place = str(self.directory / "monmap")
        self.call(
            "monmaptool",
            "--create",
            "--clobber",
            "--addv",
            "a",
            f"[v2:127.0.0.1:{self.ports['mon']}]",
            "--fsid",
            self.fsid,
            place,
        )
        ring = str(self.directory / "keyring")
        self.call("ceph-mon", "-c", str(self.conf), "--mkfs", "-i", "a", "--monmap", place, "--keyring", ring)


@contextlib.contextmanager
def start_ceph(directory: Path) -> Iterator[Backend]:
    if not (UNPACKED / ".stamp").exists():
        pytest.skip("Ceph is not installed (scripts/test --all does that, on Debian)")
    cluster = Cluster(directory)
    cluster.make_keys()
    cluster.make_monitor()
    with contextlib.ExitStack() as stack:
        stack.enter_context(cluster.daemon("ceph-mon", "-i", "a", port=cluster.ports["mon"]))
        stack.enter_context(cluster.daemon("ceph-mgr", "-i", "x"))
        osd = str(uuid.uuid4())
        cluster.call("ceph", "osd", "new", osd, "0")
        cluster.call("ceph-osd", "-c", str(cluster.conf), "-i", "0", "--mkfs", "--osd-uuid", osd)
        stack.enter_context(cluster.daemon("ceph-osd", "-i", "0"))
        wait_until(lambda: "1 up" in cluster.call("ceph", "osd", "stat"))
        stack.enter_context(cluster.daemon("radosgw", "-n", "client.rgw", port=cluster.ports["rgw"]))
        user = ("--uid=test", "--display-name=test", "--access-key=test123", "--secret=test123456")
        cluster.call("radosgw-admin", "-c", str(cluster.conf), "user", "create", *user)
        backend = s3_backend("ceph", f"http://127.0.0.1:{cluster.ports['rgw']}", "test123", "test123456")
        wait_until(lambda: answers(cluster.ports["rgw"]) and make_bucket(backend))
        yield backend


def wait_until(true: object) -> None:
    deadline = time.monotonic() + 2 * PATIENCE
    while not true():  # type: ignore[operator]
        if time.monotonic() > deadline:
            pytest.skip("Ceph did not come up")
        time.sleep(0.2)
