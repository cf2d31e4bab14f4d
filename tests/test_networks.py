"The networks of the study: three words each, what each word means, and networks beside them."
import copy, math
import pytest, torch
from torch import nn
from deq_irnn.isometry import Rotation
from deq_irnn.networks import (FACTORS, ISOMETRIC, MODELS, DampedRotation, Decay, DeepMLP, InputDecay, LinearRecurrence, MinGRU, Model, build, count, factorial,
                               find_model, set_tolerance, width_for)
from deq_irnn.tasks import get_task

NAMES = [*(f'mlp/{t}/state' for t in FACTORS['transition']), *(f'{i}/rotation/input' for i in FACTORS['injection']), 'equilibrium/minus/none']

@pytest.mark.parametrize('name', NAMES + [n for n in MODELS if n not in ('transformer', 'root-minus-stacked', 'root-rotation-stacked')])
def test_a_network_reads_in_pieces_and_learns(name):
    torch.manual_seed(0)
    rnn = find_model(name).make(3, 8, 12)
    set_tolerance(rnn, 1e-6)
    x = torch.randn(12, 2, 3)
    whole, end = rnn(x)
    first, state = rnn(x[:5])
    second, last = rnn(x[5:], state)
    torch.testing.assert_close(torch.cat((first, second)), whole, atol=1e-4, rtol=1e-3)
    assert whole.shape == (12, 2, 8)
    whole.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in rnn.parameters() if p.requires_grad)

@pytest.mark.parametrize('make', [Decay, InputDecay, DampedRotation])
def test_what_forgets_against_a_loop(make):
    torch.manual_seed(0)
    A = make(3, 6, length=20)
    x, b, h = torch.randn(9, 2, 3), torch.randn(9, 2, 6), torch.randn(2, 6)
    states = A(x, b, h)
    for k in range(9):
        if make is Decay: h = h*torch.exp(-A.log_rate.exp())
        elif make is InputDecay: h = h*torch.sigmoid(A.gate(x[k]))
        else:
            plain = Rotation(3, 6, length=20)
            plain.load_state_dict({'log_angle': A.log_angle})
            h = plain(x[k:k + 1], None, h)[0]*torch.exp(-A.log_rate.exp()).repeat(2)
        h = h + b[k]
        torch.testing.assert_close(states[k], h, atol=1e-5, rtol=1e-4)
    summed = A.apply_summary(A.summary(x), torch.eye(6)[:2])
    torch.testing.assert_close(summed, A(x, None, torch.eye(6)[:2])[-1], atol=1e-5, rtol=1e-4)

@pytest.mark.parametrize('transition', FACTORS['transition'])
@pytest.mark.parametrize('gate', FACTORS['gate'])
def test_the_gradient_is_constant_just_where_it_is_said(transition, gate):
    torch.manual_seed(1)
    rnn, x = factorial(f'tanh/{transition}/{gate}').make(3, 8, 15), torch.randn(15, 1, 3)
    J = torch.autograd.functional.jacobian(lambda h: rnn(x, h)[1].flatten(), torch.zeros(1, 1, 8)).view(8, 8)
    values = torch.linalg.svdvals(J)
    assert ((values - 1).abs().max() < 1e-4) == (transition in ISOMETRIC) and values.max() < 1 + 1e-4

def test_deeper_in_its_place():
    torch.manual_seed(0)
    net, x = DeepMLP(2, 4, layers=3), torch.randn(5, 1, 2)
    p = x @ net.weight_ih.T + net.bias
    s = torch.tanh(p)
    for U in (net.weight_hh, *net.more): s = torch.tanh(s @ U.T + p)
    torch.testing.assert_close(net(x), s)

@pytest.mark.parametrize('name, word', [('mlp/rotation', 'injection/transition/gate'), ('mlp/rotation/state/more', 'injection/transition/gate'),
                                        ('mlp/rotation/state/0', 'number of layers'), ('mlp/rotation/2', "'2'"), ('mpl/rotation/state', "'mpl'"),
                                        ('mlp/rotate/state', "'rotate'"), ('mlp/rotation/some', "'some'"), ('nothing', "'nothing'")])
def test_a_wrong_name_says_what_there_is(name, word):
    with pytest.raises(ValueError, match=word): find_model(name)

@pytest.mark.parametrize('name', ['mlp/rotation/state', 'tanh/decay/none', 'equilibrium/input_rotation/input'])
def test_a_number_of_layers_behind_three_words(name):
    x = torch.randn(9, 2, 3)
    torch.manual_seed(0); one = find_model(f'{name}/1').make(3, 8, 9)
    torch.manual_seed(0); same = find_model(name).make(3, 8, 9)
    assert torch.equal(one(x)[0], same(x)[0])
    out, h = find_model(f'{name}/3').make(3, 8, 9)(x)
    assert out.shape == (9, 2, 8) and h.shape == (3, 2, 8) and '3 layers' in find_model(f'{name}/3').about

def test_each_layer_of_the_stacked_lstm_is_told_how_long_it_is():
    rnn = find_model('lstm-chrono-stacked').make(3, 500, 100)
    for k in range(2):
        forget = getattr(rnn, f'bias_ih_l{k}')[500:1000].exp() + 1
        assert 1.99 < forget.min() < 4 and 96 < forget.max() < 101 and getattr(rnn, f'bias_hh_l{k}').eq(0).all()
    a, b = rnn.bias_ih_l0, rnn.bias_ih_l1
    assert not torch.equal(a, b) and torch.equal(b[:500], -b[500:1000])

def test_a_read_out_reads_the_states_of_the_isometry():
    net, x = find_model('isometric-read-out').make(3, 8, 15), torch.randn(15, 2, 3)
    states, last = net.rnn(x)
    out, h = net(x)
    torch.testing.assert_close(out, torch.tanh(states @ net.out.weight.T + net.out.bias))
    assert torch.equal(h, last) and torch.equal(net(x[8:], net(x[:8])[1])[1], net.rnn(x[8:], net.rnn(x[:8])[1])[1])
    J = torch.autograd.functional.jacobian(lambda h: net(x[:, :1], h)[1].flatten(), torch.zeros(1, 1, 8))
    torch.testing.assert_close(torch.linalg.svdvals(J.view(8, 8)), torch.ones(8))

def test_a_word_of_ones_own(monkeypatch):
    monkeypatch.setitem(FACTORS['injection'], 'cubed', lambda N, D: nn.Sequential(nn.Linear(N, D), nn.Hardtanh()))
    assert find_model('cubed/rotation/none').make(3, 8, 9)(torch.randn(9, 2, 3))[0].shape == (9, 2, 8)

@pytest.mark.parametrize('name', ['lstm', 'transformer', 'mlp/orthogonal/state', 'equilibrium/rotation/state', 'linear'])
@pytest.mark.parametrize('params', [3000, 20_000])
def test_equal_parameters(name, params):
    task = get_task('digits')
    model = find_model(name)
    before = torch.get_rng_state()
    width = width_for(model, task, params)
    assert torch.equal(before, torch.get_rng_state()) and width % model.multiple == 0
    sizes = [abs(count(build(name, task, w)) - params) for w in (width, width + model.multiple, max(width - model.multiple, model.multiple))]
    assert sizes[0] == min(sizes)

def test_no_wider_than_the_widest():
    task, model = get_task('digits'), find_model('tanh/rotation/none')
    assert width_for(model, task, 20_000, 64) == 64 and width_for(model, task, 20_000) > 500
    assert width_for(find_model('lstm'), task, 3000, 64) == width_for(find_model('lstm'), task, 3000)
    with pytest.raises(ValueError, match='params'): width_for(Model(lambda F, D, T: nn.RNN(F, 4), 'always small'), task, 10**6)

def test_told_how_long_the_sequence_is():
    torch.manual_seed(0)
    for name, of_keeping in (('lstm-chrono', lambda r: r.bias_ih_l0[400:800]), ('gru-chrono', lambda r: r.bias_ih_l0[400:800])):
        memory = 1/(1 - torch.sigmoid(of_keeping(find_model(name).make(1, 400, 300))))
        assert memory.min() < 15 and 280 < memory.max() < 301
    update = 1/torch.sigmoid(MinGRU(1, 400, 300).update.bias)
    assert update.min() < 15 and 280 < update.max() < 301 and LinearRecurrence(1, 4, 300).log_rate.max() < 0 < math.inf


@pytest.mark.parametrize('low', (torch.float16, torch.bfloat16))
def test_a_damped_rotation_in_half_precision(low):
    "A recurrence of complex numbers, which have no half precision: it is run in float32."
    torch.manual_seed(0)
    cell, x, b, h0 = DampedRotation(3, 8).to(low), torch.randn(9, 2, 3).to(low), torch.randn(9, 2, 8).to(low), torch.randn(2, 8).to(low)
    exact = copy.deepcopy(cell).double()(x.double(), b.double(), h0.double())
    out = cell(x, b, h0)
    assert out.dtype == low and (out.double() - exact).abs().max() < 2*torch.finfo(low).eps*exact.abs().max()
