"""Structured answers through Front and router: they end by themselves, and go on where their router was lost."""

import asyncio

import grpc

from router_service.protocol import inference_pb2 as pb
from router_service.protocol.inference_pb2_grpc import InferenceStub
from router_service.text.tokenizer_files import load_tokenizer
from tests.unit.front.calls import Responses, ids_of
from tests.unit.front.front_fakes import until
from tests.unit.router.service import Brake, Service

# The checkpoint has no end-of-sequence token.
FORM = pb.Sampling(regex="[a-f]{12}[0-9]{8}", max_tokens=100, seed=5, temperature=1.0)


async def answer(service: Service, sampling: pb.Sampling = FORM) -> Responses:
    request = pb.GenerateRequest(tokens=pb.TokenIds(ids=[5, 6, 7]), sampling=sampling)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.world.server.grpc_port}") as channel:
        return [response async for response in InferenceStub(channel).Generate(request)]


def text_of(service: Service, responses: Responses) -> str:
    """By the router's own tokenizer; the world's Front has another one."""
    assert responses[-1].finish_reason == pb.STOP
    return load_tokenizer(service.plan.checkpoint.path).decode(ids_of(responses))


async def test_an_answer_has_its_form_and_ends_by_itself(service: Service) -> None:
    await service.start()
    text = text_of(service, await answer(service))
    assert (len(text), set(text[:12]) <= set("abcdef"), text[12:].isdigit()) == (20, True, True)
    again = pb.Sampling()
    again.CopyFrom(FORM)
    again.choice.texts.extend(["yes", "no"])
    assert text_of(service, await answer(service, again)) in ("yes", "no")
    await service.idle()


async def test_it_goes_on_as_if_nothing_had_happened_where_its_router_is_lost(service: Service) -> None:
    await service.start(routers=2)
    whole = ids_of(await answer(service))
    brakes = [Brake(router, steps=15) for router in service.routers]
    asking = asyncio.create_task(answer(service))
    await until(lambda: any(not brake.steps for brake in brakes))
    (lost,) = (router for router, brake in zip(service.routers, brakes, strict=True) if not brake.steps)
    (request,) = lost.engine.requests
    assert 12 < request.generated < 20
    lost.fronts.disconnect(request.front)
    for brake in brakes:
        brake.release()
    assert ids_of(await asking) == whole
    await service.idle()
