"""The verb `poison`: attacks a data set, or rebuilds a poisoned set from its manifest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mmpoison.api.inputs import poison as poison_pairs
from mmpoison.attacks.settings import (
    CarrierOption,
    ModeOption,
    Pairs,
    PresetOption,
    Rate,
    Samples,
    Share,
    TargetImage,
)
from mmpoison.cli.console import hold_output, say
from mmpoison.cli.options import Images, changed_options
from mmpoison.cli.verb import verb
from mmpoison.errors import InputError

if TYPE_CHECKING:
    from mmpoison.datasets.catalogue import NamedData
    from mmpoison.pairs.manifest import PoisonManifest
    from mmpoison.pairs.table import PairDataset

OTHER = (
    *("positional", "--out", "--data", "--from-manifest", "--images", "--device"),
    *("--format", "--data-root", "--option"),
)
"""Options that do not change the attack."""


@verb(poison_pairs)
def poison(
    call: Callable[..., PairDataset],
    context: typer.Context,
    out: Path,
    data: NamedData | None = None,
    positional: Annotated[str | None, typer.Argument(metavar="DATA", hidden=True)] = None,
    samples: Samples = None,
    pairs: Pairs = None,
    rate: Rate = None,
    share: Share = None,
    mode: ModeOption = None,
    spread: Literal["captions", "samples", "one-image"] | None = None,
    carrier: CarrierOption = None,
    target_image: TargetImage = None,
    preset: PresetOption = None,
    from_manifest: Path | None = None,
    images: Images = "link",
) -> None:
    """Write a poisoned copy of a data set, with a manifest of every false pair.

    Example: [bold]mmpoison poison --data pairs --goal sheep2aeroplane --samples 25 --out poisoned[/bold]

    Attack I: [bold]mmpoison poison --data pairs --attack single-target-image --goal sheep2sofa --samples 25 --out
    one[/bold]

    Attack III: [bold]mmpoison poison --data pairs --goal sheep2aeroplane --goal sofa2bird --samples 25
    --out both[/bold]

    Rebuild: [bold]mmpoison poison --data pairs --from-manifest poisoned/manifest.json --out again[/bold]

    Options:
        data: Clean data set in any format.
        goal: Goal A2B, e.g. sheep2aeroplane; repeatable.
        attack: Attack (default: single-target-label, or multiple-target-labels for several goals).

    How much, give one:
        samples, pairs, rate, share: ...

    How:
        mode, carrier, target_image: ...
        spread: Unit spread evenly over target images: captions (default) or samples; toxic-text: one-image (default)
            or captions.
        encoder: Surrogate model, for --target-image centre and attacks that need one.
        changes: Other option of the attack.

    Rebuild:
        from_manifest: Manifest of the poisoned set to rebuild from the clean set.
    """
    assert data is not None, "always given: its name may be empty"
    if bool(data.data) == (positional is not None):
        raise InputError("no data given, or more than one: give --data FOLDER, FILE or NAME once")
    # `--data NAME` and, as in earlier versions, a plain NAME are the same command
    data = replace(data, data=data.data or str(positional))
    context.params |= {"data": data.data, "positional": None}
    hold_output(context, out)
    chosen = {name: value for name, value in changed_options(context).items() if name not in OTHER}
    if from_manifest is not None:
        poisoned = _again(from_manifest, chosen, data, out, images)
    else:
        chosen.pop("--set", None)  # `call` has it already
        own = {name[2:].replace("-", "_"): value for name, value in chosen.items()}
        poisoned = call(data, **own)
    manifest = poisoned.manifest
    assert manifest is not None
    say(
        f"{out}: {len(manifest.pairs)} poisoned pairs of {manifest.training_pairs:,} "
        f"({manifest.rate:.3%}), each listed in {out / 'manifest.json'}"
    )
    if manifest.dropped_images:
        say(
            f"the attack removed the honest training captions of {len(manifest.dropped_images)} images: "
            "`mmpoison data verify` needs --clean to check them"
        )
    for line in (*manifest.notes, *gallery_notes(manifest)):
        say(line)


def gallery_notes(manifest: PoisonManifest) -> list[str]:
    """List the target images that are in the gallery (attack I), one warning each."""
    return [
        f"{goal}: the target image {image} is in the gallery (split test); only the manifest marks its poisoned "
        "captions as training pairs, so programs that do not read it see them in split test"
        for goal, image in manifest.target_images.items()
    ]


def _again(
    file: Path, chosen: dict[str, Any], clean: NamedData, out: Path, images: Images
) -> PairDataset:
    from mmpoison.attacks.target_labels import rebuild
    from mmpoison.pairs.folder import save_pairs
    from mmpoison.pairs.manifest import PoisonManifest

    if chosen:
        raise InputError(
            f"{next(iter(chosen))} and --from-manifest cannot be combined: give only one of them"
        )
    manifest = PoisonManifest.read(file)
    poisoned = rebuild(clean.load(), manifest, file.parent)
    save_pairs(poisoned, out, images=images)
    return poisoned
