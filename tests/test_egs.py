"""The scripts of egs/: every stage that one offers is there, and what it does not know stops it before any work."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

EGS = Path(__file__).parents[1] / "egs"
STAGED = [path for path in sorted(EGS.glob("*/run.sh")) if "run_stages" in path.read_text(encoding="utf-8")]


def test_every_example_but_the_quickstart_has_stages():
    assert {path.parent.name for path in EGS.glob("*/run.sh")} - {path.parent.name for path in STAGED} == {"quickstart"}


@pytest.mark.parametrize("path", STAGED, ids=lambda path: path.parent.name)
def test_an_unknown_stage_stops_the_script_before_any_work(path, tmp_path):
    text = path.read_text(encoding="utf-8")
    listed = re.search(r"^#   STAGE    (\w+)", text, re.MULTILINE)
    assert listed is not None
    command = ["bash", str(path), listed[1], "trian"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "WORK": str(tmp_path)})
    assert done.returncode == 2
    stages = re.fullmatch(r"no stage 'trian' \((.*)\)\n", done.stderr)
    assert stages is not None, done.stderr
    assert not list(tmp_path.iterdir())
    assert f"#   STAGE    {stages[1]}" in text
    for stage in stages[1].split():
        assert re.search(rf"^{stage}\(\) {{$", text, re.MULTILINE), stage


def run_stages(tmp_path: Path, *stages: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "run.sh"
    script.write_text(
        f"set -euo pipefail\nsource '{EGS}/stages.sh'\none() {{ echo 1; }}\ntwo() {{ echo 2; false; echo 3; }}\n"
        'three() { echo 4; }\nrun_stages "one two three" "$@"\n'
    )
    return subprocess.run(["bash", str(script), *stages], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("stages", "status", "written"),
    [((), 1, "1\n2\n"), (("three", "one"), 0, "4\n1\n"), (("two", "one"), 1, "2\n"), (("one", "on"), 2, "")],
)
def test_stages_run_in_the_order_given_and_stop_at_the_first_that_fails(tmp_path, stages, status, written):
    done = run_stages(tmp_path, *stages)
    assert (done.returncode, done.stdout) == (status, written)


@pytest.mark.parametrize(("begun", "written"), [(False, "train c --data d --out run"), (True, "train --resume run")])
def test_a_training_goes_on_where_it_was_cut(tmp_path, begun, written):
    (tmp_path / "run").mkdir()
    if begun:
        (tmp_path / "run" / "config.yaml").touch()
    script = f"set -euo pipefail\nsource '{EGS}/stages.sh'\nasr() {{ echo \"$*\"; }}\nstart_or_resume run c --data d"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"{written}\n"


def with_fake_asr(tmp_path: Path, script: str) -> str:
    """What a script does with the commands: 'asr' prints its arguments, and makes what --out names."""
    asr = 'asr() { echo "$*"; while [ $# -gt 0 ]; do [ "$1" != --out ] || touch "$2"; shift; done; }'
    script = f"set -euo pipefail\nsource '{EGS}/stages.sh'\n{asr}\n{script}"
    return subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True).stdout


def test_a_language_model_is_made_once_and_mixed_where_there_is_more_text(tmp_path):
    assert (
        with_fake_asr(tmp_path, "ngram own.arpa t.jsonl dev.jsonl ''") == "lm train t.jsonl --order 3 --out own.arpa\n"
    )
    assert with_fake_asr(tmp_path, "ngram own.arpa t.jsonl dev.jsonl ''") == ""
    assert with_fake_asr(tmp_path, "ngram m.bin t.jsonl dev.jsonl 'more text.gz'").splitlines() == [
        "lm train t.jsonl --order 3 --out m.bin.own.bin",
        "lm train more text.gz --order 3 --out m.bin.more.bin",
        "lm mix m.bin.own.bin m.bin.more.bin --text dev.jsonl --out m.bin",
    ]


def test_a_decoder_is_tuned_again_for_another_language_model(tmp_path):
    (tmp_path / "run" / "best").mkdir(parents=True)
    tuned = tmp_path / "run" / "tune.txt"
    with_fake_asr(tmp_path, "tune_once run dev.jsonl lm.bin --cache c")
    assert tuned.read_text() == f"tune run dev.jsonl --lm {tmp_path}/lm.bin --cache c\n"
    decoder = tmp_path / "run" / "best" / "decoder.json"
    for lm, again in (("lm.bin", False), ("other.bin", True)):
        decoder.write_text(json.dumps({"format_version": 1, "lm": str(tmp_path / lm)}, indent=2))
        tuned.unlink(missing_ok=True)
        with_fake_asr(tmp_path, "tune_once run dev.jsonl lm.bin")
        assert tuned.exists() == again


@pytest.mark.parametrize("name", ["librispeech", "mini_librispeech", "pretrained"])
def test_a_language_model_that_was_named_is_never_made(tmp_path, name):
    env = {"PATH": "/usr/bin:/bin", "WORK": str(tmp_path / "work"), "LM": "typo.bin"}
    done = subprocess.run(["bash", EGS / name / "run.sh", "lm"], cwd=tmp_path, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (2, f"LM={tmp_path}/typo.bin: no such file\n")
    assert not list(tmp_path.iterdir())


def test_two_targets_never_share_a_run(tmp_path):
    script = (EGS / "pretrained" / "run.sh").read_text(encoding="utf-8")
    begun = script[: script.index("source egs/stages.sh")].replace('cd "$(dirname "$0")/../.."', "")
    runs = []
    for target in ("work/an4/data", "/corpora/a", "/corpora/b", "a/data"):
        env = {"PATH": "/usr/bin:/bin", "TARGET": target}
        done = subprocess.run(
            ["bash", "-c", f"{begun}\necho $run"], capture_output=True, text=True, env=env, check=True
        )
        runs.append(done.stdout.strip())
    expected = ["an4", "corpora-a", "corpora-b", "a"]
    assert runs == [f"work/pretrained/{name}-seed1" for name in expected]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_browser_runtime_with_another_checksum_is_not_unpacked(tmp_path):
    shutil.copy(EGS / "browser" / "fetch.sh", tmp_path)
    (tmp_path / "changed.tgz").write_bytes(b"another file")
    command = ["bash", str(tmp_path / "fetch.sh")]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "TARBALL": str(tmp_path / "changed.tgz")},
    )
    assert done.returncode == 2
    assert re.fullmatch(r"fetch\.sh: \S+changed\.tgz: sha512 is \S+, expected \S+\n", done.stderr), done.stderr
    assert not (tmp_path / "vendor").exists()
