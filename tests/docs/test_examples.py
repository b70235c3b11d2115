"""The examples run, and find what they wrote; the tour shows what the map of the code says is there."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.test_layers import LAYERS, row_of

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))


def run_example(name: str, tmp_path: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py"), str(tmp_path / "repo")],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, tmp_path: Path) -> None:
    assert run_example(name, tmp_path).strip()


def test_the_tour_shows_layers_where_they_are(tmp_path: Path) -> None:
    shown = re.findall(r"^\d+\. (\w+): (.+)$", run_example("tour", tmp_path), re.MULTILINE)
    assert {"move", "format", "flatbuf", "hold", "decide", "assets", "store"} == {layer for layer, _ in shown}
    for layer, modules in shown:
        for number, module in enumerate(modules.split(", ")):
            importlib.import_module(module)
            row = row_of(module.removeprefix("icechunk."))
            assert row is not None
            assert number or LAYERS[row].name == layer, f"{module} is in the layer {LAYERS[row].name}"
