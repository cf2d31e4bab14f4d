"Chapter 11: the collapse, the gradients of every option, the parts that a notebook cell is too short for."
import copy, itertools, pickle, warnings
import pytest, torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from deq_irnn.fixed_point import ConvergenceError, ConvergenceWarning
from deq_irnn.implicit import fixed_point
from deq_irnn.irnn import activation
from deq_irnn.resnet import (ConvBlock, DenseBlock, DepthFold, DepthInjection, DepthRotation, DepthSign, DepthTransition, IncrementalResNet,
                             depth_jacobian, euler_steps, reflected_rest_points, rest_points)
from deq_irnn.solvers import Anderson, Broyden, Picard, Solve, solve
from deq_irnn.wellposed import contractive, conv_norm

EXACT, TRANSITIONS = dict(tol=1e-13, max_iter=500), ('minus', 'plus', 'rotation')

@pytest.fixture(autouse=True)
def double(): torch.set_default_dtype(torch.float64)

def input_for(net, B=2): return torch.randn(B, net.features, *(4, 5)*(net.block == ConvBlock()))

def turned(net, h, l):
    "R_l h, by hand."
    if isinstance(net.transition, DepthSign): return net.transition.sign*h
    C, a = net.features, net.transition.angle[l]
    R = torch.zeros(C, C)
    for i in range(C//2):
        R[i, i] = R[i + C//2, i + C//2] = a[i].cos()
        R[i + C//2, i], R[i, i + C//2] = a[i].sin(), -a[i].sin()
    return torch.einsum('ij,bj...->bi...', R, h)

def affine(K, x): return x @ K.T if K.dim() == 2 else nn.functional.conv2d(x, K, padding=1)

def reference(net, x, h, injection, start):
    "One layer after the other, h_{l−1} in the equation: h_l = R h_{l−1} + κφ(U(h_l − R h_{l−1})/κ + W u + b) by root-finding."
    for l in range(net.depth):
        U = net.U[l]*min(1, net.bound/(torch.linalg.matrix_norm(net.U[l], 2) if net.block == DenseBlock() else conv_norm(net.U[l], x.shape[2:])).item())
        normed = (h - h.flatten(1).mean(1).view(-1, *[1]*(h.dim() - 1)))/(h.flatten(1).var(1, correction=0) + 1e-5).sqrt().view(-1, *[1]*(h.dim() - 1))
        u = {'input': x, 'normed': normed, 'both': torch.cat([x, normed], 1)}[injection]
        p, past = affine(net.W[l], u) + net.bias[l].view(-1, *[1]*(h.dim() - 2)), turned(net, h, l)
        def phi(s): return net.phi(affine(U, s) + p)
        if net.steps is None: h = solve(lambda h: past + net.scale*phi((h - past)/net.scale), past, tol=0, atol=1e-12, max_iter=500).z
        else:
            g = h if start == 'previous' else torch.zeros_like(h)          # the ODE in g, not in s
            for e in net.eta[l]: g = g + e*(net.scale*phi((g - past)/net.scale) - (g - past))
            h = g
    return h

@pytest.mark.parametrize('block', ('dense', 'conv'))
@pytest.mark.parametrize('injection', ('input', 'normed', 'both'))
@pytest.mark.parametrize('steps', (None, 3))
@pytest.mark.parametrize('transition', TRANSITIONS)
def test_equals_the_equation_as_written(block, injection, steps, transition):
    for start, scale in (('previous', 1.), ('zero', .5)):
        net = IncrementalResNet(4, 5, injection, steps, transition, block, start=start, scale=scale, eta=.3, **EXACT)
        x, h0 = input_for(net), input_for(net)
        with torch.no_grad():
            torch.testing.assert_close(net(x, h0), reference(net, x, h0, injection, start), atol=1e-9, rtol=1e-9)
            torch.testing.assert_close(net(x), net(x, x), atol=0, rtol=0)

@pytest.mark.parametrize('transition', TRANSITIONS)
@pytest.mark.parametrize('parallel', (True, False))
def test_every_singular_value_is_one_at_depth_64(transition, parallel):
    "Autograd through the network; and through the equation with h_{l−1} in it, where nothing is known of the collapse."
    net = IncrementalResNet(16, 64, transition=transition, parallel=parallel, **EXACT)
    x = torch.randn(16)
    values = torch.linalg.svdvals(depth_jacobian(lambda h: net(x.expand(len(h), -1), h), torch.randn(16)))
    assert (values - 1).abs().max() < 1e-12

def test_every_singular_value_is_one_by_implicit_differentiation():
    net, x = IncrementalResNet(6, 64), torch.randn(6)
    U = contractive(net.U, net.bound).detach()
    def run(h):
        for l in range(64): h = fixed_point(lambda z, h: torch.tanh((z + h) @ U[l].T + (x @ net.W[l].T + net.bias[l]).detach()) - h, torch.zeros_like(h), args=(h,), tol=1e-12, max_iter=300)
        return h
    assert (torch.linalg.svdvals(depth_jacobian(run, torch.randn(6))) - 1).abs().max() < 1e-9

def test_conv_singular_values_are_one():
    net, x = IncrementalResNet(2, 20, transition='rotation', block='conv', **EXACT), torch.randn(2, 3, 4)
    values = torch.linalg.svdvals(depth_jacobian(lambda h: net(x.expand(len(h), -1, -1, -1), h), torch.randn(2, 3, 4)))
    assert values.shape == (24,) and (values - 1).abs().max() < 1e-12

@pytest.mark.parametrize('nonlinearity', ('relu', 'tanh', torch.sin))
@pytest.mark.parametrize('block', ('dense', 'conv'))
def test_collapse(nonlinearity, block):
    "The network is the alternating sum of equilibria, each solved by a network of its own with one layer; and each solves its equation."
    net = IncrementalResNet(4, 9, block=block, nonlinearity=nonlinearity, **EXACT)
    x, h0 = input_for(net), input_for(net)
    total = (-1)**9*h0
    for l in range(9):
        one = IncrementalResNet(4, 1, block=block, nonlinearity=nonlinearity, **EXACT)
        with torch.no_grad():
            for name in ('U', 'W', 'bias'): getattr(one, name).copy_(getattr(net, name)[l:l+1])
        total = total + (-1)**(8 - l)*one(x, torch.zeros_like(x))
    torch.testing.assert_close(net(x, h0), total, atol=1e-10, rtol=1e-10)
    assert net.solution.converged.all() and net.solution.residual.shape == (9*2,)

def test_order_of_layers_does_not_matter_and_in_normed_does():
    for injection, same in (('input', True), ('normed', False)):
        net = IncrementalResNet(6, 8, injection, **EXACT)
        other, order = copy.deepcopy(net), [4, 3, 2, 7, 6, 1, 0, 5]
        with torch.no_grad():
            for name in ('U', 'W', 'bias'): getattr(other, name).copy_(getattr(net, name)[order])
        x = torch.randn(3, 6)
        assert torch.allclose(net(x), other(x), atol=1e-9) == same

def test_minus_and_plus_are_one_class_for_odd_phi():
    minus, plus = (IncrementalResNet(6, 8, transition=t, **EXACT) for t in ('minus', 'plus'))
    sign = (-1.)**torch.arange(7, -1, -1)
    with torch.no_grad(): plus.U.copy_(minus.U); plus.W.copy_(minus.W*sign[:, None, None]); plus.bias.copy_(minus.bias*sign[:, None])
    x = torch.randn(3, 6)
    torch.testing.assert_close(plus(x), minus(x), atol=1e-10, rtol=1e-10)

@pytest.mark.parametrize('block', ('dense', 'conv'))
@pytest.mark.parametrize('transition', TRANSITIONS)
@pytest.mark.parametrize('solver', (None, Broyden()), ids=str)
def test_parallel_over_depth_equals_loop(block, transition, solver):
    net = IncrementalResNet(4, 12, transition=transition, block=block, solver=solver, **EXACT)
    x, h0 = input_for(net).requires_grad_(), input_for(net).requires_grad_()
    both = []
    for net.parallel in (True, False):
        h = net.layers(x, h0)
        both.append((h, *torch.autograd.grad(h.square().sum(), (x, h0, *net.parameters())), net.solution.z.view(h.shape)))
        assert net.solution.converged.all() and len(net.solution.residual) == 24
    for a, b in zip(*both): torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-8)

OPTIONS = [dict(injection=i, steps=k, transition=t, block=b) for i, k, t, b in itertools.product(('input', 'normed', 'both'), (None, 2), TRANSITIONS, ('dense', 'conv')) if b == 'dense' or t == 'rotation'] \
    + [dict(parallel=False), dict(scale=.5), dict(nonlinearity=torch.sin), dict(nonlinearity='sigmoid', injection='normed'), dict(bias=False), dict(solver=Anderson(), injection='normed'), dict(steps=2, start='zero', scale=.5)]

@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_gradients(options):
    net = IncrementalResNet(2, 3, eta=.4, kernel_size=3, **options, **EXACT)
    names, params = zip(*net.named_parameters())
    def run(x, h0, *params): return torch.func.functional_call(net, dict(zip(names, params)), (x, h0))
    x, h0 = (torch.randn(2, 2, *(3, 3)*(net.block == ConvBlock()), requires_grad=True) for _ in range(2))
    assert gradcheck(run, (x, h0, *params), fast_mode=True)

@pytest.mark.parametrize('options', (dict(), dict(transition='rotation'), dict(injection='normed'), dict(steps=2)), ids=str)
def test_second_derivatives(options):
    net = IncrementalResNet(2, 2, **options, **EXACT)
    names, params = zip(*net.named_parameters())
    def run(x, *params): return torch.func.functional_call(net, dict(zip(names, params)), (x,))
    assert gradgradcheck(run, (torch.randn(2, 2, requires_grad=True), *params), fast_mode=True)

def test_k_steps_jacobian():
    "R + M(cI − R), M = Π(I + η(DU − I)); and 'plus' from 'previous' never composes."
    for transition, start in itertools.product(TRANSITIONS, ('previous', 'zero')):
        net, x, h = IncrementalResNet(4, 1, steps=3, eta=.3, transition=transition, start=start), torch.randn(4), torch.randn(4)
        U, p, eye = contractive(net.U, net.bound)[0].detach(), (net.W[0] @ x + net.bias[0]).detach(), torch.eye(4)
        R = turned(net, eye, 0).T.detach()
        c = float(start == 'previous')
        s, M = (c*eye - R) @ h, eye
        for _ in range(3):
            y = torch.tanh(U @ s + p)
            M, s = (eye + .3*((1 - y*y)[:, None]*U - eye)) @ M, s + .3*(y - s)
        J = depth_jacobian(lambda h: net(x.expand(len(h), -1), h), h)
        torch.testing.assert_close(J, R + M @ (c*eye - R), atol=1e-12, rtol=1e-12)
        if (transition, start) == ('plus', 'previous'): torch.testing.assert_close(J, eye, atol=1e-12, rtol=0)

def test_the_bound_on_the_normed_term():
    net = IncrementalResNet(8, 1, 'normed', scale=.7, **EXACT)
    for size in (.1, 1., 10., 100.):
        h = size*torch.randn(8)
        E = depth_jacobian(net, h) + torch.eye(8)
        bound = .7*torch.linalg.matrix_norm(net.W[0], 2)/(1 - torch.linalg.matrix_norm(contractive(net.U, net.bound)[0], 2))/h.std(correction=0)
        assert torch.linalg.matrix_norm(E, 2) <= bound

def test_bound_survives_large_steps():
    for block in ('dense', 'conv'):
        net = IncrementalResNet(4, 4, block=block, max_iter=500)
        x, optimizer = input_for(net), torch.optim.SGD(net.parameters(), 100.)
        for _ in range(5): optimizer.zero_grad(); net(x).square().sum().neg().backward(); optimizer.step()
        net(x)
        assert net.solution.converged.all() and net.U.abs().max() > 2

@pytest.mark.parametrize('options', (dict(), dict(injection='normed', transition='rotation'), dict(steps=3), dict(block='conv')), ids=str)
def test_copies_pickles_states(options):
    net = IncrementalResNet(4, 3, **options)
    x = input_for(net)
    net(x)
    out = net(x)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))): torch.testing.assert_close(other(x), out, atol=0, rtol=0)
    fresh = IncrementalResNet(4, 3, **options)
    fresh.load_state_dict(net.state_dict())
    torch.testing.assert_close(fresh(x), out, atol=0, rtol=0)

@pytest.mark.parametrize('shape', ((2, 4, 3, 3), (1, 4, 7, 5), (3, 4, 28, 28)))
@pytest.mark.parametrize('injection', ('input', 'both'))
def test_conv_shapes(shape, injection):
    net = IncrementalResNet(4, 3, injection, block='conv', dtype=torch.float32)
    x = torch.randn(shape, dtype=torch.float32)
    assert net(x).shape == shape and net.layers(x).shape == (3, *shape) and net(x).dtype == torch.float32

def test_float32_one_sample_and_one_layer():
    net = IncrementalResNet(6, 1, dtype=torch.float32)
    out = net(torch.randn(1, 6, dtype=torch.float32))
    assert out.dtype == torch.float32 and out.isfinite().all()
    assert IncrementalResNet(6, 4)(torch.zeros(0, 6)).shape == (0, 6)

def test_samples_do_not_disturb_each_other():
    for injection in ('input', 'normed'):
        net, x = IncrementalResNet(6, 5, injection, on_failure='ignore', **EXACT), torch.randn(3, 6)
        bad = x.clone(); bad[1] = float('nan')
        out = net(bad)
        torch.testing.assert_close(out[::2], net(x[::2]), atol=1e-10, rtol=1e-10)
        assert out[1].isnan().all()

def test_failures_are_told():
    for injection in ('input', 'normed'):
        net = IncrementalResNet(6, 5, injection, tol=1e-12, max_iter=2)
        with pytest.warns(ConvergenceWarning): net(torch.randn(2, 6))
        net = IncrementalResNet(6, 5, injection, tol=1e-12, max_iter=2, on_failure='raise')
        with pytest.raises(ConvergenceError): net(torch.randn(2, 6))
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            IncrementalResNet(6, 5, injection, tol=1e-12, max_iter=2, on_failure='ignore')(torch.randn(2, 6))

@pytest.mark.parametrize('wrong, names', (
    (dict(features=0), 'features'), (dict(depth=0), 'depth'), (dict(injection='x'), 'injection'), (dict(steps=0), 'steps'), (dict(transition='input_rotation'), 'transition'), (dict(block='linear'), 'block'),
    (dict(kernel_size=4), 'kernel_size'), (dict(start='h'), 'start'), (dict(eta=0.), 'eta'), (dict(scale=-1.), 'scale'), (dict(bound=1.), 'bound'), (dict(tol=-1.), 'tol'), (dict(max_iter=0), 'max_iter'),
    (dict(on_failure='cry'), 'on_failure'), (dict(nonlinearity='swish'), 'nonlinearity'), (dict(features=5, transition='rotation'), 'features')), ids=str)
def test_wrong_arguments_are_named(wrong, names):
    with pytest.raises(ValueError, match=names): IncrementalResNet(**{'features': 4, 'depth': 2, **wrong})

def test_wrong_types_and_shapes_are_named():
    for wrong in (dict(features=4.), dict(depth='2'), dict(steps=True), dict(solver='anderson'), dict(nonlinearity=3)):
        with pytest.raises(TypeError): IncrementalResNet(**{'features': 4, 'depth': 2, **wrong})
    dense, conv = IncrementalResNet(4, 2), IncrementalResNet(4, 2, block='conv')
    for net, x in ((dense, torch.randn(2, 3)), (dense, torch.randn(2, 4, 5, 5)), (conv, torch.randn(2, 4)), (conv, torch.randn(2, 3, 5, 5))):
        with pytest.raises(ValueError, match='x must have the shape'): net(x)
    with pytest.raises(ValueError, match='h0'): dense(torch.randn(2, 4), torch.randn(1, 4))
    with pytest.raises(ValueError, match='kernel'): conv(torch.randn(2, 4, 2, 2))

def test_rest_points_keeps_layers_apart():
    "Row l·B + b of the solution is layer l of sample b; layers with harder equations take more iterations, the others no more than alone."
    U = contractive(torch.randn(3, 8, 8), 1.)*torch.tensor([.1, .5, .95])[:, None, None]
    p = torch.randn(3, 5, 8)
    for find, how in ((reflected_rest_points, Solve(Picard(), tol=1e-10)), (rest_points, Solve(Picard(), tol=1e-10, max_iter=500))):
        s, sol = find(U, p, activation('tanh'), how)
        assert torch.equal(sol.z.view(3, 5, 8), s) and (sol.iterations.view(3, 5).double().mean(1).diff() > 0).all()
        for l in range(3):
            alone, _ = find(U[[l, l]], p[[l, l]], activation('tanh'), how)
            torch.testing.assert_close(alone[0], s[l], atol=1e-12, rtol=1e-12)

def test_euler_steps_are_the_ode_in_g():
    "The definition, g_0 = c h and g ← g + η(φ(g − Rh) − (g − Rh)), and finite differences of it against autograd."
    U, p, R = contractive(torch.randn(4, 4), .9), torch.randn(4), torch.linalg.qr(torch.randn(4, 4))[0]
    eta, h = (.3, .2, .4), torch.randn(4)
    def phi(s): return torch.tanh(s @ U.T + p)
    for R, (start, c), scale in itertools.product((-torch.eye(4), torch.eye(4), R), (('previous', 1.), ('zero', 0.)), (1., .5)):
        def ode(h):
            g = c*h
            for e in eta: g = g + e*(scale*phi((g - h @ R.T)/scale) - (g - h @ R.T))
            return g
        def ours(h): return h @ R.T + scale*euler_steps(phi, h, h @ R.T, eta, start, scale)
        torch.testing.assert_close(ours(h), ode(h), atol=1e-12, rtol=0)
        step = 1e-6*torch.eye(4)
        torch.testing.assert_close(depth_jacobian(ours, h), ((ode(h + step) - ode(h - step))/2e-6).T, atol=1e-8, rtol=0)

class Fold(DepthTransition):
    "Another person's transition: MaxMin after an orthogonal matrix."
    def __init__(self, depth, features):
        super().__init__(depth, features)
        self.skew = nn.Parameter(torch.randn(depth, features, features))
    def turn(self, l, h):
        a, b = torch.einsum('ij,bj...->bi...', torch.linalg.matrix_exp(self.skew[l] - self.skew[l].T), h).chunk(2, 1)
        return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], 1)

class ReadHalf(DepthInjection):
    "Another person's injection, with a parameter."
    def __init__(self, depth, features):
        super().__init__(depth, features)
        self.share = nn.Parameter(torch.full((depth,), .5))
    def forward(self, l, x, h): return self.share[l]*x + (1 - self.share[l])*h

@pytest.mark.parametrize('block', ('dense', ConvBlock(1)), ids=str)
@pytest.mark.parametrize('steps', (None, 2))
def test_parts_of_ones_own(block, steps):
    "A class each, trained; the fold keeps every singular value at 1 and nevertheless composes."
    net = IncrementalResNet(4, 5, transition=Fold, block=block, **EXACT)
    x, h0 = (torch.randn(4, *(2, 2)*(block != 'dense')) for _ in range(2))
    def run(h): return net(x.expand(len(h), *x.shape), h)
    assert (torch.linalg.svdvals(depth_jacobian(run, h0)) - 1).abs().max() < 1e-10
    torch.testing.assert_close(net(x[None], h0[None]), reference_by_loop(net, x[None], h0[None]), atol=1e-9, rtol=0)
    net = IncrementalResNet(4, 5, ReadHalf, steps, lambda depth, features: Fold(depth, features), block, **EXACT)
    optimizer = torch.optim.SGD(net.parameters(), .1)
    before = [p.clone() for p in net.parameters()]
    for _ in range(2):
        optimizer.zero_grad()
        net(x[None]).square().sum().backward()
        optimizer.step()
    assert all((p != q).any() for p, q in zip(net.parameters(), before))

def reference_by_loop(net, x, h):
    net.parallel = False
    return net(x, h)

def test_parts_must_be_what_they_are_for():
    for wrong in (dict(transition=Fold(3, 4)), dict(transition=3), dict(transition=lambda depth, features: nn.Identity()), dict(injection=nn.Identity()),
                  dict(injection=ReadHalf(3, 4)), dict(block=3), dict(block=nn.Identity())):
        with pytest.raises(TypeError, match=next(iter(wrong))): IncrementalResNet(4, 3, **wrong)
    with pytest.raises(ValueError, match='sign'): DepthSign(3, 4, sign=0)
    with pytest.raises(NotImplementedError, match='turn'): DepthTransition(3, 4).scan(torch.zeros(3, 1, 4), torch.zeros(1, 4))

@pytest.mark.parametrize('options', (dict(), dict(transition='rotation'), dict(steps=2), dict(block='conv', injection='both')), ids=str)
def test_from_the_meta_device(options):
    net = IncrementalResNet(4, 3, **options)
    x = input_for(net)
    other = IncrementalResNet(4, 3, **options, device='meta').to_empty(device='cpu')
    other.load_state_dict(net.state_dict())
    torch.testing.assert_close(other(x), net(x), atol=0, rtol=0)
    other.reset_parameters()
    assert all(p.isfinite().all() and p.abs().max() < 4 for p in other.parameters())

def test_solution_before_the_first_call():
    net = IncrementalResNet(4, 3)
    with pytest.raises(RuntimeError, match='call the layer first'): net.solution

def test_atol_is_enough():
    for depth in (1, 4):
        net = IncrementalResNet(4, depth, tol=0., atol=1e-6, on_failure='raise')
        net(torch.randn(3, 4))
        assert net.solution.converged.all()


@pytest.mark.parametrize('low', (torch.float16, torch.bfloat16))
def test_a_fold_in_half_precision_is_an_isometry(low):
    "torch's matrix_exp of half precision gives 1e30 or NaN: it is done in float32."
    fold, h = DepthFold(3, 8).to(low), torch.randn(5, 8).to(low)
    for l in range(3): torch.testing.assert_close(fold(h, l).double().norm(dim=1), h.double().norm(dim=1), rtol=.03, atol=0)
