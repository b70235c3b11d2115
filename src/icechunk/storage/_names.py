"""Object paths as file names.

The layout is the one other implementations of Icechunk give to a local directory, so that either opens what the other
wrote: a part of a path is a file name of its own, in which `%`, the characters object stores treat as special, controls
and everything beyond ASCII are percent-encoded (`branch.é` is the file `branch.%C3%A9`). An encoded name never holds a
`#`, so the names of temporary files, which end in `#` and digits, can clash with no object.

Windows knows more that no file may be called, so there, and only there, `:`, a final dot or blank, and the names of
devices are encoded too. File systems that ignore case (Windows, macOS) cannot hold two names that differ in nothing
else: the second of two such branches is refused as existing already.
"""

from __future__ import annotations

import re
import sys
from urllib.parse import quote_from_bytes, unquote_to_bytes

from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.storage._common import check_path

WINDOWS = sys.platform == "win32"
LOCK_NAME = ".icechunk.lock"
"""The one file under the root that is not an object."""

_KEPT = " !$&'()+,-.:;=@_"  # besides letters and digits
_KEPT_ON_WINDOWS = _KEPT.replace(":", "")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9]|conin\$|conout\$) *(?:\.|\Z)", re.IGNORECASE)
_LONG = 120
"""A directory whose name has so many characters may have files in it whose names are too long for Windows as they are."""
_TEMPORARY = re.compile(r".*#[0-9]+", re.DOTALL)

_PLAIN_CHARACTERS = r"[ !$&'()+,\-.:;=@_0-9A-Za-z]"
_PLAIN_PART = rf"(?!\.{{1,2}}(?:/|\Z)){_PLAIN_CHARACTERS}+"
_PLAIN = re.compile(rf"{_PLAIN_PART}(?:/{_PLAIN_PART})*")


def encode_path(path: str, *, windows: bool = WINDOWS) -> str:
    """The relative name, with `/`, of the file that holds the object at `path`; refuses what is no object path."""
    if not windows and _PLAIN.fullmatch(path) is not None and path[0] != ".":
        return path
    check_path(path)
    if path.lower() == LOCK_NAME:
        raise InvalidInputError(f"`{LOCK_NAME}` is not an object, the storage keeps its lock there")
    return "/".join(encode_part(part, windows=windows) for part in path.split("/"))


def long_name(root: str, *, windows: bool = WINDOWS) -> str:
    """The directory `root`, an absolute path, so that files in it may have names of any length.

    Windows takes no more than 259 characters, unless a path has a prefix that says to take it literally.
    """
    if not windows or len(root) < _LONG or root.startswith("\\\\?\\"):
        return root
    literal = root.replace("/", "\\")
    return "\\\\?\\UNC\\" + literal[2:] if literal.startswith("\\\\") else "\\\\?\\" + literal


def encode_part(part: str, *, windows: bool = WINDOWS) -> str:
    """The file name of one part of a path."""
    try:
        raw = part.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"invalid object path, not Unicode: {part!r}", ErrorKind.INVALID_PATH) from error
    if not windows:
        return _quote(raw, _KEPT)
    name = _quote(raw, _KEPT_ON_WINDOWS)
    if _DEVICE.match(name):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if name[-1] in ". ":
        name = f"{name[:-1]}%{ord(name[-1]):02X}"
    return name


def _quote(raw: bytes, kept: str) -> str:
    # the standard library keeps `~` whatever it is told
    return quote_from_bytes(raw, safe=kept).replace("~", "%7E")


def decode_part(name: str, *, windows: bool = WINDOWS) -> str | None:
    """The part of an object path whose file name is `name`; None when no object can be called so."""
    if not windows and _PLAIN.fullmatch(name) is not None:
        return name
    try:
        part = unquote_to_bytes(name).decode()
    except UnicodeError:
        return None
    if not part or "/" in part or "\0" in part or encode_part(part, windows=windows) != name:
        return None
    return part


def is_temporary(name: str) -> bool:
    """Whether `name` is that of a file which is still being written, or was when its writer died."""
    return "#" in name and _TEMPORARY.fullmatch(name) is not None
