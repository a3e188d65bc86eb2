"""The flags of `generate` that say what becomes of the prompt, and what the answers must be."""

import argparse
from pathlib import Path
from typing import TypedDict

# A grammar of Lark begins with this rule; a text without it names a file.
FIRST_RULE = "start"


class FormFields(TypedDict, total=False):
    """Fields of `Client.generate`."""

    n: int
    echo: bool
    truncate_prompt_tokens: int
    raw_output: bool
    include_stop_text: bool
    skip_special_tokens: bool
    json_object: bool
    json_schema: str
    regex: str
    grammar: str
    choice: list[str]


def add_form(parser: argparse.ArgumentParser) -> None:
    """Add the flags; `form_of` reads them."""
    parser.add_argument(
        "-n", "--n", type=int, metavar="N", help="answers to draw, 1 to 128; they are printed at the end"
    )
    parser.add_argument("--echo", action="store_true", help="print the prompt before the answer")
    parser.add_argument("--truncate-prompt-tokens", type=int, metavar="N", help="keep the last N tokens of the prompt")
    parser.add_argument("--raw", action="store_true", help="with --chat: do not take reasoning and tool calls out")
    parser.add_argument("--include-stop-text", action="store_true", help="print the stop text that ended the answer")
    parser.add_argument("--show-special-tokens", action="store_true", help="print special tokens too")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json-object", action="store_true", help="answer with any JSON object")
    form.add_argument("--json-schema", metavar="FILE|JSON", help="answer with JSON that this schema accepts")
    form.add_argument("--regex", metavar="REGEX", help="answer with text that matches as a whole")
    form.add_argument("--grammar", metavar="FILE|LARK", help="answer with text of this grammar, in Lark's form")
    form.add_argument("--choice", action="append", metavar="TEXT", help="answer with one of these texts (repeatable)")


def form_of(args: argparse.Namespace) -> FormFields:
    """Return the fields that were given on the command line; the server checks their bounds.

    Raises:
        OSError: a file cannot be read.
        ValueError: a field cannot even be sent, or a file is no text.
    """
    fields: FormFields = {"echo": args.echo, "raw_output": args.raw, "include_stop_text": args.include_stop_text}
    if args.n is not None:
        fields["n"] = _count("n", args.n)
    if args.truncate_prompt_tokens is not None:
        fields["truncate_prompt_tokens"] = _count("truncate-prompt-tokens", args.truncate_prompt_tokens)
    if args.show_special_tokens:
        fields["skip_special_tokens"] = False
    if args.json_object:
        fields["json_object"] = True
    if args.json_schema is not None:
        fields["json_schema"] = _text(args.json_schema, args.json_schema.lstrip().startswith("{"))
    if args.grammar is not None:
        fields["grammar"] = _text(args.grammar, FIRST_RULE in args.grammar and ":" in args.grammar)
    if args.regex is not None:
        fields["regex"] = args.regex
    if args.choice:
        fields["choice"] = args.choice
    return fields


def _text(given: str, itself: bool) -> str:
    """Return what was given, if it is the text itself, else the text of the file that it names."""
    return given if itself else Path(given).read_text("utf-8")


def _count(flag: str, value: int) -> int:
    if not 0 <= value < 1 << 32:
        raise ValueError(f"--{flag}: out of range: {value}")
    return value
