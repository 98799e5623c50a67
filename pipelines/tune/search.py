"""A search as far as it is known: its trials, and those that follow from their results."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines.params import Params, TuneParams
from pipelines.recipe.resolve import Recipe
from pipelines.training.order import derive_seed
from pipelines.tune import tpe
from pipelines.tune.ledger import Sweep, Trial
from pipelines.tune.space import trial_params, value_of, why_not
from pipelines.tune.verdict import Verdict, confirm, judge


def repeat_folders(folder: Path, winners: Iterable[int], seeds: int) -> list[Path]:
    """Where the trials with further seeds are kept, by the trial that may win."""
    return [folder.with_name(f"{folder.name}-{number}-seed-{added}") for number in winners for added in range(1, seeds)]


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

    def pending(self) -> tuple[Sweep, int] | None:
        """The sweep whose trials are to be run next, and what is added to their seed; None where all is done."""
        if self.has_open():
            return self.sweep, 0
        return next(((again, added) for added, again in enumerate(self.repeats(), 1) if again.open), None)

    def repeats(self) -> list[Sweep]:
        """The current parameters and the best of the others once more, with each further seed.

        Empty where no trial is better beyond chance with the first seed: the current parameters stay anyway.
        """
        verdict = judge(self.sweep.trials, self.tune.confidence)
        if verdict is None or verdict.winner.number not in verdict.comparisons:
            return []
        planned = [("current parameters", {}), (verdict.winner.origin, verdict.winner.overrides)]
        folders = repeat_folders(self.sweep.folder, [verdict.winner.number], self.tune.seeds)
        return [Sweep(folder, planned, self.sweep.objects) for folder in folders]

    def verdict(self) -> Verdict | None:
        """Who wins, when nothing is pending; None where all failed."""
        verdict, repeats = judge(self.sweep.trials, self.tune.confidence), self.repeats()
        if verdict is None or not repeats:
            return verdict
        return confirm(verdict, [again.trials for again in repeats], self.sweep.baseline, self.tune.confidence)

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
