#!/usr/bin/env python3
"""Golden file: attention over packed documents, as PyTorch computes it.

    python3 tools/golden/make_documents.py [tests/executor/golden/documents]

torch.nn.functional.scaled_dot_product_attention with a block-diagonal causal mask, in fp64, grouped queries.
Writes attention.safetensors:

  qkv                fp32 [batch, seq, (heads + 2 kv_heads) * head_dim]   packed: query heads, key heads, value heads
  starts             int32 [batch, seq]   where the document of each token begins
  out, dout          fp32 [batch, seq, heads * head_dim]   the result, and the gradient that it is given
  dqkv               fp32 as qkv          the gradient of qkv
"""
import json
import os
import sys

import safetensors.torch
import torch

BATCH, SEQ, HEADS, KV_HEADS, HEAD_DIM = 2, 150, 2, 1, 24
LENGTHS = [[5, 1, 60, 1, 64, 19], [128, 2, 20]]  # documents that end inside, at and across blocks of 64


def main():
    torch.manual_seed(8)
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(root, "tests/executor/golden/documents")
    document = torch.stack([torch.repeat_interleave(torch.arange(len(n)), torch.tensor(n)) for n in LENGTHS])
    starts = torch.stack([torch.repeat_interleave(torch.tensor(n).cumsum(0) - torch.tensor(n), torch.tensor(n))
                          for n in LENGTHS]).int()
    position = torch.arange(SEQ)
    mask = (document[:, :, None] == document[:, None, :]) & (position[None, :, None] >= position[None, None, :])

    qkv = torch.randn(BATCH, SEQ, (HEADS + 2 * KV_HEADS) * HEAD_DIM).requires_grad_()
    dout = torch.randn(BATCH, SEQ, HEADS * HEAD_DIM)
    split = qkv.double().view(BATCH, SEQ, HEADS + 2 * KV_HEADS, HEAD_DIM).transpose(1, 2)
    q, k, v = split.split([HEADS, KV_HEADS, KV_HEADS], dim=1)
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None], enable_gqa=True)
    out = out.transpose(1, 2).reshape(BATCH, SEQ, HEADS * HEAD_DIM)
    out.backward(dout.double())

    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "attention.safetensors")
    safetensors.torch.save_file(
        {"qkv": qkv.detach(), "starts": starts, "out": out.detach().float(), "dout": dout, "dqkv": qkv.grad},
        path, {"recipe": json.dumps({"torch": torch.__version__, "made_by": "tools/golden/make_documents.py",
                                     "heads": HEADS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM}, sort_keys=True)})
    os.chmod(path, 0o644)


if __name__ == "__main__":
    main()
