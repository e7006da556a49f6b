"""Compiled functions called by their machine code: kept on disk, and run without numba."""

from __future__ import annotations

import copy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from asr import native
from asr.native import Flat, Native

ROOT = Path(__file__).resolve().parent.parent
KERNELS = '''
import numpy as np
from asr.jit import native

@native
def scaled(pair, x, factor, start, out):
    """Add a factor times x to the sum of a pair of arrays, from a place on."""
    for i in range(start, len(x)):
        out[i] = pair[0][i] + pair[1][0, i] + factor * x[i]

@native
def allocates(x):
    x[0] = np.zeros(int(x[0])).sum()
'''


@pytest.fixture
def kernels(tmp_path, monkeypatch) -> Path:
    """A module of compiled functions, and a cache of its own."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "kernels_for_tests.py").write_text(KERNELS)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delitem(sys.modules, "kernels_for_tests", raising=False)
    return tmp_path


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "cache" / "asr" / "machine-code").glob("*.o"))


def call(function: Native, dtype=np.float32) -> np.ndarray:
    x = np.arange(5, dtype=dtype)
    pair = (np.full(5, 10, np.float32), np.full((1, 5), 100, np.float32))
    out = np.zeros(5, np.float32)
    function(pair, x, np.float32(2), 1, out)
    return out


EXPECTED = [0, 112, 114, 116, 118]


def test_arrays_tuples_and_numbers_arrive(kernels):
    scaled = Native("kernels_for_tests", "scaled")
    assert call(scaled).tolist() == EXPECTED
    assert call(scaled, np.float64).tolist() == EXPECTED
    assert len(kept(kernels)) == 2, "one for each type of the arguments"
    x = np.arange(5, dtype=np.float32)
    x.flags.writeable = False
    out = np.zeros(5, np.float32)
    scaled((np.zeros(5, np.float32), np.zeros((1, 5), np.float32)), x, np.float32(1), 0, out)
    assert out.tolist() == [0, 1, 2, 3, 4] and len(kept(kernels)) == 2


def test_a_tuple_laid_out_once_can_be_copied(kernels):
    scaled = Native("kernels_for_tests", "scaled")
    flat = Flat((np.full(3, 10, np.float32), np.full((1, 3), 100, np.float32)))
    other = copy.deepcopy(flat)
    flat.value[0][:] = 0
    for pair, expected in ((flat, [100, 101, 102]), (other, [110, 111, 112])):
        out = np.zeros(3, np.float32)
        scaled(pair, np.arange(3, dtype=np.float32), np.float32(1), 0, out)
        assert out.tolist() == expected
    assert len(kept(kernels)) == 1


def test_a_second_process_needs_no_numba(kernels):
    call(Native("kernels_for_tests", "scaled"))
    program = (
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
        "from tests.test_native import call, EXPECTED\n"
        "from asr.native import Native\n"
        "loaded = 'numba' in sys.modules\n"
        "assert call(Native('kernels_for_tests', 'scaled')).tolist() == EXPECTED\n"
        "sys.exit('numba is loaded' if 'numba' in sys.modules and not loaded else 0)\n"
    )
    command = [sys.executable, "-c", program, str(ROOT), str(kernels / "modules")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("damage", [lambda content: content[:-7], lambda content: b"", lambda content: content[::-1]])
def test_damaged_machine_code_is_made_again(kernels, damage):
    call(Native("kernels_for_tests", "scaled"))
    (path,) = kept(kernels)
    good = path.read_bytes()
    path.write_bytes(damage(good))
    assert call(Native("kernels_for_tests", "scaled")).tolist() == EXPECTED
    assert kept(kernels) == [path] and native._read(path) is not None


def test_changed_source_is_compiled_again(kernels, monkeypatch):
    call(Native("kernels_for_tests", "scaled"))
    (kernels / "modules" / "kernels_for_tests.py").write_text(KERNELS.replace("factor * x", "(factor + 1) * x"))
    monkeypatch.delitem(sys.modules, "kernels_for_tests")
    assert call(Native("kernels_for_tests", "scaled")).tolist() == [0, 113, 116, 119, 122]
    assert len(kept(kernels)) == 2


def test_a_change_of_what_kernels_are_made_of_compiles_again(kernels, monkeypatch):
    shared = kernels / "shared"
    shared.mkdir()
    (shared / "vectors.py").write_text("")
    monkeypatch.setattr(native, "_SHARED", shared)
    call(Native("kernels_for_tests", "scaled"))
    (shared / "vectors.py").write_text("changed = True")
    call(Native("kernels_for_tests", "scaled"))
    assert len(kept(kernels)) == 2


def test_without_a_place_to_keep_it_it_is_compiled_each_time(kernels, monkeypatch, caplog):
    native._say_once.cache_clear()
    caplog.set_level("INFO", "asr")
    (kernels / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(kernels / "file"))
    assert call(Native("kernels_for_tests", "scaled")).tolist() == EXPECTED
    once, kept_nowhere = caplog.messages
    assert "compiling" in once and f"{kernels / 'file'}" in kept_nowhere and "not a directory" in kept_nowhere
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert call(Native("kernels_for_tests", "scaled")).tolist() == EXPECTED
    assert len(caplog.messages) == 2


def test_threads_share_one_compilation(kernels):
    scaled = Native("kernels_for_tests", "scaled")
    with ThreadPoolExecutor(4) as pool:
        assert all(out.tolist() == EXPECTED for out in pool.map(lambda _: call(scaled), range(20)))
    assert len(kept(kernels)) == 1


def test_a_function_that_needs_numbas_library_is_refused(kernels):
    with pytest.raises(RuntimeError, match="may not allocate"):
        Native("kernels_for_tests", "allocates")(np.ones(3))
    assert not kept(kernels)
