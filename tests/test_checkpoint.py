from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import asr.model.model_files
from asr.data.tokenizer import CharTokenizer
from asr.errors import CheckpointError
from asr.infer import log_probs
from asr.model.checkpoint import build_model, has_state, load_model, load_state, model_tensors, save_model, save_state
from asr.model.contract import AcousticModel
from asr.model.folder import find_model
from tests.builders import noise, tiny_config


def _model(seed: int = 0, *settings: str) -> AcousticModel:
    cfg = tiny_config(*settings)
    torch.manual_seed(seed)
    return build_model(cfg.audio, cfg.text, cfg.features, cfg.model, CharTokenizer(tuple(" abcé")))


def _save(path: Path, model: AcousticModel) -> Path:
    save_model(path, model, model_tensors(model), None)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return _save(tmp_path / "model", _model())


def _error(work: Callable[[], object], *named: Path | str) -> str:
    """The one line of a CheckpointError, in which each of ``named`` stands."""
    with pytest.raises(CheckpointError) as caught:
        work()
    message = str(caught.value)
    assert "\n" not in message
    for name in named:
        assert str(name) in message
    return message


def _edit(path: Path, change: Callable[[dict], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def _edit_tensors(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def _cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


# Model folders


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("features.kind=mfcc", "features.deltas=1", "model.cell=lstm"),
        ("model.bidirectional=false", "model.lookahead_steps=3", "model.cell=tanh", "text.normalization=lower"),
        ("features.kind=spectrogram", "features.normalization=corpus", "audio.sample_rate_hz=8000"),
    ],
)
def test_a_loaded_model_gives_bitwise_the_same_log_probs(tmp_path, settings):
    model = _model(3, *settings)
    rate = model.audio.sample_rate_hz
    bins = model.extractor.num_bins
    model.extractor.fit(np.arange(bins, dtype=float), np.full(bins, 1e4), 9)
    # weights and running statistics that are not those of a new model
    model.network.train()
    with torch.no_grad():
        model.network(torch.randn(3, 40, bins), torch.tensor([40, 30, 20]))
    model.network.eval()
    loaded = load_model(_save(tmp_path / "m", model))
    wave_n = noise(0.5, rate)
    assert np.array_equal(*(log_probs(one, [one.extractor(wave_n)])[0] for one in (model, loaded)))
    assert not loaded.network.training
    assert loaded.tokenizer == model.tokenizer
    assert (loaded.audio, loaded.text, loaded.extractor.cfg, loaded.network.cfg) == (
        model.audio,
        model.text,
        model.extractor.cfg,
        model.network.cfg,
    )


def test_corpus_statistics_travel_with_the_model(tmp_path):
    model = _model(0, "features.normalization=corpus")
    bins = model.extractor.num_bins
    model.extractor.fit(np.arange(bins) * 10.0, np.full(bins, 1e5), 10)
    loaded = load_model(_save(tmp_path / "m", model))
    assert np.array_equal(loaded.extractor.mean_f, np.arange(bins))
    assert np.array_equal(loaded.extractor.std_f, model.extractor.std_f)


def test_what_is_known_of_the_training_travels_with_the_model(tmp_path):
    model = _model()
    model.training.update(epoch=7, train_hours=0.5)
    save_model(tmp_path / "m", model, model_tensors(model), {"dev": {"wer": {"rate": 0.25}}})
    assert load_model(tmp_path / "m").training == {"epoch": 7, "train_hours": 0.5}
    assert json.loads((tmp_path / "m" / "results.json").read_text()) == {"dev": {"wer": {"rate": 0.25}}}


def test_saving_leaves_nothing_but_the_files_of_a_model(folder):
    _save(folder, _model(1))
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_a_model_loads_from_a_folder_that_was_moved(folder, tmp_path):
    moved = folder.rename(tmp_path / "elsewhere")
    assert load_model(moved).num_parameters == _model().num_parameters


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_a_truncated_weights_file_is_one_line_that_names_it(folder, share):
    path = folder / "model.safetensors"
    _cut(path, share)
    assert "not a whole safetensors file" in _error(lambda: load_model(folder), path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    message = _error(lambda: load_model(folder), folder)
    assert f"is not a model folder: {name} missing" in message


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b'{"format_', b"\xff\xfe\x00", b"[" * 100_000])
def test_bad_json_is_one_line_that_names_the_file(folder, name, content):
    (folder / name).write_bytes(content)
    assert "not valid JSON" in _error(lambda: load_model(folder), folder / name)


@pytest.mark.parametrize("content", ["[]", "3", "null", '"x"', "{}"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_json_of_another_kind_is_one_line_that_names_the_file(folder, name, content):
    (folder / name).write_text(content)
    _error(lambda: load_model(folder), folder / name)


def test_a_tensor_that_is_missing_is_named(folder):
    path = folder / "model.safetensors"
    _edit_tensors(path, lambda tensors: tensors.pop("network.output.weight"))
    assert "holds no tensor 'network.output.weight'" in _error(lambda: load_model(folder), path)


@pytest.mark.parametrize("name", ["network.extra", "features.extra", "extra", "optimizer.0.exp_avg"])
def test_a_foreign_tensor_is_named(folder, name):
    path = folder / "model.safetensors"
    _edit_tensors(path, lambda tensors: tensors.update({name: torch.zeros(2)}))
    assert f"holds a tensor '{name}'" in _error(lambda: load_model(folder), path)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(folder):
    path = folder / "model.safetensors"
    _edit_tensors(path, lambda tensors: tensors.update({"network.output.weight": torch.zeros(3, 4)}))
    message = _error(lambda: load_model(folder), path)
    assert "tensor 'network.output.weight' has shape [3, 4], config.json asks for [6, 16]" in message


def test_a_tokenizer_of_another_size_does_not_load(folder):
    _edit(folder / "tokenizer.json", lambda data: data["symbols"].append("z"))
    assert "config.json asks for [7, 16]" in _error(lambda: load_model(folder), folder / "model.safetensors")


@pytest.mark.parametrize("version", [2, 0, None, "1", [1]])
def test_another_format_version_is_refused_and_shown(folder, version):
    _edit(folder / "config.json", lambda data: data.update(format_version=version))
    message = _error(lambda: load_model(folder), folder / "config.json")
    assert message.endswith(f"format_version is {version!r}, this version of asr reads 1")


def test_a_typo_in_the_config_names_file_key_and_the_nearest(folder):
    def change(data):
        data["model"]["hiden"] = data["model"].pop("hidden")

    _edit(folder / "config.json", change)
    message = _error(lambda: load_model(folder), folder / "config.json")
    assert "model: unknown key 'hiden', did you mean 'hidden'?" in message


def test_sizes_that_no_machine_has_are_one_line_that_names_the_config(folder):
    _edit(folder / "config.json", lambda data: data["model"].update(hidden=10**9))
    _error(lambda: load_model(folder), folder / "config.json", "model.hidden: expected a number of at most 8192")


@pytest.mark.skipif(os.name != "posix", reason="permissions as on POSIX")
def test_a_network_takes_memory_only_after_it_was_compared_with_the_weights(folder, monkeypatch):
    _edit(folder / "config.json", lambda data: data["model"].update(hidden=4096, cell="gru"))
    compared = []

    def check(tensors: dict[str, Tensor], expected: dict[str, Tensor], path: Path) -> None:
        compared.append({name: tensor.is_meta for name, tensor in expected.items() if name.startswith("network.")})
        asr.model.model_files.check_alike(tensors, expected, path)

    monkeypatch.setattr("asr.model.checkpoint.check_alike", check)
    _error(lambda: load_model(folder), folder / "model.safetensors", "has shape", "config.json asks for [12288")
    assert len(compared) == 1 and all(compared[0].values())


def test_loading_draws_no_random_numbers_and_gives_weights_of_their_own(folder):
    before = torch.get_rng_state()
    loaded = load_model(folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.requires_grad for parameter in loaded.network.parameters())
    saved = model_tensors(loaded)
    _edit_tensors(folder / "model.safetensors", lambda tensors: [tensor.zero_() for tensor in tensors.values()])
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model_tensors(loaded).items())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"conv": [{"channels": 1024, "kernel_tf": [1, 1], "stride_tf": [1, 1]}]}, "a convolution has 16,384 values"),
        ({"conv": [], "encoder": "mlp", "mlp": {"context": 49}}, "a window has 1,584 values"),
    ],
)
def test_a_layer_that_takes_too_much_memory_in_use_is_refused(folder, monkeypatch, settings, said):
    _edit(folder / "config.json", lambda data: data["model"].update(settings))
    monkeypatch.setattr("asr.limits.STEP_VALUES", 700)
    _error(lambda: load_model(folder), folder / "config.json", f"model: {said} for each step, at most 700")


def test_attention_that_takes_too_much_memory_in_use_is_refused(folder):
    conformer = {"encoder": "conformer", "conv": [], "conformer": {"heads": 2, "subsampling_channels": 4}}

    def change(data: dict[str, Any]) -> None:
        data["model"].update(conformer)
        data["features"]["hop_s"] = 0.0002

    _edit(folder / "config.json", change)
    _error(lambda: load_model(folder), folder / "config.json", "model: attention with 2 heads and 667 steps per second")


def test_a_tensor_of_another_type_is_named_with_both_types(folder):
    _edit_tensors(folder / "model.safetensors", lambda t: t.update({"features.mean_f": t["features.mean_f"].half()}))
    _error(lambda: load_model(folder), "'features.mean_f' has type float16, expected float32")


def test_a_header_of_weights_longer_than_any_models_is_not_parsed(folder, monkeypatch):
    monkeypatch.setattr("asr.model.model_files.TENSOR_HEADER", 100)
    _error(lambda: load_model(folder), folder / "model.safetensors", "more than any model of asr has")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_pipe_in_the_place_of_a_file_does_not_hang(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    _error(lambda: load_model(folder), f"{name} missing")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_small_file_of_a_model_has_a_largest_size(folder, monkeypatch, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content + b" " * 4096)
    load_model(folder)
    monkeypatch.setattr("asr.files.read_small.__defaults__", (4096,))
    monkeypatch.setattr("asr.files.read_json.__defaults__", (4096,))
    _error(lambda: load_model(folder), folder / name, "cannot read: has more than 4 KiB")


def test_all_files_of_a_model_can_be_read_by_whom_the_others_can(tmp_path):
    before = os.umask(0o027)
    try:
        _save(tmp_path / "m", _model())
        save_state(tmp_path / "c", 1, {"a": torch.zeros(1)}, {})
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 5 and {path.stat().st_mode & 0o777 for path in files} == {0o640}


def test_a_config_that_cannot_be_built_names_the_file(folder):
    _edit(folder / "config.json", lambda data: data["features"].update(num_mels=400, fft_samples=512))
    assert "mel filters" in _error(lambda: load_model(folder), folder / "config.json")


class _Attack:
    """Unpickled, it makes a file: the harmless stand-in for any code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def _attacks(witness: Path) -> dict[str, bytes]:
    import io

    zipped = io.BytesIO()
    torch.save({"network.output.weight": _Attack(witness)}, zipped)
    return {"pickle": pickle.dumps({"network.output.weight": _Attack(witness)}), "torch.save": zipped.getvalue()}


@pytest.mark.parametrize("kind", ["pickle", "torch.save"])
def test_a_pickle_in_the_place_of_weights_is_refused_and_runs_no_code(folder, tmp_path, kind):
    witness = tmp_path / "witness"
    attack = _attacks(witness)[kind]
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(attack)
        _error(lambda: load_model(folder), folder / name)
        assert not witness.exists()
        (folder / name).write_bytes(before)
    # The attack itself works, so the test can fail.
    if kind == "pickle":
        pickle.loads(attack)
        assert witness.exists()


def test_extra_pickles_beside_the_model_are_never_opened(folder, tmp_path):
    witness = tmp_path / "witness"
    for name in ("pytorch_model.bin", "model.pt", "optimizer.pkl", "tokenizer.pkl"):
        (folder / name).write_bytes(_attacks(witness)["pickle"])
    load_model(folder)
    assert not witness.exists()


# Finding a model


def test_a_run_folder_means_its_best_model(tmp_path):
    _save(tmp_path / "run" / "best", _model())
    assert find_model(tmp_path / "run") == tmp_path / "run" / "best"
    assert find_model(str(tmp_path / "run" / "best")) == tmp_path / "run" / "best"


def test_a_best_model_cut_between_its_two_renames_is_read_where_it_lies(tmp_path):
    best = _save(tmp_path / "run" / "best", _model())
    best.rename(tmp_path / "run" / "best.old")
    for path in (tmp_path / "run", best):
        assert load_model(path).num_parameters == _model().num_parameters
        # Who only reads moves nothing: training may be between the two renames at this moment.
        assert not best.exists() and (tmp_path / "run" / "best.old").is_dir()


def test_another_model_with_old_in_its_name_is_not_taken_for_the_missing_one(tmp_path):
    _save(tmp_path / "model.old", _model())
    with pytest.raises(CheckpointError, match="no such model folder"):
        load_model(tmp_path / "model")


def test_a_replacement_cut_while_it_was_written_keeps_the_former_model(folder):
    before = (folder / "model.safetensors").read_bytes()
    part = folder.with_name("model.0a1b2c3d.part")
    shutil.copytree(folder, part)
    _cut(part / "model.safetensors", 0.5)
    load_model(folder)
    assert (folder / "model.safetensors").read_bytes() == before
    _save(folder, _model(1))
    assert not part.exists()


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda path: None, "no such model folder or run folder"),
        (lambda path: path.write_text("x"), "is a file; a model is a folder with model.safetensors, config.json"),
        (lambda path: path.mkdir(), "is not a model folder: model.safetensors, config.json, tokenizer.json missing"),
        (
            lambda path: (path / "checkpoints").mkdir(parents=True),
            "missing; it is a run folder without a best model yet: wait for its first validation",
        ),
    ],
)
def test_what_is_no_model_is_one_line_that_says_what_it_is(tmp_path, build, expected):
    path = tmp_path / "thing"
    build(path)
    assert expected in _error(lambda: load_model(path), path)


@pytest.mark.parametrize("name", ["HF:facebook/wav2vec2-base", "huggingface:facebook/wav2vec2-base"])
def test_a_prefix_of_hugging_face_in_other_letters_names_the_right_one(name):
    with pytest.raises(CheckpointError, match="no such model folder or run folder; a model of Hugging Face is hf:FOLD"):
        load_model(name)


# Failed writes


def _full_disk(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("broken", ["tensor_files.save_file", "checkpoint.write_json"])
def test_a_full_disk_keeps_the_former_model_whole(folder, monkeypatch, broken):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    monkeypatch.setattr(f"asr.model.{broken}", _full_disk)
    message = _error(lambda: _save(folder, _model(1)), folder)
    assert "cannot save: no space left on device; nothing that was there has changed" in message
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_a_replacement_that_fails_at_its_second_rename_puts_the_former_model_back(folder, monkeypatch):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.suffix == ".part":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        _error(lambda: _save(folder, _model(1)), folder, "cannot save: input/output error")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


LIMITED = """
import resource, sys
from pathlib import Path
from asr.model.checkpoint import load_model, model_tensors, save_model, save_state
from asr.errors import CheckpointError
folder = Path(sys.argv[1])
model = load_model(folder)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
for work in (
    lambda: save_model(folder, model, model_tensors(model), None),
    lambda: save_state(folder.parent / "states", 2, model_tensors(model), {}),
):
    try:
        work()
        print("saved")
    except CheckpointError as error:
        print(error)
"""


def test_a_write_that_the_system_cuts_short_keeps_what_was_there(folder):
    # RLIMIT_FSIZE: the real thing, from inside the write of the tensors
    states = folder.parent / "states"
    save_state(states, 1, {"x": torch.ones(3)}, {"step": 1})
    before = {p: p.read_bytes() for p in folder.parent.rglob("*") if p.is_file()}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parent.parent,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line, path in zip(lines, (folder, states / "step-00000002"), strict=True):
        assert line.startswith(f"{path}: cannot save: ")
        assert "nothing that was there has changed" in line
        assert "large" in line.lower(), "the reason of the system is missing"
    assert {p: p.read_bytes() for p in folder.parent.rglob("*") if p.is_file()} == before
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 2000  # the limit stayed in its process


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert "cannot save: file exists" in _error(lambda: _save(tmp_path / "file" / "model", _model()))


# Checkpoints of a run


def _state(folder: Path, step: int) -> Path:
    return save_state(folder, step, {"x": torch.full((100,), float(step))}, {"step": step})


def _names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_the_newest_two_checkpoints_are_kept_and_the_newest_is_loaded(tmp_path):
    for step in (1, 5, 9, 10, 100):
        _state(tmp_path, step)
    assert _names(tmp_path) == ["step-00000010", "step-00000100"]
    saved, skipped = load_state(tmp_path)
    assert (saved.state, skipped) == ({"step": 100}, [])
    assert torch.equal(saved.tensors["x"], torch.full((100,), 100.0))


def test_saving_a_step_again_keeps_the_one_before(tmp_path):
    # An epoch's end saves the step that a timed checkpoint has just saved.
    for step in (3, 5, 5):
        _state(tmp_path, step)
    assert _names(tmp_path) == ["step-00000003", "step-00000005"]


def test_a_checkpoint_of_as_many_layers_as_a_config_can_ask_for_is_read(tmp_path):
    # a WavLM of 256 layers: model, two numbers and a counter of each weight, an average, and the start
    names = [
        f"network.body.encoder.layers.{i}.attention.gru_rel_pos_linear.{j:02}" for i in range(256) for j in range(24)
    ]
    groups = ("model", "optimizer.exp_avg_sq", "optimizer.exp_avg", "optimizer.step", "average", "start")
    tensors = {f"{group}.{name}": torch.zeros(1) for group in groups for name in names}
    save_state(tmp_path, 1, tensors, {})
    assert len(load_state(tmp_path)[0].tensors) == len(tensors)


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
def test_a_damaged_newest_is_skipped_for_the_one_before_and_said(tmp_path, file):
    _state(tmp_path, 3)
    damaged = _state(tmp_path, 5)
    _cut(damaged / file, 0.6)
    saved, skipped = load_state(tmp_path)
    assert saved.state == {"step": 3}
    assert len(skipped) == 1 and str(damaged / file) in skipped[0]


def test_the_one_before_a_damaged_newest_survives_until_a_new_one_is_whole(tmp_path, monkeypatch):
    _state(tmp_path, 3)
    _cut(_state(tmp_path, 5) / "state.safetensors", 0.5)
    with monkeypatch.context() as patch, pytest.raises(CheckpointError):
        patch.setattr(asr.model.tensor_files, "save_file", _full_disk)
        _state(tmp_path, 4)
    assert load_state(tmp_path)[0].state == {"step": 3}
    _state(tmp_path, 4)
    assert load_state(tmp_path)[0].state == {"step": 4}
    _state(tmp_path, 6)
    assert load_state(tmp_path)[0].state == {"step": 6}


def test_damaged_steps_that_are_newer_cost_no_whole_checkpoint(tmp_path):
    _state(tmp_path, 3)
    newest = [shutil.copytree(tmp_path / "step-00000003", tmp_path / f"step-{step:08d}") for step in (7, 8, 9)]
    for path in newest:
        _cut(path / "state.safetensors", 0.5)
    assert load_state(tmp_path)[0].state == {"step": 3}
    _state(tmp_path, 4)
    assert _names(tmp_path) == ["step-00000003", "step-00000004"]
    assert load_state(tmp_path)[0].state == {"step": 4}
    _cut(_state(tmp_path, 5) / "state.safetensors", 0.5)
    assert load_state(tmp_path)[0].state == {"step": 4}, "one whole checkpoint is always left behind a damaged one"


def test_a_full_disk_keeps_the_checkpoints_before(tmp_path, monkeypatch):
    _state(tmp_path, 3)
    _state(tmp_path, 5)
    with monkeypatch.context() as patch:
        patch.setattr(asr.model.tensor_files, "save_file", _full_disk)
        _error(lambda: _state(tmp_path, 7), tmp_path / "step-00000007", "no space left on device")
    assert load_state(tmp_path)[0].state == {"step": 5}


def test_leftovers_of_a_kill_are_neither_loaded_nor_kept(tmp_path):
    _state(tmp_path, 3)
    (tmp_path / "step-00000005.part").mkdir()
    assert load_state(tmp_path)[0].state == {"step": 3}
    _state(tmp_path, 6)
    assert _names(tmp_path) == ["step-00000003", "step-00000006"]


def test_a_checkpoint_cut_between_its_two_renames_is_found(tmp_path):
    path = _state(tmp_path, 3)
    path.rename(tmp_path / "step-00000003.old")
    assert has_state(tmp_path)
    assert load_state(tmp_path)[0].state == {"step": 3}
    assert _names(tmp_path) == ["step-00000003"]


def test_no_checkpoint_is_one_line(tmp_path):
    assert not has_state(tmp_path)
    assert _error(lambda: load_state(tmp_path), tmp_path).endswith("no checkpoint to resume from")


def test_only_damaged_checkpoints_are_one_line_with_the_reason(tmp_path):
    damaged = _state(tmp_path, 3)
    _cut(damaged / "state.safetensors", 0.5)
    _error(lambda: load_state(tmp_path), tmp_path, "no checkpoint to resume from", "not a whole safetensors file")


@pytest.mark.parametrize("content", ["[]", "3", "null"])
def test_progress_of_another_kind_counts_as_damaged(tmp_path, content):
    (_state(tmp_path, 3) / "state.json").write_text(content)
    _error(lambda: load_state(tmp_path), "state.json", "expected an object")


@pytest.mark.parametrize("kind", ["pickle", "torch.save"])
def test_a_pickle_in_the_place_of_a_checkpoint_is_refused_and_runs_no_code(tmp_path, kind):
    witness = tmp_path / "witness"
    states = tmp_path / "states"
    path = _state(states, 3)
    for name in ("state.safetensors", "state.json"):
        _state(states, 3)
        (path / name).write_bytes(_attacks(witness)[kind])
        _error(lambda: load_state(states), path / name)
        assert not witness.exists()


def test_a_header_that_promises_more_than_memory_is_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 2**60) + path.read_bytes()[8:])
    _error(lambda: load_model(folder), path)
