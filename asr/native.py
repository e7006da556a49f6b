"""Compiled functions that are called without numba: it makes their machine code once, which LLVM then loads from disk.

Loading numba and its tables takes 0.3 s and 60 MB, more than all else that the transcription of a short file needs.
What it compiled is a function of flat arguments, so that ctypes can call it: an array is its owner and that owner's
parent (both unknown here), its size, the size of an item, its place, its shape and its strides; a tuple is its members.

A function that is called this way allocates nothing and returns nothing.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import logging
import os
import platform
import re
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import asr
from asr.errors import os_reason
from asr.files import cache_folder, write_bytes

log = logging.getLogger(__name__)

#: the name of the function in its machine code
_SYMBOL = "asr_kernel"
#: the function of numba's library that frees the owner of an array
_FREE = "NRT_MemInfo_call_dtor"
#: what numba's functions answer: done, and done without a result
_DONE = (0, -2)
#: vectors and products, which the functions of other rooms are made of, too
_SHARED = Path(__file__).parent / "model" / "cpu"
_LOCK = threading.Lock()
_WORD, _PLACE = ctypes.c_int64, ctypes.c_void_p
_SCALARS = {"i": _WORD, "f": ctypes.c_float, "d": ctypes.c_double}


def cpu() -> tuple[str, str]:
    """Return LLVM's name of this processor and what it can do, or what numba's variables say of it."""
    from llvmlite import binding  # 40 MB, which an exported model does not need

    name = os.environ.get("NUMBA_CPU_NAME") or binding.get_host_cpu_name()
    return name, os.environ.get("NUMBA_CPU_FEATURES") or binding.get_host_cpu_features().flatten()


class Flat:
    """A tuple that is given to functions many times, laid out for them once."""

    def __init__(self, value: tuple[Any, ...]) -> None:
        self.value = value
        self.arguments: list[Any] = []
        kinds: list[str] = []
        _flatten(value, self.arguments, kinds)
        self.kind = "".join(kinds)

    def __reduce__(self) -> tuple[Any, ...]:
        return Flat, (self.value,)  # a copy has arrays of its own, at other places


class Native:
    """A function that numba compiles, called by its machine code. Calls run without the GIL."""

    def __init__(self, module: str, name: str) -> None:
        """Name the function; its module is imported only to compile it."""
        self._module = module
        self._name = name
        #: by the kinds of the arguments
        self._ready: dict[str, Callable[..., int]] = {}

    def __call__(self, *values: Any) -> None:
        """Run the function on arrays of C's order, numbers, and tuples of these."""
        flat: list[Any] = []
        kinds: list[str] = []
        for value in values:
            _flatten(value, flat, kinds)
        key = "".join(kinds)
        function = self._ready.get(key)
        if function is None:
            with _LOCK:
                function = self._ready.get(key) or self._prepare(key, values)
        nothing = (_PLACE * 2)()
        status = function(ctypes.byref(nothing), ctypes.byref(nothing, ctypes.sizeof(_PLACE)), *flat)
        if status not in _DONE:
            raise RuntimeError(f"{self._module}.{self._name} failed: {status}")

    def _prepare(self, key: str, values: tuple[Any, ...]) -> Callable[..., int]:
        path = self._place(key)
        code = _read(path)
        if code is None:
            _say_once(logging.INFO, "compiling for this processor; this happens once and takes about 10 s")
            code = self._compile(values)
            _write(path, code)
        function: Callable[..., int] = _load(code, key)
        self._ready[key] = function
        return function

    def _place(self, key: str) -> Path | None:
        """Return the file of the machine code, named for all that it depends on; None: there is no place for it."""
        import llvmlite

        found = importlib.util.find_spec(self._module)
        assert found is not None and found.origin is not None
        sources = [*Path(found.origin).parent.glob("*.py"), *_SHARED.glob("*.py"), Path(__file__).with_name("jit.py")]
        stamps = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(set(sources))]
        versions = asr.__version__, llvmlite.__version__, platform.machine(), platform.python_version()
        parts = (key, stamps, *cpu(), *versions)
        digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
        try:
            return cache_folder() / "machine-code" / f"{self._module}.{self._name}-{digest}.o"
        except RuntimeError:  # no home folder
            return None

    def _compile(self, values: tuple[Any, ...]) -> bytes:
        """Compile the function for arguments of these types, by numba, and return its machine code."""
        from llvmlite import binding
        from numba import typeof, types

        def type_of(value: Any) -> Any:
            if isinstance(value, np.ndarray):  # one that is read-only is taken as any other
                return types.Array(typeof(value).dtype, value.ndim, "C")
            return types.int64 if isinstance(value, int | np.integer) else typeof(value)

        dispatcher = getattr(importlib.import_module(self._module), self._name)
        signature = tuple(type_of(value.value if isinstance(value, Flat) else value) for value in values)
        dispatcher.compile(signature)
        module = binding.parse_assembly(dispatcher.inspect_llvm(signature))
        module.get_function(dispatcher.overloads[signature].fndesc.llvm_func_name).name = _SYMBOL
        _without_owners(module)
        _keep_only(_SYMBOL, module)
        return bytes(_target_machine().emit_object(module))


def _without_owners(module: Any) -> None:
    """Give a module a function that frees the owner of an array. It is never called: these arrays have no owner."""
    from llvmlite import binding

    for function in module.functions:
        if function.name == _FREE and function.is_declaration:
            place = "ptr" if "(ptr" in str(function) else "i8*"
            module.link_in(binding.parse_assembly(f"define linkonce_odr void @{_FREE}({place} %owner) {{ ret void }}"))
            return


def _keep_only(name: str, module: Any) -> None:
    """Leave out of a module what a function does not call: the ways in for Python and for C, which need numba.

    What it calls must be in every process: LLVM ends one that lacks it.
    """
    everywhere = ctypes.CDLL(None)
    functions = {function.name: function for function in module.functions}
    kept, waiting = set[str](), [name]
    while waiting:
        one = waiting.pop()
        if one in kept or one.startswith("llvm."):
            continue
        kept.add(one)
        if not functions[one].is_declaration:
            waiting += functions.keys() & set(re.findall(r"@\"?([\w.$]+)", str(functions[one])))
        elif not hasattr(everywhere, one):
            raise RuntimeError(f"compiled code calls {one}: a kernel may not allocate or raise")
    for function in functions.values():
        if function.name not in kept and not function.is_declaration:
            function.linkage = "available_externally"


def _flatten(value: Any, flat: list[Any], kinds: list[str]) -> None:
    """Append a value as numba's functions take it, and its kind."""
    if isinstance(value, Flat):
        flat += value.arguments
        kinds.append(value.kind)
    elif isinstance(value, np.ndarray):
        assert value.flags.c_contiguous
        flat += (None, None, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides)
        kinds.append(f"{value.dtype.char}{value.ndim}")
    elif isinstance(value, tuple):
        kinds.append("(")
        for member in value:
            _flatten(member, flat, kinds)
        kinds.append(")")
    elif isinstance(value, float | np.float32):
        flat.append(float(value))
        kinds.append("d" if isinstance(value, float) else "f")
    else:
        flat.append(int(value))
        kinds.append("i")


def _argument_types(key: str) -> list[Any]:
    types: list[Any] = []
    for _, dimensions, scalar in re.findall(r"(\w)(\d)|([ifd])", key):
        if scalar:
            types.append(_SCALARS[scalar])
        else:
            types += [_PLACE, _PLACE, _WORD, _WORD, _PLACE, *[_WORD] * (2 * int(dimensions))]
    return types


def _target_machine() -> Any:
    from llvmlite import binding

    if hasattr(binding, "initialize_native_asmparser"):
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        binding.initialize_native_asmparser()
    name, features = cpu()
    target = binding.Target.from_default_triple()
    reloc = "static" if target.triple.startswith("x86") else "default"  # as numba has it
    return target.create_target_machine(cpu=name, features=features, opt=3, reloc=reloc, codemodel="jitdefault")


def _load(code: bytes, key: str) -> Any:
    """Make a function of machine code."""
    from llvmlite import binding

    machine = _target_machine()
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.object_file.ObjectFileRef.from_data(code))
    engine.finalize_object()
    made = ctypes.CFUNCTYPE(ctypes.c_int32, _PLACE, _PLACE, *_argument_types(key))
    function: Any = made(engine.get_function_address(_SYMBOL))
    function.engine = engine  # which owns the memory
    return function


def _read(path: Path | None) -> bytes | None:
    """Return the machine code in a file, None if it is not there or not whole."""
    try:
        content = path.read_bytes() if path else b""
    except OSError:
        return None
    digest, code = content[:32], content[32:]
    return code if code and hashlib.sha256(code).digest() == digest else None


def _write(path: Path | None, code: bytes) -> None:
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, hashlib.sha256(code).digest() + code)
    except OSError as error:
        where = error.filename or path.parent
        _say_once(logging.WARNING, f"compiled code cannot be kept: {where}: {os_reason(error)}; each start compiles it")


@cache
def _say_once(level: int, line: str) -> None:
    log.log(level, line)
