"""Settings come from environment variables. An error names the variable."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.settings import Settings, get_settings


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def test_variables_override_env_file_and_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("FLEET_LEASE_S=20\nFLEET_JANITOR_S=4\n")
    monkeypatch.setenv("FLEET_LEASE_S", "30")
    settings = get_settings()
    assert (settings.lease_s, settings.janitor_s, settings.renew_s) == (30, 4, 2.5)


def test_password_is_not_shown() -> None:
    assert "secret" not in repr(Settings(redis_url="redis://:secret@host:6379/0"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FLEET_LEASE_S", "soon", "FLEET_LEASE_S: found 'soon'; expected a valid number"),
        ("FLEET_CHUNKS_IN_FLIGHT", "0", "FLEET_CHUNKS_IN_FLIGHT: found '0'; expected greater than 0"),
        ("FLEET_LEASE_S", "2", "FLEET_RENEW_S=2.5 must be less than FLEET_LEASE_S=2"),
    ],
)
def test_error_names_variable_value_and_expectation(monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        get_settings()
