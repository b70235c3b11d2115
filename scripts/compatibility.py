#!/usr/bin/env python3
"""Write docs/compatibility.md: every public name of the Rust package, and where it stands here.

    python scripts/compatibility.py            writes the document
    python scripts/compatibility.py --check    exits with 1 when the document is not up to date

The names come from tests/api/reference-*.txt, the comparison from tests/api/surface.py, the differences that are meant
from tests/api/differences.toml. Run it in an environment in which the package and zarr can be imported.
"""

from __future__ import annotations

import enum
import inspect
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from tests.api.surface import (  # noqa: E402
    MADE_BY_OTHERS,
    VERSIONS,
    Name,
    compare,
    find,
    parse,
    reference,
    signature_of,
)
from tests.api.surface import MISSING as NOT_THERE  # noqa: E402

import icechunk  # noqa: E402

DOCUMENT = ROOT / "docs" / "compatibility.md"
DIFFERENCES = ROOT / "tests" / "api" / "differences.toml"

SAME, DIFFERS, MISSING = "✓", "◐", "✗"

AREAS = {
    "store": "The Zarr store",
    "session": "Sessions",
    "repository": "Repositories",
    "config": "Configuration",
    "storage": "Storage",
    "errors": "Errors and logs",
    "parallel": "xarray and dask",
}

MODULES = (
    *("config", "conflicts", "credentials", "dask", "distributed", "ops", "repository", "session", "snapshots"),
    *("storage", "store", "testing", "types", "virtual", "xarray"),
)

FAMILIES = (  # of names at the root: how they begin, "=" before a whole name, "*" before an ending; the first that fits
    ("Repository", ("=Repository",)),
    ("Sessions", ("=Session", "=ForkSession", "=SessionMode")),
    ("The Zarr store", ("=IcechunkStore",)),
    ("Conflicts and errors", ("*Error", "Error", "Conflict", "BasicConflict", "VersionSelection")),
    ("Virtual chunks", ("Virtual", "ObjectStoreConfig", "AnyObjectStoreConfig", "*_store")),
    ("Storage", ("Storage", "S3Options", "ChecksumAlgorithm", "*_storage")),
    ("Credentials", ("*_credentials", "*Credentials", "*Credential")),
    ("Configuration", ("*Config", "Manifest", "Compression", "from_dict", "to_dict", "SplitSizesDict")),
    ("Everything else", ("",)),
)

HEAD = """# Compatibility

<!-- Made by scripts/compatibility.py from the files in tests/api: change those, and run it. -->

Code written against the `icechunk` package runs with this one unchanged: names, signatures, exceptions and files are the same. Where its
versions 1.1.21 and 2.3.0 offer different things, both are here; where one name does different things in them, it does what it does in 2.3.0.
[Moving](guides/moving.md) has the practical side.

| what is compared | how | where |
|---|---|---|
| names | each public name of both versions is looked up here, its kind and its parameters compared: [below](#names) | `tests/api` |
| behaviour | every pair of conflicting changes under every solver, common mistakes, expiring and collecting, put through both packages | `tests/interop/test_behaviour.py` |
| files | repositories of every kind of content, written by one, read by the other, and committed to by each in turn | `tests/interop/test_exchange.py` |
| old files | repositories that were written by versions since 0.1.3 | `tests/golden` |
| Zarr | zarr's own suites for stores | `tests/zarr` |

"""

DIFFERENCES_HEAD = """## Deliberate differences

What differs otherwise is a defect: please report it. Each of these has a test, most of them in `tests/api/test_differences.py`.
"""

ONLY_HERE_HEAD = """## Only here

Code that uses these does not run with the Rust package.
"""

EXTENDED = ("Repository", "Session", "IcechunkStore", "RepositoryConfig", "ConflictSolver", "distributed")
"""Where members that the Rust package does not have are looked for."""

NAMES_HEAD = f"""## Names

| | |
|---|---|
| {SAME} | the same name, with the same kind and arguments |
| {DIFFERS} | the same, and different on purpose in some case |
| {MISSING} | missing, or with other arguments |
| - | that version does not have it |

`name[_async]` stands for a method and its asynchronous twin, `Class.` for the members that follow.

"""


@dataclass(frozen=True)
class Standing:
    """What a line of a table says of its names."""

    versions: tuple[bool, ...]
    wrong: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def mark(self) -> str:
        return MISSING if self.wrong else DIFFERS if self.notes else SAME

    def line(self, names: str) -> str:
        there = " | ".join(SAME if one else "-" for one in self.versions)
        remarks = ", ".join([*self.wrong, *(f"[{anchor}](#{anchor})" for anchor in self.notes)])
        return f"| {names} | {there} | {self.mark} | {remarks} |"


class Surface:
    """The public names of all versions, and how they stand."""

    def __init__(self) -> None:
        self.by_version: list[dict[str, list[Name]]] = []
        for version in VERSIONS:
            names: dict[str, list[Name]] = {}
            for name in reference(version):
                names.setdefault(name.dotted, []).append(name)
            self.by_version.append(names)
        self.names = sorted({dotted for names in self.by_version for dotted in names})
        self.differences = tomllib.loads(DIFFERENCES.read_text(encoding="utf-8"))
        self.notes: dict[str, tuple[str, ...]] = {}
        for members in self.differences.values():
            for anchor, facts in members.items():
                for dotted in facts["names"]:
                    self.notes[dotted] = (*self.notes.get(dotted, ()), anchor)

    def is_alias(self, dotted: str) -> bool:
        return any(name.kind == "alias" for names in self.by_version for name in names.get(dotted, ()))

    def standing(self, dotted: str) -> Standing:
        versions = tuple(dotted in names for names in self.by_version)
        wrong = [compare(name) for names in self.by_version for name in names.get(dotted, ())]
        return Standing(versions, tuple(dict.fromkeys(filter(None, wrong))), self.notes.get(dotted, ()))


def lines_of(surface: Surface, owner: str, members: list[str]) -> Iterator[str]:
    """The lines of a class or module: itself, then its members, those that stand alike together."""
    if owner in members:
        yield surface.standing(owner).line(f"`{owner}`")
    groups: dict[Standing, list[str]] = {}
    for dotted in members:
        twin_of = dotted.removesuffix("_async")
        if dotted == owner or (twin_of != dotted and twin_of in members and not surface.standing(dotted).wrong):
            continue
        shown = dotted[len(owner) + 1 :] + ("[_async]" if f"{dotted}_async" in members else "")
        groups.setdefault(surface.standing(dotted), []).append(f"`{shown}`")
    for standing, names in sorted(groups.items(), key=lambda item: (SAME, DIFFERS, MISSING).index(item[0].mark)):
        yield standing.line(f"`{owner}.` " + " ".join(names))


def family_of(dotted: str) -> str:
    head = dotted.partition(".")[0]
    tests = {"=": head.__eq__, "*": head.endswith}
    for title, patterns in FAMILIES:
        for one in patterns:
            if tests[one[0]](one[1:]) if one[:1] in tests else head.startswith(one):
                return title
    raise AssertionError(dotted)


def table(title: str, lines: Iterable[str]) -> str:
    head = f"| {title} | {' | '.join(f'{version[0]}.x' for version in VERSIONS)} | here | |"
    return "\n".join([head, "|---|" + ":-:|" * (len(VERSIONS) + 1) + "---|", *lines]) + "\n"


def root_tables(surface: Surface) -> Iterator[str]:
    """A table per family."""
    families: dict[str, dict[str, list[str]]] = {title: {} for title, _ in FAMILIES}
    for dotted in surface.names:
        head = dotted.partition(".")[0]
        if head not in MODULES:
            families[family_of(dotted)].setdefault(head, []).append(dotted)
    for title, owners in families.items():
        yield table(title, [line for owner, members in owners.items() for line in lines_of(surface, owner, members)])


def module_tables(surface: Surface) -> Iterator[str]:
    """A table per module; what is the same object as one at the root in lines of its own."""
    for module in MODULES:
        members = [name for name in surface.names if name.startswith(module + ".")]
        again = [name for name in members if surface.is_alias(name)]
        own = [name for name in members if name not in again]
        yield table(f"`icechunk.{module}`", [*lines_of(surface, module, own), *lines_of(surface, module, again)])


def summary(surface: Surface) -> str:
    lines = [f"| version | names | {SAME} | {DIFFERS} | {MISSING} |", "|---|--:|--:|--:|--:|"]
    for version, names in zip(VERSIONS, surface.by_version, strict=True):
        marks = [surface.standing(dotted).mark for dotted in names]
        counts = " | ".join(str(marks.count(mark)) for mark in (SAME, DIFFERS, MISSING))
        lines.append(f"| {version} | {len(marks)} | {counts} |")
    return "\n".join(lines) + "\n"


def differences(surface: Surface) -> Iterator[str]:
    for area, title in AREAS.items():
        lines = [f"**{title}**\n"]
        for anchor, facts in surface.differences[area].items():
            lines.append(f'- <a id="{anchor}"></a>*{facts["title"]}.* The Rust package: {facts["theirs"]}')
            lines.append(f"  Here: {facts['ours']}")
        yield "\n".join(lines) + "\n"


def only_here(surface: Surface) -> Iterator[str]:
    """A line per name, or parameter, that no version of the Rust package has; told by the first sentence of its docstring."""
    known = set(surface.names)
    # `open` is kept out of `__all__`, where it would hide Python's own
    added = [name for name in sorted({*icechunk.__all__, "open"}) if name not in known and not name.endswith("_async")]
    for owner in EXTENDED:
        found = find(owner)
        own = getattr(found, "__all__", None) or own_members(found)
        added += [f"{owner}.{name}" for name in sorted(set(own)) if name[0] != "_" and not name.endswith("_async")]
    for dotted in added:
        if dotted not in known:
            yield f"| `{dotted}` | {first_sentence(find(dotted))} |"
    for dotted in surface.names:
        more = sorted(new_parameters(surface, dotted))
        if more and not dotted.endswith("_async"):
            yield f"| `{dotted}` | takes {', '.join(f'`{one}`' for one in more)} too |"


def own_members(found: Any) -> set[str]:
    """The members of a class that come from this package and from nowhere else."""
    classes = inspect.getmro(found)
    ours = [each for each in classes if each.__module__.startswith("icechunk")]
    foreign = {name for each in classes if each not in ours for name in vars(each)}
    return {name for each in ours for name in vars(each)} - foreign


def new_parameters(surface: Surface, dotted: str) -> set[str]:
    """The parameters that ours takes by name and no version of the Rust package takes."""
    signatures = [name.signature for names in surface.by_version for name in names.get(dotted, ())]
    ours = find(dotted)
    if (
        dotted in MADE_BY_OTHERS
        or not any(one.startswith("(") for one in signatures)
        or isinstance(ours, enum.EnumMeta)
    ):
        return set()
    theirs = [one for signature in signatures if signature.startswith("(") for one in parse(signature)]
    if ours is NOT_THERE or any(one.name[1:].isdigit() for one in theirs):
        return set()
    mine = {one.name for one in signature_of(ours) if one.kind in ("both", "keyword") and one.name[0] != "_"}
    return mine - {one.name for one in theirs}


def first_sentence(found: Any) -> str:
    text = inspect.cleandoc(found.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
    return text.partition(". ")[0].removesuffix(".")


def document() -> str:
    """The text of docs/compatibility.md."""
    surface = Surface()
    unknown = set(surface.notes).difference(surface.names)
    if unknown or set(surface.differences) != set(AREAS):
        raise SystemExit(f"differences.toml has unknown names {sorted(unknown)} or areas")
    parts = [HEAD + DIFFERENCES_HEAD, *differences(surface)]
    parts += [ONLY_HERE_HEAD, "\n".join(["| name | |", "|---|---|", *only_here(surface)]) + "\n"]
    parts += [NAMES_HEAD + summary(surface), *root_tables(surface)]
    parts += ["## Names in modules\n\nMost are the objects of the root under another name.\n", *module_tables(surface)]
    return "\n".join(parts)


def main(arguments: list[str]) -> int:
    text = document()
    if "--check" in arguments:
        return int(text != DOCUMENT.read_text(encoding="utf-8"))
    DOCUMENT.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
