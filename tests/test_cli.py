"""The ``asr`` command: exit codes, what goes to stdout and what to stderr, one line for every mistake.

Most tests call the entry point in this process; those about pipes, closed streams and signals start another one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import asr
import asr.evaluate
from asr import config as configs
from asr.cli import run
from asr.errors import UNSAFE
from asr.heartbeat import LineFormatter
from asr.lm import ngram
from asr.scoring.wer import word_counts
from asr.training.folder import RunFolder
from tests.builders import build_corpus, noise, sine, tiny_config, write_wav
from tests.conftest import needs_matplotlib
from tests.models import save_random_model

COMMANDS = (
    "recipes",
    "prepare",
    "train",
    "average",
    "evaluate",
    "transcribe",
    "align",
    "score",
    "compare",
    "tune",
    "bench",
    "info",
)
posix = pytest.mark.skipif(sys.platform == "win32", reason="descriptors and signals of POSIX")


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of a command that refused to start."""
        assert self.code == 2 and self.out == ""
        assert self.err.startswith("asr") and self.err.count("\n") == 1
        return self.err.rstrip("\n")


@pytest.fixture
def command(monkeypatch, capfd):
    """The command, run in this process, which it leaves as it was."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
    library, root = logging.getLogger("asr"), logging.getLogger()
    # It would close pytest's own output, and with it the report of the tests that follow.
    monkeypatch.setattr("asr.cli.give_up", lambda stream: None)
    monkeypatch.setattr("asr.commands.console.give_up", lambda stream: None)
    level, root_level, handlers, threads = library.level, root.level, root.handlers[:], torch.get_num_threads()

    def call(*args: object) -> Result:
        # A handler of an earlier call would hold its stream.
        root.handlers[:] = [h for h in root.handlers if h in handlers]
        monkeypatch.setattr(sys, "argv", ["asr", *map(str, args)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            run()
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Result(end.value.code, out, err)

    yield call
    library.setLevel(level)
    root.setLevel(root_level)
    root.handlers[:] = handlers
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    build_corpus(folder, 8, seed=1)
    build_corpus(folder, 4, seed=2, name="dev")
    return folder


@pytest.fixture
def wav(tmp_path) -> Path:
    return write_wav(tmp_path / "good.wav", noise(0.7))


def one_device(*args: object) -> list[object]:
    return [*args, "--device", "cpu", "--threads", 1]


# --- help, version, usage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_is_a_result(command, option, name):
    result = command(*([name] if name else []), option)
    assert result.code == 0 and result.err == ""
    assert result.out.startswith(f"Usage: asr {name}".rstrip())


def test_the_version_is_printed(command):
    assert command("--version") == Result(0, asr.__version__ + "\n", "")


def test_alone_it_shows_what_it_can_do_and_fails(command):
    result = command()
    assert result.code == 2 and result.out == ""
    assert all(name in result.err for name in COMMANDS)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("transcrib x", "asr: no such command 'transcrib'. Did you mean 'transcribe'? ('asr --help' shows"),
        ("transcribe", "asr transcribe: missing argument 'MODEL' ('asr transcribe --help' shows"),
        ("transcribe m", "missing argument 'INPUT...'"),
        (
            "evaluate m a.jsonl --resampel",
            "no such option: --resampel (Possible options: --beam, --resample, --rescore)",
        ),
        ("transcribe m a.wav --threads 0", "invalid value for '--threads': Input should be greater than or equal to 1"),
        ("transcribe m a.wav --threads 99999", "'--threads': Input should be less than or equal to 1024"),
        ("transcribe m a.wav --threads two", "'--threads': Input should be a valid integer"),
        ("transcribe m a.wav --picture", "option '--picture' requires an argument"),
        ("--json recipes", "no such option: --json"),
        ("recipes an4", "unexpected extra argument(s) (an4)"),
        ("prepare an4", "missing option '--out'"),
        ("info \x1b[31m --red\n", "no such option: --red"),
    ],
)
def test_a_slip_on_the_command_line_is_one_line_with_the_next_step(command, args, said):
    assert said in command(*args.split(" ")).error


# --- the user's mistakes, by subcommand -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("prepare an5 --out x", "; did you mean 'an4'?"),
        ("info an4/defalt", "did you mean 'an4/default'?"),
        ("info {tmp}/none.jsonl", "none.jsonl: cannot read the manifest: no such file"),
        ("score {tmp}/none {tmp}/none", "none: cannot read the texts: no such file"),
        ("evaluate {tmp}/none {tmp}/none", "none: cannot read the manifest: no such file"),
        ("evaluate {model} {tmp}", "cannot read the manifest: is a directory"),
        ("transcribe {tmp}/none a.wav", "none: no such model folder or run folder"),
        ("transcribe {tmp} a.wav", "is not a model folder: model.safetensors, config.json, tokenizer.json missing"),
        ("transcribe {model} a.wav --device gpu", "unknown device 'gpu' (auto, cpu, cuda, cuda:1)"),
        ("transcribe {model} a.wav --device meta", "unknown device 'meta' (auto, cpu, cuda, cuda:1)"),
        pytest.param("transcribe {model} a.wav --device cpu --picture {tmp}/p.txt", "p.txt: ", marks=needs_matplotlib),
        ("train", "train needs CONFIG, --data DIR and --out RUN; or --resume RUN"),
        ("train an4/smok --data {tmp} --out {tmp}/r", "did you mean 'an4/smoke'?"),
        ("train an4 --data {tmp} --out {tmp}/r", "train.jsonl: no such file; training takes a folder with train.jsonl"),
        ("train an4 --data {tmp}/x --out {tmp}/r", "/x: no such folder; training takes a folder with train.jsonl"),
        ("train an4 --data {tmp} --out {tmp}/r --set optim.learning=1", "optim: unknown key 'learning'"),
        ("train an4 --data {tmp} --out {tmp}/r --set optim.lr", "expected key=value"),
        (
            "train an4 --data {tmp} --out {tmp}/r --max-batch-seconds -3",
            "asr: --max-batch-seconds -3: expected auto, or",
        ),
        (
            "train an4 --data {tmp} --out {tmp}/r --max-batch-seconds 0",
            "--max-batch-seconds 0: expected auto, or seconds",
        ),
        ("train an4 --data {tmp} --out {tmp}/r --max-batch-seconds inf", "--max-batch-seconds inf: expected auto, or"),
        (
            "train an4 --data {tmp} --out {tmp}/r --max-batch-seconds much",
            "--max-batch-seconds much: expected auto, or",
        ),
        ("train --resume {tmp}", "not a run folder (no config.yaml)"),
        ("train an4 --resume {tmp} --out {tmp}/r --set a=b", "leave out CONFIG, --out, --set"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(command, model, tmp_path, args, said):
    line = command(*args.format(tmp=tmp_path, model=model).split()).error
    assert said in line
    assert not (tmp_path / "r").exists()


def test_an_unexpected_error_of_the_system_is_one_line(command, tmp_path):
    assert command("info", "a" * 300).error.endswith("file name too long")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_model_with_a_damaged_file_is_refused_by_its_name(command, tmp_path, wav, name):
    folder = save_random_model(tmp_path / "m")
    content = (folder / name).read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"\xff\xfe garbage"):
        (folder / name).write_bytes(damaged)
        assert name in command(*one_device("transcribe", folder, wav)).error
    (folder / name).unlink()
    assert f"{name} missing" in command(*one_device("transcribe", folder, wav)).error


def test_a_foreign_model_is_refused(command, tmp_path, wav):
    folder, other = save_random_model(tmp_path / "m"), save_random_model(tmp_path / "n", "model.hidden=8")
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    assert "has shape" in command(*one_device("transcribe", folder, wav)).error


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{bad", "dev.jsonl:3: not valid JSON"),
        ('{"id": "dev-0000", "audio_path": "a.wav", "duration_s": 1, "text": "a"}', "duplicate id 'dev-0000'"),
        ('{"id": "x", "audio_path": "a.wav", "duration_s": 1, "txt": "a"}', "dev.jsonl:3: missing field 'text'"),
    ],
)
def test_a_manifest_with_a_bad_line_is_refused_by_its_number(command, corpus, model, tmp_path, line, said):
    rows = (corpus / "dev.jsonl").read_text().splitlines()
    (tmp_path / "dev.jsonl").write_text("\n".join([*rows[:2], line, *rows[3:]]))
    assert said in command(*one_device("evaluate", model, tmp_path / "dev.jsonl")).error
    assert said in command("info", tmp_path / "dev.jsonl").error


# --- transcribe -------------------------------------------------------------------------------------------------------


def test_one_file_gives_its_text_and_nothing_else(command, model, wav):
    result = command(*one_device("transcribe", model, wav, "--no-speech-threshold", "1"))  # a tone is no speech
    assert (result.code, result.err) == (0, "")
    assert result.out.count("\n") == 1 and result.out.strip()


def test_several_files_give_name_and_text_in_order_and_a_bad_one_stops_nothing(command, model, wav, tmp_path):
    other, text = write_wav(tmp_path / "other.wav"), tmp_path / "text.wav"
    text.write_text("not audio")
    again = write_wav(tmp_path / "again.wav", noise(0.7))
    every_text = ("--no-speech-threshold", 1)
    result = command(*one_device("transcribe", model, wav, text, other, again, tmp_path / "none.wav", *every_text))
    assert result.code == 1
    rows = [line.split("\t") for line in result.out.splitlines()]
    assert [name for name, _ in rows] == [str(wav), str(other), str(again)]
    assert rows[0][1] == rows[2][1]
    head, *failed = result.err.splitlines()
    assert head == "asr: 2 failed:"
    assert failed[0].startswith(f"  {text}: not audio") and failed[1].startswith(f"  {tmp_path / 'none.wav'}: ")


def test_a_recording_without_speech_has_no_text_and_a_note_says_why(command, model, tmp_path):
    path = write_wav(tmp_path / "noise.wav", noise(3.0))
    result = command(*one_device("transcribe", model, path))
    assert (result.code, result.out) == (0, "\n")
    assert result.err == (
        f"{path}: nobody seems to speak in it, so it has no text (--no-speech-threshold 1 transcribes it)\n"
    )


def test_a_json_result_is_one_document_also_when_files_fail(command, model, wav, tmp_path):
    all_text = ("--no-speech-threshold", "1")
    result = command(*one_device("transcribe", model, wav, tmp_path / "none.wav", "--json", *all_text))
    assert result.code == 1 and "none.wav" in result.err
    document = json.loads(result.out)
    assert set(document) == {"transcripts", "failed", "model"}
    assert [t["path"] for t in document["transcripts"]] == [str(wav)]
    assert list(document["failed"]) == [str(tmp_path / "none.wav")]
    words = document["transcripts"][0]["segments"][0]["words"]
    assert set(words[0]) == {"word", "start", "end", "probability"}


def test_another_rate_is_resampled_and_said_on_stderr(command, model, tmp_path):
    path = write_wav(tmp_path / "8k.wav", sine(0.7, rate_hz=8000), 8000)
    result = command(*one_device("transcribe", model, path, "--no-speech-threshold", 1))
    assert result.code == 0 and result.out.count("\n") == 1
    assert result.err == f"{path}: resampled from 8000 to 16000 Hz\n"


def test_a_name_with_newline_and_tab_stays_on_its_line_and_is_exact_in_json(command, model, wav, tmp_path):
    path = write_wav(tmp_path / "odd.wav").rename(tmp_path / "a\nb\tc.wav")
    result = command(*one_device("transcribe", model, path, wav))
    assert [line.count("\t") for line in result.out.splitlines()] == [1, 1]
    assert "a\\nb\\tc.wav\t" in result.out
    as_json = command(*one_device("transcribe", model, path, "--json"))
    assert json.loads(as_json.out)["transcripts"][0]["path"] == str(path)


def test_a_name_after_two_dashes_may_begin_with_one(command, model, wav, monkeypatch):
    monkeypatch.chdir(wav.parent)
    wav.rename("-dash.wav")
    assert command(*one_device("transcribe", model), "--", "-dash.wav").code == 0


def test_a_picture_is_drawn_and_named_on_stderr(command, model, wav, tmp_path):
    pytest.importorskip("matplotlib")
    picture = ("--picture", tmp_path / "p.png")
    result = command(*one_device("transcribe", model, wav, *picture, "--no-speech-threshold", 1))
    assert result.code == 0 and result.err == f"picture: {tmp_path / 'p.png'}\n"
    assert (tmp_path / "p.png").stat().st_size > 1000


# --- evaluate ---------------------------------------------------------------------------------------------------------


def test_evaluation_prints_rates_and_conditions(command, model, corpus):
    result = command(*one_device("evaluate", model, corpus / "dev.jsonl"))
    assert (result.code, result.err) == (0, "")
    wer, cer, _, conditions, *errors = result.out.splitlines()
    assert wer.startswith("WER ") and "4 utterances" in wer and cer.startswith("CER ")
    assert "real-time factor" in conditions and "decoder greedy, LM none, text normalization " in conditions
    assert [line.partition(":")[0] for line in errors] == ["substituted", "deleted", "inserted"]


def test_evaluation_as_json_has_the_documented_keys(command, model, corpus):
    result = command(*one_device("evaluate", model, corpus / "dev.jsonl", "--json"))
    document = json.loads(result.out)
    assert {"wer", "cer", "utterances", "audio_s", "rtf", "decoder", "lm", "normalization", "model", "commit"} <= set(
        document
    )
    assert {"rate", "low", "high", "substitutions", "deletions", "insertions", "reference_words"} <= set(
        document["wer"]
    )
    assert document["model"] == str(model) and document["failed"] == {}


def test_hypotheses_are_one_line_an_utterance_and_score_to_the_same_rate(command, model, corpus, tmp_path):
    path = tmp_path / "new" / "h.jsonl"
    measured = command(*one_device("evaluate", model, corpus / "dev.jsonl", "--hypotheses", path, "--json"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 4
    counts = ["substitutions", "deletions", "insertions"]
    assert list(rows[0]) == ["id", "reference", "hypothesis", *counts, "speaker", "duration_s"]
    scored = command("score", corpus / "dev.jsonl", path, "--json")
    assert scored.code == 0
    assert json.loads(scored.out)["wer"] == json.loads(measured.out)["wer"]


def test_unknown_characters_in_references_count_as_errors(command, model, corpus, tmp_path):
    rows = [json.loads(line) for line in (corpus / "dev.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {"text": "Ω ü 12", "audio_path": str(corpus / row["audio_path"])}
    rows[0]["text"] = ""
    (tmp_path / "dev.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = command(*one_device("evaluate", model, tmp_path / "dev.jsonl", "--json"))
    assert result.code == 0
    assert json.loads(result.out)["wer"]["reference_words"] == 9


def test_an_utterance_without_audio_is_named_and_the_rest_is_scored(command, model, corpus, tmp_path):
    text = (corpus / "dev.jsonl").read_text().replace("wav/", f"{corpus}/wav/").replace("dev-0001.wav", "gone.wav")
    (tmp_path / "dev.jsonl").write_text(text)
    result = command(*one_device("evaluate", model, tmp_path / "dev.jsonl"))
    assert result.code == 1 and "3 utterances" in result.out
    assert result.err.startswith("asr: 1 failed:\n  utt 'dev-0001': ") and "gone.wav" in result.err
    (tmp_path / "dev.jsonl").write_text(text.replace(".wav", ".none"))
    assert "no utterance could be read" in command(*one_device("evaluate", model, tmp_path / "dev.jsonl")).error


def test_a_place_for_hypotheses_that_cannot_be_written_is_refused_before_the_work(
    command, model, corpus, wav, monkeypatch
):
    monkeypatch.setattr(asr.evaluate, "evaluate", lambda *_, **__: pytest.fail("has begun"))
    for path, said in ((wav.parent, "is a folder, expected a file"), (wav / "h.jsonl", "cannot write")):
        assert said in command(*one_device("evaluate", model, corpus / "dev.jsonl", "--hypotheses", path)).error


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
def test_a_full_disk_under_the_hypotheses_loses_no_result_and_no_device(command, model, corpus):
    result = command(*one_device("evaluate", model, corpus / "dev.jsonl", "--hypotheses", "/dev/full"))
    assert result.code == 2 and "WER" in result.out
    assert result.err == "asr: /dev/full: cannot write: no space left on device\n"
    assert Path("/dev/full").is_char_device()


def test_a_failed_write_leaves_the_older_hypotheses(command, model, corpus, tmp_path, monkeypatch):
    path = tmp_path / "h.jsonl"
    path.write_text("old")

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    result = command(*one_device("evaluate", model, corpus / "dev.jsonl", "--hypotheses", path))
    assert result.code == 2 and "no space left on device" in result.err
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["h.jsonl"]


def test_an_interrupted_evaluation_says_so_and_writes_nothing(command, model, corpus, tmp_path, monkeypatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(asr.evaluate, "evaluate", interrupt)
    result = command(*one_device("evaluate", model, corpus / "dev.jsonl", "--hypotheses", tmp_path / "h.jsonl"))
    assert result == Result(130, "", "asr: interrupted\n")
    assert not list(tmp_path.iterdir())


# --- score, info, recipes, prepare ------------------------------------------------------------------------------------


def test_score_names_the_ids_of_one_side_and_exits_with_1(command, tmp_path):
    (tmp_path / "r").write_text("a one two\nb three\n")
    (tmp_path / "h").write_text("a one too\nc x\n")
    result = command("score", tmp_path / "r", tmp_path / "h")
    assert result.code == 1 and result.out.startswith("WER 50.00 %")
    assert result.err.splitlines() == [
        f"asr: {tmp_path / 'h'}: no hypothesis for 1 of the ids, which are not scored: b",
        f"asr: {tmp_path / 'r'}: no reference for 1 of the ids, which are not scored: c",
    ]
    document = json.loads(command("score", tmp_path / "r", tmp_path / "h", "--json").out)
    assert document["missing_hypothesis"] == ["b"] and document["missing_reference"] == ["c"]


def test_info_is_for_people_or_one_json_document(command, model):
    for_people = command("info", model)
    assert for_people.code == 0 and for_people.out.startswith("model\n")
    document = json.loads(command("info", model, "--json").out)
    assert document["kind"] == "model" and f"  parameters          {document['parameters']}" in for_people.out


def test_recipes_are_a_table_or_one_json_document(command):
    document = json.loads(command("recipes", "--json").out)
    names = [recipe["name"] for recipe in document]
    lines = command("recipes").out.splitlines()
    assert [line.split()[0] for line in lines[: len(names) + 1]] == ["recipe", *names]
    recipes = {recipe["name"]: recipe for recipe in document}
    assert "smoke" in recipes["an4"]["configs"] and not recipes["an4"]["importer"] and recipes["kaldi"]["importer"]
    assert "dev-other" in recipes["librispeech"]["subsets"]
    assert set(recipes["librispeech"]["default_subsets"]) < set(recipes["librispeech"]["subsets"])
    assert any(line.startswith("librispeech --subsets (* by default): train-clean-100*, ") for line in lines)


RECIPE = """
import sys, time
from pathlib import Path
from asr.data.manifest import Utterance
from asr.corpora.recipe import Corpus, Recipe

def prepare(request):
    out = request.out
    {body}
    rows = [Utterance("a", "a.wav", 1.0, "one"), Utterance("b", "b.wav", 2.0, "two")]
    return Corpus({{"train": rows}}, {{"c": "no transcript"}})

RECIPE = Recipe("mine", "My corpus", 0.1, 16000, "CC0", "https://example.org", prepare)
"""


def own_recipe(folder: Path, body: str = "pass") -> Path:
    folder.mkdir()
    (folder / "recipe.py").write_text(RECIPE.format(body=body))
    return folder


def test_prepare_takes_a_folder_of_ones_own_and_says_what_was_dropped(command, tmp_path):
    recipe, out = own_recipe(tmp_path / "mine"), tmp_path / "out"
    result = command("prepare", recipe, "--out", out)
    assert result.code == 1 and result.err == "My corpus; licence: CC0\n"
    assert "kept 2 of 3" in result.out and "dropped c: no transcript" in result.out
    assert result.out.splitlines()[-1] == str(out / "train.jsonl")
    document = json.loads(command("prepare", recipe, "--out", out, "--json").out)
    facts = {
        "manifests": {"train": str(out / "train.jsonl")},
        "utterances": {"train": 2},
        "dropped": {"c": "no transcript"},
    }
    assert document.items() >= facts.items() and "files" not in document


def test_prepare_into_a_file_or_a_full_disk_is_one_line(command, tmp_path, wav):
    result = command("prepare", own_recipe(tmp_path / "mine"), "--out", wav)
    assert result.code == 2 and result.out == ""
    assert str(wav) in result.err.splitlines()[-1]
    full = own_recipe(tmp_path / "full", 'raise OSError(28, "No space left on device", str(out / "a.wav"))')
    result = command("prepare", full, "--out", tmp_path / "out")
    assert result.err.splitlines()[-1] == f"asr: {tmp_path / 'out' / 'a.wav'}: no space left on device"


# --- train ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(configs.to_yaml(tiny_config("train.epochs=1", "train.max_steps=1", "batch.workers=0")))
    return path


def test_training_prints_the_model_it_made_which_can_be_used(command, corpus, config, tmp_path, wav):
    run_folder = tmp_path / "run"
    result = command("train", config, "--data", corpus, "--out", run_folder)
    assert (result.code, result.out) == (0, f"{run_folder / 'best'}\n")
    assert command(*one_device("transcribe", run_folder, wav)).code == 0
    assert "dev WER" in command("info", run_folder).out
    again = command("train", config, "--data", corpus, "--out", run_folder)
    assert f"holds a run already; choose another --out, or go on with: asr train --resume {run_folder}" in again.error
    resumed = command("train", "--resume", run_folder)
    assert (resumed.code, resumed.out) == (0, result.out)


def test_an_interrupted_training_exits_with_130_and_goes_on_as_it_says(command, corpus, config, tmp_path, monkeypatch):
    from asr.training.step import Learner

    step = Learner.step

    def interrupted(self, batches, number, lr):
        signal.raise_signal(signal.SIGINT)
        return step(self, batches, number, lr)

    monkeypatch.setattr(Learner, "step", interrupted)
    args = ("train", config, "--data", corpus, "--out", tmp_path / "my run", "--set", "train.max_steps=null")
    result = command(*args)
    assert result.code == 130 and result.out == "" and result.err.splitlines()[-1] == "asr: interrupted"
    (way_on,) = re.findall(r"go on with: asr (.*)", (tmp_path / "my run" / "train.log").read_text(encoding="utf-8"))
    monkeypatch.undo()
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    assert command(*shlex.split(way_on)).code == 0


# --- streams and signals, in a process of their own -------------------------------------------------------------------


def test_modules_in_the_working_folder_are_not_imported(tmp_path):
    for name in ("numpy", "typer", "yaml"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('of the working folder')\n")
    done = subprocess.run([sys.executable, "-m", "asr", "recipes"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "an4" in done.stdout, done.stderr


def shell(line: str, *args: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A shell line in which ``"$@"`` is the command with these arguments."""
    return subprocess.run(
        ["bash", "-c", line, "bash", sys.executable, "-m", "asr", *map(str, args)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        cwd=Path(asr.__file__).resolve().parent.parent,
    )


@pytest.fixture(scope="module")
def score_files(tmp_path_factory) -> tuple[Path, Path]:
    """Two files whose score names 20,000 ids: more than a pipe holds."""
    folder = tmp_path_factory.mktemp("score")
    (folder / "r").write_text("".join(f"utterance-{i} a\n" for i in range(20_000)) + "last b\n")
    (folder / "h").write_text("last b\n")
    return folder / "r", folder / "h"


@posix
def test_a_reader_that_leaves_early_is_no_error_message(score_files):
    for args in (("--help",), ("score", *score_files, "--json")):
        # The sleep lets the reader go first.
        done = shell('set -o pipefail; { sleep 0.2; "$@"; } | true', *args)
        assert done.returncode == 1, args
        assert not [line for line in done.stderr.splitlines() if not line.startswith("asr: ")], args


@posix
def test_a_closed_stdout_is_refused_before_the_work(tmp_path):
    done = shell('"$@" >&-', "prepare", own_recipe(tmp_path / "mine"), "--out", tmp_path / "out")
    assert done.returncode == 2 and done.stderr.startswith("asr: stdout is closed") and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@posix
def test_without_stderr_the_result_is_the_same(score_files):
    expected = shell('"$@"', "score", *score_files)
    for closed in ("2>&-", "2>/dev/full") if Path("/dev/full").exists() else ("2>&-",):
        done = shell(f'"$@" {closed}', "score", *score_files)
        assert (done.returncode, done.stdout) == (1, expected.stdout)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["recipes", "--help"])
def test_a_result_that_cannot_be_written_is_an_error(name):
    done = shell('"$@" >/dev/full', name)
    assert done.returncode == 2
    assert done.stderr.startswith("asr: ") and done.stderr.endswith("no space left on device\n")
    assert done.stderr.count("\n") == 1


@posix
def test_a_name_that_is_not_text_is_shown_and_breaks_no_json(tmp_path):
    path = os.fsencode(build_corpus(tmp_path, 1)).replace(b"train.jsonl", b"tr\xe9.jsonl")
    (tmp_path / "train.jsonl").rename(os.fsdecode(path))
    for encoding in ("utf-8", "latin-1"):
        plain = shell('"$@"', "info", os.fsdecode(path), PYTHONIOENCODING=encoding)
        assert plain.returncode == 0 and "tr\\udce9.jsonl" in plain.stdout
        document = shell('"$@" --json', "info", os.fsdecode(path), PYTHONIOENCODING=encoding)
        assert json.loads(document.stdout)["path"] == os.fsdecode(path)


@posix
def test_ctrl_c_ends_a_preparation_with_130_and_no_traceback(tmp_path):
    recipe = own_recipe(tmp_path / "mine", 'print("ready", file=sys.stderr, flush=True); time.sleep(60)')
    process = subprocess.Popen(
        [sys.executable, "-m", "asr", "prepare", str(recipe), "--out", str(tmp_path / "out")],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A shell's background job ignores Ctrl-C, and its children inherit that: these tests may run in one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    while process.stderr.readline() != "ready\n":
        pass
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "asr: interrupted\n")
    assert not (tmp_path / "out" / "train.jsonl").exists()


@pytest.mark.parametrize("args", [("score", "r", "r"), ("info", "m.jsonl"), ("recipes",)])
def test_what_needs_no_model_loads_no_torch(tmp_path, args):
    (tmp_path / "r").write_text("a one\n")
    build_corpus(tmp_path, 1).rename(tmp_path / "m.jsonl")
    script = (
        "import sys\n"
        "from asr.cli import run\n"
        "try:\n    run()\n"
        "except SystemExit as end:\n    code = end.code\n"
        "heavy = {'torch', 'numba', 'librosa', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit('loaded: ' + ', '.join(sorted(heavy)) if heavy else code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *args], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@posix
def test_on_a_terminal_training_shows_its_progress_and_ends_well(tmp_path):
    import pty

    build_corpus(tmp_path / "data", 6, name="train")
    build_corpus(tmp_path / "data", 3, name="dev")
    config = tmp_path / "tiny.yaml"
    config.write_text(configs.to_yaml(tiny_config("train.epochs=2")), encoding="utf-8")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "asr", "train", str(config), "--data", str(tmp_path / "data"), "--out"]
    with subprocess.Popen([*command, str(tmp_path / "run")], stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the end of a pseudo-terminal is an error
            while chunk := os.read(ours, 4096):
                shown += chunk
        os.close(ours)
        assert process.wait() == 0, shown.decode()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "Traceback" not in text
    assert "epoch 2.00/2" in text and "audio-s/s" in text and re.search(r"WER [\d.]+%", text)


def test_evaluation_and_transcription_take_a_language_model(command, model, corpus, tmp_path):
    manifest = corpus / "dev.jsonl"
    text, lm = tmp_path / "text.txt", tmp_path / "lm.arpa"
    text.write_text("".join(json.loads(line)["text"] + "\n" for line in manifest.read_text().splitlines()))
    assert command("lm", "train", str(text), "--order", "2", "--out", str(lm)).code == 0
    for weights, said in (((), "alpha 0.5, beta 1.5"), (("--alpha", "0", "--beta", "0"), "alpha 0, beta 0")):
        result = command("evaluate", str(model), str(manifest), "--lm", str(lm), "--beam", "8", *weights, "--json")
        assert result.code == 0, result.err
        row = json.loads(result.out)
        assert (row["decoder"], row["lm"]) == (f"beam 8, {said}", str(lm))
    wave = corpus / json.loads(manifest.read_text().splitlines()[0])["audio_path"]
    result = command("transcribe", str(model), str(wave), "--decoder", "beam", "--nbest", "3", "--json")
    (one,) = json.loads(result.out)["transcripts"]
    scores = [one["log_prob"], *[other["log_prob"] for other in one["nbest"]]]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)

    rows = tmp_path / "rows.jsonl"
    told = ("--lm", str(lm), "--nbest", "3", "--hypotheses", str(rows))
    result = command("evaluate", str(model), str(manifest), *told)
    assert result.code == 0, result.err
    first = json.loads(rows.read_text().splitlines()[0])
    assert first["nbest"][0]["text"] == first["hypothesis"] and len(first["nbest"]) == 3
    for entry in first["nbest"]:
        assert entry["acoustic_log_prob"] + entry["lm_score"] == pytest.approx(entry["log_prob"], abs=2e-4)
        assert "".join(word["word"] for word in entry["words"]).strip() == entry["text"]
    assert any(entry["words"] and 0 < entry["words"][0]["probability"] <= 1 for entry in first["nbest"])
    result = command("evaluate", str(model), str(manifest), "--lm", str(lm), "--nbest", "3")
    oracle = re.search(r"\noracle WER .*: the best of ([\d.]+) texts per utterance\n", result.out)
    assert result.code == 0 and oracle and 1 < float(oracle[1]) <= 3, result.out
    document = json.loads(command("evaluate", str(model), str(manifest), *told[:4], "--json").out)
    assert document["oracle"]["texts_per_utterance"] == pytest.approx(float(oracle[1]), abs=0.05)
    each = [json.loads(line) for line in rows.read_text().splitlines()]
    least = [min(word_counts([(one["reference"], e["text"])])[0].errors for e in one["nbest"]) for one in each]
    kinds = ("substitutions", "deletions", "insertions")
    assert sum(document["oracle"]["wer"][kind] for kind in kinds) == sum(least)
    result = command("evaluate", str(model), str(manifest), "--nbest", "3", "--markdown")
    assert result.code == 2 and "--nbest has no place in a --markdown row; add --hypotheses FILE.jsonl" in result.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--decoder greedy --lm x.arpa", "greedy decoding cannot use --lm; use --decoder beam"),
        ("--decoder baem", "unknown decoder 'baem' (greedy, beam); did you mean 'beam'?"),
        ("--lm nowhere.arpa", "nowhere.arpa"),
        ("--hotword :3", "expected PHRASE or PHRASE:weight"),
        ("--alpha -1", "alpha: expected a number of at least 0"),
    ],
)
def test_decoder_options_that_cannot_be_followed_are_one_line(command, model, corpus, options, message):
    assert message in command("evaluate", str(model), str(corpus / "dev.jsonl"), *options.split()).error


def test_a_results_row_has_the_rates_and_what_made_the_model(command, model, corpus):
    result = command("evaluate", str(model), str(corpus / "dev.jsonl"), "--markdown")
    header, rule, row = result.out.splitlines()
    assert header.count("|") == rule.count("|") == row.count("|")
    document = json.loads(command("evaluate", str(model), str(corpus / "dev.jsonl"), "--json").out)
    wer = document["wer"]
    assert row.startswith(f"| {100 * wer['rate']:.2f} [{100 * wer['low']:.2f}, {100 * wer['high']:.2f}] | ")
    assert f"| {wer['reference_words']} |" in row and "| greedy | none |" in row


def test_results_of_several_runs_have_a_row_each_and_their_mean(model, corpus):
    script = Path(__file__).parent.parent / "egs" / "results.py"
    done = subprocess.run(
        [sys.executable, str(script), str(corpus / "dev.jsonl"), str(model), str(model)],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    timeless = [re.sub(r"\| 0\.\d{4} \|", "|", line) for line in lines[2:4]]  # but for the real-time factor
    assert timeless[0] == timeless[1] != lines[2]
    rate = lines[2].split()[1]
    assert lines[-1].startswith(f"Mean WER of 2 runs: {rate} % [") and lines[-1].endswith("standard deviation 0.00")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("transcribe {model} a.wav --nbest 2", "--nbest is shown in JSON only; add --json or -f json"),
        ("evaluate {model} {dev} --json --markdown", "two forms of one result; choose one"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(command, model, corpus, args, message):
    words = args.format(model=model, dev=corpus / "dev.jsonl").split()
    assert message in command(*words).error


def test_tuned_settings_are_saved_with_the_model_and_used_until_an_option_says_otherwise(command, corpus, tmp_path):
    folder = save_random_model(tmp_path / "m")
    manifest, lm = corpus / "dev.jsonl", tmp_path / "lm.arpa"
    text = tmp_path / "text.txt"
    text.write_text("".join(json.loads(line)["text"] + "\n" for line in manifest.read_text().splitlines()))
    assert command("lm", "train", text, "--order", "2", "--out", lm).code == 0
    arguments = ("tune", folder, manifest, "--lm", lm, "--cache", tmp_path / "cache", "--threads", 1)
    dry = command(*arguments, "--dry-run", "--json")
    assert dry.code == 0 and not (folder / "decoder.json").exists()
    result = command(*arguments)
    assert result.code == 0, result.err
    assert "WER % ± half its 95 % interval" in result.out and "<- chosen" in result.out
    assert "found in" in result.err and str(folder / "decoder.json") in result.err
    best = json.loads(dry.out)["best"]
    used = command("evaluate", folder, manifest, "--json")
    assert used.err.startswith(f"asr: {folder / 'decoder.json'}: beam ") and f"LM {folder / 'lm.bin'}" in used.err
    row = json.loads(used.out)
    assert row["wer"]["rate"] == pytest.approx(best["wer"]) and row["lm"] == str(folder / "lm.bin")
    assert json.loads(command("evaluate", folder, manifest, "--json", "--decoder", "greedy").out)["decoder"] == "greedy"
    (folder / "lm.bin").unlink()
    assert "tuned with the language model" in command("evaluate", folder, manifest).error
    assert command("evaluate", folder, manifest, "--lm", "none").code == 0


def test_a_tuned_model_folder_is_whole_wherever_it_goes(command, corpus, tmp_path):
    folder, manifest, lm = save_random_model(tmp_path / "m"), corpus / "dev.jsonl", tmp_path / "lm.arpa"
    ngram.write(ngram.train(["a b", "ab cd", "b a"], 2), lm)
    arguments = ("--cache", tmp_path / "cache", "--threads", 1)
    assert command("tune", folder, manifest, "--lm", lm, *arguments).code == 0
    before = json.loads(command("evaluate", folder, manifest, "--json", "--lm", lm).out)
    lm.unlink()
    moved = shutil.move(folder, tmp_path / "elsewhere" / "m")
    row = json.loads(command("evaluate", moved, manifest, "--json").out)
    assert row["lm"] == str(moved / "lm.bin") and row["wer"] == before["wer"] and row["decoder"] == before["decoder"]
    # tuned again with the model that it holds: nothing to copy, nothing lost
    assert command("tune", moved, manifest, "--lm", moved / "lm.bin", *arguments).code == 0
    tuned = json.loads((moved / "decoder.json").read_text())
    assert tuned["lm"] == "lm.bin" and tuned["lm_bytes"] == (moved / "lm.bin").stat().st_size
    assert tuned["tuning"]["lm"] == str(moved / "lm.bin")


def test_models_that_are_made_from_a_tuned_one_are_not_tuned(command, corpus, tmp_path):
    folder, lm = save_random_model(tmp_path / "m"), tmp_path / "lm.arpa"
    other = save_random_model(tmp_path / "n", seed=4)
    ngram.write(ngram.train(["a b", "ab cd", "b a"], 2), lm)
    tune = ("tune", folder, corpus / "dev.jsonl", "--lm", lm, "--cache", tmp_path / "cache", "--threads", 1)
    assert command(*tune).code == 0
    assert command("average", folder, other, "--out", tmp_path / "mean").code == 0
    assert sorted(path.name for path in (tmp_path / "mean").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_tuning_refuses_before_the_work_what_it_could_not_use_or_save(command, corpus, tmp_path):
    folder, manifest, lm = save_random_model(tmp_path / "m"), corpus / "dev.jsonl", tmp_path / "lm.arpa"
    text = tmp_path / "text.txt"
    text.write_text("no letter of the model: 123 456\n")
    assert command("lm", "train", text, "--order", "1", "--out", lm).code == 0
    cache = tmp_path / "cache"
    (folder / "decoder.json").mkdir()
    assert "is a folder" in command("tune", folder, manifest, "--lm", lm, "--cache", cache).error
    (folder / "decoder.json").rmdir()
    assert "can write none of" in command("tune", folder, manifest, "--lm", lm, "--cache", cache).error
    assert not cache.exists()


def test_what_is_read_is_not_written_over(command, model, corpus, tmp_path):
    manifest, out = corpus / "dev.jsonl", tmp_path / "x.trn"
    before = manifest.read_bytes()
    for options in (("--hypotheses", manifest), ("--report", manifest), ("--hypotheses", out, "--references", out)):
        assert "choose another file to write" in command("evaluate", model, manifest, *options).error
    assert "choose another file" in command("score", manifest, manifest, "--report", manifest).error
    assert manifest.read_bytes() == before and not out.exists()


def test_only_the_words_of_a_lexicon_come_out_and_both_backends_agree(command, model, corpus, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("ab\nba dc\n")
    said = []
    for backend in ("numpy", "numba"):
        kept = tmp_path / f"{backend}.jsonl"
        options = ("--lexicon", words, "--decoder-backend", backend, "--hypotheses", kept)
        assert command("evaluate", model, corpus / "dev.jsonl", *options).code == 0
        said.append([json.loads(line)["hypothesis"] for line in kept.read_text().splitlines()])
    assert said[0] == said[1]
    assert {word for text in said[0] for word in text.split()} <= {"ab", "ba", "dc"}
    assert (
        "unknown decoder backend 'cython'"
        in command("evaluate", model, corpus / "dev.jsonl", "--decoder-backend", "cython").error
    )


def test_evaluation_says_how_often_words_of_each_confidence_are_right(command, model, corpus):
    said = command("evaluate", model, corpus / "dev.jsonl", "--confidence")
    assert said.code == 0 and "confidence       words" in said.out and "calibration error" in said.out
    for options in ((), ("--decoder", "beam", "--beam", "4")):
        document = json.loads(command("evaluate", model, corpus / "dev.jsonl", "--confidence", "--json", *options).out)
        table = document["confidence"]
        wer = document["wer"]
        right = wer["reference_words"] - wer["substitutions"] - wer["deletions"]
        assert table["words"] == right + wer["substitutions"] + wer["insertions"]
        assert table["correct"] * table["words"] == pytest.approx(right)
        assert sum(b["words"] for b in table["bins"]) == table["words"]
    assert (
        "--confidence has no place"
        in command("evaluate", model, corpus / "dev.jsonl", "--confidence", "--markdown").error
    )


# --- what strangers wrote is shown, not obeyed ------------------------------------------------------------------------

#: colours, a window's title, 8-bit escape codes, and characters that turn a line around
EVIL = "a\x1b[31m\x1b]0;b\x07\x9b2J\x7f\u202ec\u2066\u200f\u2028"


@pytest.fixture
def evil_corpus(tmp_path) -> Path:
    """A manifest with two utterances, one of them with such an id, speaker, text, audio file and meta value."""
    build_corpus(tmp_path, 2)
    first, second = map(json.loads, (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines())
    audio = write_wav(tmp_path / f"{EVIL}.wav", noise(0.7))
    first |= {
        "id": EVIL,
        "speaker": EVIL,
        "text": first["text"] + f" {EVIL}",
        "audio_path": audio.name,
        "duration_s": 0.7,
    }
    first["meta"] = {"room": EVIL}
    (tmp_path / "evil.jsonl").write_text(json.dumps(first) + "\n" + json.dumps(second) + "\n", encoding="utf-8")
    return tmp_path / "evil.jsonl"


def unsafe(result: Result) -> list[str]:
    return UNSAFE.findall(result.out + result.err)


def test_evaluation_shows_names_and_texts_and_obeys_nothing_in_them(command, model, evil_corpus, tmp_path):
    files = {name: tmp_path / name for name in ("h.jsonl", "r.html")}
    options = ["--hypotheses", files["h.jsonl"], "--report", files["r.html"], "--by", "meta.room", "--worst", "2"]
    result = command("evaluate", *one_device(model, evil_corpus, *options))
    assert result.code == 0, result.err
    assert not unsafe(result) and "a\\x1b[31m" in result.out
    for path in files.values():
        assert not UNSAFE.search(path.read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in files["h.jsonl"].read_text(encoding="utf-8").splitlines()]
    assert rows[0]["id"] == EVIL

    result = command("evaluate", *one_device(model, evil_corpus, "--json"))
    assert result.code == 0 and not unsafe(result)
    result = command("evaluate", *one_device(model, evil_corpus, "--hypotheses", tmp_path / "h.ctm"))
    assert "cannot be written as ctm" in result.error and not unsafe(result)


def test_transcription_shows_names_and_obeys_nothing_in_them(command, model, evil_corpus, tmp_path):
    audio = evil_corpus.with_name(f"{EVIL}.wav")
    gone = evil_corpus.with_name(f"{EVIL}\nasr: all is well.flac")
    gone.write_bytes(b"not audio")
    for options in ([], ["--json"], ["-f", "ctm"], ["-f", "jsonl"]):
        result = command("transcribe", *one_device(model, audio, gone, evil_corpus, *options))
        assert result.code == 1 and not unsafe(result), options
        assert "\nasr: all is well" not in result.err
    result = command("transcribe", *one_device(model, evil_corpus, "--json"))
    assert json.loads(result.out)["transcripts"][0]["id"] == EVIL

    # two recordings whose files would have one name
    two = [write_wav(tmp_path / f"{EVIL}\nasr: all is well{end}") for end in (".wav", ".flac")]
    result = command("transcribe", *one_device(model, *two, "-o", tmp_path / "o"))
    assert result.code == 1 and not unsafe(result) and "would both be written" in result.err
    assert "\nasr: all is well" not in result.err

    result = command("transcribe", *one_device(model, evil_corpus, "-f", "all", "-o", tmp_path / "out"))
    assert result.code == 0 and not unsafe(result), result.err
    written = [path for path in (tmp_path / "out").iterdir() if path.is_file()]
    assert written and not any(UNSAFE.search(path.read_text(encoding="utf-8")) for path in written)
    assert not any(re.search("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", path.name) for path in written)


@posix
def test_a_recording_whose_output_would_leave_the_folder_fails_and_the_others_are_done(command, model, tmp_path):
    for name in ("a", "away/b"):
        write_wav(tmp_path / "in" / f"{name}.wav", noise(0.7))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "away").symlink_to(tmp_path / "elsewhere")
    result = command("transcribe", *one_device(model, tmp_path / "in", "-o", tmp_path / "out"))
    assert result.code == 1 and f"{tmp_path / 'out' / 'away'} is outside of {tmp_path / 'out'}" in result.err
    assert (tmp_path / "out" / "a.txt").is_file() and not list((tmp_path / "elsewhere").iterdir())


def test_the_log_is_one_line_for_a_message_and_obeys_nothing_in_it(caplog):
    caplog.set_level(logging.DEBUG, "asr")
    try:
        raise RuntimeError(EVIL)
    except RuntimeError:
        logging.getLogger("asr.test").warning("%s\n12:00:00 ERROR %s", EVIL, "\ud800", exc_info=True)
    (record,) = caplog.records
    first, *below = LineFormatter("%(levelname)s %(message)s").format(record).splitlines()
    assert first.startswith(r"WARNING a\x1b[31m\x1b]0;b\x07\x9b2J\x7f\u202ec") and first.endswith(
        r"\n12:00:00 ERROR \ud800"
    )
    assert below[0].startswith("Traceback") and not UNSAFE.search("".join(below))


def test_the_log_of_a_run_obeys_nothing_either(tmp_path):
    with RunFolder(tmp_path).recording(0):
        logging.getLogger("asr.test").warning("left out %s", f"{EVIL}\n\ud800")
    (line,) = (tmp_path / "train.log").read_text(encoding="utf-8").splitlines()
    assert line.endswith(r"left out a\x1b[31m\x1b]0;b\x07\x9b2J\x7f\u202ec\u2066\u200f\u2028\n\ud800")


def test_warnings_of_other_libraries_and_bugs_of_ours_are_shown_too(monkeypatch, capfd):
    def recipes() -> None:
        warnings.warn(f"odd file {EVIL}", UserWarning, stacklevel=1)
        raise RuntimeError(EVIL)

    monkeypatch.setattr("asr.cli.commands", lambda words: lambda **options: recipes())
    with pytest.raises(SystemExit) as end, warnings.catch_warnings():
        warnings.simplefilter("always")
        run()
    assert end.value.code == 1
    err = capfd.readouterr().err
    assert "UserWarning: odd file a\\x1b[31m" in err
    assert "Traceback" in err and "RuntimeError: a\\x1b[31m" in err
    assert not UNSAFE.search(err)


def test_results_and_messages_show_what_a_terminal_would_obey(capsys):
    from asr.commands.console import print_result, say

    print_result("a\x1b[31m\tb\n\u202ec \u200d")
    say("d\x9b\x07")
    printed = capsys.readouterr()
    assert printed.out == "a\\x1b[31m\tb\n\\u202ec \u200d\n" and printed.err == "d\\x9b\\x07\n"


_TORCH_READS = ("GOMP_SPINCOUNT", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "CUBLAS_WORKSPACE_CONFIG")


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, {"PYTORCH_ALLOC_CONF": "expandable_segments:True", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}),
        (dict.fromkeys(_TORCH_READS, "own"), dict.fromkeys(_TORCH_READS, "own")),
        ({"PYTORCH_CUDA_ALLOC_CONF": "own"}, {"PYTORCH_CUDA_ALLOC_CONF": "own", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}),
        ({"PYTORCH_ALLOC_CONF": "own"}, {"PYTORCH_ALLOC_CONF": "own", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}),
    ],
)
def test_the_command_sets_what_torch_reads_when_it_is_loaded_unless_the_user_has(monkeypatch, own, expected):
    found = {}

    def command() -> int:
        found.update({name: os.environ[name] for name in _TORCH_READS if name in os.environ})
        return 0

    for name in _TORCH_READS:
        monkeypatch.setenv(name, "")  # so that it is as before at the end
        os.environ.pop(name)
    os.environ.update(own)
    monkeypatch.setattr("asr.cli._run", command)
    with pytest.raises(SystemExit):
        run()
    assert found == {"GOMP_SPINCOUNT": "5000"} | expected


def test_the_library_leaves_the_environment_of_cuda_alone():
    script = "import os, asr, asr.transcribe; print([n for n in os.environ if n.startswith(('PYTORCH_', 'CUBLAS_'))])"
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTORCH_", "CUBLAS_"))}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
