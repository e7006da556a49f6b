"""``asr transcribe`` as its user meets it: formats, files, parts, and everything that can be wrong."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.outputs import FORMATS
from tests.builders import noise, tones, write_wav
from tests.models import save_random_model
from tests.test_cli import command, one_device  # noqa: F401  # a fixture

TEXT = "abcd dcba"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    """A folder with two recordings, one of them further down."""
    folder = tmp_path_factory.mktemp("recordings")
    write_wav(folder / "one.wav", tones(TEXT, np.random.default_rng(1)))
    (folder / "more").mkdir()
    soundfile.write(folder / "more" / "two.flac", tones(TEXT, np.random.default_rng(2)), 16000)
    (folder / "notes.txt").write_text("no audio")
    return folder


@pytest.fixture
def transcribe(command, model):  # noqa: F811
    return lambda *args: command(*one_device("transcribe", model, *args))


def test_a_folder_is_written_in_every_format_and_the_next_time_left_out(transcribe, recordings, tmp_path):
    out = tmp_path / "out"
    first = transcribe(recordings, "-f", "all", "-o", out)
    assert first.code == 0 and first.out == ""
    expected = sorted(f"{stem}.{kind}" for stem in ("one", "more/two") for kind in FORMATS)
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()) == expected
    document = json.loads((out / "one.json").read_text())
    assert document["segments"][0]["words"][0]["start"] >= 0 and document["text"].strip()
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.json")}
    (out / "more" / "two.srt").unlink()
    again = transcribe(recordings, "-f", "all", "-o", out, "--skip-existing")
    assert again.code == 0 and "1 of 2 are done already" in again.err
    after = {p: p.stat().st_mtime_ns for p in out.rglob("*.json")}
    assert after[out / "one.json"] == before[out / "one.json"] and (out / "more" / "two.srt").exists()
    assert "2 of 2 are done already" in transcribe(recordings, "-f", "all", "-o", out, "--skip-existing").err


def test_a_clash_of_names_does_not_stop_the_others(transcribe, recordings, tmp_path):
    for name in ("a.wav", "a.flac", "b.wav"):
        soundfile.write(tmp_path / name, tones(TEXT, np.random.default_rng(1)), 16000)
    out = tmp_path / "out"
    for extra in ((), ("--skip-existing",)):
        done = transcribe(tmp_path, "-o", out, *extra)
        assert done.code == 1
        assert sorted(p.name for p in out.iterdir()) == ["a.txt", "b.txt"]
        said = f"  'a.flac' and 'a.wav' would both be written to {out / 'a.txt'}; "
        remedy = "transcribe the second into another folder, or rename it"
        assert done.err.splitlines()[-2:] == ["asr: 1 failed:", said + remedy]


def test_one_recording_and_several_on_stdout(transcribe, recordings):
    alone, both = transcribe(recordings / "one.wav"), transcribe(recordings)
    assert alone.out.count("\n") == 1 and "\t" not in alone.out
    assert [line.split("\t")[0] for line in both.out.splitlines()] == [
        str(recordings / "more" / "two.flac"),
        str(recordings / "one.wav"),
    ]
    assert alone.out.strip() == both.out.splitlines()[1].split("\t")[1]
    subtitles = transcribe(recordings / "one.wav", "-f", "srt")
    assert subtitles.out.startswith("1\n00:00:0") and " --> " in subtitles.out
    lines = transcribe(recordings, "-f", "jsonl").out.splitlines()
    assert len(lines) == 2 and all(json.loads(line)["text"] for line in lines)


def test_what_is_printed_says_whose_it_is(transcribe, recordings, tmp_path):
    for name in ("x.wav", "x.flac", "y.wav"):
        soundfile.write(tmp_path / name, tones(TEXT, np.random.default_rng(1)), 16000)
    rows = [json.loads(line)["id"] for line in transcribe(tmp_path, "-f", "jsonl").out.splitlines()]
    assert rows == ["x.flac", "x.wav", "y"]
    assert {line.split()[0] for line in transcribe(tmp_path, "-f", "ctm").out.splitlines()} == set(rows)
    assert "txt of 3 recordings does not go on stdout" in transcribe(tmp_path, "--word-times").error
    assert transcribe(tmp_path / "x.wav", "--word-times").code == 0
    row = {"id": "a.wav", "audio_path": str(tmp_path / "x.wav"), "duration_s": 1.0, "text": "a"}
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n")
    assert json.loads(transcribe(tmp_path / "m.jsonl", "-f", "jsonl").out)["id"] == "a.wav"
    assert transcribe(tmp_path / "m.jsonl", "-f", "jsonl", "-o", tmp_path / "out").code == 0
    assert json.loads((tmp_path / "out" / "a.jsonl").read_text())["id"] == "a.wav"


def test_nothing_that_is_read_is_written_over(transcribe, model, recordings, tmp_path):
    row = {"id": "m", "audio_path": str(recordings / "one.wav"), "duration_s": 1.0, "text": "a"}
    (tmp_path / "m.jsonl").write_text(before := json.dumps(row) + "\n")
    refused = transcribe(tmp_path / "m.jsonl", "-f", "jsonl", "-o", tmp_path)
    assert refused.code == 2 and "is an input, and would be written over" in refused.error
    assert (tmp_path / "m.jsonl").read_text() == before
    row["id"] = "config"
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n")
    assert "is an input" in transcribe(tmp_path / "m.jsonl", "-f", "json", "-o", model).error


def test_one_bad_name_does_not_stop_the_others_and_no_name_is_not_the_whole_folder(transcribe, recordings, monkeypatch):
    result = transcribe(recordings / "one.wav", "n" * 300 + ".wav")
    assert result.code == 1 and result.out.count("\n") == 1 and "file name too long" in result.err.lower()
    monkeypatch.chdir(recordings)
    empty = transcribe("")
    assert empty.code == 2 and empty.out == "" and "an empty name; give a file" in empty.error


def test_a_picture_of_what_can_be_read_only_once_is_refused(transcribe, recordings, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((recordings / "one.wav").read_bytes())))
        refused = transcribe("-", "--picture", tmp_path / "p.png")
    assert refused.code == 2 and "--picture draws from a file, and stdin can be read only once" in refused.error
    long = transcribe("n" * 300 + ".wav", "--picture", tmp_path / "p.png")
    assert long.code == 1 and "file name too long" in long.err.lower()
    os.mkfifo(tmp_path / "pipe.wav")
    assert "can be read only once" in transcribe(tmp_path / "pipe.wav", "--picture", tmp_path / "p.png").error
    out = ("-o", tmp_path / "out", "--skip-existing")
    assert transcribe(recordings / "one.wav", *out).code == 0
    assert "p.png is not written" in transcribe(recordings / "one.wav", *out, "--picture", tmp_path / "p.png").err


def test_the_same_from_standard_input_a_pattern_and_a_manifest(transcribe, recordings, tmp_path, monkeypatch):
    expected = transcribe(recordings / "one.wav").out
    content = (recordings / "one.wav").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert transcribe("-").out == expected
    assert transcribe(str(recordings / "o*.wav")).out == expected
    duration_s = soundfile.info(recordings / "one.wav").duration
    row = {"id": "u1", "audio_path": str(recordings / "one.wav"), "duration_s": duration_s, "text": "a"}
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n")
    assert transcribe(tmp_path / "m.jsonl").out == expected


def test_a_part_and_a_channel(transcribe, tmp_path):
    rng = np.random.default_rng(3)
    first, second = tones("abcd", rng), tones("dcab", rng)
    size = max(len(first), len(second))
    left, right = np.zeros(size, np.float32), np.zeros(size, np.float32)
    left[: len(first)], right[: len(second)] = first, second
    soundfile.write(tmp_path / "two.wav", np.stack([left, right], axis=1), 16000)
    soundfile.write(tmp_path / "right.wav", right, 16000)
    chosen = transcribe(tmp_path / "two.wav", "--channel", 2)
    assert chosen.out == transcribe(tmp_path / "right.wav").out and "channel 2 of 2" in chosen.err
    assert "2 channels mixed down" in transcribe(tmp_path / "two.wav").err
    soundfile.write(tmp_path / "long.wav", np.concatenate([noise(1.0), left, noise(1.0)]), 16000)
    soundfile.write(tmp_path / "left.wav", left, 16000)
    part = transcribe(tmp_path / "long.wav", "--start", 1, "--end", 1 + size / 16000, "--json")
    whole = transcribe(tmp_path / "left.wav", "--json")
    one, other = (json.loads(result.out)["transcripts"][0] for result in (part, whole))
    assert one["text"] == other["text"]
    starts = [[w["start"] for s in d["segments"] for w in s["words"]] for d in (one, other)]
    np.testing.assert_allclose(starts[0], np.array(starts[1]) + 1, atol=0.0015)  # of the whole file
    for channel, name, id_ in ((1, "A", "two"), (2, "B", "two:B")):
        words = transcribe(tmp_path / "two.wav", "--channel", channel, "-f", "ctm").out.splitlines()
        assert words and all(line.startswith(f"two {name} ") for line in words)
        row = json.loads(transcribe(tmp_path / "two.wav", "--channel", channel, "-f", "jsonl").out)
        assert (row["id"], row["channel"]) == (id_, channel)
    manifest = {"id": "u", "audio_path": "two.wav", "duration_s": size / 16000, "text": "a", "channel": 2}
    (tmp_path / "m.jsonl").write_text(json.dumps(manifest) + "\n")
    assert transcribe(tmp_path / "m.jsonl", "-f", "ctm").out.startswith("u A ")  # an id says which it is
    assert transcribe(tmp_path / "two.wav", "--channel", 3).code == 1
    assert transcribe(tmp_path / "two.wav", "--start", 99).code == 1


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("{good} -f mp4", "unknown format 'mp4'"),
        ("{good} -f srt,vtt", "stdout takes one format, got srt, vtt; add -o DIR"),
        ("{good} {other} -f srt", "srt of 2 recordings does not go on stdout; add -o DIR"),
        ("{good} --skip-existing", "--skip-existing needs -o DIR"),
        ("{good} --nbest 3", "--nbest is shown in JSON only"),
        ("{good} --json -o {tmp}/out", "--json prints one document for all"),
        ("{good} --start 5 --end 5", "--end 5 is not after --start 5"),
        ("{good} --decoder greedy --alpha 1", "greedy decoding cannot use --alpha"),
        ("{good} --precision int3", "int3"),
        ("{tmp}/empty", "empty"),
        ("{tmp}/no*.wav", "no*.wav"),
        ("{good} -o {good}", "good.wav"),
        ("{good} -o {tmp}/sealed/out", "sealed"),
    ],
)
def test_what_cannot_be_meant_is_one_line_before_any_work(transcribe, tmp_path, args, said):
    good, other = write_wav(tmp_path / "good.wav"), write_wav(tmp_path / "other.wav")
    (tmp_path / "empty").mkdir()
    (tmp_path / "sealed").write_text("a file, not a folder")
    result = transcribe(*args.format(tmp=tmp_path, good=good, other=other).split())
    assert said in result.error
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_a_recording_that_fails_is_named_at_the_end_and_the_others_are_whole(transcribe, recordings, tmp_path):
    (tmp_path / "empty.wav").touch()
    write_wav(tmp_path / "click.wav", noise(0.02))
    (tmp_path / "words.wav").write_text("these are words\n" * 100)
    result = transcribe(tmp_path, recordings, tmp_path / "gone.wav", "-o", tmp_path / "out", "-f", "txt")
    assert result.code == 1
    end = result.err.splitlines()[-4:]
    assert end[0] == "asr: 3 failed:"
    assert [name in line for name, line in zip(("empty.wav", "words.wav", "gone.wav"), end[1:], strict=True)]
    assert sorted(p.name for p in (tmp_path / "out").rglob("*.txt")) == ["click.txt", "one.txt", "two.txt"]


def test_rows_of_one_file_are_told_apart_by_their_ids(transcribe, tmp_path):
    write_wav(tmp_path / "long.wav", np.tile(tones(TEXT, np.random.default_rng(0)), 2))
    rows = [
        {"id": f"u{i}", "audio_path": "long.wav", "offset_s": at, "duration_s": 0.5, "text": "a"}
        for i, at in enumerate((0.0, 900.0, 0.3, 800.0))
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = transcribe(tmp_path / "m.jsonl")
    assert result.code == 1 and [line.split("\t")[0] for line in result.out.splitlines()] == ["u0", "u2"]
    end = result.err.splitlines()[-3:]
    assert end[0] == "asr: 2 failed:" and "'u1'" in end[1] and "'u3'" in end[2]
    document = json.loads(transcribe(tmp_path / "m.jsonl", "--json").out)
    assert [one["id"] for one in document["transcripts"]] == ["u0", "u2"] and list(document["failed"]) == ["u1", "u3"]


def test_what_is_done_to_many_recordings_is_said_once_and_counted(transcribe, tmp_path):
    for i in range(3):
        soundfile.write(tmp_path / f"{i}.wav", np.stack([noise(0.5)] * 2, axis=1), 16000)
    said = transcribe(tmp_path).err
    assert said.count("2 channels mixed down") == 2 and "asr: 3 recordings: 2 channels mixed down" in said


def test_a_file_that_cannot_be_written_is_named_and_the_others_are_written(transcribe, recordings, tmp_path):
    import asr.outputs.targets as targets

    whole = targets.write_text

    def write(path, content):
        if path.name == "two.txt":
            raise OSError(28, "No space left on device")
        whole(path, content)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(targets, "write_text", write)
        result = transcribe(recordings, "-o", tmp_path / "out")
    assert result.code == 1 and "asr: 1 failed:" in result.err and "two.txt: cannot write: no space" in result.err
    assert (tmp_path / "out" / "one.txt").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals there")
def test_text_goes_to_stdout_also_where_the_bar_is_on_a_terminal(model, recordings, tmp_path):
    import pty

    ours, theirs = pty.openpty()
    args = [sys.executable, "-m", "asr", "transcribe", str(model), str(recordings)]
    with (tmp_path / "out.txt").open("w") as out:
        process = subprocess.Popen(args, stdout=out, stderr=theirs, stdin=subprocess.DEVNULL)
    os.close(theirs)
    shown = b""
    try:
        while content := os.read(ours, 65536):
            shown += content
    except OSError:  # Linux: the terminal has no more writers
        pass
    os.close(ours)
    assert process.wait(60) == 0
    assert b"of audio" in shown and b"one.wav" not in shown
    assert len((tmp_path / "out.txt").read_text().splitlines()) == 2


def test_a_cut_recording_is_transcribed_as_far_as_it_goes_and_named(transcribe, tmp_path):
    for name in ("a.wav", "b.wav"):
        write_wav(tmp_path / name, tones(TEXT, np.random.default_rng(1)))
    path = tmp_path / "b.wav"
    path.write_bytes(path.read_bytes()[:-6000])
    result = transcribe(tmp_path, "--json")
    assert result.code == 1
    whole, cut = json.loads(result.out)["transcripts"]
    assert "truncated" not in whole and cut["truncated"].startswith("truncated: the header promises ")
    assert json.loads(result.out)["failed"] == {} and cut["text"]
    assert result.err.splitlines()[-2:] == [
        "asr: 1 cut short, done as far as they go:",
        f"  {path}: {cut['truncated']}",
    ]


def test_nbest_is_in_the_json(transcribe, recordings):
    result = transcribe(recordings / "one.wav", "--decoder", "beam", "--nbest", 3, "-f", "json")
    document = json.loads(result.out)
    assert 1 <= len(document["nbest"]) <= 3
    for other in (document, *document["nbest"]):
        assert other["acoustic_log_prob"] + other["lm_score"] == pytest.approx(other["log_prob"], abs=2e-4)
    for other in document["nbest"]:
        words = other["words"]
        assert " ".join(word["word"].strip() for word in words) == other["text"]
        assert all(0 <= word["start"] <= word["end"] <= document["duration"] for word in words)
        assert all(0 < word["probability"] <= 1 for word in words)


def test_a_part_ends_where_it_ends_in_its_file(transcribe, recordings):
    document = json.loads(transcribe(recordings / "one.wav", "--start", 0.2, "--end", 0.5, "-f", "json").out)
    assert document["duration"] == 0.5


def test_pieces_are_no_longer_than_what_is_asked_for(transcribe, tmp_path):
    write_wav(tmp_path / "long.wav", np.concatenate([tones(TEXT, np.random.default_rng(i)) for i in range(8)]))
    seams = [
        json.loads(transcribe(tmp_path / "long.wav", "-f", "json", *longest).out).get("seams", [])
        for longest in ((), ("--longest", 2))
    ]
    cuts_s = [0.0, *(seam["at"] for seam in seams[1]), soundfile.info(tmp_path / "long.wav").duration]
    assert len(seams[1]) > len(seams[0]) and max(np.diff(cuts_s)) <= 2


def test_a_long_recording_has_no_nbest_and_it_is_said(transcribe, tmp_path):
    said, still = tones(TEXT, np.random.default_rng(0)), np.zeros(2 * 16000, np.float32)
    write_wav(tmp_path / "long.wav", np.concatenate([said, still] * 10))
    result = transcribe(tmp_path / "long.wav", "--decoder", "beam", "--nbest", 3, "-f", "json", "--longest", 3)
    assert "nbest" not in json.loads(result.out) and "no other texts of the whole" in result.err


@pytest.mark.skipif(sys.platform == "win32", reason="no signals there")
def test_an_interrupt_leaves_whole_files_and_no_others(model, tmp_path):
    for i in range(60):
        write_wav(tmp_path / "in" / f"{i:02}.wav", np.tile(tones(TEXT, np.random.default_rng(i)), 12))
    args = [sys.executable, "-m", "asr", "transcribe", str(model), str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    process = subprocess.Popen(
        [*args, "-f", "json", "--threads", "1", "--batch-seconds", "5"], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None and not list((tmp_path / "out").glob("*.json")):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    written = list((tmp_path / "out").iterdir())
    assert written and all(path.suffix == ".json" and json.loads(path.read_text())["text"] for path in written)
    if len(written) < 60:
        assert process.returncode == 130


def test_evaluation_is_of_fp32_and_of_another_precision_where_it_is_asked_for(command, model, tmp_path):  # noqa: F811
    wave = write_wav(tmp_path / "one.wav", tones(TEXT, np.random.default_rng(1)))
    duration_s = soundfile.info(wave).duration
    row = {"id": "one", "audio_path": "one.wav", "duration_s": duration_s, "text": TEXT}
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n")
    evaluate = lambda *args: command(*one_device("evaluate", model, tmp_path / "m.jsonl", *args))  # noqa: E731
    assert json.loads(evaluate("--json").out)["precision"] == "fp32"
    assert json.loads(evaluate("--json", "--precision", "auto").out)["precision"] in ("fp32", "bf16")
    assert "states results of fp32" in evaluate("--markdown", "--precision", "bf16").error
