"""Run folders as pretraining leaves them, without the pretraining."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from jobs.planning import recipes
from vicreg.config import PretrainConfig
from vicreg.config_json import to_json
from vicreg.exchange.encoder_file import save_encoder, untrained_encoder
from vicreg.schema import SCHEMA


def digits_config(digits: Path) -> PretrainConfig:
    """The digits recipe at 16 px, on the betons of this folder."""
    config = recipes.recipe("digits").pretrain
    data = replace(
        config.data,
        train=str(digits / "train.beton"),
        val=str(digits / "val.beton"),
        image_size=16,
        eval_resize=16,
    )
    return replace(config, data=data)


def write_run(run: Path, config: PretrainConfig, recipe: str, encoder_seed: int = 7) -> None:
    """A finished run whose encoder has random weights."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.json").write_text(json.dumps({"schema": SCHEMA, "recipe": recipe, "pretrain": to_json(config)}))
    save_encoder(run / "encoder.pt", untrained_encoder(config.model, encoder_seed), config.model, {})
