"""Times that can be compared on a machine that is not quiet."""

import statistics
import time
from collections.abc import Callable, Mapping


def interleave(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each run in each round: one after the other, every other round backwards.

    What slows the machine down for a while thus falls on all of them; the medians of `ratios` hold where medians of
    times do not. A run on a GPU has to wait for its end itself.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(warmup + rounds):
        for name in list(runs)[:: -1 if i % 2 else 1]:
            start = clock()
            runs[name]()
            if i >= warmup:
                seconds[name].append(clock() - start)
    return seconds


def ratios(seconds: Mapping[str, list[float]], base: str) -> dict[str, float]:
    """Median, over the rounds, of each run's time over that of `base`."""
    return {name: statistics.median(a / b for a, b in zip(times, seconds[base])) for name, times in seconds.items()}
