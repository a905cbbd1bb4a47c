"""Metrics: aggregates of scores. Each is reported with its ``n`` and is ``None`` if ``n`` is 0."""

import math


def mean_or_none(total: float, n: int) -> float | None:
    """Return the mean of ``n`` values with the sum ``total``, or ``None`` for ``n = 0``."""
    return total / n if n else None


def wilson_interval(hits: int, n: int, z: float = 1.959964) -> tuple[float, float] | None:
    """Return the Wilson score interval ``(low, high)`` of a proportion, or ``None`` for ``n = 0``.

    The default ``z`` gives 95 %. Source: Wilson 1927. Brown, Cai and DasGupta 2001 recommend it over the normal
    approximation, which is inaccurate near 0 and 1 and for small ``n``. Raises ``ValueError`` unless ``0 <= hits <= n``.
    """
    if not 0 <= hits <= n:
        raise ValueError(f"hits = {hits}, n = {n}: expected 0 <= hits <= n")
    if n == 0:
        return None
    rate, z_squared = hits / n, z * z
    centre = (rate + z_squared / (2 * n)) / (1 + z_squared / n)
    half = z * math.sqrt(rate * (1 - rate) / n + z_squared / (4 * n * n)) / (1 + z_squared / n)
    # The exact interval contains the rate and lies within 0 and 1. Clamp it, because rounding can violate both.
    return max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))
