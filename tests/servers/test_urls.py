"""Repositories in real stores, opened by URL."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import icechunk
from icechunk.errors import ReadOnlyError, RefNotFoundError
from tests.servers.backends import Backend

URLS = {"s3_storage": "s3://{bucket}/", "gcs_storage": "gs://{bucket}/", "azure_storage": "az://{container}/"}


def write(url: str, **options: Any) -> None:
    session = icechunk.open(url, "a", **options)
    zarr.create_array(session.store, name="t", data=np.arange(3))
    session.commit("three")


def read(url: str, **options: Any) -> list[int]:
    found: list[int] = zarr.open_array(icechunk.open(url, **options).store, path="t", mode="r")[:].tolist()
    return found


def test_object_stores(backend: Backend) -> None:
    ((factory, options),) = backend.place().items()
    place = {name: options.pop(name) for name in ("bucket", "container") if name in options}
    if "config" in options:
        options["client_options"] = options.pop("config")
    url = URLS[factory].format(**place) + options.pop("prefix") + "@home"
    write(f"{url}/", **options)
    assert read(f"{url}/@main", **options) == [0, 1, 2]
    with pytest.raises(RefNotFoundError, match="there is no branch, tag or snapshot `v1`"):
        icechunk.open(f"{url}/@v1", **options)


def test_a_web_server(nginx: tuple[str, Path]) -> None:
    address, root = nginx
    name = uuid.uuid4().hex
    write(str(root / name))
    assert read(f"{address}/{name}@branch:main") == [0, 1, 2]
    with pytest.raises(ReadOnlyError):
        icechunk.open(f"{address}/{name}", "a")
