"""Where we run: addresses, times and limits, from ``FLEET_*`` variables or ``.env``.  What is asked lies in ``spec.py``."""

from functools import cache
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Every field is read from the environment variable ``FLEET_`` + its name in capitals.  Times are in seconds."""

    model_config = SettingsConfigDict(env_prefix="FLEET_", env_file=".env", extra="ignore", frozen=True)

    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    store_url: str = "file://.fleet/store"
    profiles_dir: Path | None = Field(None, description="a folder of your own model profiles, searched before the built-in ones")

    lease_s: float = Field(10.0, gt=0, description="how long a worker may be silent before others take its chunks")
    renew_s: float = Field(2.5, gt=0, description="how often leases are renewed")
    janitor_s: float = Field(2.0, gt=0, description="how often expired and lost chunks are looked for")
    drain_grace_s: float = Field(30.0, ge=0, description="how long running chunks may finish after SIGTERM")
    retention_s: int = Field(30 * 86400, gt=0, description="how long Redis keeps a run that nobody touches")
    chunks_in_flight: int = Field(4, gt=0, description="chunks that one worker runs at once")
    media_threads: int = Field(4, gt=0, description="threads of one worker that decode media")

    log_level: str = "INFO"
    log_json: bool = Field(False, description="one JSON object a line; otherwise key=value lines")


@cache
def get_settings() -> Settings:
    """Return this process's settings, read once."""
    return Settings()
