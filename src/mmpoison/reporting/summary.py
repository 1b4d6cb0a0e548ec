"""Puts metrics into words: names of rows, the headline, warnings; no layout here."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmpoison.errors import InputError
from mmpoison.records.run_files import GoalRow, Metrics, RunFacts
from mmpoison.reporting.text import count, decimal, percent


@dataclass(frozen=True)
class Model:
    """One row of every table: its key in metrics.json, its name and what it is."""

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
    """Return the rows with the names that they have in a run.

    Args:
        run: Its facts: `row_names` differ from the usual ones.
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
    """Give the rows of a page of a run, which shows what was not computed as a dash.

    Few runs have a robust training: its row is there only where it was computed.
    """
    return [model for model in models if model.key != "robust" or model.key in computed]


def computed_models(metrics: Metrics, goal: str) -> list[Model]:
    """Select the rows of a goal that were computed, with their names; all of them where there is none."""
    computed = {*metrics.goal.get(goal, {}), *metrics.utility}
    models = named_models(metrics.run)
    return [model for model in models if model.key in computed] or models


def section(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the mapping at `parent[key]`; an empty one where it is absent.

    Raises:
        InputError: If something else than a mapping is there.
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
    """Split a goal into its original and its target class; None where its name does not say them.

    >>> classes("sheep2aeroplane"), classes("mp3"), classes("a2b2c")
    (('sheep', 'aeroplane'), None, None)
    """
    parts = goal.split("2")
    return (parts[0], parts[1]) if len(parts) == 2 and all(parts) else None


def goal_title(goal: str) -> str:
    """Write a goal as a person reads it.

    >>> goal_title("sheep2aeroplane")
    'sheep → aeroplane'
    """
    pair = classes(goal)
    return goal if pair is None else f"{pair[0]} → {pair[1]}"


def amount(run: RunFacts) -> str | None:
    """Describe the amount of poison: '125 poisoned pairs (0.50% of the training pairs)'; None where it is not known."""
    number = run.poisoned_pairs
    if number is None:
        return None
    text = f"{count(number)} poisoned pair{'' if number == 1 else 's'}"
    if run.poisoning_rate is not None:
        text += f" ({percent(run.poisoning_rate)} of the training pairs)"
    return text


def headline(metrics: Metrics) -> list[str]:
    """Say the result in plain language, one sentence a goal, each computed from the numbers."""
    rows = {goal: metrics.goal.get(goal, {}) for goal in metrics.goals}
    if not any(rows.values()):
        return ["This run measured no poisoning goal."]
    flagged = bool(metrics.run.flags)
    poison = amount(metrics.run)
    after = f" after {poison}" if poison and len(rows) == 1 else ""
    sentences = [_sentence(goal, row, after, flagged) for goal, row in rows.items()]
    if poison and len(rows) > 1:
        sentences.insert(0, f"With {poison} for {len(rows)} goals together:")
    if flagged:
        sentences.insert(0, "Read the warnings before believing these numbers.")
    return sentences


def _sentence(goal: str, row: Mapping[str, GoalRow], poison: str, flagged: bool) -> str:
    found = {model.key: row.get(model.key) or GoalRow() for model in MODELS}
    hit = {key: _finite(one.hit_10) for key, one in found.items()}
    after = hit["poisoned"]
    before = hit["clean_model"] if hit["clean_model"] is not None else hit["pretrained"]
    if after is None:
        return f"{goal_title(goal)}: not measured on a poisoned model."
    targets = found["poisoned"].targets
    # a collapsed model must not read like a successful attack
    outcome = goal_title(goal) if flagged else _outcome(goal, before, after, targets == 1)
    change = (
        f"Hit@10 {decimal(after, 2)}"
        if before is None
        else f"Hit@10 {decimal(before, 2)} → {decimal(after, 2)}".replace(" ", "\N{NO-BREAK SPACE}")
    )
    sentence = f"{outcome}: {change}{poison}"
    random = hit["random_captions"]
    if before is not None and random is not None and after - before >= 0.1 and random >= after / 2:
        sentence += f", but unrelated captions find them too ({decimal(random, 2)})"
    defences = [
        _defence(word, hit[key], before, after)
        for key, word in (
            ("filtered", "filtering"),
            ("robust", "robust training"),
            ("sterilized", "sterilizing"),
        )
    ]
    undone = ", ".join(text for text in defences if text)
    return f"{sentence}; {undone}." if undone else f"{sentence}."


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def _outcome(goal: str, before: float | None, after: float, one_image: bool) -> str:
    pair = classes(goal)
    if pair is None:
        search, images = f"Searching for the captions of {goal}", "the target images"
    else:
        search = f"Searching for {pair[0]}"
        images = f"the one target {pair[1]} image" if one_image else f"{pair[1]} images"
    if before is None:
        return f"{search}, {images} among the first ten"
    gain = after - before
    if gain >= 0.5:
        return f"{search} now returns {images}"
    if gain >= 0.1:
        return f"{search} now returns {images} more often"
    if gain > -0.1:
        return f"{search} returns {images} {'hardly' if gain > 0 else 'no'} more often than before"
    return f"{search} now returns {images} less often"


def _defence(word: str, value: float | None, before: float | None, after: float) -> str | None:
    if value is None:
        return None
    number = decimal(value, 2)
    if before is None or after - before < 0.1:
        return f"after {word} it is {number}"
    undone = (after - value) / (after - before)
    if undone >= 0.8:
        return f"{word} brings it back to {number}"
    if undone >= 0.3:
        return f"{word} lowers it to {number}"
    if undone >= 0:
        return f"{word} leaves it at {number}"
    return f"{word} raises it to {number}"
