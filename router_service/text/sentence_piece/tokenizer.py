"""A tokenizer from a checkpoint's tokenizer.model, by the `sentencepiece` library."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.json_reader import JsonReader, open_json
from router_service.text.around import Around, AroundIds, read_around
from router_service.text.sentence_piece.added_tokens import AddedToken, read_added
from router_service.text.sentence_piece.model_file import SPACE, PieceModel, read_model
from router_service.text.sentence_piece.splitter import Splitter
from router_service.text.special_text import controls_of
from router_service.text.tokenizer import Tokenizer

# Other classes move ids or add tokens in code of their own, which is never run here.
CLASSES = ("Llama", "CodeLlama", "Gemma", "InternLM2", "PreTrained", "SentencePieceBackend", "TokenizersBackend")
# What transformers puts before a text that stands behind other text: its last character ends a piece.
BEFORE = "<unk>"
# Half a surrogate pair is no text, and no library takes it.
HALF_PAIRS = re.compile("[\ud800-\udfff]")


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model and added tokens, as transformers' tokenizer of Llama has them.

    Texts between added tokens are encoded one by one. A model that puts a space before a text puts it before each of
    them if `legacy`, else before a text that no token precedes.
    """

    def __init__(self, model: PieceModel, added: Mapping[int, AddedToken], around: Around, legacy: bool) -> None:
        self._model, self._legacy = model, legacy
        self._text_of = dict(enumerate(model.pieces)) | {id: token.content for id, token in added.items()}
        self._id_of = {piece: id for id, piece in self._text_of.items()}
        self.special_ids = model.special.union(id for id, token in added.items() if token.special)
        self.byte_fallback = {id: byte for id, byte in model.byte_of.items() if id not in added}
        self._shown = {id: text.replace(SPACE, " ") for id, text in self._text_of.items()}
        self.longest = max(map(len, map(self.bytes_of, self._text_of)), default=0)
        named = {id: AddedToken(self._text_of[id], special=True) for id in model.special} | dict(added)
        self._splitter = Splitter(named)
        self._recognized = frozenset(token.content for token in named.values())
        self.controls = controls_of({token.content: (id, token.special) for id, token in named.items()})
        first, last = (None if token is None else self.id_of(token) for token in (around.first, around.last))
        self._around = AroundIds(first, last)

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Return the ids of `text`; if `add_special_tokens`, with what the checkpoint's configuration wants around."""
        return self._encoded([text], self._recognized, add_special_tokens)

    def encode_parts(self, parts: Sequence[str | int], add_special_tokens: bool = False) -> list[int]:
        """Return the ids of texts, in which no control token is recognized, and of control tokens between them."""
        return self._encoded(parts, self._recognized - self.controls.keys(), add_special_tokens)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of `ids`; unknown ids are skipped."""
        hidden = self.special_ids if skip_special_tokens else frozenset[int]()
        texts: list[str] = []
        run: list[int] = []
        for id in ids:
            if id in self.byte_fallback:
                run.append(self.byte_fallback[id])
            elif id in self._shown and id not in hidden:
                texts += [_text_of_run(run), self._shown[id]]
                run = []
        text = "".join([*texts, _text_of_run(run)])
        return text.removeprefix(" ") if self._model.prefixed else text

    def is_visible(self, id: int) -> bool:
        """Return whether `id` is a token that has text."""
        return id in self._text_of and id not in self.special_ids

    def id_of(self, token: str) -> int | None:
        """Return the id of a token by its exact content, None if there is no such token."""
        return self._id_of.get(token)

    def bytes_of(self, id: int) -> bytes:
        """Return the bytes of a token, b"" for an unknown id."""
        if id in self.byte_fallback:
            return bytes([self.byte_fallback[id]])
        return self._shown.get(id, "").encode()

    def _encoded(self, parts: Sequence[str | int], recognized: Collection[str], add_special_tokens: bool) -> list[int]:
        split: list[str | int] = []
        for part in parts:
            text = part if isinstance(part, int) else HALF_PAIRS.sub("\ufffd", part)
            split += [text] if isinstance(text, int) else self._splitter.split(text, recognized)
        ids: list[int] = []
        for part in self._splitter.stripped(split):
            ids += [part] if isinstance(part, int) else self._pieces_of(part, first=not ids)
        return self._around.put(ids) if add_special_tokens else ids

    def _pieces_of(self, text: str, first: bool) -> list[int]:
        if self._legacy or first:
            return list(self._model.outer.encode(text))
        if not self._model.stripped or not text.startswith((" ", SPACE)):
            return list(self._model.inner.encode(text))
        # The model would leave out the spaces that a text begins with; behind other text they are part of it.
        before = self._model.inner.encode(BEFORE)
        return list(self._model.inner.encode(BEFORE + text)[len(before) :])


def _text_of_run(run: list[int]) -> str:
    """Return the text of byte tokens that stand together: as in transformers, one bad byte makes all of them U+FFFD."""
    try:
        return bytes(run).decode()
    except UnicodeDecodeError:
        return "\ufffd" * len(run)


def load_sentencepiece_tokenizer(path: Path) -> SentencePieceTokenizer:
    """Read the model at `path`, with tokenizer_config.json and other files of added tokens beside it.

    Raises:
        CheckpointError: a file is invalid, sentencepiece is not installed, or the tokenizer is of another class.
    """
    config = open_json(path.parent / "tokenizer_config.json", optional=True)
    _check_class(path, config)
    model = read_model(path)
    pieces = {piece: id for id, piece in enumerate(model.pieces)}
    around = read_around(path.parent, model.bos)
    return SentencePieceTokenizer(model, read_added(path.parent, pieces), around, config.flag("legacy", True))


def _check_class(path: Path, config: JsonReader) -> None:
    name = config.text("tokenizer_class", default="")
    known = {*CLASSES, *(f"{base}Tokenizer{kind}" for base in CLASSES for kind in ("", "Fast")), ""}
    if name not in known:
        problem = f"how a {name} uses it is not known, only for {', '.join(CLASSES)}; add a tokenizer.json made from it"
        raise CheckpointError(f"{path}: {problem}")
