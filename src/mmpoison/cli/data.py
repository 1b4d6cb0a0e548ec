"""The verb `data`: list, build, split and verify data sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmpoison.base.phrasing import count_of
from mmpoison.cli.console import console, hold_output, live_progress, print_json, say
from mmpoison.cli.help import PlainTyper
from mmpoison.cli.options import AsJson, Images, Seed, parse_options

if TYPE_CHECKING:
    from mmpoison.datasets.catalogue import NamedData

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
    from mmpoison.cli.data_shown import known_data, show_known_data

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
    from mmpoison.cli.data_shown import show_verification
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
