"""Machine code on disk, with several processes that compile at the same time."""

from __future__ import annotations

import subprocess
import sys

from asr.alignment.compiled import best_path
from asr.jit import CacheFile


def test_code_of_two_processes_that_compile_at_once_is_never_mistaken(tmp_path):
    first, second = (CacheFile(str(tmp_path), "function-1.py311", "stamp") for _ in range(2))
    written_late = []
    first._save_data = lambda name, data: written_late.append((name, data))  # type: ignore[method-assign]
    second._load_index = dict  # type: ignore[method-assign]  # it had looked before the first one wrote

    first.save("arguments of the first", "its code")
    second.save("arguments of the second", "other code")
    CacheFile._save_data(first, *written_late[0])

    later = CacheFile(str(tmp_path), "function-1.py311", "stamp")
    assert later.load("arguments of the second") == "other code"
    assert later.load("arguments of the first") in ("its code", None)


def test_compiled_functions_keep_their_code_so():
    compiled = [value for value in vars(best_path).values() if hasattr(value, "_cache") and hasattr(value, "py_func")]
    kept = [value for value in compiled if hasattr(value._cache, "_cache_file")]
    assert kept and all(type(value._cache._cache_file) is CacheFile for value in kept)


def test_code_from_disk_that_holds_an_instruction_as_text_can_be_linked():
    script = """
import asr.model.cpu.tiles
from llvmlite import binding
binding.initialize_native_target()
binding.initialize_native_asmprinter()
module = binding.parse_assembly('define void @f() { call void asm sideeffect "nop", ""() ret void }')
print(len(binding.Target.from_default_triple().create_target_machine().emit_object(module)) > 0)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "True\n"), ended.stderr  # else LLVM ends the process
