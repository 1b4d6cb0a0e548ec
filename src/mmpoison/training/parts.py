"""Selects which part of a dual encoder trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.training.settings import ROLES, Role, Trainable


@dataclass(frozen=True)
class TrainedPart:
    """The parameters that train, and the role of each encoder.

    Attributes:
        image: Role of the image encoder.
        text: Role of the text encoder.
        parameters: Trained parameters by name, the temperature apart.
    """

    image: Role
    text: Role
    parameters: dict[str, nn.Parameter]


def set_trainable(student: DualEncoder, trainable: Trainable) -> TrainedPart:
    """Choose what trains; everything else is frozen and in evaluation mode (section 5.4, "which encoder").

    Args:
        student: The encoder to train; its modes and gradients are set.
        trainable: As in the settings.

    Raises:
        InputError: If a projection is to be trained that the model does not keep apart.
    """
    module = student.module
    module.eval()
    module.requires_grad_(False)
    image, text = ROLES[trainable]
    visual: Any = module.visual
    if text == "trained":
        module.train()
        visual.eval()
    if image == "trained":
        visual.train()
    chosen: list[nn.Parameter] = []
    if image != "frozen":
        chosen += (
            student.image_parameters() if image == "trained" else student.head_parameters("image")
        )
    if text != "frozen":
        chosen += (
            student.text_parameters() if text == "trained" else student.head_parameters("text")
        )
    if trainable == "text-transformer-frozen":
        blocks: Any = getattr(module, "text", module)
        still = {id(parameter) for parameter in blocks.transformer.parameters()}
        chosen = [parameter for parameter in chosen if id(parameter) not in still]
    if image == "head" and hasattr(visual, "head"):
        visual.head.train()
    if (
        text == "head"
        and (head := getattr(getattr(module, "text", None), "proj", None)) is not None
    ):
        head.train()
    ids = {id(parameter) for parameter in chosen}
    parameters = {
        name: parameter for name, parameter in module.named_parameters() if id(parameter) in ids
    }
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    student.logit_scale.requires_grad_(bool(parameters))
    return TrainedPart(image, text, parameters)
