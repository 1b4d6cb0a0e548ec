"""Options that the adaptive attackers share: attackers who know the filters of this package and work around them.

They add pairs and take none of other people's, so they have no `mode`; and the images that carry their captions are
their own, unless `carrier` says otherwise.
"""

from __future__ import annotations

from typing import Any

from mmpoison.attacks.settings import Settings
from mmpoison.errors import InputError

SOURCE = "mmpoison, adaptive attackers"
SECTION = "docs/tasks/other-attacks.md, 'Attackers who know the filter'"


def adaptive_settings(**given: Any) -> Settings:
    """Check the options of an adaptive attack; None means "not given".

    Raises:
        InputError: If not exactly one amount is given, or a value is out of range.
    """
    return Settings.of(None, **{**given, "carrier": given.get("carrier") or "own"})


def adaptive_options(settings: Settings, *without: str) -> dict[str, Any]:
    """Return the options as plain values; the carrier is always among them, because `own` is the default."""
    return {**settings.options(without=["mode", *without]), "carrier": settings.carrier}


def surrogate_name(encoder: str | None) -> str | None:
    """Check the name of a surrogate.

    Raises:
        InputError: If it is no text.
    """
    if encoder is not None and (not isinstance(encoder, str) or not encoder):
        raise InputError(f"encoder {encoder!r:.40} is no name of a model")
    return encoder


def surrogate_option(encoder: str | None) -> dict[str, str]:
    """Return the option `encoder` of an attack whose surrogate has a name, nothing otherwise."""
    return {} if encoder is None else {"encoder": encoder}
