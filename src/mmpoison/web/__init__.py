"""What every local page is served with: a guard against other sites, images by number, a server that stops cleanly."""

from mmpoison.errors import InputError

try:
    import fastapi  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError:  # pragma: no cover - the tests have the extra
    raise InputError(
        "a local page needs fastapi and uvicorn: pip install 'mmpoison[search]'"
    ) from None

from mmpoison.web._app import create_app
from mmpoison.web._guard import Guard
from mmpoison.web._image import image_response
from mmpoison.web._serve import LOCAL, serve

__all__ = ["LOCAL", "Guard", "create_app", "image_response", "serve"]
