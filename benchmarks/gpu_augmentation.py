"""Both views of a batch on one GPU: from decoded photos to the model's input, beside torchvision's and kornia's.

Part of `benchmarks/gpu.py`. Same transforms with the same probabilities for all; ours are cut and coloured by the
parameters that the CPU would take, so their pixels can be compared with the CPU's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2

from benchmarks.gpu_step import Sizes, free, seconds_each
from vicreg.config import DataConfig, ViewConfig, each_view, official_views
from vicreg.data.batches import Drawn, Sampling, crop_on_device
from vicreg.views.augment import augment

ALONE = 64
"""Photos that torchvision's transforms, which draw once for a whole batch, are given one by one."""
BLUR_PX = 13
"""Side of the others' blur kernels: three standard deviations of the widest, as ours."""


def draw(sizes: Sizes, batch: int) -> Drawn:
    """Parameters of both views for a batch of square photos."""
    sides = np.full(batch, sizes.photo_px, np.int64)
    sampling = Sampling(np.arange(batch), each_view(official_views(), sizes.image_px), 0, batch)
    return next(sampling.draw(0, sampling.places(0), sides, sides))


def ours(photos: Tensor, drawn: Drawn, sizes: Sizes) -> list[Tensor]:
    """Both views, float32 and normalised, of uint8 photos (B, 3, H, W) on any device."""
    views = crop_on_device(photos, drawn, "bicubic")
    colours = [plan.to(photos.device, non_blocking=True) for plan in drawn.colour]
    return [
        augment(view, plan, DataConfig.mean, DataConfig.std).contiguous(memory_format=torch.channels_last)
        for view, plan in zip(views, colours, strict=True)
    ]


def torchvision_view(view: ViewConfig, sizes: Sizes) -> Callable[[Tensor], Tensor]:
    """One view of a photo, or of several with the same parameters."""
    crop = v2.RandomResizedCrop(
        sizes.image_px, view.crop_scale, interpolation=InterpolationMode.BICUBIC, antialias=True
    )
    jitter = v2.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)
    composed: Callable[[Tensor], Tensor] = v2.Compose(
        [
            crop,
            v2.RandomHorizontalFlip(view.hflip_p),
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomApply([jitter], view.jitter_p),
            v2.RandomGrayscale(view.grayscale_p),
            v2.RandomApply([v2.GaussianBlur(BLUR_PX, view.blur_sigma_px)], view.blur_p),
            v2.RandomSolarize(0.5, view.solarize_p),
            v2.Normalize(DataConfig.mean, DataConfig.std),
        ]
    )
    return composed


def kornia_view(view: ViewConfig, sizes: Sizes) -> Callable[[Tensor], Tensor]:
    """One view of a batch, with parameters for each photo; ImportError where kornia is not installed."""
    from kornia import augmentation as kornia

    side, blur = (sizes.image_px, sizes.image_px), (BLUR_PX, BLUR_PX)
    layers: Any = nn.Sequential(
        kornia.RandomResizedCrop(side, view.crop_scale, view.crop_ratio, resample="BICUBIC", cropping_mode="resample"),
        kornia.RandomHorizontalFlip(p=view.hflip_p),
        kornia.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue, p=view.jitter_p),
        kornia.RandomGrayscale(p=view.grayscale_p),
        kornia.RandomGaussianBlur(blur, view.blur_sigma_px, p=view.blur_p),
        kornia.RandomSolarize(p=view.solarize_p),
        kornia.Normalize(torch.tensor(DataConfig.mean), torch.tensor(DataConfig.std)),
    )
    return lambda photos: layers(photos.float() / 255)


def measure(sizes: Sizes, batch: int, device: torch.device) -> list[dict[str, Any]]:
    """Seconds for both views of a batch, of each contestant; what cannot run says why."""
    free(device)
    photos = torch.randint(256, (batch, 3, sizes.photo_px, sizes.photo_px), dtype=torch.uint8, device=device)
    drawn = draw(sizes, batch)
    alone = min(ALONE, batch)

    def one_by_one() -> Callable[[], object]:
        views = [torchvision_view(view, sizes) for view in official_views()]
        return lambda: [view(photo) for photo in photos[:alone] for view in views]

    def same_for_all() -> Callable[[], object]:
        views = [torchvision_view(view, sizes) for view in official_views()]
        return lambda: [view(photos) for view in views]

    def by_kornia() -> Callable[[], object]:
        views = [kornia_view(view, sizes) for view in official_views()]
        return lambda: [view(photos) for view in views]

    contestants: dict[str, tuple[Callable[[], Callable[[], object]], float]] = {
        "ours": (lambda: lambda: ours(photos, drawn, sizes), 1),
        f"torchvision v2, photo by photo (of {alone})": (one_by_one, batch / alone),
        "torchvision v2, one draw for the batch": (same_for_all, 1),
        "kornia": (by_kornia, 1),
    }
    rows: list[dict[str, Any]] = []
    for name, (build, times) in contestants.items():
        try:
            rows.append({"name": name, "seconds": times * seconds_each(build(), max(2, sizes.rounds // 3), device)})
        except ImportError:
            rows.append({"name": name, "missing": "not installed"})
        except Exception as error:  # the others are measured all the same, and the command fails in the end
            rows.append({"name": name, "failed": f"{type(error).__name__}: {error}".splitlines()[0]})
        free(device)
    return rows


def difference_from_cpu(sizes: Sizes, device: torch.device, num: int = 16) -> tuple[float, float]:
    """Largest and mean difference of our views on the device from those on the CPU, in 255ths before normalising."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((num, 3, sizes.photo_px // 8, sizes.photo_px // 8), generator=generator)
    side = (sizes.photo_px, sizes.photo_px)
    photos = nn.functional.interpolate(coarse, side, mode="bicubic").clamp(0, 1).mul(255).to(torch.uint8)
    drawn = draw(sizes, num)
    there, here = (ours(photos.to(place), drawn, sizes) for place in (device, torch.device("cpu")))
    std = torch.tensor(DataConfig.std).view(3, 1, 1) * 255
    apart = torch.stack([(a.cpu() - b).abs() * std for a, b in zip(there, here, strict=True)])
    return float(apart.max()), float(apart.mean())
