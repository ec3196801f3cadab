import pytest

from mnv4_deploy.device.linux import connection
from tests.time_limit import PATIENCE_S


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent on a busy machine gets the time that it needs to clean up."""
    monkeypatch.setattr(connection, "_END_S", PATIENCE_S)
