"""``asr align``: what it prints and writes, for manifests and for one recording."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from asr.align import align_manifest, align_recording
from asr.cli import commands
from asr.data import audio
from asr.data import manifest as manifests
from asr.data.manifest import Utterance
from asr.decode.greedy import greedy, words_with_times
from asr.errors import AsrError, ConfigError, DataError
from asr.infer import of_manifest
from asr.model.checkpoint import load_model
from tests.builders import build_corpus, noise, tones, write_wav
from tests.models import save_random_model
from tests.pretend_cuda import pretended_cuda

#: what the tones of a recording are made from; the model hears something else in them
TEXTS = ("ab cd", "dc a bb", "cab dad", "bad cab a")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return build_corpus(tmp_path_factory.mktemp("corpus"), 6, seed=1)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(commands(), ["align", *map(str, arguments)], catch_exceptions=False)


def rewritten(corpus: Path, name: str, **texts: str) -> Path:
    """The corpus with some texts replaced, by number."""
    rows = [
        Utterance(u.id, u.audio_path, u.duration_s, texts.get(f"u{i}", u.text), u.speaker)
        for i, u in enumerate(manifests.read(corpus))
    ]
    manifests.write(corpus.with_name(name), rows)
    return corpus.with_name(name)


def test_each_utterance_is_a_line_of_json_in_the_manifests_order(model, corpus):
    result = run(model, corpus, "--device", "cpu")
    assert result.exit_code == 0
    rows, utterances = [json.loads(line) for line in result.stdout.splitlines()], list(manifests.read(corpus))
    assert [row["id"] for row in rows] == [u.id for u in utterances]
    for row, u in zip(rows, utterances, strict=True):
        words = [word for segment in row["segments"] for word in segment["words"]]
        assert " ".join(word["word"].strip() for word in words) == row["text"] == row["reference"] == u.text
        assert all(0 <= w["start"] < w["end"] <= u.duration_s and 0 <= w["probability"] <= 1 for w in words)
        assert "".join(c["character"] for c in row["characters"]) == u.text.replace(" ", "")
        assert row["score"] <= row["gap"] <= 0 and row["local_gap"] <= 0 and row["gap_per_step"] <= 0


def test_a_gpu_gives_the_times_of_a_cpu(model, corpus, tmp_path):
    said = tmp_path / "said.txt"
    said.write_text(manifests.read(corpus).utterances[0].text)
    wave = manifests.read(corpus).audio_path(manifests.read(corpus).utterances[0])
    for arguments in ((model, corpus), (model, wave, "--text", said)):
        expected = run(*arguments, "--device", "cpu")
        with pretended_cuda():
            found = run(*arguments, "--device", "cuda")
        assert found.exit_code == expected.exit_code == 0
        for row, expected_row in zip(found.stdout.splitlines(), expected.stdout.splitlines(), strict=True):
            mine, theirs = json.loads(row), json.loads(expected_row)
            assert mine["characters"] == theirs["characters"] and mine["id"] == theirs["id"]
            assert mine["score"] == pytest.approx(theirs["score"], abs=2e-3)  # sums of some 100 log-probabilities


def test_the_model_agrees_with_its_own_transcripts(model, corpus):
    loaded, rows = load_model(model), manifests.read(corpus)
    said = {u.id: greedy(one_sv, loaded.tokenizer) for u, one_sv in of_manifest(loaded, rows, no_speech_threshold=1)}
    own = corpus.with_name("own.jsonl")
    texts = {id_: " ".join(hypothesis.text.split()) for id_, hypothesis in said.items()}
    manifests.write(own, [Utterance(u.id, u.audio_path, u.duration_s, texts[u.id]) for u in rows])
    for utterance, one in align_manifest(loaded, manifests.read(own)):
        assert not isinstance(one, DataError)
        assert one.gap == pytest.approx(0.0, abs=1e-9) and one.heard == one.reference == texts[utterance.id]
        words = words_with_times(said[utterance.id], loaded.tokenizer, loaded.step_s)
        assert [(w.word, w.start_s) for w in one.transcript.words] == [(w.word, w.start_s) for w in words]
        for word, other in zip(one.transcript.words, words, strict=True):
            assert word.end_s == min(other.end_s, utterance.duration_s)
            # a mean of probabilities, not their product; 1e-4: both are rounded
            assert (word.confidence or 0) >= (other.confidence or 0) - 1e-4


def test_what_cannot_be_aligned_is_named_at_the_end_and_the_rest_goes_on(model, corpus):
    bad = rewritten(corpus, "bad.jsonl", u1="abc é", u3="a" * 500)
    result = run(model, bad)
    assert result.exit_code == 1 and len(result.stdout.splitlines()) == 4
    assert "asr: 2 failed:" in result.stderr
    assert "utt 'train-0001': unknown character 'é' (U+00E9) in the word 'é'" in result.stderr
    assert "utt 'train-0003': the text needs 999 steps of the model, the audio has" in result.stderr


def test_characters_that_the_model_does_not_have_are_counted_in_one_line_with_the_option(model, corpus):
    line = "8 of 26 characters of the references are none that the model writes (',', '!'): --normalization"
    texts = {f"u{i}": "abc" for i in range(6)} | {"u1": "AB,,,, c", "u3": "abc!!!!"}
    first = run(model, rewritten(corpus, "signs.jsonl", **texts))
    assert first.exit_code == 1 and f"asr: {line} lower-nopunct mends that\n" in first.stderr
    option = ["--normalization", "lower-nopunct"]
    second = run(model, rewritten(corpus, "signs.jsonl", **texts), *option)
    assert second.exit_code == 0 and "characters of the references" not in second.stderr
    upper = run(model, rewritten(corpus, "upper.jsonl", **{f"u{i}": "ABC" for i in range(6)}))
    assert upper.exit_code == 0 and "characters of the references" not in upper.stderr


def test_the_worst_come_first_and_no_more_than_asked(model, corpus):
    rows = {u.id: one for u, one in align_manifest(load_model(model), manifests.read(corpus))}
    order = sorted(rows, key=lambda id_: rows[id_].score)
    listed = run(model, corpus, "--worst", 2).stdout
    assert [line.split()[0] for line in listed.splitlines() if "  score " in line] == order[:2]
    assert f"  text   {rows[order[0]].reference}" in listed and f"  heard  {rows[order[0]].heard}" in listed
    assert rows[order[0]].weakest(1)[0].word in listed
    document = json.loads(run(model, corpus, "--worst", 3, "--json").stdout)
    assert document["worst"] == order[:3] and document["failed"] == {} and len(document["alignments"]) == 6


def test_files_are_written_for_each_utterance_and_format(model, corpus, tmp_path):
    result = run(model, corpus, "-f", "ctm,textgrid", "-o", tmp_path / "out")
    assert result.exit_code == 0 and result.stdout == ""
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"{u.id}.{end}" for u in manifests.read(corpus) for end in ("ctm", "TextGrid")}
    grid = (tmp_path / "out" / "train-0000.TextGrid").read_text()
    assert all(f'name = "{tier}"' in grid for tier in ("words", "characters", "segments"))
    printed = run(model, corpus, "-f", "ctm").stdout
    files = sorted((tmp_path / "out").glob("*.ctm"))
    assert printed.splitlines() == [line for file in files for line in file.read_text().splitlines()]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-f", "srt"], "srt: several files; add -o DIR"),
        (["-f", "txt"], "txt: several files; add -o DIR"),
        (["-f", "ctm", "--json"], "both go to stdout; add -o DIR"),
        (["-f", "ctm", "--worst", "3"], "both go to stdout; add -o DIR"),
        (["-f", "cmt"], "unknown format 'cmt'; did you mean 'ctm'?"),
        (["--text", "CORPUS"], "--text is the text of one recording"),
        (["--normalization", "uper"], "unknown text normalization 'uper'"),
    ],
)
def test_what_cannot_be_meant_is_refused(model, corpus, arguments, said):
    with pytest.raises(AsrError, match=said.replace("?", r"\?")):
        run(model, corpus, *(str(corpus) if a == "CORPUS" else a for a in arguments))


def test_neither_the_text_nor_the_audio_is_written_over(model, tmp_path):
    wav, text = write_wav(tmp_path / "a.wav", noise(1.0)), tmp_path / "a.txt"
    text.write_text("ab,\nba")
    with pytest.raises(ConfigError, match=r"a\.txt: is an input, and would be written over"):
        run(model, wav, "--text", text, "-f", "txt", "-o", tmp_path)
    assert text.read_text() == "ab,\nba"
    manifests.write(tmp_path / "m.jsonl", [Utterance("u", "u.txt", 1.0, "ab")])
    (tmp_path / "u.txt").write_bytes(wav.read_bytes())
    with pytest.raises(ConfigError, match=r"u\.txt: is an input"):
        run(model, tmp_path / "m.jsonl", "-f", "txt", "-o", tmp_path)


def test_an_id_stays_as_it_is(model, tmp_path):
    corpus = build_corpus(tmp_path, 2, seed=1)
    rows = [replace(u, id=f"{u.id}.wav") for u in manifests.read(corpus)]
    manifests.write(corpus, rows)
    for format, id_of in (("jsonl", lambda line: json.loads(line)["id"]), ("ctm", lambda line: line.split()[0])):
        lines = run(model, corpus, "-f", format).stdout.splitlines()
        assert {id_of(line) for line in lines} == {u.id for u in rows}
        assert run(model, corpus, "-f", format, "-o", tmp_path / "out").exit_code == 0
        written = [line for path in (tmp_path / "out").glob(f"*.{format}") for line in path.read_text().splitlines()]
        assert {id_of(line) for line in written} == {u.id for u in rows}


def test_a_recording_needs_its_text(model, tmp_path):
    wav = write_wav(tmp_path / "a.wav", noise(1.0))
    with pytest.raises(DataError, match="if it is a recording, give its text with --text FILE"):
        run(model, wav)
    with pytest.raises(DataError, match="cannot read the manifest: no such file"):
        run(model, tmp_path / "gone.wav")
    text = tmp_path / "a.txt"
    text.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8 text"):
        run(model, wav, "--text", text)
    text.write_text(" \n")
    with pytest.raises(DataError, match=r"a\.wav: its text: holds no words"):
        run(model, wav, "--text", text)
    text.write_text("x")
    with pytest.raises(DataError, match=r"a\.wav: its text: unknown character 'x'"):
        run(model, wav, "--text", text)


def test_a_recording_of_many_pieces_is_aligned_as_one(model, corpus, tmp_path):
    rows = manifests.read(corpus)
    waves = [np.concatenate([audio.load(rows.audio_path(u))[0], np.zeros(16000, np.float32)]) for u in rows]
    wav = write_wav(tmp_path / "long.wav", np.concatenate(waves * 5))
    text = tmp_path / "long.txt"
    text.write_text("\r\n".join(u.text for u in list(rows) * 5), encoding="utf-8-sig")
    result = run(model, wav, "--text", text)
    assert result.exit_code == 1 and "the text does not fit the audio" in result.stderr  # the model knows nothing
    (row,) = map(json.loads, result.stdout.splitlines())
    words = [word for segment in row["segments"] for word in segment["words"]]
    assert [w["word"].strip() for w in words] == text.read_text(encoding="utf-8-sig").split()
    starts = [w["start"] for w in words]
    assert starts == sorted(starts) and words[-1]["end"] <= row["duration"] == pytest.approx(
        sum(map(len, waves)) * 5 / 16000
    )
    srt = run(model, wav, "--text", text, "-f", "srt", "-o", tmp_path / "out")
    assert srt.exit_code == 1 and (tmp_path / "out" / "long.srt").read_text().startswith("1\n00:00:")


def test_a_short_recording_has_the_times_that_a_manifest_gives(model, corpus):
    loaded, rows = load_model(model), manifests.read(corpus)
    for utterance, one in align_manifest(loaded, rows):
        alone = align_recording(loaded, rows.audio_path(utterance), utterance.text)
        assert not isinstance(one, DataError)
        for word, other in zip(alone.transcript.words, one.transcript.words, strict=True):
            assert (word.word, word.start_s, word.end_s) == (other.word, other.start_s, other.end_s)
        assert alone.score == pytest.approx(one.score, abs=1e-3)  # the batch changes the last digits


def what_is_heard(model: Path, wav: Path, tmp_path: Path) -> str:
    """What the model itself writes; its only text that fits."""
    (tmp_path / "any.txt").write_text("a")
    return str(json.loads(run(model, wav, "--text", tmp_path / "any.txt").stdout)["heard"])


def starts_of(row: dict) -> list[float]:
    return [word["start"] for segment in row["segments"] for word in segment["words"]]


def test_a_text_of_part_of_a_recording(model, tmp_path):
    wav = write_wav(tmp_path / "long.wav", np.concatenate([tones(text, np.random.default_rng(7)) for text in TEXTS]))
    heard = what_is_heard(model, wav, tmp_path).split()
    (tmp_path / "all.txt").write_text(" ".join(heard))
    whole = run(model, wav, "--text", tmp_path / "all.txt")
    assert whole.exit_code == 0 and whole.stderr == ""
    starts = starts_of(json.loads(whole.stdout))
    assert json.loads(whole.stdout)["unmatched"] == []

    first = len(heard) // 2
    (tmp_path / "part.txt").write_text(" ".join(heard[:first]))
    forced = run(model, wav, "--text", tmp_path / "part.txt", "-f", "ctm")
    assert forced.exit_code == 1 and len(forced.stdout.splitlines()) == first
    assert "asr: long.wav: the text does not fit the audio (score -" in forced.stderr
    assert "s: the text has nothing, the model hears '" in forced.stderr
    assert "doubted words: " in forced.stderr and "--allow-gaps" in forced.stderr

    loose = run(model, wav, "--text", tmp_path / "part.txt", "--allow-gaps")
    assert loose.exit_code == 0 and "asr: long.wav: left out" in loose.stderr
    row = json.loads(loose.stdout)
    assert starts_of(row) == pytest.approx(starts[:first], abs=0.05)
    (unmatched,) = row["unmatched"]
    assert unmatched["words"] == [] and unmatched["heard"].split() == heard[first:]
    assert unmatched["end"] == pytest.approx(row["duration"], abs=0.05)


def test_a_text_with_more_than_is_said(model, tmp_path):
    wav = write_wav(tmp_path / "a.wav", np.concatenate([tones(text, np.random.default_rng(7)) for text in TEXTS]))
    heard = what_is_heard(model, wav, tmp_path)
    more = " ".join(["dcbd bdcb"] * 6)
    (tmp_path / "more.txt").write_text(f"{more} {heard} {more}")
    result = run(model, wav, "--text", tmp_path / "more.txt", "--allow-gaps")
    assert result.exit_code == 0 and "the text has 'dcbd bdcb dcbd" in result.stderr
    row = json.loads(result.stdout)
    assert row["text"] == heard and row["reference"] == f"{more} {heard} {more}"
    assert [len(each["words"]) for each in row["unmatched"]] == [12, 12]

    (tmp_path / "other.txt").write_text(more)
    with pytest.raises(DataError, match=r"a\.wav: nothing of the text fits .* the model hears '.*another recording"):
        run(model, wav, "--text", tmp_path / "other.txt", "--allow-gaps")


def test_a_text_too_long_for_its_audio_is_aligned_as_far_as_it_goes(model, tmp_path):
    wav = write_wav(tmp_path / "a.wav", np.concatenate([tones(text, np.random.default_rng(7)) for text in TEXTS]))
    heard = what_is_heard(model, wav, tmp_path)
    (tmp_path / "long.txt").write_text(heard + " dcba" * 500)
    with pytest.raises(DataError, match=r"To align what fits: --allow-gaps"):
        run(model, wav, "--text", tmp_path / "long.txt")
    result = run(model, wav, "--text", tmp_path / "long.txt", "--allow-gaps")
    assert result.exit_code == 0 and json.loads(result.stdout)["text"] == heard


def test_the_texts_of_a_manifest_that_fit_in_part_are_counted_and_named(model, corpus):
    loaded, rows = load_model(model), manifests.read(corpus)
    heard = {
        u.id: greedy(one_sv, loaded.tokenizer).text for u, one_sv in of_manifest(loaded, rows, no_speech_threshold=1)
    }
    texts = [" ".join(heard[u.id].split()) for u in rows]
    whole = texts[2].split()
    fits = whole[: len(whole) // 2]
    texts[2] = " ".join([*fits, "dcbd", "bdcb"])
    mixed = corpus.with_name("mixed.jsonl")
    pairs = zip(rows, texts, strict=True)
    manifests.write(mixed, [Utterance(u.id, u.audio_path, u.duration_s, text) for u, text in pairs])
    forced = run(model, mixed)
    assert forced.exit_code == 0
    assert "asr: 1 of 6 texts do not fit their audio everywhere" in forced.stderr and "train-0002" in forced.stderr
    loose = run(model, mixed, "--allow-gaps")
    assert loose.exit_code == 0 and "asr: 1 of 6 texts were aligned in part" in loose.stderr
    found = [json.loads(line) for line in loose.stdout.splitlines()]
    texts[2] = " ".join(fits)
    assert [row["text"] for row in found] == texts
