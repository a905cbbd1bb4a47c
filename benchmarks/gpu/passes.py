"""A timed pass over a run's samples.

Each pass is printed and written as JSON as soon as it ends, so that an aborted benchmark keeps its completed results.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_EDGE = 10  # the first and the last tenth of the answers are the ramps

_HEAD = f"{'':9}{'run':16}{'samples':>8}{'seconds':>9}{'samples/s':>11}{'tokens/s':>10}{'middle/s':>10}{'ramps s':>13}  GPU, W"


@dataclass(frozen=True)
class Pass:
    """The measurements of one run on one side of a comparison.

    ``begun_s`` and ``ended_s`` are Unix seconds. ``middle_per_s`` is the rate of the middle 80 % of the answers, in samples
    per second. ``ramp_up_s`` and ``ramp_down_s`` are the extra seconds of the first and the last tenth, compared with the time
    at that rate.
    """

    side: str
    run: str
    samples: int
    begun_s: float
    ended_s: float
    prompt_tokens: int
    output_tokens: int
    middle_per_s: float
    ramp_up_s: float
    ramp_down_s: float
    cpu: list[dict[str, Any]] = field(default_factory=list)
    gpus: list[dict[str, float]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def samples_per_s(self) -> float:
        return self.samples / (self.ended_s - self.begun_s)


def make_pass(
    side: str, run: str, begun_s: float, ended_s: float, answered: Sequence[tuple[float, int, int]], cpu: list[dict[str, Any]]
) -> Pass:
    """Return the pass. ``answered`` has (Unix seconds, prompt tokens, output tokens) for each answer."""
    times = sorted(at_s for at_s, _, _ in answered)
    edge = len(times) // _EDGE
    first, last = times[edge], times[-1 - edge]
    middle_per_s = (len(times) - 1 - 2 * edge) / max(last - first, 1e-6)
    return Pass(
        side=side,
        run=run,
        samples=len(times),
        begun_s=begun_s,
        ended_s=ended_s,
        prompt_tokens=sum(prompt for _, prompt, _ in answered),
        output_tokens=sum(output for _, _, output in answered),
        middle_per_s=middle_per_s,
        ramp_up_s=first - begun_s - (edge + 1) / middle_per_s,
        ramp_down_s=ended_s - last - edge / middle_per_s,
        cpu=cpu,
    )


class Report:
    """Prints measurements and appends them to a JSONL file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._has_head = False

    def add_pass(self, one: Pass) -> None:
        self.add(asdict(one) | {"samples_per_s": one.samples_per_s})
        if not self._has_head:
            print(_HEAD)
            self._has_head = True
        seconds = one.ended_s - one.begun_s
        gpus = "; ".join(f"{gpu['busy']:.0%}, {gpu['watts']:.0f}" for gpu in one.gpus) or "-"
        print(
            f"{one.side:9}{one.run:16}{one.samples:8}{seconds:9.1f}{one.samples_per_s:11.2f}{one.output_tokens / seconds:10.0f}"
            f"{one.middle_per_s:10.2f}{one.ramp_up_s:+7.1f}{one.ramp_down_s:+6.1f}  {gpus}",
            flush=True,
        )
        cores = ", ".join(f"{use['process']} {use['cores']:.2f} ({use['busiest_thread']:.2f})" for use in one.cpu[:5])
        print(f"{'':9}prompt tokens {one.prompt_tokens / one.samples:.0f}; cores (busiest thread): {cores}", flush=True)
        if one.notes:
            print(f"{'':9}{', '.join(f'{name} {value}' for name, value in one.notes.items())}", flush=True)

    def say(self, name: str, value: float, goal: str = "") -> None:
        """Print one result, such as a ratio, and its goal."""
        self.add({"result": name, "value": value, "goal": goal})
        print(f"{name}: {value:.3f}{f'   (goal {goal})' if goal else ''}", flush=True)

    def add(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")


def read_passes(path: Path) -> list[Pass]:
    """Return the passes that another process has appended so far. Ignore a last line that is incomplete."""
    if not path.exists():
        return []
    return [Pass(**json.loads(line)) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
