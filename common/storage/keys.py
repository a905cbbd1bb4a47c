"""Where things lie in the store: one function for each kind of object."""


def run_key(run_id: str) -> str:
    """Return the key of the run's spec and plan summary; written last, so its presence says that the plan is whole."""
    return f"runs/{run_id}/run.json"


def samples_key(run_id: str) -> str:
    """Return the key of the plan's samples in plan order, one JSON object a line."""
    return f"{plan_prefix(run_id)}w1.samples.jsonl"


def wave_samples_key(run_id: str, wave: int, digest: str) -> str:
    """Return the key of a later wave's samples; the digest of their bytes keeps two producers out of each other's way."""
    return f"{plan_prefix(run_id)}w{wave}.{digest}.samples.jsonl"


def plan_prefix(run_id: str) -> str:
    return f"runs/{run_id}/plan/"


def index_key(run_id: str, wave: int = 1) -> str:
    """Return the key of the wave's chunks: where each begins in the samples object, and what it holds."""
    return f"{plan_prefix(run_id)}w{wave}.index.parquet"


def parts_prefix(run_id: str) -> str:
    return f"runs/{run_id}/parts/"


def part_key(run_id: str, wave: int, chunk: int) -> str:
    return f"{parts_prefix(run_id)}w{wave}/{chunk:08d}.parquet"


def parse_part_key(key: str) -> tuple[int, int]:
    """Return (wave, chunk) of a part's key."""
    wave, _, name = key.rpartition("/parts/w")[2].partition("/")
    return int(wave), int(name.removesuffix(".parquet"))
