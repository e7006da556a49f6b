"""``hf:FOLDER_OR_NAME``: what it names, which files are fetched, what is refused, what the model card says.

Nothing here reaches a network: a stand-in takes the place of the hub's library, and of the hub where it is installed.
"""

from __future__ import annotations

import fnmatch
import json
import sys
import types
from pathlib import Path

import pytest

from asr.errors import AsrError, CheckpointError, ConfigError
from asr.model.hf.card import read_card
from asr.model.hf.folder import locate
from asr.model.hf.names import HfName, is_hf, parse, settings_folder

SMALL = ["README.md", "config.json", "preprocessor_config.json", "vocab.json"]


def write_folder(folder: Path, **files: object) -> Path:
    """A folder of files: a name's double underscore is a dot, values are JSON or text."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "asr" / "hf"


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "place", "language"),
    [
        ("hf:facebook/wav2vec2-base-960h", "facebook/wav2vec2-base-960h", None),
        ("hf:facebook/mms-1b-all#deu", "facebook/mms-1b-all", "deu"),
        ("hf:facebook/mms-1b-all#cmn-script_simplified", "facebook/mms-1b-all", "cmn-script_simplified"),
        ("hf:gpt2", "gpt2", None),
        ("hf:./here#deu", "./here", "deu"),
        ("hf:/some/where/else", "/some/where/else", None),
    ],
)
def test_a_model_is_a_place_and_perhaps_a_language(model, place, language):
    assert is_hf(model) and parse(model) == HfName(place, language) and str(parse(model)) == model


@pytest.mark.parametrize("model", ["hf:", "hf:#deu", "hf:a b", "hf:a--b", "hf:a..b/c", "hf:-a/b", "hf:a/b.", "hf:ü/b"])
def test_what_is_neither_a_folder_nor_a_possible_name_is_one_line(model):
    with pytest.raises(ConfigError, match="neither a folder nor a name on the hub; expected hf:FOLDER"):
        parse(model)


@pytest.mark.parametrize("language", ["", "../x", "de u", "#"])
def test_a_language_is_a_word_and_no_path(language):
    with pytest.raises(ConfigError, match="is no language"):
        parse(f"hf:facebook/mms-1b-all#{language}")


def test_a_folder_may_have_a_hash_sign_in_its_name(tmp_path):
    (tmp_path / "take #2").mkdir()
    assert parse(f"hf:{tmp_path}/take #2") == HfName(f"{tmp_path}/take #2", None)


def test_settings_of_two_models_are_never_in_one_folder(tmp_path, cache):
    one, two = write_folder(tmp_path / "1" / "model"), write_folder(tmp_path / "2" / "model")
    models = [f"hf:{one}", f"hf:{two}", f"hf:{one}#deu", "hf:a/model", "hf:b/model", "hf:a/model#deu", "hf:model"]
    folders = [settings_folder(model) for model in models]
    assert len(set(folders)) == len(models)
    assert all(folder.parent == cache for folder in folders)
    assert settings_folder(f"hf:{one}/../model") == folders[0]


def test_settings_of_a_folder_with_a_strange_name_stay_in_the_cache(tmp_path, cache):
    folder = write_folder(tmp_path / "a b\n#;é")
    assert settings_folder(f"hf:{folder}").parent == cache
    assert settings_folder(f"hf:{folder}").name.startswith("a_b_")


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_folder_on_this_machine_needs_no_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    folder = write_folder(tmp_path / "model", config__json={"model_type": "wav2vec2"})
    assert locate(parse(f"hf:{folder}")) == folder


def test_a_name_without_the_library_is_one_line_with_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(AsrError, match=r"^hf:a/b: no folder of that name here.* pip install 'asr-ctc\[hf\]'"):
        locate(parse("hf:a/b"))


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "no config.json"),
        ({"config__json": "{"}, "config.json: not valid JSON"),
        ({"config__json": []}, "config.json: expected an object, got list"),
        ({"config__json": {"auto_map": {"AutoModelForCTC": "x.Y"}}}, r"config.json: asks for Python code .*'auto_map'"),
        ({"config__json": {"custom_pipelines": {"a": {}}}}, "asks for Python code of its own .'custom_pipelines'"),
        ({"config__json": {}, "tokenizer_config__json": {"auto_map": {"a": "b"}}}, "tokenizer_config.json: asks for"),
        ({"config__json": {}, "preprocessor_config__json": {"auto_map": {"a": 1}}}, "preprocessor_config.json: asks"),
        ({"hyperparams__yaml": "model: !new:os.system [ls]"}, "hyperparams.yaml: a SpeechBrain model"),
    ],
)
def test_a_folder_that_is_no_model_or_asks_for_code_is_refused(tmp_path, files, reason):
    folder = write_folder(tmp_path / "model", **files)
    with pytest.raises(CheckpointError, match=reason):
        locate(parse(f"hf:{folder}"))


def test_an_empty_request_for_code_is_none(tmp_path):
    folder = write_folder(tmp_path / "model", config__json={"auto_map": {}, "custom_pipelines": None})
    assert locate(parse(f"hf:{folder}")) == folder


def test_a_path_that_does_not_exist_is_no_name(tmp_path):
    with pytest.raises(CheckpointError, match="nothing: no such folder"):
        locate(parse(f"hf:{tmp_path}/nothing"))


# --- the hub ----------------------------------------------------------------------------------------------------------


class Hub:
    """The hub's library in small: models by name, a cache, and the files that it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models: dict[str, list[str]] = {}
        self.contents: dict[str, str] = {}
        self.fetched: list[str] = []
        self.error: Exception | None = None
        kinds = {"LocalEntryNotFoundError": FileNotFoundError, "RepositoryNotFoundError": OSError}
        self.errors = types.SimpleNamespace(**{name: type(name, (base,), {}) for name, base in kinds.items()})
        self.errors.GatedRepoError = type("GatedRepoError", (self.errors.RepositoryNotFoundError,), {})
        self.constants = types.SimpleNamespace(HF_HUB_OFFLINE=False)

    def snapshot_download(self, name: str, allow_patterns: list[str], local_files_only: bool = False) -> str:
        place = self.folder / name.replace("/", "--")
        if local_files_only:
            if not place.is_dir():
                raise self.errors.LocalEntryNotFoundError
            return str(place)
        if self.error:
            raise self.error
        for file in self.models[name]:
            if any(fnmatch.fnmatch(file, pattern) for pattern in allow_patterns) and not (place / file).exists():
                (place / file).parent.mkdir(parents=True, exist_ok=True)
                (place / file).write_text(self.contents.get(file, "{}"))
                self.fetched.append(file)
        return str(place)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Hub:
    monkeypatch.chdir(tmp_path)
    hub = Hub(tmp_path / "hub")
    package = types.ModuleType("huggingface_hub")
    package.__dict__.update(errors=hub.errors, constants=hub.constants, snapshot_download=hub.snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", hub.errors)
    return hub


def test_only_the_files_that_are_read_are_fetched(hub):
    hub.models["a/b"] = [*SMALL, "model.safetensors", "pytorch_model.bin", "tf_model.h5", "run.py", "wav/1.wav"]
    hub.models["a/b"] += ["language_model/5gram.bin", "language_model/attrs.json", "checkpoint-9/model.safetensors"]
    folder = locate(parse("hf:a/b"))
    wanted = [*SMALL, "language_model/5gram.bin", "language_model/attrs.json", "model.safetensors"]
    assert sorted(hub.fetched) == sorted(wanted) and (folder / "config.json").is_file()


def test_a_pickle_is_fetched_where_there_is_nothing_better(hub):
    hub.models["a/b"] = [*SMALL, "pytorch_model.bin", "training_args.bin", "optimizer.pt"]
    locate(parse("hf:a/b"))
    assert sorted(hub.fetched) == sorted([*SMALL, "pytorch_model.bin"])


def test_of_a_thousand_adapters_only_that_of_the_language_is_fetched(hub):
    adapters = [f"adapter.{language}.{kind}" for language in ("deu", "eng", "fra") for kind in ("safetensors", "bin")]
    hub.models["a/b"] = [*SMALL, "model.safetensors", *adapters]
    locate(parse("hf:a/b#deu"))
    assert sorted(hub.fetched) == sorted([*SMALL, "model.safetensors", "adapter.deu.safetensors"])


def test_an_adapter_that_is_only_a_pickle_is_fetched_beside_safetensors(hub):
    hub.models["a/b"] = [*SMALL, "model.safetensors", "pytorch_model.bin", "adapter.deu.bin", "adapter.eng.bin"]
    locate(parse("hf:a/b#deu"))
    assert sorted(hub.fetched) == sorted([*SMALL, "model.safetensors", "adapter.deu.bin"])


def test_what_the_cache_has_is_used_without_a_network(hub):
    hub.models["a/b"] = [*SMALL, "model.safetensors"]
    folder = locate(parse("hf:a/b"))
    hub.error = OSError("no network")
    assert locate(parse("hf:a/b")) == folder


def test_an_interrupted_download_goes_on(hub):
    hub.models["a/b"] = [*SMALL, "model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"]
    folder = locate(parse("hf:a/b"))
    index = {"weight_map": {"x": "model-1.safetensors", "y": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model-2.safetensors").unlink()
    hub.fetched.clear()
    locate(parse("hf:a/b"))
    assert hub.fetched == ["model-2.safetensors"]


def test_a_model_that_asks_for_code_is_refused_before_its_weights_are_fetched(hub):
    hub.models["a/b"] = [*SMALL, "model.safetensors"]
    hub.contents["config.json"] = '{"auto_map": {"AutoModelForCTC": "x.Y"}}'
    with pytest.raises(CheckpointError, match="asks for Python code"):
        locate(parse("hf:a/b"))
    assert "model.safetensors" not in hub.fetched


@pytest.mark.parametrize(
    ("kind", "offline", "reason"),
    [
        ("LocalEntryNotFoundError", False, "not in the cache, and the hub cannot be reached; .*hf download a/b"),
        ("LocalEntryNotFoundError", True, "not in the cache, and HF_HUB_OFFLINE is set; unset it, or fetch it"),
        ("RepositoryNotFoundError", False, r"neither a folder here nor a model on the hub; .*\(hf auth login\)"),
        ("GatedRepoError", False, "its owner asks for an agreement: accept it at https://huggingface.co/a/b"),
    ],
)
def test_a_model_that_cannot_be_fetched_is_one_line_without_a_token(hub, kind, offline, reason):
    hub.error = getattr(hub.errors, kind)("hf_secret_token")
    hub.constants.HF_HUB_OFFLINE = offline
    with pytest.raises(AsrError, match=reason) as caught:
        locate(parse("hf:a/b"))
    assert str(caught.value).startswith("hf:a/b: ") and "secret" not in str(caught.value)


def test_a_full_disk_is_told_as_the_system_tells_it(hub):
    hub.error = OSError(28, "No space left on device", "/somewhere")
    with pytest.raises(AsrError, match="cannot be fetched: no space left on device"):
        locate(parse("hf:a/b"))


# --- the model card ---------------------------------------------------------------------------------------------------

CARD = """---
language: {language}
license: {licence}
datasets:
- mozilla-foundation/common_voice_11_0
model-index:
- name: x
---
# A model
---
license: not this
---
"""


@pytest.mark.parametrize(
    ("language", "shown"),
    [
        ("de", "de"),
        ("[de, fr]", "de, fr"),
        ("no", "no"),
        ("[a, b, c, d, e, f, g, h, i, j]", "a, b, c, d, e, f, g, h and 2 more"),
    ],
)
def test_the_card_tells_language_licence_and_corpus(tmp_path, language, shown):
    folder = write_folder(tmp_path, README__md=CARD.format(language=language, licence="cc-by-nc-4.0"))
    expected = {"language": shown, "licence": "cc-by-nc-4.0", "corpus": "mozilla-foundation/common_voice_11_0"}
    assert read_card(folder) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# no front matter",
        "---\nlicense: mit\n",
        "---\n- a list\n---\n",
        "---\nlicense: !!python/object/apply:os.system [touch /tmp/x]\n---\n",
        "---\na: &a [x]\nlicense: [*a, *a]\n---\n",
        "---\nlicense: {a: b}\n---\n",
        "---\n" + "[" * 5000 + "\n---\n",
        "---\nlicense: \x00\n---\n",
    ],
)
def test_a_card_that_is_missing_damaged_or_hostile_says_nothing(tmp_path, text):
    assert read_card(write_folder(tmp_path, README__md=text)) == {}
    assert read_card(tmp_path / "nowhere") == {}


def test_a_long_card_is_shown_short_and_on_one_line(tmp_path):
    card = read_card(write_folder(tmp_path, README__md=CARD.format(language='"a\\nb"', licence="x" * 10_000)))
    assert card["language"] == "a b" and len(card["licence"]) == 80
