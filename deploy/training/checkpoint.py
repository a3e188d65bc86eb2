"""Writes a fitted model and its tokenizer as a Hugging Face checkpoint directory (Qwen3-MoE, bfloat16)."""

import json
import re
from pathlib import Path

import torch
from corpus import END_OF_TEXT, SPECIAL_TOKENS, TURN_END
from model import ModelConfig, MoeModel
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

TEMPERATURE, TOP_P = 0.7, 0.9
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def save_checkpoint(folder: Path, model: MoeModel, tokenizer: Tokenizer) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(hugging_face_weights(model), folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    write_json(folder / "config.json", hugging_face_config(model.config, tokenizer))
    write_json(folder / "tokenizer_config.json", tokenizer_config(model.config))
    write_json(folder / "generation_config.json", generation_config(tokenizer))


def write_json(path: Path, content: dict[str, object]) -> None:
    """Indented, but a list of numbers on one line."""
    text = json.dumps(content, indent=2)
    text = re.sub(r"\[\n[\d\s.,]+\]", lambda numbers: "[" + " ".join(numbers[0][1:-1].split()) + "]", text)
    path.write_text(text + "\n", encoding="utf-8")


def hugging_face_weights(model: MoeModel) -> dict[str, Tensor]:
    """Names and shapes as published Qwen3-MoE checkpoints have them: three matrices per expert."""
    weights = {}
    for name, parameter in model.state_dict().items():
        prefix, _, last = name.rpartition(".")
        if last not in ("gate_up_proj", "down_proj"):
            weights[f"model.{name}"] = parameter
            continue
        for expert, matrix in enumerate(parameter):
            parts = matrix.chunk(2) if last == "gate_up_proj" else (matrix,)
            for part_name, part in zip(last.replace("gate_up_proj", "gate_proj up_proj").split(), parts, strict=True):
                weights[f"model.{prefix}.experts.{expert}.{part_name}.weight"] = part
    return {name: weight.to(torch.bfloat16).contiguous() for name, weight in weights.items()}


def hugging_face_config(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, object]:
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "torch_dtype": "bfloat16",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "num_experts": config.num_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
        "moe_intermediate_size": config.moe_intermediate_size,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "intermediate_size": config.moe_intermediate_size * config.num_experts_per_tok,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position_embeddings,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.rms_norm_eps,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "use_cache": True,
        "bos_token_id": tokenizer.token_to_id(END_OF_TEXT),
        "eos_token_id": tokenizer.token_to_id(END_OF_TEXT),
    }


def tokenizer_config(config: ModelConfig) -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.max_position_embeddings,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def generation_config(tokenizer: Tokenizer) -> dict[str, object]:
    end, turn_end = (tokenizer.token_to_id(token) for token in (END_OF_TEXT, TURN_END))
    return {
        "bos_token_id": end,
        "eos_token_id": [end, turn_end],
        "pad_token_id": end,
        "do_sample": True,
        "temperature": TEMPERATURE,
        "top_p": TOP_P,
    }
