"""One image of a data set as an answer: decoded and encoded again, never a file as it is."""

from __future__ import annotations

from pathlib import Path

from fastapi.responses import PlainTextResponse, Response

from mmpoison.images import BrokenImage, thumbnail

ONE_HOUR = "private, max-age=3600"


def image_response(root: Path, image_id: str, side: int) -> Response:
    """A JPEG of an image, or 404 with no word about where the file lies.

    What a browser gets are pixels that this process has decoded: no file of a data set is sent as it is, so none can be
    a page, a script or a picture with code in it. Which image is asked for is for the caller to look up by a number;
    no part of a request may become `image_id`.

    Args:
        root: Folder that image ids start from.
        image_id: The image, from the data set's own table.
        side: Longest side in pixels.
    """
    try:
        content = thumbnail(root, image_id, side)
    except BrokenImage as error:
        return PlainTextResponse(f"the image cannot be shown: {error.fault}", 404)
    return Response(content, media_type="image/jpeg", headers={"cache-control": ONE_HOUR})
