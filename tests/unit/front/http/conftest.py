import json
from pathlib import Path

import pytest

from router_service.front.auth.tokens import Role, new_token
from tests.unit.front.front_world import World
from tests.unit.front.http.house import LIMITS, House


@pytest.fixture
async def house(world: World, tmp_path: Path) -> House:
    tokens, lines = {}, []
    for name in ("ann", "root", *LIMITS):
        tokens[name], line = new_token(name, Role.ADMIN if name == "root" else Role.INFERENCE)
        lines.append(json.dumps(json.loads(line) | LIMITS.get(name, {})))
    (tmp_path / "tokens").write_text("\n".join(lines))
    await world.router(step_s=0.02)
    await world.front(tokens_file=str(tmp_path / "tokens"), http_port=0)
    await world.clients[0].wait_ready(10)
    return House(world, tokens)
