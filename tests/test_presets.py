import re

import pytest
from conftest import SHARED

import yolov12_plugin as y12

# Table 7, row by row; values by scale N/S/M/L/X where they differ.
TABLE7 = {
    "epochs": 600,
    "optimizer": "SGD",
    "momentum": 0.937,
    "batch": 32 * 8,
    "weight_decay": 5e-4,
    "warmup_epochs": 3,
    "warmup_momentum": 0.8,
    "warmup_bias_lr": 0.0,
    "lr0": 1e-2,
    "lrf": 1e-4 / 1e-2,
    "cos_lr": False,
    "box": 7.5,
    "cls": 0.5,
    "dfl": 1.5,
    "hsv_s": 0.7,
    "hsv_v": 0.4,
    "hsv_h": 0.015,
    "translate": 0.1,
    "scale": "0.5/0.9/0.9/0.9/0.9",
    "mosaic": 1.0,
    "mixup": "0.0/0.05/0.15/0.15/0.2",
    "copy_paste": "0.1/0.15/0.4/0.5/0.6",
    "close_mosaic": 10,
}


@pytest.mark.parametrize("index, scale", list(enumerate("nsmlx")))
def test_table_7(index, scale):
    expected = {
        key: float(value.split("/")[index]) if isinstance(value, str) and "/" in value else value
        for key, value in TABLE7.items()
    }
    assert y12.preset(scale) == expected


@pytest.mark.skipif(not (SHARED / "paper.txt").is_file(), reason="the paper's text is not beside the checkout")
@pytest.mark.parametrize("row, key", [("Scale", "scale"), ("Mixup", "mixup"), ("Copy-paste", "copy_paste")])
def test_rows_by_scale_are_the_paper_s(row, key):
    text = (SHARED / "paper.txt").read_text(encoding="utf-8")
    assert re.search(rf"^{row} augmentation\t(\S+)$", text, re.M).group(1) == TABLE7[key]


def test_unknown_scale():
    with pytest.raises(ValueError, match="no preset for scale 'q'; scales are l, m, n, s, x"):
        y12.preset("q")
