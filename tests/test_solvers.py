"""Properties of the solvers over random problems: the promises of `Solution` and of fairness between samples."""
import pickle
import pytest, torch
from hypothesis import given, settings, strategies as st
from deq_irnn.fixed_point import ConvergenceError, ConvergenceWarning, Status, relative_residual
from deq_irnn.solvers import Anderson, Picard, solve

SOLVERS = [Picard(), Picard(damping=.6), Anderson(), Anderson(memory=2, damping=.7)]

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
    for wrong in (dict(memory=0), dict(damping=0), dict(damping=1.5), dict(ridge=-1.)):
        with pytest.raises(ValueError, match=next(iter(wrong))): Anderson(**wrong)
    with pytest.raises(TypeError): Anderson(memroy=3)

def test_an_empty_batch():
    sol = solve(torch.cos, torch.zeros(0, 3))
    assert sol.z.shape == (0, 3) and sol.converged.shape == (0,)
