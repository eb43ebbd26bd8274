from pathlib import Path

import pytest
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.utils import ROOT
from ultralytics.utils.checks import check_file, check_yaml

from yolov12_plugin import names
from yolov12_plugin.models import MODELS

YAMLS = sorted(path.name for path in names.CFG.rglob("*.yaml"))


@pytest.mark.parametrize("name", YAMLS)
def test_every_file_is_found_by_name_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = Path(check_yaml(name))
    assert found.is_file() and found.name == name and names.CFG in found.parents
    relative = found.relative_to(names.CFG).as_posix()
    assert Path(check_yaml(relative)) == Path(check_yaml(f"cfg/{relative}")) == found


def test_every_model_has_its_yaml():
    from ultralytics.nn.tasks import yaml_model_load

    for model in MODELS.values():
        assert yaml_model_load(model.yaml)["scale"] == model.scale


@pytest.mark.parametrize("name", YAMLS)
def test_a_file_of_the_user_wins(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text("mine: true\n")
    assert check_file(name) == name


def test_a_scaled_file_of_the_user_wins(tmp_path, monkeypatch):
    from ultralytics.nn.tasks import yaml_model_load

    monkeypatch.chdir(tmp_path)
    Path("yolov12n.yaml").write_text("mine: true\n")
    assert yaml_model_load("yolov12n.yaml")["mine"]


@pytest.mark.parametrize("name", ["yolov12.yml", "yolov12n.yaml", "2.yaml", "ov12.yaml", "yolov13.yaml", "../yolov12.yaml",
                                  "/yolov12.yaml", "yolov12.pt", "v12/" + "x" * 300 + ".yaml", "yolov12", "[.yaml", ".yaml", "x" * 300 + ".yaml"])  # fmt: skip
def test_other_names_are_left_alone(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert names.find(name) is None


AUTHORS = ("ultralytics/cfg/models/v12/", "./ultralytics/cfg/models/v12/", "cfg/models/v12/", "models/v12/", "v12/")


@pytest.mark.parametrize("folder", AUTHORS)
@pytest.mark.parametrize("suffix", ["", "-seg", "-cls", "-pose", "-obb"])
def test_the_path_of_the_authors_repository(folder, suffix, tmp_path, monkeypatch):
    """Their instructions and scripts name it; the scale's letter is in the name, as in every name of Ultralytics."""
    from ultralytics.nn.tasks import yaml_model_load

    monkeypatch.chdir(tmp_path)
    assert Path(check_yaml(f"{folder}yolov12{suffix}.yaml")) == names.CFG / f"models/yolov12{suffix}.yaml"
    assert yaml_model_load(f"{folder}yolov12{suffix}.yaml")["scale"] == ""
    for scale in "nsmlx":
        d = yaml_model_load(f"{folder}yolov12{scale}{suffix}.yaml")
        same = yaml_model_load(f"yolov12{scale}{suffix}.yaml")
        assert d | {"yaml_file": ""} == same | {"yaml_file": ""} and d["scale"] == scale


@pytest.mark.parametrize("there", ["yolov12n.yaml", "yolov12.yaml"])
def test_a_file_of_the_user_at_that_path_wins(there, tmp_path, monkeypatch):
    from ultralytics.nn.tasks import yaml_model_load

    monkeypatch.chdir(tmp_path)
    file = Path("ultralytics/cfg/models/v12", there)
    file.parent.mkdir(parents=True)
    file.write_text("mine: true\n")
    assert yaml_model_load("ultralytics/cfg/models/v12/yolov12n.yaml")["mine"]


@pytest.mark.parametrize("name", [
    "ultralytics/cfg/models/v12/yolov13n.yaml", "ultralytics/cfg/models/v12/yolov12q.yaml",
    "ultralytics/cfg/models/v12/yolov12n-sgm.yaml", "ultralytics/cfg/models/v13/yolov12n.yaml",
    "ultralytics/cfg/v12/yolov12n.yaml", "/ultralytics/cfg/models/v12/yolov12n.yaml", "v12/v12/yolov12n.yaml",
    "ultralytics/cfg/models/v12/shapes.yaml", "ultralytics/cfg/models/v12/ablations/yolov12n-elan.yaml",
    "../ultralytics/cfg/models/v12/yolov12n.yaml", "mine/ultralytics/cfg/models/v12/yolov12n.yaml",
])  # fmt: skip
def test_a_wrong_path_fails_as_ever(name, tmp_path, monkeypatch):
    from ultralytics.nn.tasks import yaml_model_load

    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        yaml_model_load(name)


def test_no_name_of_ultralytics_is_taken():
    assert not {path.name for path in ROOT.rglob("*.yaml")} & set(YAMLS)


def test_missing_file_is_stock_s_own_error():
    with pytest.raises(FileNotFoundError, match=r"'yolov13\.yaml' does not exist"):
        check_yaml("yolov13.yaml")


MISSPELT = {
    "yolov12xx.yaml": "yolov12x.yaml",
    "yolov12n_turbo.yaml": "yolov12n-turbo.yaml",
    "YOLOv12n.yaml": "yolov12n.yaml",
    "yolov12n-tubro.yaml": "yolov12n-turbo.yaml",
    "yolov12-n.yaml": "yolov12n.yaml",
    "yolo12n-turbo.yaml": "yolov12n-turbo.yaml",
    "yolov12n.yml": "yolov12n.yaml",
    "yolov12n.YAML": "yolov12n.yaml",
    "yolov112s.yaml": "yolov12s.yaml",
    "yolvo12n-seg.yaml": "yolov12n-seg.yaml",
    "yolov12n-segment.yaml": "yolov12n-seg.yaml",
    "yolov12nturbo.yaml": "yolov12n-turbo.yaml",
    "Yolo_v12L_Cls.yml": "yolov12l-cls.yaml",
    "yolov12q.yaml": "yolov12.yaml, yolov12n.yaml, yolov12s.yaml, yolov12m.yaml, yolov12l.yaml or yolov12x.yaml",
    "models/yolov12x-elam.yaml": "yolov12x-elan.yaml",
    "mine/yolov12n.yaml": "yolov12n.yaml",
}


@pytest.mark.parametrize("name", MISSPELT)
def test_a_misspelt_model_is_answered_with_the_name_as_typed_and_the_nearest(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as e:
        YOLO(name)
    assert str(e.value).startswith(f"'{name}' does not exist; did you mean {MISSPELT[name]}")
    assert str(e.value).endswith("?") and "\n" not in str(e.value)


@pytest.mark.parametrize(
    "name",
    ["yolov12n-coc.yaml", "yolov12n_coco.yaml", "YOLOV12N-COCO.yaml", "yolov12n-coco.yml", "yolov12n-cocoo.yaml"],
)
def test_a_misspelt_preset(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"'{name}' does not exist; did you mean yolov12n-coco.yaml"):
        YOLO("yolov12n.yaml", verbose=False).train(cfg=name)


def test_a_misspelt_dataset():
    from ultralytics.data.utils import check_det_dataset

    with pytest.raises(FileNotFoundError, match=r"'shaps\.yaml' does not exist; did you mean shapes\.yaml\?"):
        check_det_dataset("shaps.yaml")


@pytest.mark.parametrize(
    "name, nearest", [("YOLOv12n", "yolov12n"), ("yolov12x_seg", "yolov12x-seg"), ("yolov12", "yolov12n, ")]
)
def test_a_misspelt_name_alone(name, nearest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"'{name}' does not exist; did you mean {nearest}"):
        YOLO(name)


@pytest.mark.parametrize("name", ["yolov12-transformer-of-mine.yaml", "YOLOv12-my_very_own_net.yml"])
def test_far_from_every_name_but_of_the_family(name):
    with pytest.raises(FileNotFoundError, match=rf"'{name}' does not exist; the plugin has yolov12\{{n,s,m,l,x\}}\["):
        YOLO(name)


@pytest.mark.parametrize(
    "name", ["yolov11n.yaml", "yolov13n-seg.yaml", "yolo26n-turbo.yaml", "yolo11n_seg.yaml", "data.yaml", "custom.yaml",
             "best.pt", "yolov12n.onnx", "yolov12n.engine", "yolo12n.torchscript", "bus.jpg", "", "yolo", "x" * 300 + ".yaml"]
)  # fmt: skip
def test_another_family_is_no_misspelling(name):
    assert names.missing(name) is None
    assert names.missing(f"some/folder/{name}") is None


def test_soft_look_ups_stay_soft():
    assert check_yaml("yolov12xx.yaml", hard=False) == check_file("yolov12n_turbo.pt", hard=False) == []


def test_preset_through_the_command_line(run):
    """The command line reads cfg= before it loads any model."""
    code = (
        "import sys; sys.argv = ['yolo', 'cfg=yolov12s-coco.yaml', 'val', 'mixup=0.3', 'model=missing.pt']\n"
        "import ultralytics.cfg as c, ultralytics\n"
        "class Model:\n"
        "    task = 'detect'\n"
        "    def __init__(self, *a, **k): pass\n"
        "    def val(self, **overrides): print('lr0', overrides['lr0'], 'mixup', overrides['mixup'],\n"
        "                                       'copy_paste', overrides['copy_paste'])\n"
        "ultralytics.YOLO = Model\n"
        "c.entrypoint()"
    )
    assert "lr0 0.01 mixup 0.3 copy_paste 0.15" in run(code).stdout


def test_preset_is_valid_for_ultralytics():
    import yolov12_plugin as y12

    for scale in "nsmlx":
        assert get_cfg(overrides=y12.preset(scale)).optimizer == "SGD"
