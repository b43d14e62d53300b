#!/usr/bin/env python3
"""Writes tests/profiles/golden/{param_counts,tensors}.json: what transformers itself counts.

  param_counts.json  every models/*.yaml whose model_type transformers has: the model is built on the meta
                     device from the same keys, and its parameters are counted, all and active.
                     The other model types carry counts published by their authors, with the place.
                     And each class as it is with no key given at all: its defaults.
  tensors.json       small configurations of each model_type, written so that each optional key is used and
                     each default is relied on somewhere: names and shapes in the checkpoint that
                     save_pretrained writes.

Needs torch, transformers >= 5, safetensors, pyyaml; nothing else in llmplan does.
Usage: param_counts.py [--only tensors|counts]
"""
import argparse, json, os, struct, sys, tempfile

import torch
import transformers
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OUT = os.path.join(ROOT, "tests", "profiles", "golden")
NOT_CONFIG = {"name", "model_type", "source"}

# Model types that transformers lacks: parameters as their authors state them.
PUBLISHED = {
    "baichuan-7b": (7000559616, "https://github.com/baichuan-inc/Baichuan-7B README"),
    "baichuan-13b": (13264901120, "https://github.com/baichuan-inc/Baichuan-13B README, model table"),
    "baichuan2-7b": (7000559616 + 2 * 4096 * (125696 - 64000), "Baichuan-7B's count with 125,696 rows in both embeddings (config.json of Baichuan2-7B-Base)"),
    "baichuan2-13b": (13264901120 + 2 * 5120 * (125696 - 64000), "Baichuan-13B's count with 125,696 rows in both embeddings (config.json of Baichuan2-13B-Base)"),
    # total_size 12,487,168,064 B of bf16, less rotary_pos_emb.inv_freq (32 values)
    "chatglm2-6b": (6243584000, "pytorch_model.bin.index.json of THUDM/chatglm2-6b"),
    "chatglm3-6b": (6243584000, "pytorch_model.bin.index.json of THUDM/chatglm3-6b"),
    "glm-4-9b": (9399951360, "model.safetensors.index.json of THUDM/glm-4-9b, less inv_freq"),
    "qwen-7b": (7721324544, "safetensors metadata of Qwen/Qwen-7B"),
    "qwen-14b": (14167290880, "safetensors metadata of Qwen/Qwen-14B"),
    "deepseek-moe-16b": (16375728128, "safetensors metadata of deepseek-ai/deepseek-moe-16b-base", 2828650496),
    "internlm2-7b": (7737708544, "safetensors metadata of internlm/internlm2-7b"),
    "internlm2-20b": (19861149696, "safetensors metadata of internlm/internlm2-20b"),
}

# (model_type, keys). Keys left out rely on the class's defaults; a dense one is cut down to a few layers.
SMALL = dict(hidden_size=64, num_hidden_layers=3, intermediate_size=96, num_attention_heads=4, vocab_size=128)
MOE = dict(SMALL, num_hidden_layers=4, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
MLA = dict(SMALL, num_hidden_layers=4, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
           q_lora_rank=24, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=12)
CASES = [
    ("llama", SMALL),
    ("llama", dict(SMALL, num_key_value_heads=2, attention_bias=True, mlp_bias=True, tie_word_embeddings=True)),
    ("llama", dict(SMALL, num_key_value_heads=None, head_dim=24)),
    ("mistral", dict(SMALL, num_key_value_heads=2)),
    ("mistral", dict(SMALL, num_key_value_heads=4, head_dim=32, sliding_window=None)),
    ("mixtral", dict(SMALL, num_key_value_heads=2, num_local_experts=4)),
    ("qwen2", dict(SMALL, num_key_value_heads=2)),
    ("qwen2", dict(SMALL, num_key_value_heads=None, tie_word_embeddings=True)),
    ("qwen3", dict(SMALL, num_key_value_heads=2)),
    ("qwen3", dict(SMALL, num_key_value_heads=4, head_dim=8, attention_bias=True)),
    ("qwen2_moe", dict(MOE, num_key_value_heads=2, shared_expert_intermediate_size=40)),
    ("qwen2_moe", dict(MOE, num_key_value_heads=4, shared_expert_intermediate_size=40, decoder_sparse_step=2, qkv_bias=False)),
    ("qwen3_moe", dict(MOE, num_key_value_heads=2, head_dim=24)),
    ("qwen3_moe", dict(MOE, num_key_value_heads=2, mlp_only_layers=[1, 3], attention_bias=True)),
    ("deepseek_v2", dict(MLA, first_k_dense_replace=1)),
    ("deepseek_v2", dict(MLA, q_lora_rank=None, n_shared_experts=3)),
    ("deepseek_v3", dict(MLA)),
    ("deepseek_v3", dict(MLA, first_k_dense_replace=1, n_shared_experts=2, attention_bias=True)),
    ("gpt2", dict(n_embd=64, n_layer=3, n_head=4, vocab_size=128)),
    ("gpt2", dict(n_embd=64, n_layer=2, n_head=4, vocab_size=128, n_inner=80, n_positions=32, tie_word_embeddings=False)),
    ("gpt_neox", dict(SMALL)),
    ("gpt_neox", dict(SMALL, attention_bias=False, tie_word_embeddings=True, use_parallel_residual=False)),
    ("bloom", dict(n_layer=3, n_head=4, vocab_size=128)),
    ("bloom", dict(n_embed=32, n_layer=2, n_head=4, vocab_size=128)),
    ("opt", dict(hidden_size=64, num_hidden_layers=2, ffn_dim=96, num_attention_heads=4, vocab_size=128)),
    ("opt", dict(hidden_size=64, num_hidden_layers=2, ffn_dim=96, num_attention_heads=4, vocab_size=128,
                 word_embed_proj_dim=32, do_layer_norm_before=False, max_position_embeddings=16)),
    ("opt", dict(hidden_size=64, num_hidden_layers=2, ffn_dim=96, num_attention_heads=4, vocab_size=128,
                 enable_bias=False, layer_norm_elementwise_affine=False)),
    ("falcon", dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=128)),
    ("falcon", dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=128, num_kv_heads=2,
                    new_decoder_architecture=True, tie_word_embeddings=False)),
    ("falcon", dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=128, multi_query=False,
                    parallel_attn=False, bias=True, alibi=True, ffn_hidden_size=100)),
    ("falcon", dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=128, num_kv_heads=2,
                    new_decoder_architecture=True, num_ln_in_parallel_attn=1)),
    ("gemma", dict(SMALL, num_key_value_heads=1, head_dim=16)),
    ("gemma2", dict(SMALL, num_key_value_heads=2, head_dim=24)),
    ("gemma2", dict(SMALL, tie_word_embeddings=False, attention_bias=True)),
    ("gemma3_text", dict(SMALL, num_key_value_heads=2, head_dim=24)),
    ("phi3", dict(SMALL, pad_token_id=0)),
    ("phi3", dict(SMALL, num_key_value_heads=2, tie_word_embeddings=True, pad_token_id=0)),
    ("nemotron", dict(SMALL, num_key_value_heads=2)),
    ("mpt", dict(d_model=64, n_layers=2, n_heads=4, vocab_size=128)),
    # Defaults alone, where a class's default model is small enough to be written.
    ("gpt2", {}),
    ("bloom", {"vocab_size": 1000}),
    ("opt", {}),
    ("qwen2_moe", {"num_hidden_layers": 1, "vocab_size": 1000, "num_experts": 5}),
]


def shapes(model):
    """Names and shapes in the checkpoint, as Hugging Face writes it."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, max_shard_size="100GB")
        with open(os.path.join(folder, "model.safetensors"), "rb") as f:
            header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
    header.pop("__metadata__", None)
    return {name: entry["shape"] for name, entry in sorted(header.items())}


def count(model):
    """All parameters (tied ones once) and those that one token passes through."""
    config = model.config
    experts = getattr(config, "num_local_experts", None) or getattr(config, "n_routed_experts", None) or \
        getattr(config, "num_experts", None)
    per_token = getattr(config, "num_experts_per_tok", None)
    total = active = 0
    for name, p in model.named_parameters():
        total += p.numel()
        if ".experts." in name:
            assert p.numel() % experts == 0 and per_token
            active += p.numel() // experts * per_token
        else:
            active += p.numel()
    return total, active


def write(name, value):
    with open(os.path.join(OUT, name), "w") as f:
        json.dump(value, f, indent=1)
        f.write("\n")
    print("wrote", os.path.join(OUT, name))


def tensors():
    out = []
    for model_type, keys in CASES:
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **keys))
        out.append({"config": {"model_type": model_type, **keys}, "parameters": sum(p.numel() for p in model.parameters()),
                    "active": count(model)[1], "tensors": shapes(model)})
        print(model_type, keys, out[-1]["parameters"])
    write("tensors.json", {"versions": {"transformers": transformers.__version__, "torch": torch.__version__}, "cases": out})


def meta_count(config):
    with torch.device("meta"):
        return count(AutoModelForCausalLM.from_config(config))


def counts():
    out = {}
    for file in sorted(os.listdir(os.path.join(ROOT, "models"))):
        with open(os.path.join(ROOT, "models", file)) as f:
            keys = yaml.load(f, Loader=yaml.BaseLoader)
        name, model_type = keys["name"], keys["model_type"]
        # yaml 1.1 reads 1e-5 as text; JSON reads it as everybody expects.
        config = {k: json_value(v) for k, v in keys.items() if k not in NOT_CONFIG}
        if name in PUBLISHED:
            out[name] = dict(zip(("parameters", "source", "active"), PUBLISHED[name]))
            continue
        try:
            config = AutoConfig.for_model(model_type, **config)
        except ValueError:
            print("no class and no published count:", name)
            continue
        total, active = meta_count(config)
        out[name] = {"parameters": total, "active": active, "source": "transformers"}
        print(name, total, active)
    defaults = {}
    for model_type in sorted({t for t, _ in CASES}):
        # The two classes that have no default for these.
        keys = {"deepseek_v2": {"num_experts_per_tok": 6}, "nemotron": {"num_key_value_heads": 8}}.get(model_type, {})
        total, active = meta_count(AutoConfig.for_model(model_type, **keys))
        defaults[model_type] = {"config": {"model_type": model_type, **keys}, "parameters": total, "active": active}
    write("param_counts.json", {"versions": {"transformers": transformers.__version__, "torch": torch.__version__},
                                "models": out, "defaults": defaults})


def json_value(v):
    if isinstance(v, dict):
        return {k: json_value(x) for k, x in v.items()}
    if isinstance(v, list):
        return [json_value(x) for x in v]
    try:
        return json.loads(v)
    except ValueError:
        return v


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["tensors", "counts"])
    only = parser.parse_args().only
    os.makedirs(OUT, exist_ok=True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if only != "counts": tensors()
    if only != "tensors": counts()
