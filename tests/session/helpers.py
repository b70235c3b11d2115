"""Shorthands for tests that speak to a store directly."""

import json

import numpy as np
from zarr.core.buffer import default_buffer_prototype

from icechunk._driver import run

PROTOTYPE = default_buffer_prototype()


def buffer(data):
    return PROTOTYPE.buffer.from_bytes(data)


def get(store, key, byte_range=None):
    found = run(store.get(key, PROTOTYPE, byte_range))
    return None if found is None else found.to_bytes()


def put(store, key, data):
    run(store.set(key, buffer(data)))


def group_json(**attributes):
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}).encode()


def array_json(shape=(4, 4), chunks=(1, 1), **more):
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "bytes"}],
        "attributes": {},
        **more,
    }
    return json.dumps(document).encode()


def keys(store):
    return sorted(store.list())


def listed(store, prefix):
    return sorted(store.list_dir(prefix))


def with_array(repo, path="a", **document):
    """A committed root group and array; returns the id of the snapshot."""
    session = repo.writable_session("main")
    put(session.store, "zarr.json", group_json())
    put(session.store, f"{path}/zarr.json", array_json(**document))
    return session.commit("array")


def big(fill, size=1000):
    return bytes([fill]) * size


def random_bytes(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()
