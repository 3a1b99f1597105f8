"""Which exact form of a method's loss is taken: the one that is asked for, else the one expected to be fastest."""

from __future__ import annotations

from dataclasses import fields, replace

from vicreg import networks
from vicreg.config import PretrainConfig
from vicreg.losses.forms import FormCost, Speeds, cheapest
from vicreg.method import LossCost

AUTO = "auto"


def loss_cost(config: PretrainConfig, ranks: int, size: int = 4) -> LossCost:
    """What the method's loss takes on one of so many ranks."""
    return networks.load(config.method.name).loss_cost(config, ranks, size)


def form_of(config: PretrainConfig, ranks: int, speeds: Speeds) -> str:
    """The form that is taken: `method.form`, where the method has forms and none is left open, or the cheapest."""
    asked: str = getattr(config.method, "form", AUTO)
    return cheapest(loss_cost(config, ranks).forms, ranks, speeds) if asked == AUTO else asked


def form_cost(config: PretrainConfig, ranks: int, speeds: Speeds, size: int = 4) -> FormCost:
    """What the form that is taken costs."""
    return loss_cost(config, ranks, size).forms[form_of(config, ranks, speeds)]


def with_cheapest_form(config: PretrainConfig, ranks: int, speeds: Speeds) -> PretrainConfig:
    """The configuration with the form that is taken, where it leaves a choice open."""
    if "form" not in {field.name for field in fields(config.method)}:
        return config
    changed = {"form": form_of(config, ranks, speeds)}
    return replace(config, method=replace(config.method, **changed))
