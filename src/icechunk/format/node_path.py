"""Node paths: absolute, `/` for the root, no slash at the end.

Inside the library a path is a `str` of that form; `parse_path` makes one of what a user gives. Snapshots keep nodes in
the order of the UTF-8 bytes of their paths, which is not the order of a tree: `/g` < `/g-b` < `/g/h`, so a node and what
lies below it may have others between them, but everything below it stands together.
"""

from __future__ import annotations

from collections.abc import Iterator

from icechunk.errors import ErrorKind, InvalidInputError

ROOT = "/"


def parse_path(text: str) -> str:
    """The path that a user means by `text`, which must begin with a slash.

    Slashes at the end and `.` segments are dropped. Raises `InvalidInputError` for relative paths, empty segments and
    `..`, and `TypeError` for what is no text.
    """
    if not isinstance(text, str):
        raise TypeError(f"a node path is a str, got {type(text).__name__}")
    if not text.startswith(ROOT):
        raise _invalid(text, "paths of nodes begin with `/`")
    found = [segment for segment in text.strip("/").split("/") if segment != "."]
    if found in ([], [""]):
        return ROOT
    if "" in found:
        raise _invalid(text, "it has an empty segment")
    if ".." in found:
        raise _invalid(text, "`..` leads out of a node")
    return ROOT + "/".join(found)


def is_valid(path: str) -> bool:
    """Whether `path` is in the form that snapshots store."""
    try:
        return parse_path(path) == path
    except InvalidInputError:
        return False


def segments(path: str) -> tuple[str, ...]:
    """The names from the root down to the node; none for the root."""
    return tuple(path[1:].split("/")) if path != ROOT else ()


def name(path: str) -> str:
    """The last segment; empty for the root."""
    return path.rpartition("/")[2]


def parent(path: str) -> str | None:
    """The path one level up; None for the root."""
    if path == ROOT:
        return None
    return path.rpartition("/")[0] or ROOT


def join(path: str, child: str) -> str:
    """The path of `child`, a name or several joined by slashes, below `path`."""
    return ROOT + child if path == ROOT else f"{path}/{child}"


def ancestors(path: str) -> Iterator[str]:
    """The paths above, nearest first, the root last."""
    above = parent(path)
    while above is not None:
        yield above
        above = parent(above)


def is_below(path: str, ancestor: str) -> bool:
    """Whether `path` lies below `ancestor`; no path lies below itself."""
    if ancestor == ROOT:
        return path != ROOT
    return path.startswith(ancestor + "/")


def is_within(path: str, ancestor: str) -> bool:
    """Whether `path` is `ancestor` or lies below it."""
    return path == ancestor or is_below(path, ancestor)


def _invalid(text: str, why: str) -> InvalidInputError:
    return InvalidInputError(f"invalid path `{text}`: {why}", ErrorKind.INVALID_PATH)
