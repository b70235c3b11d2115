"""Configurations as stored: a plain tree of dicts, lists and scalars, and the way back.

Both versions of the format store the same tree under the same names. Spec 2 keeps it as one map, in which a variant with
content is a dict of one key (`{"s3": {...}}`); spec 1 keeps it as YAML, in which that is a tag (`!s3`), see `yaml_text`.
So one description serves both: writing makes `Tagged` of a variant with content, and reading goes through `Source`, which
knows which of the two it reads from and where it is, for the sake of its error messages.

Reading is tolerant where both original versions are: unknown and missing keys, null for unset. Everything else that is
wrong is a `FormatError` of the kind `config-deserialization`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

from icechunk.config.conditions import (
    Bound,
    ManifestPreloadCondition,
    ManifestSplitCondition,
    ManifestSplitDimCondition,
)
from icechunk.config.fields import Field, Flag, Instance, Integer, Settings, Table
from icechunk.config.manifests import ManifestSplittingConfig, SplitSizes
from icechunk.config.repository import CompressionAlgorithm, RepositoryConfig
from icechunk.config.virtual import ChecksumAlgorithm, ObjectStoreConfig, S3Options, VirtualChunkContainer
from icechunk.errors import ErrorKind, FormatError

MAX_DEPTH = 64
"""Deeper trees are refused: no configuration needs them, and a hostile one must not exhaust the stack."""


class Tagged(NamedTuple):
    """A variant with content."""

    tag: str
    content: Any


class Source(ABC):
    """A value that is being read, and where it stands."""

    path: str
    depth: int

    @abstractmethod
    def is_null(self) -> bool: ...

    @abstractmethod
    def members(self) -> dict[str, Self]:
        """The members of a map; keys that are no text are left out."""

    @abstractmethod
    def items(self) -> list[Self]:
        """The items of a list."""

    @abstractmethod
    def scalar(self) -> Any:
        """A number, a truth value, a text or None; a list or a map is an error."""

    @abstractmethod
    def text(self) -> str: ...

    @abstractmethod
    def variant(self) -> tuple[str, Self | None]:
        """The word of an enumeration, and its content if it has some."""

    @abstractmethod
    def place(self) -> str:
        """Where in the file, for messages: empty or like ` at line 3 column 7`."""

    def wrong(self, what: str) -> FormatError:
        where = f"{self.path}: " if self.path else ""
        return FormatError(
            f"error in config deserialization: {where}{what}{self.place()}", ErrorKind.CONFIG_DESERIALIZATION
        )

    def descended(self) -> int:
        if self.depth >= MAX_DEPTH:
            raise self.wrong("nested too deeply")
        return self.depth + 1

    def member_path(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key


class PlainSource(Source):
    """A value of a plain tree."""

    def __init__(self, value: Any, path: str = "", depth: int = 0) -> None:
        self.value = value
        self.path = path
        self.depth = depth

    def is_null(self) -> bool:
        return self.value is None

    def members(self) -> dict[str, Self]:
        if not isinstance(self.value, Mapping):
            raise self.wrong(f"expected a map, found {described(self.value)}")
        depth = self.descended()
        return {
            key: type(self)(item, self.member_path(key), depth)
            for key, item in self.value.items()
            if isinstance(key, str)
        }

    def items(self) -> list[Self]:
        if not isinstance(self.value, list | tuple):
            raise self.wrong(f"expected a list, found {described(self.value)}")
        depth = self.descended()
        return [type(self)(item, f"{self.path}[{index}]", depth) for index, item in enumerate(self.value)]

    def scalar(self) -> Any:
        if self.value is not None and not isinstance(self.value, str | int | float | bool):
            raise self.wrong(f"unexpected {described(self.value)}")
        return self.value

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.wrong(f"expected a string, found {described(self.value)}")
        return self.value

    def variant(self) -> tuple[str, Self | None]:
        if isinstance(self.value, str):
            return self.value, None
        members = self.members()
        if len(members) != 1:
            raise self.wrong(f"expected a map of one key, found {len(members)}")
        return next(iter(members.items()))

    def place(self) -> str:
        return ""


def described(value: Any) -> str:
    """A value in messages."""
    if isinstance(value, Mapping):
        return "a map"
    if isinstance(value, list | tuple):
        return "a list"
    return {str: "string ", int: "integer ", float: "floating point "}.get(type(value), "") + repr(value)


# -------------------------------------------------------------------------------------------------------- both ways


class Codec(NamedTuple):
    """How one class is written and read."""

    write: Callable[[Any], Any]
    read: Callable[[Source], Any]


def _read_integer(source: Source, kind: Integer) -> int:
    value = source.scalar()
    if isinstance(value, bool) or not isinstance(value, int):
        raise source.wrong(f"expected an integer, found {described(value)}")
    try:
        return kind.check(value, "value")
    except (OverflowError, ValueError) as error:
        raise source.wrong(str(error).removeprefix("argument 'value': ")) from None


def _read_flag(source: Source) -> bool:
    value = source.scalar()
    if not isinstance(value, bool):
        raise source.wrong(f"expected true or false, found {described(value)}")
    return value


def _read_field(source: Source, field: Field[Any]) -> Any:
    kind = field.kind
    if isinstance(kind, Integer):
        return _read_integer(source, kind)
    if isinstance(kind, Flag):
        return _read_flag(source)
    if isinstance(kind, Instance):
        return _read_instance(source, kind.cls)
    if isinstance(kind, Table):
        return {key: _read_instance(item, kind.cls) for key, item in source.members().items()}
    return source.text()


def _read_instance(source: Source, cls: type) -> Any:
    return CODECS[cls].read(source) if cls in CODECS else read_settings(source, cls)


def read_settings(source: Source, cls: type[Settings]) -> Any:
    """An object of a `Settings` class from its stored form."""
    members = source.members()
    result = cls.__new__(cls)
    result._values = {}
    for name, field_ in cls._fields.items():
        member = members.get(name)
        if member is not None and not (member.is_null() and not field_.required):
            result._values[name] = _read_field(member, field_)
        elif field_.required and field_.default is not None and name not in _MUST_BE_STORED:
            result._values[name] = field_.default
        elif field_.required:
            raise source.wrong(f"missing field `{name}`")
    return result


_MUST_BE_STORED = ("anonymous", "allow_http")
"""Members that files always have, although the constructor has defaults for them."""


def write_settings(settings: Settings) -> dict[str, Any]:
    """The stored form of an object of a `Settings` class: every key, None where unset."""
    return {
        name: _write_value(settings._values.get(name))
        for name, field_ in settings._fields.items()
        if not field_.extension or name in settings._values
    }


def _write_value(value: Any) -> Any:
    codec = CODECS.get(type(value)) or next((CODECS[cls] for cls in type(value).__mro__ if cls in CODECS), None)
    if codec is not None:
        return codec.write(value)
    if isinstance(value, Settings):
        return write_settings(value)
    if isinstance(value, dict):
        return {key: _write_value(item) for key, item in value.items()}
    return value


def _choose(source: Source, word: str, choices: Mapping[str, Any]) -> Any:
    if word not in choices:
        raise source.wrong(f"unknown variant `{word}`, expected one of {', '.join(f'`{name}`' for name in choices)}")
    return choices[word]


def _content(source: Source, content: Source | None, word: str) -> Source:
    if content is None:
        raise source.wrong(f"`{word}` lacks its content")
    return content


def _words(words: Mapping[str, Any]) -> Codec:
    """An enumeration of plain words."""
    names = {value: word for word, value in words.items()}
    return Codec(names.__getitem__, lambda source: _choose(source, source.variant()[0], words))


# ------------------------------------------------------------------------------------------------------- conditions


class _Family:
    """A family of variants: what each is called, and how its content is written and read (None: it has none)."""

    def __init__(self, variants: Mapping[str, tuple[type, Codec | None]]) -> None:
        self.variants = variants
        self.names = {cls: word for word, (cls, _) in variants.items()}

    def write(self, value: Any) -> Any:
        word = self.names[type(value)]
        codec = self.variants[word][1]
        return word if codec is None else Tagged(word, codec.write(value))

    def read(self, source: Source) -> Any:
        word, content = source.variant()
        cls, codec = _choose(source, word, self.variants)
        return cls() if codec is None else codec.read(_content(source, content, word))


def _list_of(cls: Any, family: type) -> Codec:
    return Codec(
        lambda value: [_write_value(item) for item in value._0],
        lambda source: cls([CODECS[family].read(item) for item in source.items()]),
    )


def _regex(cls: Any) -> Codec:
    return Codec(lambda value: {"regex": value.regex}, lambda source: cls(_required(source, "regex").text()))


def _required(source: Source, name: str) -> Source:
    member = source.members().get(name)
    if member is None:
        raise source.wrong(f"missing field `{name}`")
    return member


def _write_bound(bound: Bound | None) -> Any:
    return "Unbounded" if bound is None else Tagged("Included" if bound.included else "Excluded", bound.value)


def _read_bound(source: Source) -> Bound | None:
    word, content = source.variant()
    included = _choose(source, word, {"Unbounded": None, "Included": True, "Excluded": False})
    return None if included is None else Bound(_read_integer(_content(source, content, word), Integer(32)), included)


_NUM_REFS = Codec(
    lambda value: {"from": _write_bound(value.lower), "to": _write_bound(value.upper)},
    lambda source: ManifestPreloadCondition.NumRefs.of_bounds(
        _read_bound(_required(source, "from")), _read_bound(_required(source, "to"))
    ),
)


def _write_sizes(sizes: SplitSizes | None) -> Any:
    if sizes is None:
        return None
    return [
        [_write_value(condition), [{"condition": _write_value(dim), "num_chunks": size} for dim, size in dims]]
        for condition, dims in sizes
    ]


def _read_sizes(source: Source) -> SplitSizes:
    sizes: SplitSizes = []
    for pair in source.items():
        parts = pair.items()
        if len(parts) != 2:
            raise pair.wrong(f"expected a list of 2 items, found {len(parts)}")
        dims = [
            (
                CODECS[ManifestSplitDimCondition].read(_required(dim, "condition")),
                _read_integer(_required(dim, "num_chunks"), Integer(32)),
            )
            for dim in parts[1].items()
        ]
        sizes.append((CODECS[ManifestSplitCondition].read(parts[0]), dims))
    return sizes


def _read_splitting(source: Source) -> ManifestSplittingConfig:
    sizes = source.members().get("split_sizes")
    config = ManifestSplittingConfig()
    if sizes is not None and not sizes.is_null():
        # not through the constructor, which refuses a size of 0: old files may have one, and it must not lock them up
        config._values["split_sizes"] = _read_sizes(sizes)
    return config


# ------------------------------------------------------------------------------------------------ stores of containers


def _s3(cls: Any) -> Codec:
    return Codec(lambda value: write_settings(value._0), lambda source: cls(read_settings(source, S3Options)))


def _texts(source: Source) -> dict[str, str]:
    return {key: item.text() for key, item in source.members().items()}


def _options(cls: Any) -> Codec:
    return Codec(lambda value: dict(value._0 or {}), lambda source: cls(_texts(source) or None))


def _write_http(value: Any) -> dict[str, Any]:
    options: dict[str, Any] = dict(value._0 or {})
    if value._1:
        options["headers"] = dict(value._1)
    return options


def _read_http(source: Source) -> ObjectStoreConfig:
    members = source.members()
    headers = members.pop("headers", None)
    return ObjectStoreConfig.Http(
        {key: item.text() for key, item in members.items()} or None,
        None if headers is None or headers.is_null() else _texts(headers) or None,
    )


_SPLIT = ManifestSplitCondition
_DIM = ManifestSplitDimCondition
_PRELOAD = ManifestPreloadCondition
_STORE = ObjectStoreConfig

_FAMILIES: dict[type, _Family] = {
    _SPLIT: _Family(
        {
            "or": (_SPLIT.Or, _list_of(_SPLIT.Or, _SPLIT)),
            "and": (_SPLIT.And, _list_of(_SPLIT.And, _SPLIT)),
            "path_matches": (_SPLIT.PathMatches, _regex(_SPLIT.PathMatches)),
            "name_matches": (_SPLIT.NameMatches, _regex(_SPLIT.NameMatches)),
            "any_array": (_SPLIT.AnyArray, None),
        }
    ),
    _DIM: _Family(
        {
            "Axis": (
                _DIM.Axis,
                Codec(lambda value: value._0, lambda source: _DIM.Axis(_read_integer(source, Integer(64)))),
            ),
            "DimensionName": (
                _DIM.DimensionName,
                Codec(lambda value: value._0, lambda source: _DIM.DimensionName(source.text())),
            ),
            "Any": (_DIM.Any, None),
        }
    ),
    _PRELOAD: _Family(
        {
            "or": (_PRELOAD.Or, _list_of(_PRELOAD.Or, _PRELOAD)),
            "and": (_PRELOAD.And, _list_of(_PRELOAD.And, _PRELOAD)),
            "path_matches": (_PRELOAD.PathMatches, _regex(_PRELOAD.PathMatches)),
            "name_matches": (_PRELOAD.NameMatches, _regex(_PRELOAD.NameMatches)),
            "num_refs": (_PRELOAD.NumRefs, _NUM_REFS),
            "true": (type(_PRELOAD.true()), None),
            "false": (type(_PRELOAD.false()), None),
        }
    ),
    _STORE: _Family(
        {
            "in_memory": (_STORE.InMemory, None),
            "local_file_system": (
                _STORE.LocalFileSystem,
                Codec(lambda value: value._0, lambda source: _STORE.LocalFileSystem(source.text())),
            ),
            "s3": (_STORE.S3, _s3(_STORE.S3)),
            "s3_compatible": (_STORE.S3Compatible, _s3(_STORE.S3Compatible)),
            "tigris": (_STORE.Tigris, _s3(_STORE.Tigris)),
            "gcs": (_STORE.Gcs, _options(_STORE.Gcs)),
            "azure": (_STORE.Azure, _options(_STORE.Azure)),
            "http": (_STORE.Http, Codec(_write_http, _read_http)),
        }
    ),
}

CODECS: dict[type, Codec] = {
    **{cls: Codec(family.write, family.read) for cls, family in _FAMILIES.items()},
    ManifestSplittingConfig: Codec(lambda value: {"split_sizes": _write_sizes(value.split_sizes)}, _read_splitting),
    CompressionAlgorithm: _words({"zstd": CompressionAlgorithm.Zstd}),
    ChecksumAlgorithm: _words(
        {
            "crc32": ChecksumAlgorithm.Crc32,
            "crc32c": ChecksumAlgorithm.Crc32c,
            "crc64_nvme": ChecksumAlgorithm.Crc64Nvme,
            "sha1": ChecksumAlgorithm.Sha1,
            "sha256": ChecksumAlgorithm.Sha256,
        }
    ),
}


# ---------------------------------------------------------------------------------------------------------- public


def to_stored(config: RepositoryConfig) -> dict[str, Any]:
    """`config` as a tree of dicts, lists and scalars, as spec 2 keeps it."""
    tree = _untagged(write_settings(config))
    assert isinstance(tree, dict)
    return tree


def split_sizes_to_stored(sizes: SplitSizes) -> dict[str, Any]:
    """The splitting of manifests, as a snapshot records it among its properties."""
    stored: dict[str, Any] = _untagged({"split_sizes": _write_sizes(sizes)})
    return stored


def _untagged(value: Any) -> Any:
    if isinstance(value, Tagged):
        return {value.tag: _untagged(value.content)}
    if isinstance(value, dict):
        return {key: _untagged(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_untagged(item) for item in value]
    return value


def from_stored(tree: Mapping[str, Any]) -> RepositoryConfig:
    """The configuration of such a tree. Raises `FormatError` of the kind `config-deserialization`."""
    config: RepositoryConfig = read_settings(PlainSource(tree), RepositoryConfig)
    return config


__all__ = ["Source", "Tagged", "VirtualChunkContainer", "from_stored", "read_settings", "to_stored", "write_settings"]
