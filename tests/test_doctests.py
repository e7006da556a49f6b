from __future__ import annotations

import doctest
import importlib

import pytest

from tests.test_floors import FLOORS, floor_of, module_names

LIGHT = [name for name in module_names() if name != "asr" and floor_of(name) in (0, 1, 2)]


@pytest.mark.parametrize("name", LIGHT)
def test_examples_in_docstrings_are_true(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_there_are_examples_to_check():
    assert FLOORS
    assert sum(doctest.testmod(importlib.import_module(name)).attempted for name in LIGHT) >= 3
