"""Fine-tuning: what trains and what does not, the same numbers from the same seed, and honest failures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.conftest import QUICK, Make, Tune, moved, state

from mmpoison.datasets import PairDataset
from mmpoison.errors import InputError
from mmpoison.models import PixelInputs, prepare_pixels
from mmpoison.training import Step, chain_callbacks, finetune
from mmpoison.training.settings import autocast, has_bf16

# -- what trains -----------------------------------------------------------------------------------


@pytest.mark.parametrize("trainable", ["both", "image", "text"])
@pytest.mark.parametrize("kind", ["CLIP", "CustomTextCLIP"])
def test_a_frozen_encoder_is_frozen_whole(
    make_encoder: Make,
    vit_config: dict[str, Any],
    tune: Tune,
    trainable: str,
    kind: str,
) -> None:
    """Every weight and every statistic of the frozen side stays; every weight of the other side moves."""
    encoder = make_encoder(1, None if kind == "CLIP" else vit_config)
    changed = moved(encoder, tune(encoder, trainable=trainable, weight_decay=0.1).encoder)
    image = {name for name in state(encoder) if name.startswith("visual.")}
    # num_batches_tracked and the statistics of a trained BatchNorm move too
    sides = {"image": image, "text": state(encoder).keys() - image - {"logit_scale"}}
    expected = [names for side, names in sides.items() if trainable in (side, "both")]
    assert changed == {"logit_scale"}.union(*expected)


def test_the_encoder_given_is_left_alone(
    make_encoder: Make, train: PairDataset, inputs: PixelInputs
) -> None:
    encoder = make_encoder()
    before = state(encoder)
    result = finetune(encoder, train, inputs, QUICK, seed=0, name="student")
    assert all(torch.equal(value, before[name]) for name, value in state(encoder).items())
    assert not encoder.module.training
    assert (encoder.name, result.encoder.name) == ("tiny-0", "student")
    # what comes back is ready to embed and ready to be trained again
    assert not result.encoder.module.training
    assert all(p.requires_grad for p in result.encoder.module.parameters())


def test_matrices_decay_and_vectors_do_not(make_encoder: Make, tune: Tune) -> None:
    """AdamW's first step with and without decay differs by learning rate x decay x weight."""
    encoder = make_encoder()
    without = state(tune(encoder, max_steps=1, weight_decay=0.0).encoder)
    with_decay = state(tune(encoder, max_steps=1, weight_decay=0.5).encoder)
    for name, parameter in encoder.module.named_parameters():
        expected = 1e-3 * 0.5 * parameter.detach() if parameter.ndim >= 2 else 0 * parameter
        torch.testing.assert_close(
            without[name] - with_decay[name], expected.detach(), atol=1e-6, rtol=1e-3, msg=name
        )


def test_the_temperature_is_clamped(make_encoder: Make, tune: Tune) -> None:
    encoder = make_encoder()
    assert encoder.logit_scale.exp().item() == pytest.approx(1 / 0.07, rel=1e-5)
    scales: list[float] = []
    result = tune(
        encoder,
        max_logit_scale=5.0,
        on_step=lambda _, student: scales.append(student.logit_scale.exp().item()),
    )
    assert max(scales) <= 5 * (1 + 1e-6)
    assert result.encoder.logit_scale.exp().item() <= 5 * (1 + 1e-6)


# -- seeds -----------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits(tune: Tune) -> None:
    torch.manual_seed(1)
    one = tune(seed=3)
    torch.manual_seed(2)
    np.random.seed(5)  # noqa: NPY002
    two = tune(seed=3)
    assert not moved(one.encoder, two.encoder)
    assert one.epochs[0]["loss"] == two.epochs[0]["loss"]
    assert moved(one.encoder, tune(seed=4).encoder)


def test_the_callers_random_numbers_are_not_touched(tune: Tune) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    tune(seed=3)
    assert torch.equal(torch.rand(3), expected)


# -- steps -----------------------------------------------------------------------------------------


def test_steps_are_reported(tune: Tune) -> None:
    steps: list[Step] = []
    result = tune(epochs=2, on_step=lambda step, _: steps.append(step))
    # 140 pairs in batches of 32
    assert [s.step for s in steps] == list(range(1, 11))
    assert {s.steps for s in steps} == {10}
    assert [s.epoch for s in steps] == [0] * 5 + [1] * 5
    assert all(s.pairs_per_second > 0 and math.isfinite(s.loss) for s in steps)
    assert result.steps == 10
    assert len(result.epochs) == 2
    assert result.epochs[0]["loss"] == pytest.approx(np.mean([s.loss for s in steps[:5]]))
    assert result.epochs[1]["learning_rate"] == steps[-1].learning_rate
    assert result.summary()["precision"] == "fp32"


@pytest.mark.parametrize(("pairs", "batch", "steps"), [(33, 32, 1), (34, 32, 2), (64, 32, 2)])
def test_a_last_batch_of_one_pair_is_left_out(
    train: PairDataset, tune: Tune, pairs: int, batch: int, steps: int
) -> None:
    part = train.where(np.arange(len(train)) < pairs)
    assert tune(None, part, batch_size=batch).steps == steps


@pytest.mark.parametrize(("max_steps", "epochs"), [(7, 2), (99, 2)])
def test_max_steps(tune: Tune, max_steps: int, epochs: int) -> None:
    result = tune(epochs=2, max_steps=max_steps)
    assert result.steps == min(max_steps, 10)
    assert len(result.epochs) == epochs


@pytest.mark.parametrize("stop", [5, 7])
def test_a_callback_ends_it(tune: Tune, stop: int) -> None:
    result = tune(epochs=2, on_step=lambda step, _: step.step == stop)
    assert result.steps == stop
    assert len(result.epochs) == (1 if stop <= 5 else 2)
    cut = tune(epochs=2, max_steps=stop)
    assert not moved(result.encoder, cut.encoder)
    assert result.epochs[-1]["loss"] == cut.epochs[-1]["loss"]


def test_all_are_called_in_order_and_one_may_end_it() -> None:
    called: list[str] = []

    def callback(name: str, ends: bool | None) -> Any:
        def callback(step: Step, encoder: Any) -> bool | None:
            called.append(name)
            return ends

        return callback

    model: Any = object()
    step = Step(1, 2, 0, 0.5, 1e-3, 10.0)
    assert chain_callbacks(callback("a", True), None, callback("b", None))(step, model) is True
    assert chain_callbacks(callback("c", None), callback("d", False))(step, model) is False
    assert called == ["a", "b", "c", "d"]


# -- precision -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hardware", "precision"), [(True, "bf16"), (False, "fp32")])
def test_bf16_only_where_the_gpu_has_it(
    monkeypatch: pytest.MonkeyPatch, hardware: bool, precision: str
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or hardware

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    gpu = torch.device("cuda", 0)
    assert has_bf16(gpu) is hardware
    assert autocast(gpu, "auto")[1] == precision
    assert autocast(gpu, "fp16")[1] == "fp16"


def first_scale(monkeypatch: pytest.MonkeyPatch, scale: float) -> None:
    scaler = torch.amp.GradScaler

    def made(device: str, enabled: bool) -> torch.amp.GradScaler:
        return scaler(device, init_scale=scale, enabled=enabled)

    monkeypatch.setattr(torch.amp, "GradScaler", made)


def test_fp16_takes_the_steps_that_32_bit_takes(
    make_encoder: Make, tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients are scaled, and scaled back before the step."""
    first_scale(monkeypatch, 2.0**8)  # at the usual one this model's first steps overflow
    exact = tune(max_steps=3, eps=1e-2)
    rough = tune(max_steps=3, eps=1e-2, precision="fp16")
    assert rough.precision == "fp16"
    assert {p.dtype for p in rough.encoder.module.parameters()} == {torch.float32}
    assert rough.epochs[0]["loss"] == pytest.approx(exact.epochs[0]["loss"], rel=1e-2)
    start, ours, theirs = (
        torch.cat([p.detach().flatten() for p in encoder.module.parameters()])
        for encoder in (make_encoder(), rough.encoder, exact.encoder)
    )
    # gradients that were not scaled back would be another movement altogether
    assert (ours - theirs).norm() < 0.25 * (theirs - start).norm()


def test_a_gradient_too_large_for_fp16_is_passed_over(
    make_encoder: Make, tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that overflows changes nothing."""
    first_scale(monkeypatch, 2.0**40)
    encoder = make_encoder()
    result = tune(encoder, precision="fp16", max_steps=1)
    parameters = dict(result.encoder.module.named_parameters())
    for name, parameter in encoder.module.named_parameters():
        assert torch.equal(parameter, parameters[name]), name


# -- pairs that no step sees -------------------------------------------------------------------------


def test_what_is_skipped_has_no_effect(
    make_encoder: Make, squares: PairDataset, train: PairDataset, inputs: PixelInputs
) -> None:
    skip = np.arange(len(train)) % 7 == 3
    other = PairDataset.build(
        train.images, np.where(skip, "never seen", train.captions), train.image
    )
    both = prepare_pixels(make_encoder(), other), inputs
    results = [
        finetune(make_encoder(), pairs, prepared, QUICK, seed=0, skip=skip)
        for pairs, prepared in zip((other, train), both, strict=True)
    ]
    assert not moved(results[0].encoder, results[1].encoder)
    whole = finetune(make_encoder(), train, inputs, QUICK, seed=0)
    assert moved(results[1].encoder, whole.encoder)
    with pytest.raises(InputError, match="1 training pairs: a contrastive batch needs at least 2"):
        finetune(make_encoder(), train, inputs, QUICK, seed=0, skip=np.arange(len(train)) > 0)
