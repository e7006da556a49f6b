"""The commands on a folder of 200 hostile files: no traceback, every file named, the good ones done, nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from asr.sound.reader import SUFFIXES
from tests.fuzz import hostile
from tests.fuzz.harness import files_of
from tests.fuzz.targets import TARGETS
from tests.models import save_random_model

#: what a terminal obeys or hides: C0 and C1 without tab and newline, marks of direction, line separators
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@dataclass
class Call:
    """What became of one call of the command."""

    arguments: list[str]
    code: int
    out: str
    err: str
    seconds: float


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> hostile.Folder:
    return hostile.build(tmp_path_factory.mktemp("hostile") / "in")


def commands(tmp_path: Path, *calls: list[object]) -> list[Call]:
    """Call the command several times in one process; check what holds of every call."""
    listed = [list(map(os.fspath, map(_text, call))) for call in calls]
    asked, answered = tmp_path / "calls.json", tmp_path / "results.json"
    asked.write_text(json.dumps(listed), encoding="utf-8")
    run = [sys.executable, "-m", "tests.fuzz.many", str(asked), str(answered)]
    here = tmp_path / "here"
    here.mkdir(exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir(exist_ok=True)
    ended = subprocess.run(
        run, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=500, cwd=here, env=environment
    )
    assert ended.returncode == 0, ended.stderr[-3000:]

    done = [Call(arguments, **one) for arguments, one in zip(listed, json.loads(answered.read_text()), strict=True)]
    for call in done:
        shown = f"{call.arguments}: {call.err[-2000:]}"
        assert call.code in (0, 1, 2), shown
        assert "Traceback" not in call.err, shown
        assert not (found := CONTROLS.search(call.out + call.err)), (
            f"{found!r} in {call.out[-500:]!r} {call.err[-500:]!r}"
        )
        assert call.seconds < 60, shown
    left = [path.name for path in (tmp_path / "tmp").iterdir()]
    # a folder that torch 2.11 makes when it is imported
    assert not any(here.iterdir()) and not [name for name in left if not name.startswith("torchinductor_")]
    return done


def _text(value: object) -> str:
    return os.fsdecode(value) if isinstance(value, bytes) else str(value)


def on_cpu(*arguments: object) -> list[object]:
    return [*arguments, "--device", "cpu", "--threads", 1]


def names_in(text: str) -> str:
    """Return an output without line breaks, to look for names in it."""
    return " ".join(text.split())


def is_named(name: bytes, text: str) -> bool:
    """Check whether a name stands in an output as the command shows it: what does not print is written out."""
    from asr.errors import printable

    if b".tar#" in name:  # a member of a tar file: the file is named
        name = name.partition(b"#")[0]
    return " ".join(printable(os.fsdecode(name)).split()) in text


def listing(path: Path) -> set[Path]:
    return {Path(root, name) for root, folders, files in os.walk(path) for name in folders + files}


def sounds(folder: hostile.Folder) -> list[bytes]:
    """Return the hostile files that look like sound: by their suffix, neither folders nor hidden."""
    return [
        name
        for name in folder.hostile
        if Path(os.fsdecode(name)).suffix.lower() in SUFFIXES
        and not name.startswith(b".")
        and not (folder.path / os.fsdecode(name)).is_dir()
    ]


def test_a_folder_is_transcribed_and_every_file_that_fails_is_named(folder, model, tmp_path):
    before = listing(folder.path)
    out = tmp_path / "out"
    to_files, to_stdout = commands(
        tmp_path,
        on_cpu("transcribe", model, folder.path, "-o", out, "-f", "txt,json,srt"),
        on_cpu("transcribe", model, folder.path),
    )

    assert to_files.code == to_stdout.code == 1
    for name in folder.good:
        assert (out / Path(name).with_suffix(".txt")).read_text().strip(), name
        assert is_named(os.fsencode(name), names_in(to_stdout.out)), name
    said = names_in(to_files.err)
    silent = [name for name in sounds(folder) if not is_named(name, said) and not _done(out, name)]
    assert not silent
    assert listing(folder.path) == before
    written = listing(out)
    assert {path.suffix for path in written} == {".txt", ".json", ".srt"} and len(written) >= 3 * hostile.NUM_GOOD


def _done(out: Path, name: bytes) -> bool:
    return (out / Path(os.fsdecode(name)).with_suffix(".txt")).exists()


def test_a_folder_is_imported_and_every_file_left_out_is_named(folder, tmp_path):
    before = listing(folder.path)
    (done, checked) = commands(
        tmp_path,
        ["prepare", "folder", folder.path, "--out", tmp_path / "data", "--json"],
        ["doctor", tmp_path / "data" / "in.jsonl", "--deep"],
    )
    assert done.code == 1
    document = json.loads(done.out)
    assert document["utterances"] == {"in": hostile.NUM_GOOD}
    # a file whose text beside it cannot be read goes by its id, which has no suffix
    named = {Path(name).stem for name in document["dropped"]}
    assert named >= {Path(os.fsdecode(name)).stem for name in sounds(folder)}
    assert checked.code == 0
    assert listing(folder.path) == before


def test_a_manifest_is_evaluated_and_every_row_that_fails_is_named(folder, model, tmp_path):
    manifest = tmp_path / "all.jsonl"
    rows = []
    for number, raw in enumerate([*map(os.fsencode, folder.good), *sounds(folder)]):
        name = os.fsdecode(raw)
        if name in folder.good or name.isprintable():
            rows.append(
                {"id": f"u{number:03}", "audio_path": f"{folder.path}/{name}", "duration_s": 1.2, "text": hostile.TEXT}
            )
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    evaluated, transcribed, checked, _ = commands(
        tmp_path,
        on_cpu("evaluate", model, manifest, "--json", "--hypotheses", tmp_path / "hyp.jsonl"),
        on_cpu("transcribe", model, manifest, "-o", tmp_path / "out"),
        ["doctor", manifest, "--deep"],
        ["shard", manifest, "--out", tmp_path / "shards"],
    )
    assert evaluated.code == transcribed.code == 1 and checked.code in (1, 2)
    scored = {json.loads(line)["id"] for line in (tmp_path / "hyp.jsonl").read_text().splitlines()}
    good = {row["id"] for row in rows[: hostile.NUM_GOOD]}
    assert good <= scored
    lost = [row["id"] for row in rows if row["id"] not in scored and row["id"] not in evaluated.err]
    assert not lost
    lost = [
        row["id"]
        for row in rows
        if not (tmp_path / "out" / f"{row['id']}.txt").exists() and row["id"] not in transcribed.err
    ]
    assert not lost


def test_info_and_score_take_any_file(folder, model, tmp_path):
    names = [
        os.fsencode(folder.path) + b"/" + name for name in folder.hostile if not name.startswith((b"damaged", b"zeros"))
    ]
    text = tmp_path / "ref.txt"
    text.write_text("a b c\n", encoding="utf-8")
    calls = commands(
        tmp_path,
        *(["info", name] for name in names),
        *(["score", text, name] for name in names[::3]),
        *(["align", model, name, text] for name in names[::12]),
    )
    for call in calls:
        if call.arguments[0] == "info" and call.code:
            assert is_named(os.fsencode(Path(call.arguments[1]).name), names_in(call.err)), call


def damaged_inputs(tmp_path: Path, count: int) -> dict[str, list[Path]]:
    """Write inputs of the fuzzer's targets, by their names; the folder of each."""
    found: dict[str, list[Path]] = {}
    for target in TARGETS:
        if target.name not in (
            "manifest",
            "model",
            "decoder",
            "neural-lm",
            "arpa",
            "lm-binary",
            "score",
            "config",
            "run",
        ):
            continue
        scratch = tmp_path / f"seeds-{target.name}"
        scratch.mkdir()
        built = target.build(scratch)
        for number in range(count):
            place = tmp_path / "inputs" / f"{target.name}-{number}"
            for name, content in files_of(target, built, number).items():
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                (place / name).write_bytes(content)
            found.setdefault(target.name, []).append(place)
    return found


@pytest.mark.parametrize("count", [4, pytest.param(60, marks=pytest.mark.slow)])
def test_damaged_models_manifests_and_transcripts_are_one_line(folder, model, tmp_path, count):
    inputs = damaged_inputs(tmp_path, count)
    good = folder.path / folder.good[0]
    plain = tmp_path / "good.jsonl"
    row = {"id": "g", "audio_path": str(good), "duration_s": 1.2, "text": hostile.TEXT}
    plain.write_text(json.dumps(row) + "\n", encoding="utf-8")

    calls: list[list[Any]] = []
    for place in inputs["manifest"]:
        calls += [["info", place / "train.jsonl"], on_cpu("evaluate", model, place / "train.jsonl", "--resample")]
    for kind in ("model", "decoder"):
        for place in inputs[kind]:
            calls += [
                ["info", place],
                on_cpu("transcribe", place, good),
                on_cpu("evaluate", place, plain, "--resample"),
            ]
    for place in inputs["neural-lm"]:
        calls += [["info", place], ["lm", "perplexity", place, plain]]
    for kind in ("arpa", "lm-binary"):
        for place in inputs[kind]:
            (path,) = place.iterdir()
            calls += [
                ["info", path],
                ["lm", "perplexity", path, plain],
                on_cpu("transcribe", model, good, "--lm", path),
            ]
    for place in inputs["score"]:
        (ref,), (hyp,) = place.glob("ref.*"), place.glob("hyp.*")
        calls += [["score", ref, hyp], ["compare", ref, hyp, hyp]]
    for place in inputs["config"]:
        calls.append(["info", place / "config.yaml"])
    for place in inputs["run"]:
        calls.append(["info", place / "run"])

    done = commands(tmp_path, *calls)
    assert all(
        call.err.count("\n") == 1 and call.err.startswith("asr")
        for call in done
        if call.code == 2 and "lm" not in call.arguments[0]
    )
