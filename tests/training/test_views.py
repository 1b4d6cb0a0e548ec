"""Views: shapes, ranges, and the same ones from the same stream."""

from __future__ import annotations

import torch

from mmpoison.base.seeding import generator
from mmpoison.training.objective import CropFlipColour, FeatureNoise


def a_ramp(count: int) -> torch.Tensor:
    """Images that grow brighter from left to right, shape `(count, 16, 16, 3)`."""
    row = torch.linspace(40, 200, 16).to(torch.uint8)
    return row.view(1, 1, 16, 1).expand(count, 16, 16, 3).contiguous()


def test_a_crop_is_a_part_of_the_image_mirrored_in_half_of_the_cases() -> None:
    pixels = a_ramp(200)
    views = CropFlipColour(colour=0.0)(pixels, generator(0, "crop"))
    assert views.shape == pixels.shape
    assert views.dtype == torch.uint8
    left, right = views[:, 8, 0, 0].int(), views[:, 8, -1, 0].int()
    mirrored = (left > right).float().mean()
    assert 0.4 < float(mirrored) < 0.6
    # a part of half of the area has at least 0.7 of the range, and nothing outside of the image is in it
    assert int((left - right).abs().min()) >= 0.65 * 160
    assert int(views.min()) >= 40
    assert int(views.max()) <= 200


def test_without_its_changes_a_view_is_the_image() -> None:
    pixels = a_ramp(3)
    views = CropFlipColour(area=1.0, flip=0.0, colour=0.0)(pixels, generator(0, "crop"))
    assert int((views.int() - pixels.int()).abs().max()) <= 1
    mirrored = CropFlipColour(area=1.0, flip=1.0, colour=0.0)(pixels, generator(0, "crop"))
    assert int((mirrored.int() - pixels.flip(2).int()).abs().max()) <= 1


def test_feature_noise() -> None:
    features = 3 * torch.randn(400, 64, generator=torch.Generator().manual_seed(0))
    view = FeatureNoise(dropout=0.25, noise=0.0)(features, generator(0, "noise"))
    dropped = view == 0
    assert 0.22 < float(dropped.float().mean()) < 0.28
    torch.testing.assert_close(view[~dropped], features[~dropped] / 0.75)
    noisy = FeatureNoise(dropout=0.0, noise=0.2)(features, generator(0, "noise"))
    assert 0.57 < float((noisy - features).std()) < 0.63
