"""docs/compatibility.md says what is so: it is made anew and compared."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.api.surface import VERSIONS, Name, reference

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compatibility", ROOT / "scripts" / "compatibility.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def text(script: ModuleType) -> str:
    return str(script.document())


def test_the_document_is_up_to_date(script: ModuleType, text: str) -> None:
    assert script.DOCUMENT.read_text(encoding="utf-8") == text, "run scripts/compatibility.py"


def test_every_name_is_in_it(text: str) -> None:
    listed = set()
    for line in text.splitlines():
        names = re.findall(r"`([^`]+)`", line.split(" | ")[0]) if line.startswith("| `") else []
        owner = names.pop(0) if names and names[0].endswith(".") else ""
        for name in names:
            listed.add(owner + name.removesuffix("[_async]"))
            listed |= {owner + name.replace("[_async]", "_async")}
    assert {name.dotted for version in VERSIONS for name in reference(version)} <= listed


def test_nothing_is_missing(script: ModuleType, text: str) -> None:
    assert [line for line in text.splitlines() if line.startswith("| `") and f"| {script.MISSING} |" in line] == []


def test_what_is_missing_would_be_marked(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [Name("Repository", "class", ""), Name("Repository.vanish", "method", "(at)")]
    monkeypatch.setattr(script, "reference", lambda version: names)
    surface = script.Surface()
    lines = list(script.lines_of(surface, "Repository", surface.names))
    assert lines[-1] == "| `Repository.` `vanish` | ✓ | ✓ | ✗ | missing |"


def test_differences_are_of_names_that_exist(script: ModuleType) -> None:
    surface = script.Surface()
    assert not set(surface.notes).difference(surface.names)
    anchors = [anchor for members in surface.differences.values() for anchor in members]
    assert len(anchors) == len(set(anchors))
