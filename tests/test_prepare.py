from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from asr.cli import commands
from asr.corpora.catalogue import find_recipe
from asr.corpora.prepare import prepare
from asr.corpora.recipe import Corpus, Recipe, Request
from asr.data import manifest as manifests
from asr.data import prepared as header
from asr.data.manifest import Utterance
from asr.data.tokenizer_file import read_tokenizer
from asr.errors import ConfigError, DataError
from tests.builders import write_wav

TEXTS = {
    "train": ["Hello, world — at 10:30!", "the world’s “best” & only", "hello hello", "…"],
    "dev": ["Hello again, Жорж"],
}


def recipe_of(texts=TEXTS, **facts) -> Recipe:
    def write(request: Request) -> Corpus:
        splits = {
            name: [Utterance(f"{name}-{i}", f"{name}-{i}.wav", 1800.0, text, f"s{i}") for i, text in enumerate(rows)]
            for name, rows in texts.items()
        }
        return Corpus(splits, {"bad": "no samples"})

    return Recipe("toy", "Toy", 1.0, 16000, "CC0", "http://toy", write, **facts)


def recipe_of_rows(audio: str = "{}.wav", **splits: range) -> Recipe:
    """A recipe whose splits have utterances of these numbers."""

    def write(request: Request) -> Corpus:
        rows = {n: [Utterance(f"u{i}", audio.format(i), 1.0, "ONE") for i in ids] for n, ids in splits.items()}
        return Corpus(rows)

    return Recipe("toy", "Toy", 1.0, 16000, "CC0", "http://toy", write)


def texts_of(folder: Path, split: str) -> list[str]:
    return [u.text for u in manifests.read(folder / f"{split}.jsonl")]


def test_texts_go_through_the_profile_and_the_header_tells_all(tmp_path):
    finished = prepare(recipe_of(), Request(tmp_path, normalization="librispeech"))
    assert texts_of(tmp_path, "train") == ["HELLO WORLD AT 10:30", "THE WORLD'S BEST ONLY", "HELLO HELLO", ""]
    assert texts_of(tmp_path, "dev") == ["HELLO AGAIN ЖОРЖ"]
    assert [u.text for u in finished.utterances["dev"]] == ["HELLO AGAIN ЖОРЖ"]
    found = header.read(tmp_path)
    assert found == finished.header
    assert (found.recipe, found.title, found.licence, found.homepage) == ("toy", "Toy", "CC0", "http://toy")
    assert (found.normalization, found.tokenizer, found.dropped, found.flagged_numbers) == ("librispeech", "", 1, 1)
    assert found.splits["train"] == {"utterances": 4, "hours": 2.0, "speakers": 4, "with_digits": 1}
    assert finished.notes == [
        "text normalization: librispeech",
        "normalized: 5 texts changed",
        "signs that people read aloud were removed: '&' (U+0026) in 1; write them as they are spoken",
        "characters that librispeech leaves as they are: 'Ж' (U+0416) in 1, 'О' (U+041E) in 1, 'Р' (U+0420) in 1",
        "1 texts became empty, and are not trained on: train-3",
        "numbers: 1 texts hold digits (train 1); write them as they are spoken",
    ]


def test_markup_that_a_profile_makes_words_of_is_said(tmp_path):
    recipe = recipe_of({"train": ["one [noise] two", "tea &amp; milk", "tea & milk", "so (to speak) three"]})
    notes = prepare(recipe, Request(tmp_path / "a", normalization="lower-nopunct")).notes
    said = "markup became words in 2 texts, first a marker of train-0 in 'one [noise] two'; "
    assert said + "decode entities, and take markers out" in notes
    # where the texts keep it, the doctor and training find it
    assert not any("markup" in note for note in prepare(recipe, Request(tmp_path / "b", normalization="lower")).notes)


def test_without_options_texts_stay_and_the_recipes_profile_counts(tmp_path):
    assert prepare(recipe_of(), Request(tmp_path / "a")).header.normalization == "none"
    assert texts_of(tmp_path / "a", "train") == TEXTS["train"]
    prepare(recipe_of(normalization="lower"), Request(tmp_path / "b"))
    assert texts_of(tmp_path / "b", "train")[2] == "hello hello"
    assert texts_of(tmp_path / "b", "train")[0].startswith("hello, world")


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_the_tokenizer_is_trained_on_the_normalized_training_texts(tmp_path, kind):
    finished = prepare(recipe_of(), Request(tmp_path, normalization="librispeech", tokenizer=kind, vocab_size=23))
    tokenizer = read_tokenizer(tmp_path / "tokenizer.json")
    assert (tokenizer.kind, tokenizer.vocabulary_size) == (kind, 23)
    assert finished.header.tokenizer == "tokenizer.json"
    assert finished.files == {"tokenizer": tmp_path / "tokenizer.json"}
    assert all(tokenizer.decode(tokenizer.encode(t)) == t for t in texts_of(tmp_path, "train"))
    assert tokenizer.unknown("ж,h") == ["ж", ",", "h"]
    assert f"tokenizer: {kind}, 23 tokens, the blank included" in finished.notes


def test_preparing_again_gives_the_same_bytes(tmp_path):
    contents = []
    for _ in range(2):
        prepare(recipe_of(), Request(tmp_path, normalization="upper-nopunct", tokenizer="bpe", vocab_size=28))
        contents.append({p.name: p.read_bytes() for p in tmp_path.iterdir()})
    assert contents[0] == contents[1]
    assert set(contents[0]) == {"train.jsonl", "dev.jsonl", "prepared.json", "tokenizer.json"}


def test_split_by_split_the_header_describes_all_that_is_there(tmp_path):
    prepare(recipe_of({"train": ["One two"]}), Request(tmp_path, normalization="lower", tokenizer="bpe", vocab_size=9))
    finished = prepare(recipe_of({"dev": ["Two 1"]}), Request(tmp_path))
    assert finished.header.normalization == "lower"  # the folder's
    assert texts_of(tmp_path, "dev") == ["two 1"]
    assert set(finished.header.splits) == {"train", "dev"}
    assert finished.header.tokenizer == "tokenizer.json"
    assert finished.header.flagged_numbers == 1
    (tmp_path / "dev.jsonl").unlink()
    finished = prepare(recipe_of({"test": ["two"]}), Request(tmp_path, tokenizer="unigram", vocab_size=7))
    assert set(finished.header.splits) == {"train", "test"}
    assert read_tokenizer(tmp_path / "tokenizer.json").kind == "unigram"  # on the train.jsonl that was there


def test_what_was_prepared_before_and_is_now_in_train_too_is_said(tmp_path, caplog):
    prepare(recipe_of_rows(train=range(8), dev=range(8, 10)), Request(tmp_path))
    prepare(recipe_of_rows(test=range(20, 25), other=range(8)), Request(tmp_path))
    assert not caplog.messages
    prepare(recipe_of_rows(train=range(10)), Request(tmp_path))
    assert caplog.messages == [
        f"{tmp_path}/train.jsonl: 2 of its utterances are in dev.jsonl, too, which was prepared before: "
        "prepare both together, or remove it"
    ]


@pytest.mark.parametrize("old", ["train", "dev", "test"])
@pytest.mark.parametrize("new", ["train", "dev", "test"])
def test_every_overlap_with_train_that_was_prepared_before_is_said(tmp_path, caplog, old, new):
    prepare(recipe_of_rows(**{old: range(4)}), Request(tmp_path))
    prepare(recipe_of_rows(**{new: range(2, 6)}), Request(tmp_path))
    is_said = old != new and "train" in (old, new)
    said = f"{tmp_path}/{new}.jsonl: 2 of its utterances are in {old}.jsonl, too"
    assert [message[: len(said)] for message in caplog.messages] == [said] * is_said


def test_no_overlap_is_said_of_what_is_prepared_together_or_is_gone_or_only_has_the_same_ids(tmp_path, caplog):
    both = recipe_of_rows(train=range(4), test=range(4))
    prepare(both, Request(tmp_path / "a"))
    prepare(both, Request(tmp_path / "a"))
    prepare(recipe_of_rows(train=range(4)), Request(tmp_path / "b"))
    (tmp_path / "b" / "train.jsonl").unlink()
    prepare(recipe_of_rows(test=range(4)), Request(tmp_path / "b"))
    prepare(recipe_of_rows(train=range(4)), Request(tmp_path / "c"))
    prepare(recipe_of_rows("other/{}.wav", test=range(4)), Request(tmp_path / "c"))
    assert not caplog.messages


def test_splits_with_the_same_ids_for_different_utterances_are_counted_apart(tmp_path):
    def write(request: Request) -> Corpus:
        rows = {n: [Utterance(f"u{i}", f"{n}/{i}.wav", 1.0, "one 1") for i in range(2)] for n in ("train", "test")}
        rows["all"] = [*rows["train"]]  # the same ones
        rows |= {f"side-{channel}": [Utterance("u0", "call.wav", 1.0, "one 1", channel=channel)] for channel in (1, 2)}
        return Corpus(rows, {"x": "bad"})

    recipe = Recipe("toy", "Toy", 1.0, 16000, "CC0", "http://toy", write)
    finished = prepare(recipe, Request(tmp_path, normalization="upper"))
    assert "kept 6 of 7" in finished.summary() and finished.header.flagged_numbers == 6
    assert "normalized: 6 texts changed" in finished.notes


def test_a_folder_keeps_one_profile(tmp_path):
    prepare(recipe_of(), Request(tmp_path, normalization="lower"))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match=r"was prepared with text normalization lower, not upper; take another --out"):
        prepare(recipe_of(), Request(tmp_path, normalization="upper"))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    for name in ("prepared.json", "train.jsonl", "dev.jsonl"):
        (tmp_path / name).unlink()
    prepare(recipe_of(), Request(tmp_path, normalization="upper"))
    assert texts_of(tmp_path, "train")[2] == "HELLO HELLO"


@pytest.mark.parametrize("tokenizer", ["", "char"])
def test_new_training_texts_without_a_tokenizer_leave_no_old_one(tmp_path, tokenizer):
    prepare(recipe_of(), Request(tmp_path, normalization="lower", tokenizer="bpe", vocab_size=32))
    finished = prepare(recipe_of(), Request(tmp_path, tokenizer=tokenizer))
    assert not (tmp_path / "tokenizer.json").exists()
    assert finished.header.tokenizer == ""
    assert any("is removed" in note for note in finished.notes)


def test_a_damaged_header_is_said_and_written_anew(tmp_path, caplog):
    (tmp_path / "prepared.json").write_text("{", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        prepare(recipe_of(), Request(tmp_path))
    assert "prepared.json" in caplog.text
    assert header.read(tmp_path) is not None


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_preparation_that_fails_leaves_the_folder_as_it_was(tmp_path):
    prepare(recipe_of(), Request(tmp_path, normalization="lower"))
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match="at most"):
        prepare(recipe_of(), Request(tmp_path, tokenizer="bpe", vocab_size=10_000))
    assert contents(tmp_path) == before

    with pytest.raises(ConfigError, match=r"bpe is trained on train\.jsonl"):
        prepare(recipe_of({"dev": ["a"]}), Request(tmp_path / "x", tokenizer="bpe", vocab_size=10))
    request = Request(tmp_path / "y", normalization="lower-nopunct", tokenizer="bpe", vocab_size=10)
    with pytest.raises(DataError, match="no text to train a tokenizer on"):
        prepare(recipe_of({"train": ["…"]}), request)
    assert not (tmp_path / "x").exists() and not (tmp_path / "y").exists()


class Killed(BaseException):
    pass


def killed_at(name: str, recipe: Recipe, request: Request) -> None:
    """Prepare, and die before the file of that name is written."""
    write = manifests.write

    def until(path: Path, rows: list[Utterance]) -> None:
        if path.name == name:
            raise Killed
        write(path, rows)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(manifests, "write", until)
        prepare(recipe, request)


@pytest.mark.parametrize("name", ["train.jsonl", "dev.jsonl"])
def test_a_preparation_that_is_killed_is_noticed_and_can_be_run_again(tmp_path, name):
    whole = Request(tmp_path / "whole", normalization="lower", tokenizer="bpe", vocab_size=32)
    prepare(recipe_of(), whole)
    request = replace(whole, out=tmp_path / "cut")
    for _ in range(2):
        killed_at(name, recipe_of(), request)
        with pytest.raises(DataError, match=r"unfinished: the last 'asr prepare' of this folder did not finish; run"):
            header.read(tmp_path / "cut")
    with pytest.raises(ConfigError, match=r"or remove .*prepared\.json\.unfinished and the manifests to prepare"):
        prepare(recipe_of(), replace(request, normalization="upper"))
    finished = prepare(recipe_of(), request)
    assert header.read(tmp_path / "cut") == finished.header
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_when_one_split_is_killed_the_others_and_the_profile_stay(tmp_path):
    prepare(recipe_of({"train": ["One two"]}), Request(tmp_path, normalization="lower", tokenizer="bpe", vocab_size=9))
    killed_at("dev.jsonl", recipe_of({"dev": ["Two"]}), Request(tmp_path))
    finished = prepare(recipe_of({"dev": ["Two"]}), Request(tmp_path))
    assert texts_of(tmp_path, "dev") == ["two"]
    assert set(finished.header.splits) == {"train", "dev"}
    assert finished.header.tokenizer == "tokenizer.json"
    assert not list(tmp_path.glob("*.unfinished"))


def test_a_split_that_was_killed_is_named_when_another_is_prepared(tmp_path, caplog):
    killed_at("train.jsonl", recipe_of({"train": ["One two"]}), Request(tmp_path, normalization="lower"))
    finished = prepare(recipe_of({"dev": ["Two"]}), Request(tmp_path))
    assert f"{tmp_path}: the 'asr prepare' of train did not finish; run that one again" in caplog.text
    assert set(finished.header.splits) == {"dev"} and finished.header.normalization == "lower"


def test_a_full_disk_is_noticed(tmp_path, monkeypatch):
    def full(path, rows):
        raise DataError("cannot write the manifest: no space left on device", path)

    monkeypatch.setattr(manifests, "write", full)
    with pytest.raises(DataError, match="no space left"):
        prepare(recipe_of(), Request(tmp_path, normalization="lower"))
    with pytest.raises(DataError, match="did not finish"):
        header.read(tmp_path)


def test_splits_are_sorted_and_empty_ones_are_named(tmp_path):
    def recipe(**splits: list[Utterance]) -> Recipe:
        return Recipe("toy", "Toy", 1.0, 16000, "CC0", "http://toy", lambda request: Corpus(splits, {"c": "no text"}))

    rows = [Utterance(id_, f"{id_}.wav", 30.0, "a", "s") for id_ in ("b", "a")]
    prepared = prepare(recipe(train=rows), Request(tmp_path / "a"))
    assert [u.id for u in manifests.read(tmp_path / "a" / "train.jsonl")] == ["a", "b"]
    assert prepared.manifests == {"train": tmp_path / "a" / "train.jsonl"}
    assert prepared.summary() == [
        "train: 2 utterances, 0.02 h, 1 speaker",
        "kept 2 of 3",
        "dropped c: no text",
        "text normalization: none",
    ]
    with pytest.raises(DataError) as caught:
        prepare(recipe(train=rows, dev=[], test=[]), Request(tmp_path / "b"))
    assert str(caught.value) == f"{tmp_path / 'b'}: nothing left for dev, test: is this the right archive?"
    assert not (tmp_path / "b").exists()

    unknown = [replace(row, speaker="") for row in rows]
    lines = prepare(
        recipe(train=unknown, dev=[unknown[0], replace(rows[0], id="c")]), Request(tmp_path / "c")
    ).summary()
    assert lines[0].endswith("h, speakers not known") and lines[1].endswith("h, 1 speaker")


def test_a_summary_of_many_dropped_rows_says_how_many_more(tmp_path):
    many = Corpus({"train": [Utterance("a", "a.wav", 1.0, "a")]}, {f"u{i}": "why" for i in range(12)})
    lines = prepare(Recipe("toy", "Toy", 1.0, 16000, "CC0", "", lambda request: many), Request(tmp_path)).summary()
    assert lines[1] == "kept 1 of 13"
    assert lines[-2] == "… and 2 more (--json names all)"


def test_two_utterances_of_one_id_are_an_error_before_anything_is_written(tmp_path):
    def write(request: Request) -> Corpus:
        rows = [Utterance("u", path, 1.0, "one") for path in ("a.wav", "b.wav")]
        return Corpus({"train": rows[:1], "test": rows}, {})

    recipe = Recipe("toy", "Toy", 1.0, 16000, "CC0", "http://toy", write)
    with pytest.raises(DataError) as caught:
        prepare(recipe, Request(tmp_path / "out"))
    expected = "two utterances of test have the id 'u' (a.wav and b.wav); ids must be unique"
    assert str(caught.value) == f"{tmp_path / 'out'}: {expected}"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["dev.jsonl", "tokenizer.json"])
def test_what_no_preparation_made_is_not_written_over(tmp_path, name):
    (tmp_path / name).write_text("mine", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(ConfigError) as caught:
            prepare(recipe_of(), Request(tmp_path, normalization="lower", tokenizer="bpe", vocab_size=32))
        said = "is there, and no 'asr prepare' made it; give another --out, or move it away"
        assert str(caught.value) == f"{tmp_path / name} {said}"
        assert {p.name: p.read_text(encoding="utf-8") for p in tmp_path.iterdir()} == {name: "mine"}


def test_a_tokenizer_that_no_preparation_made_stays_and_is_not_used(tmp_path):
    (tmp_path / "tokenizer.json").write_text("mine", encoding="utf-8")
    for _ in range(2):
        finished = prepare(recipe_of(), Request(tmp_path))
        assert (tmp_path / "tokenizer.json").read_text(encoding="utf-8") == "mine"
        assert finished.notes[-1].endswith("the tokenizer.json that is there was not made here, and is not used")
        assert header.tokenizer_for("data", tmp_path, header.read(tmp_path)) is None


def test_a_tokenizer_of_a_preparation_that_failed_after_it_is_written_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(header, "write", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(recipe_of(), Request(tmp_path, normalization="lower", tokenizer="bpe", vocab_size=32))
    assert (tmp_path / "tokenizer.json").exists()
    prepare(recipe_of(), Request(tmp_path, normalization="lower", tokenizer="bpe", vocab_size=30))
    assert read_tokenizer(tmp_path / "tokenizer.json").vocabulary_size == 30


def test_manifests_of_another_recipe_are_not_replaced_without_a_word(tmp_path, caplog):
    prepare(recipe_of(), Request(tmp_path))
    prepare(recipe_of({"dev": ["a"]}), Request(tmp_path))
    assert "replaced" not in caplog.text
    other = replace(recipe_of({"dev": ["a"]}), name="other")
    prepare(other, Request(tmp_path))
    assert f"{tmp_path}: dev of Toy is replaced" in caplog.text


@pytest.mark.parametrize("below", ["", "deep/er"])
def test_a_folder_that_cannot_be_is_refused_before_the_work(tmp_path, below):
    (tmp_path / "file").touch()

    def never(request):
        raise AssertionError

    recipe = replace(recipe_of(), prepare=never)
    with pytest.raises(ConfigError, match=r"file is a file, expected a folder"):
        prepare(recipe, Request(tmp_path / "file" / below))


@pytest.mark.parametrize("options", [{"normalization": "upper"}, {"tokenizer": "char"}])
def test_what_makes_no_manifests_takes_no_options_of_texts(tmp_path, options):
    with pytest.raises(ConfigError, match="toy takes no --normalization and no --tokenizer: it makes no manifests"):
        prepare(recipe_of(speech=False), Request(tmp_path, **options))
    assert not find_recipe("librispeech-lm")[0].speech


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("uper",), "unknown text normalization 'uper'"),
        (("", "word"), "--tokenizer word: expected char, bpe, unigram, or a SentencePiece model (FILE.model)"),
        (("", "bpe"), "--tokenizer bpe needs --vocab-size N"),
        (("", "unigram", -5), "--tokenizer unigram needs --vocab-size N"),
        (("", "char", 100), "--vocab-size goes with --tokenizer bpe or unigram"),
        (("", "", 100), "--vocab-size goes with --tokenizer bpe or unigram"),
    ],
)
def test_options_that_do_not_fit_are_one_line_before_anything_is_done(options, message):
    with pytest.raises(ConfigError) as caught:
        Request(Path("out"), **dict(zip(("normalization", "tokenizer", "vocab_size"), options, strict=False)))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_the_command_normalizes_trains_and_tells(tmp_path):
    clips = tmp_path / "train"
    for i, text in enumerate(["Yes, please!", "No 5", "Yes yes"]):
        write_wav(clips / f"{i}.wav")
        (clips / f"{i}.txt").write_text(text, encoding="utf-8")
    out = tmp_path / "data"
    done = CliRunner().invoke(
        commands(),
        [
            "prepare",
            "folder",
            str(clips),
            "--out",
            str(out),
            "--normalization",
            "lower-nopunct",
            "--tokenizer",
            "bpe",
            "--vocab-size",
            "13",
            "--json",
        ],
    )
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["normalization"] == "lower-nopunct"
    assert document["flagged_numbers"] == 1
    assert document["files"] == {"tokenizer": str(out / "tokenizer.json")}
    assert texts_of(out, "train") == ["yes please", "no 5", "yes yes"]
    done = CliRunner().invoke(commands(), ["prepare", "folder", str(clips), "--out", str(out), "--tokenizer", "bpe"])
    assert done.exit_code != 0
    assert isinstance(done.exception, ConfigError)


def test_rows_that_cannot_be_used_are_named_and_the_exit_code_is_1(tmp_path):
    clips = tmp_path / "train"
    write_wav(clips / "a.wav")
    (clips / "a.txt").write_text("one", encoding="utf-8")
    command = ["prepare", "folder", str(clips), "--out", str(tmp_path / "data")]
    assert CliRunner().invoke(commands(), command).exit_code == 0
    (clips / "b.txt").write_text("two", encoding="utf-8")
    done = CliRunner().invoke(commands(), command)
    assert done.exit_code == 1
    assert "kept 1 of 2\ndropped b.txt: no audio file of that name beside it\n" in done.stdout
    assert header.read(tmp_path / "data") is not None  # all the rest was done
    done = CliRunner().invoke(commands(), [*command, "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["dropped"] == {"b.txt": "no audio file of that name beside it"}


def test_what_a_corpus_leaves_out_itself_is_counted_and_no_failure(tmp_path, monkeypatch):
    def write(request: Request) -> Corpus:
        rows = {"train": [Utterance("a", "a.wav", 1.0, "ONE")]}
        return Corpus(rows, {}, {"b": "marked", "c": "marked", "d": "no word"})

    toy = Recipe("toy", "Toy", 1.0, 16000, "CC0", "http://toy", write)
    monkeypatch.setattr("asr.corpora.catalogue.find_recipe", lambda name: (toy, tmp_path))
    done = CliRunner().invoke(commands(), ["prepare", "toy", "--out", str(tmp_path / "data")])
    assert done.exit_code == 0, done.output
    assert "kept 1 of 1\nleft out on purpose 2: marked\nleft out on purpose 1: no word\n" in done.stdout
    done = CliRunner().invoke(commands(), ["prepare", "toy", "--out", str(tmp_path / "data"), "--json"])
    assert json.loads(done.stdout)["excluded"] == {"b": "marked", "c": "marked", "d": "no word"}


def test_an_utterance_in_two_manifests_counts_once(tmp_path):
    def write(request: Request) -> Corpus:
        rows = [Utterance("a", "a.wav", 1.0, "At 5 & Ж"), Utterance("b", "b.wav", 1.0, "b")]
        return Corpus({"train-clean": rows, "train": rows}, {})

    recipe = Recipe("toy", "Toy", 1.0, 16000, "CC0", "http://toy", write)
    finished = prepare(recipe, Request(tmp_path, normalization="librispeech"))
    assert finished.header.flagged_numbers == 1
    assert finished.notes[1:] == [
        "normalized: 2 texts changed",
        "signs that people read aloud were removed: '&' (U+0026) in 1; write them as they are spoken",
        "characters that librispeech leaves as they are: 'Ж' (U+0416) in 1",
        "numbers: 1 texts hold digits (train-clean 1, train 1); write them as they are spoken",
    ]
    (tmp_path / "train-clean.jsonl").unlink()
    again = prepare(recipe_of({"dev": ["1", "2"]}), Request(tmp_path))
    assert again.header.flagged_numbers == 3


@pytest.mark.parametrize("returned", [None, {"train": []}])
def test_a_recipe_that_returns_no_corpus_is_one_line_and_writes_nothing(tmp_path, returned):
    recipe = replace(recipe_of(), prepare=lambda request: returned)
    with pytest.raises(
        ConfigError, match=r"prepare returned (NoneType|dict), expected an asr\.corpora\.recipe\.Corpus"
    ):
        prepare(recipe, Request(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
