"""Files of the Hugging Face hub, in its own cache; downloaded once."""

from __future__ import annotations

import socket
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from mmpoison.errors import InputError


@contextmanager
def no_downloads() -> Iterator[None]:
    """Block network access of huggingface_hub, and thus transformers and timm, while a model is built.

    All downloads that the user allows finish before a model is built.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


REACH_SECONDS = 5.0
"""Seconds for a connection to the hub, after which the machine counts as offline."""


@contextmanager
def hub_if_reached() -> Iterator[None]:
    """If the hub is unreachable, do not contact it in the block: cached files load at once, others are refused.

    huggingface_hub itself tries each file six times, which takes a minute and prints twenty lines.
    """
    with nullcontext() if _is_reached() else no_downloads():
        yield


@cache
def _is_reached() -> bool:
    from urllib.request import getproxies

    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    # behind a proxy, this machine need not reach it directly
    if constants.HF_HUB_OFFLINE or getproxies() or address.hostname is None:
        return True
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname, port), REACH_SECONDS).close()
    except OSError:
        return False
    return True


def hub_folder(
    repository: str, patterns: Sequence[str], *, revision: str = "", fetch: bool = True
) -> Path:
    """Return the cached folder of a repository, with the files that match some patterns.

    Args:
        repository: `owner/name`.
        patterns: Names of files, with `*`.
        revision: Branch, tag or commit.
        fetch: Download missing files; otherwise use the cache only.

    Raises:
        InputError: If it is not cached and cannot be downloaded.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        with hub_if_reached():
            return Path(
                snapshot_download(
                    repository,
                    revision=revision or None,
                    allow_patterns=list(patterns),
                    # huggingface_hub 1.33 asks for a commit's list of files even where HF_HUB_OFFLINE is set
                    local_files_only=not fetch or constants.HF_HUB_OFFLINE,
                )
            )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise not_fetched(repository, error, fetch=fetch) from None


def hub_file(repository: str, names: Sequence[str], *, revision: str = "") -> Path:
    """Return the first of several files that exists in a repository.

    Raises:
        InputError: If none of them exists, or this cannot be determined offline.
    """
    for name in names:
        file = hub_folder(repository, [name], revision=revision) / name
        if file.is_file():
            return file
    raise not_fetched(repository, LookupError(f"it has none of {', '.join(names)}"))


def hub_files_here(repository: str, *names: str) -> bool:
    """Check whether any of several files of a repository is in the cache."""
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(repository, name), str) for name in names)


def not_fetched(what: str, error: Exception, *, fetch: bool = True) -> InputError:
    """Build the one-line error for something that is not in the cache."""
    if not fetch:
        return InputError(
            f"{what!r} is not on this machine, and a checkpoint may not download anything"
        )
    from huggingface_hub import constants

    first = (str(error).strip().splitlines() or [repr(error)])[0]
    if constants.HF_HUB_OFFLINE:
        why = "HF_HUB_OFFLINE is set"
    elif not _is_reached():
        why = f"no connection to {urlsplit(constants.ENDPOINT).hostname}"
    else:
        why = textwrap.shorten(first, 160)
    return InputError(f"{what!r} is not on this machine and cannot be downloaded ({why})")
