"""The search space: which parameters a sweep tries, all known before it starts."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

from torch.quasirandom import SobolEngine

from pipelines.params import Params, ParamsError, Range, TuneParams
from pipelines.recipe.resolve import Recipe
from pipelines.tune import tpe


def sample(space: dict[str, Range], count: int, seed: int) -> list[dict[str, Any]]:
    """The first `count` points of a scrambled Sobol sequence, as overrides by dotted names.

    A pure function of its arguments, and the first points stay where they are when `count` grows: a sweep that was
    killed, or is given more trials, goes on with what it has. For few trials evenly spread points serve best (Bergstra
    and Bengio 2012, Sec. 5: low discrepancy beats random search); for more there is `pipelines.tune.tpe`.
    """
    if not space or count <= 0:
        return []
    points = SobolEngine(len(space), scramble=True, seed=seed).draw(count).tolist()
    return [{name: value_at(within, u) for (name, within), u in zip(space.items(), point)} for point in points]


def value_at(within: Range, u: float) -> Any:
    """The value at the share u, 0 <= u < 1, of a range; floats with four digits, so that people can read them."""
    if within.kind == "choice":
        return within.choice[min(int(u * len(within.choice)), len(within.choice) - 1)]
    low, high = within.ends
    if within.kind == "integer":
        return min(low + int(u * (high - low + 1)), high)
    value = low + u * (high - low) if within.kind == "uniform" else low * (high / low) ** u
    return min(max(float(f"{value:.4g}"), low), high)


def plan(tune: TuneParams, seed: int, proposal: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(origin, overrides) of every trial: the designed anchors, if any; the current parameters; the search.

    Of a search by TPE they are the first ones.
    """
    count = min(tune.trials, tpe.STARTUP) if tune.searcher == "tpe" else tune.trials
    first = [("designed anchors", proposal)] if proposal else []
    first.append(("current parameters", {}))
    searched = sample(tune.space, count - len(first), seed)
    return (first + [("search", overrides) for overrides in searched])[:count]


def trial_params(recipe: Recipe, overrides: dict[str, Any], epochs: int) -> Params:
    """All parameters of a trial: it ends with its last epoch, or by ASHA.

    Warm-up and moving average, where they are `auto`, are shorter with it. All else is as in the training to come.
    """
    whole = recipe.params().train
    share, shorter = epochs / whole.epochs, {}
    if "train.warmup_steps" in recipe.values:
        shorter["train.warmup_steps"] = max(round(whole.warmup_steps * share), 1)
    if "train.ema_decay" in recipe.values:
        shorter["train.ema_decay"] = round(max(1 - (1 - whole.ema_decay) / share, 0.0), 6)
    length = {"train.epochs": epochs, "train.patience": 0, "train.budget_minutes": 0}
    return recipe.params(shorter | overrides | length)


def check_space(recipe: Recipe, tune: TuneParams) -> None:
    """Refuse unknown names and values that cannot be used, before anything starts.

    An end of one range may need others to move with it (scale_min above the current scale_max): it is good if it is
    with the current parameters, with all others at their low ends, or with all others at their high ends.

    Raises:
        ParamsError: naming file, key and value.
    """
    lows, highs = ({name: within.ends[i] for name, within in tune.space.items()} for i in (0, -1))
    for name, within in tune.space.items():
        for value in within.ends:
            problems = [why_not(recipe, others | {name: value}) for others in ({}, lows, highs)]
            if all(problems):
                raise ParamsError(f"{recipe.draft.path}:\n  tune.space: {name} cannot be {value!r}: {problems[0]}")


def check_plan(recipe: Recipe, trials: list[tuple[str, dict[str, Any]]]) -> None:
    """Refuse a combination of values that cannot be used, before anything starts.

    Raises:
        ParamsError: naming the values.
    """
    for origin, overrides in trials:
        if problem := why_not(recipe, overrides):
            said = f"tune.space holds {overrides} ({origin}): {problem}; narrow the ranges"
            raise ParamsError(f"{recipe.draft.path}:\n  {said}")


def why_not(recipe: Recipe, overrides: dict[str, Any]) -> str:
    """Why overrides cannot be used; "" where they can."""
    try:
        recipe.params(overrides)
    except ParamsError as error:
        return str(error).split("\n", 1)[-1].strip()
    return ""


def value_of(params: Params, name: str) -> Any:
    """The value of a dotted name in all parameters, presets filled in; None where it is not set."""
    return reduce(lambda part, key: getattr(part, key, None), name.split("."), params)


def is_number(value: Any) -> bool:
    """Whether a value has a place on an axis."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
