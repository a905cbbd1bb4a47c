"""The keys of objects in the store: one function for each kind of object."""


def run_key(run_id: str) -> str:
    """Return the key of the run record. It is written last, so its presence marks a complete plan."""
    return f"runs/{run_id}/run.json"


def fingerprint_key(run_id: str) -> str:
    """Return the key of the run's fingerprint, which identifies its weights. The first worker of the run writes it."""
    return f"runs/{run_id}/fingerprint.json"


def samples_key(run_id: str) -> str:
    """Return the key of the plan's samples in plan order, one JSON object per line."""
    return f"{plan_prefix(run_id)}w1.samples.jsonl"


def twins_key(run_id: str) -> str:
    """Return the key of the twins of the plan's samples. It exists only if the plan has twins."""
    return f"{plan_prefix(run_id)}w1.twins.jsonl"


def wave_samples_key(run_id: str, wave: int, digest: str) -> str:
    """Return the key of the samples of a later wave.

    It contains the digest of their bytes, so two producers that plan the same wave do not overwrite each other's samples.
    """
    return f"{plan_prefix(run_id)}w{wave}.{digest}.samples.jsonl"


def plan_prefix(run_id: str) -> str:
    return f"runs/{run_id}/plan/"


def index_key(run_id: str, wave: int = 1) -> str:
    """Return the key of the index of a wave: the offset, length and counts of each chunk in the samples object."""
    return f"{plan_prefix(run_id)}w{wave}.index.parquet"


def parts_prefix(run_id: str) -> str:
    return f"runs/{run_id}/parts/"


def part_key(run_id: str, wave: int, chunk: int) -> str:
    return f"{parts_prefix(run_id)}w{wave}/{chunk:08d}.parquet"


def parse_part_key(key: str) -> tuple[int, int]:
    """Return the wave and the chunk number of a part's key."""
    wave, _, name = key.rpartition("/parts/w")[2].partition("/")
    return int(wave), int(name.removesuffix(".parquet"))
