"""Processor time per step against n, at rest after every n steps, beside nn.LSTM; interleaved in one process; prints tables, writes results/rest.json.

    python benchmarks/rest.py            all sizes
    python benchmarks/rest.py --quick    short words, three rounds; nothing is written unless --out is given

A layer of chapter 09, 60 units and 60 memories, trained for a moment on words over A₅, so that its states lie within their basins;
nn.LSTM has 64 units. Forward without a graph, as a trained layer is used, and forward + backward, straight through the rests.
"""
import copy, time

import torch
import torch.nn.functional as F
from torch import nn
from common import Options, interleaved, machine, ratios, spread, summary, table, write
from deq_irnn.memory import Attractors, Lookup
from deq_irnn.memory_study import Tracker
from deq_irnn.words import NETWORKS, Recipe, build, symmetric, train

EVERY = (1, 4, 16, 64, 256)
SIZES = [dict(T=512, B=1), dict(T=512, B=32)]
A5 = symmetric(5, alternating=True)


def trained():
    "A network that knows short words."
    torch.manual_seed(0)
    net = build(NETWORKS['householder-5'], A5, A5.states)
    train(net, A5, Recipe(steps=500, lr=3e-2, longest=8))
    return net


def contestants(net):
    "Name → module that reads one-hot letters (T, B, N)."
    X = Tracker(net, A5).memories()
    def layer(rest):
        rnn = copy.deepcopy(net.rnn)
        rnn.last[0].rest = rest
        return rnn
    resting = {f'at rest every {n}': layer(Attractors(X, every=n)) for n in EVERY}
    looking = {f'look-up every {n}': layer(Lookup(X, every=n)) for n in EVERY[:3]}
    return {'nn.LSTM': nn.LSTM(A5.tokens, 64), 'free': layer(None), **resting, **looking}


def measure(modules, size, rounds):
    "The rows of one size: seconds, and how many times as long as nn.LSTM took in the same round."
    x = A5.draw(size['T'], size['B'], torch.Generator().manual_seed(0))[0]
    x = F.one_hot(x, A5.tokens).float()
    def turn(module):
        "Processor time, which other processes do not lengthen, of one thread: forward, and forward + backward."
        start = time.process_time()
        with torch.no_grad(): module(x)
        middle = time.process_time()
        module(x)[0].square().mean().backward()
        return middle - start, time.process_time() - middle
    times = interleaved({name: lambda module=module: turn(module) for name, module in modules.items()}, rounds)
    columns = {name: [list(column) for column in zip(*t)] for name, t in times.items()}
    def evaluations(module):
        rest = module.last[0].rest if hasattr(module, 'last') else None
        return None if rest is None or isinstance(rest, Lookup) else rest.solution.n_eval
    return [dict(**size, name=name, evaluations=evaluations(modules[name]),
                 **{what: summary(columns[name][k]) for k, what in enumerate(('forward', 'both'))},
                 **{f'{what}_ratio': ratios(columns[name][k], columns['nn.LSTM'][k]) for k, what in enumerate(('forward', 'both'))})
            for name in times]


def show(rows):
    "Microseconds per step, and times nn.LSTM's."
    T = rows[0]['T']
    print(f"\nT={T} B={rows[0]['B']}, one thread; µs per step and times nn.LSTM's time, median (min–max)")
    table(('', 'evaluations', 'forward', '× nn.LSTM', 'forward + backward', '× nn.LSTM'),
          [(r['name'], str(r['evaluations'] or '–'), spread(r['forward'], 1, 1e6/T), spread(r['forward_ratio'], 2),
            spread(r['both'], 1, 1e6/T), spread(r['both_ratio'], 2)) for r in rows])


def main():
    args = Options(__doc__, 'rest').parse_args()
    torch.set_num_threads(1)
    modules = contestants(trained())
    result = dict(what='processor seconds, forward without a graph and forward + backward; interleaved in one process; float32',
                  units=60, memories=60, **machine(), rows=[])
    for size in SIZES[:1] if args.quick else SIZES:
        rows = measure(modules, size, args.rounds)
        result['rows'] += rows
        show(rows)
        write(args.out, result, finished=False)
    write(args.out, result)


if __name__ == '__main__': main()
