"""The documents against the code: config keys and defaults, links, commands, and the recipe that they print."""

from __future__ import annotations

import re
import shlex
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from asr.cli import commands
from asr.config import ConvConfig, RunConfig, Stage, all_keys
from asr.corpora.catalogue import find_recipe
from asr.corpora.prepare import prepare
from asr.corpora.recipe import Request
from asr.data import manifest
from tests.builders import write_wav

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"])
COMMAND = typer.main.get_command(commands())

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SHELL = ("", "bash", "sh", "shell", "console")


def blocks(text: str, *languages: str) -> list[str]:
    """The fenced code blocks in one of the languages."""
    return [body for language, body in _FENCE.findall(text) if language in languages]


def commands(text: str) -> Iterator[list[str]]:
    """The words after ``asr`` of each call in shell blocks and in code spans."""
    lines = [line for block in blocks(text, *_SHELL) for line in block.replace("\\\n", " ").splitlines()]
    lines += [span for span in re.findall(r"`([^`\n]+)`", _FENCE.sub("", text)) if span.startswith("asr ")]
    for line in lines:
        lexer = shlex.shlex(line.replace("…", ""), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = None
        try:
            tokens = list(lexer)
        except ValueError:  # a quote that ends on another line: no call that could be read
            continue
        for token in tokens:
            if set(token) <= set("();<>|&"):
                if words:
                    yield words
                words = None
            elif words is None and (token == "asr" or token.endswith("/asr")):
                words = []
            elif words is not None:
                words.append(token)
        if words:
            yield words


def problem(words: list[str]) -> str | None:
    """What the command does not know of a call, or None."""
    node: Any = COMMAND
    known = {"-h", "--help"} | {o for p in node.params for o in p.opts}
    for word in words:
        word = word.strip("[].,:")
        if word.startswith("-") and word != "-":
            if word.partition("=")[0] not in known:
                return f"no option {word}"
        elif hasattr(node, "commands") and word and not word.isupper():  # SUBCOMMAND is a placeholder
            if word not in node.commands:
                return f"no subcommand {word}"
            node = node.commands[word]
            known = {"-h", "--help"} | {o for p in node.params for o in p.opts}
    return None


def default_of(kind: type[Stage], key: str) -> Any:
    value: Any = kind().model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value


def row(key: str, default: Any) -> str:
    shown = yaml.safe_dump(default, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
    return f"| `{key}` | `{shown}` |"


@pytest.mark.parametrize("kind", [RunConfig, ConvConfig])
def test_every_config_key_is_documented_with_its_default(kind):
    lines = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8").splitlines()
    expected = [row(k, v) for k in all_keys(kind) if not isinstance(v := default_of(kind, k), dict)]
    assert not [one for one in expected if not any(line.startswith(one) for line in lines)]


def test_no_config_key_is_documented_that_does_not_exist():
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE)
    assert set(documented) <= {*all_keys(RunConfig), *all_keys(ConvConfig)}
    assert len(set(documented)) == len(documented)


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_relative_links_lead_somewhere(path):
    targets = re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", path.read_text(encoding="utf-8")))
    files = [t.partition("#")[0] for t in targets if not re.match(r"[a-z]+:", t)]
    assert not [f for f in files if f and not (path.parent / f).exists()]


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_documented_commands_and_options_exist(path):
    calls = list(commands(path.read_text(encoding="utf-8")))
    assert not [f"asr {' '.join(words)}: {what}" for words in calls if (what := problem(words))]


def test_the_check_of_commands_finds_what_is_wrong():
    block = "PATH=a asr train a --dta b > c && .venv/bin/asr evaluate m \\\n  n --jsn | cat\n"
    text = f"`asr trian x`\n\n```bash\n{block}```\n"
    assert [problem(words) for words in commands(text)] == ["no option --dta", "no option --jsn", "no subcommand trian"]
    assert [problem(words) for words in commands("`asr prepare RECIPE [--archive FILE] --out DIR`")] == [None]
    adding = (ROOT / "docs" / "adding-a-dataset.md").read_text(encoding="utf-8")
    assert len(list(commands(adding))) >= 8


def test_the_documented_script_and_recipe_work(tmp_path, monkeypatch):
    script, recipe = blocks((ROOT / "docs" / "adding-a-dataset.md").read_text(encoding="utf-8"), "python")
    config, *_ = blocks((ROOT / "docs" / "adding-a-dataset.md").read_text(encoding="utf-8"), "yaml")
    names = [f"s{i}-{n}" for i in range(5) for n in range(2)]
    for name in names:
        write_wav(tmp_path / "mycorpus" / "clips" / f"{name}.wav")
    table = "file,speaker,text\n" + "".join(f'{n}.wav,{n[:2]},"Yes, {n}"\n' for n in names)

    for split in ("train", "dev", "test"):
        (tmp_path / "mycorpus" / f"{split}.csv").write_text(table, encoding="utf-8")
    monkeypatch.chdir(tmp_path / "mycorpus")
    exec(compile(script, "script", "exec"), {})
    assert len(manifest.read("train.jsonl")) == len(names)

    (tmp_path / "mycorpus" / "transcripts.csv").write_text(table + "gone.wav,s0,no\n", encoding="utf-8")
    with tarfile.open(tmp_path / "mycorpus.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "mycorpus", "mycorpus")
    folder = tmp_path / "recipe"
    (folder / "conf").mkdir(parents=True)
    (folder / "recipe.py").write_text(recipe, encoding="utf-8")
    found, _ = find_recipe(str(folder))
    prepared = prepare(found, Request(tmp_path / "out", (tmp_path / "mycorpus.tar.gz",)))
    assert {name: len(rows) for name, rows in prepared.utterances.items()} == {"train": 6, "dev": 2, "test": 2}
    assert list(prepared.dropped) == ["gone"]
    assert all(manifest.read(path) for path in prepared.manifests.values())
    RunConfig.model_validate(yaml.safe_load(config))


def test_the_reading_list_can_be_read_in_an_evening():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## Reading the code")[2].partition("\n## ")[0]
    listed = re.findall(r"\((asr/[a-z_/]+\.py)\)", section)
    assert len(listed) > 8
    assert sum(len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in listed) < 2000
