"""OpenStack Swift with its S3 interface: a real store that knows no conditional writes.

One replica, one device, all on this machine; the programs are Debian's, unpacked by scripts/test --all.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.backends import Backend, make_bucket, s3_backend
from tests.servers.programs import INSTALLED, PATIENCE, answers, free_port, listens, running

UNPACKED = INSTALLED / "swift"
PYTHON = "/usr/bin/python3"  # Debian's, which its packages are for

# it looks for swift.conf in /etc/swift before it reads where else to look
LAUNCH = """
import os, runpy, sys
import swift.common.utils
sys.argv = sys.argv[1:]
swift.common.utils.SWIFT_CONF_FILE = os.path.join(os.path.dirname(sys.argv[1]), "swift.conf")
runpy.run_path(sys.argv[0], run_name="__main__")
"""
SWIFT = "[swift-hash]\nswift_hash_path_prefix = p\nswift_hash_path_suffix = s\n[storage-policy:0]\nname = gold\ndefault = yes\n"
SERVER = """\
[DEFAULT]
devices = {directory}/devices
mount_check = false
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {directory}/etc
user = {user}
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
PROXY = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {directory}/etc
user = {user}
[pipeline:main]
pipeline = catch_errors cache listing_formats bulk s3api tempauth slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:s3api]
use = egg:swift#s3api
s3_acl = no
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached}
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""


@contextlib.contextmanager
def start_swift(directory: Path) -> Iterator[Backend]:
    if not (UNPACKED / ".stamp").exists():
        pytest.skip("Swift is not installed (scripts/test --all does that, on Debian)")
    etc = directory / "etc"
    etc.mkdir()
    (directory / "devices" / "d1").mkdir(parents=True)
    (etc / "swift.conf").write_text(SWIFT)
    environment = {
        "PYTHONPATH": str(UNPACKED / "usr/lib/python3/dist-packages"),
        "LD_LIBRARY_PATH": str(UNPACKED / "usr/lib/x86_64-linux-gnu"),
    }
    ports = {kind: free_port() for kind in ("account", "container", "object", "proxy", "memcached")}
    about = {"directory": directory, "user": _user(), "memcached": ports["memcached"]}
    with contextlib.ExitStack() as stack:
        memcached = [str(UNPACKED / "usr/bin/memcached"), "-u", _user(), "-l", "127.0.0.1", "-m", "32"]
        place = _room(directory, "memcached")
        port = ports["memcached"]
        stack.enter_context(running([*memcached, "-p", str(port)], place, lambda: listens(port), **environment))
        for kind in ("account", "container", "object"):
            _ring(etc, kind, ports[kind], environment)
            (etc / f"{kind}.conf").write_text(SERVER.format(kind=kind, port=ports[kind], **about))
            stack.enter_context(_server(kind, ports[kind], etc, environment))
        (etc / "proxy.conf").write_text(PROXY.format(port=ports["proxy"], **about))
        stack.enter_context(_server("proxy", ports["proxy"], etc, environment))
        backend = s3_backend("swift", f"http://127.0.0.1:{ports['proxy']}", "test:tester", "testing")
        assert make_bucket(backend)
        yield backend


def _user() -> str:
    import getpass

    return getpass.getuser()


def _room(directory: Path, name: str) -> Path:
    room = directory / name
    room.mkdir()
    return room


def _ring(etc: Path, kind: str, port: int, environment: dict[str, str]) -> None:
    for words in ("create 4 1 0", f"add r1z1-127.0.0.1:{port}/d1 1", "rebalance"):
        builder = [PYTHON, str(UNPACKED / "usr/bin/swift-ring-builder"), f"{kind}.builder", *words.split()]
        subprocess.run(builder, cwd=etc, env=environment, check=True, capture_output=True)


def _server(kind: str, port: int, etc: Path, environment: dict[str, str]) -> contextlib.AbstractContextManager[None]:
    program = str(UNPACKED / f"usr/bin/swift-{kind}-server")
    command = [PYTHON, "-c", LAUNCH, program, str(etc / f"{kind}.conf")]
    return running(command, _room(etc.parent, kind), lambda: answers(port), patience=2 * PATIENCE, **environment)
