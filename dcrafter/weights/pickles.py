"""Pickled checkpoints: what they would do is read from their opcodes before torch unpickles them with `weights_only`.

Even so a pickle may call a few functions, and `bytearray(2_000_000_000)` is one of them; a deflated record grows a
thousandfold. Published files call two functions, and store their records as they are.
"""

from __future__ import annotations

import _compat_pickle
import pickle
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from dcrafter.errors import WeightsError

MAX_PICKLE = 16_000_000  # bytes; that of a published file has 600,000
MAX_OPCODES = 1_000_000  # a published file has 100,000
MAX_COPIED = 64_000_000  # characters and items that calls are given, all calls together
MAX_SHOWN = 3  # names in an error, and
MAX_NAME = 80  # characters of each
LEGACY_PICKLES = 5  # magic number, protocol, system, content, keys: a file from before zip files

# What torch's own unpickler may call. Others that it would call take memory of any size, or nothing that we read.
CALLED = {
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_parameter",
    "collections.OrderedDict",
    "torch.nn.parameter.Parameter",
    "torch.Size",
    "torch.device",
    "_codecs.encode",
    "builtins.set",
}
# What may be named beside them.
NAMED = re.compile(
    r"torch\.(\w+Storage|float\d+\w*|bfloat16|half|double|u?int\d+|long|bool|complex\d+|storage\.\w+Storage)"
)
# What published pickles name beside tensors: training settings. An inert stand-in is unpickled in their place;
# anything else makes a file unsafe.
HARMLESS = re.compile(
    r"(omegaconf|numpy|pytorch_lightning|lightning|lightning_fabric|deepspeed|typing|argparse|collections|pathlib|enum)"
    r"\..+|builtins\.(dict|list|tuple|set|int|float|str|bool|bytes|complex|NoneType)"
)


def load(path: Path, is_zip: bool) -> Any:
    """What a pickled checkpoint holds, its tensors mapped where the file is a zip.

    Raises:
        WeightsError: it would run code, or take far more memory than the file is large.
        Exception: nearly any, of a damaged file.
    """
    names = _names_in_zip(path) if is_zip else _names_in_legacy(path)
    found = [name for name in names if name not in CALLED and not NAMED.fullmatch(name)]
    if unsafe := [name for name in found if not HARMLESS.fullmatch(name)]:
        raise _unsafe(path, f"it would run code ({', '.join(name[:MAX_NAME] for name in unsafe[:MAX_SHOWN])})")
    stand_ins: list[Any] = [(_InertDict if name.lower().endswith("dict") else _Inert, name) for name in found]
    try:
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", mmap=is_zip, weights_only=True)
    except pickle.UnpicklingError as error:
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise _unsafe(path, f"it would run code ({refused[1][:MAX_NAME]})") from error
        raise ValueError("it cannot be unpickled") from error


def _names_in_zip(path: Path) -> list[str]:
    """The names in a checkpoint's pickle, once its records and opcodes are found harmless."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise _unsafe(path, "its records are compressed, which no published one's are")
    if len({record.filename for record in records}) < len(records):
        raise _unsafe(path, "it has two records of one name")
    if sum(record.file_size for record in records) > size:
        raise _unsafe(path, "its records overlap")
    if any(record.file_size > MAX_PICKLE for record in records if record.filename.endswith("data.pkl")):
        raise _unsafe(path, "its list of tensors is larger than any model's")
    reader = torch._C.PyTorchFileReader(str(path))  # the bytes that torch will read, whatever else the file holds
    return _Reader(path, size).read(reader.get_record("data.pkl"))


def _names_in_legacy(path: Path) -> list[str]:
    size = path.stat().st_size
    reader = _Reader(path, size)
    with path.open("rb") as file:
        for _ in range(LEGACY_PICKLES):
            reader.read(file)
    return reader.names


@dataclass(slots=True)
class _Value:
    """Something on the unpickler's stack: how much copying it would cost, and what is known of it."""

    size: int = 1
    name: str = ""  # of a global
    number: int | None = None
    items: tuple[_Value, ...] = ()  # of a tuple


class _Reader:
    """Follows pickles opcode by opcode with stand-ins for values, and refuses calls that would take much memory."""

    def __init__(self, path: Path, file_size: int) -> None:
        self.path, self.file_size = path, file_size
        self.names: list[str] = []
        self.copied = self.opcodes = 0

    def read(self, content: bytes | BinaryIO) -> list[str]:
        """The names in one pickle. Raises WeightsError for what is unsafe, ValueError and kin for what is no pickle."""
        mark = _Value()
        stack: list[_Value] = []
        memo: dict[Any, _Value] = {}

        def pop_to_mark() -> list[_Value]:
            values = []
            while (value := stack.pop()) is not mark:
                values.append(value)
            return values[::-1]

        for opcode, argument, _ in pickletools.genops(content):
            self.opcodes += 1
            if self.opcodes > MAX_OPCODES:
                raise _unsafe(self.path, "its list of tensors is larger than any model's")
            name = opcode.name
            if name == "MARK":
                stack.append(mark)
            elif name == "GLOBAL":
                stack.append(_Value(name=_full_name(str(argument))))
                self.names.append(stack[-1].name)
            elif name in ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "DUP"):
                raise ValueError(f"{name} is not for weights")
            elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
                memo[argument] = stack[-1]
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET", "GET"):
                stack.append(memo[argument])
            elif name == "TUPLE":
                stack.append(_tuple(pop_to_mark()))
            elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
                count = int(name[-1])
                stack[-count:] = [_tuple(stack[-count:])]
            elif name in ("LIST", "DICT", "FROZENSET"):
                stack.append(_Value(_size(pop_to_mark())))
            elif name in ("APPENDS", "SETITEMS", "ADDITEMS"):
                values = pop_to_mark()
                stack[-1].size = _size([stack[-1], *values])
            elif name in ("APPEND", "SETITEM"):
                values = [stack.pop() for _ in range(1 + (name == "SETITEM"))]
                stack[-1].size = _size([stack[-1], *values])
            elif name in ("REDUCE", "NEWOBJ"):
                arguments, called = stack.pop(), stack.pop()
                stack.append(self._call(called, arguments))
            elif name == "BUILD":
                self._count(stack.pop())
            elif name == "BINPERSID":
                stack.append(self._storage(stack.pop()))
            elif name == "POP":
                stack.pop()
            elif name == "POP_MARK":
                pop_to_mark()
            elif opcode.stack_after and not opcode.stack_before:  # a constant
                is_number = isinstance(argument, int) and not isinstance(argument, bool)
                length = len(argument) if isinstance(argument, str | bytes | bytearray) else 1
                stack.append(_Value(1 + length, number=argument if is_number else None))
        return self.names

    def _call(self, called: _Value, arguments: _Value) -> _Value:
        if called.name not in CALLED and (NAMED.fullmatch(called.name) or not HARMLESS.fullmatch(called.name)):
            raise _unsafe(self.path, f"it would run code ({called.name[:MAX_NAME] or 'what is no function'})")
        self._count(arguments)
        return _Value(arguments.size)

    def _count(self, value: _Value) -> None:
        self.copied += value.size
        if self.copied > MAX_COPIED:
            raise _unsafe(self.path, "it would take far more memory than it is large")

    def _storage(self, value: _Value) -> _Value:
        """("storage", type, key, location, number of values, …): no more values than the file has bytes."""
        if len(value.items) > 4 and (count := value.items[4].number) is not None and count > self.file_size:
            raise ValueError(f"a tensor of {count} values is more than the file holds")
        return _Value()


def _tuple(values: list[_Value]) -> _Value:
    return _Value(_size(values), items=tuple(values))


def _size(values: list[_Value]) -> int:
    return min(1 + sum(value.size for value in values), 2 * MAX_COPIED)


def _full_name(module_and_name: str) -> str:
    """As torch reads it, which knows the names that Python 2 had."""
    module, name = module_and_name.split(" ", 1)
    module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
    return f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}"


class _Inert:
    """Takes the place of a pickled object that we have no use for; ignores all it is given."""

    def __new__(cls, *args: object, **kwargs: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


class _InertDict(_Inert):
    """The same for dictionaries of other kinds, whose items the unpickler sets one by one."""

    def __new__(cls, *args: object, **kwargs: object) -> Any:
        return OrderedDict()


def _unsafe(path: Path, what: str) -> WeightsError:
    return WeightsError(
        f"the checkpoint {path} is unsafe and was not loaded: {what}",
        "Only use weights from people you trust, as safetensors where there is a choice",
    )
