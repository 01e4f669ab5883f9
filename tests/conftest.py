"""What every test shares."""

import pytest
import simulator
import standins

simulator.install()
standins.install()


@pytest.fixture(scope="session", params=["reference", "cpu"])
def backend(request):
    """The name of each backend that works on this machine's memory. One that cannot be imported fails its tests."""
    return request.param
