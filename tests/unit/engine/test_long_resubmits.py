"""An answer that goes on at another router: what was generated before is read like a prompt, however long it is."""

from collections.abc import Callable

from tests.support.mesh import Mesh, greedy, tokens_of
from tests.support.tiny import Tiny

PROMPT = [7, 3, 9]
# More than the prompts' tokens of a step with all running sequences: 2048 and 16.
GENERATED = 9000


def test_a_long_answer_goes_on_as_if_it_had_not_moved(tiny: Callable[..., Tiny]) -> None:
    made = tiny("qwen3_moe", max_position_embeddings=16384)
    generated = [number * 31 % 250 for number in range(GENERATED)]
    with Mesh(made.plan, 2, "unix", kv_cache_tokens=16384) as mesh:
        params = greedy(GENERATED + 4)
        key = mesh.submit(PROMPT + generated, params, prompt_length=len(PROMPT))
        resubmitted = tokens_of(mesh.drain()[key])
        # The same positions as one prompt.
        whole = tokens_of(mesh.generate([PROMPT + generated], greedy(4))[0])
    assert resubmitted == whole
    assert len(resubmitted) == 4
