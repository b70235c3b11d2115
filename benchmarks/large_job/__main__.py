"""The large job with every engine, and the table for docs/performance.md.

    python -m benchmarks.large_job                     # 50 GiB of references, 4 GiB of chunks; a few minutes per engine
    python -m benchmarks.large_job --scale 0.01        # a hundredth of it
    python -m benchmarks.large_job --write             # and put the table into docs/performance.md

819,200 virtual references and 512 chunks of 8 MiB go through a dask cluster of two worker processes to an S3 server
(SeaweedFS). Half-way one worker is killed. Afterwards all is read back: every chunk is compared, every reference counted and
compared, and some are read. Needs the environments that `scripts/test --all` makes, or `--ours`, `--ours-new`, `--ref11`,
`--ref23` with paths to Pythons; distributed must be installed there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from typing import Any

from benchmarks.document import carry_out, table
from benchmarks.engines import ROOT, engines
from benchmarks.large_job.plan import VIRTUAL_CHUNK, Plan, content, name_of
from benchmarks.large_job.references import check_references
from benchmarks.s3_servers import BUCKET, KINDS, serving
from icechunk._driver import run

ARCHIVE = "archive"
SPECS = {"ours": 1, "1.1.21": 1, "ours-new": 2, "2.3.0": 2}
PATIENCE = 7200.0


def measure(engine: str, python: str, scale: float, kind: str) -> dict[str, Any]:
    """The job with one engine, on a server of its own."""
    with serving(kind) as backend:
        plan = Plan.of(scale, f"s3://{BUCKET}/{ARCHIVE}/")
        for file in plan.samples:
            run(backend.storage(ARCHIVE).put(name_of(file), content(file)))
        place = backend.place("job")
        arguments = {"place": place, "archive": plan.archive, "endpoint": backend.url, "scale": scale}
        found = _in_process(engine, python, {**arguments, "spec": SPECS[engine], "kill": True})
        check_references(place, plan)
    return found


def _in_process(engine: str, python: str, arguments: dict[str, Any]) -> dict[str, Any]:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    paths = [str(ROOT), str(ROOT / "src")] if engine.startswith("ours") else [str(ROOT)]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    command = [python, "-W", "ignore", "-m", "benchmarks.large_job.work", json.dumps(arguments)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


LINES = {
    "write": "seconds to write all parts",
    "merge": "seconds to merge them",
    "commit": "seconds to commit",
    "all": "seconds altogether",
    "read back": "seconds to read all chunks back and compare",
    "client and scheduler": "peak memory of client and scheduler",
    "worker": "peak memory of a worker",
    "together": "peak memory of all processes together",
    "killed after": "parts that were done when a worker was killed",
    "again": "parts begun again",
}


def shown(name: str, found: dict[str, Any]) -> str:
    """A cell of the table."""
    if name == "all":
        return f"{sum(found[step] for step in ('write', 'merge', 'commit')):.1f}"
    value = found[name]
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value / 2**20:,.0f} MiB" if "memory" in LINES[name] else str(value)


def report(found: dict[str, dict[str, Any]], scale: float, kind: str) -> str:
    """The section of docs/performance.md."""
    plan = Plan.of(scale, "")
    titles = {"ours-new": "ours, newest zarr, format 2", "2.3.0": "2.3.0, format 2"}
    head = ["", *[titles.get(name, f"{name}, format 1") for name in found]]
    rows = [[title, *[shown(name, one) for one in found.values()]] for name, title in LINES.items()]
    server = "SeaweedFS" if kind == "seaweedfs" else "the quick S3 server"
    return f"""\
{plan.references:,} virtual references to {plan.references * VIRTUAL_CHUNK / 2**30:.3g} GiB and {plan.chunks / 128:.3g} GiB in chunks of
8 MiB, in {plan.parts} parts, written by a dask cluster of two worker processes to {server} on the same {os.cpu_count()} cores, and
published by one commit. Half-way one worker is killed with SIGKILL; a new one does again what was lost with it. A worker may have
1 GiB of memory, then dask kills it. Ours is `ParallelWrite.map`; the Rust package forks a session, writes in tasks, and merges what
they return. Afterwards every chunk was read back and compared, every reference too, and four files were read through them.

{table(head, rows)}

Measured by `python -m benchmarks.large_job --write`."""


def main() -> None:
    """Measure, print, and write where that is wanted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="how much of the job, 0.01 for a hundredth")
    parser.add_argument("--server", choices=KINDS, default="seaweedfs")
    carry_out("large job", parser, measured)


def measured(arguments: argparse.Namespace) -> str:
    """The section of docs/performance.md, from one job for each engine."""
    found = {}
    for engine, python in engines(arguments).items():
        print(f"{engine}:", flush=True)
        found[engine] = measure(engine, python, arguments.scale, arguments.server)
        print(json.dumps(found[engine]), flush=True)
    return report(found, arguments.scale, arguments.server)


if __name__ == "__main__":
    main()
