"""Every Triton kernel compiles for A100, H200 and B200 (sm_80, sm_90, sm_100), GPU or not.

The interpreter accepts Python that the compiler refuses; and only machine code shows whether the matrix units are used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product, starmap

import pytest
import torch

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from kernels.triton import attention_kernels, ffn_kernels  # noqa: E402
from kernels.triton import gate as triton_gate  # noqa: E402
from kernels.triton import permute as triton_permute  # noqa: E402
from kernels.triton.attention import choose_blocks  # noqa: E402

pytestmark = pytest.mark.skipif(triton.knobs.runtime.interpret, reason="kernels are being interpreted")

SIZES = {"experts": "i32", "hidden": "i32", "ffn": "i32"}
# Shared memory of a block, CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
SHARED_KIB = {80: 163, 90: 227, 100: 227}
ARCHES = tuple(SHARED_KIB)
KEYS = {"keys_ptr": "*i64", "rows": "i32", "num_keys": "i32", "blocks": "i32"}
BLOCKS = {"BLOCK_N": 128, "BLOCK_E": 64}


@pytest.fixture(autouse=True)
def no_shared_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def machine_code(
    kernel, types: dict[str, str], constants: dict[str, object], warps: int = 4, stages: int = 3, arch: int = 90
) -> str:
    """The kernel's PTX, with pointers and sizes that 16 divides, as in real models; it fits into a block's memory."""
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if name in types}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": warps, "num_stages": stages})
    assert compiled.asm["cubin"]
    assert compiled.metadata.shared <= SHARED_KIB[arch] << 10
    return compiled.asm["ptx"]


@dataclass(frozen=True)
class Variant:
    """The kernels' switches."""

    clamped: bool = False
    biased: bool = False
    weight_inputs: bool = False


VARIANTS = tuple(starmap(Variant, product([False, True], repeat=3)))


def ffn_code(dtype: str, rows: int, variant: Variant = VARIANTS[0]) -> tuple[str, str]:
    depth = 32 if dtype == "fp32" else 64
    constants = {"BLOCK_M": rows, "BLOCK_C": 64, "BLOCK_K": depth, "BLOCK_E": 64, "INTERPRETED": False}
    constants |= {"BIASED": variant.biased}
    warps = 8 if rows == 128 else 4
    data, index = f"*{dtype}", {"offsets_ptr": "*i64"} | SIZES
    shared = {"w_ptr": data, "bias_ptr": data, "weight_ptr": "*fp32", "h_ptr": data}
    gate_up = shared | {"x_ptr": data, "token_ptr": "*i64"} | index | {"alpha": "fp32", "limit": "fp32"}
    down = shared | {"y_ptr": "*fp32"} | index
    first = constants | {"CLAMPED": variant.clamped, "WEIGHTED": variant.weight_inputs}
    return (
        machine_code(ffn_kernels.gate_up_kernel, gate_up, first, warps),
        machine_code(ffn_kernels.down_kernel, down, constants | {"WEIGHTED": not variant.weight_inputs}, warps),
    )


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_high_tiles_use_the_warpgroup_units(dtype, variant):
    assert all("wgmma.mma_async" in code for code in ffn_code(dtype, 128, variant))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_low_tiles_load_ahead(dtype, variant):
    assert all("cp.async" in code for code in ffn_code(dtype, 16, variant))


def test_gate():
    types = {"logits_ptr": "*bf16", "weights_ptr": "*fp32", "ids_ptr": "*i64", "tokens": "i32", "experts": "i32"}
    constants = {"TOP_K": 8, "NORMALIZE": True, "BLOCK_T": 16, "BLOCK_E": 128, "BLOCK_K": 8}
    machine_code(triton_gate._gate_kernel, types, constants)


def test_grouping_and_sum_use_no_atomics():
    count = machine_code(triton_permute._count_kernel, KEYS | {"counts_ptr": "*i32"}, BLOCKS)
    place = machine_code(triton_permute._place_kernel, KEYS | {"starts_ptr": "*i64", "order_ptr": "*i64"}, BLOCKS)
    types = {"y_ptr": "*fp32", "order_ptr": "*i64", "offsets_ptr": "*i64", "out_ptr": "*fp32", "hidden": "i32"}
    total = machine_code(triton_permute._sum_kernel, types, {"BLOCK_D": 1024})
    assert not any(re.search(r"\b(atom|red)\.", code) for code in (count, place, total))


# G heads that share keys, sizes of a key and a value, values apart from the keys.
HEADS = {
    "Qwen3": (16, 128, 128, True),
    "gpt-oss": (8, 64, 64, True),
    "DeepSeek-V3": (128, 576, 512, False),
    "odd": (5, 80, 80, True),
}


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("form", HEADS)
def test_attention(form, dtype, arch):
    group, key_size, value_size, apart = HEADS[form]
    blocks = choose_blocks(group, key_size, value_size, torch.float32 if dtype == "fp32" else torch.bfloat16)
    data, index = f"*{dtype}", "*i64"
    types = {"q_ptr": data, "k_ptr": data, "v_ptr": data, "slots_ptr": index, "parts_ptr": index, "sums_ptr": "*fp32"}
    types |= {"stats_ptr": "*fp32", "scale": "fp32"} | dict.fromkeys(
        ("heads", "group", "key_size", "value_size", "k_slot", "k_head", "v_slot", "v_head"), "i32"
    )
    constants = {"SHARED": not apart and value_size == blocks.key, "BLOCK_G": blocks.heads}
    constants |= {"BLOCK_M": blocks.positions, "BLOCK_C": blocks.key, "BLOCK_R": blocks.rest, "BLOCK_V": blocks.value}
    constants |= {"INTERPRETED": False}
    part = machine_code(attention_kernels.part_kernel, types, constants, blocks.warps, stages=2, arch=arch)
    assert "mma.sync" in part or dtype == "fp32"


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("sinks", [False, True])
def test_merging_parts(sinks, arch):
    types = {"sums_ptr": "*fp32", "stats_ptr": "*fp32", "offsets_ptr": "*i64", "sinks_ptr": "*bf16"}
    types |= {"out_ptr": "*bf16", "heads": "i32", "value_size": "i32"}
    machine_code(attention_kernels.merge_kernel, types, {"SINKS": sinks, "BLOCK_V": 128}, arch=arch)
