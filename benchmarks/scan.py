"""Linear recurrences side by side: forward and forward + backward, interleaved in one process; prints a table, writes results/scan.json.

    python benchmarks/scan.py            all sizes, 1 thread
    python benchmarks/scan.py --quick    the first size, three rounds; nothing is written unless --out is given
    python benchmarks/scan.py --threads 1 2

The reference is the Python loop with autograd; in each round every contestant has its turn, and its time is
compared with the loop's in the same round. (The loop over 4×4 blocks has one round: it takes long.)
"""
import math

import torch
from common import Options, forward_backward, interleaved, machine, ratios, spread, summary, table, write
from torch import nn

from deq_irnn.isometry import Exponential, orthogonal_scan
from deq_irnn.scan import affine_scan, rotation_scan, signed_scan

SIZES = [dict(T=10_000, B=8, D=64), dict(T=1000, B=32, D=128), dict(T=100_000, B=1, D=64)]
LOOP, BLOCKS = 'Python loop, autograd', 'Python loop, blocks of 4, autograd'


def python_loop(a, b):
    h, out = torch.zeros_like(b[0]), []
    for x, y in zip(a.unbind(), b.unbind()):
        h = torch.addcmul(y, x, h)
        out.append(h)
    return torch.stack(out)


def blocks_loop(R, b):
    "The same for 4×4 blocks: R (T, B, D/4, 4, 4), with the units of a block next to each other."
    h, out = torch.zeros_like(b[0]).unflatten(-1, (-1, 4)), []
    for A, y in zip(R.unbind(), b.unflatten(-1, (-1, 4)).unbind()):
        h = (A @ h[..., None])[..., 0] + y
        out.append(h)
    return torch.stack(out).flatten(-2)


class Chunks(torch.autograd.Function):
    "The √T chunks of the notebook's first cells, with a reverse scan as its gradient: the plain version to beat."
    @staticmethod
    def scan(a, b):
        T, rest = len(b), b.shape[1:]
        L = math.isqrt(T)
        C = -(-T//L)
        def pad(x, value): return torch.cat((x, x.new_full((C*L - T, *rest), value))).view(C, L, *rest)
        A, X = pad(a, 1.), pad(b, 0.)
        end, factor = torch.zeros_like(X[:, 0]), torch.ones_like(X[:, 0])
        for k in range(L):
            end = torch.addcmul(X[:, k], A[:, k], end)
            factor = factor*A[:, k]
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
    R = leaf(Exponential()(torch.randn(T, B, 6, D//4), 4).movedim(-1, 2).contiguous())
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
        'orthogonal_scan, blocks of 4':     (orthogonal_scan, (R, b)),
        BLOCKS:                             (blocks_loop, (R, b)),
        'nn.LSTM':                          (lambda x, *_: lstm(x)[0], (x, *lstm.parameters())),
        'nn.GRU':                           (lambda x, *_: gru(x)[0], (x, *gru.parameters())),
    }


def measure(size, rounds):
    "name → [(forward, both), …], one pair a round."
    g = torch.ones(size['T'], size['B'], size['D'])
    def turn(f, leaves): return lambda: forward_backward(lambda: f(*leaves), lambda out: torch.autograd.grad(out, leaves, g))
    return interleaved({name: turn(*c) for name, c in contestants(**size).items()}, rounds, slow={BLOCKS: 1})


def rows(size, threads, times):
    for name, pairs in times.items():
        row = dict(**size, threads=threads, name=name)
        for i, what in enumerate(('forward', 'both')):
            ours = [p[i] for p in pairs]
            row[what] = dict(seconds=summary(ours), times_faster=ratios([r[i] for r in times[LOOP]], ours))
        yield row


def show(rows):
    r = rows[0]
    print(f"\nT={r['T']} B={r['B']} D={r['D']}, {r['threads']} thread(s)")
    table(('', 'forward, ms', 'times faster', 'and backward, ms', 'times faster'),
          [(r['name'], *(cell for q in (r['forward'], r['both'])
                         for cell in (spread(q['seconds'], 1, 1e3), spread(q['times_faster'], 1)))) for r in rows])


def main():
    args = Options(__doc__, 'scan').parse_args()
    what = ('seconds, forward (with a graph) and forward + backward, and times faster than '
            f'"{LOOP}" of the same round; interleaved in one process; float32')
    result = dict(what=what, **machine(), rows=[])
    for size in SIZES[:1] if args.quick else SIZES:
        for threads in args.threads:
            torch.set_num_threads(threads)
            new = list(rows(size, threads, measure(size, args.rounds)))
            result['rows'] += new
            show(new)
            write(args.out, result, finished=False)
    write(args.out, result)


if __name__ == '__main__': main()
