"""Packs a finished run into a bundle that somebody else runs again, and compares the numbers of the two."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from mmpoison._version import __version__
from mmpoison.base.files import write_json
from mmpoison.base.untrusted import parse_json, read_json
from mmpoison.base.untrusted_yaml import read_yaml
from mmpoison.errors import InputError
from mmpoison.records import bundle as files
from mmpoison.records.run_files import Metrics, RunFacts
from mmpoison.reporting.html_report import render_html
from mmpoison.reporting.text import clean

SHOWN_FILES = (
    "rank_lists.json",
    "embedding_map.json",
    "suspicious_pairs.json",
    "sterilize-curve.json",
)
"""Files of a run that its page shows besides."""

_PLACES = (("data", "name"), ("data", "root"), ("model", "name"), ("filter", "encoder"))
"""Keys of a recipe that may name a folder or file."""
_ABSOLUTE = re.compile(r"(/|~|[A-Za-z]:[\\/]|\\\\)")


@dataclass(frozen=True)
class Bundle:
    """A bundle that was written.

    Attributes:
        file: The zip file.
        needs: Dotted keys of the recipe that others must give, since they name something of this machine.
    """

    file: Path
    needs: tuple[str, ...]


def write_bundle(run: Path, file: Path) -> Bundle:
    """Pack a run: recipe, manifest, metrics, versions and page; no images, no weights, no paths of this machine.

    Args:
        run: A finished run folder.
        file: The zip file; an existing one is replaced.

    Raises:
        InputError: If it is no finished run, one of its files is broken, or `file` does not end in `.zip`.
    """
    check_target(file)
    packed = PackedRun.read(run)
    needs = take_out_places(packed.recipe)
    if needs:
        packed.recipe[files.NEEDS] = list(needs)
    content = {
        files.RECIPE: yaml_bytes(packed.recipe),
        files.METRICS: json_bytes(packed.metrics),
        files.FACTS: json_bytes(bundle_facts([packed.about], needs)),
    }
    if (run / files.MANIFEST).is_file():
        manifest = read_json(run / files.MANIFEST)
        if isinstance(manifest, dict) and "options" in manifest:
            manifest["options"] = _without_folders(manifest["options"])
        content[files.MANIFEST] = json_bytes(manifest)
    content[files.PAGE] = _page(packed).encode()
    files.write_members(file, {name: content[name] for name in files.MEMBERS if name in content})
    return Bundle(file, needs)


def check_target(file: Path) -> None:
    """Refuse a file that cannot be a bundle.

    Raises:
        InputError: If it does not end in `.zip`, or is a folder.
    """
    if not files.is_bundle(file.name):
        raise InputError(f"{file}: a bundle is a .zip file: name it so")
    if file.is_dir():
        raise InputError(f"{file}: is a folder, a file is needed, e.g. {file / 'run.zip'}")


@dataclass(frozen=True)
class PackedRun:
    """A finished run as a bundle has it.

    Attributes:
        folder: The run folder.
        recipe: Its recipe, with what names places of this machine still in it (`take_out_places`).
        metrics: Its metrics, without such places.
        about: What the metrics say of the run.
    """

    folder: Path
    recipe: dict[str, Any]
    metrics: dict[str, Any]
    about: RunFacts

    @classmethod
    def read(cls, run: Path) -> PackedRun:
        """Read a run folder.

        Raises:
            InputError: If it is no finished run, or one of its files is broken.
        """
        for name in (files.RECIPE, files.METRICS):
            if not (run / name).is_file():
                raise InputError(f"{run}: no finished run, it has no {name}")
        recipe = read_yaml(run / files.RECIPE)
        if not isinstance(recipe, dict):
            raise InputError(f"{run / files.RECIPE}: a recipe is a mapping of keys")
        metrics = read_json(run / files.METRICS)
        if not isinstance(metrics, dict):
            raise InputError(f"{run / files.METRICS}: must be a JSON object")
        about = Metrics.read(run / files.METRICS).run
        metrics["run"] = _without_folders(metrics.get("run", {}))
        return cls(run, recipe, metrics, about)


def bundle_facts(abouts: Sequence[RunFacts], needs: Sequence[str]) -> dict[str, Any]:
    """Return what a bundle says of itself; of several runs the versions of the first."""
    first = abouts[0]
    return {
        "bundle": 1,
        "tool_version": first.tool_version or __version__,
        "versions": first.versions,
        "device": first.device,
        "goals": list(dict.fromkeys(goal for about in abouts for goal in about.goals)),
        "data_fingerprint": first.data.fingerprint,
        files.NEEDS: list(needs),
    }


def bundle_metrics(file: Path) -> Metrics:
    """Read the metrics of a bundle.

    Raises:
        InputError: If it is no bundle, or its metrics are broken.
    """
    where = f"{file}: {files.METRICS}"
    return Metrics.of(clean(parse_json(files.read_member(file, files.METRICS), where)), where)


def compare_numbers(theirs: Metrics, ours: Metrics) -> tuple[int, int, float]:
    """Compare all numbers of goals, utility and drift that both have.

    Returns:
        How many there are, how many differ, and the largest difference.
    """
    first, second = (dict(_numbers(metrics.to_json())) for metrics in (theirs, ours))
    both = first.keys() & second.keys()
    differences = [abs(first[key] - second[key]) for key in both]
    return len(both), sum(d > 0 for d in differences), max(differences, default=0.0)


def _numbers(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    def walk(value: Any, key: str) -> Iterator[tuple[str, float]]:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                yield from walk(inner, f"{key}/{name}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield key, float(value)

    for part in ("goal", "utility", "drift"):
        yield from walk(metrics.get(part), part)


def json_bytes(value: Any) -> bytes:
    """Return the content of a JSON file."""
    return (json.dumps(value, indent=2) + "\n").encode()


def yaml_bytes(value: Mapping[str, Any]) -> bytes:
    """Return the content of a YAML file."""
    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True).encode()


def take_out_places(recipe: dict[str, Any]) -> tuple[str, ...]:
    """Replace what names a folder or file of this machine by its last part; return the keys."""
    transfers = recipe.get("transfer") or []
    parts = [(f"{group}.{key}", recipe.get(group), key) for group, key in _PLACES]
    for one in transfers if isinstance(transfers, list) else []:
        data = one.get("data") if isinstance(one, dict) else None
        # one entry of a list cannot be given: the list is
        parts += [("transfer", data, "name"), ("transfer", data, "root")]
    needs: dict[str, None] = {}
    for key, group, name in parts:
        if isinstance(group, dict) and _is_place(group.get(name), sure=name == "root"):
            needs[key] = None
            group[name] = None if name == "root" else Path(str(group[name])).name
    for name in ("data", "attack", "filter", "transfer"):
        if name in recipe:
            recipe[name] = _without_folders(recipe[name])
    return tuple(needs)


def _is_place(value: object, *, sure: bool) -> bool:
    """Return whether a value names something of this machine; `sure`: it cannot name anything else."""
    if not isinstance(value, str) or not value:
        return False
    # a name of the hub or of open_clip has a colon or an at sign; a file behind it is somebody's own
    own_weights = "@" in value and not value.startswith("hf-hub:")
    # a name that is no path may be that of a folder here too
    path = ("/" in value or "\\" in value) and Path(value).exists()
    return sure or bool(_ABSOLUTE.match(value)) or own_weights or path


def _without_folders(value: Any) -> Any:
    """Return a value in which absolute paths have only their last part."""
    if isinstance(value, dict):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    if isinstance(value, str) and _ABSOLUTE.match(value):
        return re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return value


def _page(run: PackedRun) -> str:
    """Make the run's page again, without pictures, from what the bundle holds and the lists of the run."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / (run.folder.resolve().name or "run")
        pack_files(run, folder, lists=True)
        return render_html(folder)


def pack_files(run: PackedRun, folder: Path, *, lists: bool) -> None:
    """Write the files from which a page is made, without pictures.

    Args:
        run: The run.
        folder: A new folder.
        lists: Write also what the page shows besides recipe and metrics.
    """
    folder.mkdir()
    (folder / files.RECIPE).write_bytes(yaml_bytes(run.recipe))
    (folder / files.METRICS).write_bytes(json_bytes(run.metrics))
    for name in SHOWN_FILES if lists else ():
        if (run.folder / name).is_file():
            write_json(folder / name, _without_pictures(read_json(run.folder / name)))


def _without_pictures(value: Any) -> Any:
    """Return a value without the entries that are pictures (data addresses)."""
    if isinstance(value, dict):
        kept = {key: inner for key, inner in value.items() if not _is_picture(inner)}
        return {key: _without_pictures(inner) for key, inner in kept.items()}
    if isinstance(value, list):
        return [_without_pictures(inner) for inner in value if not _is_picture(inner)]
    return value


def _is_picture(value: object) -> bool:
    return isinstance(value, str) and value.lstrip()[:5].lower() == "data:"
