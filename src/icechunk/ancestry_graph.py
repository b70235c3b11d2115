"""The history of a repository as a picture: one line per snapshot, newest first, one lane per line of descent.

    ●   N6W5AKMF (main) add a year of data
    │
    │ ● 7KC7PDWT (dev) try another grid
    │ │
    ●─╯ Z6R9CD6F (v1) first commit

`ancestry_graph` lays the snapshots out: which lane each stands in, which lanes pass it by, which end in it. Text and SVG
are two renderings of that layout. `main`, where it is shown, has the first lane for itself.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from icechunk._dataclass import dataclass
from icechunk.format.ids import format_id

_LANE_COLOURS = ("#2e9e5b", "#8c5be8", "#e2574c", "#d98a1f", "#c65aa8", "#3f7fd9")
_TAG_COLOUR = "#2b9dc4"
_ID_LENGTH = 8
_MESSAGE_LENGTH = 60

_LANE_WIDTH, _ROW_HEIGHT, _MARGIN, _RADIUS, _CHAR_WIDTH = 20, 28, 15, 5, 8


class Record(Protocol):
    """A snapshot, as far as the graph shows it; `flushed_at` is in microseconds since 1970."""

    @property
    def id(self) -> bytes: ...
    @property
    def parent_id(self) -> bytes | None: ...
    @property
    def flushed_at(self) -> int: ...
    @property
    def message(self) -> str: ...


class History(Protocol):
    """Every ref, and every snapshot that is known."""

    @property
    def branches(self) -> Mapping[str, bytes]:
        """The tips of the branches."""
        ...

    @property
    def tags(self) -> Mapping[str, bytes]:
        """The snapshots of the tags."""
        ...

    @property
    def records(self) -> Mapping[bytes, Record]:
        """The snapshots by id."""
        ...


@dataclass(frozen=True, slots=True)
class GraphRow:
    """One snapshot and the lanes beside it.

    Attributes
    ----------
    id, message : str
        The beginning of its id and of the first line of its message.
    branches, tags : tuple of str
        The refs that point to it.
    lane : int
        The lane it stands in.
    joined : tuple of int
        Lanes to the right of it that end here: it is the parent of the snapshots above in them.
    passing : tuple of int
        Other lanes that run past it.
    below : tuple of int
        Lanes that run on below it.
    colours : tuple of int
        The number of each lane's colour, for this row.
    """

    id: str
    message: str
    branches: tuple[str, ...]
    tags: tuple[str, ...]
    lane: int
    joined: tuple[int, ...]
    passing: tuple[int, ...]
    below: tuple[int, ...]
    colours: tuple[int, ...]


class AncestryGraph:
    """The history as a picture; print it, or let a notebook show it.

    `str` has terminal colours unless the graph was made with `plain=True`.
    """

    __slots__ = ("_plain", "_rows")

    def __init__(self, rows: Sequence[GraphRow], *, plain: bool = False) -> None:
        self._rows = tuple(rows)
        self._plain = plain

    @property
    def rows(self) -> tuple[GraphRow, ...]:
        """The layout, newest snapshot first."""
        return self._rows

    def __str__(self) -> str:
        return text_of(self._rows, plain=self._plain)

    def __repr__(self) -> str:
        return str(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AncestryGraph) and (self._rows, self._plain) == (other._rows, other._plain)

    def __hash__(self) -> int:
        return hash((self._rows, self._plain))

    def _repr_svg_(self) -> str:
        return svg_of(self._rows)

    def _repr_html_(self) -> str:
        return f'<div style="overflow-x: auto">{svg_of(self._rows)}</div>'


# --- layout -----------------------------------------------------------------------------------------------------------


def ancestry_graph(history: History, tips: Iterable[bytes] | None = None, *, plain: bool = False) -> AncestryGraph:
    """The graph of everything that is reached from `tips`, by default from every ref."""
    starts = [*history.branches.values(), *history.tags.values()] if tips is None else list(tips)
    shown = _reachable(history.records, starts)
    main = history.branches.get("main")
    lanes = _Lanes(main if main in shown else None)
    refs = _refs_by_snapshot(history)
    return AncestryGraph([lanes.add(record, refs, shown) for record in _newest_first(shown)], plain=plain)


def _reachable(records: Mapping[bytes, Record], tips: Iterable[bytes]) -> dict[bytes, Record]:
    shown: dict[bytes, Record] = {}
    for tip in tips:
        record = records.get(tip)
        while record is not None and record.id not in shown:
            shown[record.id] = record
            record = None if record.parent_id is None else records.get(record.parent_id)
    return shown


def _newest_first(shown: Mapping[bytes, Record]) -> Iterable[Record]:
    """By time, but never a parent before its children, whatever the clocks said."""
    waiting = dict.fromkeys(shown, 0)
    for record in shown.values():
        if record.parent_id in waiting:
            waiting[record.parent_id] += 1
    ready = [(-record.flushed_at, record.id) for record in shown.values() if not waiting[record.id]]
    heapq.heapify(ready)
    while ready:
        record = shown[heapq.heappop(ready)[1]]
        yield record
        parent = None if record.parent_id is None else shown.get(record.parent_id)
        if parent is not None:
            waiting[parent.id] -= 1
            if not waiting[parent.id]:
                heapq.heappush(ready, (-parent.flushed_at, parent.id))


_Refs = Mapping[bytes, tuple[list[str], list[str]]]


def _refs_by_snapshot(history: History) -> _Refs:
    refs: dict[bytes, tuple[list[str], list[str]]] = {}
    for name in sorted(history.branches, key=lambda name: (name != "main", name)):
        refs.setdefault(history.branches[name], ([], []))[0].append(name)
    for name in sorted(history.tags):
        refs.setdefault(history.tags[name], ([], []))[1].append(name)
    return refs


class _Lanes:
    """Gives each snapshot a lane, going from the newest to the oldest."""

    def __init__(self, main: bytes | None) -> None:
        self._next: list[bytes | None] = []  # for each lane, the snapshot in which it goes on; None where it is free
        self._colours: list[int] = []
        self._reserved = main  # the tip of main, until it is reached
        self._used_colours = 0
        if main is not None:
            self._open(main)

    def _open(self, snapshot_id: bytes) -> int:
        """Take the first free lane, under a new colour."""
        lane = next((lane for lane, wanted in enumerate(self._next) if wanted is None), len(self._next))
        if lane == len(self._next):
            self._next.append(None)
            self._colours.append(0)
        self._next[lane] = snapshot_id
        self._colours[lane] = self._used_colours
        self._used_colours += 1
        return lane

    def add(self, record: Record, refs: _Refs, shown: Mapping[bytes, Record]) -> GraphRow:
        """The row of the next snapshot."""
        waiting = [lane for lane, wanted in enumerate(self._next) if wanted == record.id]
        lane, *joined = waiting or [self._open(record.id)]
        if record.id == self._reserved:
            self._reserved = None
        colours = tuple(self._colours)
        passing = tuple(other for other in self._running() if other not in (lane, *joined))
        for other in joined:
            self._next[other] = None
        self._next[lane] = record.parent_id if record.parent_id in shown else None
        branches, tags = refs.get(record.id, ([], []))
        return GraphRow(
            format_id(record.id)[:_ID_LENGTH],
            _first_line(record.message),
            tuple(map(_printable, branches)),
            tuple(map(_printable, tags)),
            lane,
            tuple(joined),
            passing,
            tuple(self._running()),
            colours,
        )

    def _running(self) -> list[int]:
        first = 1 if self._reserved is not None else 0
        return [lane for lane, wanted in enumerate(self._next) if wanted is not None and lane >= first]


def _first_line(message: str) -> str:
    lines = message.strip().splitlines()
    line = _printable(lines[0]) if lines else ""
    return line if len(line) <= _MESSAGE_LENGTH else line[: _MESSAGE_LENGTH - 3] + "..."


def _printable(text: str) -> str:
    """Without characters that a terminal would obey."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


# --- text -------------------------------------------------------------------------------------------------------------


def text_of(rows: Sequence[GraphRow], *, plain: bool) -> str:
    """The graph as lines of text; without terminal colours when `plain`."""
    paint = _Paint(plain)
    width = max((_width(row) for row in rows), default=0)
    lines: list[str] = []
    for number, row in enumerate(rows):
        if number:
            above = rows[number - 1]
            cells = [paint.lane("│", above.colours[lane]) if lane in above.below else " " for lane in range(width)]
            lines.append(" ".join(cells).rstrip())
        lines.append(f"{_lanes_text(row, width, paint)} {_label_text(row, paint)}".rstrip())
    return "".join(line + "\n" for line in lines)


def _width(row: GraphRow) -> int:
    return 1 + max((row.lane, *row.joined, *row.passing))


def _lanes_text(row: GraphRow, width: int, paint: _Paint) -> str:
    """The lanes beside a snapshot: every second character is a lane, the others are the space between."""
    last = max(row.joined, default=row.lane)
    cells: list[str] = []
    for lane in range(width):
        if row.lane < lane <= last:  # a line of a lane that ends here runs through
            bar = paint.lane("─", row.colours[next(end for end in row.joined if end >= lane)])
        else:
            bar = " "
        cells += [bar, _cell(row, lane, last, bar, paint)]
    return "".join(cells[1:])


def _cell(row: GraphRow, lane: int, last: int, bar: str, paint: _Paint) -> str:
    if lane == row.lane:
        symbol = "●"
    elif lane in row.joined:
        symbol = "╯" if lane == last else "┴"
    elif lane in row.passing:
        symbol = "│" if bar == " " else "┼"
    else:
        return bar
    return paint.lane(symbol, row.colours[lane])


def _label_text(row: GraphRow, paint: _Paint) -> str:
    names = [paint.branch(name, row.colours[row.lane]) for name in row.branches]
    names += [paint.tag(name) for name in row.tags]
    refs = f" ({', '.join(names)})" if names else ""
    return f"{paint.dim(row.id)}{refs} {row.message}"


class _Paint:
    """Terminal colours, or none."""

    def __init__(self, plain: bool) -> None:
        self._plain = plain

    def _in(self, codes: str, text: str) -> str:
        return text if self._plain else f"\x1b[{codes}m{text}\x1b[0m"

    def lane(self, text: str, colour: int) -> str:
        return self._in(_rgb(_colour(colour)), text)

    def branch(self, text: str, colour: int) -> str:
        return self._in("1;" + _rgb(_colour(colour)), text)

    def tag(self, text: str) -> str:
        return self._in("1;3;" + _rgb(_TAG_COLOUR), text)

    def dim(self, text: str) -> str:
        return self._in("2", text)


def _colour(number: int) -> str:
    return _LANE_COLOURS[number % len(_LANE_COLOURS)]


def _rgb(colour: str) -> str:
    red, green, blue = bytes.fromhex(colour[1:])
    return f"38;2;{red};{green};{blue}"


# --- svg --------------------------------------------------------------------------------------------------------------


def svg_of(rows: Sequence[GraphRow]) -> str:
    """The graph as an SVG image that reads on light and on dark backgrounds."""
    lanes = max((_width(row) for row in rows), default=0)
    left = 2 * _MARGIN + max(lanes - 1, 0) * _LANE_WIDTH + _RADIUS
    longest = max((len(_label_text(row, _Paint(True))) for row in rows), default=0)
    width, height = left + longest * _CHAR_WIDTH + _MARGIN, 2 * _MARGIN + max(len(rows) - 1, 0) * _ROW_HEIGHT
    parts = [*_edges(rows), *(part for number, row in enumerate(rows) for part in _mark(row, number, left))]
    body = "".join(f"\n  {part}" for part in parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" role="img" '
        f'aria-label="history of snapshots" style="font-family: monospace; font-size: 13px;">{body}\n</svg>\n'
    )


def _edges(rows: Sequence[GraphRow]) -> Iterable[str]:
    """The lines from snapshots to their parents, below the marks."""
    begun: dict[int, int] = {}  # for each running lane, the row of the snapshot above
    for number, row in enumerate(rows):
        for lane in (row.lane, *row.joined):
            if lane in begun:
                yield _edge(lane, begun.pop(lane), row.lane, number, _colour(row.colours[lane]))
        if row.lane in row.below:
            begun[row.lane] = number


def _edge(lane: int, start: int, to_lane: int, end: int, colour: str) -> str:
    x, y, to_x, to_y = _x(lane), _y(start), _x(to_lane), _y(end)
    path = f"M {x} {y} L {x} {to_y - _ROW_HEIGHT}" if end - start > 1 else f"M {x} {y}"
    middle = to_y - _ROW_HEIGHT // 2
    curve = f"L {x} {to_y}" if lane == to_lane else f"C {x} {middle}, {to_x} {middle}, {to_x} {to_y}"
    return f'<path d="{path} {curve}" fill="none" stroke="{colour}" stroke-width="2" />'


def _mark(row: GraphRow, number: int, left: int) -> Iterable[str]:
    import html

    colour = _colour(row.colours[row.lane])
    names = [f'<tspan font-weight="bold" fill="{colour}">{html.escape(name)}</tspan>' for name in row.branches]
    names += [
        f'<tspan font-weight="bold" font-style="italic" fill="{_TAG_COLOUR}">{html.escape(name)}</tspan>'
        for name in row.tags
    ]
    refs = f" ({', '.join(names)})" if names else ""
    yield f'<circle cx="{_x(row.lane)}" cy="{_y(number)}" r="{_RADIUS}" fill="{colour}" />'
    yield (
        f'<text x="{left}" y="{_y(number) + 4}" fill="#888"><tspan opacity="0.7">{row.id}</tspan>{refs} '
        f"{html.escape(row.message)}</text>"
    )


def _x(lane: int) -> int:
    return _MARGIN + lane * _LANE_WIDTH


def _y(row: int) -> int:
    return _MARGIN + row * _ROW_HEIGHT
