"""Who may import whom. ``docs/architecture.md`` draws it, this table holds it."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
import time
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: module or package of asr -> floor; a longer name wins over a shorter one (lm.rnn over lm)
FLOORS = {
    # 0: no torch
    "errors": 0,
    "limits": 0,
    "files": 0,
    "heartbeat": 0,
    "machine": 0,
    "config": 0,
    "data": 0,
    "scoring": 0,
    "model.bundle_facts": 0,
    "model.folded": 0,
    "model.foreign": 0,
    "model.hf.names": 0,
    "model.nemo.names": 0,
    "model.parts": 0,
    # 1: no torch; numpy, soundfile, numba
    "jit": 1,
    "native": 1,
    "transcript": 1,
    "sound": 1,
    "data.audio": 1,
    "data.shards": 1,
    "data.sharding": 1,
    "recordings": 1,
    "outputs": 1,
    "download": 1,
    "corpora": 1,
    "doctor": 1,
    "lm": 1,
    "lm.neural.text": 1,
    "decode": 1,
    "alignment": 1,
    "features": 1,
    "utterance": 1,
    "ahead": 1,
    "infer": 1,
    "model.contract": 1,
    "model.model_files": 1,
    "model.precision": 1,
    "model.streamable": 1,
    "model.cpu.cells": 1,
    "model.cpu.inference": 1,
    "model.cpu.loops": 1,
    "model.cpu.packed": 1,
    "model.cpu.streams": 1,
    "model.cpu.tiles": 1,
    "model.cpu.vectors": 1,
    "model.onnx": 1,
    # 2: torch
    "features.build": 2,
    "features.hidden": 2,
    "batch": 2,
    "ctc": 2,
    "runtime": 2,
    "model": 2,
    "model.onnx.check": 2,
    "model.onnx.features": 2,
    "model.onnx.network": 2,
    "model.onnx.run": 3,
    "model.onnx.streaming": 2,
    "model.onnx.write": 2,
    "lm.neural": 2,
    "training.augment": 2,
    "training.distort": 2,
    "training.distributed": 2,
    "training.freezing": 2,
    "training.joined": 2,
    "training.liveness": 2,
    "training.optim": 2,
    "training.plan": 2,
    # 3: what a person asks for
    "model.bundles": 3,
    "model.checkpoint": 3,
    "model.folder": 3,
    "model.prepared": 3,
    "model.start": 3,
    "model.use": 3,
    "model.hf.export": 3,
    "model.onnx.export": 3,
    "model.hf.published": 3,
    "model.nemo.published": 3,
    "train": 3,
    "training": 3,
    "evaluate": 3,
    "transcribe": 3,
    "align": 3,
    "tuning": 3,
    "info": 3,
    "streaming": 3,
    "bench": 3,
    "lm.neural.folder": 3,
    "lm.neural.train": 3,
    "doctor.expected": 3,
    "doctor.picture": 3,
    "scoring.examples": 3,
    "scoring.picture": 3,
    # 4: parse, call one library function, print
    "server": 4,
    "commands": 4,
    "cli": 4,
    "__main__": 4,
}
#: modules of floors 2 and 3 that load no torch themselves, and import what does only when it is asked for
USE = (
    "features.build",
    "lm.neural.place",
    "model.folder",
    "model.use",
    "model.onnx.run",
    "evaluate",
    "transcribe",
    "align",
    "tuning",
    "info",
    "streaming",
    *(("server",) if importlib.util.find_spec("starlette") else ()),
    "scoring.examples",
    "scoring.picture",
    "training.watchdog",
)
#: the package itself: its version for everybody, and ``Recognizer`` on first use
FACADE = "asr"
TORCH = ("torch", "torchaudio")


def module_names() -> list[str]:
    """Every module of asr, dotted; a package by its own name. A wheel's copy of the recipes is not one."""
    names = []
    for path in sorted((ROOT / "asr").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if "_recipes" not in parts:
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def floor_of(name: str) -> int | None:
    """The floor of a module; 0 for asr itself, None when the table has no entry."""
    parts = name.split(".")[1:]
    if not parts:
        return 0
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in FLOORS:
            return FLOORS[".".join(parts[:end])]
    return None


@cache
def imports_of(name: str) -> tuple[tuple[str, int, bool], ...]:
    """What a module imports, anywhere in it: (dotted name, line, at the top level)."""
    path = ROOT.joinpath(*name.split("."))
    is_package = path.is_dir()
    path = path / "__init__.py" if is_package else path.with_suffix(".py")
    return tuple(_imports(ast.parse(path.read_text(encoding="utf-8")), name, is_package))


def _imports(tree: ast.Module, name: str, is_package: bool) -> list[tuple[str, int, bool]]:
    known = set(module_names())
    deferred = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _is_type_checking(outer)
        for inner in ast.walk(outer)
    }
    found = []
    for node in ast.walk(tree):
        top = id(node) not in deferred
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno, top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name if is_package else name.rpartition(".")[0]
                base = importlib.util.resolve_name("." * node.level + base, package)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.append((full if full in known else base, node.lineno, top))
    return found


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def violations(name: str, imports: tuple[tuple[str, int, bool], ...]) -> list[str]:
    """The imports of a module that reach a higher floor, or torch from floor 0 or 1."""
    own = floor_of(name)
    assert own is not None
    bad = []
    for target, line, _ in imports:
        if target.split(".")[0] == "asr":
            floor = floor_of(target)
            if floor is None or floor > own:
                bad.append(f"{name}:{line} (floor {own}) imports {target} (floor {floor})")
        elif target.split(".")[0] in TORCH and own < 2:
            bad.append(f"{name}:{line} (floor {own}) imports {target}: torch starts at floor 2")
    return bad


def test_every_module_has_a_floor():
    unlisted = [name for name in module_names() if floor_of(name) is None]
    assert not unlisted, f"add to FLOORS in tests/test_floors.py and to docs/architecture.md: {unlisted}"


@pytest.mark.parametrize("name", module_names())
def test_a_module_imports_only_from_its_own_floor_or_lower(name):
    if floor_of(name) is None:
        pytest.skip("unlisted: test_every_module_has_a_floor says so")
    if name == FACADE:
        pytest.skip("the facade names floor 3 lazily; that importing it loads no torch is held below")
    assert not violations(name, imports_of(name))


def test_modules_import_each_other_without_cycles():
    known = set(module_names())
    graph = {name: {t for t, _, _ in imports_of(name) if t in known and t != name} for name in known - {FACADE}}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("name", module_names())
def test_the_library_never_imports_recipes_or_examples(name):
    assert not [target for target, _, _ in imports_of(name) if target.split(".")[0] in ("recipes", "egs", "tests")]


# the server is loaded by a subcommand only, as a whole, and loads no torch (USE)
@pytest.mark.parametrize("name", [n for n in module_names() if floor_of(n) == 4 and "server" not in n.split(".")])
def test_the_command_imports_torch_only_inside_a_subcommand(name):
    heavy = [t for t, _, top in imports_of(name) if top and (t.split(".")[0] in TORCH or (floor_of(t) or 0) in (2, 3))
             and t.split(".")[0] in (*TORCH, "asr")]  # fmt: skip
    assert not heavy


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("asr.data.text", "from asr.data import audio", "asr.data.text:1 (floor 0) imports asr.data.audio (floor 1)"),
        (
            "asr.data.text",
            "def f():\n    import asr.data.audio",
            "asr.data.text:2 (floor 0) imports asr.data.audio (floor 1)",
        ),
        ("asr.data.text", "from .audio import load", "asr.data.text:1 (floor 0) imports asr.data.audio (floor 1)"),
        ("asr.data.audio", "import torch.nn", "asr.data.audio:1 (floor 1) imports torch.nn: torch starts at floor 2"),
        ("asr.data.audio", "import asr.nothing", "asr.data.audio:1 (floor 1) imports asr.nothing (floor None)"),
    ],
)
def test_the_check_finds_imports_in_every_form(module, source, expected):
    assert violations(module, tuple(_imports(ast.parse(source), module, False))) == [expected]


def test_the_check_accepts_imports_downwards_and_sideways():
    source = (
        "import numpy\nfrom asr import errors, files\nfrom asr.data.audio import load\nfrom .files import write_text"
    )
    assert violations("asr.corpora.recipe", tuple(_imports(ast.parse(source), "asr.corpora.recipe", False))) == []


def test_asr_the_lower_floors_and_use_load_no_torch():
    light = ["asr", *(name for name in module_names() if name != "asr" and floor_of(name) in (0, 1))]
    light += [name for name in module_names() for use in USE if f"{name}.".startswith(f"asr.{use}.")]
    script = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    if any(m in sys.modules for m in ('torch', 'torchaudio', 'librosa')):\n"
        "        sys.exit('torch or librosa is loaded by ' + name)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *light], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_loads_no_torch():
    script = (
        "import runpy, sys\n"
        "sys.argv = ['asr', '--help']\n"
        "try:\n"
        "    runpy.run_module('asr', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    code = end.code or 0\n"
        "heavy = {'torch', 'numba', 'librosa', 'soundfile', 'scipy'} & set(sys.modules)\n"
        "sys.exit('loaded: ' + ', '.join(sorted(heavy)) if heavy else code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "prepare" in done.stdout


def test_help_answers_in_300_ms():
    # The best of five: the promise is about the program, not about what else the machine does.
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "asr", "--help"], cwd=ROOT, capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.3
