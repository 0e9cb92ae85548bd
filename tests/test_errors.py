"""What messages tell users to type is what Hydra reads as it was meant."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from tlearn.errors import typed


@pytest.mark.parametrize("value", ["cat", "2750", "null", "NULL", "TRUE", "NaN", "Inf", "a/b.c", "it's", "a b"])
def test_a_typed_value_is_read_as_that_text(value):
    [argument] = shlex.split(typed("key", value))
    [override] = OverridesParser.create().parse_overrides([argument])
    assert str(override.value()) == value
