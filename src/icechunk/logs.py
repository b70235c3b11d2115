"""What Icechunk tells about its work, through the `logging` package of the standard library.

Loggers are named after modules (`icechunk.session`, ...), under `icechunk`. Unless the application has configured logging
itself, records go to stderr, warnings and worse only. Which ones is set by a filter directive, in the environment
variable `ICECHUNK_LOG` or by `set_logs_filter`:

    debug                            everything from debug up
    warn,icechunk.storage=trace      warnings, and all of the storage
    off                              nothing

Levels are off, error, warn, info, debug, trace or a number from 0 to 5. Directives for other packages have no effect.
`ICECHUNK_NO_LOGS` (any value) leaves logging alone altogether; `ICECHUNK_LOG_TO_STDOUT` writes to stdout.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from typing import Final, TextIO

TRACE: Final = 5
_OFF = logging.CRITICAL + 1
_LEVELS = {
    "off": _OFF,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
}
_LEVELS |= {str(number): level for number, level in enumerate(list(_LEVELS.values()))}
_DEFAULT = "warn"
_ROOT = "icechunk"
_DIRECTIVE = re.compile(r"(?P<target>[\w.:-]*)(?P<span>\[[^\]]*\])?(?:=(?P<level>\w+))?")


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to stderr as it is at that moment, and only where the application has no handlers of its own."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)5s %(name)s: %(message)s")
        formatter.converter = time.gmtime
        formatter.default_time_format = "%Y-%m-%dT%H:%M:%S"
        formatter.datefmt = "%Y-%m-%dT%H:%M:%S"
        self.setFormatter(formatter)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stdout if os.environ.get("ICECHUNK_LOG_TO_STDOUT") else sys.stderr

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            super().emit(record)


_handler = _Handler()
_touched: set[str] = set()
"""Loggers whose level a directive has set, to be reset by the next filter."""


def initialize_logs() -> None:
    """Start logging as the environment says. Importing icechunk calls this; calling it again changes nothing."""
    if os.environ.get("ICECHUNK_NO_LOGS") is not None:
        return
    logger = logging.getLogger(_ROOT)
    if _handler not in logger.handlers:
        logging.addLevelName(TRACE, "TRACE")
        logger.addHandler(_handler)
        set_logs_filter(None)


def set_logs_filter(log_filter_directive: str | None) -> None:
    """Choose what is logged from now on.

    Parameters
    ----------
    log_filter_directive
        Such as `"warn,icechunk.storage=debug"`; None reads `ICECHUNK_LOG` again. Directives that make no sense are
        reported on stderr and ignored.
    """
    if log_filter_directive is None:
        log_filter_directive = os.environ.get("ICECHUNK_LOG", _DEFAULT)
    for name in _touched:
        logging.getLogger(name).setLevel(logging.NOTSET)
    _touched.clear()
    levels = parse_filter(log_filter_directive)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
        _touched.add(name)


def parse_filter(directive: str) -> dict[str, int]:
    """The levels of loggers that a filter directive asks for; `icechunk` is always among them."""
    levels: dict[str, int] = {}
    general = logging.ERROR
    for part in filter(None, (part.strip() for part in directive.split(","))):
        match = _DIRECTIVE.fullmatch(part)
        if match is None or not (match["target"] or match["span"]):
            _complain(part, "invalid filter directive")
            continue
        target, word = match["target"], match["level"]
        if word is None and target.lower() in _LEVELS:
            general = _LEVELS[target.lower()]
            continue
        if word is not None and word.lower() not in _LEVELS:
            expected = 'expected one of "off", "error", "warn", "info", "debug", "trace", or a number 0-5'
            _complain(part, f"error parsing level filter: {expected}")
            continue
        name = target.replace("::", ".").strip(".")
        if name == _ROOT or name.startswith(_ROOT + "."):
            levels[name] = TRACE if word is None else _LEVELS[word.lower()]
            _hint(name)
        elif _closest(name, [_ROOT], 0.85):
            _complain(part, f"no such target, did you mean `{_ROOT}`?")
    return {_ROOT: general} | levels


def _complain(part: str, why: str) -> None:
    print(f"ignoring `{part}`: {why}", file=sys.stderr)


def _hint(name: str) -> None:
    """Say so when `name` is not a module of ours but nearly one."""
    first = name.removeprefix(_ROOT).removeprefix(".").partition(".")[0]
    from pkgutil import iter_modules

    modules = [module.name for module in iter_modules([os.path.dirname(__file__)])]
    close = _closest(first, modules) if first and first not in modules else None
    if close:
        print(f"nothing is logged as `{name}`, did you mean `{_ROOT}.{close}`?", file=sys.stderr)


def _closest(word: str, known: list[str], cutoff: float = 0.6) -> str | None:
    from difflib import get_close_matches

    return next(iter(get_close_matches(word, known, 1, cutoff)), None)


def shutdown_telemetry() -> None:
    """Flush what is logged. There is no telemetry to shut down; kept for compatibility."""
    _handler.flush()


def print_debug_info() -> None:
    """Print the versions that a report of a problem should contain."""
    import platform

    print(f"platform:  {platform.platform()}")
    print(f"python:  {platform.python_version()}")
    for package in ("icechunk", "zarr", "numcodecs", "xarray", "virtualizarr", "obstore", "zstandard"):
        version = _version(package)
        if version is not None:
            print(f"{package}:  {version}")


def _version(package: str) -> str | None:
    from importlib import metadata

    known = getattr(sys.modules.get(package), "__version__", None)
    if known is not None:
        return str(known)
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
