"""A job on a cluster one of whose workers is killed half-way: nothing is missing, nothing is wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("distributed")
pytest.importorskip("obstore")

from benchmarks.large_job import work
from benchmarks.large_job.plan import Plan, content, name_of
from benchmarks.large_job.references import check_references
from benchmarks.s3_servers import BUCKET, serving

from icechunk._driver import run

SCALE = 0.01


@pytest.mark.parametrize("spec", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_worker_is_killed(spec: int) -> None:
    plan = Plan.of(SCALE, f"s3://{BUCKET}/archive/")
    with serving("quick") as backend:
        for file in plan.samples:
            run(backend.storage("archive").put(name_of(file), content(file)))
        place = backend.place("job")
        found = work.run(place, plan.archive, backend.url, SCALE, spec, kill=True)
        assert found["killed after"] * 2 >= plan.parts
        assert check_references(place, plan) == plan.references == 8192
        with pytest.raises(AssertionError, match="8192 references are there"):
            check_references(place, replace(plan, files=plan.files + 1))
