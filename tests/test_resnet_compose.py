"Chapter 11: the ways to compose, each against its own definition; folds, leapfrog, the carousel, the control."
import copy, math
import pytest, torch
import torch.nn.functional as F
from deq_irnn.resnet import (
    COMPOSITIONS, ConvBlock, DenseBlock, DepthFold, DepthInjection, DepthTransition, IncrementalResNet,
    TwoLayerResNet, composed, depth_jacobian)

EXACT = dict(tol=1e-13, max_iter=2000)
BLOCKS = pytest.mark.parametrize('block, shape', (('dense', (6,)), ('conv', (6, 3, 4))), ids=('dense', 'conv'))


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)

def state_jacobian(net, x, h): return depth_jacobian(lambda h: net(x.expand(len(h), *x.shape), h), h)

def affine(K, z):
    "K z of one layer, by torch's own functions."
    return z @ K.T if K.dim() == 2 else F.conv2d(z, K, padding=K.shape[-1]//2)

def shifted(b, z): return b.view(1, -1, *[1]*(z.dim() - 2))

def maxmin(h):
    a, b = h.chunk(2, 1)
    return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], 1)


@BLOCKS
def test_the_fold_as_it_is_written(block, shape):
    "h ← MaxMin(Q h) + κ s_l(x), the s_l from a network that collapses."
    net, h = composed('fold', 6, 5, block=block, **EXACT), torch.randn(2, *shape)
    x = torch.randn(2, *shape)
    collapse = composed('collapse', 6, 5, block=block, transition='plus', **EXACT)
    collapse.load_state_dict({k: v for k, v in net.state_dict().items() if k != 'transition.skew'})
    s = collapse.layers(x, 0*x).diff(dim=0, prepend=0*x[None])            # κ s_l
    states = net.layers(x, h)
    for l in range(5):
        A = net.transition.skew[l]
        Q = torch.matrix_exp(A - A.T)
        assert torch.allclose(Q @ Q.T, torch.eye(6))
        h = maxmin(torch.einsum('ij,bj...->bi...', Q, moved(h))) + s[l]
        assert torch.allclose(states[l], h, atol=1e-9)
        h = states[l]

def moved(h):
    "Each of the first channels by one place: down, up, right, left, round the border."
    if h.dim() == 2: return h
    h = h.clone()
    for i, (by, dim) in enumerate(((1, 2), (-1, 2), (1, 3), (-1, 3))):    # six channels in eight parts
        h[:, i] = h[:, i].roll(by, dim - 1)
    return h

@BLOCKS
def test_a_fold_is_an_isometry_and_no_linear_map(block, shape):
    net = composed('fold', 6, 40, block=block, **EXACT)
    values = torch.linalg.svdvals(state_jacobian(net, *torch.randn(2, *shape)))
    assert (values - 1).abs().max() < 1e-9
    fold, (a, b) = net.transition, torch.randn(2, 3, *shape)
    assert torch.allclose(fold.turn(0, a).norm(), a.norm())
    assert (fold.turn(0, a + b) - fold.turn(0, a) - fold.turn(0, b)).abs().max() > .1

@BLOCKS
def test_a_fold_scanned_is_a_fold_turned(block, shape):
    fold, b, h = DepthFold(7, 6), torch.randn(7, 2, *shape), torch.randn(2, *shape)
    assert torch.allclose(fold.scan(b, h), DepthTransition.scan(fold, b, h))

def test_trained_folds_stay_isometries():
    net = composed('fold', 6, 16, **EXACT)
    optimizer = torch.optim.SGD(net.parameters(), 10.)
    x, y = torch.randn(2, 20, 6)
    before = net.transition.skew.detach().clone()
    for _ in range(5):
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimizer.step()
    values = torch.linalg.svdvals(state_jacobian(net, *torch.randn(2, 6)))
    assert (values - 1).abs().max() < 1e-9 and (net.transition.skew - before).abs().max() > .01

@BLOCKS
@pytest.mark.parametrize('depth', (1, 2, 9))
@pytest.mark.parametrize('transition', ('plus', 'minus', 'rotation'))
def test_leapfrog_is_symplectic(block, shape, depth, transition):
    "A rotation turns the pairs (q_i, p_i), which is symplectic too."
    net = composed('leapfrog', 6, depth, block=block, transition=transition, **EXACT)
    J = state_jacobian(net, *torch.randn(2, *shape))
    n = len(J)//2
    Omega = torch.zeros(2*n, 2*n)
    Omega[:n, n:], Omega[n:, :n] = torch.eye(n), -torch.eye(n)
    assert torch.allclose(J.T @ Omega @ J, Omega, atol=1e-9)
    assert (J @ J.T - torch.eye(2*n)).abs().max() > 1e-3              # and no isometry

@BLOCKS
def test_leapfrog_as_it_is_written(block, shape):
    "One half is read, Wᵀs moves the other; s solves its equation with a symmetric U."
    net, h = composed('leapfrog', 6, 4, block=block, **EXACT), torch.randn(2, *shape)
    U = net.block.bounded((net.U + net.block.transposed(net.U))/2, net.bound, torch.Size(shape[1:]))
    states = net.layers(torch.zeros_like(h), h)
    for l in range(4):
        q, p = h.chunk(2, 1)
        read = (q, p)[l % 2]
        s = torch.zeros_like(h)
        for _ in range(2000): s = torch.tanh(affine(U[l], s) + affine(net.W[l], read) + shifted(net.bias[l], h))
        dense = net.W[l].dim() == 2
        force = s @ net.W[l] if dense else F.conv_transpose2d(s, net.W[l], padding=1)
        h = torch.cat([q, p + net.scale*force] if l % 2 == 0 else [q - net.scale*force, p], 1)
        assert torch.allclose(states[l], h, atol=1e-8)

@BLOCKS
def test_the_carousel_as_it_is_written(block, shape):
    net, x = composed('carousel', 6, 5, block=block, **EXACT), torch.randn(2, *shape)
    U = net.block.bounded(net.U, net.bound, torch.Size(shape[1:]))
    h, s, states = x, x, net.layers(x)
    for l in range(5):
        p = affine(net.W[l], F.layer_norm(s, shape)) + shifted(net.bias[l], s)
        s = torch.zeros_like(s)
        for _ in range(1500): s = torch.tanh(affine(U[l], s) + p)
        h = h + net.scale*s
        assert torch.allclose(states[l], h, atol=1e-8)

def test_the_carousel_is_an_isometry_in_the_state_alone():
    net, x = composed('carousel', 6, 12, **EXACT), torch.randn(6)
    assert torch.allclose(state_jacobian(net, x, torch.randn(6)), torch.eye(6), atol=1e-12)
    values = torch.linalg.svdvals(depth_jacobian(net, x))
    assert (values - 1).abs().max() > .05

@BLOCKS
@pytest.mark.parametrize('way', [way for way in COMPOSITIONS if way != 'steps'])
def test_the_control_has_two_layers_in_the_place_of_a_root(block, shape, way):
    "The same parameters; with U = 0 the same function."
    rest, two = (composed(way, 6, 3, e, block=block, **EXACT) for e in (True, False))
    assert isinstance(two, TwoLayerResNet)
    assert [p.shape for p in rest.parameters()] == [p.shape for p in two.parameters()]
    two.load_state_dict(rest.state_dict())
    x = torch.randn(2, *shape)
    assert (rest(x) - two(x)).abs().max() > 1e-6
    with torch.no_grad(): rest.U.zero_(), two.U.zero_()
    assert torch.allclose(rest(x), two(x), atol=1e-9)
    with pytest.raises(RuntimeError, match='no solution'): two.solution

def test_a_solution_does_not_outlive_its_call():
    net = composed('fold', 6, 3)
    net(torch.randn(2, 6))
    assert net.solution.converged.all()

def test_ten_folds_are_the_tent_map():
    "2^10 straight pieces out of ten layers of two channels."
    k = 10
    net = IncrementalResNet(2, k, transition='fold', tol=1e-13)
    with torch.no_grad():
        for p in net.parameters(): p.zero_()
        net.transition.skew[0, 0, 1] = -math.pi/4
        shift = 2.**-torch.arange(2, k + 2)/2**.5
        net.bias.copy_(torch.stack([-shift, shift], 1).atanh())
        x = torch.rand(1000)
        h = net(torch.stack([0*x, x - .5], 1))
    y = x
    for _ in range(k): y = 1 - (2*y - 1).abs()
    made = 1 - 2**k*((h[:, 0] - h[:, 1])/2**.5 + 2.**-(k + 1))
    assert torch.allclose(made, y, atol=1e-8)

@pytest.mark.parametrize('kind', (DenseBlock(), ConvBlock(), ConvBlock(5)), ids=str)
def test_transposed_is_the_adjoint(kind):
    places = (6, 7) if kind.grid_dims else ()
    K, z, y = torch.randn(3, *kind.shape(4, 2)), torch.randn(3, 2, 2, *places), torch.randn(3, 2, 4, *places)
    assert torch.allclose((kind.apply(K, z)*y).sum(), (z*kind.apply(kind.transposed(K), y)).sum())

@pytest.mark.parametrize('way', COMPOSITIONS)
def test_copies_and_gradients_reach_every_weight(way):
    net, x = composed(way, 6, 4), torch.randn(3, 6)
    net(x).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in net.parameters())
    assert torch.equal(copy.deepcopy(net)(x), net(x))

class Writes(DepthInjection):
    independent = True
    def forward(self, l, x, h): return x
    def write(self, l, s, back): return 2*s

@pytest.mark.parametrize('call, error, message', (
    (lambda: composed('heap', 6, 2), ValueError, 'way'),
    (lambda: composed('fold', 5, 2), ValueError, "features must be even for transition='fold'; got 5"),
    (lambda: composed('leapfrog', 5, 2), ValueError, "features must be even for injection='leapfrog'; got 5"),
    (lambda: composed('leapfrog', 6, 2, steps=3), ValueError, 'steps must be None'),
    (lambda: IncrementalResNet(6, 2, Writes), TypeError, 'independent')))
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message): call()
