"""Serves one image of a data set: decoded and encoded again, never the file itself."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fastapi.responses import PlainTextResponse, Response

from mmpoison.errors import InputError
from mmpoison.images.decode import BrokenImage
from mmpoison.images.sources import image_stat
from mmpoison.images.thumbnails import thumbnail

ONE_HOUR = "private, max-age=3600"

PLACEHOLDER = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="160" height="160" viewBox="0 0 160 160">'
    '<rect width="160" height="160" fill="#e3e5e8"/><g fill="none" stroke="#4b535c" stroke-width="4">'
    '<rect x="44" y="30" width="72" height="60" rx="6"/><path d="M44 30l72 60"/></g>'
    '<g font-family="sans-serif" font-size="17" fill="#2d333a" text-anchor="middle">'
    '<text x="80" y="118">cannot</text><text x="80" y="138">be read</text></g></svg>'
)
"""The drawing that replaces an image that cannot be read."""


def image_response(
    root: Path,
    image_id: str,
    side: int,
    *,
    if_none_match: str | None = None,
    placeholder: bool = False,
) -> Response:
    """Make the response for an image: a JPEG, or an error that does not reveal where the file is.

    A browser receives pixels that this process has decoded. No file of a data set is sent unchanged, so none can be a
    page, a script or a picture with code in it. The caller looks the image up by a number; no part of a request may
    become `image_id`.

    Args:
        root: Folder that image ids start from.
        image_id: The image, from the data set's own table.
        side: Longest side in pixels.
        if_none_match: The `If-None-Match` of the request; if the file has not changed, the answer is 304 without
            decoding.
        placeholder: Answer an unreadable image with a drawing that says so (status 200, since browsers report a 404 as
            an error of the page); otherwise with 404.
    """
    try:
        tag = _tag(image_stat(root, image_id), side)
        headers = {"cache-control": ONE_HOUR, "etag": tag}
        if if_none_match is not None and tag in if_none_match:
            return Response(status_code=304, headers=headers)
        content = thumbnail(root, image_id, side)
    except (InputError, OSError) as error:
        fault = error.fault if isinstance(error, BrokenImage) else "missing"
        if placeholder:
            return Response(
                PLACEHOLDER,
                media_type="image/svg+xml",
                headers={"cache-control": "no-store", "x-image-fault": fault},
            )
        return PlainTextResponse(f"the image cannot be shown: {fault}", 404)
    return Response(content, media_type="image/jpeg", headers=headers)


def _tag(stat: tuple[str, int, int], side: int) -> str:
    """Make an entity tag that changes whenever the file may have changed."""
    said = f"{stat} {side}".encode("utf-8", "surrogateescape")
    return f'"{hashlib.sha256(said).hexdigest()[:32]}"'
