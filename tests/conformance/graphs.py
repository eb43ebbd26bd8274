"""Graphs that PyTorch makes of the blocks and of the network: FX, TorchScript, traces."""

import io

import torch
from torch import nn

from conformance.capabilities import group
from conformance.support import (
    a2c2f,
    aattn,
    equal,
    gradients,
    images,
    maps,
    network,
    three,
    twin,
)

capability = group("Graphs")


def other_sizes():
    """Maps of other sizes than the one that a graph was made from."""
    return maps(3), maps(1, 64, 4, 12), maps(2, 64, 12, 8)


@capability
def fx_trace():
    """torch.fx.symbolic_trace of AAttn, ABlock, A2C2f: right at any batch and size"""
    for training in False, True:
        for block in three().values():
            graph = torch.fx.symbolic_trace(block.train(training))
            for x in other_sizes():
                equal(graph(x), twin(block)(x))


@capability
def fx_trace_of_networks():
    """torch.fx.symbolic_trace of the backbone's stages of attention in a row"""
    net = nn.Sequential(*network().model[5:9]).eval()
    graph, x = torch.fx.symbolic_trace(net), maps(2, 128, 8, 16)
    equal(graph(x), net(x))
    return [node.target for node in graph.graph.nodes if node.op == "call_module"]


@capability
def fx_trace_of_the_whole():
    """torch.fx.symbolic_trace of the whole DetectionModel"""
    net = network().eval()
    equal(torch.fx.symbolic_trace(net)(images())[0], net(images())[0])


@capability
def fx_modules():
    """A graph by FX calls the modules that stock's calls"""
    found = []
    for block in three().values():
        nodes = torch.fx.symbolic_trace(block.eval()).graph.nodes
        found.append([node.target for node in nodes if node.op == "call_module"])
    return found


@capability
def fx_transformed():
    """A pass over the graph (activations replaced, modules fused) as torch.fx documents it"""
    from torch.fx.experimental.optimization import fuse

    block, x = a2c2f().eval(), maps(2)
    equal(fuse(block)(x), block(x))
    graph = torch.fx.symbolic_trace(block)
    for node in graph.graph.nodes:
        if node.op == "call_module" and isinstance(graph.get_submodule(node.target), nn.SiLU):
            with graph.graph.inserting_after(node):
                node.replace_all_uses_with(graph.graph.call_function(torch.relu, node.args))
            graph.graph.erase_node(node)
    graph.recompile()
    for m in block.modules():
        if isinstance(getattr(m, "act", None), nn.SiLU):
            m.act = nn.ReLU()
    equal(graph(x), block(x))


@capability
def fx_training():
    """A graph by FX trains: gradients and statistics of the module"""
    block = a2c2f().double().train()
    graph = torch.fx.symbolic_trace(twin(block))
    block(maps(2).double()).pow(2).mean().backward()
    graph(maps(2).double()).pow(2).mean().backward()
    found, right = gradients(graph), gradients(block)
    assert found.keys() == right.keys()
    equal([found[k] for k in right], list(right.values()), 1e-9)


@capability
def features_by_name():
    """torchvision's create_feature_extractor of names within a block"""
    from torchvision.models.feature_extraction import create_feature_extractor

    block, x = a2c2f().eval(), maps(2)
    names = ["cv1.act", "m.0.0.attn.proj.conv", "m.0.1.mlp.1.bn"]
    found = create_feature_extractor(block, names)(x)
    return [found[name] for name in names]


@capability
def interpreted_shapes():
    """FX's ShapeProp and fake tensors through a block"""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.passes.shape_prop import ShapeProp

    graph = torch.fx.symbolic_trace(a2c2f().eval())
    ShapeProp(graph).propagate(maps(2))
    last = list(graph.graph.nodes)[-1]
    assert tuple(last.meta["tensor_meta"].shape) == (2, 64, 8, 8)
    block = a2c2f().eval()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert block(mode.from_tensor(maps(2))).shape == (2, 64, 8, 8)


@capability
def script():
    """torch.jit.script of AAttn, ABlock, A2C2f: right at any batch and size, in both modes"""
    for name, block in three().items():
        for training in False, True:
            scripted = torch.jit.script(twin(block).train(training))
            for x in other_sizes():
                equal(scripted(x), twin(block).train(training)(x))
            assert scripted(x).shape == x.shape, name


@capability
def script_with_a_residual():
    """torch.jit.script of A2C2f with gamma, of a2=False, and of uneven heads"""
    from ultralytics.nn.modules import block as blocks

    for block, x in (
        (a2c2f(residual=True), maps(2)),
        (blocks.A2C2f(64, 64, 1, False), maps(2)),
        (aattn(100, 3, 4), maps(2, 100)),
    ):
        equal(torch.jit.script(block.eval())(x), block(x))


@capability
def script_saved_and_frozen():
    """A scripted block saved, loaded and frozen; its gradients"""
    block, x = a2c2f().eval(), maps(2)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(block), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    equal(loaded(x), block(x))
    equal(torch.jit.freeze(loaded)(x), block(x))
    loss = torch.jit.script(twin(block).train())(x).pow(2).mean()
    loss.backward()
    assert loss.isfinite()


@capability
def trace():
    """torch.jit.trace of the blocks"""
    for block in three().values():
        block.eval()
        equal(torch.jit.trace(block, maps(2))(maps(2).flip(1)), block(maps(2).flip(1)))


@capability
def trace_in_training():
    """torch.jit.trace in training mode: the traced step has the module's gradients"""
    for block in three().values():
        block.train()
        traced = torch.jit.trace(twin(block), maps(2), check_trace=False)
        traced(maps(2)).pow(2).mean().backward()
        twin_ = twin(block)
        twin_(maps(2)).pow(2).mean().backward()
        found = gradients(traced)
        equal([found[k] for k in gradients(twin_)], list(gradients(twin_).values()), 1e-3)


@capability
def counted_operations():
    """FlopCounterMode, thop and Ultralytics' `model.info()`: the operations of the convolutions are stock's"""
    from torch.utils.flop_counter import FlopCounterMode
    from ultralytics.utils.torch_utils import get_flops

    net = network().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(images(1))
    counts = counter.get_flop_counts()["Global"]
    return [counts[torch.ops.aten.convolution], get_flops(net, 64), net.info(verbose=True)[:3]]


@capability
def dispatched():
    """A TorchDispatchMode (profilers, memory trackers) sees a step; tensor subclasses pass through"""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            Count.seen += func is torch.ops.aten.convolution.default
            return func(*args, **(kwargs or {}))

    block = a2c2f().train()
    with Count():
        block(maps(2)).mean()

    class Tagged(torch.Tensor):
        pass

    y = a2c2f().eval()(maps(2).as_subclass(Tagged))
    assert isinstance(y, Tagged)
    return Count.seen
