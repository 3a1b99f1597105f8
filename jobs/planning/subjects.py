"""What is measured of a run: its trained encoders, its checkpoints, and what these are compared with."""

from __future__ import annotations

from pathlib import Path

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from jobs.planning.recipes import LAST
from vicreg import checkpoint
from vicreg.config import PretrainConfig
from vicreg.evals import features, results
from vicreg.evals.results import PIXELS, RANDOM, SUBJECTS, TRAINED
from vicreg.exchange.encoder_file import encoder_of, load_encoder, untrained_encoder
from vicreg.exchange.pair import pair_of
from vicreg.one_branch import branch
from vicreg.run_files import encoder_path
from vicreg.sound_config import require_images
from vicreg.training.train import CHECKPOINTS


def subjects(run: Path, checkpoints: str) -> list[str]:
    """Trained and what it is compared with, or the run's checkpoints; ValueError where there are none."""
    if checkpoints == LAST:
        return list(SUBJECTS)
    found = [path.name for path in checkpoint.list_checkpoints(run / CHECKPOINTS)]
    if not found:
        raise ValueError(f"{run / CHECKPOINTS} holds no checkpoints; keep more with --train.keep-checkpoints")
    return found if checkpoints == "all" else found[-int(checkpoints) :]


def is_comparable(module: str, subject: str) -> bool:
    """Whether an evaluation says something of a subject: pictures do not, and pixels have no weights, nor captions."""
    return module != "gallery" and not (module in ("semisup", "retrieval") and subject == PIXELS)


def build_encoder(run: Path, subject: str, config: PretrainConfig, encoder: str = "") -> nn.Module:
    """What is measured: the trained encoder or a checkpoint, the same with random weights, or the pixels themselves.

    Of a run on captions, where no other encoder is asked for, both branches, with the first's encoder as what they say.
    """
    if "text" in config.other_kinds and not encoder and subject in (TRAINED, RANDOM):
        newest = checkpoint.list_checkpoints(run / CHECKPOINTS)
        if not newest:
            raise ValueError(f"{run / CHECKPOINTS} is empty, which has both branches; retrieval needs its newest")
        pair = pair_of(newest[-1], config, is_random=subject == RANDOM)
        return open_residuals(pair) if subject == RANDOM else pair
    if "text" in config.other_kinds and not encoder and subject.startswith(results.STEP):
        return pair_of(run / CHECKPOINTS / subject, config)
    if subject.startswith(results.STEP):
        return encoder_of(run / CHECKPOINTS / subject, branch(config.model, encoder), encoder)
    if subject == PIXELS:
        require_images(config.model.sound, "baseline pixels")
        return features.Pixels(config.data.image_size, config.model.in_channels)
    if subject == RANDOM:
        return open_residuals(untrained_encoder(branch(config.model, encoder), config.train.seed))
    return load_encoder(encoder_path(run, encoder))


def open_residuals(encoder: nn.Module) -> nn.Module:
    """The encoder with batch-norm weights of one where training begins with zero.

    Zeros shut the residual branches, and what is left of a random network is far worse than a random network: too easy
    to beat (digits, all labels: 78 instead of 94 %).
    """
    for module in encoder.modules():
        if isinstance(module, _BatchNorm) and module.affine and not module.weight.any():
            nn.init.ones_(module.weight)
    return encoder
