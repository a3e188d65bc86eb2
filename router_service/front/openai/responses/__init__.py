"""OpenAI's Responses API, /v1/responses: text, reasoning and function tools. Nothing is stored."""
