"""Depth as rest points beside a plain stack, a pre-norm ResNet, a weight-tied stack and its DEQ, at equal parameters; writes results/resnet.json.

    python benchmarks/resnet.py              both parts
    python benchmarks/resnet.py --depth      singular values of dh_L/dh_0, times, bytes kept for the backward pass, solver iterations; depth 2 … 256
    python benchmarks/resnet.py --learn      test accuracy on digits and on a teacher network, three seeds, after equal epochs and after equal time
    python benchmarks/resnet.py --quick      small sizes; nothing is written unless --out is given
    python benchmarks/resnet.py --only 'pre-norm ResNet, 1/√L'       these alone; the other rows of the file stay

A part that is not run keeps what the file has. Each block of a stack has 2D² weights (two matrices), as a layer at rest has (U and W);
a weight-tied stack has one layer, as much wider as it takes to have as many.
"""
import json, math, pathlib, statistics, time, warnings

import torch
import torch.nn.functional as F
from torch import nn
from deq_irnn.deq import DEQ
from deq_irnn.resnet import IncrementalResNet, depth_jacobian
from deq_irnn.wellposed import make_contractive
from common import Options, forward_backward, interleaved, machine, summary, write

D = 16


class Stack(nn.Module):
    "L blocks of two matrices: φ(B φ(A h)), or as a pre-norm ResNet h + scale·B φ(A norm(h)); weights of variance 1/D."
    def __init__(self, D, L, residual, scale=1.):
        super().__init__()
        self.residual, self.scale, self.D = residual, scale, D
        self.A, self.B = (nn.Parameter(torch.randn(L, D, D)/D**.5) for _ in range(2))
        self.a, self.b = (nn.Parameter(torch.zeros(L, D)) for _ in range(2))

    def forward(self, x, h0=None):
        h = x if h0 is None else h0
        for A, B, a, b in zip(self.A, self.B, self.a, self.b):
            if self.residual:
                branch = F.linear(torch.tanh(F.linear(F.layer_norm(h, h.shape[1:]), A, a)), B, b)
                h = h + (branch if self.scale == 1 else self.scale*branch)
            else: h = torch.tanh(F.linear(torch.tanh(F.linear(h, A, a)), B, b))
        return h


class Tied(nn.Module):
    "h ← tanh(U h + W x + b), ‖U‖ ≤ 0.95, L times from 0, or to rest; as wide as L(2D² + D) parameters allow."
    def __init__(self, D, L, rest=False, tol=1e-4):
        super().__init__()
        self.D = round((math.sqrt((D + 1)**2 + 4*L*(2*D*D + D)) - D - 1)/2)
        self.U, self.W = make_contractive(nn.Linear(self.D, self.D, bias=False)), nn.Linear(D, self.D)
        self.L = L
        def f(z, p, U): return torch.tanh(F.linear(z, U[0]) + p)
        self.deq = DEQ(f, tol=tol, init=torch.zeros_like) if rest else None

    def forward(self, x, h0=None):
        p, U = self.W(x), self.U.weight
        if self.deq is not None: return self.deq(p, U.expand(len(x), *U.shape), z0=h0)
        h = torch.zeros_like(p) if h0 is None else h0
        for _ in range(self.L): h = torch.tanh(F.linear(h, U) + p)
        return h


def ours(narrow=False, **options):
    "L → the network; `narrow`: scaled by 1/√L."
    return lambda L, tol=1e-4: IncrementalResNet(D, L, tol=tol, scale=L**-.5 if narrow else 1., **options)

CONTESTANTS = {
    'plain stack':            lambda L, tol=None: Stack(D, L, False),
    'pre-norm ResNet':        lambda L, tol=None: Stack(D, L, True),
    'pre-norm ResNet, 1/√L':  lambda L, tol=None: Stack(D, L, True, L**-.5),
    'weight-tied stack':      lambda L, tol=None: Tied(D, L),
    'its DEQ':                lambda L, tol=1e-4: Tied(D, L, True, tol),
    'exact, −I':              ours(),
    'exact, −I, one by one':  ours(parallel=False),
    'exact, rotation':        ours(transition='rotation'),
    'K = 5':                  ours(steps=5),
    'K = 5, η = 0.2':         ours(steps=5, eta=.2),
    'normed, −I':             ours(injection='normed'),
    'normed, −I, 1/√L':       ours(True, injection='normed'),
    'normed, rotation':       ours(injection='normed', transition='rotation'),
}
TRAINED = [name for name in CONTESTANTS if name not in ('exact, −I, one by one', 'K = 5, η = 0.2', 'normed, rotation')]


def size(net): return sum(p.numel() for p in net.parameters())

def kept(net, x):
    "Bytes that autograd keeps for the backward pass, parameters and x left out."
    skip, found = {t.untyped_storage().data_ptr() for t in (x, *net.parameters())}, {}
    def pack(t):
        at = t.untyped_storage().data_ptr()
        if at not in skip: found[at] = t                                # held, so that no address is used twice
        return t
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t): out = net(x)
    return sum(t.untyped_storage().nbytes() for t in found.values()), out

def singular_values(make, L, seeds):
    "Largest, median and smallest singular value of ∂h_L/∂h_0 at a random x and h_0, for each seed; float64."
    rows = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        net = make(L, 1e-9).double()
        x, h0 = torch.randn(D).double(), torch.randn(getattr(net, 'D', D)).double()
        v = torch.linalg.svdvals(depth_jacobian(lambda h: net(x.expand(len(h), -1), h), h0))
        rows.append(dict(max=v[0].item(), median=v.median().item(), min=v[-1].item()))
    return rows

def once(net, x):
    "Seconds forward, and forward + backward."
    net.zero_grad()
    return forward_backward(lambda: net(x))

def solved(net):
    "The `Solution` of a net that has solved something, else None."
    if isinstance(net, IncrementalResNet) and net.steps is None: return net.solution
    return net.deq.solution if getattr(net, 'deq', None) is not None else None

def depth(args):
    rows, B = [], 64
    for L in (2, 8) if args.quick else (2, 4, 8, 16, 32, 64, 128, 256):
        torch.manual_seed(0)
        x, nets = torch.randn(B, D), {}
        for name in args.only:
            torch.manual_seed(0)
            nets[name] = CONTESTANTS[name](L)
        times = interleaved({name: (lambda net=net: once(net, x)) for name, net in nets.items()}, args.rounds)
        for name, net in nets.items():
            sol = solved(net)
            forward, both = (summary(t) for t in zip(*times[name]))
            r = dict(name=name, L=L, B=B, width=getattr(net, 'D', D), parameters=size(net), forward=forward, both=both,
                     kept_bytes=kept(net, x)[0], iterations=sol.iterations.float().mean().item() if sol else None,
                     singular=singular_values(CONTESTANTS[name], L, args.seeds))
            rows.append(r)
            low, high = min(v['min'] for v in r['singular']), max(v['max'] for v in r['singular'])
            print(f"L={L:4d} {name:24s} {r['parameters']:7d} parameters  "
                  f"{forward['median']*1e3:8.2f} + {(both['median'] - forward['median'])*1e3:8.2f} ms  "
                  f"{r['kept_bytes']/2**20:7.2f} MiB  singular values {low:.1e} … {high:.1e}"
                  + (f"  {r['iterations']:.1f} iterations" if sol else ''), flush=True)
    return rows


def digits(seed):
    from sklearn.datasets import load_digits
    data = load_digits()
    X, Y = torch.tensor(data.data, dtype=torch.float32)/16, torch.tensor(data.target)
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(seed))
    return *((X[i], Y[i]) for i in (order[:1200], order[1200:])), 10

def teacher(seed, n=2, depth=6, width=32, gain=3.):
    """Which of four outputs of a random tanh network, six layers deep, with weights of gain 3, is largest at a point of the plane: a picture
    folded six times. The teacher is the same for all seeds."""
    g = torch.Generator().manual_seed(0)
    sizes = [n] + [width]*depth + [4]
    weights = [torch.randn(a, b, generator=g)*(gain if b == width else 1)/a**.5 for a, b in zip(sizes, sizes[1:])]
    h = X = torch.randn(5000, n, generator=torch.Generator().manual_seed(1 + seed))
    for W in weights[:-1]: h = torch.tanh(h @ W)
    Y = (h @ weights[-1]).argmax(1)
    return (X[:4000], Y[:4000]), (X[4000:], Y[4000:]), 4

TASKS = {                                                               # epochs, batch, depths
    'digits': (digits, 12, 100, (4, 16, 64)),
    'teacher': (teacher, 10, 200, (4, 16))}

class Classifier(nn.Module):
    "A linear map to D features, the network, a LayerNorm and a linear readout."
    def __init__(self, n, net, classes):
        super().__init__()
        width = getattr(net, 'D', D)
        self.embed, self.net, self.norm, self.out = nn.Linear(n, D), net, nn.LayerNorm(width), nn.Linear(width, classes)
    def forward(self, x): return self.out(self.norm(self.net(self.embed(x))))

def train(make, L, data, epochs, batch, seed):
    "Test accuracy after each epoch and the seconds of training until then."
    (X, Y), (X_test, Y_test), classes = data
    torch.manual_seed(seed)
    model = Classifier(X.shape[1], make(L, 1e-3), classes)
    optimizer, seconds, accuracy, loss = torch.optim.Adam(model.parameters(), 3e-3), [0.], [], None
    for _ in range(epochs):
        start = time.perf_counter()
        for i in torch.randperm(len(X)).split(batch):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(X[i]), Y[i])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.)
            optimizer.step()
        seconds.append(seconds[-1] + time.perf_counter() - start)
        with torch.no_grad(): accuracy.append((model(X_test).argmax(1) == Y_test).float().mean().item())
    return dict(seed=seed, accuracy=accuracy, seconds=seconds[1:], parameters=size(model.net), loss=loss.item())

def learn(args):
    rows = []
    for task, (make_data, epochs, batch, depths) in TASKS.items():
        for L in depths[:1] if args.quick else depths:
            for name in (name for name in TRAINED if name in args.only):
                runs = [train(CONTESTANTS[name], L, make_data(seed), 2 if args.quick else epochs, batch, seed) for seed in range(args.seeds)]
                rows.append(dict(task=task, name=name, L=L, epochs=len(runs[0]['accuracy']), batch=batch, runs=runs))
                last, per_epoch = [r['accuracy'][-1] for r in runs], statistics.median(r['seconds'][-1] for r in runs)/rows[-1]['epochs']
                print(f"{task:8s} L={L:3d} {name:24s} {runs[0]['parameters']:7d} parameters  {per_epoch:7.3f} s per epoch  accuracy "
                      f"{statistics.mean(last):.3f} ({min(last):.3f}–{max(last):.3f})", flush=True)
    return rows

def merged(old, new):
    "The rows of `old`, those that `new` repeats replaced; in the order of tasks, depths and contestants."
    def key(r): return r.get('task'), r['L'], r['name']
    rows = {**{key(r): r for r in old}, **{key(r): r for r in new}}
    order, tasks = list(CONTESTANTS), [None, *TASKS]
    return sorted(rows.values(), key=lambda r: (tasks.index(r.get('task')), r['L'], order.index(r['name'])))


def main():
    parser = Options(__doc__, 'resnet', rounds=3, quick_rounds=1)
    parser.add_argument('--depth', action='store_true', help='only this part')
    parser.add_argument('--learn', action='store_true', help='only this part')
    parser.add_argument('--only', nargs='+', default=list(CONTESTANTS), choices=list(CONTESTANTS), metavar='NAME', help='these contestants alone')
    parser.add_argument('--seeds', type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads[0])
    warnings.simplefilter('ignore')
    result = json.loads(pathlib.Path(args.out).read_text()) if args.out and pathlib.Path(args.out).exists() else {}
    if set(args.only) == set(CONTESTANTS): result.pop('note', None)     # that of rows measured apart
    result.update(what='depth: float32, batch 64, tolerance 1e-4, times interleaved in one process, singular values in float64 at tolerance 1e-9; '
                       'learn: Adam 3e-3, gradient norm clipped at 1, tolerance 1e-3',
                  features=D, seeds=args.seeds, **machine())
    for part, run in (('depth', depth), ('learn', learn)):
        if getattr(args, part) or not (args.depth or args.learn):
            result[part] = merged(result.get(part, []), run(args))
            write(args.out, result)


if __name__ == '__main__': main()
