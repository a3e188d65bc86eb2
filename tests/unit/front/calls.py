"""Generations as a client has them, and what holds of every one."""

from router_service.client.client import Client
from router_service.protocol import inference_pb2 as pb

Responses = list[pb.GenerateResponse]


async def collect(client: Client, *args: object, **kwargs: object) -> Responses:
    return [response async for response in client.generate(*args, **kwargs)]  # type: ignore[arg-type]


def text_of(responses: Responses) -> str:
    return "".join(response.text for response in responses)


def ids_of(responses: Responses) -> list[int]:
    return [id for response in responses for id in response.token_ids]


def check_one_end(responses: Responses) -> None:
    assert [response.finish_reason != 0 for response in responses] == [False] * (len(responses) - 1) + [True]
    assert [response.HasField("usage") for response in responses] == [False] * (len(responses) - 1) + [True]
