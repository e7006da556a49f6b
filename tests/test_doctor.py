"""The doctor finds what was broken on purpose, says nothing of what is well, and mends what it can."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st

from asr.cli import run
from asr.config import RunConfig, load, override
from asr.corpora.catalogue import find_config, find_recipe
from asr.corpora.prepare import prepare
from asr.corpora.recipe import Request
from asr.data import manifest as manifests
from asr.data import prepared as headers
from asr.data.manifest import Utterance
from asr.data.targets import min_steps
from asr.doctor import Examination, examine, sound
from asr.doctor import fix as fixing
from asr.doctor.expected import of_config, of_model
from asr.doctor.findings import KINDS
from asr.doctor.picture import draw_histograms
from asr.doctor.rows import role_of
from asr.doctor.start import check_start
from asr.errors import AsrError, DataError
from asr.features.frames import FeatureExtractor
from asr.model.conv import ConvFrontEnd
from asr.train import train
from tests.builders import build_corpus, noise, sine, tiny_config, without_length, write_wav
from tests.conftest import needs_matplotlib
from tests.models import save_random_model

SENTENCE = "she had your dark suit in greasy wash water"


def utterance(id_: str, **changes: object) -> Utterance:
    row = {"audio_path": f"wav/{id_}.wav", "duration_s": 1.0, "text": "abcd abcd", "speaker": "s"}
    return Utterance(id_, **{**row, **changes})  # type: ignore[arg-type]


def corpus(folder: Path, *rows: Utterance, name: str = "train") -> Path:
    """A manifest of the rows; each without a file gets one of its own noise, as long as it says."""
    for row in rows:
        path = folder / row.audio_path
        if not path.exists() and path.suffix in (".wav", ".flac"):
            write_wav(path, noise(row.duration_s, seed=zlib.crc32(row.id.encode())))
    manifests.write(folder / f"{name}.jsonl", rows)
    return folder / f"{name}.jsonl"


def codes(report: Examination) -> dict[str, int]:
    return {f.code: f.count for f in report.findings}


def found(report: Examination, code: str) -> list[str]:
    return [str(example) for f in report.findings if f.code == code for example in f.examples]


def severity(report: Examination, code: str) -> str:
    return next(f.severity for f in report.findings if f.code == code)


# --- a corpus that is well --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deep", [False, True])
def test_of_good_data_there_is_nothing_to_say(tmp_path, deep):
    rows = [utterance(f"u{i}", speaker=f"s{i % 3}") for i in range(6)]
    other = [utterance(f"v{i}", speaker="t", text="abcd") for i in range(3)]
    paths = [corpus(tmp_path, *rows), corpus(tmp_path, *other, name="dev")]
    report = examine(paths, of_config(RunConfig(), tmp_path), deep=deep)
    assert report.findings == [] and report.errors == 0
    assert report.verdict() == f"nothing wrong in 9 rows and 9 files ({'decoded' if deep else 'by their headers'})"


def test_what_was_not_looked_at_is_said(tmp_path):
    report = examine([corpus(tmp_path, utterance("u"))])
    assert any("--config or --model" in line for line in report.skipped)
    assert any("--deep" in line for line in report.skipped)
    assert any("train, dev and test manifests together" in line for line in report.skipped)


@given(st.sampled_from(["wav", "flac", "ogg"]), st.integers(1, 3000))
def test_a_file_that_is_well_has_its_own_length(tmp_path_factory, suffix, num_samples):
    path = tmp_path_factory.mktemp("a") / f"a.{suffix}"
    soundfile.write(path, noise(1.0)[:num_samples], 16000)
    header = sound.read_header(str(path))
    assert (header.code, header.num_samples) == ("", num_samples)
    assert sound.measure_samples(str(path), 0, -1).num_samples == num_samples


# --- rows that no reader takes ----------------------------------------------------------------------------------------


def test_every_row_that_reading_would_refuse_is_listed_with_its_line(tmp_path):
    path = corpus(tmp_path, utterance("u"))
    good = path.read_text()
    lines = [
        good.strip(),
        "{",
        "[1]",
        json.dumps({"id": "x"}),
        good.strip(),
        '{"id": "\\ud800"}',
        "\x00\xff",
        json.dumps({**json.loads(good), "id": "z", "duration_s": -1}),
        "",
        json.dumps({**json.loads(good), "id": "w"}),
    ]
    path.write_bytes("\n".join(lines).encode("latin-1"))
    report = examine([path], num_examples=20)
    assert codes(report)["row-invalid"] == 6 and codes(report)["duplicate-id"] == 1
    invalid = found(report, "row-invalid")
    assert [line.split(":")[1].split(" ")[0] for line in invalid] == ["2", "3", "4", "6", "7", "8"]
    assert "missing field 'audio_path'" in invalid[2] and "finite and positive, got -1" in invalid[5]
    assert found(report, "duplicate-id") == [f"{path}:5 u: first on line 1"]
    assert report.manifests[0].num_lines == 9 and len(report.manifests[0].rows) == 2


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_an_empty_manifest_is_an_error_in_the_report(tmp_path, content):
    (tmp_path / "train.jsonl").write_bytes(content)
    report = examine([tmp_path / "train.jsonl"], of_config(RunConfig(), tmp_path), deep=True)
    assert codes(report) == {"manifest-empty": 1} and report.errors == 1


def test_a_manifest_that_is_not_there_is_the_users_mistake(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl: cannot read the manifest: no such file"):
        examine([tmp_path / "none.jsonl"])


def test_a_manifest_given_twice_is_looked_at_once(tmp_path):
    path = corpus(tmp_path, utterance("u"))
    (tmp_path / "link.jsonl").symlink_to(path)
    report = examine([path, path, tmp_path / "link.jsonl"])
    assert codes(report) == {"manifest-twice": 2} and len(report.manifests) == 1


# --- audio ------------------------------------------------------------------------------------------------------------


def cut(path: Path, share: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def with_header(folder: Path, suffix: str = "wav", **row: object) -> tuple[Path, Path]:
    """A manifest of one utterance and its file."""
    path = corpus(folder, utterance("u", audio_path=f"u.{suffix}", **row))
    return path, folder / f"u.{suffix}"


@pytest.mark.parametrize(
    ("code", "suffix", "harm"),
    [
        ("audio-missing", "wav", lambda path: path.unlink()),
        ("audio-unreadable", "wav", lambda path: (path.unlink(), path.mkdir())),
        ("audio-unreadable", "wav", lambda path: path.write_bytes(b"")),
        ("audio-unreadable", "wav", lambda path: path.write_bytes(b"this is no audio at all" * 9)),
        ("audio-unreadable", "raw", lambda path: path.write_bytes(b"\0" * 999)),
        ("audio-truncated", "wav", cut),
        ("audio-truncated", "flac", cut),
        ("audio-truncated", "flac", lambda path: cut(path, 0.97)),
        ("audio-empty", "wav", lambda path: write_wav(path, noise(0.0))),
        ("channels", "wav", lambda path: soundfile.write(path, np.stack([noise(1.0)] * 2, 1), 16000)),
        ("rate", "wav", lambda path: write_wav(path, noise(1.0, 8000), 8000)),
        ("duration", "wav", lambda path: write_wav(path, noise(0.9))),
    ],
)
def test_broken_audio_is_found_by_its_header(tmp_path, code, suffix, harm):
    path, audio_path = with_header(tmp_path, suffix)
    harm(audio_path)
    report = examine([path], of_config(RunConfig(), tmp_path))
    assert codes(report) == {code: 1} and severity(report, code) == "error"
    assert report.findings[0].audio_s == 1.0 and found(report, code)[0].startswith(f"{path}:1 u: ")


def test_a_path_that_the_system_refuses_is_a_finding_and_not_the_end(tmp_path):
    long = utterance("long", audio_path="a" * 300 + ".wav", duration_s=1.0)
    path = tmp_path / "train.jsonl"
    write_wav(tmp_path / "wav" / "a.wav", noise(1.0))
    manifests.write(path, [utterance("a"), long, utterance("b", audio_path="wav/a.wav/b.wav"), utterance("c")])
    report = examine([path])
    assert codes(report) == {"audio-missing": 2, "audio-unreadable": 1}
    (said,) = found(report, "audio-unreadable")
    assert said.startswith(f"{path}:2 long: ") and said.endswith(": cannot read the audio: file name too long")


def test_damage_inside_a_file_is_found_when_it_is_decoded(tmp_path):
    path, audio_path = with_header(tmp_path, "flac", duration_s=9.0)
    content = bytearray(audio_path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4000] = os.urandom(4000)
    audio_path.write_bytes(content)
    assert examine([path]).errors == 0
    assert codes(examine([path], deep=True))["audio-truncated"] == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_found_when_decoded(tmp_path, bad):
    path, audio_path = with_header(tmp_path)
    wave = noise(1.0)
    wave[777] = bad
    soundfile.write(audio_path, wave, 16000, subtype="FLOAT")
    assert codes(examine([path], deep=True)) == {"audio-not-finite": 1}


@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [("wav", "PCM_U8"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("wav", "ULAW"), ("ogg", "OPUS"), ("ogg", "VORBIS")],
)
def test_every_kind_of_file_that_training_reads_is_well(tmp_path, suffix, subtype):
    audio_path = tmp_path / f"u.{suffix}"
    soundfile.write(audio_path, 0.3 * sine(1.0) + noise(1.0), 16000, subtype=subtype)
    path = corpus(tmp_path, utterance("u", audio_path=f"u.{suffix}"))
    assert codes(examine([path], of_config(RunConfig(), tmp_path), deep=True)) == {}


@pytest.mark.parametrize("deep", [False, True])
def test_a_file_that_does_not_say_its_length_is_well(tmp_path, deep):
    rows = [utterance(id_, audio_path=f"{id_}.flac", duration_s=9.0, speaker=id_) for id_ in ("a", "b")]
    part = utterance("c", audio_path="b.flac", duration_s=2.01, offset_s=7.0, speaker="c")
    path = corpus(tmp_path, *rows, part)
    for name in "ab":
        without_length(tmp_path / f"{name}.flac")
    assert codes(examine([path], deep=deep)) == {}
    span = sound.measure_samples(str(tmp_path / "a.flac"), 16000, -1)
    assert span.num_samples == 8 * 16000 and not span.code


def test_without_a_model_the_odd_rate_out_is_a_warning(tmp_path):
    rows = [utterance(f"u{i}") for i in range(4)]
    path = corpus(tmp_path, *rows)
    write_wav(tmp_path / "wav" / "u2.wav", noise(1.0, 8000), 8000)
    report = examine([path])
    assert severity(report, "rate") == "warning"
    assert found(report, "rate") == [f"{path}:3 u2: 8000 Hz, most files have 16000 Hz"]
    assert (
        severity(examine([path], of_config(override(RunConfig(), ["audio.resample=true"]), tmp_path)), "rate") == "note"
    )


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("changes", [{"offset_s": 6e5}, {"offset_s": 0.5, "duration_s": 6e5}, {"duration_s": 6e5}])
def test_times_beyond_all_files_are_findings(tmp_path, changes, deep):
    write_wav(tmp_path / "u.wav", noise(1.0))
    path = corpus(tmp_path, utterance("u", audio_path="u.wav", **changes))
    report = examine([path], of_config(tiny_config(), tmp_path), deep=deep)
    assert codes(report)["duration"] == 1 and severity(report, "duration") == "error"


@pytest.mark.parametrize(("seconds", "level"), [(2.0, "error"), (0.5, "warning")])
def test_a_rate_that_is_wrong_by_two_is_told_by_the_durations(tmp_path, seconds, level):
    write_wav(tmp_path / "u.wav", noise(1.0))
    report = examine([corpus(tmp_path, utterance("u", audio_path="u.wav", duration_s=seconds))])
    assert severity(report, "duration") == level
    assert found(report, "duration")[0].endswith("; a factor of 2: the sample rate of one is wrong")
    other = examine([corpus(tmp_path, utterance("u", audio_path="u.wav", duration_s=1.8))])
    assert "factor" not in found(other, "duration")[0]


def test_a_file_that_goes_on_is_a_warning_unless_its_rows_are_parts(tmp_path):
    write_wav(tmp_path / "long.wav", noise(4.0))
    alone = corpus(tmp_path, utterance("u", audio_path="long.wav"))
    assert severity(examine([alone]), "duration") == "warning"
    parts = corpus(tmp_path, *(utterance(f"u{i}", audio_path="long.wav", offset_s=float(i)) for i in range(3)))
    assert examine([parts], deep=True).findings == []
    beyond = corpus(tmp_path, utterance("u", audio_path="long.wav", offset_s=9.0))
    assert found(examine([beyond], deep=True), "duration") == [
        f"{beyond}:1 u: starts at 9.00 s, the file ends at 4.00 s"
    ]


@pytest.mark.parametrize(
    ("code", "wave"),
    [
        ("clipping", np.clip(sine(1.0, amplitude=2.0), -1, 1)),
        ("dc-offset", noise(1.0) + 0.05),
        ("silence", np.concatenate([noise(0.05), np.zeros(16000 - 800)])),
        ("silence", np.concatenate([noise(0.05), np.zeros(16000 - 800)]) + 0.004 - 0.004),
    ],
)
def test_bad_recordings_are_found_when_decoded(tmp_path, code, wave):
    path, audio_path = with_header(tmp_path)
    write_wav(audio_path, wave.astype(np.float32))
    assert examine([path]).findings == []
    report = examine([path], deep=True)
    assert codes(report) == {code: 1} and severity(report, code) == "warning"


@pytest.mark.parametrize("rate_hz", [16000, 44100])
def test_speech_that_was_brought_up_from_8_khz_is_a_note(tmp_path, rate_hz):
    path, audio_path = with_header(tmp_path)
    narrow = noise(1.0, 8000)
    write_wav(audio_path, soxr.resample(narrow, 8000, rate_hz), rate_hz)
    report = examine([path], deep=True)
    assert codes(report) == {"narrow-band": 1} and severity(report, "narrow-band") == "note"
    assert examine([path]).findings == []
    for wave, own_hz in ((noise(1.0, rate_hz), rate_hz), (narrow, 8000), (np.zeros(rate_hz, np.float32), rate_hz)):
        write_wav(audio_path, wave, own_hz)
        assert "narrow-band" not in codes(examine([path], deep=True))


@pytest.mark.parametrize("level", [0.0, 0.25])
def test_a_constant_wave_with_a_text_is_an_error(tmp_path, level):
    path, audio_path = with_header(tmp_path)
    write_wav(audio_path, np.full(16000, level, np.float32))
    report = examine([path], deep=True)
    assert severity(report, "silence") == "error" and report.errors == 1


@given(st.integers(0, 3000), st.floats(0.01, 0.9), st.integers(1, 4000))
def test_the_sums_over_blocks_are_those_of_the_whole(tmp_path_factory, num_samples, amplitude, start):
    path = tmp_path_factory.mktemp("a") / "a.wav"
    wave = noise(1.0, amplitude=amplitude)[: num_samples + start]
    soundfile.write(path, wave, 16000, subtype="FLOAT")
    block = sound._BLOCK_S
    try:
        sound._BLOCK_S = 0.04
        pieces = sound.measure_samples(str(path), start, -1)
    finally:
        sound._BLOCK_S = block
    whole = sound.measure_samples(str(path), start, -1)
    assert pieces.num_samples == whole.num_samples == num_samples
    part = wave[start:].astype(np.float64)
    if num_samples:
        assert pieces.peak == whole.peak == np.abs(wave[start:]).max()
        assert pieces.mean == pytest.approx(part.mean(), abs=1e-9)
        assert pieces.deviation == pytest.approx(part.std(), abs=1e-7)
        assert (pieces.silent, pieces.key[:2]) == (whole.silent, whole.key[:2])


# --- texts ------------------------------------------------------------------------------------------------------------


def test_texts_that_are_empty_damaged_or_written_with_digits_are_warnings(tmp_path):
    rows = [
        utterance("a", text=" \t"),
        utterance("b", text="caf\ufffd"),
        utterance("c", text="e\u0301te\u0301"),
        utterance("d", text="be\x07ll"),
        utterance("e", text="at 10"),
        utterance("f", text="½ cup"),
        utterance("g"),
    ]
    report = examine([corpus(tmp_path, *rows)], num_examples=9)
    assert codes(report) == {"text-empty": 1, "text-unicode": 3, "digits-in-text": 2} and report.errors == 0
    assert [line.split()[1] for line in found(report, "text-unicode")] == ["b:", "c:", "d:"]


def test_characters_outside_the_vocabulary_are_counted_and_a_case_hint_given(tmp_path):
    model = save_random_model(tmp_path / "model")
    path = corpus(tmp_path, *(utterance(f"u{i}", text=t) for i, t in enumerate(["ABC D", "ab cd", "BAD É", "dad"])))
    report = examine([path], of_model(model))
    assert codes(report) == {"characters": 2} and report.errors == 2
    (finding,) = report.findings
    assert finding.details[0].startswith("rows with each: 'A' (U+0041) 2, 'B' (U+0042) 2, 'D' (U+0044) 2, ")
    assert finding.details[1] == "the vocabulary has the lower-case forms: set text.normalization=lower"


def test_with_a_config_the_vocabulary_is_that_of_the_training_manifest(tmp_path):
    paths = [corpus(tmp_path, utterance("u", text="abc")), corpus(tmp_path, utterance("v", text="abd"), name="dev")]
    config = of_config(RunConfig(), tmp_path)
    assert found(examine(paths, config), "characters") == [f"{paths[1]}:1 v: 'd' (U+0064) in 'abd'"]
    report = examine(paths[1:], config)
    assert report.findings == [] and any("give one" in line for line in report.skipped)


@given(st.integers(1, 40), st.sampled_from(["a", "ab", "aab"]), st.sampled_from(["[2, 2]", "[1, 2]", "[3, 2]"]))
def test_too_short_for_text_is_exactly_where_the_loss_would_be_infinite(tmp_path_factory, repeats, unit, stride):
    folder = tmp_path_factory.mktemp("d")
    cfg = tiny_config(f"model.conv=[{{channels: 4, kernel_tf: [5, 5], stride_tf: {stride}}}]")
    text, num_samples = unit * repeats, 5000
    write_wav(folder / "u.wav", noise(1.0)[:num_samples])
    # rounded as tables round: the file's own length counts
    path = corpus(folder, utterance("u", audio_path="u.wav", duration_s=0.31, text=text))
    extractor = FeatureExtractor(cfg.features, 16000)
    front_end = ConvFrontEnd(cfg.model.conv, extractor.num_bins, 20.0, True)
    steps = int(front_end.num_steps(manifest_tensor(int(extractor.num_frames(num_samples))))[0])
    report = examine([path], of_config(cfg, folder))
    tokens = [ord(c) for c in text]
    assert ("too-short-for-text" in codes(report)) == (min_steps(tokens) > steps)


def manifest_tensor(value: int):
    import torch

    return torch.tensor([value])


def test_what_training_leaves_out_for_its_length_is_said_of_the_training_set_only(tmp_path):
    path = corpus(tmp_path, utterance("u", duration_s=3.0, text="abcd " * 4))
    config = of_config(override(RunConfig(), ["batch.max_utterance_s=2"]), tmp_path)
    assert found(examine([path], config), "too-long") == [f"{path}:1 u: 3.0 s, over 2 s"]


def test_a_text_that_belongs_to_other_audio_stands_out_by_its_rate(tmp_path):
    rng = np.random.default_rng(1)
    rows = [utterance(f"u{i}", text="abcd " * int(rng.integers(2, 4))) for i in range(40)]
    rows += [utterance("fast", text="abcd " * 7), utterance("slow", text="a", duration_s=6.0)]
    report = examine([corpus(tmp_path, *rows)], num_examples=9)
    assert codes(report) == {"rate-of-speech": 2}
    assert "34.0 characters per second" in found(report, "rate-of-speech")[0]
    few = examine([corpus(tmp_path, *rows[-4:-1], name="few")])
    assert codes(few) == {"rate-of-speech": 1}  # beyond what anybody speaks: no median is needed


def test_rare_characters_of_a_large_training_set_are_a_note(tmp_path):
    rows = [utterance(f"u{i}", audio_path="u.wav", offset_s=i / 100) for i in range(600)]
    write_wav(tmp_path / "u.wav", noise(8.0))
    rows[300] = utterance("u300", audio_path="u.wav", offset_s=3.0, text="abcd ab×d")
    report = examine([corpus(tmp_path, *rows)])
    assert codes(report) == {"character-rare": 1} and severity(report, "character-rare") == "note"
    assert "'×' (U+00D7)" in found(report, "character-rare")[0]


# --- the same thing twice ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deep", [False, True])
def test_the_same_audio_is_found_under_another_name_but_not_at_another_offset(tmp_path, deep):
    rows = [utterance("a"), utterance("b"), utterance("c", text="dcba"), utterance("d", audio_path="./wav/a.wav")]
    path = corpus(tmp_path, *rows)
    shutil.copy(tmp_path / "wav" / "a.wav", tmp_path / "wav" / "c.wav")
    report = examine([path], deep=deep, num_examples=9)
    assert codes(report) == {"duplicate-audio": 2}
    assert found(report, "duplicate-audio") == [
        f"{path}:3 c: as {path}:1 a, with another text",
        f"{path}:4 d: as {path}:1 a, with the same text",
    ]


def test_only_decoding_finds_the_same_samples_in_another_container(tmp_path):
    path = corpus(tmp_path, utterance("a"), utterance("b", audio_path="b.flac"))
    samples, rate = soundfile.read(tmp_path / "wav" / "a.wav")
    soundfile.write(tmp_path / "b.flac", samples, rate)
    assert codes(examine([path])) == {}
    assert codes(examine([path], deep=True)) == {"duplicate-audio": 1}


def test_files_of_one_size_are_not_read_whole_to_see_that_they_differ(tmp_path, monkeypatch):
    path = corpus(tmp_path, *(utterance(f"u{i}") for i in range(20)))
    read_whole = []
    digest = sound._digest
    monkeypatch.setattr(sound, "_digest", lambda p, size: read_whole.append(p) if size is None else digest(p, size))
    assert examine([path]).findings == [] and read_whole == []


def test_audio_of_another_set_in_the_training_set_is_an_error_there(tmp_path):
    train = corpus(tmp_path, utterance("a"), utterance("b"))
    dev = corpus(tmp_path, utterance("x", audio_path="wav/b.wav", speaker="t"), name="dev")
    report = examine([dev, train])
    assert codes(report) == {"overlap-audio": 1}
    assert found(report, "overlap-audio") == [f"{train}:2 b: as {dev}:1 x, with the same text"]
    assert list(report.manifests[1].errors) == [2]


def test_speakers_and_long_texts_in_two_sets_are_warned_of_with_their_share(tmp_path):
    train = corpus(tmp_path, utterance("a", duration_s=3.0, text=SENTENCE), utterance("b", text="yes", speaker="t"))
    dev = corpus(
        tmp_path,
        utterance("x", duration_s=3.0, text=SENTENCE.upper()),
        utterance("y", text="yes", speaker="u"),
        name="dev-clean",
    )
    report = examine([train, dev], num_examples=9)
    assert codes(report) == {"overlap-speaker": 1, "overlap-text": 1} and report.errors == 0
    speakers, texts = report.findings
    assert speakers.details == [f"1 of 2 speakers of {dev} (1 of 2 rows) are in {train}"]
    assert texts.details == [f"1 of 2 rows of {dev} (50.0%) have a text of {train}"]


def test_two_training_manifests_are_one_set(tmp_path):
    one = corpus(tmp_path, utterance("a", duration_s=3.0, text=SENTENCE), name="train-clean-100")
    two = corpus(tmp_path, utterance("b", duration_s=3.0, text=SENTENCE), name="train-other-500")
    assert examine([one, two]).findings == []


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("train.jsonl", "train"),
        ("my_train_v2.jsonl", "train"),
        ("validation.jsonl", "dev"),
        ("valid.jsonl", "dev"),
        ("test-other.jsonl", "test"),
        ("strain.jsonl", "strain"),
        ("phone.jsonl", "phone"),
    ],
)
def test_a_set_is_known_by_its_name(name, role):
    assert role_of(Path(name)) == role


# --- scale ------------------------------------------------------------------------------------------------------------


def test_thousands_of_missing_files_are_counted_and_few_are_shown(tmp_path):
    manifests.write(tmp_path / "train.jsonl", [utterance(f"u{i}", text="abcd") for i in range(5000)])
    report = examine([tmp_path / "train.jsonl"], deep=True)
    lines = list(report.lines())
    assert codes(report) == {"audio-missing": 5000} and len(lines) < 20
    assert any("… and 4,997 more" in line for line in lines)


# --- mending ----------------------------------------------------------------------------------------------------------


def test_fix_writes_what_is_well_and_says_what_is_not(tmp_path):
    rows = [utterance("a"), utterance("b"), utterance("c"), utterance("d", meta={"room": 4}), utterance("e", text="")]
    path = corpus(tmp_path / "data", *rows)
    cut(tmp_path / "data" / "wav" / "b.wav")
    (tmp_path / "data" / "wav" / "c.wav").unlink()
    path.write_text(path.read_text() + "{\n")
    report = examine([path])
    out = tmp_path / "elsewhere" / "deep" / "clean.jsonl"
    done = fixing.fix(report, fixing.targets([path], out))
    fixed = manifests.read(out)
    assert [u.id for u in fixed] == ["a", "d", "e"] and fixed.utterances[1].meta == {"room": 4}
    assert all(fixed.audio_path(u).samefile(tmp_path / "data" / "wav" / f"{u.id}.wav") for u in fixed)
    assert (done.kept, done.left_out) == (3, 3)
    assert done.reasons == {"row-invalid": 1, "audio-truncated": 1, "audio-missing": 1}
    dropped = [json.loads(line) for line in out.with_suffix(".dropped.jsonl").read_text().splitlines()]
    assert [(row["id"], row["line"]) for row in dropped] == [("b", 2), ("c", 3), (None, 6)]
    again = examine([out])
    assert again.errors == 0
    assert list(tmp_path.rglob("*.part")) == []


def test_fix_resolves_paths_through_links_and_leaves_absolute_ones(tmp_path):
    data = tmp_path / "disk" / "data"
    path = corpus(data, utterance("a"), utterance("b", audio_path=str(data / "b.wav")))
    (tmp_path / "link").symlink_to(data)
    (tmp_path / "there").mkdir()
    (tmp_path / "other").symlink_to(tmp_path / "there")
    linked = tmp_path / "link" / "train.jsonl"
    fixing.fix(examine([linked]), fixing.targets([linked], tmp_path / "other" / "x.jsonl"))
    fixed = manifests.read(tmp_path / "other" / "x.jsonl")
    assert [fixed.audio_path(u).resolve() for u in fixed] == [data / "wav" / "a.wav", data / "b.wav"]
    assert fixed.utterances[1].audio_path == str(data / "b.wav") and path.exists()


def test_what_was_dropped_for_its_id_has_its_id(tmp_path):
    path = corpus(tmp_path / "data", utterance("a"), utterance("b"))
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    fixing.fix(examine([path]), fixing.targets([path], tmp_path / "clean.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "clean.dropped.jsonl").read_text().splitlines()]
    assert [(row["id"], row["line"]) for row in rows] == [("b", 3)]


def test_a_character_of_rows_that_are_taken_out_for_their_labels_is_taken_out_of_dev_too(tmp_path):
    rows = [utterance("a"), utterance("b"), utterance("q", text="abcd q" + "q" * 80)]
    paths = [corpus(tmp_path, *rows)]
    paths.append(corpus(tmp_path, utterance("x", speaker="t"), utterance("y", text="abcd q", speaker="t"), name="dev"))
    expected = of_config(tiny_config(), tmp_path)
    report = examine(paths, expected)
    assert codes(report) == {"too-short-for-text": 1, "characters": 1}
    fixing.fix(report, fixing.targets(paths, tmp_path / "clean"))
    assert examine([tmp_path / "clean" / f"{name}.jsonl" for name in ("train", "dev")], expected).errors == 0


def header(**changes: object) -> headers.Header:
    facts = {"recipe": "r", "title": "t", "licence": "l", "homepage": "h", "normalization": "upper", "tokenizer": ""}
    counts = {"splits": {"train": {"utterances": 2, "hours": 1.0, "speakers": 1}}, "dropped": 0, "flagged_numbers": 0}
    return headers.Header(**{**facts, **counts, **changes})  # type: ignore[arg-type]


def test_what_the_data_say_of_themselves_comes_along(tmp_path):
    paths = [corpus(tmp_path / "d", utterance("a"), utterance("b")), corpus(tmp_path / "d", utterance("x"), name="dev")]
    (tmp_path / "d" / "wav" / "b.wav").unlink()
    headers.write(tmp_path / "d", header(tokenizer="bpe.json"))
    (tmp_path / "d" / "bpe.json").write_text("subwords")
    clean = tmp_path / "clean"
    for _ in range(2):
        done = fixing.fix(examine(paths), fixing.targets(paths, clean))
        assert done.notes == [] and (clean / "bpe.json").read_text() == "subwords"
        found_ = headers.read(clean)
        assert found_ is not None and (found_.normalization, found_.tokenizer) == ("upper", "bpe.json")
        assert {name: facts["utterances"] for name, facts in found_.splits.items()} == {"train": 1, "dev": 1}
    assert examine([clean / "train.jsonl"], of_config(RunConfig(text={"tokenizer": "char"}), clean)).errors == 0


def test_what_is_left_out_is_not_written_over_what_was_given_or_another_target(tmp_path):
    path = corpus(tmp_path / "d", utterance("a"), utterance("gone", audio_path="gone.wav"), name="x.dropped")
    with pytest.raises(DataError, match="--fix would write there what it leaves out; choose another place"):
        fixing.targets([path], tmp_path / "d" / "x.jsonl")
    paths = [path, corpus(tmp_path / "d", utterance("b"), name="x")]
    with pytest.raises(DataError, match="what it leaves out"):
        fixing.targets(paths, tmp_path / "clean")
    assert set(fixing.targets(paths[1:], tmp_path / "clean.jsonl").values()) == {tmp_path / "clean.jsonl"}


@pytest.mark.parametrize("other", ["header", "subwords", "damaged"])
def test_what_other_data_say_of_themselves_is_left_as_it_is(tmp_path, other):
    path, clean = corpus(tmp_path / "d", utterance("a")), tmp_path / "clean"
    clean.mkdir()
    headers.write(tmp_path / "d", header())
    (tmp_path / "d" / "tokenizer.json").write_text("mine")
    if other == "header":
        headers.write(clean, header(normalization="lower"))
    elif other == "subwords":
        (clean / "tokenizer.json").write_text("other")
    else:
        (clean / "prepared.json").write_text("{")
    before = {p.name: p.read_bytes() for p in clean.iterdir()}
    done = fixing.fix(examine([path]), fixing.targets([path], clean))
    assert len(done.notes) == 1 and str(clean) in done.notes[0] and done.notes[0] in done.lines()
    assert {name: (clean / name).read_bytes() for name in before} == before
    assert done.kept == 1


def test_subwords_that_the_data_no_longer_have_are_not_taken_for_theirs(tmp_path):
    path, clean = corpus(tmp_path / "d", utterance("a")), tmp_path / "clean"
    headers.write(tmp_path / "d", header(tokenizer="tokenizer.json"))
    (tmp_path / "d" / "tokenizer.json").write_text("subwords")
    assert fixing.fix(examine([path]), fixing.targets([path], clean / "train.jsonl")).notes == []
    (tmp_path / "d" / "tokenizer.json").unlink()
    headers.write(tmp_path / "d", header())  # prepared again, with characters
    (said,) = fixing.fix(examine([path]), fixing.targets([path], clean / "train.jsonl")).notes
    assert said.startswith(f"{clean}: has the prepared.json or tokenizer.json of other data") and "remove them" in said
    for name in ("prepared.json", "tokenizer.json"):
        (clean / name).unlink()
    assert fixing.fix(examine([path]), fixing.targets([path], clean / "train.jsonl")).notes == []
    assert headers.tokenizer_for("data", clean, headers.read(clean)) is None


def test_several_manifests_are_fixed_into_a_folder_and_of_a_hopeless_one_nothing_is_written(tmp_path):
    paths = [corpus(tmp_path, utterance("a")), corpus(tmp_path, utterance("x", speaker="t"), name="dev")]
    (tmp_path / "wav" / "x.wav").unlink()
    done = fixing.fix(examine(paths), fixing.targets(paths, tmp_path / "clean"))
    assert list(done.written.values()) == [str(tmp_path / "clean" / "train.jsonl")]
    assert done.nothing_left == [str(paths[1])] and not (tmp_path / "clean" / "dev.jsonl").exists()


def test_fix_overwrites_nothing_that_was_given(tmp_path):
    one, two = corpus(tmp_path / "a", utterance("a")), corpus(tmp_path / "b", utterance("b"))
    for paths, out, said in (
        ([one], one, "would overwrite"),
        ([one], tmp_path / "a", "would overwrite"),
        ([one, two], tmp_path / "c", "same name"),
        ([one, corpus(tmp_path, utterance("c"), name="dev")], one, "is a file"),
    ):
        with pytest.raises(DataError, match=said):
            fixing.targets(paths, out)


# --- the command ------------------------------------------------------------------------------------------------------


def command(*args: object) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "asr", "doctor", *map(str, args)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_errors_are_exit_code_1_and_gone_with_fix(tmp_path):
    path = corpus(tmp_path, utterance("a"), utterance("b"))
    assert command(path)[0] == 0
    (tmp_path / "wav" / "b.wav").unlink()
    code, out, err = command(path)
    assert (
        code == 1
        and err == ""
        and "audio-missing" in out
        and out.endswith("1 error in 2 rows and 2 files (by their headers)\n")
    )
    code, out, err = command(path, "--json", "--fix", tmp_path / "out.jsonl")
    document = json.loads(out)
    assert code == 0 and document["errors"] == 1 and document["fix"]["reasons"] == {"audio-missing": 1}
    assert document["findings"][0]["examples"] == [
        {"manifest": str(path), "line": 2, "id": "b", "value": "wav/b.wav: no such file"}
    ]
    assert command(tmp_path / "out.jsonl")[0] == 0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("{tmp}/none.jsonl", "none.jsonl: cannot read the manifest: no such file"),
        ("{tmp}", "cannot read the manifest: is a directory"),
        ("{m} --config an4/default --model x", "give one of them"),
        ("{m} --set a=1", "--set changes --config"),
        ("{m} --model {tmp}/none", "no such model folder"),
        ("{m} --config an4/defalt", "did you mean 'an4/default'?"),
        ("{m} --fix {m}", "would overwrite"),
        pytest.param("{m} --picture {tmp}/p.xyz", "the name of a picture ends in its format", marks=needs_matplotlib),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capfd, args, said):
    path = corpus(tmp_path, utterance("a"))
    words = args.format(tmp=tmp_path, m=path).split()
    handlers = logging.getLogger().handlers[:]
    monkeypatch.setattr(sys, "argv", ["asr", "doctor", *words])
    with pytest.raises(SystemExit) as end:
        run()
    logging.getLogger().handlers[:] = handlers
    out, err = capfd.readouterr()
    assert end.value.code == 2 and out == "" and err.count("\n") == 1 and said in err


def test_a_picture_without_matplotlib_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(AsrError, match="pip install"):
        draw_histograms(examine([corpus(tmp_path, utterance("a"))]), tmp_path / "p.png")


@pytest.mark.parametrize("count", [1, 12])
def test_the_picture_is_drawn_for_any_number_of_manifests(tmp_path, count):
    pytest.importorskip("matplotlib")
    paths = [corpus(tmp_path, utterance(f"a{i}", speaker=f"s{i}"), name=f"$set_{i}^$") for i in range(count)]
    draw_histograms(examine(paths), tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"


def test_every_kind_is_documented():
    text = (Path(__file__).parent.parent / "docs" / "doctor.md").read_text(encoding="utf-8")
    assert [code for code in KINDS if f"| `{code}` |" not in text] == []


# --- at the start of training -----------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path) -> Path:
    build_corpus(tmp_path, 8, seed=1)
    build_corpus(tmp_path, 4, seed=2, name="dev")
    return tmp_path


def test_training_stops_before_the_first_step_at_audio_that_would_stop_it_later(data, tmp_path):
    (data / "wav" / "train-0003.wav").unlink()
    with pytest.raises(DataError, match=r"audio of 1 utterances cannot be used; first utt 'train-0003': .*asr doctor"):
        train(tiny_config("train.epochs=1"), data, tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_training_says_how_another_rate_is_resampled_and_how_the_doctor_finds_it(data, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("audio:\n  sample_rate_hz: 8000\n")
    with pytest.raises(DataError, match=r"16000 Hz, .*; audio\.resample=true resamples it; all: asr doctor ") as caught:
        train(tiny_config("train.epochs=1", "audio.sample_rate_hz=8000"), data, tmp_path / "run")
    command = str(caught.value).rpartition("all: asr ")[2].replace("CONFIG", str(config)).split()
    assert command[0] == "doctor" and command[3:] == ["--config", str(config)]
    report = examine([Path(one) for one in command[1:3]], of_config(load(config), data))
    assert "rate" in {finding.code for finding in report.findings}
    assert any("no row of the training manifest is without an error" in line for line in report.skipped)


def test_training_says_in_a_few_lines_what_the_doctor_found(data, tmp_path, caplog):
    shutil.copy(data / "wav" / "train-0001.wav", data / "wav" / "train-0002.wav")
    rows = list(manifests.read(data / "train.jsonl"))
    rows.append(Utterance("again", rows[0].audio_path, rows[0].duration_s, rows[0].text, "s"))
    manifests.write(data / "train.jsonl", rows)
    shutil.copy(data / "wav" / "train-0000.wav", data / "wav" / "train-0000b.wav")
    caplog.set_level(logging.WARNING, "asr")
    rows[2] = Utterance("fixed", "wav/train-0001.wav", rows[1].duration_s, rows[1].text, "s")
    manifests.write(data / "train.jsonl", rows)
    train(tiny_config("train.epochs=1"), data, tmp_path / "run")
    said = [m for m in caplog.messages if m.startswith("data: ")]
    assert any("overlap-speaker: 4 of 4 speakers" in m for m in said)
    assert any("duplicate-audio: 2 rows" in m for m in said)
    assert said[-1].startswith("data: everything that was found: asr doctor ")
    assert len(said) <= 7


def test_audio_that_is_not_trained_on_does_not_stop_training(data, tmp_path):
    rows = [*manifests.read(data / "train.jsonl"), utterance("gone", text="")]
    manifests.write(data / "train.jsonl", rows)
    assert train(tiny_config("train.epochs=1"), data, tmp_path / "run").progress.done


def test_of_a_large_corpus_some_headers_are_read_and_that_is_said(data, monkeypatch):
    monkeypatch.setattr("asr.doctor.start.MOST_HEADERS", 4)
    monkeypatch.setattr("asr.doctor.start.SOME_HEADERS", 4)
    sets = manifests.read(data / "train.jsonl"), manifests.read(data / "dev.jsonl")
    lines = check_start(sets[0], range(8), sets[1], tiny_config().audio, "none")
    assert "data: 4 of 12 audio headers were looked at" in lines


# --- real speech ------------------------------------------------------------------------------------------------------


def test_an4_has_no_errors_and_a_few_shared_sentences(shared_data, tmp_path):
    archive = shared_data / "an4_sphere.tar.gz"
    if not archive.is_file():
        pytest.skip(f"needs {archive}")
    recipe, _ = find_recipe("an4")
    prepare(recipe, Request(tmp_path, (archive,)))
    paths = [tmp_path / f"{name}.jsonl" for name in ("train", "dev", "test")]
    report = examine(paths, of_config(load(find_config("an4")), tmp_path), deep=True)
    assert codes(report) == {"overlap-text": 14, "dc-offset": 3} and report.errors == 0
