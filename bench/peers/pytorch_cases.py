"""The benchmark's cases in PyTorch, in its best CPU settings; one case and variant a process, so that peak memory is its own.

usage: pytorch_cases.py CASE train|infer f32|bf16 eager|compile [--seconds S] [--threads N] [--describe]
prints one JSON line: {"case", "mode", "dtype", "variant", "best_ms", "median_ms", "runs", "peak_mb", "torch"};
with --describe instead shapes, the number of parameters and the FLOP of products and convolutions (2.x counts them).

Settings: channels_last for convolutional networks, autocast for bf16, fused optimisers where this version has them, gradients
set to None; run it with MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ high, so that freed tensors are not returned to the system.
The shapes are those of bench/cases.c, line by line.
"""
import argparse, json, os, resource, statistics, sys, time

p = argparse.ArgumentParser()
p.add_argument("case")
p.add_argument("mode", choices=["train", "infer"])
p.add_argument("dtype", choices=["f32", "bf16"])
p.add_argument("variant", choices=["eager", "compile"])
p.add_argument("--seconds", type=float, default=8)
p.add_argument("--threads", type=int, default=2)
p.add_argument("--describe", action="store_true")
a = p.parse_args()
os.environ.setdefault("OMP_NUM_THREADS", str(a.threads))

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(a.threads)
torch.manual_seed(0)
TWO = int(torch.__version__.split(".")[0]) >= 2


class BasicBlock(nn.Module):
    def __init__(self, c, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(c, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.short = nn.Sequential(nn.Conv2d(c, width, 1, stride, bias=False), nn.BatchNorm2d(width)) if stride > 1 or c != width else None

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.short is None else self.short(x)))


class ResNet18(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        blocks, c = [], 64
        for width, stride in [(64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)]:
            blocks.append(BasicBlock(c, width, stride))
            c = width
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(512, 10)

    def forward(self, x):
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


class UNet(nn.Module):
    def __init__(self, space, base, levels):
        super().__init__()
        Conv, Norm, Up, Pool = ((nn.Conv2d, nn.BatchNorm2d, nn.ConvTranspose2d, nn.MaxPool2d) if space == 2 else
                                (nn.Conv3d, nn.BatchNorm3d, nn.ConvTranspose3d, nn.MaxPool3d))

        def double(c, w):
            return nn.Sequential(Conv(c, w, 3, padding=1, bias=False), Norm(w), nn.ReLU(), Conv(w, w, 3, padding=1, bias=False), Norm(w), nn.ReLU())

        widths = [base << i for i in range(levels)]
        self.down = nn.ModuleList([double(c, w) for c, w in zip([1] + widths[:-1], widths)])
        self.pool = Pool(2)
        self.up = nn.ModuleList([Up(w, w // 2, 2, 2) for w in widths[:0:-1]])
        self.join = nn.ModuleList([double(w, w // 2) for w in widths[:0:-1]])
        self.head = Conv(base, 1, 1)

    def forward(self, x):
        kept = []
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else self.pool(x))
            kept.append(x)
        for up, join, skip in zip(self.up, self.join, kept[-2::-1]):
            x = join(torch.cat([skip, up(x)], 1))
        return self.head(x)


class Encoder(nn.Module):
    """BERT-shaped, post-norm: 6 layers, width 384, 6 heads, feed-forward 1536; mean pooling, two classes."""

    def __init__(self, layers=6, e=384, h=6, f=1536, v=30522, length=180):
        super().__init__()
        self.h = h
        self.words, self.places, self.norm = nn.Embedding(v, e), nn.Embedding(length, e), nn.LayerNorm(e)
        self.layers = nn.ModuleList([nn.ModuleDict(dict(qkv=nn.Linear(e, 3 * e), out=nn.Linear(e, e), n1=nn.LayerNorm(e), up=nn.Linear(e, f),
                                                        down=nn.Linear(f, e), n2=nn.LayerNorm(e))) for _ in range(layers)])
        self.head = nn.Linear(e, 2)

    def forward(self, tokens):
        b, l = tokens.shape
        x = self.norm(self.words(tokens) + self.places.weight[:l])
        for m in self.layers:
            q, k, v = m["qkv"](x).view(b, l, 3, self.h, -1).permute(2, 0, 3, 1, 4)
            y = (F.scaled_dot_product_attention(q, k, v) if TWO else
                 torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1) @ v)
            x = m["n1"](x + m["out"](y.transpose(1, 2).reshape(b, l, -1)))
            x = m["n2"](x + m["down"](F.gelu(m["up"](x))))
        return self.head(x.mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind, i, n, out):
        super().__init__()
        self.net = kind(i, n)
        self.head = nn.Linear(n, out)

    def forward(self, x):
        return self.head(self.net(x)[0][-1])


class PaLM(nn.Module):
    def __init__(self, layers=8, e=512, h=8, q=64, f=2048, v=256, length=512):
        super().__init__()
        self.h, self.q = h, q
        self.table = nn.Embedding(v, e)
        self.layers = nn.ModuleList([nn.ModuleDict(dict(q=nn.Linear(e, h * q, False), k=nn.Linear(e, q, False), v=nn.Linear(e, q, False),
                                                        o=nn.Linear(h * q, e, False), gate=nn.Linear(e, f, False), up=nn.Linear(e, f, False),
                                                        down=nn.Linear(f, e, False))) for _ in range(layers)])
        self.scales = nn.ParameterList([nn.Parameter(torch.zeros(e)) for _ in range(layers + 1)])
        angle = torch.arange(length).float()[:, None] * 10000 ** (-torch.arange(0, q, 2).float() / q)
        self.register_buffer("cos", angle.cos()[:, None], persistent=False)
        self.register_buffer("sin", angle.sin()[:, None], persistent=False)

    def norm(self, x, i):
        w = x.float()
        return ((w * torch.rsqrt(w.square().mean(-1, keepdim=True) + 1e-6)) * (1 + self.scales[i])).to(x.dtype)

    def rope(self, x):
        a, b = x.float().chunk(2, -1)
        return torch.cat([a * self.cos - b * self.sin, b * self.cos + a * self.sin], -1).to(x.dtype)

    def forward(self, tokens):
        b, l = tokens.shape
        x = self.table(tokens)
        for i, m in enumerate(self.layers):
            n = self.norm(x, i)
            q = self.rope(m["q"](n).view(b, l, self.h, self.q)).transpose(1, 2)
            k = self.rope(m["k"](n).view(b, l, 1, self.q)).transpose(1, 2)
            v = m["v"](n).view(b, l, 1, self.q).transpose(1, 2)
            if TWO:
                y = F.scaled_dot_product_attention(q, k.expand_as(q), v.expand_as(q), is_causal=True)
            else:
                mask = torch.full((l, l), float("-inf")).triu(1)
                y = torch.softmax(q @ k.transpose(-1, -2) * self.q ** -0.5 + mask.to(q.dtype), -1) @ v
            x = x + m["o"](y.transpose(1, 2).reshape(b, l, -1)) + m["down"](F.silu(m["gate"](n)) * m["up"](n))
        return self.norm(x, -1) @ self.table.weight.t().to(x.dtype) / x.shape[-1] ** 0.5


def optimiser(kind, parameters, **k):
    for fused in ([{"fused": True}] if TWO else []) + [{"foreach": True}, {}]:
        try:
            return kind(parameters, **k, **fused)
        except (TypeError, RuntimeError, ValueError):
            pass


def classes(n, k):
    return torch.randint(0, k, (n,))


def cross_entropy(y, t):
    return F.cross_entropy(y.float().flatten(0, -2), t.flatten())


def bce(y, t):
    return F.binary_cross_entropy_with_logits(y.float(), t)


SGD, ADAM = (torch.optim.SGD, dict(lr=1e-3, momentum=0.9)), (torch.optim.Adam, dict(lr=1e-4))
ADAMW = (torch.optim.AdamW, dict(lr=1e-4))
CASES = {
    "mlp": lambda: (nn.Sequential(nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)), torch.randn(256, 784),
                    classes(256, 10), cross_entropy, SGD),
    "resnet18": lambda: (ResNet18(), torch.randn(64, 3, 32, 32), classes(64, 10), cross_entropy, SGD),
    "unet2d": lambda: (UNet(2, 32, 4), torch.randn(4, 1, 256, 256), torch.rand(4, 1, 256, 256).round(), bce, ADAM),
    "unet3d": lambda: (UNet(3, 16, 4), torch.randn(1, 1, 96, 96, 96), torch.rand(1, 1, 96, 96, 96).round(), bce, ADAM),
    "bert": lambda: (Encoder(), torch.randint(0, 30522, (16, 180)), classes(16, 2), cross_entropy, ADAMW),
    "lstm": lambda: (Recurrent(nn.LSTM, 128, 128, 10), torch.randn(200, 64, 128), classes(64, 10), cross_entropy, ADAM),
    "gru": lambda: (Recurrent(nn.GRU, 8, 16, 2), torch.randn(4, 32, 8), classes(32, 2), cross_entropy, SGD),
    "palm": lambda: (PaLM(), torch.randint(0, 256, (4, 512)), torch.randint(0, 256, (4, 512)), cross_entropy, ADAMW),
}


def memory_format(x):
    if x.dim() == 4:
        return x.to(memory_format=torch.channels_last)
    return x.to(memory_format=torch.channels_last_3d) if x.dim() == 5 else x


model, x, target, loss_of, (kind, options) = CASES[a.case]()
if x.dim() in (4, 5):
    model = model.to(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
    x, target = memory_format(x), memory_format(target)
model.train(a.mode == "train")
bf16 = a.dtype == "bf16"


def forward(x):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        return model(x)


def loss(x, target):
    return loss_of(forward(x), target)


if a.variant == "compile":
    loss, forward = torch.compile(loss), torch.compile(forward)
if a.mode == "train":
    opt = optimiser(kind, model.parameters(), **options)

    def step():
        opt.zero_grad(set_to_none=True)
        loss(x, target).backward()
        opt.step()
else:
    context = torch.inference_mode if a.variant == "eager" else torch.no_grad

    def step():
        with context():
            forward(x)


def describe():
    line = {"case": a.case, "mode": a.mode, "dtype": a.dtype, "variant": "pytorch", "input": list(x.shape), "output": list(forward(x).shape),
            "parameters": sum(w.numel() for w in model.parameters())}
    try:
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            step()
        line["gflop"] = round(counter.get_total_flops() * 1e-9, 4)
    except ImportError:
        pass
    print(json.dumps(line))


if a.describe:
    describe()
    sys.exit()

try:
    for _ in range(3):
        step()
    times, inner = [], 1
    start = time.perf_counter()
    step()
    inner = max(1, int(0.01 / max(time.perf_counter() - start, 1e-7)))  # short steps in groups
    start = time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - start < a.seconds and len(times) < 200):
        t = time.perf_counter()
        for _ in range(inner):
            step()
        times.append((time.perf_counter() - t) / inner * 1e3)
    print(json.dumps({"case": a.case, "mode": a.mode, "dtype": a.dtype, "variant": a.variant, "best_ms": min(times), "median_ms": statistics.median(times),
                      "runs": len(times) * inner, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "torch": torch.__version__}))
except Exception as error:  # a variant that this version cannot run is reported, not hidden
    print(json.dumps({"case": a.case, "mode": a.mode, "dtype": a.dtype, "variant": a.variant, "error": str(error).splitlines()[0][:200]}))
