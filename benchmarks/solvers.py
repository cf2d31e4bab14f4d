"""Solvers on the maps of equilibrium models, beside torchdeq's: evaluations and time to tolerance; writes results/solvers.json.

    python benchmarks/solvers.py            all maps
    python benchmarks/solvers.py --quick    two maps, three rounds; nothing is written unless --out is given
    python benchmarks/solvers.py --problems sym attention --only counts

Two parts. `counts`, in float64: after how many evaluations of f has a sample's own relative residual ‖f(z) − z‖/‖f(z)‖ come down to 1e-3 … 1e-8? Seen from f, which is watched: whatever a
solver says of itself. A sample that is not there after 300 evaluations has failed, and counts as 300 in the mean. `times`, in float32, all contestants in turn: seconds to the
tolerance, forward and forward + backward, and `overhead`: time ÷ time of as many bare evaluations of f (and vector-Jacobian products), timed in the same rounds. `residual`: the worst
sample's, of what was returned, computed here. A contestant that does not reach the tolerance is marked, and not counted as fast.
"""
import copy, gc, os, time, warnings
from unittest import mock

import torch
from torch import nn
import maps
from common import Options, machine, ratios, spread, summary, table, write
from deq_irnn import Anderson, Broyden, Implicit, Picard, fixed_point, relative_residual

try: import torchdeq
except ImportError: torchdeq = None

MAX_ITER = 300
TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-8)
TIMED = ('gauss 64×256', 'orth 64×256', 'sym 64×256', 'sym 256×512', 'attention', 'convolution 16', 'graph', 'digits attention, trained')


def ours(solver):
    "Our solver, forward and backward."
    def make(f, x, tol):
        def run():
            z0 = torch.zeros_like(x)
            return fixed_point(lambda z: f(z, x), z0, solver=solver, tol=tol, max_iter=MAX_ITER,
                               gradient=Implicit(), on_failure='ignore')
        return run
    return make


def theirs(name):
    "torchdeq's solver, forward and backward, with its relative criterion."
    def make(f, x, tol):
        deq = torchdeq.get_deq(f_solver=name, b_solver=name, ift=True, f_max_iter=MAX_ITER, b_max_iter=MAX_ITER,
                               f_tol=tol, b_tol=tol, f_stop_mode='rel', b_stop_mode='rel')
        deq.train()
        return lambda: deq(lambda z: f(z, x), torch.zeros_like(x))[0][-1]
    return make

CONTESTANTS = {'Picard': ours(Picard()), 'Anderson': ours(Anderson()),
               'Anderson, memory 20': ours(Anderson(memory=20)), 'Broyden': ours(Broyden())}
if torchdeq: CONTESTANTS |= {f'torchdeq {n}': theirs(n) for n in ('fixed_point_iter', 'anderson', 'broyden')}


# ---- counts

class Watched(nn.Module):
    "f, and the relative residuals of all samples at each point where it was evaluated."
    def __init__(self, f):
        super().__init__()
        self.f, self.seen = f, []

    def forward(self, z, x):
        fz = self.f(z, x)
        self.seen.append(relative_residual(fz.flatten(1), z.flatten(1)))
        return fz


def needed(seen, row):
    "From relative residuals (evaluations, B): for each tolerance `row` with the mean and the largest number of evaluations, and how many samples failed."
    best, rows = seen.nan_to_num(torch.inf).cummin(0).values, []
    for tol in TOLERANCES:
        failed = best[-1] > tol
        n = torch.where(failed, MAX_ITER, (best > tol).sum(0) + 1)
        rows.append(dict(**row, tol=tol, samples=len(n), mean=n.double().mean().item(), most=int(n.max()), failed=int(failed.sum())))
    return rows


def reached(row):
    "A row as text: evaluations (failed)."
    return f"{row['mean']:.1f}" + (f" ({row['failed']})" if row['failed'] else '')


def counts(problem, contestants=CONTESTANTS):
    "The rows of one map."
    f, x = maps.make(problem)
    rows = {}
    for name, make in contestants.items():
        watched = Watched(copy.deepcopy(f).double())
        with torch.no_grad(): make(watched, x.double(), TOLERANCES[-1]/2)()
        rows[name] = needed(torch.stack(watched.seen[:MAX_ITER]), dict(problem=problem, name=name))
    print(f'\n{problem}: evaluations per sample (failed)')
    table(('', *(f'{t:g}' for t in TOLERANCES)), [(name, *map(reached, each)) for name, each in rows.items()])
    return [r for each in rows.values() for r in each]


# ---- times

def costs(make, f, x, tol, backward):
    "Evaluations of f, vector-Jacobian products, worst true residual: one run, not timed."
    watched, products, grad = Watched(f), [], torch.autograd.grad
    with mock.patch('torch.autograd.grad', lambda *a, **k: (products.append(1), grad(*a, **k))[1]):
        with torch.set_grad_enabled(backward):
            z = make(watched, x, tol)()
            if backward: z.sum().backward()
    with torch.no_grad(): residual = relative_residual(f(z, x).flatten(1), z.flatten(1)).max().item()
    return len(watched.seen), len(products), residual


def bare(f, x, n, backward):
    "Seconds of one evaluation of f, and of one vector-Jacobian product."
    z = torch.zeros_like(x)
    start = time.process_time()
    with torch.no_grad():
        for _ in range(n): z = f(z, x)
    evaluation = (time.process_time() - start)/n
    if not backward: return evaluation, 0.
    z = z.requires_grad_()
    value = f(z, x)
    start, u = time.process_time(), torch.ones_like(z)
    for _ in range(n): torch.autograd.grad(value, z, u, retain_graph=True)
    return evaluation, (time.process_time() - start)/n


def measure(f, x, tol, backward, rounds):
    "The rows of one map: all contestants and the bare f in turn."
    numbers = {name: costs(make, f, x, tol, backward) for name, make in CONTESTANTS.items()}
    runs = {name: make(f, x, tol) for name, make in CONTESTANTS.items()}
    times, floors = {name: [] for name in CONTESTANTS}, []
    for i in range(rounds + 1):
        floors.append(bare(f, x, 30, backward))
        for name, run in runs.items():
            gc.collect()
            start = time.process_time()
            with torch.set_grad_enabled(backward):
                z = run()
                if backward:
                    f.zero_grad()
                    z.sum().backward()
            times[name].append(time.process_time() - start)
    rows = []
    for name, (evaluations, products, residual) in numbers.items():
        floor = [evaluations*e + products*v for e, v in floors[1:]]
        rows.append(dict(name=name, tol=tol, backward=backward, evaluations=evaluations, products=products,
                         residual=residual, reached=residual <= 1.05*tol, seconds=summary(times[name][1:]),
                         overhead=ratios(times[name][1:], floor), rounds=times[name][1:]))
    add_ratio(rows)
    return rows


def add_ratio(rows):
    "How many times longer torchdeq's fastest takes than each of ours, round by round."
    peers = [r for r in rows if r['name'].startswith('torchdeq') and r['reached']]
    best = min(peers, key=lambda r: r['seconds']['median'], default=None)
    for r in rows:
        if best is not None and r['reached']: r['torchdeq'] = ratios(best['rounds'], r['rounds'])
    for r in rows: del r['rounds']


def show(problem, rows):
    print(f'\n{problem}, tol {rows[0]["tol"]:g}, {"forward + backward" if rows[0]["backward"] else "forward"}')
    table(('', 'f', 'vjp', 'residual', 'ms (min–max)', 'overhead (min–max)', "× torchdeq's best"),
          [(r['name'], str(r['evaluations']), str(r['products']), f"{r['residual']:.1e}" + '!'*(not r['reached']),
            spread(r['seconds'], 2, 1e3), spread(r['overhead'], 2), f"{r['torchdeq']['median']:.2f}" if 'torchdeq' in r else '')
           for r in rows])


def times(problem, rounds, tol=1e-4):
    "The rows of one map, forward, and forward and backward."
    f, x = maps.make(problem)
    rows = []
    for backward in (False, True):
        found = measure(f, x, tol, backward, rounds)
        rows += [dict(problem=problem, **r) for r in found]
        show(problem, found)
    return rows


def main():
    options = Options(__doc__, 'solvers', rounds=5)
    options.add_argument('--problems', nargs='+', help='those whose name contains one of these')
    options.add_argument('--only', choices=('counts', 'times'), help='one part alone')
    args = options.parse_args()
    torch.set_num_threads(args.threads[0])
    warnings.simplefilter('ignore')
    wanted = args.problems or (('sym 64', 'sym 256') if args.quick else ('',))
    names = [n for n in maps.MAPS if any(p in n for p in wanted)]
    result = dict(what='evaluations of f per sample, float64; seconds to the tolerance, float32, in turn in one process',
                  max_iter=MAX_ITER, torchdeq=torchdeq and getattr(torchdeq, '__version__', '0.1.0'), **machine(),
                  load=os.getloadavg()[0], counts=[], rows=[])
    counted = [n for n in names if '256×512' not in n]
    timed = [n for n in names if args.problems or any(n.startswith(t) for t in TIMED)]
    for key, part, chosen in (('counts', counts, counted), ('rows', lambda n: times(n, args.rounds), timed)):
        for name in chosen if args.only in (None, 'times' if key == 'rows' else key) else ():
            result[key] += part(name)
            write(args.out, result, finished=False)
    write(args.out, result, finished=not (args.problems or args.only))       # a part stays beside the whole


if __name__ == '__main__': main()
