"""What a storage can do, found out by trying: `storage.doctor()`.

A few small objects are written below a fresh directory, raced for, listed and deleted again. What is found is a list of
`Finding`s; what follows from them is said as settings, and in words. That two writers never overwrite each other's commits
hangs on two of the findings: create if absent, and compare and swap.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal

from icechunk._dataclass import dataclass
from icechunk._driver import concurrent_map
from icechunk.display import Card, Plain, Row, Shown
from icechunk.errors import ErrorKind, IcechunkError, ObjectNotFoundError, PreconditionFailedError
from icechunk.storage.base import ABSENT, ByteRange, Storage, Unchanged, Version

if TYPE_CHECKING:
    from icechunk.config import StorageSettings

_WRITERS = 8
_ROUNDS = 4
_INCREMENTS = 3
_PATIENCE = 200
"""How often one writer may lose before its race is called unfair."""
_SKEW = 60.0
"""Seconds by which clocks may differ before it matters: what is younger than a day is never collected by accident."""
_SAMPLES = 5
_LONGEST = 300

Outcome = Literal["works", "fails", "unknown"]


class UnsafeStorageWarning(UserWarning):
    """A storage ignores the conditions of writes, so writers may overwrite each other's commits."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried.

    Attributes
    ----------
    name : str
        What: "write and read", "create if absent", "compare and swap", "ranges", "listing", "clock", "delete"; where
        nothing can be written, "read" and "listing" after the first.
    outcome : "works", "fails" or "unknown"
        "unknown" is what could not be tried.
    detail : str
        What was seen.
    """

    name: str
    outcome: Outcome
    detail: str = ""

    def __str__(self) -> str:
        return self.outcome + (f": {self.detail}" if self.detail else "")


@dataclass(frozen=True, slots=True, repr=False)
class StorageReport(Shown):
    """What a storage can do; `print` it.

    Attributes
    ----------
    place : dict
        Which storage.
    findings : tuple of Finding
        What was tried.
    advice : tuple of str
        What to do about it.
    """

    place: dict[str, object]
    findings: tuple[Finding, ...]
    advice: tuple[str, ...]

    def __getitem__(self, name: str) -> Finding:
        """The finding of this name."""
        return next(finding for finding in self.findings if finding.name == name)

    @property
    def ok(self) -> bool:
        """Whether nothing fails."""
        return all(finding.outcome != "fails" for finding in self.findings)

    def _outcome(self, name: str) -> Outcome:
        return next((finding.outcome for finding in self.findings if finding.name == name), "unknown")

    @property
    def safe_for_concurrent_commits(self) -> bool:
        """Whether any number of writers may commit at the same time."""
        return all(self._outcome(name) == "works" for name in ("create if absent", "compare and swap"))

    @property
    def settings(self) -> StorageSettings:
        """The settings to use this storage with; those that need not be set are None."""
        from icechunk.config import StorageSettings

        return StorageSettings(
            unsafe_use_conditional_create=False if self._outcome("create if absent") == "fails" else None,
            unsafe_use_conditional_update=False if self._outcome("compare and swap") == "fails" else None,
        )

    @property
    def verdict(self) -> str:
        """What all of it comes to, in a few words."""
        if self._outcome("read") == "fails":
            return "it cannot be used: nothing can be written or read here"
        if self._outcome("write and read") == "fails":
            return "it can be read from, but not written to"
        if not self.safe_for_concurrent_commits:
            return "safe for one writer at a time only"
        return "all is well" if self.ok else "safe for any number of writers, but see the advice"

    def _card(self) -> Card:
        rows = [Row(name, Plain(value) if isinstance(value, str) else value) for name, value in self.place.items()]
        rows.append(Row("verdict", Plain(self.verdict)))
        rows += [Row(finding.name, Plain(finding)) for finding in self.findings]
        rows.append(Row("safe for concurrent commits", self.safe_for_concurrent_commits))
        if self.advice:
            rows.append(Row("advice", Plain("\n".join(self.advice))))
        return Card("icechunk.storage.StorageReport", rows)


async def examine(storage: Storage) -> StorageReport:
    """Try everything; see the module. What goes wrong is in the report, and nothing raises."""
    probe = _Probe(storage, f"doctor-{os.urandom(8).hex()}/")
    steps: tuple[tuple[str, Callable[[], Awaitable[Finding]]], ...] = (
        ("write and read", probe.write_and_read),
        ("create if absent", probe.create_if_absent),
        ("compare and swap", probe.compare_and_swap),
        ("ranges", probe.ranges),
        ("listing", probe.listing),
        ("clock", probe.clock),
        ("delete", probe.delete),
    )
    findings = [await _tried(*steps[0])]
    if findings[0].outcome != "works":
        steps = (("read", probe.read), ("listing", probe.listing_of_others))
        await _tried("delete", probe.delete)  # what was written in spite of it
    else:
        steps = steps[1:]
    for name, step in steps:
        findings.append(await _tried(name, step))
    return StorageReport(storage.describe(), tuple(findings), tuple(_advice(findings)))


async def _tried(name: str, step: Callable[[], Awaitable[Finding]]) -> Finding:
    try:
        return await step()
    except IcechunkError as error:
        return Finding(name, "fails", _brief(error))


def _brief(error: IcechunkError) -> str:
    """What went wrong on one line, without what the advice says anyway and without what servers say in XML."""
    text = " ".join(error.message.removeprefix("object store error: ").split())
    for beginning in (". To use it all the same", "<?xml", "<Error>", "<!DOCTYPE", "<html"):
        text = text.partition(beginning)[0]
    return text.strip() if len(text) <= _LONGEST else f"{text[:_LONGEST].strip()} ..."


class _Probe:
    """The things that are tried, in a directory of their own."""

    def __init__(self, storage: Storage, directory: str) -> None:
        self._storage = storage
        self._directory = directory
        self._written: list[str] = []

    def _path(self, name: str) -> str:
        path = self._directory + name
        if path not in self._written:
            self._written.append(path)
        return path

    async def write_and_read(self) -> Finding:
        path, name = self._path("plain"), "write and read"
        writing, reading = [], []
        for number in range(_SAMPLES):
            content = b"%d" % number * 1000
            began = time.perf_counter()
            await self._storage.put(path, content)
            between = time.perf_counter()
            data, _ = await self._storage.get(path)
            writing.append(between - began)
            reading.append(time.perf_counter() - between)
            if bytes(data) != content:
                return Finding(name, "fails", "what was read is not what had been written before: reads are stale")
        await self._storage.put(self._path("empty"), b"")
        if bytes((await self._storage.get(self._path("empty")))[0]):
            return Finding(name, "fails", "an empty object came back with content")
        return Finding(name, "works", f"{_milliseconds(writing)} to write, {_milliseconds(reading)} to read")

    async def read(self) -> Finding:
        """Where nothing can be written: ask for an object that is not there, which every store can tell."""
        began = time.perf_counter()
        try:
            await self._storage.get(f"{self._directory}missing")
        except ObjectNotFoundError:
            return Finding("read", "works", f"{_milliseconds([time.perf_counter() - began])} for an answer")
        return Finding("read", "fails", "it gives an object that nobody has written")

    async def listing_of_others(self) -> Finding:
        """Where nothing can be written: see whether there is anything."""
        async for batch in self._storage.list():
            if batch:
                return Finding("listing", "works", "something is there")
        return Finding("listing", "works", "nothing is there")

    async def create_if_absent(self) -> Finding:
        name = "create if absent"

        async def create(path: str) -> bool:
            try:
                await self._storage.put(path, os.urandom(16), only_if=ABSENT)
            except PreconditionFailedError:
                return False
            return True

        first, second = [await create(self._path("created")) for _ in range(2)]
        if not first or second:
            return Finding(
                name, "fails", "an object that was there was overwritten" if second else "nothing was created"
            )
        for number in range(_ROUNDS):
            won = await concurrent_map(create, [self._path(f"raced-{number}")] * _WRITERS, _WRITERS)
            if sum(won) != 1:
                return Finding(name, "fails", f"of {_WRITERS} who created one object at once {sum(won)} succeeded")
        return Finding(name, "works", f"{_ROUNDS} races of {_WRITERS} had one winner each")

    async def compare_and_swap(self) -> Finding:
        path, name = self._path("swapped"), "compare and swap"
        stale = await self._storage.put(path, b"0")
        await self._storage.put(path, b"00", only_if=Unchanged(stale))
        try:
            await self._storage.put(path, b"000", only_if=Unchanged(stale))
            return Finding(name, "fails", "an object that had changed meanwhile was overwritten")
        except PreconditionFailedError:
            pass
        await self._storage.put(path, b"0")
        losses = await concurrent_map(self._increment, [path] * _WRITERS, _WRITERS)
        if None in losses:
            return Finding(name, "fails", f"a writer did not get through in {_PATIENCE} tries")
        data, _ = await self._storage.get(path)
        lost = _WRITERS * _INCREMENTS - int(bytes(data))
        if lost:
            return Finding(name, "fails", f"{lost} of {_WRITERS * _INCREMENTS} updates were acknowledged and lost")
        return Finding(name, "works", f"none of {_WRITERS * _INCREMENTS} updates by {_WRITERS} writers was lost")

    async def _increment(self, path: str) -> int | None:
        """Add one, several times; how often others were faster, None when that never ended."""
        lost = 0
        for _ in range(_INCREMENTS):
            while True:
                data, version = await self._storage.get(path)
                try:
                    await self._storage.put(path, b"%d" % (int(bytes(data)) + 1), only_if=Unchanged(version))
                    break
                except PreconditionFailedError:
                    lost += 1
                    if lost > _PATIENCE:
                        return None
        return lost

    async def ranges(self) -> Finding:
        path, content = self._path("ranges"), bytes(range(100))
        await self._storage.put(path, content)
        wrong = []
        for asked, expected in {
            ByteRange(10, 20): content[10:20],
            ByteRange(90): content[90:],
            ByteRange(-5): content[-5:],
            ByteRange(95, 200): content[95:],
            ByteRange(100, 110): b"",
        }.items():
            if bytes((await self._storage.get(path, byte_range=asked))[0]) != expected:
                wrong.append(f"{asked.start}:{'' if asked.stop is None else asked.stop}")
        return Finding("ranges", "fails" if wrong else "works", f"wrong bytes for {', '.join(wrong)}" if wrong else "")

    async def listing(self) -> Finding:
        names = [self._path(f"list/{letter}") for letter in "cab"]
        for path in names:
            await self._storage.put(path, b"x")
        found = [info.path async for batch in self._storage.list(f"{self._directory}list/") for info in batch]
        if sorted(found) != sorted(names):
            return Finding("listing", "fails", "what was just written is not listed, or something else is")
        return Finding("listing", "works", "in order" if found == sorted(found) else "in no order, which is fine")

    async def clock(self) -> Finding:
        path = self._path("clock")
        began = time.time()
        await self._storage.put(path, b"x")
        modified = await self._storage.modified_at(path)
        if modified is None:
            return Finding("clock", "unknown", "it does not say when objects were written")
        here = (began + time.time()) / 2
        skew = modified.timestamp() - here
        if abs(skew) <= _SKEW:
            return Finding("clock", "works", f"{abs(skew):.0f} s apart from the clock of this machine")
        way = "ahead of" if skew > 0 else "behind"
        return Finding("clock", "fails", f"it is {abs(skew):.0f} s {way} the clock of this machine")

    async def delete(self) -> Finding:
        if self._storage.read_only:
            return Finding("delete", "unknown", "this storage takes no writes")
        result = await self._storage.delete([*self._written, f"{self._directory}missing"])
        if result.failed:
            path, why = result.failed[0]
            return Finding("delete", "fails", f"{len(result.failed)} objects stay, {path} among them: {why}")
        try:
            await self._storage.get(self._written[0])
        except ObjectNotFoundError:
            return Finding("delete", "works")
        return Finding("delete", "fails", f"{self._written[0]} can still be read")


def _milliseconds(seconds: list[float]) -> str:
    return f"{1000 * sorted(seconds)[len(seconds) // 2]:.1f} ms"


def _advice(findings: list[Finding]) -> list[str]:
    failing = {finding.name for finding in findings if finding.outcome == "fails"}
    advice = []
    off = [
        setting
        for name, setting in (
            ("create if absent", "unsafe_use_conditional_create"),
            ("compare and swap", "unsafe_use_conditional_update"),
        )
        if name in failing
    ]
    if off:
        advice.append(without_conditions(*off))
    if "clock" in failing:
        advice.append("set the clock of this machine: what is old enough to be expired or collected is told by it")
    if "delete" in failing:
        advice.append("allow deletes where garbage is collected; committing needs none")
    if "read" in failing:
        advice.append("check the address, the bucket or container, and the credentials: nothing at all works")
    elif "write and read" in failing:
        advice.append("reading is all that can be done here, with these credentials")
        if "listing" in failing:
            advice.append(
                "repositories can be opened and read without listing; branches and tags cannot be listed in format 1"
            )
    return advice


def without_conditions(*settings: str) -> str:
    """What to do where conditional writes fail, as it is typed."""
    names = settings or ("unsafe_use_conditional_create", "unsafe_use_conditional_update")
    arguments = ", ".join(f"{name}=False" for name in names)
    return (
        f"pass config=icechunk.RepositoryConfig(storage=icechunk.StorageSettings({arguments})), and never let two writers "
        "commit at the same time"
    )


async def conditions_are_ignored(storage: Storage, path: str) -> bool:
    """Whether the object at `path`, which is there, would be overwritten in spite of conditions; it stays as it is."""
    data, _ = await storage.get(path)

    async def overwrites(condition: object) -> bool:
        try:
            await storage.put(path, data, only_if=condition)  # type: ignore[arg-type]
        except PreconditionFailedError:
            return False
        except IcechunkError as error:
            if error.kind == ErrorKind.UNIMPLEMENTED:
                return True
            raise
        return True

    conditions = [ABSENT, Unchanged(Version('"00000000000000000000000000000000"', "1"))]
    return any(await concurrent_map(overwrites, conditions, len(conditions)))
