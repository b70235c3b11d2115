"""What questions are made of, and the worker process that answers them.

A `Row` is one line of the table: a function that does something once and returns how many seconds the part that counts
took. The same function runs in a process of every engine, with whatever `icechunk` it can import there, so it uses the
public API only and imports it inside.

Run as a script this is a worker: it reads one order per line and answers with one line.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True)
class Fixture:
    """A repository that rows start from: made once by `make(path, **arguments)`, then copied.

    `writer` is the engine that makes it: "same" is the one that is measured, "reference" the 2.3.0 package.
    """

    name: str
    make: Callable[..., None]
    arguments: dict[str, Any] = field(default_factory=dict)
    writer: str = "same"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    name, title : str
        How it is called on the command line, and in the table.
    measure : callable
        `measure(place, **arguments)` returns the seconds that count; `place` is a copy of the fixture or an empty directory.
    fixture : Fixture, optional
        What is in `place`.
    fresh : bool
        Whether each round needs a process of its own, for what is cold or must not have been imported.
    rounds : int
        How often it is measured; the first round warms up unless `fresh`.
    needs : str
        The oldest reference that can do it: "1.1.21" or "2.3.0".
    memory : bool
        Whether the table shows the peak memory of the process instead of the time.
    """

    name: str
    title: str
    measure: Callable[..., float]
    arguments: dict[str, Any] = field(default_factory=dict)
    fixture: Fixture | None = None
    fresh: bool = False
    rounds: int = 5
    needs: str = "1.1.21"
    memory: bool = False


class Stopwatch:
    """Seconds between entering and leaving, and processor time of all threads; the garbage collector rests meanwhile."""

    seconds = 0.0
    cpu = 0.0
    last: ClassVar[Stopwatch]

    def __enter__(self) -> Stopwatch:
        Stopwatch.last = self
        gc.collect()
        gc.disable()
        self._start, self._start_cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._start
        self.cpu += time.process_time() - self._start_cpu
        gc.enable()


def questions() -> Iterator[Any]:
    """The modules with questions, in the order of their file names."""
    for path in sorted((Path(__file__).parent / "questions").glob("[!_]*.py")):
        yield importlib.import_module(f"benchmarks.questions.{path.stem}")


def all_rows() -> dict[str, Row]:
    rows = [row for question in questions() for row in question.ROWS]
    assert len({row.name for row in rows}) == len(rows), "two rows of one name"
    return {row.name: row for row in rows}


def obey(order: dict[str, Any]) -> dict[str, Any]:
    """Make a fixture, or measure a row."""
    row = all_rows()[order["row"]]
    if order["do"] == "make":
        assert row.fixture is not None
        row.fixture.make(Path(order["path"]), **row.fixture.arguments)
        return {}
    seconds = row.measure(Path(order["path"]), **row.arguments)
    watch = Stopwatch.last
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "cpu": seconds * watch.cpu / watch.seconds, "memory": peak}


def main() -> None:
    """Obey orders until standard input ends; answers have a channel that nobody prints into."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with contextlib.suppress(BrokenPipeError):
        for line in sys.stdin:
            try:
                answer = obey(json.loads(line))
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from benchmarks.harness import main as run_worker  # under its real name, as the questions import it

    run_worker()
