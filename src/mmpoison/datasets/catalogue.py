"""The interface of data sets and formats, their registry and options, and format recognition."""

from __future__ import annotations

import difflib
import functools
import inspect
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Unpack, get_args, get_origin, get_type_hints

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from mmpoison.base.files import refuse_special
from mmpoison.base.registry import Registry, check_name, unknown_name
from mmpoison.base.text import one_line
from mmpoison.base.untrusted import parse_yaml
from mmpoison.datasets.own_rows import GoneRows, KeptKeys
from mmpoison.errors import InputError, MmpoisonWarning
from mmpoison.pairs.builder import PairRows
from mmpoison.pairs.folder import is_poisoned, pieces_of, table_of
from mmpoison.pairs.table import PairDataset, TableStates

NO_OPTIONS = ("seed", "progress", "workers")
"""Keyword arguments passed by the caller of a loader, not by the user."""

Count = Annotated[int, Field(ge=0, lt=2**63)]
"""A number of things, or a seed."""


def fit_options(
    given: Mapping[str, Any], function: Callable[..., Any], what: str, more: Sequence[str] = ()
) -> dict[str, Any]:
    """Convert options to the types of a function's annotations, using pydantic.

    Text stays text if text is expected (a separator `|`, a column called `on`), and is parsed if a number or boolean is
    expected. Values from YAML must have the correct type.

    Args:
        given: Options by name: text, or values from YAML.
        function: The function that takes them as keywords, see `option_kinds`.
        what: The owner of the options, for messages ("data set 'coco'").
        more: Further options that the function accepts without declaring them.

    Raises:
        InputError: If an option does not exist, or a value has the wrong type.

    >>> def load(root, *, year: int | None = None, images: bool = True, separator: str = ","): ...
    >>> fit_options({"year": "2017", "separator": "1"}, load, "it")
    {'year': 2017, 'separator': '1'}
    """
    kinds = {**dict.fromkeys(more, Any), **option_kinds(function)}
    for name in sorted(given):
        if name not in kinds:
            # former names of column and key options
            plain = re.sub("_(column|key)$", "", name)
            near = difflib.get_close_matches(plain, kinds, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(
                f"{what} has no option {name!r}: {hint}it has {', '.join(kinds) or 'none'}"
            )
    return {
        name: _fit(value, kinds[name], one_line(f"{what}, option {name}={value}"))
        for name, value in given.items()
    }


def option_kinds(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the options of a loader or builder, with their types.

    Options are the keyword-only parameters except `progress`, and the keys of a `TypedDict` that annotates `**options`
    (`Unpack[...]`). An option without annotation accepts anything.

    >>> def load(root, seed=0, *, year: int | None = None, progress=None): ...
    >>> option_kinds(load)
    {'year': int | None}
    """
    hints = get_type_hints(function, include_extras=True)
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        kind = hints.get(name, parameter.annotation)
        if parameter.kind is parameter.KEYWORD_ONLY and name not in NO_OPTIONS:
            found[name] = Any if kind is parameter.empty else kind
        elif parameter.kind is parameter.VAR_KEYWORD and get_origin(kind) is Unpack:
            found |= get_type_hints(get_args(kind)[0], include_extras=True)
    return found


def _fit(value: Any, kind: Any, where: str) -> Any:
    wanted: TypeAdapter[Any] = TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))
    try:
        for other in _other_readings(value):
            try:
                return wanted.validate_python(other, strict=True)
            except ValidationError:
                continue
        if isinstance(value, str):
            return wanted.validate_strings(value)
        return wanted.validate_python(value, strict=True)
    except ValidationError as error:
        said = error.errors()[0]["msg"].replace("Input should be", "must be")
        raise InputError(f"{where}: {said}") from None


def _other_readings(value: Any) -> list[Any]:
    """Return alternative readings to try first: a list or nothing for text, a name for a number."""
    if isinstance(value, str) and (value == "null" or value.startswith("[")):
        try:
            return [parse_yaml(value, "option")]
        except InputError:
            return []
    return [value, str(value)] if type(value) is int else []


def words(value: Sequence[str] | str) -> tuple[str, ...]:
    """Parse an option as names: a list, or comma-separated text.

    >>> words("toaster, hair drier")
    ('toaster', 'hair drier')
    """
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(part.strip() for part in parts if part.strip())


LOOKED_INTO = 100
"""Maximum number of folders examined for adjacent data sets."""


@dataclass(frozen=True)
class DataSource:
    """A named data set, or a file format for pairs.

    Attributes:
        name: Registered name, also accepted by `--format`.
        summary: One line: its content.
        where_from: Where to get it.
        terms: Terms of use of its images and captions; empty for a format.
        load: `load(root, seed, **options)` returns the pairs. `root` is the user's folder or file, or None for
            generated data.
        build: `build(out, seed, progress, **options)` generates or downloads it; None if the user must provide it.
        needs_root: Whether the user must provide a folder.
        attribution: Attribution to show with its images, or None.
        options: Names of the options of `load`; by default those in its signature (`option_kinds`).
        recognise: Returns the evidence (a file name) that a folder or file has this format, or None.
        priority: Higher priorities are tried first; two matches of equal priority are ambiguous. 3 for the project's
            own folder, 2 for formats with a distinctive file, 1 for single tables of any origin, 0 for bare images.
        home: Folder below `$MMPOISON_DATA`, if it differs from the name (`coco` for sets derived from it).
        parts: Names of the data sets that it consists of, if it is a combination.
        stream: `stream(root, images, **options)` yields tables of about `images` images in constant memory; None if the
            whole table must be read first.
        prefix: Address prefix for loading a remote set (`hf:`); empty for none.
        download: What `build` downloads, in one line; empty if it generates the data.
        load_address: `load_address(address, **options)` loads a remote set; the address has no prefix.
        sort_rows: `sort_rows(root, out, verdicts, **options)` rewrites the user's files without the dropped rows, and
            yields the dropped rows (`mmpoison.datasets.own_rows`); None for formats without user rows.
        classes: Classes that goals can use, if known without reading the data.
    """

    name: str
    summary: str
    where_from: str
    load: Callable[..., PairDataset]
    build: Callable[..., Path] | None = None
    needs_root: bool = True
    attribution: str | None = None
    options: tuple[str, ...] = ()
    terms: str = ""
    recognise: Callable[[Path], str | None] | None = None
    priority: int = 2
    home: str = ""
    parts: tuple[str, ...] = ()
    stream: Callable[..., Iterator[PairDataset]] | None = None
    prefix: str = ""
    load_address: Callable[..., PairDataset] | None = None
    download: str = ""
    sort_rows: Callable[..., Iterator[GoneRows | KeptKeys]] | None = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.options:
            object.__setattr__(self, "options", tuple(option_kinds(self.load)))


DATASETS: Registry[DataSource] = Registry(
    "data set",
    "mmpoison.datasets",
    listed_by="mmpoison data list",
    group="mmpoison.datasets",
    needs=("name", "summary", "load", "options", "parts", "recognise"),
)

DATA_VARIABLE = "MMPOISON_DATA"
"""Environment variable for a folder that contains data sets under their registered names."""


def load_dataset(
    name: str,
    root: str | Path | None = None,
    *,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    format: str | None = None,
) -> PairDataset:
    """Load a data set by registered name, or a folder or file by path.

    Args:
        name: A registered name, a path whose format is recognised, or `hf:ORG/NAME` of Hugging Face's hub.
        root: Folder of the user's that holds the data, where the data set needs one (`$MMPOISON_DATA/NAME` where that
            exists): as its authors publish it, or saved as a pairs folder. For a path the folder of its images.
        seed: Seed of the run, for data that are made or split by it.
        options: Options of the data set.
        format: The format of a path, instead of recognising it.

    Raises:
        InputError: If the name is neither, the folder is missing, or an option is unknown.
    """
    check_name("data set", name)
    if format is None and name in DATASETS:
        source = DATASETS[name]
        place = find_root(source) if root is None else Path(root)
        if source.needs_root and place is None:
            here = f"; the folder here is ./{name}" if Path(name).exists() else ""
            raise InputError(
                f"data set {name!r} needs the folder that holds it (--data-root DIR, or ${DATA_VARIABLE}/{name})"
                f"{here}: {source.where_from}"
            )
        if place is not None and _is_saved_copy(source, place):
            source = DATASETS["pairs-folder"]
    elif format is None and (remote := source_of_address(name)) is not None:
        load = remote.load_address
        assert load is not None, f"{remote.name} has a prefix and no load_address"
        fitted = fit_options(options or {}, load, name)
        return _warned(load(name.removeprefix(remote.prefix), **fitted), name)
    elif format is None and not Path(name).exists():
        DATASETS.refuse_unusable(name)
        if "/" in name or "\\" in name:
            raise InputError(f"{name}: no such folder or file")
        raise InputError(
            f"{name}: no such folder or file, and "
            f"{unknown_name('data set', name, list(DATASETS), DATASETS.listed_by)}"
        )
    else:
        return PathData.of(name, format, root, options or {}).load(seed)
    return PathData(source, place, fitted_options(source, options or {})).load(seed)


def load_pairs(
    path: str | Path,
    *,
    images: str | Path | None = None,
    format: str | None = None,
    seed: int = 0,
    **options: Any,
) -> PairDataset:
    """Load a folder or file of pairs; its format is recognised by its files.

    Args:
        path: A pairs folder (`captions.jsonl`), or any format of `mmpoison data list`.
        images: Folder that relative image paths start from, for formats that keep images elsewhere.
        format: Registered name of the format, where it cannot be recognised.
        seed: For formats that split or label at random.
        **options: Options of the format.

    Returns:
        The pairs. Entries that cannot be trusted are left out, warned of and listed in `problems`; a broken pairs
        folder, our own format, is refused.

    Raises:
        InputError: If there is nothing at the path, no format or several recognise it, or nothing can be read.
    """
    return PathData.of(path, format, images, options).load(seed)


def stream_pairs(
    path: str | Path, *, images_at_once: int = 10_000, format: str | None = None, **options: Any
) -> Iterator[PairDataset]:
    """Read a folder or file of pairs piece by piece, with memory that does not grow with its size.

    Args:
        path: As for `load_pairs`.
        images_at_once: About how many images each piece has.
        format: Registered name of the format, where it cannot be recognised.
        **options: Options of the format.

    Yields:
        Tables with their own images. Formats that can only be read whole are read whole and given in pieces.

    Raises:
        InputError: As for `load_pairs`.
    """
    return PathData.of(path, format, None, options).pieces(images_at_once)


@dataclass(frozen=True)
class PathData:
    """A folder or file of pairs, or the folder of a named data set, and how it is read.

    Attributes:
        source: Its format or data set.
        place: The path; None for data that are made here.
        options: Options of the format, of the types that it takes.
    """

    source: DataSource
    place: Path | None
    options: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        path: str | Path,
        format: str | None = None,
        images: str | Path | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        switched_on: Sequence[str] = (),
    ) -> PathData:
        """Find the format of a path, and check the options.

        Args:
            path: A folder or file.
            format: Registered name of the format, where it cannot be recognised.
            images: Folder that relative image paths start from.
            options: Options of the format, as text or as values.
            switched_on: Options to switch on if the format has them and `options` do not set them.

        Raises:
            InputError: If there is nothing at the path, no format or several recognise it, or an option is wrong.
        """
        check_name("path", path)
        place = Path(path)
        source = recognise(place) if format is None else DATASETS[format]
        on = {name: True for name in switched_on if name in source.options}
        given = {**on, **(options or {})}
        if images is not None:
            given["images"] = image_folder(source, images)
        return cls(source, place, fitted_options(source, given))

    @property
    def poisoned(self) -> bool:
        """Whether there is a manifest in the folder or next to the file."""
        place = self.place
        return place is not None and is_poisoned(place if place.is_dir() else place.parent)

    def load(self, seed: int = 0, *, warn: bool = True) -> PairDataset:
        """Load the pairs as one table, warn about left-out entries, and refuse files that change meanwhile."""
        source, place = self.source, self.place
        if place is not None and not place.exists():
            raise InputError(f"{place}: no such folder: {source.name} needs {source.where_from}")
        tables = None if place is None else TableStates.of(place)
        with nullcontext() if tables is None else tables.read():
            pairs = source.load(place, seed, **self.options)
        loaded = replace(pairs, tables=tables)
        return _warned(loaded, place) if warn else loaded

    def pieces(self, images_at_once: int) -> Iterator[PairDataset]:
        """Yield tables of about a given number of images. Formats that can only be read whole are split afterwards."""
        if self.source.stream is not None and self.place is not None:
            tables = TableStates.of(self.place)
            with tables.read():
                for piece in self.source.stream(self.place, images_at_once, **self.options):
                    yield replace(piece, tables=tables)
            return
        pairs = self.load()
        for start in range(0, len(pairs.images), images_at_once):
            piece = pairs.piece(np.arange(start, min(start + images_at_once, len(pairs.images))))
            # report once what was left out of the whole
            yield piece if start == 0 else replace(piece, problems=())


def recognise(path: Path) -> DataSource:
    """Recognise the format of a folder or file by its files.

    Raises:
        InputError: If the path does not exist, no format matches, or several match equally well.
    """
    if not path.exists():
        raise InputError(f"{path}: no such folder or file")
    refuse_special(path)
    best: list[tuple[DataSource, str]] = []
    for source in sorted(DATASETS.values(), key=lambda source: -source.priority):
        if best and source.priority < best[0][0].priority:
            break
        if source.recognise is not None and (evidence := source.recognise(path)):
            best.append((source, evidence))
    if not best or best[0][0].priority == 0:
        _refuse_several(path)
    if not best:
        known = ", ".join(name for name in DATASETS if DATASETS[name].recognise is not None)
        raise InputError(
            f"{path}: its files match no known format: name it with --format, one of {known}"
        )
    if len(best) > 1:
        kinds = " or ".join(f"{one.name} ({evidence})" for one, evidence in best)
        raise InputError(f"{path}: could be {kinds}: say which with --format")
    return best[0][0]


def _refuse_several(path: Path) -> None:
    """Refuse a folder of several data sets, whose sub-folders of images are not classes of one set."""
    if not path.is_dir():
        return
    inside = sorted(f for f in path.iterdir() if f.is_dir() and not f.name.startswith("."))
    ordered = sorted(DATASETS.values(), key=lambda source: -source.priority)
    sure = [s for s in ordered if s.recognise is not None and s.priority > 1]
    held = []
    for folder in inside[:LOOKED_INTO]:
        kinds = (s.name for s in sure if s.recognise is not None and s.recognise(folder))
        if (name := next(kinds, None)) is not None:
            held.append(f"{folder.name} ({name})")
    if held:
        more = ", ..." if len(held) > 3 else ""
        raise InputError(
            f"{path}: is not a data set, but contains {', '.join(held[:3])}{more}: give one of them, or the format of "
            "the whole folder with --format"
        )


def image_folder(source: DataSource, folder: str | Path) -> Path:
    """Return the base folder of a format's relative paths.

    Raises:
        InputError: If the format has no such paths, or the folder does not exist.
    """
    if "images" not in source.options:
        raise InputError(f"{folder}: {source.name} already finds its own images: omit this folder")
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such image folder")
    return Path(folder)


def source_of_address(name: str) -> DataSource | None:
    """Return the source for an address such as `hf:org/name`, or None for other text."""
    sources = DATASETS.values()
    return next((s for s in sources if s.prefix and name.startswith(s.prefix)), None)


def register(source: DataSource) -> DataSource:
    """Register a data set or format under its name."""
    return DATASETS.register(source.name)(source)


def register_format(
    open_rows: Callable[..., PairRows], *, streams: bool = True, **described: Any
) -> None:
    """Register a format by a function that opens its rows. Loading and streaming take the same options.

    Args:
        open_rows: `open_rows(root, **options)`.
        streams: Whether it can be read in pieces, because the rows of an image are adjacent.
        **described: Fields of `DataSource`.
    """

    @functools.wraps(open_rows)
    def load(root: Path, seed: int = 0, **options: Any) -> PairDataset:
        return table_of(open_rows(root, **options))

    def stream(root: Path, images_at_once: int, **options: Any) -> Iterator[PairDataset]:
        yield from pieces_of(open_rows(root, **options), images_at_once)

    register(DataSource(load=load, stream=stream if streams else None, **described))


def derived(
    load: Callable[..., PairDataset],
    change: Callable[[PairDataset, int], PairDataset],
    seed_option: str,
    without: Sequence[str] = (),
) -> Callable[..., PairDataset]:
    """Create a loader that transforms another loader's result and takes the same options.

    Args:
        load: The loader of a `DataSource`.
        change: Returns the new set, given a set and a seed.
        seed_option: The option whose value is that seed, which the new loader always has.
        without: Options that the new loader lacks.
    """
    own = inspect.signature(load)
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = inspect.Parameter(seed_option, keyword, default=0, annotation=Count)
    parameters = {name: own.parameters[name] for name in own.parameters if name not in without}

    @functools.wraps(load)
    def changed(root: Path | None, seed: int = 0, **options: Any) -> PairDataset:
        chosen = options.get(seed_option, 0)
        if seed_option not in own.parameters:
            options.pop(seed_option, None)
        return change(load(root, seed, **options), chosen)

    parameters.setdefault(seed_option, added)
    in_order = sorted(parameters.values(), key=lambda parameter: parameter.kind)
    changed.__signature__ = own.replace(parameters=in_order)  # type: ignore[attr-defined]
    return changed


def find_root(source: DataSource) -> Path | None:
    """Find a named data set on this machine: `$MMPOISON_DATA/NAME` or its home folder there, or None.

    `pascal_sentences` is accepted for `pascal-sentences`.
    """
    base = os.environ.get(DATA_VARIABLE)
    if not base or not source.needs_root:
        return None
    name = source.home or source.name
    places = [Path(base) / spelled for spelled in (name, name.replace("-", "_"))]
    return next((place for place in places if place.exists()), None)


def _is_saved_copy(source: DataSource, place: Path) -> bool:
    """Check whether a folder is a pairs folder that `save_pairs` wrote from a published data set."""
    own = DATASETS["pairs-folder"].recognise
    if source.recognise is None or not source.terms or own is None:
        return False
    return own(place) is not None and source.recognise(place) is None


def _warned(pairs: PairDataset, place: Path | str | None) -> PairDataset:
    if pairs.problems:
        several = (
            "" if len(pairs.problems) == 1 else f" for {len(pairs.problems):,} reasons, the first"
        )
        warnings.warn(
            f"{place}: left out{several}: {pairs.problems[0]} (mmpoison data verify lists all)",
            MmpoisonWarning,
            stacklevel=4,
        )
    return pairs


def fitted_options(source: DataSource, options: Mapping[str, Any]) -> dict[str, Any]:
    """Convert options of a data set or format, given as text or values, to their types.

    Raises:
        InputError: If an option does not exist or a value is invalid.
    """
    what = "format" if source.recognise is not None and not source.terms else "data set"
    return fit_options(options, source.load, f"{what} {source.name!r}", source.options)


# -- A data set as given by a user: a path or name, and how to read it.


@dataclass(frozen=True)
class NamedData:
    """A data set by name or path, and how to read it. Every function that takes a data set accepts it.

    Attributes:
        data: A path of any known format, the name of a data set, or `hf:ORG/NAME`. A path that exists is a path, also
            where a data set has that name.
        root: The folder that holds a named data set; for a path, the folder of its images.
        format: The format, if it is not recognised from the path.
        options: Options of the data set or format, as text or as values.
    """

    data: str
    root: Path | None = None
    format: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.data

    def words(self) -> list[str]:
        """Return the arguments with which a command reads the same data.

        >>> NamedData("a.csv", Path("photos"), options={"caption": "text"}).words()
        ['--data', 'a.csv', '--data-root', 'photos', '--option', 'caption=text']
        """
        given = {"--data": self.data, "--data-root": self.root, "--format": self.format}
        words = [word for name, value in given.items() if value for word in (name, str(value))]
        return words + [
            w for one in self.options.items() for w in ("--option", "=".join(map(str, one)))
        ]

    def load(self) -> PairDataset:
        """Load the pairs.

        Raises:
            InputError: If there is no such data set, or it cannot be read.
        """
        if Path(self.data).exists():
            return load_pairs(self.data, images=self.root, format=self.format, **self.options)
        return load_dataset(self.data, self.root, options=self.options, format=self.format)
