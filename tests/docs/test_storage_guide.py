"""The storage that the guide has you write passes the suite that all storages must pass, by the test that the guide shows."""

from __future__ import annotations

import sys
import types

from tests.docs.test_guides import GUIDES, blocks

CODE = {block.file: block.code for block in blocks(GUIDES / "storage.md") if block.file is not None}


def module_of(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    sys.modules[name] = module  # where pickles look for it
    exec(compile(CODE[f"{name}.py"], f"storage.md, {name}.py", "exec"), module.__dict__)
    return module


module_of("sqlite_storage")
TestTheStorageOfTheGuide = module_of("test_sqlite_storage").TestSQLiteStorage
TestTheStorageOfTheGuide.many = 150  # which is more than it hands over at once, and quick


def test_the_guide_names_every_verb_of_the_protocol() -> None:
    from icechunk.storage.base import Storage

    text = (GUIDES / "storage.md").read_text(encoding="utf-8")
    section = text[text.index("## A storage of your own") :]
    own = vars(Storage).keys() - {"doctor", "doctor_async", "ignores_conditions", "with_settings"}
    for name in own:
        assert name.startswith("_") or f"`{name}" in section, name
    for name in Storage.__abstractmethods__:
        assert f"| `{name}(" in section, name
