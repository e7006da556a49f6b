"""``asr listen`` as its user meets it: pipes and microphones, files, an end in the middle, and what can be wrong."""

from __future__ import annotations

import io
import json
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest
import soundfile

from asr.streaming.sources import from_pipe
from tests.builders import noise, tones
from tests.models import save_random_model, save_streaming_model
from tests.test_cli import Result, command, one_device  # noqa: F401  # a fixture

ROOT = Path(__file__).parents[1]
#: two passages, with a pause between that ends the first
SPOKEN = np.concatenate(
    [part for seed in (1, 2) for part in (tones("abcd dcba", np.random.default_rng(seed)), noise(1.6, amplitude=0.01))]
)
PCM = (SPOKEN * 32767).astype("<i2").tobytes()


WAV_OF_MANY_CHANNELS = (
    b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 65535, 768000, 0, 0, 32) + b"data\0\0\0\0"
)


def wav(kind: str = "WAV", subtype: str = "PCM_16", rate_hz: int = 16000) -> bytes:
    written = io.BytesIO()
    soundfile.write(written, SPOKEN, rate_hz, format=kind, subtype=subtype)
    return written.getvalue()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_streaming_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture
def listen(command, model, monkeypatch):  # noqa: F811
    """The command, with this on stdin."""

    def call(content: bytes, *args: object, model: Path = model) -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        return command(*one_device("listen", model, "--no-speech-threshold", 1, *args))

    return call


# --- a pipe ---


def test_a_pipe_gives_a_line_for_each_passage_and_as_json_partial_results_too(listen):
    plain = listen(wav(), "-")
    assert plain.code == 0 and plain.err == ""
    assert len(plain.out.splitlines()) == 2

    results = [json.loads(line) for line in listen(wav(), "-", "--json").out.splitlines()]
    assert [result["text"] for result in results if result["final"] and result["text"]] == plain.out.splitlines()
    assert not results[0]["final"] and results[0]["words"]


def test_a_result_without_any_text_that_is_allowed_is_json(capsys):
    from asr.commands.listening import _screen
    from asr.streaming.results import Result as LiveResult

    with _screen(as_json=True) as show:
        show(LiveResult("", True, 0.0, 1.0, log_prob=float("-inf")))
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["log_prob"] is None


def test_raw_samples_are_taken_as_the_model_has_them_which_is_said_unless_the_rate_was_stated(listen):
    silent, said = listen(PCM, "-", "--rate", 16000), listen(PCM, "-")
    assert silent.out == said.out and len(said.out.splitlines()) == 2
    assert silent.err == ""
    assert said.err == "asr: no WAV, so taken as raw samples: 16 bits, one channel, 16000 Hz (--rate)\n"


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT"])
def test_wav_of_any_width_is_read(listen, subtype):
    done = listen(wav(subtype=subtype), "-")
    assert done.code == 0 and "cbdbb" in done.out and done.err == ""


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "no samples came"),
        (wav()[:30], "a WAV whose header is cut"),
        (wav(subtype="ULAW"), "a WAV of mu-law samples; expected PCM or 32-bit floats"),
        (wav(subtype="DOUBLE"), "a WAV of 64-bit float samples"),
        (wav("FLAC"), "FLAC; expected WAV or raw 16-bit samples (asr transcribe takes files)"),
        (wav("AIFF"), "AIFF; "),
        (wav("AU"), "AU; "),
        (wav("CAF"), "CAF; "),
        (wav("W64"), "Wave64; "),
        (b"ID3" + bytes(20), "MP3; "),
        (WAV_OF_MANY_CHANNELS, "a WAV of 65,535 channels"),
        (b"\0\0\0\x20ftypM4A \0\0\0\0", "MP4; "),
    ],
)
def test_what_is_no_wav_that_can_be_read_as_it_comes_is_one_line(listen, content, what):
    refused = listen(content, "-")
    assert refused.code == 2 and refused.out == ""
    assert refused.err.startswith(f"asr: stdin: {what}") and refused.err.count("\n") == 1


@pytest.mark.parametrize("begin", [b"\xff\xfb", b"\x1aE"])
def test_raw_samples_may_begin_with_any_number(begin):
    content = begin + bytes(30)
    (block_n,) = from_pipe(io.BytesIO(content), 16000).blocks
    assert block_n.tobytes() == content


def test_the_rate_of_a_wav_is_its_own(listen):
    refused = listen(wav(), "-", "--rate", 8000)
    assert refused.code == 2
    assert refused.err == "asr: --rate 8000: stdin is a WAV of 16000 Hz; --rate is for raw samples\n"


def test_a_model_that_does_not_stream_says_so_and_gives_text_after_each_pause(listen, tmp_path):
    done = listen(wav(), "-", "--json", model=save_random_model(tmp_path / "m"))
    assert done.code == 0
    assert done.err.startswith("asr: the model does not stream") and done.err.count("\n") == 1
    assert all(json.loads(line)["final"] for line in done.out.splitlines())


# --- files ---


def test_files_have_what_was_said_and_a_folder_alone_asks_for_text(listen, tmp_path):
    done = listen(wav(), "-", "-f", "srt,json", "-o", tmp_path / "both")
    (document,) = (json.loads(path.read_text()) for path in (tmp_path / "both").glob("live-*.json"))
    assert document["text"].split() == done.out.split()
    assert {path.suffix for path in (tmp_path / "both").iterdir()} == {".srt", ".json"}
    assert done.err.startswith("asr: written: ")

    done = listen(wav(), "-", "-o", tmp_path / "text")
    (written,) = (tmp_path / "text").iterdir()
    assert written.suffix == ".txt" and written.read_text().split() == done.out.split()


def test_nothing_is_written_where_nothing_came(listen, tmp_path):
    assert listen(b"", "-", "-f", "srt", "-o", tmp_path).code == 2
    assert list(tmp_path.iterdir()) == []


def test_files_are_written_when_the_reader_of_stdout_has_gone(model, tmp_path):
    (tmp_path / "in.wav").write_bytes(wav())
    words = [sys.executable, "-m", "asr", "listen", model, "-", "-o", tmp_path / "out", "--no-speech-threshold", "1"]
    with (tmp_path / "in.wav").open("rb") as samples:
        process = subprocess.Popen(words, cwd=ROOT, stdin=samples, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.close()
        said = process.stderr.read().decode()
        assert process.wait() == 1
        process.stderr.close()
    (written,) = (tmp_path / "out").iterdir()
    assert written.read_text().strip()
    assert said == f"asr: written: {written}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("is_waiting", [True, False], ids=["waiting", "at work"])
def test_a_signal_ends_the_stream_and_what_was_said_is_kept(model, tmp_path, number, is_waiting):
    words = [sys.executable, "-m", "asr", "listen", model, "-", "-o", tmp_path, "--no-speech-threshold", "1"]
    (tmp_path / "in.raw").write_bytes(PCM * 2000)  # hours, if it is not stopped
    with (tmp_path / "in.raw").open("rb") as endless:
        process = subprocess.Popen(
            [*words, "--rate", "16000"],
            cwd=ROOT,
            stdin=subprocess.PIPE if is_waiting else endless,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if is_waiting:
            process.stdin.buffer.write(PCM)
            process.stdin.flush()
        first = process.stdout.readline()
        process.send_signal(number)
        out, said = process.communicate(timeout=60)
    assert process.returncode == 0
    (written,) = tmp_path.glob("live-*.txt")
    assert written.read_text().split() == (first + out).split()
    assert said == f"asr: written: {written}\n"


# --- a microphone ---


class PortAudioError(Exception):
    """What sounddevice raises."""


class InputStream:
    """A microphone that is pulled out after what was said; ``opened`` has what it was opened with."""

    opened: ClassVar[list[tuple[object, int]]] = []
    is_busy = False

    def __init__(
        self,
        rate_hz: int,
        *,
        device: object,
        blocksize: int,
        callback: Callable,
        finished_callback: Callable,
        **_: object,
    ) -> None:
        self.opened.append((device, rate_hz))
        self._blocksize, self._callback, self._finished = blocksize, callback, finished_callback

    def __enter__(self) -> None:
        if self.is_busy:
            raise PortAudioError("Device unavailable")
        for start in range(0, len(SPOKEN), self._blocksize):
            self._callback(SPOKEN[start : start + self._blocksize, None], self._blocksize, None, None)
        self._finished()

    def __exit__(self, *error: object) -> None:
        pass


@pytest.fixture
def sound(monkeypatch) -> ModuleType:
    """A sounddevice with two microphones, and something that only plays."""
    module = ModuleType("sounddevice")
    named = [("one", 1), ("loudspeaker", 0), ("two", 2)]
    module.found = [{"name": n, "max_input_channels": c, "default_samplerate": 16000.0} for n, c in named]

    def query_devices(device: object = None, kind: str | None = None) -> object:
        if kind is None:
            return module.found
        if not module.found:
            raise PortAudioError("Error querying device -1")
        facts = [one for number, one in enumerate(module.found) if device in (None, number, one["name"])]
        if not facts:
            raise ValueError(f"No input device matching {device!r}")
        return facts[0]

    module.query_devices = query_devices
    module.check_input_settings = lambda *args, **more: None
    module.PortAudioError = PortAudioError
    module.InputStream = InputStream
    module.default = type("default", (), {"device": (2, 1)})
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    monkeypatch.setattr(InputStream, "opened", [])
    return module


@pytest.mark.parametrize(
    ("chosen", "device"), [((), None), (("--microphone", "0"), 0), (("--microphone", "two"), "two")]
)
def test_a_microphone_is_the_default_or_chosen_by_number_or_name(sound, listen, chosen, device):
    done = listen(b"", *chosen)
    assert done.code == 0 and len(done.out.splitlines()) == 2
    assert done.err == "asr: listening (Ctrl-C ends it)\n"
    assert InputStream.opened == [(device, 16000)]


def test_microphones_are_listed(sound, command):  # noqa: F811
    listed = command("listen", "--list-devices")
    assert listed.code == 0 and listed.out == "0\tone\t16000 Hz\n2\ttwo\t16000 Hz (default)\n"
    sound.found = []
    none = command("listen", "--list-devices")
    assert none.code == 1 and none.out == "" and none.err == "asr: no microphone was found\n"


def test_without_a_microphone_or_with_one_in_use_one_line_says_so(sound, listen, monkeypatch):
    nowhere = Path("no/such/model")  # what is wrong with the microphone is found before the model is loaded
    unknown = listen(b"", "--microphone", "three", model=nowhere)
    assert unknown.code == 2
    assert unknown.err == "asr: --microphone three: none or several of those that --list-devices shows\n"

    monkeypatch.setattr(InputStream, "is_busy", True)
    busy = listen(b"")
    assert busy.code == 2 and busy.err.endswith("asr: the microphone cannot be opened: Device unavailable\n")

    sound.found = []
    none = listen(b"", model=nowhere)
    assert none.code == 2 and none.err == "asr: no microphone was found (- reads standard input)\n"


def test_without_the_library_a_line_says_what_to_install(listen, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    missing = listen(b"", model=Path("no/such/model"))
    assert missing.code == 2
    assert missing.err.startswith("asr: a microphone needs sounddevice: pip install ") and missing.err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (("-", "--pause", "0"), "--pause"),
        (("-", "--longest", "nan"), "--longest"),
        (("-", "--rate", "3"), "--rate"),
        (("-", "--microphone", "one"), "--microphone"),
        (("--rate", "8000"), "--rate"),
        (("talk.wav",), "asr transcribe takes files"),
        (("-", "-f", "doc"), "unknown format 'doc'"),
    ],
)
def test_options_that_make_no_sense_are_one_line_before_anything_is_loaded(listen, args, what):
    refused = listen(wav(), *args, model=Path("no/such/model"))
    assert refused.code == 2 and refused.out == ""
    assert what in refused.err and refused.err.count("\n") == 1
