"""Telling a person how far a long operation has got.

An operation reports `Step` values to any callable. `terminal_progress` gives one that draws a bar where somebody watches
a terminal and stays silent everywhere else.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TextIO, TypeAlias

from icechunk._dataclass import dataclass

_WIDTH = 30


@dataclass(frozen=True, slots=True)
class Step:
    """One report.

    Attributes
    ----------
    stage : str
        What is being done, for people.
    done : int
        How many things are done.
    total : int or None
        How many there are, None where nobody knows.
    """

    stage: str
    done: int
    total: int | None = None

    def __str__(self) -> str:
        if not self.total:
            return f"{self.stage}: {self.done:,}"
        filled = _WIDTH * min(self.done, self.total) // self.total
        return f"{self.stage} [{'#' * filled}{'.' * (_WIDTH - filled)}] {self.done:,}/{self.total:,}"


Progress: TypeAlias = Callable[[Step], None]


def silent(step: Step) -> None:
    """Report to nobody."""


class TerminalBar:
    """Draws the present step over the former one, and begins a new line for each stage."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._shown = ""
        self._stage: str | None = None

    def __call__(self, step: Step) -> None:
        line = str(step)
        with self._lock:
            if self._stage is not None and step.stage != self._stage:
                self._stream.write("\n")
                self._shown = ""
            self._stage = step.stage
            self._stream.write("\r" + line.ljust(len(self._shown)))
            self._shown = line
            if step.total is not None and step.done >= step.total:
                self._stream.write("\n")
                self._stage, self._shown = None, ""
            self._stream.flush()


def terminal_progress(stream: TextIO | None = None) -> Progress:
    """A bar on `stream` (standard error by default) when it is a terminal, else silence."""
    stream = sys.stderr if stream is None else stream
    return TerminalBar(stream) if stream.isatty() else silent


class Counter:
    """Counts towards a total and reports each step; may be used from many threads."""

    def __init__(self, report: Progress, stage: str, total: int | None = None) -> None:
        self._report = report
        self._stage = stage
        self._total = total
        self._done = 0
        self._lock = threading.Lock()

    def add(self, count: int = 1) -> None:
        """Report that `count` more things are done."""
        with self._lock:
            self._done += count
            done = self._done
        self._report(Step(self._stage, done, self._total))
