"""OpenMoji scenes: the embedded data set, made on the spot from openly licensed drawings."""

from mmpoison.datasets.openmoji._build import ATTRIBUTION, build_openmoji, scene_arrays
from mmpoison.datasets.openmoji._compose import (
    FLICKR30K_WEIGHTS,
    Scene,
    compose_scene,
    sample_scenes,
)
from mmpoison.datasets.openmoji._table import CLASSES, HELD_OUT, PRETRAINING_ONLY
from mmpoison.datasets.openmoji._version import OPENMOJI_SCENES_VERSION

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
    "scene_arrays",
]
