"""Recurrent nets side by side: forward and forward + backward, interleaved in one process; prints a table, writes results/recurrent.json.

    python benchmarks/recurrent.py            all sizes, 1 and 2 threads
    python benchmarks/recurrent.py --quick    the first size, three repeats; nothing is written unless --out is given
    python benchmarks/recurrent.py --only IRNN LSTM --sizes 0 2 --threads 1

and, each in a process of its own, time and added memory of RootIRNN for T up to a million.

A contestant is a line in CONTESTANTS: a name, and a function (input_size, hidden_size) → module with output, h_n = module(x), x (T, B, input_size).
"""
import argparse, gc, json, pathlib, platform, re, statistics, subprocess, sys, time

import torch
from torch import nn
from deq_irnn.irnn import IRNN
from deq_irnn.root_irnn import RootIRNN

N, D = 16, 128
SIZES = [dict(T=1000, B=32), dict(T=8192, B=1), dict(T=784, B=128)]


class Indexed(nn.Module):
    "The K-step iRNN with ReLU, written down straight from the paper, p[k] inside the loop: the backward of each p[k] fills a tensor of the size of p."
    def __init__(self, n, d, steps=5):
        super().__init__()
        self.W, self.U, self.eta = nn.Linear(n, d), nn.Linear(d, d, bias=False), nn.Parameter(torch.full((steps,), .1/steps))

    def forward(self, x):
        h, out, p = x.new_zeros(x.shape[1], self.U.weight.shape[0]), [], self.W(x)
        for k in range(len(x)):
            g = h
            for i in range(len(self.eta)): g = g + self.eta[i]*(torch.relu(self.U(g + h) + p[k]) - (g + h))
            h = g
            out.append(h)
        return torch.stack(out), h


def root(**options): return lambda n, d: RootIRNN(n, d, **options)

ROOTS = {'−I, relu': dict(transition='minus', gate=False, nonlinearity='relu'),                          # the paper's equation, exactly solved
         '−I, relu, 4 heads': dict(transition='minus', gate=False, nonlinearity='relu', heads=4),
         'rotation+gate, relu': dict(nonlinearity='relu'),
         'rotation+gate, tanh': dict(),                                                                  # the default
         'rotation+gate, tanh, 4 heads': dict(heads=4)}

CONTESTANTS = {
    'nn.LSTM':                   lambda n, d: nn.LSTM(n, d),
    'nn.GRU':                    lambda n, d: nn.GRU(n, d),
    'IRNN K=5':                  lambda n, d: IRNN(n, d),
    'IRNN K=5, tanh':            lambda n, d: IRNN(n, d, nonlinearity='tanh'),
    **{f'root, {name}, {tol:.0e}': root(tol=tol, **options) for name, options in ROOTS.items() for tol in (1e-3, 1e-5)},
    'K=5, autograd loop':        lambda n, d: IRNN(n, d, adjoint=False),
    'K=5, autograd loop, p[k]':  Indexed,
}
SLOW = {'K=5, autograd loop': 3, 'K=5, autograd loop, p[k]': 1}      # at most so many repeats, and no run to warm up
REFERENCES = ('nn.LSTM', 'K=5, autograd loop', 'K=5, autograd loop, p[k]')


def once(module, x):
    "Seconds of the forward pass with a graph, and of forward and backward together."
    gc.collect()
    start = time.perf_counter()
    out = module(x)[0]
    middle = time.perf_counter()
    out.square().mean().backward()
    return middle - start, time.perf_counter() - start


def measure(contestants, size, repeats):
    "name → (forward seconds, both seconds), lists; in each round every contestant has its turn."
    torch.manual_seed(0)
    x = torch.randn(size['T'], size['B'], N)
    modules = {name: make(N, D) for name, make in contestants.items()}
    times = {name: [] for name in modules}
    for name, module in modules.items():
        if name not in SLOW: once(module, x)
    for i in range(repeats):
        for name, module in modules.items():
            if i < SLOW.get(name, repeats):
                module.zero_grad()
                times[name].append(once(module, x))
    return {name: tuple(map(list, zip(*t))) for name, t in times.items()}


def summary(seconds): return dict(median=statistics.median(seconds), min=min(seconds), max=max(seconds), repeats=len(seconds))


def table(rows):
    "Print the rows of one size and number of threads, with how many times faster each is, forward + backward, than the references."
    both = {r['name']: r['both']['median'] for r in rows}
    references = [name for name in REFERENCES if name in both]
    print(f"\nT={rows[0]['T']} B={rows[0]['B']} D={D} N={N}, {rows[0]['threads']} thread(s); median seconds (min–max, repeats)")
    print(f"{'':38s}{'forward':>28s}{'forward + backward':>32s}   times faster than: {'; '.join(references)}")
    for r in rows:
        cells = [f"{c['median']:8.3f} ({c['min']:.3f}–{c['max']:.3f}, {c['repeats']})" for c in (r['forward'], r['both'])]
        print(f"{r['name']:38s}{cells[0]:>28s}{cells[1]:>32s}   " + '  '.join(f'{both[name]/both[r["name"]]:7.2f}' for name in references), flush=True)


LONG = dict(D=64, B=1, lengths=(1000, 10_000, 100_000, 1_000_000))

def long_sequence(T):
    "Seconds and added peak memory of the default RootIRNN, forward and backward, in this (fresh) process."
    torch.manual_seed(0)
    rnn, x = RootIRNN(N, LONG['D'], length=T), torch.randn(T, LONG['B'], N)
    once(rnn, x[:1000])
    rnn.zero_grad()
    def peak(): return int(re.search(r'VmHWM:\s*(\d+)', pathlib.Path('/proc/self/status').read_text())[1])/1024      # ru_maxrss would begin with the parent's
    before = peak()
    forward, both = once(rnn, x)
    return dict(T=T, B=LONG['B'], D=LONG['D'], threads=torch.get_num_threads(), forward=forward, both=both, added_MiB=peak() - before)


def long_sequences(repeats):
    "Each length in processes of its own, since a peak never goes down; median times, largest memory."
    rows = []
    print(f"\nRootIRNN, D={LONG['D']} N={N} B={LONG['B']}, {torch.get_num_threads()} thread(s)\n{'T':>10s}{'forward s':>12s}{'both s':>12s}{'µs per step':>14s}{'added MiB':>12s}")
    for T in LONG['lengths']:
        runs = [json.loads(subprocess.run([sys.executable, __file__, '--long', str(T)], capture_output=True, text=True, check=True).stdout) for _ in range(repeats)]
        rows.append({**runs[0], **{k: statistics.median(r[k] for r in runs) for k in ('forward', 'both')}, 'added_MiB': max(r['added_MiB'] for r in runs)})
        r = rows[-1]
        print(f"{T:10d}{r['forward']:12.3f}{r['both']:12.3f}{r['both']/T*1e6:14.2f}{r['added_MiB']:12.0f}", flush=True)
    return rows


def cpu():
    "The processor's name."
    names = [line.split(':')[1].strip() for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines() if line.startswith('model name')] \
        if pathlib.Path('/proc/cpuinfo').exists() else []
    return names[0] if names else platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--quick', action='store_true', help='the first size only, three repeats, nothing written')
    parser.add_argument('--repeats', type=int, default=None, help='rounds (default 7; 3 with --quick)')
    parser.add_argument('--threads', type=int, nargs='+', default=[1, 2])
    parser.add_argument('--sizes', type=int, nargs='+', default=None, help=f'which of {SIZES}, by number')
    parser.add_argument('--only', nargs='+', default=None, help='contestants whose name contains one of these')
    parser.add_argument('--out', default=None, help='where to write (default results/recurrent.json; none with --quick)')
    parser.add_argument('--long', type=int, default=None, help='only this: the default RootIRNN on one sequence of this length; prints JSON')
    args = parser.parse_args()
    if args.long: return print(json.dumps(long_sequence(args.long)))
    contestants = {k: v for k, v in CONTESTANTS.items() if args.only is None or any(part in k for part in args.only)}
    sizes = [SIZES[i] for i in args.sizes or ([0] if args.quick else range(len(SIZES)))]
    out = args.out or (None if args.quick else pathlib.Path(__file__).parent.parent/'results'/'recurrent.json')
    result = dict(what='seconds, forward (with a graph) and forward + backward; interleaved in one process; float32', input_size=N, hidden_size=D,
                  torch=torch.__version__, python=platform.python_version(), cpu=cpu(), rows=[])
    for size in sizes:
        for threads in args.threads:
            torch.set_num_threads(threads)
            repeats = args.repeats or (3 if args.quick else 5 if size['B'] == 1 else 7)
            rows = [dict(**size, threads=threads, name=name, forward=summary(f), both=summary(b)) for name, (f, b) in measure(contestants, size, repeats).items()]
            result['rows'] += rows
            table(rows)
            if out: pathlib.Path(out).write_text(json.dumps(result, indent=1, ensure_ascii=False) + '\n')   # after each: a run cut short keeps what it has
    if args.only is None and not args.quick:
        torch.set_num_threads(max(args.threads))
        result['long'] = long_sequences(3)
        if out: pathlib.Path(out).write_text(json.dumps(result, indent=1, ensure_ascii=False) + '\n')


if __name__ == '__main__': main()
