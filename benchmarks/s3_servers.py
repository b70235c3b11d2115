"""S3 servers to measure with, and the Pythons that have an icechunk each.

`seaweedfs` is a real one, the fastest that runs here, and still does ten times as much work for an upload as the client: the
time that passes is mostly its own. `quick` (`quick_s3.py`) does next to nothing, so that the client shows.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.servers.backends import BUCKET, Backend, s3_backend, start_seaweedfs
from tests.servers.programs import answers, free_port, running

HERE = Path(__file__).parent
ROOT = HERE.parent
KINDS = ("seaweedfs", "quick")
PATIENCE = 3600.0


@contextlib.contextmanager
def serving(kind: str) -> Iterator[Backend]:
    """A server with an empty bucket; all it has is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="icechunk-bench-", ignore_cleanup_errors=True) as directory:
        if kind == "seaweedfs":
            with start_seaweedfs(Path(directory), volume_megabytes=1024) as backend:
                yield backend
            return
        port = free_port()
        command = [sys.executable, str(HERE / "quick_s3.py"), str(port)]
        with running(command, Path(directory), lambda: answers(port)):
            yield s3_backend("quick", f"http://127.0.0.1:{port}")


def requests_of(backend: Backend) -> dict[str, int]:
    """How often each verb was asked for at a quick server since this was asked last."""
    with urllib.request.urlopen(f"{backend.url}/?requests") as answer:
        counts: dict[str, int] = json.load(answer)
    return counts


def work(engine: str, python: str, task: str, **arguments: Any) -> dict[str, Any]:
    """What `benchmarks/s3_work.py` answers when it does `task` in a process of this engine."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    if engine.startswith("ours"):
        environment["PYTHONPATH"] = str(ROOT / "src")
    command = [python, "-W", "ignore", str(HERE / "s3_work.py"), task, json.dumps(arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode:
        raise RuntimeError(f"{engine}: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def transfer(engine: str, python: str, place: object, mebibytes: int, kibibytes: int) -> dict[str, Any]:
    """What it takes to write so much in chunks of so many KiB, and to read it, each in a process of its own."""
    wrote = work(engine, python, "written", place=place, mebibytes=mebibytes, kibibytes=kibibytes)
    read = work(engine, python, "read", place=place)
    return {**wrote, **read, "memory": max(wrote["memory"], read["memory"])}


__all__ = ["BUCKET", "KINDS", "Backend", "requests_of", "serving", "transfer", "work"]
