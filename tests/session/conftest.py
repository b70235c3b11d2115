"""A repository of each version of the format, in memory."""

import pytest

import icechunk


@pytest.fixture(params=[1, 2], ids=["spec1", "spec2"])
def spec(request):
    return request.param


@pytest.fixture
def storage():
    return icechunk.in_memory_storage()


@pytest.fixture
def repo(storage, spec):
    return icechunk.Repository.create(storage, spec_version=spec)
