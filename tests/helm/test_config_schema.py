"""The chart takes of `config` what the application takes: the schema is made of the same table of keys."""

from typing import Any

import jsonschema
import pytest

from cluster.cli.tools.config_table import Key, keys
from tests.helm.generators import config_schema
from tests.helm.generators.config_schema import CHART_SETS, FURTHER, SCHEMA, SECTIONS, key_schema
from tests.unit.cli.key_values import inside, outside

OURS = [key for key in keys() if key.name not in CHART_SETS]
WRONG = {"string": 1, "integer": "many", "number": "much", "boolean": "yes"}
each_key = pytest.mark.parametrize("key", OURS, ids=lambda key: key.name)


def taken(key: Key, value: Any) -> bool:
    return jsonschema.Draft7Validator(key_schema(key)).is_valid(value)


def test_the_schema_is_what_the_code_says() -> None:
    assert SCHEMA.read_text() == config_schema.schema_text(), "run: make helm-golden"


def test_it_names_keys_that_exist() -> None:
    known = {key.name for key in keys()}
    assert known >= CHART_SETS
    assert known - CHART_SETS >= FURTHER.keys()
    assert {name.partition(".")[0] for name in known} == SECTIONS.keys()


@each_key
def test_a_wrong_type_is_refused(key: Key) -> None:
    assert not taken(key, WRONG[key.type])
    assert not taken(key, None)


@each_key
def test_a_value_out_of_bounds_is_refused(key: Key) -> None:
    """A number that is none (nan) cannot be written in JSON."""
    assert [value for value in outside(key) if value == value and taken(key, value)] == []


@each_key
def test_a_value_at_its_bounds_is_taken(key: Key) -> None:
    if key.name not in FURTHER:
        assert [value for value in inside(key) if not taken(key, value)] == []
        assert taken(key, key.default)
