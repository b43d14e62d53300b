#!/usr/bin/env python3
"""The peer: a training step of the same Llama in PyTorch, as fast as PyTorch can be made to go.

    python peer_pytorch.py [MODEL...] [--threads 2] [--seq 512]   find the best settings, print them
    python peer_pytorch.py --serve                                answer requests on stdin (see `run`)

Forward, backward, global-norm clipping and AdamW in fp32, on random tokens. QKV and gate/up are one
matrix each, attention is scaled_dot_product_attention, AdamW is the fused one, denormals are flushed.
What a user could still choose is tried out per model and the best is kept: the batch (4, 8, 16
sequences), grouped queries by enable_gqa or by repeating heads, cross_entropy or
linear_cross_entropy, and for torch.compile its default or max-autotune mode.
"""
import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time

# glibc would give the large activations back to the kernel after every use, and fault them in again.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(4 << 30), "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
               "MALLOC_TOP_PAD_": str(64 << 20), "THP_MEM_ALLOC_ENABLE": "1",
               # Waiting threads sleep: on a shared machine a spinning one takes its own neighbour's core.
               "OMP_WAIT_POLICY": "passive"}


def unlock_mkl(folder):
    """MKL takes its AVX2 path on CPUs that are not Intel's, at half the speed of AVX-512. A preloaded
    function that answers for the vendor check changes that; few users know, so it is a peer of its own."""
    library = os.path.join(folder, "mkl_any_vendor.so")
    subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-x", "c", "-", "-o", library], check=True,
                   input=b"int mkl_serv_intel_cpu_true(void) { return 1; }")
    return {"LD_PRELOAD": library}


def restart_with_environment():
    missing = {k: v for k, v in ENVIRONMENT.items() if k not in os.environ}
    if "--mkl-avx512" in sys.argv and "mkl_any_vendor" not in os.environ.get("LD_PRELOAD", ""):
        missing.update(unlock_mkl(tempfile.mkdtemp(prefix="llmplan-bench-")))
    if missing:
        os.environ.update(missing)
        os.execv(sys.executable, [sys.executable] + sys.argv)


if __name__ == "__main__":
    restart_with_environment()

import torch
import torch.nn as nn
import torch.nn.functional as F

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODELS = ["tiny-9m", "tiny-25m", "tiny-56m"]


def read_model(name):
    """Flat `key: value` lines; enough for models/*.yaml of Llama-family models."""
    path = name if name.endswith(".yaml") else os.path.join(ROOT, "models", name + ".yaml")
    config = {}
    with open(path) as f:
        for line in f:
            key, colon, value = line.split("#")[0].partition(":")
            if colon and value.strip() and not key.startswith(" "):
                config[key.strip()] = value.strip().strip('"')
    heads = int(config["num_attention_heads"])
    hidden = int(config["hidden_size"])
    return dict(hidden=hidden, layers=int(config["num_hidden_layers"]), heads=heads,
                ffn=int(config["intermediate_size"]), vocab=int(config["vocab_size"]),
                kv_heads=int(config.get("num_key_value_heads", heads)),
                head_dim=int(config.get("head_dim", hidden // heads)),
                tied=config.get("tie_word_embeddings", "false").lower() == "true",
                eps=float(config.get("rms_norm_eps", 1e-5)), theta=float(config.get("rope_theta", 1e4)))


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class Block(nn.Module):
    def __init__(self, c, attention):
        super().__init__()
        self.c, self.attention = c, attention
        d, hd = c["hidden"], c["head_dim"]
        self.norm1 = nn.Parameter(torch.ones(d))
        self.norm2 = nn.Parameter(torch.ones(d))
        self.qkv = nn.Linear(d, (c["heads"] + 2 * c["kv_heads"]) * hd, bias=False)
        self.out = nn.Linear(c["heads"] * hd, d, bias=False)
        self.gate_up = nn.Linear(d, 2 * c["ffn"], bias=False)
        self.down = nn.Linear(c["ffn"], d, bias=False)

    def forward(self, x, cos, sin):
        c, (b, t, d) = self.c, x.shape
        h, kv, hd = c["heads"], c["kv_heads"], c["head_dim"]
        qkv = self.qkv(F.rms_norm(x, (d,), self.norm1, c["eps"])).view(b, t, h + 2 * kv, hd)
        q, k, v = qkv.transpose(1, 2).split((h, kv, kv), dim=1)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        grouped = h != kv
        if grouped and self.attention == "repeat":
            k, v = k.repeat_interleave(h // kv, 1), v.repeat_interleave(h // kv, 1)
            grouped = False
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, h * hd))
        gate, up = self.gate_up(F.rms_norm(x, (d,), self.norm2, c["eps"])).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Llama(nn.Module):
    def __init__(self, c, seq, attention, loss):
        super().__init__()
        self.c, self.loss = c, loss
        self.embedding = nn.Embedding(c["vocab"], c["hidden"])
        self.blocks = nn.ModuleList(Block(c, attention) for _ in range(c["layers"]))
        self.norm = nn.Parameter(torch.ones(c["hidden"]))
        self.head = nn.Linear(c["hidden"], c["vocab"], bias=False)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)
        if c["tied"]:
            self.head.weight = self.embedding.weight
        f = c["theta"] ** (-torch.arange(0, c["head_dim"], 2) / c["head_dim"])
        angles = torch.cat((torch.outer(torch.arange(seq), f),) * 2, -1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, ids, targets):
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        x = F.rms_norm(x, (self.c["hidden"],), self.norm, self.c["eps"]).flatten(0, 1)
        if self.loss == "linear_cross_entropy":
            return F.linear_cross_entropy(x, self.head.weight, targets.flatten())
        return F.cross_entropy(self.head(x), targets.flatten())


class Trainer:
    """One model with its optimizer; step() is one full training step."""

    def __init__(self, name, seq, batch, mode="eager", attention="repeat", loss="cross_entropy"):
        torch._dynamo.reset()
        torch.manual_seed(1234)
        self.config, self.seq, self.batch = read_model(name), seq, batch
        self.model = Llama(self.config, seq, attention, loss)
        self.forward = self.model
        if mode == "compile":
            self.forward = torch.compile(self.model)
        elif mode == "compile-max":
            self.forward = torch.compile(self.model, mode="max-autotune-no-cudagraphs")
        decay = [p for p in self.model.parameters() if p.dim() == 2]
        rest = [p for p in self.model.parameters() if p.dim() != 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
            lr=1e-3, betas=(0.9, 0.95), eps=1e-8, fused=True)
        tokens = torch.randint(0, self.config["vocab"], (batch, seq + 1))
        self.ids, self.targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def step(self):
        loss = self.forward(self.ids, self.targets)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


def measure(trainer, steps):
    wall, cpu, loss = [], [], 0.0
    for _ in range(steps):
        c, t = time.process_time(), time.perf_counter()
        loss = trainer.step()
        wall.append(time.perf_counter() - t)
        cpu.append(time.process_time() - c)
    return {"step_s": wall, "cpu_s": cpu, "tokens": trainer.batch * trainer.seq, "loss": loss}


def gemm_rate(name, seq, batch, repeat=5):
    """FLOP/s, and FLOP per CPU second, of the model's own matrix products, forward, input and weight gradient, alone."""
    c, rows = read_model(name), seq * batch
    d, hd = c["hidden"], c["head_dim"]
    shapes = [((c["heads"] + 2 * c["kv_heads"]) * hd, d, c["layers"]), (d, c["heads"] * hd, c["layers"]),
              (2 * c["ffn"], d, c["layers"]), (d, c["ffn"], c["layers"]), (c["vocab"], d, 1)]
    flops = seconds = cpu = 0.0
    for n, k, count in shapes:
        x, w, dy = torch.randn(rows, k), torch.randn(n, k), torch.randn(rows, n)
        for product in (lambda: F.linear(x, w), lambda: dy @ w, lambda: dy.t() @ x):
            wall, process = [], []
            for _ in range(repeat):
                c, t = time.process_time(), time.perf_counter()
                product()
                wall.append(time.perf_counter() - t)
                process.append(time.process_time() - c)
            seconds += count * min(wall)
            cpu += count * min(process)
            flops += count * 2.0 * rows * n * k
    return {"flops_per_s": flops / seconds, "flops_per_cpu_s": flops / cpu}


# What a user could choose, by kind. Tried one after another, best kept.
def best_settings(name, seq, kind, batches, log):
    def rate(settings):
        try:
            trainer = Trainer(name, seq, **settings)
            trainer.step()
            trainer.step()
            m = measure(trainer, 4)
        except Exception as e:  # a combination that this PyTorch cannot do is no candidate
            log(f"{name} {settings}: {type(e).__name__}: {str(e).splitlines()[0][:100]}")
            return 0.0
        finally:
            trainer = None
            gc.collect()
        value = m["tokens"] / min(m["step_s"])  # a neighbour on the machine only ever slows a step down
        log(f"{name} {settings}: {value:.0f} tokens/s")
        return value

    best = dict(batch=batches[0], mode=kind, attention="repeat", loss="cross_entropy")
    best_rate = rate(best)
    choices = [("attention", ["gqa"]), ("loss", ["linear_cross_entropy"]), ("batch", batches[1:])]
    if kind == "compile":
        choices.append(("mode", ["compile-max"]))
    for key, values in choices:
        for value in values:
            candidate = dict(best, **{key: value})
            if (r := rate(candidate)) > best_rate * 1.01:
                best, best_rate = candidate, r
    return best, best_rate


def versions():
    return {"torch": torch.__version__, "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "mkl_avx512": "mkl_any_vendor" in os.environ.get("LD_PRELOAD", "")}


def serve():
    """One JSON request a line: {"model", "seq", "settings", "steps"}, {"gemm": model, "seq", "batch"},
    {"best": model, "seq", "kind", "batches"}, {"drop"} or {"versions"}. One JSON reply each."""
    cache = {}
    for line in sys.stdin:
        request = json.loads(line)
        log = lambda text: print(text, file=sys.stderr, flush=True)
        if "versions" in request:
            reply = versions()
        elif "gemm" in request:
            reply = gemm_rate(request["gemm"], request["seq"], request["batch"])
        elif "best" in request:
            settings, rate = best_settings(request["best"], request["seq"], request["kind"],
                                           request["batches"], log)
            reply = {"settings": settings, "tokens_per_s": rate}
        elif "drop" in request:
            cache.clear()
            gc.collect()
            reply = {}
        else:
            key = json.dumps([request["model"], request["seq"], request["settings"]])
            if key not in cache:
                cache[key] = Trainer(request["model"], request["seq"], **request["settings"])
                cache[key].step()  # compiles
                cache[key].step()
            reply = measure(cache[key], request["steps"])
        print(json.dumps(reply), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--batch", type=int, nargs="*", default=[8, 4, 16])
    parser.add_argument("--kinds", nargs="*", default=["eager", "compile"])
    parser.add_argument("--mkl-avx512", action="store_true", help="let MKL use AVX-512 on any vendor's CPU")
    parser.add_argument("--serve", action="store_true")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision("highest")  # the others would no longer compute in fp32
    if args.serve:
        return serve()
    log = lambda text: print(text, file=sys.stderr, flush=True)
    results = []
    for name in args.models:
        for kind in args.kinds:
            settings, rate = best_settings(name, args.seq, kind, args.batch, log)
            gemm = gemm_rate(name, args.seq, settings["batch"])
            results.append({"model": name, "kind": kind, "settings": settings, "tokens_per_s": rate,
                            "gemm": gemm})
    print(json.dumps({"threads": args.threads, "seq": args.seq, **versions(), "results": results}, indent=1))


if __name__ == "__main__":
    main()
