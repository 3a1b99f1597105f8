"""The end of a run before its last epoch, by the rules of `online.stop_if`: decided once, said in the run folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from disk.whole_files import write_text
from vicreg.config import OnlineConfig
from vicreg.ranks import distributed
from vicreg.stop_rule import EARLY_END_FILE, stop_rules
from vicreg.training.oversight import Oversight

log = logging.getLogger(__name__)


class EarlyEnd:
    """Looks at the rules when their epochs are done; the same answer on every rank."""

    def __init__(self, config: OnlineConfig, run: Path, steps_per_epoch: int, oversight: Oversight) -> None:
        self._run, self._oversight = run, oversight
        rules = stop_rules(config.stop_if, config.every_epochs, config.neighbours)
        self._rules = [(rule.epoch * steps_per_epoch, rule) for rule in rules]
        self.asks = bool(rules) or bool(config.keep_best)
        """Whether anything follows from a measurement."""

    def is_due(self, step: int, measured: Mapping[str, float]) -> bool:
        """Whether the run ends after `step` steps, by what was measured there; all ranks call it together."""
        rules = [rule for at, rule in self._rules if at == step]
        if not rules:
            return False
        reason = next(filter(None, (rule.said_of(measured) for rule in rules)), "")
        if not distributed.from_rank_0(int(bool(reason))):  # rank 0's rounding decides for all
            return False
        if distributed.rank() == 0:
            self._oversight.require_owner()
            write_text(self._run / EARLY_END_FILE, json.dumps({"step": step, "reason": reason}))
            log.info("the run ends here: %s", reason)
        return True
