"Depth as rest points: the gradient, the collapse, parallel over depth, and every option differentiated."
import copy, pickle
import pytest, torch
from deq_irnn import IncrementalResNet, Picard, depth_jacobian

F64 = torch.float64
def make(depth=3, features=4, **options): return IncrementalResNet(features, depth, **{'tol': 1e-13, 'max_iter': 500, 'dtype': F64, **options})
OPTIONS = [dict(injection=i, steps=k, transition=t, block=b) for i in ('input', 'normed', 'both') for k in (None, 2) for t in ('minus', 'plus', 'rotation') for b in ('dense', 'conv')]
def sample(options, B=2): return torch.randn(B, 4, *((3, 3) if options.get('block') == 'conv' else ()), dtype=F64)

@pytest.mark.parametrize('transition', ('minus', 'plus', 'rotation'))
@pytest.mark.parametrize('nonlinearity', ('tanh', 'relu'))
def test_all_singular_values_are_one_at_depth_64(transition, nonlinearity):
    net, x, h0 = make(64, 6, transition=transition, nonlinearity=nonlinearity), torch.randn(6, dtype=F64), torch.randn(6, dtype=F64)
    J = depth_jacobian(lambda h: net(x.expand(len(h), -1), h), h0)
    assert (torch.linalg.svdvals(J) - 1).abs().max() < 1e-10
    if transition != 'rotation': assert torch.allclose(J, torch.eye(6, dtype=F64), atol=1e-10)        # (−1)^64

@pytest.mark.parametrize('block', ('dense', 'conv'))
@pytest.mark.parametrize('transition', ('minus', 'plus'))
def test_the_collapse(transition, block):
    "The network is a signed sum of equilibria, each found by a network of one layer that knows nothing of the others."
    net, x = make(5, transition=transition, block=block), sample(dict(block=block))
    total, sign = torch.zeros_like(x), 1 if transition == 'plus' else -1
    for l in range(5):
        one = make(1, transition='plus', block=block)
        with torch.no_grad():
            for name in ('U', 'W', 'bias'): getattr(one, name).copy_(getattr(net, name)[l:l+1])
        total = sign*total + one(x, torch.zeros_like(x))
    assert torch.allclose(net(x, torch.zeros_like(x)), total, atol=1e-10)

@pytest.mark.parametrize('options', [o for o in OPTIONS if o['injection'] == 'input' and o['steps'] is None], ids=str)
def test_parallel_over_depth_is_layer_by_layer(options):
    net, x = make(6, **options), sample(options)
    other = copy.deepcopy(net); other.parallel = False
    assert torch.allclose(net.layers(x), other.layers(x), atol=1e-10) and net.layers(x).shape == (6, *x.shape)
    assert net.solution.converged.all() and len(net.solution.converged) == 6*len(x)
    for a, b in zip(torch.autograd.grad(net(x).square().sum(), net.parameters()), torch.autograd.grad(other(x).square().sum(), other.parameters())): assert torch.allclose(a, b, atol=1e-8)

@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_derivatives(options):
    net, x = make(2, **options), sample(options, 1).requires_grad_()
    h0 = torch.randn_like(x).requires_grad_()
    names, params = zip(*net.named_parameters())
    def f(x, h0, *p): return torch.func.functional_call(net, dict(zip(names, p)), (x, h0))
    assert torch.autograd.gradcheck(f, (x, h0, *params), fast_mode=True)

def test_many_steps_come_to_rest():
    options = dict(injection='input', transition='minus')
    exact, long = make(3, **options), make(3, steps=300, eta=.5, **options)
    long.load_state_dict(exact.state_dict(), strict=False)
    x = torch.randn(2, 4, dtype=F64)
    assert torch.allclose(exact(x), long(x), atol=1e-9)

def test_one_step_from_the_layer_before_is_a_residual_network():
    "With η = 1, s = h + h then φ(U s + p) replaces it: h_l = φ(2 U h_{l−1} + p) − h_{l−1}."
    net, x = make(1, steps=1, eta=1., nonlinearity='relu'), torch.randn(2, 4, dtype=F64)
    U = net.U[0]/max(1., (torch.linalg.matrix_norm(net.U[0], 2)/.95).item())
    assert torch.allclose(net(x), torch.relu(2*x @ U.T + x @ net.W[0].T + net.bias[0]) - x)

def test_the_bound_survives_any_training_step():
    net, x = make(4), torch.randn(3, 4, dtype=F64)
    for _ in range(5):
        with torch.no_grad():
            for p in net.parameters(): p.add_(10*torch.randn_like(p))
        net(x); assert net.solution.converged.all()

def test_solver_choice_copies_and_files():
    net, x = make(solver=Picard()), torch.randn(2, 4, dtype=F64)
    reflected = make(); reflected.load_state_dict(net.state_dict())
    assert torch.allclose(net(x), reflected(x), atol=1e-10)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))): assert torch.equal(twin(x), net(x))

@pytest.mark.parametrize('call, message', (
    (lambda: IncrementalResNet(4, 0), 'depth'), (lambda: IncrementalResNet(4, 2, injection='x'), "injection must be .* got 'x'"), (lambda: IncrementalResNet(4, 2, transition='turn'), 'transition'),
    (lambda: IncrementalResNet(5, 2, transition='rotation'), 'features must be even'), (lambda: IncrementalResNet(4, 2, block='pool'), 'block'), (lambda: IncrementalResNet(4, 2, steps=0), 'steps'),
    (lambda: IncrementalResNet(4, 2, block='conv', kernel_size=2), 'kernel_size must be odd'), (lambda: IncrementalResNet(4, 2, bound=1.2), 'bound'),
    (lambda: IncrementalResNet(4, 2)(torch.zeros(2, 5)), r'x must have the shape \(B, 4\)'), (lambda: IncrementalResNet(4, 2, block='conv')(torch.zeros(2, 4)), r'\(B, 4, H, W\)'),
    (lambda: IncrementalResNet(4, 2)(torch.zeros(2, 4), torch.zeros(3, 4)), 'h0 must have the shape of x')))
def test_wrong_arguments_name_themselves(call, message):
    with pytest.raises(ValueError, match=message): call()
