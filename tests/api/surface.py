"""The public names of the Rust package, and how ours compare.

`reference-VERSION.txt` has a line per public name: its dotted name, its kind and its signature. They were collected by
looking at the installed package. `compare` looks the same name up in ours and says what differs.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import icechunk

HERE = Path(__file__).parent
VERSIONS = ("1.1.21", "2.3.0")

# Nobody constructs these: their arguments are private handles.
MADE_BY_OTHERS = {"Repository", "Session", "ForkSession", "IcechunkStore"}

# What differs on purpose, with the reason; shown in docs/compatibility.md.
ON_PURPOSE: dict[str, str] = {}


@dataclasses.dataclass(frozen=True)
class Name:
    """One line of a reference: `kind` as there, `signature` in parentheses or the target of an alias, else empty."""

    dotted: str
    kind: str
    signature: str


@dataclasses.dataclass(frozen=True)
class Parameter:
    name: str
    kind: str
    default: str | None


MISSING = object()


def reference(version: str) -> list[Name]:
    lines = (HERE / f"reference-{version}.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    return [Name(row[0], row[1], row[2] if len(row) > 2 else "") for row in rows]


def find(dotted: str) -> Any:
    """The object of a dotted name below `icechunk`, importing modules on the way; `MISSING` when there is none."""
    found: Any = icechunk
    path = "icechunk"
    for part in dotted.split("."):
        path += "." + part
        try:
            found = getattr(found, part)
        except AttributeError:
            if isinstance(found, type) and part in _members(found):
                return _members(found)[part]
            try:
                found = importlib.import_module(path)
            except ModuleNotFoundError:
                return MISSING
    return found


def _members(owner: type) -> dict[str, Any]:
    """Attributes that instances have although the class does not: annotated ones, and those that __init__ sets."""
    code = getattr(owner.__init__, "__code__", None)
    assigned = dict.fromkeys(code.co_names if code else ())
    return assigned | {name: kind for each in owner.__mro__ for name, kind in inspect.get_annotations(each).items()}


def compare(name: Name) -> str:
    """What is wrong with ours, empty when nothing is."""
    ours = find(name.dotted)
    if ours is MISSING:
        return "missing"
    if name.kind == "alias":
        target = find(name.signature)
        return "" if ours is target or ours == target else f"is not {name.signature}"
    if name.kind in ("class", "exception", "enum"):
        if not isinstance(ours, type):
            return "is no class"
        if name.kind == "exception" and not issubclass(ours, BaseException):
            return "is no exception"
    elif name.kind.startswith("property"):
        return _compare_property(name)
    elif name.kind not in ("enum_member", "typealias", "data", "attribute"):
        if not callable(ours):
            return "cannot be called"
        is_async = inspect.iscoroutinefunction(inspect.unwrap(ours))
        generates = inspect.isasyncgenfunction(inspect.unwrap(ours)) or _returns_async_iterator(ours)
        if name.kind.startswith("async") and not (is_async or generates):
            return "is not asynchronous"
        if not name.kind.startswith("async") and is_async:
            return "is asynchronous"
    if isinstance(ours, enum.EnumMeta):
        return ""  # called with a value, whatever its signature says in this version of Python
    if name.signature.startswith("(") and name.dotted not in MADE_BY_OTHERS:
        return "; ".join(_compare_signatures(parse(name.signature), signature_of(ours)))
    return ""


def _returns_async_iterator(function: Any) -> bool:
    return "Async" in str(inspect.signature(function).return_annotation)


def _compare_property(name: Name) -> str:
    owner = find(name.dotted.rpartition(".")[0])
    static = inspect.getattr_static(owner, name.dotted.rpartition(".")[2], MISSING)
    if not name.kind.endswith("(rw)"):
        return ""
    if isinstance(static, property) and static.fset is None:
        return "cannot be set"
    return "cannot be set" if dataclasses.is_dataclass(owner) and _is_frozen(owner) else ""


def _is_frozen(owner: Any) -> bool:
    try:
        object.__new__(owner).__setattr__(dataclasses.fields(owner)[0].name, None)
    except dataclasses.FrozenInstanceError:
        return True
    except Exception:
        return False
    return False


def parse(signature: str) -> list[Parameter]:
    """The parameters of a signature in a reference."""
    arguments = ast.parse(f"def f{signature}: ...").body[0].args  # type: ignore[attr-defined]
    positional = [(one.arg, "positional") for one in arguments.posonlyargs]
    positional += [(one.arg, "both") for one in arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + [ast.unparse(one) for one in arguments.defaults]
    found = [Parameter(arg, kind, default) for (arg, kind), default in zip(positional, defaults, strict=True)]
    if arguments.vararg:
        found.append(Parameter(arguments.vararg.arg, "*", None))
    for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        found.append(Parameter(one.arg, "keyword", ast.unparse(default) if default else None))
    if arguments.kwarg:
        found.append(Parameter(arguments.kwarg.arg, "**", None))
    return found


KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: "positional",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "both",
    inspect.Parameter.KEYWORD_ONLY: "keyword",
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}


def signature_of(ours: Any) -> list[Parameter]:
    parameters = list(inspect.signature(ours).parameters.values())
    if parameters and parameters[0].name == "self":
        parameters = parameters[1:]
    return [
        Parameter(one.name, KINDS[one.kind], None if one.default is one.empty else repr(one.default))
        for one in parameters
    ]


def _compare_signatures(theirs: list[Parameter], ours: list[Parameter]) -> Iterator[str]:
    by_name = {one.name: one for one in ours}
    accepts = {one.kind for one in ours if one.kind.startswith("*")}
    order = [one.name for one in ours if one.kind in ("positional", "both")]
    for index, one in enumerate(theirs):
        if one.kind.startswith("*"):
            if one.kind not in accepts:
                yield f"takes no {one.kind}{one.name}"
            continue
        if one.name[:1] == "_" and one.name[1:].isdigit():  # an unnamed field
            if index >= len(order) and "*" not in accepts:
                yield f"takes no argument {index + 1}"
            continue
        mine = by_name.get(one.name)
        if mine is None:
            if one.kind != "keyword" or "**" not in accepts:
                yield f"takes no {one.name}"
            continue
        if one.kind == "both" and mine.kind == "keyword":
            yield f"{one.name} is keyword-only"
        elif one.kind == "both" and mine.kind == "both" and order.index(one.name) != index:
            yield f"{one.name} is in another position"
        if one.default is not None and mine.default is None:
            yield f"{one.name} has no default"
        elif one.default not in (None, "...") and not _same_default(str(one.default), str(mine.default)):
            yield f"{one.name} defaults to {mine.default}, not {one.default}"
    known = {one.name for one in theirs}
    if not any(one.name[:1] == "_" for one in theirs):
        for one in ours:
            if one.name not in known and one.default is None and not one.kind.startswith("*"):
                yield f"{one.name} is required"


def _same_default(theirs: str, ours: str) -> bool:
    """Equal, but for the spelling of enumeration members: `VersionSelection.UseOurs`, `<VersionSelection.UseOurs: 1>`."""

    def last(text: str) -> str:
        return text.strip("<>").split(":")[0].rpartition(".")[2].replace("_", "").lower()

    return theirs == ours or ("." in theirs and last(theirs) == last(ours))
