"""Exported folders in use: every command that takes a MODEL gives with them what it gives with the model itself."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asr import Recognizer
from asr.decode.settings import BeamConfig
from asr.decode.tuned import Tuned, write_tuned
from asr.utterance import extract
from tests.builders import build_corpus, tones, write_wav
from tests.models import save_random_model
from tests.test_cli import command  # noqa: F401  # the fixture
from tests.test_docs import ROOT, blocks

onnx = pytest.importorskip("onnx", reason="writing a graph needs the extra [onnx]")
pytest.importorskip("onnxruntime", reason="running a graph needs the extra [onnx]")

from asr.model.onnx.export import export_model  # noqa: E402

KINDS = {
    "features": ([], {}),
    "samples": ([], {"features": True}),
    "rounded weights": ([], {"weights": "fp16"}),
    "pieces": (["model.bidirectional=false"], {"streaming": True}),
    "pieces of samples": (
        ["model.bidirectional=false", "features.normalization=none"],
        {"streaming": True, "features": True},
    ),
    "statistics": (["features.normalization=corpus"], {}),
    "windows": (["model.encoder=mlp"], {"features": True}),
}


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory) -> tuple[Path, Path]:
    """A model folder, and what was exported from it."""
    settings, options = KINDS[request.param]
    folder = tmp_path_factory.mktemp("pair")
    save_random_model(folder / "model", *settings, training={"longest_s": 2.0})
    export_model(folder / "model", folder / "exported", **options)
    return folder / "model", folder / "exported"


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export_model(save_random_model(folder / "model"), folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return build_corpus(tmp_path_factory.mktemp("corpus"), 4, seed=5, name="dev")


def answers(folder: Path, waves: list[np.ndarray], **options: object) -> list[tuple]:
    """Texts with the times of their words."""
    recognizer = Recognizer.load(folder, "cpu", precision="fp32", **options)
    found = [recognizer.transcribe(wave_n, 16000) for wave_n in waves]
    return [(one.text, [(w.word, w.start_s, w.end_s) for w in one.words], one.duration_s) for one in found]


def waves() -> list[np.ndarray]:
    """A click, a short recording, and one that is cut into several pieces."""
    rng = np.random.default_rng(3)
    return [tones("a", rng)[:200], tones("abc a", rng), np.concatenate([tones("dab c abba", rng) for _ in range(6)])]


def test_texts_and_times_are_those_of_the_model(pair):
    model, exported = pair
    expected = answers(model, waves())
    assert len(expected[2][0]) > 10
    assert answers(exported, waves()) == expected


def test_log_probs_are_those_of_the_model(pair):
    model, exported = pair
    recognizers = [Recognizer.load(folder, "cpu", precision="fp32") for folder in (model, exported)]
    first, second = (one.log_probs(waves()[1]) for one in recognizers)
    np.testing.assert_allclose(second, first, atol=5e-2 if "fp16" in (exported / "config.json").read_text() else 1e-3)
    assert recognizers[0].model.step_s == pytest.approx(recognizers[1].model.step_s)


def test_many_utterances_get_what_each_gets_alone(exported):
    network = Recognizer.load(exported, "cpu").model.network
    rng = np.random.default_rng(0)
    features = [rng.standard_normal((length, 16)).astype(np.float32) for length in (70, 0, 2000, 1500, 1, 40)]
    for one, together_sv in zip(features, network.each(features), strict=True):
        np.testing.assert_allclose(network.each([one])[0], together_sv, atol=1e-5)


@pytest.mark.parametrize(
    "words",
    [
        ["transcribe", "MODEL", "AUDIO", "-f", "json", "--precision", "fp32"],
        ["transcribe", "MODEL", "AUDIO", "--decoder", "beam", "--precision", "fp32"],
        ["align", "MODEL", "DATA"],
        ["evaluate", "MODEL", "DATA"],
        ["doctor", "DATA", "--model", "MODEL"],
    ],
)
def test_commands_say_of_an_exported_folder_what_they_say_of_the_model(words, exported, corpus, command):  # noqa: F811
    audio = write_wav(corpus.parent / "a.wav", tones("ab cd", np.random.default_rng(1)))
    places = {"AUDIO": audio, "DATA": corpus}
    results = []
    for model in (exported.parent / "model", exported):
        result = command(*[model if word == "MODEL" else places.get(word, word) for word in words])
        assert result.code == 0, result.err
        lines = result.out.replace(str(model), "MODEL").splitlines()
        results.append([line for line in lines if "real-time" not in line])  # how fast it was
    assert results[0] == results[1]


def test_a_decoder_can_be_tuned_for_it(exported, corpus, tmp_path, command):  # noqa: F811
    folder = tmp_path / "tuned"
    shutil.copytree(exported, folder)
    (tmp_path / "lm.arpa").write_text(ARPA)
    result = command("tune", folder, corpus, "--lm", tmp_path / "lm.arpa")
    assert result.code == 0 and {"decoder.json", "lm.bin"} <= {file.name for file in folder.iterdir()}
    assert Recognizer.load(folder, "cpu").decoder.lm is not None


@pytest.mark.parametrize("form", ["features", "samples"])
def test_use_loads_neither_torch_nor_onnx(form, exported, tmp_path):
    folder = exported
    if form == "samples":
        folder = tmp_path / "samples"
        export_model(exported.parent / "model", folder, features=True)
    audio = write_wav(tmp_path / "a.wav", tones("ab", np.random.default_rng(1)))
    # With samples as its input nothing of ours is compiled, either.
    unwanted = {"torch", "onnx"} | ({"numba", "llvmlite"} if form == "samples" else set())
    script = (
        "import sys; from asr import Recognizer; "
        f"print(Recognizer.load({str(folder)!r}, 'cpu').transcribe({str(audio)!r}).text); "
        f"print({unwanted!r} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    text, loaded = done.stdout.splitlines()
    assert text and loaded == "set()"


def test_onnxruntime_reports_to_nobody(exported, tmp_path):
    # What it reports it keeps in a data base first, below the cache folder; on servers of CI it reports nothing.
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    script = f"from asr.model.onnx.session import Session, Path; Session(Path({str(exported / 'model.onnx')!r}))"
    env = kept | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], check=True, env=env)
    assert list(tmp_path.iterdir()) == []


def test_its_speed_can_be_measured(exported, command):  # noqa: F811
    result = command("bench", "transcribe", exported, "--files", "2", "--seconds", "1", "--rounds", "1", "--compare")
    assert result.code == 0 and "fp32 products" in result.out, result.err


def test_info_names_the_graph(exported, command):  # noqa: F811
    result = command("info", exported, "--json")
    facts = json.loads(result.out)
    assert "ONNX, takes features, weights in fp32" in facts["graph"] and facts["parameters"] > 1000
    assert "be trained" in facts["cannot"]


def test_the_decoder_with_its_language_model_goes_along(tmp_path):
    folder = save_random_model(tmp_path / "model")
    (tmp_path / "lm.arpa").write_text(ARPA)
    (tmp_path / "words.txt").write_text("a\nab\n")
    size = (tmp_path / "lm.arpa").stat().st_size
    known = str(tmp_path / "words.txt")
    config = BeamConfig(alpha=0.7, beta=1.5)
    write_tuned(folder, Tuned(config=config, lm=str(tmp_path / "lm.arpa"), lm_bytes=size, lm_words=known))
    expected = answers(folder, waves())

    export_model(folder, tmp_path / "out")
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    for name in ("lm.arpa", "words.txt"):
        (tmp_path / name).unlink()
    recognizer = Recognizer.load(tmp_path / "elsewhere", "cpu")
    assert recognizer.decoder.lm is not None and "lm.arpa" in recognizer.decoder.lm
    assert answers(tmp_path / "elsewhere", waves()) == expected


ARPA = """\\data\\
ngram 1=5

\\1-grams:
-1.0\t<s>
-0.7\t</s>
-2.0\t<unk>
-0.5\ta
-0.6\tab

\\end\\
"""


def _without_export(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["export"]
    (folder / "config.json").write_text(json.dumps(config))


def _of_other_bins(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["features"]["num_mels"] = 20
    config["export"]["statistics"] = {"mean_f": [0.0] * 20, "std_f": [1.0] * 20}
    (folder / "config.json").write_text(json.dumps(config))


def _without_statistics(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["export"]["statistics"] = {}
    (folder / "config.json").write_text(json.dumps(config))


def _of_other_tokens(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"a"', '"z"'))


def _changed(folder: Path, change: Callable[[Any], None]) -> None:
    graph = onnx.load(folder / "model.onnx")
    change(graph)
    onnx.save(graph, folder / "model.onnx")
    _edited(folder, "export", "sha256", hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest())


def _edited(folder: Path, stage: str, key: str, value: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    config[stage][key] = value
    (folder / "config.json").write_text(json.dumps(config))


def _without_facts(folder: Path) -> None:
    _changed(folder, lambda graph: graph.ClearField("metadata_props"))


def _with_damaged_facts(folder: Path) -> None:
    _changed(folder, lambda graph: onnx.helper.set_model_props(graph, {"tokens": "[", "states": "{}}"}))


def _of_other_answers(folder: Path) -> None:
    def change(graph: Any) -> None:
        graph.graph.output[1].name = "steps"
        graph.graph.node[-1].output[0] = "steps"

    _changed(folder, change)


def _of_negative_steps(folder: Path) -> None:
    def change(graph: Any) -> None:
        next(node for node in graph.graph.node if node.output[0] == "num_steps").op_type = "Neg"

    _changed(folder, change)


def _of_probabilities(folder: Path) -> None:
    def change(graph: Any) -> None:
        next(node for node in graph.graph.node if node.op_type == "LogSoftmax").op_type = "Softmax"

    _changed(folder, change)


def _of_counts(folder: Path) -> None:
    def change(graph: Any) -> None:
        cast = next(node for node in graph.graph.node if node.output[0] == "log_probs")
        cast.op_type = "Cast"
        cast.attribute.append(onnx.helper.make_attribute("to", onnx.TensorProto.INT64))
        graph.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64

    _changed(folder, change)


def _of_other_weights(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)


def _that_cannot_run(folder: Path) -> None:
    def change(graph: Any) -> None:
        reshape = next(node for node in graph.graph.node if node.op_type == "Reshape")
        constant = next(one for one in graph.graph.initializer if one.name == reshape.input[1])
        constant.CopyFrom(onnx.numpy_helper.from_array(np.array([7, 7, 7]), constant.name))

    _changed(folder, change)


def _cut_short(folder: Path) -> None:
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_export, "config.json: says nothing of model.onnx beside it"),
        (_of_other_bins, "model.onnx: is another graph than config.json and tokenizer.json say"),
        (_without_statistics, "config.json: export.statistics do not fit the features"),
        (_of_other_tokens, "model.onnx: has other tokens than tokenizer.json beside it"),
        (_without_facts, "model.onnx: has other tokens than tokenizer.json beside it"),
        (_with_damaged_facts, "model.onnx: has other tokens than tokenizer.json beside it"),
        (_of_other_answers, "model.onnx: is another graph than config.json and tokenizer.json say"),
        (
            partial(_edited, stage="audio", key="sample_rate_hz", value=8000),
            "model.onnx: was written for sample_rate_hz",
        ),
        (partial(_edited, stage="features", key="hop_s", value=0.02), "model.onnx: was written for hop_s 0.01"),
        (_of_other_weights, "model.onnx: is not the graph that export.sha256 in config.json is of"),
        (_of_negative_steps, "model.onnx: gives wrong numbers of steps"),
        (_of_probabilities, "model.onnx: gives something else than log-probabilities"),
        (_of_counts, "model.onnx: gives log_probs of shape"),
        (_that_cannot_run, "model.onnx: onnxruntime cannot"),
        (_cut_short, "model.onnx: onnxruntime cannot load it"),
        (lambda folder: (folder / "model.onnx").write_text("no graph"), "model.onnx: onnxruntime cannot load it"),
        (
            lambda folder: (folder / "model.onnx").unlink(),
            "model.safetensors missing (or model.onnx, of an exported model)",
        ),
        (lambda folder: (folder / "tokenizer.json").unlink(), "is not a model folder: tokenizer.json missing"),
    ],
)
def test_a_damaged_folder_is_one_line_that_names_the_file(damage, message, exported, tmp_path, command):  # noqa: F811
    folder = tmp_path / "damaged"
    shutil.copytree(exported, folder)
    damage(folder)
    result = command("transcribe", folder, write_wav(tmp_path / "a.wav"))
    assert result.code == 2 and message in result.err and result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["transcribe", "MODEL", "AUDIO", "--device", "cuda"], "an exported model runs on the CPU"),
        (["transcribe", "MODEL", "AUDIO", "--device", "cpux"], "unknown device 'cpux'"),
        (["transcribe", "MODEL", "AUDIO", "--precision", "bf16"], "an exported model computes in fp32, not bf16"),
        (["export", "MODEL", "OUT"], "is an exported model, for use alone"),
        (["average", "MODEL", "MODEL", "--out", "OUT"], "is an exported model, for use alone"),
        (
            ["train", "an4/smoke", "--data", "CORPUS", "--out", "OUT", "--init", "MODEL"],
            "is an exported model, for use alone",
        ),
    ],
)
def test_what_an_exported_folder_cannot_is_one_line(words, message, exported, corpus, tmp_path, command):  # noqa: F811
    build_corpus(corpus.parent, 4, seed=6)
    places = {
        "CORPUS": corpus.parent,
        "MODEL": exported,
        "AUDIO": write_wav(tmp_path / "a.wav"),
        "OUT": tmp_path / "out",
    }
    result = command(*[places.get(word, word) for word in words])
    assert result.code == 2 and message in result.err and result.err.count("\n") == 1


def test_the_programs_of_the_documents_say_what_the_model_says(tmp_path, monkeypatch, capsys):
    ours, stream = blocks((ROOT / "docs" / "export.md").read_text(encoding="utf-8"), "python")
    monkeypatch.chdir(tmp_path)
    one_way = save_random_model(tmp_path / "model", "model.bidirectional=false", "model.lookahead_steps=2")
    export_model(one_way, tmp_path / "small", features=True)
    export_model(one_way, tmp_path / "stream", streaming=True)
    write_wav(tmp_path / "a.wav", tones("ab cd ab", np.random.default_rng(4)))

    recognizer = Recognizer.load(one_way, "cpu", precision="fp32")
    exec(ours, {})
    printed = capsys.readouterr().out
    assert " ".join(printed.split()) == recognizer.transcribe(tmp_path / "a.wav").text != ""

    features_tf = extract(recognizer.model.extractor, recognizer.load_wave(tmp_path / "a.wav"))
    stated: dict[str, object] = {"pieces": [(features_tf[:40], False), (features_tf[40:], True)]}
    known: list[np.ndarray] = []
    exec(stream, stated | {"print": known.append})
    expected_sv = recognizer.model.network.each([features_tf])[0]
    np.testing.assert_allclose(np.concatenate(known), expected_sv, atol=1e-5)


def test_without_onnxruntime_the_line_says_what_to_install(exported, tmp_path, monkeypatch, command):  # noqa: F811
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = command("transcribe", exported, write_wav(tmp_path / "a.wav"))
    assert result.code == 2 and "needs onnxruntime: pip install onnxruntime" in result.err


def test_without_onnx_the_line_says_what_to_install(exported, tmp_path, monkeypatch, command):  # noqa: F811
    for name in ("asr.model.onnx.write", "asr.model.onnx.graph"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    result = command("export", exported.parent / "model", tmp_path / "out")
    assert result.code == 2 and "writing a graph needs onnx: pip install 'asr-ctc[onnx]'" in result.err
