"""Newton's methods beside MINPACK (scipy's hybr and lm) on systems of equations: who finds a root, with how many evaluations.

    python benchmarks/systems.py            all systems, from the usual start and ten times as far; writes results/systems.json
    python benchmarks/systems.py --quick    those of few unknowns; nothing is written unless --out is given

`CLASSICAL` are those of Moré, Garbow and Hillstrom (1981), on which the methods were made; `OTHERS` chose nothing in today's `Newton` (a
Levenberg–Marquardt prototype that was not taken was run on them too). Solved: ‖g(z)‖ ≤ 1e-7 within 100·(N + 1)
evaluations, a Jacobian counting N. A system maps (B, N) to (B, N).
"""
import math

import numpy as np
import torch
from scipy.optimize import root as scipy_root
from common import Options, machine, table, write
from deq_irnn.solvers import Newton, NewtonKrylov, root

GOAL, BUDGET = 1e-7, 100


def cat(*c): return torch.stack(c, 1)

def neighbours(x):
    "Left and right neighbours, 0 beyond the ends."
    o = torch.zeros_like(x[:, :1])
    return torch.cat((o, x[:, :-1]), 1), torch.cat((x[:, 1:], o), 1)

def numbers(x): return torch.arange(1, x.shape[1] + 1, dtype=x.dtype)


# ---- classical

def rosenbrock(x):
    a, b = x[:, ::2], x[:, 1::2]
    return torch.cat((10*(b - a**2), 1 - a), 1)

def powell_singular(x):
    a, b, c, d = x.unflatten(1, (-1, 4)).unbind(2)
    return torch.cat((a + 10*b, 5**.5*(c - d), (b - 2*c)**2, 10**.5*(a - d)**2), 1)

def powell_badly_scaled(x):
    a, b = x.T
    return cat(1e4*a*b - 1, torch.exp(-a) + torch.exp(-b) - 1.0001)

def wood(x):
    a, b, c, d = x.T
    return cat(-200*a*(b - a**2) - (1 - a), 200*(b - a**2) + 20.2*(b - 1) + 19.8*(d - 1),
               -180*c*(d - c**2) - (1 - c), 180*(d - c**2) + 20.2*(d - 1) + 19.8*(b - 1))

def helical_valley(x):
    a, b, c = x.T
    turn = torch.atan(b/a)/(2*math.pi) + torch.where(a < 0, .5, 0.)     # the cut is at a = 0, away from the start
    return cat(10*(c - 10*turn), 10*((a*a + b*b).sqrt() - 1), c)

def watson(x):
    n = x.shape[1]
    t = torch.arange(1, 30, dtype=x.dtype)[:, None]/29
    powers = t**torch.arange(n, dtype=x.dtype)                          # (29, n)
    slopes = torch.arange(n, dtype=x.dtype)*torch.cat((torch.zeros(29, 1, dtype=x.dtype), powers[:, :-1]), 1)
    s = x @ powers.T
    r = x @ slopes.T - s**2 - 1
    g = r @ slopes - 2*(r*s) @ powers
    last = x[:, 1] - x[:, 0]**2 - 1
    return g + torch.cat((cat(x[:, 0] - 2*x[:, 0]*last, last), torch.zeros_like(x[:, 2:])), 1)

def chebyquad(x):
    T = [torch.ones_like(x), 2*x - 1]
    for i in range(2, x.shape[1] + 1): T.append(2*(2*x - 1)*T[-1] - T[-2])
    return cat(*(T[i].mean(1) + (0. if i % 2 else 1/(i*i - 1)) for i in range(1, x.shape[1] + 1)))

def brown_almost_linear(x):
    total = x.sum(1, keepdim=True)
    return torch.cat((x[:, :-1] + total - x.shape[1] - 1, x.prod(1, keepdim=True) - 1), 1)

def boundary_value(x):
    h = 1/(x.shape[1] + 1)
    left, right = neighbours(x)
    return 2*x - left - right + h*h*(x + h*numbers(x) + 1)**3/2

def integral_equation(x):
    h = 1/(x.shape[1] + 1)
    t = h*numbers(x)
    c = (x + t + 1)**3
    later = ((1 - t)*c).flip(1).cumsum(1).flip(1) - (1 - t)*c
    return x + h*((1 - t)*(t*c).cumsum(1) + t*later)/2

def trigonometric(x):
    return x.shape[1] - x.cos().sum(1, keepdim=True) + numbers(x)*(1 - x.cos()) - x.sin()

def variably_dimensioned(x):
    s = (numbers(x)*(x - 1)).sum(1, keepdim=True)
    return x - 1 + numbers(x)*s*(1 + 2*s**2)

def broyden_tridiagonal(x):
    left, right = neighbours(x)
    return (3 - 2*x)*x - left - 2*right + 1

def broyden_banded(x):
    y = x*(1 + x)
    def row(i): return y[:, max(0, i-5):i].sum(1) + y[:, i+1:i+2].sum(1)
    return cat(*(x[:, i]*(2 + 5*x[:, i]**2) + 1 - row(i) for i in range(x.shape[1])))

def ramp(n): return [i/(n+1)*(i/(n+1) - 1) for i in range(1, n + 1)]

CLASSICAL = {
    rosenbrock: [-1.2, 1.], powell_singular: [3., -1, 0, 1], powell_badly_scaled: [0., 1], wood: [-3., -1, -3, -1],
    helical_valley: [-1., 0, 0], watson: [0.]*6, chebyquad: [i/8 for i in range(1, 8)], brown_almost_linear: [.5]*10,
    boundary_value: ramp(10), integral_equation: ramp(10), trigonometric: [.1]*10,
    variably_dimensioned: [1 - i/10 for i in range(1, 11)], broyden_tridiagonal: [-1.]*10, broyden_banded: [-1.]*10}


# ---- others

def freudenstein_roth(x):
    a, b = x.T
    return cat(a - 13 + ((5 - b)*b - 2)*b, a - 29 + ((b + 1)*b - 14)*b)

def himmelblau(x):
    a, b = x.T
    return cat(a**2 + b - 11, a + b**2 - 7)

def griewank_osborne(x):
    a, b = x.T
    return cat(29/16*a**3 - 2*a*b, b - a**2)

def boggs(x):
    a, b = x.T
    return cat(a**2 - b + 1, a - torch.cos(math.pi*b/2))

def sine_and_exponential(x):
    a, b = x.T
    return cat(torch.sin(a + b) - torch.exp(a - b), torch.cos(a + 6) - a**2*b**2)

def jennrich_sampson(x):
    a, b = x.T
    return cat(*(2 + 2*i - torch.exp(i*a) - torch.exp(i*b) for i in (1, 2)))

def box(x):
    a, b, c = x.T
    return cat(*(torch.exp(-.1*i*a) - torch.exp(-.1*i*b) - c*(math.exp(-.1*i) - math.exp(-i)) for i in (1, 2, 3)))

def biggs(x):
    def row(t):
        y = math.exp(-t) - 5*math.exp(-10*t) + 3*math.exp(-4*t)
        return x[:, 2]*torch.exp(-t*x[:, 0]) - x[:, 3]*torch.exp(-t*x[:, 1]) + x[:, 5]*torch.exp(-t*x[:, 4]) - y
    return cat(*(row(.1*i) for i in range(1, 7)))

def gulf(x):
    a, b, c = x.T
    def row(t): return torch.exp(-(25 + (-50*math.log(t))**(2/3) - b).abs()**c/a) - t
    return cat(*(row(t) for t in (.1, .4, .8)))

def trigexp(x):
    left, right = neighbours(x)
    first = 3*x**3 + 2*right - 5 + torch.sin(x - right)*torch.sin(x + right)
    second = 4*x - left*torch.exp(left - x) - 3
    return torch.cat((first[:, :1], (first + second)[:, 1:-1], second[:, -1:]), 1)

def singular_broyden(x): return broyden_tridiagonal(x)**2

def tridiagonal_valley(x):
    left, right = neighbours(x)
    own, next_ = 8*x*(x**2 - left) - 2*(1 - x), 4*(x - right**2)
    return torch.cat((next_[:, :1], (own + next_)[:, 1:-1], own[:, -1:]), 1)

def bratu(x):
    left, right = neighbours(x)
    return 2*x - left - right - 3.5*x.exp()/(x.shape[1] + 1)**2

def troesch(x):
    left, right = neighbours(x)
    right = right + torch.nn.functional.one_hot(torch.tensor(x.shape[1] - 1), x.shape[1]).to(x.dtype)
    return 2*x - left - right + 10*torch.sinh(10*x)/(x.shape[1] + 1)**2

def chandrasekhar(x):
    mu = (numbers(x) - .5)/x.shape[1]
    return x - 1/(1 - .9999/(2*x.shape[1])*x @ (mu/(mu + mu[:, None])))

def combustion(x):
    a, b, c, d, e = x.T
    r5, r6, r7, r8, r9, r10 = .193, .002597/40**.5, .003448/40**.5, 1.799e-5/40, 2.155e-4/40**.5, 3.846e-5/40
    return cat(a*b + a - 3*e,
               2*a*b + a + b*c**2 + r8*b - 10*e + 2*r10*b**2 + r7*b*c + r9*b*d,
               2*b*c**2 + 2*r5*c**2 - 8*e + r6*c + r7*b*c,
               r9*b*d + 2*d**2 - 40*e,
               a*(b + 1) + r10*b**2 + b*c**2 + r8*b + r5*c**2 + d**2 - 1 + r6*c + r7*b*c + r9*b*d)

def economics(x):
    n = x.shape[1]
    rows = [(x[:, k] + (x[:, :n-2-k]*x[:, k+1:n-1]).sum(1))*x[:, -1] - .1*(k + 1) for k in range(n - 1)]
    return cat(*rows, x[:, :-1].sum(1) + 1)

def hilbert_quadratic(x):
    i = numbers(x)
    return x @ (1/(i + i[:, None] - 1)) + .5*x**2 - 1

def exponential(x):
    left, _ = neighbours(x)
    return numbers(x)/10*(x.exp() + left - 1)

def logarithmic(x): return torch.log(x.clamp_min(-.999999) + 1) - x/x.shape[1]

def zero_jacobian(x): return torch.cat(((x**2).sum(1, keepdim=True), -2*x[:, :1]*x[:, 1:]), 1)

def network(seed, norm, n=16):
    "The equilibrium of a layer that is no contraction."
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(n, n, generator=generator, dtype=torch.float64)
    W, b = norm*W/torch.linalg.matrix_norm(W, 2), torch.randn(n, generator=generator, dtype=torch.float64)
    def layer(x): return torch.tanh(x @ W + b) - x
    layer.__name__ = f'network, ‖W‖ = {norm:g}, {seed}'
    return layer

OTHERS = {
    freudenstein_roth: [.5, -2.], himmelblau: [1., 1], griewank_osborne: [1., .4], boggs: [1., 0], sine_and_exponential: [3., 3],
    jennrich_sampson: [.3, .4], box: [0., 10, 20], biggs: [1., 2, 1, 1, 1, 1], gulf: [5., 2.5, .15], trigexp: [.5]*10,
    singular_broyden: [-1.]*10, tridiagonal_valley: [12.]*8, bratu: [.1]*20, troesch: [.5]*20, chandrasekhar: [1.]*20,
    combustion: [1.]*5, economics: [.1]*6, hilbert_quadratic: [1.]*10, exponential: [1.1]*10, logarithmic: [1.]*10,
    zero_jacobian: [10.]*8, **{network(seed, norm): [.1]*16 for norm in (2, 4) for seed in range(3)}}


# ---- who solves them

def ours(solver):
    def run(g, z0, budget):
        sol = root(g, z0[None], solver, tol=0., atol=GOAL, max_iter=budget, on_failure='ignore')
        return sol.n_eval, g(sol.z).norm().item()
    return run

def theirs(method):
    def run(g, z0, budget):
        calls = 0
        def value(v):
            nonlocal calls
            calls += 1
            return np.nan_to_num(g(torch.tensor(v)[None])[0].numpy(), nan=1e150, posinf=1e150, neginf=-1e150)
        with np.errstate(all='ignore'):
            limit = {'hybr': 'maxfev', 'lm': 'maxiter'}[method]
            found = scipy_root(value, z0.numpy(), method=method, tol=1e-15, options={limit: budget})
        return calls, np.linalg.norm(found.fun).item()
    return run

WHO = {'Newton': ours(Newton()), 'NewtonKrylov': ours(NewtonKrylov()), 'hybr': theirs('hybr'), 'lm': theirs('lm')}


def measure(systems, far):
    "A row for each system: whether each method finds a root, and its evaluations."
    rows = []
    for g, start in systems.items():
        z0 = far*torch.tensor(start, dtype=torch.float64)
        if far != 1 and not z0.any(): continue
        budget = BUDGET*(len(start) + 1)
        row = dict(system=g.__name__, N=len(start), far=far)
        for name, run in WHO.items():
            calls, size = run(g, z0, budget)
            row[name] = dict(solved=bool(size <= GOAL and calls <= 1.02*budget), evaluations=calls, norm=size)
        rows.append(row)
    return rows


def solved(rows, name): return sum(r[name]['solved'] for r in rows)


def main():
    args = Options(__doc__, 'systems').parse_args()
    torch.set_num_threads(args.threads[0])
    result = dict(what=f'systems of equations: ‖g‖ ≤ {GOAL:g} within {BUDGET}(N + 1) evaluations', **machine(), rows=[])
    for kind, systems in (('classical', CLASSICAL), ('others', OTHERS)):
        if args.quick: systems = {g: x for g, x in systems.items() if len(x) <= 4}
        for far in (1, 10):
            rows = measure(systems, far)
            result['rows'] += [dict(kind=kind, **r) for r in rows]
            print(f'\n{kind}, start × {far}')
            def cell(r, name): return f"{r[name]['evaluations'] if r[name]['solved'] else '–'}"
            table(('system', 'N', *WHO), [(r['system'], str(r['N']), *(cell(r, n) for n in WHO)) for r in rows]
                  + [('solved', f'of {len(rows)}', *(str(solved(rows, n)) for n in WHO))])
    write(args.out, result)


if __name__ == '__main__': main()
