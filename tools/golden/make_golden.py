#!/usr/bin/env python3
"""Golden files: what Hugging Face transformers on PyTorch computes for tiny Llama models.

    python3 tools/golden/make_golden.py [tests/executor/golden [MODEL...]]

Needs torch, transformers >= 5 and safetensors; nothing else in llmplan does. Per model it writes

  config.json            as transformers saves it
  initial.safetensors    the initial weights under their Hugging Face names, fp32
  golden.safetensors     what training from there must give; shapes and names:
    ids, targets         int32 [steps, batch, seq]; target -100: no loss there
    losses               fp64 [steps]  mean loss per counted token, before each step's update
    grad_norms           fp64 [steps]  global norm before clipping
    gradients.<name>     fp32          of the mean loss at step 1, before clipping
    weights.<name>       fp32          after all steps
    fp32_distance.{losses,gradients.<name>,weights.<name>}
                         fp64 []       how far plain transformers in fp32 is from these values:
                                       |a - b| / |b|, Euclidean norms (for losses: the worst step)
    bf16_distance.{losses,gradients.<name>}
                         fp64 []       the same of transformers in bf16 with these initial weights: the gradients of
                         step 1, and the losses of all batches before any update
  and learning rates, betas, versions, ... as JSON in __metadata__.recipe.

The values are computed in fp64 and rounded once, so a test measures its own error against the truth
and can put PyTorch's own fp32 error beside it. Three parts of transformers force fp32 (RMSNorm, the
RoPE tables, the loss); the fp64 run replaces them by their formulas, and the script fails unless the
untouched fp32 run agrees with it to 1e-6.
"""
import json
import math
import os
import sys

import safetensors.torch
import torch
import torch.nn.functional as F
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

STEPS, BATCH = 5, 4
LEARNING_RATES = [1e-3, 2e-3, 3e-3, 2.5e-3, 2e-3]
BETAS, EPS, WEIGHT_DECAY, CLIP = (0.9, 0.95), 1e-8, 0.1, 1.0

# The seeds are well-conditioned ones: Adam's first updates have the gradient's sign, so an element whose
# gradient is nearly zero moves by twice the learning rate on rounding alone (PyTorch's own fp32 weights
# are then 1e-5 off). With these, fp32 weights after 5 steps are within 1e-6 of the truth.
# Neither hidden size, head size, feed-forward size nor vocabulary is a power of two or a multiple of
# a vector register; the query heads share key/value heads in pairs.
MODELS = {
    "gqa_untied": dict(
        seq=28, seed=17, ignored=0.0,
        config=dict(hidden_size=72, intermediate_size=92, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=2, vocab_size=283, max_position_embeddings=64,
                    rms_norm_eps=1e-5, tie_word_embeddings=False,
                    rope_parameters=dict(rope_type="default", rope_theta=50000.0))),
    # Llama-3 scaling with a context so short that frequencies are kept, blended and divided; a sixth
    # of the targets do not count, unevenly over the sequences.
    "gqa_tied_llama3_rope": dict(
        seq=32, seed=20, ignored=1 / 6,
        config=dict(hidden_size=80, intermediate_size=100, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=2, vocab_size=301, max_position_embeddings=64,
                    rms_norm_eps=1e-6, tie_word_embeddings=True,
                    rope_parameters=dict(rope_type="llama3", rope_theta=20000.0, factor=8.0,
                                         low_freq_factor=1.0, high_freq_factor=4.0,
                                         original_max_position_embeddings=32))),
    # Sizes that the GPU kernels take in every precision: rows of whole 16-byte vectors, a head size with a
    # tensor-core kernel. The head size is not hidden_size / heads.
    "gpu_head64": dict(
        seq=24, seed=8, ignored=0.0,
        config=dict(hidden_size=40, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=2, head_dim=64, vocab_size=136, max_position_embeddings=64,
                    rms_norm_eps=1e-5, tie_word_embeddings=False,
                    rope_parameters=dict(rope_type="default", rope_theta=10000.0))),
}


def inverse_frequencies(config):
    """theta^(-2i/d); Llama 3 divides long wavelengths by `factor` and blends in between."""
    rope, d = config.rope_parameters, config.head_dim
    result = []
    for i in range(d // 2):
        f = rope["rope_theta"] ** (-2 * i / d)
        if rope["rope_type"] == "llama3":
            turns = rope["original_max_position_embeddings"] * f / (2 * math.pi)
            low, high = rope["low_freq_factor"], rope["high_freq_factor"]
            keep = min(1.0, max(0.0, (turns - low) / (high - low)))
            f = keep * f + (1 - keep) * f / rope["factor"]
        result.append(f)
    return torch.tensor(result, dtype=torch.float64)


class Rope64(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.frequencies = inverse_frequencies(config)

    def forward(self, x, position_ids):
        angles = position_ids[:, :, None].double() * self.frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()


class RmsNorm64(torch.nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


def to_fp64(model):
    model = model.double()
    scaled = model.model.rotary_emb.inv_freq.double()
    exact = inverse_frequencies(model.config)
    assert ((scaled - exact).abs() / exact).max() < 1e-5, "transformers scales RoPE differently"
    model.model.rotary_emb = Rope64(model.config)
    for layer in model.model.layers:
        layer.input_layernorm = RmsNorm64(layer.input_layernorm)
        layer.post_attention_layernorm = RmsNorm64(layer.post_attention_layernorm)
    model.model.norm = RmsNorm64(model.model.norm)
    return model


def train(model, ids, targets):
    """Returns losses, gradient norms, the gradients of step 1, and the final weights."""
    params = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in params.values() if p.dim() == 2], "weight_decay": WEIGHT_DECAY},
         {"params": [p for p in params.values() if p.dim() != 2], "weight_decay": 0.0}],
        lr=0.0, betas=BETAS, eps=EPS)
    losses, norms, gradients = [], [], None
    for step in range(STEPS):
        logits = model(input_ids=ids[step].long(), use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1), targets[step].long().flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            gradients = {n: p.grad.detach().clone() for n, p in params.items()}
        norms.append(torch.nn.utils.clip_grad_norm_(params.values(), CLIP).item())
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATES[step]
        optimizer.step()
    weights = {n: p.detach().clone() for n, p in params.items()}
    return torch.tensor(losses, dtype=torch.float64), torch.tensor(norms, dtype=torch.float64), \
        gradients, weights


def first_passes(model, ids, targets):
    """Losses of all batches with the model's weights as they are, and the gradients of the first."""
    losses = []
    for step in range(STEPS):
        logits = model(input_ids=ids[step].long(), use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1).to(torch.float64 if logits.dtype == torch.float64 else torch.float32),
                               targets[step].long().flatten(), ignore_index=-100)
        if step == 0:
            loss.backward()
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64), {n: p.grad.detach().clone() for n, p in model.named_parameters()}


def distance(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).reshape(())


def make(name, recipe, folder):
    torch.manual_seed(recipe["seed"])
    config = LlamaConfig(**recipe["config"], attention_bias=False, mlp_bias=False,
                         attn_implementation="sdpa")
    config.architectures = ["LlamaForCausalLM"]
    config.dtype = "float32"

    # Larger than the usual 0.02, so that attention is far from uniform and the gradient gets clipped;
    # norm weights away from 1, so that a missing factor shows.
    initial = {}
    for n, p in LlamaForCausalLM(config).named_parameters():
        values = torch.randn(p.shape) * (0.5 / math.sqrt(p.shape[-1])) if p.dim() == 2 else \
            1 + 0.2 * torch.randn(p.shape)
        initial[n] = values.float().contiguous()

    shape = (STEPS, BATCH, recipe["seq"])
    tokens = torch.randint(0, config.vocab_size, (STEPS, BATCH, recipe["seq"] + 1))
    ids, targets = tokens[..., :-1].int().contiguous(), tokens[..., 1:].int().contiguous()
    if recipe["ignored"] > 0:
        chance = recipe["ignored"] * torch.linspace(0, 2, BATCH)[None, :, None]  # per sequence
        targets[torch.rand(shape) < chance] = -100

    def fresh():
        model = LlamaForCausalLM(config)
        missing = model.load_state_dict(initial, strict=False)
        assert set(missing.missing_keys) <= {"lm_head.weight"} and not missing.unexpected_keys
        model.tie_weights()
        return model

    losses, norms, gradients, weights = train(to_fp64(fresh()), ids, targets)
    losses32, _, gradients32, weights32 = train(fresh().float(), ids, targets)
    assert (norms > CLIP).any(), "no step clips"

    golden = {"ids": ids, "targets": targets, "losses": losses, "grad_norms": norms,
              "fp32_distance.losses": ((losses32 - losses).abs() / losses).max()}
    for kind, exact, fp32 in (("gradients", gradients, gradients32), ("weights", weights, weights32)):
        for n in exact:
            golden[f"{kind}.{n}"] = exact[n].float().contiguous()
            golden[f"fp32_distance.{kind}.{n}"] = distance(fp32[n], exact[n])
            assert golden[f"fp32_distance.{kind}.{n}"] < 1e-6, (kind, n)
    assert golden["fp32_distance.losses"] < 1e-6

    exact_losses, exact = first_passes(to_fp64(fresh()), ids, targets)
    bf16_losses, bf16 = first_passes(fresh().bfloat16(), ids, targets)
    golden["bf16_distance.losses"] = ((bf16_losses - exact_losses).abs() / exact_losses).max()
    for n in exact:
        golden[f"bf16_distance.gradients.{n}"] = distance(bf16[n], exact[n])

    # One metadata entry: the order of several would differ from run to run.
    metadata = {"recipe": json.dumps({
        "torch": torch.__version__, "transformers": transformers.__version__, "seed": recipe["seed"],
        "optimizer": "torch.optim.AdamW; decay on 2-D tensors only; clip_grad_norm_ before each step",
        "learning_rates": LEARNING_RATES, "betas": BETAS, "eps": EPS, "weight_decay": WEIGHT_DECAY,
        "clip": CLIP, "made_by": "tools/golden/make_golden.py"}, sort_keys=True)}
    out = os.path.join(folder, name)
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "config.json"), "w") as f:
        f.write(config.to_json_string())
    safetensors.torch.save_file(initial, os.path.join(out, "initial.safetensors"), {"format": "pt"})
    safetensors.torch.save_file(golden, os.path.join(out, "golden.safetensors"), metadata)

    for f in ("initial", "golden"):
        os.chmod(os.path.join(out, f + ".safetensors"), 0o644)

    worst = {k: max(v.item() for n, v in golden.items() if n.startswith(f"fp32_distance.{k}"))
             for k in ("losses", "gradients", "weights")}
    print(f"{name}: {sum(p.numel() for p in initial.values())} parameters, losses "
          f"{[round(x, 6) for x in losses.tolist()]}, norms {[round(x, 4) for x in norms.tolist()]}, "
          f"counted {[(t >= 0).sum().item() for t in targets]}, fp32 distance {worst}")


def main():
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(root, "tests/executor/golden")
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        for name in sys.argv[2:] or MODELS:
            make(name, MODELS[name], folder)


if __name__ == "__main__":
    main()
