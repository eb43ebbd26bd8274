"""Sheets of maps, of images, folders and videos, and the command that draws them."""

import itertools
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import SHARED, needs, yolov12
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from yolov12_plugin.cli.heatmap import read_request
from yolov12_plugin.errors import NotRunnable
from yolov12_plugin.explain import heatmap, probe
from yolov12_plugin.explain.heatmap import (
    Request,
    Row,
    borders,
    check_overwriting,
    draw,
    gather,
    heatmaps,
)
from yolov12_plugin.show import pictures

FAST = ("--imgsz", 64, "--device", "cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder with images of three shapes in `photos`, and a video of seven frames."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    noise = np.random.default_rng(0)
    for name, (h, w) in {"a.jpg": (48, 80), "b.png": (80, 48), "c.bmp": (64, 64)}.items():
        cv2.imwrite(f"photos/{name}", noise.integers(0, 255, (h, w, 3), np.uint8))
    video = cv2.VideoWriter("clip.avi", cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 64))
    for i in range(7):
        video.write(np.full((64, 96, 3), 30 * i, np.uint8))
    video.release()
    return tmp_path


def draw_json(*command):
    done = yolov12("heatmap", *command, *FAST, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout), done.stderr.splitlines()


def fails(*command):
    done = yolov12("heatmap", *command)
    assert done.exit_code == 2 and done.stdout == ""
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("Error: ").strip()


def size_of(picture):
    assert Path(picture).read_bytes().startswith(b"\x89PNG")
    return cv2.imread(str(picture)).shape[:2]


def test_models_side_by_side(folder):
    done, lines = draw_json("yolov12n", "yolo11n", "yolov10n", "photos/a.jpg")
    assert lines == [
        f"{model} is built from its YAML, with random weights: its map shows no training"
        for model in ("yolov12n", "yolo11n", "yolov10n")
    ]
    assert done["method"] == "activation" and done["pictures"] == ["heatmap.png"] and done["left_out"] == []
    models = [("yolov12n", "A2C2f"), ("yolo11n", "C3k2"), ("yolov10n", "C2f")]
    assert done["models"] == [
        {"model": model, "trained": False, "layer": 6, "module": kind, "stride": 16, "imgsz": 64}
        for model, kind in models
    ]
    (image,) = done["images"]
    assert Path(image["source"]) == folder / "photos" / "a.jpg"
    assert image["frame"] is None and image["size"] == [48, 80] and image["picture"] == "heatmap.png"
    assert image["maps"] == [{"model": model, "canvas": [64, 64], "grid": [4, 4]} for model, _ in models]
    height, width = size_of("heatmap.png")
    assert 2000 < width < 3000 and 400 < height < width / 2  # four panels abreast


def test_the_command_prints_what_it_wrote(folder):
    done = yolov12("heatmap", "yolov12n-cls", "photos/b.png", "--out", "x.png", *FAST)
    assert done.exit_code == 0 and done.stdout == "x.png\n" and done.stderr.count("\n") == 1
    once = Path("x.png").read_bytes()
    yolov12("heatmap", "yolov12n-cls", "photos/b.png", "--out", "x.png", *FAST)
    assert Path("x.png").read_bytes() == once  # random weights are the same ones every time


@pytest.mark.parametrize("method", ["eigencam", "gradcam"])
def test_other_methods(folder, method):
    if method == "gradcam":
        pytest.importorskip("pytorch_grad_cam")
    done, _ = draw_json("yolov12n", "photos/a.jpg", "--method", method, "--layer", -4)
    assert done["method"] == method and done["models"][0]["layer"] == 18
    size_of("heatmap.png")


def test_gradcam_without_grad_cam(folder, monkeypatch):
    monkeypatch.setattr(heatmap, "find_spec", lambda name: None)
    says = "grad-cam is not installed: pip install grad-cam"
    assert fails("yolov12n", "photos/a.jpg", "--method", "gradcam") == says


def test_layer_of_each_model(folder):
    done, _ = draw_json("yolov12n-cls", "yolov12n-cls", "photos/a.jpg", "--layer", "4,-2")
    assert [model["layer"] for model in done["models"]] == [4, 8]
    assert [image["grid"] for image in done["images"][0]["maps"]] == [[8, 8], [2, 2]]


def test_attention(folder):
    done, _ = draw_json("yolov12n", "photos/a.jpg", "--method", "attention", "--query", "79,47")
    (image,) = done["images"]
    query = {"x": 79, "y": 47, "row": 3, "column": 3}
    # 64 x 38.4 pixels of the image lie in the middle of 64 x 64
    query["row"] = int((47 * 38 / 48 + 13) // 16)
    assert image["maps"] == [
        {"model": "yolov12n", "canvas": [64, 64], "grid": [4, 4], "block": i, "heads": 2, "head": None, "query": query}
        | {"areas": [4, 4, 4, 4], "area": query["row"]}
        for i in range(4)
    ]
    one_line = size_of("heatmap.png")
    done, _ = draw_json("yolov12n", "yolo12n", "photos/a.jpg", "--method", "attention")
    assert [(m["model"], m["block"]) for m in done["images"][0]["maps"]] == [
        (model, block) for model in ("yolov12n", "yolo12n") for block in range(4)
    ]
    assert size_of("heatmap.png")[0] > 1.6 * one_line[0]  # a line for each model


def test_one_attention_of_each_model_lies_side_by_side(folder):
    about = ("--method", "attention", "--layer", "6,10", "--block", 0, "--head", 1, "--query", "0.5,1")
    done, _ = draw_json("yolov12n", "yolov10s", "photos/c.bmp", *about)
    of_area, of_all = done["images"][0]["maps"]
    assert of_area["areas"] == [4] * 4 and of_area["query"] == {"x": 32, "y": 64, "row": 3, "column": 2}
    assert of_all["areas"] == [4] and of_all["query"] == {"x": 32, "y": 64, "row": 1, "column": 1}
    assert of_area["head"] == of_all["head"] == 1
    height, width = size_of("heatmap.png")
    assert width > 2 * height


@pytest.mark.parametrize(
    "command, says",
    [
        (("yolov12n", "--method", "attention", "--query", "80,2"), "has 80x48 pixels, --query 80,2 is outside of it"),
        (("yolov12n", "--method", "attention", "--query", "2,48"), "--query 2,48 is outside of it"),
        (("yolov12n", "--method", "attention", "--query=-1,2"), "--query -1,2 is outside of every image"),
        (("yolov12n", "--method", "attention", "--query", "nan,1"), "--query nan,1 is outside of every image"),
        (("yolov12n", "--method", "attention", "--query", "3"), "--query '3' is no point: give X,Y"),
        (("yolov12n", "--method", "attention", "--query", "a,b"), "--query 'a,b' is no point: give X,Y"),
        (("yolov12n-cls", "--method", "attention", "--query", "0,0"), "yolov12n-cls is given its middle, --query 0,0"),
        (("yolov12n", "--query", "1,1"), "--query is of --method attention, not of activation"),
        (("yolov12n", "--method", "eigencam", "--head", 0), "--head is of --method attention, not of eigencam"),
        (("yolov12n", "--method", "eigencam", "--block", 0), "--block is of --method attention, not of eigencam"),
        (("yolov12n", "--classes", "person"), "--classes is of --method gradcam, not of activation"),
        (("yolov12n", "--method", "attention", "--head", 2), "layer 6 of yolov12n (A2C2f) has 2 heads: --head 0 to 1"),
        (("yolov12n", "--method", "attention", "--block", 4), "has 4 attentions: --block 0 to 3"),
        (("yolo11n", "--method", "attention"), "(C3k2) has no attention that is known: --layer 10 (C2PSA)"),
        (("yolov12n", "--method", "attention", "--layer", 4), "--layer 6 (A2C2f), 8 (A2C2f)"),
        (
            ("yolov8n", "--method", "attention"),
            "layer 6 of yolov8n (C2f) has no attention that is known, nor has another",
        ),
        (("yolov12n", "--layer", "six"), "--layer 'six' is no index: give a number, or one for each model"),
        (("yolov12n", "--layer", "6,8"), "layers 6, 8 do not go with 1 models: name one, or one for each"),
        (("yolov12n", "--layer", 99), "yolov12n has no layer 99: --layer 20 (C3k2), 19 (Concat), "),
        (("yolov12n", "--device", "7"), "device '7' is not there: cpu, 0 or cuda:1"),
        (("best.onnx",), "best.onnx shows no layers: name a .pt or .yaml"),
        (("none.pt",), "none.pt cannot be loaded: "),
        (("yolov12n", "--method", "cam"), "'activation', 'eigencam', 'gradcam', 'attention'"),
    ],
)
def test_what_cannot_be_drawn(folder, command, says):
    model, *options = command
    assert says in fails(model, "photos/a.jpg", *options)
    assert not list(folder.glob("*.png"))


@pytest.mark.parametrize(
    "source, says",
    [
        ("none.jpg", "nothing is drawn: none.jpg does not exist"),
        ("photos/*.gif", "nothing is drawn: no file is named as photos/*.gif"),
        ("empty", "nothing is drawn: No images or videos found in "),
        ("torn.jpg", "torn.jpg cannot be read"),
        ("torn.avi", "torn.avi cannot be read"),
        ("0", "0 is a stream"),
        ("rtsp://camera/1", "rtsp://camera/1 is a stream"),
        ("https://host/a.jpg", "https://host/a.jpg is a stream: save what is to be seen"),
        ("torn", "torn/one.png cannot be read (and 1 more)"),
    ],
)
def test_what_is_no_source(folder, source, says):
    for name in "empty", "torn":
        Path(name).mkdir()
    for name in "torn.jpg", "torn.avi", "torn/one.png", "torn/two.png":
        Path(name).write_bytes(b"torn")
    assert says in fails("yolov12n-cls", source, *FAST)


def test_no_model_is_named(folder):
    assert "Missing argument: MODEL... and SOURCE are needed" in fails("photos/a.jpg")
    assert "Missing argument: MODEL... and SOURCE are needed" in fails("best.pt")  # Click takes it for SOURCE
    says = "no model is named: MODEL... SOURCE, as in yolov12n yolo11n photo.jpg"
    assert fails("photos/a.jpg", "photos/b.png") == says


@pytest.mark.parametrize(
    "out, says",
    [
        ("nowhere/x.png", "nowhere/x.png cannot be written"),
        ("nowhere/folder", "nowhere/folder cannot be written"),
        ("x.jpg", "x.jpg is no PNG: name a file ending in .png, or a folder"),
        ("file", "file is no PNG"),
        ("photos", "photos/b.png is a source, and could be overwritten: name another file or folder"),
        ("photos/b.png", "b.png is a source, and could be overwritten"),
        ("photos/B.png", "b.png is a source, and could be overwritten"),
        ("photos/link.png", "is a source, and could be overwritten"),
    ],
)
def test_where_nothing_is_written(folder, out, says):
    Path("file").touch()
    Path("photos/link.png").symlink_to("b.png")
    before = Path("photos/b.png").read_bytes()
    assert says in fails("yolov12n-cls", "photos", "--out", out)
    assert Path("photos/b.png").read_bytes() == before and not Path("nowhere").exists()


def test_what_is_torn_is_named_and_the_others_are_drawn(folder):
    for name in "a0.jpg", "z.png", "z.mp4":
        Path("photos", name).write_bytes(b"torn")
    done, lines = draw_json("yolov12n-cls", "photos", "--out", "sheet.png")
    assert done["left_out"] == [f"{folder / 'photos' / name} cannot be read" for name in ("a0.jpg", "z.png", "z.mp4")]
    assert lines[1:] == [f"left out: {line}" for line in done["left_out"]]
    assert [Path(image["source"]).name for image in done["images"]] == ["a.jpg", "b.png", "c.bmp"]
    assert done["pictures"] == ["sheet.png"]
    height, width = size_of("sheet.png")
    assert height > 1.5 * width  # three images on one sheet, below each other


@pytest.mark.parametrize("source", ["photos/?.*", "photos/*.*", "list.txt"])
def test_globs_and_lists(folder, source):
    Path("list.txt").write_text("photos/a.jpg\nphotos/b.png\nphotos/c.bmp\n")
    done, _ = draw_json("yolov12n-cls", source)
    assert [Path(image["source"]).name for image in done["images"]] == ["a.jpg", "b.png", "c.bmp"]


def test_a_glob_that_the_shell_has_expanded(folder):
    done, _ = draw_json("yolov12n-cls", "photos/a.jpg", "photos/b.png", "photos/c.bmp")
    assert [Path(image["source"]).name for image in done["images"]] == ["a.jpg", "b.png", "c.bmp"]
    assert len(done["models"]) == 1


def test_an_end_in_the_middle_says_what_is_drawn(folder, monkeypatch):
    write, written = pictures.write, []

    def end(drawing, file):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(file)
        write(drawing, file)

    monkeypatch.setattr(pictures, "write", end)
    done = yolov12("heatmap", "yolov12n", "photos", "--out", "maps", *FAST)
    assert done.exit_code == 130 and f"2 pictures are drawn, the last is {written[-1]}" in done.stderr
    assert sorted(os.listdir("maps")) == sorted(file.name for file in written)


def test_video(folder):
    done, lines = draw_json("yolov12n-cls", "clip.avi")
    assert done["pictures"] == [f"heatmap-{i:04}.png" for i in range(1, 8)]
    assert [image["frame"] for image in done["images"]] == [1, 2, 3, 4, 5, 6, 7] and len(lines) == 1
    done, lines = draw_json("yolov12n-cls", "clip.avi", "--stride", 2, "--frames", 2, "--out", "frames")
    assert [Path(picture).name for picture in done["pictures"]] == ["clip-000002.png", "clip-000004.png"]
    assert sorted(os.listdir("frames")) == ["clip-000002.png", "clip-000004.png"]
    assert f"{folder / 'clip.avi'}: --frames 2 of 3, with --stride 2" in lines
    done, _ = draw_json("yolov12n-cls", "clip.avi", "--frames", 1, "--out", "one.png")
    assert done["pictures"] == ["one.png"]


def test_frames_are_of_the_video(folder, monkeypatch):
    """Their numbers count from 1, with a stride too; every other one is white here."""
    video = cv2.VideoWriter("two.avi", cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 64))
    for i in range(6):
        video.write(np.full((64, 96, 3), 255 * (i % 2), np.uint8))
    video.release()
    shown = []
    monkeypatch.setattr(heatmap, "draw", lambda rows, request: shown.extend(rows) or draw(rows, request))
    heatmaps(["yolov12n-cls"], "two.avi", stride=2, imgsz=64, report=str)
    assert [(row.frame, round(row.image.mean() / 255)) for row in shown] == [(2, 1), (4, 1), (6, 1)]


def test_a_folder_of_images_and_videos(folder):
    Path("clip.avi").rename("photos/clip.avi")
    Path("photos/a.png").write_bytes(Path("photos/b.png").read_bytes())
    done, _ = draw_json("yolov12n-cls", "photos", "--out", "maps", "--frames", 2)
    names = ["a.png", "a-2.png", "b.png", "c.png", "clip-000001.png", "clip-000002.png"]
    assert [Path(picture).name for picture in done["pictures"]] == names
    done, _ = draw_json("yolov12n-cls", "photos", "--frames", 2)
    assert [image["picture"] for image in done["images"]] == [f"heatmap-{i:04}.png" for i in (1, 1, 1, 1, 2, 3)]


def row(frame=None):
    return Row(Path("a.jpg"), frame, (48, 80), np.zeros((48, 80, 3), np.uint8), None, [], [])


def test_sheets_are_filled_one_at_a_time():
    """A video of any length takes the memory of a frame."""
    made = []
    rows = (made.append(i) or row(frame=i) for i in itertools.count(1))
    sheets = gather(rows, alone=False)
    assert [sheet[0].frame for sheet in itertools.islice(sheets, 3)] == [1, 2, 3] and len(made) <= 4
    rows = [*(row() for _ in range(19)), row(frame=1), row(frame=2)]
    assert [len(sheet) for sheet in gather(rows, alone=False)] == [8, 8, 3, 1, 1]
    assert [len(sheet) for sheet in gather(rows, alone=True)] == [1] * 21


def test_a_large_image_is_not_kept(folder, monkeypatch):
    cv2.imwrite("large.png", np.zeros((1000, 3000, 3), np.uint8))
    shown = []
    monkeypatch.setattr(heatmap, "draw", lambda rows, request: shown.extend(rows) or draw(rows, request))
    heatmaps(["yolov12n-cls"], "large.png", imgsz=64, report=str)
    assert shown[0].image.shape == (213, 640, 3) and shown[0].size == (1000, 3000)


@pytest.mark.parametrize("name, sides", [("thin.png", (3, 300)), ("tall.png", (300, 3)), ("dot.png", (1, 1))])
def test_odd_images(folder, name, sides):
    cv2.imwrite(name, np.full((*sides, 3), 200, np.uint8))
    done, _ = draw_json("yolov12n", name, "--method", "attention", "--block", 0)
    assert done["images"][0]["size"] == list(sides)
    assert max(size_of("heatmap.png")) < 2000


def test_an_image_that_the_model_cannot_be_given(folder, monkeypatch):
    """As of two pixels by a thousand, to Ultralytics 8.3; the others are drawn."""
    stock = probe.LetterBox.__call__

    def resize(self, image):
        return cv2.resize(image, (0, 0)) if image.shape[0] < 50 else stock(self, image=image)

    monkeypatch.setattr(probe.LetterBox, "__call__", resize)
    done, lines = draw_json("yolov12n", "photos")
    assert done["left_out"] == [f"{folder / 'photos' / 'a.jpg'} of 80x48 pixels is too thin"]
    assert len(done["images"]) == 2 and f"left out: {done['left_out'][0]}" in lines


def test_uneven_areas(folder):
    """8 x 10 tokens in 7 areas: the first ones hold one more, and borders run within rows."""
    Path("seven.yaml").write_text(
        "nc: 2\nchannels: 1\nbackbone:\n"
        + "".join(f"  - [-1, 1, Conv, [{c}, 3, 2]]\n" for c in (16, 16, 32, 64))
        + "  - [-1, 2, A2C2f, [64, True, 7]]\nhead:\n  - [[4], 1, Detect, [nc]]\n"
    )
    cv2.imwrite("wide.png", np.zeros((120, 160, 3), np.uint8))
    done = heatmaps(["seven.yaml"], "wide.png", Request("attention", (79, 50)), imgsz=160, report=str)
    maps = done["images"][0]["maps"]
    assert len(maps) == 4 and maps[0]["grid"] == [8, 10]
    assert maps[0]["areas"] == [12, 12, 12, 11, 11, 11, 11]
    # The image lies 4 pixels down on the canvas of 128 x 160: row 3, the 35th token
    assert maps[0]["query"]["row"] == 3 and maps[0]["query"]["column"] == 4 and maps[0]["area"] == 2


def test_panels_lie_over_the_image(folder, monkeypatch):
    """Axes are the image's pixels; a map's cells lie where the network saw them, and grey borders are cut off."""
    figures = []

    def keep(rows, request):
        figures.append(draw(rows, request))
        return figures[-1]

    monkeypatch.setattr(heatmap, "draw", keep)
    heatmaps(["yolov12n", "yolov12n-cls", "rtdetr-l"], "photos/a.jpg", imgsz=160, report=str)
    (fig,) = figures
    *axes, bar = fig.axes
    assert [ax.get_title().split("\n")[0] for ax in axes] == ["a.jpg", "yolov12n", "yolov12n-cls", "rtdetr-l"]
    assert all(ax.get_xlim() == (0, 80) and ax.get_ylim() == (48, 0) for ax in axes)
    assert [len(ax.images) for ax in axes] == [1, 2, 2, 2]
    extents = [ax.images[1].get_extent() for ax in axes[1:]]
    assert extents[0] == pytest.approx([0, 80, 48, 0])  # 160 x 96 is a multiple of the stride
    assert extents[1] == pytest.approx([16, 64, 48, 0], abs=0.3)  # the square in the middle
    assert extents[2] == [0, 80, 48, 0]  # stretched to 160 x 160
    assert [ax.images[1].get_array().shape for ax in axes[1:]] == [(6, 10), (10, 10), (10, 10)]
    assert "mean of |activation|" in bar.get_xlabel() and "each map by its own range" in bar.get_xlabel()


@needs("golden")
def test_names_of_checkpoints(folder):
    for name, source in {"one": "v1.0-n", "two": "turbo-n"}.items():
        Path(name).mkdir()
        Path(name, "best.pt").write_bytes((SHARED / "golden" / f"{source}.pt").read_bytes())
    done, lines = draw_json("one/best.pt", "two/best.pt", "photos/a.jpg")
    assert [model["model"] for model in done["models"]] == ["one/best", "two/best"] and lines == []
    assert all(model["trained"] for model in done["models"])


@settings(max_examples=60, deadline=None)
@given(parts=arrays(int, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.integers(0, 2)))
def test_borders_lie_between_parts(parts):
    rows, columns = parts.shape
    expected = set()
    for r, c in np.ndindex(rows, columns):
        if r + 1 < rows and parts[r, c] != parts[r + 1, c]:
            expected.add(((c, r + 1), (c + 1, r + 1)))
        if c + 1 < columns and parts[r, c] != parts[r, c + 1]:
            expected.add(((c + 1, r), (c + 1, r + 1)))
    found = borders(parts, (0, columns, rows, 0))
    assert {tuple(map(tuple, side)) for side in found.tolist()} == expected and len(found) == len(expected)
    moved = borders(parts, (10, 10 + 2 * columns, 5 + 3 * rows, 5))
    assert moved == pytest.approx(found * [2, 3] + [10, 5])


def test_a_name_that_only_begins_as_the_sheet_is_no_source_in_danger(folder):
    check_overwriting(["heatmap-of-a.png", "heatmap.jpg", "other/heatmap.png"], Path("heatmap.png"))
    with pytest.raises(NotRunnable, match=r"heatmap-0002.png is a source"):
        check_overwriting(["heatmap-0002.png"], Path("heatmap.png"))


def test_requests():
    assert read_request("attention", "0.25,1", 1, None, None) == Request("attention", (0.25, 1.0), 1)
    assert read_request("gradcam", None, None, None, "dog, 2").classes == ("dog", "2")
    assert Request("attention", (0.25, 1)).point((48, 80)) == (20, 48)
    assert Request("attention", (1, 1.5)).point((48, 80)) == (1, 1.5)


def test_no_window(fork):
    """Neither a display nor pyplot, whose figures belong to one."""
    code = """
import cv2, numpy as np, os, sys
cv2.imwrite("a.png", np.zeros((64, 64, 3), np.uint8))
from yolov12_plugin.explain.heatmap import heatmaps, Request
heatmaps(["yolov12n-cls"], "a.png", imgsz=64)
heatmaps(["yolov12n-cls"], "a.png", Request("attention"), imgsz=64)
assert "matplotlib.pyplot" not in sys.modules and "DISPLAY" not in os.environ
"""
    done = fork(f"import os\nfor name in ('DISPLAY', 'MPLBACKEND'): os.environ.pop(name, None)\n{code}")
    assert "random weights" in done.stdout
