"""Use on a CPU loads no torch: run here, where it may not be loaded, and by ``make test-use`` where it is not there.

This file imports nothing that needs torch, so that it runs in an installation for use alone.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from asr.config import ConvConfig, FeatureConfig, ModelConfig
from asr.data.manifest import Utterance, write
from asr.model.folded import shapes
from tests.builders import tones, write_wav

ROOT = Path(__file__).resolve().parent.parent
HAS_TORCH = importlib.util.find_spec("torch") is not None
LETTERS = (" ", "a", "b", "c", "d")
TEXTS = ("abc da", "bad cab", "dad", "a cab")
#: runs the command line, or a program, as if torch were not installed
WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchaudio"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""
COMMAND = "\nfrom asr.__main__ import main\nmain()\n"


def run(*args: Any, program: str = WITHOUT + COMMAND) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)


def output(*args: Any) -> str:
    done = run(*args)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_model(folder: Path, **settings: Any) -> Path:
    """A model folder with random weights, and running statistics as training leaves them."""
    cfg = ModelConfig(
        **{
            "conv": (ConvConfig(channels=4, kernel_tf=(5, 5)), ConvConfig(channels=4, kernel_tf=(3, 3))),
            "layers": 2,
            "hidden": 24,
            **settings,
        }
    )
    features = FeatureConfig(kind="log_mel", num_mels=20, normalization="corpus")
    rng = np.random.default_rng(7)
    state: dict[str, Any] = {}
    for name, shape in shapes(cfg, features.num_mels, len(LETTERS) + 1).items():
        if not shape:
            state[f"network.{name}"] = np.array(9)
            continue
        value = rng.standard_normal(shape) / math.sqrt(max(1, math.prod(shape[1:])))
        state[f"network.{name}"] = (1 + value**2 if "var" in name else value).astype(np.float32)
    # The tokens change often: a text that is not empty shows more.
    state["network.output.weight"] *= 4
    state["network.output.bias"][0] = -0.5
    state["features.mean_f"] = np.full(features.num_mels, -5, np.float32)
    state["features.std_f"] = np.full(features.num_mels, 3, np.float32)

    folder.mkdir(parents=True)
    save_file(state, folder / "model.safetensors")
    config = {
        "format_version": 1,
        "audio": {"sample_rate_hz": 16000},
        "text": {},
        "features": features.model_dump(mode="json"),
        "model": cfg.model_dump(mode="json"),
        "training": {"corpus": "made-up", "dev_wer": 0.5},
    }
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = {"kind": "char", "blank_id": 0, "symbols": list(LETTERS)}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "gru")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Four recordings and a manifest of them."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(3)
    rows = []
    for number, text in enumerate(TEXTS):
        wave_n = tones(text, rng)
        path = write_wav(folder / f"{number}.wav", wave_n)
        rows.append(Utterance(str(number), path.name, len(wave_n) / 16000, text, speaker="x"))
    write(folder / "test.jsonl", rows)
    return folder


@pytest.fixture(scope="module")
def ngram(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lm")
    (folder / "text.txt").write_text("\n".join(TEXTS * 5))
    output("lm", "train", folder / "text.txt", "--order", 2, "--out", folder / "lm.arpa")
    return folder / "lm.arpa"


def words(text: str) -> list[str]:
    """What a command printed, without times and paths."""
    return re.findall(r"[a-d]+", text)


def test_a_folder_is_transcribed_with_times_and_confidences(model, data):
    document = json.loads(output("transcribe", model, data, "--json", "--no-speech-threshold", 1))
    assert len(document["transcripts"]) == len(TEXTS)
    for transcript in document["transcripts"]:
        assert transcript["text"]
        said = [word for segment in transcript["segments"] for word in segment["words"]]
        assert said and all(0 <= word["probability"] <= 1 for word in said)


@pytest.mark.parametrize("cell", ["lstm", "tanh"])
@pytest.mark.parametrize("ways", [{"merge": "sum", "residual": True}, {"bidirectional": False, "lookahead_steps": 3}])
def test_every_recurrent_network_is_used(cell, ways, data, tmp_path):
    folder = write_model(tmp_path / "m", cell=cell, **ways)
    found = json.loads(output("transcribe", folder, data / "0.wav", "--json", "--no-speech-threshold", 1))
    assert found["transcripts"][0]["log_prob"] < 0


def test_a_beam_search_with_a_language_model(model, data, ngram):
    found = output("transcribe", model, data / "0.wav", "--lm", ngram, "--beam", 20, "--no-speech-threshold", 1)
    assert set(found.split()) <= {word for text in TEXTS for word in text.split()} | set(words(found))
    assert found.strip()


def test_recordings_align_score_and_describe(model, data, tmp_path):
    (tmp_path / "text.txt").write_text(TEXTS[0])
    aligned = json.loads(output("align", model, data / "0.wav", "--text", tmp_path / "text.txt", "--json"))
    said = [word["word"].strip() for segment in aligned["alignments"][0]["segments"] for word in segment["words"]]
    assert said == TEXTS[0].split()
    scored = json.loads(output("evaluate", model, data / "test.jsonl", "--json"))
    assert scored["wer"]["reference_words"] == sum(len(text.split()) for text in TEXTS)
    facts = output("info", model)
    assert "gru 2" in facts and "made-up" in facts


def test_data_are_checked_for_a_model(model, data):
    assert "not looked at: sample rate" not in output("doctor", data / "test.jsonl", "--model", model)


def test_a_decoder_is_tuned(model, data, ngram):
    output("tune", model, data / "test.jsonl", "--lm", ngram, "--threads", 1)
    assert (model / "decoder.json").exists()
    (model / "decoder.json").unlink()
    (model / "lm.bin").unlink()


def test_a_program_uses_a_recognizer(model, data):
    program = (
        "from asr import Recognizer\n"
        "import numpy as np, soundfile\n"
        "r = Recognizer.load(sys.argv[1], no_speech_threshold=1)\n"
        "samples, rate_hz = soundfile.read(sys.argv[2])\n"
        "assert r.transcribe(sys.argv[2]).text == r.transcribe(samples.astype(np.float32), rate_hz).text != ''\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = run(model, data / "0.wav", program=WITHOUT + program)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed")
@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_torch_in_the_process_changes_no_bit(model, data, precision):
    program = (
        "import sys, hashlib\n"
        "from pathlib import Path\n"
        "from asr.transcribe import Recognizer\n"
        "r = Recognizer.load(sys.argv[1], precision=sys.argv[2])\n"
        "for path in sorted(Path(sys.argv[3]).glob('*.wav')):\n"
        "    print(hashlib.sha256(r.log_probs(r.load_wave(path)).tobytes()).hexdigest())\n"
    )
    prints = [
        run(model, precision, data, program=begin + program).stdout
        for begin in (WITHOUT, "import torch\n", "import torch; torch.set_num_threads(1)\n")
    ]
    assert len(prints[0].split()) == len(TEXTS) and prints[1] == prints[0] and prints[2] == prints[0]


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (("train", "an4/smoke", "--data", "DATA", "--out", "OUT"), "this needs PyTorch"),
        (("transcribe", "torchaudio:WAV2VEC2_ASR_BASE_960H", "FILE"), "BASE_960H: a published model needs PyTorch"),
        (("transcribe", "MODEL", "FILE", "--device", "cuda"), "--device cuda needs PyTorch"),
        (("transcribe", "TDNN", "FILE"), "tdnn: this kind of network needs PyTorch"),
        (("info", "TDNN"), "tdnn: this kind of network needs PyTorch"),
    ],
)
def test_what_needs_torch_says_so_in_one_line(args, what, model, data, tmp_path):
    tdnn = write_model(tmp_path / "tdnn")
    config = json.loads((tdnn / "config.json").read_text())
    config["model"]["encoder"] = "tdnn"
    (tdnn / "config.json").write_text(json.dumps(config))
    places = {"MODEL": model, "FILE": data / "0.wav", "DATA": data, "OUT": tmp_path / "out", "TDNN": tdnn}
    done = run(*(places.get(arg, arg) for arg in args))
    assert done.returncode == 2
    assert what in done.stderr and "pip install asr-ctc" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (("transcribe", "MODEL", "FILE", "--device", "gpu"), "unknown device 'gpu'"),
        (("transcribe", "MODEL", "FILE", "--precision", "fp16"), "precision 'fp16' needs a CUDA device"),
        (("info", "an4/smok"), "did you mean 'an4/smoke'"),
    ],
)
def test_a_mistake_is_not_taken_for_a_lack_of_torch(args, what, model, data):
    places = {"MODEL": model, "FILE": data / "0.wav"}
    done = run(*(places.get(arg, arg) for arg in args))
    assert done.returncode == 2 and what in done.stderr and done.stderr.count("\n") == 1


def test_without_torch_the_cpu_is_used_beside_a_gpu(model, data):
    driver = "import asr.machine, ctypes\nasr.machine._CUDA_DRIVERS = ('libc.so.6',)\n"
    done = run("transcribe", model, data / "0.wav", program=WITHOUT + driver + COMMAND)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_the_requirements_for_use_are_the_packages_own():
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = [*asked["dependencies"], *asked["optional-dependencies"]["onnx"]]
    lines = (ROOT / "requirements-use.txt").read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    assert set(wanted) <= set(ranges)
    assert set(asked["dependencies"]) - set(wanted) == {
        next(line for line in ranges if line.startswith(name)) for name in ("torch", "librosa", "jiwer")
    }

    lines = (ROOT / "requirements-serve.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == asked["optional-dependencies"]["server"]
