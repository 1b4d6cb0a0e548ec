"""Dual encoders: loading, saving, exporting and embedding."""

from mmpoison.models.catalogue import MODELS, ModelSource
from mmpoison.models.checkpoint import load_checkpoint, save_checkpoint
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.embedding import Embedder, embed_images, embed_texts
from mmpoison.models.export import ExportFormat, export_model
from mmpoison.models.inputs import (
    FeatureInputs,
    PairInputs,
    PixelInputs,
    prepare_features,
    prepare_pixels,
)
from mmpoison.models.loading import load_encoder

__all__ = [
    "MODELS",
    "DualEncoder",
    "Embedder",
    "ExportFormat",
    "FeatureInputs",
    "ModelSource",
    "PairInputs",
    "PixelInputs",
    "embed_images",
    "embed_texts",
    "export_model",
    "load_checkpoint",
    "load_encoder",
    "prepare_features",
    "prepare_pixels",
    "save_checkpoint",
]
