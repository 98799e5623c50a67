"""A search as far as it is known: its trials, and those that follow from their results."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from pipelines.params import Params, TuneParams
from pipelines.recipe.resolve import Recipe
from pipelines.training.order import derive_seed
from pipelines.tune import tpe
from pipelines.tune.ledger import Sweep, Trial
from pipelines.tune.space import trial_params, value_of, why_not


class Search:
    """The trials of a sweep and their parameters."""

    def __init__(self, sweep: Sweep, recipe: Recipe):
        self.sweep, self.recipe = sweep, recipe
        self._params: dict[int, Params] = {}

    @cached_property
    def tune(self) -> TuneParams:
        """How it is searched."""
        return self.recipe.params().tune

    def params_of(self, trial: Trial) -> Params:
        """All parameters of a trial."""
        if trial.number not in self._params:
            self._params[trial.number] = trial_params(self.recipe, trial.overrides, self.tune.epochs)
        return self._params[trial.number]

    def values(self, trial: Trial) -> dict[str, Any]:
        """A trial's values of the searched parameters, by dotted names."""
        return {name: value_of(self.params_of(trial), name) for name in self.tune.space}

    def has_open(self) -> bool:
        """Whether a trial is left to be run; adds the next round where all before it have ended."""
        while not self.sweep.open and (proposals := self._next_round()):
            self.sweep.extend([("search", overrides) for overrides in proposals])
        return bool(self.sweep.open)

    def _next_round(self) -> list[dict[str, Any]]:
        """What the trials before it suggest; empty at the end, and where all trials are known from the beginning."""
        tune, known = self.tune, len(self.sweep.trials)
        if tune.searcher != "tpe" or not tune.space or known >= tune.trials:
            return []
        number, before = tpe.round_of(known)
        proposals = tpe.propose(
            tune.space,
            self.sweep.trials[:before],
            self.values,
            lambda overrides: not why_not(self.recipe, overrides),
            min(tune.trials - before, tpe.ROUND),
            derive_seed(self.recipe.params().seed, number) % 2**32,
        )
        return proposals[known - before :]
