import subprocess
import sys
from pathlib import Path

import pytest

# Pages that the kernel has to clear for five steps of a small network in a thread, after five others; once where
# memory is kept, once where it is not. Each time in a process of its own, which finds PyTorch imported.
FAULTS = """
import os, resource, threading
import torch
from ssd.memory import keep_memory
def work():
    network = torch.nn.Sequential(*[torch.nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)])
    for number in range(10):
        if number == 5:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        network(torch.zeros(2, 8, 256, 256)).sum().backward()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, flush=True)
for prepare in (keep_memory, lambda: True):
    if not os.fork():
        assert prepare()
        worker = threading.Thread(target=work)
        worker.start()
        worker.join()
        os._exit(0)
    os.wait()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc's malloc")
def test_freed_memory_is_kept():
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", FAULTS], cwd=root, capture_output=True, text=True, check=True)
    kept, given_back = map(int, done.stdout.split())
    a_tensor = 2 * 8 * 256 * 256 * 4 // 4096
    assert kept < a_tensor < 5 * a_tensor < given_back
