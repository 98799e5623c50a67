"""The machine and its packages: limits of containers, and what counts as another version. More in doctor/test_quick."""

import pytest

from pipelines.params import load_params
from pipelines.preflight import estimates, machine, packages
from tests.conftest import TINY, write_params
from tests.pipelines.recipe.data import manifest

GIB = 1 << 30


@pytest.mark.parametrize(
    ("files", "at_most"),
    [
        ({"memory.max": "max", "memory.current": "0"}, None),
        ({"memory.max": str(3 * GIB), "memory.current": str(2 * GIB)}, GIB),
        ({"memory.max": "1000", "memory.current": "2000"}, 0),
        ({"memory/memory.limit_in_bytes": str(GIB), "memory/memory.usage_in_bytes": "0"}, GIB),
        ({}, None),
    ],
)
def test_a_container_has_no_more_than_its_limit(tmp_path, files, at_most):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n")
    found = machine.memory_limit(tmp_path)
    assert found > 0 if at_most is None else found <= at_most


def test_flags_of_the_processor(tmp_path):
    (tmp_path / "x86").write_text("processor : 0\nflags\t\t: fpu avx2\n\nprocessor : 1\nflags : other\n")
    (tmp_path / "arm").write_text("processor : 0\nFeatures : fp asimd bf16\n")
    assert machine.cpu_flags(tmp_path / "x86") == {"fpu", "avx2"}
    assert machine.processor(machine.cpu_flags(tmp_path / "arm"), "bf16", "aarch64").state == "ok"
    assert machine.processor(machine.cpu_flags(tmp_path / "none"), "bf16").state == "ok"


@pytest.mark.parametrize(
    ("have", "state"),
    [
        ({"torch": "2.15.0+cpu", "numpy": "2.0"}, "ok"),  # PyTorch's own index adds what it was built for
        ({"numpy": "2.0.0"}, "ok"),  # the same version; torch's absence is its import's business
        ({"torch": "2.14.0", "numpy": "2.0"}, "warning"),
        ({"torch": "2.15.0", "numpy": "2.0", "winonly": "3"}, "ok"),  # of another system
    ],
)
def test_what_counts_as_another_version(have, state):
    lock = "numpy==2.0 \\\n    --hash=sha256:0\ntorch==2.15.0 \\\nwinonly==1.0 ; sys_platform == 'win32' \\\n"
    assert packages.locked(lock, have).state == state


@pytest.mark.parametrize(("source", "side"), [(1.0, 64), (2.0, 128), ("original", 490)])  # √240 000 = 489.9
def test_crops_from_the_photograph_ask_for_its_pixels(tmp_path, source, side):
    params = load_params(
        write_params(tmp_path / "params.yaml", {"model.image_size": [64, 64], "augment.source": source})
    )
    assert estimates.decoded_bytes(params, manifest(10, 5)) == (10 * side**2 + 5 * 64**2) * 3


def test_estimates_grow_with_what_they_are_of(tmp_path):
    def step(**changes):
        params = load_params(write_params(tmp_path / "params.yaml", TINY | changes))
        return estimates.step_bytes(params, 2)

    assert step() < step(**{"train.batch_size": 16}) < step(**{"train.batch_size": 16, "model.image_size": [128, 128]})
    assert step(**{"train.precision": "bf16"}) < step()
    # tiny_fine, 256×256, 32 images in bf16: 928 MiB were measured
    assert 900 << 20 < estimates.step_bytes(load_params(write_params(tmp_path / "params.yaml", {})), 1) < 1100 << 20
