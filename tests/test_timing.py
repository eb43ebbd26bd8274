import pytest

from yolov12_plugin.benchmark.timing import interleave, ratios


def test_takes_turns_and_leaves_out_the_warm_up():
    calls, now = [], [0.0]

    def run(name, seconds):
        def call():
            calls.append(name)
            now[0] += seconds * (10 if len(calls) <= 2 else 1)  # the first are slow

        return call

    seconds = interleave({"a": run("a", 1), "b": run("b", 2)}, rounds=3, warmup=1, clock=lambda: now[0])
    assert calls == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert seconds == {"a": [1, 1, 1], "b": [2, 2, 2]}


def test_ratio_of_pairs_outlasts_a_slow_phase():
    assert ratios({"a": [1, 9, 1], "b": [2, 18, 2]}, "a") == {"a": 1, "b": 2}
    assert ratios({"a": [1, 1, 4], "b": [2, 2, 4]}, "a")["b"] == pytest.approx(2)
