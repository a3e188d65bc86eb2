"""litellm: an answer, a stream, a tool call. Arguments: URL MODEL."""

import sys

import litellm

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def main(url: str, model: str) -> None:
    common = {"model": f"openai/{model}", "api_base": url, "api_key": "none", "seed": 7, "max_tokens": 24}
    messages = [{"role": "user", "content": "Document shutil.copyfile"}]
    whole = litellm.completion(messages=messages, **common)
    pieces = list(litellm.completion(messages=messages, stream=True, **common))
    streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert whole.choices[0].message.content == streamed, (whole, streamed)
    assert whole.usage.completion_tokens <= 24
    called = litellm.completion(
        messages=messages, tools=[WEATHER], tool_choice="required", **(common | {"max_tokens": 200})
    )
    call = called.choices[0].message.tool_calls[0]
    assert call.function.name == "weather"
    print("good", call.function.arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
