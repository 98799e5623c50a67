import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cluster.signals import Killed, in_thread

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("error", [ValueError("a"), SystemExit(3), KeyboardInterrupt(), Killed()])
def test_whatever_ends_the_thread_is_raised_where_it_is_waited_for(error):
    def function():
        raise error

    with pytest.raises(type(error)) as caught:
        in_thread(function)
    assert caught.value is error


def test_asyncio_loses_no_ctrl_c():
    """As with Python's own handler: asyncio cancels the task, and one that ends all the same hides the ctrl-C."""
    script = """
import asyncio, os, signal
from pipelines.cluster.signals import raise_on_signals
signal.signal(signal.SIGINT, signal.default_int_handler)
raise_on_signals()
async def deaf():
    os.kill(os.getpid(), signal.SIGINT)
    try:
        await asyncio.sleep(5)
    except asyncio.CancelledError:
        pass
try:
    asyncio.run(deaf())
    print("lost")
except KeyboardInterrupt:
    print("heard")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "heard", done.stderr
