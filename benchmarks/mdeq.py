"""A multiscale equilibrium beside an explicit ResNet of as many parameters, on handwritten digits; prints a table, writes results/mdeq.json.

    python benchmarks/mdeq.py                three seeds each (some minutes on one core)
    python benchmarks/mdeq.py --epochs 5 --seeds 1 --out /tmp/mdeq.json

Both are trained alike: AdamW, one-cycle learning rate, the same batches. The equilibrium is guaranteed: its map is a contraction by construction.
"""
import argparse, json, pathlib, platform, statistics, time, warnings

import torch
import torch.nn.functional as F
from torch import nn
from deq_irnn import DEQ, conv_norm
from recurrent import cpu

HERE = pathlib.Path(__file__).parent.parent
LR, BATCH = 1e-2, 64
SOLVE = dict(tol=1e-2, max_iter=30, eval_tol=1e-3, eval_max_iter=60, on_failure='ignore')


class TwoScales(nn.Module):
    """f({'fine', 'coarse'}, x) on pictures of 8×8: relu of a convolution of each scale, the other scale brought to its size, the injection into the fine one. A contraction by construction: the norms between the scales,
    [[0.6, 0.35], [0.35, 0.6]], have the largest eigenvalue 0.95. `prepare()` bounds the kernels, once for each solve."""
    def __init__(self, c):
        super().__init__()
        shapes = (c, c, 3, 3), (2*c, 2*c, 3, 3), (c, 2*c, 1, 1), (2*c, c, 3, 3)
        self.raw = nn.ParameterList(nn.Parameter(torch.empty(s).uniform_(-1, 1)/(s[1]*s[2]*s[3])**.5) for s in shapes)
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(n)) for n in (c, 2*c))

    def prepare(self):
        limits = (.6, 8), (.6, 4), (.175, 4), (.7, 8)                       # spreading each value over 2×2 doubles the norm, the mean of 2×2 halves it
        self.kernels = [K*(bound/conv_norm(K, (n, n))).clamp_max(1.) for K, (bound, n) in zip(self.raw, limits)]

    def forward(self, z, x):
        fine, coarse, up, down = self.kernels
        up = F.interpolate(F.conv2d(z['coarse'], up), scale_factor=2)
        down = F.avg_pool2d(F.conv2d(z['fine'], down, padding=1), 2)
        return {'fine': torch.relu(F.conv2d(z['fine'], fine, self.bias[0], padding=1) + up + x), 'coarse': torch.relu(F.conv2d(z['coarse'], coarse, self.bias[1], padding=1) + down)}


def pooled(v): return F.adaptive_avg_pool2d(v, 2).flatten(1)


class MDEQ(nn.Module):
    def __init__(self, c=12):
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, c, 3, padding=1), nn.Linear(12*c, 10)
        self.deq = DEQ(TwoScales(c), init=lambda x: {'fine': torch.zeros_like(x), 'coarse': x.new_zeros(len(x), 2*c, 4, 4)}, **SOLVE)

    def forward(self, images):
        self.deq.f.prepare()
        z = self.deq(self.stem(images))
        return self.head(torch.cat([pooled(v) for v in z.values()], 1))


class ResBlock(nn.Module):
    def __init__(self, c): super().__init__(); self.convs, self.norms = nn.ModuleList(nn.Conv2d(c, c, 3, padding=1) for _ in range(2)), nn.ModuleList(nn.GroupNorm(2, c) for _ in range(2))
    def forward(self, h):
        y = self.convs[0](torch.relu(self.norms[0](h)))
        return h + self.convs[1](torch.relu(self.norms[1](y)))


class ResNet(nn.Module):
    "A stem, a block at 8×8, a step down to 4×4, a block there."
    def __init__(self, c=10):
        super().__init__()
        self.stem, self.one, self.down, self.two, self.head = nn.Conv2d(1, c, 3, padding=1), ResBlock(c), nn.Conv2d(c, 2*c, 3, stride=2, padding=1), ResBlock(2*c), nn.Linear(8*c, 10)
    def forward(self, images): return self.head(pooled(self.two(self.down(self.one(self.stem(images))))))


MODELS = {'multiscale DEQ': MDEQ, 'ResNet': ResNet}


def digits():
    from sklearn.datasets import load_digits
    images, labels = load_digits(return_X_y=True)
    images, labels = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8)/8 - 1, torch.tensor(labels)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order], labels[order], 1437


def train(name, seed, epochs):
    torch.manual_seed(seed)
    images, labels, cut = digits()
    model = MODELS[name]()
    steps = -(-cut//BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, epochs*steps)
    seconds = []
    for epoch in range(epochs):
        start = time.perf_counter()
        for batch in torch.randperm(cut).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
            optimizer.step(); schedule.step()
        seconds.append(time.perf_counter() - start)
    model.eval()
    with torch.no_grad(): accuracy = (model(images[cut:]).argmax(1) == labels[cut:]).float().mean().item()
    sol = model.deq.solution if name == 'multiscale DEQ' else None
    return dict(name=name, seed=seed, parameters=sum(p.numel() for p in model.parameters()), accuracy=accuracy, seconds_per_epoch=statistics.median(seconds), tested=len(images) - cut,
                evaluations=sol and sol.iterations.float().mean().item(), residual=sol and sol.residual.max().item(), failed=sol and int((~sol.converged).sum()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--epochs', type=int, default=15)
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--out', type=pathlib.Path, default=HERE/'results'/'mdeq.json')
    args = parser.parse_args()
    torch.set_num_threads(1); warnings.simplefilter('ignore')
    result = dict(what='handwritten digits 8×8: 1437 to train on, 360 to test', epochs=args.epochs, lr=LR, batch=BATCH, solver=SOLVE, threads=1, torch=torch.__version__,
                  python=platform.python_version(), cpu=cpu(), runs=[])
    for seed in range(args.seeds):
        for name in MODELS:
            result['runs'].append(run := train(name, seed, args.epochs))
            print(f'{name:16s} seed {seed}  {run["parameters"]} parameters  accuracy {run["accuracy"]:.3f}  {run["seconds_per_epoch"]:.1f} s/epoch'
                  + (f'  {run["evaluations"]:.1f} evaluations, residual {run["residual"]:.0e}, {run["failed"]} not converged' if run['evaluations'] else ''), flush=True)
            args.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + '\n')


if __name__ == '__main__': main()
