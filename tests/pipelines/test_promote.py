"""The command that moves the champion by hand, on a real MLflow store."""

import pytest

from pipelines.promote import main
from pipelines.tracking.champion import find_champion
from pipelines.tracking.gate import Verdict, record
from pipelines.tracking.runs import connect, experiment_id
from tests.conftest import write_params


@pytest.fixture
def pears(empty_store, tmp_path, monkeypatch):
    """A project whose registered model is called pears."""
    write_params(tmp_path / "params.yaml", {"registry.name": "pears"})
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["3"], "the gate promotes what `ssd evaluate` measures; .*promote 3 --force --reason"),
        (["3", "--force"], "--force needs a reason"),
        (["3", "--force", "--reason", " "], "--force needs a reason"),
        (["--force", "--reason", "why"], "--force needs a version"),
        (["3", "--back"], "--back takes no version"),
    ],
)
def test_what_does_not_fit_together_is_refused(pears, words, complaint):
    with pytest.raises(SystemExit, match=f"^promote: {complaint}"):
        main(words)


@pytest.mark.slow
def test_by_hand_and_back(pears, capsys):
    with pytest.raises(SystemExit, match=r"^promote: no version of pears at sqlite:.*`dvc repro` registers one"):
        main([])
    client = connect()
    client.create_registered_model("pears")
    run = client.create_run(experiment_id(client)).info.run_id
    first, _ = (client.create_model_version("pears", "file:///nowhere", run) for _ in range(2))

    def said(*words):
        main(words)
        return capsys.readouterr().out.strip()

    assert said("2", "--force", "--reason", "we need one") == "pears v2 is the first champion"
    record(client, first, Verdict(False, "not promoted: AP is lower"))
    with pytest.raises(SystemExit, match=r"^promote: pears has no version 3; there are 2, 1$"):
        main(["3", "--force", "--reason", "why"])
    assert said("v1", "--force", "--reason", "the client's wish") == (
        "pears v1 is the champion in place of v2; `ssd promote --back` goes back"
    )
    assert said("1", "--force", "--reason", "again").startswith("pears v1 was the champion already")
    two, one = said().splitlines()
    assert two.startswith("pears v2: not measured; forced: we need one (")
    assert one.startswith("pears v1 @champion: not promoted: AP is lower; forced: again (")
    assert said("--back", "--reason", "misses small ones") == "pears v2 is the champion again; v1 was taken back"
    assert int(find_champion(client, "pears").version) == 2
    assert "withdrawn: misses small ones (" in said().splitlines()[1]
    with pytest.raises(SystemExit, match=r"^promote: v2 is the first champion of pears: there is none to go back to"):
        main(["--back"])
    assert said("--name", "pears", "1", "--force", "--reason", "x").startswith("pears v1 is the champion in place")


@pytest.mark.slow
def test_a_registry_that_is_away_is_named(pears, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for words in ([], ["--back"], ["1", "--force", "--reason", "why"]):
        with pytest.raises(SystemExit, match=r"^promote: the registry at http://127.0.0.1:9 .*"):
            main(words)
