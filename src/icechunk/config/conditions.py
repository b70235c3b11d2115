"""Conditions on arrays: which manifests to split and how, and which to fetch ahead.

Conditions are small immutable values, made by their static methods (`ManifestSplitCondition.path_matches("/temp")`) or as
variants (`ManifestSplitCondition.PathMatches("/temp")`), and combined by `|` and `&`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from icechunk import checks
from icechunk.display import quoted
from icechunk.variants import Variants, variant_of


def _conditions(value: Any, family: type[Any]) -> list[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"expected a list of {family.__name__}, not '{type(value).__name__}'")
    return [checks.instance(item, "conditions", family) for item in value]


class ManifestSplitCondition(Variants):
    """Which arrays a rule of manifest splitting is for.

    Regular expressions are searched for, so anchor them where a whole path or name is meant. Paths are absolute
    (`/group/array`), a name is the last part of a path. A pattern that is no regular expression matches nothing.
    """

    Or: TypeAlias = "_SplitOr"
    And: TypeAlias = "_SplitAnd"
    PathMatches: TypeAlias = "_SplitPathMatches"
    NameMatches: TypeAlias = "_SplitNameMatches"
    AnyArray: TypeAlias = "_SplitAnyArray"

    @staticmethod
    def or_conditions(conditions: Sequence[ManifestSplitCondition]) -> ManifestSplitCondition:
        """Any of `conditions`."""
        return ManifestSplitCondition.Or(list(conditions))

    @staticmethod
    def and_conditions(conditions: Sequence[ManifestSplitCondition]) -> ManifestSplitCondition:
        """All of `conditions`."""
        return ManifestSplitCondition.And(list(conditions))

    @staticmethod
    def path_matches(regex: str) -> ManifestSplitCondition:
        """`regex` is found in the absolute path of the array."""
        return ManifestSplitCondition.PathMatches(regex)

    @staticmethod
    def name_matches(regex: str) -> ManifestSplitCondition:
        """`regex` is found in the name of the array, the last part of its path."""
        return ManifestSplitCondition.NameMatches(regex)

    @staticmethod
    def any_array() -> ManifestSplitCondition:
        """Every array."""
        return ManifestSplitCondition.AnyArray()

    def __or__(self, other: ManifestSplitCondition) -> ManifestSplitCondition:
        if not isinstance(other, ManifestSplitCondition):
            return NotImplemented
        return ManifestSplitCondition.Or([self, other])

    def __and__(self, other: ManifestSplitCondition) -> ManifestSplitCondition:
        if not isinstance(other, ManifestSplitCondition):
            return NotImplemented
        return ManifestSplitCondition.And([self, other])

    def __repr__(self) -> str:
        return "icechunk.config.ManifestSplitCondition." + _call_text(self)


@variant_of(ManifestSplitCondition, "Or")
class _SplitOr(ManifestSplitCondition):
    _0: list[ManifestSplitCondition]

    def _check(self) -> None:
        self._set("_0", _conditions(self._0, ManifestSplitCondition))


@variant_of(ManifestSplitCondition, "And")
class _SplitAnd(ManifestSplitCondition):
    _0: list[ManifestSplitCondition]

    def _check(self) -> None:
        self._set("_0", _conditions(self._0, ManifestSplitCondition))


@variant_of(ManifestSplitCondition, "PathMatches")
class _SplitPathMatches(ManifestSplitCondition):
    regex: str

    def _check(self) -> None:
        checks.text(self.regex, "regex")


@variant_of(ManifestSplitCondition, "NameMatches")
class _SplitNameMatches(ManifestSplitCondition):
    regex: str

    def _check(self) -> None:
        checks.text(self.regex, "regex")


@variant_of(ManifestSplitCondition, "AnyArray")
class _SplitAnyArray(ManifestSplitCondition):
    pass


class ManifestSplitDimCondition(Variants):
    """Which dimensions a split size is for."""

    Axis: TypeAlias = "_DimAxis"
    DimensionName: TypeAlias = "_DimName"
    Any: TypeAlias = "_DimAny"

    @staticmethod
    def axis(index: int) -> ManifestSplitDimCondition:
        """The dimension number `index`, from 0."""
        return ManifestSplitDimCondition.Axis(index)

    @staticmethod
    def dimension_name(regex: str) -> ManifestSplitDimCondition:
        """Dimensions in whose name `regex` is found."""
        return ManifestSplitDimCondition.DimensionName(regex)

    @staticmethod
    def any() -> ManifestSplitDimCondition:
        """All dimensions that no earlier entry was for."""
        return ManifestSplitDimCondition.Any()

    def __repr__(self) -> str:
        return "icechunk.config.ManifestSplitDimCondition." + _call_text(self)


@variant_of(ManifestSplitDimCondition, "Axis")
class _DimAxis(ManifestSplitDimCondition):
    _0: int

    def _check(self) -> None:
        self._set("_0", checks.integer(self._0, "_0", bits=64))


@variant_of(ManifestSplitDimCondition, "DimensionName")
class _DimName(ManifestSplitDimCondition):
    _0: str

    def _check(self) -> None:
        checks.text(self._0, "_0")


@variant_of(ManifestSplitDimCondition, "Any")
class _DimAny(ManifestSplitDimCondition):
    pass


class ManifestPreloadCondition(Variants):
    """Which manifests are fetched as soon as a session is opened.

    Besides the variants listed here there are `True` and `False`, reached by `true()` and `false()` since Python cannot
    spell them.
    """

    Or: TypeAlias = "_PreloadOr"
    And: TypeAlias = "_PreloadAnd"
    PathMatches: TypeAlias = "_PreloadPathMatches"
    NameMatches: TypeAlias = "_PreloadNameMatches"
    NumRefs: TypeAlias = "_PreloadNumRefs"

    @staticmethod
    def or_conditions(conditions: Sequence[ManifestPreloadCondition]) -> ManifestPreloadCondition:
        """Any of `conditions`."""
        return ManifestPreloadCondition.Or(list(conditions))

    @staticmethod
    def and_conditions(conditions: Sequence[ManifestPreloadCondition]) -> ManifestPreloadCondition:
        """All of `conditions`."""
        return ManifestPreloadCondition.And(list(conditions))

    @staticmethod
    def path_matches(regex: str) -> ManifestPreloadCondition:
        """`regex` is found in the absolute path of the array."""
        return ManifestPreloadCondition.PathMatches(regex)

    @staticmethod
    def name_matches(regex: str) -> ManifestPreloadCondition:
        """`regex` is found in the name of the array, the last part of its path."""
        return ManifestPreloadCondition.NameMatches(regex)

    @staticmethod
    def num_refs(from_refs: int | None, to_refs: int | None) -> ManifestPreloadCondition:
        """The manifest has at least `from_refs` and fewer than `to_refs` references; None is no bound."""
        return ManifestPreloadCondition.NumRefs(from_refs, to_refs)

    @staticmethod
    def true() -> ManifestPreloadCondition:
        """Every manifest."""
        return _PreloadTrue()

    @staticmethod
    def false() -> ManifestPreloadCondition:
        """No manifest."""
        return _PreloadFalse()

    def __or__(self, other: ManifestPreloadCondition) -> ManifestPreloadCondition:
        if not isinstance(other, ManifestPreloadCondition):
            return NotImplemented
        return ManifestPreloadCondition.Or([self, other])

    def __and__(self, other: ManifestPreloadCondition) -> ManifestPreloadCondition:
        if not isinstance(other, ManifestPreloadCondition):
            return NotImplemented
        return ManifestPreloadCondition.And([self, other])

    def __repr__(self) -> str:
        return "icechunk.config.ManifestPreloadCondition." + _call_text(self)


@variant_of(ManifestPreloadCondition, "Or")
class _PreloadOr(ManifestPreloadCondition):
    _0: list[ManifestPreloadCondition]

    def _check(self) -> None:
        self._set("_0", _conditions(self._0, ManifestPreloadCondition))


@variant_of(ManifestPreloadCondition, "And")
class _PreloadAnd(ManifestPreloadCondition):
    _0: list[ManifestPreloadCondition]

    def _check(self) -> None:
        self._set("_0", _conditions(self._0, ManifestPreloadCondition))


@variant_of(ManifestPreloadCondition, "PathMatches")
class _PreloadPathMatches(ManifestPreloadCondition):
    regex: str

    def _check(self) -> None:
        checks.text(self.regex, "regex")


@variant_of(ManifestPreloadCondition, "NameMatches")
class _PreloadNameMatches(ManifestPreloadCondition):
    regex: str

    def _check(self) -> None:
        checks.text(self.regex, "regex")


class Bound(NamedTuple):
    """One end of a range of reference counts."""

    value: int
    included: bool


@variant_of(ManifestPreloadCondition, "NumRefs")
class _PreloadNumRefs(ManifestPreloadCondition):
    """A range of reference counts. Its fields are `from` and `to`; files know more kinds of bounds than `num_refs`."""

    lower: Bound | None
    upper: Bound | None

    def __init__(self, from_refs: int | None = None, to_refs: int | None = None) -> None:
        def bound(value: int | None, name: str, included: bool) -> Bound | None:
            return None if value is None else Bound(checks.integer(value, name, bits=32), included)

        self._set("lower", bound(from_refs, "from_refs", True))
        self._set("upper", bound(to_refs, "to_refs", False))

    @classmethod
    def of_bounds(cls, lower: Bound | None, upper: Bound | None) -> ManifestPreloadCondition:
        """The condition with these very bounds."""
        result = cls()
        result._set("lower", lower)
        result._set("upper", upper)
        return result

    def _values(self) -> tuple[Any, ...]:
        return self.lower, self.upper

    @property
    def first(self) -> int | None:
        """The least count that is meant, None without a lower bound."""
        return None if self.lower is None else self.lower.value + (not self.lower.included)

    @property
    def to(self) -> int | None:
        """The least count that is too many, None without an upper bound."""
        return None if self.upper is None else self.upper.value + self.upper.included


# `from` is a word of the language, so neither a field nor a property can be written under that name
setattr(_PreloadNumRefs, "from", _PreloadNumRefs.first)
_PreloadNumRefs.__match_args__ = ("from", "to")  # type: ignore[misc,assignment]


@variant_of(ManifestPreloadCondition, "True")
class _PreloadTrue(ManifestPreloadCondition):
    pass


@variant_of(ManifestPreloadCondition, "False")
class _PreloadFalse(ManifestPreloadCondition):
    pass


_CALLS = {
    "Or": "or_conditions",
    "And": "and_conditions",
    "PathMatches": "path_matches",
    "NameMatches": "name_matches",
    "NumRefs": "num_refs",
    "AnyArray": "any_array",
    "True": "true",
    "False": "false",
    "Axis": "axis",
    "DimensionName": "dimension_name",
    "Any": "any",
}


def _call_text(condition: Variants) -> str:
    """The call of the static method that makes `condition`."""
    if isinstance(condition, _PreloadNumRefs):
        arguments = [repr(condition.first), repr(condition.to)]
    else:
        arguments = [quoted(value) if isinstance(value, str) else repr(value) for value in condition._values()]
    return f"{_CALLS[type(condition).__name__]}({', '.join(arguments)})"


_COORDINATE_NAMES = (
    r"^\bt\b$|^(time|min|hour|day|week|month|year)[0-9]*$",
    r"^(z|nav_lev|gdep|lv_|[o]*lev|bottom_top|sigma|h(ei)?ght|altitude|depth|isobaric|pres|isotherm)[a-z_]*[0-9]*$",
    r"^(y|j|nlat|rlat|nj)$",
    r"^y?(nav_lat|lat|gphi)[a-z0-9]*$",
    r"^x?(nav_lon|lon|glam)[a-z0-9]*$",
    r"^(x|i|nlon|rlon|ni)$",
)

DEFAULT_PRELOAD_CONDITION = ManifestPreloadCondition.And(
    [
        ManifestPreloadCondition.Or([ManifestPreloadCondition.NameMatches(regex) for regex in _COORDINATE_NAMES]),
        ManifestPreloadCondition.NumRefs.of_bounds(None, Bound(1000, included=True)),
    ]
)
"""Coordinates, as their names give them away, with at most 1000 references."""
