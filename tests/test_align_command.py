"""``asr align``: what it prints and writes, for manifests and for one recording."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from asr import audio
from asr import manifest as manifests
from asr.align import align_manifest, align_recording
from asr.checkpoint import load_model
from asr.cli import app
from asr.decode.greedy import greedy, words_with_times
from asr.errors import AsrError, ConfigError, DataError
from asr.infer import of_manifest
from asr.manifest import Utterance
from tests.builders import build_corpus, noise, write_wav
from tests.models import save_random_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return build_corpus(tmp_path_factory.mktemp("corpus"), 6, seed=1)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["align", *map(str, arguments)], catch_exceptions=False)


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


def test_the_model_agrees_with_its_own_transcripts(model, corpus):
    loaded, rows = load_model(model), manifests.read(corpus)
    said = {u.id: greedy(one_sv, loaded.tokenizer) for u, one_sv in of_manifest(loaded, rows)}
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
    assert upper.exit_code == 0 and upper.stderr == ""


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
    assert result.exit_code == 0
    (row,) = map(json.loads, result.stdout.splitlines())
    words = [word for segment in row["segments"] for word in segment["words"]]
    assert [w["word"].strip() for w in words] == text.read_text(encoding="utf-8-sig").split()
    starts = [w["start"] for w in words]
    assert starts == sorted(starts) and words[-1]["end"] <= row["duration"] == pytest.approx(
        sum(map(len, waves)) * 5 / 16000
    )
    srt = run(model, wav, "--text", text, "-f", "srt", "-o", tmp_path / "out")
    assert srt.exit_code == 0 and (tmp_path / "out" / "long.srt").read_text().startswith("1\n00:00:")


def test_a_short_recording_has_the_times_that_a_manifest_gives(model, corpus):
    loaded, rows = load_model(model), manifests.read(corpus)
    for utterance, one in align_manifest(loaded, rows):
        alone = align_recording(loaded, rows.audio_path(utterance), utterance.text)
        assert not isinstance(one, DataError)
        for word, other in zip(alone.transcript.words, one.transcript.words, strict=True):
            assert (word.word, word.start_s, word.end_s) == (other.word, other.start_s, other.end_s)
        assert alone.score == pytest.approx(one.score, abs=1e-3)  # the batch changes the last digits
