"""What must hold on a real GPU; for people who have one:

    TRITON_INTERPRET=0 pytest -m gpu tests/test_cuda_device.py

The checks are those of ``python -m benchmarks.gpu_check``, without the measures of speed.
"""

from __future__ import annotations

import json
import os

import pytest
import torch

from benchmarks.gpu.findings import Setting
from benchmarks.gpu.frame import CHECKS, run_one

CORE = (
    "environment",
    "ctc",
    "encoders",
    "recurrent-dtypes",
    "float32",
    "waits",
    "train-and-resume",
    "transcribe",
    "out-of-memory",
    "one-process-of-many",
    "norm-statistics",
    "language-model",
)
BY_NAME = {check.name: check for check in CHECKS}


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """The first GPU, with a folder in which one check finds what another has trained."""
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("Triton interprets its kernels: set TRITON_INTERPRET=0")
    return Setting(torch.device("cuda", 0), tmp_path_factory.mktemp("gpu"))


@pytest.mark.gpu
@pytest.mark.parametrize("name", CORE)
def test_on_this_gpu(gpu: Setting, name: str) -> None:
    row = run_one(BY_NAME[name], gpu)

    assert row["result"] == "passed", json.dumps(row, indent=1)


def test_every_check_of_the_table_is_known_by_one_name() -> None:
    assert len(BY_NAME) == len(CHECKS)
    assert set(CORE) <= set(BY_NAME)
