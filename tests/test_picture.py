"""The picture of what a model hears; skipped without matplotlib."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from asr import Recognizer
from asr.errors import AsrError, DataError
from tests.builders import write_wav
from tests.models import save_random_model

pytest.importorskip("matplotlib")

from asr.scoring.picture import check, draw


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory) -> Recognizer:
    return Recognizer.load(save_random_model(tmp_path_factory.mktemp("model") / "m"), "cpu")


@pytest.mark.parametrize(("name", "begins"), [("a.png", b"\x89PNG"), ("new/b.PNG", b"\x89PNG"), ("c.svg", b"<?xml")])
def test_a_picture_has_the_format_of_its_name(recognizer, tmp_path, name, begins):
    # A dollar would begin a formula, and a font has no newline.
    wav = write_wav(tmp_path / "a.wav").rename(tmp_path / "$\\frac{ \n.wav")
    draw(recognizer, wav, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)
    assert not list(tmp_path.rglob("*.part"))


def test_a_clip_of_one_sample_can_be_drawn(recognizer, tmp_path):
    draw(recognizer, write_wav(tmp_path / "a.wav", np.full(1, 0.5, np.float32)), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size


def test_what_cannot_be_drawn_is_one_line(recognizer, tmp_path):
    for name in ("a.txt", "png", "a."):
        with pytest.raises(AsrError, match=r"ends in its format: \.png"):
            check(Path(name))
    with pytest.raises(DataError, match="no such file"):
        draw(recognizer, tmp_path / "none.wav", tmp_path / "a.png")
    (tmp_path / "b.png").mkdir()
    with pytest.raises(AsrError, match="cannot write the picture"):
        draw(recognizer, write_wav(tmp_path / "a.wav"), tmp_path / "b.png")
    assert not list(tmp_path.glob("*.part"))
