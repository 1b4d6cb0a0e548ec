"""The one place that reads image files."""

from mmpoison.images.decode import PixelStore, decode_images, read_image

__all__ = ["PixelStore", "decode_images", "read_image"]
