"""Recipes, their configs and importers, found by name.

A recipe is found in the checkout or in the installed package, or, by its path, in a folder of your own.
"""

from __future__ import annotations

import importlib.util
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
    """Return the recipe in a folder of your own, or of that name, or the importer of that name; and its folder.

    Raises:
        ConfigError: there is none of that name; the nearest is named.
        DataError: the folder's ``recipe.py`` defines no ``RECIPE``.
    """
    folder = Path(name) if (Path(name) / "recipe.py").is_file() else recipes_folder() / name
    if not (folder / "recipe.py").is_file():
        if name in IMPORTERS:
            return IMPORTERS[name], Path(__file__).parent / "importers"
        names = [*recipe_names(), *IMPORTERS]
        raise ConfigError(f"no recipe '{name}'{nearest(name, names)} (known: {', '.join(names)})")

    recipe = getattr(_load_module(folder / "recipe.py"), "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise DataError("defines no RECIPE (an asr.corpora.recipe.Recipe)", folder / "recipe.py")
    return recipe, folder


def find_config(name: str) -> Path:
    """Return the config file of a path, or of ``recipe/name`` (``an4/default``).

    Raises:
        ConfigError: neither is there.
    """
    path = Path(name)
    if path.is_file():
        return path
    recipe, _, config = name.partition("/")
    found = recipes_folder() / recipe / "conf" / f"{config or 'default'}.yaml"
    if found.is_file():
        return found
    known = [f"{p.parent.parent.name}/{p.stem}" for p in sorted(recipes_folder().glob("*/conf/*.yaml"))]
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
