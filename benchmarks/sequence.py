"""Any cell over a sequence: the exact adjoint against autograd through the loop, and all steps at once against one after the other; writes results/sequence.json.

    python benchmarks/sequence.py            all rows
    python benchmarks/sequence.py --quick    small sizes, three rounds; nothing is written unless --out is given

In each round everything has its turn, in one process; ratios are of the times of one round. pararnn-torch (PyPI) does not import where triton is missing, as on this kind of machine; its row is then missing too.
"""
import argparse, gc, json, pathlib, platform, statistics, time, warnings

import torch
from torch import nn
from deq_irnn.equilibrium_rnn import DiagonalGRUCell, DiagonalLSTMCell, EquilibriumRNN, Explicit, TanhCell
from deq_irnn.fixed_point import leaves
from deq_irnn.implicit import fixed_point
from recurrent import cpu, summary

N = 16
ADJOINT = [('nn.GRUCell', lambda n, d: Explicit(nn.GRUCell(n, d)), D, 1000, B) for D, B in ((16, 1), (16, 8), (64, 1), (64, 8), (128, 1))] + [('DiagonalGRUCell', DiagonalGRUCell, 64, 1000, 8), ('TanhCell', TanhCell, 16, 200, 8), ('TanhCell', TanhCell, 64, 200, 8)]
MODES = [(name, make, D, T, B) for name, make in (('DiagonalGRUCell', DiagonalGRUCell), ('DiagonalLSTMCell', DiagonalLSTMCell)) for D, T, B in ((64, 100, 4), (64, 1000, 4), (64, 10000, 4), (16, 10000, 1), (128, 1000, 64))] \
    + [('nn.GRUCell, dense', lambda n, d: Explicit(nn.GRUCell(n, d)), D, 1000, 4) for D in (4, 16)] + [('TanhCell, dense', TanhCell, 8, 200, 4)]

MAP = [('DiagonalGRUCell', DiagonalGRUCell, D, T, B) for D in (16, 128) for T in (100, 1000, 10000) for B in (1, 8, 64) if T*B*D <= 8e6]      # where which mode wins


def timed(run, module):
    gc.collect(); module.zero_grad()
    start = time.perf_counter()
    sum(s.square().mean() for s in leaves(run())).backward()
    return time.perf_counter() - start

def loop(cell, x):
    "Autograd through the loop: of an explicit cell, or of T equilibria, each with its own implicit gradient."
    h, states = cell.initial_state(x.shape[1], x), []
    for x_t in x:
        h = cell(x_t, h, h) if cell.explicit else fixed_point(lambda z: cell(x_t, z, h), h.detach(), tol=1e-5)
        states.append(leaves(h)[0])
    return torch.stack(states)

def rounds(contestants, n):
    "name → seconds in each round, after one to warm up."
    times = {name: [] for name in contestants}
    for _ in range(n + 1):
        for name, (run, module) in contestants.items(): times[name].append(timed(run, module))
    return {name: t[1:] for name, t in times.items()}

def ratio(a, b): return summary([x/y for x, y in zip(a, b)])


def adjoint(name, make, D, T, B, n):
    torch.manual_seed(0)
    cell, x = make(N, D), torch.randn(T, B, N)
    rnn = EquilibriumRNN(cell)
    t = rounds({'loop': (lambda: loop(cell, x), cell), 'exact': (lambda: rnn(x)[0], cell)}, n)
    return dict(cell=name, D=D, T=T, B=B, loop=summary(t['loop']), exact=summary(t['exact']), ratio=ratio(t['loop'], t['exact']))

def modes(name, make, D, T, B, n):
    torch.manual_seed(0)
    cell, x, gru = make(N, D), torch.randn(T, B, N), nn.GRU(N, D)
    rnn = EquilibriumRNN(cell, 'parallel', tol=1e-5, max_iter=50)
    plain = (lambda: loop(cell, x)) if getattr(cell, 'explicit', False) else (lambda: EquilibriumRNN(cell, tol=1e-5)(x)[0])
    t = rounds({'loop': (plain, cell), 'parallel': (lambda: rnn(x)[0], cell), 'gru': (lambda: gru(x)[0], gru)}, n)
    return dict(cell=name, D=D, T=T, B=B, iterations=int(rnn.solution.iterations.max()), residual=rnn.solution.residual.max().item(), **{k: summary(v) for k, v in t.items()},
                faster_than_loop=ratio(t['loop'], t['parallel']), faster_than_gru=ratio(t['gru'], t['parallel']))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--quick', action='store_true', help='T at most 200, three rounds, nothing written')
    parser.add_argument('--rounds', type=int, default=None, help='default 5; 3 with --quick')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--out', default=None, help='where to write (default results/sequence.json; none with --quick)')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter('ignore')
    n, cut = args.rounds or (3 if args.quick else 5), 200 if args.quick else 10**9
    out = args.out or (None if args.quick else pathlib.Path(__file__).parent.parent/'results'/'sequence.json')
    result = dict(what='seconds, forward + backward, interleaved in one process; float32; relative tolerance 1e-5', input_size=N, threads=args.threads, torch=torch.__version__,
                  python=platform.python_version(), cpu=cpu(), adjoint=[], modes=[], map=[])
    print('exact adjoint against autograd through the loop')
    for name, make, D, T, B in ADJOINT:
        r = adjoint(name, make, D, min(T, cut), B, n)
        result['adjoint'].append(r)
        print(f"{name:20s} D={D:4d} T={r['T']:6d} B={B:3d}  loop {r['loop']['median']:7.3f} s  exact {r['exact']['median']:7.3f} s  {r['ratio']['median']:6.2f} × ({r['ratio']['min']:.2f}–{r['ratio']['max']:.2f})", flush=True)
    print('parallel against one step after the other, and against nn.GRU')
    for key, name, make, D, T, B in [('modes', *m) for m in MODES] + [('map', *m) for m in MAP]:
        r = modes(name, make, D, min(T, cut), B, n if key == 'modes' else 3)
        result[key].append(r)
        print(f"{name:20s} D={D:4d} T={r['T']:6d} B={B:3d}  {r['iterations']:3d} iterations, residual {r['residual']:.0e}  loop {r['loop']['median']:7.3f} s  parallel {r['parallel']['median']:7.3f} s  "
              f"{r['faster_than_loop']['median']:6.2f} × the loop, {r['faster_than_gru']['median']:6.2f} × nn.GRU", flush=True)
        if out: pathlib.Path(out).write_text(json.dumps(result, indent=1, ensure_ascii=False) + '\n')


if __name__ == '__main__': main()
