"Chapter 03: the guarantees after large learning rates, against dense linear algebra; the peer's defects of PEERS.md."
import copy, io, math, pickle, warnings
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch import nn
import torch.nn.functional as F
from deq_irnn import ConvergenceWarning, fixed_point, solve
from deq_irnn.solvers import Anderson, Picard
from deq_irnn.wellposed import (Contractive, MonotoneConv, MonotoneLayer, contraction_factor, contractive, conv_norm,
                                forward_backward_step, jacobian_penalty, make_contractive, monotone, reflect,
                                ritz_values, spectral_abscissa, spectral_radius)

@pytest.fixture(autouse=True)
def double(): torch.set_default_dtype(torch.float64)

def matrix(f, *shape):
    "The linear map `f` on tensors of `shape` as a matrix."
    eye = torch.eye(math.prod(shape)).view(-1, *shape)
    return f(eye).flatten(1).T

@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 3, 5]), st.integers(5, 8), st.integers(5, 8), st.floats(-6, 6), st.integers(0, 1000))
def test_conv_norm_is_exact_or_a_close_bound(o, i, k, H, W, scale, seed):
    K = torch.randn(o, i, k, k, generator=torch.Generator().manual_seed(seed))*10**scale
    for padding, slack in (('circular', 1 + 1e-9), ('zeros', 1.6)):
        mode = 'circular' if padding == 'circular' and k > 1 else 'constant'
        A = matrix(lambda x: F.conv2d(F.pad(x, [k//2]*4, mode=mode), K), i, H, W)
        true, bound = torch.linalg.matrix_norm(A, 2), conv_norm(K, (H, W), padding)
        assert true <= bound*(1 + 1e-9) and bound <= true*slack

@pytest.mark.parametrize('kind', ('linear', 'conv', 'circular'))
def test_the_bound_survives_any_training(kind):
    "Random weights, learning rates up to 1e4: the bound holds, every sample converges. (The peer: a 3×3 convolution 'normalised' to 0.9 has norm 1.40, and its scale is learnable.)"
    for seed, lr in enumerate((1., 100., 1e4)):
        torch.manual_seed(seed)
        if kind == 'linear': layer, x = make_contractive(nn.Linear(12, 12), .9), torch.randn(8, 12)
        else:
            conv = nn.Conv2d(2, 2, 3, padding=1, padding_mode='zeros' if kind == 'conv' else 'circular')
            layer, x = make_contractive(conv, .9, (6, 6)), torch.randn(8, 2, 6, 6)
        optimizer = torch.optim.SGD(layer.parameters(), lr)
        with warnings.catch_warnings():
            warnings.simplefilter('error', ConvergenceWarning)
            for _ in range(4):
                z = fixed_point(lambda z: torch.tanh(layer(z) + x), torch.zeros_like(x), tol=1e-8, max_iter=400)
                optimizer.zero_grad(); z.square().sum().neg().backward(); optimizer.step()
                A = matrix(lambda x: layer(x) - layer(torch.zeros_like(x)), *x.shape[1:])
                assert torch.linalg.matrix_norm(A, 2) <= .9*(1 + 1e-9)

def test_a_weight_of_zeros_has_a_gradient():
    "Zero initialisation, pruning: within the bound the map is the identity, so its derivative is one."
    V = torch.zeros(2, 4, 4, requires_grad=True)
    contractive(V, .9).sum().backward()
    assert torch.equal(V.grad, torch.ones_like(V))
    for padding in ('zeros', 'circular'):
        conv = make_contractive(nn.Conv2d(2, 2, 3, padding=1, padding_mode=padding), .9, (5, 5))
        free = conv.parametrizations.weight.original
        with torch.no_grad(): free.zero_()
        conv(torch.ones(1, 2, 5, 5)).sum().backward()
        assert free.grad.isfinite().all() and free.grad.abs().min() > 0

@pytest.mark.parametrize('bad', (torch.nan, torch.inf, -torch.inf))
def test_weights_that_are_not_finite_say_so(bad):
    W, K = torch.eye(4), torch.ones(2, 2, 3, 3)
    W[1, 2] = K[0, 0, 0, 0] = bad
    linear = make_contractive(nn.Linear(4, 4))
    with torch.no_grad(): linear.parametrizations.weight.original[0, 0] = bad
    for call in (lambda: contractive(W, .9), lambda: conv_norm(K, (5, 5)), lambda: Contractive(.9, (5, 5))(K),
                 lambda: forward_backward_step(W), lambda: linear(torch.zeros(1, 4))):
        with pytest.raises(ValueError, match='finite'): call()
    if bad != bad: return
    with pytest.raises(ValueError, match='finite'): reflect(W + torch.diag(torch.tensor([2., 0, 0, 0])))

def test_the_guarantee_is_not_rounded_under_autocast():
    torch.set_default_dtype(torch.float32)
    for seed in range(5):
        A, B = 3*torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(seed))
        with torch.autocast('cpu', torch.bfloat16):
            U = monotone(A, B, .9)
            V, C = reflect(U)
        assert torch.linalg.eigvalsh((U + U.T).double()/2).max() <= .9 + 1e-4
        assert C.dtype == torch.float32 and torch.linalg.matrix_norm(C.double(), 2) < 1 + 1e-5

def test_circular_borders_must_keep_the_size():
    "With two rows seen twice the norm is above the bound."
    with pytest.raises(ValueError, match='keeps'):
        make_contractive(nn.Conv2d(2, 2, 3, padding=2, padding_mode='circular'), .9, (6, 6))
    make_contractive(nn.Conv2d(2, 2, 3, padding='same', padding_mode='circular'), .9, (6, 6))

def test_contractive_layers_are_ordinary_modules():
    "state_dict, deepcopy, pickle of the state and torch.save: the peer raises."
    layer, x = make_contractive(nn.Linear(4, 4), .5), torch.randn(3, 4)
    twin = copy.deepcopy(layer)
    assert torch.equal(twin(x), layer(x))
    buffer = io.BytesIO(); torch.save(layer.state_dict(), buffer); buffer.seek(0)
    other = make_contractive(nn.Linear(4, 4), .5); other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other(x), layer(x))
    assert pickle.loads(pickle.dumps(Contractive(.5))).bound == .5

@pytest.mark.parametrize('scale', (.1, 1., 10.))
def test_monotone_has_one_equilibrium(scale):
    U = monotone(scale*torch.randn(12, 12), scale*torch.randn(12, 12), .9)
    assert torch.linalg.eigvalsh((U + U.T)/2).max() <= .9 + 1e-9*scale**2
    V, C = reflect(U)
    assert torch.linalg.matrix_norm(C, 2) < 1
    p = torch.randn(12)
    if scale <= 1:
        ends = []
        for w in 100*torch.randn(10, 1, 12):
            for _ in range(4000): u = w @ C + p @ V; w = 2*torch.relu(u) - u
            ends.append(torch.relu(w @ C + p @ V))
        ends = torch.cat(ends)
        assert (ends - ends[0]).abs().max() < 1e-7 and (torch.relu(ends @ U.T + p) - ends).abs().max() < 1e-7

def test_reflection_contracts_exactly_when_the_symmetric_part_is_below_one():
    for top in (.5, .99, 1.01, 1.5):
        S = torch.randn(8, 8)
        S = (S + S.T)/2
        S = S + (top - torch.linalg.eigvalsh(S).max())*torch.eye(8)
        B = 3*torch.randn(8, 8)
        assert (torch.linalg.matrix_norm(reflect(S + B - B.T)[1], 2) < 1) == (top < 1)

def test_forward_backward_converges_at_its_step():
    for _ in range(5):
        U, p, s = monotone(torch.randn(10, 10)/4, torch.randn(10, 10), .8), torch.randn(10), torch.zeros(10)
        alpha = forward_backward_step(U)
        for _ in range(12000): s = torch.relu((1 - alpha)*s + alpha*(U @ s + p))
        assert (torch.relu(U @ s + p) - s).norm() < 1e-6

def test_forward_backward_step_is_within_a_factor_two_of_the_largest():
    m, k = .3, 4.                                           # |1 − α(m + ik)| < 1 exactly when α < 2m/(m² + k²)
    U = torch.tensor([[1 - m, -k], [k, 1 - m]])
    alpha, largest = float(forward_backward_step(U)), 2*m/(m**2 + k**2)
    assert largest/2.001 < alpha < largest

MONOTONE = {'layer': (lambda **o: MonotoneLayer(3, 6, torch.tanh, **o), (2, 3)),
            'conv': (lambda **o: MonotoneConv(2, (5, 5), **o), (2, 2, 5, 5))}

@pytest.mark.parametrize('kind', MONOTONE)
def test_monotone_layers(kind):
    make, shape = MONOTONE[kind]
    layer, x = make(tol=1e-12), torch.randn(shape, requires_grad=True)
    names, params = zip(*layer.named_parameters())
    def f(x, *p): return torch.func.functional_call(layer, dict(zip(names, p)), (x,))
    assert torch.autograd.gradcheck(f, (x, *params), fast_mode=True)
    torch.testing.assert_close(copy.deepcopy(layer)(x), layer(x))
    assert layer.solution.converged.all()

@pytest.mark.parametrize('kind', MONOTONE)
def test_monotone_layers_are_ordinary_modules(kind):
    make, shape = MONOTONE[kind]
    layer, x = make(solver=Picard(), on_failure='raise', max_iter=500), torch.randn(shape)
    with pytest.raises(RuntimeError, match='call the layer first'): layer.solution
    assert (layer.how.solver, layer.how.on_failure, layer.how.max_iter) == (Picard(), 'raise', 500)
    def size():
        torch.save(layer, buffer := io.BytesIO())
        return buffer.tell()
    before = size()
    z = layer(x)
    assert size() == before and torch.equal(copy.deepcopy(layer)(x), z)
    torch.manual_seed(3); first = layer.A.clone()
    layer.reset_parameters()
    assert not torch.equal(layer.A, first) and layer(x).isfinite().all()
    layer = make(tol=0., atol=1e-3)
    layer(x)
    assert layer.solution.converged.all() and layer.solution.residual.max() > 1e-8        # met by atol
    for wrong in (dict(max_iter=0), dict(on_failure=''), dict(tol=-1), dict(atol=-1)):
        with pytest.raises(ValueError, match=next(iter(wrong))): make(**wrong)
    with pytest.raises(TypeError, match='solver'): make(solver=Anderson)
    with pytest.raises(ValueError, match='shape'): layer(torch.randn(shape)[0, 0])

def test_spectral_radius_of_complex_pairs():
    "The peer's power iteration answers 0.054 in the median where 0.95 is true."
    got = []
    for seed in range(10):
        torch.manual_seed(seed)
        t = 3*torch.rand(())
        turn = torch.stack((torch.stack((t.cos(), -t.sin())), torch.stack((t.sin(), t.cos()))))
        A = torch.block_diag(.95*turn, .72*torch.randn(30, 30)/30**.5)
        S = torch.linalg.qr(torch.randn(32, 32))[0]
        found = spectral_radius(lambda z: z @ (S @ A @ S.T).T, torch.zeros(2, 32))[0]
        got.append(found - torch.linalg.eigvals(A).abs().max())
    assert torch.stack(got).abs().max() < 1e-3

def test_ritz_values_are_exact_in_full_and_per_sample():
    A = torch.randn(3, 6, 6)
    def f(z):
        whole = torch.einsum('bij,bj->bi', A, torch.cat((z['a'], z['b']), 1))
        return {'a': whole[:, :4], 'b': whole[:, 4:]}
    z = {'a': torch.randn(3, 4), 'b': torch.randn(3, 2)}
    true = torch.linalg.eigvals(A)
    torch.testing.assert_close(spectral_radius(f, z), true.abs().amax(1))
    torch.testing.assert_close(spectral_abscissa(f, z), true.real.amax(1))
    torch.testing.assert_close(ritz_values(f, z).abs().sort(1)[0], true.abs().sort(1)[0])

def test_a_broken_sample_does_not_hide_the_others_spectra():
    z = torch.tensor([[1., 2.], [torch.nan, 1.], [0., 1.]])
    radius = spectral_radius(lambda z: .5*z**2, z)
    torch.testing.assert_close(radius[[0, 2]], torch.tensor([2., 1.]))
    assert radius[1].isnan()

def test_jacobian_penalty_of_a_constant_is_zero():
    assert jacobian_penalty(lambda z: torch.ones(2, 3), torch.zeros(2, 3)).item() == 0

def test_jacobian_penalty_is_a_mean_and_differentiable():
    W = torch.randn(5, 5, requires_grad=True)
    exact = W.square().sum()/5
    estimate = jacobian_penalty(lambda z: z @ W.T, torch.randn(4, 5), samples=4000)
    assert abs(estimate/exact - 1) < .1
    torch.testing.assert_close(torch.autograd.grad(estimate, W)[0], 2*W/5, atol=.3, rtol=.2)

def test_contraction_factor():
    sol = solve(lambda z: .6*z + 1, torch.zeros(3, 2), Picard(), tol=1e-12, max_iter=200, trace=True)
    torch.testing.assert_close(contraction_factor(sol), torch.full((3,), .6), atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match='trace'): contraction_factor(solve(lambda z: .5*z, torch.ones(1, 2)))

def test_wrong_arguments_name_themselves():
    for call, name in ((lambda: make_contractive(nn.Conv2d(3, 3, 3, groups=3), .9, (8, 8)), 'layer'),
                       (lambda: Contractive(0.), 'bound'), (lambda: MonotoneLayer(0, 3), 'in_features'),
                       (lambda: MonotoneConv(2, (4, 4), 2), 'kernel_size'),
                       (lambda: conv_norm(torch.randn(1, 1, 5, 5), (4, 4)), 'size'),
                       (lambda: conv_norm(torch.randn(1, 1, 3, 3), (4, 4), 'reflect'), 'padding'),
                       (lambda: jacobian_penalty(lambda z: z, torch.ones(1, 2), 0), 'samples')):
        with pytest.raises(ValueError, match=name): call()
    with pytest.raises(TypeError, match='layer'): make_contractive(nn.ReLU())
    with pytest.raises(TypeError, match='nonlinearity'): MonotoneConv(2, (4, 4), nonlinearity='relu')

def test_conv_norm_of_a_kernel_as_large_as_the_picture_is_a_bound():
    "With zeros around: a border of one row instead of k − 1 would be too small for some of these."
    torch.manual_seed(0)
    for _ in range(300):
        K = torch.randn(1, 1, 5, 5, dtype=torch.float64)*(torch.rand(5, 5) < .4)
        A = F.conv2d(torch.eye(25, dtype=torch.float64).view(25, 1, 5, 5), K, padding=2).flatten(1)
        assert torch.linalg.matrix_norm(A, 2) <= conv_norm(K, (5, 5)) + 1e-12

def test_forward_backward_step_by_hand():
    "U = diag(½, −3, −3): m = ½, L = 4."
    U = torch.diag(torch.tensor([.5, -3, -3]))
    torch.testing.assert_close(forward_backward_step(U), torch.tensor(.5/16))
    turn = torch.tensor([[0., 2, 0], [-2, 0, 0], [0, 0, 0]])            # a skew part changes L alone
    L = torch.linalg.matrix_norm(torch.eye(3) - U - turn, 2)
    torch.testing.assert_close(forward_backward_step(U + turn), .5/L**2)
