"""The verb `data`: list, build, split, convert and verify data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from mmpoison.base.phrasing import count_of
from mmpoison.cli.console import console, hold_output, live_progress, say
from mmpoison.cli.help import PlainTyper
from mmpoison.cli.options import (
    COMPUTE,
    OUTPUT,
    SEEDS,
    WORKERS,
    DataOptionsOption,
    DataRootOption,
    JsonOption,
    PairsFormatOption,
    parse_options,
)
from mmpoison.errors import InputError

ImageOption = Annotated[
    Literal["link", "copy", "none"],
    typer.Option(
        "--images",
        help="Of a new pairs folder: hard links, copies or no images; of Parquet: none writes paths, not bytes.",
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        help="CSV of labels: image,label or image,label,split.",
        rich_help_panel="Labels",
    ),
]
Keywords = Annotated[
    list[str] | None,
    typer.Option(
        "--keywords",
        metavar="LABEL=WORD|WORD",
        help="Label images by words in their captions.",
        rich_help_panel="Labels",
    ),
]

app = PlainTyper(help="List, build and verify data sets.", no_args_is_help=True)


@app.command("list")
def list_(
    name: Annotated[str | None, typer.Argument(help="One of them, with all details.")] = None,
    long: Annotated[bool, typer.Option("--long", help="All details of all.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the data sets known by name and how to get each, the formats that are read, and what is on this machine.

    Example: [bold]mmpoison data list coco[/bold]
    """
    from mmpoison.cli.data_shown import known_data, show_known_data

    known = known_data(name)
    if as_json:
        typer.echo(json.dumps(known, indent=2))
    else:
        show_known_data(known, console, details=long or name is not None)


@app.command()
def build(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A data set that can be made here or downloaded.")],
    out: Annotated[Path, typer.Option(help="New folder.", rich_help_panel=OUTPUT)],
    seed: Annotated[int, typer.Option(min=0, max=SEEDS, help="Seed of data that are made.")] = 0,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", metavar="KEY=VALUE", help="An option of what is made, e.g. year=2017."
        ),
    ] = None,
) -> None:
    """Make a data set, or download it; the same command resumes an interrupted download.

    Example: [bold]mmpoison data build openmoji --out scenes[/bold]
    """
    from mmpoison.datasets.catalogue import DATASETS, load_dataset
    from mmpoison.datasets.fetch.builds import build_dataset

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
    data: Annotated[str, typer.Argument(help="A folder or file of pairs, or a data set's name.")],
    labels: Labels = None,
    keywords: Keywords = None,
    per_class: Annotated[
        int | None,
        typer.Option(
            min=1, max=10_000_000, help="Make a split: so many test images of each class."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=SEEDS, help="Seed of --per-class.")] = 0,
    apply: Annotated[
        str | None, typer.Option(help="Take the split of a file, or one that is shipped.")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Let --apply lack images, and leave others out.")
    ] = False,
    save: Annotated[
        Path | None, typer.Option(help="Write the split to a new file.", rich_help_panel=OUTPUT)
    ] = None,
    ids: Annotated[
        Literal["path", "name"],
        typer.Option(help="Match images by path, or by file name in any folder."),
    ] = "path",
    out: Annotated[
        Path | None,
        typer.Option(help="Write the set as a new pairs folder.", rich_help_panel=OUTPUT),
    ] = None,
    images: ImageOption = "link",
    format: PairsFormatOption = None,
    data_root: DataRootOption = None,
    option: DataOptionsOption = None,
) -> None:
    """Show, make, save or take the split of a data set; equal sha256 means equal split and labels.

    Example: [bold]mmpoison data split photos --per-class 25 --save split.json[/bold]
    """
    from mmpoison.datasets.catalogue import load_dataset
    from mmpoison.pairs.folder import save_pairs
    from mmpoison.pairs.labels import label_by_keyword, labels_from_csv, parse_keywords
    from mmpoison.pairs.splits import FrozenSplit, find_split, split_per_class

    if per_class is not None and apply is not None:
        raise InputError("--per-class makes a split and --apply takes one: give one of them")
    if save is not None and save.exists():
        raise InputError(f"{save}: exists already: choose another --save")
    if out is not None:
        hold_output(context, out)
    pairs = load_dataset(data, data_root, options=parse_options(option), format=format)
    if labels is not None:
        pairs = labels_from_csv(pairs, labels)
    if keywords:
        pairs = label_by_keyword(pairs, parse_keywords(keywords))
    before = pairs.problems
    if per_class is not None:
        pairs = split_per_class(pairs, per_class, seed)
    elif apply is not None:
        pairs = find_split(apply).apply(pairs, strict=not partial, where=apply)
    # those of loading were warned of
    for problem in pairs.problems[len(before) :]:
        say(problem)
    frozen = FrozenSplit.of(pairs, Path(data).name, ids)
    counts = frozen.counts()
    parts = ", ".join(f"{counts[part]:,} {part}" for part in ("train", "val", "test"))
    console.print(
        f"{parts} images, {count_of(counts['classes'], 'class', 'classes')}", highlight=False
    )
    console.print(f"sha256 {frozen.sha256}", highlight=False, soft_wrap=True)
    if save is not None:
        frozen.write(save)
        say(f"{save}: written")
    if out is not None:
        save_pairs(pairs, out, images=images)
        say(f"{out}: {count_of(len(pairs), 'pair')}")


@app.command()
def convert(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="Folder or file of pairs, or hf:org/name.")
    ],
    out: Annotated[Path, typer.Option(help="New folder.", rich_help_panel=OUTPUT)],
    to: Annotated[
        Literal["pairs-folder", "parquet", "webdataset"], typer.Option(help="The new format.")
    ],
    format: PairsFormatOption = None,
    data_root: DataRootOption = None,
    option: DataOptionsOption = None,
    images: ImageOption = "link",
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=WORKERS, help="Shards written at once.", rich_help_panel=COMPUTE),
    ] = None,
    images_per_shard: Annotated[
        int, typer.Option(min=1, max=10_000, help="Images in each shard.", rich_help_panel=OUTPUT)
    ] = 10_000,
    labels: Labels = None,
    keywords: Keywords = None,
) -> None:
    """Convert a set of pairs; the same command resumes an interrupted conversion.

    Example: [bold]mmpoison data convert photos.csv --out shards --to webdataset[/bold]
    """
    from mmpoison.cli.poison import gallery_notes
    from mmpoison.datasets.convert import convert_pairs, work_folder
    from mmpoison.pairs.folder import MANIFEST_FILE
    from mmpoison.pairs.manifest import PoisonManifest

    hold_output(context, out, work=work_folder(out))
    with live_progress() as progress:
        done = convert_pairs(
            source,
            out,
            to=to,
            format=format,
            root=data_root,
            options=parse_options(option),
            images=images,
            workers=workers,
            images_per_shard=images_per_shard,
            labels=labels,
            keywords=keywords or (),
            progress=progress.progress("converting images"),
        )
    again = f", {done.kept_shards} of them from before" if done.kept_shards else ""
    say(
        f"{out}: {count_of(done.images, 'image')}, {count_of(done.pairs, 'pair')} in "
        f"{count_of(done.shards, 'shard')}{again}"
    )
    manifest = out / MANIFEST_FILE
    for line in gallery_notes(PoisonManifest.read(manifest)) if manifest.is_file() else ():
        say(line)
    if done.left_out:
        reasons = count_of(done.left_out, "reason")
        say(f"some were left out, {reasons}: {out / 'problems.txt'}")


@app.command()
def verify(
    data: Annotated[str, typer.Argument(help="A folder or file of pairs, or a data set's name.")],
    clean: Annotated[
        Path | None, typer.Option(help="The clean pairs folder that a poisoned one was made from.")
    ] = None,
    format: PairsFormatOption = None,
    data_root: DataRootOption = None,
    option: DataOptionsOption = None,
    images: Annotated[
        bool, typer.Option(help="Read the image files too.", rich_help_panel=OUTPUT)
    ] = True,
    near_duplicates: Annotated[
        int,
        typer.Option(
            min=0, max=10, help="Bits of 64 in which the hashes of near images may differ."
        ),
    ] = 4,
    as_json: JsonOption = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the JSON to a file too.", rich_help_panel=OUTPUT)
    ] = None,
) -> None:
    """Check a data set: entries, images, captions, splits, and the manifest if it is poisoned.

    Exit code 1 when something is wrong; notes alone leave it 0.

    Example: [bold]mmpoison data verify poisoned --clean scenes[/bold]
    """
    from mmpoison.base.files import write_json
    from mmpoison.cli.data_shown import show_verification
    from mmpoison.datasets.catalogue import load_pairs
    from mmpoison.datasets.verify.pairs_check import load_to_verify, verify_pairs

    pairs, name, manifest_faults = load_to_verify(
        data, format=format, root=data_root, options=parse_options(option)
    )
    # standard output is for JSON alone where a program reads it
    with live_progress(on_stderr=as_json) as progress:
        found = verify_pairs(
            pairs,
            clean=load_pairs(clean) if clean else None,
            images=images,
            near=near_duplicates,
            format=name,
            manifest_faults=manifest_faults,
            progress=progress.progress("reading images"),
        )
    if out is not None:
        write_json(out, found.to_json())
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        show_verification(found, console)
    if found.problems:
        raise typer.Exit(1)
