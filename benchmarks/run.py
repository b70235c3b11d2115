"""Run benchmarks for our package and the Rust implementation in one go, taking turns, and print the ratios.

Each engine runs in a process of its own, since both are called `icechunk`. The interpreters of the reference are looked
for where `scripts/test` installs them, or given by ICECHUNK_ORACLE_1_1_21 and ICECHUNK_ORACLE_2_3_0.
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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import questions  # noqa: F401 - fills the list
from benchmarks.rows import ROWS, Row

ROOT = Path(__file__).parent.parent
OURS = "ours"


def interpreter(engine: str) -> str | None:
    """The Python that has this engine installed, None when there is none."""
    if engine == OURS:
        return sys.executable
    given = os.environ.get(f"ICECHUNK_ORACLE_{engine.replace('.', '_')}")
    candidates = [given] if given else [str(ROOT / ".cache" / "oracles" / engine / "bin" / "python")]
    return next((path for path in candidates if path and Path(path).exists()), None)


class Engine:
    """A worker process that stays for many requests."""

    def __init__(self, name: str, python: str) -> None:
        self.name = name
        path = os.pathsep.join([str(ROOT), *([str(ROOT / "src")] if name == OURS else [])])
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.worker"],
            cwd=ROOT,
            env={**_environment(), "PYTHONPATH": path, "ICECHUNK_NO_LOGS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, do: str, row: Row, directory: str, repeats: int = 1) -> dict[str, Any]:
        """The answer to one request."""
        assert self._process.stdin is not None and self._process.stdout is not None
        request = {"do": do, "row": row.name, "directory": directory, "repeats": repeats}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} died while it did {do} of {row.name}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise RuntimeError(f"{self.name}, {do} of {row.name}: {reply['error']}")
        return reply

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _environment() -> dict[str, str]:
    """What users have: compiled modules are kept, so that imports cost what they cost the second time."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@contextmanager
def running(name: str) -> Iterator[Engine]:
    """An engine for a while."""
    python = interpreter(name)
    assert python is not None
    engine = Engine(name, python)
    try:
        yield engine
    finally:
        engine.close()


@dataclass
class Result:
    """All measurements of one engine for one row."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)

    def add(self, reply: dict[str, Any]) -> None:
        """Take over what a worker answered."""
        self.seconds += [time["seconds"] for time in reply["times"]]
        self.cpu += [time["cpu"] for time in reply["times"]]
        self.memory.append(reply["memory"])


def ask(row: Row, names: list[str], work: Path) -> dict[str, Result]:
    """Run one row for all engines, taking turns."""
    directories = _build(row, names, work)
    results = {name: Result() for name in names}
    with ExitStack() as stack:
        engines = {} if row.fresh else {name: stack.enter_context(running(name)) for name in names}
        if not row.fresh:
            for name, engine in engines.items():
                engine.ask("measure", row, directories[name])  # the first call pays for imports and page cache
        for _ in range(row.rounds):
            for name in names:
                if row.fresh:
                    with running(name) as engine:
                        results[name].add(engine.ask("measure", row, directories[name]))
                else:
                    results[name].add(engines[name].ask("measure", row, directories[name], row.repeats))
    return results


def _build(row: Row, names: list[str], work: Path) -> dict[str, str]:
    builders = {"each": names, "ours": [OURS], "reference": [next(name for name in names if name != OURS)]}
    directories = {}
    for name in names:
        builder = name if row.built_by == "each" else builders[row.built_by][0]
        path = work / row.name / builder
        directories[name] = str(path)
        if row.build is not None and not path.exists():
            path.mkdir(parents=True)
            with running(builder) as engine:
                engine.ask("build", row, str(path))
    return directories


HEADER = (
    "| question | reference | theirs | ours | ratio | CPU ratio | memory, theirs / ours | wanted |\n"
    "|---|---|---|---|---|---|---|---|"
)


def lines_of(row: Row, results: dict[str, Result]) -> Iterator[str]:
    """The lines of the table for one row, one per version of the reference."""
    ours = results[OURS]
    for name, theirs in results.items():
        if name == OURS:
            continue
        ratio = statistics.median(ours.seconds) / statistics.median(theirs.seconds)
        cpu = statistics.median(ours.cpu) / max(statistics.median(theirs.cpu), 1e-9)
        memory = ""
        if row.fresh:
            memory = f"{max(theirs.memory) / 2**20:.0f} / {max(ours.memory) / 2**20:.0f} MB"
        yield (
            f"| {row.question} | {name} | {_text(theirs.seconds)} | {_text(ours.seconds)} | **{ratio:.2f}** | {cpu:.2f} "
            f"| {memory} | {row.target:g} |"
        )


def _text(seconds: list[float]) -> str:
    median = statistics.median(seconds)
    if median < 1e-3:
        return f"{median * 1e6:.0f} µs"
    return f"{median * 1e3:.3g} ms" if median < 1 else f"{median:.3g} s"


def main() -> None:
    """Ask what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rows", nargs="*", help="names of rows, or beginnings of them; all by default")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    parser.add_argument("--keep", type=Path, help="a directory in which to keep what is built, for another run")
    arguments = parser.parse_args()
    chosen = [row for row in ROWS.values() if not arguments.rows or row.name.startswith(tuple(arguments.rows))]
    if arguments.list:
        print("\n".join(f"{row.name:28} {row.question}" for row in chosen))
        return
    work = arguments.keep or Path(tempfile.mkdtemp(prefix="icechunk-benchmarks-"))
    table = [HEADER]
    print(HEADER, flush=True)
    try:
        for row in chosen:
            names = [OURS, *(name for name in row.against if interpreter(name))]
            try:
                found = list(lines_of(row, ask(row, names, work)))
            except RuntimeError as error:
                found = [f"| {row.question} | failed: {error} |||||||"]
            table += found
            print("\n".join(found), flush=True)
    finally:
        if arguments.keep is None:
            shutil.rmtree(work, ignore_errors=True)
    if arguments.write:
        _write(table)


BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def _write(table: list[str]) -> None:
    path = ROOT / "docs" / "performance.md"
    text = path.read_text() if path.exists() else f"# Performance\n\n{BEGIN}\n{END}\n"
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    machine = (
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    measured = "\n".join(["", f"`python -m benchmarks --write`, on {machine}:", "", *table, ""])
    path.write_text(f"{head}{BEGIN}{measured}{END}{tail}")
