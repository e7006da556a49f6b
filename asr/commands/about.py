"""``asr info``."""

from __future__ import annotations

from typing import Annotated

from typer import Argument

from asr.commands.console import print_json, print_result, shown
from asr.commands.options import Json


def info(
    thing: Annotated[
        str,
        Argument(
            metavar="THING",
            help="A model or run folder, torchaudio:NAME, hf:NAME, nemo:FILE, a manifest, language model or config.",
        ),
    ],
    as_json: Json = False,
) -> None:
    """Say what a model, a manifest, a language model or a config is."""
    from asr.info import describe

    title, facts = describe(thing)
    if as_json:
        print_json({"kind": title} | facts)
        return
    lines = [title]
    width = max(map(len, facts))
    for key, value in facts.items():
        if value is None:
            continue
        if isinstance(value, list):
            lines += [f"  {key}:", *(f"    {row}" for row in value)]
        else:
            lines.append(f"  {key:<{width}}  {shown(value)}")
    print_result("\n".join(lines))
