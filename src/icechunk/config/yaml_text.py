"""The configuration file of spec 1: YAML.

Scalars follow the core schema of YAML 1.2, as both original versions read and write it: `yes` and `2020-01-01` are texts.
Variants with content are local tags (`!path_matches`). What we write is quoted wherever a reader of either version of YAML
could take a text for something else.

The `yaml` package is imported by the first call, not by importing this module.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Self

from icechunk.config.repository import RepositoryConfig
from icechunk.config.stored import MAX_DEPTH, Source, Tagged, described, read_settings, write_settings
from icechunk.errors import ErrorKind, FormatError

_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)|[-+]?0x[0-9a-fA-F]+|[-+]?0o[0-7]+|[-+]?0b[01]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_DIGITS = re.compile(r"[-+]?[0-9]+")


_MAX_VALUES = 1_000_000
"""More are refused: a few lines of aliases can stand for any number."""


def core_scalar(text: str) -> Any:
    """What a plain (unquoted) scalar means."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text[0] in "tT"
    if _INT.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text) and not _DIGITS.fullmatch(text):  # digits after a leading zero are a text
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


class _NodeSource(Source):
    """A node of a YAML document."""

    def __init__(self, node: Any, path: str = "", depth: int = 0) -> None:
        self.node = node
        self.path = path
        self.depth = depth

    def place(self) -> str:
        mark = self.node.start_mark
        return f" at line {mark.line + 1} column {mark.column + 1}"

    def is_null(self) -> bool:
        return self.node.id == "scalar" and self.scalar() is None

    def members(self) -> dict[str, Self]:
        if self.node.id != "mapping":
            raise self.wrong(f"expected a map, found {self._described()}")
        depth = self.descended()
        result: dict[str, Self] = {}
        for key, value in self.node.value:
            if key.id != "scalar":
                raise self.wrong("a key is not a scalar")
            if key.value in result:
                raise self.wrong(f"duplicate field `{key.value}`")
            result[key.value] = type(self)(value, self.member_path(key.value), depth)
        return result

    def items(self) -> list[Self]:
        if self.node.id != "sequence":
            raise self.wrong(f"expected a list, found {self._described()}")
        depth = self.descended()
        return [type(self)(item, f"{self.path}[{index}]", depth) for index, item in enumerate(self.node.value)]

    def scalar(self) -> Any:
        if self.node.id != "scalar":
            raise self.wrong(f"unexpected {self._described()}")
        return self.node.value if self.node.style else core_scalar(self.node.value)

    def text(self) -> str:
        value = self.scalar()
        if value is None:
            raise self.wrong("expected a string, found null")
        return str(self.node.value)

    def variant(self) -> tuple[str, Self | None]:
        tag = self.node.tag
        if tag.startswith("!") and len(tag) > 1:
            return tag[1:], type(self)(self.node, self.path, self.depth)
        if self.node.id != "scalar":
            raise self.wrong(f"expected a word or a tag starting with '!', found {self._described()}")
        return str(self.node.value), None

    def _described(self) -> str:
        names = {"mapping": "a map", "sequence": "a list"}
        return names.get(self.node.id) or described(self.scalar())


def parse_yaml(text: str | bytes) -> RepositoryConfig:
    """The configuration in the text of a `config.yaml`; nothing in it means that everything is unset.

    Raises `FormatError` of the kind `config-deserialization`, saying which key, line and column is wrong.
    """
    import yaml

    try:
        source = (text if isinstance(text, str) else bytes(text).decode()).removeprefix("\ufeff")
        node = yaml.compose(source, Loader=_loader(quick=_is_shallow(source)))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        message = " ".join(str(error).split()) or "nested too deeply"
        raise FormatError(f"error in config deserialization: {message}", ErrorKind.CONFIG_DESERIALIZATION) from error
    if node is None:
        return RepositoryConfig()
    if _expanded_size(node, {}, 0) > _MAX_VALUES:
        raise _NodeSource(node).wrong("too many values")
    config: RepositoryConfig = read_settings(_NodeSource(node), RepositoryConfig)
    return config


def _expanded_size(node: Any, known: dict[int, int], depth: int) -> int:
    """How many values a node stands for once every alias is replaced by what it names; far too many for a circle."""
    if node.id == "scalar":
        return 1
    if id(node) not in known:
        known[id(node)] = _MAX_VALUES + 1  # what a circle finds
        if depth > MAX_DEPTH:
            raise _NodeSource(node).wrong("nested too deeply")
        children = (child for item in node.value for child in (item if isinstance(item, tuple) else (item,)))
        known[id(node)] = 1 + sum(_expanded_size(child, known, depth + 1) for child in children)
    return known[id(node)]


def format_yaml(config: RepositoryConfig) -> str:
    """The text of a `config.yaml`, in the same order and layout as the original writes."""
    import yaml

    return yaml.dump(write_settings(config), Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=float("inf"))


def _is_shallow(text: str) -> bool:
    """Whether a text is surely not nested deeply enough to exhaust the stack of the parser in C, which does not check."""
    return len(text) < 50_000 and sum(text.count(opening) for opening in ("[", "{", "- ", "?")) < 500


@cache
def _loader(quick: bool) -> Any:
    import yaml

    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader) if quick else yaml.SafeLoader

    class Loader(base):  # type: ignore[misc, valid-type]
        """Composes nodes; what scalars mean is decided by `core_scalar`, so none is resolved here."""

        yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as the base class has it

    return Loader


@cache
def _dumper() -> Any:
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

        def choose_scalar_style(self) -> Any:
            # the content of a tag such as `!Axis 3` is a plain number; the base class would quote whatever has a tag
            event: Any = self.event
            if event.tag and event.tag.startswith("!") and not event.style:
                event.implicit = (True, False)
                style = super().choose_scalar_style()
                event.implicit = (False, False)
                return style
            return super().choose_scalar_style()

    def is_plain(dumper: Any, text: str) -> bool:
        """Whether readers of YAML 1.1 and of 1.2 alike take an unquoted `text` for a text."""
        return bool(core_scalar(text) == text and dumper.resolve(yaml.ScalarNode, text, (True, False)) == _TEXT)

    def text_node(dumper: Any, text: str) -> Any:
        style = None if is_plain(dumper, text) else "'"
        if "\n" in text or not text.isprintable():
            style = '"'
        return yaml.ScalarNode(_TEXT, text, style=style)

    def tagged_node(dumper: Any, tagged: Tagged) -> Any:
        node = dumper.represent_data(tagged.content)
        node.tag = "!" + tagged.tag
        return node

    Dumper.add_representer(str, text_node)
    Dumper.add_representer(Tagged, tagged_node)
    return Dumper


_TEXT = "tag:yaml.org,2002:str"
