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

app = PlainTyper(help="List, build and verify data sets.", no_args_is_help=True)


@app.command("list")
def list_(
    name: Annotated[str | None, typer.Argument()] = None,
    long: bool = False,
    as_json: AsJson = False,
) -> None:
    """Show the data sets known by name and how to get each, the formats that are read, and what is on this machine.

    Example: [bold]mmpoison data list coco[/bold]

    Options:
        name: One of them, with all details.
        long: Show all details of every data set.
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
    """Generate or download a data set; after an interruption the same command fetches the files that are missing.

    Example: [bold]mmpoison data build openmoji --out scenes[/bold]

    Options:
        name: A data set that can be generated or downloaded.
        seed: Seed of a generated data set.
        option: An option of the data set, e.g. year=2017.

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
        data: A folder or file of pairs, or a data set's name.
        per_class: Make a split with this many test images of each class.
        seed: Seed of --per-class.
        images: For a new pairs folder: hard links, copies or no images.

    Output:
        out: Write the set as a new pairs folder.
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
    """Check a data set: entries, images, and the manifest if it is poisoned.

    Exit code 1 when something is wrong; notes alone leave it 0.

    Example: [bold]mmpoison data verify poisoned --clean scenes[/bold]

    Options:
        data: A folder or file of pairs, or a data set's name.
        clean: The clean pairs folder that a poisoned one was made from.

    Output:
        images: Read the image files too.
        out: Write the JSON to a file too.
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
    # an attack that makes images reads those of the clean set
    if made_from is not None and manifest is not None and (images or not manifest.added_images):
        faults, notes = attack_problems(made_from, manifest)
        manifest_faults += faults
    # standard output is for JSON alone where a program reads it
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
