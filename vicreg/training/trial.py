"""Which form of the step is the fastest for this model and size: a short trial on a GPU, kept beside the run.

Compiling and passing all views at once change how long a step takes, by up to a half in either direction, and its last
bits. So nothing is tried where bits are promised: on CPUs, and with the deterministic flag.
"""

from __future__ import annotations

import gc
import json
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

import torch

from border.documents import read_json
from disk.whole_files import write_text
from vicreg.config import PretrainConfig
from vicreg.method import Inputs, Progress, TrainingData
from vicreg.ranks import distributed
from vicreg.training.learner import Learner
from vicreg.training.oversight import Oversight

log = logging.getLogger(__name__)

FILE = "fastest_form.json"
FORMS = {
    "eager": (False, False),
    "all views at once": (False, True),
    "compiled": (True, False),
    "compiled, all views at once": (True, True),
}
"""Whether compiled, and whether all views pass at once."""
WARM_UP_STEPS, TIMED_STEPS = 3, 5
COMPILING_PAYS_S = 600.0
"""A run that would take less is not compiled: trying that takes some minutes itself."""
SETTLED = Progress(1, 10, 1)
NEVER = float("inf")


class Found(TypedDict):
    """What is kept of a trial."""

    of: dict[str, str]
    fastest: str
    step_ms: dict[str, float]


@dataclass(frozen=True)
class Trial:
    """What is tried, and where."""

    config: PretrainConfig
    device: torch.device
    data: TrainingData
    num_steps: int
    """Of the run."""

    @property
    def of(self) -> dict[str, str]:
        """What its outcome holds for."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        return {"device": name, "ranks": str(distributed.world_size()), "torch": torch.__version__}

    def step_ms(self) -> dict[str, float]:
        """Milliseconds of a step of each form that runs here, of the slowest rank, the same on every rank."""
        found: dict[str, float] = {}
        for name, (is_compiled, at_once) in FORMS.items():
            if is_compiled and self.num_steps * min(found.values(), default=NEVER) < 1000 * COMPILING_PAYS_S:
                continue
            if is_compiled:
                log.info("trying whether compiling makes the step faster, which takes a minute or two")
            seconds = self._seconds(is_compiled, at_once)
            if seconds < NEVER:
                found[name] = round(1000 * seconds, 3)
        return found

    def _seconds(self, is_compiled: bool, at_once: bool) -> float:
        """Of a step in a form, the same on every rank; NEVER where it does not run."""
        train = replace(self.config.train, compile=is_compiled, joint_views=at_once)
        try:
            seconds = self._measure(replace(self.config, train=train))
        except Exception as error:  # whatever keeps a form from working: the run does without it
            log.info("a form that does not run here: %s: %s", type(error).__name__, str(error).partition("\n")[0])
            seconds = NEVER
        self._tidy_up(is_compiled)
        return float(distributed.gather_rows(torch.tensor([seconds], dtype=torch.float64)).max())

    def _measure(self, config: PretrainConfig) -> float:
        learner, inputs = self._begun(config)
        start_s = 0.0
        for step in range(WARM_UP_STEPS + TIMED_STEPS):
            if step == WARM_UP_STEPS:
                self._wait()
                start_s = time.perf_counter()
            learner.learn(inputs, SETTLED)
        self._wait()
        return (time.perf_counter() - start_s) / TIMED_STEPS

    def first_step(self, config: PretrainConfig) -> None:
        """One step in the form that the configuration has, for whoever asks how long a start takes."""
        learner, inputs = self._begun(config)
        learner.learn(inputs, SETTLED)
        self._wait()

    def _begun(self, config: PretrainConfig) -> tuple[Learner, Inputs]:
        """A learner, and images that show nothing."""
        rows = config.train.global_batch // distributed.world_size()
        learner = Learner.build(config, self.device, self.data)
        dtype = torch.float64 if learner.dtype == torch.float64 else torch.float32
        channels = config.model.in_channels
        views = [
            torch.randn((rows, channels, view.image_size, view.image_size), device=self.device, dtype=dtype)
            for view in config.each_view
        ]
        if config.train.channels_last:
            views = [view.contiguous(memory_format=torch.channels_last) for view in views]
        places = torch.arange(rows, device=self.device)
        return learner, Inputs(views, places % max(1, self.data.num_classes), places)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _tidy_up(self, was_compiled: bool) -> None:
        gc.collect()
        if was_compiled:
            torch._dynamo.reset()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def is_tried(config: PretrainConfig, device: torch.device) -> bool:
    """Whether the form is left to a trial, and bits may depend on it."""
    train = config.train
    is_open = train.trial == "auto" and not (train.compile or train.joint_views)
    return is_open and device.type == "cuda" and not train.deterministic


def with_fastest_form(
    config: PretrainConfig,
    run: Path,
    device: torch.device,
    data: TrainingData,
    num_steps: int,
    oversight: Oversight | None = None,
) -> PretrainConfig:
    """The configuration with the form of the step that was the fastest here, as the run folder says or as is tried now.

    All ranks call it together and get the same.
    """
    if not is_tried(config, device):
        return config
    trial, names = Trial(config, device, data, num_steps), list(FORMS)
    kept = _read(run / FILE, trial.of) if distributed.rank() == 0 else None
    chosen = distributed.from_rank_0(names.index(kept["fastest"]) if kept else -1)
    if chosen < 0:
        with (oversight or Oversight()).phase("a trial"):
            step_ms = trial.step_ms()
        chosen = names.index(min(step_ms, key=lambda name: step_ms[name]) if step_ms else names[0])
        if distributed.rank() == 0:
            said = ", ".join(f"{name} {ms:,.1f} ms" for name, ms in step_ms.items())
            log.info("a step is the fastest %s (%s)", names[chosen], said)
            found: Found = {"of": trial.of, "fastest": names[chosen], "step_ms": step_ms}
            write_text(run / FILE, json.dumps(found, indent=1) + "\n")
    is_compiled, at_once = FORMS[names[chosen]]
    return replace(config, train=replace(config.train, compile=is_compiled, joint_views=at_once))


def _read(path: Path, of: dict[str, str]) -> Found | None:
    """What an earlier attempt of the run has found on such a machine."""
    try:
        found = read_json(path, Found, "it is tried again")
    except (OSError, ValueError) as error:
        if not isinstance(error, FileNotFoundError):
            log.warning("%s", error)
        return None
    return found if found["of"] == of and found["fastest"] in FORMS else None
