"The incremental RNN: beside nn.RNN, and beside a naive loop, over many options."
import copy, itertools, pickle, warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils.rnn import (PackedSequence, pack_padded_sequence, pack_sequence,
                                pad_packed_sequence)

from deq_irnn.euler_adjoint import plain_chain
from deq_irnn.irnn import ACTIVATIONS, LIFT, Activation, IRNN, IRNNCell, activation, euler_chain

SOFTPLUS = Activation(F.softplus, lambda y: -torch.expm1(-y))
EXP = Activation(lambda a: torch.exp(-a.abs()), lambda y: y)   # for values only: no true derivative


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def naive(rnn, x, h):
    "One layer and direction as the paper writes it, in g: x (T, B, F), h (B, D) → h_1…h_T."
    cell, out = rnn.cells[0], []
    for x_k in x:
        g = h if cell.start == 'previous' else torch.zeros_like(h)
        for eta in cell.eta:
            a = (g + h) @ cell.weight_hh.T + x_k @ cell.weight_ih.T
            if cell.bias is not None: a = a + cell.bias
            g = g + eta*(cell.phi(a) - cell.alpha*(g + h))
        h = g
        out.append(h)
    return torch.stack(out)


def differences(rnn, x, h):
    "Relative differences from the naive loop: of the output, then of every gradient."
    wanted = [x, h, *(p for p in rnn.parameters() if p.requires_grad)]
    ours, true = rnn(x, h[None])[0], naive(rnn, x, h)
    weight = torch.randn_like(true)
    gradients = (torch.autograd.grad(out, wanted, weight) for out in (ours, true))
    pairs = [(ours, true), *zip(*gradients)]
    return [float((a - b).detach().norm()/(b.detach().norm() + 1e-300)) for a, b in pairs]


KINDS = itertools.product((1, 4), ('previous', 'zero'), ('relu', 'tanh', 'sigmoid'))
OPTIONS = [dict(steps=k, start=s, nonlinearity=n) for k, s, n in KINDS]
OPTIONS += [dict(bias=False), dict(alpha=.7, learn_alpha=True), dict(learn_eta=False), dict(eta=.3),
            dict(steps=3, eta=(.1, .2, .7)), dict(eta=1., alpha=1.), dict(nonlinearity=SOFTPLUS),
            dict(nonlinearity=F.gelu), dict(nonlinearity=nn.PReLU(dtype=torch.float64)),
            dict(adjoint=False)]


@pytest.mark.parametrize('options', OPTIONS, ids=str)
@pytest.mark.parametrize('T, B', [(1, 2), (7, 3), (9, 1)])
def test_gradients_equal_the_naive_loop(options, T, B):
    rnn = IRNN(3, 4, **{'steps': 2, **options}, dtype=torch.float64)
    x = torch.randn(T, B, 3, dtype=torch.float64, requires_grad=True)
    h = torch.randn(B, 4, dtype=torch.float64, requires_grad=True)
    assert max(differences(rnn, x, h)) < 1e-12


def chain_inputs(T=5, B=2, D=3, K=2):
    "p, h0, U, eta, alpha in float64, all of which want gradients."
    found = dict(p=torch.randn(T, B, D), h0=torch.randn(B, D), U=torch.randn(D, D)/2,
                 eta=.3*torch.rand(K), alpha=torch.tensor([.9]))
    return [v.double().requires_grad_() for v in found.values()]


@pytest.mark.parametrize('T, B, tile', [(1, 2, 512), (7, 3, 8), (9, 1, 4), (6, 5, 2),
                                        (600, 1, 512)])
@pytest.mark.parametrize('lift', [1., 2.])
def test_blocks_of_any_size(T, B, tile, lift):
    ins = chain_inputs(T, B)
    weight, tanh = torch.randn(T, B, 3, dtype=torch.float64), ACTIVATIONS['tanh']
    outs = euler_chain(*ins, tanh, lift, tile=tile), plain_chain(*ins, tanh, lift)
    torch.testing.assert_close(*outs, rtol=1e-12, atol=1e-14)
    gradients = (torch.autograd.grad(out, ins, weight) for out in outs)
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-13)


PAIRS = [('previous', 'tanh'), ('zero', 'sigmoid'), ('previous', 'relu')]

@pytest.mark.parametrize('start, nonlinearity', PAIRS)
def test_finite_differences_once_and_twice(start, nonlinearity):
    ins = chain_inputs(T=3)
    f = lambda *v: euler_chain(*v, activation(nonlinearity), LIFT[start])
    assert torch.autograd.gradcheck(f, ins)
    if nonlinearity != 'relu': assert torch.autograd.gradgradcheck(f, ins)


@pytest.mark.parametrize('adjoint', [True, False])
def test_pieces_equal_the_whole_up_to_second_derivatives(adjoint):
    "h0 of the second piece depends on the same weights: that path must not be counted twice."
    ins = chain_inputs()
    chain = lambda p, h, U, e, a: euler_chain(p, h, U, e, a, ACTIVATIONS['tanh'], 2., adjoint)
    def pieces(p, h, *rest):
        first = chain(p[:2], h, *rest)
        return torch.cat([first, chain(p[2:], first[-1], *rest)])
    found = []
    for f in (chain, pieces):
        once = torch.autograd.grad(f(*ins).square().sum(), ins, create_graph=True)
        twice = torch.autograd.grad(sum(g.square().sum() for g in once), ins)
        found.append((f(*ins), *once, *twice))
    for a, b in zip(*found): torch.testing.assert_close(a, b)


def test_jacobian_is_lift_M_minus_I():
    D = 6
    for start, lift in LIFT.items():
        options = dict(steps=4, nonlinearity='tanh', eta=.4, dtype=torch.float64)
        cell = IRNNCell(2, D, start=start, **options)
        x, h = torch.randn(1, 1, 2, dtype=torch.float64), torch.randn(D, dtype=torch.float64)
        J = torch.autograd.functional.jacobian(lambda v: cell(x, v[None])[0, 0], h)
        with torch.no_grad():
            s, M, eye = lift*h, torch.eye(D, dtype=torch.float64), torch.eye(D, dtype=torch.float64)
            for e in cell.eta:
                y = torch.tanh(cell.weight_hh @ s + cell.weight_ih @ x[0, 0] + cell.bias)
                M = (eye + e*((1 - y*y)[:, None]*cell.weight_hh - cell.alpha*eye)) @ M
                s = s + e*(y - cell.alpha*s)
        torch.testing.assert_close(J, lift*M - eye)


def test_at_rest_the_jacobian_is_minus_one():
    cell = IRNNCell(2, 6, steps=200, nonlinearity='tanh', eta=.5, dtype=torch.float64)
    with torch.no_grad(): cell.weight_hh.mul_(.8/torch.linalg.matrix_norm(cell.weight_hh, 2))
    x, h = torch.ones(3, 1, 2, dtype=torch.float64), torch.randn(1, 6, dtype=torch.float64)
    J = torch.autograd.functional.jacobian(lambda h: cell(x, h)[-1, 0], h)
    torch.testing.assert_close(J[:, 0], -torch.eye(6, dtype=torch.float64))    # three steps: (−1)³


def test_without_gradients_the_same_numbers_and_no_graph():
    for phi in ('relu', 'tanh', EXP, F.silu):
        rnn, x = IRNN(3, 4, nonlinearity=phi), torch.randn(5, 2, 3)
        with torch.no_grad(): out = rnn(x)[0]
        assert not out.requires_grad
        torch.testing.assert_close(out, naive(rnn, x, torch.zeros(2, 4)))


def test_a_derivative_that_returns_its_argument_does_no_harm():
    phi = Activation(lambda a: torch.exp(a.clamp(max=2.)), lambda y: y)    # φ′ = φ below the clamp
    rnn = IRNN(3, 4, nonlinearity=phi, dtype=torch.float64)
    x, h = (.1*torch.randn(size, dtype=torch.float64) for size in ((6, 2, 3), (2, 4)))
    x.requires_grad_(), h.requires_grad_()
    assert max(differences(rnn, x, h)) < 1e-12


def test_backward_twice_and_partial_gradients():
    rnn, x = IRNN(3, 4), torch.randn(5, 2, 3)
    loss = rnn(x)[0].square().sum()
    first = torch.autograd.grad(loss, rnn.cells[0].weight_hh, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(loss, rnn.cells[0].weight_hh)[0])
    rnn.requires_grad_(False)
    rnn.cells[0].weight_ih.requires_grad_()
    rnn(x)[0].sum().backward()
    assert rnn.cells[0].weight_ih.grad is not None and rnn.cells[0].weight_hh.grad is None


# --- beside nn.RNN --------------------------------------------------------------------------------

NAMES = ('num_layers', 'bidirectional', 'batch_first', 'bias')
NETS = [dict(zip(NAMES, kind)) for kind in itertools.product((1, 3), *[(False, True)]*3)]


def shapes(result):
    out, h = result
    if not isinstance(out, PackedSequence): return tuple(out.shape), tuple(h.shape)
    return tuple(out.data.shape), *(v.tolist() for v in out[1:]), tuple(h.shape)


@pytest.mark.parametrize('options', NETS, ids=str)
def test_same_shapes_as_rnn(options):
    theirs, ours = nn.RNN(5, 6, **options), IRNN(5, 6, **options)
    B = 4 if options['batch_first'] else 3
    x, h = torch.randn(4, 3, 5), torch.randn(len(ours.cells), B, 6)
    lengths = [2, 3, 1, 3] if options['batch_first'] else [2, 4, 1]
    packed = pack_padded_sequence(x, lengths, options['batch_first'], enforce_sorted=False)
    for args in ((x,), (x, h), (x[0],), (x[0], h[:, 0]), (packed,), (packed, h)):
        assert shapes(theirs(*args)) == shapes(ours(*args))


WRONG = dict(
    features=lambda x, h: (x[..., :4],),
    unbatched_features=lambda x, h: (x[0, :, :4],),
    one_dim=lambda x, h: (x[0, 0],),
    four_dims=lambda x, h: (x[None],),
    no_time=lambda x, h: (x[:0],),
    state_size=lambda x, h: (x, h[..., :3]),
    state_batch=lambda x, h: (x, h[:, :1]),
    state_layers=lambda x, h: (x, h[:1]),
    state_dims=lambda x, h: (x, h[:, 0]),
    unbatched_state_dims=lambda x, h: (x[0], h),
    dtype=lambda x, h: (x.double(),),
    integers=lambda x, h: (x.long(),),
    packed_features=lambda x, h: (pack_sequence([x[:, 0, :4]]),),
    packed_state=lambda x, h: (pack_sequence([x[:, 0]]), h),
    packed_dtype=lambda x, h: (pack_sequence([x[:, 0].double()]),),
    a_list=lambda x, h: ([1, 2],),
)


OLDER = tuple(int(n) for n in torch.__version__.split('.')[:2]) < (2, 13)    # nn.RNN says some of it in other words, and takes input_size=0

def error(f):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        try: f()
        except Exception as e: return type(e), str(e).replace('IRNN:', 'RNN:')


@pytest.mark.parametrize('name', WRONG)
def test_same_errors_for_wrong_inputs(name):
    args = WRONG[name](torch.randn(4, 3, 5), torch.randn(2, 3, 6))
    theirs = error(lambda: nn.RNN(5, 6, num_layers=2)(*args))
    ours = error(lambda: IRNN(5, 6, num_layers=2)(*args))
    assert theirs is not None and (ours == theirs or OLDER and ours[0] == theirs[0])


@pytest.mark.parametrize('wrong', [dict(hidden_size=0), dict(input_size=0), dict(hidden_size=6.),
                                   dict(num_layers=0), dict(num_layers=2, dropout=1.5),
                                   dict(num_layers=2, dropout=True), dict(dropout=.5)], ids=str)
def test_same_errors_and_warnings_at_construction(wrong):
    options = {'input_size': 5, 'hidden_size': 6, **wrong}
    theirs = error(lambda: nn.RNN(**options))
    if OLDER and theirs is None: pytest.skip('this torch takes it')
    assert theirs is not None and error(lambda: IRNN(**options)) == theirs


OWN = [
    (dict(steps=0), 'steps'), (dict(steps=2.5), 'steps'), (dict(alpha=0.), 'alpha'),
    (dict(start='middle'), "start.*'previous'.*'zero'"), (dict(nonlinearity=3), 'nonlinearity'),
    (dict(nonlinearity='gelu'), "nonlinearity.*'relu'.*'tanh'.*'sigmoid'.*gelu"),
    (dict(eta=-.1), 'eta'), (dict(steps=3, eta=(.1, .2)), 'eta.*steps=3'),
    (dict(eta='long'), "eta.*'long'"), (dict(eta=torch.tensor(.1)), 'eta must be one number'),
]

@pytest.mark.parametrize('wrong, words', OWN, ids=str)
def test_own_wrong_arguments_are_named(wrong, words):
    with pytest.raises((ValueError, TypeError), match=words): IRNN(5, 6, **wrong)


# --- numbers of the plumbing ----------------------------------------------------------------------

@pytest.mark.parametrize('options', NETS, ids=str)
@pytest.mark.parametrize('lengths', [[5, 4, 2, 1], [2, 5, 1, 5]], ids=str)
def test_packed_equals_each_sequence_alone(options, lengths):
    rnn = IRNN(3, 4, nonlinearity='tanh', **options, dtype=torch.float64)
    sequences = [torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in lengths]
    h = torch.randn(len(rnn.cells), len(lengths), 4, dtype=torch.float64)
    out, h_n = rnn(pack_sequence(sequences, enforce_sorted=False), h)
    out, _ = pad_packed_sequence(out)
    alone = [rnn(x, h[:, i]) for i, x in enumerate(sequences)]
    for i, (o, hi) in enumerate(alone):
        torch.testing.assert_close(out[:lengths[i], i], o)
        torch.testing.assert_close(h_n[:, i], hi)
    size = lambda *tensors: sum(v.square().sum() for v in tensors)
    together = torch.autograd.grad(size(h_n, out), sequences)
    single = torch.autograd.grad(sum(size(*pair) for pair in alone), sequences)
    for a, b in zip(together, single): torch.testing.assert_close(a, b)


def test_layers_and_directions_are_what_they_say():
    "Two layers, two directions, by hand: flip, run, flip back, concatenate."
    rnn = IRNN(3, 4, num_layers=2, bidirectional=True)
    x, h = torch.randn(5, 2, 3), torch.randn(4, 2, 4)
    y, last = x, []
    for layer in range(2):
        k = 2*layer
        ahead, back = rnn.cells[k](y, h[k]), rnn.cells[k + 1](y.flip(0), h[k + 1])
        y = torch.cat([ahead, back.flip(0)], -1)
        last += [ahead[-1], back[-1]]
    out, h_n = rnn(x, h)
    torch.testing.assert_close(out, y)
    torch.testing.assert_close(h_n, torch.stack(last))


def test_batch_first_unbatched_and_default_state():
    rnn, first = IRNN(3, 4, num_layers=2), IRNN(3, 4, num_layers=2, batch_first=True)
    x = torch.randn(5, 2, 3)
    first.load_state_dict(rnn.state_dict())
    out, h = rnn(x)
    torch.testing.assert_close(first(x.transpose(0, 1))[0], out.transpose(0, 1))
    torch.testing.assert_close(first(x.transpose(0, 1))[1], h)
    torch.testing.assert_close(rnn(x[:, 1])[0], out[:, 1])
    torch.testing.assert_close(rnn(x, torch.zeros(2, 2, 4))[0], out)
    a, h_a = rnn(x[:2])                                                # in two pieces
    torch.testing.assert_close(torch.cat([a, rnn(x[2:], h_a)[0]]), out)


def test_dropout_between_layers_in_training_only():
    rnn, x = IRNN(3, 4, num_layers=2, dropout=.5), torch.randn(5, 2, 3)
    assert not torch.equal(rnn(x)[0], rnn(x)[0])
    rnn.eval()
    assert torch.equal(rnn(x)[0], rnn(x)[0])
    one = IRNN(3, 4, num_layers=2, dropout=1.)
    torch.testing.assert_close(one(x)[0], one(torch.randn(5, 2, 3))[0])    # nothing is left


def test_copies_saves_moves():
    options = dict(num_layers=2, bidirectional=True, nonlinearity='tanh', start='zero')
    rnn, x = IRNN(3, 4, **options), torch.randn(5, 2, 3)
    twins = copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn))
    for twin in twins: assert torch.equal(twin(x)[0], rnn(x)[0])
    other = IRNN(3, 4, **options)
    other.load_state_dict(rnn.state_dict())
    assert torch.equal(other(x)[0], rnn(x)[0])
    assert rnn.double()(x.double())[0].dtype == torch.float64
    rnn.flatten_parameters(); rnn.reset_parameters()
    assert not torch.equal(rnn.float()(x)[0], other(x)[0])


def test_a_module_as_nonlinearity_is_trained_and_copied():
    rnn, x = IRNN(3, 4, num_layers=2, nonlinearity=nn.PReLU()), torch.randn(5, 2, 3)
    rnn(x)[0].sum().backward()
    assert rnn.cells[0].nonlinearity.weight.grad is not None
    assert 'cells.0.nonlinearity.weight' in rnn.state_dict()
    twin = copy.deepcopy(rnn)
    with torch.no_grad(): twin.cells[0].nonlinearity.weight.fill_(3.)
    assert not torch.equal(twin(x)[0], rnn(x)[0])


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype):
    rnn, x = IRNN(3, 4), torch.randn(5, 2, 3)
    low = IRNN(3, 4, dtype=dtype)
    low.load_state_dict(rnn.state_dict())
    out = low(x.to(dtype))[0]
    out.float().sum().backward()
    assert out.dtype == low.cells[0].weight_hh.grad.dtype == dtype
    torch.testing.assert_close(out.float(), rnn(x)[0], atol=.05, rtol=.05)


def test_autocast():
    rnn, x = IRNN(3, 4), torch.randn(5, 2, 3)
    with torch.autocast('cpu', torch.bfloat16):
        out = rnn(x)[0]
        out.float().sum().backward()
    torch.testing.assert_close(out.float(), rnn(x)[0], atol=.05, rtol=.05)
    assert all(torch.isfinite(p.grad).all() for p in rnn.parameters() if p.requires_grad)


def test_positional_arguments_as_in_rnn():
    "nonlinearity is the fourth, then bias, batch_first, dropout, bidirectional; ours by keyword."
    theirs, ours = (make(5, 6, 2, 'tanh', False, True, .5, True) for make in (nn.RNN, IRNN))
    for name in ('num_layers', 'nonlinearity', 'bias', 'batch_first', 'dropout', 'bidirectional'):
        found = ours.cells[0].nonlinearity if name == 'nonlinearity' else getattr(ours, name)
        assert found == getattr(theirs, name)
    assert ours.cells[3].bias is None
    with pytest.raises(TypeError): IRNN(5, 6, 2, 'tanh', False, True, .5, True, 5)


def test_initial_values_are_those_given_in_every_dtype():
    cell = IRNN(3, 4, eta=.1, alpha=.7, dtype=torch.float64).cells[0]
    assert cell.eta.tolist() == [.1]*5 and cell.alpha.tolist() == [.7]
    assert IRNN(3, 4, steps=2, eta=torch.tensor([.25, .5])).cells[0].eta.tolist() == [.25, .5]
    assert all(p.dim() > 0 for p in IRNN(3, 4).parameters())          # FSDP2 shards no scalars


def test_what_a_cell_begins_with_and_how_it_is_printed():
    cell = IRNNCell(3, 400, steps=4)
    assert cell.eta.tolist() == [.5]*4                                # 1/√steps each
    for weight in (cell.weight_ih, cell.weight_hh): assert .95/20 < weight.abs().max() <= 1/20
    assert 'nonlinearity=Softplus,' in repr(IRNNCell(3, 4, nonlinearity=torch.nn.Softplus()))
    assert 'nonlinearity=sin,' in repr(IRNNCell(3, 4, nonlinearity=torch.sin))


# --- what else torch can do with a module ---------------------------------------------------------

@pytest.mark.parametrize('nonlinearity', ['relu', 'tanh', F.silu])
def test_no_sequences_forward_and_backward(nonlinearity):
    "nn.RNN takes an empty batch, and so do we; the gradients are zeros."
    x = torch.randn(5, 0, 3, requires_grad=True)
    options = dict(num_layers=2, bidirectional=True, learn_alpha=True, learn_h0=True)
    rnn = IRNN(3, 4, nonlinearity=nonlinearity, **options)
    out, h_n = rnn(x)
    (out.sum() + h_n.sum()).backward()
    assert out.shape == (5, 0, 8) and h_n.shape == (4, 0, 4) and x.grad.shape == x.shape
    assert not any(p.grad.any() for p in rnn.parameters() if p.requires_grad)


def test_the_result_may_be_changed_in_place():
    rnn, x = IRNN(3, 4, nonlinearity='tanh').double(), torch.randn(5, 2, 3).double()
    found = []
    for relu in (torch.relu, torch.relu_):
        rnn.zero_grad()
        relu(rnn(x)[0]).sum().backward()
        found.append([p.grad.clone() for p in rnn.parameters() if p.requires_grad])
    torch.testing.assert_close(*found)


def test_gradients_of_each_sample():
    "vmap of grad: as one after the other."
    rnn, x = IRNN(3, 4, 2, nonlinearity='tanh').double(), torch.randn(5, 6, 3).double()
    weights = {name: p.detach() for name, p in rnn.named_parameters()}
    loss = lambda weights, x: torch.func.functional_call(rnn, weights, (x,))[0].square().sum()
    each = torch.func.vmap(torch.func.grad(loss), (None, 1))(weights, x)
    for i in range(6):
        rnn.zero_grad()
        rnn(x[:, i])[0].square().sum().backward()
        for name, p in rnn.named_parameters():
            if p.requires_grad: torch.testing.assert_close(each[name][i], p.grad)
    whole = torch.func.grad(loss)(weights, x)
    for name in whole: torch.testing.assert_close(whole[name], each[name].sum(0))


def test_forward_mode_and_function_transforms():
    rnn, x = IRNN(3, 4, nonlinearity='tanh').double(), torch.randn(5, 2, 3).double()
    f, v = lambda x: rnn(x)[0].sum(0), torch.randn_like(x)
    true = torch.autograd.functional.jacobian(f, x)
    for jacobian in (torch.func.jacfwd, torch.func.jacrev):
        torch.testing.assert_close(jacobian(f)(x), true)
    for strategy in ('reverse-mode', 'forward-mode'):
        found = torch.autograd.functional.jacobian(f, x, vectorize=True, strategy=strategy)
        torch.testing.assert_close(found, true)
    out, grads = f(x.requires_grad_()), torch.randn(3, 2, 4, dtype=torch.float64)
    found, = torch.autograd.grad(out, x, grads, is_grads_batched=True)
    torch.testing.assert_close(found, torch.einsum('gbd,bdtcn->gtcn', grads, true))
    pushed = (true*v).sum((-3, -2, -1))
    for no_grad in (False, True):
        with forward_ad.dual_level(), torch.set_grad_enabled(not no_grad):
            dual = f(forward_ad.make_dual(x.detach(), v))
            torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, pushed)


@pytest.mark.parametrize('grad', [False, True])
def test_compiled(grad):
    "One graph break around each chain, with and without gradients, at two lengths."
    rnn, x = IRNN(3, 4, num_layers=2, bidirectional=True), torch.randn(7, 2, 3)
    compiled = torch.compile(rnn, backend='aot_eager')
    with torch.set_grad_enabled(grad):
        for x in (x, x[:5]): torch.testing.assert_close(compiled(x), rnn(x))
    if not grad: return
    found = []
    for net in (compiled, rnn):
        rnn.zero_grad()
        net(x)[0].square().sum().backward()
        found.append([p.grad.clone() for p in rnn.parameters() if p.requires_grad])
    torch.testing.assert_close(*found)


def test_activation_by_name_function_or_object():
    assert activation('relu') is activation(torch.relu) is ACTIVATIONS['relu']
    assert activation(SOFTPLUS) is SOFTPLUS
    assert activation(F.gelu).derivative is None
    a = torch.tensor([-2., -.5, .5, 2.], requires_grad=True)
    for phi in (*ACTIVATIONS.values(), SOFTPLUS):
        torch.testing.assert_close(phi.derivative(phi(a)), torch.autograd.grad(phi(a).sum(), a)[0])
        torch.testing.assert_close(phi.apply_(a.detach().clone()), phi(a).detach())
