"""Choices by the environment, and `with` blocks that end in any order and context."""

import textwrap
from contextlib import ExitStack
from contextvars import copy_context

import pytest
from hypothesis import given
from hypothesis import strategies as st

import yolov12_plugin as y12
from yolov12_plugin import autoload
from yolov12_plugin.checkpoints import weights
from yolov12_plugin.models import RELEASES
from yolov12_plugin.switches import is_on


@given(st.lists(st.sampled_from(["auto", "sdpa", "math"]), max_size=6), st.integers(0, 6))
def test_any_nesting_unwinds(names, fails_at):
    with ExitStack() as stack:
        for i, name in enumerate(names):
            if i == fails_at:
                with pytest.raises(KeyError), y12.attention_backend(name):
                    raise KeyError
            stack.enter_context(y12.attention_backend(name))
            assert y12.attention_backend.current() == name
    assert y12.attention_backend.current() == "auto"


@pytest.mark.parametrize("switch, value", [(y12.attention_backend, "math"), (y12.checkpointing, True)])
def test_a_block_that_ends_in_another_context(switch, value):
    """As that of a generator does, which one thread or task begins and another collects."""
    default = switch.current()

    def inside():
        with switch(value):
            yield switch.current()

    generator = inside()
    assert copy_context().run(next, generator) == value
    with switch(value):
        generator.close()
        assert switch.current() == value
    assert switch.current() == default


@given(st.sampled_from(["on", "1", "true", "yes", *autoload.OFF, ""]), st.text(" \t", max_size=2), st.data())
def test_switches_read_alike(word, blanks, data):
    spelt = blanks + "".join(data.draw(st.sampled_from([c, c.upper()])) for c in word) + blanks
    with pytest.MonkeyPatch.context() as patch:
        for name in "YOLO12_PLUGIN", "YOLO12_GUARD":
            patch.setenv(name, spelt)
        assert is_on("YOLO12_GUARD") is (word not in ("", *autoload.OFF))
        assert autoload.is_off() is (word in autoload.OFF)


@pytest.mark.parametrize("value", ["flsh", " Maths"])
def test_a_wrong_backend_is_named_as_it_is_written(fork, value):
    failed = fork("from ultralytics import YOLO; YOLO('yolov12n.yaml')", YOLO12_ATTENTION=value, check=False)
    said = failed.stderr.splitlines()[-1]
    assert failed.returncode and repr(value.strip()) in said and "auto, sdpa, math" in said


@pytest.mark.parametrize(
    "value, url", [("", RELEASES), (" ", RELEASES), (" http://127.0.0.1:9/Mirror/ ", "http://127.0.0.1:9/Mirror")]
)
def test_where_weights_are_downloaded_from(monkeypatch, tmp_path, value, url):
    asked = []
    monkeypatch.setenv("YOLO12_WEIGHTS_URL", value)
    monkeypatch.setattr(weights, "_download", lambda address, *_: asked.append(address))
    monkeypatch.chdir(tmp_path)
    weights.find("yolov12n.pt")
    (address,) = asked
    assert address.startswith(f"{url}/") and not address.startswith(f"{url}//")


@pytest.mark.parametrize("value, guarded", [("", False), (" OFF ", False), (" On", True)])
def test_the_guard_of_the_environment(fork, value, guarded):
    code = """
    from ultralytics import YOLO
    from ultralytics.utils.callbacks.base import get_default_callbacks
    print("TrainingGuard" in str(get_default_callbacks()))
    """
    assert fork(textwrap.dedent(code), YOLO12_GUARD=value).stdout.split() == [str(guarded)]
