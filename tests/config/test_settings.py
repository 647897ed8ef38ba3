"""Settings come from the environment; a wrong one names its variable, and no secret is ever shown."""

import pytest

from flux.config import load_settings
from flux.errors import InputError


def test_defaults_are_loopback_and_a_local_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLUX_DATABASE_URL", "FLUX_HOME", "FLUX_HTTP_HOST", "FLUX_HTTP_PORT"):
        monkeypatch.delenv(name, raising=False)
    settings = load_settings()
    assert settings.http_host == "127.0.0.1"
    assert str(settings.home) == ".flux"
    assert settings.database_url is None


def test_a_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_HTTP_PORT", "eighty")
    with pytest.raises(InputError, match="FLUX_HTTP_PORT='eighty'"):
        load_settings()


def test_the_password_of_the_database_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_DATABASE_URL", "postgresql://flux:hunter2@127.0.0.1/flux")
    assert "hunter2" not in repr(load_settings())
