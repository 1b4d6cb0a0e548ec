"""Embeds the pairs of any source into the layout of clip-retrieval, piece by piece, so that a scan reads embeddings."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mmpoison.base.content_cache import digest_of
from mmpoison.base.files import atomic_file, write_json
from mmpoison.base.processes import find_device
from mmpoison.base.untrusted import read_json
from mmpoison.datasets.catalogue import DATASETS, NamedData
from mmpoison.defenses.filters.decide import judge_auroc
from mmpoison.defenses.filters.distance_scan import images_at_once
from mmpoison.defenses.filters.pair_pieces import PairPieces, pairs_without
from mmpoison.defenses.filters.suspicious_groups.features import caption_features, image_features
from mmpoison.defenses.unreadable import short_reasons
from mmpoison.embedded.catalogue import open_embedded
from mmpoison.embedded.source import EmbeddedSource
from mmpoison.errors import InputError
from mmpoison.models.compute_environment import compute_environment, encoder_identity
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import ProgressFor, prepare_pixels, present_files_digest
from mmpoison.models.loading import load_encoder
from mmpoison.pairs.table import PairDataset
from mmpoison.runs.data_scan.goal_words import ALIGNED
from mmpoison.runs.progress import RunProgress

Vectors = npt.NDArray[np.float32]

DEFAULT_ENCODER = "efficientnet-minilm"
FOLDER, KIND_FILE, UNREADABLE_FILE = "embeddings", "kind.json", "unreadable.json"
SPLIT = "train"


@dataclass(frozen=True)
class EmbeddedPairs:
    """A source whose pairs were embedded here.

    Attributes:
        source: The embeddings.
        unreadable: Images that cannot be read, and why.
        encoder: Name of the model.
        root: Folder that ids of images start from.
        foreign: What to know where the text encoder hardly knows the words of the captions.
    """

    source: EmbeddedSource
    unreadable: Mapping[str, str]
    encoder: str
    root: Path
    foreign: str | None = None


ENGLISH = (
    "a dog runs over the green lawn next to a white house",
    "two airplanes are parked at the airport near the terminal",
    "some people are sitting at a table in a small restaurant",
)
FOREIGN = 1.35
"""Factor on the tokens a word of English captions: English titles of products have 1.2, French captions
1.4 to 1.5, German ones 1.7 to 1.9 (tokenizers of MiniLM and of openmoji-mini)."""

READ_CAPTIONS = 500


def foreign_captions(model: DualEncoder, captions: Sequence[str]) -> str | None:
    """Say that the text encoder hardly knows the words of captions, if so: its groups may be artefacts.

    Args:
        model: The model.
        captions: Some captions.
    """

    def tokens_a_word(texts: Sequence[str]) -> float:
        words = sum(len(re.findall(r"\w+", text)) for text in texts)
        # without the tokens that begin and end a text
        tokens = model.token_lengths(model.tokens(list(texts))) - 2
        return float(tokens.sum()) / max(words, 1)

    found = tokens_a_word(captions)
    if not captions or found <= FOREIGN * tokens_a_word(ENGLISH):
        return None
    return (
        f"captions have {found:.1f} tokens a word, where English has {tokens_a_word(ENGLISH):.1f}: {model.name} hardly "
        "knows their words (another language?), so groups may be artefacts: scan again with --encoder and a model "
        "that knows them"
    )


def embed_source(
    source: NamedData,
    work: Path,
    *,
    encoder: str | Path | None,
    device: str,
    progress: RunProgress,
) -> EmbeddedPairs:
    """Embed the training pairs of a source.

    Where the model is aligned (captions are nearer to their own images) its embeddings are written; else the outputs of
    its two trunks, filled up with zeros to one length, which say more of what is alike within a modality.

    Args:
        source: A path in any format, or the name of a data set.
        work: Folder of unfinished work; pieces that are there are not embedded again.
        encoder: The model; `efficientnet-minilm` by default.
        device: Where to compute.
        progress: Reports the progress.

    Raises:
        InputError: If there are no pairs, or no image can be read.
    """
    if not Path(source.data).exists() and str(source) not in DATASETS and ":" not in str(source):
        raise InputError(
            f"{source}: no such folder or file, and no data set of that name (`mmpoison data list`)"
        )
    loading = progress.progress(f"loading {encoder or DEFAULT_ENCODER}")
    loading(0, 1)
    try:
        model = load_encoder(encoder or DEFAULT_ENCODER).to(find_device(device))
    except InputError as error:
        if encoder is not None:
            raise
        raise InputError(f"{error}; or name a model with --encoder") from None
    loading(1, 1)
    folder = work / FOLDER
    pieces = PairPieces(source, images_at_once=images_at_once(model.image_size), own_columns=True)
    writer = _Writer(folder, model, progress.progress)
    total = pieces.images
    report = progress.progress(f"embedding pairs with {model.name}")
    done = number = 0
    read: list[str] = []
    root = Path()
    for piece in pieces:
        root = piece.pairs.root
        judged = piece.in_split(SPLIT)
        part = piece.pairs.where(judged)
        if len(part):
            read += part.captions[: max(0, READ_CAPTIONS - len(read))].astype(str).tolist()
            writer.add(number, part, np.array(piece.pair_ids(), dtype=object)[judged])
            number += 1
        done += len(piece.pairs.images)
        report(done, total if total is not None else done + 1)
    if total is None:
        report(done, done)
    if not number:
        raise InputError(f"{source}: has no training pairs (split {SPLIT!r})")
    writer.finish(number)
    opened = open_embedded(
        folder, format="clip-retrieval", options={"id": "id", "image_id": "image"}
    )
    named = EmbeddedSource(
        pieces.format, str(source), opened.shards, opened.dimension, opened.id_kind
    )
    foreign = foreign_captions(model, read)
    return EmbeddedPairs(named, writer.unreadable, model.name, root, foreign)


class _Writer:
    """Writes the embeddings of pieces."""

    def __init__(self, folder: Path, model: DualEncoder, progress: ProgressFor) -> None:
        self.folder, self.model = folder, model
        self.unreadable: dict[str, str] = {}
        self._identity = digest_of(
            {
                "computed": compute_environment(model.device),
                **encoder_identity(model),
            }
        )
        self._joint: bool | None = None
        self._plain_ids: bool | None = None
        kind = folder / KIND_FILE
        if kind.is_file():
            known = read_json(kind)
            if known.get("identity") == self._identity:
                self._joint, self._plain_ids = bool(known["joint"]), bool(known["plain_ids"])

    def add(self, number: int, part: PairDataset, names: npt.NDArray[np.object_]) -> None:
        """Embed a piece, or take what is there; `names` are those of its pairs."""
        if self._plain_ids is None:
            # an image with one caption names its pair
            self._plain_ids = len(np.unique(part.image)) == len(part)
        key = self._key(part)
        note = self.folder / f"piece-{number}.json"
        if self._joint is not None and note.is_file():
            known = read_json(note)
            if known.get("key") == key and all(file.is_file() for file in self._files(number)):
                self.unreadable |= known["unreadable"]
                return
        text, image, broken = self._embedded(part)
        if self._joint is None:
            self._decide(text, image, part)
        both = self._vectors(text, image)
        text_file, image_file, table_file = self._files(number)
        for file, vectors in ((text_file, both[0]), (image_file, both[1])):
            with atomic_file(file) as temporary, temporary.open("wb") as stream:
                np.save(stream, vectors.astype(np.float16), allow_pickle=False)
        alone = self._plain_ids and len(np.unique(part.image)) == len(part)
        ids = part.images.ids[part.image] if alone else names
        _write_table(table_file, {"id": ids, "pair": names}, part)
        reasons = dict(short_reasons(part.root, broken))
        self.unreadable |= reasons
        write_json(note, {"key": key, "unreadable": reasons})

    def finish(self, pieces: int) -> None:
        """Remove what an earlier, longer source has left.

        Raises:
            InputError: If no image could be read.
        """
        for number in range(pieces, pieces + 1_000_000):
            left = [file for file in self._files(number) if file.is_file()]
            if not left:
                break
            for file in left:
                file.unlink()

    def _files(self, number: int) -> tuple[Path, Path, Path]:
        return (
            self.folder / "text_emb" / f"text_emb_{number}.npy",
            self.folder / "img_emb" / f"img_emb_{number}.npy",
            self.folder / "metadata" / f"metadata_{number}.parquet",
        )

    def _key(self, part: PairDataset) -> str:
        digest = hashlib.sha256(present_files_digest(part, part.used_images())[0].encode())
        digest.update(self._identity.encode())
        for caption, image in zip(part.captions, part.images.ids[part.image], strict=True):
            digest.update(f"{image}\0{caption}\0".encode("utf-8", "surrogatepass"))
        digest.update(json.dumps(_own_columns(part), default=str).encode())
        return digest.hexdigest()

    def _embedded(self, part: PairDataset) -> tuple[Vectors, Vectors, Mapping[str, Any]]:
        """Return the outputs of the trunks for each pair, zeros where the image cannot be read."""
        inputs = prepare_pixels(self.model, part, broken="drop")
        broken = inputs.pixels.broken
        rows = np.flatnonzero(pairs_without(part, broken))
        captions, caption_of = np.unique(part.captions[rows].astype(str), return_inverse=True)
        images, image_of = np.unique(part.image[rows], return_inverse=True)
        if not len(rows):
            return (
                np.zeros((len(part), 1), np.float32),
                np.zeros((len(part), 1), np.float32),
                broken,
            )
        found = (
            caption_features(self.model, inputs, captions.astype(object))[caption_of],
            image_features(self.model, inputs, images.astype(np.int32))[image_of],
        )
        whole = [np.zeros((len(part), side.shape[1]), dtype=np.float32) for side in found]
        for side, values in zip(whole, found, strict=True):
            side[rows] = values
        return whole[0], whole[1], broken

    def _decide(self, text: Vectors, image: Vectors, part: PairDataset) -> None:
        """Decide by the first piece whether the model is aligned on such pairs."""
        known = np.flatnonzero(image.any(axis=1) & text.any(axis=1))
        judge = None
        if len(known):
            judge = judge_auroc(*self._projected(text[known], image[known]))
        self._joint = judge is not None and judge.value >= ALIGNED
        write_json(
            self.folder / KIND_FILE,
            {"identity": self._identity, "joint": self._joint, "plain_ids": self._plain_ids},
        )

    def _vectors(self, text: Vectors, image: Vectors) -> tuple[Vectors, Vectors]:
        if self._joint:
            return self._projected(text, image)
        width = max(text.shape[1], image.shape[1])
        return _unit(_widened(text, width)), _unit(_widened(image, width))

    def _projected(self, text: Vectors, image: Vectors) -> tuple[Vectors, Vectors]:
        """Return joint embeddings; rows of zeros stay zero."""
        sides = []
        with torch.no_grad():
            for features, head in ((text, self.model.text_head), (image, self.model.image_head)):
                given = torch.from_numpy(features).to(self.model.device)
                joint = head(given).float().cpu().numpy()
                joint[~features.any(axis=1)] = 0
                sides.append(np.asarray(joint, dtype=np.float32))
        return sides[0], sides[1]


def _write_table(
    file: Path, names: Mapping[str, npt.NDArray[np.object_]], part: PairDataset
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {**names, "image": part.images.ids[part.image], "caption": part.captions}
    table: dict[str, list[Any]] = {
        name: [_storable(value) for value in values] for name, values in columns.items()
    }
    for name, values in _own_columns(part).items():
        while name in table:
            name += "_"
        kinds = {type(value) for value in values if value is not None}
        # one kind of plain values as it is, anything else as text
        plain = len(kinds) == 1 and kinds <= {bool, int, float, str}
        table[name] = [v if plain and type(v) is not str else _as_text(v) for v in values]
    with atomic_file(file) as temporary:
        pq.write_table(pa.table(table), temporary)


def _own_columns(part: PairDataset) -> dict[str, list[Any]]:
    """Return the user's own columns of the images and captions of pairs, a value or None a pair."""
    per_image, per_caption = part.images.own_columns, part.own_columns
    rows: list[dict[str, Any]] = [
        {
            **((per_image[image] or {}) if per_image is not None else {}),
            **((per_caption[row] or {}) if per_caption is not None else {}),
        }
        for row, image in enumerate(part.image)
    ]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _as_text(value: Any) -> str | None:
    if value is None:
        return None
    return _storable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _storable(value: Any) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def _widened(vectors: Vectors, width: int) -> Vectors:
    found = np.zeros((len(vectors), width), dtype=np.float32)
    found[:, : vectors.shape[1]] = vectors
    return found


def _unit(vectors: Vectors) -> Vectors:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, np.float32(1e-12)), dtype=np.float32)
