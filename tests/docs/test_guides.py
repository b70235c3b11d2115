"""The Python in the guides, the quickstart and the README runs, and shows what it says it shows.

The blocks of a file are one program, run in order in an empty directory. A line that ends in `# -> value` is an
expression, and `value` is its repr. A block is left out when its first line says `no-run`, as in ```` ```python no-run ````;
with `file=NAME` it is written to that file instead, for blocks after it to import.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
GUIDES = ROOT / "docs" / "guides"
PROGRAMS = [*sorted(GUIDES.glob("*.md")), ROOT / "README.md", ROOT / "docs" / "quickstart.md"]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
FENCE = re.compile(r"^```python(?P<options>[^\n]*)\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)
SHOWN = re.compile(r"#\s*->\s*(?P<value>.+?)\s*$")


@dataclass(frozen=True)
class Block:
    """One fenced piece of Python, with the line of the document on which it begins."""

    line: int
    options: tuple[str, ...]
    code: str

    @property
    def file(self) -> str | None:
        return next((option.removeprefix("file=") for option in self.options if option.startswith("file=")), None)


def blocks(document: Path) -> Iterator[Block]:
    text = document.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("code"))
        yield Block(line, tuple(match["options"].split()), match["code"])


def run_block(block: Block, document: Path, names: dict[str, Any]) -> None:
    tree = ast.parse("\n" * block.line + block.code, str(document))
    lines = block.code.splitlines()
    for statement in tree.body:
        last = lines[(statement.end_lineno or statement.lineno) - block.line - 1]
        shown = SHOWN.search(last)
        if shown is None:
            exec(compile(ast.Module([statement], []), str(document), "exec"), names)
            continue
        assert isinstance(statement, ast.Expr), f"{document}:{statement.lineno} shows the value of a statement"
        value = eval(compile(ast.Expression(statement.value), str(document), "eval"), names)
        assert repr(value) == shown["value"], f"{document}:{statement.lineno}"


@pytest.mark.usefixtures("xarray_engine")
@pytest.mark.parametrize("document", PROGRAMS, ids=lambda path: path.stem)
def test_guide(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)
    names: dict[str, Any] = {"__name__": f"guide_{document.stem}"}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            for block in blocks(document):
                if "no-run" in block.options:
                    ast.parse(block.code)
                elif block.file is not None:
                    (tmp_path / block.file).write_text(block.code, encoding="utf-8")
                else:
                    run_block(block, document, names)
    finally:
        for name in set(sys.modules) - known:
            if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
                del sys.modules[name]


def test_every_guide_is_listed() -> None:
    listed = (GUIDES / "README.md").read_text(encoding="utf-8")
    for document in GUIDES.glob("*.md"):
        assert document.name == "README.md" or f"]({document.name})" in listed, document.name


@pytest.mark.parametrize("document", PAGES, ids=lambda path: path.stem)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"
