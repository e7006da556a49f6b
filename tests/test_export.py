"""Models of ours in the format of the Hugging Face hub: read again here, and (slow) by ``transformers``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from asr.data.pieces import PieceTokenizer
from asr.data.tokenizer import CharTokenizer, Tokenizer
from asr.model.checkpoint import build_model, load_model, model_tensors, save_model
from asr.model.hf.card import read_card
from asr.model.hf.export import export_model
from asr.model.hf.export_tokenizer import tokenizer_files
from asr.model.hf.vocabulary import read_vocabulary
from asr.model.start import load_start, resolve_start
from tests.models import save_random_model
from tests.test_cli import command  # noqa: F401  # the fixture
from tests.test_finetune import answer, config

HF = Path(__file__).parent / "data" / "hf"
NAMES = ["base", "large", "hubert", "wavlm", "mms#deu"]
TOKENIZERS = {
    "characters": CharTokenizer((" ", "a", "b")),
    "a character that stands for the space": CharTokenizer((" ", "a", "|")),
    "without a space": CharTokenizer(("a", "b")),
    "letters of two characters": PieceTokenizer((" ", "a", "sh", "s", "h", "i", "p")),
    "pieces of words": PieceTokenizer(("▁", "▁the", "▁c", "a", "t", "s", "e", "h")),
}
TEXTS = {
    "characters": "ab a",
    "a character that stands for the space": "a|a a",
    "without a space": "ab",
    "letters of two characters": "a ship",
    "pieces of words": "the cats",
}


def saved(name: str, folder: Path, *settings: str) -> Path:
    """A model folder with the weights of a stored folder of the hub."""
    cfg = resolve_start(config(f"hf:{HF}/{name}", *settings))
    source = load_start(f"hf:{HF}/{name}")
    torch.manual_seed(0)
    model = build_model(cfg.audio, source.text, cfg.features, cfg.model, source.tokenizer)
    model.network.load_state_dict(source.network.state_dict())
    facts = {"corpus": "Mine | and: yours", "train_hours": 0.5, "started_from": "hf:facebook/wav2vec2-base"}
    model.training.update(facts)
    save_model(folder, model, model_tensors(model), {"dev": {"wer": {"rate": 0.125}}})
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_an_exported_model_is_the_same_model(name, tmp_path, command):  # noqa: F811
    folder = saved(name, tmp_path / "model")
    assert command("export", folder, tmp_path / "out", "--to", "hf").out == f"{tmp_path}/out\n"
    wave_n = np.load(HF / "wave.npy")
    first, second = load_model(folder), load_model(f"hf:{tmp_path}/out")
    np.testing.assert_allclose(answer(first, wave_n), answer(second, wave_n), atol=1e-6)
    assert first.tokenizer.symbols == second.tokenizer.symbols
    again = load_start(f"hf:{tmp_path}/out")
    for key, tensor in load_start(f"hf:{HF}/{name}").network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[key]), key


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_transformers_answers_the_same(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    masks = "model.wav2vec2.mask_time_probability=" + ("0" if name == "hubert" else "0.065")
    channels = "model.wav2vec2.mask_channel_probability=" + ("0" if name == "hubert" else "0.004")
    folder = saved(name, tmp_path / "model", masks, channels)
    export_model(folder, tmp_path / "out")
    model, found = transformers.AutoModelForCTC.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(found.values())

    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "out")
    wave_n = np.load(HF / "wave.npy")
    inputs = processor(wave_n, sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        theirs_sv = model.eval()(**inputs).logits[0].log_softmax(-1).numpy()
    ours = load_model(folder)
    np.testing.assert_allclose(theirs_sv, answer(ours, wave_n), atol=1e-5)
    assert len(processor.tokenizer) == ours.tokenizer.vocabulary_size


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_tokens_keep_their_ids(kind, tmp_path):
    tokenizer = TOKENIZERS[kind]
    write_tokenizer(tokenizer, tmp_path)
    found = read_vocabulary(tmp_path, tokenizer.vocabulary_size)
    assert found.columns == tuple(range(tokenizer.vocabulary_size)) and not found.silent
    assert found.tokenizer.symbols == tokenizer.symbols


@pytest.mark.slow
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_transformers_writes_and_reads_the_same_tokens(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer, text = TOKENIZERS[kind], TEXTS[kind]
    write_tokenizer(tokenizer, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer.encode(text)
    assert theirs(text).input_ids == ids
    # each token twice, with blanks between them
    steps = [step for id_ in ids for step in (id_, id_, 0)]
    assert theirs.decode(steps, skip_special_tokens=False) == text


def write_tokenizer(tokenizer: Tokenizer, folder: Path, files: dict[str, object] | None = None) -> None:
    """A folder with the files of a tokenizer, and a config for them."""
    for name, content in (files or tokenizer_files(tokenizer)).items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(HF / "base" / name, folder / name)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"vocab_size": tokenizer.vocabulary_size}))


def test_masks_are_exported_as_transformers_counts_them(tmp_path):
    settings = ("model.wav2vec2.mask_time_probability=0.065", "model.wav2vec2.mask_channel_probability=0.004")
    export_model(saved("base", tmp_path / "model", *settings, "model.wav2vec2.mask_channel_width=64"), tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["mask_time_prob"] == pytest.approx(0.65) and written["mask_feature_prob"] == pytest.approx(0.256)
    assert "wav2vec2.masked_spec_embed" in load_file(tmp_path / "out" / "model.safetensors")


def test_what_transformers_has_no_use_for_is_left_out(tmp_path):
    off = ("model.wav2vec2.mask_time_probability=0", "model.wav2vec2.mask_channel_probability=0")
    export_model(saved("base", tmp_path / "model", *off), tmp_path / "out")
    assert "wav2vec2.masked_spec_embed" not in load_file(tmp_path / "out" / "model.safetensors")


def test_the_card_says_what_is_known_and_what_is_missing(tmp_path):
    export_model(saved("large", tmp_path / "model"), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "transformers" and front["base_model"] == "facebook/wav2vec2-base"
    assert "| corpus | Mine \\| and: yours |" in card and "| word error rate, dev | 12.50% |" in card
    assert "add the licence and the language" in card
    assert read_card(tmp_path / "out") == {"pretrained_on": "facebook/wav2vec2-base"}


def test_a_recurrent_network_is_refused_in_one_line(tmp_path, command):  # noqa: F811
    result = command("export", save_random_model(tmp_path / "m"), tmp_path / "out", "--to", "hf")
    assert result.code == 2 and "transformers has no network like ours with model.encoder: recurrent" in result.err
    assert result.err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_nothing_is_overwritten_and_only_known_formats_are_written(tmp_path, command):  # noqa: F811
    folder = saved("base", tmp_path / "model")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    result = command("export", folder, tmp_path / "out", "--to", "hf")
    assert result.code == 2 and "is there already; choose another folder" in result.err
    assert command("export", folder, tmp_path / "new", "--to", "tflite").code == 2
    assert command("export", f"hf:{HF}/base", tmp_path / "new", "--to", "hf").code == 2
    assert not (tmp_path / "new").exists()
