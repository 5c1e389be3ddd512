#!/usr/bin/env python3
"""Golden tensors of layers and operations, from PyTorch in f64:  layers.py OUTPUT.safetensors

A case CASE has its parameters as CASE/p/NAME, inputs as CASE/x, CASE/y, ..., results as CASE/out, CASE/out2, ... and the gradients of
sum(out * CASE/d) as CASE/g/NAME. All inputs are f32 numbers; results are rounded to f32 at the end. Needs torch and numpy.
"""
import json
import math
import struct
import sys

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
torch.manual_seed(20)
tensors = {}


def put(name, value):
    array = value.detach().numpy() if torch.is_tensor(value) else np.asarray(value)
    tensors[name] = array.astype(np.float32) if array.dtype.kind == "f" else array.astype(np.int64 if array.dtype == np.int64 else np.int32)


def exact(tensor):
    """The nearest f32 numbers, so that both sides start from the same ones."""
    return tensor.to(torch.float32).to(torch.float64)


def draw(*shape, scale=1.0):
    return exact(torch.randn(*shape) * scale)


def settle(module):
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(exact(torch.randn_like(p) * 0.4))
    return module


def record(case, module, inputs, call, grads=("x",)):
    """Runs call(inputs...), stores parameters, inputs, results and gradients."""
    if module is not None:
        for name, p in module.named_parameters():
            put(f"{case}/p/{name}", p)
    for name, value in inputs.items():
        put(f"{case}/{name}", value)
        if name in grads:
            value.requires_grad_(True)
    out = call(**inputs)
    outs = out if isinstance(out, tuple) else (out,)
    direction = draw(*outs[0].shape)
    put(f"{case}/d", direction)
    for i, o in enumerate(outs):
        put(f"{case}/out{i + 1 if i else ''}", o)
    (outs[0] * direction).sum().backward()
    if module is not None:
        for name, p in module.named_parameters():
            if p.grad is not None:
                put(f"{case}/g/{name}", p.grad)
    for name in grads:
        put(f"{case}/g/{name}", inputs[name].grad)


def simple(case, module, **inputs):
    record(case, settle(module), inputs, lambda x: module(x))


simple("linear", nn.Linear(6, 5), x=draw(2, 3, 6))
simple("conv1d", nn.Conv1d(3, 4, 3, padding=2, dilation=2), x=draw(2, 3, 9))
simple("conv2d", nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), x=draw(2, 4, 7, 6))
simple("conv2d_axes", nn.Conv2d(2, 3, (1, 5), stride=(1, 2), padding=(0, 2), bias=False), x=draw(1, 2, 3, 8))
simple("conv3d", nn.Conv3d(2, 3, 3, padding=1), x=draw(1, 2, 3, 4, 3))
simple("transpose2d", nn.ConvTranspose2d(3, 4, 4, stride=2, padding=1), x=draw(2, 3, 3, 4))
simple("transpose2d_groups", nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), x=draw(1, 4, 3, 2))
simple("layer_norm", nn.LayerNorm(7), x=draw(2, 3, 7))
simple("rms_norm", nn.RMSNorm(6, eps=1e-6), x=draw(2, 2, 6))
simple("group_norm", nn.GroupNorm(2, 6), x=draw(2, 6, 3, 2))
simple("instance_norm", nn.InstanceNorm2d(3, affine=True), x=draw(2, 3, 3, 3))

# Batch norm: two training steps, then evaluation with what they left behind.
norm = settle(nn.BatchNorm2d(3))
first = draw(2, 3, 3, 2, scale=2)
put("batch_norm/first", first)
norm(first)
record("batch_norm", norm, {"x": draw(2, 3, 3, 2) + 1}, lambda x: norm(x))
put("batch_norm/running_mean", norm.running_mean)
put("batch_norm/running_var", norm.running_var)
norm.eval()
put("batch_norm/evaluated", norm(torch.tensor(tensors["batch_norm/x"].astype(np.float64))))

table = settle(nn.Embedding(5, 3))
record("embedding", table, {"ids": torch.tensor([[0, 4, 2], [2, 2, 1]])}, lambda ids: table(ids), grads=())


# Recurrent layers: torch's packed sequences are our lengths.
def run_packed(net, x, lengths):
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    y, last = net(packed)
    y, _ = nn.utils.rnn.pad_packed_sequence(y, total_length=x.shape[0])
    return (y,) + (last if isinstance(last, tuple) else (last,))


lengths = torch.tensor([4, 2, 5])
put("lstm_packed/length", lengths.to(torch.int32))
lstm = settle(nn.LSTM(3, 4, num_layers=2, bidirectional=True))
record("lstm_packed", lstm, {"x": draw(5, 3, 3)}, lambda x: run_packed(lstm, x, lengths))
put("gru_packed/length", lengths.to(torch.int32))
gru = settle(nn.GRU(2, 3, bidirectional=True))
record("gru_packed", gru, {"x": draw(5, 3, 2)}, lambda x: run_packed(gru, x, lengths))
lstm_state = settle(nn.LSTM(3, 4, batch_first=True, bias=False))


def flatten_lstm(x, h0, c0):
    y, (h, c) = lstm_state(x, (h0, c0))
    return y, h, c


record("lstm_state", lstm_state, {"x": draw(2, 4, 3), "h0": draw(1, 2, 4), "c0": draw(1, 2, 4)}, flatten_lstm, ("x", "h0", "c0"))
gru_state = settle(nn.GRU(3, 4, num_layers=2))
record("gru_state", gru_state, {"x": draw(4, 2, 3), "h0": draw(2, 2, 4)}, lambda x, h0: gru_state(x, h0), ("x", "h0"))


# Attention: ours is [B, L, H, Q], torch's [B, H, L, Q].
def attention(q, k, v, **options):
    swap = lambda t: t.transpose(1, 2)
    return swap(F.scaled_dot_product_attention(swap(q), swap(k), swap(v), **options))


qkv = ("q", "k", "v")
record("attention", None, {"q": draw(2, 4, 2, 3), "k": draw(2, 5, 2, 3), "v": draw(2, 5, 2, 3)}, attention, qkv)
record("attention_causal", None, {"q": draw(1, 5, 4, 4), "k": draw(1, 5, 2, 4), "v": draw(1, 5, 2, 4)},
       lambda q, k, v: attention(q, k, v, is_causal=True, enable_gqa=True), qkv)
bias = draw(1, 2, 3, 4)
put("attention_bias/bias", bias)
record("attention_bias", None, {"q": draw(2, 3, 2, 4), "k": draw(2, 4, 2, 4), "v": draw(2, 4, 2, 4)},
       lambda q, k, v: attention(q, k, v, attn_mask=bias.expand(2, 2, 3, 4), scale=0.3), qkv)


# Bilinear samples: ours are in pixels, torch's in [-1, 1] between the corners.
def sample(border):
    def call(image, grid):
        size = torch.tensor([image.shape[3] - 1.0, image.shape[2] - 1.0])
        return F.grid_sample(image, grid / size * 2 - 1, padding_mode=border, align_corners=True)
    return call


# away from whole numbers, where the derivative jumps
grid = exact(torch.floor(torch.rand(2, 3, 4, 2) * 7 - 1.5) + 0.2 + 0.6 * torch.rand(2, 3, 4, 2))
record("sample_zero", None, {"image": draw(2, 3, 4, 5), "grid": grid.clone()}, sample("zeros"), ("image", "grid"))
record("sample_clamp", None, {"image": draw(2, 3, 4, 5), "grid": grid.clone()}, sample("border"), ("image", "grid"))

labels = torch.tensor([2, 0, -1, 4])
put("cross_entropy/labels", labels)
record("cross_entropy", None, {"x": draw(4, 5, scale=3)}, lambda x: F.cross_entropy(x, labels, ignore_index=-1, reduction="none"))
put("cross_entropy_smooth/labels", labels)
record("cross_entropy_smooth", None, {"x": draw(4, 5, scale=3)},
       lambda x: F.cross_entropy(x, labels, ignore_index=-1, label_smoothing=0.2, reduction="none"))


# A whole ResNet-18, 3x3 stem, 4 channels in the first stage. Its parameters are a formula, to spare their bytes.
class Block(nn.Module):
    def __init__(self, inside, width, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inside, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or inside != width:
            self.downsample = nn.Sequential(nn.Conv2d(inside, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (self.downsample(x) if self.downsample else x))


class ResNet18(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        inside = width
        for stage in range(4):
            out = width << stage
            blocks = [Block(inside, out, 1 if stage == 0 else 2), Block(out, out, 1)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            inside = out
        self.fc = nn.Linear(inside, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in range(4):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.fc(x.mean((2, 3)))


net = ResNet18(4, 5)
with torch.no_grad():
    for name, p in net.named_parameters():
        values = [0.3 * math.sin(1.7 * i + len(name)) + (1 if p.dim() == 1 and name.endswith("weight") else 0) for i in range(p.numel())]
        p.copy_(exact(torch.tensor(values).reshape(p.shape)))
image, direction = draw(2, 3, 16, 16), draw(2, 5)
put("resnet/x", image)
put("resnet/d", direction)
logits = net(image)
put("resnet/out", logits)
(logits * direction).sum().backward()
for name in ("conv1.weight", "bn1.bias", "layer2.0.downsample.0.weight", "layer4.1.bn2.weight", "fc.bias"):
    put(f"resnet/g/{name}", dict(net.named_parameters())[name].grad)
put("resnet/parameters", np.array(sum(p.numel() for p in net.parameters()), dtype=np.int64))
for name in ("bn1.running_mean", "layer4.1.bn2.running_var"):
    put(f"resnet/s/{name}", dict(net.named_buffers())[name])

kinds = {"float32": "F32", "int32": "I32", "int64": "I64"}
header, offset, body = {"__metadata__": {"made_by": f"layers.py with torch {torch.__version__.split('+')[0]}"}}, 0, []
for name, array in tensors.items():
    array = np.ascontiguousarray(array)
    header[name] = {"dtype": kinds[array.dtype.name], "shape": list(tensors[name].shape), "data_offsets": [offset, offset + array.nbytes]}
    offset += array.nbytes
    body.append(array.tobytes())
text = json.dumps(header, separators=(",", ":")).encode()
text += b" " * (-(len(text) + 8) % 64)
with open(sys.argv[1], "wb") as out:
    out.write(struct.pack("<Q", len(text)) + text + b"".join(body))
