"""Times that can be compared on a machine that is not quiet."""

import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from yolov12_plugin.deploy.runtimes.session import wall

K = TypeVar("K", bound=Hashable)


def interleave(
    runs: Mapping[K, Callable[[], Any]],
    rounds: int,
    warmup: int = 2,
    measure: Callable[[Callable[[], Any]], float] = wall,
    step: Callable[[], object] = lambda: None,
) -> dict[K, list[float]]:
    """Seconds of each run in each round: one after the other, every other round backwards.

    What slows the machine down for a while thus falls on all of them; the medians of `ratios` hold where medians of
    times do not.

    Args:
        runs: what is timed, by name. A run on a GPU has to wait for its end itself, or `measure` has to.
        rounds, warmup: rounds that count, and rounds before them.
        measure: seconds of a run.
        step: called at the end of each round.
    """
    seconds: dict[K, list[float]] = {name: [] for name in runs}
    for i in range(warmup + rounds):
        for name in list(runs)[:: -1 if i % 2 else 1]:
            taken = measure(runs[name])
            if i >= warmup:
                seconds[name].append(taken)
        step()
    return seconds


def ratios(seconds: Mapping[K, list[float]], base: K) -> dict[K, float]:
    """Median, over the rounds, of each run's time over that of `base`."""
    return {name: statistics.median(a / b for a, b in zip(times, seconds[base])) for name, times in seconds.items()}


def clip(samples: Sequence[float], sigma: float = 3.0) -> list[float]:
    """The samples within `sigma` standard deviations of their mean, taken again until none is left out."""
    kept = np.asarray(samples, dtype=float)
    while True:
        inside = kept[np.abs(kept - kept.mean()) <= sigma * kept.std()]
        if len(inside) in (0, len(kept)):
            return kept.tolist()
        kept = inside


def summary(seconds: Sequence[float]) -> dict[str, float | int]:
    """Milliseconds of the clipped samples: median, 10th and 90th percentile, mean and standard deviation."""
    kept = 1e3 * np.asarray(clip(seconds))
    p10, median, p90 = np.percentile(kept, (10, 50, 90))
    values = {"median_ms": median, "p10_ms": p10, "p90_ms": p90, "mean_ms": kept.mean(), "std_ms": kept.std()}
    return {
        **{key: round(float(value), 4) for key, value in values.items()},
        "samples": len(kept),
        "clipped": len(seconds) - len(kept),
    }
