"""The text the bundled model learns: the running Python's own library, its docstrings and its help topics.

A document is one file or one help topic. A share of the documents, picked by the hash of the name, is held out whole:
neither the tokenizer nor the weights ever see them, nor the chats made from their docstrings.
"""

import ast
import hashlib
import random
import sysconfig
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

END_OF_TEXT = "<|endoftext|>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)
SYSTEM_PROMPT = "You are a helpful assistant."

# Tests are not on every machine, tables of encodings are no language, build settings name the machine.
SKIPPED_FOLDERS = {"site-packages", "test", "tests", "idle_test", "encodings", "__pycache__", "lib-dynload"}
SKIPPED_PREFIXES = ("_sysconfigdata", "config-", "topics", "sitecustomize", "usercustomize")
HELD_OUT_ONE_IN = 20
LONGEST_ANSWER = 700  # characters; a chat must fit a training window whole


@dataclass(frozen=True)
class Document:
    """One file of the library (`heapq.py`) or one help topic (`topic:assert`)."""

    name: str
    text: str

    @property
    def held_out(self) -> bool:
        digest = hashlib.blake2b(self.name.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % HELD_OUT_ONE_IN == 0


def library_documents() -> Iterator[Document]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        skipped = any(part in SKIPPED_FOLDERS or part.startswith(SKIPPED_PREFIXES) for part in relative.parts)
        if skipped:
            continue
        text = path.read_text(encoding="utf-8", errors="ignore").expandtabs()
        if text.strip():
            yield Document(relative.as_posix(), text)


def topic_documents() -> Iterator[Document]:
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        yield Document(f"topic:{name}", text)


def all_documents() -> list[Document]:
    return [*library_documents(), *topic_documents()]


def digest_of(documents: list[Document]) -> str:
    """SHA-256 over names and texts, by name: two runs with one digest read the same text."""
    digest = hashlib.sha256()
    for document in sorted(documents, key=lambda document: document.name):
        digest.update(f"{document.name}\0{document.text}\0".encode())
    return digest.hexdigest()


def render_chat(question: str, answer: str, system: str | None = None) -> str:
    """The chat form; `CHAT_TEMPLATE` in checkpoint.py renders the same string."""
    turns = [("user", question), ("assistant", answer)]
    if system is not None:
        turns.insert(0, ("system", system))
    return "".join(f"{TURN_START}{role}\n{text}{TURN_END}\n" for role, text in turns)


def chats_from(document: Document, rng: random.Random) -> Iterator[str]:
    """Questions whose answers stand in the document: what a name is for, and how a short function is written."""
    for question, answer in _questions(document, rng):
        system = SYSTEM_PROMPT if rng.random() < 0.2 else None
        yield render_chat(question, answer, system)


def _questions(document: Document, rng: random.Random) -> Iterator[tuple[str, str]]:
    if document.name.startswith("topic:"):
        name = document.name.removeprefix("topic:")
        yield rng.choice([f"Explain {name}", f"What is {name} in Python?"]), _shortened(document.text)
        return
    module = document.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    tree, lines = ast.parse(document.text), document.text.split("\n")
    if docstring := ast.get_docstring(tree):
        yield rng.choice([f"Document {module}", f"What is the module {module} for?"]), _shortened(docstring)
    for qualname, node in _public_definitions(tree, module):
        if docstring := ast.get_docstring(node):
            yield rng.choice([f"Document {qualname}", f"What does {qualname} do?"]), _shortened(docstring)
        source = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
        if isinstance(node, ast.FunctionDef) and 80 < len(source) < LONGEST_ANSWER and rng.random() < 0.5:
            yield rng.choice([f"Show the source of {qualname}", f"Write {qualname}"]), source


def _public_definitions(tree: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            qualname = f"{prefix}.{node.name}"
            yield qualname, node
            if isinstance(node, ast.ClassDef):
                yield from _public_definitions(node, qualname)


def _shortened(text: str) -> str:
    """Whole paragraphs up to the longest answer, at least one of them."""
    paragraphs = text.strip().split("\n\n")
    kept = paragraphs[0][:LONGEST_ANSWER]
    for paragraph in paragraphs[1:]:
        if len(kept) + len(paragraph) > LONGEST_ANSWER:
            break
        kept += "\n\n" + paragraph
    return kept.rstrip()
