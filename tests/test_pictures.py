"""One way of all figures into a file."""

import matplotlib
import pytest
from matplotlib.figure import Figure

from yolov12_plugin.errors import NotRunnable
from yolov12_plugin.show.pictures import STYLE, write


@pytest.mark.parametrize(
    "name, says",
    [
        ("nowhere/a.png", "nowhere: make it, or name a file elsewhere"),
        ("a.doc", "a.doc is no picture that can be drawn: name a file ending in .png, .svg, .pdf, .jpg"),
        ("a", "a is no picture that can be drawn"),
    ],
)
def test_what_cannot_be_written_is_said_before_it_is_drawn(tmp_path, name, says):
    def draw():
        raise AssertionError("drawn")

    with pytest.raises(NotRunnable, match=says) as raised:
        write(draw, tmp_path / name)
    assert "\n" not in str(raised.value)


def test_a_folder_in_the_way(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(NotRunnable, match=r"a\.png cannot be written: it is a folder: name a file in it"):
        write(Figure, tmp_path / "a.png")


@pytest.mark.parametrize("kind, head", [("png", b"\x89PNG"), ("SVG", b"<?xml"), ("pdf", b"%PDF"), ("jpg", b"\xff\xd8")])
def test_kinds(tmp_path, kind, head):
    write(Figure, tmp_path / f"a.{kind}")
    assert (tmp_path / f"a.{kind}").read_bytes().startswith(head)


def test_it_is_drawn_in_the_style_which_is_then_undone(tmp_path):
    found = {}

    def draw():
        found.update({key: matplotlib.rcParams[key] for key in STYLE})
        return Figure()

    before = dict(matplotlib.rcParams)
    write(draw, tmp_path / "a.png")
    assert found == STYLE and dict(matplotlib.rcParams) == before
    assert any(before[key] != value for key, value in STYLE.items())
