"""Images that an attack adds to a set: made from clean images, listed in the manifest, and made again from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpoison.errors import InputError
from mmpoison.images.added import add_image, pixels_digest, rgb
from mmpoison.images.decode import picture
from mmpoison.images.preparation import Pixels
from mmpoison.images.sources import image_path
from mmpoison.images.triggers import Trigger, read_trigger, triggered_pixels
from mmpoison.pairs.manifest import AddedImage, PoisonManifest


def new_image(
    pixels: Pixels, made_from: str, how: Mapping[str, Any] | None = None
) -> tuple[str, AddedImage]:
    """Store an image that an attack has made, and return its id and its entry in the manifest.

    Args:
        pixels: RGB, shape `(height, width, 3)`.
        made_from: Id of the clean image that it was made from.
        how: What the manifest's trigger needs to make it again; None where only a copy has the same pixels.

    Raises:
        InputError: If the cache cannot be written.
    """
    return add_image(pixels), AddedImage(made_from, pixels_digest(pixels), dict(how or {}))


def restore_new_images(
    root: Path, manifest: PoisonManifest, poisoned_folder: Path | None = None
) -> None:
    """Put all images that the attack made where they are found: each that is not there is made again, or copied.

    Args:
        root: Folder of the clean set.
        manifest: The manifest; its images are those of the set.
        poisoned_folder: Folder of the poisoned set, if it is there: where images are copied from that cannot be made.

    Raises:
        InputError: If one can be neither made nor found, or has other pixels than the manifest says.
    """
    trigger = None if manifest.trigger is None else read_trigger(manifest.trigger)
    for name, new in manifest.added_images.items():
        if image_path(root, name).is_file():
            continue
        made = None if trigger is None else made_again(root, new, trigger)
        if made is None and poisoned_folder is not None and (poisoned_folder / name).is_file():
            # its pixels are compared with its id
            with picture(poisoned_folder, name) as (_, image):
                made = rgb(image)
        if made is None:
            reason = (
                "the attack's new images cannot be computed from the manifest"
                if trigger is None
                else f"{new.made_from!r:.100} with the trigger has other pixels here"
            )
            raise InputError(
                f"{name}: {reason}: read the manifest in the folder of the poisoned set, which has the image"
            )
        add_image(made)


def made_again(root: Path, new: AddedImage, trigger: Trigger) -> Pixels | None:
    """Make an image again from its clean one; None if its pixels are not those of the manifest.

    Args:
        root: Folder of the set.
        new: The image's entry in the manifest; `made_from` must be an image of the set.
        trigger: The manifest's trigger.

    Raises:
        InputError: If the clean image cannot be read, or `new.how` is of another trigger.
    """
    pixels = triggered_pixels(root, new.made_from, trigger, new.how)
    return pixels if pixels_digest(pixels) == new.pixels else None
