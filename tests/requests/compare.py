"""How many requests each implementation makes for the same work, at a real S3 behind a proxy that counts.

    python -m tests.requests.compare            prints the table
    python -m tests.requests.compare --write    puts it into docs/performance.md

Needs what scripts/test installs. Every request is made to last 30 ms, so that the longest chain of requests that waited for
one another can be told from those that were made together.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.interop.oracle import python_of
from tests.requests.operations import OPERATIONS
from tests.servers.backends import start_ministack
from tests.servers.fault_proxy import Proxy, proxy_of

HERE = Path(__file__).parent
DOCUMENT = HERE.parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- requests: begin -->", "<!-- requests: end -->"
LATENCY = 0.03
COLUMNS = (("ours", 1), ("1.1.21", 1), ("2.3.0", 1), ("ours", 2), ("2.3.0", 2))


def run(version: str, name: str, spec: int, place: object) -> None:
    python = sys.executable if version == "ours" else python_of(version)
    if python is None:
        sys.exit(f"{version} is not installed: scripts/test does that")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    if version == "ours":
        environment["PYTHONPATH"] = str(HERE.parent.parent / "src")
    command = [python, "-P", "-W", "ignore", str(HERE / "operations.py"), name, str(spec), json.dumps(place)]
    subprocess.run(command, check=True, env=environment, cwd=tempfile.gettempdir(), timeout=600)


def measure(proxy: Proxy, places: tuple[object, object], version: str, spec: int, name: str) -> tuple[int, int]:
    """How many requests, and how many of them one after the other."""
    direct, counted = places
    run(version, "prepare", spec, direct)
    proxy.reset()
    run(version, name, spec, counted)
    return len(proxy.passed), proxy.depth


def table() -> str:
    head = ["", *[f"{'this package' if version == 'ours' else version}, format {spec}" for version, spec in COLUMNS]]
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    with (
        tempfile.TemporaryDirectory() as directory,
        start_ministack(Path(directory)) as backend,
        proxy_of(backend.url, latency=LATENCY) as proxy,
    ):
        for number, name in enumerate(OPERATIONS):
            cells = []
            for version, spec in COLUMNS:
                prefix = f"{number}-{version}-{spec}"
                places = (backend.place(prefix), backend.at(proxy.url).place(prefix))
                requests, depth = measure(proxy, places, version, spec, name)
                cells.append(f"{requests} ({depth})")
                print(name, version, spec, cells[-1], file=sys.stderr)
            lines.append(" | ".join([name, *cells]))
    return "\n".join(f"| {line} |" for line in lines)


def main() -> None:
    found = table()
    text = (
        f"{BEGIN}\n\nRequests to an S3 (ministack) on a repository of 177 arrays and ten commits, opened anew for each line; in "
        "parentheses how many of\nthem had to wait for one another, which is what a distant store makes one wait for.\n\n"
        f"{found}\n\nMeasured by `python -m tests.requests.compare`; `tests/requests` holds our own numbers as upper bounds.\n\n{END}"
    )
    print(text)
    if "--write" in sys.argv:
        document = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.exists() else "# Performance\n\n"
        if BEGIN in document:
            before, _, rest = document.partition(BEGIN)
            document = before + text + rest.partition(END)[2]
        else:
            document = f"{document.rstrip()}\n\n## Requests\n\n{text}\n"
        DOCUMENT.write_text(document, encoding="utf-8")


if __name__ == "__main__":
    main()
