"""What compilers take: torch.export, torch.compile, and quantisation, which rebuilds modules and graphs."""

import io

import torch
from torch import nn

from conformance.capabilities import group
from conformance.support import First, a2c2f, ablock, equal, fused, gradients, images, maps, network, three, total, twin

capability = group("Compilers and quantisation")


@capability
def export_of_one_size():
    """torch.export of AAttn, ABlock, A2C2f, in evaluation and training, strict too; saved and loaded"""
    for block in three().values():
        for training in False, True:
            block.train(training)
            program = torch.export.export(twin(block), (maps(2),))
            equal(program.module()(maps(2).flip(1)), twin(block)(maps(2).flip(1)))
    strict = torch.export.export(a2c2f().eval(), (maps(2),), strict=True)
    file = io.BytesIO()
    torch.export.save(strict, file)
    file.seek(0)
    equal(torch.export.load(file).module()(maps(2)), a2c2f().eval()(maps(2)))


@capability
def export_of_any_size():
    """torch.export of the backbone with dynamic height, width and batch"""
    net = nn.Sequential(*network().model[:9]).eval()
    h, w = torch.export.Dim("h", min=1, max=20), torch.export.Dim("w", min=1, max=20)
    program = torch.export.export(net, (images(2, 64, 96),), dynamic_shapes=({2: 32 * h, 3: 32 * w},)).module()
    for x in images(2, 96, 64), images(2, 128, 128):
        equal(program(x), net(x))


@capability
def export_of_any_batch():
    """torch.export of the backbone and of blocks with a dynamic batch"""
    batch = torch.export.Dim("batch", min=1, max=64)
    net = nn.Sequential(*network().model[:9]).eval()
    program = torch.export.export(net, (images(2, 64, 96),), dynamic_shapes=({0: batch},)).module()
    for x in images(1, 64, 96), images(5, 64, 96):
        equal(program(x), net(x))


@capability
def export_of_blocks_of_any_size():
    """torch.export of AAttn, ABlock, A2C2f alone with all sizes dynamic"""
    auto = torch.export.Dim.AUTO
    for block in three().values():
        program = torch.export.export(
            block.eval(), (maps(2, 64, 8, 12),), dynamic_shapes=({0: auto, 2: auto, 3: auto},)
        ).module()
        for x in maps(2, 64, 12, 8), maps(3, 64, 4, 4):
            equal(program(x), block(x))


@capability
def export_of_a_fused_stage():
    """torch.export of a fused stage"""
    stage, x = fused().model[6], maps(2, 128)
    equal(torch.export.export(stage, (x,)).module()(x), stage(x))


@capability
def trace_of_networks():
    """torch.jit.trace of the network, fused and not, saved and loaded"""
    for net in network().eval(), fused():
        net, file = First(net), io.BytesIO()
        net(images())  # the head's anchors
        torch.jit.save(torch.jit.trace(net, images()), file)
        file.seek(0)
        equal(torch.jit.load(file)(images().flip(0)), net(images().flip(0)))


@capability
def make_fx():
    """torch.fx.experimental.proxy_tensor.make_fx, with real and symbolic shapes"""
    from torch.fx.experimental.proxy_tensor import make_fx

    block = a2c2f().eval()
    for mode in "real", "symbolic":
        graph = make_fx(block, tracing_mode=mode, _allow_non_fake_inputs=True)(maps(2))
        equal(graph(maps(2).flip(1)), block(maps(2).flip(1)))
    equal(graph(maps(3)), block(maps(3)))


@capability
def decomposed():
    """An exported block decomposed to core ATen (the start of ExecuTorch and others)"""
    for block in three().values():
        program = torch.export.export(block.eval(), (maps(2),)).run_decompositions()
        equal(program.module()(maps(2)), block(maps(2)))


@capability
def unflattened():
    """torch.export.unflatten: the modules of an exported block again"""
    block = ablock().eval()
    modules = torch.export.unflatten(torch.export.export(block, (maps(2),)))
    equal(modules(maps(2)), block(maps(2)))
    return sorted(
        name for name, _ in modules.named_modules() if name.rpartition(".")[2] in ("attn", "qkv", "proj", "pe", "mlp")
    )


@capability
def full_graph():
    """torch.compile(fullgraph=True) of the blocks, evaluation and a training step, backend aot_eager"""
    for name, block in three().items():
        equal(torch.compile(block.eval(), fullgraph=True, backend="aot_eager")(maps(2)), block(maps(2)))
        block = block.double().train()
        compiled, other = torch.compile(block, fullgraph=True, backend="aot_eager"), twin(block)
        compiled(maps(2).double()).pow(2).mean().backward()
        other(maps(2).double()).pow(2).mean().backward()
        equal(list(gradients(block).values()), list(gradients(other).values()), 1e-9)
        equal([b.double() for b in block.buffers()], [b.double() for b in other.buffers()], 1e-9)
        torch._dynamo.reset()
        assert gradients(block), name


@capability
def full_graph_of_the_network():
    """torch.compile(fullgraph=True) of the network in training mode; a step of its stages of attention"""
    net, x = network().train(), images()
    with torch.no_grad():
        equal(torch.compile(twin(net), fullgraph=True, backend="aot_eager")(x), net(x), 1e-3)
    stages, x = nn.Sequential(*network().model[5:9]).double().train(), maps(2, 128).double()
    other = twin(stages)
    torch.compile(stages, fullgraph=True, backend="aot_eager")(x).pow(2).mean().backward()
    other(x).pow(2).mean().backward()
    equal(list(gradients(stages).values()), list(gradients(other).values()), 1e-7)
    equal([b.double() for b in stages.buffers()], [b.double() for b in other.buffers()], 1e-9)


@capability
def compiled_for_any_size():
    """torch.compile(dynamic=True) and mark_dynamic: other sizes than the first"""
    block = ablock(4).eval()
    compiled = torch.compile(block, fullgraph=True, dynamic=True, backend="aot_eager")
    for x in maps(2), maps(3, 64, 4, 12), maps(2, 64, 12, 8):
        with torch.no_grad():
            equal(compiled(x), block(x))


@capability
def compiled_in_place():
    """`module.compile()` and compiled parts within an uncompiled network"""
    net, x = network().eval(), images()
    with torch.no_grad():
        before = net(x)[0]
        net.model[6].compile(backend="aot_eager")
        net.model[8].m[0][0].attn = torch.compile(net.model[8].m[0][0].attn, backend="aot_eager")
        equal(net(x)[0], before)


@capability
def hooks_of_a_compiled_block():
    """Forward hooks of a compiled block run"""
    block, seen = ablock().eval(), []
    block.attn.qkv.register_forward_hook(lambda m, args, out: out * 0.5)
    right = block(maps(2))
    equal(torch.compile(block, backend="aot_eager")(maps(2)), right)
    block.mlp.register_forward_hook(lambda m, args, out: seen.append(1))
    torch._dynamo.reset()
    torch.compile(block, backend="eager")(maps(2))
    assert seen == [1]


@capability(seconds=300)
def inductor():
    """torch.compile of a block by its default backend, fullgraph: values and gradients"""
    block, x = ablock().double().train(), maps(2).double()
    other = twin(block)
    torch.compile(block, fullgraph=True)(x).pow(2).mean().backward()
    other(x).pow(2).mean().backward()
    equal(list(gradients(block).values()), list(gradients(other).values()), 1e-6)


def near(y: torch.Tensor, right: torch.Tensor, limit: float) -> None:
    error = ((y - right).norm() / right.norm()).item()
    assert error < limit, f"off by {error:.2f}"


def engine() -> str:
    torch.backends.quantized.engine = "x86" if "x86" in torch.backends.quantized.supported_engines else "qnnpack"
    return torch.backends.quantized.engine


@capability
def quantised_by_fx():
    """torch.ao FX quantisation of a stage of attention: prepared, calibrated, converted, run"""
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    stage, x = a2c2f().eval(), maps(4)
    prepared = prepare_fx(twin(stage), get_default_qconfig_mapping(engine()), (x,))
    prepared(x)
    quantised = convert_fx(prepared)
    near(quantised(x), stage(x), 0.2)
    return [name for name, m in quantised.named_modules() if "quantized" in type(m).__module__]


@capability
def quantised_in_training_by_fx():
    """torch.ao FX quantisation-aware training of a block: steps, then converted"""
    from torch.ao.quantization import get_default_qat_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_qat_fx

    block, x = a2c2f().train(), maps(4)
    prepared = prepare_qat_fx(block, get_default_qat_qconfig_mapping(engine()), (x,))
    for _ in range(3):
        prepared(x).pow(2).mean().backward()
    assert all(p.grad is not None for p in prepared.parameters() if p.requires_grad)
    right = twin(prepared).eval()(x)
    near(convert_fx(prepared.eval())(x), right, 0.3)


@capability
def observed():
    """torch.ao eager quantisation: observers of every convolution see the maps that stock's see"""
    from torch.ao.quantization import get_default_qconfig, prepare

    net = network().eval()
    net.qconfig = get_default_qconfig(engine())
    prepared = prepare(net)
    with torch.no_grad():
        prepared(images())
    seen = {name: m for name, m in prepared.named_modules() if name.endswith("activation_post_process")}
    blind = [name for name, m in seen.items() if hasattr(m, "max_val") and not m.max_val.isfinite().all()]
    assert len(seen) > 80 and "model.6.m.0.0.attn.qkv.conv.activation_post_process" in seen
    return blind


@capability
def quantised_eagerly():
    """torch.ao eager quantisation of mlp, qkv, proj and pe in a block, converted and run"""
    from torch.ao.quantization import QuantWrapper, convert, get_default_qconfig, prepare

    block, x = ablock().eval(), maps(4)
    right = block(x)
    for conv in block.mlp[0], block.mlp[1], block.attn.qkv, block.attn.proj, block.attn.pe:
        conv.conv = QuantWrapper(conv.conv)
        conv.conv.qconfig = get_default_qconfig(engine())
    prepare(block, inplace=True)(x)
    convert(block, inplace=True)
    y = block(x)
    assert sum("quantized" in type(m).__module__ for m in block.modules()) >= 10
    near(y, right, 0.1)


@capability
def fake_quantised_training():
    """torch.ao eager quantisation-aware training of the network: a step, fake quantisers see every convolution"""
    from torch.ao.quantization import get_default_qat_qconfig, prepare_qat

    net = network().train()
    net.qconfig = get_default_qat_qconfig(engine())
    prepared = prepare_qat(net)
    total(prepared(images())).backward()
    found = {name: m for name, m in prepared.named_modules() if name.endswith("activation_post_process")}
    blind = [n for n, m in found.items() if hasattr(m, "max_val") and not m.max_val.isfinite().all()]
    grads = gradients(prepared)
    assert len(found) > 80 and all(g.isfinite().all() for g in grads.values())
    return [blind, len(grads)]


@capability
def onnx_of_a_block():
    """torch.onnx.export of a block, both exporters, run by ONNX Runtime at other sizes"""
    import onnxruntime

    block, x = ablock(4).eval(), maps(2)
    for dynamo in False, True:
        file = f"block-{dynamo}.onnx"
        if dynamo:
            auto = torch.export.Dim.DYNAMIC
            options = dict(dynamo=True, dynamic_shapes=({0: auto, 2: auto, 3: auto},))
        else:
            options = dict(dynamo=False, dynamic_axes={"x": {0: "b", 2: "h", 3: "w"}})
        torch.onnx.export(block, (x,), file, input_names=["x"], **options)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        for other in maps(2), maps(1, 64, 4, 12):
            (y,) = session.run(None, {session.get_inputs()[0].name: other.numpy()})
            equal(torch.from_numpy(y), block(other), 1e-3)


@capability
def optimised_for_inference():
    """A traced network optimised for inference by TorchScript (`optimize_for_inference`, freeze)"""
    net = First(network()).eval()
    net(images())
    traced = torch.jit.trace(net, images())
    frozen = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
    with torch.no_grad():
        equal(frozen(images()), net(images()), 1e-3)
