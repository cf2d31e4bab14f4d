"""Characters of Python's manual and docstrings: bits per character, at equal parameters; writes results/charlm.json.

    python benchmarks/charlm.py                  all models; what the file has is not repeated
    python benchmarks/charlm.py --minutes 20     begin no run after so long; the same command goes on
    python benchmarks/charlm.py --seeds 5 --only contractive

First each learning rate with seed 0; the one that is best on held-out text goes on, with more seeds for `FINALISTS`.

The text: the topics of pydoc_data, then every docstring of the standard library's modules (tests left out), as ASCII.
Nine tenths to train on, half of the rest held out (it chooses the learning rate), the other half for the test.
Trained alike: AdamW, warm-up and cosine, gradients clipped, the same number of characters.
`curve`: [step, seconds of training so far, bits per character on some of the held-out text].
"""
import argparse, ast, hashlib, json, math, pathlib, statistics, sysconfig, time, warnings

import torch
import torch.nn.functional as F
from deq_irnn.fixed_point import last_solution
from deq_irnn.implicit import Unrolled
from deq_irnn.solvers import Picard
from deq_irnn.transformer import CharLM, ContractiveTransformer, DEQTransformer, IncrementalTransformer, Transformer
from common import RESULTS, machine, write

T, BATCH = 64, 8
SOLVE = dict(tol=1e-2, on_failure='ignore')
TWO = dict(solver=Picard(), tol=0., max_iter=3, on_failure='ignore', gradient=Unrolled())   # f(f(0)), no root


def explicit(depth, tied=False): return lambda d: Transformer(d, depth, tied=tied)

def stack(depth, injection, transition, layer, how=SOLVE, **options):
    return lambda d: IncrementalTransformer(
        d, depth, injection, transition, scale=depth**-.5, layer=layer, **how, **options)

SIGNS = {'−I': 'minus', '+I': 'plus'}
CROSSED = [('normed', '+I'), ('input', '−I'), ('normed', '−I'), ('input', '+I')]
MODELS = {                                                              # name → (features, body)
    'transformer, 2 layers': (48, explicit(2)),
    'transformer, 4 layers': (32, explicit(4)),
    'contractive': (64, lambda d: ContractiveTransformer(d, **SOLVE)),
    'contractive, two layers for a root': (64, lambda d: ContractiveTransformer(d, **TWO)),
    '2 contractive, normed, +I': (48, stack(2, 'normed', 'plus', 'contractive')),
    '2 contractive, normed, +I, two layers for a root': (48, stack(2, 'normed', 'plus', 'contractive', TWO)),
    'transformer, 1 layer 6 times': (64, explicit(6, tied=True)),
    'DEQ': (56, lambda d: DEQTransformer(d, max_iter=25, **SOLVE)),
    'transformer, 8 layers': (24, explicit(8)),
    'transformer, 16 layers': (16, explicit(16)),
    **{f'2 contractive, {i}, {s}': (48, stack(2, i, SIGNS[s], 'contractive')) for i, s in CROSSED[1:]},
    '4 contractive, normed, +I': (32, stack(4, 'normed', 'plus', 'contractive')),
    '4 contractive, normed, +I, two layers for a root': (32, stack(4, 'normed', 'plus', 'contractive', TWO)),
    **{f'2 DEQ, {i}, {s}': (40, stack(2, i, SIGNS[s], 'deq', max_iter=25)) for i, s in CROSSED},
    '8 contractive, normed, +I': (24, stack(8, 'normed', 'plus', 'contractive'))}
FINALISTS = list(MODELS)[:8]


def docstrings(path):
    "The docstrings of one file, in order; none of a file that is no Python."
    try: tree = ast.parse(path.read_text(encoding='utf-8'))
    except (SyntaxError, UnicodeDecodeError): return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text: yield text

def corpus():
    "The text: it depends on the version of Python alone."
    from pydoc_data.topics import topics
    library = pathlib.Path(sysconfig.get_paths()['stdlib'])
    out = {'test', 'tests', 'idle_test', 'site-packages', 'dist-packages', 'pydoc_data', 'lib2to3'}
    files = [p for p in sorted(library.rglob('*.py')) if not out & set(p.relative_to(library).parts)]
    texts = [topics[k] for k in sorted(topics)] + [d for p in files for d in docstrings(p)]
    return '\n'.join(texts).encode('ascii', 'ignore').decode().replace('\r', '')


class Text:
    "Codes to train on, windows held out, windows to test on."
    def __init__(self, text):
        self.symbols = sorted(set(text))
        code = {c: i for i, c in enumerate(self.symbols)}
        codes = torch.tensor([code[c] for c in text])
        a, b = len(codes)*90//100, len(codes)*95//100
        self.train, held, test = codes[:a], codes[a:b], codes[b:]
        self.held, self.test = (c.unfold(0, T + 1, T) for c in (held, test))
        count = self.train.bincount(minlength=len(self.symbols)) + 1.
        self.unigram = -(count/count.sum()).log2()[test].mean().item()
        self.size, self.sha256 = len(codes), hashlib.sha256(text.encode()).hexdigest()


def bits(model, windows):
    "Bits per character on windows (N, T + 1)."
    model.eval()
    with torch.no_grad():
        total = sum(F.cross_entropy(model(w[:, :-1]).flatten(0, 1), w[:, 1:].flatten(), reduction='sum').item()
                    for w in windows.split(64))
    model.train()
    return total/windows[:, 1:].numel()/math.log(2)

def gradient_norms(body):
    "‖∂loss/∂parameters‖ of each layer, the last backward pass."
    layers = getattr(body, 'layers', None) or getattr(body, 'mlp', None) or [body]
    return [math.sqrt(sum(p.grad.square().sum().item() for p in layer.parameters() if p.grad is not None)) for layer in layers]

def train(name, seed, rate, steps, text):
    torch.manual_seed(seed)
    features, make = MODELS[name]
    model = CharLM(len(text.symbols), features, make(features))
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min((k + 1)/(.1*steps), (1 + math.cos(math.pi*k/steps))/2))
    seconds, residual, failed, solved = 0., 0., 0, 'two layers' not in name
    curve, iterations, norms = [], [], []
    for k in range(steps):
        at = torch.randint(len(text.train) - T, (BATCH,))
        w = text.train[at[:, None] + torch.arange(T + 1)]
        start = time.process_time()
        loss = F.cross_entropy(model(w[:, :-1]).flatten(0, 1), w[:, 1:].flatten())
        if solved:
            for s in filter(None, map(last_solution, model.body.modules())):
                iterations.append(s.iterations.float().mean().item())
                residual = max(residual, s.residual.max().item())
                failed += int((~s.converged).sum())
        optimizer.zero_grad()
        loss.backward()
        if k in (0, steps - 1): norms.append(gradient_norms(model.body))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        optimizer.step()
        schedule.step()
        seconds += time.process_time() - start
        if (k + 1) % (steps//10) == 0: curve.append([k + 1, round(seconds, 2), bits(model, text.held[::30])])
    row = dict(model=name, seed=seed, lr=rate, steps=steps, features=features, held_out=bits(model, text.held[::5]),
               bpc=bits(model, text.test[::5]), parameters=sum(p.numel() for p in model.parameters()), seconds=seconds,
               curve=curve, gradients=dict(first=norms[0], last=norms[-1]),
               iterations=statistics.mean(iterations) if iterations else None,
               worst_residual=residual if iterations else None, not_converged=failed)
    return row, model

def generation(model, text):
    "Evaluations of f for each new character: from zeros, from the equilibrium of the token before, and everything anew."
    body = model.body
    if not hasattr(body, 'step') or body.how.tol == 0: return None
    model.eval()
    codes = text.test[:1, :T].clone()
    found = {}
    for way in ('cold', 'warm'):
        past, z, counts = None, None, []
        for t in range(T):
            z, past = body.step(model.embed(codes[:, t:t+1]), past, z0=z if way == 'warm' else None)
            counts.append(body.solution.n_eval)
        found[way] = statistics.mean(counts)
    anew, warm, start = [], [], None
    with torch.no_grad():
        for t in range(1, T + 1):
            x = model.embed(codes[:, :t])
            body(x)
            anew.append(body.solution.n_eval)
            z = body(x, z0=start)
            warm.append(body.solution.n_eval)
            start = torch.cat((z, z[:, -1:]), 1)
    return dict(one_token_cold=found['cold'], one_token_warm=found['warm'], all_tokens_cold=statistics.mean(anew),
                all_tokens_warm=statistics.mean(warm), characters=T)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--steps', type=int, default=1500)
    parser.add_argument('--seeds', type=int, default=3, help='of the finalists; the others have one')
    parser.add_argument('--rates', type=float, nargs='+', default=[8e-3, 2e-2], help='learning rates to choose from')
    parser.add_argument('--minutes', type=float, default=math.inf, help='begin no run after so long')
    parser.add_argument('--only', nargs='+', default=list(MODELS), choices=list(MODELS), metavar='MODEL')
    parser.add_argument('--out', type=pathlib.Path, default=RESULTS/'charlm.json')
    parser.add_argument('--fresh', action='store_true', help='repeat what the file has')
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    end = time.perf_counter() + 60*args.minutes
    text = Text(corpus())
    result = dict(what='bits per character on text held out and on test text; float32; seconds of processor time, one thread', steps=args.steps, length=T, batch=BATCH,
                  solver=SOLVE, characters=text.size, sha256=text.sha256, symbols=len(text.symbols), unigram=text.unigram,
                  **machine(), runs=[])
    if args.out.exists() and not args.fresh:
        old = json.loads(args.out.read_text())
        same = ('steps', 'length', 'batch', 'solver', 'sha256')
        if all(old.get(k) == result[k] for k in same): result['runs'] = old['runs']

    def run(name, seed, rate):
        if any((r['model'], r['seed'], r['lr']) == (name, seed, rate) for r in result['runs']): return
        if time.perf_counter() > end: raise SystemExit
        row, model = train(name, seed, rate, args.steps, text)
        row['generation'] = generation(model, text) if seed == 0 else None
        result['runs'].append(row)
        print(f'{name:50s} seed {seed} lr {rate:g}  {row["parameters"]:6d} parameters  {row["held_out"]:.3f} held out, '
              f'{row["bpc"]:.3f} test  {row["seconds"]:5.0f} s  {row["iterations"] or 0:.1f} iterations', flush=True)
        write(args.out, result)

    for name in args.only:
        for rate in args.rates: run(name, 0, rate)
    for seed in range(1, args.seeds):
        for name in (n for n in args.only if n in FINALISTS):
            screened = [r for r in result['runs'] if r['model'] == name and r['seed'] == 0]
            run(name, seed, min(screened, key=lambda r: r['held_out'])['lr'])


if __name__ == '__main__': main()
