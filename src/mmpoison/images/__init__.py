"""The one place that reads image files."""

from mmpoison.images.decode import BrokenImage, read_image, read_image_bytes
from mmpoison.images.preparation import Preparation
from mmpoison.images.store import PixelStore
from mmpoison.images.thumbnails import thumbnail

__all__ = [
    "BrokenImage",
    "PixelStore",
    "Preparation",
    "read_image",
    "read_image_bytes",
    "thumbnail",
]
