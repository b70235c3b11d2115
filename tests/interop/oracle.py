"""The Rust implementation as a judge: in an environment of its own, reached by one long-lived process per version.

`Oracle` speaks the language of `language.py` to that process; `Local` runs the same language with the package under test,
in this process. Both are an `Engine`. A `Program` runs steps on engines and keeps the labels of snapshots, so that a
program can be handed from one engine to another in the middle.

By hand: `python -m tests.interop.oracle 2.3.0 program.json` runs a program (a JSON list of steps) and prints the answers.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
VERSIONS = {"1.1.21": (1,), "2.3.0": (1, 2)}  # and the specs each can write
ANSWER_TIMEOUT = 120.0


class StepFailed(Exception):
    """A step raised inside an engine; carries the names of the error's classes, its kind and its message."""

    def __init__(self, step: list[Any], error: dict[str, Any]) -> None:
        super().__init__(f"{step} raised {error['type']} [{error['kind']}]: {error['message']}")
        self.type = error["type"]
        self.classes = error["classes"]
        self.kind = error["kind"]
        self.message = error["message"]


class Engine(Protocol):
    """Something that runs steps."""

    name: str

    def do(self, name: str, /, **arguments: Any) -> Any: ...


class Local:
    """The package under test, in this process."""

    name = "ours"

    def __init__(self) -> None:
        from tests.interop import language

        self._language = language
        self._interpreter = language.Interpreter()

    def do(self, name: str, /, **arguments: Any) -> Any:
        # through JSON, as with an oracle, so that both sides mean the same
        line = json.dumps([name, arguments])
        return _unpack([name, arguments], json.loads(json.dumps(self._language.answer(self._interpreter, line))))


class Oracle:
    """A process of the Rust implementation."""

    def __init__(self, name: str, python: str) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        self._process = subprocess.Popen(
            [python, "-P", str(HERE / "language.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env=environment,
            cwd=tempfile.gettempdir(),
        )
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def do(self, name: str, /, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, arguments]) + "\n")
        self._process.stdin.flush()
        try:
            line = self._answers.get(timeout=ANSWER_TIMEOUT)
        except queue.Empty:
            self.close()
            raise RuntimeError(f"{self.name} did not answer {name} in {ANSWER_TIMEOUT:.0f} s") from None
        if not line:
            raise RuntimeError(f"{self.name} died in {name}:\n{self._last_words()}")
        return _unpack([name, arguments], json.loads(line))

    def _last_words(self) -> str:
        self._log.seek(0)
        return self._log.read()[-4000:].decode(errors="replace")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


def _unpack(step: list[Any], answer: dict[str, Any]) -> Any:
    if "error" in answer:
        raise StepFailed(step, answer["error"])
    return answer["ok"]


class Program:
    """Runs steps on a repository and knows its snapshots by label.

    A step that makes a snapshot may carry `label="x"`; afterwards `"@x"` stands for its id in any argument, whichever
    engine runs it. `{data}` in a string is the directory with the files that virtual chunks point to.
    """

    def __init__(self, path: Path, data: Path | None = None) -> None:
        self.path = str(path)
        self.data = str(data)
        self.labels: dict[str, str] = {}

    def run(self, engine: Engine, steps: Iterable[list[Any]]) -> list[Any]:
        """Run `steps` on one engine, from opening the repository; returns what each reported."""
        return [self.step(engine, name, arguments) for name, arguments in steps]

    def step(self, engine: Engine, name: str, arguments: dict[str, Any]) -> Any:
        resolved = self._resolve(arguments)
        label = resolved.pop("label", None)
        if name in ("create", "open"):
            resolved.setdefault("path", self.path)
        result = engine.do(name, **resolved)
        if label is not None:
            self.labels[label] = result
        return result

    def _resolve(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._resolve(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._resolve(item) for item in value]
        if isinstance(value, str):
            return self.labels[value[1:]] if value.startswith("@") else value.replace("{data}", self.data)
        return value

    def describe(self, engine: Engine, authorize: Iterable[str] = ()) -> Any:
        """Everything that `engine` sees of the repository, opening it afresh."""
        return engine.do("describe", path=self.path, authorize=self._resolve(list(authorize)))


def python_of(version: str) -> str | None:
    """The Python whose environment has that version of the Rust package, if there is one.

    `scripts/test` makes these environments; `ICECHUNK_ORACLE_1_1_21=/path/to/python` names another.
    """
    named = os.environ.get("ICECHUNK_ORACLE_" + version.replace(".", "_"))
    python = named or str(ROOT / ".cache" / "oracles" / version / "bin" / "python")
    return python if Path(python).exists() else None


def main() -> None:
    version, file = sys.argv[1:]
    engine: Engine = Local() if version == "ours" else Oracle(version, python_of(version) or sys.exit("not installed"))
    with tempfile.TemporaryDirectory() as directory:
        program = Program(Path(directory) / "repo")
        for name, arguments in json.loads(Path(file).read_text()):
            try:
                result = program.step(engine, name, arguments)
            except StepFailed as error:
                result = f"{error.type} [{error.kind}] {error.message}"
            print(name, json.dumps(arguments), "->", json.dumps(result))
        print(json.dumps(program.describe(engine), indent=1))


if __name__ == "__main__":
    main()
