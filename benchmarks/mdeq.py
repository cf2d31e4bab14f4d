"""A multiscale equilibrium beside an explicit ResNet of as many parameters, on handwritten digits.

Prints a line for each run, writes results/mdeq.json:

    python benchmarks/mdeq.py                three seeds each (some minutes on one core)
    python benchmarks/mdeq.py --epochs 5 --seeds 1 --out /tmp/mdeq.json

Both are trained alike: AdamW, one-cycle learning rate, the same batches. The equilibrium is guaranteed:
its map is a contraction by construction.
"""
import argparse, pathlib, statistics, time, warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from deq_irnn import DEQ
from deq_irnn.wellposed import contractive_conv
from common import RESULTS, machine, write

LR = 1e-2
BATCH = 64
SOLVE = dict(tol=1e-2, max_iter=30, eval_tol=1e-3, eval_max_iter=60, on_failure='ignore')
TRAIN = 1437                       # of the 1797 digits


class TwoScales(nn.Module):
    """f({'fine', 'coarse'}, x) on pictures of 8×8: relu of a convolution of each scale, the other
    scale brought to its size, the injection into the fine one. A contraction by construction: the
    norms between the scales, [[0.6, 0.35], [0.35, 0.6]], have the largest eigenvalue 0.95.

    `prepare()` bounds the kernels, once for each solve."""
    def __init__(self, c: int):
        super().__init__()
        shapes = (c, c, 3, 3), (2*c, 2*c, 3, 3), (c, 2*c, 1, 1), (2*c, c, 3, 3)
        starts = [torch.empty(s).uniform_(-1, 1)/(s[1]*s[2]*s[3])**.5 for s in shapes]
        self.raw = nn.ParameterList(nn.Parameter(K) for K in starts)
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(n)) for n in (c, 2*c))

    def prepare(self):
        limits = (.6, 8), (.6, 4), (.175, 4), (.7, 8)   # 2×2 copies double the norm, means halve it
        pairs = zip(self.raw, limits)
        self.kernels = [contractive_conv(K, bound, (n, n)) for K, (bound, n) in pairs]

    def forward(self, z: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        fine, coarse, up, down = self.kernels
        up = F.interpolate(F.conv2d(z['coarse'], up), scale_factor=2)
        down = F.avg_pool2d(F.conv2d(z['fine'], down, padding=1), 2)
        return {'fine': torch.relu(F.conv2d(z['fine'], fine, self.bias[0], padding=1) + up + x),
                'coarse': torch.relu(F.conv2d(z['coarse'], coarse, self.bias[1], padding=1) + down)}


def pooled(v: Tensor) -> Tensor: return F.adaptive_avg_pool2d(v, 2).flatten(1)


class MDEQ(nn.Module):
    "A stem, the equilibrium of both scales, a linear head on their pooled values."
    def __init__(self, c: int = 12):
        super().__init__()
        def start(x): return {'fine': torch.zeros_like(x), 'coarse': x.new_zeros(len(x), 2*c, 4, 4)}
        self.stem = nn.Conv2d(1, c, 3, padding=1)
        self.head = nn.Linear(12*c, 10)
        self.deq = DEQ(TwoScales(c), init=start, **SOLVE)

    def forward(self, images: Tensor) -> Tensor:
        self.deq.f.prepare()
        z = self.deq(self.stem(images))
        return self.head(torch.cat([pooled(v) for v in z.values()], 1))


class ResBlock(nn.Module):
    "A pre-norm residual block of two convolutions."
    def __init__(self, c: int):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c, c, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.GroupNorm(2, c) for _ in range(2))

    def forward(self, h: Tensor) -> Tensor:
        y = self.convs[0](torch.relu(self.norms[0](h)))
        return h + self.convs[1](torch.relu(self.norms[1](y)))


class ResNet(nn.Module):
    "A stem, a block at 8×8, a step down to 4×4, a block there."
    def __init__(self, c: int = 10):
        super().__init__()
        self.stem = nn.Conv2d(1, c, 3, padding=1)
        self.one = ResBlock(c)
        self.down = nn.Conv2d(c, 2*c, 3, stride=2, padding=1)
        self.two = ResBlock(2*c)
        self.head = nn.Linear(8*c, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(pooled(self.two(self.down(self.one(self.stem(images))))))


MODELS = {'multiscale DEQ': MDEQ, 'ResNet': ResNet}


def digits() -> tuple[Tensor, Tensor]:
    "Images (1797, 1, 8, 8) in [−1, 1], and labels, in a fixed random order."
    from sklearn.datasets import load_digits
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8)/8 - 1
    return images[order], torch.tensor(labels)[order]


def train(name: str, seed: int, epochs: int) -> dict:
    "Train one network, and test it: what is known of the run."
    torch.manual_seed(seed)
    images, labels = digits()
    model = MODELS[name]()
    optimizer = torch.optim.AdamW(model.parameters(), LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, epochs*-(-TRAIN//BATCH))
    seconds = []
    for _ in range(epochs):
        start = time.perf_counter()
        for batch in torch.randperm(TRAIN).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
            optimizer.step()
            schedule.step()
        seconds.append(time.perf_counter() - start)
    model.eval()
    with torch.no_grad(): right = model(images[TRAIN:]).argmax(1) == labels[TRAIN:]
    result = dict(name=name, seed=seed, parameters=sum(p.numel() for p in model.parameters()),
                  accuracy=right.float().mean().item(), seconds_per_epoch=statistics.median(seconds),
                  tested=len(right), evaluations=None, residual=None, failed=None)
    if isinstance(model, MDEQ):
        sol = model.deq.solution
        result.update(evaluations=sol.iterations.float().mean().item(),
                      residual=sol.residual.max().item(), failed=int((~sol.converged).sum()))
    return result


def describe(run: dict) -> str:
    "A line about one run."
    text = f'{run["name"]:16s} seed {run["seed"]}  {run["parameters"]} parameters  '
    text += f'accuracy {run["accuracy"]:.3f}  {run["seconds_per_epoch"]:.1f} s/epoch'
    if run['evaluations'] is None: return text
    return text + (f'  {run["evaluations"]:.1f} evaluations, residual {run["residual"]:.0e}, '
                   f'{run["failed"]} not converged')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--epochs', type=int, default=15)
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--out', type=pathlib.Path, default=RESULTS/'mdeq.json')
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    result = dict(what='handwritten digits 8×8: 1437 to train on, 360 to test', epochs=args.epochs,
                  lr=LR, batch=BATCH, solver=SOLVE, **machine(), runs=[])
    for seed in range(args.seeds):
        for name in MODELS:
            run = train(name, seed, args.epochs)
            result['runs'].append(run)
            print(describe(run), flush=True)
            write(args.out, result, finished=False)
    write(args.out, result)


if __name__ == '__main__': main()
