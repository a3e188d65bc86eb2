"""The names under which requests may ask for the model."""

from router_service.front.openai.errors import ModelNotFoundError

SHOWN_CHARACTERS = 200


class ServedModel:
    """One model. A request that names none asks for it; its name's last part, without the organization, is an alias."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._names = frozenset((name, name.rpartition("/")[2]))

    def check(self, asked: str | None) -> None:
        """Check that a request asks for this model.

        Raises:
            ModelNotFoundError: it asks for another one, as vLLM has it: an answer of another model would mislead.
        """
        if asked and asked not in self._names:
            raise ModelNotFoundError(f"model: {asked[:SHOWN_CHARACTERS]!r} is not served here: send {self.name!r}")
