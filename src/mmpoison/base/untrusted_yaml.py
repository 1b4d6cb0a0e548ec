"""Reads untrusted YAML: plain values only, with bounds that are checked before anything is built."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NoReturn

import yaml

from mmpoison.base.untrusted import MAX_DEPTH, MAX_INTEGER, read_text
from mmpoison.errors import InputError

MAX_YAML_BYTES = 1 << 20
MAX_YAML_NODES = 100_000
"""Values of a file with every alias expanded; nine lines of aliases can make a billion."""


def read_yaml(path: Path, limit: int = MAX_YAML_BYTES) -> Any:
    """Read a YAML file.

    Raises:
        InputError: As `read_text` and `parse_yaml`.
    """
    return parse_yaml(read_text(path, limit), path)


def parse_yaml(text: str, where: str | Path) -> Any:
    """Parse YAML of plain values: null, booleans, finite numbers of 64 bits, text, lists, mappings.

    Dates stay text. Aliases are allowed if the file stays small with every alias expanded.

    Args:
        text: One YAML document.
        where: What it is called in messages.

    Raises:
        InputError: If it is not YAML, has another tag, nests deeper than `MAX_DEPTH`, contains itself, or holds more
            than `MAX_YAML_NODES` values.

    Example:
        >>> parse_yaml("seed: 3\\ndescription: 2001-99-99", "a recipe")
        {'seed': 3, 'description': '2001-99-99'}
    """
    try:
        loader = _PlainLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_size(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
    except RecursionError:
        said = "nested too deep"
    except (ValueError, LookupError, TypeError, OverflowError, AttributeError) as error:
        said = f"a value that is not of its type: {str(error)[:200]}"
    raise InputError(f"{where}: not valid YAML ({said})")


class _PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader without dates, sets, pairs and binaries, and with bounded nesting."""

    def fetch_flow_collection_start(self, *arguments: Any) -> None:
        if self.flow_level >= MAX_DEPTH:
            self._refuse_depth()
        super().fetch_flow_collection_start(*arguments)

    def add_indent(self, column: int) -> bool:
        if len(self.indents) > MAX_DEPTH:
            self._refuse_depth()
        added: bool = super().add_indent(column)
        return added

    def _refuse_depth(self) -> NoReturn:
        raise yaml.scanner.ScannerError(
            None, None, f"nested deeper than {MAX_DEPTH}", self.get_mark()
        )

    def construct_scalar(self, node: Any) -> str:
        text: str = super().construct_scalar(node)
        text.encode()  # half a surrogate pair is not text: it could not be written
        return text

    def construct_yaml_int(self, node: Any) -> int:
        if len(node.value) > 100:
            raise ValueError(f"the integer {node.value[:20]}... needs more than 64 bits")
        value: int = super().construct_yaml_int(node)
        if not -MAX_INTEGER <= value < MAX_INTEGER:
            raise ValueError(f"the integer {node.value[:20]}... needs more than 64 bits")
        return value

    def construct_yaml_float(self, node: Any) -> float:
        value: float = super().construct_yaml_float(node)
        if not math.isfinite(value):
            raise ValueError(f"the number {node.value[:20]} is not finite")
        return value


_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")
_PlainLoader.yaml_constructors = {
    f"tag:yaml.org,2002:{kind}": getattr(_PlainLoader, f"construct_yaml_{kind}") for kind in _PLAIN
} | {None: yaml.SafeLoader.construct_undefined}
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _check_size(root: yaml.Node) -> None:
    """Refuse a document that contains itself, or that is too large with every alias expanded."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in open_nodes:
            raise yaml.YAMLError("an alias inside the value that it names")
        if id(node) not in sizes:
            open_nodes.add(id(node))
            children: list[yaml.Node] = []
            if isinstance(node, yaml.MappingNode):
                children = [part for pair in node.value for part in pair]
            elif isinstance(node, yaml.SequenceNode):
                children = node.value
            sizes[id(node)] = 1 + sum(map(size, children))
            open_nodes.discard(id(node))
        return sizes[id(node)]

    if size(root) > MAX_YAML_NODES:
        raise yaml.YAMLError(f"more than {MAX_YAML_NODES:,} values with aliases expanded")
