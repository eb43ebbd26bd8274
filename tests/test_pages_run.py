"""Every code block of README.md and docs/ is executed, or has its reason beside it.

The comment before a block says which: `<!-- not run: why -->`, or `<!-- run: epochs=1 -->`, whose words are appended to
its commands of `yolo` and `yolov12`, and to the arguments of `train` and `export` in Python. A page is one process, in
which its blocks run one after the other; a command with variables of its own is another one.
"""

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import ultralytics
import yaml
from conftest import ROOT
from packaging.version import Version
from ultralytics import YOLO
from ultralytics.utils import ASSETS

BIN = Path(sys.executable).parent
PAGES = runpy.run_path(str(ROOT / "benchmarks/pages.py"))["PAGES"]
BLOCK = re.compile(r"(?:^<!-- (?P<how>(?:not )?run): (?P<words>[^\n]+) -->\n)?^```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^```$", re.M | re.S)  # fmt: skip
VARIABLES = re.compile(r"((?:[A-Z]\w*=\S* )*)(.*)", re.S)
PAGE = """
import runpy, sys
import ultralytics.cfg
from ultralytics.engine.model import Model

def command(*argv):
    print(">", *argv, flush=True)
    ultralytics.cfg.ARGV = sys.argv = list(argv)  # the first is read where Ultralytics is imported
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as e:
        assert not e.code, f"{argv} ends with {e.code}"

def python(text, **sizes):
    print(text, flush=True)
    kept = {name: getattr(Model, name) for name in ("train", "export")}
    for name, method in kept.items():
        setattr(Model, name, lambda self, method=method, **given: method(self, **given | sizes))
    try:
        exec(compile(text, "<page>", "exec"), {"__name__": "__main__"})
    finally:
        for name, method in kept.items():
            setattr(Model, name, method)
"""


class Block(NamedTuple):
    how: str | None
    words: str | None
    language: str
    text: str


def blocks(page):
    return [Block(**block.groupdict()) for block in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def commands(text):
    """The commands of a block of bash: a line each, unless a quote is open; and each part of `a && b`."""
    line = ""
    for part in text.splitlines():
        line += part
        try:
            shlex.split(line)
        except ValueError:
            line += "\n"
        else:
            yield from filter(None, line.split(" && "))
            line = ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_of_a_known_kind(page):
    """None is left out since it looks different, and a reason is one."""
    found = blocks(page)
    text = page.read_text(encoding="utf-8")
    assert 2 * len(found) == len(re.findall(r"^```", text, re.M))
    assert len(re.findall(r"<!-- (?:not )?run", text)) == sum(block.how is not None for block in found)
    assert {block.language for block in found} <= {"bash", "python", "yaml"}
    assert all(len(block.words.split()) >= 3 for block in found if block.how == "not run")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with what the pages name: weights, of networks that were not trained, images, a dataset, a run."""
    folder = tmp_path_factory.mktemp("pages")
    for name in "yolov12n", "yolov12n-turbo", "yolov12n-seg":
        YOLO(f"{name}.yaml", verbose=False).save(folder / f"{name}.pt")
    shapes = (ROOT / "cfg/datasets/shapes.yaml").read_text(encoding="utf-8")
    (folder / "mine.yaml").write_text(shapes, encoding="utf-8")
    names = yaml.safe_load(shapes)["names"]
    model = (ROOT / "cfg/models/yolov12.yaml").read_text(encoding="utf-8")
    four = folder / "yolov12n-four.yaml"
    four.write_text(model.replace("nc: 80", f"nc: {len(names)}"), encoding="utf-8")
    best = YOLO(four, verbose=False)
    best.model.names = names
    best.save(folder / "best.pt")
    (folder / "photos").mkdir()
    for place in "bus.jpg", "image.jpg", "photos/bus.jpg":
        shutil.copy(ASSETS / "bus.jpg", folder / place)
    box = {"id": 1, "image_id": 1, "category_id": 0, "bbox": [50, 400, 200, 500], "area": 100_000, "iscrowd": 0}
    truth = {
        "images": [{"id": 1, "file_name": "bus.jpg", "width": 810, "height": 1080}],
        "annotations": [box],
        "categories": [{"id": key, "name": name} for key, name in names.items()],
    }
    (folder / "instances.json").write_text(json.dumps(truth))
    run = folder / "runs/detect/train"
    run.mkdir(parents=True)
    shutil.copy(ROOT / "benchmarks/results/training/plugin.csv", run / "results.csv")
    return folder


def sizes_of(words):
    return yaml.safe_load("\n".join(word.replace("=", ": ") for word in words)) or {}


def processes(page, folder):
    """Steps and variables of the page's process, then of each command that has variables of its own."""
    page_s, others = [], []
    for block in blocks(page):
        if block.how == "not run" or block.language == "yaml":
            continue
        words = block.words.split() if block.words else []
        if block.language == "python":
            page_s.append(f"python({block.text!r}, **{sizes_of(words)})")
            continue
        for line in commands(block.text):
            given, line = VARIABLES.fullmatch(line).groups()
            expand = ["bash", "-c", f"printf '%s\\0' {line}"]  # braces, patterns and quotes as in a shell
            program, *arguments = subprocess.check_output(expand, cwd=folder, text=True).split("\0")[:-1]
            if program == "python":
                step = f"python({arguments[1]!r}, **{sizes_of(words)})"
            elif program in ("yolo", "yolov12"):
                step = f"command(*{[str(BIN / program), *arguments, *words]})"
            else:
                assert program in ("pip", "cd"), f"{page}: {program} is not run here: say why"
                continue
            if given:
                others.append(([step], dict(variable.split("=") for variable in given.split())))
            else:
                page_s.append(step)
    return [(page_s, {}), *others]


RUN = [page for page in PAGES if any(block.how != "not run" and block.language != "yaml" for block in blocks(page))]


@pytest.mark.slow
@pytest.mark.train
@pytest.mark.export
@pytest.mark.skipif(Version(ultralytics.__version__) < Version("8.4"), reason="the pages speak the words of 8.4")
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_blocks_run(page, home, fork, tmp_path):
    folder = shutil.copytree(home, tmp_path / "home")
    for steps, variables in processes(page, folder):
        done = fork([sys.executable, "-c", "\n".join([PAGE, *steps])], cwd=folder, **variables)
        assert "Arguments received: " not in done.stdout  # how `yolo` refuses a command with exit code 0
