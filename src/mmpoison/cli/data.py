"""The verb `data`: list, build, split and verify data sets, and how it prints its results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from mmpoison.base.content_cache import ContentCache
from mmpoison.base.text import count_of, file_size, safe_text
from mmpoison.base.untrusted import open_bytes
from mmpoison.cli.console import console, hold_output, live_progress, print_entries, print_json, say
from mmpoison.cli.options import AsJson, Images, Seed, parse_options
from mmpoison.cli.verb import PlainTyper
from mmpoison.datasets.catalogue import DATASETS, DataSource, find_root, option_kinds
from mmpoison.datasets.fetch import ways_to_get
from mmpoison.datasets.verify import Verification
from mmpoison.errors import InputError
from mmpoison.images.store import stored_pixels
from mmpoison.pairs.folder import CAPTIONS_FILE

if TYPE_CHECKING:
    from mmpoison.datasets.catalogue import NamedData


SHOWN = 10
"""Number of lines printed per kind of problem; `--json` and `--out` have all."""

COUNTED = 256 * 2**20
"""Largest captions file that is counted, in bytes; a larger one would take seconds."""


def show_verification(found: Verification) -> None:
    """Print the facts, problems and notes of a verification."""
    table = Table(show_header=False, box=box.SIMPLE, pad_edge=False)
    table.add_column(no_wrap=True)
    # wrapped, not cut: users copy the fingerprint
    table.add_column(overflow="fold")
    for key, value in found.facts().items():
        table.add_row(key, safe_text(value))
    console.print(table)
    for kind, lines in found.wrong.items():
        for line in lines[:SHOWN]:
            say(f"WRONG: {line}")
        if len(lines) > SHOWN:
            more = f"{len(lines) - SHOWN:,} more of the kind '{kind}'"
            say(f"WRONG: {more} (--json or --out FILE lists them all)")
    for line in found.notes:
        say(f"note: {line}")
    if not found.problems:
        console.print("no format errors")


def known_data(asked: str | None = None) -> dict[str, Any]:
    """List known data sets and formats, and the data on this machine, as plain values.

    Args:
        asked: List only this data set or format.
    """
    sets, formats = [], []
    for name in DATASETS if asked is None else [asked]:
        source = DATASETS[name]
        entry: dict[str, Any] = {
            "name": name,
            "what": source.summary,
            "where_from": source.where_from,
            "terms": source.terms,
            "options": list(source.options),
        }
        if is_format(source):
            formats.append(entry)
        else:
            build = option_kinds(source.build) if source.build and source.download else ()
            entry |= {"get": ways_to_get(name), "build_options": list(build)}
            sets.append({**entry, "here": _here(source)})
    return {
        "data_sets": sets,
        "formats": formats,
        "stored_pixels": [
            {
                "folder": str(stored.path),
                "images_of": str(stored.about["note"]["root"]),
                "images": int(stored.about["note"]["images"]),
                "size": int(stored.about["note"]["size"]),
                "bytes": stored.bytes,
            }
            for stored in (stored_pixels() if asked is None else ())
        ],
    }


def is_format(source: DataSource) -> bool:
    """Return whether an entry is a format for any data rather than one data set."""
    return source.recognise is not None and not source.terms


GROUPS = (
    ("made", "Data sets that are made on this machine"),
    ("download", "Data sets that one command downloads"),
    (
        "by hand",
        "Data sets to download yourself; then --data-root DIR, or DIR as $MMPOISON_DATA/NAME",
    ),
)


def show_known_data(known: dict[str, Any], *, details: bool = False) -> None:
    """Print the known data sets and formats; nothing is cut at 80 columns.

    Args:
        known: Result of `known_data`.
        details: Also print the origin, terms and options of each.
    """
    for how, title in GROUPS:
        # if one part must be fetched by hand, the user must know
        of_kind = [entry for entry in known["data_sets"] if _hardest(entry) == how]
        _show_entries(title, of_kind, details)
    _show_entries("Formats of your own data", known["formats"], details)
    stored = known["stored_pixels"]
    if stored:
        console.print("[bold]Cached decoded images[/bold] (may be deleted)")
        for entry in stored:
            say(
                f"  {file_size(entry['bytes'])}  {count_of(entry['images'], 'image')} of {entry['size']} pixels of "
                f"{entry['images_of']}: {entry['folder']}"
            )
        console.print()
    if not details:
        console.print(
            "`mmpoison data list NAME` shows the required files and the options (--long: for all); each name also "
            "works with --format",
            highlight=False,
        )


def _hardest(entry: dict[str, Any]) -> str:
    hows = [way["how"] for way in entry["get"]]
    return next(how for how in ("by hand", "download", "made") if how in hows)


def _show_entries(title: str, entries: list[dict[str, Any]], details: bool) -> None:
    if not entries:
        return
    console.print(f"[bold]{title}[/bold]", highlight=False)
    shown = []
    for entry in entries:
        lines = [entry["what"], *_ways(entry, details)]
        derived = any(way["name"] != entry["name"] for way in entry.get("get", ()))
        if details:
            lines.append(f"from: {entry['where_from']}")
        if entry["terms"] and (details or not derived):
            lines.append(f"terms: {entry['terms']}")
        for what, key in (("options", "options"), ("options of data build", "build_options")):
            if details and entry.get(key):
                lines.append(f"{what}: {', '.join(entry[key])}")
        lines += [f"here: {_place(place)}" for place in entry.get("here", ())]
        shown.append((f"  {entry['name']}", "\n".join(lines)))
    print_entries(shown)
    console.print()


def _ways(entry: dict[str, Any], details: bool) -> list[str]:
    """Describe how to get a data set, or the data sets that it is made from."""
    ways = entry.get("get", ())
    parts = [way["name"] for way in ways if way["name"] != entry["name"]]
    lines = [f"made from {' and '.join(parts)}"] if parts else []
    for way in ways if details or not parts else ():
        if way["how"] == "by hand":
            how = f"by hand, {way['address'] or way['about']}"
        else:
            how = way["command"] + (f" ({way['about']})" if way["about"] else "")
        lines.append(f"get {way['name']}: {how}" if parts else f"get: {how}")
    return lines


def _here(source: DataSource) -> list[dict[str, Any]]:
    """List the places of a data set on this machine."""
    places = []
    root = find_root(source)
    if root is not None:
        places.append(root)
    for entry in ContentCache().entries(f"data/{source.name}"):
        places += sorted(folder for folder in entry.path.iterdir() if folder.is_dir())
    return [{"path": str(place), "images": _images_in(place)} for place in places]


def _images_in(place: Path) -> int | None:
    """Count the images of a pairs folder; None if that is slow or fails."""
    file = place / CAPTIONS_FILE
    try:
        if file.stat().st_size > COUNTED:
            return None
        with open_bytes(file) as stream:
            return sum(1 for line in stream if line.strip())
    except (OSError, InputError):
        return None


def _place(place: dict[str, Any]) -> str:
    count = place["images"]
    return place["path"] if count is None else f"{place['path']} ({count_of(count, 'image')})"


Keywords = Annotated[list[str] | None, typer.Option(metavar="LABEL=WORD|WORD")]

app = PlainTyper(help="List, build, split and verify data sets.", no_args_is_help=True)


@app.command("list")
def list_(
    name: Annotated[str | None, typer.Argument()] = None,
    long: bool = False,
    as_json: AsJson = False,
) -> None:
    """List named data sets and how to get them, supported formats, and data on this machine.

    Example: [bold]mmpoison data list coco[/bold]

    Options:
        name: Show all details of this data set or format.
        long: Show all details of every data set and format.
    """
    known = known_data(name)
    if as_json:
        print_json(known)
    else:
        show_known_data(known, details=long or name is not None)


@app.command()
def build(
    context: typer.Context,
    name: Annotated[str, typer.Argument()],
    out: Path,
    seed: Seed = 0,
    option: list[str] | None = None,
) -> None:
    """Generate or download a data set; the same command resumes an interrupted download.

    Example: [bold]mmpoison data build openmoji --out scenes[/bold]

    Options:
        name: Name of the data set (see `mmpoison data list`).
        seed: Random seed for a generated data set.
        option: Option of the data set, e.g. year=2017; repeatable.

    Output:
        out: New folder.
    """
    from mmpoison.datasets.catalogue import DATASETS, load_dataset
    from mmpoison.datasets.fetch import build_dataset

    options = parse_options(option)
    hold_output(context, out)
    with live_progress() as progress:
        build_dataset(
            name,
            out,
            seed=seed,
            progress=progress.progress(f"building {name}"),
            options=options,
        )
    source = DATASETS[name]
    counts = load_dataset(name, out).counts()
    say(f"{out}: {count_of(counts['images'], 'image')}, {count_of(counts['pairs'], 'pair')}")
    for line in (source.attribution, source.terms and f"terms: {source.terms}"):
        if line:
            say(line)


@app.command()
def split(
    context: typer.Context,
    data: Annotated[NamedData, typer.Argument()],
    labels: Path | None = None,
    keywords: Keywords = None,
    per_class: Annotated[int | None, typer.Option(min=1, max=10_000_000)] = None,
    seed: Seed = 0,
    out: Path | None = None,
    images: Images = "link",
) -> None:
    """Show or make the split of a data set; the same seed makes the same split.

    Example: [bold]mmpoison data split photos --per-class 25 --out split-photos[/bold]

    Options:
        data: Folder or file of pairs, or the name of a data set.
        per_class: Number of test images per class in a new split.
        seed: Random seed for --per-class.
        images: Images in the new folder: hard links, copies or none.

    Output:
        out: New folder for the set in pairs-folder format.
    """
    from mmpoison.pairs.folder import save_pairs
    from mmpoison.pairs.labels import label_by_keyword, labels_from_csv, parse_keywords
    from mmpoison.pairs.splits import split_per_class
    from mmpoison.pairs.table import SPLITS

    if out is not None:
        hold_output(context, out)
    pairs = data.load()
    if labels is not None:
        pairs = labels_from_csv(pairs, labels)
    if keywords:
        pairs = label_by_keyword(pairs, parse_keywords(keywords))
    if per_class is not None:
        pairs = split_per_class(pairs, per_class, seed)
    parts = ", ".join(f"{len(pairs.images.indices(split=part)):,} {part}" for part in SPLITS)
    classes = count_of(len(pairs.classes), "class", "classes")
    console.print(f"{parts} images, {classes}", highlight=False)
    if out is not None:
        save_pairs(pairs, out, images=images)
        say(f"{out}: {count_of(len(pairs), 'pair')}")


@app.command()
def verify(
    data: Annotated[NamedData, typer.Argument()],
    clean: Path | None = None,
    images: bool = True,
    as_json: AsJson = False,
    out: Path | None = None,
) -> None:
    """Check the entries and images of a data set, and the manifest of a poisoned one.

    Exit code 1 means that something is wrong; notes alone do not change it.

    Example: [bold]mmpoison data verify poisoned --clean scenes[/bold]

    Options:
        data: Folder or file of pairs, or the name of a data set.
        clean (DIR): Clean pairs folder that the poisoned set was made from.

    Output:
        images: Also read the image files.
        out (FILE): New file for the JSON.
    """
    from mmpoison.attacks.catalogue import attack_problems
    from mmpoison.base.files import write_json
    from mmpoison.datasets.catalogue import load_pairs
    from mmpoison.datasets.verify import load_to_verify, verify_pairs

    pairs, name, manifest_faults = load_to_verify(
        data.data, format=data.format, root=data.root, options=data.options
    )
    made_from = load_pairs(clean) if clean else None
    notes: list[str] = []
    manifest = pairs.manifest
    # an attack that adds images reads those of the clean set
    if made_from is not None and manifest is not None and (images or not manifest.added_images):
        faults, notes = attack_problems(made_from, manifest)
        manifest_faults += faults
    # with --json, standard output is reserved for JSON
    with live_progress(on_stderr=as_json) as progress:
        found = verify_pairs(
            pairs,
            clean=made_from,
            images=images,
            format=name,
            manifest_faults=manifest_faults,
            progress=progress.progress("reading images"),
        )
    found = replace(found, notes=[*found.notes, *notes])
    if out is not None:
        write_json(out, found.to_json())
    if as_json:
        print_json(found.to_json())
    else:
        show_verification(found)
    if found.problems:
        raise typer.Exit(1)
