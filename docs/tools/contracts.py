"""Generates the blocks of `docs/contracts.md` from the code: the contracts of version 1.

    python docs/tools/contracts.py            # names what differs from the page
    python docs/tools/contracts.py --write    # writes it

A line that changes or disappears breaks somebody's program: it needs a new major version.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import chain
from pathlib import Path
from textwrap import TextWrapper
from typing import Any

import pyarrow as pa
from page_blocks import ROOT, check_or_write, with_block
from pydantic import BaseModel
from typer.core import TyperOption

import mmpoison
from mmpoison.attacks.catalogue import ATTACKS, Attack
from mmpoison.cli.app import VERBS, command_of
from mmpoison.datasets.catalogue import DATASETS
from mmpoison.defenses.catalogue import (
    DEFENSES,
    CutOptions,
    Defense,
    ModelCheck,
    ModelRepair,
    RobustTraining,
    TrainingServices,
)
from mmpoison.defenses.scan.cut.score_filter import ScoreFilter
from mmpoison.defenses.scan.read.tables import NAMES
from mmpoison.defenses.scan.write.tables import drop_schema, scores_schema
from mmpoison.models.architectures import MODELS
from mmpoison.pairs.folder import LINE_KEYS
from mmpoison.pairs.manifest import AddedImage, PoisonedPair, PoisonManifest
from mmpoison.records.data_scan import DataScan
from mmpoison.records.run_files import Metrics

PAGE = ROOT / "docs/contracts.md"
PROTOCOLS = (Attack, Defense, ScoreFilter, RobustTraining, ModelRepair, ModelCheck)
GROUPS = (ATTACKS, DEFENSES, DATASETS, MODELS)


def verbs() -> Iterator[str]:
    """Write each verb with its arguments and options, required ones first."""
    for name in VERBS:
        command = command_of(name)
        for child, one in (getattr(command, "commands", None) or {"": command}).items():
            shown = [f"mmpoison {name} {child}".strip()]
            for parameter in sorted(
                one.params, key=lambda p: (isinstance(p, TyperOption), not p.required)
            ):
                if getattr(parameter, "hidden", False) or parameter.name == "help":
                    continue
                if not isinstance(parameter, TyperOption):
                    shown.append(parameter.metavar or parameter.name.upper())
                else:
                    shown += [parameter.opts[0], *parameter.secondary_opts[:1]]
            yield " ".join(shown)


def parameters(call: Any) -> str:
    """Write the names of parameters as Python would; those with a default end in `=`."""
    shown, by_name = [], False
    for each in inspect.signature(call).parameters.values():
        if each.name == "self":
            continue
        if each.kind is each.KEYWORD_ONLY and not by_name:
            by_name = True
            shown.append("*")
        stars = {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "")
        by_name = by_name or stars == "*"
        shown.append(stars + each.name + ("" if each.default is each.empty else "="))
    return f"({', '.join(shown)})"


def names() -> Iterator[str]:
    """Write each name of the package, as it is called."""
    for name in sorted(mmpoison.__all__):
        one = getattr(mmpoison, name)
        yield f"mmpoison.{name}{parameters(one) if callable(one) else ''}"


def keys(record: type[BaseModel], file: str) -> Iterator[str]:
    """Write the keys of a file, then those of each kind of object in it, once.

    `key.*` stands for an object with any keys, `key[]` for a list; the type of its items follows `=`.
    """
    known, waiting = {record: file}, [record]
    for one in waiting:
        shown = []
        for name, field in one.model_fields.items():
            path, inner = inside(field.annotation, field.alias or name)
            if inner is not None and inner not in known:
                known[inner] = inner.__name__
                waiting.append(inner)
            shown.append(path if inner is None else f"{path}={inner.__name__}")
        yield f"{known[one]}: {' '.join(shown)}"


def inside(kind: Any, path: str) -> tuple[str, type[BaseModel] | None]:
    """Find the record in a type, which may be optional or inside mappings and lists; return its path and class."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return path, kind
    parts, more = typing.get_args(kind), path
    if typing.get_origin(kind) is dict:
        parts, more = parts[1:], f"{path}.*"
    elif typing.get_origin(kind) is list:
        more = f"{path}[]"
    found = [inside(part, more) for part in parts]
    return next((one for one in found if one[1] is not None), (path, None))


def manifest() -> Iterator[str]:
    """Write the keys of a manifest that has everything."""
    pair = PoisonedPair("a", "1.jpg", "2.jpg", "a2b")
    more = {
        "target_images": {"a2b": "2.jpg"},
        "added_images": {"3.jpg": AddedImage("1.jpg", "0" * 64, {"x": 1})},
        "filtered": {"x": 1},
        "trigger": {"x": 1},
        "notes": ("x",),
        "dropped_images": ("2.jpg",),
        "fingerprint": "0" * 64,
    }
    whole: dict[str, Any] = PoisonManifest(
        *("single-target-label", {}, ("a2b",), "add", 0, "0" * 64, 2, 3, (pair,)), **more
    ).to_json()
    yield f"manifest.json: {' '.join(whole)}"
    yield f"counts: {' '.join(whole['counts'])}"
    for name, kind in (("pairs[]", PoisonedPair), ("added_images.*", AddedImage)):
        yield f"{name}: {' '.join(field.name for field in fields(kind))}"


def scan() -> Iterator[str]:
    """Write the columns of the tables of a scan, and the keys of `scan.json`."""
    tables = {
        "drop.csv, drop.parquet": drop_schema(pa.schema([])),
        "scores.parquet": scores_schema(named=False),
    }
    for file, schema in tables.items():
        yield f"{file}: {' '.join(schema.names)}"
    yield f"scores.parquet of pairs with images, besides: {' '.join(NAMES)}"
    yield from keys(DataScan, "scan.json")


def protocols() -> Iterator[str]:
    """Write the attributes of each kind of plug-in, and the entry point groups where plug-ins are found."""
    for protocol in PROTOCOLS:
        said = [name for name in inspect.get_annotations(protocol) if not name.startswith("_")]
        yield f"{protocol.__name__}: {' '.join(said)}".rstrip()
        for name, one in vars(protocol).items():
            if isinstance(one, property):
                yield f"{protocol.__name__}.{name}"
            elif inspect.isfunction(one) and not name.startswith("_"):
                yield f"{protocol.__name__}.{name}{parameters(one)}"
    for services in (CutOptions, TrainingServices):
        yield f"{services.__name__}: {' '.join(services.__annotations__)}"
    yield from (f'[project.entry-points."{registry._group}"]' for registry in GROUPS)


def options() -> Iterator[str]:
    """Write the parameters of each attack and defence, those without a default first."""
    for registry in (ATTACKS, DEFENSES):
        for name in registry:
            yield f"{registry.kind} {name}{parameters(registry[name])}"


BLOCKS = {
    "pairs": lambda: [f"captions.jsonl: {' '.join(LINE_KEYS)}"],
    "verbs": verbs,
    "names": names,
    "manifest": manifest,
    "metrics": lambda: keys(Metrics, "metrics.json"),
    "scan": scan,
    "protocols": protocols,
    "options": options,
}


def pages() -> Mapping[Path, str]:
    """Make the page: keep its text, regenerate its blocks."""
    text = PAGE.read_text(encoding="utf-8")
    wrapper = TextWrapper(
        78, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    for name, lines in BLOCKS.items():
        wrapped = chain.from_iterable(map(wrapper.wrap, lines()))
        text = with_block(text, name, "\n".join(["```text", *wrapped, "```"]), PAGE)
    return {PAGE: text}


if __name__ == "__main__":
    sys.exit(check_or_write(pages()))
