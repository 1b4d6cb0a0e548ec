"""The one place that reads image files."""

from mmpoison.images.decode import BrokenImage, decode_images, read_image, read_image_bytes
from mmpoison.images.preparation import Preparation
from mmpoison.images.store import PixelStore
from mmpoison.images.thumbnails import thumbnail
from mmpoison.images.verification import Verification
from mmpoison.images.verify import load_to_verify, verify_pairs

__all__ = [
    "BrokenImage",
    "PixelStore",
    "Preparation",
    "Verification",
    "decode_images",
    "load_to_verify",
    "read_image",
    "read_image_bytes",
    "thumbnail",
    "verify_pairs",
]
