"""Every command that a message recommends exists, takes what it is given, and is run by a test as it is printed."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from asr.cli import commands
from asr.corpora.importers import IMPORTERS
from asr.corpora.prepare import prepare
from asr.corpora.recipe import Request
from asr.data import manifest
from asr.doctor.start import check_start
from asr.errors import ConfigError
from tests.builders import build_corpus, tiny_config, write_wav
from tests.models import save_random_model
from tests.test_cli import command  # noqa: F401  # a fixture

ROOT = Path(__file__).resolve().parent.parent
COMMAND: Any = typer.main.get_command(commands())
#: where a message names what it knows only when it is printed
HOLE = "…"

#: command, as it is printed -> the test that runs it. A new one needs a test, too
RUN_BY = {
    "asr doctor … … --config CONFIG": "test_advice.py::test_the_doctor_that_training_recommends_runs_as_printed",
    "asr evaluate MODEL MANIFEST --hypotheses FILE": "test_advice.py::test_calls_with_names_to_fill_in_run_with_them",
    "asr lm train TEXT --tokenizer MODEL --out LM": "test_advice.py::test_calls_with_names_to_fill_in_run_with_them",
    "asr prepare … … --out data": "test_advice.py::test_an_importer_without_a_source_says_how_to_call_it",
    "asr prepare csv … --audio-column path --text-column sentence --speaker-column client_id --dev 0.1 "
    "--normalization … --out DIR": (
        "test_recipes_corpora.py::test_an_empty_split_of_commonvoice_says_what_to_do_and_that_works"
    ),
    "asr train --resume RUN": "test_cli.py::test_an_interrupted_training_exits_with_130_and_goes_on_as_it_says",
    "asr train --resume … --data DIR": "test_train.py::test_data_that_moved_are_missed_with_the_way_to_go_on",
    "asr train --resume …": "test_cli.py::test_an_interrupted_training_exits_with_130_and_goes_on_as_it_says",
}


def subcommands(node: Any = COMMAND, name: str = "asr") -> dict[str, Any]:
    """Every command with its whole name: ``asr lm train``."""
    found: dict[str, Any] = {}
    for word, child in getattr(node, "commands", {}).items():
        found |= {f"{name} {word}": child} | subcommands(child, f"{name} {word}")
    return found


SUBCOMMANDS = subcommands()
#: a command in a text: its name, then options with their values, words that stand for something, and an importer
CALL = re.compile(
    rf"\b({'|'.join(sorted(map(re.escape, SUBCOMMANDS), key=len, reverse=True))})\b"
    rf"((?: (?:--[\w-]+(?: [^\s'();,:]+)?|{HOLE}|[A-Z]+\b|(?<=asr prepare )(?:{'|'.join(IMPORTERS)})\b))*)"
)


def messages(path: Path) -> Iterator[str]:
    """The texts in a module that may be printed: no docstrings; holes in them, and calls of ``errors.command``, too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    passed_over: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            passed_over.add(id(node.value))
        if isinstance(node, ast.JoinedStr):
            passed_over |= {id(part) for part in node.values}
    constants = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "command":
            yield " ".join(["asr", *words(node.args, constants)])
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else HOLE for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in passed_over:
            yield node.value.replace("%s", HOLE)


def words(arguments: list[ast.expr], tuples: dict[str, ast.Tuple]) -> Iterator[str]:
    for one in arguments:
        if isinstance(one, ast.Starred) and isinstance(one.value, ast.Name):
            yield from words(tuples[one.value.id].elts, tuples)
        else:
            yield one.value if isinstance(one, ast.Constant) and isinstance(one.value, str) else HOLE


def recommended() -> set[str]:
    """Every call with arguments that a message recommends."""
    paths = [*ROOT.glob("asr/**/*.py"), *ROOT.glob("recipes/**/*.py")]
    return {match[0] for path in paths for text in messages(path) for match in CALL.finditer(text) if match[2]}


def test_every_recommended_call_is_run_by_a_test() -> None:
    assert recommended() == RUN_BY.keys()


@pytest.mark.parametrize("test", sorted(set(RUN_BY.values())))
def test_the_tests_that_run_them_are_there(test: str) -> None:
    name, _, function = test.partition("::")
    assert f"\ndef {function}(" in (ROOT / "tests" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("call", sorted(RUN_BY))
def test_every_recommended_call_is_taken(call: str) -> None:
    parts = shlex.split(call.replace("prepare … …", "prepare csv …"))
    count = max(n for n in (2, 3) if " ".join(parts[:n]) in SUBCOMMANDS)
    SUBCOMMANDS[" ".join(parts[:count])].make_context(call, parts[count:])  # an error, where it does not parse


def test_no_message_names_a_command_that_does_not_exist() -> None:
    known = {name.split()[1] for name in SUBCOMMANDS}
    for path in sorted([*ROOT.glob("asr/**/*.py"), *ROOT.glob("recipes/**/*.py")]):
        for text in messages(path):
            for word in re.findall(r"(?:'|\(|: |run |with |with: )asr ([a-z]+)", text):
                assert word in known, (path, text)


def test_the_collection_finds_what_is_recommended(tmp_path: Path) -> None:
    module = tmp_path / "m.py"
    module.write_text(
        '''"""A docstring: asr train --no"""\nrest = ("--out", "DIR")\n'''
        """a = f"go on ('asr train --resume {run}') or stop"\nb = command("doctor", x, *rest)\n"""
        """c = "then: asr evaluate MODEL MANIFEST --hypotheses FILE, or run asr tune again"\n"""
    )
    calls = [match[0] for text in messages(module) for match in CALL.finditer(text)]
    assert sorted(calls) == [
        "asr doctor … --out DIR",
        "asr evaluate MODEL MANIFEST --hypotheses FILE",
        "asr train --resume …",
        "asr tune",
    ]


def test_an_importer_without_a_source_says_how_to_call_it(command, tmp_path, monkeypatch) -> None:  # noqa: F811
    for name in ("kaldi", "nemo", "csv", "folder"):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigError, match=f"asr prepare {name} [A-Z]+ --out data$") as caught:
            prepare(IMPORTERS[name], Request(Path("data")))
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        write_wav(Path("a.wav"))
        made = {
            "kaldi": {"DIR/wav.scp": "a a.wav\n", "DIR/text": "a ONE\n"},
            "nemo": {"FILE": '{"audio_filepath": "a.wav", "text": "ONE"}\n'},
            "csv": {"FILE": "audio_path,text\na.wav,ONE\n"},
            "folder": {"DIR/a.txt": "ONE\n", "DIR/a.wav": Path("a.wav").read_bytes()},
        }[name]
        for path, content in made.items():
            Path(path).parent.mkdir(exist_ok=True)
            Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())
        done = command(*shlex.split(str(caught.value).partition("asr ")[2]))
        assert done.code == 0, done.err
        (written,) = Path("data").glob("*.jsonl")
        assert [u.text for u in manifest.read(written)] == ["ONE"]


def test_the_doctor_that_training_recommends_runs_as_printed(command, tmp_path, monkeypatch) -> None:  # noqa: F811
    data = tmp_path / "my data"
    build_corpus(data, 8)
    build_corpus(data, 4, name="dev")
    monkeypatch.setattr("asr.doctor.start.MOST_HEADERS", 4)
    monkeypatch.setattr("asr.doctor.start.SOME_HEADERS", 4)
    sets = [manifest.read(data / f"{name}.jsonl") for name in ("train", "dev")]
    *_, last = check_start(sets[0], range(len(sets[0])), sets[1], tiny_config().audio, "none")
    printed = shlex.split(last.partition("everything that was found: asr ")[2])
    assert printed[-2:] == ["--config", "CONFIG"]
    done = command(*printed[:-1], "an4/smoke")
    assert done.code in (0, 1), done.err  # 1: it finds what there is to find
    assert "train.jsonl" in done.out


def test_calls_with_names_to_fill_in_run_with_them(command, tmp_path, monkeypatch) -> None:  # noqa: F811
    monkeypatch.chdir(tmp_path)
    build_corpus(Path(), 2, name="MANIFEST")
    Path("TEXT").write_text("abc\nabd\ncab\ndad\n" * 3, encoding="utf-8")
    save_random_model(Path("MODEL"))
    for call, made in (
        ("asr lm train TEXT --tokenizer MODEL --out LM", "LM"),
        ("asr evaluate MODEL MANIFEST --hypotheses FILE", "FILE"),
    ):
        assert call in RUN_BY
        done = command(*shlex.split(call.replace("MANIFEST", "MANIFEST.jsonl"))[1:])
        assert done.code == 0, done.err
        assert Path(made).exists()
