"""Tables in docs/performance.md that programs write, each between two markers of its own, below what is written by hand."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.engines import COLUMNS, add_choice_of_engines, add_engine_options

DOCUMENT = Path(__file__).parent.parent / "docs" / "performance.md"


def put(name: str, text: str) -> None:
    """Write `text` between the markers called `name`, at the end where there are none yet."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    document = DOCUMENT.read_text(encoding="utf-8")
    before, found, rest = document.partition(begin)
    after = rest.partition(end)[2] if found else "\n"
    if not found:
        before = before.rstrip("\n") + "\n\n"
    DOCUMENT.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}", encoding="utf-8")


def carry_out(name: str, parser: argparse.ArgumentParser, measured: Callable[[argparse.Namespace], str]) -> None:
    """Be the program that measures: print the section that `measured` makes, and write it where that is wanted."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    add_engine_options(parser)
    add_choice_of_engines(parser)
    arguments = parser.parse_args()
    text = measured(arguments)
    print(text)
    if arguments.write:
        put(name, text)


def tell(what: str, answer: dict[str, float]) -> None:
    """Say what was measured just now."""
    print(f"{what}: {', '.join(f'{name} {value:.4g}' for name, value in answer.items())}", file=sys.stderr, flush=True)


def medians(found: Mapping[Any, list[float]], form: str, *what: Any) -> list[str] | None:
    """The median of the rounds of each engine, for a line under `COLUMNS`; None where nothing was measured.

    `found` has the rounds by `what` was measured and the engine.
    """
    values = [found.get((*what, engine)) for engine in COLUMNS]
    return [form.format(median(value)) if value else "" for value in values] if any(values) else None


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown; what is not in the first column is aligned to the right."""
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, *rows]]
    lines.insert(1, "| --- |" + " --: |" * (len(head) - 1))
    return "\n".join(lines)
