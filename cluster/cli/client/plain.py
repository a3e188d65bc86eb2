"""A message of the API as JSON's types, for `--json`: fields named as in the .proto files, whole numbers as numbers."""

from typing import Any

from google.protobuf.message import Message


def plain(message: Message) -> dict[str, Any]:
    """Return all fields; one that may be unset and is, is None."""
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def _field(message: Message, field: Any) -> Any:
    if field.has_presence and not message.HasField(field.name):
        return None
    value = getattr(message, field.name)
    return [_value(one) for one in value] if field.is_repeated else _value(value)


def _value(value: Any) -> Any:
    return plain(value) if isinstance(value, Message) else value
