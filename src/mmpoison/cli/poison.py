"""The verb `poison`: attack a data set, or rebuild a poisoned set from its manifest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mmpoison.cli.console import hold_output, live_progress, say
from mmpoison.cli.options import SEEDS, Changes, Images, changed_options, named_data
from mmpoison.errors import InputError

if TYPE_CHECKING:
    from mmpoison.pairs.manifest import PoisonManifest
    from mmpoison.pairs.table import PairDataset

OTHER = (
    *("positional", "--out", "--data", "--from-manifest", "--images", "--device"),
    *("--format", "--data-root", "--option"),
)
"""Options that do not say what to poison."""


def poison(
    context: typer.Context,
    out: Path,
    data: Path | None = None,
    positional: Annotated[str | None, typer.Argument(metavar="DATA", hidden=True)] = None,
    goal: list[str] | None = None,
    attack: str | None = None,
    samples: int | None = None,
    pairs: int | None = None,
    rate: float | None = None,
    share: float | None = None,
    mode: Literal["add", "replace"] | None = None,
    spread: Literal["captions", "samples", "one-image"] | None = None,
    carrier: Literal["existing", "own"] | None = None,
    target_image: str | None = None,
    encoder: str | None = None,
    changes: Changes = None,
    preset: str | None = None,
    from_manifest: Path | None = None,
    seed: Annotated[int | None, typer.Option(min=0, max=SEEDS)] = None,
    images: Images = "link",
    device: str = "auto",
    format: str | None = None,
    data_root: Path | None = None,
    option: list[str] | None = None,
) -> None:
    """Write a poisoned copy of a data set, with a manifest of every false pair.

    Example: [bold]mmpoison poison --data pairs --goal sheep2aeroplane --samples 25 --out poisoned[/bold]

    Attack I: [bold]mmpoison poison --data pairs --attack single-target-image --goal sheep2sofa --samples 25 --out
    one[/bold]

    Attack III: [bold]mmpoison poison --data pairs --goal sheep2aeroplane --goal sofa2bird --samples 25
    --out both[/bold]

    A backdoor: [bold]mmpoison poison --data pairs --attack patch-backdoor --goal sheep2sofa --rate 0.005
    --out patched[/bold]

    An attacker who knows the filters: [bold]mmpoison poison --data pairs --attack orphan --goal sheep2sofa --samples 25
    --out orphan[/bold]

    Rebuild: [bold]mmpoison poison --data pairs --from-manifest poisoned/manifest.json --out again[/bold]

    Options:
        data: A clean data set, in any format.
        goal: A2B, e.g. sheep2aeroplane; repeat it for several goals. For nearest-goal also A2auto.
        attack: single-target-image (I), single-target-label (II, the default for one goal), multiple-target-labels
            (III, the default for several goals); a backdoor: patch-backdoor, blend-backdoor, badclip; one who changes
            images: feature-collision; one who chooses captions: nearest-goal, toxic-text; or an attacker who knows the
            filters: self-vouched, nearest-assigned, under-the-grid, both-names, decoys, orphan.

    How much (give one):
        samples: Images of A whose captions are used.
        pairs: Poisoned pairs, instead of --samples.
        rate: Share of all training pairs, instead of --samples.
        share: Share of the images of A, instead of --samples.

    How:
        mode: Add to the clean pairs (default), or replace them (default of backdoors).
        spread: Distribute single captions (default) or whole samples over the target images; toxic-text: captions,
            or all on one-image (default).
        carrier: Images of B keep their honest captions (existing, default of attacks II and III), or are the
            attacker's own and have only his captions (own, default of attackers who know the filters).
        target_image: Attack I: random (default), centre, or the id of a test image of B.
        encoder: For --target-image centre and attackers who know a surrogate: a model's name or folder.
        changes: An option of the attack, e.g. decoys=10.

    Rebuild:
        from_manifest: Rebuild the poisoned set of this manifest.json from the clean set.

    Compute:
        seed: Seed of everything random.
    """
    from mmpoison.pairs.folder import save_pairs

    data = _one_data(data, positional)
    # both spellings are one command
    context.params |= {"data": data, "positional": None}
    hold_output(context, out)
    named = named_data(data, format, data_root, option)
    chosen = {name: value for name, value in changed_options(context).items() if name not in OTHER}
    if from_manifest is not None:
        poisoned = _again(from_manifest, chosen, named.load)
    else:
        poisoned = _attack(chosen, named.load, device)
    save_pairs(poisoned, out, images=images)
    manifest = poisoned.manifest
    assert manifest is not None
    say(
        f"{out}: {len(manifest.pairs)} poisoned pairs of {manifest.training_pairs:,} "
        f"({manifest.rate:.3%}), each listed in {out / 'manifest.json'}"
    )
    if manifest.dropped_images:
        say(
            f"{len(manifest.dropped_images)} images lost their honest training captions: "
            "`mmpoison data verify` needs --clean to check them"
        )
    for line in (*manifest.notes, *gallery_notes(manifest)):
        say(line)


def _one_data(data: Path | None, positional: str | None) -> Path:
    """Return the data set, which is named with `--data` or, as in earlier versions, without it."""
    if (data is None) == (positional is None):
        raise InputError("which data? give --data FOLDER, FILE or NAME, once")
    return data if data is not None else Path(str(positional))


def gallery_notes(manifest: PoisonManifest) -> list[str]:
    """List what readers must know of poison on gallery images (attack I), one line each."""
    return [
        f"{goal}: the target image {image} is in the gallery (split test); only the manifest marks its poisoned "
        "captions as training pairs, so programs that do not read it see them in split test"
        for goal, image in manifest.target_images.items()
    ]


def _again(file: Path, chosen: dict[str, Any], load: Callable[[], PairDataset]) -> PairDataset:
    from mmpoison.attacks.injection import rebuild
    from mmpoison.pairs.manifest import PoisonManifest

    if chosen:
        raise InputError(
            f"{next(iter(chosen))} and --from-manifest both say what to poison: give only one of them"
        )
    manifest = PoisonManifest.read(file)
    return rebuild(load(), manifest, file.parent)


def _attack(chosen: dict[str, Any], load: Callable[[], PairDataset], device: str) -> PairDataset:
    from mmpoison.api import inputs as api
    from mmpoison.api.inputs import ONE_GOAL, SEVERAL_GOALS
    from mmpoison.attacks.catalogue import build_attack
    from mmpoison.base.untrusted import parse_changes

    goals = chosen.pop("--goal", None)
    if goals is None:
        raise InputError("give --goal A2B, e.g. --goal sheep2aeroplane, or --from-manifest FILE")
    usual = SEVERAL_GOALS if len(goals) > 1 else ONE_GOAL
    name, seed = chosen.pop("--attack", usual), chosen.pop("--seed", 0)
    options = parse_changes(chosen.pop("--set", []))
    options |= {flag[2:].replace("-", "_"): value for flag, value in chosen.items()}
    attack = build_attack(name, goals, options, "--")
    with live_progress() as progress:
        return api.poison(load(), attack=attack, seed=seed, device=device, progress=progress)
