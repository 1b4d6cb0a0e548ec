"""Each way to train a part trains that part and nothing else; what is frozen is computed once."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from tests.training.conftest import Make, Stop, Tune, assert_close, moved, stop_after
from torch import Tensor

from mmpoison.datasets import PairDataset
from mmpoison.errors import MmpoisonWarning
from mmpoison.models import DualEncoder, PixelInputs, prepare_pixels
from mmpoison.training import Checkpoints
from mmpoison.training import feed as frozen_module
from mmpoison.training.feed import frozen_outputs
from mmpoison.training.settings import ROLES, Trainable

IMAGE, TEXT = {"visual.proj"}, {"text.text_projection"}
POOL = {"visual.attnpool.c_proj.weight", "visual.attnpool.c_proj.bias"}


@pytest.mark.parametrize(
    ("kind", "trainable", "expected"),
    [
        ("vit", "heads", IMAGE | TEXT),
        ("vit", "image-head", IMAGE),
        ("vit", "text-head", TEXT),
        # CLIP's ResNets project inside their pooling
        ("resnet", "heads", POOL | {"text_projection"}),
        ("resnet", "image-head", POOL),
        ("resnet", "text-head", {"text_projection"}),
    ],
)
def test_a_projection_trains_alone(
    make_encoder: Make,
    vit_config: dict[str, Any],
    tune: Tune,
    kind: str,
    trainable: str,
    expected: set[str],
) -> None:
    encoder = make_encoder(0, vit_config if kind == "vit" else None)
    result = tune(encoder, trainable=trainable, max_steps=1)
    parameters = {name for name, _ in encoder.module.named_parameters()}
    assert moved(encoder, result.encoder) & parameters == {*expected, "logit_scale"}


def test_the_released_codes_frozen_text_encoder(make_encoder: Make, tune: Tune) -> None:
    """Only the blocks stay; embeddings, final norm and projection train, which the paper would not call frozen."""
    encoder = make_encoder()
    changed = moved(encoder, tune(encoder, trainable="text-transformer-frozen").encoder)
    assert not any(name.startswith("transformer.") for name in changed)
    assert {"token_embedding.weight", "positional_embedding", "text_projection"} <= changed
    assert {"ln_final.weight", "visual.conv1.weight"} <= changed


@pytest.mark.parametrize("trainable", get_args(Trainable))
def test_every_option_in_chunks_and_after_a_stop(
    make_encoder: Make, vit_config: dict[str, Any], tune: Tune, tmp_path: Path, trainable: Any
) -> None:
    """Whatever trains, chunks change nothing, a stop changes no bit, and what is frozen stays as it was."""
    encoder = make_encoder(0, vit_config)
    run = partial(tune, encoder, trainable=trainable, max_steps=3, eps=1e-2)
    whole = run().encoder
    assert bool(moved(encoder, whole)) == (trainable != "none")
    image, text = ROLES[trainable]
    for name in moved(encoder, whole) - {"logit_scale"}:
        assert (image if name.startswith("visual.") else text) != "frozen", name
    assert_close(run(chunk_size=9).encoder, whole)
    checkpoints = Checkpoints(tmp_path / "states", steps=1)
    with pytest.raises(Stop) if trainable != "none" else nullcontext():
        run(checkpoints=checkpoints, on_step=stop_after(2))
    resumed = run(checkpoints=checkpoints)
    assert resumed.resumed_from == (0 if trainable == "none" else 1)
    assert not moved(whole, resumed.encoder)


# -- computed once ---------------------------------------------------------------------------------


def run_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let frozen encoders run in every step, as if nothing were kept."""
    from mmpoison.training.feed import _FeedSide

    def no_table(*_: Any) -> None: ...

    def encode(side: Any, loaded: Tensor, student: DualEncoder) -> Tensor:
        trunk, head = (
            (side.inputs.image_trunk, student.image_head)
            if side.side == "image"
            else (side.inputs.text_trunk, student.text_head)
        )
        return torch.as_tensor(head(trunk(student, loaded)))

    monkeypatch.setattr(_FeedSide, "compute_table", no_table)
    monkeypatch.setattr(_FeedSide, "encode", encode)


@pytest.mark.parametrize("trainable", ["image", "text", "heads", "text-head"])
@pytest.mark.parametrize("kind", ["clip", "towers"])
def test_the_same_numbers_as_running_it_in_every_step(
    make_encoder: Make,
    make_heads_encoder: Make,
    vit_config: dict[str, Any],
    squares: PairDataset,
    tune: Tune,
    trainable: str,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = make_encoder(0, vit_config) if kind == "clip" else make_heads_encoder()
    inputs = prepare_pixels(encoder, squares)
    # a plain step, whose size follows the gradient: AdamW would blow up the rounding of tiny ones
    run = partial(tune, encoder, prepared=inputs, trainable=trainable, max_steps=4, eps=1e-2)
    once = run()
    run_every_step(monkeypatch)
    every = run()
    assert_close(once.encoder, every.encoder)
    assert once.epochs[0]["loss"] == pytest.approx(every.epochs[0]["loss"], rel=1e-6)


def test_outputs_of_a_whole_set_are_found_again(
    make_encoder: Make,
    vit_config: dict[str, Any],
    inputs: PixelInputs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = make_encoder(0, vit_config)
    computed: list[int] = []
    compute = frozen_module._in_batches

    def watched(*arguments: Any) -> Tensor:
        computed.append(len(arguments[2]))
        return compute(*arguments)

    monkeypatch.setattr(frozen_module, "_in_batches", watched)

    def outputs(model: DualEncoder, rows: Any, side: Any = "image", head: bool = True) -> Tensor:
        return frozen_outputs(model, inputs, np.asarray(rows), side, head=head, cache=tmp_path)

    first = outputs(encoder, range(10))
    assert torch.equal(outputs(encoder, range(10)), first)
    assert computed == [10]
    # a copy is the same encoder; other weights, the other side, and features before the head are not
    assert torch.equal(outputs(encoder.copy("copy"), range(10)), first)
    assert computed == [10]
    outputs(make_encoder(1, vit_config), range(10))
    outputs(encoder, range(10), "text")
    outputs(encoder, range(10), head=False)
    assert computed == [10] * 4
    with torch.no_grad():
        encoder.image_head_parameters()[0].add_(0.1)
    outputs(encoder, range(10), head=False)
    assert computed == [10] * 4
    outputs(encoder, range(10))
    assert computed == [10] * 5
    # another number of threads may give other last bits
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    outputs(encoder, range(10))
    assert computed == [10] * 6
    # what is broken in the cache is computed again
    for path in tmp_path.rglob("*.npz"):
        path.write_bytes(b"broken")
    with pytest.warns(MmpoisonWarning, match="is damaged, so it is computed again"):
        outputs(encoder, range(10))
    assert computed == [10] * 7


@pytest.mark.parametrize("side", ["image", "text"])
def test_what_the_cache_holds_never_changes_a_bit(
    make_encoder: Make, vit_config: dict[str, Any], inputs: PixelInputs, tmp_path: Path, side: Any
) -> None:
    encoder = make_encoder(0, vit_config)
    for rows in (range(10), range(5, 15), range(15), [3], range(9, -1, -1)):
        chosen = np.asarray(rows)
        alone = frozen_outputs(encoder, inputs, chosen, side, head=True, cache=None)
        kept = frozen_outputs(encoder, inputs, chosen, side, head=True, cache=tmp_path)
        assert torch.equal(kept, alone)
