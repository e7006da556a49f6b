from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import asr
from asr import runtime
from asr.errors import ConfigError
from asr.runtime import (
    autocast,
    commit,
    environment,
    find_device,
    find_precision,
    generator,
    stable_seed,
    use_threads,
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


@pytest.mark.parametrize(("supported", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_precision_on_cuda_does_not_count_emulation(monkeypatch, supported, expected):
    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return True if including_emulation else supported

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert find_precision("auto", torch.device("cuda")) == expected


def test_autocast_computes_at_the_precision():
    x = torch.ones(2, 2)
    with autocast("bf16", CPU):
        assert (x @ x).dtype == torch.bfloat16
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
    monkeypatch.setattr(runtime.asr, "__file__", str(tmp_path / "site-packages" / "asr" / "__init__.py"))
    assert commit() == {"commit": None, "dirty": None}


def test_a_missing_git_is_no_error(monkeypatch, tmp_path):
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(runtime.asr, "__file__", str(tmp_path / "asr" / "__init__.py"))
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
    monkeypatch.setattr(runtime.asr, "__file__", str(source))
    found = commit()
    assert len(found["commit"]) == 40 and found["dirty"] is False
    source.write_text("changed")
    assert commit()["dirty"] is True


_MANY_SHAPES = """
import resource
import torch
import asr.runtime

def used():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20

torch.set_num_threads(1)
conv = torch.nn.Conv2d(32, 32, (7, 7), stride=(2, 2), padding=(3, 3))
for frames in [200, *range(60, 140)]:
    with torch.autocast("cpu", torch.bfloat16):
        out = conv(torch.zeros(8, 32, frames, 40, requires_grad=True))
    out.float().sum().backward()
    if frames == 200:
        before = used()
print(used() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory in use is read from Linux's /proc")
def test_kernels_of_shapes_that_do_not_come_again_are_not_kept():
    def grown_mib(**more: str) -> float:
        mine = {key: value for key, value in os.environ.items() if key != "ONEDNN_PRIMITIVE_CACHE_CAPACITY"}
        done = subprocess.run(
            [sys.executable, "-c", _MANY_SHAPES], env=mine | more, capture_output=True, text=True, check=True
        )
        return float(done.stdout)

    few, many = grown_mib(), grown_mib(ONEDNN_PRIMITIVE_CACHE_CAPACITY="1024")  # one's own setting stays
    if many < 100:
        pytest.skip(f"1,024 kernels take {many:.0f} MiB here: nothing to save")
    assert few < 0.6 * many
