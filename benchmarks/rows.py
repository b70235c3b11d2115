"""What a benchmark is: a question, how to set it up, and what is timed.

The same code runs in each engine's own interpreter, against its own `icechunk`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

ROWS: dict[str, Row] = {}


@dataclass(frozen=True)
class Row:
    """One line of the result.

    Attributes
    ----------
    name : str
        What to call it on the command line.
    question : str
        What it measures, and at which scale.
    measure : callable
        Gets what `prepare` returned in the same process and does, once, what is to be timed. When it returns a number,
        that is the time in seconds; otherwise the call is timed.
    prepare : callable, optional
        Gets a directory and sets everything up; its result goes to `measure`.
    build : callable, optional
        Gets an empty directory and writes into it what `prepare` finds there, once.
    built_by : "each", "reference" or "ours"
        Who runs `build`: each engine for itself, or one for all.
    rounds, repeats : int
        How many times the engines take turns, and how often each measures in its turn.
    fresh : bool
        Whether each measurement runs in a new process, which also tells its peak memory.
    target : float
        The ratio, ours to the reference, that we want to stay below.
    against : tuple of str
        The versions of the reference to compare with.
    ours_only : bool
        Whether `prepare` needs what only our package has; the reference then runs the row named by `beside`.
    """

    name: str
    question: str
    measure: Callable[[Any], float | None]
    target: float
    prepare: Callable[[str], Any] | None = None
    build: Callable[[str], None] | None = None
    built_by: Literal["each", "reference", "ours"] = "each"
    rounds: int = 5
    repeats: int = 3
    fresh: bool = False
    against: tuple[str, ...] = ("1.1.21", "2.3.0")
    options: dict[str, Any] = field(default_factory=dict)


def add(row: Row) -> Row:
    """Put a row on the list."""
    ROWS[row.name] = row
    return row
