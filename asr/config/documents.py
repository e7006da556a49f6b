"""YAML as it is read here. Apart, since use needs none: the library takes as long to load as a network."""

from __future__ import annotations

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Read YAML as people write it: 3e-4 is a number (YAML 1.1 wants 3.0e-4), and a key given twice is an error.

    So is an alias (``*name``): lists of aliases of lists of aliases would be endless to whoever walks through them.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event: Any = self.get_event()  # type: ignore[no-untyped-call]
            problem = f"'*{event.anchor}' is an alias, which is not read: write the value itself"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(text: str) -> Any:
    """Return the value of a YAML document; tags that name objects, aliases and keys given twice are errors.

    Raises:
        yaml.YAMLError, ValueError, RecursionError: it is not YAML as it is read here.
    """
    return yaml.load(text, Loader=_Loader)
