"""The picture of a history."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import NamedTuple
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from icechunk.ancestry_graph import AncestryGraph, ancestry_graph
from icechunk.format.ids import parse_id


class Commit(NamedTuple):
    id: bytes
    parent_id: bytes | None
    flushed_at: int
    message: str


class History(NamedTuple):
    branches: Mapping[str, bytes]
    tags: Mapping[str, bytes]
    records: Mapping[bytes, Commit]


def key(name: str) -> bytes:
    return parse_id(name.upper().ljust(20, "0"))


def history(commits: str, branches: Mapping[str, str], tags: Mapping[str, str] | None = None) -> History:
    """Commits written as `child<parent`, oldest first; the message of each is its name."""
    records = {}
    for time, item in enumerate(commits.split()):
        name, _, parent = item.partition("<")
        records[key(name)] = Commit(key(name), key(parent) if parent else None, time, name)
    point = lambda refs: {name: key(target) for name, target in refs.items()}  # noqa: E731
    return History(point(branches), point(tags or {}), records)


def drawn(graph: AncestryGraph) -> list[str]:
    """The text without ids, to be read in a test."""
    return [re.sub(r"[0-9A-Z]{8} ", "", line) for line in str(graph).splitlines()]


def draw(commits: str, branches: Mapping[str, str], tags: Mapping[str, str] | None = None) -> list[str]:
    return drawn(ancestry_graph(history(commits, branches, tags), plain=True))


def test_a_line() -> None:
    assert draw("r a<r b<a", {"main": "b"}, {"v1": "a", "v2": "a"}) == [
        "● (main) b",
        "│",
        "● (v1, v2) a",
        "│",
        "● r",
    ]
    assert draw("r", {"main": "r"}) == ["● (main) r"]


def test_ids_are_shown_by_their_beginning() -> None:
    assert str(ancestry_graph(history("r", {"main": "r"}), plain=True)) == "● R0000000 (main) r\n"


def test_branches_have_lanes_that_end_where_they_began() -> None:
    assert draw("r a<r b<a d<a c<b e<d", {"main": "c", "dev": "d", "other": "e"}) == [
        "  ● (other) e",
        "  │",
        "● │ (main) c",
        "│ │",
        "│ ● (dev) d",
        "│ │",
        "● │ b",
        "│ │",
        "●─╯ a",
        "│",
        "●   r",
    ]


def test_lanes_that_cross_and_lanes_that_meet() -> None:
    assert draw("r a<r x<a y<r z<a m<a", {"main": "m", "x": "x", "y": "y", "z": "z"}) == [
        "●       (main) m",
        "│",
        "│ ●     (z) z",
        "│ │",
        "│ │ ●   (y) y",
        "│ │ │",
        "│ │ │ ● (x) x",
        "│ │ │ │",
        "●─┴─┼─╯ a",
        "│   │",
        "●───╯   r",
    ]


def test_a_free_lane_is_used_again() -> None:
    assert draw("r a<r d<r b<a e<b c<b", {"main": "c", "d": "d", "e": "e"}) == [
        "●   (main) c",
        "│",
        "│ ● (e) e",
        "│ │",
        "●─╯ b",
        "│",
        "│ ● (d) d",
        "│ │",
        "● │ a",
        "│ │",
        "●─╯ r",
    ]


def test_main_keeps_the_first_lane_even_when_it_is_behind() -> None:
    assert draw("r a<r b<a", {"main": "r", "dev": "b"}) == [
        "  ● (dev) b",
        "  │",
        "  ● a",
        "  │",
        "●─╯ (main) r",
    ]


def test_what_only_a_tag_reaches_is_shown() -> None:
    assert draw("r a<r", {"main": "r"}, {"lost": "a"}) == ["  ● (lost) a", "  │", "●─╯ (main) r"]


def test_only_what_is_reached_from_the_tips_given() -> None:
    everything = history("r a<r d<a b<a", {"main": "b", "dev": "d"}, {"v1": "a"})
    assert drawn(ancestry_graph(everything, [key("d")], plain=True)) == ["● (dev) d", "│", "● (v1) a", "│", "● r"]
    assert str(ancestry_graph(everything, [])) == ""


def test_a_parent_is_never_above_its_child_whatever_the_clock_said() -> None:
    records = {
        key(name): Commit(key(name), key(parent) if parent else None, time, name)
        for name, parent, time in [("r", "", 900), ("a", "r", 5), ("b", "a", 7)]
    }
    graph = ancestry_graph(History({"main": key("b")}, {}, records), plain=True)
    assert drawn(graph)[::2] == ["● (main) b", "● a", "● r"]


def test_history_that_was_cut_off_just_ends() -> None:
    assert draw("b<gone c<b", {"main": "c"}) == ["● (main) c", "│", "● b"]


def test_messages_are_one_line_and_harmless() -> None:
    records = {
        key("r"): Commit(key("r"), None, 0, "\n first \x1b[31mred\n second"),
        key("s"): Commit(key("s"), None, 1, "long " * 40),
    }
    text = str(ancestry_graph(History({"main": key("r"), "x\x1b": key("s")}, {}, records), plain=True))
    assert "\x1b" not in text
    assert "first �[31mred\n" in text
    assert "second" not in text
    assert max(map(len, text.splitlines())) < 90


def test_colours_are_only_added() -> None:
    value = history("r a<r x<a y<r z<a m<a", {"main": "m", "x": "x", "y": "y", "z": "z"}, {"t": "a"})
    coloured, plain = str(ancestry_graph(value)), str(ancestry_graph(value, plain=True))
    assert "\x1b[" in coloured
    assert "\x1b[" not in plain
    bare = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert [line.rstrip() for line in bare.splitlines()] == plain.splitlines()


def test_svg_is_well_formed_and_escaped() -> None:
    value = history("r a<r d<r", {"main": "a", "<dev>": "d"}, {"t&c": "r"})
    graph = ancestry_graph(value)
    root = ElementTree.fromstring(graph._repr_svg_())
    tags = [element.tag.rpartition("}")[2] for element in root]
    assert tags.count("circle") == tags.count("text") == 3
    assert tags.count("path") == 2
    assert "&lt;dev&gt;" in graph._repr_svg_()
    assert graph._repr_svg_() in graph._repr_html_()
    assert ElementTree.fromstring(ancestry_graph(value, [])._repr_svg_()).attrib["height"] == "30"


@given(st.integers(1, 25), st.integers(0, 6), st.randoms(use_true_random=False))
def test_every_snapshot_has_a_place_of_its_own(count: int, refs: int, rng: random.Random) -> None:
    names = [f"N{number:03d}" for number in range(count)]
    commits = " ".join(f"{name}<{rng.choice(names[:at])}" if at else name for at, name in enumerate(names))
    branches = {"main": rng.choice(names)} | {f"b{number}": rng.choice(names) for number in range(refs)}
    value = history(commits, branches)
    rows = ancestry_graph(value).rows
    running: set[int] = set()
    seen: dict[bytes, int] = {}
    for row in rows:
        # a lane that runs on is either passed, or it ends in this snapshot, or the snapshot stands in it
        assert not running - {row.lane, *row.joined, *row.passing}
        assert not set(row.passing) & {row.lane, *row.joined}
        assert row.lane < min(row.joined, default=99)
        running = set(row.below)
        record = next(record for record in value.records.values() if record.message == row.message)
        assert record.id not in seen
        seen[record.id] = row.lane
        assert not (seen.keys() - {record.id}) & {record.parent_id}
        if "main" in row.branches:
            assert row.lane == 0
    assert not running
    tips = set(value.branches.values())
    assert tips <= seen.keys()
    ElementTree.fromstring(AncestryGraph(rows)._repr_svg_())
