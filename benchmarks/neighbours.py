"""Virtual chunks that lie side by side in one object: how many requests it takes to read them, and how long.

    python -m benchmarks.neighbours             # 1,000 chunks of 64 KiB, three rounds
    python -m benchmarks.neighbours --write     # and put the table into docs/performance.md

Every round of every engine has a process of its own. Needs the environments that `scripts/test --all` makes, or `--ours`,
`--ours-new`, `--ref11`, `--ref23` with paths to Pythons.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from tests.servers.fault_proxy import proxy_of

from benchmarks.document import carry_out, medians, table, tell
from benchmarks.engines import COLUMNS, engines, in_turn
from benchmarks.s3_servers import BUCKET, Backend, requests_of, serving, work
from icechunk._driver import run

FOLDER, FILE = "archive", "field.nc"
URL = f"s3://{BUCKET}/{FOLDER}/{FILE}"
WAYS = {"quick": ("quick", 0.0), "seaweedfs": ("seaweedfs", 0.0), "quick, 20 ms away": ("quick", 0.02)}
"""The server, and seconds that every answer waits."""
FORMS = {"requests": "{:,.0f}"}
Rounds = dict[tuple[str, int | None, str, str], list[float]]
"""What was measured, by way, chunks at a time, name of the measurement and engine."""


@contextlib.contextmanager
def reached(way: str) -> Iterator[tuple[Backend, str]]:
    """A server, and the address at which it is read."""
    kind, latency = WAYS[way]
    with serving(kind) as backend:
        if not latency:
            yield backend, backend.url
            return
        with proxy_of(backend.url, latency=latency) as proxy:
            yield backend, proxy.url


def measure(arguments: argparse.Namespace) -> Rounds:
    """All rounds."""
    found: Rounds = defaultdict(list)
    pythons = engines(arguments)
    chunk = arguments.kibibytes << 10
    data = np.random.default_rng(0).integers(0, 2**32, arguments.chunks * chunk // 4, np.uint32)
    for way in arguments.way:
        with reached(way) as (backend, address):
            run(backend.storage(FOLDER).put(FILE, data.tobytes()))
            made = {"url": URL, "endpoint": address, "count": arguments.chunks, "chunk": chunk}
            for engine, python in pythons.items():
                work(engine, python, "neighbours_made", place=backend.place(engine), **made)
            for number, concurrency in itertools.product(range(arguments.rounds), arguments.concurrency):
                for engine, python in in_turn(pythons, number):
                    answer = read(engine, python, backend, concurrency)
                    assert answer.pop("sum") == int(data.sum(dtype=np.uint64)), "other bytes were read"
                    for name, value in answer.items():
                        found[way, concurrency, name, engine].append(value)
                    tell(f"{way}, {concurrency}, round {number + 1}, {engine}", answer)
    return found


def read(engine: str, python: str, backend: Backend, concurrency: int | None) -> dict[str, float]:
    """One round: what the process says, and the requests that the server counted."""
    counted = backend.name == "quick"
    if counted:
        requests_of(backend)
    answer = work(engine, python, "neighbours_read", place=backend.place(engine), url=URL, concurrency=concurrency)
    if counted:
        answer["requests"] = sum(requests_of(backend).values())
    return answer


def rows(found: Rounds) -> list[list[str]]:
    """Lines of the table."""
    lines = []
    for way, concurrency in dict.fromkeys((way, concurrency) for way, concurrency, _, _ in found):
        for name in ("requests", "read", "read cpu"):
            shown = medians(found, FORMS.get(name, "{:.3g}"), way, concurrency, name)
            if shown is not None:
                title = {"requests": "requests", "read": "seconds", "read cpu": "processor seconds"}[name]
                width = "10" if concurrency is None else str(concurrency)
                lines.append([f"{way}, {width} at a time: {title}", *shown])
    return lines


def report(found: Rounds, arguments: argparse.Namespace) -> str:
    """The section of docs/performance.md."""
    return f"""\
{arguments.chunks:,} virtual chunks of {arguments.kibibytes} KiB, one behind the other in one object in S3, read as one Zarr array by a
new process; "10 at a time" is what Zarr does by itself (`async.concurrency`). Medians of {arguments.rounds} rounds. Requests are
all that the process made, opening the repository included. Servers as above; "20 ms away" is the quick one with every answer
held up for so long.

{table(["", *COLUMNS.values()], rows(found))}

Measured by `python -m benchmarks.neighbours --write`."""


def main() -> None:
    """Measure, print, and write where that is wanted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=1000)
    parser.add_argument("--kibibytes", type=int, default=64, help="of a chunk")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", nargs="*", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--concurrency", nargs="*", type=int, default=[None, 64], help="chunks at a time")
    carry_out("neighbours", parser, lambda arguments: report(measure(arguments), arguments))


if __name__ == "__main__":
    main()
