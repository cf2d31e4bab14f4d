"""On a GPU: solvers, RootIRNN with its kernel, scans and sequences, beside what they compete with and a floor; prints tables, writes results/gpu.json, within 8 minutes.

    python benchmarks/gpu.py                 everything (needs CUDA)
    python benchmarks/gpu.py --only recurrent kernel
    python benchmarks/gpu.py --compile       no GPU needed: compile the kernel for Ampere and Hopper and say what it takes there; writes results/kernel.json
    python benchmarks/gpu.py --smoke         tiny sizes, on the CPU too: does every line run? Nothing is written, no figure means anything

Times are medians of device events after warm-up, on random data; in each round every contestant has its turn. Outputs are checked against float64 in the same run: `error` is relative, over all numbers.
Floors are counted: operations over the rate of a large bfloat16 product, or bytes over the rate of a large copy, both measured at the start; whichever is longer.
"""
import argparse, copy, gc, os, platform, re, subprocess, sys, tempfile, time, warnings

os.environ.pop('TRITON_INTERPRET', None)
import torch
if '--smoke' in sys.argv and not torch.cuda.is_available(): os.environ['TRITON_INTERPRET'] = '1'
from torch import nn
from common import RESULTS, summary, write
from deq_irnn.equilibrium_rnn import DiagonalGRUCell, EquilibriumRNN
from deq_irnn.irnn import IRNN
from deq_irnn.isometry import orthogonal_scan
from deq_irnn.root_irnn import IsometricRNN, RootIRNN
from deq_irnn.scan import affine_scan
from deq_irnn.solvers import Anderson, Broyden, Picard, Solve, solve
from deq_irnn.tokens import Block as TokenBlock, Tiles, solve_block

try: import torchdeq
except ImportError: torchdeq = None
try: from accelerated_scan.warp import scan as warp_scan
except ImportError: warp_scan = None

CUDA = torch.cuda.is_available()
DEVICE = 'cuda' if CUDA else 'cpu'
N_IN, TOL = 16, 1e-3


# ---- measuring --------------------------------------------------------------------------------------------------------------------

class Clock:
    "Seconds of a call, by device events; peak memory that it adds."
    def __call__(self, run):
        if not CUDA:
            start = time.perf_counter(); run()
            return time.perf_counter() - start
        a, b = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        a.record(); run(); b.record(); b.synchronize()
        return a.elapsed_time(b)/1e3

    def peak(self, run):
        if not CUDA: run(); return 0.
        gc.collect(); torch.cuda.empty_cache(); torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(); torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before)/2**20

clock = Clock()

def compare(contestants, rounds=5, slow=4.):
    "name → dict(median, min, max, repeats, peak_MiB) or dict(skipped=why): all in turn, twice to warm up; what takes longer than `slow` seconds is run once more, and that is its time."
    out, times = {}, {}
    for name, run in contestants.items():
        try:
            out[name] = dict(peak_MiB=clock.peak(run))
            times[name] = [clock(run)]
        except Exception as e: out[name] = dict(skipped=f'{type(e).__name__}: {str(e)[:200]}')
    for i in range(rounds):
        for name in times:
            if times[name][0] < slow: times[name].append(clock(contestants[name]))
    for name, t in times.items():
        t = t[1:] or t
        out[name].update(summary(t))
    return out

def rates():
    "Operations per second of a large product in bfloat16, TF32 and float32; bytes per second of a large copy."
    n, out = (8192 if CUDA else 256), {}
    for name, dtype, tf32 in (('bfloat16', torch.bfloat16, False), ('tf32', torch.float32, True), ('float32', torch.float32, False)):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(n, n, device=DEVICE, dtype=dtype) for _ in range(2))
        out[name] = 2*n**3/compare({name: lambda: a @ b})[name]['median']
    torch.backends.cuda.matmul.allow_tf32 = False
    x = torch.randn(2**28 if CUDA else 2**20, device=DEVICE); y = torch.empty_like(x)
    out['copy'] = 2*x.nbytes/compare({'copy': lambda: y.copy_(x)})['copy']['median']
    return out

def error(y, exact): return ((y.double() - exact).norm()/exact.norm()).item()

def show(title, rows, keys):
    print(f'\n{title}', flush=True)
    for r in rows:
        if 'skipped' in r: print(f"  {r['name']:44s} not run: {r['skipped']}"); continue
        print(f"  {r['name']:44s}{r['median']*1e3:11.3f} ms ({r['min']*1e3:.3f}–{r['max']*1e3:.3f})" + ''.join(f'  {k} {r[k]:.3g}' for k in keys if r.get(k) is not None), flush=True)


# ---- (a) solvers ------------------------------------------------------------------------------------------------------------------

class Linear(nn.Module):
    "tanh(W z + x), W of norm 0.9."
    def __init__(self, n):
        super().__init__()
        W = torch.randn(n, n)
        self.W = nn.Parameter(.9*W/torch.linalg.matrix_norm(W, 2))
    def forward(self, z, x): return torch.tanh(z @ self.W.T + x)

class Block(nn.Module):
    "A post-norm transformer block with the input injected, (B, T, d)."
    def __init__(self, d, heads=4):
        super().__init__()
        self.qkv, self.out, self.up, self.down = nn.Linear(d, 3*d), nn.Linear(d, d), nn.Linear(d, 2*d), nn.Linear(2*d, d)
        self.norms, self.heads = nn.ModuleList(nn.LayerNorm(d) for _ in range(2)), heads
    def forward(self, z, x):
        q, k, v = self.qkv(z).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        z = self.norms[0](x + z + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))
        return self.norms[1](x + z + self.down(torch.relu(self.up(z))))

def solvers(small, spend):
    "Our solvers and torchdeq's on two maps; the floor is as many bare evaluations."
    sizes = {'linear 4096×1024': (Linear(64 if small else 1024), (32, 64) if small else (4096, 1024)), 'transformer block 64×256×512': (Block(32 if small else 512), (2, 8, 32) if small else (64, 256, 512))}
    rows = []
    for problem, (f, shape) in sizes.items():
        for dtype in (torch.float32, torch.bfloat16):
            if spend(): break
            g, x, tol = copy.deepcopy(f).to(DEVICE, dtype), torch.randn(shape, device=DEVICE).to(dtype), 1e-4 if dtype == torch.float32 else 2e-2
            exact = solve(copy.deepcopy(g).double().requires_grad_(False), x.double()*0, Anderson(), tol=1e-9, args=(x.double(),), max_iter=300).z
            found = _solver_rows(g.requires_grad_(False), x, tol, exact, small)
            rows += [dict(problem=problem, dtype=str(dtype)[6:], tol=tol, **r) for r in found]
            show(f'{problem}, {str(dtype)[6:]}, tolerance {tol:g}', found, ('evaluations', 'overhead', 'error'))
    return rows

def _solver_rows(f, x, tol, exact, small):
    fs = {'eager': f, 'compiled': torch.compile(f, dynamic=True)} | ({'compiled, CUDA graphs': torch.compile(f, mode='reduce-overhead')} if CUDA else {})
    last, runs = {}, {}
    def ours(name, f, solver, every):
        def run(): last[name] = solve(f, torch.zeros_like(x), solver, tol=tol, args=(x,), max_iter=100, check_every=every, on_failure='ignore')
        return run
    for how, g in list(fs.items())[:1 if small else None]:
        for solver in (Picard(), Anderson(), Broyden()):
            for every in (1, 5):
                name = f'{type(solver).__name__}, look every {every}, f {how}'
                runs[name] = ours(name, g, solver, every)
    if torchdeq is not None:
        for name in ('anderson', 'broyden'):
            deq = torchdeq.get_deq(f_solver=name, f_max_iter=100, f_tol=tol, f_stop_mode='rel').eval()
            def run(deq=deq, name=f'torchdeq {name}'): last[name] = deq(lambda z: f(z, x), torch.zeros_like(x))
            runs[f'torchdeq {name}'] = run
    with torch.no_grad():
        def bare(n):
            z = torch.zeros_like(x)
            for _ in range(n): z = f(z, x)
        times = compare({**runs, 'ten bare evaluations': lambda: bare(10)})
    rows, per = [], times['ten bare evaluations'].get('median', float('nan'))/10
    for name, t in times.items():
        sol = last.get(name)
        z, n = (None, 10) if sol is None else (sol.z, sol.n_eval) if hasattr(sol, 'n_eval') else (sol[0][-1], int(sol[1]['nstep'].max()) if 'nstep' in sol[1] else None)
        rows.append(dict(name=name, evaluations=n, error=None if z is None else error(z, exact), overhead=t['median']/(n*per) if n and 'median' in t else None, **t))
    return rows


# ---- (b) recurrent networks -------------------------------------------------------------------------------------------------------

ON, OFF = Tiles(kernel='auto' if CUDA else True), Tiles(kernel=False)

def root(tiles, D, tol=TOL, max_iter=100, **options): return RootIRNN(N_IN, D, 1, 'relu', solver=tiles, tol=tol, max_iter=max_iter, **options)

ROOTS = {'RootIRNN rotation, kernel': (ON, dict(gate='input')), 'RootIRNN rotation, no kernel': (OFF, dict(gate='input')),
         'RootIRNN −I, kernel': (ON, dict(transition='minus', gate=False)), 'RootIRNN rotation, 4 heads, kernel': (ON, dict(gate='input', heads=4))}
NETS = {'nn.LSTM (cuDNN)': lambda D: nn.LSTM(N_IN, D), 'nn.GRU (cuDNN)': lambda D: nn.GRU(N_IN, D), 'IRNN K=5': lambda D: IRNN(N_IN, D),
        'IsometricRNN tanh': lambda D: IsometricRNN(N_IN, D, injection='tanh'), 'IsometricRNN mlp': lambda D: IsometricRNN(N_IN, D),
        **{name: lambda D, tiles=tiles, options=options: root(tiles, D, **options) for name, (tiles, options) in ROOTS.items()}}

def _pass(rnn, x, backward):
    "One pass of a network."
    if not backward:
        with torch.no_grad(): return rnn(x)[0]
    rnn.zero_grad()
    rnn(x)[0].square().mean().backward()

def recurrent(small, spend, rate):
    "RootIRNN beside cuDNN and the K-step iRNN. Floor: what RootIRNN must do, one bfloat16 product per iteration it made."
    rows, estimate = [], {}
    for T in ((16,) if small else (512, 2048, 8192, 65536)):
        for D in ((32,) if small else (128, 256)):
            for B in ((2,) if small else (1, 8, 64)):
                if spend(): return rows
                rows += _net_rows(T, B, D, rate, estimate, small)
    return rows

def _net_rows(T, B, D, rate, estimate, small):
    torch.manual_seed(0)
    x, out = torch.randn(T, B, N_IN, device=DEVICE), []
    nets = {name: make(D).to(DEVICE) for name, make in NETS.items()}
    for backward in (False, True):
        guess = {n: estimate.get((n, D, backward), 0.)*T for n in nets}            # what is sequential takes as long per step as it did for fewer steps
        runs = {n: (lambda rnn=rnn: _pass(rnn, x, backward)) for n, rnn in nets.items() if guess[n] < 3.}
        times = compare(runs, 5 if small else 7, 1.) | {n: dict(skipped=f'would take about {guess[n]:.0f} s') for n in nets if n not in runs}
        for name, t in times.items():
            if 'median' in t and not name.startswith('Root'): estimate[name, D, backward] = t['median']/T
            sol = nets[name].last[0].solution if name.startswith('Root') and 'median' in t else None
            its = float(sol.iterations.float().mean()) if sol is not None else None
            floor = None
            if its is not None:
                ops, bytes_ = 2*T*B*(D*D*its*(2 if backward else 1)/(4 if '4 heads' in name else 1) + D*D*(2 if backward else 0) + D*N_IN), T*B*D*4*(12 if backward else 6)
                floor = max(ops/rate['bfloat16'], bytes_/rate['copy'])
            wrong = _net_error(name, nets[name], x) if sol is not None and not backward and T*B <= 2**16 else None
            out.append(dict(name=name, T=T, B=B, D=D, backward=backward, iterations=its, floor=floor, of_floor=floor/t['median'] if floor else None, error=wrong, **t))
        base = next((r['median'] for r in out if r['name'].startswith('nn.LSTM') and r['backward'] == backward and 'median' in r), None)
        for r in out:
            if r['backward'] == backward and base and 'median' in r: r['times_lstm'] = base/r['median']
    for backward in (False, True):
        show(f"T={T} B={B} D={D}, {'forward + backward' if backward else 'forward'}", [r for r in out if r['backward'] == backward], ('times_lstm', 'of_floor', 'peak_MiB', 'iterations', 'error'))
    return out

def _net_error(name, rnn, x):
    "Against the same network in float64, solved to 1e-10, on two sequences."
    exact = root(OFF, rnn.hidden_size, 1e-10, 500, **ROOTS[name][1]).to(x.device, torch.float64)
    exact.load_state_dict(rnn.state_dict())
    with torch.no_grad(): return error(_pass(rnn, x[:, :2], False), exact(x[:, :2].double())[0])


# ---- the kernel alone -------------------------------------------------------------------------------------------------------------

def kernel(small, spend, rate):
    "The kernel by itself: which share of the matrix rate it reaches, counting the products it did; beside the calls to PyTorch that it replaces."
    try: from deq_irnn.kernel import fits, plan, rest
    except ImportError as e: return [dict(name='kernel', skipped=str(e))]
    from deq_irnn.wellposed import contractive, reflect
    rows = []
    for D in ((32,) if small else (64, 128, 256)):
        for tol in (1e-3, 1e-5):
            if spend(): return rows
            N = 200 if small else 65536
            U = contractive(torch.randn(D, D, device=DEVICE), .95); V, C = reflect(U)
            p = torch.randn(N, D, device=DEVICE); q, s, cheap = p @ V, torch.empty_like(p), torch.empty(N, dtype=torch.int32, device=DEVICE)
            if not fits(torch.relu, q, tol): rows.append(dict(name=f'D={D} tol={tol:g}', skipped='does not fit this GPU')); continue
            its, _ = rest(torch.relu, q, C, s, (), tol, 200, cheap)
            o = plan(D, tol)
            worst = [_tiles(t, o.rows) for t in (cheap, its - cheap)]
            done = 2*o.rows*D*D*float((worst[0] + worst[1]*o.parts*(o.parts + 1)//2).sum())
            w, act = q.double(), torch.relu
            for _ in range(500): u = w @ C.double() + q.double(); w = 2*act(u) - u
            wrong, block, how = error(s, act(u)), TokenBlock(torch.relu, U, V, C), Solve(tol=tol, max_iter=200)
            times = compare({f'kernel, D={D} tol={tol:g}': lambda: rest(torch.relu, q, C, s, (), tol, 200),
                             f'PyTorch, D={D} tol={tol:g}': lambda: solve_block(block, p, (), torch.empty_like(p), how, OFF)})
            for i, (name, t) in enumerate(times.items()):
                rows.append(dict(name=name, N=N, D=D, tol=tol, iterations=None if i else its.float().mean().item(), cheap=None if i else cheap.float().mean().item(), error=None if i else wrong,
                                 of_matrix_rate=None if i or 'median' not in t else done/t['median']/rate['bfloat16'], **t))
            show(f'{N} equilibria', rows[-2:], ('of_matrix_rate', 'iterations', 'cheap', 'error'))
    return rows

def _tiles(t, rows): return nn.functional.pad(t, (0, -len(t) % rows)).view(-1, rows).amax(1).long()

def compiled(widths):
    "Compile for Ampere and Hopper, no GPU needed: registers, spilled bytes and shared memory per program."
    import glob, triton
    from deq_irnn.kernel import compile_for, plan
    tool = next(iter(glob.glob(os.path.join(os.path.dirname(triton.__file__), 'backends/nvidia/bin/ptxas*'))), None)
    rows = []
    for card, chip in (('Ampere', 80), ('Hopper', 90)):
        for D in widths:
            for tol in (1e-3, 1e-5):
                how, made = plan(D, tol), compile_for(chip, D, tol)
                with tempfile.NamedTemporaryFile('w', suffix='.ptx') as f:
                    f.write(made.asm['ptx']); f.flush()
                    said = subprocess.run([tool, '-v', f'-arch=sm_{chip}{"a"*(chip == 90)}', f.name, '-o', os.devnull], capture_output=True, text=True).stderr if tool else ''
                registers, spilled = (max(map(int, re.findall(pattern, said)), default=None) for pattern in (r'Used (\d+) registers', r'(\d+) bytes spill stores'))
                rows.append(dict(card=card, D=D, tol=tol, parts=how.parts, rows=how.rows, shared=made.metadata.shared, room=how.shared, registers=registers, spilled=spilled,
                                 matrix_instructions=made.asm['ptx'].count('wgmma.mma_async') + made.asm['ptx'].count('mma.sync')))
                print(f"{card:7s} D={D:3d} tolerance {tol:g}: {rows[-1]['shared']:6d} bytes of shared memory (planned {how.shared}), {registers} registers, {spilled} bytes spilled", flush=True)
    return dict(what="deq_irnn.kernel compiled without a GPU: per program of 8 warps; spilled: bytes of spill stores in the code of a thread", triton=triton.__version__, rows=rows)


# ---- (c) scans, (d) sequences -----------------------------------------------------------------------------------------------------

def scans(small, spend):
    "Diagonal affine scans, forward and backward, beside accelerated-scan where it installs; then scans of small dense rotations."
    rows = []
    for T, B, D in ([(64, 2, 8)] if small else [(2048, 8, 512), (16384, 8, 512), (65536, 1, 512)]):
        if spend(): break
        a, b = (torch.rand(T, B, D, device=DEVICE)*.2 + .8).requires_grad_(), torch.randn(T, B, D, device=DEVICE, requires_grad=True)
        def ours(): y = affine_scan(a, b); torch.autograd.grad(y.square().mean(), (a, b)); return y
        def theirs(): y = warp_scan(a.permute(1, 2, 0).contiguous(), b.permute(1, 2, 0).contiguous()); torch.autograd.grad(y.square().mean(), (a, b)); return y.permute(2, 0, 1)
        runs = {'affine_scan': ours} | ({'accelerated_scan.warp': theirs} if warp_scan else {})
        h, exact = 0., []
        for u, v in zip(a.detach().double(), b.detach().double()): h = u*h + v; exact.append(h)
        exact = torch.stack(exact)
        found = [dict(name=n, T=T, B=B, D=D, error=error(runs[n]().detach(), exact) if 'median' in t else None, **t) for n, t in compare(runs).items()]
        rows += found + ([] if warp_scan else [dict(name='accelerated_scan.warp', T=T, B=B, D=D, skipped='not installed')])
        show(f'affine scan, forward + backward, T={T} B={B} D={D}', rows[-2:], ('peak_MiB', 'error'))
    for T, B, D, d in ([(64, 2, 8, 4)] if small else [(2048, 8, 512, 4), (8192, 8, 256, 4)]):
        if spend(): break
        R = torch.linalg.qr(torch.randn(T, B, D//d, d, d, device=DEVICE))[0].requires_grad_()
        b = torch.randn(T, B, D, device=DEVICE, requires_grad=True)
        def turned(): h = orthogonal_scan(R, b); torch.autograd.grad(h.square().mean(), (R, b)); return h
        h, exact = torch.zeros(B, d, D//d, device=DEVICE, dtype=torch.float64), []
        for A, u in zip(R.detach().double(), b.detach().double()): h = torch.einsum('bkij,bjk->bik', A, h) + u.unflatten(1, (d, -1)); exact.append(h.flatten(1))
        exact = torch.stack(exact)
        rows += [dict(name=n, T=T, B=B, D=D, block=d, error=error(turned().detach(), exact) if 'median' in t else None, **t) for n, t in compare({'orthogonal_scan': turned}).items()]
        show(f'scan of {d}×{d} rotations, forward + backward, T={T} B={B} D={D}', rows[-1:], ('peak_MiB', 'error'))
    return rows

def sequences(small, spend):
    "A diagonal GRU cell, all steps at once and one after the other."
    rows = []
    for T, B, D in ([(20, 2, 8)] if small else [(1000, 8, 128), (10000, 4, 64), (10000, 64, 128)]):
        if spend(): break
        torch.manual_seed(0)
        cell, x = DiagonalGRUCell(N_IN, D).to(DEVICE), torch.randn(T, B, N_IN, device=DEVICE)
        nets = {'parallel': EquilibriumRNN(cell, 'parallel', tol=1e-5), 'sequential': EquilibriumRNN(cell, tol=1e-5), 'nn.GRU': nn.GRU(N_IN, D).to(DEVICE)}
        def both(rnn): rnn.zero_grad(); rnn(x)[0].square().mean().backward()
        times = compare({n: (lambda rnn=rnn: both(rnn)) for n, rnn in nets.items()}, slow=2.)
        exact = EquilibriumRNN(copy.deepcopy(cell).double(), tol=1e-12)(x.double())[0].detach() if T*B <= 40000 else None
        found = [dict(name=n, T=T, B=B, D=D, iterations=float(nets[n].solution.iterations.max()) if n != 'nn.GRU' else None, error=error(nets[n](x)[0].detach(), exact) if exact is not None and n != 'nn.GRU' else None, **t)
                 for n, t in times.items()]
        rows += found
        show(f'diagonal GRU, forward + backward, T={T} B={B} D={D}', found, ('iterations', 'peak_MiB', 'error'))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parts = ('kernel', 'recurrent', 'solvers', 'sequences', 'scans')
    parser.add_argument('--only', nargs='+', choices=parts, default=parts)
    parser.add_argument('--compile', type=int, nargs='*', metavar='D', help='compile the kernel of these widths (default: all) for Ampere and Hopper, no GPU needed; writes results/kernel.json')
    parser.add_argument('--smoke', action='store_true', help='tiny sizes, on the CPU too; nothing is written')
    parser.add_argument('--minutes', type=float, default=8., help='stop starting new measurements after this time (default 8)')
    parser.add_argument('--out', default=None, help='where to write (default results/gpu.json; results/kernel.json with --compile)')
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    if args.compile is not None: return write(args.out or RESULTS/'kernel.json', compiled(args.compile or (32, 64, 128, 256)))
    if not (CUDA or args.smoke): sys.exit('benchmarks/gpu.py: torch finds no GPU here; --compile and --smoke run without one')
    start, rate = time.time(), rates()
    card = torch.cuda.get_device_properties(0) if CUDA else None
    result = dict(what='seconds, medians of device events; see benchmarks/gpu.py', card=card and card.name, memory_GiB=card and card.total_memory/2**30, torch=torch.__version__, cuda=torch.version.cuda,
                  python=platform.python_version(), rates=rate, left_out=[], parts={})
    print(f"{result['card']}: " + ', '.join(f'{k} {v/1e12:.3g} T/s' for k, v in rate.items()))
    for i, part in enumerate(p for p in parts if p in args.only):
        until = start + 60*args.minutes*(1 if part == parts[-1] else min(1, .2 + .2*(i + 1)))       # each part leaves time for the next
        def spend(): return time.time() > until and (result['left_out'].append(part) or True)
        result['parts'][part] = dict(kernel=lambda: kernel(args.smoke, spend, rate), recurrent=lambda: recurrent(args.smoke, spend, rate), solvers=lambda: solvers(args.smoke, spend),
                                     sequences=lambda: sequences(args.smoke, spend), scans=lambda: scans(args.smoke, spend))[part]()
        if args.out or not args.smoke: write(args.out or RESULTS/'gpu.json', result)                # after each part: a run cut short keeps what it has
    print(f'\n{time.time() - start:.0f} s' + (f"; left out for lack of time, in part: {', '.join(result['left_out'])}" if result['left_out'] else ''))


if __name__ == '__main__': main()
