"""The byte-level BPE tokenizer of the bundled model and the token streams that the model trains on."""

import random
from collections.abc import Iterable

import numpy as np
from corpus import END_OF_TEXT, SPECIAL_TOKENS, Document, chats_from
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer

# A line break and the indentation after it are one piece: most of a Python file's white space becomes single tokens.
PIECES = Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*\n[ ]*| +(?! )|\s+")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = Sequence([Split(PIECES, "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def training_texts(documents: list[Document], seed: int) -> list[str]:
    """Every training document and every chat from it, in one shuffled order."""
    rng = random.Random(seed)
    texts = []
    for document in documents:
        texts.append(document.text)
        texts.extend(chats_from(document, rng))
    rng.shuffle(texts)
    return texts


def token_stream(tokenizer: Tokenizer, texts: list[str]) -> NDArray[np.int64]:
    """All texts one after the other, an end-of-text token in front of each and at the very end."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    ids = [end]
    for encoding in tokenizer.encode_batch(texts):
        ids.extend(encoding.ids)
        ids.append(end)
    return np.array(ids, dtype=np.int64)
