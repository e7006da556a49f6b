"""Rows that may name audio below one folder only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from asr.cli import commands
from asr.data import manifest
from asr.data.places import stay_below, why_outside
from asr.errors import DataError
from tests.builders import write_wav

RUNNER = CliRunner()


@pytest.fixture
def corpus(tmp_path):
    """A folder ``in`` with audio, another one beside it, and a link from the one to the other."""
    for name in ("in", "other"):
        write_wav(tmp_path / name / "a.wav")
    (tmp_path / "in" / "link.wav").symlink_to(tmp_path / "other" / "a.wav")
    (tmp_path / "in" / "all").symlink_to(tmp_path / "other")
    (tmp_path / "in" / "l.tar").symlink_to(tmp_path / "other" / "l.tar")
    return tmp_path / "in"


def manifest_of(folder: Path, *audio_paths: str) -> Path:
    path = folder / "m.jsonl"
    rows = [{"id": f"u{i}", "audio_path": one, "duration_s": 0.5, "text": "A"} for i, one in enumerate(audio_paths)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


OUTSIDE = [
    "../other/a.wav",
    "link.wav",
    "all/a.wav",
    "../other/l.tar#x.wav",
    "l.tar#x.wav",
    "/dev/null",
    "x\0/a.wav",
    "..",
    ".",
]


@pytest.mark.parametrize("audio_path", OUTSIDE)
def test_a_row_outside_the_folder_is_refused_with_its_line(corpus, audio_path):
    path = manifest_of(corpus, "a.wav", audio_path)
    assert len(manifest.read(path)) == 2
    with stay_below(corpus), pytest.raises(DataError, match=r"m\.jsonl:2: utt 'u1': 'audio_path' ") as caught:
        manifest.read(path)
    assert "--stay-below" in str(caught.value) or "is no path" in str(caught.value)
    assert len(manifest.read(path)) == 2  # not any more


def test_rows_inside_the_folder_are_as_ever(corpus):
    path = manifest_of(corpus, "a.wav", str(corpus / "a.wav"), "deep/../a.wav", "s.tar#../../x.wav", "not-there.wav")
    everything = manifest.read(path)
    for folder in (corpus, corpus.parent, corpus.parent / "other" / ".." / "in"):
        with stay_below(folder):
            assert manifest.read(path) == everything
    with stay_below(corpus):
        assert "other" in why_outside(str(corpus.parent / "other" / "a.wav"))


def test_the_option_holds_for_one_command(corpus):
    path = manifest_of(corpus, "../other/a.wav")
    refused = RUNNER.invoke(commands(), ["--stay-below", str(corpus), "info", str(path)])
    assert isinstance(refused.exception, DataError)
    assert str(refused.exception) == (
        f"{path}:1: utt 'u0': 'audio_path' leads to {corpus.parent / 'other' / 'a.wav'}, which is not below {corpus} "
        "(--stay-below)"
    )
    assert RUNNER.invoke(commands(), ["info", str(path)]).exit_code == 0
    assert RUNNER.invoke(commands(), ["--stay-below", str(corpus.parent), "info", str(path)]).exit_code == 0
    assert RUNNER.invoke(commands(), ["--stay-below", str(corpus / "none"), "info", str(path)]).exit_code == 2


def test_rows_of_a_table_that_lead_outside_are_left_out_and_named(corpus):
    table = corpus / "t.csv"
    table.write_text("file,text\na.wav,ONE\nlink.wav,TWO\n")
    call = [
        "prepare",
        "csv",
        str(table),
        "--audio-column",
        "file",
        "--text-column",
        "text",
        "--name",
        "test",
        "--out",
        str(corpus / "out"),
        "--json",
    ]
    result = RUNNER.invoke(commands(), ["--stay-below", str(corpus), *call])
    assert result.exit_code == 1, result.output
    done = json.loads(result.stdout)
    assert done["utterances"] == {"test": 1}
    assert list(done["dropped"]) == ["link"] and "not below" in done["dropped"]["link"]


def test_the_doctor_finds_rows_that_lead_outside(corpus):
    path = manifest_of(corpus, "a.wav", "link.wav")
    result = RUNNER.invoke(commands(), ["--stay-below", str(corpus), "doctor", str(path), "--json"])
    assert "row-invalid" in result.stdout and "--stay-below" in result.stdout
    assert "row-invalid" not in RUNNER.invoke(commands(), ["doctor", str(path), "--json"]).stdout
