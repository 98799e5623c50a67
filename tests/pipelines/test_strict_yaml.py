import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.strict_yaml import parse_yaml


@settings(max_examples=200)
@given(st.text(alphabet="ab:-[]{}&*!<>|?#%@'\",\n 012.~\t", max_size=40))
def test_any_text_is_plain_or_refused_in_one_line(text):
    try:
        value = parse_yaml(text)
    except ValueError as error:
        value = str(error)
        assert len(value.splitlines()) == 1
    assert isinstance(value, str | int | float | list | dict | None)


def test_a_value_without_a_key():
    with pytest.raises(ValueError, match=r"^datetime\.date\(2024, 5, 17\) is a date; write a number"):
        parse_yaml("2024-05-17")
