"""`check_virtual_access` says of each container whether it can be read, and why not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import icechunk
from tests.servers.web_server import WebServer
from tests.storage.fake_s3 import FakeS3
from tests.virtual.making import files, objects, opened, pages, repository

ANYBODY = icechunk.s3_credentials(anonymous=True)


def statuses(report: icechunk.virtual.VirtualAccessReport) -> dict[str, str]:
    return {one.url_prefix: one.status for one in report.containers}


def test_all_is_well(directory: Path, s3: FakeS3, web: WebServer) -> None:
    containers = [files(directory), objects(s3), pages(web)]
    storage = repository(containers, [f"{one.url_prefix}a.bin" for one in containers] * 2)
    repo = opened(storage, {one.url_prefix: ANYBODY if "s3:" in one.url_prefix else None for one in containers})
    report = repo.check_virtual_access()
    assert report.ok and report.complete
    assert set(statuses(report).values()) == {"readable"}
    assert [asked.verb for asked in web.asked] == s3.verbs() == ["GET"], "one request for each"
    assert web.asked[0].headers["range"] == "bytes=8-8"
    assert report.snapshot_id == repo.lookup_branch("main")


def test_what_is_wrong_is_said(directory: Path, s3: FakeS3, web: WebServer) -> None:
    closed, unknown = objects(s3, "closed"), objects(s3, "unknown")
    containers = [files(directory), closed, pages(web), unknown]
    locations = [f"{files(directory).url_prefix}b.bin", "s3://closed/data/a.bin", f"{pages(web).url_prefix}b.bin"]
    storage = repository(containers, [*locations, "s3://unknown/data/a.bin", "https://elsewhere.org/x", "vcc://no/x"])
    repo = opened(storage, {one.url_prefix: ANYBODY if one is closed else None for one in containers[:3]})
    s3.faults = [("GET", 403)]
    report = repo.check_virtual_access()
    assert not report.ok
    assert statuses(report) == {
        files(directory).url_prefix: "missing",
        "s3://closed/data/": "denied",
        pages(web).url_prefix: "missing",
        "s3://unknown/data/": "unauthorized",
    }
    assert report.homeless == ("https://elsewhere.org/x", "vcc://no/x")
    text = str(report)
    assert "b.bin" in text and "elsewhere.org" in text
    assert 'add "s3://unknown/data/": icechunk.s3_credentials(from_env=True) to authorize_virtual' in text
    assert "elsewhere.org" in report._repr_html_()
    assert len(s3.asked) == 1, "what was not authorized is not asked"


def by_kind(repo: icechunk.Repository) -> list[str]:
    """Of files, pages and objects."""
    return [status for _, status in sorted(statuses(repo.check_virtual_access()).items())]


def test_unused_changed_short_and_unreachable(directory: Path, s3: FakeS3, web: WebServer) -> None:
    containers = [files(directory), pages(web), objects(s3)]
    locations = [f"{files(directory).url_prefix}a.bin", f"{pages(web).url_prefix}a.bin"]
    storage = repository(containers, locations, checksum="another")
    repo = opened(
        storage,
        {one.url_prefix: ANYBODY if "s3:" in one.url_prefix else None for one in containers},
        virtual_drift="ignore",
    )
    assert by_kind(repo) == ["changed", "changed", "unused"]
    web.statuses["data/a.bin"] = 500
    (directory / "a.bin").write_bytes(b"short")
    assert by_kind(repo) == ["changed", "failed", "unused"]


def test_other_snapshots(directory: Path) -> None:
    storage = repository([files(directory)], [f"file://{directory}/a.bin"])
    repo = opened(storage, {f"file://{directory}/": None})
    first = list(repo.ancestry(branch="main"))[-1].id
    repo.create_tag("t", repo.lookup_branch("main"))
    assert repo.check_virtual_access(snapshot_id=first).containers[0].status == "unused"
    assert repo.check_virtual_access("main").containers[0].status == "readable"
    assert asyncio.run(repo.check_virtual_access_async(tag="t")).containers[0].status == "readable"
    report = repo.check_virtual_access(max_manifests=0)
    assert not report.complete and report.containers[0].status == "unused"
    assert "complete: False" in str(report)


def test_without_containers() -> None:
    report = opened(repository([], [])).check_virtual_access()
    assert report.ok and report.containers == ()
