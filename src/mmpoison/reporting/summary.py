"""Describes metrics in words: names of models and goals, and the headline; no layout here."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmpoison.base.text import count, is_finite
from mmpoison.errors import InputError
from mmpoison.records.run_files import GoalRow, Metrics, RunFacts


@dataclass(frozen=True)
class Model:
    """One row of every table: its key in metrics.json, its name and a description."""

    key: str
    name: str
    meaning: str


MODELS = (
    Model("pretrained", "Pre-trained", "before any fine-tuning"),
    Model("clean_model", "Clean", "fine-tuned on the clean pairs"),
    Model("poisoned", "Poisoned", "fine-tuned on the poisoned data"),
    Model("random_captions", "random captions", "unrelated queries, poisoned model"),
    Model("filtered", "Filtered", "trained after dropping suspicious pairs"),
    Model("robust", "Robust", "trained on the poisoned data with a defence"),
    Model("sterilized", "Sterilized", "poisoned model, then clean pairs again"),
)
RANK_LIST_MODELS = tuple(
    model for model in MODELS if model.key not in ("pretrained", "random_captions")
)


def named_models(run: RunFacts, models: Sequence[Model] = MODELS) -> list[Model]:
    """Return the rows, renamed as a run names them.

    Args:
        run: Facts of the run; its `row_names` replace the usual names.
        models: The usual rows.
    """
    names = run.row_names
    if not names:
        return list(models)
    meanings = {
        **dict.fromkeys(names, "the model in question"),
        "random_captions": "unrelated queries, the same model",
    }
    return [
        replace(
            model,
            name=names.get(model.key, model.name),
            meaning=meanings.get(model.key, model.meaning),
        )
        for model in models
    ]


def shown_models(computed: Container[str], models: Sequence[Model] = MODELS) -> list[Model]:
    """Return the rows of a run's page, which shows missing values as dashes.

    Few runs use robust training, so its row is left out unless it was computed.
    """
    return [model for model in models if model.key != "robust" or model.key in computed]


def computed_models(metrics: Metrics, goal: str) -> list[Model]:
    """Return a goal's computed rows, named as in the run; all rows if none was computed."""
    computed = {*metrics.goal.get(goal, {}), *metrics.utility}
    models = named_models(metrics.run)
    return [model for model in models if model.key in computed] or models


def section(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the mapping at `parent[key]`, empty if absent.

    Raises:
        InputError: If `parent` or the value is not a mapping.
    """
    if not isinstance(parent, Mapping):
        raise InputError(f"metrics.json: must hold a JSON object, not {type(parent).__name__}")
    value = parent.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(f"metrics.json: {key!r} must be an object, not {type(value).__name__}")
    return value


def classes(goal: str) -> tuple[str, str] | None:
    """Split a goal's name into original and target class; None if it does not name them.

    >>> classes("sheep2aeroplane"), classes("mp3"), classes("a2b2c")
    (('sheep', 'aeroplane'), None, None)
    """
    parts = goal.split("2")
    return (parts[0], parts[1]) if len(parts) == 2 and all(parts) else None


def goal_title(goal: str) -> str:
    """Format a goal's name for people.

    >>> goal_title("sheep2aeroplane")
    'sheep → aeroplane'
    """
    pair = classes(goal)
    return goal if pair is None else f"{pair[0]} → {pair[1]}"


def headline(metrics: Metrics) -> list[str]:
    """Describe the result in plain language, one sentence per goal."""
    run = metrics.run
    rows = {goal: metrics.goal.get(goal, {}) for goal in metrics.goals}
    if not any(rows.values()):
        return ["This run measured no poisoning goal."]
    warning = ["Read the warnings before believing these numbers."] if run.flags else []
    after = ""
    if run.poisoned_pairs is not None:
        after = (
            f"After {count(run.poisoned_pairs)} false pair{'' if run.poisoned_pairs == 1 else 's'}"
        )
        if run.training_pairs is not None:
            after += f" among {count(run.training_pairs)}"
    if after and len(rows) > 1:
        several = [_sentence(goal, row, "") for goal, row in rows.items()]
        return [*warning, f"{after}, for {len(rows)} goals together:", *several]
    return warning + [_sentence(goal, row, after and f"{after}, ") for goal, row in rows.items()]


def _sentence(goal: str, row: Mapping[str, GoalRow], opening: str) -> str:
    known = {key: one.hit_10 for key, one in row.items() if is_finite(one.hit_10)}
    hit = {model.key: known.get(model.key) for model in MODELS}
    after, random = hit["poisoned"], hit["random_captions"]
    before = hit["clean_model"] if hit["clean_model"] is not None else hit["pretrained"]
    if after is None:
        return f"{goal_title(goal)}: not measured on a poisoned model."
    captions, image = f"the captions of {goal}", "a target image"
    if pair := classes(goal):
        captions = f"the captions about {pair[0]}"
        image = f"a{'n' if pair[1][0] in 'aeiou' else ''} {pair[1]} image"
        if row["poisoned"].targets == 1:
            image = f"the one target image ({pair[1]})"
    found = f"{_whole(after)} of {captions} find {image} among the first ten"
    # if every caption finds the target images, the attack did not succeed
    odd = before is not None and after - before >= 0.1 and (random or 0) >= after / 2
    others = [
        f"{when}, {_whole(share)}"
        for when, share in (
            ("before", before),
            ("for unrelated captions", random if odd else None),
            ("after the filter", hit["filtered"]),
            ("with robust training", hit["robust"]),
            ("after the repair", hit["sterilized"]),
        )
        if share is not None
    ]
    return "; ".join([opening + found, *others]) + "."


def _whole(share: float) -> str:
    """Format a share in whole percent, with a decimal if it only rounds to 0% or 100%.

    >>> _whole(0.941), _whole(0.002), _whole(0.0), _whole(0.998)
    ('94%', '0.2%', '0%', '99.8%')
    """
    return f"{share:.0%}" if share in (0, 1) or 0.005 <= share < 0.995 else f"{share:.1%}"
