"""POST /api/domains: which experts different domains of text prefer, and whether more than by chance.

Each text is run through the model as a prompt. T tokens, L MoE layers, K experts per token, D domains, E experts.
"""

import asyncio
from typing import Any

import msgspec
import numpy as np
from aiohttp import web
from numpy.typing import NDArray

from router_service.front.api.inference_service import InferenceService
from router_service.front.errors import RequestError, exhausted, invalid
from router_service.front.http.body import DomainsBody, DomainText, read_body
from router_service.front.page.specialization import BLOCK_TOKENS, PERMUTATIONS, block_counts, specialization
from router_service.protocol import inference_pb2 as pb

MAX_DOMAINS = 8
MAX_NAME_CHARACTERS = 40
MAX_TEXT_CHARACTERS = 16384
MIN_BLOCKS = 2

Ids = NDArray[np.int64]


class DomainsHandler:
    """Runs one comparison at a time: it costs computation on routers that all users share."""

    def __init__(self, inference: InferenceService, experts: int) -> None:
        self._inference = inference
        self._experts = experts
        self._busy = asyncio.Lock()

    async def serve(self, request: web.Request) -> web.Response:
        """Return the comparison.

        Raises:
            RequestError: a text is missing, too short or too long, or another comparison is running.
        """
        body = await read_body(request, DomainsBody)
        check_domains(body.domains)
        if self._busy.locked():
            raise exhausted("another comparison of domains is running; try again in a moment")
        async with self._busy:
            layers: list[int] = []
            ids: list[Ids] = []
            for number, domain in enumerate(body.domains):
                layers, routed = await self._route(number, domain)
                ids.append(routed)
            names = [domain.name for domain in body.domains]
            # 400 permutations of every layer would hold up the streams on the event loop.
            result = await asyncio.to_thread(compare, names, layers, ids, self._experts)
        return web.Response(body=msgspec.json.encode(result), content_type="application/json")

    async def _route(self, number: int, domain: DomainText) -> tuple[list[int], Ids]:
        """Run a text; return the MoE layers and the experts of its tokens [T, L, K]."""
        sampling = pb.Sampling(max_tokens=1, temperature=0.0)
        request = pb.GenerateRequest(prompt=domain.text, sampling=sampling, return_routing=True)
        collector = RoutingCollector()
        try:
            await self._inference.answer(request, collector)
        except RequestError as error:
            raise RequestError(error.code, f"domains[{number}].text: {error.message}") from error
        if len(collector.positions) < MIN_BLOCKS * BLOCK_TOKENS:
            problem = (
                f"has {len(collector.positions)} tokens, at least {MIN_BLOCKS * BLOCK_TOKENS} are needed to judge it"
            )
            raise invalid(f"domains[{number}].text", f"{problem}; make it longer")
        ids = np.array([[layer.experts for layer in position.layers] for position in collector.positions])
        return [layer.layer for layer in collector.positions[0].layers], ids


class RoutingCollector:
    """Keeps only the routing of the responses."""

    def __init__(self) -> None:
        self.positions: list[pb.TokenRouting] = []

    def time_remaining(self) -> float | None:
        """See `ResponseWriter`."""
        return None

    def done(self) -> bool:
        """See `ResponseWriter`."""
        return False

    async def accepted(self, _: str, /) -> None:
        """See `ResponseWriter`."""

    async def write(self, response: pb.GenerateResponse, /) -> None:
        """See `ResponseWriter`."""
        self.positions.extend(response.routing)


def check_domains(domains: list[DomainText]) -> None:
    """Check that there are two to eight domains, with distinct names and texts of moderate length.

    Raises:
        RequestError: INVALID_ARGUMENT that names the field.
    """
    if not 2 <= len(domains) <= MAX_DOMAINS:
        raise invalid("domains", f"2 to {MAX_DOMAINS} are compared, got {len(domains)}")
    for number, domain in enumerate(domains):
        if not 1 <= len(domain.name.strip()) <= MAX_NAME_CHARACTERS:
            raise invalid(f"domains[{number}].name", f"must have 1 to {MAX_NAME_CHARACTERS} characters")
        if not 1 <= len(domain.text) <= MAX_TEXT_CHARACTERS:
            found = len(domain.text)
            raise invalid(f"domains[{number}].text", f"must have 1 to {MAX_TEXT_CHARACTERS} characters, has {found}")
    if len({domain.name for domain in domains}) < len(domains):
        raise invalid("domains", "two have the same name; give each its own")


def compare(names: list[str], layers: list[int], ids: list[Ids], experts: int) -> dict[str, Any]:
    """Return each layer's shares by domain and expert, and its specialization; `ids` [T, L, K] a domain."""
    blocks = [block_counts(one, experts) for one in ids]
    domain_of_B = [domain for domain, counts_LBE in enumerate(blocks) for _ in range(counts_LBE.shape[1])]
    found = specialization(np.concatenate(blocks, axis=1), domain_of_B)
    return {
        "domains": [{"name": name, "tokens": len(one)} for name, one in zip(names, ids, strict=True)],
        "permutations": PERMUTATIONS,
        "block_tokens": BLOCK_TOKENS,
        "any": bool(found.beyond_chance_L.any()),
        "layers": [
            {
                "layer": layer,
                "shares": _shares(ids, number, experts),
                "nmi": float(found.nmi_L[number]),
                "chance": float(found.chance_L[number]),
                "excess": float(found.excess_L[number]),
                "p": float(found.p_L[number]),
                "beyond_chance": bool(found.beyond_chance_L[number]),
            }
            for number, layer in enumerate(layers)
        ],
    }


def _shares(ids: list[Ids], layer: int, experts: int) -> list[list[float]]:
    """Each expert's share of a domain's (token, expert) pairs, [D, E]."""
    counts_DE = [np.bincount(one[:, layer].reshape(-1), minlength=experts) for one in ids]
    return [[round(float(share), 5) for share in counts_E / max(1, counts_E.sum())] for counts_E in counts_DE]
