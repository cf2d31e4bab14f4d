"""Solvers of silva-networks, jaxopt and optimistix on the maps of benchmarks/maps.py, in an environment of their own; writes results/peers.json.

    python -m venv peers
    peers/bin/pip install torch==2.13.0 'numpy<2'
    peers/bin/pip install silva-networks==1.2.2 jaxopt==0.8.5 optimistix==0.1.0 scikit-learn 'numpy<2'
    PYTHONPATH=. peers/bin/python benchmarks/peers.py           (--quick: two maps, nothing is written)

Parts and words as in benchmarks/solvers.py. `counts`, in float64: evaluations of f after which a sample's own relative residual has come down to a tolerance. `rows`, in float32, one thread,
forward: `cost` is the time to the tolerance in units of one bare evaluation of f, timed in the same process and the same rounds (each framework's own f: for JAX a compiled loop of
evaluations), `overhead` is cost ÷ evaluations. Seconds are the process's CPU time. Our own solvers stand beside, in the same process.

Every solver as it comes, but for the criterion: 1e-4 of ‖f(z)‖. silva-networks' Anderson is told that the first dimension is a batch (`anderson_batch_dims=1`), its Broyden can only take
the batch as one system. jaxopt's and optimistix's solvers know no batch: `jax.vmap` makes each sample a system of its own; they stop at an absolute residual, so they are given the tolerance
times the smallest ‖f(z)‖ at the equilibria. Compiling is not timed.
"""
import copy, os, time, warnings
from importlib.metadata import packages_distributions, version

os.environ['XLA_FLAGS'] = '--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1'
import torch
import maps
from common import Options, machine, ratios, spread, summary, table, write
from solvers import MAX_ITER, TOLERANCES, Watched, needed, reached
from deq_irnn import Anderson, Picard, relative_residual, solve

try: import silva_networks.solvers as silva
except ImportError: silva = None
try:
    import jax, jax.numpy as jnp, jaxopt, optimistix
except ImportError: jax = None

TOL = 1e-4
TIMED = ('sym 64×256', 'sym 256×512', 'attention', 'convolution 16', 'graph')


# ---- PyTorch: f(z), z0 → the answer

def ours(solver):
    return lambda f, z0, tol: solve(f, z0, solver, tol=tol, max_iter=MAX_ITER, on_failure='ignore').z

def silva_networks(name, batch_dims):
    def run(f, z0, tol):
        how = silva.SolverConfig(solver=name, tol=tol, max_iter=MAX_ITER, stop_mode='relative', anderson_batch_dims=batch_dims)
        return silva.fixed_point(f, z0, how).z
    return run

TORCH = {'deq_irnn Picard': ours(Picard()), 'deq_irnn Anderson': ours(Anderson())}
if silva: TORCH |= {'silva-networks picard': silva_networks('picard', 1), 'silva-networks anderson': silva_networks('anderson', 1),
                    'silva-networks broyden': silva_networks('broyden', 0)}


# ---- JAX: the same maps for one sample, f(z, x), with the weights of the PyTorch ones

def translated(f, dtype):
    "The map f of maps.py in JAX."
    w = {name: jnp.asarray(t.detach().numpy(), dtype) for name, t in f.state_dict().items()}
    def linear(name, z): return z @ w[name + '.weight'].T + w[name + '.bias']
    def normed(z, axes): return (z - z.mean(axes, keepdims=True))/jnp.sqrt(z.var(axes, keepdims=True) + 1e-5)
    def tanh(z, x): return jnp.tanh(x + w['b'][0] + w['W'] @ z)
    def graph(z, x): return jnp.tanh(w['A'] @ z @ w['W'] + x)
    def convolution(z, x):
        y = jax.lax.conv_general_dilated(z[None], w['conv.weight'], (1, 1), 'SAME')[0] + w['conv.bias'][:, None, None]
        y = normed(y.reshape(f.norm.num_groups, -1), 1).reshape(y.shape)
        return jnp.tanh(y*w['norm.weight'][:, None, None] + w['norm.bias'][:, None, None] + x)
    def block(z, x):
        def norm(i, z): return normed(z, -1)*w[f'norms.{i}.weight'] + w[f'norms.{i}.bias']
        q, k, v = linear('qkv', z).reshape(len(z), 3, f.heads, -1).transpose(1, 2, 0, 3)
        read = jax.nn.softmax(q @ k.mT/q.shape[-1]**.5) @ v
        z = norm(0, x + z + linear('out', read.transpose(1, 0, 2).reshape(z.shape)))
        return norm(1, x + z + linear('down', jax.nn.relu(linear('up', z))))
    return {maps.Tanh: tanh, maps.Graph: graph, maps.Conv: convolution, maps.Block: block}[type(f)]

def jaxopt_solver(kind):
    def make(f, tol):
        solver = kind(f, maxiter=MAX_ITER, tol=tol)
        def run(x):
            z, state = solver.run(jnp.zeros_like(x), x)
            return z, state.iter_num
        return run
    return make

def optimistix_solver(f, tol):
    solver = optimistix.FixedPointIteration(rtol=0., atol=tol, norm=optimistix.two_norm)
    def run(x):
        found = optimistix.fixed_point(f, solver, jnp.zeros_like(x), args=x, max_steps=MAX_ITER, throw=False)
        return found.value, found.stats['num_steps']
    return run

JAX = {} if jax is None else {'jaxopt FixedPointIteration': jaxopt_solver(jaxopt.FixedPointIteration),
    'jaxopt AndersonAcceleration': jaxopt_solver(jaxopt.AndersonAcceleration), 'optimistix FixedPointIteration': optimistix_solver}


# ---- counts

def watched_torch(run, f, x):
    "The relative residuals (evaluations, B) at each point where f was evaluated."
    watched, x = Watched(copy.deepcopy(f).double()), x.double()
    with torch.no_grad(): run(lambda z: watched(z, x), torch.zeros_like(x), TOLERANCES[-1]/2)
    return torch.stack(watched.seen[:MAX_ITER])

def watched_jaxopt(f, x):
    "The same of jaxopt's Anderson: step by step, each of which evaluates f once, where `error` is the residual and the value what it returns."
    g, x = translated(f, 'float64'), jnp.asarray(x.numpy(), 'float64')
    solver, z = jaxopt.AndersonAcceleration(g, maxiter=MAX_ITER), jnp.zeros_like(x)
    state = jax.vmap(solver.init_state)(z, x)
    step = jax.jit(jax.vmap(solver.update))
    seen = []
    for _ in range(MAX_ITER):
        z, state = step(z, state, x)
        seen.append(torch.tensor((state.error/jnp.linalg.norm(z.reshape(len(z), -1), axis=1)).tolist()))
    return torch.stack(seen)

def counts(problem):
    "A row for each contestant that is not the plain iteration again, and each tolerance."
    f, x = maps.make(problem)
    seen = {name: watched_torch(run, f, x) for name, run in TORCH.items()}
    if jax: seen['jaxopt AndersonAcceleration'] = watched_jaxopt(f, x)
    rows = {name: needed(residuals, dict(problem=problem, name=name)) for name, residuals in seen.items()}
    print(f'\n{problem}: evaluations per sample (failed)')
    table(('', *(f'{t:g}' for t in TOLERANCES)), [(name, *map(reached, each)) for name, each in rows.items()])
    return [r for each in rows.values() for r in each]


# ---- times

def torch_runs(f, x):
    "name → (run, evaluations, residual), and a bare evaluation."
    def g(z): return f(z, x)
    z0, found = torch.zeros_like(x), {}
    for name, run in TORCH.items():
        watched = Watched(f)
        z = run(lambda z: watched(z, x), z0, TOL)
        found[name] = (lambda run=run: run(g, z0, TOL)), len(watched.seen), relative_residual(g(z), z).max().item()
    def bare(n):
        z = z0
        for _ in range(n): z = g(z)
    return found, bare

def jax_runs(f, x):
    "The same for JAX, compiled."
    z = solve(lambda z: f(z, x), torch.zeros_like(x), Anderson(), tol=1e-5, max_iter=MAX_ITER, on_failure='ignore').z
    smallest = z.flatten(1).norm(dim=1).min().item()
    g, x, found = translated(f, 'float32'), jnp.asarray(x.numpy()), {}
    together, size = jax.jit(jax.vmap(g)), lambda z: jnp.linalg.norm(z.reshape(len(z), -1), axis=1)
    torch.testing.assert_close(torch.tensor(together(jnp.asarray(z.numpy()), x).tolist()), f(z, torch.tensor(x.tolist())), atol=1e-4, rtol=1e-3)
    for name, make in JAX.items():
        run = jax.jit(jax.vmap(make(g, TOL*smallest)))
        z, steps = run(x)
        found[name] = (lambda run=run: jax.block_until_ready(run(x))), int(steps.max()), float((size(together(z, x) - z)/size(z)).max())
    loop = jax.jit(lambda n: jax.lax.fori_loop(0, n, lambda _, z: jax.vmap(g)(z, x), jnp.zeros_like(x)))
    loop(1)
    return found, lambda n: jax.block_until_ready(loop(n))

def times(problem, rounds):
    "The rows of one map, all in turn."
    f, x = maps.make(problem)
    f.requires_grad_(False)
    parts = [torch_runs(f, x)] + ([jax_runs(f, x)] if jax else [])
    rows = []
    measured = {name: ([], []) for found, _ in parts for name in found}
    for i in range(rounds + 1):
        for found, bare in parts:
            start = time.process_time()
            bare(30)
            unit = (time.process_time() - start)/30
            for name, (run, *_) in found.items():
                start = time.process_time()
                run()
                if i: measured[name][0].append(time.process_time() - start), measured[name][1].append(unit)
    for found, _ in parts:
        for name, (_, evaluations, residual) in found.items():
            seconds, units = measured[name]
            rows.append(dict(problem=problem, name=name, tol=TOL, evaluations=evaluations, residual=residual, reached=residual <= 1.05*TOL, seconds=summary(seconds),
                             cost=ratios(seconds, units), overhead=ratios(seconds, [evaluations*u for u in units])))
    print(f'\n{problem}, tol {TOL:g}, forward')
    table(('', 'f', 'residual', 'cost in evaluations (min–max)', 'overhead (min–max)'),
          [(r['name'], str(r['evaluations']), f"{r['residual']:.1e}" + '!'*(not r['reached']), spread(r['cost'], 1), spread(r['overhead'], 2)) for r in rows])
    return rows


def main():
    options = Options(__doc__, 'peers', rounds=7)
    options.add_argument('--only', choices=('counts', 'rows'), help='one part alone')
    args = options.parse_args()
    torch.set_num_threads(args.threads[0])
    warnings.simplefilter('ignore')
    installed = {name for names in packages_distributions().values() for name in names}
    names = [n for n in maps.MAPS if '256×512' not in n and (not args.quick or n.startswith('sym'))]
    result = dict(what='evaluations of f per sample, float64; cost in bare evaluations of f, float32, one process', max_iter=MAX_ITER,
                  versions={name: version(name) for name in ('silva-networks', 'jax', 'jaxopt', 'optimistix') if name in installed}, **machine(), load=os.getloadavg()[0])
    timed = [name for name in maps.MAPS if any(name.startswith(t) for t in TIMED[:1 if args.quick else None])]
    # (in JAX's double mode jaxopt's Anderson mixes float32 and float64, and raises)
    for key, part, chosen, double in (('counts', counts, names, True), ('rows', lambda n: times(n, args.rounds), timed, False)):
        result[key] = []
        if jax: jax.config.update('jax_enable_x64', double)
        for name in chosen if args.only in (None, key) else ():
            result[key] += part(name)
            write(args.out, result, finished=False)
    write(args.out, result, finished=not args.only)


if __name__ == '__main__': main()
