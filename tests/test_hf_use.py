"""``hf:FOLDER`` as a MODEL in every command, with the language model that stands in its folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from asr.data.tokenizer import CharTokenizer
from asr.decode.choose import decoder_for
from asr.decode.options import DecoderOptions
from asr.doctor.expected import of_model
from asr.errors import CheckpointError, ConfigError
from asr.info import describe
from asr.lm import ngram
from asr.model.checkpoint import load_model, load_trainable
from asr.model.folder import find_model, published
from asr.model.hf.language_model import shipped_settings
from asr.model.hf.names import settings_folder
from asr.transcribe import Recognizer
from tests.builders import build_corpus, write_wav
from tests.test_cli import command  # noqa: F401  # the fixture

BASE = Path(__file__).parent / "data" / "hf" / "base"
KENLM = Path(__file__).parent / "data" / "kenlm"
ARPA = """\\data\\
ngram 1=6
ngram 2=4

\\1-grams:
-1.5\t<unk>\t0
-99\t<s>\t-0.25
-0.9\t</s>\t0
-0.5\tab\t-0.3
-0.8\tba\t-0.2
-1.1\tabba\t-0.1

\\2-grams:
-0.2\t<s> ab
-0.4\tab ba
-0.3\tba </s>
-0.6\tba abba

\\end\\
"""
ATTRIBUTES = {"alpha": 0.7, "beta": 1.2, "unk_score_offset": -4.0, "score_boundary": True}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A person's cache, with nothing in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of a model of this person's own."""
    return shutil.copytree(BASE, tmp_path / "model")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return build_corpus(tmp_path_factory.mktemp("corpus"), 4, name="dev", alphabet="ABCD ", longest=6)


def add_language_model(folder: Path, attributes: dict | None = None, content: bytes = ARPA.encode()) -> Path:
    """Put a language model into a folder, as pyctcdecode writes one."""
    place = folder / "language_model"
    place.mkdir()
    path = place / "lm.arpa"
    path.write_bytes(content)
    (place / "unigrams.txt").write_text("ab\nabba\nba\n")
    if attributes is not None:
        (place / "attrs.json").write_text(json.dumps(attributes))
    return path


# --- commands ---------------------------------------------------------------------------------------------------------


def test_evaluate_transcribe_tune_and_compare_take_a_folder(folder, corpus, tmp_path, command):  # noqa: F811
    model = f"hf:{folder}"
    result = command("evaluate", model, corpus, "--json", "--device", "cpu", "--hypotheses", tmp_path / "h.jsonl")
    assert result.code == 0, result.err
    facts = json.loads(result.out)
    assert facts["model"] == model and facts["utterances"] == 4 and facts["decoder"] == "greedy"
    said = [json.loads(line)["hypothesis"] for line in (tmp_path / "h.jsonl").read_text().splitlines()]
    assert any(said)

    audio_path = corpus.parent / "wav" / "dev-0000.wav"
    result = command("transcribe", model, audio_path, "--device", "cpu", "--precision", "fp32")
    assert result.code == 0 and result.out.strip() == said[0]

    ngram.write(ngram.train(["AB CA", "DAB", "AB"], 2), tmp_path / "lm.arpa")
    result = command("tune", model, corpus, "--lm", tmp_path / "lm.arpa", "--device", "cpu")
    tuned = settings_folder(model) / "decoder.json"
    assert result.code == 0 and f"saved in {tuned}" in result.err
    assert find_model(model) == tuned.parent and not (folder / "decoder.json").exists()

    one, two = tmp_path / "h.jsonl", tmp_path / "t.jsonl"
    result = command("evaluate", model, corpus, "--device", "cpu", "--hypotheses", two)
    assert result.code == 0 and str(tuned) in result.err
    assert command("compare", corpus, one, two).code == 0
    assert describe(model)[1]["decoder"].startswith("beam")


def test_align_bench_and_doctor_take_a_folder(folder, corpus, command):  # noqa: F811
    model = f"hf:{folder}"
    result = command("align", model, corpus, "--worst", "2", "--device", "cpu")
    assert result.code == 0, result.err
    result = command("bench", "transcribe", model, "--files", "2", "--seconds", "1", "--rounds", "1", "--threads", "1")
    assert result.code == 0, result.err
    result = command("doctor", corpus, "--model", model)
    assert result.code == 0, result.err


def test_the_doctor_knows_what_a_folder_expects(folder):
    expected = of_model(Path(f"hf:{folder}"))
    assert expected.num_steps(np.array([399, 400, 16000])).tolist() == [0, 1, 49]
    assert expected.audio.sample_rate_hz == 16000 and expected.normalization == "librispeech"


def test_a_folder_is_no_model_folder(folder, tmp_path):
    for model in (f"hf:{folder}", tmp_path / "hf:a" / "b"):
        with pytest.raises(ConfigError, match=r"^hf:.*: a model of Hugging Face is no model that asr made"):
            load_trainable(model)


def test_published_models_are_not_averaged(tmp_path, command):  # noqa: F811
    result = command("average", "hf:a/b", "torchaudio:A", "--out", tmp_path / "mean")
    assert result.code == 2 and "hf:a/b: a model of Hugging Face is no model that asr made" in result.err


def test_a_plain_path_of_such_a_folder_is_told_how_to_write_it(folder):
    with pytest.raises(CheckpointError, match=f"it seems to be a Hugging Face .*, which is used as hf:{folder}$"):
        load_model(folder)
    (folder / "config.json").write_text('{"architectures": ["WhisperForConditionalGeneration"]}')
    with pytest.raises(CheckpointError, match=r"it seems to be a Hugging Face Transformers model$"):
        load_model(folder)


def test_a_folder_that_is_not_there_is_one_line_with_exit_code_2(tmp_path, command):  # noqa: F811
    result = command("transcribe", f"hf:{tmp_path}/nothing", write_wav(tmp_path / "a.wav"))
    assert result.code == 2 and result.err.count("\n") == 1 and "no such folder" in result.err


def test_only_published_models_have_a_module_of_their_own(tmp_path):
    assert published(tmp_path) is None and published("hf:a/b") is not published("torchaudio:A")


# --- info -------------------------------------------------------------------------------------------------------------


def test_info_shows_licence_language_tokens_and_stride(folder):
    (folder / "README.md").write_text("---\nlanguage: de\nlicense: apache-2.0\n---\n")
    kind, facts = describe(f"hf:{folder}")
    assert kind == "model of Hugging Face"
    assert facts["training language"] == "de" and facts["training licence"] == "apache-2.0"
    assert facts["step"] == "20 ms" and facts["tokens"].startswith("29 (blank first)")
    assert "is a guess" in facts["training vocabulary"]
    assert "cannot" not in facts and facts["decoder"].startswith("greedy")
    assert sum(int(row.split()[-2].replace(",", "")) for row in facts["network"]) == facts["parameters"]
    json.dumps(facts, allow_nan=False)


def test_info_shows_the_language_of_an_adapter():
    facts = describe(f"hf:{BASE.parent / 'mms'}#deu")[1]
    assert facts["training language"] == "deu" and "ß" in facts["tokens"]


# --- the language model in the folder ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "score"),
    # pyctcdecode 0.5.0 with kenlm 0.3.0: LanguageModel.score of every word, the last one with is_last_word
    [("ab ba", 0.9493713577887832), ("ab bab ba abba", -8.739200332394288), ("bbbbbbbbbb", -9.518533569458748)],
)
def test_words_cost_what_they_cost_in_pyctcdecode(tmp_path, text, score):
    add_language_model(tmp_path, ATTRIBUTES)
    tokenizer = CharTokenizer((" ", "a", "b"))
    # each letter in turn, behind a blank; nothing else is possible
    log_probs_sv = np.full((2 * len(text), 4), -np.inf, np.float32)
    log_probs_sv[0::2, 0] = 0.0
    log_probs_sv[np.arange(1, 2 * len(text), 2), tokenizer.encode(text)] = 0.0
    options = DecoderOptions(shipped=shipped_settings(tmp_path))
    best = decoder_for(tmp_path, tokenizer, options).decode(log_probs_sv)[0]
    assert best.text == text and best.lm_score == pytest.approx(score, abs=1e-5)  # kenlm keeps float32


def test_the_language_model_in_the_folder_is_used_and_said(folder, corpus, command):  # noqa: F811
    path = add_language_model(folder, ATTRIBUTES)
    ngram.write(ngram.train(["AB CA", "DAB", "AB"], 2), path)
    result = command("evaluate", f"hf:{folder}", corpus, "--json", "--device", "cpu")
    facts = json.loads(result.out)
    assert facts["decoder"].startswith("beam 100, alpha 0.7, beta 1.2") and facts["lm"] == str(path)
    assert f"{path}: beam 100, alpha 0.7" in result.err
    assert describe(f"hf:{folder}")[1]["decoder"].startswith("beam 100, alpha 0.7, beta 1.2")


@pytest.mark.parametrize("options", [["--decoder", "greedy"], ["--lm", "none"]])
def test_the_language_model_in_the_folder_can_be_left_out(folder, corpus, command, options):  # noqa: F811
    add_language_model(folder, {"alpha": "damaged"})
    result = command("evaluate", f"hf:{folder}", corpus, "--json", "--device", "cpu", *options)
    assert result.code == 0 and json.loads(result.out)["lm"] is None


def test_a_tuned_decoder_comes_before_the_one_in_the_folder(folder, corpus, tmp_path, command):  # noqa: F811
    add_language_model(folder, ATTRIBUTES)
    ngram.write(ngram.train(["AB CA", "DAB", "AB"], 2), tmp_path / "lm.arpa")
    assert command("tune", f"hf:{folder}", corpus, "--lm", tmp_path / "lm.arpa", "--device", "cpu").code == 0
    decoder = Recognizer.load(f"hf:{folder}", "cpu").decoder
    assert decoder.source == str(settings_folder(f"hf:{folder}") / "decoder.json")


def test_without_attributes_the_weights_are_those_of_pyctcdecode(tmp_path):
    add_language_model(tmp_path)
    config = shipped_settings(tmp_path).config
    assert (config.alpha, config.beta) == (0.5, 1.5)
    assert config.unknown_log_prob == pytest.approx(0.5 * -10 * np.log(10))


def test_a_language_model_of_other_letters_is_one_line_with_the_way_out(folder, corpus, command):  # noqa: F811
    add_language_model(folder, ATTRIBUTES)
    result = command("evaluate", f"hf:{folder}", corpus, "--device", "cpu")
    assert result.code == 2 and "--lm none" in result.err, result.err


def test_a_binary_file_of_kenlm_in_the_folder_is_used_with_its_list_of_words(tmp_path, caplog):
    place = tmp_path / "language_model"
    place.mkdir()
    shutil.copy(KENLM / "odd.bin", place / "3gram.bin")
    (place / "attrs.json").write_text(json.dumps(ATTRIBUTES | {"score_boundary": False}))
    (place / "unigrams.txt").write_text("a\nc\n")
    tokenizer = CharTokenizer((" ", "a", "b", "c"))
    log_probs_sv = np.where(np.eye(5)[[2, 1, 3]] > 0, 0.0, -np.inf).astype(np.float32)  # "a b"
    with caplog.at_level("INFO"):
        decoder = decoder_for(tmp_path, tokenizer, DecoderOptions(shipped=shipped_settings(tmp_path)))
    best = decoder.decode(log_probs_sv)[0]
    # pyctcdecode: b is in the model, but not in the list
    expected = 0.7 * np.log(10) * (ngram.load(KENLM / "odd.bin").score(["a", "b"]) / np.log(10) - 4.0) + 2 * 1.2
    assert best.text == "a b" and best.lm_score == pytest.approx(expected, abs=1e-5)
    assert "score_boundary" in caplog.text and "2 of the language model's 3 words count as known" in caplog.text


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"alpha": "x"}, "attrs.json: alpha: "),
        ({"alpha": 1e9}, "attrs.json: alpha: "),
        ({"beta": float("nan")}, "attrs.json: beta: "),
        ([], "attrs.json: expected an object, got list"),
    ],
)
def test_damaged_attributes_are_one_line(tmp_path, attributes, reason):
    add_language_model(tmp_path, attributes)
    with pytest.raises(CheckpointError, match=reason):
        shipped_settings(tmp_path)


def test_a_folder_without_a_language_model_is_decoded_greedily(folder):
    assert shipped_settings(folder) is None
    assert Recognizer.load(f"hf:{folder}", "cpu").decoder.name == "greedy"
