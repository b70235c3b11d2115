"""Log filters, and where records go."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from icechunk.logs import TRACE, parse_filter, print_debug_info, set_logs_filter

OFF = logging.CRITICAL + 1


@pytest.fixture(autouse=True)
def _restore_the_filter() -> Iterator[None]:
    yield
    set_logs_filter(None)


@pytest.mark.parametrize(
    ("directive", "levels"),
    [
        ("off", {"icechunk": OFF}),
        ("error", {"icechunk": logging.ERROR}),
        ("WARN", {"icechunk": logging.WARNING}),
        ("3", {"icechunk": logging.INFO}),
        ("0", {"icechunk": OFF}),
        ("trace", {"icechunk": TRACE}),
        ("debug", {"icechunk": logging.DEBUG}),
        ("", {"icechunk": logging.ERROR}),
        ("warn,,", {"icechunk": logging.WARNING}),
        ("warn, icechunk.storage=trace", {"icechunk": logging.WARNING, "icechunk.storage": TRACE}),
        ("debug,icechunk=off", {"icechunk": OFF}),
        ("icechunk=info", {"icechunk": logging.INFO}),
        ("icechunk", {"icechunk": TRACE}),
        ("icechunk::session=debug", {"icechunk": logging.ERROR, "icechunk.session": logging.DEBUG}),
        ("icechunk[open{a=b}]=debug", {"icechunk": logging.DEBUG}),
        ("hyper=debug,warn", {"icechunk": logging.WARNING}),
        ("error,icechunk.cache=debug,icechunk.cache=info", {"icechunk": logging.ERROR, "icechunk.cache": logging.INFO}),
    ],
)
def test_directives(directive: str, levels: dict[str, int], capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_filter(directive) == levels
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("directive", "complaint"),
    [
        ("=", "ignoring `=`: invalid filter directive"),
        ("warn,icechunk=blah", "ignoring `icechunk=blah`: error parsing level filter"),
        ("a b", "ignoring `a b`: invalid filter directive"),
        ("icechunks=debug", "did you mean `icechunk`?"),
        ("icechunk.sesion=debug", "did you mean `icechunk.session`?"),
    ],
)
def test_bad_directives_are_reported_and_ignored(
    directive: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    set_logs_filter(directive)
    shown = capsys.readouterr().err
    assert complaint in shown and shown.count("\n") == 1


def test_a_filter_replaces_the_former_one() -> None:
    set_logs_filter("warn,icechunk.storage=debug")
    assert logging.getLogger("icechunk.storage.local").isEnabledFor(logging.DEBUG)
    assert not logging.getLogger("icechunk.session").isEnabledFor(logging.INFO)
    set_logs_filter("info")
    assert not logging.getLogger("icechunk.storage.local").isEnabledFor(logging.DEBUG)
    assert logging.getLogger("icechunk.session").isEnabledFor(logging.INFO)


def test_the_environment_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("icechunk")
    monkeypatch.setenv("ICECHUNK_LOG", "debug")
    set_logs_filter(None)
    assert logger.level == logging.DEBUG
    monkeypatch.delenv("ICECHUNK_LOG")
    set_logs_filter(None)
    assert logger.level == logging.WARNING


def in_a_new_process(code: str, **environment: str) -> tuple[str, str]:
    """What a program that logs prints to stdout and stderr."""
    program = f"import logging\n{code}\nfrom icechunk.logs import *\ninitialize_logs()\n" + (
        "log = logging.getLogger('icechunk.session')\nlog.debug('fine')\nlog.warning('careful')"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ICECHUNK")}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=clean | environment
    )
    return done.stdout, done.stderr


def test_warnings_go_to_stderr() -> None:
    out, err = in_a_new_process("")
    assert out == ""
    assert err.endswith("Z WARNING icechunk.session: careful\n")
    assert err.count("\n") == 1


def test_the_environment_chooses() -> None:
    assert "fine" in in_a_new_process("", ICECHUNK_LOG="debug")[1]
    assert in_a_new_process("", ICECHUNK_LOG="error") == ("", "")
    assert "careful" in in_a_new_process("", ICECHUNK_LOG_TO_STDOUT="1")[0]
    out, err = in_a_new_process("", ICECHUNK_NO_LOGS="1", ICECHUNK_LOG="trace")
    assert out == "" and err.strip() in ("", "careful"), "only what Python itself shows of warnings nobody handles"


def test_an_application_that_logs_gets_every_record_once() -> None:
    out, err = in_a_new_process("import sys; logging.basicConfig(stream=sys.stdout, format='app %(message)s')")
    assert out == "app careful\n" and err == ""


def test_debug_info(capsys: pytest.CaptureFixture[str]) -> None:
    print_debug_info()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":  ")[0] for line in lines][:2] == ["platform", "python"]
    assert any(line.startswith("zarr:  ") for line in lines)
