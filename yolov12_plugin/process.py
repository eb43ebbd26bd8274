"""What a process has but one of, for all that runs in it."""

import importlib
import os
import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import numpy as np
import torch
from ultralytics.nn.modules.conv import Conv

CUDNN = ("enabled", "benchmark", "deterministic")


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leave random numbers, environment, threads and PyTorch's switches as the caller had them, whatever happens.

    Trainings, exports and Ultralytics' choice of a device set all of them. As a decorator it holds for each call; of
    calls that overlap in several threads, the last to end leaves what it found.
    """
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(gpus))
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())
        stack.callback(_restore_environment, dict(os.environ))
        if torch.backends.mps.is_available():
            stack.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
        (nnpack,) = torch.backends.nnpack.set_flags(True)
        torch.backends.nnpack.set_flags(nnpack)
        stack.callback(torch.backends.nnpack.set_flags, nnpack)
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        stack.callback(torch.set_grad_enabled, torch.is_grad_enabled())
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        deterministic, warn_only = (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        stack.callback(partial(torch.use_deterministic_algorithms, deterministic, warn_only=warn_only))
        for flag in CUDNN:
            stack.callback(setattr, torch.backends.cudnn, flag, getattr(torch.backends.cudnn, flag))
        if torch.cuda.is_initialized():
            stack.callback(torch.cuda.set_device, torch.cuda.current_device())
        yield


@contextmanager
def same_activation() -> Iterator[None]:
    """Leave convolutions their activation: Ultralytics 8.3 leaves that of a YAML to every model built after it."""
    act = Conv.default_act
    try:
        yield
    finally:
        Conv.default_act = act


@contextmanager
def quantiser_as_it_was() -> Iterator[None]:
    """ModelOpt changes ONNX Runtime's quantiser for good: all later exports to ONNX in INT8 fail, or have less in INT8.

    It replaces functions, and takes operations out of the registries.
    """
    with suppress(ImportError):
        importlib.import_module("onnxruntime.quantization")  # or ModelOpt's own would be what is found here
    modules = [m for name, m in sys.modules.items() if name.startswith("onnxruntime.quantization")]
    kinds = {kind for m in modules for kind in vars(m).values() if isinstance(kind, type)}
    own = [kind for kind in kinds if kind.__module__.startswith("onnxruntime.quantization")]
    before = [(owner, dict(vars(owner))) for owner in (*modules, *own)]
    registries = [t for m in modules for name, t in vars(m).items() if isinstance(t, dict) and name[:2] != "__"]
    entries = [(registry, dict(registry)) for registry in registries]
    try:
        yield
    finally:
        for owner, attributes in before:
            for name, value in attributes.items():
                if vars(owner).get(name) is not value:
                    setattr(owner, name, value)
        for registry, usual in entries:
            registry.clear()
            registry.update(usual)


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """What is built here, on the CPU, has the same weights every time; the caller's random numbers stay as they are."""
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs too
        yield


def _restore_environment(environment: dict[str, str]) -> None:
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
