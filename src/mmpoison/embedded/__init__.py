"""Embeddings that exist already: sources of any size, shard by shard, their checks, and lists of what to keep."""

from mmpoison.embedded.catalogue import EMBEDDED_FORMATS, EmbeddedFormat, open_embedded
from mmpoison.embedded.checks import ShardFacts, check_shard, notes_on
from mmpoison.embedded.keep_lists import KeepFilter, keep_filter
from mmpoison.embedded.results import ResultWriter, ShardVerdict, write_results
from mmpoison.embedded.source import EmbeddedSource, IdKind, Shard, ShardError

__all__ = [
    "EMBEDDED_FORMATS",
    "EmbeddedFormat",
    "EmbeddedSource",
    "IdKind",
    "KeepFilter",
    "ResultWriter",
    "Shard",
    "ShardError",
    "ShardFacts",
    "ShardVerdict",
    "check_shard",
    "keep_filter",
    "notes_on",
    "open_embedded",
    "write_results",
]
