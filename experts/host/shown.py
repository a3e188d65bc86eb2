"""Values of untrusted files as error messages show them: one short line, whatever they are."""

from reprlib import Repr

_short = Repr()
_short.maxlevel, _short.maxlist, _short.maxdict = 2, 4, 4
_short.maxstring = _short.maxlong = _short.maxother = 80


def shown(value: object) -> str:
    """Return Python's spelling of a value, its middle left out where it is long. It holds no line break."""
    return _short.repr(value)


def shown_key(key: str) -> str:
    """Return a key as `shown` does, without its quotation marks."""
    return shown(key)[1:-1]
