"""Properties of the solvers over random problems: the promises of `Solution` and of fairness between samples."""
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple
from unittest import mock
import pytest, torch
from hypothesis import given, settings, strategies as st
from deq_irnn.fixed_point import ConvergenceError, ConvergenceWarning, Status, relative_residual
from deq_irnn.implicit import fixed_point
from deq_irnn.loop import Injections, Point, Residual, Shared
from deq_irnn.solvers import Anderson, Broyden, Newton, NewtonKrylov, Picard, Solve, dogleg, newton_step, root, solve

SOLVERS = [Picard(), Picard(damping=.6), Anderson(), Anderson(memory=2, damping=.7),
           Anderson(every=1, gain=0.)]

def problem(seed, B=5, D=7, rho=.8, scale=1.):
    g = torch.Generator().manual_seed(seed)
    W = torch.randn(D, D, generator=g, dtype=torch.float64)
    W *= rho/torch.linalg.matrix_norm(W, 2)
    x = scale*torch.randn(B, D, generator=g, dtype=torch.float64)
    return (lambda z, x: scale*torch.tanh((z @ W)/scale) + x), x

@pytest.mark.parametrize('solver', SOLVERS, ids=str)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-6, 1e-3, 1., 1e3]))
def test_residual_is_that_of_the_z_returned(solver, seed, scale):
    f, x = problem(seed, scale=scale)
    sol = solve(f, torch.zeros_like(x), solver, tol=1e-9, max_iter=300, args=(x,))
    assert sol.converged.all() and (sol.residual <= 1e-9).all()
    assert torch.allclose(sol.residual, relative_residual(f(sol.z, x), sol.z), rtol=1e-3, atol=1e-15)
    assert (sol.z - solve(f, x, Picard(), tol=1e-13, max_iter=999, args=(x,)).z).norm() <= 1e-7*sol.z.norm()

@pytest.mark.parametrize('solver', SOLVERS, ids=str)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), handed=st.booleans())
def test_a_sample_does_not_depend_on_its_batch_mates(solver, seed, handed):
    f, x = problem(seed)
    x[1], x[3] = float('nan'), 1e-4*x[3]
    def run(x):
        if handed: return solve(f, torch.zeros_like(x), solver, tol=1e-8, args=(x,), on_failure='ignore')
        return solve(lambda z: f(z, x), torch.zeros_like(x), solver, tol=1e-8, on_failure='ignore')
    together = run(x)
    assert together.status[1] == Status.NONFINITE and torch.isfinite(together.z).all()
    assert together.converged.tolist() == [True, False, True, True, True]
    for i in range(len(x)):
        alone = run(x[i:i+1])
        assert torch.allclose(alone.z[0], together.z[i], rtol=1e-12, atol=1e-14) and alone.iterations[0] == together.iterations[i]

def test_one_bad_sample_costs_the_others_nothing():
    f, x = problem(0)
    clean = solve(f, torch.zeros_like(x), args=(x,), tol=1e-8)
    x[2] = float('nan')
    assert solve(f, torch.zeros_like(x), args=(x,), tol=1e-8, on_failure='ignore').n_eval == clean.n_eval

def test_the_best_iterate_is_kept():
    step = iter(range(1, 100))
    def f(z): return z + (1. if next(step) != 4 else .01)      # the fourth point is the best, none is a solution
    sol = solve(f, torch.ones(1, 1, dtype=torch.float64), Picard(), max_iter=9, on_failure='ignore', trace=True)
    assert sol.z.item() == 4. and sol.residual.item() == pytest.approx(.01/4.01) and sol.iterations.item() == 9 and sol.trace.shape == (9, 1)

def test_failure_is_never_silent():
    f = lambda z: 2*z + 1
    with pytest.warns(ConvergenceWarning, match='3 of 3 samples.*max_iter'): solve(f, torch.zeros(3, 2), Picard(), max_iter=5)
    with pytest.raises(ConvergenceError) as e: solve(f, torch.zeros(3, 2), Picard(), max_iter=5, on_failure='raise')
    assert pickle.loads(pickle.dumps(e.value)).solution.n_eval == 5

def test_solvers_are_values():
    for s in SOLVERS: assert pickle.loads(pickle.dumps(s)) == s and eval(repr(s)) == s and hash(s) == hash(eval(repr(s)))
    for wrong in (dict(memory=0), dict(damping=0), dict(damping=1.5), dict(ridge=-1.), dict(every=0), dict(gain=-1.)):
        with pytest.raises(ValueError, match=next(iter(wrong))): Anderson(**wrong)
    with pytest.raises(TypeError): Anderson(memroy=3)

def test_an_empty_batch():
    sol = solve(torch.cos, torch.zeros(0, 3))
    assert sol.z.shape == (0, 3) and sol.converged.shape == (0,)

ALL = [*SOLVERS, Broyden(), Broyden(memory=3), Newton(), NewtonKrylov(), NewtonKrylov(restart=2, cycles=3)]

@pytest.mark.parametrize('solver', ALL, ids=str)
@pytest.mark.parametrize('handed', [False, True])
def test_no_solver_lets_a_sample_depend_on_its_batch_mates(solver, handed):
    "NaN, slow and far mates: each sample's answer, iterations and verdict are those of its solo run."
    g = torch.Generator().manual_seed(1)
    W = torch.linalg.qr(torch.randn(7, 7, generator=g, dtype=torch.float64))[0]
    rate = torch.tensor([.3, .9, .5, .97, 1.2, .5]).double()[:, None]
    x = torch.randn(6, 7, generator=g, dtype=torch.float64)
    x[2], x[5] = float('nan'), 1e-9*x[5]
    def f(z, rate, x): return rate*torch.tanh(z @ W) + x
    def run(which):
        args = rate[which], x[which]
        how = Solve(solver, 1e-8, max_iter=60, on_failure='ignore')
        z0 = torch.zeros_like(args[1])
        return how(f, z0, args) if handed else how(lambda z: f(z, *args), z0)
    together = run(slice(None))
    assert together.status[2] == Status.NONFINITE and together.converged[[0, 5]].all()
    for i in range(6):
        alone = run(slice(i, i + 1))
        assert alone.status[0] == together.status[i] and alone.iterations[0] == together.iterations[i]
        torch.testing.assert_close(alone.z[0], together.z[i], rtol=1e-12, atol=1e-12, equal_nan=True)

def test_a_nan_sample_costs_newton_krylov_nothing():
    W, x = .3*torch.randn(9, 9, dtype=torch.float64), torch.randn(6, 9, dtype=torch.float64)
    def run(x): return solve(lambda z: torch.tanh(z @ W + x), torch.zeros_like(x), NewtonKrylov(), tol=1e-8, on_failure='ignore')
    clean = run(x).n_eval
    x[2] = float('nan')
    assert run(x).n_eval <= clean

def test_restart_restarts():
    "What one cycle of three products cannot do, several can: the linear equation is solved to the forcing term in one step."
    A = torch.eye(40, dtype=torch.float64) + .15*torch.randn(40, 40, dtype=torch.float64)
    b = torch.randn(2, 40, dtype=torch.float64)
    few, many = (root(lambda z: z @ A.T + b, torch.zeros(2, 40, dtype=torch.float64), NewtonKrylov(restart=3, cycles=c), max_iter=2,
                      on_failure='ignore').residual for c in (1, 40))
    assert (many <= .1).all() and (few > .1).all()

# --- a solver of one's own

class Average(NamedTuple):
    mean: torch.Tensor        # (B, N)
    weights: Shared           # (N, N), for all samples
    count: int

class Weighted:
    "Plain iteration with a matrix that all samples share."
    def init(self, at): return Average(at.z, Shared(torch.eye(at.z.shape[1], dtype=at.z.dtype)), 0)
    def step(self, g, at, state):
        z = at.z + at.r @ state.weights.value
        return z, state._replace(mean=(state.mean + z)/2, count=state.count + 1)

class Forgetful(Weighted):
    def init(self, at): return Average(at.z, torch.eye(at.z.shape[1]), 0)

def test_what_a_solver_keeps_for_all_samples_stays_whole():
    rate, x = torch.tensor([[.1], [.1], [.9], [.95]]), torch.ones(4, 3)
    sol = solve(lambda z, rate, x: rate*z + x, torch.zeros(4, 3), Weighted(), args=(rate, x), max_iter=500)
    assert torch.allclose(sol.z, 1/(1 - rate).expand(4, 3), rtol=1e-3)
    with pytest.raises(TypeError, match='Shared'): solve(lambda z: .5*z + 1, torch.zeros(4, 3), Forgetful())
    with pytest.raises(TypeError, match='init'): Solve(solver=type('Half', (), {'step': None})())

def test_solve_is_one_checked_set_of_options():
    how = Solve(Picard(), tol=1e-4, atol=1e-9, max_iter=33, on_failure='raise')
    assert pickle.loads(pickle.dumps(how)) == how and eval(repr(how)) == how
    for wrong, name in ((dict(tol=-1), 'tol'), (dict(atol=float('nan')), 'atol'), (dict(max_iter=0), 'max_iter'), (dict(on_failure=''), 'on_failure')):
        with pytest.raises(ValueError, match=name): Solve(**wrong)
    with pytest.raises(TypeError, match='solver'): Solve(solver=Anderson)
    sol = Solve(Newton(), tol=1e-6)(lambda z: z**2 - 2, torch.ones(1, 1), root=True)
    assert sol.z.item() == pytest.approx(2**.5) and root(lambda z: z**2 - 2, torch.ones(1, 1), tol=1e-6).z == sol.z

# --- nothing silently wrong

@pytest.mark.parametrize('solver', [Picard(), Anderson(), Broyden()], ids=str)
def test_zero_is_found(solver):
    for scale in (1., 1e6):
        sol = solve(lambda z: .9*z, scale*torch.ones(3, 2), solver, on_failure='raise')
        assert (sol.z == 0).all() and (sol.residual == 0).all()
        mixed = solve(lambda z, b: .9*z + b, scale*torch.ones(3, 2), solver, args=(torch.tensor([[0.], [1.], [0.]]),), max_iter=300, on_failure='raise')
        assert (mixed.z[[0, 2]] == 0).all() and torch.allclose(mixed.z[1], torch.tensor(10.), rtol=1e-3)

@pytest.mark.parametrize('solver', [Picard(), Anderson()], ids=str)
def test_what_is_not_zero_is_not_called_zero(solver):
    for start in (0., 1.):
        sol = solve(lambda z: .5*z + 1e-28, torch.full((1, 2), start), solver, max_iter=200, on_failure='ignore')
        assert torch.allclose(sol.z, torch.full((1, 2), 2e-28), rtol=1e-4, atol=0) or not sol.converged.any()
    far = solve(lambda z: .5*z + 1e-6, torch.full((1, 2), 1e6), solver, max_iter=200)
    assert far.converged.all() and torch.allclose(far.z, torch.full((1, 2), 2e-6), rtol=1e-4, atol=0)

@pytest.mark.parametrize('scale', [1e-30, 1e-22, 1e25, 1e30])
@pytest.mark.parametrize('solver', [Picard(), Anderson(), Broyden()], ids=str)
def test_norms_neither_under_nor_overflow(solver, scale):
    sol = solve(lambda z: .5*z + scale, torch.zeros(2, 3), solver, on_failure='raise')
    assert torch.allclose(sol.z/scale, torch.full((2, 3), 2.), rtol=1e-4)
    assert torch.allclose(sol.residual, relative_residual(.5*sol.z + scale, sol.z), rtol=.1, atol=1e-7)
    double = solve(lambda z: .5*z + float(scale)**6, torch.zeros(2, 3, dtype=torch.float64), solver, on_failure='raise')
    assert torch.allclose(double.z/float(scale)**6, torch.full((2, 3), 2.).double(), rtol=1e-4)

def test_a_function_that_works_in_place_says_so():
    for f in (lambda z: z.mul_(.5).add_(1), lambda z: torch.mul(z, .5, out=z)):
        with pytest.raises(ValueError, match='in place'): solve(f, torch.zeros(1, 1))
        with torch.inference_mode(), pytest.raises(ValueError, match='in place'): solve(f, torch.zeros(1, 1))
    def nested(z):
        z['a'] += 1
        return z
    with pytest.raises(ValueError, match='in place'): solve(nested, {'a': torch.zeros(2, 1)})

def test_dicts_go_by_key():
    f = lambda z: {'b': .5*z['b'] + 2, 'a': .5*z['a'] + 1}
    sol = solve(f, {'a': torch.zeros(1, 1), 'b': torch.zeros(1, 1)}, tol=1e-6)
    assert sol.z['a'].item() == pytest.approx(2, rel=1e-4) and sol.z['b'].item() == pytest.approx(4, rel=1e-4)
    with pytest.raises(ValueError, match='keys'): solve(lambda z: {'a': z['a']}, {'a': torch.zeros(1, 1), 'b': torch.zeros(1, 1)})

def test_injections_without_a_batch():
    x, s = torch.tensor([[0.]*4, [1.]*4]), torch.tensor([.1, .3, .5, .7])
    f = lambda z, x, s: s*z + x
    with pytest.raises(ValueError, match='close over'): solve(f, torch.zeros(2, 4), args=(x, s))
    want = 1/(1 - s)
    for shared in (s[None], torch.tensor(.5)):                       # a first dimension of 1, or none: for all samples
        sol = solve(f, torch.zeros(2, 4), args=(x, shared), tol=1e-6)
        assert torch.allclose(sol.z[1], want if shared.dim() else torch.tensor(2.), rtol=1e-4)
    with pytest.raises(TypeError, match=r'args=\(x,\)'): solve(lambda z, x: .5*z + x, torch.zeros(2, 4), args=x)
    with pytest.raises(TypeError, match=r'args=\(x,\)'): fixed_point(lambda z, x: .5*z + x, torch.zeros(2, 4), args=x)

def test_threads():
    "Forward mode is not thread-safe in torch: Newton's methods in eight threads at once."
    W = .3*torch.randn(5, 5, dtype=torch.float64)
    def one(seed):
        x = torch.randn(3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        solver = Newton() if seed % 2 else NewtonKrylov()
        sol = solve(lambda z: torch.tanh(z @ W + x), torch.zeros_like(x), solver, tol=1e-10, on_failure='raise')
        return (torch.tanh(sol.z @ W + x) - sol.z).norm().item()
    with ThreadPoolExecutor(8) as pool: assert max(pool.map(one, range(48))) < 1e-8

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('solver', [Newton(), NewtonKrylov()], ids=str)
def test_newton_in_half_precision(dtype, solver):
    W, x = (.2*torch.randn(4, 4)).to(dtype), torch.randn(3, 4).to(dtype)
    sol = solve(lambda z: torch.tanh(z @ W + x), torch.zeros_like(x), solver, tol=2e-2)
    assert sol.converged.all() and sol.z.dtype == dtype

def test_autocast_keeps_no_weights_without_a_graph():
    "Below torch 2.11 a weight converted under no_grad would be handed to the evaluation that needs its gradient."
    seen = set()
    def f(z):
        seen.add((torch.is_grad_enabled(), torch.is_autocast_cache_enabled()))
        return torch.tanh(z @ W)
    W = (.1*torch.randn(4, 4)).requires_grad_()
    with torch.autocast('cpu', torch.bfloat16): z = fixed_point(f, torch.ones(2, 4), tol=1e-2)
    assert seen == {(False, False), (True, True)} and z.requires_grad

def test_the_warning_points_at_the_users_line():
    with pytest.warns(ConvergenceWarning) as seen: solve(lambda z: 1.1*z + 1, torch.zeros(1, 1), Picard(), max_iter=3)
    assert seen[0].filename == __file__

def test_mixing_now_and_then_loses_nothing_to_mixing_each():
    "A symmetric Jacobian, ρ = 0.9: fewer evaluations with a short memory; nowhere more than plain iteration needs."
    g = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(96, 96, generator=g, dtype=torch.float64))[0]
    W, x = Q*(1.8*torch.rand(96, generator=g, dtype=torch.float64) - .9) @ Q.T, .1*torch.randn(8, 96, generator=g, dtype=torch.float64)
    def needed(solver, M): return solve(lambda z: torch.tanh(z @ M + x), torch.zeros_like(x), solver, tol=1e-6, max_iter=300).n_eval
    assert needed(Anderson(memory=4), W) < needed(Anderson(memory=4, every=1, gain=0.), W) < needed(Picard(), W)
    for M in (.3*Q, .9*Q): assert needed(Anderson(), M) <= needed(Picard(), M)

def test_hardly_any_small_system_where_mixing_does_not_pay():
    "An orthogonal Jacobian, and samples that are done while one is not: who waits, waits together."
    g = torch.Generator().manual_seed(0)
    Q, x = torch.linalg.qr(torch.randn(256, 256, generator=g))[0], .1*torch.randn(32, 256, generator=g)
    rates = torch.full((32, 1), .1)
    rates[0] = .97
    for rate, tol in ((.9, 1e-5), (rates, 1e-4)):
        with mock.patch.object(Anderson, 'weights', autospec=True, side_effect=Anderson.weights) as weights:
            sol = solve(lambda z: rate*torch.tanh(z @ Q) + x, torch.zeros_like(x), tol=tol, max_iter=300)
        assert sol.converged.all() and sol.n_eval > 60 and weights.call_count < sol.n_eval/8

@pytest.mark.parametrize('damping', (1., .5))
@pytest.mark.parametrize('every', (1, 2, 5, 9))
def test_the_ring_holds_the_last_differences(every, damping):
    "However seldom samples are mixed, and whatever is not recorded between: Anderson by the book, from all residuals."
    g = torch.Generator().manual_seed(0)
    W, x = torch.randn(20, 20, generator=g, dtype=torch.float64)/12, torch.randn(1, 20, generator=g, dtype=torch.float64)
    solver = Anderson(3, damping, ridge=0., every=every, gain=0.)
    points = []
    def f(z): points.append(z); return torch.tanh(z @ W + x)
    solve(f, torch.zeros_like(x), solver, tol=0., max_iter=20, on_failure='ignore')
    values = [f(z) for z in points[:20]]
    residuals = [v - p for v, p in zip(values, points)]
    for i in range(1, 19):
        z, r = points[i] + damping*residuals[i], residuals[i]
        if (i + 1) % every == 0:
            R, F = (torch.cat(t[max(0, i-3):i+1]).diff(dim=0) for t in (residuals, values))
            gamma = torch.linalg.lstsq(R.T, r.T).solution.T
            z = values[i] - gamma @ F - (1 - damping)*(r - gamma @ R)
        torch.testing.assert_close(points[i+1], z, rtol=1e-6, atol=1e-9)

@pytest.mark.parametrize('dtype', (torch.float64, torch.float32, torch.bfloat16), ids=str)
def test_root_asks_for_no_more_than_the_precision_gives(dtype):
    g = torch.Generator().manual_seed(0)
    W, b = (torch.randn(n, 8, generator=g, dtype=torch.float64).to(dtype) for n in (8, 40))
    sol = root(lambda z: z + .2*torch.tanh(z @ W) - b, torch.full((40, 8), 3., dtype=dtype), on_failure='raise')
    assert sol.converged.all() and (dtype != torch.float64 or sol.residual.max() <= 1e-8)

# --- what mutants showed that nobody noticed

@pytest.mark.parametrize('solver', [Anderson(), Anderson(every=5, gain=0.), Anderson(every=1, gain=5.)], ids=str)
def test_anderson_looks_where_a_mixture_is_due_and_nowhere_else(solver):
    "The next look is ahead, and at a multiple of the shortest pace."
    f, x = problem(5)
    z = torch.zeros_like(x)
    state = solver.init(Point(z, f(z, x), f(z, x) - z))
    for _ in range(30):
        fz = f(z, x)
        z, state = solver.step(None, Point(z, fz, fz - z), state)
        shortest = int(state.pace.min())
        assert state.count < state.soonest <= state.count + max(2, shortest)
        assert state.soonest % shortest == 0 or state.soonest == 2

def test_root_steps_by_z_plus_g():
    "Solvers made for z = f(z) see f(z) = z + g(z): Picard's iteration of z = cos z finds the root of cos z − z."
    sol = root(lambda z: torch.cos(z) - z, torch.zeros(1, 1, dtype=torch.float64), Picard(), tol=1e-9)
    assert sol.converged and abs(sol.z.item() - .7390851332) < 1e-8

def test_wrong_options_of_a_solve():
    for wrong, kind in ((dict(max_iter=2.5), TypeError), (dict(max_iter=0), ValueError), (dict(tol=-1.), ValueError),
                        (dict(atol=-1.), ValueError), (dict(on_failure='maybe'), ValueError), (dict(solver=Anderson), TypeError)):
        with pytest.raises(kind, match=next(iter(wrong))): Solve(**wrong)

def test_a_singular_update_of_broyden_is_picards_step():
    "Two residuals that are equal tell nothing of the Jacobian."
    points = []
    def f(z): points.append(z.item()); return z + 1
    solve(f, torch.zeros(1, 1, dtype=torch.float64), Broyden(), max_iter=3, on_failure='ignore')
    assert points == [0., 1., 2.]

def test_newton_steps_nowhere_where_it_knows_nothing():
    r = torch.tensor([[torch.inf, 0.], [-torch.inf, 1.], [torch.nan, 1.], [1., 2.]])
    J = torch.eye(2).repeat(4, 1, 1)
    J[3] = torch.nan
    assert (newton_step(J, r) == 0).all()
    for far in (torch.inf, -torch.inf): assert newton_step(torch.ones(1, 1, 1), torch.tensor([[far]])) == 0
    assert torch.equal(newton_step(2*torch.eye(2)[None], torch.tensor([[1., 2.]])), torch.tensor([[-.5, -1.]]))

@pytest.mark.parametrize('radius', (1e-6, .1, 1., 10.))
def test_the_dogleg_ends_at_the_edge_of_its_region_or_at_the_newton_step(radius):
    g = torch.Generator().manual_seed(0)
    J, r, d = (torch.randn(60, *s, generator=g, dtype=torch.float64) for s in ((4, 4), (4,), (4,)))
    d = .5 + d.abs()
    newton = newton_step(J, r)
    p = dogleg(J, r, newton, d, torch.full((60,), radius, dtype=torch.float64))
    inside = (d*newton).norm(dim=1) <= radius
    torch.testing.assert_close(p[inside], (d*newton)[inside])
    torch.testing.assert_close(p[~inside].norm(dim=1), torch.full_like(p[~inside, 0], radius))
    assert ((r + (J @ (p/d)[..., None])[..., 0]).norm(dim=1) < r.norm(dim=1)).all()     # downhill, by the linear model
    steepest = -(J.mT @ r[..., None])[..., 0]/d
    if radius == 1e-6: torch.testing.assert_close(p/radius, steepest/steepest.norm(dim=1, keepdim=True))
    change = (J @ (steepest/d)[..., None])[..., 0]              # and it bends where steepest descent is lowest
    lowest = steepest*(-(change*r).sum(1)/(change**2).sum(1))[:, None]
    torch.testing.assert_close(dogleg(J, r, newton, d, lowest.norm(dim=1)), lowest)

def test_newton_measures_coordinates_by_the_columns_of_the_jacobian():
    A = torch.tensor([[1., 10.], [0., 2.]])
    g = Residual(lambda z, args: (z + z @ A.T, z @ A.T), Injections((), 1))
    at = g.point(torch.ones(1, 2))
    _, state = Newton().step(g, at, Newton().init(at))
    torch.testing.assert_close(state.scale[0], A.norm(dim=0))

def test_root_names_a_start_that_is_none():
    with pytest.raises(TypeError, match='a state is a tensor'): root(lambda z: z, (torch.zeros(1, 1), 3))
    with pytest.raises(TypeError, match='floating'): root(lambda z: z, torch.zeros(1, 1, dtype=torch.long))

@pytest.mark.parametrize('bad', [torch.inf, torch.nan])
def test_a_sample_without_a_start_leaves_at_once(bad):
    "‖r‖ of the start is what divergence is measured by: an infinite one must not excuse the next."
    x = torch.tensor([[1.], [bad]])
    solution = solve(lambda z: .5*z + x, torch.zeros(2, 1), Picard(), on_failure='ignore')
    assert solution.iterations.tolist()[1] == 1 and solution.status[1] == int(Status.NONFINITE)

def test_who_is_done_leaves_the_batch():
    "Ten samples, nine done at once: f is asked about one from then on, if its injections are given; not if all share them."
    x = torch.zeros(10, 1)
    x[0] = 1.
    def run(x, args):
        seen = []
        def f(z, *given):
            seen.append(len(z))
            return .9*torch.tanh(z) + (given or (x,))[0]
        assert solve(f, torch.zeros(10, 1), Picard(), tol=1e-6, max_iter=300, args=args).converged.all()
        return seen
    assert run(x, (x,))[-1] == 1 and set(run(x, ())) == set(run(x[:1], (x[:1],))) == {10}

def test_an_error_of_f_is_its_own_until_samples_have_left():
    x = torch.tensor([[0.], [0.], [1.]])
    with pytest.raises((RuntimeError, TypeError)) as own: solve(lambda z, x: z + torch.zeros(7), torch.zeros(3, 2), Picard(), args=(x,))
    assert 'once samples that are done have left' not in str(own.value)
    def closes(z, given): return .9*torch.tanh(z) + given + 0*x
    with pytest.raises(ValueError, match='once samples that are done have left .* Pass that in args'):
        solve(lambda z, given: (closes(z, given) if len(z) == 3 else z + torch.zeros(2, 5)), torch.zeros(3, 1), Picard(), args=(x,))

def test_the_bounds_include_themselves():
    "z = z/2 + 1 from 0: ‖r‖ is 1, 1/2, 1/4, … exactly; f = 2 at z = 1: a relative residual of 1/2."
    for n in (1, 3, 8):
        sol = solve(lambda z: .5*z + 1, torch.zeros(2, 1), Picard(), tol=0., atol=.5**(n - 1))
        assert sol.converged.all() and (sol.iterations == n).all()
    sol = solve(lambda z: 0*z + 2, torch.ones(1, 1), Picard(), tol=.5)
    assert sol.converged.all() and sol.iterations == 1
