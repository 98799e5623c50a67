"""The gate: its verdicts on numbers that are known, and what they leave in a real MLflow store."""

import numpy as np
import pytest

from pipelines.params import GateParams
from pipelines.tracking.champion import find_champion, go_back
from pipelines.tracking.gate import DIVERGED, STAYS, Comparison, Verdict, compare, decide, record, unfit
from pipelines.tracking.runs import connect, experiment_id

NAN = float("nan")


def comparison(**changes):
    facts = {"candidate": 0.9170, "champion": 0.9090, "low": -0.003, "high": 0.019, "share": 0.83, "visible": 0.024}
    facts |= {"per_class": {"a": 0.01, "b": 0.006}, "images": 72, "resamples": 1000}
    return Comparison(**(facts | changes))


SIDES = "AP 0.9170 against 0.9090 of champion v1"
FORCE = '`ssd promote 2 --force --reason "…"` promotes it all the same'


@pytest.mark.parametrize(
    ("found", "rules", "promoted", "why"),
    [
        (
            comparison(share=0.95, low=0.001),
            {},
            True,
            f"replaces champion v1: {SIDES}, +0.0080 (90 % interval +0.0010 to +0.0190)",
        ),
        (
            comparison(),
            {},
            False,
            f"not promoted: {SIDES}, +0.0080 (90 % interval -0.0030 to +0.0190), which may be luck: above 0 in "
            f"83.0 % of 1000 resamples of 72 images, 95 % are asked for; a gain of 0.024 would be seen in 4 "
            f"of 5 cases. {FORCE}",
        ),
        (
            comparison(champion=0.9270, share=0.04),
            {},
            False,
            "not promoted: AP 0.9170 against 0.9270 of champion v1, -0.0100 (90 % interval -0.0030 to +0.0190)",
        ),
        (
            comparison(share=1.0, low=0.001, per_class={"a": 0.3, "b": -0.11}),
            {},
            False,
            f"not promoted: {SIDES}, +0.0080 (90 % interval +0.0010 to +0.0190), but the class b loses 0.1100 "
            f"(registry.gate.class_drop is 0.1). {FORCE}",
        ),
        (
            comparison(share=0.83, left_out=("c",)),
            {"confidence": 0.8},
            True,
            "replaces champion v1: AP 0.9170 against 0.9090 of champion v1 on the 2 classes that both know, +0.0080 "
            "(60 % interval -0.0030 to +0.0190)",
        ),
        (
            comparison(share=0.0, champion=0.9170),  # the same model
            {},
            False,
            "not promoted: AP 0.9170 against 0.9170 of champion v1, +0.0000 (90 % interval -0.0030 to +0.0190)",
        ),
    ],
)
def test_the_verdict_says_its_numbers(found, rules, promoted, why):
    verdict = decide("2", "1", found, GateParams(**rules))
    assert (verdict.promoted, verdict.why, verdict.comparison) == (promoted, why, found)


def test_a_comparison_by_hand():
    """Gains of 0.1, 0.2, 0.3, 0.0 in the four resamples; class b is in none of two of them, and c nowhere."""
    candidate = np.array([[0.5, 0.7, NAN], [0.5, 0.7, NAN], [0.5, NAN, NAN], [0.6, 0.6, NAN], [0.4, NAN, NAN]])
    champion = np.array([[0.4, 0.6, NAN], [0.5, 0.5, NAN], [0.3, NAN, NAN], [0.3, 0.3, NAN], [0.4, NAN, NAN]])
    nothing = np.full((1, 3), NAN)  # a resample without any ground truth
    found = compare(
        np.concatenate([candidate, nothing]),
        np.concatenate([champion, nothing]),
        ["a", "b", "c"],
        30,
        GateParams(margin=0.05, confidence=0.75),
    )
    assert found.candidate == pytest.approx(0.6)
    assert found.champion == pytest.approx(0.5)
    assert found.per_class == {"a": pytest.approx(0.1), "b": pytest.approx(0.1)}
    assert found.share == 0.75
    assert (found.low, found.high) == (pytest.approx(0.075), pytest.approx(0.225))
    # the sd of the four is √0.0125; 0.674 sd are asked for, 0.842 more make it 4 of 5 cases
    assert found.visible == pytest.approx(0.05 + (0.6745 + 0.8416) * 0.0125**0.5, abs=1e-4)
    assert found.images == 30


@pytest.mark.slow
def test_verdicts_in_the_registry(empty_store):
    client = connect()
    client.create_registered_model("ssd")
    run = client.create_run(experiment_id(client)).info.run_id
    for tags in ({}, {}, {DIVERGED: "the training loss was 3e+22 in epoch 1"}):
        client.create_model_version("ssd", "file:///nowhere", run, tags=tags)
    first, second, third = (client.get_model_version("ssd", number) for number in "123")

    assert unfit(first, 0.4) == ""
    assert unfit(first, None) == unfit(first, NAN) == "the test split has no boxes to measure on"
    assert unfit(first, 0.0).startswith("its AP is 0, nothing right was found")
    assert unfit(third, 0.4) == "its training diverged: the training loss was 3e+22 in epoch 1"

    record(client, first, Verdict(True, "is the first champion"))
    record(client, second, Verdict(False, "not promoted: …", comparison()))
    assert find_champion(client, "ssd").version == first.version
    tags = client.get_model_version("ssd", "2").tags
    assert tags["gate.verdict"] == "not promoted: …"
    assert (tags["gate.difference"], tags["gate.interval"]) == ("+0.0080", "-0.0030 to +0.0190")
    assert (tags["gate.AP"], tags["gate.champion_AP"], tags["gate.images"]) == ("0.9170", "0.9090", "72")

    record(client, second, Verdict(True, "replaces champion v1: …", comparison(share=1.0)))
    assert find_champion(client, "ssd").version == second.version
    record(client, client.get_model_version("ssd", "2"), Verdict(True, STAYS))
    assert client.get_model_version("ssd", "2").tags["gate.verdict"] == "replaces champion v1: …"
    go_back(client, "ssd", "misses small cells")
    withdrawn = unfit(client.get_model_version("ssd", "2"), 0.9)
    assert withdrawn.startswith("it was champion and was taken back: misses small cells (")
    assert withdrawn.endswith(FORCE)
