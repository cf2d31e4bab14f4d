"""Characters of Python's own manual (pydoc_data): bits per character of equilibrium transformers beside explicit ones of as many parameters;
writes results/charlm.json.

    python benchmarks/charlm.py              all models, three seeds (half an hour on one core); runs that the file has are not repeated
    python benchmarks/charlm.py --steps 600 --seeds 5 --only DEQ --fresh

Trained alike: AdamW, warm-up and cosine, gradients clipped, the same number of characters. `curve`: [step, seconds of training so far, bits per
character on some of the test text]; `bpc`: at the end, on all of it.
"""
import argparse, json, math, pathlib, statistics, time, warnings

import torch
import torch.nn.functional as F
from deq_irnn.tasks import CharacterText
from deq_irnn.transformer import CharLM, DEQTransformer, IncrementalTransformer, Transformer
from common import RESULTS, machine, write

T, BATCH, LR = 64, 16, 3e-3
SOLVE = dict(tol=1e-2, max_iter=25, on_failure='ignore')


def deq(norm): return lambda d: DEQTransformer(d, norm=norm, **SOLVE)

def incremental(*how, **options): return lambda d: IncrementalTransformer(d, 2, *how, **SOLVE, **options)

MODELS = {                                                              # name → (features, body)
    'transformer, 4 layers': (32, lambda d: Transformer(d, 4)),
    'transformer, 1 layer 6 times': (64, lambda d: Transformer(d, 6, tied=True)),
    'DEQ, post-norm': (56, deq('post')),
    'DEQ, pre-norm': (56, deq('pre')),
    'incremental, input, −I, post-norm': (40, incremental('input', 'minus', norm='post')),
    'incremental, input, +I, post-norm': (40, incremental('input', 'plus', norm='post')),
    'incremental, normed, +I, post-norm': (40, incremental('normed', 'plus', norm='post')),
    'incremental, normed, +I, pre-norm': (40, incremental('normed', 'plus', norm='pre')),
    'incremental, normed, +I, post-norm, K = 3': (40, incremental('normed', 'plus', norm='post', steps=3))}


def bits(model, windows):
    "Bits per character on windows (N, T + 1)."
    model.eval()
    total = 0.
    with torch.no_grad():
        for w in windows.split(64): total += F.cross_entropy(model(w[:, :-1]).flatten(0, 1), w[:, 1:].flatten(), reduction='sum').item()
    model.train()
    return total/windows[:, 1:].numel()/math.log(2)


def solutions(model):
    "One `Solution` for each equilibrium of the last call."
    if isinstance(model.body, IncrementalTransformer): return model.body.solutions
    return [model.body.solution] if isinstance(model.body, DEQTransformer) else []


def train(name, seed, steps, task):
    torch.manual_seed(seed)
    features, make = MODELS[name]
    model = CharLM(len(task.symbols), features, make(features))
    text, test = task.codes[:task.cut], task.codes[task.cut:].unfold(0, T + 1, T)
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min((k + 1)/(.1*steps), (1 + math.cos(math.pi*k/steps))/2))
    seconds, residual, failed = 0., 0., 0
    curve, iterations = [], []
    for k in range(steps):
        at = torch.randint(len(text) - T, (BATCH,))
        w = text[at[:, None] + torch.arange(T + 1)]
        start = time.perf_counter()
        loss = F.cross_entropy(model(w[:, :-1]).flatten(0, 1), w[:, 1:].flatten())
        for s in solutions(model):
            iterations.append(s.iterations.float().mean().item())
            residual = max(residual, s.residual.max().item())
            failed += int((~s.converged).sum())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        optimizer.step()
        schedule.step()
        seconds += time.perf_counter() - start
        if k < 20 and (k + 1) % 10 == 0 or (k + 1) % (steps//10) == 0: curve.append([k + 1, seconds, bits(model, test[::9])])
    return dict(model=name, seed=seed, features=features, parameters=sum(p.numel() for p in model.parameters()), bpc=bits(model, test),
                seconds=seconds, curve=curve, iterations=statistics.mean(iterations) if iterations else None,
                worst_residual=residual if iterations else None, not_converged=failed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--steps', type=int, default=400)
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--only', nargs='+', default=[''], help='models whose name contains one of these')
    parser.add_argument('--out', type=pathlib.Path, default=RESULTS/'charlm.json')
    parser.add_argument('--fresh', action='store_true', help='repeat what the file has')
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    task = CharacterText(length=T, chars=10**6)
    result = dict(what='bits per character, test text; float32', steps=args.steps, length=T, batch=BATCH, lr=LR, solver=dict(SOLVE),
                  characters=len(task.codes), symbols=len(task.symbols), unigram=task.chance, **machine(), runs=[])
    if args.out.exists() and not args.fresh:
        old = json.loads(args.out.read_text())
        if old['steps'] == args.steps: result['runs'] = old['runs']
    order = list(MODELS)
    for seed in range(args.seeds):
        for name in MODELS:
            if not any(o in name for o in args.only): continue
            if any((r['model'], r['seed']) == (name, seed) for r in result['runs']): continue
            run = train(name, seed, args.steps, task)
            result['runs'] = sorted([*result['runs'], run], key=lambda r: (r['seed'], order.index(r['model'])))
            print(f'{name:42s} seed {seed}  {run["parameters"]:6d} parameters  {run["bpc"]:.3f} bits per character  {run["seconds"]:5.0f} s', flush=True)
            write(args.out, result)


if __name__ == '__main__': main()
