import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov12_plugin.benchmark.timing import clip, interleave, ratios, summary


def test_takes_turns_and_leaves_out_the_warm_up():
    calls, steps = [], itertools.count()

    def run(name, seconds):
        def call():
            calls.append(name)
            return seconds * (10 if len(calls) <= 2 else 1)  # the first are slow

        return call

    runs = {"a": run("a", 1), "b": run("b", 2)}
    seconds = interleave(runs, rounds=3, warmup=1, measure=lambda call: call(), step=lambda: next(steps))
    assert calls == ["a", "b", "b", "a", "a", "b", "b", "a"] and next(steps) == 4
    assert seconds == {"a": [1, 1, 1], "b": [2, 2, 2]}


def test_by_the_clock(monkeypatch):
    now = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    assert interleave({"a": lambda: next(now)}, rounds=2, warmup=0) == {"a": [2, 2]}


def test_ratio_of_pairs_outlasts_a_slow_phase():
    assert ratios({"a": [1, 9, 1], "b": [2, 18, 2]}, "a") == {"a": 1, "b": 2}
    assert ratios({"a": [1, 1, 4], "b": [2, 2, 4]}, "a")["b"] == pytest.approx(2)


def test_outliers_are_clipped_until_none_is_left():
    quiet = [1.0, 1.1, 0.9, 1.05, 0.95] * 20
    assert clip([*quiet, 50.0, 2.5]) == quiet  # 2.5 stands out once 50 is gone
    found = summary([*quiet, 50.0])
    assert (found["samples"], found["clipped"]) == (100, 1)
    assert found["median_ms"] == 1000 and found["p10_ms"] == 900 and found["p90_ms"] == 1100


@given(st.lists(st.floats(1e-6, 1e3), min_size=1))
def test_something_is_always_left(samples):
    kept = clip(samples)
    assert 0 < len(kept) <= len(samples) and set(kept) <= set(samples)
    found = summary(samples)
    assert found["p10_ms"] <= found["median_ms"] <= found["p90_ms"] and found["samples"] + found["clipped"] == len(
        samples
    )
