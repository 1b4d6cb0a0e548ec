"""Packs the runs of a sweep into one bundle: one recipe with a section `sweep`, and the numbers of every run."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmpoison.base.files import plain_name
from mmpoison.base.phrasing import count_of
from mmpoison.base.untrusted import parse_json
from mmpoison.base.untrusted_yaml import MAX_YAML_BYTES
from mmpoison.errors import InputError
from mmpoison.records import bundle as files
from mmpoison.records.run_files import Metrics
from mmpoison.reporting.bundle import (
    Bundle,
    PackedRun,
    bundle_facts,
    check_target,
    json_bytes,
    pack_files,
    take_out_places,
    yaml_bytes,
)
from mmpoison.reporting.html_report import render_runs_html
from mmpoison.reporting.text import clean

RUNS, VARIANT, SEED = "runs", "variant", "seed"

RunKey = tuple[str | None, int]
"""Variant and seed: what a run of a bundle is found by; no variant where all runs have one setting."""


@dataclass
class _Setting:
    """Runs whose recipes differ in their seed alone."""

    recipe: dict[str, Any]
    runs: dict[int, PackedRun] = field(default_factory=dict)


def write_sweep_bundle(runs: Sequence[Path], file: Path) -> Bundle:
    """Pack several runs: one recipe that makes all of them, their metrics, versions and page.

    As `write_bundle`: no images, no weights, no paths of this machine. Without manifests: each run writes its own.

    Args:
        runs: Finished run folders, at least two; those of one sweep, or of one recipe with several seeds.
        file: The zip file; an existing one is replaced.

    Raises:
        InputError: If one is no finished run, a seed of a setting occurs twice, settings have different seeds or
            different places of this machine, or the bundle would be too large.
    """
    check_target(file)
    settings = _settings(runs)
    seeds = _common_seeds(settings)
    needs = _take_out_places(settings)
    base = settings[0].recipe
    differences = [_differences(base, one.recipe) for one in settings]
    names = _names(differences)
    recipe: dict[str, Any] = {key: value for key, value in base.items() if key != "sweep"}
    if needs:
        recipe[files.NEEDS] = list(needs)
    recipe["sweep"] = {"seeds": seeds}
    if len(settings) > 1:
        recipe["sweep"]["variants"] = dict(zip(names, differences, strict=True))
    text = yaml_bytes(recipe)
    if len(text) > MAX_YAML_BYTES:
        raise InputError(
            f"{file}: {count_of(len(settings), 'setting')} make a recipe of {len(text):,} bytes, over "
            f"{MAX_YAML_BYTES:,}: pack some of the runs"
        )
    listed = [
        (name if len(settings) > 1 else None, seed, one.runs[seed])
        for name, one in zip(names, settings, strict=True)
        for seed in seeds
    ]
    metrics = [{VARIANT: name, SEED: seed, "metrics": run.metrics} for name, seed, run in listed]
    facts = bundle_facts([run.about for _, _, run in listed], needs)
    content = {
        files.FACTS: json_bytes({**facts, RUNS: len(listed)}),
        files.RECIPE: text,
        files.METRICS: json_bytes({RUNS: metrics}),
        files.PAGE: _page(listed).encode(),
    }
    files.write_members(file, {name: content[name] for name in files.MEMBERS if name in content})
    return Bundle(file, needs)


def bundle_runs(file: Path) -> dict[RunKey, Metrics]:
    """Read the metrics of the bundle of several runs.

    Raises:
        InputError: If it is no such bundle, or its metrics are broken.
    """
    where = f"{file}: {files.METRICS}"
    value = clean(parse_json(files.read_member(file, files.METRICS), where))
    listed = value.get(RUNS) if isinstance(value, dict) else None
    if not isinstance(listed, list):
        raise InputError(f"{where}: has no list of runs")
    found: dict[RunKey, Metrics] = {}
    for number, one in enumerate(listed):
        variant, seed = (one.get(VARIANT), one.get(SEED)) if isinstance(one, dict) else (0, None)
        if not (isinstance(seed, int) and (variant is None or isinstance(variant, str))):
            raise InputError(f"{where}: run {number}: a variant, a seed and metrics are needed")
        found[variant, seed] = Metrics.of(one.get("metrics"), f"{where}: run {number}")
    return found


def _settings(runs: Sequence[Path]) -> list[_Setting]:
    settings: dict[str, _Setting] = {}
    for run in runs:
        packed = PackedRun.read(run)
        recipe = {key: value for key, value in packed.recipe.items() if key != SEED}
        seed = packed.recipe.get(SEED, 0)
        if not isinstance(seed, int):
            raise InputError(f"{run / files.RECIPE}: seed: a whole number is needed")
        key = json.dumps(recipe, sort_keys=True, default=str)
        setting = settings.setdefault(key, _Setting(recipe))
        if seed in setting.runs:
            raise InputError(f"{run}: seed {seed} of its setting was given twice")
        setting.runs[seed] = packed
    return list(settings.values())


def _common_seeds(settings: Sequence[_Setting]) -> list[int]:
    """Return the seeds of every setting: a sweep has all of them for each variant."""
    seeds = sorted(settings[0].runs)
    for one in settings:
        if sorted(one.runs) != seeds:
            run = next(iter(one.runs.values())).folder
            raise InputError(
                f"{run}: its setting has seeds {_listed(one.runs)}, another has {_listed(seeds)}: one bundle has the "
                "same seeds of every setting: finish the sweep, or pack some of the runs"
            )
    return seeds


def _listed(seeds: Sequence[int] | Mapping[int, object]) -> str:
    return ", ".join(map(str, sorted(seeds)))


def _take_out_places(settings: Sequence[_Setting]) -> tuple[str, ...]:
    """Take what names a place of this machine out of every recipe, in place; return the keys that others must give."""
    before = [copy.deepcopy(one.recipe) for one in settings]
    needs = [take_out_places(one.recipe) for one in settings]
    for key in dict.fromkeys(key for keys in needs for key in keys):
        given = {json.dumps(_at(recipe, key), sort_keys=True, default=str) for recipe in before}
        if len(given) > 1:
            raise InputError(
                f"the runs differ in {key}, which is of this machine: one bundle cannot ask for several: pack the runs "
                "of each"
            )
    return needs[0]


def _at(value: Any, key: str) -> Any:
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _differences(base: Mapping[str, Any], other: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """Return the dotted keys by which a recipe becomes another one.

    A group of keys that does not have the same keys in both is replaced, and so is a filter: its keys depend on its
    method.

    >>> _differences({"a": {"x": 1, "y": 2}, "b": {"x": 1}}, {"a": {"x": 1, "y": 3}, "b": None})
    {'a.y': 3, 'b': None}
    """
    found: dict[str, Any] = {}
    for key in dict.fromkeys([*base, *other]):
        old, new, name = base.get(key), other.get(key), f"{at}{key}"
        if old == new:
            continue
        if (
            isinstance(old, dict)
            and isinstance(new, dict)
            and old.keys() == new.keys()
            # a dot in a key would be read as a group
            and not any("." in str(inner) for inner in old)
            and name != "filter"
        ):
            found |= _differences(old, new, f"{name}.")
        else:
            found[name] = new
    return found


def _names(differences: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a name for each variant: its number, and its short values."""
    width = len(str(len(differences)))
    keys = dict.fromkeys(key for one in differences for key in one)
    names = []
    for number, one in enumerate(differences, 1):
        values = [one[key] for key in keys if key in one]
        short = [plain_name(v) for v in values if isinstance(v, str | int | float)]
        names.append("-".join([f"{number:0{width}}", *short])[:60])
    return names


def _page(listed: Sequence[tuple[str | None, int, PackedRun]]) -> str:
    """Make the page of the runs again, without pictures, from what the bundle holds and the lists of the first run."""
    with TemporaryDirectory() as scratch:
        folders = []
        for place, (name, seed, run) in enumerate(listed):
            folder = Path(scratch) / f"{name or 'run'}-seed{seed}"
            take_out_places(run.recipe)
            pack_files(run, folder, lists=place == 0)
            folders.append(folder)
        return render_runs_html(folders)
