"The monotone recurrence's promise: an equilibrium within max_iter for weights far beyond those that it starts with, and beyond that the truth."
import warnings
import pytest, torch
from deq_irnn import ConvergenceWarning, RootIRNN
from deq_irnn.irnn import activation
from deq_irnn.solvers import Solve
from deq_irnn.tokens import Tiles, solve_tokens, token_equilibrium

def scaled(scale, phi, D=32, **options):
    "A network whose recurrent weights are `scale` times those it starts with."
    torch.manual_seed(0)
    rnn = RootIRNN(4, D, nonlinearity=phi, recurrence='monotone', **options)
    with torch.no_grad():
        for weight in rnn.cells[0].injection.recurrence.parameters(): weight.mul_(scale)
    return rnn

@pytest.mark.parametrize('phi', ('tanh', 'relu', 'sigmoid'))
@pytest.mark.parametrize('scale', (1, 3, 10))
def test_weights_up_to_ten_times_the_start_converge(scale, phi):
    "Forward and adjoint, with the defaults; the reflected iteration alone needs 126 to 2900 iterations from three times on."
    rnn, x = scaled(scale, phi), torch.randn(40, 5, 4, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter('error', ConvergenceWarning)
        rnn.float()(x)[0].square().sum().backward()
    assert rnn.last[0].solution.converged.all() and all(p.grad.isfinite().all() for p in rnn.parameters())

@pytest.mark.parametrize('phi', ('tanh', 'relu'))
def test_newton_finds_what_the_iteration_finds(phi):
    "Weights three times the start: the same equilibria and gradients as by a thousand iterations, and as by the dense formula."
    U, phi = scaled(3, phi).cells[0].injection.recurrence().detach().double(), activation(phi)
    p, g, found = torch.randn(50, 32, dtype=torch.float64), torch.randn(50, 32, dtype=torch.float64), []
    for tiles, most in ((Tiles(), 100), (Tiles(newton=0), 2000)):
        q = p.clone().requires_grad_()
        s, sol = token_equilibrium(q, U, phi, None, Solve(tol=1e-11, max_iter=most), tiles)
        assert sol.converged.all()
        found.append((s.detach(), *torch.autograd.grad(s, q, g)))
    for a, b in zip(*found): torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)
    slope = phi.derivative(found[0][0])
    exact = slope*torch.linalg.solve((torch.eye(32, dtype=torch.float64) - slope[:, :, None]*U[0]).mT, g)
    torch.testing.assert_close(found[0][1], exact, rtol=1e-7, atol=1e-8)

@pytest.mark.parametrize('phi', ('tanh', 'relu'))
@pytest.mark.parametrize('scale, most', ((10, 10), (1000, 100)))
def test_beyond_that_a_finite_residual_and_a_warning(scale, most, phi):
    U, p = scaled(scale, phi).cells[0].injection.recurrence().detach().float(), torch.randn(200, 32, dtype=torch.float32)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always', ConvergenceWarning)
        sol = solve_tokens(p, U, activation(phi), None, Solve(tol=1e-3, max_iter=most))
    assert sol.residual.isfinite().all() and sol.z.isfinite().all() and (sol.iterations <= most).all()
    assert bool(told) == (not sol.converged.all()) and (scale > 10 or told)

def test_a_token_takes_its_own_newton_steps():
    U, p = scaled(5, 'tanh').cells[0].injection.recurrence().detach().double(), torch.randn(60, 32, dtype=torch.float64)
    p[:20] *= 1e-3
    how = Solve(tol=1e-8)
    together = solve_tokens(p, U, activation('tanh'), None, how)
    for i in (0, 19, 20, 59):
        alone = solve_tokens(p[i:i+1], U, activation('tanh'), None, how)
        assert alone.iterations == together.iterations[i]
        torch.testing.assert_close(alone.z[0], together.z[i], atol=1e-10, rtol=0)
