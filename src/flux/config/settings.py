"""What comes from the environment: secrets and where things are. Everything else is in files that can be reviewed."""

from pathlib import Path

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from flux.errors import InputError


class Settings(BaseSettings):
    """Environment variables ``FLUX_…``; see `docs/configuration.md`."""

    model_config = SettingsConfigDict(env_prefix="FLUX_", frozen=True, extra="ignore")

    database_url: SecretStr | None = Field(default=None, description="PostgreSQL to use instead of the embedded one")
    home: Path = Field(default=Path(".flux"), description="folder of the embedded database, outbox and run state")
    http_host: str = Field(default="127.0.0.1", description="address that `flux serve` listens on")
    http_port: int = Field(default=8080, ge=0, le=65535)
    log_level: str = "INFO"
    log_json: bool = Field(default=False, description="one JSON object a line instead of text")


def load_settings() -> Settings:
    """Read the environment; the error names the variable, its value and what is allowed."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        variable = "FLUX_" + "_".join(str(part) for part in first["loc"]).upper()
        raise InputError(f"environment variable {variable}={first['input']!r}: {first['msg']}") from None
