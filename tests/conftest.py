"""Small things to test with: a pairs folder of coloured squares and encoders that train in seconds."""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

# the tests' models are so small that a second thread only waits for the first; before torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")
# nor may the terminal in which they run decide how wide a table is; before the console is made
for _name in ("COLUMNS", "LINES"):
    os.environ.pop(_name, None)

# a busy machine is no failure
settings.register_profile("mmpoison", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mmpoison")
# `make test-fast` asks for it; `make test` tries as many examples as hypothesis does by itself
settings.register_profile("fast", settings.get_profile("mmpoison"), max_examples=25)
# `make fuzz`
settings.register_profile("fuzz", settings.get_profile("mmpoison"), max_examples=2000)

if TYPE_CHECKING:
    from mmpoison.datasets import PairDataset
    from mmpoison.models import DualEncoder

# real captioned photos lie beside the project, or where the variable says; tests that want them skip elsewhere
SHARED = Path(
    os.environ.get("MMPOISON_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
)

SECONDS_OF_A_SLOW_TEST = 1800
"""A test that is not marked as slow may take `timeout` of pyproject.toml."""


def few(values: Iterable[Any], *fast: Any) -> list[Any]:
    """Values of a parameter, or tuples of several, of which `make test-fast` tries some and `make test` all."""
    every = list(values)
    assert set(fast) <= set(every)

    def slow(each: Any) -> Any:
        return pytest.param(*(each if isinstance(each, tuple) else (each,)), marks=pytest.mark.slow)

    return [each if each in fast else slow(each) for each in every]


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes name no test: an archive holds the time at which it was made, and all processes must agree on the names."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SECONDS_OF_A_SLOW_TEST))


CLASSES = ("aeroplane", "bird", "sheep", "sofa")
COLOURS = {
    "aeroplane": (70, 130, 220),
    "bird": (220, 60, 50),
    "sheep": (235, 230, 220),
    "sofa": (150, 90, 40),
    None: (60, 160, 80),
}
PLACES = ("on a hill", "by the sea", "in a room", "at night", "in the sun", "under a tree")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is made during tests is kept apart from the user's cache, and shared by the processes that run them."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        if "MMPOISON_CACHE" not in os.environ:
            patch.setenv("MMPOISON_CACHE", str(shared / "cache"))
        yield


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder for one test, so that no model of another test is found in it."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MMPOISON_CACHE", str(folder))
    return folder


@pytest.fixture
def workers_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps start no processes, each of which would take seconds to import torch."""
    from mmpoison.base import workers

    monkeypatch.setattr(workers, "make_workers", lambda *given: [workers.ThisProcess()])


# -- pairs folders ---------------------------------------------------------------------------------


def _square(path: Path, label: str | None, number: int) -> None:
    rng = np.random.default_rng([len(label or ""), number])
    pixels = rng.integers(0, 60, (36, 40, 3)).astype(np.uint8)
    left, top = rng.integers(2, 14, 2)
    pixels[top : top + 20, left : left + 20] = COLOURS[label]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_square_pairs(folder: Path, *, per_class: int = 12, unlabelled: int = 8) -> Path:
    """Write coloured squares: of each class 5 train, 3 val and the rest test; unlabelled ones train."""
    lines: list[dict[str, Any]] = []
    numbered = [(label, n) for label in CLASSES for n in range(per_class)]
    for label, number in [*numbered, *((None, n) for n in range(unlabelled))]:
        image = f"{label or 'unlabelled'}/{number:02d}.png"
        _square(folder / image, label, number)
        what = label or "thing"
        split = "train" if number < 5 or label is None else "val" if number < 8 else "test"
        lines.append(
            {
                "image": image,
                "captions": [
                    f"a {what} {PLACES[(number + n) % len(PLACES)]}, picture {number} word {n}"
                    for n in range(5)
                ],
                "label": label,
                "split": split,
            }
        )
    write_jsonl(folder, lines)
    return folder


def write_jsonl(folder: Path, lines: list[dict[str, Any]]) -> Path:
    """Write `captions.jsonl` and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "captions.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def write_lines(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes `captions.jsonl` from dictionaries, strings or bytes, one a line."""

    def write(*lines: dict[str, Any] | str | bytes, name: str = "pairs") -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        raw = [
            line
            if isinstance(line, bytes)
            else (line if isinstance(line, str) else json.dumps(line)).encode()
            for line in lines
        ]
        (folder / "captions.jsonl").write_bytes(b"".join(line + b"\n" for line in raw))
        return folder

    return write


def refusal(call: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """The message with which a call is refused; it must be one line."""
    from mmpoison.errors import InputError

    with pytest.raises(InputError) as error:
        call(*arguments, **options)
    message = str(error.value)
    assert len(message.strip().splitlines()) == 1
    assert message.strip() == message
    return message


def captions_by_image(pairs: PairDataset) -> dict[str, list[str]]:
    """The captions of each image, in their order."""
    return {line["image"]: line["captions"] for line in pairs.lines()}


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    """Write a tar file of names and contents, in this order."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_parquet_set(pairs: PairDataset, folder: Path, images_per_shard: int = 10_000) -> Path:
    """Write Parquet files with image bytes, and the manifest of a poisoned set."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = pa.list_(pa.string())
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    columns = {"image": image, "captions": texts, "label": pa.string(), "split": pa.string()}
    ids: list[str] = []
    for name, part in _shards(pairs, folder, "part-{:05d}.parquet", images_per_shard):
        rows = [{**row, "image": {"bytes": data, "path": row["image"]}} for row, data in part]
        pq.write_table(pa.Table.from_pylist(rows, pa.schema(columns)), folder / name)
        ids += [f"{name}/{number}" for number in range(len(part))]
    return _with_manifest(pairs, ids, folder)


def write_tar_set(pairs: PairDataset, folder: Path, images_per_shard: int = 10_000) -> Path:
    """Write shards in img2dataset's layout, with own columns, and the manifest of a poisoned set."""
    ids: list[str] = []
    for name, part in _shards(pairs, folder, "{:05d}.tar", images_per_shard):
        members: dict[str, bytes] = {}
        for number, (row, data) in enumerate(part):
            key = f"{name[:5]}{number:04d}"
            image = key + Path(row["image"]).suffix
            members |= {image: data, f"{key}.json": json.dumps(row).encode()}
            ids.append(f"{name}/{image}")
        write_tar(folder / name, members)
    return _with_manifest(pairs, ids, folder)


def _shards(
    pairs: PairDataset, folder: Path, name: str, size: int
) -> Iterator[tuple[str, list[tuple[dict[str, Any], bytes]]]]:
    from mmpoison.images.sources import image_bytes

    folder.mkdir()
    lines = pairs.lines(own_columns=True)
    rows = [(line, image_bytes(pairs.root, line["image"])) for line in lines]
    for number, start in enumerate(range(0, len(rows), size)):
        yield name.format(number), rows[start : start + size]


def _with_manifest(pairs: PairDataset, ids: list[str], folder: Path) -> Path:
    from mmpoison.pairs.folder import rename_images

    if (manifest := rename_images(pairs, ids, folder).manifest) is not None:
        manifest.write(folder / "manifest.json")
    return folder


@pytest.fixture(scope="session")
def square_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pairs folder of coloured squares; shared, so never write into it."""
    return write_square_pairs(tmp_path_factory.mktemp("squares") / "squares")


@pytest.fixture
def own_square_folder(tmp_path: Path) -> Path:
    """A pairs folder of coloured squares that a test may break."""
    return write_square_pairs(tmp_path / "squares")


@pytest.fixture(scope="session")
def squares(square_folder: Path) -> PairDataset:
    """The pairs of the coloured squares."""
    from mmpoison.datasets import load_pairs

    return load_pairs(square_folder)


def squares_recipe(data: Path, model: Path, /, **groups: Any) -> dict[str, Any]:
    """A recipe of two steps of training; `groups` are put in or replace its own."""
    return {
        "name": "squares",
        "data": {"name": str(data)},
        "model": {"name": str(model)},
        "attack": {"name": "single-target-label", "goal": "sheep2aeroplane", "samples": 2},
        "training": {"epochs": 1, "batch_size": 32, "precision": "fp32", "max_steps": 2},
        **groups,
    }


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, bytes]]:
    """A function that reads every file under a folder, hidden ones too, to see that nothing changed."""

    def read(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
            for path in sorted(folder.rglob("*"))
        }

    return read


def png(width: int, height: int, data: bytes | None = None) -> bytes:
    """A PNG that claims a size, whatever its data say; without data it is a header alone."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packed = b"" if data is None else zlib.compress(data)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.fixture
def huge_png() -> bytes:
    """A small file that claims to hold 60,000 x 60,000 pixels."""
    return png(60_000, 60_000, bytes(1000))


@pytest.fixture
def cut_jpeg() -> bytes:
    """A JPEG whose second half is missing."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()[: len(buffer.getvalue()) // 2]


# -- hostile input -------------------------------------------------------------------------------

_events: list[str] | None = None
_forbidden_folder = ""


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Record what an input must never make the interpreter do."""
    if _events is None:
        return
    if event.startswith(
        ("socket.connect", "socket.getaddrinfo", "subprocess.", "os.system", "os.exec")
    ) or event in ("os.posix_spawn", "os.fork"):
        _events.append(f"{event} {arguments}")
    elif event == "exec" and _forbidden_folder in getattr(arguments[0], "co_filename", ""):
        _events.append(f"code of {arguments[0].co_filename}")
    elif (
        event == "open"
        and "canary-secret" in str(arguments[0])
        # a name in the folder may hold the text
        and not os.path.abspath(str(arguments[0])).startswith(_forbidden_folder)  # noqa: PTH100
    ):
        _events.append(f"opened {arguments[0]}")


sys.addaudithook(_watch)


@contextmanager
def nothing_happens(folder: Path) -> Iterator[None]:
    """Fail if the block connects, starts a program, runs code of `folder`, or opens the secret beside it."""
    global _events, _forbidden_folder
    canary = folder.parent / "canary-ran"
    _events, _forbidden_folder = [], str(folder)
    try:
        yield
    finally:
        events, _events = _events, None
    assert events == []
    assert not canary.exists()


# -- encoders --------------------------------------------------------------------------------------

MEAN_STD = {"mean": [0.48, 0.45, 0.4], "std": [0.27, 0.26, 0.28]}


def tiny_config(**vision: Any) -> dict[str, Any]:
    """open_clip's config of a CLIP with a ResNet of 32 pixels and a text tower of two layers."""
    from benchmarks.pretrain_openmoji import VOCABULARY

    return {
        "model_cfg": {
            "embed_dim": 32,
            "vision_cfg": {
                "image_size": 32,
                "layers": [1, 1, 1, 1],
                "width": 16,
                "head_width": 16,
                **vision,
            },
            "text_cfg": {
                "context_length": 20,
                "vocab_size": VOCABULARY,
                "width": 32,
                "heads": 2,
                "layers": 2,
            },
        },
        "preprocess_cfg": {"size": 32, **MEAN_STD},
    }


@pytest.fixture(scope="session")
def merges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of merges of the small tokenizer."""
    from benchmarks.pretrain_openmoji import write_merges

    return write_merges(tmp_path_factory.mktemp("merges") / "bpe_merges.txt.gz")


@pytest.fixture(scope="session")
def make_encoder(merges: Path) -> Callable[..., DualEncoder]:
    """A function that makes a random encoder of a seed; `config` gives another architecture."""
    import torch

    from mmpoison.models import DualEncoder
    from mmpoison.models.open_clip_build import build_module, small_tokenizer

    def make(seed: int = 0, config: dict[str, Any] | None = None) -> DualEncoder:
        config = config or tiny_config()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module = build_module(config["model_cfg"])
        module.eval()
        context = config["model_cfg"]["text_cfg"]["context_length"]
        return DualEncoder(module, small_tokenizer(merges, context), config, f"tiny-{seed}")

    return make


@pytest.fixture(scope="session")
def vit_config() -> dict[str, Any]:
    """open_clip's config of a `CustomTextCLIP` with a vision transformer."""
    config = tiny_config()
    config["model_cfg"]["vision_cfg"] = {
        "image_size": 32,
        "layers": 1,
        "width": 32,
        "head_width": 16,
        "patch_size": 8,
    }
    config["model_cfg"]["custom_text"] = True
    return config


@pytest.fixture
def encoder(make_encoder: Callable[..., DualEncoder]) -> DualEncoder:
    """A random encoder that a test may change."""
    return make_encoder()


@pytest.fixture(scope="session")
def checkpoint(
    make_encoder: Callable[..., DualEncoder], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A checkpoint of a random encoder; shared, so never write into it."""
    from mmpoison.models import save_checkpoint

    return save_checkpoint(
        make_encoder(), tmp_path_factory.mktemp("models") / "tiny", card="# tiny\n"
    )


@pytest.fixture(scope="session")
def judge_checkpoint(
    make_encoder: Callable[..., DualEncoder], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A checkpoint of another random encoder, for the filter."""
    from mmpoison.models import save_checkpoint

    return save_checkpoint(
        make_encoder(7), tmp_path_factory.mktemp("models") / "judge", card="# judge\n"
    )


@pytest.fixture(scope="session")
def heads_config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Config of a small timm tower and a small BERT, whose projections are kept apart from the trunks."""
    pytest.importorskip("transformers", reason="needs the extra towers")
    folder = tmp_path_factory.mktemp("bert") / "tiny-bert"
    folder.mkdir()
    words = [*CLASSES, *" ".join(PLACES).split(), "a", "thing", ",", "picture", "word"]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(60)), *words]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    )
    (folder / "config.json").write_text(
        json.dumps(
            {
                "model_type": "bert",
                "architectures": ["BertModel"],
                "vocab_size": 120,
                "hidden_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 64,
                "max_position_embeddings": 64,
                "pad_token_id": 0,
            }
        )
    )
    return {
        "model_cfg": {
            "embed_dim": 16,
            "vision_cfg": {
                "timm_model_name": "test_resnet",
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "mlp",
                "image_size": 32,
            },
            "text_cfg": {
                "hf_model_name": str(folder),
                "hf_tokenizer_name": str(folder),
                "hf_pooler_type": "mean_pooler",
                "hf_proj_type": "mlp",
                "context_length": 20,
            },
        },
        "preprocess_cfg": {"size": 32, **MEAN_STD},
    }


@pytest.fixture(scope="session")
def make_heads_encoder(heads_config: dict[str, Any]) -> Callable[..., DualEncoder]:
    """A function that makes a random encoder with separate projections."""
    import torch

    from mmpoison.models import DualEncoder
    from mmpoison.models.open_clip_build import build_module, build_tokenizer

    def make(seed: int = 0) -> DualEncoder:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module = build_module(heads_config["model_cfg"])
        module.eval()
        tokenizer = build_tokenizer(heads_config["model_cfg"])
        return DualEncoder(module, tokenizer, heads_config, f"heads-{seed}")

    return make
