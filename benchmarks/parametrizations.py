"""Ways to make orthogonal matrices of numbers, side by side: accuracy, speed, and whether the group A5 is learned; writes results/parametrizations.json.

    python benchmarks/parametrizations.py                        everything, about 10 minutes on one core
    python benchmarks/parametrizations.py --quick                few steps, nothing is written unless --out is given
    python benchmarks/parametrizations.py --only Householder     those whose name begins so; keeps the rest of the file
    python benchmarks/parametrizations.py --speed                times only; keeps what was learned

Accuracy: the largest entry of RᵀR − I in float32, numbers normal with a standard deviation of 3.
Speed: processor time of forward + backward of the transition at (T, B, D) = (1000, 32, 128) with 16 features, one thread, each beside
nn.LSTM of the same sizes in the same round.
Learning: words of all 60 elements of A5 (S5 where the name says so: 120 elements), tokens one-hot, nothing added, h_0 learned, a linear
read-out after each step; length 2, doubled up to 32 each time the smoothed loss falls below 0.15; Adam, the last third decaying; the last
weights count. Accuracy of the answer at the last step.
"""
import itertools
import json
import pathlib
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from common import Options, interleaved, machine, ratios, write
from torch import nn

from deq_irnn.isometry import (Blocks, Exponential, Householder, Orthogonal, Parametrization,
                               quaternion_matrix)


@dataclass(frozen=True)
class Cayley(Exponential):
    "R = (I − A)⁻¹ (I + A), A skew: every rotation but those by half a turn."
    def __call__(self, numbers, block):
        i, j = torch.triu_indices(block, block, 1)
        A = numbers.new_zeros(*numbers.shape[:-2], block, block, numbers.shape[-1])
        A[..., i, j, :] = numbers/2
        A = (A - A.transpose(-2, -3)).movedim(-1, -3).contiguous()
        eye = torch.eye(block, dtype=numbers.dtype)
        return torch.linalg.solve(eye - A, eye + A).movedim(-3, -1)


@dataclass(frozen=True)
class Quaternions(Parametrization):
    "d = 3: h ↦ q h q̄; d = 4: h ↦ p h q; numbers divided by their length."
    def size(self, block): return {3: 4, 4: 8}[block]

    def start(self, block): return torch.tensor([1., 0, 0, 0]).repeat(self.size(block)//4)

    def __call__(self, numbers, block):
        quaternions = numbers.unflatten(-2, (-1, 4))
        p, *more = (quaternions/quaternions.norm(dim=-2, keepdim=True)).unbind(-3)
        q = more[0] if more else torch.cat((p[..., :1, :], -p[..., 1:, :]), -2)
        R = Blocks(4).compose(quaternion_matrix(p), quaternion_matrix(q, right=True))
        return R if block == 4 else R[..., 1:, 1:, :]


CONTESTANTS = [
    ('Exponential', Exponential(), 3, 'A5'), ('Exponential', Exponential(), 4, 'A5'),
    ('Cayley', Cayley(), 3, 'A5'), ('Cayley', Cayley(), 4, 'A5'),
    ('Quaternions', Quaternions(), 3, 'A5'), ('Quaternions', Quaternions(), 4, 'A5'),
    ('Householder(2)', Householder(2), 3, 'A5'), ('Householder(2)', Householder(2), 4, 'A5'),
    ('Householder(4)', Householder(4), 4, 'A5'),
    ('Exponential, S5', Exponential(), 5, 'S5'), ('Householder(2), S5', Householder(2), 5, 'S5'),
    ('Householder(4), S5', Householder(4), 5, 'S5'),
]


def orthogonality(make, block):
    torch.manual_seed(0)
    R = make(3*torch.randn(1000, make.size(block), 10), block).movedim(-1, 1)
    return (R.mT @ R - torch.eye(block)).abs().max().item()



def speed(make, block, rounds, T=1000, B=32, D=128, N=16):
    "nn.LSTM's processor time divided by ours, round by round; D is 126 or 125 where 128 is no multiple of the block."
    torch.manual_seed(0)
    width = D//block*block
    cell, lstm = Orthogonal(N, width, block, make), nn.LSTM(N, D)
    x, b, h0 = torch.randn(T, B, N), torch.randn(T, B, width, requires_grad=True), torch.zeros(B, width)

    def processor_time(forward, leaves):
        start = time.thread_time()
        out = forward()
        torch.autograd.grad(out, leaves, torch.ones_like(out))
        return time.thread_time() - start

    times = interleaved({
        'lstm': lambda: processor_time(lambda: lstm(x)[0], [*lstm.parameters()]),
        'ours': lambda: processor_time(lambda: cell(x, b, h0), [b, *cell.parameters()]),
    }, rounds)
    return ratios(times['lstm'], times['ours'])


def group(name):
    "The multiplication table of A5 or S5 as permutations: table[p, q] is first q, then p."
    def even(p): return sum(p[i] > p[j] for i, j in itertools.combinations(range(5), 2)) % 2 == 0
    elements = [p for p in itertools.permutations(range(5)) if name == 'S5' or even(p)]
    index = {p: i for i, p in enumerate(elements)}
    return torch.tensor([[index[tuple(p[k] for k in q)] for q in elements] for p in elements])


def words(table, T, B, generator):
    x = torch.randint(len(table), (T, B), generator=generator)
    answers = [x[0]]
    for letter in x[1:]: answers.append(table[letter, answers[-1]])
    return x, torch.stack(answers)


def learn(make, block, name, steps, lr=1e-2, D=60, tokens=2048, seed=0):
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    table = group(name)
    N = len(table)
    cell, h0, read = Orthogonal(N, D, block, make), nn.Parameter(torch.randn(1, D)), nn.Linear(D, N)
    weights = [*cell.parameters(), h0, *read.parameters()]
    optimiser = torch.optim.Adam(weights, lr)

    def answer(x): return read(cell(F.one_hot(x, N).float(), None, h0.expand(x.shape[1], -1)))

    T, smooth, grown = 2, None, {}
    for step in range(steps):
        for g in optimiser.param_groups: g['lr'] = lr*min(1, 3*(steps - step)/steps)
        x, y = words(table, T, max(64, tokens//T), generator)
        loss = F.cross_entropy(answer(x).flatten(0, 1), y.flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.)
        optimiser.step()
        smooth = loss.item() if smooth is None else .9*smooth + .1*loss.item()
        if smooth < .15 and T < 32:
            T, smooth = 2*T, None
            grown[T] = step + 1
    with torch.no_grad():
        accuracy = {}
        for T in (32, 128, 512):
            x, y = words(table, T, 256, generator)
            accuracy[T] = (answer(x)[-1].argmax(-1) == y[-1]).float().mean().item()
    return dict(group=name, seed=seed, steps=steps, lr=lr, steps_to_32=grown.get(32), accuracy=accuracy)


def main():
    parser = Options(__doc__, 'parametrizations')
    parser.add_argument('--only', default='', help='names that begin with this')
    parser.add_argument('--speed', action='store_true', help='measure the speed anew, and nothing else')
    args = parser.parse_args()
    torch.set_num_threads(1)
    known = {}
    if args.out and pathlib.Path(args.out).exists():
        known = {(r['name'], r['block']): r for r in json.loads(pathlib.Path(args.out).read_text())['rows']}
    for name, make, block, group_name in CONTESTANTS:
        if not name.startswith(args.only): continue
        steps = 20 if args.quick else 600 if group_name == 'A5' else 1200
        row = dict(name=name, block=block, numbers=make.size(block), orthogonality=orthogonality(make, block),
                   times_faster_than_lstm=speed(make, block, args.rounds))
        row['learned'] = known[name, block]['learned'] if args.speed else learn(make, block, group_name, steps)
        known[name, block] = row
        print(json.dumps(row), flush=True)
        rows = [known[n, b] for n, _, b, _ in CONTESTANTS if (n, b) in known]
        write(args.out, dict(what='parametrizations of orthogonal matrices; see benchmarks/parametrizations.py',
                             **machine(), rows=rows))


if __name__ == '__main__': main()
