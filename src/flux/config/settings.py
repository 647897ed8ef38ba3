"""What comes from the environment: secrets and where things are. Everything else is in files that can be reviewed."""

from pathlib import Path

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from flux.errors import InputError

_ALLOWED = {"http_port": "must be a whole number from 0 to 65535", "log_json": "must be true or false"}


class Settings(BaseSettings):
    """Environment variables ``FLUX_…``; see `docs/configuration.md`."""

    model_config = SettingsConfigDict(env_prefix="FLUX_", frozen=True, extra="ignore", env_ignore_empty=True)

    database_url: SecretStr | None = Field(default=None, description="PostgreSQL to use instead of the embedded one")
    api_database_url: SecretStr | None = Field(default=None, description="login of the HTTP API, where a DBA made it")
    home: Path = Field(default=Path(".flux"), description="folder of the embedded database, outbox and run state")
    archive: Path | None = Field(default=None, description="folder for readings that are archived before they go")
    http_host: str = Field(default="127.0.0.1", description="address that `flux serve` listens on")
    http_port: int = Field(default=8080, ge=0, le=65535)
    jwt_secret: SecretStr | None = Field(default=None, description="signs keys, instead of the file in FLUX_HOME")
    jwks_url: str | None = Field(default=None, description="public keys of another issuer of tokens")
    jwks_file: Path | None = Field(default=None, description="the same from a file")
    jwt_issuer: str | None = Field(default=None, description="`iss` that tokens of another issuer must have")
    jwt_audience: str | None = Field(default=None, description="`aud` that tokens of another issuer must have")
    rate_anon: str = Field(default="60/100", description="requests a minute/at once, by address")
    rate_authenticated: str = Field(default="300/500", description="the same of a reader's key")
    rate_operator: str = Field(default="1000/2000", description="the same of an operator's key")
    rate_edge: str = Field(default="1000/2000", description="the same of an edge's key")
    rate_service: str = Field(default="1000/2000", description="the same of a service's key")
    max_body_mb: float = Field(default=32, gt=0, le=1024, description="largest body of a request, unpacked, in MB")
    max_sockets: int = Field(default=2000, ge=1, description="open sockets in all")
    max_sockets_per_key: int = Field(default=200, ge=1, description="open sockets of one key")
    cors_origins: str = Field(default="", description="origins whose pages may call, by commas; `*`: any")
    tls_cert: Path | None = Field(default=None, description="certificate (chain) of `flux serve`, PEM")
    tls_key: Path | None = Field(default=None, description="its private key, PEM")
    behind_proxy: bool = Field(default=False, description="a proxy in front does TLS, so any address will do")
    trusted_proxies: str = Field(default="127.0.0.1,::1", description="whose X-Forwarded-For counts (--behind-proxy)")
    access_log: bool = Field(default=True, description="a line for each request")
    worker_file: Path | None = Field(default=None, description="file of `flux worker`: market platforms")
    webhooks_file: Path | None = Field(default=None, description="file of webhook sources and secrets, mode 0600")
    notifications: Path | None = Field(default=None, description="file of notification routes, mode 0600")
    log_level: str = "INFO"
    log_json: bool = Field(default=False, description="one JSON object a line instead of text")

    @property
    def notifications_file(self) -> Path:
        """Who is told of alerts; it need not be there."""
        return self.notifications or self.home / "notifications.yaml"


def load_settings() -> Settings:
    """Read the environment; the error names the variable, its value and what is allowed."""
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        allowed = _ALLOWED.get(field, first["msg"])
        raise InputError(f"FLUX_{field.upper()}={first['input']!r}: {allowed}") from None
    check_home(settings.home)
    return settings


def check_home(home: Path) -> None:
    """Raise where ``home`` is there and no folder; one that is not there yet is made when it is needed."""
    try:
        usable = home.is_dir() or not home.exists()
    except OSError as error:
        raise InputError(f"FLUX_HOME={home}: {error.strerror}; name another folder") from None
    if not usable:
        raise InputError(f"FLUX_HOME={home}: is not a folder; name another, or move it away")
