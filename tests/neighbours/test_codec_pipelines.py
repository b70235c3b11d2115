"""Arrays whose codecs other packages run: `zarrs`, which reads by itself what it knows, and asks our store for the rest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import zarr

import icechunk

pytest.importorskip("zarrs")

DATA = np.arange(120 * 90, dtype="f4").reshape(120, 90)


@pytest.fixture(autouse=True)
def pipeline() -> Iterator[None]:
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        yield


@pytest.mark.parametrize("spec", [1, 2])
@pytest.mark.parametrize(
    "layout",
    [
        {"chunks": (50, 20)},
        {"chunks": (10, 15), "shards": (40, 30)},
        {"chunks": (50, 20), "compressors": None},
        {"chunks": (50, 20), "compressors": zarr.codecs.BloscCodec(cname="lz4")},
    ],
    ids=["chunks", "shards", "raw", "blosc"],
)
def test_another_pipeline_writes_and_reads(spec: int, layout: dict[str, object]) -> None:
    repo = icechunk.Repository.create(icechunk.in_memory_storage(), spec_version=spec)
    session = repo.writable_session("main")
    array = zarr.create_array(session.store, name="a", shape=DATA.shape, dtype=DATA.dtype, **layout)
    array[:] = DATA
    array[7:23, 3] = -1
    session.commit("written")
    with zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"}):
        ours = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")[:]
    theirs = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")
    expected = DATA.copy()
    expected[7:23, 3] = -1
    np.testing.assert_array_equal(ours, expected)
    np.testing.assert_array_equal(theirs[:], expected)
    np.testing.assert_array_equal(theirs[3::17, 5:60:9], expected[3::17, 5:60:9])
