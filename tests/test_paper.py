"""`yolov12 paper`: each table and figure beside this build, by its command."""

import functools
import json
import re
import shlex

import pytest
import typer
from conftest import ROOT, yolov12
from ultralytics.cfg import DEFAULT_CFG_DICT

from yolov12_plugin.benchmark.results import Latency, Results, Row
from yolov12_plugin.cli import app
from yolov12_plugin.cli import paper as cli
from yolov12_plugin.explain import heatmap
from yolov12_plugin.models import MODELS
from yolov12_plugin.names import find
from yolov12_plugin.paper import tables
from yolov12_plugin.paper.ablations import ABLATIONS
from yolov12_plugin.paper.networks import Measurement, shipped
from yolov12_plugin.published import TABLE1, TABLE3_CPU, TABLE4, TABLE7, table6
from yolov12_plugin.show.view import View, cell

GROUP = typer.main.get_command(app)
COMMANDS = GROUP.commands["paper"].commands
PRINTED = [name for name in COMMANDS if name not in ("figure2", "figure3", "ablation", "convergence")]
OURS = [model for model in MODELS.values() if model.release == "v1.0"]
RECORD = ROOT / "benchmarks/results/cpu.json"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(*command):
    done = yolov12("paper", *command, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def shown(*command):
    done = yolov12("paper", *command)
    assert done.exit_code == 0, done.output
    return done.stdout


once_rows, once_shown = functools.cache(rows), functools.cache(shown)  # of what does not change within the tests


@pytest.mark.parametrize("name", PRINTED)
def test_json_is_rows_of_equal_keys(name):
    found = once_rows(name)
    assert found and all(isinstance(row, dict) for row in found)
    if name != "table5":  # of several tables
        assert len({tuple(row) for row in found}) == 1


@pytest.mark.parametrize("name", ["list", "table1", "table5", "table7"])
def test_out_is_what_json_prints(name, tmp_path):
    printed = yolov12("paper", name, "--json", "--out", tmp_path / "rows.json").stdout
    assert (tmp_path / "rows.json").read_text() == printed and json.loads(printed)
    done = yolov12("paper", name, "--out", tmp_path)
    assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", PRINTED)
def test_markdown_is_a_table_of_the_rows(name):
    lines = once_shown(name, "--markdown").splitlines()
    assert lines[0].startswith("**") and lines[0].endswith("**")
    cells = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    tables = 8 if name == "table5" else 1
    assert len(cells) == len(once_rows(name)) + 2 * tables
    if tables == 1:
        assert len({len(line) for line in cells}) == 1
        assert all(set(part) <= set("-:") for part in cells[1])
    assert all(not line or line[0] in "|*-" for line in lines)  # notes are items of a list


@pytest.mark.parametrize("name", PRINTED)
def test_table_has_every_row(name):
    text = once_shown(name)
    first = next(key for key in once_rows(name)[0] if key in ("command", "model", "hyperparameter"))
    assert all(row[first] in text for row in once_rows(name))


def test_list_names_every_command():
    found = rows("LIST")
    assert [row["name"] for row in found] == [name for name in COMMANDS if name != "list"]
    for row in found:
        assert row["command"].split()[:3] == ["yolov12", "paper", row["name"]]
        assert row["about"] and (row["here"] or row["coco"])
    assert set(cli.COVERAGE) <= set(COMMANDS) and set(cli.ARGUMENTS) <= set(COMMANDS)
    assert all(name in shown("list").splitlines()[-1] for name in ABLATIONS)


@pytest.mark.parametrize("name", ["table1", "table4", "figure1", "figure4"])
def test_our_models_are_built_as_published(name):
    found = once_rows(name)
    assert [row["name"] for row in found] == [model.name for model in OURS]
    for row, model in zip(found, OURS):
        assert (row["gflops"], row["params_m"]) == (model.gflops, model.parameters_m)
        assert row["gflops_paper"] == model.gflops


def test_table1():
    for row, model in zip(rows("table1"), OURS):
        assert row["model"] == f"YOLOv12-{model.scale.upper()}"
        assert row["params_m_paper"] == model.parameters_m
        assert [row[f"{key}_paper"] for key in ("ap", "ap50", "ap75")] == [model.ap, model.ap50, model.ap75]
        assert row["latency_ms_paper"] == model.latency
        assert row["ratio_paper"] == pytest.approx(model.latency / 1.64, abs=0.005)
        assert row["ratio"] is None and row["latency_ms"] == row["latency_ratio"] == {}


@pytest.mark.parametrize("name, published", [("table1", TABLE1), ("table4", TABLE4)])
def test_all_detectors(name, published):
    """What Ultralytics has is built as published, but for YOLOv9's head; what it has not, is not."""
    found = once_rows(name, "--all")
    assert [row["model"] for row in found] == [row.method for row in published]
    for row, paper in zip(found, published):
        if paper.name is None:
            assert row["gflops"] is row["params_m"] is row["bench"] is row["evaluate"] is None
        else:
            assert row["gflops"] == pytest.approx(paper.gflops, abs=0.65 if "YOLOv9" in paper.method else 0.05)
        assert row["gflops_paper"] == paper.gflops
    text = once_shown(name, "--all")
    assert ("YOLOv9 does not group" in text) and ("YOLOv6-3.0-N" in text) == (name == "table1")


def test_table4_ratios_are_by_gpu():
    s = rows("table4")[1]
    assert s["ratio_paper"] == {"rtx3080": 1.71, "a5000": 1.47, "a6000": 1.47}  # 2.9, 2.5, 2.5 over 1.7
    assert s["a6000_ms_paper"] == {"fp32": 2.5, "fp16": 1.4}


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations(name):
    """By three names; every row is one of the table, with the command that trains its model."""
    found, table = once_rows(name), ABLATIONS[name]
    assert found == once_rows("ablation", name.upper()) == once_rows("ablation", name.removeprefix("table"))
    assert [(row["variant"], row["model"]) for row in found] == [(v.label, v.model) for v in table.variants]
    assert {row["table"] for row in found} == {name}
    for row, variant in zip(found, table.variants):
        assert (row["ap_paper"], row["latency_ms_paper"]) == (variant.ap, variant.latency)
        assert row["gflops"] > 6 and row["params_m"] > 1.5 and row["ratio"] is None
    text = once_shown(name)
    assert ("needs training on COCO: `yolo train" in text or "need training on COCO: `yolo train" in text) == any(
        variant.ap for variant in table.variants
    )


def test_table5_is_all_of_its_parts():
    names = [name for name in ABLATIONS if name.startswith("table5")]
    found = once_rows("table5")
    assert found == once_rows("ablation", "5") == [row for name in names for row in once_rows(name)]
    titles = [line.rstrip() for line in once_shown("table5").splitlines() if line.startswith("Table 5")]
    assert titles == [f"Table {name[5:]}: {ABLATIONS[name].title}" for name in names]


def test_table2_says_what_converges():
    found = rows("table2")
    assert [row["converges_paper"] for row in found].count(False) == 5
    lines = [line for line in shown("table2").splitlines() if "yolov12" in line and "`" not in line]
    assert [("✗" in line) for line in lines] == [row["converges_paper"] is False for row in found]


def test_table3_has_the_papers_gpus():
    n = rows("table3")[0]
    assert n["cuda_fp32_ms_paper"] == {"rtx3080": 2.7, "a5000": 2.5}
    assert n["latency_ms_paper"] == TABLE3_CPU[0].without


def test_table6():
    for row, scale in zip(rows("table6"), "nsmlx", strict=True):
        assert tuple(value for key, value in row.items() if key.startswith("ap")) == table6(scale)


def test_table7():
    found = rows("table7")
    assert [row["hyperparameter"] for row in found] == [row.name for row in TABLE7]
    assert all(row["equal"] for row in found) and len(found) == 23
    mixup = next(row for row in found if row["argument"] == "mixup")
    assert mixup["paper"] == mixup["preset"] == dict(zip("nsmlx", (0.0, 0.05, 0.15, 0.15, 0.2)))
    assert "0.0/0.05/0.15/0.15/0.2" in shown("table7")


def test_table7_tells_what_differs(folder, monkeypatch):
    for file in tables.FOLDER.glob("*-coco.yaml"):
        text = file.read_text(encoding="utf-8")
        (folder / file.name).write_text(text.replace("lr0: 0.01", "lr0: 0.02") if "12m" in file.name else text)
    monkeypatch.setattr(tables, "FOLDER", folder)
    found = {row["argument"]: row for row in rows("table7")}
    assert [key for key, row in found.items() if not row["equal"]] == ["lr0"]
    assert found["lr0"]["preset"]["m"] == 0.02 and "0.01/0.01/0.02/0.01/0.01" in shown("table7")


@pytest.mark.parametrize("order", [("yolov12n", "yolov12s", "yolo11n"), ("yolo11n", "yolov12s", "yolov12n")])
def test_ratios_are_those_that_bench_prints(order, tmp_path):
    """One definition: the median over the rounds, which is not the ratio of the medians."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    chosen = {"yolov12n": (10.0, 1.0), "yolov12s": (30.0, 2.5), "yolo11n": (9.0, 0.8)}
    rows_of = {row["model"]: row for row in record["rows"] if row["runtime"] == "openvino"}
    record["rows"] = [
        rows_of[name]
        | {
            "latency": rows_of[name]["latency"] | {"median_ms": chosen[name][0]},
            "ratio": chosen[name][1] / chosen[order[0]][1],
        }
        for name in order
    ]
    file = tmp_path / "run.json"
    file.write_text(json.dumps(record))
    found = {row["name"]: row["latency_ratio"] for row in rows("table1", "--results", file)}
    assert {name: list(found[name].values()) for name in chosen} == {
        name: [ratio] for name, (_, ratio) in chosen.items()
    }


def run_of(created, **milliseconds):
    """A run on a CPU."""
    latencies = {name: Latency(ms, ms, ms, ms, 0, 9, 0) for name, ms in milliseconds.items()}
    first = next(iter(milliseconds.values()))
    found = [
        Row(name, "torch", "cpu", "fp32", 640, 1, 1, 1.0, latency, None, milliseconds[name] / first)
        for name, latency in latencies.items()
    ]
    return Results(created, {"threads": 2}, {"processor": "A CPU", "gpu": None}, {}, found, [])


def test_ratios_are_of_one_run():
    """Another run of the same setup, on a machine that was slower then, is not divided by this one."""
    setup = "torch, A CPU (2 threads), fp32"
    first = run_of("2026-01-01", yolov12n=10.0, yolov12s=20.0)
    second = run_of("2026-01-02", yolov12s=60.0, yolov12m=90.0)
    assert tables.ratios([second, first]) == {setup: {"yolov12n": 1.0, "yolov12s": 2.0}}
    assert tables.left_out([first, second], "table1") == [
        "Of --results left out, as a later run has the same: yolov12s (torch, fp32, 1 x 640).",
        "Of --results without a ratio, as yolov12n was not timed with them in one run at their size: "
        "yolov12m (torch, fp32, 1 x 640).",
    ]
    found = {row["name"]: row for row in tables.table1([first, second], every=False)}
    assert found["yolov12s"]["latency_ms"] == {f"{setup} (ms)": 60.0}
    assert found["yolov12m"]["latency_ratio"] == {} and found["yolov12s"]["latency_ratio"] == {setup: 2.0}


@pytest.mark.parametrize("command", [["--results", RECORD, RECORD], ["--results", RECORD.parent], [RECORD]])
def test_results(command):
    """Files after --results, more than one, and folders; measured models come beside the paper's."""
    found = {row["model"]: row for row in rows("table1", *command)}
    setups = {setup for row in found.values() for setup in row["latency_ms"]}
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    setup = f"openvino, {record['machine']['processor']} (2 threads), fp32"
    assert f"{setup} (ms)" in setups
    assert {"YOLOv8-N", "YOLOv12-X", "yolo12n", "rtdetr-l"} <= set(found) and "YOLOv8-X" not in found
    (measured,) = (r for r in record["rows"] if (r["model"], r["runtime"]) == ("yolov8n", "openvino"))
    assert found["YOLOv8-N"]["latency_ratio"][setup] == pytest.approx(measured["ratio"], abs=0.006)
    assert not any(row["latency_ms"] for row in rows("figure1", *command) + rows("table4", *command))  # no GPU
    assert any(row["latency_ms"] for row in rows("figure4", *command))


def test_measured_ratios(monkeypatch):
    """Of every network that the table has, to YOLOv12-N; on the device and at the size that are named."""
    asked = []

    def ratios(self, runs, base):
        asked.append((self, dict(runs), base))
        return dict.fromkeys(runs, 1.5)

    monkeypatch.setattr(Measurement, "ratios", ratios)
    command = ["--measure", "--imgsz", 64, "--rounds", 3, "--device", "cpu"]
    found = rows("table1", "--results", RECORD, *command)
    ((measurement, runs, base),) = asked
    assert (measurement, base) == (Measurement(64, 3, "cpu"), "yolov12n")
    assert all(row["ratio"] == (1.5 if row["name"] in runs else None) for row in found)
    assert {"yolov8n", "yolov12x"} <= set(runs) and not {"yolo12n", "rtdetr-l"} & set(runs)
    assert "here: PyTorch on cpu, FP32, one image of 64 pixels, 3 interleaved rounds" in shown("table1", *command)


def test_measurement():
    runs = {"n": ("yolov12n", "auto"), "math": ("yolov12n", "math"), "v8": ("yolov8n", "auto")}
    found = Measurement.of(32, 2, "cpu").ratios(runs, "n")
    assert list(found) == list(runs) and found["n"] == 1 and all(ratio > 0 for ratio in found.values())


def test_measured_ablation():
    found = rows("table5f", "--measure", "--imgsz", 32, "--rounds", 1, "--device", "cpu")
    assert found[1]["ratio"] == 1 and found[0]["ratio"] > 0
    assert "ratio here" in shown("table5f", "--measure", "--imgsz", 32, "--rounds", 1, "--device", "cpu")
    assert "ratio here" not in shown("table5f")


@pytest.mark.parametrize("name", ["yolov12n", "yolov12x-elan", "yolov8s", "yolov9c", "yolov10b", "yolo11x"])
def test_networks_are_those_that_ship(folder, name):
    for stem in {name, re.sub(r"(?<=\d)[a-z]", "", name)}:
        (folder / f"{stem}.yaml").write_text("nc: 3\n")
    yaml = shipped(name)
    assert yaml["nc"] == 80 and len(yaml["backbone"]) >= 9


@pytest.mark.parametrize("name", ["figure1", "figure4"])
def test_figures_are_drawn(folder, name):
    """Beside the table by default; with JSON where a picture is named."""
    assert shown(name, "--results", RECORD).splitlines()[-1] == f"Picture: {name}.png"
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    (folder / f"{name}.png").unlink()
    assert rows(name) and not list(folder.iterdir())
    assert rows(name, "--out", folder / "a.svg") == rows(name)
    assert "YOLOv12" in (folder / "a.svg").read_text(encoding="utf-8")


def test_figure4_has_the_papers_cpu():
    found = {row["name"]: row for row in rows("figure4")}
    assert [found[f"yolov12{s}"]["latency_ms_paper"] for s in "nsmlx"] == [31.4, 78.4, None, None, 512.5]
    assert found["yolov12s"]["ratio_paper"] == 2.5


@pytest.mark.parametrize("name", ["figure2", "figure3"])
def test_diagrams(folder, name):
    assert shown(name) == f"{name}.png\n" and (folder / f"{name}.png").is_file()
    assert rows(name, "--out", "a.svg") == {"picture": "a.svg"} and (folder / "a.svg").is_file()


def test_figure5_names_the_third_stages():
    found = rows("figure5")
    assert [(row["name"], row["module"], row["channels"]) for row in found] == [
        ("yolov10x", "C2fCIB", 640),
        ("yolo11x", "C3k2", 768),
        ("yolov12x", "A2C2f", 768),
    ]
    assert {(row["layer"], row["stride"]) for row in found} == {(6, 16)}


def test_figure5_draws_a_source(monkeypatch):
    asked = []

    def heatmaps(models, source, **options):
        asked.append((models, source, options["out"].name))
        return {"pictures": ["maps.png"]}

    monkeypatch.setattr(heatmap, "heatmaps", heatmaps)
    assert shown("figure5", "photo.jpg", "--out", "maps.png").splitlines()[-1] == "Picture: maps.png"
    assert asked == [(["yolov10x.pt", "yolo11x.pt", "yolov12x.pt"], "photo.jpg", "maps.png")]


def check(command):
    """Whether a command can be typed: its files and arguments are there."""
    for part in command.split(" && "):
        words = shlex.split(part)
        if words[0] == "yolo":
            pairs = dict(word.split("=", 1) for word in words[2:])
            assert words[1] == "train" and set(pairs) <= set(DEFAULT_CFG_DICT)
            assert find(pairs["cfg"]) and find(re.sub("(?<=^yolov12).", "", pairs["model"]))
        else:
            assert words[0] == "yolov12"
            group = GROUP
            while words[1] in getattr(group, "commands", {}):
                group, words = group.commands[words[1]], words[1:]
            context = group.make_context(words[0], words[1:])
            if words[0] == "bench" and "{" not in part:
                assert all(shipped(name) for name in context.params["models"])


@pytest.mark.parametrize("name", PRINTED)
def test_commands_are_real(name):
    found = once_rows(name, "--all") if name in ("table1", "table4") else once_rows(name)
    commands = {value for row in found for key, value in row.items() if key in ("train", "evaluate", "heatmap")}
    for row in found:
        bench = row.get("bench")
        commands |= set(bench) if isinstance(bench, list) else {bench}
    noted = {text for text in re.findall("`(.+?)`", once_shown(name)) if text.startswith("yolo")}
    for command in (commands | noted) - {None}:
        check(command)
    untrained = ("list", "table4", "table7", "figure5")
    assert any("yolo train" in (command or "") for command in commands) == (name not in untrained)


def test_trainings_are_scored():
    for row in rows("table6"):
        scale = row["name"][-1]
        assert f"cfg=yolov12{scale}-coco.yaml model=yolov12{scale}.yaml data=coco.yaml" in row["train"]
        assert row["train"].endswith(f"yolov12 coco runs/yolov12{scale}/weights/best.pt --data coco.yaml")


UNKNOWN = [
    (["paper", "tabel7"], "table7", "tables and figures"),
    (["paper", "tabel2"], "table2", "tables and figures"),
    (["paper", "Figure 4"], "figure4", "tables and figures"),
    (["paper", "table5i"], "table5", "tables and figures"),
    (["paper", "ablaton", "table2"], "ablation", "tables and figures"),
    (["papper", "table1"], "paper", "commands"),
    (["benhc"], "bench", "commands"),
    (["paper", "ablation", "tabel5a"], "table5a", "ablations"),
    (["paper", "ablation", "5z"], "table5", "ablations"),
    (["paper", "table1", "--jsn"], "--json", "options"),
    (["paper", "table2", "--mesure"], "--measure", "options"),
    (["paper", "figure1", "--ot=x.png"], "--out", "options"),
    (["bench", "yolov12n", "--rutime", "torch"], "--runtime", "options"),
]


@pytest.mark.parametrize("command, near, kind", UNKNOWN, ids=lambda value: " ".join(value) if value else "")
def test_unknown_names(command, near, kind):
    """One line, with all that are valid, the nearest first."""
    done = yolov12(*command)
    assert done.exit_code == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    known = line.partition(f"{kind} are ")[2].split(", ")
    assert line.startswith("Error: ") and known[0].startswith(near) and f"did you mean {known[0]}?" in line
    group = GROUP.commands["paper"] if command[0] == "paper" else GROUP
    if kind == "ablations":
        assert set(known) == set(ABLATIONS)
    elif kind == "options":
        command = group.commands[command[1]] if command[0] == "paper" else group.commands[command[0]]
        assert set(known) - {"--help"} == {name for p in command.params for name in p.opts if name.startswith("-")}
    else:
        assert set(known) == set(group.commands)


def test_a_name_like_none():
    line = yolov12("paper", "xyzzy").stderr
    assert "did you mean" not in line and "tables and figures are list, table1, table2" in line


@pytest.mark.parametrize(
    "command, said",
    [
        (["table1", "--json", "--markdown"], "the output has one form: name --json or --markdown"),
        (["table7", "--markdown", "--json"], "the output has one form: name --json or --markdown"),
        (["table1", "--results", "no.json"], "no.json is not there: it must be what `yolov12 bench --out` wrote"),
        (["table4", "table1"], "table1 is not there: it must be"),
        (["figure1", "--out", "a.gif"], "a.gif is no picture that can be drawn: name a file ending in .png"),
        (["figure4", "--out", "no/a.png"], "a.png cannot be written: there is no folder"),
        (["figure2", "--out", "a.txt"], "a.txt is no picture"),
        (["figure3", "--out", "a.txt"], "a.txt is no picture"),
        (["figure5", "no.jpg"], "no.jpg"),
        (["table1", "--measure", "--device", "tpu9"], "'tpu9' is no device: cpu, 0 or cuda:0"),
        (["table2", "--measure", "--device", "7"], "device '7' is not there"),
        (["table1", "--measure", "--imgsz", "100"], "--imgsz 100 is no multiple of 32, the networks' stride: 128"),
        (["table5", "--imgsz", "5"], "'--imgsz'"),
        (["table3", "--rounds", "0"], "'--rounds'"),
        (["ablation"], "name"),
    ],
)
def test_bad_input_is_one_line(command, said):
    done = yolov12("paper", *command)
    assert done.exit_code == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ") and said in line


@pytest.mark.parametrize("text", ["[]", '{"schema": 2}', ""])
def test_no_record_is_one_line(folder, text):
    (folder / "a.json").write_text(text)
    done = yolov12("paper", "table1", "--results", "a.json")
    assert done.exit_code == 2 and re.fullmatch(r"Error: a\.json (is no JSON|has schema).*\n", done.stderr)


@pytest.mark.parametrize(
    "value, digits, text",
    [
        (None, 2, "–"),
        (1.5, 2, "1.50"),
        (6, 0, "6"),
        (False, 0, "✗"),
        ({"fp32": 2.4, "fp16": 2.4}, 0, "2.4/2.4"),
        (dict.fromkeys("nsmlx", 600), 0, "600"),
        ({**dict.fromkeys("nsml", 0.5), "x": 1.0}, 0, "0.5/0.5/0.5/0.5/1.0"),
    ],
)
def test_cells(value, digits, text):
    assert cell(value, digits) == text


def test_columns():
    """Mappings become a column for each of their keys; what nothing has is left out; as many decimals in a column."""
    lines = [{"a": "x", "b": None, "c": {}, "d": 1.5}, {"a": "y", "b": None, "c": {"k": 2.25}, "d": 10.25}]
    table = View("", {"a": "A", "b": "B", "c": "{} (ms)", "d": "D"}, lines).table()
    assert [column.header for column in table.columns] == ["A", "k (ms)", "D"]
    assert [list(column.cells) for column in table.columns] == [["x", "y"], ["–", "2.25"], ["1.50", "10.25"]]


@pytest.mark.parametrize(
    "name, said",
    [
        ("table1", "From the paper: FLOPs (G), Params (M), AP, AP50, AP75, T4 (ms), ratio. Made or measured here: FLOPs built, Params built."),
        ("table6", "From the paper: AP, AP50, AP75, AP small, AP medium, AP large. Nothing of it is measured here."),
        ("table5e", "Made or measured here: FLOPs built, Params built."),
    ],
)  # fmt: skip
def test_which_columns_are_the_paper_s_is_said(name, said):
    assert said in " ".join(shown(name).split())
