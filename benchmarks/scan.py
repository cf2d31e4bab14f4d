"""Linear recurrences side by side: forward and forward + backward, interleaved in one process; prints a table, writes results/scan.json.

    python benchmarks/scan.py            all sizes, 1 thread
    python benchmarks/scan.py --quick    the first size, three rounds; nothing is written unless --out is given
    python benchmarks/scan.py --threads 1 2

The reference is the Python loop with autograd; in each round every contestant has its turn, and its time is compared with the loop's in the same round.
"""
import argparse, gc, json, math, pathlib, platform, statistics, time

import torch
from torch import nn
from deq_irnn.scan import affine_scan, rotation_scan, signed_scan

SIZES = [dict(T=10_000, B=8, D=64), dict(T=1000, B=32, D=128), dict(T=100_000, B=1, D=64)]
LOOP = 'Python loop, autograd'


def python_loop(a, b):
    h, out = torch.zeros_like(b[0]), []
    for x, y in zip(a.unbind(), b.unbind()):
        h = torch.addcmul(y, x, h)
        out.append(h)
    return torch.stack(out)


class Chunks(torch.autograd.Function):
    "The √T chunks of the notebook's first cells, with the loop's memory habits and a reverse scan as its gradient: the plain version to beat."
    @staticmethod
    def scan(a, b):
        T, rest = len(b), b.shape[1:]
        L = math.isqrt(T); C = -(-T//L)
        pad = lambda x, value: torch.cat((x, x.new_full((C*L - T, *rest), value))).view(C, L, *rest)
        A, X = pad(a, 1.), pad(b, 0.)
        end, factor = torch.zeros_like(X[:, 0]), torch.ones_like(X[:, 0])
        for k in range(L): end, factor = torch.addcmul(X[:, k], A[:, k], end), factor*A[:, k]
        start = [torch.zeros_like(b[0])]
        for c in range(C - 1): start.append(torch.addcmul(end[c], factor[c], start[-1]))
        h, out = torch.stack(start), torch.empty_like(X)
        for k in range(L):
            h = torch.addcmul(X[:, k], A[:, k], h)
            out[:, k] = h
        return out.view(C*L, *rest)[:T]

    @staticmethod
    def forward(ctx, a, b):
        out = Chunks.scan(a, b)
        ctx.save_for_backward(a, out)
        return out

    @staticmethod
    def backward(ctx, g):
        a, out = ctx.saved_tensors
        lam = Chunks.scan(torch.cat((a[1:], a[:1])).flip(0), g.flip(0)).flip(0)
        return lam*torch.cat((torch.zeros_like(out[:1]), out[:-1])), lam


def contestants(T, B, D):
    "name → (function, the leaves to differentiate)."
    def leaf(x): return x.requires_grad_()
    torch.manual_seed(0)
    a, b, x = leaf(torch.rand(T, B, D)), leaf(torch.randn(T, B, D)), leaf(torch.randn(T, B, D))
    angle, angles, dense = leaf(torch.rand(D//2)), leaf(torch.rand(T, B, D//2)), leaf(torch.randn(D, D)/(2*D**.5))
    lstm, gru = nn.LSTM(D, D), nn.GRU(D, D)
    return {
        LOOP:                               (python_loop, (a, b)),
        'plain chunks, diagonal':           (Chunks.apply, (a, b)),
        'affine_scan, diagonal (T, B, D)':  (affine_scan, (a, b)),
        'affine_scan, diagonal (D,)':       (lambda b: affine_scan(a[0, 0], b), (b,)),
        'affine_scan, dense (D, D)':        (affine_scan, (dense, b)),
        'signed_scan, -1':                  (signed_scan, (b,)),
        'torch.cumsum':                     (lambda b: b.cumsum(0), (b,)),
        'rotation_scan, fixed angles':      (lambda theta, b: rotation_scan(b, theta), (angle, b)),
        'rotation_scan, angles (T, B, D/2)': (lambda theta, b: rotation_scan(b, theta), (angles, b)),
        'nn.LSTM':                          (lambda x, *_: lstm(x)[0], (x, *lstm.parameters())),
        'nn.GRU':                           (lambda x, *_: gru(x)[0], (x, *gru.parameters())),
    }


def once(f, leaves, g):
    "Seconds of the forward pass with a graph, and of forward and backward together."
    gc.collect()
    start = time.perf_counter()
    out = f(*leaves)
    middle = time.perf_counter()
    torch.autograd.grad(out, leaves, g)
    return middle - start, time.perf_counter() - start


def measure(size, rounds):
    "name → [(forward, both), …], one pair a round."
    all, g = contestants(**size), torch.ones(size['T'], size['B'], size['D'])
    for f, leaves in all.values(): once(f, leaves, g)
    times = {name: [] for name in all}
    for _ in range(rounds):
        for name, (f, leaves) in all.items(): times[name].append(once(f, leaves, g))
    return times


def summary(x): return dict(median=statistics.median(x), min=min(x), max=max(x), repeats=len(x))


def rows(size, threads, times):
    reference = times[LOOP]
    for name, pairs in times.items():
        row = dict(**size, threads=threads, name=name)
        for i, what in enumerate(('forward', 'both')):
            row[what] = dict(seconds=summary([p[i] for p in pairs]), times_faster=summary([r[i]/p[i] for r, p in zip(reference, pairs)]))
        yield row


def show(rows):
    r = rows[0]
    print(f"\nT={r['T']} B={r['B']} D={r['D']}, {r['threads']} thread(s); median milliseconds, and times faster than the loop (min–max)")
    for r in rows:
        cells = [f"{q['seconds']['median']*1e3:9.1f}  {q['times_faster']['median']:6.1f} ({q['times_faster']['min']:.1f}–{q['times_faster']['max']:.1f})" for q in (r['forward'], r['both'])]
        print(f"{r['name']:36s}{cells[0]:>34s}{cells[1]:>34s}", flush=True)


def cpu():
    path = pathlib.Path('/proc/cpuinfo')
    names = [line.split(':')[1].strip() for line in path.read_text().splitlines() if line.startswith('model name')] if path.exists() else []
    return names[0] if names else platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--quick', action='store_true', help='the first size only, three rounds, nothing written')
    parser.add_argument('--rounds', type=int, default=None, help='default 7; 3 with --quick')
    parser.add_argument('--threads', type=int, nargs='+', default=[1])
    parser.add_argument('--out', default=None, help='where to write (default results/scan.json; none with --quick)')
    args = parser.parse_args()
    out = args.out or (None if args.quick else pathlib.Path(__file__).parent.parent/'results'/'scan.json')
    result = dict(what=f'seconds, forward (with a graph) and forward + backward, and times faster than "{LOOP}" of the same round; interleaved in one process; float32',
                  torch=torch.__version__, python=platform.python_version(), cpu=cpu(), rows=[])
    for size in SIZES[:1] if args.quick else SIZES:
        for threads in args.threads:
            torch.set_num_threads(threads)
            new = list(rows(size, threads, measure(size, args.rounds or (3 if args.quick else 7))))
            result['rows'] += new
            show(new)
            if out: pathlib.Path(out).write_text(json.dumps(result, indent=1, ensure_ascii=False) + '\n')    # after each: a run cut short keeps what it has


if __name__ == '__main__': main()
