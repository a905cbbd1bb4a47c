"""Settings from the environment: addresses, times and limits, from ``FLEET_*`` variables or ``.env``.

``common/spec/models.py`` defines the settings of a run.
"""

from functools import cache
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from common.errors import ConfigError
from common.redaction import mask_text


class Settings(BaseSettings):
    """Settings of this process. The variable of a field is ``FLEET_`` and its name in capitals. Times are in seconds."""

    model_config = SettingsConfigDict(env_prefix="FLEET_", env_file=".env", extra="ignore", frozen=True)

    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"), description="address of Redis: redis://:password@host:6379/0, or rediss:// for TLS"
    )
    store_url: str = Field(
        "file://.fleet/store", description="root of the store: a folder, file://FOLDER, s3://BUCKET/PREFIX, gs:// or az://"
    )
    profiles_dir: Path | None = Field(None, description="folder of your own model profiles, searched before the built-in profiles")

    lease_s: float = Field(10.0, gt=0, description="time after the last renewal until other workers take over a worker's chunks")
    renew_s: float = Field(2.5, gt=0, description="interval between renewals of a lease; less than FLEET_LEASE_S")
    janitor_s: float = Field(2.0, gt=0, description="interval between searches for expired and lost chunks")
    drain_grace_s: float = Field(30.0, ge=0, description="time for running chunks to finish after SIGTERM")
    retention_s: int = Field(30 * 86400, gt=0, description="time that Redis keeps a run after its last use")
    samples_in_flight: int = Field(256, gt=0, description="a worker starts another chunk while it has fewer samples in flight")
    chunks_in_flight: int = Field(16, gt=0, description="maximum number of chunks that one worker runs concurrently")
    media_threads: int = Field(4, gt=0, description="threads per worker that decode media")
    media_memory_mb: int = Field(2048, gt=0, description="memory limit for the decoded media of one worker, in MiB")
    engine_stall_s: float = Field(600.0, gt=0, description="time without an answer after which an engine is treated as dead")
    max_restarts: int = Field(20, ge=0, description="maximum number of restarts of a worker process within an hour")

    media_roots: str = Field(
        "",
        description="folders that media may be read from, separated as in PATH: paths, and addresses in object storage such as "
        "s3://BUCKET/FOLDER; by default the folders of the datasets",
    )
    media_urls: bool = Field(False, description="whether media may be fetched from https addresses")
    media_url_timeout_s: float = Field(30.0, gt=0, le=3600, description="time limit for fetching one image or video")

    log_level: str = Field("INFO", description="lowest level of the logged events: DEBUG, INFO, WARNING, ERROR or CRITICAL")
    log_json: bool = Field(False, description="one JSON object per line; otherwise key=value lines")

    @field_validator("redis_url")
    @classmethod
    def _is_redis_address(cls, url: SecretStr) -> SecretStr:
        from redis.connection import parse_url  # imported here: the default address needs no check

        try:
            if not url.get_secret_value().startswith("unix://"):  # Celery uses another scheme for sockets
                parse_url(url.get_secret_value())  # type: ignore[no-untyped-call]  # redis-py has no types here
                return url
        except ValueError:
            pass  # the message of redis-py may contain part of the password
        raise ValueError(
            "FLEET_REDIS_URL: expected an address such as redis://:password@host:6379/0, or rediss:// for TLS, with every special "
            "character of the password percent-encoded (@ is %40, / is %2F, : is %3A, % is %25)"
        )

    @model_validator(mode="after")
    def _renew_in_time(self) -> Self:
        if self.renew_s >= self.lease_s:
            found = f"FLEET_RENEW_S={self.renew_s:g} must be less than FLEET_LEASE_S={self.lease_s:g}"
            raise ValueError(f"{found}, or leases expire before they are renewed")
        return self


@cache
def get_settings() -> Settings:
    """Return this process's settings, which are read once. Raises ``ConfigError``, which names the invalid variables."""
    try:
        return Settings()
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(mistake) for mistake in error.errors())) from None


def _explain(mistake: ErrorDetails) -> str:
    if mistake["type"] == "value_error":
        return str(mistake["ctx"]["error"])
    expected = mistake["msg"].removeprefix("Input should be ")
    return f"FLEET_{str(mistake['loc'][0]).upper()}: found {mask_text(repr(mistake['input']))}; expected {expected}"
