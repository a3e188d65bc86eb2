"""Encodes texts as ordinary text, whatever tokens' texts are in them, by the `tokenizers` library."""

import secrets
from collections.abc import Mapping, Sequence

from tokenizers import AddedToken, Tokenizer

from router_service.text.hidden_pieces import model_without
from router_service.text.library_calls import ids_of

# What of an added token decides how the text beside it is encoded.
_Kind = tuple[bool, bool, bool]


class PlainEncoder:
    """Encodes parts: texts, in which `controls` are not recognized, and the ids of controls.

    Texts on their own would be encoded otherwise than in a whole: many tokenizers put a space before a first one.
    So a second tokenizer has the model and all steps of the first (shared, not copied), and anchors in place of the
    controls: texts that nobody can guess, each of which stands for the next part that is an id. The whole is encoded at
    once, and the anchors' ids are then replaced. An anchor takes the spaces beside it where its control does; a control
    that is one between spaces only (`single_word`) is one everywhere here, as it was meant to be.
    """

    def __init__(self, tokenizer: Tokenizer, controls: Mapping[str, int]) -> None:
        """`tokenizer` remains as it is."""
        added = tokenizer.get_added_tokens_decoder()
        self._plain = Tokenizer(model_without(tokenizer, controls))
        for step in ("normalizer", "pre_tokenizer", "post_processor"):
            if (value := getattr(tokenizer, step)) is not None:
                setattr(self._plain, step, value)
        self._id_of: dict[int, int] = {}
        for id, token in added.items():
            if token.content not in controls:
                self._id_of[self._add(token.content, _kind_of(token), token.single_word)] = id
        kinds = {id: _kind_of(token) for id, token in added.items() if token.content in controls}
        names = {kind: f"\ufdd1{secrets.token_hex(8)}\ufdd2" for kind in sorted(set(kinds.values()))}
        self._anchors = frozenset(self._add(name, kind) for kind, name in names.items())
        self._anchor_of = {id: names[kind] for id, kind in kinds.items()}

    def encode(self, parts: Sequence[str | int], add_special_tokens: bool) -> list[int]:
        """Return the ids; if `add_special_tokens`, with those that the post-processor adds."""
        controls = iter([part for part in parts if isinstance(part, int)])
        whole = "".join(part if isinstance(part, str) else self._anchor_of[part] for part in parts)
        found = ids_of(self._plain, whole, add_special_tokens)
        return [next(controls) if id in self._anchors else self._id_of.get(id, id) for id in found]

    def _add(self, content: str, kind: _Kind, single_word: bool = False) -> int:
        """Add a token; return the id that the second tokenizer gives it."""
        lstrip, rstrip, normalized = kind
        self._plain.add_tokens(
            [AddedToken(content, lstrip=lstrip, rstrip=rstrip, normalized=normalized, single_word=single_word)]
        )
        id = self._plain.token_to_id(content)
        assert id is not None
        return id


def _kind_of(token: AddedToken) -> _Kind:
    return (token.lstrip, token.rstrip, token.normalized)
