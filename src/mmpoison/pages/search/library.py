"""Loads models, data sets and galleries in a background thread, embeds the galleries and searches them."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from mmpoison.base.content_cache import CacheKey, ContentCache
from mmpoison.base.progress import Progress
from mmpoison.base.registry import unknown_name
from mmpoison.errors import InputError
from mmpoison.images.store import PixelStore
from mmpoison.pages.search.collection import Collection, DistinctCaptions
from mmpoison.pairs.table import IntArray, PairDataset

if TYPE_CHECKING:
    from mmpoison.models.dual_encoder import DualEncoder
    from mmpoison.models.embedding import Embeddings


DEPTH = 1000
"""The largest rank that is computed; the page shows lower results as "beyond rank ..."."""


@dataclass(frozen=True)
class Ranking:
    """The best items for one query under one model, best first.

    Attributes:
        items: Shape `(n,)`: images of the table, or rows of the captions.
        similarity: Cosine similarity of each, shape `(n,)`.
        size: Number of searched items.
    """

    items: IntArray
    similarity: Embeddings
    size: int


@dataclass(frozen=True)
class Searchable:
    """Items and their embeddings. A search compares all of them with the query, so it is exact.

    Attributes:
        items: The item of each row, shape `(G,)`.
        embeddings: Unit vectors, shape `(G, d)`.
    """

    items: IntArray
    embeddings: Embeddings

    def search(self, query: Embeddings) -> Ranking:
        """Find the best items for one embedding, shape `(1, d)`; ties go to the earlier row."""
        similarity = self.embeddings @ query[0]
        depth = min(DEPTH, len(similarity))
        # includes all ties with the last one, so that they do not depend on the partition
        last = np.partition(similarity, -depth)[-depth]
        rows = np.flatnonzero(similarity >= last)
        rows = rows[np.argsort(-similarity[rows], kind="stable")][:depth]
        return Ranking(self.items[rows], similarity[rows], len(self.items))


def searchable_images(
    encoder: DualEncoder,
    pairs: PairDataset,
    gallery: IntArray,
    *,
    cache: Path | None,
    progress: Progress | None = None,
) -> Searchable:
    """Embed the readable images of a gallery, or read cached embeddings of the same weights and files.

    Args:
        encoder: The model.
        pairs: The data set.
        gallery: Images, shape `(G,)`.
        cache: Folder of a content cache; the usual one by default.
        progress: Called with (done, total), for decoding and then for embedding.

    Raises:
        InputError: If no image can be read.
    """
    from mmpoison.models.embedding import embed_images
    from mmpoison.models.inputs import prepare_pixels, present_files_digest

    def compute() -> dict[str, npt.NDArray[Any]]:
        pixels = PixelStore.decode(
            pairs, encoder.preparation, indices=gallery, broken="drop", progress=progress
        )
        images = gallery[pixels.position[gallery] >= 0]
        if not len(images):
            raise InputError(
                f"none of the {len(gallery):,} images can be read: `mmpoison data verify` shows why"
            )
        bare = pairs.where(np.zeros(len(pairs), dtype=bool))
        inputs = prepare_pixels(encoder, bare, images=images, pixels=pixels)
        return {
            "images": images,
            "embeddings": embed_images(encoder, inputs, images, progress=progress),
        }

    # cached rows are indices into the table, so they are part of the key
    rows = hashlib.sha256(gallery.tobytes()).hexdigest()
    key = search_key(encoder, "images", f"{rows} {present_files_digest(pairs, gallery)[0]}")
    return Searchable(*ContentCache(cache).arrays(key, compute, "images", "embeddings"))


def searchable_captions(
    encoder: DualEncoder,
    captions: Sequence[str],
    *,
    cache: Path | None,
    progress: Progress | None = None,
) -> Searchable:
    """Embed captions, or read the cached embeddings; items are rows of `captions`."""
    from mmpoison.models.embedding import embed_captions
    from mmpoison.models.inputs import texts_digest

    (embeddings,) = ContentCache(cache).arrays(
        search_key(encoder, "captions", texts_digest(captions)),
        lambda: {"embeddings": embed_captions(encoder, captions, progress=progress)},
        "embeddings",
    )
    return Searchable(np.arange(len(embeddings), dtype=np.int32), embeddings)


def search_key(encoder: DualEncoder, what: str, content: str) -> CacheKey:
    """Return the cache key: everything that the embeddings of a gallery or captions depend on."""
    from mmpoison.models.compute_environment import compute_environment, encoder_identity

    parts = {
        "computed": compute_environment(encoder.device),
        **encoder_identity(encoder),
        "what": what,
        "content": content,
    }
    return CacheKey("search", parts, f"{what} under {encoder.name}")


MODELS_AT_ONCE = 4
"""The number of columns that can be compared at a glance."""

State = Literal["waiting", "working", "ready", "failed"]
SearchedKind = Literal["images", "captions"]


@dataclass(frozen=True)
class Source:
    """A model or data set to load in the background.

    Attributes:
        name: The name shown.
        load: Loads it.
    """

    name: str
    load: Callable[[], object]


@dataclass
class Job:
    """One thing to load or embed.

    Attributes:
        what: Its description, for people.
        state: Its state.
        done: Number of images or captions embedded so far.
        total: Their total number; 0 if unknown.
        message: Why it failed.
        note: A remark on a job that is ready.
    """

    what: str
    run: Callable[[Job], None] = field(repr=False)
    state: State = "waiting"
    done: int = 0
    total: int = 0
    message: str = ""
    note: str = ""


class Stopped(Exception):
    """Raised in the background thread when the session ends."""


class Library:
    """Models and data sets by name, and the galleries that are ready to be searched.

    One thread loads and embeds everything in the order of the requests. A model or data set that cannot be loaded ends
    the session: `failure` holds the reason.

    Args:
        models: Sources of `DualEncoder`s, at most four; the others are compared with the first.
        collections: Sources of `Collection`s.
        device: The device, as for `mmpoison.base.processes.find_device`.
        cache: Folder of a content cache, which gets the embeddings; the usual one by default.
        on_failure: Called in the thread when the session must end.
        say: Called with one line for each thing that becomes ready.

    Raises:
        InputError: If there is no model, no data set, too many models, or two with the same name.
    """

    def __init__(
        self,
        models: Sequence[Source],
        collections: Sequence[Source],
        *,
        device: str = "auto",
        cache: Path | None = None,
        on_failure: Callable[[], None] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        if not models or not collections:
            raise InputError("the search page needs at least one model and one data set")
        if len(models) > MODELS_AT_ONCE:
            raise InputError(
                f"{len(models)} models: at most {MODELS_AT_ONCE} are shown side by side"
            )
        for what, sources in (("models", models), ("data sets", collections)):
            names = [source.name for source in sources]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise InputError(f"two {what} have the name {twice[0]!r}: give one as NAME=PATH")
        self.model_names = tuple(source.name for source in models)
        self.collection_names = tuple(source.name for source in collections)
        self.encoders: dict[str, DualEncoder] = {}
        self.collections: dict[str, Collection] = {}
        self.failure: BaseException | None = None
        self._device = device
        self._cache = cache
        self._on_failure = on_failure or (lambda: None)
        self._say = say or (lambda line: None)
        self._indices: dict[tuple[str, str, str, SearchedKind], Searchable] = {}
        self.captions: dict[tuple[str, str], DistinctCaptions] = {}
        self.jobs: dict[tuple[str, ...], Job] = {}
        self._queue: deque[Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None
        # the first data set's default gallery comes first, so that there is soon something to see
        first, *others = collections
        self._add(("data", first.name), first.name, partial(self._load_collection, first))
        for source in models:
            self._add(("model", source.name), source.name, partial(self._load_model, source))
        for source in others:
            self._add(("data", source.name), source.name, partial(self._load_collection, source))

    # -- queries -----------------------------------------------------------------------------------

    def collection(self, key: str) -> Collection:
        """Return a data set by its key.

        Raises:
            InputError: If there is none with this key, or it is not loaded yet.
        """
        for collection in self.collections.values():
            if collection.key == key:
                return collection
        raise InputError(f"data set {key!r} is no longer loaded: reload the page")

    def indexed(
        self, collection: Collection, part: str, model: str, kind: SearchedKind
    ) -> Searchable | Job:
        """Return a gallery, or its captions, under a model; if one is not ready, queue it and return its job.

        Raises:
            InputError: If there is no such gallery.
        """
        if part not in collection.parts:
            raise InputError(unknown_name("gallery", part, list(collection.parts)))
        if model not in self.encoders:
            return self.jobs["model", model]
        if (found := self._indices.get((collection.name, part, model, kind))) is not None:
            return found
        return self._want(collection.name, part, model, kind)

    def notes(self, collection: Collection, part: str) -> list[str]:
        """List what a reader should know about a gallery that is ready."""
        jobs = [self.jobs.get(("images", collection.name, part, m)) for m in self.model_names]
        return sorted({job.note for job in jobs if job is not None and job.note})

    def busy(self) -> list[Job]:
        """List the jobs that are not ready yet, in order."""
        return [job for job in list(self.jobs.values()) if job.state in ("waiting", "working")]

    # -- the thread --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the background thread."""
        self._thread = threading.Thread(target=self._work, name="library", daemon=True)
        self._thread.start()

    def stop(self, wait: float = 10) -> None:
        """Stop the thread at its next batch; after `wait` seconds return without it."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(wait)

    def wait(self, timeout: float = 600) -> None:
        """Wait until all jobs are done.

        Raises:
            TimeoutError: If it takes longer.
            BaseException: The error that ended the session.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.failure or not self.busy(), timeout):
                raise TimeoutError(f"not ready: {[job.what for job in self.busy()]}")
        if self.failure is not None:
            raise self.failure

    def _add(
        self, key: tuple[str, ...], what: str, run: Callable[[Job], None], *, next_up: bool = False
    ) -> Job:
        with self._changed:
            if (known := self.jobs.get(key)) is not None:
                return known
            job = self.jobs[key] = Job(what, run)
            self._queue.appendleft(job) if next_up else self._queue.append(job)
            self._changed.notify_all()
            return job

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._stopping)
                if self._stopping:
                    return
                job = self._queue.popleft()
                job.state = "working"
            try:
                job.run(job)
            except Stopped:
                return
            except BaseException as error:
                job.message = str(error) or type(error).__name__
                self.failure = error
            with self._changed:
                job.state = "failed" if job.message else "ready"
                self._changed.notify_all()
            if self.failure is not None:
                self._on_failure()
                return
            if not job.message:
                self._say(f"ready: {job.what}{f' ({job.note})' if job.note else ''}")

    def _load_model(self, source: Source, _: Job) -> None:
        from mmpoison.base.processes import find_device
        from mmpoison.models.dual_encoder import DualEncoder

        encoder = source.load()
        assert isinstance(encoder, DualEncoder)
        encoder.to(find_device(self._device))
        encoder.module.eval()
        self.encoders[source.name] = encoder
        first = self.collections[self.collection_names[0]]
        self._want(first.name, next(iter(first.parts)), source.name, "images", next_up=True)

    def _load_collection(self, source: Source, _: Job) -> None:
        collection = source.load()
        assert isinstance(collection, Collection)
        collection = replace(collection, name=source.name)
        for other in self.collections.values():
            if other.key == collection.key:
                raise InputError(
                    f"data {other.name!r} and {collection.name!r} contain the same images: remove one"
                )
        self.collections[source.name] = collection.check()

    def _want(
        self, collection: str, part: str, model: str, kind: SearchedKind, *, next_up: bool = False
    ) -> Job:
        what = "images" if kind == "images" else "captions of the images"
        return self._add(
            (kind, collection, part, model),
            f"{what} ({part}) of {collection} under {model}",
            partial(self._embed, collection, part, model, kind),
            next_up=next_up,
        )

    def _embed(self, name: str, part: str, model: str, kind: SearchedKind, job: Job) -> None:
        collection, encoder = self.collections[name], self.encoders[model]

        def progress(done: int, total: int) -> None:
            if self._stopping:
                raise Stopped
            job.done, job.total = done, total

        try:
            gallery = collection.gallery(part)
            if kind == "images":
                index = searchable_images(
                    encoder, collection.pairs, gallery, cache=self._cache, progress=progress
                )
                if unreadable := len(gallery) - len(index.items):
                    job.note = (
                        f"{unreadable:,} of {len(gallery):,} images cannot be read and are left out: "
                        "`mmpoison data verify` lists them"
                    )
            else:
                captions = self.captions.get((name, part)) or collection.distinct_captions(gallery)
                self.captions[name, part] = captions
                index = searchable_captions(
                    encoder, captions.texts.tolist(), cache=self._cache, progress=progress
                )
            self._indices[name, part, model, kind] = index
        except InputError as error:
            # reported to the request that needs the gallery; the session continues
            job.message = str(error)
