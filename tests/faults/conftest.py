"""Each version of the format."""

import pytest


@pytest.fixture(params=[1, 2], ids=["spec1", "spec2"])
def spec(request):
    return request.param
