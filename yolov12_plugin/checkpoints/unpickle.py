"""A pickle read as data: what it names, calls and builds is written down, and nothing of it is run."""

import pickletools
from collections import OrderedDict
from collections.abc import Callable, Collection
from pickle import UnpicklingError
from typing import Any

from yolov12_plugin.errors import shown

MOST = 1_000_000  # opcodes; the largest of the authors' releases, with both models and the optimizer, takes 150,000

SCALARS = (str, int, float, bool, type(None))


class Global:
    """A name of a class, a function or a constant."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return self.name


class Call:
    """A function by its name, and what it would be called with."""

    __slots__ = ("args", "function", "state")

    def __init__(self, function: str, args: tuple[Any, ...]):
        self.function, self.args, self.state = function, args, None


class Instance:
    """An object: its class by its name, and its state."""

    __slots__ = ("kind", "state")

    def __init__(self, kind: str):
        self.kind, self.state = kind, None


class Storage:
    """A record of the archive: its type by its name, its key, and the values that it is said to have."""

    __slots__ = ("count", "key", "kind")

    def __init__(self, kind: str, key: str, count: int):
        self.kind, self.key, self.count = kind, key, count


def parse(data: bytes, known: Callable[[str], bool], functions: Collection[str]) -> Any:
    """What a pickle of `torch.save` describes: containers and scalars, and in them the classes of this module.

    Args:
        data: the pickle.
        known: whether a name may occur.
        functions: the names that may be called; all others are of classes, whose constructors are not there.

    Raises:
        UnpicklingError: it does what no pickle of `torch.save` does.
        ValueError, LookupError: it is damaged.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def marked() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def store(target: Any, items: list[Any]) -> None:
        if type(target) not in (dict, OrderedDict) or not all(_is_key(key) for key in items[::2]) or len(items) % 2:
            raise UnpicklingError(f"entries in {shown(target, 40)}")
        target.update(zip(items[::2], items[1::2]))

    arg: Any
    for count, (opcode, arg, _) in enumerate(pickletools.genops(data)):
        if count == MOST:
            raise UnpicklingError(f"more than {MOST} steps to build it")
        match opcode.name:
            case "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case (
                "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "BINFLOAT" | "LONG1" | "SHORT_BINSTRING" | "BINSTRING"
            ):
                stack.append(arg)
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "MARK":
                marks.append(len(stack))
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = ("EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3").index(opcode.name)
                stack[len(stack) - size :] = [tuple(stack[len(stack) - size :])]
            case "TUPLE":
                stack.append(tuple(marked()))
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_SET":
                stack.append(set())
            case "APPEND" | "APPENDS":
                items = [stack.pop()] if opcode.name == "APPEND" else marked()
                if type(stack[-1]) is not list:
                    raise UnpicklingError(f"items in {shown(stack[-1], 40)}")
                stack[-1] += items
            case "ADDITEMS":
                items = marked()
                if type(stack[-1]) is not set or not all(map(_is_key, items)):
                    raise UnpicklingError(f"items in {shown(stack[-1], 40)}")
                stack[-1].update(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                store(stack[-1], [key, value])
            case "SETITEMS":
                items = marked()
                store(stack[-1], items)
            case "GLOBAL":
                module, _, attribute = arg.partition(" ")
                name = f"{'builtins' if module == '__builtin__' else module}.{attribute}"
                if not known(name):
                    raise UnpicklingError(f"it names {shown(name)}")
                stack.append(Global(name))
            case "NEWOBJ" | "REDUCE":
                args, function = stack.pop(), stack.pop()
                stack.append(_called(function, args, functions if opcode.name == "REDUCE" else ()))
            case "BUILD":
                state, target = stack.pop(), stack[-1]
                if type(target) is OrderedDict and type(state) is dict and [*state] == ["_metadata"]:
                    vars(target).update(state)  # of a state dict
                    continue
                if type(target) not in (Instance, Call) or target.state is not None or state is None:
                    raise UnpicklingError(f"a state of {shown(target, 40)}")
                target.state = state
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "PROTO":
                if arg != 2:
                    raise UnpicklingError(f"protocol {arg}, where torch.save has 2")
            case "STOP":
                [result] = stack
                return result
            case _:
                raise UnpicklingError(f"the opcode {opcode.name}")
    raise ValueError("the pickle has no end")


def _is_key(key: Any) -> bool:
    """Whether it can be a key that costs no more than another: hashes of large integers and of tuples may collide."""
    return type(key) in SCALARS and not (type(key) is int and key.bit_length() > 63)


def _called(function: Any, args: Any, functions: Collection[str]) -> Any:
    if type(args) is not tuple:
        raise UnpicklingError(f"arguments that are {shown(args, 40)}")
    if type(function) is not Global:
        of = f"name={function.args[-1]!r}" if type(function) is Call and function.args else shown(function, 40)
        raise UnpicklingError(f"it calls what is no function ({shown(of, 60)})")
    if function.name == "collections.OrderedDict" and args == ():
        return OrderedDict()
    if function.name in functions:
        return Call(function.name, args)
    if args:
        raise UnpicklingError(f"it calls {function.name.rpartition('.')[2]}")
    return Instance(function.name)


def _storage(identity: Any) -> Storage:
    match identity:
        case ("storage", Global(), str(key), str(), int(count)) if type(identity) is tuple:
            return Storage(identity[1].name, key, count)
    raise UnpicklingError(f"a record {shown(identity, 40)}")
