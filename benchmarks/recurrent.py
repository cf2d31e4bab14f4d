"""Recurrent nets side by side: forward and forward + backward, interleaved in one process; prints tables, writes results/recurrent.json.

    python benchmarks/recurrent.py            all sizes, 1 and 2 threads
    python benchmarks/recurrent.py --quick    the first size, three rounds; nothing is written unless --out is given
    python benchmarks/recurrent.py --only IRNN LSTM --sizes 0 2 --threads 1

and, each in a process of its own, time and added memory of RootIRNN for T up to a million.

A contestant is a line in CONTESTANTS: a name, and a function (input_size, hidden_size) → module with output, h_n = module(x), x (T, B, input_size).
"""
import json, pathlib, re, statistics, subprocess, sys

import torch
from torch import nn
from common import Options, forward_backward, interleaved, machine, spread, summary, table, write
from deq_irnn.irnn import IRNN
from deq_irnn.root_irnn import IsometricRNN, RootIRNN

N, D = 16, 128
SIZES = [dict(T=1000, B=32), dict(T=8192, B=1), dict(T=784, B=128)]


class Indexed(nn.Module):
    "The K-step iRNN straight from the paper, p[k] inside the loop: the backward of each p[k] fills a tensor of the size of p."
    def __init__(self, n, d, steps=5):
        super().__init__()
        self.W, self.U = nn.Linear(n, d), nn.Linear(d, d, bias=False)
        self.eta = nn.Parameter(torch.full((steps,), .1/steps))

    def forward(self, x):
        h, out, p = x.new_zeros(x.shape[1], self.U.weight.shape[0]), [], self.W(x)
        for k in range(len(x)):
            g = h
            for i in range(len(self.eta)): g = g + self.eta[i]*(torch.relu(self.U(g + h) + p[k]) - (g + h))
            h = g
            out.append(h)
        return torch.stack(out), h


def root(**options): return lambda n, d: RootIRNN(n, d, **options)
def isometric(**options): return lambda n, d: IsometricRNN(n, d, **options)

PAPER = dict(transition='minus', gate=False, nonlinearity='relu')                 # the paper's equation, exactly solved
ROOTS = {'−I, relu': PAPER, '−I, relu, 4 heads': dict(PAPER, heads=4),
         'rotation+gate, relu': dict(gate='input', nonlinearity='relu'),
         'rotation+gate, tanh': dict(gate='input'),
         'rotation+gate, tanh, 4 heads': dict(gate='input', heads=4),
         'rotation+gate on s, tanh': dict()}                                      # the default

CONTESTANTS = {
    'nn.LSTM':                   lambda n, d: nn.LSTM(n, d),
    'nn.GRU':                    lambda n, d: nn.GRU(n, d),
    **{f'isometric, {i}, {t}+gate': isometric(injection=i, transition=t)
       for i in ('tanh', 'mlp') for t in ('rotation', 'input_rotation', 'orthogonal')},
    **{f'isometric, {i}, rotation+gate on s': isometric(injection=i, gate='state') for i in ('tanh', 'mlp')},
    'isometric, tanh, rotation': isometric(injection='tanh', gate=False),
    'IRNN K=5':                  lambda n, d: IRNN(n, d),
    'IRNN K=5, tanh':            lambda n, d: IRNN(n, d, nonlinearity='tanh'),
    **{f'root, {name}, {tol:.0e}': root(tol=tol, **options) for name, options in ROOTS.items() for tol in (1e-3, 1e-5)},
    'K=5, autograd loop':        lambda n, d: IRNN(n, d, adjoint=False),
    'K=5, autograd loop, p[k]':  Indexed,
}
SLOW = {'K=5, autograd loop': 3, 'K=5, autograd loop, p[k]': 1}      # at most so many rounds, and none to warm up
REFERENCES = ('nn.LSTM', 'K=5, autograd loop', 'K=5, autograd loop, p[k]')


def measure(contestants, size, rounds):
    "The rows of one size: seconds, forward (with a graph) and forward + backward."
    torch.manual_seed(0)
    x = torch.randn(size['T'], size['B'], N)
    modules = {name: make(N, D) for name, make in contestants.items()}
    def turn(module):
        module.zero_grad()
        return forward_backward(lambda: module(x)[0])
    times = interleaved({name: lambda module=module: turn(module) for name, module in modules.items()}, rounds, SLOW)
    return [dict(**size, threads=torch.get_num_threads(), name=name, forward=summary([f for f, _ in t]), both=summary([b for _, b in t]))
            for name, t in times.items()]


def show(rows):
    "Print the rows of one size and number of threads, with how many times faster each is, forward + backward, than the references."
    both = {r['name']: r['both']['median'] for r in rows}
    references = [name for name in REFERENCES if name in both]
    print(f"\nT={rows[0]['T']} B={rows[0]['B']} D={D} N={N}, {rows[0]['threads']} thread(s); median seconds (min–max)")
    head = ('', 'forward', 'forward + backward', *(f'× {name}' for name in references))
    table(head, [(r['name'], spread(r['forward']), spread(r['both']), *(f"{both[n]/both[r['name']]:.2f}" for n in references)) for r in rows])


LONG = dict(D=64, B=1, lengths=(1000, 10_000, 100_000, 1_000_000))

def long_sequence(T):
    "Seconds and added peak memory of the default RootIRNN, forward and backward, in this (fresh) process."
    torch.manual_seed(0)
    rnn, x = RootIRNN(N, LONG['D'], length=T), torch.randn(T, LONG['B'], N)
    forward_backward(lambda: rnn(x[:1000])[0])
    rnn.zero_grad()
    def peak():                                             # ru_maxrss would begin with the parent's
        status = pathlib.Path('/proc/self/status').read_text()
        return int(re.search(r'VmHWM:\s*(\d+)', status)[1])/1024
    before = peak()
    forward, both = forward_backward(lambda: rnn(x)[0])
    return dict(T=T, B=LONG['B'], D=LONG['D'], threads=torch.get_num_threads(), forward=forward, both=both, added_MiB=peak() - before)


def long_sequences(repeats):
    "Each length in processes of its own, since a peak never goes down; median times, largest memory."
    rows = []
    for T in LONG['lengths']:
        command = [sys.executable, __file__, '--long', str(T)]
        runs = [json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(repeats)]
        times = {k: statistics.median(r[k] for r in runs) for k in ('forward', 'both')}
        rows.append({**runs[0], **times, 'added_MiB': max(r['added_MiB'] for r in runs)})
    print(f"\nRootIRNN, D={LONG['D']} N={N} B={LONG['B']}, {torch.get_num_threads()} thread(s)")
    table(('T', 'forward s', 'both s', 'µs per step', 'added MiB'),
          [(str(r['T']), f"{r['forward']:.3f}", f"{r['both']:.3f}", f"{r['both']/r['T']*1e6:.2f}", f"{r['added_MiB']:.0f}") for r in rows])
    return rows


def main():
    parser = Options(__doc__, 'recurrent')
    parser.add_argument('--sizes', type=int, nargs='+', default=None, help=f'which of {SIZES}, by number')
    parser.add_argument('--only', nargs='+', default=None, help='contestants whose name contains one of these')
    parser.add_argument('--long', type=int, default=None, help='only this: the default RootIRNN on one sequence of this length; prints JSON')
    parser.set_defaults(threads=[1, 2])
    args = parser.parse_args()
    if args.long: return print(json.dumps(long_sequence(args.long)))
    contestants = {k: v for k, v in CONTESTANTS.items() if args.only is None or any(part in k for part in args.only)}
    sizes = [SIZES[i] for i in args.sizes or ([0] if args.quick else range(len(SIZES)))]
    result = dict(what='seconds, forward (with a graph) and forward + backward; interleaved in one process; float32',
                  input_size=N, hidden_size=D, **machine(), rows=[])
    for size in sizes:
        for threads in args.threads:
            torch.set_num_threads(threads)
            rows = measure(contestants, size, args.rounds)
            result['rows'] += rows
            show(rows)
            write(args.out, result, finished=False)
    if args.only or args.sizes: return                      # a part: it stays beside the whole
    if not args.quick:
        torch.set_num_threads(max(args.threads))
        result['long'] = long_sequences(3)
    write(args.out, result)


if __name__ == '__main__': main()
