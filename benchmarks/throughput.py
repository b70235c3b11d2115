"""Chunks to and from an S3 server, ours and the Rust package alternating; the table can go into docs/performance.md.

    python -m benchmarks.throughput                  # 1 GiB in chunks of 8 MiB and of 256 KiB, three rounds, both servers
    python -m benchmarks.throughput --write          # and put the table into docs/performance.md
    python -m benchmarks.throughput --mebibytes 128 --rounds 1 --server quick

Every round of every engine has two processes and a server of its own. Needs the environments that `scripts/test --all` makes, or
`--ours`, `--ours-new`, `--ref11`, `--ref23` with paths to Pythons.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections import defaultdict
from statistics import median

from benchmarks.document import carry_out, table, tell
from benchmarks.engines import PAIRS, engines, in_turn
from benchmarks.s3_servers import KINDS, serving, transfer

CHUNKS = (8192, 256)  # KiB
Rounds = dict[tuple[str, int, str, str], list[float]]
"""What was measured, by server, KiB per chunk, name of the measurement and engine."""


def measure(arguments: argparse.Namespace) -> Rounds:
    """All rounds."""
    found: Rounds = defaultdict(list)
    pythons = engines(arguments)
    for kind, chunk, number in itertools.product(arguments.server, arguments.kibibytes, range(arguments.rounds)):
        for engine, python in in_turn(pythons, number):
            with serving(kind) as backend:
                answer = transfer(engine, python, backend.place("r"), arguments.mebibytes, chunk)
            for name, value in answer.items():
                found[kind, chunk, name, engine].append(value)
            tell(f"{kind}, {chunk} KiB, round {number + 1}, {engine}", answer)
    return found


def rows(found: Rounds, mebibytes: int) -> list[list[str]]:
    """Lines of the table."""
    lines = []
    for kind, chunk, verb in dict.fromkeys((kind, chunk, name.split()[0]) for kind, chunk, name, _ in found):
        if verb == "memory":
            continue
        line = [f"{verb}, {size(chunk)}, {kind}"]
        for ours, theirs in PAIRS:
            mine, other = (found.get((kind, chunk, verb, engine)) for engine in (ours, theirs))
            costs = [found.get((kind, chunk, f"{verb} cpu", engine)) for engine in (ours, theirs)]
            line += [speed(mine, mebibytes), speed(other, mebibytes), ratio(mine, other), ratio(*costs)]
        lines.append(line)
    return lines


def size(kibibytes: int) -> str:
    return f"{kibibytes // 1024} MiB" if kibibytes >= 1024 else f"{kibibytes} KiB"


def speed(seconds: list[float] | None, mebibytes: int) -> str:
    return f"{mebibytes / median(seconds):,.0f}" if seconds else ""


def ratio(mine: list[float] | None, other: list[float] | None) -> str:
    return f"{median(mine) / median(other):.2f}" if mine and other else ""


def report(found: Rounds, mebibytes: int, rounds: int) -> str:
    """The section of docs/performance.md."""
    head = ["MiB per second", "ours", "1.1.21", "time", "processor", "ours, newest zarr", "2.3.0", "time", "processor"]
    return f"""\
{mebibytes:,} MiB of random numbers, not compressed, in one assignment with its commit and one read of a Zarr array (10 chunks at a
time, as Zarr does by itself), on {os.cpu_count()} cores that client and server share. Medians of {rounds} rounds, each against a server of its
own; one process writes, another one reads. "time" and "processor" are ratios of the seconds that pass and of the processor time of the client; below 1
means that ours needs less. SeaweedFS is a real server, and busy with checksums for most of the time that passes; "quick" is
`benchmarks/quick_s3.py`, which keeps what comes in memory and does nothing else.

{table(head, rows(found, mebibytes))}

Measured by `python -m benchmarks.throughput --write`."""


def main() -> None:
    """Measure, print, and write where that is wanted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=1024)
    parser.add_argument("--kibibytes", type=int, nargs="*", default=CHUNKS, help="of a chunk")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server", nargs="*", choices=KINDS, default=KINDS)
    carry_out("throughput", parser, lambda arguments: report(measure(arguments), arguments.mebibytes, arguments.rounds))


if __name__ == "__main__":
    main()
