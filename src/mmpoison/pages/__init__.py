"""Local pages: a guard against other sites, images by number, a server that stops cleanly."""

# ruff: noqa: E402 - what a page needs is checked before it is imported
from mmpoison.base.extras import require

for _package in ("fastapi", "uvicorn"):
    require(_package, "a local page needs fastapi and uvicorn")

from mmpoison.pages.local_app import LOCAL, Guard, create_app, image_response, serve

__all__ = ["LOCAL", "Guard", "create_app", "image_response", "serve"]
