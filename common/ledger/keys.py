"""The names of the ledger's keys in Redis. ``ledger.lua`` documents the content of each key."""

from typing import NamedTuple


class RunKeys(NamedTuple):
    """The keys of a run, in the order of ``ledger.lua``, without the keys of its chunks (journals and trials)."""

    run: str
    states: str
    counts: str
    chunks: str
    leases: str
    holders: str
    progress: str
    offers: str
    strikes: str
    losses: str


def runs_key(model: str) -> str:
    """Return the key of the set of a model's open runs."""
    return f"fleet:runs:{model}"


def run_keys(run_id: str) -> RunKeys:
    """Return the keys of a run. They share a hash tag, so that one script can use them all."""
    return RunKeys(*(f"fleet:{{{run_id}}}:{name}" for name in RunKeys._fields))


def journal_key(run_id: str, chunk: int | str) -> str:
    """Return the key of a chunk's journal. With ``"*"`` as chunk, return a pattern that matches all journals and trials."""
    return f"fleet:{{{run_id}}}:journal:{chunk}"


def trial_key(run_id: str, chunk: int | str) -> str:
    """Return the key of a quarantined chunk's trials: the group that runs now, and the deaths while earlier groups ran."""
    return f"{journal_key(run_id, chunk)}:trial"
