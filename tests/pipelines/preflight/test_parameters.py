"""Parameters that cannot work together are refused before anything starts."""

from pipelines.params import load_params
from pipelines.preflight.parameters import cannot_export
from tests.conftest import TINY, write_params


def test_no_file_of_a_network_that_sees_tiles(tmp_path):
    def find(**changes):
        named = {name.replace("__", "."): value for name, value in changes.items()}
        return cannot_export(load_params(write_params(tmp_path / "params.yaml", TINY | named)))

    tile = {"size": [64, 96], "overlap": 0.25}
    assert find(model__tile=tile) is None
    assert find(registry__formats=["torchscript"]) is None
    found = find(registry__formats=["torchscript"], model__tile=tile)
    assert found.state == "error"
    assert found.message == "params.yaml: no torchscript file (registry.formats) sees photographs in tiles (model.tile)"
