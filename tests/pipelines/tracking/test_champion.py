"""Who is champion, on a real MLflow store in a temporary folder."""

import re

import pytest

from pipelines.tracking.champion import FORCED, PREVIOUS, WITHDRAWN, crown, find_champion, find_number, force, go_back
from pipelines.tracking.registry import RegistryError
from pipelines.tracking.runs import connect, experiment_id

SIGNED = r" \(\w+, \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00\)"


@pytest.mark.slow
def test_the_crown_passes_on_and_comes_back(empty_store):
    client = connect()
    client.create_registered_model("ssd")
    run = client.create_run(experiment_id(client)).info.run_id
    shas = ("a", "b", "b", "d")
    for sha in shas:
        client.create_model_version("ssd", "file:///nowhere", run, tags={"ssd.sha256": sha * 64})

    def version(number):
        return find_number(client, "ssd", str(number))

    def champion():
        return int(find_champion(client, "ssd").version)

    assert find_champion(client, "ssd") is None
    assert find_champion(client, "pears") is None
    with pytest.raises(RegistryError, match="ssd has no champion to take back"):
        go_back(client, "ssd", "why not")
    with pytest.raises(RegistryError, match="ssd has no version 7; there are 4, 3, 2, 1"):
        find_number(client, "ssd", "7")
    with pytest.raises(RegistryError, match=r"no version of pears at sqlite.*`dvc repro` registers one"):
        find_number(client, "pears", "1")

    assert crown(client, version(1)) is None
    with pytest.raises(RegistryError, match="v1 is the first champion of ssd: there is none to go back to"):
        go_back(client, "ssd", "why not")
    assert crown(client, version("v2")).version == version(1).version
    crown(client, version(3))  # the weights of version 2, registered anew
    assert version(3).tags[PREVIOUS] == "1"
    crown(client, version(3))
    assert version(3).tags[PREVIOUS] == "1"  # nobody comes before himself

    force(client, version(4), " the client's wish ")
    assert champion() == 4
    assert version(4).tags[PREVIOUS] == "3"
    assert re.fullmatch("the client's wish" + SIGNED, version(4).tags[FORCED])

    withdrawn, now = go_back(client, "ssd", "misses small cells")
    assert (int(withdrawn.version), int(now.version), champion()) == (4, 3, 3)
    assert re.fullmatch("misses small cells" + SIGNED, version(4).tags[WITHDRAWN])
    go_back(client, "ssd", "further")
    assert champion() == 1
    force(client, version(4), "after all")
    assert WITHDRAWN not in version(4).tags

    client.delete_model_version("ssd", "1")
    with pytest.raises(RegistryError, match="ssd has no version 1; there are 4, 3, 2"):
        go_back(client, "ssd", "too far")
    assert champion() == 4
