"""langchain-openai: an answer, a stream, structured output by pydantic, tools. Arguments: URL MODEL."""

import sys
from typing import Literal

from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel


class Verdict(BaseModel):
    """What a reader thinks of a text."""

    mood: Literal["good", "bad"]
    stars: Literal[1, 2, 3]


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Rome", "Oslo"]


def main(url: str, model: str) -> None:
    common = {"model": model, "base_url": url, "api_key": "none", "seed": 7}
    chat = ChatOpenAI(max_tokens=24, **common)
    whole = chat.invoke("Document shutil.copyfile").content
    streamed = "".join(str(piece.content) for piece in chat.stream("Document shutil.copyfile"))
    assert whole == streamed, (whole, streamed)
    roomy = ChatOpenAI(max_tokens=200, **common)
    verdict = roomy.with_structured_output(Verdict, method="json_schema").invoke("Rate it")
    assert isinstance(verdict, Verdict), verdict
    answer = roomy.bind_tools([Weather], tool_choice="Weather").invoke("Where?")
    assert answer.tool_calls[0]["args"]["city"] in ("Rome", "Oslo")
    completed = OpenAI(max_tokens=8, temperature=0, **common).invoke("import os")
    assert isinstance(completed, str)
    print("good", verdict, answer.tool_calls[0]["args"])


if __name__ == "__main__":
    main(*sys.argv[1:])
