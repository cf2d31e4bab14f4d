"""Ways to compose at rest beside explicit networks, at equal parameters; writes results/resnet.json.

    python benchmarks/resnet.py                  all parts; what the file has is not repeated
    python benchmarks/resnet.py --part jacobians     singular values at the start and after training,
                                                     depth 4 … 256; bytes kept, solver iterations
    python benchmarks/resnet.py --part tent          a task that needs composition: which side of 2^k folds
    python benchmarks/resnet.py --part digits        scikit-learn's digits, 64 layers
    python benchmarks/resnet.py --part fashion       Fashion-MNIST, convolutions
    python benchmarks/resnet.py --minutes 20     stop after so long; the same command goes on
    python benchmarks/resnet.py --seeds 5 --only fold 'fold, two layers'

Every network has 2D² weights a layer (two matrices, or two convolutions): a layer at rest has U and W.
A weight-tied one has a single layer, as much wider as it takes. Each learning rate is chosen by its
accuracy on held-out samples with seed 0; then seed after seed for the finalists of the task.
Those '4 × as long' are trained for about the time that a fold at rest takes.
Fashion-MNIST: Debian's package dataset-fashion-mnist (apt-get install, or apt-get download and dpkg-deb -x),
in /usr/share/datasets/fashion-mnist, or the folder that --fashion names.
"""
import copy, dataclasses, itertools, json, math, pathlib, statistics, time, warnings

import torch
import torch.nn.functional as F
from torch import nn
from deq_irnn.data import mnist, sklearn_digits
from deq_irnn.fixed_point import SolvingModule, last_solution
from deq_irnn.irnn import activation
from deq_irnn.resnet import DepthFold, composed, depth_jacobian, make_block, reflected_rest_points, rest_points
from deq_irnn.solvers import Picard, Solve
from common import Options, machine, write

PHI = activation('tanh')


class Stack(nn.Module):
    """L explicit layers of two linear maps, F_l(h) = B_l tanh(A_l h + a_l) + b_l, put together in a way:

    'plain' h ← tanh F(h) · 'norm' h ← h + κF(norm h) · 'rezero' h ← h + α_l F(h), α_l = 0 at first
    (arXiv:2003.04887) · 'momentum' v ← .9v + .1F(norm h), h ← h + v (arXiv:2102.07870) ·
    'revnet' halves in turn, q ← q + κF(norm p) (arXiv:1707.04585), 2L branches of half as many weights."""
    def __init__(self, D, L, block, way, scale=1., phi=torch.tanh):
        super().__init__()
        self.way, self.scale, self.D, self.block, self.phi = way, scale, D, block, phi
        outside, branches = (D//2, 2*L) if way == 'revnet' else (D, L)
        def new(*shape):
            fan = math.prod(shape[1:])
            return nn.Parameter(torch.randn(branches, *shape)/fan**.5)
        self.A, self.B = new(*block.shape(D, outside)), new(*block.shape(outside, D))
        self.a, self.b = (nn.Parameter(torch.zeros(branches, n)) for n in (D, outside))
        self.alpha = nn.Parameter(torch.zeros(L)) if way == 'rezero' else None

    def branch(self, l, h):
        def affine(K, b, z): return self.block.apply(K[l:l+1], z[None])[0] + b[l].view(1, -1, *[1]*(h.dim() - 2))
        return affine(self.B, self.b, self.phi(affine(self.A, self.a, h)))

    def forward(self, x, h0=None):
        h = x if h0 is None else h0
        v = torch.zeros_like(h)
        def normed(h): return F.layer_norm(h, h.shape[1:])
        for l in range(len(self.A)):
            if self.way == 'plain': h = torch.tanh(self.branch(l, h))
            elif self.way == 'norm': h = h + self.scale*self.branch(l, normed(h))
            elif self.way == 'rezero': h = h + self.alpha[l]*self.branch(l, h)
            elif self.way == 'momentum':
                v = .9*v + .1*self.branch(l, normed(h))
                h = h + v
            else:
                q, p = h.chunk(2, 1)
                h = torch.cat([p, q + self.scale*self.branch(l, normed(p))], 1)
        return h


class Tied(SolvingModule):
    "h ← tanh(U h + W x + b), ‖U‖ ≤ 0.95, L times from 0, or at rest; as wide as L(2D² + D) parameters allow."
    def __init__(self, D, L, block, rest=False, how=Solve(Picard(), 1e-4)):
        super().__init__()
        k = math.prod(block.shape(1, 1))
        self.D = round((math.sqrt((k*D + 1)**2 + 4*k*L*(2*k*D*D + D)) - k*D - 1)/(2*k))
        self.L, self.block, self.rest, self.how = L, block, rest, how
        def new(*shape): return nn.Parameter(torch.empty(1, *shape).uniform_(-1, 1)/math.prod(shape[1:])**.5)
        self.U, self.W = new(*block.shape(self.D, self.D)), new(*block.shape(self.D, D))
        self.b = nn.Parameter(torch.zeros(self.D))

    def forward(self, x, h0=None):
        p = self.block.fan(self.W, x) + self.b.view(1, 1, -1, *[1]*(x.dim() - 2))
        U = self.block.bounded(self.U, .95, x.shape[2:])
        if self.rest:
            if self.block.reflects: h, self.solution = reflected_rest_points(U, p, PHI, self.how)
            else: h, self.solution = rest_points(U, p, PHI, self.how, self.block)
            return h[0] + (0 if h0 is None else 0*h0)
        h = torch.zeros_like(p) if h0 is None else h0[None]
        for _ in range(self.L): h = torch.tanh(self.block.apply(U, h) + p)
        return h[0]


def maxmin(h):
    a, b = h.chunk(2, 1)
    return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], 1)

class FreeFold(DepthFold):
    "The control of the fold: MaxMin(A h), where A begins orthogonal and is free to go anywhere; the kinks are the same."
    def reset_parameters(self):
        super().reset_parameters()
        with torch.no_grad(): self.skew.copy_(torch.linalg.matrix_exp(self.skew - self.skew.mT))

    def rotations(self, some=slice(None)): return self.skew[some]


SOLVE = dict(solver=None, tol=1e-4, max_iter=300, on_failure='ignore')

def explicit(way, narrow=False, phi=torch.tanh):
    return lambda D, L, block: Stack(D, L, block, way, L**-.5 if narrow else 1., phi)

def ours(way, equilibrium=True, **options):
    def make(D, L, block):
        how = SOLVE if block.reflects else {**SOLVE, 'solver': Picard()}
        return composed(way, width(way, D, block), L, equilibrium, block=block, **how, **options)
    return make

def width(way, D, block):
    """An even number of channels with which a layer has about as many free weights as 2D² (times the kernel's places k):
    a fold has D(D − 1)/2 more in its rotation, a leapfrog's W is half as wide."""
    k = math.prod(block.shape(1, 1))
    weights = {'fold': 2*k + .5, 'leapfrog': 1.5*k}.get(way, 2*k)
    return 2*round(D*(2*k/weights)**.5/2)

WAYS = ('collapse', 'fold', 'carousel', 'leapfrog', 'normed')
CONTESTANTS = {
    'plain': explicit('plain'),
    'pre-norm': explicit('norm'),
    'pre-norm, 1/√L': explicit('norm', True),
    'ReZero': explicit('rezero'),
    'RevNet, 1/√L': explicit('revnet', True),
    'momentum net': explicit('momentum'),
    'weight-tied': lambda D, L, block: Tied(D, L, block),
    'its DEQ': lambda D, L, block: Tied(D, L, block, True),
    **{way: ours(way) for way in (*WAYS, 'steps')},
    **{f'{way}, two layers': ours(way, False) for way in WAYS},
    'pre-norm, 1/√L, MaxMin': explicit('norm', True, maxmin),
    'free fold': ours('fold', transition=FreeFold),
    'free fold, two layers': ours('fold', False, transition=FreeFold)}

LONGER = {f'{name}, 4 × as long': (name, 4)                           # about as long as a fold at rest
          for name in ('fold, two layers', 'pre-norm, 1/√L, MaxMin')}

CONTROLS = [n for n in CONTESTANTS if 'two layers' in n or 'free' in n or 'MaxMin' in n]      # no Jacobians of these


def size(net):
    "Free parameters: of a fold's matrix A only A − Aᵀ counts."
    unused = sum(len(m.skew)*m.features*(m.features + 1)//2 for m in net.modules() if type(m) is DepthFold)
    return sum(p.numel() for p in net.parameters()) - unused

def kept(net, x):
    "Bytes that autograd keeps for the backward pass, parameters and x left out."
    skip, found = {t.untyped_storage().data_ptr() for t in (x, *net.parameters())}, {}
    def pack(t):
        at = t.untyped_storage().data_ptr()
        if at not in skip: found[at] = t                                # held, so that no address is used twice
        return t
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t): net(x)
    return sum(t.untyped_storage().nbytes() for t in found.values())

def singular_values(net, samples):
    """Of ∂h_L/∂h_0 with x held ('state') and of ∂h_L/∂x with h_0 = x ('through'), over all samples, float64."""
    net = copy.deepcopy(net).double()
    if hasattr(net, 'how'): net.how = dataclasses.replace(net.how, tol=1e-9, max_iter=2000)
    found = {'state': [], 'through': []}
    for x in samples.double():
        start = torch.randn(net.D, *x.shape[1:]).double() if isinstance(net, Tied) else x
        def state(h): return net(x.expand(len(h), *x.shape), h)
        found['state'].append(torch.linalg.svdvals(depth_jacobian(state, start)))
        found['through'].append(torch.linalg.svdvals(depth_jacobian(net, x)))
    return {k: dict(max=torch.cat(v).max().item(), median=torch.cat(v).median().item(), min=torch.cat(v).min().item())
            for k, v in found.items()}


def parts_of(X, Y, sizes, seed):
    "Disjoint samples in an order of the seed: (train, held out, test)."
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(seed))
    return [(X[i], Y[i]) for i in order[:sum(sizes)].split(sizes)]

def digits(args, seed, sizes):
    X, Y = sklearn_digits()
    return parts_of(X.flatten(1)/16., Y, sizes, seed), 10

def tent(args, seed, sizes, k=4):
    """x in [0, 1], and the side of 1/2 on which the tent map's k-th iterate puts it: 2^k + 1 intervals in turn.

    Telgarsky 2015 (arXiv:1509.08101), theorem 1.1: 2k layers of 2 ReLUs make no error on the 2^k points; l layers
    of m ≤ 2^((k−3)/l − 1) err on at least a sixth of them."""
    X = torch.rand(sum(sizes), 1, generator=torch.Generator().manual_seed(1 + seed))
    y = X
    for _ in range(k): y = 1 - (2*y - 1).abs()
    return parts_of((X - .5)*12**.5, (y[:, 0] > .5).long(), sizes, seed), 2

def fashion(args, seed, sizes):
    "Of Fashion-MNIST's training images (to train on, held out), and of its test images."
    (X, Y), (X_test, Y_test) = mnist(pathlib.Path(args.fashion))
    train, held = parts_of(X, Y, sizes[:2], seed)
    test, = parts_of(X_test, Y_test, sizes[2:], seed)
    return [((x[:, None]/255. - .286)/.353, y) for x, y in (train, held, test)], 10

@dataclasses.dataclass(frozen=True)
class Task:
    data: object
    sizes: tuple             # samples to train on, held out, to test on
    D: int
    L: int
    epochs: int
    batch: int
    rates: tuple
    finalists: tuple         # they go on to more seeds than the first
    others: tuple = ()
    block: str = 'dense'

    @property
    def protocol(self):
        "What makes runs comparable."
        return {k: getattr(self, k) for k in ('sizes', 'D', 'L', 'epochs', 'batch', 'block')}

TASKS = {
    'tent': Task(tent, (4000, 1000, 2000), 16, 8, 60, 200, (1.5e-3, 4e-3, 1e-2, 2.5e-2),
                 ('fold', 'fold, two layers', 'free fold', 'free fold, two layers', 'normed', 'normed, two layers',
                  'pre-norm, 1/√L, MaxMin', 'pre-norm', 'RevNet, 1/√L', *LONGER),
                 ('weight-tied', 'pre-norm, 1/√L', 'ReZero', 'plain', 'collapse, two layers', 'its DEQ',
                  'carousel, two layers', 'momentum net', 'collapse', 'carousel')),
    'digits': Task(digits, (1000, 297, 500), 16, 64, 20, 100, (1e-3, 3e-3, 1e-2),
                   ('pre-norm, 1/√L', 'ReZero', 'weight-tied', 'its DEQ', 'fold', 'fold, two layers',
                    'free fold, two layers', 'collapse', 'collapse, two layers'),
                   ('plain', 'pre-norm', 'RevNet, 1/√L', 'momentum net', 'carousel, two layers',
                    'normed, two layers', 'carousel', 'normed')),
    'fashion': Task(fashion, (8000, 1000, 2000), 24, 8, 3, 100, (2e-3, 6e-3),
                    ('pre-norm, 1/√L', 'fold, two layers', 'free fold, two layers', 'collapse, two layers', 'fold'),
                    ('weight-tied', 'its DEQ', 'collapse'), 'conv')}

class Classifier(nn.Module):
    "A linear map to D features (of patches of 4 × 4 for pictures), the network, a mean over places, a LayerNorm, a readout."
    def __init__(self, sample, net, D, classes):
        super().__init__()
        D = getattr(net, 'features', D)
        width = getattr(net, 'D', D)
        self.embed = nn.Conv2d(1, D, 4, 4) if sample.dim() == 3 else nn.Linear(len(sample), D)
        self.net, self.norm, self.out = net, nn.LayerNorm(width), nn.Linear(width, classes)
    def forward(self, x):
        h = self.net(self.embed(x))
        return self.out(self.norm(h.flatten(2).mean(2) if h.dim() > 2 else h))

def accuracy(model, X, Y):
    with torch.no_grad():
        right = [(model(x).argmax(1) == y).sum().item() for x, y in zip(X.split(500), Y.split(500))]
    return sum(right)/len(X)

def train(name, task, args, seed, rate, steps=None, L=None):
    "The trained model, and what is told of its run. Adam, a tenth of warm-up, then cosine; gradient norms clipped at 1."
    (train_set, held, test), classes = task.data(args, seed, task.sizes)
    X, Y = train_set
    L = L or task.L
    network, factor = LONGER.get(name, (name, 1))
    torch.manual_seed(seed)
    model = Classifier(X[0], CONTESTANTS[network](task.D, L, make_block(task.block)), task.D, classes)
    net = model.net
    if hasattr(net, 'how'): net.how = dataclasses.replace(net.how, tol=1e-3)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    total = steps or factor*task.epochs*math.ceil(len(X)/task.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min((k + 1)/(.1*total), (1 + math.cos(math.pi*k/total))/2))
    done, seconds, curve, iterations, failed = 0, 0., [], [], 0
    each = math.ceil(math.ceil(total*task.batch/len(X))/12)               # epochs between two points of the curve
    for epoch in itertools.count(1):
        start = time.process_time()
        for i in torch.randperm(len(X)).split(task.batch):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(X[i]), Y[i])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.)
            optimizer.step()
            schedule.step()
            sol = last_solution(net)
            if sol is not None:
                iterations.append(sol.iterations.float().mean().item())
                failed += int((~sol.converged).sum())
            done += 1
            if done == total: break
        seconds += time.process_time() - start
        if epoch % each == 0 or done == total: curve.append([round(seconds, 2), accuracy(model, *held)])
        if done == total: break
    return model, dict(
        name=name, L=L, seed=seed, lr=rate, held_out=curve[-1][1], test=accuracy(model, *test), seconds=seconds,
        curve=curve, parameters=size(net), loss=loss.item(), not_converged=failed,
        iterations=statistics.mean(iterations) if iterations else None)


class Results:
    "The file: rows are added one by one, and it is written after each."
    def __init__(self, args):
        self.path = args.out
        old = pathlib.Path(args.out) if args.out else None
        self.content = json.loads(old.read_text()) if old and old.exists() and not args.fresh else {}
        self.content.update(machine())
        before = self.content.get('tasks', {})
        self.content['tasks'] = {k: t.protocol for k, t in TASKS.items()}
        for part, now in json.loads(json.dumps(self.content['tasks'])).items():
            if before.get(part) != now: self.content.pop(part, None)    # of another protocol
        self.end = time.perf_counter() + 60*args.minutes

    def rows(self, part): return self.content.setdefault(part, [])

    def has(self, part, **keys): return any(all(r.get(k) == v for k, v in keys.items()) for r in self.rows(part))

    def add(self, part, row):
        self.rows(part).append(row)
        write(self.path, self.content)

    @property
    def late(self): return time.perf_counter() > self.end


def jacobians(args, results):
    "At the start (three seeds), and after 30 steps on the digits (one): depth 4 … 256."
    task = TASKS['digits']
    for L in (4, 8) if args.quick else args.depths:
        for name in args.only:
            if results.late: return
            if name in CONTROLS or name in LONGER or results.has('jacobians', name=name, L=L): continue
            torch.manual_seed(0)
            block = make_block('dense')
            fresh = [CONTESTANTS[name](task.D, L, block) for _ in range(3)]
            inside = getattr(fresh[0], 'features', task.D)
            at_start = [singular_values(net, torch.randn(1, inside)) for net in fresh]
            memory = kept(fresh[0], torch.randn(64, inside))
            model, row = train(name, task, args, 0, 3e-3, 5 if args.quick else 30, L)
            (X, _), = task.data(args, 0, task.sizes)[0][2:]
            with torch.no_grad(): samples = model.embed(X[:3])
            row.update(start=at_start, trained=singular_values(model.net, samples), kept_bytes=memory, steps=30)
            del row['curve']
            results.add('jacobians', row)
            low, high = (f([s['state'][k] for s in at_start]) for f, k in ((min, 'min'), (max, 'max')))
            after = row['trained']['state']
            print(f"jacobians L={L:3d} {name:24s} start {low:.1e} … {high:.1e}  trained {after['min']:.1e} … "
                  f"{after['max']:.1e}  test {row['test']:.3f}  {row['seconds']:6.1f} s", flush=True)

def learn(which, args, results):
    "Choose each learning rate with seed 0, then seed after seed for the finalists."
    task = TASKS[which]
    names = [n for n in (*task.finalists, *task.others) if n in args.only]
    if args.quick: task = dataclasses.replace(task, epochs=1)
    def run(name, seed, rate):
        if results.late or results.has(which, name=name, seed=seed, lr=rate): return
        row = train(name, task, args, seed, rate)[1]
        results.add(which, row)
        print(f"{which:12s} L={task.L:3d} {name:24s} seed {seed} lr {rate:g}  held out {row['held_out']:.3f}  "
              f"test {row['test']:.3f}  {row['parameters']} parameters  {row['seconds']:6.1f} s", flush=True)
    for name in names:
        for rate in args.rates or task.rates: run(name, 0, rate)
    if results.late: return
    for seed in range(1, args.seeds):
        for name in (n for n in names if n in task.finalists):
            screened = [r for r in results.rows(which) if r['name'] == name and r['seed'] == 0]
            run(name, seed, max(screened, key=lambda r: r['held_out'])['lr'])


def main():
    parser = Options(__doc__, 'resnet')
    parts = ['jacobians', *TASKS]
    parser.add_argument('--part', action='append', choices=parts, help='these parts alone (repeat it)')
    parser.add_argument('--only', nargs='+', default=[*CONTESTANTS, *LONGER], choices=[*CONTESTANTS, *LONGER],
                        metavar='NAME')
    parser.add_argument('--seeds', type=int, default=5)
    parser.add_argument('--depths', type=int, nargs='+', default=[4, 16, 64, 256], help='of the Jacobians')
    parser.add_argument('--rates', type=float, nargs='+', help="learning rates, instead of the task's own")
    parser.add_argument('--minutes', type=float, default=math.inf, help='begin no run after so long')
    parser.add_argument('--fresh', action='store_true', help='repeat what the file has')
    parser.add_argument('--fashion', default='/usr/share/datasets/fashion-mnist', help='folder of Fashion-MNIST')
    args = parser.parse_args()
    torch.set_num_threads(args.threads[0])
    warnings.simplefilter('ignore')
    results = Results(args)
    results.content['what'] = ('tanh, float32, tolerance 1e-3 while training, 1e-9 and float64 for singular values; Adam, '
                               'warm-up and cosine, gradient norm clipped at 1; seconds of processor time, one thread; lr chosen on held-out samples with seed 0')
    for part in args.part or parts:
        if part == 'jacobians': jacobians(args, results)
        else: learn(part, args, results)


if __name__ == '__main__': main()
