from __future__ import annotations

import hashlib
import io
import random
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.config import load as load_config
from asr.corpora.catalogue import find_config, find_recipe, recipe_configs, recipe_names, recipes_folder
from asr.corpora.corpus import corpus_folder
from asr.corpora.importers import IMPORTERS
from asr.corpora.prepare import check_request, prepare
from asr.corpora.recipe import Corpus, Recipe, Request, held_out_speakers, stable_hash
from asr.data import manifest
from asr.data import prepared as headers
from asr.download.remote import Remote
from asr.errors import ConfigError, DataError
from tests.builders import noise, sphere_bytes
from tests.servers import serving

CONTENTS = {f"corpus/{i:02d}.bin": random.Random(i).randbytes(20_000 + i) for i in range(8)}


def _add(tar: tarfile.TarFile, name: str, content: bytes = b"", **fields: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in fields.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(content))


def _archive(path: Path, contents: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in contents.items():
            _add(tar, name, content)
    return path


def _files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_stable_hash_is_the_same_on_every_machine():
    assert stable_hash("fash") == pytest.approx(0.653517, abs=1e-6)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_stable_hash_is_in_the_unit_interval(text):
    assert 0 <= stable_hash(text) < 1


NAMES = st.lists(st.text("abcdefgh", min_size=1, max_size=4), min_size=1, max_size=40, unique=True)


@given(NAMES, st.randoms())
def test_held_out_speakers_depend_on_the_names_alone(names, rng):
    held_out = held_out_speakers(names, 0.1, "corpus")
    assert held_out <= set(names)
    assert len(held_out) == max(1, round(0.1 * len(names)))
    shuffled = names * 2
    rng.shuffle(shuffled)
    assert held_out_speakers(shuffled, 0.1, "corpus") == held_out


@given(NAMES, st.text("xyz", min_size=1, max_size=4))
def test_one_more_speaker_moves_at_most_one_other(names, extra):
    before, after = held_out_speakers(names, 0.2, "s"), held_out_speakers([*names, extra], 0.2, "s")
    assert len(before - after) <= 1
    assert len(after - before - {extra}) <= 1


# an4, on an archive made here


def _an4_archive(path: Path, *, without: tuple[str, ...] = (), extra: dict[str, bytes] | None = None) -> Path:
    """The AN4 layout in small: 5 training speakers and 2 test speakers of 3 utterances each."""
    contents: dict[str, bytes] = {"an4/LICENSE": b"free\n", "an4/README": b"not wanted\n"}
    rng = np.random.default_rng(0)
    for split, speakers in (("train", ["fash", "mblb", "fbbh", "mmxg", "ffmm"]), ("test", ["fcaw", "mjgm"])):
        names, lines = [], []
        for speaker in speakers:
            for i in range(3):
                id_ = f"an{i}-{speaker}-b"
                names.append(f"an4{split if split == 'test' else ''}_clstk/{speaker}/{id_}")
                text = f"GO {'ABC'[i]}"
                lines.append(f"<s> {text} </s> ({id_})" if split == "train" else f"{text} ({id_})")
                wave = noise(float(rng.uniform(0.1, 0.3)), seed=i)
                contents[f"an4/wav/{names[-1]}.sph"] = sphere_bytes(wave)
        contents[f"an4/etc/an4_{split}.fileids"] = ("\n".join(names) + "\n").encode()
        contents[f"an4/etc/an4_{split}.transcription"] = ("\n".join(lines) + "\n").encode()
    contents = {k: v for k, v in contents.items() if k not in without} | (extra or {})
    return _archive(path, contents)


def _an4():
    return find_recipe("an4")[0]


def test_an4_gives_three_splits_with_no_speaker_in_two(tmp_path):
    out = tmp_path / "an4"
    prepared = prepare(_an4(), Request(out, (_an4_archive(tmp_path / "a.tar.gz"),)))
    splits = {name: manifest.read(path) for name, path in prepared.manifests.items()}
    assert {name: len(m) for name, m in splits.items()} == {"train": 12, "dev": 3, "test": 6}
    speakers = [m.speakers for m in splits.values()]
    assert len(set.union(*speakers)) == sum(map(len, speakers)) == 7
    assert splits["test"].speakers == {"fcaw", "mjgm"}
    assert prepared.dropped == {}
    for split in splits.values():
        for utterance in split:
            assert utterance.text == f"GO {'ABC'[int(utterance.id[2])]}"
            assert split.audio_path(utterance).is_file()
            assert 0.1 <= utterance.duration_s <= 0.3
    assert not (out / "an4" / "README").exists()
    assert (out / "an4" / "LICENSE").exists()
    assert not list(out.rglob("*.part"))


def test_an4_prepared_twice_gives_the_same_bytes(tmp_path):
    archive = _an4_archive(tmp_path / "a.tar.gz")
    prepare(_an4(), Request(tmp_path / "out", (archive,)))
    before = _files(tmp_path / "out")
    prepare(_an4(), Request(tmp_path / "out", (archive,)))
    assert _files(tmp_path / "out") == before


def test_an4_that_is_extracted_already_is_used_where_it_is(tmp_path):
    archive = _an4_archive(tmp_path / "a.tar.gz")
    first = prepare(_an4(), Request(tmp_path / "out", (archive,)))
    archive.unlink()
    for request in (Request(tmp_path / "out"), Request(tmp_path / "new", (tmp_path / "out" / "an4",))):
        again = prepare(_an4(), request)
        folder = tmp_path / "out" if request.archive else Path()
        for name, rows in first.utterances.items():
            assert [(u.id, u.audio_path) for u in again.utterances[name]] == [
                (u.id, str(folder / u.audio_path)) for u in rows
            ]


def test_an4_drops_and_names_what_has_no_transcript_no_audio_or_no_entry(tmp_path):
    whole = _an4_archive(tmp_path / "whole.tar.gz")
    with tarfile.open(whole) as tar:
        text = tar.extractfile("an4/etc/an4_train.transcription").read().decode()
    text = text.replace("<s> GO A </s> (an0-fash-b)\n", "").replace("GO B </s> (an1-fash-b)", "</s> (an1-fash-b)")
    text += "<s> LOST </s> (an9-none-b)\n"
    archive = _an4_archive(
        tmp_path / "a.tar.gz",
        without=("an4/wav/an4_clstk/mblb/an0-mblb-b.sph",),
        extra={
            "an4/etc/an4_train.transcription": text.encode(),
            "an4/wav/an4_clstk/mblb/an1-mblb-b.sph": b"not audio",
            "an4/wav/an4_clstk/mblb/an2-mblb-b.sph": sphere_bytes(np.zeros(0)),
        },
    )
    out = tmp_path / "out"
    prepared = prepare(_an4(), Request(out, (archive,)))
    folder = out / "an4" / "wav" / "an4_clstk" / "mblb"
    bad = prepared.dropped.pop("an1-mblb-b")
    assert bad.startswith(f"{folder / 'an1-mblb-b.sph'}: not audio that can be read")
    assert prepared.dropped == {
        "an0-fash-b": "no transcript",
        "an1-fash-b": "no transcript",
        "an9-none-b": "not listed in an4_train.fileids",
        "an0-mblb-b": f"{folder / 'an0-mblb-b.sph'}: cannot read the audio: no such file or directory",
        "an2-mblb-b": f"{folder / 'an2-mblb-b.sph'}: no samples",
    }
    kept = {u.id for rows in prepared.utterances.values() for u in rows}
    assert len(kept) == 21 - 5
    assert "kept 16 of 21" in prepared.summary()


def test_an4_says_where_a_transcript_is_malformed(tmp_path):
    archive = _an4_archive(
        tmp_path / "a.tar.gz",
        extra={"an4/etc/an4_train.transcription": b"<s> GO A </s> (an0-fash-b)\n\nNO ID HERE\n"},
    )
    with pytest.raises(DataError) as caught:
        prepare(_an4(), Request(tmp_path / "out", (archive,)))
    path = tmp_path / "out" / "an4" / "etc" / "an4_train.transcription"
    assert str(caught.value) == f"{path}:3: expected 'TEXT (utterance-id)'"


def test_an4_says_which_file_is_not_utf8_and_which_is_missing(tmp_path):
    name = "an4/etc/an4_train.fileids"
    with pytest.raises(DataError) as caught:
        prepare(_an4(), Request(tmp_path / "1", (_an4_archive(tmp_path / "a.tar.gz", extra={name: b"caf\xe9\n"}),)))
    assert str(caught.value) == (
        f"{tmp_path / '1' / name}:1: not UTF-8 text (invalid continuation byte at byte 3); convert it, for example "
        "with iconv"
    )
    with pytest.raises(DataError) as caught:
        prepare(_an4(), Request(tmp_path / "2", (_an4_archive(tmp_path / "b.tar.gz", without=(name,)),)))
    assert str(caught.value) == f"{tmp_path / '2' / name}: cannot read the texts: no such file or directory"


def test_an4_refuses_another_archive(tmp_path):
    archive = _archive(tmp_path / "a.tar.gz", CONTENTS)
    with pytest.raises(DataError) as caught:
        prepare(_an4(), Request(tmp_path / "out", (archive,)))
    assert str(caught.value).startswith(
        f"{archive}: holds no file that is needed in corpus/: is this the right archive? (it has corpus/00.bin, "
    )


def test_an4_is_downloaded_where_no_archive_is_given(tmp_path):
    archive = _an4_archive(tmp_path / "any-name.tgz")
    path = "/databases/an4/an4_sphere.tar.gz"
    with serving({path: archive.read_bytes()}) as host:
        prepared = prepare(_an4(), Request(tmp_path / "out", mirror=host.url))
        host.files = {}
        with pytest.raises(DataError) as caught:
            prepare(_an4(), Request(tmp_path / "other", mirror=host.url))
    assert {name: len(rows) for name, rows in prepared.utterances.items()} == {"train": 12, "dev": 3, "test": 6}
    assert str(caught.value) == (
        f"{host.url}{path}: HTTP 404 Not Found; see http://www.speech.cs.cmu.edu/databases/an4/, or leave out "
        "--mirror, or fetch it in another way and give --archive an4_sphere.tar.gz"
    )


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("way", ["--archive", "--mirror", "downloaded"])
def test_another_archive_of_the_same_name_is_refused_later(tmp_path, way):
    place = tmp_path / "mirror" / "databases" / "an4"
    place.mkdir(parents=True)
    archive = _an4_archive(place / "an4_sphere.tar.gz")
    out = tmp_path / "out"
    with serving({"/databases/an4/an4_sphere.tar.gz": archive.read_bytes()}) as host:
        requests = {
            "--archive": Request(out, (archive,)),
            "--mirror": Request(out, mirror=str(tmp_path / "mirror")),
            "downloaded": Request(out, mirror=host.url),
        }
        prepare(_an4(), requests[way])
    header = headers.read(out)
    assert header is not None and header.archives == {"an4_sphere.tar.gz": sha256(archive)}

    prepare(_an4(), Request(out, (archive,)))  # the same one, in whatever way
    assert headers.read(out) == header

    other = archive.with_suffix(".new")  # as long, and with the same files: the time in gzip's own header
    other.write_bytes(archive.read_bytes()[:4] + b"\1\2\3\4" + archive.read_bytes()[8:])
    other.replace(archive)
    with pytest.raises(DataError) as caught:
        prepare(_an4(), Request(out, (archive,)))
    assert str(caught.value) == (
        f"{archive}: SHA-256 {sha256(archive)}, but {out} was prepared from an archive of that name with "
        f"{header.archives[archive.name]}; give that one, another --out, or remove 'an4_sphere.tar.gz' from "
        f"'archives' in {out / 'prepared.json'} to use this one"
    )
    assert headers.read(out) == header


def test_an_archive_of_another_name_or_without_a_list_of_files_is_recorded_too(tmp_path):
    archive = _an4_archive(tmp_path / "renamed.tgz")
    prepare(_an4(), Request(tmp_path / "a", (archive,)))
    without_files = replace(_an4(), files=())
    request = Request(tmp_path / "b", (archive,))
    corpus_folder(without_files, request, "an4_clstk", lambda name: True)
    header = headers.read(tmp_path / "a")
    assert header is not None
    assert header.archives == request.archives == {"renamed.tgz": sha256(archive)}


def test_an4_real_archive_has_948_and_130_utterances(shared_data, tmp_path):
    archive = shared_data / "an4_sphere.tar.gz"
    if not archive.is_file():
        pytest.skip(f"{archive} is not there")
    prepared = prepare(_an4(), Request(tmp_path, (archive,)))
    counts = {name: len(rows) for name, rows in prepared.utterances.items()}
    assert counts["train"] + counts["dev"] == 948
    assert counts["test"] == 130
    assert prepared.dropped == {}
    speakers = {name: {u.speaker for u in rows} for name, rows in prepared.utterances.items()}
    assert len(speakers["train"] | speakers["dev"]) == 74
    assert len(speakers["dev"]) == 7
    assert not speakers["train"] & speakers["dev"]
    assert len(speakers["test"]) == 10
    assert sum(u.duration_s for u in prepared.utterances["test"]) / 60 == pytest.approx(6.0, abs=0.1)


# an option that a recipe would ignore is an error


def _recipe(**facts: object) -> Recipe:
    return Recipe("mine", "My corpus", 1.0, 16000, "mine", "", lambda request: Corpus({}), **facts)


@pytest.mark.parametrize(
    ("request_", "facts", "message"),
    [
        ({"archive": (Path("a.tar"),)}, {}, "mine takes no --archive"),
        ({"archive": (Path("a.tar"),) * 2}, {"archive": "a.tar"}, "mine takes one --archive, not 2"),
        ({"mirror": "http://h"}, {}, "mine takes no --mirror: it downloads nothing"),
        ({"subsets": ("x",)}, {}, "mine takes no --subsets: it has none"),
        ({"sources": (Path("d"),)}, {}, "mine takes no source ('d'); archives are given with --archive"),
        ({}, {"source": "DIR"}, "mine wants a source: asr prepare mine DIR --out data"),
        ({"options": {"text_column": "t"}}, {"options": ("dev",)}, "mine takes no --text-column"),
    ],
)
def test_what_a_recipe_would_ignore_is_refused(request_, facts, message):
    with pytest.raises(ConfigError) as caught:
        check_request(_recipe(**facts), Request(Path("out"), **request_))
    assert str(caught.value) == message


def test_what_a_recipe_takes_is_given_to_it(tmp_path):
    (tmp_path / "a.tar").write_text("")
    facts = {"archive": "a.tar", "files": (Remote("http://h/a.tar", subset="a"),), "options": ("dev",), "source": "DIR"}
    everything = Request(tmp_path, (tmp_path / "a.tar",), "http://h", ("a",), (tmp_path,), {"dev": "0.1"})
    seen = []
    recipe = replace(_recipe(**facts), prepare=lambda request: seen.append(request) or Corpus({}))
    prepare(recipe, everything)
    assert seen == [everything]


def test_importers_are_found_after_recipes():
    for name, recipe in IMPORTERS.items():
        assert find_recipe(name)[0] is recipe
        assert recipe.name == name and recipe.source and name not in recipe_names()


# finding recipes and configs


def test_every_recipe_here_is_found_by_name_with_its_facts():
    assert "an4" in recipe_names()
    for name in recipe_names():
        recipe, folder = find_recipe(name)
        assert recipe.name == name
        assert folder == recipes_folder() / name
        assert recipe.title
        assert recipe.licence
        assert recipe.sample_rate_hz >= 8000
        for config in recipe_configs(folder):
            assert find_config(f"{name}/{config}") == folder / "conf" / f"{config}.yaml"


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(ConfigError) as caught:
        find_recipe("an5")
    assert (
        str(caught.value) == f"no recipe 'an5'; did you mean 'an4'? (known: {', '.join([*recipe_names(), *IMPORTERS])})"
    )


RECIPE = """
from pathlib import Path
from asr.corpora.recipe import Corpus, Recipe, Request
{more}
def prepare(request: Request) -> Corpus:
    return Corpus({{}}, {{"u": WHY}})

RECIPE = Recipe("mine", "My corpus", 1.0, 16000, "mine", "", prepare)
"""


def test_a_recipe_folder_of_ones_own_is_found_by_path_and_may_import_beside_itself(tmp_path):
    folder = tmp_path / "my-corpus 2"
    folder.mkdir()
    (folder / "facts.py").write_text("WHY = 'from beside'\n")
    (folder / "recipe.py").write_text(RECIPE.format(more="from .facts import WHY"))
    recipe, found = find_recipe(str(folder))
    assert found == folder
    assert recipe.title == "My corpus"
    assert recipe.prepare(Request(tmp_path)).dropped == {"u": "from beside"}


@pytest.fixture
def strangers_folder(tmp_path, monkeypatch):
    """A working folder whose content has the names of recipes, importers and configs."""
    for name in ("an4", "csv", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.py").write_text(RECIPE.format(more="WHY = 'strange'"))
    (tmp_path / "an4" / "default").write_text("optim:\n  lr: 0.5\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_name_is_that_of_the_toolkit_whatever_the_working_folder_holds(strangers_folder):
    recipe, folder = find_recipe("an4")
    assert recipe.name == "an4" and folder == recipes_folder() / "an4"
    assert find_recipe("csv")[0] is IMPORTERS["csv"]
    for path in ("./an4", "./csv", "an4/", "an4/../mine", str(strangers_folder / "an4")):
        recipe, folder = find_recipe(path)
        assert recipe.name == "mine" and folder == Path(path)

    assert find_config("an4/default") == find_config("an4") == recipes_folder() / "an4" / "conf" / "default.yaml"
    assert find_config("./an4/default") == Path("an4/default")


def test_a_folder_here_whose_name_is_no_recipe_is_not_run_but_suggested(strangers_folder):
    with pytest.raises(
        ConfigError, match=r"^no recipe 'mine'; did you mean '\./mine', the folder here\? \(known: an4, "
    ):
        find_recipe("mine")
    with pytest.raises(ConfigError, match=r"^\./nothing: no recipe: the folder holds no recipe\.py$"):
        find_recipe("./nothing")


def test_a_recipe_folder_without_a_recipe_in_it_is_named(tmp_path):
    (tmp_path / "recipe.py").write_text("RECIPE = 'an4'\n")
    with pytest.raises(DataError) as caught:
        find_recipe(str(tmp_path))
    assert str(caught.value) == f"{tmp_path / 'recipe.py'}: defines no RECIPE (an asr.corpora.recipe.Recipe)"


def test_a_config_is_found_by_path(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("optim:\n  lr: 0.5\n")
    assert find_config(str(path)) == path
    assert load_config(find_config(str(path))).optim.lr == 0.5


def test_an_unknown_config_names_the_nearest_and_then_lists_the_known_ones():
    with pytest.raises(ConfigError) as caught:
        find_config("an4/defualt")
    assert str(caught.value).startswith(
        "no config file 'an4/defualt' and no such recipe config; did you mean 'an4/default'? (known: an4/"
    )
    with pytest.raises(ConfigError, match=r"^no config file 'an4/unheard' and no such recipe config \(known: "):
        find_config("an4/unheard")
