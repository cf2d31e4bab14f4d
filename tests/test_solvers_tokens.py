"The monotone recurrence's promise: an equilibrium within max_iter for weights far beyond those that it starts with, and beyond that the truth."
import warnings
import pytest, torch
from deq_irnn import ConvergenceWarning, RootIRNN
from deq_irnn.irnn import activation
from deq_irnn.solvers import Solve
from deq_irnn.tokens import Tiles, solve_tokens, token_equilibrium
from deq_irnn.wellposed import monotone

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
    "Forward and adjoint, with the defaults; the reflected iteration alone, without jumps, needs 126 to 2900 iterations from three times on."
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

@pytest.mark.parametrize('D', (16, 64))
@pytest.mark.parametrize('skew', (10, 100, 1000))
def test_what_is_told_is_not_below_the_truth(skew, D):
    "In float32 and with ‖U‖ up to thousands, rounding in the reflected equation hides more than a step changes."
    torch.manual_seed(0)
    U, p = monotone(torch.randn(D, D), skew*torch.randn(D, D)/D**.5, .95).float(), torch.randn(300, D).float()
    for tol in (1e-2, 1e-3, 1e-4):
        sol = solve_tokens(p, U[None], activation('tanh'), None, Solve(tol=tol, on_failure='ignore'), Tiles(newton=0))
        z = sol.z.double()
        fz = torch.tanh(z @ U.double().T + p.double())
        gap = (fz - z).norm(dim=1)/torch.maximum(fz.norm(dim=1), z.norm(dim=1))
        assert sol.converged.all() and (gap <= 1.01*tol).all() and (sol.residual <= tol).all()

def test_jumps_save_iterations_where_one_direction_is_slow():
    "A symmetric U with an eigenvalue of .999: plain steps contract by .998 there, and would be thousands."
    torch.manual_seed(0)
    A = torch.randn(32, 32, dtype=torch.float64)
    U = .999*(A + A.T)/torch.linalg.matrix_norm(A + A.T, 2)
    p = .01*torch.randn(100, 32, dtype=torch.float64)
    sol = solve_tokens(p, U[None], activation('tanh'), None, Solve(tol=1e-8, max_iter=1000), Tiles(newton=0))
    assert sol.converged.all() and sol.iterations.max() < 200
    torch.testing.assert_close(sol.z, torch.tanh(sol.z @ U.T + p), rtol=0, atol=1e-8)

@pytest.mark.parametrize('phi', ('tanh', 'relu'))
def test_a_jump_that_always_misses_does_no_harm(monkeypatch, phi):
    "A jump is taken only where the change has fallen since the last one; without that condition, the control, most tokens never rest."
    torch.manual_seed(0)
    U = .5*torch.nn.init.orthogonal_(torch.empty(1, 8, 8, dtype=torch.float64))
    p, how, taken = torch.randn(30, 8, dtype=torch.float64), Solve(tol=1e-6, max_iter=1000, on_failure='ignore'), []
    right = solve_tokens(p, U, activation(phi), None, how)
    def astray(always):
        def jump(w, d, before, size, was, jumps):
            taken.append(int(jumps.sum()))
            return w + 3.*(jumps | always)[:, None]
        return jump
    monkeypatch.setattr('deq_irnn.tokens._ahead', astray(False))
    sol = solve_tokens(p, U, activation(phi), None, how, Tiles(newton=0))
    assert sol.converged.all() and sol.iterations.max() < 50 and sum(taken) >= 30
    torch.testing.assert_close(sol.z, right.z, rtol=0, atol=1e-5)
    monkeypatch.setattr('deq_irnn.tokens._ahead', astray(True))
    assert solve_tokens(p, U, activation(phi), None, how, Tiles(newton=0)).converged.float().mean() < .5
