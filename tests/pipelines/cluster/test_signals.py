import pytest

from pipelines.cluster.signals import Killed, in_thread


@pytest.mark.parametrize("error", [ValueError("a"), SystemExit(3), KeyboardInterrupt(), Killed()])
def test_whatever_ends_the_thread_is_raised_where_it_is_waited_for(error):
    def function():
        raise error

    with pytest.raises(type(error)) as caught:
        in_thread(function)
    assert caught.value is error
