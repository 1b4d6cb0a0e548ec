"""OpenMoji scenes: the embedded data set, made on the spot from openly licensed drawings."""

from mmpoison.datasets.openmoji.build import ATTRIBUTION, build_openmoji
from mmpoison.datasets.openmoji.compose import (
    Scene,
    compose_scene,
    sample_scenes,
)
from mmpoison.datasets.openmoji.scene_data import (
    CLASSES,
    FLICKR30K_WEIGHTS,
    HELD_OUT,
    OPENMOJI_SCENES_VERSION,
    PRETRAINING_ONLY,
)

__all__ = [
    "ATTRIBUTION",
    "CLASSES",
    "FLICKR30K_WEIGHTS",
    "HELD_OUT",
    "OPENMOJI_SCENES_VERSION",
    "PRETRAINING_ONLY",
    "Scene",
    "build_openmoji",
    "compose_scene",
    "sample_scenes",
]
