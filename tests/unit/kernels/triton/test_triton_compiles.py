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

from kernels.formats.block_fp8 import BlockFp8  # noqa: E402
from kernels.formats.mxfp4 import Mxfp4  # noqa: E402
from kernels.triton import attention_kernels, ffn_kernels, gate_kernels, packed_kernels  # noqa: E402
from kernels.triton import permute as triton_permute  # noqa: E402
from kernels.triton.attention import choose_blocks  # noqa: E402
from kernels.triton.packed import choose_packed_tiles  # noqa: E402
from kernels.triton.packed_table import table_of  # noqa: E402

pytestmark = pytest.mark.skipif(triton.knobs.runtime.interpret, reason="kernels are being interpreted")

NAMES = {torch.bfloat16: "bf16", torch.float32: "fp32"}
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
    options = {"num_warps": warps, "num_stages": stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    assert compiled.asm["cubin"]
    assert compiled.metadata.shared <= SHARED_KIB[arch] << 10
    return compiled.asm["ptx"]


@dataclass(frozen=True)
class Variant:
    """The kernels' switches."""

    clamped: bool = False
    biased: bool = False
    weight_inputs: bool = False

    def switches(self) -> tuple[dict[str, bool], dict[str, bool]]:
        """Constants of the gate-up and of the down kernel."""
        shared = {"BIASED": self.biased, "INTERPRETED": False}
        gate_up = shared | {"CLAMPED": self.clamped, "WEIGHTED": self.weight_inputs}
        return gate_up, shared | {"WEIGHTED": not self.weight_inputs}


VARIANTS = tuple(starmap(Variant, product([False, True], repeat=3)))
# Every switch on sm_90; elsewhere none and all.
SITES = [(90, variant) for variant in VARIANTS] + [(a, v) for a in (80, 100) for v in (VARIANTS[0], VARIANTS[-1])]
# Which of them multiply tiles of 128 rows, by architecture.
UNITS = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}


def ffn_code(dtype: str, rows: int, variant: Variant = VARIANTS[0], arch: int = 90) -> tuple[str, str]:
    depth = 32 if dtype == "fp32" else 64
    constants = {"BLOCK_M": rows, "BLOCK_C": 64, "BLOCK_K": depth, "BLOCK_E": 64}
    warps = 8 if rows == 128 else 4
    data, index = f"*{dtype}", {"offsets_ptr": "*i64"} | SIZES
    shared = {"w_ptr": data, "bias_ptr": data, "weight_ptr": "*fp32", "h_ptr": data}
    gate_up = shared | {"x_ptr": data, "token_ptr": "*i64"} | index | {"alpha": "fp32", "limit": "fp32"}
    down = shared | {"y_ptr": "*fp32"} | index
    first, second = variant.switches()
    return (
        machine_code(ffn_kernels.gate_up_kernel, gate_up, constants | first, warps, arch=arch),
        machine_code(ffn_kernels.down_kernel, down, constants | second, warps, arch=arch),
    )


@pytest.mark.parametrize(("arch", "variant"), SITES, ids=str)
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_high_tiles_use_the_matrix_units(dtype, arch, variant):
    assert all(UNITS[arch] in code for code in ffn_code(dtype, 128, variant, arch))


@pytest.mark.parametrize(("arch", "variant"), SITES, ids=str)
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_low_tiles_load_ahead(dtype, arch, variant):
    assert all("cp.async" in code for code in ffn_code(dtype, 16, variant, arch))


def packed_code(
    form: str, dtype: torch.dtype, rows: int, variant: Variant = VARIANTS[0], arch: int = 90
) -> tuple[str, str]:
    table = table_of((Mxfp4.empty((256, 256), dtype) if form == "mxfp4" else BlockFp8.empty((256, 256), dtype),))
    assert table is not None
    tiles = choose_packed_tiles(rows * 64, 64, dtype, table)
    constants = {"BLOCK_M": tiles.rows, "BLOCK_C": tiles.columns, "BLOCK_K": tiles.depth, "BLOCK_E": 64}
    constants |= {"MXFP4": form == "mxfp4", "NATIVE": form == "fp8" and arch >= 89}
    names = ("parts", "part_rows", "row_bytes", "scale_columns", "block_height", "block_width")
    data, sizes = f"*{NAMES[dtype]}", SIZES | dict.fromkeys(names, "i32")
    scales = "*u8" if form == "mxfp4" else "*fp32"
    shared = {"values_ptr": "*u8", "scales_ptr": scales, "places_ptr": "*i64", "bias_ptr": data, "h_ptr": data}
    shared |= {"weight_ptr": "*fp32", "offsets_ptr": "*i64"} | sizes
    gate_up = shared | {"x_ptr": data, "token_ptr": "*i64", "alpha": "fp32", "limit": "fp32"}
    first, second = variant.switches()
    return (
        machine_code(packed_kernels.packed_gate_up_kernel, gate_up, constants | first, tiles.warps, arch=arch),
        machine_code(
            packed_kernels.packed_down_kernel, shared | {"y_ptr": "*fp32"}, constants | second, tiles.warps, arch=arch
        ),
    )


@pytest.mark.parametrize(
    ("arch", "dtype", "variant"),
    [
        *((arch, torch.bfloat16, variant) for arch in ARCHES for variant in (VARIANTS[0], VARIANTS[-1])),
        (90, torch.float32, VARIANTS[0]),
    ],
    ids=str,
)
@pytest.mark.parametrize("form", ["fp8", "mxfp4"])
def test_packed_weights_are_read_ahead_in_wide_loads(form, dtype, arch, variant):
    """16 bytes at a time, as for dense weights: the addresses come from a table, where no compiler can see it."""
    for code in packed_code(form, dtype, 16, variant, arch):
        assert re.search(r"cp\.async\.cg\.shared\.global \[[^]]*\], \[[^]]*\], 0x10", code)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("form", ["fp8", "mxfp4"])
def test_high_tiles_of_packed_weights_use_the_matrix_units(form, arch):
    assert all(UNITS[arch] in code for code in packed_code(form, torch.bfloat16, 128, arch=arch))


@pytest.mark.parametrize("arch", ARCHES)
def test_gate(arch):
    types = {"logits_ptr": "*bf16", "weights_ptr": "*fp32", "ids_ptr": "*i64", "tokens": "i32", "experts": "i32"}
    constants = {"TOP_K": 8, "NORMALIZE": True, "BLOCK_T": 16, "BLOCK_E": 128, "BLOCK_K": 8}
    machine_code(gate_kernels.softmax_kernel, types, constants, arch=arch)
    types |= {"correction_ptr": "*fp32", "scale": "fp32"}
    # DeepSeek-V3, and Kimi K2, which has no groups and experts that are no power of two.
    for experts, tokens, groups, top_groups in ((256, 8, 8, 4), (512, 4, 1, 1)):
        grouped = {"CORRECTED": True, "GROUPS": groups, "TOP_GROUPS": top_groups, "BLOCK_G": groups}
        blocks = {"BLOCK_T": tokens, "BLOCK_E": experts}
        machine_code(gate_kernels.sigmoid_kernel, types, constants | grouped | blocks, arch=arch)


@pytest.mark.parametrize("arch", ARCHES)
def test_grouping_and_sum_use_no_atomics(arch):
    count = machine_code(triton_permute._count_kernel, KEYS | {"counts_ptr": "*i32"}, BLOCKS, arch=arch)
    starts = {"starts_ptr": "*i64", "order_ptr": "*i64"}
    place = machine_code(triton_permute._place_kernel, KEYS | starts, BLOCKS, arch=arch)
    types = {"y_ptr": "*fp32", "order_ptr": "*i64", "offsets_ptr": "*i64", "out_ptr": "*fp32", "hidden": "i32"}
    total = machine_code(triton_permute._sum_kernel, types, {"BLOCK_D": 1024}, arch=arch)
    assert not any(re.search(r"\b(atom|red)\.", code) for code in (count, place, total))


# G heads that share keys, sizes of a key and a value, values apart from the keys.
HEADS = {
    "Qwen3": (16, 128, 128, True),
    "gpt-oss": (8, 64, 64, True),
    "DeepSeek-V3": (128, 576, 512, False),
    "odd": (5, 80, 80, True),
}


@pytest.mark.parametrize(("arch", "dtype"), [*((arch, "bf16") for arch in ARCHES), (80, "fp32")])
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
