"""What every test shares: one thread a process, the folder of real speech, Hypothesis without a clock."""

from __future__ import annotations

import os
import shutil

# Before anything imports numpy or torch: many small tests on few cores lose more by waiting threads than they win.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Triton's kernels run in its interpreter, on a CPU. For a GPU: TRITON_INTERPRET=0 pytest -m gpu
os.environ.setdefault("TRITON_INTERPRET", "1")

import importlib.util
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest

# No deadline: a busy machine is not a failure.
hypothesis.settings.register_profile("asr", deadline=None, max_examples=50)
hypothesis.settings.load_profile("asr")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--data",
        metavar="DIR",
        default=None,
        help="folder of real speech for tests that need it (or set ASR_TEST_DATA)",
    )


@pytest.fixture(autouse=True)
def _no_ffmpeg_of_the_machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides the machine's ffmpeg, so that messages do not depend on it, from tests that do not ask for ``real_ffmpeg``.

    A program that a test itself puts on the PATH is found. Tests that start ``python -m asr`` are on their own.
    """
    if "real_ffmpeg" in request.fixturenames:
        return
    from asr.sound import ffmpeg

    machine, find = shutil.which("ffmpeg"), ffmpeg.available

    def found() -> str | None:
        program = find()
        return None if program == machine else program

    monkeypatch.setattr(ffmpeg, "available", found)


@pytest.fixture
def real_ffmpeg() -> str:
    """The machine's ffmpeg; tests that ask for it are skipped where there is none."""
    program = shutil.which("ffmpeg")
    if program is None:
        pytest.skip("needs ffmpeg on the PATH")
    return program


@pytest.fixture(scope="session")
def shared_data(request: pytest.FixtureRequest) -> Path:
    """The folder of real speech; tests that ask for it are skipped where it is absent."""
    named = request.config.getoption("--data") or os.environ.get("ASR_TEST_DATA")
    if not named:
        pytest.skip("needs real speech: give --data DIR or set ASR_TEST_DATA")
    folder = Path(named)
    if not folder.is_dir():
        pytest.skip(f"needs real speech: {folder} is not a folder")
    return folder


#: for single cases of a parametrised test; whole tests call pytest.importorskip
needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed (the extra 'pictures')"
)


def torchaudio_or_skip() -> ModuleType:
    """Import torchaudio; skip where it is not installed or does not load (which fails in test_install.py)."""
    from asr.errors import AsrError
    from asr.model.waves import load_torchaudio

    try:
        return load_torchaudio()
    except AsrError as error:
        pytest.skip(str(error), allow_module_level=True)


@pytest.fixture(scope="session")
def torchaudio() -> ModuleType:
    """torchaudio as the reference; tests that ask for it are skipped where it is absent."""
    return torchaudio_or_skip()
