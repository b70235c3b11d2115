"""The documents say what is so: the map of the code, its picture, the formats, the glossary, and what was measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.test_layers import LAYERS, PACKAGE, SOURCES
from zarr.core.buffer import default_buffer_prototype

import icechunk
from icechunk.flatbuf.schema import Table
from icechunk.format import schemas
from icechunk.format.envelope import FileType
from icechunk.testing.counting import CountingStorage

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
PROTOTYPE = default_buffer_prototype()


def text_of(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def table_rows(text: str, first: str) -> list[list[str]]:
    """The cells of the table whose header begins with `first`."""
    lines = text[text.index(f"| {first} |") :].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


# ---- the map ----------------------------------------------------------------------------------------------------------


def test_the_table_of_layers_is_that_of_the_code() -> None:
    rows = table_rows(text_of("architecture.md"), "layer")
    assert [row[0] for row in rows] == [layer.name for layer in LAYERS]
    for (name, modules, does), layer in zip(rows, LAYERS, strict=True):
        named = {"" if one == "icechunk" else one for one in re.findall(r"`([^`]+)`", modules)}
        assert named <= set(layer.modules), f"{named - set(layer.modules)} are not in the layer {name}"
        assert ("**pure**" in does) == layer.pure, name


def test_the_picture_shows_the_layers_of_the_code() -> None:
    picture = text_of("architecture.svg")
    rows = re.findall(r'<rect class="(row|pure)" x="210" y="\d+" width="560".*?class="name"[^>]*>(\w+)<(.*)', picture)
    assert [(name, kind == "pure") for kind, name, _ in rows] == [(layer.name, layer.pure) for layer in LAYERS]
    for (_, _, rest), layer in zip(rows, LAYERS, strict=True):
        for modules in re.findall(r'class="mods"[^>]*>([^<]+)<', rest):
            named = {one.strip(" /") for one in re.sub(r"\(.*\)", "", modules).split("·")}
            assert named <= {one or "icechunk" for one in layer.modules}, layer.name
        for inner in re.findall(r"\b(\w+)/ \(([^)]*)\)", rest):
            for module in inner[1].replace("...", "").split():
                assert f"{inner[0]}.{module}" in SOURCES, f"{inner[0]}/{module}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    """Whatever is in backticks and looks like a path of this project."""
    for path in re.findall(
        r"`((?:src|tests|docs|scripts|examples|benchmarks)/[\w./-]+)`", page.read_text(encoding="utf-8")
    ):
        assert (ROOT / path).exists() or list(ROOT.glob(path + "*")), f"{page.name} names {path}"


@pytest.mark.parametrize(
    "page", [DOCS / "architecture.md", DOCS / "formats.md", DOCS / "glossary.md"], ids=lambda page: page.name
)
def test_modules_that_are_named_exist(page: Path) -> None:
    known = {one.replace(".", "/") for one in SOURCES} | {path.name for path in PACKAGE.iterdir()}
    for path in re.findall(r"`([a-z_]+/[a-z_]+)(?:\.py)?`", page.read_text(encoding="utf-8")):
        if (PACKAGE / path.partition("/")[0]).is_dir():
            assert path in known, f"{page.name} names {path}"


def test_the_glossary_says_where_words_live() -> None:
    for word, _, modules in table_rows(text_of("glossary.md"), "word"):
        for module in re.findall(r"`([^`]+)`", modules):
            assert module.replace("/", ".") in SOURCES, f"{word}: {module}"


# ---- links -------------------------------------------------------------------------------------------------------------


def anchors_of(text: str) -> set[str]:
    """The anchors of a page: those of its headings, as they are made of them, and explicit ones."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", title)).strip().lower().replace(" ", "-") for title in titles}
    return made | set(re.findall(r'id="([^"]+)"', text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_anchors_exist(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        linked = page.parent / target if target else page
        assert anchor in anchors_of(linked.read_text(encoding="utf-8")), f"{page.name} links to {target}#{anchor}"


def test_every_decision_is_listed() -> None:
    listed = text_of("decisions/README.md")
    for page in (DOCS / "decisions").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in listed, page.name
        assert page.name == "README.md" or len(page.read_text(encoding="utf-8").splitlines()) <= 60, (
            f"{page.name} is long"
        )


# ---- formats ------------------------------------------------------------------------------------------------------------


TABLES = (
    *(schemas.SNAPSHOT, schemas.NODE_SNAPSHOT, schemas.ARRAY_NODE, schemas.MANIFEST, schemas.ARRAY_MANIFEST),
    *(schemas.CHUNK_REF, schemas.TRANSACTION_LOG, schemas.REPO, schemas.SNAPSHOT_INFO, schemas.UPDATE),
)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_table_of_the_format_is_described(table: Table) -> None:
    (block,) = re.findall(rf"^{table.name} +(.*?)(?=^\w|^```)", text_of("formats.md"), re.MULTILINE | re.DOTALL)
    named = [name for name in re.findall(r"\w+", block) if name in table.fields]
    assert list(dict.fromkeys(named)) == list(table.fields), "every field, in the order of the slots"


def test_every_kind_of_file_is_described() -> None:
    described = text_of("formats.md")
    for kind in FileType:
        if kind not in (FileType.ATTRIBUTES, FileType.CHUNK):
            label = {FileType.REPO_INFO: "repo object"}.get(kind, kind.name.lower().replace("_", " "))
            assert f"{kind.value} {label}" in described


# ---- what was measured ----------------------------------------------------------------------------------------------


ARRAY = b"""{"zarr_format": 3, "node_type": "array", "shape": [9], "data_type": "int32", "fill_value": 0, "codecs":
[{"name": "bytes", "configuration": {"endian": "little"}}], "chunk_grid": {"name": "regular", "configuration":
{"chunk_shape": [1]}}, "chunk_key_encoding": {"name": "default"}}"""


async def prepared(spec: int) -> CountingStorage:
    """A repository far away with the array `a`, of which chunk 0 is written."""
    storage = CountingStorage(icechunk.in_memory_storage())
    config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=0)
    repo = await icechunk.Repository.create_async(storage, config, spec_version=spec)
    session = await repo.writable_session_async("main")
    await session.store.set("a/zarr.json", PROTOTYPE.buffer.from_bytes(ARRAY))
    await session.store.set("a/c/0", PROTOTYPE.buffer.from_bytes(b"abcd"))
    await session.commit_async("first")
    storage.reset()
    return storage


async def test_a_first_read_takes_four_rounds() -> None:
    storage = await prepared(2)
    repo = await icechunk.Repository.open_async(storage)
    session = await repo.readonly_session_async("main")
    assert await session.store.get("a/c/0", PROTOTYPE) is not None
    assert storage.depth == 4
    storage.reset()
    assert await session.store.get("a/c/0", PROTOTYPE) is not None
    assert [request.paths[0].split("/")[0] for request in storage.requests] == ["chunks"]


@pytest.mark.parametrize("spec", [1, 2])
async def test_the_rounds_of_a_commit(spec: int) -> None:
    """As docs/decisions/ahead-of-publishing.md has them."""
    storage = await prepared(spec)
    session = await (await icechunk.Repository.open_async(storage)).writable_session_async("main")
    await session.store.get("a/c/0", PROTOTYPE)  # so that the manifest is known, as it mostly is
    await session.store.set("a/c/1", PROTOTYPE.buffer.from_bytes(b"efgh"))
    storage.reset()
    await session.commit_async("second")
    rounds: dict[int, set[str]] = {}
    for request in storage.requests:
        rounds.setdefault(request.depth, set()).add(f"{request.verb} {request.paths[0].partition('/')[0]}")
    expected = {
        1: {
            1: {"put manifests", "exists repo"},  # where the branch stands was read with the session
            2: {"put transactions", "put snapshots"},
            3: {"modified_at snapshots"},
            4: {"put refs"},
        },
        2: {
            1: {"put manifests", "get repo", "put overwritten"},
            2: {"put transactions", "put snapshots"},
            3: {"put repo"},
        },
    }
    assert rounds == expected[spec]
