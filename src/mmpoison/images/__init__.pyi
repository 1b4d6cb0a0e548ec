from .decode import BrokenImage as BrokenImage
from .decode import read_image as read_image
from .decode import read_image_bytes as read_image_bytes
from .preparation import Preparation as Preparation
from .store import PixelStore as PixelStore
from .thumbnails import thumbnail as thumbnail
