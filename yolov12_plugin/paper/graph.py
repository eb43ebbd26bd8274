"""What a module computes: the submodules and functions that it calls and their tensors, recorded in a run."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

INPUT, OUTPUT, CONCAT, SPLIT = "input", "output", "concat", "split"
ARITHMETIC = {"add": "+", "sub": "−", "mul": "×", "div": "÷", "truediv": "÷"}
OPERATIONS = {  # what functions are called here; others by their own name
    **ARITHMETIC,
    **dict.fromkeys(("cat", "concat", "concatenate"), CONCAT),
    **dict.fromkeys(("chunk", "split", "tensor_split", "unbind"), SPLIT),
    "scaled_dot_product_attention": "attention",
    "getitem": "slice",
    "setitem": "write",
}
SAME_VALUES = {  # in another order, shape or type
    *("clone", "contiguous", "detach", "expand", "flatten", "float", "get", "half", "movedim", "permute", "reshape"),
    *("squeeze", "swapaxes", "t", "to", "transpose", "type", "unflatten", "unsqueeze", "view", "view_as"),
}


@dataclass(frozen=True, eq=False)
class Node:
    """A call of a submodule, which `name` finds in the module, or of a function; `op` is what either is called.

    `constants` are the operands that do not depend on the input: numbers, and parameters by name with their value where
    it is but one.
    """

    op: str
    name: str = ""
    module: nn.Module | None = None
    constants: tuple[str, ...] = ()


@dataclass(frozen=True)
class Edge:
    """A tensor on its way: of what `source` yields the one numbered `output`, and its shapes at both ends."""

    source: int
    target: int
    output: int
    made: tuple[int, ...]
    taken: tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    """Nodes in the order of their calls, from the input to the output; one edge for each operand, in its order."""

    nodes: list[Node]
    edges: list[Edge]

    def into(self, target: int) -> list[Edge]:
        return [edge for edge in self.edges if edge.target == target]


@torch.no_grad()
def record(module: nn.Module, x: Any) -> Graph:
    """The graph of one run on a tensor, or a list of them, in evaluation mode; as deep as what `module` itself calls.

    Functions that change no value (views, copies, layouts) are part of the edges. What the output does not depend on
    is left out.

    Raises:
        ValueError: The output does not depend on the input.
    """
    recorder = Recorder(module, x)
    training = module.training
    try:
        with recorder:
            out = module.eval()(x)
    finally:
        module.train(training)
        for hook in recorder.hooks:
            hook.remove()
    return recorder.graph(out)


class Recorder(TorchFunctionMode):
    """Sees functions as a mode of PyTorch does, and submodules, within which no function is looked at, by hooks."""

    def __init__(self, module: nn.Module, x: Any):
        super().__init__()
        self.nodes = [Node(INPUT)]
        self.edges: list[Edge] = []
        self.origin: dict[int, tuple[int, int, tuple[int, ...]]] = {}  # of a tensor: node, number there, shape there
        self.constants = {id(t): name for name, t in chain(module.named_parameters(), module.named_buffers())}
        self.alive: list[Any] = []  # so that an id stays that of one tensor
        self.depth = 0
        self.given: list[Tensor] = []
        self.hooks = []
        self.yields(0, x)
        for name, m in module.named_modules():
            if name:
                self.hooks.append(m.register_forward_pre_hook(self.enter, with_kwargs=True))
                self.hooks.append(m.register_forward_hook(self.leave(name)))

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if not self.depth:
            self.given = list(tensors((args, kwargs)))  # some modules write into the list that they are given
        self.depth += 1

    def leave(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, out: Any) -> Any:
            if self.depth == 1:
                out = self.distinct(out)
                self.add(Node(type(module).__name__, name, module), self.given, out)
            self.depth -= 1
            return out

        return hook

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.depth:
            return out
        name = func.__name__
        if name == "__setitem__":
            self.call("setitem", (args, kwargs), args[0])
            return out
        if name.startswith("__") or not name.endswith("_"):  # in place, the operand is from here on the result
            out = self.distinct(out)
        name = name.strip("_")
        self.call(name[1:] if name[0] == "r" and name[1:] in ARITHMETIC else name, (args, kwargs), out)
        return out

    def distinct(self, out: Any) -> Any:
        """A tensor that no other node has yielded: some modules and functions return what they were given."""
        return out.view_as(out) if isinstance(out, Tensor) and id(out) in self.origin else out

    def call(self, name: str, given: Any, out: Any) -> None:
        if name.endswith("_like") or name.startswith("new_"):
            given = ()  # but for its shape
        operands = list(tensors(given))
        source = next((self.origin[id(t)] for t in operands if id(t) in self.origin), None)
        if source is not None and name in SAME_VALUES:
            self.origin |= {id(t): source for t in tensors(out)}
            self.alive.append(out)
        elif any(True for _ in tensors(out)):
            known = self.constants.keys() - self.origin.keys()  # what has been written into depends on the input
            constants = [f"{self.constants[id(t)]}{value(t)}" for t in operands if id(t) in known]
            if name in ARITHMETIC:
                constants += [f"{number:.3g}" for number in given[0] if isinstance(number, (int, float))]
            self.add(Node(OPERATIONS.get(name, name), constants=tuple(constants)), given, out)

    def add(self, node: Node, given: Any, out: Any) -> None:
        operands = list(tensors(given))
        sources = [(self.origin[id(t)], tuple(t.shape)) for t in operands if id(t) in self.origin]
        self.alive.append((given, out))
        if not sources:  # from parameters alone
            names = [self.constants[id(t)] for t in operands if id(t) in self.constants]
            self.constants |= dict.fromkeys(map(id, tensors(out)), node.name or next(iter(names), node.op))
            return
        index = len(self.nodes)
        self.nodes.append(node)
        self.edges += [Edge(source, index, output, made, taken) for (source, output, made), taken in sources]
        self.yields(index, out)

    def yields(self, index: int, out: Any) -> None:
        self.origin |= {id(t): (index, i, tuple(t.shape)) for i, t in enumerate(tensors(out))}

    def graph(self, out: Any) -> Graph:
        self.add(Node(OUTPUT), out, None)
        if self.nodes[-1].op != OUTPUT:
            raise ValueError("the output does not depend on the input: there is nothing to draw")
        needed = {len(self.nodes) - 1}
        for edge in reversed(self.edges):  # they are in the order of their targets
            if edge.target in needed:
                needed.add(edge.source)
        number = {old: new for new, old in enumerate(sorted(needed))}
        edges = [replace(e, source=number[e.source], target=number[e.target]) for e in self.edges if e.target in needed]
        return Graph([self.nodes[old] for old in number], edges)


def tensors(x: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples and dictionaries."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, (list, tuple)):
        for part in x:
            yield from tensors(part)
    elif isinstance(x, dict):
        yield from tensors(list(x.values()))


def value(t: Tensor) -> str:
    """What a constant holds, where it is one number."""
    return f" = {t.flatten()[0]:g}" if t.numel() and t.min() == t.max() else ""
