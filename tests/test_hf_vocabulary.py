"""The vocabulary of a Hugging Face folder: which column writes what, which is the blank, and what is refused.

The texts that are expected here are those of transformers 5.24; the slow test draws vocabularies and compares.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr.data.text import NORMALIZATIONS
from asr.decode.greedy import greedy
from asr.errors import CheckpointError
from asr.model.hf.vocabulary import HfVocabulary, guess_profile, read_vocabulary

STORED = Path(__file__).parent / "data" / "hf"
BASE = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "E": 5, "T": 6, "'": 7}


def folder_of(folder: Path, vocabulary: Any, settings: dict[str, Any] | None = None, **files: Any) -> Path:
    """Write the files of a tokenizer; ``files`` by their names without the ending."""
    for name, content in {"vocab": vocabulary, "tokenizer_config": settings, **files}.items():
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def written(vocabulary: HfVocabulary, columns: list[int]) -> str:
    """Return the greedy text of a path of columns."""
    id_of = {column: i for i, column in enumerate(vocabulary.columns)}
    log_probs_sv = np.full((len(columns), len(vocabulary.columns)), -np.inf, np.float32)
    log_probs_sv[np.arange(len(columns)), [id_of.get(column, 0) for column in columns]] = 0.0
    return greedy(log_probs_sv, vocabulary.tokenizer).text


def test_letters_keep_their_columns_and_special_tokens_are_silent(tmp_path):
    vocabulary = read_vocabulary(folder_of(tmp_path, BASE), 8)
    assert vocabulary.columns == (0, 4, 5, 6, 7)
    assert vocabulary.tokenizer.symbols == (" ", "E", "T", "'")
    assert vocabulary.tokenizer.kind == "char"
    assert vocabulary.silent == (1, 2, 3)
    assert written(vocabulary, [6, 6, 0, 6, 3, 5, 4, 5]) == "TTE E"


def test_the_blank_is_the_pad_token_wherever_it_stands(tmp_path):
    entries = {"a": 0, "|": 1, "b": 2, "[PAD]": 3, "[UNK]": 4}
    vocabulary = read_vocabulary(folder_of(tmp_path, entries, {"pad_token": "[PAD]", "unk_token": "[UNK]"}), 5)
    assert vocabulary.columns == (3, 0, 1, 2)
    assert vocabulary.silent == (4,)
    assert written(vocabulary, [0, 0, 3, 0, 1, 2]) == "aa b"


def test_without_a_pad_token_in_the_head_the_config_names_the_blank(tmp_path):
    entries = {"a": 0, "[PAD]": 1}
    folder = folder_of(tmp_path, entries, {}, config={"pad_token_id": 1})
    assert read_vocabulary(folder, 2).columns == (1, 0)
    folder_of(tmp_path, entries, {}, config={"pad_token_id": 0})
    with pytest.raises(CheckpointError, match="no output is the blank: pad_token is '<pad>'"):
        read_vocabulary(folder, 2)


def test_a_blank_that_training_did_not_take_is_said(tmp_path):
    folder = folder_of(tmp_path, BASE, {}, config={"pad_token_id": 0})
    assert len(read_vocabulary(folder, 8).notes) == 1
    folder_of(tmp_path, BASE, {}, config={"pad_token_id": 5})
    vocabulary = read_vocabulary(folder, 8)
    assert vocabulary.columns[0] == 0
    assert "the blank is output 0 (<pad>), but pad_token_id of config.json is 5" in vocabulary.notes


@pytest.mark.parametrize("named", ["word_delimiter_token", "special_tokens_map"])
def test_the_word_delimiter_need_not_be_a_bar(tmp_path, named):
    """transformers 5.24 reads another delimiter of tokenizer_config.json as a letter; older versions did not."""
    entries = {"<pad>": 0, "_": 1, "a": 2, "|": 3}
    setting = {"word_delimiter_token": "_"}
    files = {"special_tokens_map": setting} if named == "special_tokens_map" else {}
    folder = folder_of(tmp_path, entries, {} if files else setting, **files)
    assert written(read_vocabulary(folder, 4), [2, 1, 2, 3]) == "a a|"


def test_the_word_delimiter_may_write_something_else_or_nothing(tmp_path):
    entries = {"<pad>": 0, "|": 1, "a": 2}
    assert (
        written(read_vocabulary(folder_of(tmp_path, entries, {"replace_word_delimiter_char": "-"}), 3), [2, 1, 2])
        == "a-a"
    )
    silent = read_vocabulary(folder_of(tmp_path, entries, {"replace_word_delimiter_char": ""}), 3)
    assert silent.silent == (1,)
    assert written(silent, [2, 1, 2]) == "aa"


def test_do_lower_case_writes_an_upper_case_vocabulary_in_lower_case(tmp_path):
    entries = {"<pad>": 0, "|": 1, "A": 2, "TH": 3, "a": 4, "é": 5}
    vocabulary = read_vocabulary(folder_of(tmp_path, entries, {"do_lower_case": True}), 6)
    assert vocabulary.tokenizer.symbols == (" ", "a", "th", "é")
    assert vocabulary.columns[2] == 2, "texts are trained in upper case: no text reaches the small letter"
    assert vocabulary.silent == (4,)
    assert vocabulary.profile == "lower-nopunct"


def test_an_entry_of_several_letters_is_one_token(tmp_path):
    entries = {"<pad>": 0, "|": 1, "t": 2, "tʃ": 3, "a": 4}
    tokenizer = read_vocabulary(folder_of(tmp_path, entries), 5).tokenizer
    assert tokenizer.kind == "pieces"
    assert tokenizer.encode("tʃa ta") == [3, 4, 1, 2, 4]


def test_phonemes_are_words_of_their_own_as_their_tokenizer_writes_them(tmp_path):
    entries = {"<pad>": 0, "h": 1, "ə": 2, "oʊ": 3, "|": 4}
    config = {"tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer", "word_delimiter_token": None}
    vocabulary = read_vocabulary(folder_of(tmp_path, entries, config), 5)
    assert written(vocabulary, [1, 2, 2, 0, 3, 4]) == "h ə oʊ |"
    assert vocabulary.tokenizer.encode("h oʊ") == [1, 3]
    assert vocabulary.profile == "none"
    with_delimiter = read_vocabulary(folder_of(tmp_path, entries, config | {"word_delimiter_token": "|"}), 5)
    assert written(with_delimiter, [1, 4, 1]) == "h h"


def test_sounds_without_a_space_are_left_as_they_are(tmp_path):
    entries = {"<pad>": 0, "aɪ": 1, "ɛ": 2}
    vocabulary = read_vocabulary(folder_of(tmp_path, entries, {"word_delimiter_token": None}), 3)
    assert vocabulary.tokenizer.symbols == ("aɪ", "ɛ")
    assert vocabulary.profile == "none"


def test_a_hole_is_silent_and_a_letter_keeps_its_id(tmp_path):
    """transformers gives special tokens that it adds the ids from the number of entries on: here those of letters."""
    entries = {"<pad>": 0, "a": 3, "b": 4, "|": 6}
    vocabulary = read_vocabulary(folder_of(tmp_path, entries), 8)
    assert vocabulary.columns == (0, 3, 4, 6)
    assert vocabulary.silent == (1, 2, 5, 7)


def test_entries_above_the_head_are_left_out_and_said(tmp_path):
    vocabulary = read_vocabulary(folder_of(tmp_path, BASE | {"<extra>": 9, "Z": 10}), 8)
    assert vocabulary.tokenizer.symbols == (" ", "E", "T", "'")
    assert any("2 entries are above the head's 8 outputs" in note for note in vocabulary.notes)


def test_added_tokens_are_read_from_old_and_new_files(tmp_path):
    entries = {"<pad>": 0, "a": 1}
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    special = {"bos_token": {"content": "[B]"}}
    old = folder_of(tmp_path / "old", entries, {}, added_tokens={"[B]": 2, "th": 3}, special_tokens_map=special)
    added = {"2": {"content": "[B]", "special": True}, "3": {"content": "th", "special": False}}
    new = folder_of(tmp_path / "new", entries, {"added_tokens_decoder": added}, added_tokens={"x": 2})
    for folder in (old, new):
        vocabulary = read_vocabulary(folder, 4)
        assert vocabulary.tokenizer.symbols == ("a", "th")
        assert vocabulary.silent == (2,)


def test_a_vocabulary_for_each_language_needs_a_language(tmp_path):
    entries = {"deu": {"<pad>": 0, "|": 1, "ä": 2}, "eng": {"<pad>": 0, "|": 1, "e": 2}}
    folder = folder_of(tmp_path, entries, {"target_lang": "eng"})
    assert read_vocabulary(folder, 3).tokenizer.symbols == (" ", "e")
    assert read_vocabulary(folder, 3, "deu").tokenizer.symbols == (" ", "ä")
    with pytest.raises(CheckpointError, match=r"no language 'deo' among its 2; did you mean 'deu'\?"):
        read_vocabulary(folder, 3, "deo")
    folder_of(tmp_path, entries, {})
    with pytest.raises(CheckpointError, match=r"for each of 2 languages \(deu, eng, …\): name one, as in hf:NAME#eng"):
        read_vocabulary(folder, 3)


def test_a_language_for_one_vocabulary_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="leave out '#deu'"):
        read_vocabulary(folder_of(tmp_path, BASE), 8, "deu")


def test_joiners_are_letters_and_marks_of_direction_are_silent(tmp_path):
    entries = {
        "<pad>": 0,
        "|": 1,
        "ک": 2,
        "\u200c": 3,
        "\u200d": 4,
        "\u200f": 5,
        "\u200b": 6,
        "\n": 7,
        "\ud800": 8,
        "": 9,
    }
    vocabulary = read_vocabulary(folder_of(tmp_path, entries), 10)
    assert vocabulary.tokenizer.symbols == (" ", "ک", "\u200c", "\u200d")
    assert vocabulary.silent == (5, 6, 7, 8, 9)


def test_a_mark_of_direction_within_an_entry_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="marks of direction are no symbols"):
        read_vocabulary(folder_of(tmp_path, {"<pad>": 0, "a\u202e": 1}), 2)


def test_pieces_of_a_tokenizer_json_have_their_spaces(tmp_path):
    document = {
        "added_tokens": [
            {"id": 0, "content": "<unk>", "special": True},
            {"id": 5, "content": "<pad>", "special": True},
        ],
        "decoder": {"type": "Metaspace", "replacement": "▁"},
        "model": {"type": "BPE", "unk_token": "<unk>", "vocab": {"<unk>": 0, "▁the": 1, "m": 2, "▁": 3, "e": 4}},
    }
    vocabulary = read_vocabulary(folder_of(tmp_path, None, {"pad_token": "<pad>"}, tokenizer=document), 6)
    assert vocabulary.columns == (5, 1, 2, 3, 4)
    assert vocabulary.tokenizer.symbols == ("▁the", "m", "▁", "e")
    assert vocabulary.silent == (0,)
    assert written(vocabulary, [1, 2, 3, 5, 2, 4]) == "them me"
    assert vocabulary.tokenizer.encode("them me") == [1, 2, 3, 2, 4]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"decoder": {"type": "ByteLevel"}}, "its tokens are decoded by 'ByteLevel', which is not read here"),
        ({"model": {"type": "WordPiece", "vocab": {}}}, "a tokenizer of kind 'WordPiece'"),
        ({"model": {"type": "Unigram", "vocab": {}}}, "vocab must be a list, got dict"),
        ({"added_tokens": [3]}, "added_tokens: a token must be a string, got 3"),
        ({"decoder": {"type": "Sequence", "decoders": None}}, "decoders must be a list"),
    ],
)
def test_a_tokenizer_json_of_another_kind_is_refused_by_name(tmp_path, part, message):
    document = {"model": {"type": "BPE", "vocab": {"<pad>": 0, "a": 1}}, "decoder": None, **part}
    with pytest.raises(CheckpointError, match=message):
        read_vocabulary(folder_of(tmp_path, None, tokenizer=document), 2)


@pytest.mark.parametrize(
    ("vocabulary", "config", "message"),
    [
        (["a"], {}, "vocab.json must be an object, got list"),
        ({"<pad>": 0, "a": -1}, {}, "the id of 'a' must be a number from 0 on, got -1"),
        ({"<pad>": 0, "a": True}, {}, "the id of 'a' must be a number from 0 on, got True"),
        ({"<pad>": 0, "a": 1.5}, {}, "the id of 'a' must be a number from 0 on, got 1.5"),
        ({"<pad>": 0, "a": {"b": 1}}, {"target_lang": "<pad>"}, "language <pad> must be an object"),
        ({"<pad>": 0, "a": 1}, {"word_delimiter_token": 3}, "word_delimiter_token: a token must be a string, got 3"),
        ({"<pad>": 0, "a": 1}, {"do_lower_case": "yes"}, "do_lower_case must be true or false"),
        ({"<pad>": 0, "a": 1}, {"added_tokens_decoder": []}, "added_tokens_decoder must be an object"),
        ({"<pad>": 0, "a": 1}, {"added_tokens_decoder": {"x": {"content": "b"}}}, "the id of 'b' must be a number"),
        ({"<pad>": 0, "a": 1}, {"additional_special_tokens": 5}, "additional_special_tokens must be a list"),
        ({"<pad>": 0, "<s>": 1}, {}, "none of the head's 2 outputs writes a letter"),
        ({"<pad>": 0, "a b": 1}, {}, "a token may have a space only at its start"),
        ({"<pad>": 0, "x" * 100: 1}, {}, "a token of 100 letters, at most 64"),
    ],
)
def test_a_damaged_vocabulary_is_refused_in_one_line(tmp_path, vocabulary, config, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        read_vocabulary(folder_of(tmp_path, vocabulary, config), 2)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_without_a_vocabulary_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no vocabulary: neither vocab.json nor tokenizer.json is there"):
        read_vocabulary(tmp_path, 3)


def test_a_head_of_any_size_is_not_read(tmp_path):
    with pytest.raises(CheckpointError, match="the head has 1,000,000,000 outputs"):
        read_vocabulary(folder_of(tmp_path, BASE), 10**9)


@pytest.mark.parametrize(
    ("letters", "profile"),
    [
        (" 'ABCDEFGHIJKLMNOPQRSTUVWXYZ", "librispeech"),
        (" ABCÄÖÜ", "upper-nopunct"),
        (" abcäöüß'", "lower-nopunct"),
        (" abc.,?", "lower"),
        (" ABC.,?", "upper"),
        (" abcABC.,?", "none"),
        (" abcdefghX", "lower-nopunct"),
        ("你好吗", "lower-nopunct"),
        (" ابت", "lower-nopunct"),
    ],
)
def test_the_profile_brings_texts_to_the_letters(letters, profile):
    assert guess_profile(letters)[0] == profile
    assert profile in NORMALIZATIONS


_LETTERS = [
    *"abcdefgxyzABCDEFGXYZ'-.,?éäßöıçñΩабвг你好ا\u200c\u093e0129",
    "th",
    "TH",
    "ch",
    "aɪ",
    "tʃ",
    "Ch",
    "<laugh>",
]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_any_vocabulary_writes_what_transformers_writes(tmp_path, seed):
    transformers = pytest.importorskip("transformers")
    draw = random.Random(seed)

    for case in range(60):
        is_phonetic = draw.random() < 0.2
        folder = tmp_path / str(case)
        folder.mkdir()
        config = {
            "pad_token": draw.choice(["<pad>", "[PAD]"]),
            "unk_token": draw.choice(["<unk>", "[UNK]"]),
            "word_delimiter_token": draw.choice(["|", "|", " ", "_", None]),
        }
        if not is_phonetic:
            config["do_lower_case"] = draw.random() < 0.4
            config["replace_word_delimiter_char"] = draw.choice([" ", " ", " ", "", "~"])
        entries = [*draw.sample(_LETTERS, draw.randint(3, 25)), *filter(None, config.values())]
        entries = list({entry: None for entry in entries if isinstance(entry, str) and entry not in " ~"})
        if config["word_delimiter_token"] == " ":
            entries.append(" ")
        draw.shuffle(entries)
        # The phonetic tokenizer writes special tokens that it adds in place of letters behind holes.
        holes = 0 if is_phonetic else draw.choice([0, 6])
        ids = sorted(draw.sample(range(len(entries) + holes), len(entries)))
        kind = "Wav2Vec2PhonemeCTCTokenizer" if is_phonetic else "Wav2Vec2CTCTokenizer"
        folder_of(folder, dict(zip(entries, ids, strict=True)), config | {"tokenizer_class": kind})
        # Made without from_pretrained, which loses the word delimiter.
        options = {"do_phonemize": False} if is_phonetic else {}
        theirs = getattr(transformers, kind)(str(folder / "vocab.json"), **config, **options)

        outputs = max(ids) + 1 + draw.choice([0, 0, 2])
        vocabulary = read_vocabulary(folder, outputs)
        assert sorted(vocabulary.columns + vocabulary.silent) == list(range(outputs))
        for _ in range(5):
            path = [draw.randrange(outputs) for _ in range(draw.randint(1, 30)) for _ in range(draw.choice([1, 1, 2]))]
            spoken = [vocabulary.columns[0] if column in vocabulary.silent else column for column in path]
            assert written(vocabulary, path).strip() == theirs.decode(spoken, skip_special_tokens=False).strip()


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 9)
    | st.floats()
    | st.sampled_from(["<pad>", "a", "BPE", "|", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["<pad>", "a", "b c", "content", "id", "type", "0", "vocab"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)
_KEYS = ("added_tokens_decoder", "pad_token", "word_delimiter_token", "do_lower_case", "tokenizer_class", "target_lang")
_SETTINGS = st.dictionaries(st.sampled_from([*_KEYS, "extra_special_tokens", "replace_word_delimiter_char"]), _JSON)


def _as_ctc(decoder: dict[str, Any]) -> dict[str, Any]:
    return {"type": "CTC", **decoder}


_DOCUMENT = st.fixed_dictionaries(
    {
        "model": st.fixed_dictionaries(
            {"type": st.sampled_from(["BPE", "Unigram", "WordLevel"]), "vocab": _JSON | st.just({"<pad>": 0, "a": 1})},
            optional={"unk_token": _JSON, "unk_id": _JSON, "byte_fallback": _JSON},
        )
    },
    optional={
        "added_tokens": _JSON,
        "decoder": _JSON | st.dictionaries(st.just("word_delimiter_token"), _JSON).map(_as_ctc),
    },
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(vocabulary=_JSON | st.just({"<pad>": 0, "a": 1}), config=_SETTINGS | _JSON, more=_JSON, document=_DOCUMENT)
def test_any_json_is_read_or_refused_in_one_line(tmp_path, vocabulary, config, more, document):
    files = {"added_tokens": more, "special_tokens_map": more, "config": more, "tokenizer": document}
    for name in ("vocab", *files, "tokenizer_config"):
        (tmp_path / f"{name}.json").unlink(missing_ok=True)
    folder_of(tmp_path, vocabulary, config, **{name: content for name, content in files.items() if name != "config"})
    (tmp_path / "config.json").write_text(json.dumps(more))
    for _ in range(2):  # the second time from tokenizer.json
        try:
            found = read_vocabulary(tmp_path, 6)
        except CheckpointError as error:
            assert "\n" not in str(error)
        else:
            assert sorted(found.columns + found.silent) == list(range(6))
        (tmp_path / "vocab.json").unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["base", "hubert", "large", "mms", "wavlm"])
def test_stored_log_probabilities_are_the_texts_of_transformers(name):
    texts = json.loads((STORED / "texts.json").read_text(encoding="utf-8"))
    for key in [key for key in texts if key.startswith((f"{name}_", f"{name}#"))]:
        log_probs_so = np.load(STORED / f"{key.replace('#', '-')}.npy")
        language = key.partition("#")[2].partition("_")[0] or None
        vocabulary = read_vocabulary(STORED / name, log_probs_so.shape[1], language)
        said = re.sub(r"<s>|</s>|<unk>|\[UNK\]", "", texts[key])
        assert written(vocabulary, log_probs_so.argmax(1).tolist()).strip() == said.strip()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["BPE", "Unigram"])
def test_pieces_of_words_write_what_transformers_writes(tmp_path, kind):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    texts = ["the cat sat on the mat, and then it's gone", "this is another thing that we think"] * 20
    unknown = {"unk_token": "<unk>"}
    pieces = tokenizers.Tokenizer(tokenizers.models.BPE(**unknown) if kind == "BPE" else tokenizers.models.Unigram())
    pieces.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    pieces.decoder = tokenizers.decoders.Metaspace()
    trainer = {"BPE": tokenizers.trainers.BpeTrainer, "Unigram": tokenizers.trainers.UnigramTrainer}[kind]
    options = unknown if kind == "Unigram" else {}
    pieces.train_from_iterator(texts, trainer(vocab_size=60, special_tokens=["<unk>"], **options))
    pieces.add_special_tokens(["<pad>"])
    theirs = transformers.ParakeetTokenizer(tokenizer_object=pieces, pad_token="<pad>", unk_token="<unk>")
    theirs.save_pretrained(tmp_path)

    outputs = len(theirs)
    vocabulary = read_vocabulary(tmp_path, outputs)
    blank = vocabulary.columns[0]
    assert (blank, vocabulary.silent) == (outputs - 1, (0,))
    draw = random.Random(1)
    for _ in range(200):
        path = [draw.randrange(outputs) for _ in range(draw.randint(1, 30))]
        spoken = [blank if column in vocabulary.silent else column for column in path]
        assert written(vocabulary, path) == theirs.decode(spoken, skip_special_tokens=False)
