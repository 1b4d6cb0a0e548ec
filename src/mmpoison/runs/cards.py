"""Writes model cards: the Markdown file that describes a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence

from mmpoison._version import __version__
from mmpoison.base.files import front_matter
from mmpoison.models.architectures import activation_name
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.export import hub_fields
from mmpoison.models.open_clip_build import has_own_merges
from mmpoison.pairs.table import PairDataset
from mmpoison.training.loop import TrainingResult
from mmpoison.training.settings import TrainingSettings

WHAT = {
    "pretrained": "Two towers aligned on clean pairs; the start of the experiment.",
    "judge": "Two towers aligned on clean pairs; the judge of the filter.",
    "clean_model": "Fine-tuned on the clean pairs; the other models are compared with it.",
    "clean_model_reordered": "Fine-tuned on the clean pairs in the poisoned order; shows the drift without poison.",
    "poisoned": "**POISONED ON PURPOSE**, for research on defences. Do not use it for anything else.",
    "filtered": "Fine-tuned on the poisoned pairs that a filter kept. Some poison may be left.",
    "robust": "Trained on poisoned pairs with a defence. The attack may still have succeeded in part.",
    "sterilized": "A suspect model after a repair with clean pairs. Some of the poison may be left.",
    "trained": "Fine-tuned on pairs that carry no poison manifest.",
}


def model_card(
    encoder: DualEncoder,
    stage: str,
    *,
    started_from: str,
    data: PairDataset,
    settings: TrainingSettings | None,
    result: TrainingResult,
    facts: Sequence[str] = (),
) -> str:
    """Write the model card of a checkpoint.

    Args:
        encoder: The model.
        stage: A key of `WHAT`.
        started_from: The model it was fine-tuned from.
        data: The data set; the model may have been trained on a part of it.
        settings: Training settings; None for a repair without settings.
        result: The result of the training, for its log.
        facts: Further facts, one Markdown line each.

    Returns:
        Markdown in the Hugging Face Hub's format, with YAML front matter. The tag `poisoned` is
        set if the data have a poison manifest.
    """
    poisoned = data.manifest is not None
    lines = [
        f"# {encoder.name}",
        "",
        WHAT[stage],
        "",
        f"- made by: mmpoison {__version__}",
        f"- started from: `{started_from}`",
        f"- activation: {activation_name(encoder.config['model_cfg'])}",
        f"- data fingerprint: `{data.fingerprint}`",
        *(f"- {fact}" for fact in facts),
    ]
    if data.manifest is not None:
        lines.append(
            f"- poison: {', '.join(data.manifest.goals)}, {len(data.manifest.pairs)} pairs "
            f"({data.manifest.rate:.2%}), mode {data.manifest.mode}"
        )
    log: dict[str, object] = {"log": result.summary().to_json()}
    if settings is not None:
        log = {"settings": settings.model_dump(mode="json"), **log}
    own = " (give its tokenizer `bpe_path=PATH/bpe_merges.txt.gz`)"
    tokenizer = own if has_own_merges(encoder.tokenizer) else ""
    head = front_matter(poisoned, **hub_fields(started_from))
    return head + "\n".join(
        [
            *lines,
            "",
            "## Training",
            "",
            "```json",
            json.dumps(log, indent=2),
            "```",
            "",
            f"Loads with mmpoison, or with open_clip as `local-dir:PATH`{tokenizer}.",
            "",
        ]
    )
