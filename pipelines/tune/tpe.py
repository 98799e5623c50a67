"""The search by a model of what was good so far: Optuna's TPE, in rounds.

A round is proposed when all trials before it have ended, from their results in the order of their numbers. So it is a
pure function of these and of the seed: a search that was killed proposes the same again, and so does one whose trials
run side by side, whichever of them ends first.

Source: Bergstra et al., Algorithms for Hyper-Parameter Optimization, NIPS 2011, Sec. 4.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from pipelines.params import ParamsError, Range
from pipelines.tune.ledger import Trial

STARTUP = 8  # trials before the first round: evenly spread ones, as without TPE
ROUND = 4  # trials that do not know the results of each other
TRIES = 100  # proposals for a trial, of which those that cannot be used are passed over


def round_of(known: int) -> tuple[int, int]:
    """The round that trial `known` + 1 belongs to, and how many trials are before that round."""
    number = max(known - STARTUP, 0) // ROUND
    return number, STARTUP + number * ROUND


def propose(
    space: dict[str, Range],
    trials: list[Trial],
    values: Callable[[Trial], dict[str, Any]],
    usable: Callable[[dict[str, Any]], bool],
    count: int,
    seed: int,
) -> list[dict[str, Any]]:
    """The first `count` proposals of the round after these trials, as overrides by dotted names.

    Args:
        space: that is searched.
        trials: all before the round, ended.
        values: a trial's values of the searched parameters.
        usable: whether a trial can be run with these overrides.
        count: at most ROUND.
        seed: of this round.

    Raises:
        ParamsError: hardly any combination can be used.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {name: _distribution(within) for name, within in space.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # multivariate TPE is called experimental
        sampler = optuna.samplers.TPESampler(n_startup_trials=1, multivariate=True, constant_liar=True, seed=seed)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for trial in trials:
            if (point := _point(space, values(trial))) is not None:
                study.add_trial(_observation(trial, point, distributions))
        found: list[dict[str, Any]] = []
        for _ in range(TRIES):
            if len(found) == count:
                return found
            asked = study.ask(distributions)
            overrides = {name: _value(space[name], value) for name, value in asked.params.items()}
            if usable(overrides):
                found.append(overrides)
            else:
                study.tell(asked, state=optuna.trial.TrialState.FAIL)
    raise ParamsError(f"tune.space: of {TRIES} proposals hardly one could be used, {overrides} not; narrow the ranges")


def _distribution(within: Range) -> Any:
    """Optuna's name for a range; a choice is made among positions, for values may be lists."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if within.kind == "choice":
        return CategoricalDistribution(range(len(within.choice)))
    if within.kind == "integer":
        return IntDistribution(*within.ends)
    return FloatDistribution(*within.ends, log=within.kind == "log_uniform")


def _point(space: dict[str, Range], values: dict[str, Any]) -> dict[str, Any] | None:
    """Where values lie in Optuna's terms; None outside the space, as the current parameters may."""
    point = {}
    for name, within in space.items():
        value = values[name]
        if within.kind == "choice":
            if value not in within.choice:
                return None
            point[name] = within.choice.index(value)
        elif isinstance(value, int | float) and within.ends[0] <= value <= within.ends[1]:
            point[name] = value
        else:
            return None
    return point


def _observation(trial: Trial, point: dict[str, Any], distributions: dict[str, Any]) -> Any:
    """A trial that has ended: one that was stopped is worse than any that was not, one that failed the worst."""
    from optuna.trial import TrialState, create_trial

    if trial.state == "finished" and trial.score is not None:
        return create_trial(params=point, distributions=distributions, value=trial.score)
    reached = {len(trial.history): trial.score} if trial.score is not None else {}
    return create_trial(params=point, distributions=distributions, state=TrialState.PRUNED, intermediate_values=reached)


def _value(within: Range, value: Any) -> Any:
    """A proposal in our terms; floats with four digits, so that people can read them."""
    if within.kind == "choice":
        return within.choice[value]
    if within.kind == "integer":
        return value
    low, high = within.ends
    return min(max(float(f"{value:.4g}"), low), high)
