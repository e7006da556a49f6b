"""What an installation gets: packages that load together, in the versions that are named."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import asr
from asr.errors import AsrError
from asr.model.waves import INSTALL_PAIR, load_torchaudio

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(name: str) -> dict[str, str]:
    """Read a constraints file: package -> exact version."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return dict(line.lower().split("==") for line in lines if line)


def requirements() -> list[Requirement]:
    """List what pyproject.toml asks for, extras included, without the extras that name other extras."""
    extras = PROJECT["optional-dependencies"].values()
    listed = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    return [one for one in map(Requirement, listed) if one.name != "asr-ctc"]


def test_torchaudio_loads_with_the_installed_torch():
    if not importlib.metadata.packages_distributions().get("torchaudio"):
        pytest.skip("torchaudio is not installed")
    problem = ""
    try:
        load_torchaudio()
    except AsrError as error:
        problem = str(error)
    if problem:
        pytest.fail(problem, pytrace=False)


def test_constraints_name_an_exact_version_and_no_place():
    for name in ("constraints.txt", "constraints-oldest.txt"):
        for line in (ROOT / name).read_text().splitlines():
            assert re.fullmatch(r"(#.*|[A-Za-z0-9._-]+==[A-Za-z0-9.!]+)?", line), f"{name}: {line}"
            assert "://" not in line


def test_the_hashes_are_of_the_default_set_with_at_least_one_of_each():
    text = (ROOT / "constraints-hashes.txt").read_text()
    assert "://" not in text
    blocks = re.findall(
        r"^([a-z0-9.-]+)==(\S+)[^\n]*((?:\n    --hash=sha256:[0-9a-f]{64}(?: \\)?)+)$", text, re.MULTILINE
    )
    hashed = {name: version for name, version, _ in blocks}
    assert hashed == {name.replace("_", "-"): version for name, version in pins("constraints.txt").items()}
    assert sum(block.count("sha256:") for _, _, block in blocks) == text.count("sha256:")


def test_the_build_takes_one_version_which_is_in_the_default_set():
    (required,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert required == f"hatchling=={pins('constraints.txt')['hatchling']}"


def test_only_the_quickstart_asks_for_the_synthesiser():
    extras = PROJECT["optional-dependencies"]
    assert [name for name, lines in extras.items() if any("espeak" in line for line in lines)] == ["quickstart"]
    assert not any("quickstart" in line for lines in extras.values() for line in lines)
    assert "quickstart" not in re.findall(r"^EXTRAS.*", (ROOT / "Makefile").read_text(), re.MULTILINE)[0]


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_the_default_set_names_every_requirement_within_its_range(requirement):
    assert pins("constraints.txt")[requirement.name.lower()] in requirement.specifier


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_the_oldest_set_is_the_lower_end_of_every_range(requirement):
    # The linter and the type checker do not run on it, and the extra for bundles asks for a newer torch.
    if requirement.name in ("ruff", "mypy", "types-PyYAML", "torch", "torchaudio"):
        return
    lowest = next(one.version for one in requirement.specifier if one.operator in (">=", "=="))
    pinned = Version(pins("constraints-oldest.txt")[requirement.name.lower()])
    assert pinned.release[: len(Version(lowest).release)] == Version(lowest).release


def test_the_two_supported_pairs_are_the_ones_that_the_remedy_names():
    for name in ("constraints.txt", "constraints-oldest.txt"):
        named = pins(name)
        assert f"torch=={named['torch']} torchaudio=={named['torchaudio']}" in INSTALL_PAIR


def test_the_package_shows_its_public_names_and_its_types():
    assert dir(asr) == ["Recognizer", "__version__"]
    assert (Path(asr.__file__).parent / "py.typed").is_file()
    assert importlib.metadata.version("asr-ctc") == asr.__version__
