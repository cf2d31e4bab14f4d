"""Any cell over a sequence: the exact adjoint against autograd through the loop, and all steps at once against one after the other.

    python benchmarks/sequence.py            all rows; writes results/sequence.json
    python benchmarks/sequence.py --quick    T at most 200, three rounds; nothing is written unless --out is given

In each round everything has its turn, in one process; ratios are of the times of one round.
"""
import gc, time, warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from deq_irnn.equilibrium_rnn import DiagonalGRUCell, DiagonalLSTMCell, EquilibriumRNN, Explicit, TanhCell
from deq_irnn.implicit import fixed_point
from common import Options, interleaved, machine, ratios, spread, summary, write

N = 16                                     # numbers in an input


class Case(NamedTuple):
    "A cell and the sizes to run it at."
    name: str
    make: Callable[[int, int], nn.Module]       # (input_size, hidden_size) → cell
    D: int
    T: int
    B: int

    def __str__(self): return f'{self.name:20s} D={self.D:4d} T={self.T:6d} B={self.B:3d}'


def gru(n, d): return Explicit(nn.GRUCell(n, d))

ADJOINT = [
    *(Case('nn.GRUCell', gru, D, 1000, B) for D, B in ((16, 1), (16, 8), (64, 1), (64, 8), (128, 1))),
    Case('DiagonalGRUCell', DiagonalGRUCell, 64, 1000, 8),
    Case('TanhCell', TanhCell, 16, 200, 8),
    Case('TanhCell', TanhCell, 64, 200, 8)]

WIDE = (64, 100, 4), (64, 1000, 4), (64, 10000, 4), (16, 10000, 1), (128, 1000, 64)
MODES = [
    *(Case('DiagonalGRUCell', DiagonalGRUCell, *sizes) for sizes in WIDE),
    *(Case('DiagonalLSTMCell', DiagonalLSTMCell, *sizes) for sizes in WIDE),
    *(Case('nn.GRUCell, dense', gru, D, 1000, 4) for D in (4, 16)),
    Case('TanhCell, dense', TanhCell, 8, 200, 4)]

MAP = [Case('DiagonalGRUCell', DiagonalGRUCell, D, T, B)                        # where which mode wins
       for D in (16, 128) for T in (100, 1000, 10000) for B in (1, 8, 64) if T*B*D <= 8e6]


def turn(run, module):
    "A measurement: seconds of forward and backward."
    def measure():
        gc.collect()
        module.zero_grad()
        start = time.perf_counter()
        sum(s.square().mean() for s in tree_leaves(run())).backward()
        return time.perf_counter() - start
    return measure


def loop(cell, x):
    "Autograd through the loop: of an explicit cell, or of T equilibria, each with its own implicit gradient."
    h, states = cell.initial_state(x.shape[1], x), []
    for x_t in x:
        if cell.explicit: h = cell(x_t, h, h)
        else:
            past = h
            h = fixed_point(lambda z: cell(x_t, z, past), past.detach(), tol=1e-5)
        states.append(tree_leaves(h)[0])
    return torch.stack(states)


def adjoint(case, rounds):
    "The exact adjoint beside autograd through the loop."
    torch.manual_seed(0)
    cell, x = case.make(N, case.D), torch.randn(case.T, case.B, N)
    rnn = EquilibriumRNN(cell)
    t = interleaved({'loop': turn(lambda: loop(cell, x), cell), 'exact': turn(lambda: rnn(x)[0], cell)}, rounds)
    return dict(cell=case.name, D=case.D, T=case.T, B=case.B, loop=summary(t['loop']), exact=summary(t['exact']),
                ratio=ratios(t['loop'], t['exact']))


def modes(case, rounds):
    "All steps at once beside one after the other, and beside nn.GRU."
    torch.manual_seed(0)
    cell, x, peer = case.make(N, case.D), torch.randn(case.T, case.B, N), nn.GRU(N, case.D)
    rnn = EquilibriumRNN(cell, 'parallel', tol=1e-5, max_iter=50)
    def plain(): return loop(cell, x) if cell.explicit else EquilibriumRNN(cell, tol=1e-5)(x)[0]
    t = interleaved({'loop': turn(plain, cell), 'parallel': turn(lambda: rnn(x)[0], cell),
                     'gru': turn(lambda: peer(x)[0], peer)}, rounds)
    sol = rnn.solution
    return dict(cell=case.name, D=case.D, T=case.T, B=case.B, iterations=int(sol.iterations.max()),
                residual=sol.residual.max().item(), **{name: summary(v) for name, v in t.items()},
                faster_than_loop=ratios(t['loop'], t['parallel']), faster_than_gru=ratios(t['gru'], t['parallel']))


def main():
    options = Options(__doc__, 'sequence', rounds=5).parse_args()
    torch.set_num_threads(options.threads[0])
    warnings.simplefilter('ignore')
    result = dict(what='seconds, forward + backward, interleaved in one process; float32; relative tolerance 1e-5',
                  input_size=N, **machine(), adjoint=[], modes=[], map=[])
    def fitting(cases): return [c._replace(T=min(c.T, 200)) if options.quick else c for c in cases]
    print('exact adjoint against autograd through the loop')
    for case in fitting(ADJOINT):
        r = adjoint(case, options.rounds)
        result['adjoint'].append(r)
        print(f"{case}  loop {r['loop']['median']:7.3f} s  exact {r['exact']['median']:7.3f} s  {spread(r['ratio'], 2)} ×", flush=True)
    print('parallel against one step after the other, and against nn.GRU')
    for part, cases, rounds in (('modes', MODES, options.rounds), ('map', MAP, min(3, options.rounds))):
        for case in fitting(cases):
            r = modes(case, rounds)
            result[part].append(r)
            print(f"{case}  {r['iterations']:3d} iterations, residual {r['residual']:.0e}  loop {r['loop']['median']:7.3f} s  "
                  f"parallel {r['parallel']['median']:7.3f} s  {r['faster_than_loop']['median']:6.2f} × the loop, "
                  f"{r['faster_than_gru']['median']:6.2f} × nn.GRU", flush=True)
            write(options.out, result, finished=False)
    write(options.out, result)


if __name__ == '__main__': main()
