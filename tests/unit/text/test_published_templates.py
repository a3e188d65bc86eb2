"""Published templates, from whichever packages here have some: the texts are those of transformers.

`pip install --no-deps trl axolotl` gets about 75 of them.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from router_service.text.chat import ChatError, ChatTemplate
from tests.unit.text.family_world import NAMED, family_tokenizer
from tests.unit.text.test_family_templates import CHATS, chat

PLACES = {"trl": "chat_templates", "axolotl": "utils/chat_templates/templates"}


def published() -> Iterator[Path]:
    for package, folder in PLACES.items():
        spec = find_spec(package)
        for place in (spec.submodule_search_locations or []) if spec else []:
            yield from sorted(Path(place, folder).glob("*.jinja"))


NONE = pytest.param(Path(), marks=pytest.mark.skip(reason="no package here has templates"))


@pytest.mark.parametrize("path", [*published()] or [NONE], ids=lambda path: f"{path.parent}-{path.stem}"[-40:])
def test_texts_are_those_of_transformers(path: Path) -> None:
    source = path.read_text()
    oracle = PreTrainedTokenizerFast(tokenizer_object=family_tokenizer(), **NAMED)
    template = ChatTemplate(source, NAMED)
    for kind, (messages, fields) in CHATS.items():
        conversation = template.conversation(chat(messages, fields))
        prompt = {"add_generation_prompt": conversation.add_generation_prompt}
        try:
            expected = apply(oracle, source, conversation.messages, prompt | fields)
        except Exception as error:
            # transformers leaves out a content that is None, which some templates then cannot do without.
            if not (template.traits().no_content == "null" and "content" in str(error)):
                with pytest.raises(ChatError):
                    template.render(conversation)
            continue
        assert template.render(conversation) == expected, kind


def apply(oracle: Any, source: str, messages: list[dict[str, Any]], fields: dict[str, Any]) -> str:
    text: str = oracle.apply_chat_template(messages, tokenize=False, chat_template=source, **fields)
    return text
