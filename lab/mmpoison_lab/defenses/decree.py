"""Checks a model for a backdoor trigger: searches for the smallest patch that makes all image embeddings alike.

A backdoored model maps every image with the trigger to the same embedding, so a small patch makes its embeddings alike.
In a clean model the patch must cover nearly the whole image. Poison without a trigger leaves no such patch, and this
check does not detect it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mmpoison.base import Progress, ProgressFor, fast_gradients, generator, options, torch_seed
from mmpoison.defenses import DEFENSES, CheckResult, DefenseKind
from mmpoison.errors import InputError
from mmpoison.evaluation import TestSet
from mmpoison.images import Pixels, PixelStore
from mmpoison.models import DualEncoder, PairInputs, PixelInputs, embed_pixels

BATCH = 32
MOST_STEPS = 1_000_000
MOST_IMAGES = 1_000_000
FEWEST_IMAGES = 8

PUBLISHED_LIMIT = 0.1
"""Mask norm below which the paper calls an encoder backdoored (its PL1 norm)."""

LEAST_SPREAD = 0.25
"""Minimum standard deviation of log(mask norm) between clean models. Assumed, not measured on many clean models."""

RATES = ((0.4, 0.5), (0.7, 0.1), (1.0, 0.05))
"""Adam's learning rate up to each share of the steps: the release's values at its epochs 200, 500 and 1,000."""

BETAS = (0.5, 0.9)
PATIENCE = 5
FACTOR = 5.0
WEIGHTS = (1e-3, 1e5)
"""Limits of the mask norm's weight.

It starts at 1 and changes by `FACTOR` after more than `PATIENCE` consecutive steps with alike embeddings (up) or
without (down).
"""


@dataclass(frozen=True)
class Trigger:
    """The smallest patch found for one model.

    Attributes:
        norm: L1 norm of its mask, as a share of the largest possible norm, in (0, 1]; 1 if no patch was found.
        cosine: Mean pairwise cosine of all image embeddings under the patch, in [-1, 1].
        cosine_without: The same without the patch.
    """

    norm: float
    cosine: float
    cosine_without: float

    def to_json(self) -> dict[str, float]:
        """Return plain values for a file."""
        return {name: round(value, 4) for name, value in vars(self).items()}


@dataclass(frozen=True)
class TriggerFinding:
    """The suspect's patch compared with those of clean models.

    Attributes:
        suspect: Mask norm of the suspect, in (0, 1].
        expected: Geometric mean of the clean models' norms; the published limit without clean models.
        p_value: Probability that a clean model has a norm this small, in [0, 1].
        null: What it was compared with.
    """

    suspect: float
    expected: float
    p_value: float
    null: str

    def __str__(self) -> str:
        compared = {
            "published limit": "the paper's limit for a backdoor is",
            "assumed spread": "the reference needs",
        }.get(self.null, "clean models need")
        return (
            f"a patch of {100 * self.suspect:.3g}% of the image makes the embeddings of all images alike; {compared} "
            f"{100 * self.expected:.3g}% (p = {self.p_value:.1g})"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a file."""
        return {
            "mask_percent": round(100 * self.suspect, 2),
            "expected_percent": round(100 * self.expected, 2),
            "p_value": self.p_value,
        }


@DEFENSES.register("decree")
@options
class Decree:
    """Find backdoored image encoders by inverting the trigger (DECREE).

    One mask and one pattern for all images are optimised until the mean pairwise cosine of the embeddings is at least
    `similarity`, with the smallest L1 norm of the mask. The suspect's norm is compared with those of the reference and
    of clean fine-tunes, if given, by Student's t on the logarithm. A single clean model has no spread, so
    `LEAST_SPREAD` is assumed. Without clean models the paper's limit decides (a mask norm of 0.1); the p-value is then
    0 or 1 and not a probability.

    The paper optimises for up to 1,000 epochs; here the limit is a number of steps. The release scales the norm's
    weight by the number of pixels; here the norm is a share, so one weight suits all image sizes.
    """

    name: ClassVar[str] = "decree"
    kind: ClassVar[DefenseKind] = "check"
    source: ClassVar[str] = "Feng et al., Detecting Backdoors in Pre-trained Encoders, CVPR 2023"
    summary: ClassVar[str] = (
        "finds a small patch that makes the embeddings of all images nearly equal"
    )
    parameters: ClassVar[Mapping[str, str]]
    cost: ClassVar[str] = (
        "needs clean test images, and for each model `steps` passes of 32 images; finds triggers only"
    )
    needs_reference: ClassVar[bool] = False
    uses_clean_models: ClassVar[bool] = True

    steps: Annotated[
        int,
        Field(
            ge=1,
            le=MOST_STEPS,
            description="Adam steps for each model; more steps find a smaller patch and take longer",
        ),
    ] = 400
    images: Annotated[
        int,
        Field(
            ge=FEWEST_IMAGES,
            le=MOST_IMAGES,
            description="maximum number of clean test images; more make the patch more general, fewer decode "
            "faster",
        ),
    ] = 256
    similarity: Annotated[
        float,
        Field(
            gt=0,
            lt=1,
            description="mean pairwise cosine at which embeddings count as equal; a lower one needs a "
            "smaller patch, in clean models too",
        ),
    ] = 0.99

    def apply(
        self,
        suspect: DualEncoder,
        test: TestSet,
        inputs: PairInputs,
        *,
        reference: DualEncoder | None = None,
        clean_models: Iterable[DualEncoder] = (),
        seed: int = 0,
        progress: ProgressFor | None = None,
    ) -> CheckResult:
        """Check a suspect; see `ModelCheck`.

        If inputs are cached features of frozen trunks, images are decoded again.
        """
        if len(test.gallery) < FEWEST_IMAGES:
            raise InputError(
                f"check 'decree' needs at least {FEWEST_IMAGES} test images, but the data have {len(test.gallery)}"
            )
        chosen = generator(seed, "decree/images").permutation(test.gallery)[: self.images]
        chosen = np.sort(chosen)
        if isinstance(inputs, PixelInputs):
            pixels = inputs.pixels.pixels[inputs.image_rows(chosen)]
        else:
            store = PixelStore.decode(test.pairs, suspect.preparation, indices=chosen)
            pixels = store.pixels[store.position[chosen]]

        def trigger_of(encoder: DualEncoder, what: str) -> Trigger:
            return invert_trigger(
                encoder,
                pixels,
                steps=self.steps,
                similarity=self.similarity,
                seed=seed,
                progress=progress(f"inverting a trigger of {what}") if progress else None,
            )

        found = {"suspect": trigger_of(suspect, "the suspect")}
        if reference is not None:
            found["reference"] = trigger_of(reference, "the reference")
        for number, encoder in enumerate(clean_models, start=1):
            found[f"clean {number}"] = trigger_of(encoder, f"clean model {number}")
        norms = {name: trigger.norm for name, trigger in found.items()}
        finding = compare_norms(norms.pop("suspect"), [*norms.values()])
        notes = {
            "published limit": (
                f"no clean model was given (--reference), so the paper's limit applies, {100 * PUBLISHED_LIMIT:g}% of "
                "the image: p is 0 below and 1 above it, not a probability",
            ),
            "assumed spread": (
                "one clean model does not show how much clean models differ, so a spread of "
                f"{LEAST_SPREAD:g} of the log is assumed; clean fine-tunes (--clean, --clean-runs) measure it",
            ),
        }
        return CheckResult(
            (finding,),
            {
                "null": finding.null,
                "images": len(chosen),
                "triggers": {name: trigger.to_json() for name, trigger in found.items()},
            },
            notes.get(finding.null, ()),
        )


def mean_cosine(embeddings: Tensor) -> Tensor:
    """Compute the mean cosine over all pairs of different rows.

    Args:
        embeddings: Unit rows, shape `(n, d)`, n at least 2.

    Returns:
        A scalar: (|sum of rows|^2 - n) / (n (n - 1)).
    """
    count = len(embeddings)
    return (embeddings.sum(dim=0).square().sum() - count) / (count * (count - 1))


@fast_gradients()
def invert_trigger(
    encoder: DualEncoder,
    pixels: Pixels,
    *,
    steps: int,
    similarity: float,
    seed: int,
    progress: Progress | None = None,
) -> Trigger:
    """Search for the smallest patch that makes image embeddings alike.

    Minimises -cosine + weight x norm. Here cosine is the mean pairwise cosine of the embeddings of a batch of `(1 -
    mask) image + mask pattern`, and norm is the mean of the mask. Mask (one value per pixel) and pattern are `(1 +
    tanh) / 2` of Adam's parameters.

    Args:
        encoder: The model, which is not changed.
        pixels: Clean images, RGB as `encoder.preparation` makes them, shape `(n, size, size, 3)`.
        steps: Steps of Adam.
        similarity: Mean pairwise cosine from which embeddings count as alike.
        seed: Seed for the initial patch and the batches.
        progress: Called with (done, total).
    """
    device = encoder.device
    still = encoder.copy()
    still.module.eval().requires_grad_(False)
    random = torch.Generator().manual_seed(torch_seed(seed, "decree/start"))
    side = pixels.shape[1]
    # uniform in (0, 1) after the tanh
    start = torch.rand(side, side, 4, generator=random).mul(2).sub(1).mul(1 - 1e-6).atanh()
    free = start.to(device).requires_grad_()
    optimizer = torch.optim.Adam([free], betas=BETAS)
    order = generator(seed, "decree/batches")
    queue: list[int] = []
    size = min(BATCH, len(pixels))
    weight, above, below = 1.0, 0, 0
    best: Tensor | None = None
    smallest = math.inf
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = next(rate for share, rate in RATES if step < share * steps)
        if len(queue) < size:
            queue = order.permutation(len(pixels)).tolist()
        rows, queue = queue[:size], queue[size:]
        patch = free.tanh().add(1).div(2)
        cosine = mean_cosine(_embed_patched(still, pixels[rows], patch))
        norm = patch[..., 0].mean()
        alike = float(cosine.detach()) >= similarity
        if alike and float(norm.detach()) < smallest:
            best, smallest = patch.detach().clone(), float(norm.detach())
        optimizer.zero_grad()
        torch.autograd.backward(weight * norm - cosine)
        optimizer.step()
        above, below = (above + 1, 0) if alike else (0, below + 1)
        if above > PATIENCE:
            weight, above = min(weight * FACTOR, WEIGHTS[1]), 0
        elif below > PATIENCE:
            weight, below = max(weight / FACTOR, WEIGHTS[0]), 0
        if progress is not None:
            progress(step + 1, steps)
    without = float(mean_cosine(torch.from_numpy(embed_pixels(still, pixels))))
    if best is None:
        return Trigger(1.0, without, without)
    with torch.no_grad():
        parts = [
            _embed_patched(still, pixels[first : first + BATCH], best).cpu()
            for first in range(0, len(pixels), BATCH)
        ]
    return Trigger(smallest, float(mean_cosine(torch.cat(parts))), without)


def compare_norms(suspect: float, clean: Sequence[float]) -> TriggerFinding:
    """Compare a mask norm with those of clean models.

    With m clean models and normally distributed log norms, t = (log suspect - mean) / (s sqrt(1 + 1/m)) follows
    Student's t with m - 1 degrees of freedom, where s is their standard deviation, at least `LEAST_SPREAD`.

    Args:
        suspect: The suspect's norm, in (0, 1].
        clean: The clean models' norms, each in (0, 1]; may be empty.
    """
    if not clean:
        p_value = float(suspect >= PUBLISHED_LIMIT)
        return TriggerFinding(suspect, PUBLISHED_LIMIT, p_value, "published limit")
    from scipy.special import ndtr, stdtr

    logs = np.log(clean)
    spread = LEAST_SPREAD if len(logs) < 2 else max(float(logs.std(ddof=1)), LEAST_SPREAD)
    away = (math.log(suspect) - float(logs.mean())) / (spread * math.sqrt(1 + 1 / len(logs)))
    chance = float(ndtr(away) if len(logs) < 2 else stdtr(len(logs) - 1, away))
    null = "assumed spread" if len(logs) < 2 else "clean models"
    return TriggerFinding(suspect, float(np.exp(logs.mean())), chance, null)


def _embed_patched(encoder: DualEncoder, pixels: Pixels, patch: Tensor) -> Tensor:
    """Embed images under a patch: mask in the first channel, pattern in the others, each in [0, 1]."""
    images = torch.from_numpy(pixels).to(patch.device).float()
    mask = patch[..., :1]
    # in the range of pixels; `image_input` may overwrite what it is given
    return encoder.encode_image(
        encoder.image_input((1 - mask) * images + mask * 255 * patch[..., 1:])
    )
