#!/usr/bin/env python3
"""The peer on a GPU: a training step of the same Llama in compiled PyTorch.

    python peer_pytorch_gpu.py MODEL --seq 4096 --global-batch 8 [--states fp32|bf16] [--seconds 200]

Prints one line of JSON. Forward, backward, global-norm clipping and fused AdamW on random tokens; attention is
scaled_dot_product_attention, the step is torch.compile'd. --states fp32: fp32 weights and moments, bf16 autocast (what
llmplan's default keeps); bf16: everything bf16 (what fits where that does not). Micro-batches of 1, 2, 4, ... sequences
are tried while they fit, gain and time is left, the rest of the global batch is accumulated; the best is kept.
"""
import argparse
import gc
import json
import os
import sys
import time

import torch
import torch.nn as nn

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from peer_pytorch import Llama, read_model  # noqa: E402

DEVICE = os.environ.get("LLMPLAN_PEER_DEVICE", "cuda")  # cpu: to try the script out


def synchronize():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


class Trainer:
    def __init__(self, config, seq, micro_batch, accumulate, states):
        torch._dynamo.reset()
        torch.manual_seed(1234)
        self.states, self.accumulate = states, accumulate
        with torch.device(DEVICE):
            model = Llama(config, seq, "gqa", "cross_entropy")
            tokens = torch.randint(0, config["vocab"], (micro_batch, seq + 1))
        if states == "bf16":
            model = model.to(torch.bfloat16)
        self.parameters = list(model.parameters())
        self.forward = torch.compile(model)
        decay = [p for p in self.parameters if p.dim() == 2]
        rest = [p for p in self.parameters if p.dim() != 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
            lr=1e-5, betas=(0.9, 0.95), eps=1e-8, fused=True)
        self.ids, self.targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def step(self):
        for _ in range(self.accumulate):
            with torch.autocast(DEVICE, torch.bfloat16, enabled=self.states == "fp32"):
                loss = self.forward(self.ids, self.targets)
            (loss / self.accumulate).backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss


def measure(config, args, micro_batch, deadline):
    trainer = Trainer(config, args.seq, micro_batch, args.global_batch // micro_batch, args.states)
    for _ in range(2):  # compiles and warms up
        trainer.step()
    synchronize()
    seconds, loss = [], 0.0
    while len(seconds) < args.steps and (len(seconds) < 3 or time.monotonic() < deadline):
        begin = time.perf_counter()
        loss = trainer.step()
        synchronize()
        seconds.append(time.perf_counter() - begin)
    seconds.sort()
    return {"micro_batch": micro_batch, "step_s": seconds[len(seconds) // 2], "fastest_s": seconds[0],
            "slowest_s": seconds[-1], "loss": loss.item()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--seq", type=int, default=4096)
    parser.add_argument("--global-batch", type=int, default=8)
    parser.add_argument("--states", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--seconds", type=float, default=200)
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    config, deadline = read_model(args.model), time.monotonic() + args.seconds
    best, tried, micro_batch = None, [], 1
    while args.global_batch % micro_batch == 0:
        try:
            result = measure(config, args, micro_batch, deadline)
        except torch.OutOfMemoryError:
            tried.append(f"{micro_batch}: out of memory")
            break
        finally:
            gc.collect()
            if DEVICE == "cuda":
                torch.cuda.empty_cache()
        tried.append(f"{micro_batch}: {result['step_s']:.4f} s")
        print(tried[-1], file=sys.stderr, flush=True)
        slower = best is not None and result["step_s"] > 0.99 * best["step_s"]
        if best is None or result["step_s"] < best["step_s"]:
            best = result
        if slower or time.monotonic() + 0.5 * args.seconds > deadline:
            break
        micro_batch *= 2
    if best is None:
        sys.exit("nothing fitted: " + "; ".join(tried))
    best.update(tokens=args.global_batch * args.seq, tokens_per_s=args.global_batch * args.seq / best["step_s"],
                torch=torch.__version__, states=args.states, tried=tried,
                peak_memory=torch.cuda.max_memory_allocated() if DEVICE == "cuda" else None)
    print(json.dumps(best))


if __name__ == "__main__":
    main()
