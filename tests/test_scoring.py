"""``asr evaluate``, ``asr score`` and ``asr compare`` on the command line: what they print, write and refuse."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest
import torch

from asr.cli import run
from asr.scoring import nist
from tests.builders import build_corpus
from tests.models import save_random_model
from tests.test_transcripts import jsonl, write


@pytest.fixture
def command(monkeypatch, capfd):
    library, root = logging.getLogger("asr"), logging.getLogger()
    level, root_level, handlers, threads = library.level, root.level, root.handlers[:], torch.get_num_threads()

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["asr", *map(str, args)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            run()
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return int(end.value.code or 0), out, err

    yield call
    library.setLevel(level)
    root.setLevel(root_level)
    root.handlers[:] = handlers
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    path = build_corpus(tmp_path_factory.mktemp("corpus"), 6, name="test", num_speakers=6)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return jsonl(path, *(row | {"meta": {"even": i % 2 == 0}} for i, row in enumerate(rows)))


def measured(*args: object) -> list[object]:
    return ["evaluate", *args, "--device", "cpu", "--threads", 1]


def test_an_evaluation_has_its_tables_errors_and_conditions(command, model, manifest):
    code, out, err = command(*measured(model, manifest, "--by", "speaker", "--by", "meta.even"))
    assert (code, err) == (0, "")
    assert "bootstrap over 6 speakers (over utterances: WER [" in out
    assert [line.split()[0] for line in out.splitlines() if line.endswith("utterances")] == ["speaker", "meta.even"]
    assert out.count("spk0") == 6 and "\nsubstituted: " in out and "real-time factor" in out


@pytest.mark.parametrize("kind", ["trn", "ctm", "jsonl"])
def test_transcripts_in_every_format_score_to_the_same_errors(command, model, manifest, tmp_path, kind):
    path, references = tmp_path / f"h.{kind}", tmp_path / "r.trn"
    code, out, _ = command(*measured(model, manifest, "--json", "--hypotheses", path, "--references", references))
    assert code == 0
    expected = json.loads(out)["wer"]
    for reference in (references, manifest):
        code, out, _ = command("score", reference, path, "--json")
        found = json.loads(out)
        assert code == 0 and found["wer"]["rate"] == expected["rate"]
        assert found["interval"]["unit"] == ("speaker" if reference == manifest or kind == "jsonl" else "utterance")
    if kind == "ctm":
        assert all(word.duration_s >= 0 for words in nist.read_ctm(path).values() for word in words)


def test_ids_that_a_format_cannot_hold_are_refused_before_the_work(command, manifest, tmp_path):
    spaced = jsonl(tmp_path / "m.jsonl", {"id": "u 1", "audio_path": "none.wav", "duration_s": 1, "text": "a"})
    for option, name in (("--hypotheses", "h.trn"), ("--hypotheses", "h.ctm"), ("--references", "r.trn")):
        code, out, err = command("evaluate", tmp_path / "none", spaced, option, tmp_path / name)
        assert (code, out) == (2, "") and f"utt 'u 1' cannot be written as {name[-3:]}" in err
    _, _, err = command("evaluate", tmp_path / "none", manifest, "--references", tmp_path / "r.txt")
    assert "--references writes trn; name the file with .trn" in err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            "evaluate {m} {m} --by meta.evn",
            "no utterance has the field 'meta.evn'; did you mean 'meta.even'? (there are speaker, length, meta.even)",
        ),
        ("evaluate {m} {m} --worst 3", "--worst is about the report; add --report"),
        ("evaluate {m} {m} --markdown --by speaker", "--by has no place in a --markdown row"),
        (
            "evaluate {m} {m} --alignment sclit",
            "unknown alignment 'sclit' (levenshtein, sclite); did you mean 'sclite'?",
        ),
        ("evaluate {m} {m} --report {tmp}", "is a folder, expected a file"),
        ("evaluate {m} {m} --normalization uper", "unknown text normalization 'uper'"),
        ("score {m} {m} --pair line", "unknown --pair 'line' (auto, lines, ids); did you mean 'lines'?"),
        ("compare {m} {m} {m} --pair line", "unknown --pair 'line'"),
        ("score {m} {m} --by room", "no utterance has the field 'room'"),
        ("score {m} {m} --normalization lowr", "unknown text normalization 'lowr'"),
        ("compare {m}", "compare takes two files of hypotheses, after one of references or not; got 1"),
        ("compare {m} {m}", "holds no references; name a file of them first: compare REFERENCE A B"),
    ],
)
def test_a_slip_is_one_line_and_nothing_is_printed(command, manifest, tmp_path, args, said):
    code, out, err = command(*args.format(m=manifest, tmp=tmp_path).split())
    assert (code, out) == (2, "") and err.count("\n") == 1 and said in err


def test_what_is_not_sure_is_one_line_on_stderr_and_the_result_stays_alone(command, tmp_path):
    refs, hyps = write(tmp_path / "r", "hello brave\ngood day\n"), write(tmp_path / "h", "HELLO BRAVE\nGOOD DAY\n")
    code, out, err = command("score", refs, hyps, "--json")
    assert code == 0 and json.loads(out)["wer"]["substitutions"] == 4
    first, second = err.splitlines()
    assert first.startswith(
        "asr: plain sentences ('hello', 'good' begin them), paired line by line (2 lines); --pair ids"
    )
    assert second.startswith("asr: 17 of 17 characters of the references are lower case, the hypotheses have none")
    code, out, err = command("score", refs, hyps, "--pair", "lines", "--normalization", "upper")
    assert (code, err) == (0, "") and out.startswith("WER 0.00 %")
    code, out, err = command("compare", refs, hyps, hyps, "--pair", "lines")
    assert code == 0 and err.count("--normalization upper mends that") == 1


def test_ids_that_one_file_lacks_are_named_and_exit_with_1(command, tmp_path):
    code, out, err = command("score", write(tmp_path / "r", "u1 a\nu2 b\n"), write(tmp_path / "h", "u1 a\nu3 c\n"))
    assert code == 1 and out.startswith("WER 0.00 %")
    assert err.splitlines() == [
        f"asr: {tmp_path / 'h'}: no hypothesis for 1 of the ids, which are not scored: u2",
        f"asr: {tmp_path / 'r'}: no reference for 1 of the ids, which are not scored: u3",
    ]


def test_references_that_the_model_cannot_write_are_counted_and_normalization_mends_it(command, model, manifest):
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    upper = jsonl(manifest.with_name("upper.jsonl"), *(row | {"text": row["text"].upper()} for row in rows))
    expected = json.loads(command(*measured(model, manifest, "--json"))[1])
    letters = sum(not c.isspace() for row in rows for c in row["text"])
    code, out, err = command(*measured(model, upper, "--json"))
    assert code == 0 and json.loads(out)["cer"]["rate"] > expected["cer"]["rate"]
    assert err.startswith(f"asr: {letters} of {letters} characters of the references are none that the model writes (")
    assert err.endswith(": --normalization lower mends that\n")
    code, out, err = command(*measured(model, upper, "--json", "--normalization", "lower"))
    assert (code, err) == (0, "") and json.loads(out)["wer"] == expected["wer"]


def test_a_score_s_report_needs_no_audio(command, tmp_path):
    write(tmp_path / "r", "u1 one two\nu2 three\n")
    write(tmp_path / "h", "u1 one too\nu2 three\n")
    code, out, err = command("score", tmp_path / "r", tmp_path / "h", "--report", tmp_path / "x.html", "--worst", 1)
    assert code == 0 and out.startswith("WER 33.33 %") and err == f"report: {tmp_path / 'x.html'}\n"
    page = (tmp_path / "x.html").read_text()
    assert "<span>two</span><span>too</span>" in page and "<audio" not in page and "<img" not in page


def test_an_evaluation_s_report_is_written_beside_the_result(command, model, manifest, tmp_path):
    pytest.importorskip("matplotlib")
    code, out, err = command(*measured(model, manifest, "--json", "--report", tmp_path / "x.html", "--worst", 2))
    document = json.loads(out)
    assert code == 0 and err == f"report: {tmp_path / 'x.html'}\n"
    page = (tmp_path / "x.html").read_text()
    assert page.count("<audio") == page.count("<img") == 2
    assert f"<td>{100 * document['wer']['rate']:.2f}</td>" in page


def test_a_comparison_ends_with_its_conclusion(command, tmp_path):
    refs = write(tmp_path / "r", "".join(f"u{i} a b c d e\n" for i in range(60)))
    a = write(tmp_path / "a", "".join(f"u{i} {'a x c d e' if i % 3 else 'a b c d e'}\n" for i in range(60)))
    b = write(tmp_path / "b", "".join(f"u{i} {'a b c d e' if i % 4 else 'a x c d e'}\n" for i in range(60)))
    code, out, err = command("compare", refs, a, b, "--show", 1)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith(f"B ({b}) is better than A ({a}) by ")
    document = json.loads(command("compare", refs, a, b, "--json", "--show", 0)[1])
    assert document["verdict"] == "b" and document["conclusion"] == out.splitlines()[-1]
    assert document["files"] == {"a": str(a), "b": str(b), "reference": str(refs)}
    assert document["differing"] == [] and document["missing"] == {}


def test_ids_that_a_compared_file_lacks_are_named_and_exit_with_1(command, tmp_path):
    refs, a, b = (
        write(tmp_path / name, text) for name, text in (("r", "u1 a\nu2 b\n"), ("a", "u1 a\nu2 b\n"), ("b", "u1 a\n"))
    )
    code, out, err = command("compare", refs, a, b)
    assert code == 1 and out.splitlines()[-1].endswith("give the same words in every utterance (1).")
    assert err == f"asr: {b}: no text for 1 of the ids, which are not scored: u2\n"


def test_two_evaluations_are_compared_by_speaker_without_the_manifest(command, model, manifest, tmp_path):
    for name in "ab":
        assert command(*measured(model, manifest, "--hypotheses", tmp_path / f"{name}.jsonl"))[0] == 0
    code, out, _ = command("compare", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--json")
    document = json.loads(out)
    assert code == 0 and document["interval"]["unit"] == "speaker" and document["verdict"] == "same"


def test_compounds_are_equal_if_asked(command, tmp_path: Path) -> None:
    (tmp_path / "ref.txt").write_text("u1 an air plane\nu2 yes it is\n")
    (tmp_path / "hyp.txt").write_text("u1 an airplane\nu2 yes it was\n")
    files = [tmp_path / "ref.txt", tmp_path / "hyp.txt"]
    found = json.loads(command("score", *files, "--compounds", "--json")[1])
    assert (found["wer"]["rate"], found["compounds"]) == (1 / 6, 1)
    assert "1 word written together or apart" in command("score", *files, "--compounds")[1]
    assert json.loads(command("score", *files, "--json")[1])["wer"]["rate"] == 3 / 6
    both = json.loads(command("compare", *files, files[1], "--compounds", "--json")[1])
    assert both["a"]["wer"]["rate"] == 1 / 6 and both["utterances"]["ties"] == 2
