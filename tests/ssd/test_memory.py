import subprocess
import sys
from pathlib import Path

import pytest

# Pages that the kernel has to clear for five steps of a small network in a thread, after ten others.
FAULTS = """
import resource, sys, threading
import torch
from ssd.memory import keep_memory
if sys.argv[1] == "kept":
    assert keep_memory()
def work():
    network = torch.nn.Sequential(*[torch.nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)])
    for number in range(15):
        if number == 10:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        network(torch.zeros(4, 8, 256, 256)).sum().backward()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
worker = threading.Thread(target=work)
worker.start()
worker.join()
"""


def faults(how):
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", FAULTS, how], cwd=root, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc's malloc")
def test_freed_memory_is_kept():
    a_tensor = 4 * 8 * 256 * 256 * 4 // 4096
    assert faults("kept") < a_tensor < 5 * a_tensor < faults("not")
