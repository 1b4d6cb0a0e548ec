"""The verb `models`: list, show, download and export models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmpoison.cli.console import console, hold_output, print_entries, print_json, say
from mmpoison.cli.options import AsJson
from mmpoison.cli.verb import PlainTyper

app = PlainTyper(help="List, describe, download and export models.", no_args_is_help=True)

WAYS = """Other names for a model, accepted by every option that takes one:
  ARCHITECTURE:TAG       open_clip's architectures and weights, e.g. ViT-B-32:laion2b_s34b_b79k
  ARCHITECTURE@FILE      your own weights, e.g. ViT-B-32-quickgelu@finetuned.pt
  ARCHITECTURE:random    random weights of seed 0 (random-7: of seed 7)
  hf-hub:owner/name      a repository in open_clip's or transformers' format (hf-hub:owner/name@REVISION)
  FOLDER or FILE         a checkpoint of mmpoison or open_clip, a transformers CLIPModel, a safetensors file
A checkpoint never runs code."""

ModelArgument = Annotated[str, typer.Argument()]


@app.command("list")
def list_(
    architectures: bool = False,
    containing: Annotated[str, typer.Option("--like", metavar="TEXT")] = "",
    as_json: AsJson = False,
) -> None:
    """List named models, and whether they are on this machine.

    Example: [bold]mmpoison models list --architectures --like ViT-B-32[/bold]

    Options:
        architectures: List the architectures of open_clip and the tags of their weights.
        containing: List only names that contain this text.
    """
    known = _architectures() if architectures else _registered()
    known = [entry for entry in known if containing.lower() in entry["name"].lower()]
    if as_json:
        print_json(known)
        return
    for entry in known if architectures else []:
        tags = ", ".join([*entry["weights"], "random"])
        say(f"{entry['name']} ({entry['activation']}): {tags}")
    if architectures:
        return
    print_entries((entry["name"], _about(entry)) for entry in known)
    console.print(f"\n{WAYS}", highlight=False, markup=False, soft_wrap=True)


def _about(entry: dict[str, Any]) -> str:
    size = f"{entry['megabytes']:,.0f} MB, " if entry["megabytes"] else ""
    here = "on this machine" if entry["on_this_machine"] else "not downloaded"
    return f"{entry['summary']}\n{size}{here}; licence: {entry['licence']}"


@app.command()
def show(
    model: ModelArgument,
    as_json: AsJson = False,
) -> None:
    """Load a model and show its architecture, activation, sizes, preprocessing and digest.

    Example: [bold]mmpoison models show openmoji-small[/bold]
    """
    from mmpoison.models.export import encoder_facts
    from mmpoison.models.loading import load_encoder

    facts = encoder_facts(load_encoder(model))
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        say(f"{key.replace('_', ' ')}: {_in_words(value)}")


def _in_words(value: Any) -> str:
    """Format a fact about a model for people.

    >>> _in_words(151277313), _in_words(True), _in_words({"mean": [0.5, 0.4], "size": 2})
    ('151,277,313', 'yes', 'mean 0.5, 0.4; size 2')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return "; ".join(f"{key} {_in_words(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_in_words, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


@app.command()
def fetch(model: ModelArgument) -> None:
    """Download a model into the Hugging Face cache, for use without a network.

    Example: [bold]mmpoison models fetch clip-vit-b32[/bold]
    """
    from mmpoison.models.loading import load_encoder

    # loading proves that everything is there, including the tokenizer
    encoder = load_encoder(model)
    say(f"{encoder.name} is on this machine")


@app.command()
def export(
    context: typer.Context,
    model: ModelArgument,
    out: Path,
    format: Annotated[str, typer.Option("--to")] = "open-clip",
) -> None:
    """Export a model for other software, with the same embeddings.

    Example: [bold]mmpoison models export candidate --to transformers --out candidate-hf[/bold]

    Options:
        format: open-clip, or transformers (a CLIPModel folder).
    """
    from mmpoison.models.export import export_model
    from mmpoison.models.loading import load_encoder

    hold_output(context, out)
    chosen: Any = format
    folder = export_model(load_encoder(model), out, chosen)
    say(f"{folder}: {format}; its README.md shows how to load it")


def _registered() -> list[dict[str, Any]]:
    from mmpoison.models.architectures import MODELS

    return [
        {
            "name": source.name,
            "summary": source.summary,
            "megabytes": source.megabytes,
            "licence": source.licence,
            "origin": source.origin,
            "on_this_machine": bool(source.is_here()),
        }
        for source in MODELS.values()
    ]


def _architectures() -> list[dict[str, Any]]:
    from open_clip import pretrained

    from mmpoison.models.architectures import (
        activation_name,
        architectures,
        tag_activation,
        uses_quick_gelu,
    )

    return [
        {
            "name": name,
            "activation": activation_name(cfg),
            # weights that need the other activation are listed with the architecture that has it
            "weights": [
                tag
                for tag, known in pretrained._PRETRAINED.get(name, {}).items()
                if tag_activation(name, known) in (None, uses_quick_gelu(cfg))
            ],
        }
        for name, cfg in architectures().items()
    ]
