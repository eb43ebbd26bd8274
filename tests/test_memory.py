"""Bytes kept for the backward pass, ours against stock's."""

import pytest
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel

import yolov12_plugin as y12
from yolov12_plugin.nets import saved_bytes


def test_counts_each_storage_once():
    x = torch.rand(4, 10, requires_grad=True)
    linear = nn.Linear(10, 5)
    assert saved_bytes(linear, x) == x.nbytes
    assert saved_bytes(nn.Sequential(linear, nn.Sigmoid()), x) == x.nbytes + 4 * 5 * 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "scale, imgsz, limit, switched_on", [("n", 640, 0.90, 0.75), ("n", 1280, 0.68, 0.57), ("l", 640, 0.88, 0.72)]
)
def test_training_keeps_less_than_stock(scale, imgsz, limit, switched_on, stock):
    images = torch.rand(1, 3, imgsz, imgsz)
    theirs = saved_bytes(DetectionModel(f"yolo12{scale}.yaml", verbose=False).train(), images)
    y12.register()
    net = DetectionModel(f"yolov12{scale}.yaml", verbose=False).train()
    assert saved_bytes(net, images) / theirs <= limit
    with y12.checkpointing():
        assert saved_bytes(net, images) / theirs <= switched_on


@pytest.mark.parametrize("size", [40, 80])
def test_block_keeps_no_map_of_tokens_by_tokens(size):
    """Each layer keeps its input once, at any number of tokens; checkpointed, the block keeps its own alone."""
    x = torch.rand(1, 64, size, size)
    block = y12.ABlock(64, 2, 2.0, 4)
    # x, qkv before and after normalisation, attention, v, perceiver, their sum, proj: 1 3 3 1 1 1 1 1;
    # the MLP's input, hidden before normalisation, activation and after, result: 1 2 2 2 1
    assert saved_bytes(block, x) / x.nbytes < 20.1
    with y12.checkpointing():
        assert saved_bytes(block, x) <= x.nbytes + 2**14  # and the state of the random generator
