"""``asr lm``: what the commands print and write."""

from __future__ import annotations

import gzip
import json
import re

import pytest
from typer.testing import CliRunner

from asr.commands.lm import app
from asr.data.manifest import Utterance, write
from asr.data.tokenizer import CharTokenizer
from asr.errors import AsrError, ConfigError, DataError
from asr.lm import ngram
from asr.lm.files import read_lines
from tests.test_ngram import random_text


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(random_text(3)) + "\n")
    return path


def run(*arguments) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_train_writes_the_model_that_the_library_estimates(text, tmp_path):
    out = tmp_path / "lm" / "m.arpa"
    assert run("train", text, "--order", 2, "--out", out) == f"{out}: 43 1-grams, 589 2-grams\n"
    expected = ngram.train(random_text(3), 2)
    assert ngram.load(out).counts == expected.counts
    assert ngram.load(out).score(["w1", "w2"]) == pytest.approx(expected.score(["w1", "w2"]))


@pytest.mark.parametrize(
    "arguments", [("train", "{text}"), ("train", "{other}", "--vocab", "{text}"), ("build", "{lm}")]
)
def test_nothing_that_is_read_is_written_over(arguments, text, tmp_path):
    other, model = tmp_path / "other.txt", tmp_path / "m.arpa"
    other.write_text("w1 w2\n")
    run("train", text, "--order", 2, "--out", model)
    target = model if arguments[0] == "build" else text
    before = target.read_bytes()
    link = tmp_path / "link"
    link.symlink_to(target)
    paths = [one.format(text=text, other=other, lm=model) for one in arguments]
    for out in (target, link):
        with pytest.raises(ConfigError, match="read or written by this command already; choose another file"):
            run(*paths, "--out", out)
        assert target.read_bytes() == before


def test_a_model_of_tokens_is_estimated_measured_and_mixed_by_the_tokenizer_of_a_model(tmp_path):
    folder = tmp_path / "run" / "best"
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps(CharTokenizer(tuple(" abc")).to_json()))
    (tmp_path / "t.txt").write_text("a cab\n\nab  ba\ncaf\u00e9\n", encoding="utf-8")
    for place in (tmp_path / "run", folder, folder / "tokenizer.json"):
        files = [str(tmp_path / "t.txt"), "--out", str(tmp_path / "lm.bin")]
        arguments = ["train", *files, "--order", "2", "--tokenizer", str(place)]
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0
        assert "lines left out for characters that the tokenizer does not know: 'f' in 1, 'é' in 1" in result.stderr
    lm = ngram.load(tmp_path / "lm.bin")
    assert set(lm.words[3:]) == set("abc▁")
    assert ngram.load(tmp_path / "lm.bin").counts == ngram.train(["a ▁ c a b", "", "a b ▁ b a"], 2).counts
    out = json.loads(run("perplexity", tmp_path / "lm.bin", tmp_path / "t.txt", "--tokenizer", folder, "--json"))
    assert (out["sentences"], out["words"], out["unknown_words"]) == (3, 10, 0)
    ngram.write(ngram.train(["a b", "c ▁ a"], 2), tmp_path / "other.bin")
    both = tmp_path / "lm.bin", tmp_path / "other.bin"
    mixed = ("mix", *both, "--text", tmp_path / "t.txt", "--out", tmp_path / "m.bin")
    assert ", 0 unknown" in run(*mixed, "--tokenizer", folder)
    (tmp_path / "upper.txt").write_text("A CAB\n")
    with pytest.raises(DataError, match=r"no line of the text can be written by the tokenizer: .* is the case right"):
        run("train", tmp_path / "upper.txt", "--tokenizer", folder, "--out", tmp_path / "u.bin")
    assert not (tmp_path / "u.bin").exists()


def test_a_byte_order_mark_is_no_part_of_the_first_word(text, tmp_path):
    marked = tmp_path / "marked.txt"
    marked.write_bytes(b"\xef\xbb\xbf" + text.read_bytes())
    assert list(read_lines([marked, marked])) == 2 * list(read_lines([text]))
    run("train", text, "--order", 1, "--vocab", marked, "--out", tmp_path / "m.arpa")
    assert set(ngram.load(tmp_path / "m.arpa").words[3:]) == set(text.read_text().split())


def test_train_takes_several_texts_pruning_and_a_word_list(text, tmp_path):
    (tmp_path / "more.gz").write_bytes(gzip.compress(text.read_bytes()))
    (tmp_path / "words").write_text("w1 w2\nw3\n")
    out = tmp_path / "m.bin"
    printed = run(
        "train", text, tmp_path / "more.gz", "--prune", "0,1", "--vocab", tmp_path / "words", "--out", out, "--json"
    )
    model = ngram.load(out)
    expected = ngram.train(random_text(3) * 2, 3, prune=(0, 1), vocab={"w1", "w2", "w3"})
    assert model.words == expected.words
    assert set(model.words[3:]) == {"w1", "w2", "w3"}
    assert json.loads(printed) == {"lm": str(out), "ngrams": list(expected.counts)}


def test_perplexity_prints_what_the_library_measures(text, tmp_path):
    run("train", text, "--out", tmp_path / "m.arpa.gz")
    expected = ngram.perplexity(ngram.load(tmp_path / "m.arpa.gz"), random_text(3))
    assert run("perplexity", tmp_path / "m.arpa.gz", text) == f"{expected}\n"
    assert json.loads(run("perplexity", tmp_path / "m.arpa.gz", text, "--json")) == expected.to_json()


def test_build_goes_both_ways(text, tmp_path):
    run("train", text, "--out", tmp_path / "m.arpa")
    run("build", tmp_path / "m.arpa", "--out", tmp_path / "m.bin")
    assert (tmp_path / "m.bin").read_bytes().startswith(b"asr n-gram")
    run("build", tmp_path / "m.bin", "--out", tmp_path / "again.arpa")
    assert (tmp_path / "again.arpa").read_bytes() == (tmp_path / "m.arpa").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "TEXT", "--out", "m.arpa", "--prune", "0;1"), "--prune takes whole numbers with commas between"),
        (("train", "TEXT", "--out", "m.arpa", "--prune", "1,0"), "never fall"),
        (("train", "nowhere", "--out", "m.arpa"), "nowhere: cannot read: no such file"),
        (("perplexity", "TEXT", "TEXT"), r"text\.txt:1: no line with \\data\\"),
        (("build", "TEXT", "--out", "."), "cannot write: is a folder"),
    ],
)
def test_mistakes_are_one_line(arguments, message, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AsrError, match=message):
        run(*(text if a == "TEXT" else a for a in arguments))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"the cat\rthe dog\ra cat\r", r"t\.txt:1: a carriage return inside the line: .*tr '"),
        (b"the cat\r\nthe\rdog\r\n", r"t\.txt:2: a carriage return inside the line"),
        (b"\n\\data\\ \nngram 1=5\n", r"t\.txt:2: the start of an ARPA language model: expected a text"),
        ("the cat\n".encode("utf-16-le"), r"t\.txt:1: a zero byte: .*UTF-16"),
        (b"\n \n\t\r\n", "all lines are blank"),
    ],
)
def test_what_is_no_text_is_refused(content, message, tmp_path):
    (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        run("train", tmp_path / "t.txt", "--out", tmp_path / "m.arpa")
    assert not (tmp_path / "m.arpa").exists()


def test_models_given_as_texts_are_refused(text, tmp_path):
    for name in ("m.arpa", "m.arpa.gz", "m.bin"):
        run("train", text, "--out", tmp_path / name)
        for arguments in (
            ("train", tmp_path / name, "--out", "x.arpa"),
            ("perplexity", tmp_path / name, tmp_path / name),
        ):
            with pytest.raises(DataError, match=r"ARPA language model: expected a text|a zero byte|not UTF-8"):
                run(*arguments)


def test_a_list_of_other_words_is_refused(text, tmp_path):
    (tmp_path / "words").write_text("none of these\n")
    with pytest.raises(DataError, match="no word of the text is among the 3 words of the vocabulary: is the case"):
        run("train", text, "--vocab", tmp_path / "words", "--out", tmp_path / "m.arpa")


def test_counting_is_told_about_every_minute_where_there_is_no_terminal(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("asr.heartbeat.EVERY_S", 0.001)
    monkeypatch.setattr("asr.lm.estimate._CHUNK", 500)
    lines = random_text(1, num_lines=3000, num_words=2000)
    (tmp_path / "t.txt").write_text("\n".join(lines))
    with caplog.at_level("INFO", "asr"):
        run("train", tmp_path / "t.txt", "--out", tmp_path / "m.bin")
    told = [int(found[1].replace(",", "")) for found in re.finditer(r"counting n-grams: ([\d,]+) lines", caplog.text)]
    assert told and told == sorted(told) and told[-1] <= 3000


def test_stdin_is_a_text(text, tmp_path):
    import subprocess
    import sys

    script = "from asr.commands.lm import app; app()"
    command = [sys.executable, "-c", script, "train", "-", "--out", str(tmp_path / "m.arpa")]
    with text.open("rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ngram.load(tmp_path / "m.arpa").counts == ngram.train(random_text(3), 3).counts


def test_a_manifest_is_read_as_its_texts(tmp_path):
    texts = ["the cat sat", "the dog  sat", "a cat"]
    (tmp_path / "t.txt").write_text("".join(" ".join(text.split()) + "\n" for text in texts))
    rows = [Utterance(f"u{i}", "a.wav", 1.0, text) for i, text in enumerate(texts)]
    write(tmp_path / "t.jsonl", rows)
    assert list(read_lines([tmp_path / "t.jsonl"])) == list(read_lines([tmp_path / "t.txt"]))
