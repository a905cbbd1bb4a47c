"""Missing services and wrong settings."""

from tests.support.faults.bad_input.cases import CommandCase

_ENQUEUE = ("enqueue", "spec.yaml")
_REDIS_URL = "FLEET_REDIS_URL: expected an address such as redis://:password@host:6379/0, …"


def _refuse(name: str, variable: str, value: str, message: str, *, code: int = 2, starts: bool = False) -> CommandCase:
    """Return a case of a variable in the environment."""
    environment = {variable: value}
    return CommandCase(
        name, f"`{variable}={value}`", f"producer: {message}", code, arguments=_ENQUEUE, environment=environment, starts=starts
    )


SERVICES = (
    _refuse(
        "store URL unknown",
        "FLEET_STORE_URL",
        "ftp://host/store",
        "store ftp://host/store: unknown scheme 'ftp'; expected a path or one of file://, s3://, gs://, az://",
    ),
    CommandCase(
        "store is a file",
        "`FLEET_STORE_URL=rows.jsonl`, a file",
        "producer: store rows.jsonl: found a file; expected a folder",
        arguments=_ENQUEUE,
        environment={"FLEET_STORE_URL": "rows.jsonl"},
    ),
    CommandCase(
        "store below a file",
        "a store in a folder that is a file",
        "producer: store rows.jsonl/store: cannot … this folder: Not a directory",
        arguments=_ENQUEUE,
        environment={"FLEET_STORE_URL": "rows.jsonl/store"},
    ),
    _refuse("Redis URL without a scheme", "FLEET_REDIS_URL", "nonsense", _REDIS_URL),
    _refuse("Redis URL of another scheme", "FLEET_REDIS_URL", "http://127.0.0.1:6379", _REDIS_URL),
    _refuse("Redis URL without a port number", "FLEET_REDIS_URL", "redis://127.0.0.1:port/0", _REDIS_URL),
    _refuse(
        "Redis does not run",
        "FLEET_REDIS_URL",
        "redis://:secret@127.0.0.1:1/0",
        "Redis at 127.0.0.1:1/0 does not answer…",
        code=3,
        starts=True,
    ),
    _refuse(
        "text for a number",
        "FLEET_LEASE_S",
        "long",
        "FLEET_LEASE_S: found 'long'; expected a valid number, unable to parse string as a number",
    ),
    _refuse("negative setting", "FLEET_LEASE_S", "-1", "FLEET_LEASE_S: found '-1'; expected greater than 0"),
    CommandCase(
        "contradictory settings",
        "`FLEET_RENEW_S=60` with leases of 3 s",
        "producer: FLEET_RENEW_S=60 must be less than FLEET_LEASE_S=3, or leases expire before they are renewed",
        arguments=_ENQUEUE,
        environment={"FLEET_RENEW_S": "60", "FLEET_LEASE_S": "3"},
    ),
    _refuse(
        "unknown log level",
        "FLEET_LOG_LEVEL",
        "loud",
        "FLEET_LOG_LEVEL: found 'loud'; expected DEBUG, INFO, WARNING, ERROR or CRITICAL",
        starts=True,
    ),
    CommandCase(
        "text that is not a run id",
        "`producer status` of a path with an escape sequence",
        "producer: RUN: found '../\\x1b[2J'; expected a run id as producer enqueue prints it, such as tiny-1f0c92b4d7aa",
        arguments=("status", "../\x1b[2J"),
    ),
    CommandCase(
        "unknown run",
        "`producer status quick-0`",
        "producer: no run 'quick-0' in …; set FLEET_STORE_URL to the store that it was enqueued in",
        prepare=lambda folder: (folder / "store").mkdir(),
        arguments=("status", "quick-0"),
    ),
    CommandCase(
        "store does not exist",
        "`producer status` before the store's folder exists, or while it is not mounted",
        "producer: store store: the folder does not exist; nothing is lost. …",
        3,
        arguments=("status", "quick-0"),
    ),
    CommandCase("unknown command", "`producer statsu`", "…No such command 'statsu'. Did you mean 'status'?", arguments=("statsu",)),
    CommandCase(
        "model without workers",
        "`producer enqueue` for a model without workers; `producer status` prints the same",
        "quick-…: 1 rows, 1 samples in 1 chunks (planned)\n  rows 1, unique 1, duplicates 0, faulty rows: none\n"
        "  enqueued 1 chunks; follow with: producer watch quick-…\n"
        "  no worker serves quick now; start one: workers start --model quick (without a GPU: --gpus none)",
        code=0,
        prepare=lambda folder: (folder / "store").mkdir(),
        arguments=_ENQUEUE,
    ),
)
