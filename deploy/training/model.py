"""The Qwen3-MoE network as one plain module, quick to train on a CPU; its weights are a Hugging Face checkpoint's.

Shapes: B sequences, S positions, T = B * S tokens, D hidden, H heads, G key/value heads, C head width, E experts,
K experts per token, F expert width, V vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class ModelConfig:
    vocab_size: int
    hidden_size: int = 192
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    num_experts: int = 16
    num_experts_per_tok: int = 2
    moe_intermediate_size: int = 96
    max_position_embeddings: int = 1024
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6


class Routing(NamedTuple):
    """What the gate of one layer did: `balance_loss` is a scalar, `loads` (E) counts the tokens of each expert."""

    balance_loss: Tensor
    loads: Tensor


def balance_loss(probs_TE: Tensor, load_E: Tensor) -> Tensor:
    """Load-balancing loss of Switch Transformers (Fedus et al. 2021, arXiv:2101.03961, equations 4 to 6).

    Experts times the sum over experts of (share of the assignments) x (mean gate probability): 1 when even.
    For K > 1 the share is that of the T * K assignments, as in Mixtral's code up to the factor K.
    """
    share_E = load_E / load_E.sum()
    return probs_TE.shape[1] * (share_E * probs_TE.mean(0)).sum()


class RmsNorm(nn.Module):
    """In float32 whatever autocast made of the input."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x.float(), self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, C = config.hidden_size, config.head_dim
        H, G = config.num_attention_heads, config.num_key_value_heads
        self.heads, self.groups, self.head_dim = H, G, C
        self.q_proj = nn.Linear(D, H * C, bias=False)
        self.k_proj = nn.Linear(D, G * C, bias=False)
        self.v_proj = nn.Linear(D, G * C, bias=False)
        self.o_proj = nn.Linear(H * C, D, bias=False)
        self.q_norm = RmsNorm(C, eps=config.rms_norm_eps)
        self.k_norm = RmsNorm(C, eps=config.rms_norm_eps)

    def forward(self, x_BSD: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        B, S, _ = x_BSD.shape
        q_BHSC = self.q_norm(self.q_proj(x_BSD).view(B, S, self.heads, -1)).transpose(1, 2)
        k_BGSC = self.k_norm(self.k_proj(x_BSD).view(B, S, self.groups, -1)).transpose(1, 2)
        v_BGSC = self.v_proj(x_BSD).view(B, S, self.groups, -1).transpose(1, 2)
        repeats = self.heads // self.groups
        k_BHSC = rotate(k_BGSC, rope).repeat_interleave(repeats, dim=1)
        v_BHSC = v_BGSC.repeat_interleave(repeats, dim=1)
        mixed_BHSC = causal_attention(rotate(q_BHSC, rope), k_BHSC, v_BHSC)
        return self.o_proj(mixed_BHSC.transpose(1, 2).reshape(B, S, -1))


def causal_attention(q_BHSC: Tensor, k_BHSC: Tensor, v_BHSC: Tensor) -> Tensor:
    """Plain products: at these lengths two to three times as fast on a CPU as torch's fused attention in bfloat16."""
    B, H, S, C = q_BHSC.shape
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else q_BHSC.dtype
    q, k, v = (x.to(dtype).reshape(B * H, S, C) for x in (q_BHSC, k_BHSC, v_BHSC))
    mask_SS = torch.full((S, S), -torch.inf, dtype=dtype).triu(1)
    with torch.autocast("cpu", enabled=False):
        scores = torch.baddbmm(mask_SS, q, k.transpose(1, 2), alpha=C**-0.5)
        return torch.bmm(scores.softmax(dim=-1), v).view(B, H, S, C)


def rope_tables(length: int, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position, both (S, C)."""
    halves = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    angles = torch.outer(torch.arange(length, dtype=torch.float32), config.rope_theta**-halves)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x_BHSC: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    cos_SC, sin_SC = rope
    first, second = x_BHSC.chunk(2, dim=-1)
    return x_BHSC * cos_SC + torch.cat((-second, first), dim=-1) * sin_SC


class SparseExperts(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        E, F, D = config.num_experts, config.moe_intermediate_size, config.hidden_size
        self.experts_per_token = config.num_experts_per_tok
        self.gate = nn.Linear(D, E, bias=False)
        self.gate_up_proj = nn.Parameter(torch.empty(E, 2 * F, D))
        self.down_proj = nn.Parameter(torch.empty(E, D, F))

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Routing]:
        """Tokens are sorted by expert, so that each expert multiplies one contiguous slice."""
        T, D = x_TD.shape
        K, E = self.experts_per_token, self.gate.out_features
        probs_TE = self.gate(x_TD).softmax(dim=-1)
        weights_TK, experts_TK = probs_TE.topk(K, dim=-1)
        weights_TK = weights_TK / weights_TK.sum(dim=-1, keepdim=True)
        order = experts_TK.flatten().argsort(stable=True)
        load_E = torch.bincount(experts_TK.flatten(), minlength=E)
        slices = x_TD.index_select(0, order // K).split(load_E.tolist())
        parts = [swiglu(x, w1, w2) for x, w1, w2 in zip(slices, self.gate_up_proj, self.down_proj, strict=True)]
        y_TKD = torch.cat(parts).index_select(0, order.argsort()).view(T, K, D)
        return (y_TKD * weights_TK.unsqueeze(-1)).sum(dim=1), Routing(balance_loss(probs_TE, load_E), load_E)


def swiglu(x_TD: Tensor, gate_up_FD: Tensor, down_DF: Tensor) -> Tensor:
    gate_TF, up_TF = functional.linear(x_TD, gate_up_FD).chunk(2, dim=-1)
    return functional.linear(functional.silu(gate_TF) * up_TF, down_DF)


class Layer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = SparseExperts(config)

    def forward(self, x_BSD: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Routing]:
        x_BSD = x_BSD + self.self_attn(self.input_layernorm(x_BSD), rope)
        y_TD, routing = self.mlp(self.post_attention_layernorm(x_BSD).flatten(0, 1))
        return x_BSD + y_TD.view_as(x_BSD), routing


class MoeModel(nn.Module):
    """Embeddings are tied: the head multiplies with the embedding table."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.apply(init_weights)

    def forward(self, tokens_BS: Tensor) -> tuple[Tensor, list[Routing]]:
        """Logits (B, S, V) and one routing per layer."""
        rope = rope_tables(tokens_BS.shape[1], self.config)
        x_BSD = self.embed_tokens(tokens_BS)
        routings = []
        for layer in self.layers:
            x_BSD, routing = layer(x_BSD, rope)
            routings.append(routing)
        return functional.linear(self.norm(x_BSD), self.embed_tokens.weight), routings


def init_weights(module: nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        if not isinstance(module, RmsNorm):
            std = 0.02 if isinstance(module, nn.Embedding) else parameter.shape[-1] ** -0.5
            nn.init.normal_(parameter, std=std)
