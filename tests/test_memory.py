"""Bytes kept for the backward pass, ours against stock's."""

import pytest
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel

import yolov12_plugin as y12
from yolov12_plugin.benchmark.memory import saved_bytes


def test_counts_each_storage_once():
    x = torch.rand(4, 10, requires_grad=True)
    linear = nn.Linear(10, 5)
    assert saved_bytes(linear, x) == x.nbytes
    assert saved_bytes(nn.Sequential(linear, nn.Sigmoid()), x) == x.nbytes + 4 * 5 * 4


@pytest.mark.slow
@pytest.mark.parametrize("scale, imgsz, limit", [("n", 640, 0.87), ("n", 1280, 0.65), ("l", 640, 0.87)])
def test_training_keeps_less_than_stock(scale, imgsz, limit, stock):
    images = torch.rand(1, 3, imgsz, imgsz)
    theirs = saved_bytes(DetectionModel(f"yolo12{scale}.yaml", verbose=False).train(), images)
    y12.register()
    ours = saved_bytes(DetectionModel(f"yolov12{scale}.yaml", verbose=False).train(), images)
    print(scale, imgsz, ours / theirs)
    assert ours / theirs <= limit


@pytest.mark.parametrize("size", [40, 80])
def test_block_keeps_no_map_of_tokens_by_tokens(size):
    """Each layer of the attention keeps its input once, the MLP only its own; at any number of tokens."""
    x = torch.rand(1, 64, size, size)
    block = y12.ABlock(64, 2, 2.0, 4)
    # x, qkv before and after normalisation, attention, perceiver, their sum, proj, the MLP's input: 1 3 3 1 1 1 1 1
    assert saved_bytes(block, x) / x.nbytes < 12.1
