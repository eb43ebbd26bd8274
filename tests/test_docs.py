"""docs/paper-map.md: what it names is there. Pages: what they show of records and tables is what these say."""

import json
import re
import runpy
from itertools import product

import pytest
import ultralytics
import yaml
from conftest import ROOT, yolov12
from packaging.version import Version
from ultralytics.engine.exporter import export_formats

from yolov12_plugin.nn.options import RULES

PAGES, BLOCKS, BLOCK, written = (
    runpy.run_path(str(ROOT / "benchmarks/pages.py"))[name] for name in ("PAGES", "BLOCKS", "BLOCK", "written")
)
MAP = (ROOT / "docs/paper-map.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`((?:yolov12_plugin|cfg|benchmarks)/[^`]+)`", MAP)))


@pytest.mark.parametrize("name", NAMED)
def test_files_and_symbols(name):
    path, _, symbol = name.partition(":")
    assert (ROOT / path).is_file()
    if symbol:
        assert re.search(rf"^(?:def |class )?{symbol}\b", (ROOT / path).read_text(encoding="utf-8"), re.M)


def test_the_whole_paper():
    """Each table and figure, and each ablation's YAML."""
    for what in [f"Table {i}" for i in (1, 2, 3, 4, 6, 7)] + [f"Table 5{part}" for part in "abcdefgh"]:
        assert f"| {what}, " in MAP
    assert all(f"| Figure {i}, " in MAP for i in range(1, 6))
    for file in (ROOT / "cfg/models/ablations").iterdir():
        assert f"`cfg/models/ablations/{file.name}`" in MAP
    assert {"3.1", "3.2", "3.3", "3.4", "4.1", "4.4", "4.5"} <= set(re.findall(r"^\| (\d\.\d)", MAP, re.M))


def test_options():
    named = re.findall(r"options? ((?:`[^`]+`(?:, )?)+)", MAP)
    options = {yaml.safe_load(word) for words in named for word in re.findall(r"`(\w+)", words)}
    assert len(options) >= 8 and options <= RULES.keys()


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`yolov12 paper (\w+)", MAP))))
def test_commands(command):
    assert yolov12("paper", command, "--help").exit_code == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_made_from_records(page):
    """`python benchmarks/pages.py` changes nothing."""
    text = page.read_text(encoding="utf-8")
    assert written(text) == text


def test_files_that_pages_name_are_there():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named = re.findall(r"`((?:yolov12_plugin|cfg|benchmarks|tests|docs)/[\w./-]+)[:`]", text)
        assert not [name for name in named if not (ROOT / name).exists()], page


def test_links_of_the_readme():
    """Those of the pages are checked where the site is built."""
    for link in re.findall(r"\]\(([^)#:]+)[^):]*\)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert (ROOT / link).is_file(), link


def test_the_readme_is_one_page():
    assert (ROOT / "README.md").stat().st_size <= 10_000


def test_figure3_of_the_site_is_that_of_the_package():
    assert (ROOT / "docs/figures/figure3.png").read_bytes() == (ROOT / "yolov12_plugin/paper/figure3.png").read_bytes()


def test_every_block_is_shown():
    shown = [block["name"] for page in PAGES for block in BLOCK.finditer(page.read_text(encoding="utf-8"))]
    assert sorted(shown) == sorted(BLOCKS)


def test_the_record_of_kills_is_of_equal_trials():
    """And the guard lost none: the sentence that is made of it compares the two."""
    kills = json.loads((ROOT / "benchmarks/results/kills.json").read_text())
    assert kills["guard_on"]["lost"] == 0 and kills["guard_on"]["kills"] == kills["guard_off"]["kills"] == 20


def test_the_record_of_hostile_machines_holds():
    """In every try; twenty of each thing that is killed, and the run after them."""
    found = json.loads((ROOT / "benchmarks/results/hostile.json").read_text())["rows"]
    assert all(row["held"] == row["tries"] for row in found)
    killed = {row["what"] for row in found if row["fault"] == "kill -9" and row["tries"] > 20}
    assert killed >= {"convert", "coco", "drawing of shapes", "download"}


def test_the_record_of_leaks_has_none():
    """Memory grows by no more than stock's does, and a twentieth of what stock takes."""
    for row in json.loads((ROOT / "benchmarks/results/leaks.json").read_text())["rows"]:
        ours, stock = (row[side][-1] - row[side][1] for side in ("plugin", "stock"))
        assert ours <= stock + 0.05 * row["stock"][-1], row


def test_the_record_of_formats_has_a_row_for_each():
    """Of Ultralytics' list and each of the three models; what was not verified has its reason."""
    data = json.loads((ROOT / "benchmarks/results/formats.json").read_text())
    if Version(ultralytics.__version__) < Version(data["versions"]["ultralytics"]):
        pytest.skip("older releases export other formats")
    formats = [argument.replace("-", "torch") for argument in export_formats()["Argument"]]
    rows = [(row["format"], row["model"]) for row in data["rows"]]
    assert rows == list(product(formats, ("yolov12n", "yolo12n", "yolo11n")))
    assert all(row["ratio"] if row["verified"] else row["reason"] for row in data["rows"])


def test_a_block_is_made_anew():
    """Within a line too."""
    page = "a <!-- startup:begin -->{}<!-- startup:end --> b"
    assert written(page.format("0 s")) == page.format(BLOCKS["startup"]())
