"""Graphs of modules, recorded in a run."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from ultralytics.nn.modules.block import C3, C2f

from yolov12_plugin import A2C2f, AAttn, ABlock
from yolov12_plugin.paper.graph import record


class Custom(nn.Module):
    """Two convolutions, an identity, and a forward of the test's."""

    def __init__(self, forward):
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.same = nn.Identity()
        self.scale = nn.Parameter(torch.full((4,), 0.5))
        self.run = forward

    def forward(self, x):
        return self.run(self, x)


def named(graph, node):
    return graph.nodes[node].name or graph.nodes[node].op


def edges(graph):
    return [(named(graph, edge.source), named(graph, edge.target)) for edge in graph.edges]


def at(graph, op):
    """Index of the one node that is called so."""
    (index,) = [i for i in range(len(graph.nodes)) if named(graph, i) == op]
    return index


def sources(graph, op):
    return [named(graph, edge.source) for edge in graph.into(at(graph, op))]


def write_into(m, x):
    y = torch.zeros_like(x)
    y[:, :2] = m.a(x)[:, :2]
    return y


def add_in_place(m, x):
    y = m.a(x)
    y.add_(m.b(x))
    return y


def add_and_rebind(m, x):
    y = x
    y = m.a(y)
    y += x
    return y


PLAIN = [("input", "a"), ("a", "output")]
SHORTCUT = [("input", "a"), ("input", "+"), ("a", "+"), ("+", "output")]


@pytest.mark.parametrize(
    "forward, expected",
    [
        (lambda m, x: m.a(x), PLAIN),
        (lambda m, x: m.b(m.a(x)), [("input", "a"), ("a", "b"), ("b", "output")]),
        (lambda m, x: x + m.a(x), SHORTCUT),
        (lambda m, x: torch.add(input=x, other=m.a(x)), SHORTCUT),
        (add_and_rebind, [("input", "a"), ("a", "+"), ("input", "+"), ("+", "output")]),
        (lambda m, x: [m.b(m.b(x)), m.a(x)][1], PLAIN),  # b is not needed
        (lambda m, x: m.a(x).transpose(2, 3).contiguous().flatten(2).clone(), PLAIN),
        (add_in_place, [("input", "a"), ("input", "b"), ("a", "+"), ("b", "+"), ("+", "output")]),
        # What is handed on unchanged is still what it was where it is used beside.
        (lambda m, x: m.same(x) + x, [("input", "same"), ("same", "+"), ("input", "+"), ("+", "output")]),
        (
            lambda m, x: F.dropout(x, training=False) + x,
            [("input", "dropout"), ("dropout", "+"), ("input", "+"), ("+", "output")],
        ),
        (lambda m, x: torch.cat([x, x], 1), [("input", "concat"), ("input", "concat"), ("concat", "output")]),
        (lambda m, x: m.a(m.a(x)), [("input", "a"), ("a", "a"), ("a", "output")]),
        (write_into, [("input", "a"), ("a", "slice"), ("slice", "write"), ("write", "output")]),
        (lambda m, x: m.a(x).relu(), [("input", "a"), ("a", "relu"), ("relu", "output")]),
        (lambda m, x: {"out": [m.a(x), x]}, [("input", "a"), ("a", "output"), ("input", "output")]),
    ],
)
def test_what_runs_is_what_is_recorded(forward, expected):
    assert edges(record(Custom(forward), torch.zeros(1, 4, 3, 5))) == expected


@pytest.mark.parametrize(
    "forward, op, constants",
    [
        (lambda m, x: m.a(x) * 2, "×", ("2",)),
        (lambda m, x: 1 - m.a(x), "−", ("1",)),
        (lambda m, x: m.a(x) / 3, "÷", ("3",)),
        (lambda m, x: m.scale.view(1, -1, 1, 1) * m.a(x), "×", ("scale = 0.5",)),
        (lambda m, x: m.a.bias.view(1, -1, 1, 1) + x, "+", ("a.bias",)),  # of several values
        (lambda m, x: x + m.b(torch.ones(1, 4, 3, 5)), "+", ("b",)),
        (lambda m, x: F.conv2d(x, m.a.weight), "conv2d", ("a.weight",)),
        (lambda m, x: x * m.a(x), "×", ()),
        (lambda m, x: write_into(m, x) + 2, "+", ("2",)),
    ],
)
def test_operands_that_do_not_depend_on_the_input(forward, op, constants):
    graph = record(Custom(forward), torch.zeros(1, 4, 3, 5))
    assert graph.nodes[at(graph, op)].constants == constants


def test_nothing_of_the_input():
    with pytest.raises(ValueError, match="does not depend on the input"):
        record(Custom(lambda m, x: m.a.weight * 2), torch.zeros(1, 4, 3, 5))


def test_a_split_s_parts_are_told_apart():
    def forward(m, x):
        first, second = x.chunk(2, 1)
        return torch.cat([second, first, second], 1)

    graph = record(Custom(forward), torch.zeros(1, 4, 3, 5))
    assert [edge.output for edge in graph.into(at(graph, "concat"))] == [1, 0, 1]
    assert {edge.made for edge in graph.into(at(graph, "concat"))} == {(1, 2, 3, 5)}


def test_a_list_as_input():
    graph = record(Custom(lambda m, x: torch.cat([x[1], m.a(x[0])], 1)), [torch.zeros(1, 4, 3, 5)] * 2)
    assert edges(graph) == [("input", "a"), ("input", "concat"), ("a", "concat"), ("concat", "output")]


class Overwrites(nn.Module):
    """Keeps its results in the list that it is given, as Detect of older Ultralytics does."""

    def forward(self, x):
        for i, part in enumerate(x):
            x[i] = part * 2
        return x


def test_a_module_that_writes_into_its_operands():
    def forward(m, x):
        return torch.cat(m.same([m.a(x), x]), 1)

    m = Custom(forward)
    m.same = Overwrites()
    assert edges(record(m, torch.zeros(1, 4, 3, 5))) == [
        *[("input", "a"), ("a", "same"), ("input", "same")],
        *[("same", "concat"), ("same", "concat"), ("concat", "output")],
    ]


BLOCKS = [  # and how many parts of its transition a block concatenates
    *((A2C2f(64, 64, n, True, 4, residual), 1) for n in (1, 2, 3) for residual in (False, True)),
    *((A2C2f(96, 64, n, True, aggregation="elan"), 2) for n in (1, 2, 3)),
    *((A2C2f(96, 64, n, False), 1) for n in (1, 3)),
    *((A2C2f(96, 64, n, False, aggregation="elan"), 2) for n in (1, 3)),
    *((C2f(64, 96, n), 2) for n in (1, 3)),
]


@pytest.mark.parametrize("block, parts", BLOCKS)
def test_aggregation(block, parts):
    """R-ELAN concatenates its transition and all blocks, n + 1 maps; ELAN both halves of it and all blocks, n + 2."""
    graph = record(block, torch.zeros(1, block.cv1.conv.in_channels, 4, 8))
    stacked = [f"m.{i}" for i in range(len(block.m))]
    transition = "cv1" if parts == 1 else "split"
    assert sources(graph, "concat") == [transition] * parts + stacked
    for before, m in zip([transition, *stacked], stacked):
        assert sources(graph, m) == [before]
    assert sources(graph, "cv2") == ["concat"] and graph.nodes[at(graph, "cv2")].module is block.cv2
    if parts == 2:
        assert sources(graph, "split") == ["cv1"]
        assert [edge.output for edge in graph.into(at(graph, "concat"))][:2] == [0, 1]
        assert [edge.output for edge in graph.into(at(graph, "m.0"))] == [1]


@pytest.mark.parametrize("residual, said", [(False, None), (True, "gamma = 0.01"), (0.5, "gamma = 0.5")])
def test_residual(residual, said):
    block = A2C2f(64, 64, 2, True, 4, residual)
    graph = record(block, torch.zeros(1, 64, 4, 8))
    sums = [i for i, node in enumerate(graph.nodes) if node.op == "+"]
    assert bool(sums) == (block.gamma is not None) == (said is not None)
    if said is None:
        assert sources(graph, "output") == ["cv2"] and sources(graph, "cv1") == ["input"]
        assert [edge.target for edge in graph.edges if edge.source == 0] == [at(graph, "cv1")]
        return
    assert sources(graph, "+") == ["input", "×"] and sources(graph, "×") == ["cv2"]
    assert graph.nodes[at(graph, "×")].constants == (said,)
    with torch.no_grad():
        block.gamma[3] = 7.0  # a training leaves no one value
    assert record(block, torch.zeros(1, 64, 4, 8)).nodes[at(graph, "×")].constants == ("gamma",)


@pytest.mark.parametrize("block", [*(block for block, _ in BLOCKS), C3(64, 64, 2), ABlock(64, 2), AAttn(64, 2, 4)])
def test_channels_are_those_of_the_modules(block):
    convolutions = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    graph = record(block, torch.zeros(1, convolutions[0].in_channels, 4, 8))
    for i, node in enumerate(graph.nodes):
        inner = [m for m in node.module.modules() if isinstance(m, nn.Conv2d)] if node.module else []
        if inner:
            assert [edge.taken for edge in graph.into(i)] == [(1, inner[0].in_channels, 4, 8)]
        if len(inner) == 1:
            assert {edge.made for edge in graph.edges if edge.source == i} == {(1, inner[0].out_channels, 4, 8)}
        if node.op == "concat":
            (out,) = [edge.made for edge in graph.edges if edge.source == i]
            assert sum(edge.taken[1] for edge in graph.into(i)) == out[1]


def test_block_of_attention():
    assert edges(record(ABlock(64, 2, area=4), torch.zeros(1, 64, 4, 8))) == [
        *[("input", "attn"), ("input", "+"), ("attn", "+")],
        *[("+", "mlp"), ("+", "+"), ("mlp", "+"), ("+", "output")],
    ]


@pytest.mark.parametrize("h, w, calls", [(4, 8, 1), (3, 5, 2)])
def test_attention(h, w, calls):
    """Queries, keys and values by areas, and the perceiver on the values; parts of two sizes are attended apart."""
    graph = record(AAttn(64, 2, 4), torch.zeros(1, 64, h, w))
    attended = [i for i, node in enumerate(graph.nodes) if node.op == "attention"]
    assert len(attended) == calls
    assert [edge.taken for i in attended for edge in graph.into(i)] == (
        [(4, 2, 8, 32)] * 3 if calls == 1 else [(3, 2, 4, 32)] * 3 + [(1, 2, 3, 32)] * 3
    )
    if calls == 1:
        q, k, v = graph.into(attended[0])
        (perceived,) = graph.into(at(graph, "pe"))
        assert {q.output, k.output, v.output} == {0, 1, 2} and perceived.output == v.output
        assert sources(graph, "+") == ["attention", "pe"]


def test_the_module_is_left_as_it_was():
    block = A2C2f(64, 64, 1, True, 1, True).train()
    block.m.eval()
    x = torch.rand(1, 64, 4, 8)
    state = {key: value.clone() for key, value in block.state_dict().items()}
    record(block, x)
    assert all(torch.equal(value, state[key]) for key, value in block.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in block.modules())
    assert block.training


def test_a_run_that_fails_leaves_no_hooks():
    block = A2C2f(64, 64, 1).train()
    with pytest.raises(RuntimeError):
        record(block, torch.zeros(1, 3, 4, 8))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in block.modules())
    assert block.training
