#!/usr/bin/env python3
"""Golden trajectories of optimisers and schedules, from PyTorch in f64:  optimizers.py > optimizers.tsv

The parameter p [2, 3] starts at 0.5 - 0.2 i (i its index), and its gradient at step s (from 0) is sin(1.3 s + 0.7 i) + 0.1 p.
Columns: case, steps done, learning rate of the last step, then the six values of p.
"""
import math

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, MultiStepLR, OneCycleLR, PolynomialLR, SequentialLR, StepLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

torch.set_default_dtype(torch.float64)
STEPS = 20


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.p = torch.nn.Parameter((0.5 - 0.2 * torch.arange(6.0)).reshape(2, 3))


def run(case, make, schedule=None, clip=0.0, sign=False, average=None, average_from=0):
    model = Model()
    optimizer = make(model.parameters())
    scheduler = schedule(optimizer) if schedule else None
    averaged = AveragedModel(model, **average) if average is not None else None
    for s in range(STEPS):
        model.p.grad = (torch.sin(1.3 * s + 0.7 * torch.arange(6.0)).reshape(2, 3) + 0.1 * model.p).detach()
        if sign:
            model.p.grad.sign_()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        rate = optimizer.param_groups[0]["lr"]
        optimizer.step()
        if scheduler:
            scheduler.step()
        if averaged and s >= average_from:
            averaged.update_parameters(model)
        if s + 1 in (1, 2, 5, 10, 15, 20):
            p = averaged.module.p if averaged and s >= average_from else model.p
            print(case, s + 1, repr(rate), *(repr(float(x)) for x in p.detach().flatten()), sep="\t")


def sgd(**options):
    return lambda p: torch.optim.SGD(p, **options)


def adam(**options):
    return lambda p: torch.optim.Adam(p, **options)


run("sgd", sgd(lr=0.1))
run("sgd-momentum", sgd(lr=0.1, momentum=0.9))
run("sgd-nesterov-decay", sgd(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.05))
run("adam", adam(lr=0.05))
run("adam-betas-decay", adam(lr=0.05, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1))
run("adamw", lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1))
run("sign-adam", adam(lr=0.05), sign=True)
run("clip", sgd(lr=0.1, momentum=0.5), clip=0.7)
warmup = lambda o: LambdaLR(o, lambda s: (s + 1) / 4)
run("cosine-warmup", sgd(lr=0.1), lambda o: SequentialLR(o, [warmup(o), CosineAnnealingLR(o, STEPS - 4, eta_min=0.01)], [4]))
run("steps", sgd(lr=0.1), lambda o: StepLR(o, 6, gamma=0.3))
run("milestones", sgd(lr=0.1), lambda o: MultiStepLR(o, [3, 7, 12], gamma=0.5))
run("polynomial", sgd(lr=0.1), lambda o: PolynomialLR(o, STEPS, power=2))
run("one-cycle", sgd(lr=0.1, momentum=0.95, nesterov=True),
    lambda o: OneCycleLR(o, max_lr=0.1, total_steps=STEPS, pct_start=0.25, base_momentum=0.85, max_momentum=0.95))
run("average-exponential", sgd(lr=0.1), average={"multi_avg_fn": get_ema_multi_avg_fn(0.9)})
run("average-equal", sgd(lr=0.1), average={}, average_from=5)
