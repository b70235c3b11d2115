"""The engines that are measured: ours and each reference on the same Python and zarr, as the Pythons that have them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAIRS = (("ours", "1.1.21"), ("ours-new", "2.3.0"))
"""Each reference beside us on the same Python and zarr."""


COLUMNS = {"ours": "ours", "1.1.21": "1.1.21", "ours-new": "ours, newest zarr", "2.3.0": "2.3.0"}
"""The engines in the order of a table, and what they are called there."""


def in_turn(pythons: dict[str, str], number: int) -> list[tuple[str, str]]:
    """The engines of a round, in one order and in the other alternately."""
    order = list(pythons.items())
    return order if number % 2 == 0 else order[::-1]


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Options that name the Pythons, for `engines`."""
    for option in ("ours", "ours-new", "ref11", "ref23"):
        parser.add_argument(f"--{option}", metavar="PYTHON")


def add_choice_of_engines(parser: argparse.ArgumentParser) -> None:
    """An option to leave engines out."""
    parser.add_argument("--only", nargs="*", help="measure these engines only: ours, 1.1.21, ours-new, 2.3.0")


def engines(arguments: argparse.Namespace) -> dict[str, str]:
    """The Python of each engine, or of those that were chosen; ends the program where one is missing."""
    only = getattr(arguments, "only", None)
    places = {
        "ours": arguments.ours or ROOT / ".venv-test-3.11/bin/python",
        "1.1.21": arguments.ref11 or ROOT / ".cache/oracles/1.1.21/bin/python",
        "ours-new": arguments.ours_new or ROOT / ".venv-test-3.12/bin/python",
        "2.3.0": arguments.ref23 or ROOT / ".cache/oracles/2.3.0/bin/python",
    }
    wanted = {name: str(python) for name, python in places.items() if not only or name in only}
    missing = [name for name, python in wanted.items() if not Path(python).exists()]
    if missing:
        sys.exit(f"no Python for {', '.join(missing)}: run scripts/test once, or name them (--help)")
    return wanted
