"""The gate, on a real MLflow store."""

import pytest

from pipelines.tracking.gate import promote
from pipelines.tracking.runs import connect, experiment_id


@pytest.mark.slow
def test_the_gate():
    client = connect()
    client.create_registered_model("gate")
    run = client.create_run(experiment_id(client)).info.run_id
    versions = [client.create_model_version("gate", "file:///nowhere", run) for _ in range(5)]

    def gate(number, digest, ap):
        return promote(client, versions[number - 1], digest, ap)

    def champion():
        return int(client.get_model_version_by_alias("gate", "champion").version)

    assert gate(1, "test-a", None) == (
        False,
        "not promoted: the test split has no boxes to measure on",
    )
    assert gate(1, "test-a", 0.5) == (True, "is the first champion")
    assert gate(1, "test-a", 0.4) == (True, "stays champion")
    assert gate(2, "test-a", 0.3) == (False, "not promoted: champion v1 has AP 0.4000")
    assert champion() == 1
    assert gate(3, "test-a", 0.4) == (True, "replaces champion v1 (AP 0.4)")
    promoted, why = gate(4, "test-b", 0.9)
    assert not promoted
    assert why.startswith("not promoted: champion v3 was measured on another test split (test-a,")
    assert champion() == 3
