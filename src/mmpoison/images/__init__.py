"""The one place that reads image files."""

from mmpoison.images.decode import BrokenImage, decode_images, read_image
from mmpoison.images.preparation import Preparation
from mmpoison.images.store import PixelStore

__all__ = ["BrokenImage", "PixelStore", "Preparation", "decode_images", "read_image"]
