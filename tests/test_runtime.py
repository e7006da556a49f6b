from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import asr
from asr.errors import ConfigError
from asr.machine import commit, is_out_of_memory, use_threads
from asr.runtime import (
    autocast,
    environment,
    find_device,
    find_precision,
    generator,
    hardware,
    stable_seed,
    use_device,
)

CPU = torch.device("cpu")


def test_seeds_are_the_same_in_every_year_on_every_machine():
    # printf '1\x1fspeed\x1f0\x1fan4-0001' | b2sum -l 64, without its lowest bit
    assert stable_seed(1, "speed", 0, "an4-0001") == 0x15010AB2901978B0 >> 1
    assert stable_seed() == 0xE4A6A0577479B2B4 >> 1


@given(st.lists(st.text(st.characters(exclude_characters="\x1f", exclude_categories=["Cs"])), max_size=4))
def test_seeds_fit_numpy_and_torch_and_tell_parts_apart(parts):
    seed = stable_seed(*parts)
    assert 0 <= seed < 2**63
    torch.Generator().manual_seed(seed)
    assert stable_seed(*parts, "x") != seed
    assert stable_seed("".join(parts)) != seed or len(parts) < 2


def test_generators_of_the_same_parts_draw_the_same():
    assert generator(1, "a").random(5).tolist() == generator(1, "a").random(5).tolist()
    assert generator(1, "a").random(5).tolist() != generator(1, "b").random(5).tolist()
    assert isinstance(generator(0), np.random.Generator)


def test_auto_takes_cuda_where_it_is(monkeypatch):
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert find_device("auto").type == expected


def _device_error(name: str) -> str:
    with pytest.raises(ConfigError) as caught:
        find_device(name)
    assert caught.value.key == "train.device"
    assert "\n" not in str(caught.value) and f"'{name}'" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["gpu", "cdua", "", "cpu:x", "cuda:-1"])
def test_an_unknown_device_is_an_error_that_shows_the_known(name):
    assert "unknown device" in _device_error(name)


@pytest.mark.parametrize("name", ["meta", "mps", "xpu"])
def test_a_device_that_torch_knows_and_this_toolkit_does_not_is_refused(name):
    assert "only cpu and cuda" in _device_error(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_cuda_without_a_gpu_is_an_error_with_the_way_out(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA device is available here; use cpu or auto" in _device_error(name)


def test_a_gpu_beyond_the_last_is_an_error_with_their_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert "there is only 1 CUDA device here" in _device_error("cuda:1")
    assert find_device("cuda:0").index == 0
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("cuda:1").index == 1
    assert "there are only 2 CUDA devices here" in _device_error("cuda:2")


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_a_precision_that_is_named_is_taken(name):
    assert find_precision(name, CPU) == name


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({}, "fp32"),
        ({"avx512_bf16": False, "amx_bf16": False}, "fp32"),
        ({"avx512_f": True, "avx2": True}, "fp32"),
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
    ],
)
def test_auto_precision_is_bf16_only_where_the_cpu_multiplies_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert find_precision("auto", CPU) == expected


def _pretend_gpu(monkeypatch, *, bf16: bool, capability: tuple[int, int] = (9, 0)) -> torch.device:
    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return True if including_emulation else bf16

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Tesla T4")
    return torch.device("cuda")


@pytest.mark.parametrize(
    ("bf16", "capability", "expected"),
    [(True, (8, 0), "bf16"), (False, (7, 5), "fp16"), (False, (7, 0), "fp16"), (False, (6, 1), "fp32")],
)
def test_auto_precision_on_cuda_is_what_the_hardware_multiplies(monkeypatch, bf16, capability, expected):
    assert find_precision("auto", _pretend_gpu(monkeypatch, bf16=bf16, capability=capability)) == expected


def test_a_gpu_without_bfloat16_refuses_it_and_names_what_it_has(monkeypatch):
    gpu = _pretend_gpu(monkeypatch, bf16=False, capability=(7, 5))
    with pytest.raises(ConfigError, match="precision 'bf16': Tesla T4 does not multiply bfloat16; use fp16") as caught:
        find_precision("bf16", gpu)
    assert caught.value.key == "train.precision"
    assert [find_precision(name, gpu) for name in ("fp16", "fp32")] == ["fp16", "fp32"]


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(ConfigError, match="precision 'fp16' needs a CUDA device; on a CPU use bf16 or fp32") as caught:
        find_precision("fp16", CPU)
    assert caught.value.key == "train.precision"


@pytest.fixture
def _torchs_switches():
    before = torch.backends.cudnn.deterministic
    yield
    torch.backends.fp32_precision = "none"
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False
    torch.backends.cudnn.deterministic = before
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.mark.usefixtures("_torchs_switches")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("before", ["none", "ieee", "tf32"])
def test_float32_is_float32_whatever_the_caller_has_chosen_and_torchs_own_switches_still_work(monkeypatch, before):
    gpu = _pretend_gpu(monkeypatch, bf16=True)
    torch.backends.fp32_precision = before
    use_device("cuda")
    assert environment(gpu, "fp32", 1)["tf32"] is False
    assert hardware(gpu, 1) == "Tesla T4"
    if before != "tf32":  # where torch's own switches contradict each other, they raise
        with torch.backends.cudnn.flags(enabled=False):
            pass
    torch.backends.cuda.matmul.allow_tf32 = True
    assert hardware(gpu, 1) == "Tesla T4, float32 as TF32"


@pytest.mark.usefixtures("_torchs_switches")
@pytest.mark.filterwarnings("error")
def test_a_gpu_in_use_is_the_current_one_and_computes_float32_as_float32(monkeypatch):
    _pretend_gpu(monkeypatch, bf16=True)
    current = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True

    assert use_device("cuda:1") == torch.device("cuda:1")
    assert current == [torch.device("cuda:1")]
    # each by the name that its kernels ask for
    backends = torch.backends
    assert not backends.cudnn.allow_tf32
    assert not backends.cuda.matmul.allow_tf32
    for kernels in (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul):
        assert kernels.fp32_precision != "tf32"
    assert backends.cudnn.deterministic
    assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()

    use_device("cuda")
    assert len(current) == 1, "the caller's choice stays"


@pytest.mark.usefixtures("_torchs_switches")
def test_the_environment_of_a_gpu_says_what_decides_its_bits(monkeypatch):
    gpu = _pretend_gpu(monkeypatch, bf16=False, capability=(7, 5))
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    use_device("cuda")
    report = environment(gpu, "fp16", 2)
    assert {key: report[key] for key in report.keys() - environment(CPU, "fp32", 2).keys()} == {
        "capability": "7.5",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "driver": report["driver"],
        "tf32": False,
        "deterministic": True,
        "allocator": "expandable_segments:True",
        "cublas_workspace": ":4096:8",
    }
    assert (report["device"], report["precision"]) == ("Tesla T4", "fp16")
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize(
    "text",
    [
        # c10/cuda/CUDACachingAllocator.cpp; cudaGetErrorString(cudaErrorMemoryAllocation); triton's driver.c
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.00 GiB.",
        "CUDA error: out of memory",
        "Triton Error [CUDA]: out of memory",
        # aten/src/ATen/cuda/Exceptions.h, TORCH_CUDABLAS_CHECK and AT_CUDNN_CHECK, with cuDNN 8 and 9
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    ],
)
def test_lack_of_memory_is_known_however_a_library_of_cuda_says_it(text):
    assert is_out_of_memory(RuntimeError(text))


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input.",
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: unspecified launch failure",
        # triton/runtime/errors.py: a kernel that asks for too much of one multiprocessor
        "out of resource: shared memory, Required: 262144, Hardware limit: 101376. Reducing block sizes may help.",
    ],
)
def test_other_errors_of_a_gpu_are_no_lack_of_memory(text):
    assert not is_out_of_memory(RuntimeError(text))


@pytest.mark.parametrize("how", ["GET", "FIND"])
def test_a_convolution_without_an_algorithm_lacks_memory_only_if_an_allocation_failed(monkeypatch, how):
    # aten/src/ATen/native/cudnn/Conv_v8.cpp: run_single_conv, try_plans
    error = RuntimeError(f"{how} was unable to find an engine to execute this computation")
    assert not is_out_of_memory(error), "CUDA is not in use"
    for failed in (0, 3):
        monkeypatch.setattr(torch.cuda, "memory_stats", lambda failed=failed: {"num_ooms": failed})
        assert is_out_of_memory(error) == bool(failed)


def test_autocast_computes_at_the_precision():
    x = torch.ones(2, 2)
    with autocast("bf16", CPU):
        assert (x @ x).dtype == torch.bfloat16
    with autocast("fp16", CPU):
        assert (x @ x).dtype == torch.float16
    with autocast("fp32", CPU):
        assert (x @ x).dtype == torch.float32


def test_threads_are_those_asked_for_or_one_a_core():
    before = torch.get_num_threads()
    try:
        assert use_threads(3) == torch.get_num_threads() == 3
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        assert use_threads(None) == torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(before)


def test_the_environment_says_what_ran_where():
    report = environment(CPU, "fp32", 2)
    assert set(report) == {
        "asr",
        "commit",
        "dirty",
        "python",
        "platform",
        "packages",
        "cpu",
        "cpu_capability",
        "cores",
        "threads",
        "device",
        "precision",
    }
    json.dumps(report, allow_nan=False)
    assert report["asr"] == asr.__version__
    assert report["packages"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    installed = {name for name, version in report["packages"].items() if version}
    assert installed >= report["packages"].keys() - {"torchaudio"}  # an extra
    assert (report["device"], report["precision"], report["threads"]) == ("cpu", "fp32", 2)
    assert report["cpu"] and report["cores"] >= 1


def test_outside_a_checkout_there_is_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(asr, "__file__", str(tmp_path / "site-packages" / "asr" / "__init__.py"))
    assert commit() == {"commit": None, "dirty": None}


def test_a_missing_git_is_no_error(monkeypatch, tmp_path):
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(asr, "__file__", str(tmp_path / "asr" / "__init__.py"))
    assert commit() == {"commit": None, "dirty": None}  # .git is no repository
    monkeypatch.setenv("PATH", "")
    assert commit() == {"commit": None, "dirty": None}  # nor is there a git


def test_a_checkout_tells_its_commit_and_whether_it_has_changes(monkeypatch, tmp_path):
    def git(*args: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *args], check=True, capture_output=True, timeout=60)

    git("init", "-q")
    (tmp_path / "asr").mkdir()
    source = tmp_path / "asr" / "__init__.py"
    source.write_text("")
    git("add", "-A")
    git("-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-q", "-m", "x")
    monkeypatch.setattr(asr, "__file__", str(source))
    found = commit()
    assert len(found["commit"]) == 40 and found["dirty"] is False
    source.write_text("changed")
    assert commit()["dirty"] is True


_A_SHAPE_COMES_AGAIN = """
import torch
import asr.runtime

conv = torch.nn.Conv2d(32, 32, (7, 7), stride=(2, 2), padding=(3, 3))
with torch.no_grad():
    for frames in [*range(60, 160), 60]:
        print("frames", frames, flush=True)
        conv(torch.zeros(8, 32, frames, 40))
"""


def test_kernels_of_shapes_that_do_not_come_again_are_not_kept():
    """oneDNN says of each kernel whether it still had it; resident memory would depend on what the system reclaims."""

    def made_anew(**more: str) -> bool:
        mine = {key: value for key, value in os.environ.items() if key != "ONEDNN_PRIMITIVE_CACHE_CAPACITY"}
        done = subprocess.run(
            [sys.executable, "-c", _A_SHAPE_COMES_AGAIN],
            env=mine | {"ONEDNN_VERBOSE": "profile_create"} | more,
            capture_output=True,
            text=True,
            check=True,
        )
        again = done.stdout.rpartition("frames 60\n")[2]
        found = [line for line in again.splitlines() if "create:cache_" in line and ",convolution," in line]
        if not found:
            pytest.skip("torch does not use oneDNN for convolutions here")
        return "create:cache_miss" in found[0]

    assert made_anew()
    assert not made_anew(ONEDNN_PRIMITIVE_CACHE_CAPACITY="1024")  # one's own setting stays


_A_LARGE_ARRAY_AGAIN = """
import resource
import numpy as np
import asr.runtime

asr.runtime.keep_freed_memory()
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**24, np.float32)  # 64 MiB: 16,384 pages, or 32 large ones
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a switch of glibc")
def test_the_pages_of_large_arrays_are_kept():
    command = [sys.executable, "-c", _A_LARGE_ARRAY_AGAIN]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    faults = [int(line) for line in done.stdout.split()]
    assert min(faults[1:]) < 20  # one of them at least: the system may take back pages of its own accord
