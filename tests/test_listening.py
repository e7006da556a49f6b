"""``asr listen``: samples from a pipe or a microphone, its end, and what it writes."""

from __future__ import annotations

import io
import signal
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from asr.cli import commands
from asr.errors import AsrError, DataError
from asr.streaming.pool import StreamPool
from asr.streaming.sources import from_pipe, microphone
from asr.transcribe import Recognizer
from tests.builders import tones
from tests.models import save_streaming_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_streaming_model(tmp_path_factory.mktemp("models") / "streaming")


@pytest.fixture(scope="module")
def pcm_n() -> np.ndarray:
    return np.round(tones("bad cab", np.random.default_rng(0)) * 32767).astype("<i2")


def listen(folder: Path, pcm_n: np.ndarray, *options: object) -> Result:
    words = ["listen", str(folder), "-", "--no-speech-threshold", "1", *map(str, options)]
    return CliRunner().invoke(commands(), words, input=pcm_n.tobytes())


def text_of(folder: Path, pcm_n: np.ndarray) -> str:
    return Recognizer.load(folder, "cpu", no_speech_threshold=1).transcribe(pcm_n, 16000).text


def test_raw_samples_from_a_pipe_become_lines_of_text_and_files(
    folder: Path, pcm_n: np.ndarray, tmp_path: Path
) -> None:
    result = listen(folder, pcm_n, "-f", "txt", "-o", tmp_path)

    text = text_of(folder, pcm_n)
    assert result.exit_code == 0
    assert result.stdout == f"{text}\n" != "\n"
    (written,) = tmp_path.iterdir()
    assert written.read_text() == f"{text}\n"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_asked_to_end_while_the_network_works_it_finishes_the_passage_and_writes_the_files(
    folder: Path, pcm_n: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    tick = StreamPool.tick
    ticks: list[int] = []

    def interrupted(self: StreamPool) -> Iterator[Any]:
        ticks.append(0)
        if len(ticks) == 8:
            signal.raise_signal(signal.Signals[name])
        return tick(self)

    monkeypatch.setattr(StreamPool, "tick", interrupted)
    before = signal.getsignal(signal.SIGINT)
    result = listen(folder, pcm_n, "-f", "txt", "-o", tmp_path)

    assert result.exit_code == 0, result.exception
    assert len(ticks) == 9
    heard = text_of(folder, pcm_n[: 8 * 1600])
    assert result.stdout == f"{heard}\n" != "\n"
    assert [path.read_text() for path in tmp_path.iterdir()] == [f"{heard}\n"]
    assert signal.getsignal(signal.SIGINT) is before


def test_raw_samples_may_begin_with_any_number() -> None:
    for begin in (b"\xff\xfb", b"\x1aE"):
        content = begin + bytes(30)
        (block_n,) = from_pipe(io.BytesIO(content), 16000).blocks
        assert block_n.tobytes() == content


def test_a_wav_of_more_channels_than_there_are_is_refused() -> None:
    form = struct.pack("<HHIIHH", 1, 65535, 768000, 0, 0, 32)
    head = b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<I", len(form)) + form + b"data\0\0\0\0"
    with pytest.raises(DataError, match="65,535 channels"):
        from_pipe(io.BytesIO(head), 16000)


def test_a_microphone_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class PortAudioError(Exception):
        pass

    closed: list[bool] = []

    class Stream:
        def start(self) -> None:
            raise PortAudioError("Device unavailable")

        def close(self) -> None:
            closed.append(True)

        def __enter__(self) -> None:
            self.start()

        def __exit__(self, *error: object) -> None:
            self.close()

    sound = SimpleNamespace(
        PortAudioError=PortAudioError,
        query_devices=lambda device, kind: {"default_samplerate": 48000.0},
        check_input_settings=lambda *given, **named: None,
        InputStream=lambda *given, **named: Stream(),
    )
    monkeypatch.setitem(sys.modules, "sounddevice", sound)
    with pytest.raises(AsrError, match="cannot be used now: Device unavailable"), microphone("", 16000):
        pass
    assert closed
