"""The verbs that run one stage on folders: `train`, `evaluate`, `filter`, `sterilize`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mmpoison.cli.console import console, monitor
from mmpoison.errors import InputError

DataOption = Annotated[Path, typer.Option("--data", help="A pairs folder.")]
OutOption = Annotated[Path, typer.Option("--out", help="New folder.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model", help="A model's name, folder or file (`mmpoison models list` shows how)."
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option("--trust", help="Open TorchScript archives (OpenAI's format): they can run code."),
]
TrainSetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a training setting, e.g. epochs=2."),
]
ImagesOption = Annotated[
    Literal["link", "copy", "none"],
    typer.Option("--images", help="Hard links (no copy), copies, or the table alone."),
]


def add_commands(app: typer.Typer) -> None:
    """Add the verbs to the application."""
    app.command()(train)
    app.command()(evaluate)
    app.command("filter")(filter_)
    app.command()(sterilize)


def train(
    data: DataOption,
    model: ModelOption,
    out: OutOption,
    seed: SeedOption = 0,
    changes: TrainSetOption = None,
    trust: TrustOption = False,
) -> None:
    """Fine-tune a model on the training pairs of a folder; the settings are the paper's unless changed.

    Example: [bold]mmpoison train --data poisoned --model openmoji-small --out model --set learning_rate=3e-4[/bold]
    """
    _train(data, model, out, seed, changes, split="train", trust=trust)


def sterilize(
    data: DataOption,
    model: ModelOption,
    out: OutOption,
    split: Annotated[str, typer.Option(help="The clean split to train on.")] = "val",
    seed: SeedOption = 0,
    changes: TrainSetOption = None,
    trust: TrustOption = False,
) -> None:
    """Repair a suspect checkpoint by fine-tuning it on pairs that you know to be clean.

    Example: [bold]mmpoison sterilize --data scenes --model model --out repaired --set epochs=1[/bold]
    """
    _train(data, model, out, seed, changes, split=split, clean=True, trust=trust)


def evaluate(
    data: DataOption,
    model: ModelOption,
    goal: Annotated[str, typer.Option(help="A2B, e.g. sheep2aeroplane.")],
    reference: Annotated[
        str | None, typer.Option(help="A clean model, to compare with and to measure drift from.")
    ] = None,
    seed: SeedOption = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Write metrics.json here.")] = None,
    trust: TrustOption = False,
) -> None:
    """Measure what captions of A retrieve, and the model's usual quality.

    Example: [bold]mmpoison evaluate --data scenes --model model --goal sheep2aeroplane[/bold]
    """
    from mmpoison.attacks import Goal
    from mmpoison.datasets import load_pairs
    from mmpoison.evaluation import (
        TestEmbeddings,
        TestSet,
        collapse_warning,
        drift_between,
        goal_row,
        random_captions_row,
        utility_row,
    )
    from mmpoison.files import refuse_occupied, write_json
    from mmpoison.models import load_encoder, prepare_pixels
    from mmpoison.reporting import terminal_table

    if out is not None:
        refuse_occupied(out)
    pairs = load_pairs(data)
    aim = Goal.parse(goal, pairs.classes)
    test = TestSet.of(pairs)
    test.check_goal(aim)
    names = {"poisoned": model, **({"clean_model": reference} if reference else {})}
    metrics: dict[str, Any] = {"goal": {str(aim): {}}, "utility": {}, "run": {"goals": [str(aim)]}}
    embedded: dict[str, TestEmbeddings] = {}
    flags: list[str] = []
    pixels = None
    with monitor() as progress:
        for role, name in names.items():
            encoder = load_encoder(name, trust=trust)
            inputs = prepare_pixels(
                encoder,
                test.pairs,
                images=test.gallery,
                pixels=pixels,
                progress=progress.progress,
            )
            pixels = inputs.pixels
            embedded[role] = TestEmbeddings.of(
                encoder, inputs, test, progress.progress(f"embedding with {encoder.name}")
            )
            if warning := collapse_warning(embedded[role], test, name):
                flags.append(warning)
            metrics["goal"][str(aim)][role] = goal_row(embedded[role], test, aim)
            metrics["utility"][role] = utility_row(embedded[role], test)
    metrics["goal"][str(aim)]["random_captions"] = random_captions_row(
        embedded["poisoned"], test, aim, seed
    )
    if reference:
        metrics["drift"] = drift_between(embedded["clean_model"], embedded["poisoned"])
    metrics["run"] |= {"seed": seed, "flags": flags, "models": names}
    if out is not None:
        write_json(out / "metrics.json", metrics)
    console.print(terminal_table(metrics))


def filter_(
    data: DataOption,
    out: OutOption,
    encoder: Annotated[str, typer.Option(help="The judge: a model other than the one to train.")],
    threshold: Annotated[
        float | None, typer.Option(help="Drop pairs with a larger cosine distance.")
    ] = None,
    clean_loss: Annotated[
        float | None,
        typer.Option(
            help="Instead: the share of clean pairs you are ready to lose, measured on split val where there is one."
        ),
    ] = None,
    images: ImagesOption = "link",
    trust: TrustOption = False,
) -> None:
    """Drop training pairs whose image and caption do not fit, before training.

    Example: [bold]mmpoison filter --data poisoned --encoder openmoji-mini --clean-loss 0.02 --out kept[/bold]
    """

    from mmpoison.datasets import load_pairs
    from mmpoison.defenses import RelevanceFilter, save_filtered
    from mmpoison.files import refuse_occupied
    from mmpoison.models import load_encoder, prepare_pixels

    refuse_occupied(out)
    judge_filter = RelevanceFilter(threshold, clean_loss)
    pairs = load_pairs(data)
    in_train = pairs.in_split("train")
    judged = pairs.where(in_train)
    trusted = pairs.select(split="val")
    judge = load_encoder(encoder, trust=trust)
    with monitor() as progress:
        inputs = prepare_pixels(judge, pairs, progress=progress.progress)
        result = judge_filter.apply(
            judged, judge, inputs, trusted=trusted, progress=progress.progress
        )
    save_filtered(pairs, in_train, result, out, images=images)
    console.print(
        f"{out}: kept {len(result.kept):,} of {len(judged):,} training pairs, "
        f"dropped those farther apart than {result.threshold:.4f}; verdicts in {out / 'verdicts.jsonl'}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    console.print_json(json.dumps(result.facts(judged)))


def _train(
    data: Path,
    model: str,
    out: Path,
    seed: int,
    changes: list[str] | None,
    *,
    split: str,
    clean: bool = False,
    trust: bool = False,
) -> None:
    from mmpoison.datasets import load_pairs
    from mmpoison.defenses import CleanFinetune
    from mmpoison.experiments.cards import model_card
    from mmpoison.experiments.recipe import parse_changes, parse_training
    from mmpoison.files import refuse_occupied
    from mmpoison.models import load_encoder, prepare_features, prepare_pixels, save_checkpoint
    from mmpoison.training import finetune

    refuse_occupied(out)
    settings = parse_training(parse_changes(changes or []))
    pairs = load_pairs(data)
    part = pairs.select(split=split)
    if not len(part):
        raise InputError(f"{data}: split {split!r} has no pairs to train on")
    start = load_encoder(model, trust=trust)
    with monitor() as progress:
        prepare: Any = prepare_features if settings.trainable == "heads" else prepare_pixels
        inputs = prepare(start, part, progress=progress.progress)
        on_step = progress.training("sterilizing" if clean else "training")
        if clean:
            result = CleanFinetune(settings).apply(start, part, inputs, seed=seed, on_step=on_step)
        else:
            result = finetune(
                start, part, inputs, settings, seed=seed, name=out.name, on_step=on_step
            )
    encoder = result.encoder
    poisoned = bool(part.poisoned.any())
    stage = "sterilized" if clean else "poisoned" if poisoned else "trained"
    card = model_card(
        encoder, stage, started_from=start.name, data=part, settings=settings, result=result
    )
    save_checkpoint(
        encoder,
        out,
        card=card,
        metadata={"training": result.summary(), "seed": seed, "poisoned": poisoned},
    )
    last = f", last loss {result.epochs[-1]['loss']:.3f}" if result.epochs else ""
    console.print(
        f"{out}: {result.steps} steps, {result.pairs_per_second:,.0f} pairs/s{last}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
