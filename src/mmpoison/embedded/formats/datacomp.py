"""`datacomp`: the metadata folder of DataComp, `{stem}.parquet` with `{stem}.npz`, a shard each.

The `.npz` files hold the arrays `b32_img`, `b32_txt`, `l14_img` and `l14_txt`; those of one model are read, the others
are not touched. The columns `clip_b32_similarity_score` and `clip_l14_similarity_score` are the stored scores.
"""

from __future__ import annotations

from mmpoison.datasets.options import one_of
from mmpoison.embedded.array_shards import ArrayShard, sizes_of
from mmpoison.embedded.arrays import ArrayFile, array_names
from mmpoison.embedded.catalogue import EmbeddedFormat, register
from mmpoison.embedded.files import DataFile, Listing, each
from mmpoison.embedded.own_columns import ColumnChoice, OwnColumns, find_column
from mmpoison.embedded.source import EmbeddedSource, ShardError, make_source
from mmpoison.errors import InputError

NAME = "datacomp"
MODELS = ("l14", "b32")
"""The models of DataComp's embeddings, the better one first."""


def open_datacomp(
    place: Listing,
    *,
    model: str | None = None,
    id: str = "uid",
    caption: str | None = None,
    image_id: str | None = None,
    score: str | None = None,
) -> EmbeddedSource:
    """Open a metadata folder of DataComp.

    Args:
        place: The folder.
        model: Whose embeddings, `b32` or `l14`; by default `l14` if the first shard that can be read has it.
        id: Column of the ids.
        caption: Column of captions; `text` by default.
        image_id: Column that says which image, where several captions share one; `sha256` joins pairs of one image.
        score: Column of stored scores; by default the one of the model, where there is one.

    Raises:
        InputError: If there are no such files, the model is not there, or a named column is missing.
    """
    stems = _stems(place)
    if not stems:
        raise InputError(f"{place.given}: has no *.parquet with an *.npz of the same name")
    archives = {stem: place.file(f"{stem}.npz") for stem in stems}
    owns = {stem: OwnColumns(place.file(f"{stem}.parquet")) for stem in stems}
    chosen = _choose_model(model, list(archives.values()))
    known = list(owns.values())
    columns = ColumnChoice(
        find_column(known, "id", id),
        find_column(known, "caption", caption, ("text",)),
        find_column(known, "image_id", image_id) if image_id else None,
        find_column(known, "score", score, (f"clip_{chosen}_similarity_score",)),
    )

    def shard(stem: str) -> ArrayShard:
        text = ArrayFile(archives[stem], f"{chosen}_txt")
        image = ArrayFile(archives[stem], f"{chosen}_img")
        rows, dimension = sizes_of(text)
        return ArrayShard(stem, text, image, owns[stem], columns, 0, None, rows, dimension)

    shards = each(shard, stems, remote=place.remote)
    return make_source(NAME, place.given, shards, columns.id_kind)


def _stems(place: Listing) -> list[str]:
    """List the names that have an `.npz` file; one without its table is a shard that cannot be read."""
    return [file.stem for file in place.files(ending=".npz").values()]


def _choose_model(model: str | None, archives: list[DataFile]) -> str:
    if model is not None:
        one_of("model", model, MODELS)
        return model
    for archive in archives:
        try:
            names = array_names(archive)
        except ShardError:
            continue
        for each_model in MODELS:
            if f"{each_model}_txt" in names and f"{each_model}_img" in names:
                return each_model
    return MODELS[0]


def _recognise(place: Listing) -> str | None:
    tables = place.files(ending=".parquet")
    return next((f"{s}.npz" for s in _stems(place) if f"{s}.parquet" in tables), None)


register(
    EmbeddedFormat(
        name=NAME,
        summary="DataComp's metadata with its CLIP embeddings",
        looks_for="*.npz next to a *.parquet of the same name",
        recognise=_recognise,
        open=open_datacomp,
    )
)
