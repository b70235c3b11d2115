"""One engine at work: reads requests as lines of JSON, answers with lines of JSON.

Runs in the interpreter of the engine it measures; see `run.py`.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from typing import Any


def peak_memory() -> int:
    """The most memory this process ever had, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(row: Any, state: Any) -> dict[str, float]:
    """One measurement."""
    cpu, start = time.process_time(), time.perf_counter()
    told = row.measure(state)
    seconds = time.perf_counter() - start
    return {"seconds": seconds if told is None else told, "cpu": time.process_time() - cpu}


def answer(request: dict[str, Any], states: dict[str, Any]) -> dict[str, Any]:
    """What `request` asks for."""
    from benchmarks import questions  # noqa: F401 - fills the list
    from benchmarks.rows import ROWS

    row = ROWS[request["row"]]
    directory = request["directory"]
    if request["do"] == "build":
        assert row.build is not None
        row.build(directory)
        return {}
    if request["do"] == "forget":
        states.pop(row.name, None)
        return {}
    if row.name not in states:
        states[row.name] = None if row.prepare is None else row.prepare(directory)
    before = peak_memory()
    found = [measured(row, states[row.name]) for _ in range(request["repeats"])]
    return {"times": found, "memory": peak_memory() - before, "peak": peak_memory()}


def main() -> None:
    """Answer until the input ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a package prints must not get between the answers
    warnings.simplefilter("ignore")
    states: dict[str, Any] = {}
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line), states)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(reply) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
