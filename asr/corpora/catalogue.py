"""Recipes, their configs and importers, found by name.

A name means what comes with the toolkit, whatever lies in the working folder: a recipe is code. A recipe of your own is
found by the path of its folder, which has a separator: ``./mycorpus``.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType

from asr.corpora.importers import IMPORTERS
from asr.corpora.recipe import Recipe
from asr.errors import ConfigError, DataError, nearest


def recipes_folder() -> Path:
    """Return the folder of the toolkit's recipes: beside ``asr`` in a checkout, inside it when installed."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def recipe_names() -> list[str]:
    return sorted(p.parent.name for p in recipes_folder().glob("*/recipe.py"))


def find_recipe(name: str) -> tuple[Recipe, Path]:
    """Return the recipe or importer of that name, or the recipe in the folder of a path; and its folder.

    Raises:
        ConfigError: there is none; the nearest is named.
        DataError: the folder's ``recipe.py`` defines no ``RECIPE``.
    """
    if name in IMPORTERS:
        return IMPORTERS[name], Path(__file__).parent / "importers"

    folder = Path(name) if _is_path(name) else recipes_folder() / name
    if not (folder / "recipe.py").is_file():
        if _is_path(name):
            raise ConfigError(f"{name}: no recipe: the folder holds no recipe.py")
        names = [*recipe_names(), *IMPORTERS]
        own = Path(name, "recipe.py").is_file()
        hint = f"; did you mean '.{os.sep}{name}', the folder here?" if own else nearest(name, names)
        raise ConfigError(f"no recipe '{name}'{hint} (known: {', '.join(names)})")

    recipe = getattr(_load_module(folder / "recipe.py"), "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise DataError("defines no RECIPE (an asr.corpora.recipe.Recipe)", folder / "recipe.py")
    return recipe, folder


def _is_path(name: str) -> bool:
    return name in (".", "..") or os.sep in name or (os.altsep is not None and os.altsep in name)


def find_config(name: str) -> Path:
    """Return the config of a recipe, ``recipe/name`` (``an4/default``), or the config file of a path.

    Raises:
        ConfigError: neither is there.
    """
    files = sorted(recipes_folder().glob("*/conf/*.yaml"))
    known = {f"{file.parent.parent.name}/{file.stem}": file for file in files}
    found = known.get(name) or known.get(f"{name.rstrip('/')}/default")
    if found is not None:
        return found

    path = Path(name)
    if path.is_file():
        return path
    listing = f"{nearest(name, known)} (known: {', '.join(known)})"
    raise ConfigError(f"no config file '{name}' and no such recipe config{listing}")


def recipe_configs(folder: Path) -> list[str]:
    return sorted(p.stem for p in (folder / "conf").glob("*.yaml"))


def _load_module(path: Path) -> ModuleType:
    """Load the module in a file, under a name of its own; files beside it can be imported from it."""
    name = "asr_recipe_" + re.sub(r"\W", "_", path.parent.name)
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=[str(path.parent)])
    assert spec is not None and spec.loader is not None  # a .py path always has a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
