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

    `writer` is the engine that makes it: "same" is the one that is measured, "reference" the 2.3.0 package. `ours` are more
    arguments, for this package only.
    """

    name: str
    make: Callable[..., None]
    arguments: dict[str, Any] = field(default_factory=dict)
    writer: str = "same"
    ours: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    name : str
        How it is called on the command line.
    title : str or tuple of str
        How it is called in the table; several for what is measured in several laps, each of which has a line.
    measure : callable
        `measure(place, **arguments)` returns the seconds that count, of each lap if there are several; `place` is a copy of
        the fixture or an empty directory.
    fixture : Fixture, optional
        What is in `place`.
    fresh : bool
        Whether each round needs a process of its own, for what is cold or must not have been imported.
    rounds : int
        How often it is measured; the first round warms up unless `fresh`.
    needs : str
        The oldest reference that can do it: "1.1.21" or "2.3.0".
    memory : bool
        Whether the table has a line for the peak memory of the process too: of all of it, so rounds should be `fresh`.
    waits : bool
        Whether it waits for something that takes no processor time, so that the time that passes is shown in any case.
    consumes : bool
        Whether a round needs the fixture as it was, since it deletes or converts what is there.
    """

    name: str
    title: str | tuple[str, ...]
    measure: Callable[..., float | tuple[float, ...]]
    arguments: dict[str, Any] = field(default_factory=dict)
    fixture: Fixture | None = None
    fresh: bool = False
    rounds: int = 5
    needs: str = "1.1.21"
    memory: bool = False
    waits: bool = False
    consumes: bool = False

    @property
    def lines(self) -> tuple[str, ...]:
        """The titles of its lines."""
        times = (self.title,) if isinstance(self.title, str) else self.title
        return (*times, f"peak memory of {'that' if len(times) == 1 else 'these'}") if self.memory else times


class Stopwatch:
    """Seconds between entering and leaving, and processor time of all threads; the garbage collector rests meanwhile."""

    seconds = 0.0
    cpu = 0.0
    laps: ClassVar[list[Stopwatch]] = []
    """Those of a round, in the order in which they were started first."""

    def __enter__(self) -> Stopwatch:
        if self not in Stopwatch.laps:
            Stopwatch.laps.append(self)
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
        row.fixture.make(Path(order["path"]), **order["arguments"])
        return {}
    Stopwatch.laps.clear()
    taken = row.measure(Path(order["path"]), **row.arguments)
    seconds = taken if isinstance(taken, tuple) else (taken,)
    watches = Stopwatch.laps[-len(seconds) :]
    cpu = [value * watch.cpu / watch.seconds for value, watch in zip(seconds, watches, strict=True)]
    peak = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024] if row.memory else []
    return {"seconds": [*seconds, *peak], "cpu": [*cpu, *peak]}


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
