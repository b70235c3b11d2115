"""Measure this package and the Rust one alternately, print the table, and keep it in docs/performance.md.

    python benchmarks/run.py                     # every row; a quarter of an hour
    python benchmarks/run.py import tiny-commit  # rows whose names begin so
    python benchmarks/run.py --list              # the names
    python benchmarks/run.py --write             # also write docs/performance.md

    python benchmarks/run.py --cpu ...           # processor time instead, for a machine that is busy with other things

Needs the environments that `scripts/test` makes, or `--ours`, `--ours-new`, `--ref11`, `--ref23` with paths to Pythons.
Each engine is a process of its own (all are called `icechunk`). Rounds alternate between them, so that a busy moment of
the machine hits all; the table has medians. A ratio below 1 means that ours is faster, or takes less memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.engines import PAIRS, add_engine_options  # noqa: E402
from benchmarks.engines import engines as engines_of  # noqa: E402
from benchmarks.harness import Fixture, Row, all_rows, questions  # noqa: E402

CACHE = ROOT / ".cache" / "benchmarks"
REPORT = ROOT / "docs" / "performance.md"


class Engine:
    """A worker process with one icechunk, started when it is needed."""

    def __init__(self, name: str, python: str) -> None:
        self.name, self.python = name, python
        self._process: subprocess.Popen[str] | None = None

    def obey(self, **order: object) -> dict[str, list[float]]:
        if self._process is None:
            # without a cache of bytecode every import would compile: that is not the question
            unwanted = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
            environment = {key: value for key, value in os.environ.items() if key not in unwanted}
            if self.name.startswith("ours"):
                environment["PYTHONPATH"] = str(ROOT / "src")
            self._process = subprocess.Popen(
                [self.python, str(ROOT / "benchmarks" / "harness.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
            )
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or '{"error": "the process died"}')
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {answer['error']}")
        return dict(answer)

    def stop(self) -> None:
        if self._process is not None:
            assert self._process.stdin
            self._process.stdin.close()
            self._process.wait()
            self._process = None


@dataclass
class Result:
    """What was measured for one row: by engine the rounds, each with a value per line, in seconds or bytes."""

    row: Row
    rounds: dict[str, list[list[float]]] = field(default_factory=dict)

    def median(self, engine: str, line: int) -> float | None:
        values = [values[line] for values in self.rounds.get(engine, ())]
        return statistics.median(values) if values else None


def place_for(row: Row, engine: Engine, engines: dict[str, Engine], scratch: Path) -> Path:
    """A directory for the row: a copy of its fixture, or empty."""
    place = scratch / f"{row.name}-{engine.name}"
    shutil.rmtree(place, ignore_errors=True)
    if row.fixture is None:
        place.mkdir()
    else:  # files are replaced or removed, never changed; a hundred thousand are linked sooner than copied
        copy = os.link if row.consumes else shutil.copy2
        shutil.copytree(made(row, row.fixture, engine, engines), place, copy_function=copy)
    return place


def made(row: Row, fixture: Fixture, engine: Engine, engines: dict[str, Engine]) -> Path:
    """The fixture in the cache, made now if it is not there."""
    writer = engines["2.3.0"] if fixture.writer == "reference" else engine
    arguments = fixture.arguments | (fixture.ours if writer.name.startswith("ours") else {})
    details = "".join(f"-{key}{value}" for key, value in sorted(arguments.items()))
    path = CACHE / f"{fixture.name}{details}-by-{writer.name}"
    if not path.exists():
        unfinished = path.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        writer.obey(do="make", row=row.name, path=str(unfinished), arguments=arguments)
        unfinished.rename(path)
    return path


def measure(row: Row, engines: dict[str, Engine], scratch: Path, unit: str) -> Result:
    taking_part = [engine for engine in engines.values() if engine.name != "1.1.21" or row.needs == "1.1.21"]
    if row.needs == "2.3.0":
        taking_part = [engine for engine in taking_part if engine.name != "ours"]
    result = Result(row)
    places = {engine.name: place_for(row, engine, engines, scratch) for engine in taking_part}
    warm_up = 0 if row.fresh or row.rounds == 1 else 1
    for number in range(row.rounds + warm_up):
        for engine in taking_part:
            if row.fresh:
                engine.stop()
            if number and (row.consumes or (row.fresh and row.fixture is None)):
                place_for(row, engine, engines, scratch)
            answer = engine.obey(do="measure", row=row.name, path=str(places[engine.name]))
            if number >= warm_up:
                result.rounds.setdefault(engine.name, []).append(answer["seconds" if row.waits else unit])
    for place in places.values():
        shutil.rmtree(place)
    return result


def shown(value: float | None, memory: bool) -> str:
    if value is None:
        return ""
    if memory:
        return f"{value / 2**20:.0f} MiB"
    if value < 1e-3:
        return f"{value * 1e6:.0f} µs"
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def cells(result: Result) -> Iterator[list[str]]:
    """The lines of a row."""
    for number, title in enumerate(result.row.lines):
        line = [title]
        memory = result.row.memory and number == len(result.row.lines) - 1
        for ours, theirs in PAIRS:
            mine, other = result.median(ours, number), result.median(theirs, number)
            ratio = f"**{mine / other:.2f}**" if mine and other else ""
            line += [shown(mine, memory), shown(other, memory), ratio]
        yield line


HEADERS = ["", "ours", "1.1.21", "ratio", "ours, newest zarr", "2.3.0", "ratio"]


def report(results: list[Result], pythons: dict[str, str], cpu: bool) -> str:
    """docs/performance.md."""
    by_name = {result.row.name: result for result in results}
    lines = [
        "# Performance",
        "",
        "Measured against the Rust package, in one go and alternating, each engine in a process of its own:",
        "",
        "```bash",
        f"python benchmarks/run.py {'--cpu ' if cpu else ''}--write",
        "```",
        "",
        f"On {platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release().split('-')[0]}; "
        + "; ".join(f"{name}: {text}" for name, text in pythons.items())
        + ".",
        "",
        f"Medians of {'processor time' if cpu else 'the time that passes'}. A ratio below 1 means that ours is faster, or takes less memory. One row alone: `python benchmarks/run.py NAME`",
        "(`--list` shows the names).",
    ]
    for question in questions():
        rows = [row for row in question.ROWS if row.name in by_name]
        if not rows:
            continue
        first, _, rest = (question.__doc__ or "").partition("\n\n")
        lines += ["", f"## {first.strip()}", ""]
        if rest.strip():
            lines += [" ".join(rest.split()), ""]
        lines += ["| " + " | ".join(HEADERS) + " |", "|---" + "|--:" * 6 + "|"]
        lines += ["| " + " | ".join(line) + " |" for row in rows for line in cells(by_name[row.name])]
    return "\n".join(lines) + "\n"


BY_HAND = "<!-- from here on written by hand, and by other measurements -->\n"


def written_by_hand() -> str:
    """The part of the report that is kept."""
    former = REPORT.read_text(encoding="utf-8") if REPORT.exists() else ""
    _, marker, kept = former.partition(BY_HAND)
    return f"\n{BY_HAND}{kept}" if marker else ""


def versions(engine: Engine) -> str:
    code = (
        "import sys, importlib.metadata as m; print('Python', sys.version.split()[0] + ', zarr', m.version('zarr') + ', numpy',"
        " m.version('numpy'))"
    )
    return subprocess.run([engine.python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help="names of rows, or what they begin with")
    parser.add_argument("--list", action="store_true", help="show the names of all rows")
    parser.add_argument(
        "--write", action="store_true", help="write docs/performance.md, with the rows that were measured"
    )
    parser.add_argument(
        "--cpu", action="store_true", help="measure processor time (all threads) instead of time that passes"
    )
    parser.add_argument("--rounds", type=int, help="measure each row so often")
    add_engine_options(parser)
    arguments = parser.parse_args()
    rows = [
        row
        for row in all_rows().values()
        if not arguments.rows or any(row.name.startswith(one) for one in arguments.rows)
    ]
    if arguments.list:
        for row in rows:
            print(f"{row.name:32} {'; '.join(row.lines)}")
        return
    engines = {name: Engine(name, python) for name, python in engines_of(arguments).items()}
    results = []
    print(f"{'':66}" + "".join(f"{header:>10}" for header in ("ours", "1.1.21", "ratio", "ours/new", "2.3.0", "ratio")))
    with tempfile.TemporaryDirectory(prefix="icechunk-bench-") as scratch:
        for row in rows:
            if arguments.rounds:
                row = Row(**{**row.__dict__, "rounds": arguments.rounds})
            try:
                results.append(measure(row, engines, Path(scratch), "cpu" if arguments.cpu else "seconds"))
            except RuntimeError as error:
                print(f"{row.lines[0]:66} failed: {error}", flush=True)
                continue
            for first, *others in cells(results[-1]):
                print(f"{first:66}" + "".join(f"{cell.strip('*'):>10}" for cell in others), flush=True)
    if arguments.write:
        measured = report(results, {name: versions(engine) for name, engine in engines.items()}, arguments.cpu)
        REPORT.write_text(measured + written_by_hand(), encoding="utf-8")
        print(f"wrote {REPORT.relative_to(ROOT)}")
    for engine in engines.values():
        engine.stop()


if __name__ == "__main__":
    main()
