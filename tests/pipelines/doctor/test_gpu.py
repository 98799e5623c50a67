"""GPUs of a table: what the driver and PyTorch say, and what follows."""

import pytest

from pipelines.doctor.gpu import Device, Facts, examine, gather, has_kernels

GIB = 1 << 30
H100 = Device("NVIDIA H100", (9, 0), 78 * GIB, 79 * GIB)
KERNELS = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
GOOD = Facts("580.65", "13.0", KERNELS, (H100,))


@pytest.mark.parametrize(
    ("facts", "wanted", "precision", "step", "state", "says"),
    [
        (GOOD, None, "bf16", GIB, "ok", "NVIDIA H100, compute capability 9.0; 78.0 of 79.0 GiB free, about 1.0"),
        (GOOD, False, "bf16", 200 * GIB, "ok", "SSD_USE_GPU=0: CPUs are used"),
        (GOOD._replace(devices=(), driver=""), None, "bf16", GIB, "ok", "none: CPUs are used"),
        (GOOD._replace(devices=(), driver=""), True, "bf16", GIB, "error", "SSD_USE_GPU=1, but no GPU"),
        (GOOD, None, "bf16", 100 * GIB, "warning", "lower train.batch_size"),
        (
            GOOD._replace(devices=(H100._replace(free=GIB),)), None, "bf16", 4 * GIB,
            "warning", "1.0 of 79.0 GiB free, about 4.0 for a step; end what else uses it",
        ),
        (
            GOOD._replace(devices=(), driver="470.82", trouble="The NVIDIA driver on your system is too old"),
            None, "bf16", GIB, "warning", "driver 470.82, which PyTorch's CUDA 13.0 cannot use: The NVIDIA driver",
        ),
        (GOOD._replace(devices=(), driver="470.82"), True, "bf16", GIB, "error", "a newer driver"),
        (GOOD._replace(devices=(), cuda=""), None, "bf16", GIB, "warning", "built for CPUs alone; install the one of"),
        (
            GOOD._replace(devices=(H100._replace(name="Tesla K80", capability=(3, 7)),)), None, "fp32", GIB,
            "error", "no kernels for it, only sm_75 sm_80",
        ),
        (
            GOOD._replace(devices=(H100._replace(name="Tesla T4", capability=(7, 5)),)), None, "bf16", GIB,
            "warning", "computes bf16 only slowly; write train.precision: fp16",
        ),
    ],
)  # fmt: skip
def test_what_follows_from_what_there_is(facts, wanted, precision, step, state, says):
    (finding,) = examine(facts, wanted, precision, step)
    assert finding.state == state
    assert says in str(finding)


def test_each_gpu_has_a_line():
    found = list(examine(GOOD._replace(devices=(H100, H100._replace(free=0))), None, "bf16", GIB))
    assert [(finding.check, finding.state) for finding in found] == [("GPU 0", "ok"), ("GPU 1", "warning")]


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((8, 6), ("sm_80",), True),
        ((8, 0), ("sm_86",), False),
        ((9, 0), ("sm_80", "compute_80"), True),
        ((9, 0), ("sm_90a",), True),
        ((12, 0), ("sm_90",), False),
        ((12, 0), ("sm_120",), True),
        ((7, 0), (), True),
    ],
)
def test_kernels_run_on_later_gpus_of_the_same_major_version(capability, architectures, runs):
    assert has_kernels(capability, architectures) == runs


def test_what_this_machine_has_makes_no_trouble():
    assert all(finding.state != "error" for finding in examine(gather(), None, "fp32", GIB))
