"""Solvers side by side with torchdeq and with the bare evaluations of f: time to tolerance and overhead; prints a table, writes results/solvers.json.

    python benchmarks/solvers.py            all problems, tolerances 1e-4 and 1e-6, forward and forward + backward
    python benchmarks/solvers.py --quick    two problems, three rounds; nothing is written unless --out is given
    python benchmarks/solvers.py --problems sym conv --threads 2

All contestants take their turn in each round, in one process. `overhead`: time ÷ time of as many bare evaluations of f (and vector-Jacobian products, for the backward pass) as the contestant
made, timed in the same rounds. `residual`: the worst sample's ‖f(z) − z‖/‖f(z)‖ of what was returned, computed here. A contestant that does not reach the tolerance is marked, and not counted as fast.
"""
import gc, statistics, time, warnings
from unittest import mock

import torch
from torch import nn
from deq_irnn import Anderson, Broyden, Implicit, Picard, fixed_point, relative_residual
from deq_irnn.loop import Point
from deq_irnn.solvers import AndersonState
from common import Options, machine, summary, write

try: import torchdeq
except ImportError: torchdeq = None

MAX_ITER = 300


class Tanh(nn.Module):
    "f(z) = tanh(W z + x), the injection x = U v + b computed once: PEERS.md's families."
    def __init__(self, W, scale):
        super().__init__()
        self.W, self.x = nn.Parameter(W), nn.Parameter(scale*torch.randn(1, len(W)))
    def forward(self, z, x): return torch.tanh(torch.addmm(x + self.x, z, self.W.T))

def orthogonal(n): return torch.linalg.qr(torch.randn(n, n))[0]
def symmetric(n):
    Q = orthogonal(n)
    return Q @ torch.diag(1.8*torch.rand(n) - .9) @ Q.T
def gaussian(n):
    W = torch.randn(n, n)
    return .9*W/torch.linalg.matrix_norm(W, 2)


class Block(nn.Module):
    "A post-norm transformer block with the input injected, 4 heads, weights twice their usual start (plain iteration needs some twenty evaluations): (B, 64, 128)."
    def __init__(self, d=128, heads=4):
        super().__init__()
        self.qkv, self.out, self.up, self.down = nn.Linear(d, 3*d), nn.Linear(d, d), nn.Linear(d, 2*d), nn.Linear(2*d, d)
        self.norms, self.heads = nn.ModuleList(nn.LayerNorm(d) for _ in range(2)), heads
        for layer in (self.qkv, self.out, self.up, self.down): layer.weight.data.mul_(2)
    def forward(self, z, x):
        q, k, v = self.qkv(z).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        z = self.norms[0](x + z + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))
        return self.norms[1](x + z + self.down(torch.relu(self.up(z))))


class Conv(nn.Module):
    "f(z) = tanh(norm(3×3 convolution of z) + x) on (B, 32, 16, 16)."
    def __init__(self, c=32):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(c, c, 3, padding=1), nn.GroupNorm(4, c)
        self.norm.weight.data.mul_(.6)
    def forward(self, z, x): return torch.tanh(self.norm(self.conv(z)) + x)


PROBLEMS = {                                                          # name → (f, x)
    **{f'{name} {B}×{n}': (lambda B=B, n=n, make=make, scale=scale: (Tanh(make(n), scale), scale*torch.randn(B, n)))
       for B, n in ((64, 256), (256, 512)) for name, make, scale in (('gauss', gaussian, 1.), ('orth', lambda n: .9*orthogonal(n), .1), ('sym', symmetric, .1))},
    'transformer 32×64×128': lambda: (Block(), torch.randn(32, 64, 128)),
    'conv 16×32×16×16': lambda: (Conv(), torch.randn(16, 32, 16, 16))}


def ours(solver):
    def make(f, x, tol):
        def run(): return fixed_point(lambda z: f(z, x), torch.zeros_like(x), solver=solver, tol=tol, max_iter=MAX_ITER, gradient=Implicit(), on_failure='ignore')
        return run
    return make

def theirs(name):
    def make(f, x, tol):
        deq = torchdeq.get_deq(f_solver=name, b_solver=name, ift=True, f_max_iter=MAX_ITER, b_max_iter=MAX_ITER, f_tol=tol, b_tol=tol, f_stop_mode='rel', b_stop_mode='rel')
        deq.train()
        return lambda: deq(lambda z: f(z, x), torch.zeros_like(x))[0][-1]
    return make

CONTESTANTS = {'Picard': ours(Picard()), 'Anderson': ours(Anderson()), 'Anderson, memory 20': ours(Anderson(memory=20)), 'Broyden': ours(Broyden())}
if torchdeq: CONTESTANTS |= {f'torchdeq {n}': theirs(n) for n in ('fixed_point_iter', 'anderson', 'broyden')}


class Counted(nn.Module):
    def __init__(self, f): super().__init__(); self.f, self.calls = f, 0
    def forward(self, *args): self.calls += 1; return self.f(*args)


def counts(make, f, x, tol, backward):
    "Evaluations of f, vector-Jacobian products, worst true residual: one run, not timed."
    counted, products, grad = Counted(f), [], torch.autograd.grad
    with mock.patch('torch.autograd.grad', lambda *a, **k: (products.append(1), grad(*a, **k))[1]):
        with torch.set_grad_enabled(backward):
            z = make(counted, x, tol)()
            if backward: z.sum().backward()
    with torch.no_grad(): residual = relative_residual(f(z, x).flatten(1), z.flatten(1)).max().item()
    return counted.calls, len(products), residual


def bare(f, x, n, backward):
    "Seconds of one evaluation of f, and of one vector-Jacobian product."
    z = torch.zeros_like(x)
    start = time.perf_counter()
    with torch.no_grad():
        for _ in range(n): z = f(z, x)
    evaluation = (time.perf_counter() - start)/n
    if not backward: return evaluation, 0.
    z = z.requires_grad_()
    value = f(z, x)
    start, u = time.perf_counter(), torch.ones_like(z)
    for _ in range(n): torch.autograd.grad(value, z, u, retain_graph=True)
    return evaluation, (time.perf_counter() - start)/n


def measure(f, x, tol, backward, rounds):
    numbers = {name: counts(make, f, x, tol, backward) for name, make in CONTESTANTS.items()}
    runs, times, floors = {name: make(f, x, tol) for name, make in CONTESTANTS.items()}, {name: [] for name in CONTESTANTS}, []
    for i in range(rounds + 1):
        floors.append(bare(f, x, 30, backward))
        for name, run in runs.items():
            gc.collect()
            start = time.perf_counter()
            with torch.set_grad_enabled(backward):
                z = run()
                if backward: f.zero_grad(); z.sum().backward()
            times[name].append(time.perf_counter() - start)
    rows = []
    for name, (evaluations, products, residual) in numbers.items():
        floor = [evaluations*e + products*v for e, v in floors[1:]]
        seconds, ratio = times[name][1:], [t/c for t, c in zip(times[name][1:], floor)]
        rows.append(dict(name=name, tol=tol, backward=backward, evaluations=evaluations, products=products, residual=residual, reached=residual <= 1.05*tol,
                         seconds=summary(seconds), overhead=summary(ratio)))
    return rows


def fused_step():
    "Anderson's arithmetic as torch.compile would fuse it: the newest differences with all inner products in one loop, the mixture in another."
    def products(R, F, r, r0, fz, fz0, i: int):
        R[:, i], F[:, i] = r - r0, fz - fz0
        return (R*R[:, i, None]).sum(-1), (R*r[:, None]).sum(-1)
    def mixture(F, fz, gamma): return fz - (F*gamma[..., None]).sum(1)
    products, mixture = torch.compile(products, dynamic=False), torch.compile(mixture, dynamic=False)
    def step(solver, fz, r, m):
        row, right = products(m.R, m.F, r, m.r, fz, m.fz, 2)
        row[:, 2].mul_(1 + solver.ridge)
        m.gram[:, 2] = row
        m.gram[:, :, 2] = row
        return mixture(m.F, fz, torch.linalg.solve_ex(m.gram, right)[0])
    return step


def compiled(rounds=15, calls=20):
    "Seconds of one step of Anderson(5) with full memory, as it is and with compiled loops, beside one evaluation of f."
    rows = []
    for B, n in ((64, 256), (256, 512)):
        solver, f, x, fused = Anderson(), *PROBLEMS[f'sym {B}×{n}'](), fused_step()
        def states(): return [torch.randn(B, n) for _ in range(2)]
        R, F, (fz, r) = torch.randn(B, 5, n), torch.randn(B, 5, n), states()
        m = AndersonState(R, F, R @ R.mT, *states(), count=8)                       # full; the oldest is in slot 2
        runs = dict(evaluation=lambda: f(x, x), step=lambda: solver.step(None, Point(x, fz, r), m)[0], compiled=lambda: fused(solver, fz, r, m))
        with torch.no_grad():
            times, difference = {k: [] for k in runs}, (runs['step']() - runs['compiled']()).abs().max().item()
            for _ in range(rounds):
                for k, run in runs.items():
                    start = time.perf_counter()
                    for _ in range(calls): run()
                    times[k].append((time.perf_counter() - start)/calls)
        rows.append(dict(B=B, N=n, difference=difference, **{k: summary(v) for k, v in times.items()}))
        print(f'one step of Anderson(5), {B}×{n}: ' + ', '.join(f'{k} {1e6*statistics.median(v):.0f} µs' for k, v in times.items()) + f'; results differ by {difference:.0e}')
    return rows


def table(problem, rows):
    print(f'\n{problem}, tol {rows[0]["tol"]:g}, {"forward + backward" if rows[0]["backward"] else "forward"}')
    print(f'{"":28s}{"f":>5s}{"vjp":>5s}{"residual":>10s}{"ms (min–max)":>26s}{"overhead (min–max)":>26s}')
    for r in rows:
        t, o = r['seconds'], r['overhead']
        print(f'{r["name"]:28s}{r["evaluations"]:5d}{r["products"]:5d}{r["residual"]:10.1e}' + f'{1e3*t["median"]:8.2f} ({1e3*t["min"]:.2f}–{1e3*t["max"]:.2f})'.rjust(26)
              + f'{o["median"]:6.2f} ({o["min"]:.2f}–{o["max"]:.2f})'.rjust(26) + ('' if r['reached'] else '   not reached'), flush=True)


def main():
    options = Options(__doc__, 'solvers')
    options.add_argument('--problems', nargs='+', help='those whose name contains one of these')
    args = options.parse_args()
    torch.set_num_threads(args.threads[0])
    wanted = args.problems or (('sym 64', 'sym 256') if args.quick else ('',))
    names = [n for n in PROBLEMS if any(p in n for p in wanted)]
    result = dict(what='seconds to the tolerance, and overhead over bare evaluations; interleaved in one process; float32',
                  max_iter=MAX_ITER, torchdeq=torchdeq and getattr(torchdeq, '__version__', '0.1.0'), **machine(), rows=[])
    warnings.simplefilter('ignore')
    for problem in names:
        for tol in (1e-4, 1e-6):
            for backward in (False, True):
                torch.manual_seed(0)
                rows = measure(*PROBLEMS[problem](), tol, backward, args.rounds)
                result['rows'] += [dict(problem=problem, **r) for r in rows]
                table(problem, rows)
        write(args.out, result, finished=False)
    if args.problems: return                             # a part: it stays beside the whole
    if not args.quick: result['compiled'] = compiled()
    write(args.out, result)


if __name__ == '__main__': main()
