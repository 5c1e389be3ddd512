#!/usr/bin/env python3
"""Golden values of resizing and grid sampling, from PyTorch in f64:  geometry.py > geometry.h   Needs torch."""
import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
rows = []


def numbers(count, period):
    """The input that test_geometry.c makes too."""
    return torch.tensor([(i * 37 % period) / 16.0 - 2.0 for i in range(count)])


def array(values):
    return "{" + ", ".join(f"{v:.12g}" for v in values.flatten().tolist()) + "}"


KINDS = {"nearest-exact": "TN_RESIZE_NEAREST", "linear": "TN_RESIZE_BILINEAR", "bilinear": "TN_RESIZE_BILINEAR", "trilinear": "TN_RESIZE_BILINEAR",
         "area": "TN_RESIZE_AREA", "bicubic": "TN_RESIZE_CUBIC"}


def resize(mode, source, target, corners=None):
    x = numbers(2 * int(torch.tensor(source).prod()), 61).reshape(1, 2, *source)
    y = F.interpolate(x, size=target, mode=mode, align_corners=corners)
    pad = lambda s: ", ".join(str(v) for v in s)
    rows.append(f"    {{{KINDS[mode]}, {'true' if corners else 'false'}, {len(source)}, {{{pad(source)}}}, {{{pad(target)}}}, (const double[]){array(y)}}},")


for source, target in [([5], [8]), ([5], [3]), ([7], [14]), ([6], [1]), ([1], [4])]:
    resize("nearest-exact", source, target)
    resize("area", source, target)
    resize("linear", source, target, False)
    resize("linear", source, target, True)
for source, target in [([4, 5], [8, 10]), ([6, 7], [3, 5]), ([3, 2], [7, 2]), ([5, 4], [1, 1])]:
    resize("nearest-exact", source, target)
    resize("area", source, target)
    for corners in (False, True):
        resize("bilinear", source, target, corners)
        resize("bicubic", source, target, corners)
for source, target in [([2, 3, 2], [4, 5, 3]), ([4, 3, 5], [2, 3, 3])]:
    resize("nearest-exact", source, target)
    resize("area", source, target)
    for corners in (False, True):
        resize("trilinear", source, target, corners)

samples = []
H, W, h, w = 4, 5, 6, 7
x = numbers(2 * 2 * H * W, 61).reshape(2, 2, H, W).requires_grad_()
grid = (numbers(2 * h * w * 2, 101) * 1.7 + 0.31).reshape(2, h, w, 2).requires_grad_()
d = numbers(2 * 2 * h * w, 53).reshape(2, 2, h, w)
for border, name in (("zeros", "TN_BORDER_ZERO"), ("border", "TN_BORDER_CLAMP")):
    unit = torch.stack([2 * grid[..., 0] / (W - 1) - 1, 2 * grid[..., 1] / (H - 1) - 1], -1)
    y = F.grid_sample(x, unit, mode="bilinear", padding_mode=border, align_corners=True)
    dx, dg = torch.autograd.grad((y * d).sum(), (x, grid))
    samples.append(f"    {{{name}, (const double[]){array(y)},\n     (const double[]){array(dx)},\n     (const double[]){array(dg)}}},")

print("/* Made by geometry.py with PyTorch", torch.__version__.split("+")[0] + "; not to be edited. Input element i of a tensor is (i * 37 % period) / 16 - 2. */")
print("#ifndef TN_TESTS_GOLDEN_GEOMETRY_H\n#define TN_TESTS_GOLDEN_GEOMETRY_H\n\n/* clang-format off */")
print("static const struct golden_resize { tn_resize_kind kind; bool corners; int rank; int64_t from[3], to[3]; const double *y; } golden_resizes[] = {")
print("\n".join(rows))
print("};\n")
print("/* image [2, 2, 4, 5] and d_out [2, 2, 6, 7] of periods 61 and 53; grid [2, 6, 7, 2] of period 101, times 1.7 plus 0.31 */")
print("static const struct golden_sample { tn_border border; const double *y, *d_image, *d_grid; } golden_samples[] = {")
print("\n".join(samples))
print("};\n/* clang-format on */\n\n#endif")
