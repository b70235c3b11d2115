"""Thousands of small chunks, near and far away: how many requests it takes to write and to read them, and how long.

    python -m benchmarks.small_chunks             # 4,096 chunks of 4 KiB, three rounds
    python -m benchmarks.small_chunks --write     # and put the table into docs/performance.md

Every round of every engine has two processes and a server of its own. Needs the environments that `scripts/test --all` makes, or
`--ours`, `--ours-new`, `--ref11`, `--ref23` with paths to Pythons.
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict

from benchmarks.document import carry_out, medians, table, tell
from benchmarks.engines import COLUMNS, engines, in_turn
from benchmarks.neighbours import FORMS, WAYS, reached
from benchmarks.s3_servers import requests_of, transfer

TITLES = {
    "requests": "requests",
    "write": "seconds to write and commit",
    "write cpu": "processor seconds of that",
    "read": "seconds to read",
    "read cpu": "processor seconds of that",
}
Rounds = dict[tuple[str, str, str], list[float]]
"""What was measured, by way, name of the measurement and engine."""


def measure(arguments: argparse.Namespace) -> Rounds:
    """All rounds."""
    found: Rounds = defaultdict(list)
    pythons = engines(arguments)
    for way, number in itertools.product(arguments.way, range(arguments.rounds)):
        for engine, python in in_turn(pythons, number):
            with reached(way) as (backend, address):
                place = backend.at(address).place("r")
                answer = transfer(engine, python, place, arguments.mebibytes, arguments.kibibytes)
                if backend.name == "quick":
                    answer["requests"] = sum(requests_of(backend).values())
            for name, value in answer.items():
                found[way, name, engine].append(value)
            tell(f"{way}, round {number + 1}, {engine}", answer)
    return found


def rows(found: Rounds) -> list[list[str]]:
    """Lines of the table."""
    lines = []
    for way, (name, title) in itertools.product(dict.fromkeys(way for way, _, _ in found), TITLES.items()):
        shown = medians(found, FORMS.get(name, "{:.3g}"), way, name)
        if shown is not None:
            lines.append([f"{way}: {title}", *shown])
    return lines


def report(found: Rounds, arguments: argparse.Namespace) -> str:
    """The section of docs/performance.md."""
    count = (arguments.mebibytes << 10) // arguments.kibibytes
    return f"""\
{count:,} chunks of {arguments.kibibytes} KiB, not compressed, written into S3 by one assignment to a Zarr array and a commit, and read by
one more in another process; 10 chunks at a time, as Zarr does by itself. Medians of {arguments.rounds} rounds. Requests are all that both
processes made, those for creating and opening the repository included. Servers as above; "20 ms away" is the quick one with every answer held
up for so long.

{table(["", *COLUMNS.values()], rows(found))}

Measured by `python -m benchmarks.small_chunks --write`."""


def main() -> None:
    """Measure, print, and write where that is wanted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=16)
    parser.add_argument("--kibibytes", type=int, default=4, help="of a chunk")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", nargs="*", choices=list(WAYS), default=list(WAYS))
    carry_out("small chunks", parser, lambda arguments: report(measure(arguments), arguments))


if __name__ == "__main__":
    main()
