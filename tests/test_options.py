import copy

import pytest
import torch
import yaml
from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.nn.tasks import DetectionModel, yaml_model_load

import yolov12_plugin as y12
from yolov12_plugin.names import CFG
from yolov12_plugin.nn import options
from yolov12_plugin.nn.options import Row, all_taken, read_section


def model(scale="n", rows=None, **section):
    """YOLOv12 with an `a2c2f:` section, and with the arguments of its A2C2f rows replaced where `rows` gives some."""
    d = yaml_model_load(f"yolov12{scale}.yaml")
    if section:
        d["a2c2f"] = section
    for i, args in (rows or {}).items():
        (d["backbone"] + d["head"])[i][3] = args
    return DetectionModel(d, verbose=False)


def blocks(net):
    return [
        m for m in net.modules() if isinstance(m, y12.A2C2f) and any(isinstance(a, y12.ABlock) for a in m.modules())
    ]


def attentions(net):
    return [m for m in net.modules() if isinstance(m, y12.AAttn)]


def ratio(net):
    mlp = next(m for m in net.modules() if isinstance(m, y12.ABlock)).mlp
    return mlp[0].conv.out_channels / mlp[0].conv.in_channels


def test_options_reach_every_block():
    net = model(residual=0.1, pe_kernel=5, qkv_fused=False, pe_bias=True, vertical=True, mlp_ratio=3, area=2)
    assert [float(b.gamma[0].detach()) for b in blocks(net)] == pytest.approx([0.1, 0.1])
    assert len(attentions(net)) == 8
    for attn in attentions(net):
        assert attn.pe.conv.kernel_size == (5, 5) and attn.pe.conv.bias is not None
        assert attn.vertical and attn.area == 2 and not hasattr(attn, "qkv")
    assert ratio(net) == 3


def test_options_of_the_ablations_reach_every_block():
    net = model(aggregation="elan", projection="linear", norm="ln", pos_embed="relative")
    rows = [m for m in net.model if isinstance(m, y12.A2C2f)]
    assert len(rows) == 5  # those of the head, which have no attention, are aggregated likewise
    assert all(m.aggregation == "elan" and m.cv2.conv.in_channels % (2 + len(m.m)) == 0 for m in rows)
    for attn in attentions(net):
        assert isinstance(attn.qkv.linear, torch.nn.Linear) and isinstance(attn.pe.ln, torch.nn.LayerNorm)
        assert attn.pos_embed == "relative" and attn.cpb_mlp[-1].out_features == attn.num_heads
    assert all(isinstance(m, torch.nn.Linear) for b in blocks(net) for p in b.m for a in p for m in (a.mlp[0].linear,))


@pytest.mark.parametrize("scale, expected", [("n", 2.0), ("m", 4.0), ("l", 1.5)])
def test_value_by_scale(scale, expected):
    assert ratio(model(scale, mlp_ratio={"m": 4.0, "l": 1.5})) == pytest.approx(expected, rel=0.01)


def test_section_wins_over_the_parser():
    """Stock appends residual=True, mlp_ratio=1.2 at scales L and X."""
    assert all(b.gamma is not None for b in blocks(model("l")))
    assert ratio(model("l")) == pytest.approx(1.2, rel=0.01)
    net = model("l", residual=False, mlp_ratio=2.0)
    assert all(b.gamma is None for b in blocks(net)) and ratio(net) == 2.0


@pytest.mark.parametrize("scale", ["n", "l"])
def test_row_wins_over_the_parser_and_section_over_the_row(scale):
    rows = {6: [512, True, 2, True, 1.5], 8: [1024, True, 1, False, 1.5, 0.5]}
    first, second = blocks(model(scale, rows))
    assert first.gamma is not None and second.gamma is None
    assert ratio(first) == ratio(second) == 1.5
    assert {a.area for a in attentions(first)} == {2}
    first, second = blocks(model(scale, rows, residual=0.5, mlp_ratio=3.0))
    assert first.gamma[0] == second.gamma[0] == 0.5 and ratio(first) == 3.0


def test_strings_are_the_literals_that_they_spell():
    """As in stock's parser; YAML 1.1 reads 1e-2 as a string."""
    first, second = blocks(model(rows={6: [512, True, 4, "True", "1.5"]}))
    assert float(first.gamma[0].detach()) == pytest.approx(0.01) and ratio(first) == 1.5 and second.gamma is None
    d = yaml_model_load("yolov12n.yaml") | {"a2c2f": yaml.safe_load("{residual: 1e-2, vertical: 'True'}")}
    net = DetectionModel(d, verbose=False)
    assert float(blocks(net)[0].gamma[0].detach()) == pytest.approx(0.01) and all(a.vertical for a in attentions(net))


def test_the_parser_prints_the_arguments_of_the_row(fork):
    out = fork("from ultralytics import YOLO; YOLO('yolov12l.yaml', verbose=True)").stdout
    assert "[512, 512, 4, True, 4, True, 1.2]" in out and "[768, 256, 2, False, -1, True, 1.2]" not in out
    assert "[1024, 256, 2, False, -1, True, 1.2]" in out


def test_row_with_too_many_arguments():
    with pytest.raises(ValueError, match=r"yolov12n\.yaml, layer 6 \(A2C2f\): 9 arguments, at most 8"):
        model(rows={6: [512, True, 4, True, 1.2, 0.5, 1, True, 9]})


def test_a_module_of_the_user_may_hold_the_block(monkeypatch):
    """Options go to the rows of the YAML, not to blocks that are built inside other modules."""
    from ultralytics.nn import tasks

    class Wrap(torch.nn.Module):
        def __init__(self, c):
            super().__init__()
            self.block = y12.A2C2f(c, c)

        def forward(self, x):
            return self.block(x)

    monkeypatch.setattr(tasks, "Wrap", Wrap, raising=False)
    rows = [[-1, 1, "Conv", [64, 3, 2]], [-1, 1, "Wrap", [64]], [-1, 1, "A2C2f", [64, True, 1]]]
    d = {"nc": 3, "scales": {"n": [1.0, 1.0, 1024]}, "scale": "n", "a2c2f": {"residual": 0.5}}
    net = tasks.ClassificationModel(d | {"backbone": rows, "head": [[-1, 1, "Classify", ["nc"]]]}, verbose=False)
    assert net.model[1].block.gamma is None and net.model[2].gamma is not None


def test_parsing_twice_is_parsing_once():
    """Another plugin may wrap the parser between two registrations."""
    from yolov12_plugin.nn.options import read_section

    d = yaml_model_load("yolov12l.yaml") | {"a2c2f": {"residual": 0.5}}
    d["backbone"][6][3] = [512, True, 2, True, 1.5]
    twice = read_section(read_section(d, y12.A2C2f), y12.A2C2f)
    assert ratio(DetectionModel(twice, verbose=False)) == 1.5


def test_numpy_numbers():
    import numpy as np

    assert ratio(model(mlp_ratio=np.float64(1.5), area=np.int64(2))) == 1.5


def test_short_row_at_scale_l():
    """Stock's L and X extras land on `area` where a row leaves it out."""
    first, _ = blocks(model("l", {6: [512, True]}))
    assert {a.area for a in attentions(first)} == {1} and float(first.gamma[0].detach()) == pytest.approx(0.01)


@pytest.mark.parametrize(
    "section, parts",
    [
        (dict(mpl_ratio=2.0), ["mpl_ratio=2.0", "did you mean mlp_ratio", "layers 6, 8, 11, 14, 17"]),
        (dict(banana=1), ["banana=1", "options are area, residual, mlp_ratio"]),
        (dict(agregation="elan"), ["did you mean aggregation? options are aggregation, "]),
        (dict(pos_embd="none"), ["did you mean pos_embed? options are pos_embed, "]),
        (dict(aggregation="vanilla"), ["aggregation='vanilla' must be r-elan or elan", "layer 6"]),
        (dict(norm="layer"), ["norm='layer' must be bn or ln", "layer 6"]),
        (dict(projection=True), ["projection=True must be conv or linear", "layer 6"]),
        (dict(pos_embed=None), ["pos_embed=None must be none or absolute or relative", "layer 6"]),
        (dict(area=0), ["area=0", "layer 6"]),
        (dict(pe_kernel=4), ["pe_kernel=4", "layer 6"]),
        (dict(mlp_ratio=-1), ["mlp_ratio=-1", "layer 6"]),
        (dict(residual="yes"), ["residual='yes'", "layer 6"]),
        (dict(vertical="no"), ["vertical='no'", "true or false", "layer 6"]),
        (dict(qkv_fused=None), ["qkv_fused=None", "true or false", "layer 6"]),
        (dict(pe_bias=7), ["pe_bias=7", "layer 6"]),
        (dict(residual=float("nan")), ["residual=nan", "layer 6"]),
        (dict(mlp_ratio=float("inf")), ["mlp_ratio=inf", "layer 6"]),
        (dict(mlp_ratio=0.001), ["mlp_ratio=0.001", "no hidden channel", "layer 6"]),
        (dict(e="half"), ["e='half'", "layer 6"]),
        (dict(g=0), ["g=0", "layer 6"]),
        (dict(e=0.3), ["hidden width", "multiple of 32", "layer 6"]),
        (dict(mlp_ratio={"q": 1.0}), ["mlp_ratio", "scale 'q'", "n, s, m, l, x"]),
    ],
)
def test_bad_options_name_key_value_and_layer(section, parts):
    with pytest.raises(ValueError) as error:
        model(**section)
    message = str(error.value)
    assert "\n" not in message and "yolov12n.yaml" in message
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("scale", "nsmlx")
def test_no_residual_is_appended_to_a_row_that_changes_its_channels(scale):
    """Stock's parser appends one at scales L and X, whatever the channels are: its model fails then in forward."""
    net = model(scale, {11: [512, True, 4]})
    assert net.model[11].cv1.conv.in_channels != net.model[11].cv2.conv.out_channels
    first, second, changing = blocks(net)
    assert changing is net.model[11] and changing.gamma is None
    assert (first.gamma is not None) == (second.gamma is not None) == (scale in "lx")
    assert ratio(changing) == pytest.approx(1.2 if scale in "lx" else 2.0, rel=0.02)
    outputs = []
    changing.register_forward_hook(lambda *args: outputs.append(args[-1]))
    net.train()(torch.rand(2, 3, 64, 64))
    outputs[-1].square().mean().backward()
    assert all(p.grad is not None for p in changing.parameters())


@pytest.mark.parametrize("scale", ["n", "l"])
@pytest.mark.parametrize(
    "row, section",
    [
        ([512, True, 4, True], {}),
        ([512, True, 4, "0.1"], {}),
        ([512, True, 4], {"residual": 0.01}),
        ([512, True, 4], {"residual": {"n": True, "l": True}}),
    ],
)
def test_a_residual_that_is_asked_for_is_refused_there(scale, row, section):
    with pytest.raises(ValueError, match=rf"yolov12{scale}\.yaml, layer 11 \(A2C2f\): residual=.*c1=.*c2="):
        model(scale, {11: row}, **section)
    if not section:
        assert model(scale, {11: [512, True, 4, False]}).model[11].gamma is None


@pytest.mark.parametrize("aggregation", ["elan", "r-elan"])
def test_residual_that_does_not_fit(aggregation):
    """Both options are named, and the layer."""
    with pytest.raises(ValueError) as error:
        model(rows={6: [256, True, 4]}, residual=0.1, aggregation=aggregation)
    said = f"yolov12n.yaml, layer 6 (A2C2f): residual=0.1 and aggregation='{aggregation}' do not go together"
    assert said in str(error.value) and "c1=128 and c2=64" in str(error.value) and "\n" not in str(error.value)


def test_scale_that_the_yaml_does_not_have():
    with pytest.raises(ValueError, match=r"yolov12n-mlp2\.yaml has no scale 'n'; scales are l"):
        YOLO("yolov12n-mlp2.yaml")


def test_section_that_is_no_mapping():
    d = yaml_model_load("yolov12n.yaml") | {"a2c2f": ["residual"]}
    with pytest.raises(ValueError, match="must be a mapping"):
        DetectionModel(d, verbose=False)


def test_hidden_width_names_the_layer():
    with pytest.raises(ValueError, match=r"yolov12n\.yaml, layer 8 \(A2C2f\): hidden width c2\*e=24"):
        model(rows={8: [192, True, 1]})


def test_failed_build_leaves_no_options_behind():
    with pytest.raises(ValueError):
        model(rows={8: [192, True, 1]}, residual=0.3)
    assert y12.A2C2f(64, 64).gamma is None


def test_parser_does_not_change_the_dictionary():
    d = yaml_model_load("yolov12l-turbo.yaml")
    before = copy.deepcopy(d)
    DetectionModel(d, verbose=False)
    assert d["a2c2f"] == before["a2c2f"] and d["backbone"] == before["backbone"]


def test_one_line_in_a_copy_of_the_yaml(tmp_path, monkeypatch):
    """The authors' advice for seg and cls models that collapse: the residual at every scale."""
    (tmp_path / "yolov12.yaml").write_text((CFG / "models/yolov12.yaml").read_text() + "\na2c2f: {residual: 0.01}\n")
    monkeypatch.chdir(tmp_path)
    assert all(b.gamma is not None for b in blocks(YOLO("yolov12n.yaml").model))


def test_models_rebuild_with_their_options():
    """The trainer rebuilds a model from the dictionary that it carries."""
    net = model("s", pe_kernel=3, residual=0.2)
    again = DetectionModel(copy.deepcopy(net.yaml), nc=3, verbose=False)
    assert {a.pe.conv.kernel_size for a in attentions(again)} == {(3, 3)}
    assert yaml.safe_load(yaml.safe_dump(net.yaml["a2c2f"])) == {"pe_kernel": 3, "residual": 0.2}


@pytest.mark.parametrize("way", ["int", "json", "literal"])
def test_options_that_are_lost_on_the_way_are_an_error(monkeypatch, way):
    """Another plugin's parser that makes the rows anew would build another model without a word."""
    import ast
    import json

    stock = tasks.parse_model
    anew = {
        "int": lambda d: {
            **d,
            "backbone": [[*row[:3], [int(a) if type(a) is Row else a for a in row[3]]] for row in d["backbone"]],
        },
        "json": lambda d: d | json.loads(json.dumps({part: d[part] for part in ("backbone", "head")})),
        "literal": lambda d: d | {part: ast.literal_eval(str(d[part])) for part in ("backbone", "head")},
    }[way]
    inner = stock.__wrapped__
    d = read_section(shipped(), y12.A2C2f)
    with pytest.raises(ValueError, match=r"layer \d+ \(A2C2f\): its options did not reach the block"), all_taken(d):
        inner(anew(d), 3, verbose=False)
    with all_taken(d := read_section(shipped(), y12.A2C2f)):  # the parser changes what it is given
        inner(d, 3, verbose=False)


def shipped():
    from yolov12_plugin.paper.networks import shipped

    return shipped("yolov12n") | {"a2c2f": {"pe_kernel": 5}}


@pytest.mark.parametrize(
    "key, near",
    [("A2C2f", "a2c2f"), ("a2c2:", "a2c2f"), ("a2c2", "a2c2f"), ("a2_c2f", "a2c2f"), ("A2C2F", "a2c2f"), ("ac2f", "a2c2f"),
     ("activaton", "activation"), ("kpt-shape", "kpt_shape"), ("NC", "nc"), ("Scales", "scales")],
)  # fmt: skip
def test_a_misspelt_section_is_warned_of_once(key, near, caplog):
    options._warn_of_section.cache_clear()
    for _ in range(2):
        DetectionModel(yaml_model_load("yolov12n.yaml") | {key: {"residual": True}}, verbose=False)
    assert [record.getMessage() for record in caplog.records if record.name == "yolov12_plugin"] == [
        f"yolov12-plugin: yolov12n.yaml: nothing reads its key {key!r}; did you mean {near}?"
    ]


@pytest.mark.parametrize(
    "key", ["a2c2f", "reg_max", "channels", "author", "name", "names", "task", "notes", "c2f", "anchors", 7]
)
def test_keys_that_are_read_or_like_none_are_not_warned_of(key, caplog):
    options.warn_of_misspelt_sections(yaml_model_load("yolov12n.yaml") | {key: None}, y12.A2C2f)
    assert not caplog.records


def test_yamls_of_others_and_the_plugin_s_own_are_not_warned_of(caplog):
    options.warn_of_misspelt_sections(yaml_model_load("yolo11n.yaml") | {"a2c2": {}}, y12.A2C2f)
    for path in (CFG / "models").rglob("*.yaml"):
        options.warn_of_misspelt_sections(yaml_model_load(path.name), y12.A2C2f)
    assert not caplog.records
