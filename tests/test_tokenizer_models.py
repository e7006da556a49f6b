"""SentencePiece models that were trained elsewhere, as tokenizers: their pieces are those of SentencePiece itself."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import sentencepiece

from asr.corpora.catalogue import find_recipe
from asr.corpora.prepare import prepare
from asr.corpora.recipe import Request
from asr.data import manifest as manifests
from asr.data.subwords import SubwordTokenizer
from asr.data.tokenizer_file import read_tokenizer, tokenizer_from_json
from asr.errors import ConfigError, DataError

ROOT = Path(__file__).parents[1]
#: real English text with capitals, punctuation, digits
LINES = [line for line in (ROOT / "docs" / "training.md").read_text(encoding="utf-8").splitlines() if line.strip()]
WORDS = [" ".join("".join(c if c.isalpha() else " " for c in line.lower()).split()) for line in LINES]
TEXTS = [text for text in WORDS if text and text.isascii()]
OPTIONS = [
    {"model_type": "unigram"},
    {"model_type": "bpe"},
    {"model_type": "bpe", "byte_fallback": True},
    {"model_type": "unigram", "byte_fallback": True, "unk_id": 3, "bos_id": 1, "eos_id": 2, "pad_id": 0},
    {"model_type": "unigram", "unk_id": 5, "bos_id": -1, "eos_id": -1, "pad_id": 0},
    {"model_type": "bpe", "control_symbols": ["<mask>"], "user_defined_symbols": ["<laugh>", "ing"]},
    {"model_type": "unigram", "add_dummy_prefix": False},
    {"model_type": "bpe", "normalization_rule_name": "nmt_nfkc_cf"},
    {"model_type": "unigram", "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
]


def trained(path: Path, **options: object) -> Path:
    model = io.BytesIO()
    asked = {"vocab_size": 400, "minloglevel": 2, "num_threads": 1, "character_coverage": 1.0} | options
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(TEXTS), model_writer=model, **asked)
    path.write_bytes(model.getvalue())
    return path


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_pieces_are_sentencepieces_own_and_decoding_undoes_them(options, tmp_path):
    path = trained(tmp_path / "x.model", **options)
    tokenizer = SubwordTokenizer.read(path)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert tokenizer.kind == options["model_type"]
    assert tokenizer_from_json(tokenizer.to_json(), path) == tokenizer
    assert len(TEXTS) > 100

    for text in TEXTS:
        assert tokenizer.unknown(text) == []
        ids = tokenizer.encode(text)
        assert [tokenizer.symbols[i - 1] for i in ids] == processor.encode(text, out_type=str)
        assert tokenizer.decode(ids) == processor.decode(processor.encode(text)) == text


def test_marks_and_bytes_are_no_tokens_and_user_symbols_are(tmp_path):
    options = {"control_symbols": ["<mask>"], "user_defined_symbols": ["<laugh>"], "byte_fallback": True}
    tokenizer = SubwordTokenizer.read(trained(tmp_path / "x.model", **options, vocab_size=600))
    assert not {"<mask>", "<unk>", "<s>", "</s>", "<0x41>"} & set(tokenizer.symbols)
    assert tokenizer.vocabulary_size == 600 - 3 - 1 - 256 + 1
    assert tokenizer.decode(tokenizer.encode("the <laugh>speech")) == "the <laugh>speech"
    assert tokenizer.symbols.index("<laugh>") + 1 in tokenizer.encode("the <laugh>speech")


def test_the_models_own_rules_are_applied(tmp_path):
    folding = SubwordTokenizer.read(trained(tmp_path / "cf.model", normalization_rule_name="nmt_nfkc_cf"))
    assert folding.encode("The  ﬁRST") == folding.encode("the first")
    assert folding.decode(folding.encode("The  ﬁRST")) == "the first"
    assert folding.unknown("The ж") == ["ж"]

    plain = SubwordTokenizer.read(trained(tmp_path / "plain.model"))
    assert plain.unknown("The") == ["T"]


@pytest.mark.parametrize("byte_fallback", [False, True])
@pytest.mark.parametrize("odd", ["ж", "▁", "\ud800", "\0", "▅"])
def test_a_character_without_a_piece_is_an_error_that_shows_it(odd, byte_fallback, tmp_path):
    tokenizer = SubwordTokenizer.read(trained(tmp_path / "x.model", byte_fallback=byte_fallback))
    assert tokenizer.unknown(f"the {odd}") == [odd]
    with pytest.raises(DataError, match=rf"unknown character .* \(U\+{ord(odd):04X}\)"):
        tokenizer.encode(f"the {odd}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "char", "vocab_size": 29}, "of type char, expected bpe or unigram; for characters leave"),
        ({"model_type": "word"}, "of type word, expected bpe or unigram"),
        ({"treat_whitespace_as_suffix": True}, "has a space inside or at its end, and beam search takes"),
        ({"model_type": "bpe", "split_by_whitespace": False}, "has a space inside or at its end, and beam search"),
        ({"user_defined_symbols": ["in the"]}, "piece 'in the' has a space inside"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_by_its_file(options, message, tmp_path):
    path = trained(tmp_path / "x.model", **options)
    with pytest.raises(ConfigError) as caught:
        SubwordTokenizer.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "message"), [(None, "cannot read: "), (b"", "is empty"), (b"text", "not a Sent")])
def test_a_file_that_is_no_model_is_refused_by_its_name(content, message, tmp_path):
    path = tmp_path / "x.model"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        SubwordTokenizer.read(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_prepare_takes_a_model_and_names_what_it_cannot_write(tmp_path):
    path = trained(tmp_path / "x.model")
    (tmp_path / "a.csv").write_text(f"audio_path,text\n{_wav(tmp_path)},the Speech\n", encoding="utf-8")
    recipe, _ = find_recipe("csv")

    def prepared(**options: object) -> tuple[Path, list[str]]:
        out = tmp_path / "-".join(["data", *map(str, options.values())])
        request = Request(out, sources=(tmp_path / "a.csv",), options={"name": "train"}, tokenizer=str(path), **options)
        return out, prepare(recipe, request).notes

    out, notes = prepared()
    assert any(note.startswith("1 texts of train have characters") and "'S' (U+0053) in 1" in note for note in notes)
    out, notes = prepared(normalization="lower-nopunct")
    assert not any("cannot write" in note for note in notes)
    tokenizer = read_tokenizer(out / "tokenizer.json")
    assert tokenizer == SubwordTokenizer.read(path)
    assert [tokenizer.decode(tokenizer.encode(u.text)) for u in manifests.read(out / "train.jsonl")] == ["the speech"]
    assert f"tokenizer: unigram, {tokenizer.vocabulary_size} tokens, the blank included, from {path}" in notes
    assert not any("come back" in note for note in notes)
    with pytest.raises(ConfigError, match="--vocab-size goes with --tokenizer bpe or unigram"):
        prepared(vocab_size=9)


def test_prepare_names_texts_that_the_models_own_rules_change(tmp_path):
    path = trained(tmp_path / "x.model", normalization_rule_name="nmt_nfkc_cf")
    (tmp_path / "a.csv").write_text(f"audio_path,text\n{_wav(tmp_path)},the Speech\n", encoding="utf-8")
    recipe, _ = find_recipe("csv")
    for profile, changed in (("none", True), ("lower", False)):
        request = Request(
            tmp_path / profile,
            sources=(tmp_path / "a.csv",),
            options={"name": "train"},
            tokenizer=str(path),
            normalization=profile,
        )
        notes = prepare(recipe, request).notes
        assert (
            any(note.startswith("1 texts of train come back") and "'the Speech'" in note for note in notes) == changed
        )


def _wav(folder: Path) -> Path:
    import numpy as np
    import soundfile

    soundfile.write(folder / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    return folder / "a.wav"
