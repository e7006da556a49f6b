from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asr.corpora.importers import IMPORTERS
from asr.corpora.importers.combined import COMBINED, FORMS
from asr.corpora.prepare import Prepared, prepare
from asr.corpora.recipe import Corpus, Recipe, Request
from asr.data import manifest as manifests
from asr.data import prepared as headers
from asr.data.audio import load
from asr.data.manifest import Utterance
from asr.errors import ConfigError, DataError
from asr.model.checkpoint import load_model
from asr.train import train
from tests.builders import tiny_config, write_wav

SECOND = np.sin(np.arange(16000) / 20).astype(np.float32) / 4


def corpus(folder: Path, recipe: str, splits: dict[str, list[tuple[str, str, str]]], profile: str = "upper") -> Path:
    """A prepared folder: (id, speaker, text) by split, a second of its own audio for each."""
    utterances = {}
    for split, rows in splits.items():
        for id_, _, _ in rows:
            write_wav(folder / "wav" / f"{id_}.wav", SECOND)
        utterances[split] = [Utterance(id_, f"wav/{id_}.wav", 1.0, text, speaker) for id_, speaker, text in rows]

    def write(request: Request) -> Corpus:
        return Corpus(utterances)

    prepare(Recipe(recipe, recipe, 1, 16000, "free", "", write), Request(folder, normalization=profile))
    return folder


@pytest.fixture
def two(tmp_path):
    a = corpus(
        tmp_path / "a" / "data", "bells", {"train": [("1", "x", "ONE"), ("2", "y", "TWO")], "dev": [("3", "z", "NO")]}
    )
    b = corpus(tmp_path / "b", "birds", {"train": [("1", "x", "SONG"), ("4", "w", "B")], "test": [("5", "", "C")]})
    return a, b


def combined(out: Path, *folders: Path, **options: str) -> Prepared:
    return prepare(COMBINED, Request(out, sources=folders, **options))


def test_all_rows_of_all_folders_are_there_once_and_lead_to_their_own_audio(two, tmp_path):
    out = tmp_path / "all"
    rows = combined(out, *two).utterances
    assert {split: len(found) for split, found in rows.items()} == {"train": 4, "dev": 1, "test": 1}
    train_ = manifests.read(out / "train.jsonl")
    assert [(u.id, u.speaker, u.text, u.meta) for u in train_] == [
        ("2", "y", "TWO", {"corpus": "bells"}),
        ("4", "w", "B", {"corpus": "birds"}),
        ("bells-1", "bells-x", "ONE", {"corpus": "bells"}),
        ("birds-1", "birds-x", "SONG", {"corpus": "birds"}),
    ]
    assert [train_.audio_path(u) for u in train_] == [
        two[0] / "wav" / "2.wav",
        two[1] / "wav" / "4.wav",
        two[0] / "wav" / "1.wav",
        two[1] / "wav" / "1.wav",
    ]
    assert all(len(load(train_.audio_path(u))[0]) == 16000 for u in train_)
    assert [u.speaker for u in manifests.read(out / "test.jsonl")] == [""]  # not known stays not known


def test_what_is_shared_and_what_is_missing_is_said(two, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        combined(tmp_path / "all", *two)
    assert caplog.messages[:4] == [
        "1 utterances have the id of one in another corpus, and get their corpus in front",
        "1 speakers have the name of one in another corpus, and get their corpus in front",
        "dev: nothing of birds, which has none",
        "test: nothing of bells, which has none",
    ]


def test_audio_inside_the_new_folder_is_named_relative_to_it(tmp_path):
    parts = [corpus(tmp_path / name, name, {"train": [(name, "", "A")]}) for name in ("a", "b")]
    rows = combined(tmp_path, *parts).utterances["train"]
    assert [u.audio_path for u in rows] == ["a/wav/a.wav", "b/wav/b.wav"]


def test_the_profile_is_that_of_the_folders_and_a_tokenizer_is_trained_on_all(two, tmp_path):
    finished = combined(tmp_path / "all", *two, tokenizer="bpe", vocab_size=12)
    assert finished.header.normalization == "upper"
    assert finished.header.splits["train"]["utterances"] == 4
    assert (tmp_path / "all" / finished.header.tokenizer).is_file()
    assert headers.read(tmp_path / "all") == finished.header


def test_texts_of_different_profiles_need_one_that_is_asked_for(two, tmp_path):
    other = corpus(tmp_path / "c", "calls", {"train": [("6", "", "Six")]}, "none")
    with pytest.raises(ConfigError) as caught:
        combined(tmp_path / "all", *two, other)
    assert str(caught.value) == (
        "the texts went through different normalizations (bells upper, birds upper, calls none): "
        "choose one for all, --normalization"
    )
    assert not (tmp_path / "all").exists()
    rows = combined(tmp_path / "all", *two, other, normalization="lower").utterances["train"]
    assert {u.text for u in rows} == {"one", "two", "song", "b", "six"}
    assert combined(tmp_path / "all", *two, other).header.normalization == "lower"  # as the folder has one now


def test_none_says_nothing_of_texts_that_went_through_something(two, tmp_path):
    plain = corpus(tmp_path / "c", "calls", {"train": [("6", "", "Six")]}, "none")
    more = corpus(tmp_path / "d", "cries", {"train": [("7", "", "Ah")]}, "none")
    with pytest.raises(ConfigError, match="different normalizations"):
        combined(tmp_path / "all", plain, two[0], normalization="none")
    with pytest.raises(ConfigError, match=r"went through a normalization already \(bells upper, birds upper\)"):
        combined(tmp_path / "all", *two, normalization="none")
    combined(tmp_path / "none", plain, more)
    before = (tmp_path / "none" / "train.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="different normalizations"):
        combined(tmp_path / "none", plain, two[0])  # the folder is one of none already
    assert (tmp_path / "none" / "train.jsonl").read_bytes() == before


def test_a_label_with_its_corpus_in_front_is_nobody_elses(tmp_path):
    a = corpus(tmp_path / "A", "kaldi", {"train": [("1", "1", "ONE"), ("A-1", "A-1", "TWO"), ("A-1-2", "y", "NO")]})
    b = corpus(tmp_path / "B", "kaldi", {"train": [("1", "1", "THREE")], "dev": [("2", "1", "FOUR")]})
    found = combined(tmp_path / "all", a, b).utterances
    rows = {u.text: (u.id, u.speaker) for split in found.values() for u in split}
    assert rows == {
        "ONE": ("A-1-3", "A-1-2"),
        "TWO": ("A-1", "A-1"),
        "NO": ("A-1-2", "y"),
        "THREE": ("B-1", "B-1"),
        "FOUR": ("2", "B-1"),
    }


def test_two_of_one_recipe_are_told_apart_and_imported_data_are_named_by_folder(two, tmp_path):
    second = corpus(tmp_path / "second", "bells", {"train": [("6", "x", "A")]})
    calls = corpus(tmp_path / "calls" / "data", "kaldi", {"train": [("7", "x", "A")]})
    bare = corpus(tmp_path / "bare", "csv", {"train": [("8", "x", "A")]}, "none")
    (bare / headers.FILE).unlink()
    rows = combined(tmp_path / "all", two[0], second, calls, bare, normalization="upper").utterances["train"]
    assert sorted((u.speaker, u.meta["corpus"]) for u in rows) == [
        ("bare-x", "bare"),
        ("bells-2-x", "bells-2"),
        ("bells-x", "bells"),
        ("calls-x", "calls"),
        ("y", "bells"),
    ]


def test_a_corpus_within_a_corpus_keeps_its_name_and_meta_stays(tmp_path, two):
    combined(tmp_path / "inner", *two)
    rows = manifests.read(two[0] / "dev.jsonl").utterances
    manifests.write(two[0] / "dev.jsonl", [replace(rows[0], id="9", meta={"group": "child"})])
    outer = combined(tmp_path / "outer", tmp_path / "inner", two[0]).utterances
    assert [u.meta for u in outer["dev"]] == [{"corpus": "bells"}, {"corpus": "bells", "group": "child"}]


def test_folders_that_cannot_be_combined_are_named(two, tmp_path):
    a, b = two
    with pytest.raises(ConfigError, match=r"^--out .*a/data is one of the folders that are to be combined"):
        combined(a, a, b)
    with pytest.raises(ConfigError, match=r"data/\.\./data is named twice$|a/data is named twice$"):
        combined(tmp_path / "all", a, a.parent / "data" / ".." / "data")
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        combined(tmp_path / "all", a, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match=r"empty: holds none of train\.jsonl, dev\.jsonl, test\.jsonl; prepare it first"
    ):
        combined(tmp_path / "all", a, tmp_path / "empty")
    (b / headers.FILE).rename(b / headers.UNFINISHED)
    with pytest.raises(DataError, match=r"the last 'asr prepare' of this folder did not finish"):
        combined(tmp_path / "all", a, b)
    with pytest.raises(ConfigError, match=r"^combined wants a source: asr prepare combined DIR DIR --out data"):
        prepare(COMBINED, Request(tmp_path / "all"))


def test_a_network_trains_on_what_was_combined(two, tmp_path):
    combined(tmp_path / "all", *two)
    cfg = tiny_config("train.epochs=1")
    run = train(cfg, tmp_path / "all", tmp_path / "run")
    assert run.progress.done
    tokenizer = load_model(tmp_path / "run" / "best").tokenizer
    assert tokenizer.decode(tokenizer.encode("SONGTWO")) == "SONGTWO"


def test_every_importer_is_known_to_name_no_corpus():
    assert tuple(IMPORTERS) == FORMS
