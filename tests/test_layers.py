"""Imports point down, and the pure layers stay pure.

The table below is the architecture: a module may import from its own row and from the rows under it, at module level as
well as inside functions. Imports under `if TYPE_CHECKING:` are for type checkers and do not count. The rows marked pure
do no IO, look at no clock, draw no random numbers and are not asynchronous: whatever they need is passed in.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "icechunk"


@dataclass(frozen=True)
class Row:
    """One layer: the modules in it (a name stands for the package under it too)."""

    name: str
    modules: tuple[str, ...]
    pure: bool = False


LAYERS = (  # top to bottom
    Row("faces", ("", "__main__", "testing", "types", "snapshots", "versions")),
    Row("edge", ("xarray", "dask", "distributed", "chunk_alignment", "opening", "xarray_backend")),
    Row("use", ("repository", "chronicle", "maintenance")),
    Row("operations", ("ops",)),
    Row("session", ("session",)),
    Row("store", ("store",)),
    Row(
        "act",
        (
            "core",
            "publishing",
            "merging",
            "rebase",
            "workspace",
            "chunk_access",
            "chunk_packs",
            "commit",
            "manifest_writer",
            "written_chunks",
        ),
    ),
    Row("hold", ("refs", "virtual", "virtual_access", "virtual_refs")),
    Row("assets", ("assets", "cache")),
    Row(
        "decide",
        (
            *("change_set", "change_merge", "node_view", "zarr_keys", "zarr_metadata", "splitting"),
            *("conflicts", "resolution", "moves", "history", "ancestry_graph"),
        ),
        pure=True,
    ),
    Row("format", ("format",), pure=True),
    Row("flatbuf", ("flatbuf",), pure=True),
    Row("move", ("storage",)),
    Row("credentials", ("credentials",)),
    Row("config", ("config", "virtual_types"), pure=True),
    Row("base", ("errors", "_dataclass", "_driver", "checks", "variants", "display", "info", "iterators", "logs")),
)

ASYNC_ALLOWED_BELOW_HOLD = ("storage", "_driver", "iterators", "credentials")

IMPURE_MODULES = {
    *("asyncio", "concurrent", "threading", "multiprocessing", "subprocess", "socket", "ssl", "http", "urllib.request"),
    *("time", "random", "secrets", "uuid", "io", "os", "pathlib", "shutil", "tempfile", "obstore", "zarr"),
}
IMPURE_CALLS = {
    *("open", "print", "input", "exec", "eval"),
    *("datetime.now", "datetime.utcnow", "datetime.today", "datetime.datetime.now", "datetime.datetime.utcnow"),
    *("date.today", "os.urandom", "np.random.default_rng", "np.random.bytes", "numpy.random.default_rng"),
}
# ids are the one place where random numbers are drawn; callers above pass them down. Contexts of zstd are kept by thread,
# and a frame is read on by one thread of one process at a time.
IMPURE_EXCEPTIONS = {
    *(("format.ids", "os"), ("format.ids", "os.urandom")),
    *(("format.zstd", "threading"), ("format.gradual", "threading"), ("format.gradual", "os")),
}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8"), str(path)) for name, path in SOURCES.items()}


def row_of(module: str) -> int | None:
    """The index of a module's layer, by the longest name that matches it."""
    candidate = module
    while True:
        for index, row in enumerate(LAYERS):
            if candidate in row.modules:
                return index
        if not candidate or "." not in candidate:
            return None
        candidate = candidate.rpartition(".")[0]


def counted_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from counted_nodes(other)
            continue
        yield child
        yield from counted_nodes(child)


def imports(module: str) -> Iterator[tuple[str, int]]:
    """Absolute names of what a module imports, with the line."""
    package = module if SOURCES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in counted_nodes(TREES[module]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = ["icechunk", *filter(None, package.split("."))]
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix("icechunk.")
                is_module = base.split(".")[0] == "icechunk" and inner in SOURCES
                yield (f"{base}.{alias.name}" if is_module else base), node.lineno


def inner_imports(module: str) -> Iterator[tuple[str, int]]:
    for name, line in imports(module):
        if name == "icechunk" or name.startswith("icechunk."):
            yield name.removeprefix("icechunk").removeprefix("."), line


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_down(module: str) -> None:
    row = row_of(module)
    assert row is not None, f"{SOURCES[module]} has no place in LAYERS"
    wrong = []
    for name, line in inner_imports(module):
        target = row_of(name)
        if target is None or target < row:
            where = "an unknown layer" if target is None else f"the layer {LAYERS[target].name!r}"
            wrong.append(f"{SOURCES[module]}:{line} imports icechunk.{name} from {where}")
    assert not wrong, f"{module} is in {LAYERS[row].name!r}:\n" + "\n".join(wrong)


@pytest.mark.parametrize("module", [name for name in SOURCES if (row := row_of(name)) is not None and LAYERS[row].pure])
def test_pure_layers_are_pure(module: str) -> None:
    wrong = []
    for name, line in imports(module):
        heads = {name, name.split(".")[0]}
        if heads & IMPURE_MODULES and (module, name) not in IMPURE_EXCEPTIONS:
            wrong.append(f"line {line} imports {name}")
    for node in counted_nodes(TREES[module]):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            wrong.append(f"line {node.lineno} is asynchronous")
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in IMPURE_CALLS and (module, called) not in IMPURE_EXCEPTIONS:
                wrong.append(f"line {node.lineno} calls {called}")
    assert not wrong, f"{SOURCES[module]}:\n" + "\n".join(wrong)


@pytest.mark.parametrize("module", SOURCES)
def test_async_stays_where_it_belongs(module: str) -> None:
    """Below the store of assets only `storage` and the driver may suspend; asyncio itself is the driver's."""
    row = row_of(module)
    bottom = next(index for index, layer in enumerate(LAYERS) if layer.name == "decide")
    if row is None or row < bottom or module.split(".")[0] in ASYNC_ALLOWED_BELOW_HOLD:
        return
    coroutines = [node.lineno for node in counted_nodes(TREES[module]) if isinstance(node, ast.AsyncFunctionDef)]
    assert not coroutines, f"{SOURCES[module]} defines coroutines on lines {coroutines}"


def test_no_import_cycles() -> None:
    """Modules of one row may know each other, but not in a circle (imports inside functions excepted)."""
    edges: dict[str, set[str]] = {}
    for module, tree in TREES.items():
        top_level = {id(node) for statement in tree.body for node in ast.walk(statement) if _at_module_level(statement)}
        lines = {node.lineno for node in counted_nodes(tree) if id(node) in top_level and hasattr(node, "lineno")}
        edges[module] = {name for name, line in inner_imports(module) if line in lines and name in SOURCES}
    state: dict[str, int] = {}

    def visit(module: str, trail: tuple[str, ...]) -> None:
        if state.get(module) == 2:
            return
        assert state.get(module) != 1, "cycle: " + " -> ".join([*trail[trail.index(module) :], module])
        state[module] = 1
        for target in sorted(edges[module]):
            visit(target, (*trail, module))
        state[module] = 2

    for module in edges:
        visit(module, ())


def _at_module_level(statement: ast.stmt) -> bool:
    return not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
