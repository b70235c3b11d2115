"""Files of a repository: what need not be fetched, and what must be."""

from __future__ import annotations

import pytest

from icechunk._driver import run
from icechunk.assets import Assets, AssetSettings
from icechunk.errors import ObjectNotFoundError
from icechunk.format.chunk_ref import Inline
from icechunk.format.manifest import encode_few
from icechunk.storage.memory import MemoryStorage
from icechunk.testing.counting import CountingStorage

ID, NODE = b"manifest id!", b"node-001"
FILE = encode_few(ID, NODE, {(0,): Inline(b"x")}, spec=2, level=3)


def test_a_manifest_that_was_just_written_is_not_fetched() -> None:
    storage = CountingStorage(MemoryStorage())
    assets = Assets(storage)
    run(assets.write_manifest(ID, FILE, 2))
    assert run(assets.manifest(ID)).find(NODE, (0,)) == Inline(b"x")
    assert storage.counts == {"put": 1}


def test_a_manifest_that_could_not_be_written_is_not_there() -> None:
    class Full(MemoryStorage):
        async def put(self, *args: object, **kwargs: object) -> None:  # type: ignore[override]
            raise OSError("no space left")

    assets = Assets(Full())
    with pytest.raises(OSError, match="no space left"):
        run(assets.write_manifest(ID, FILE, 2))
    with pytest.raises(ObjectNotFoundError):
        run(assets.manifest(ID))


def test_nothing_is_kept_where_manifests_are_not_to_be() -> None:
    storage = CountingStorage(MemoryStorage())
    assets = Assets(storage, AssetSettings(cached_refs=0))
    run(assets.write_manifest(ID, FILE, 2))
    run(assets.manifest(ID))
    assert storage.counts == {"put": 1, "get": 1}
