"The plumbing of nn.RNN (room 32), around cells of one's own."
import copy, io, itertools, pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

from deq_irnn.irnn import IRNN
from deq_irnn.recurrent import RecurrentBase


class Sum(nn.Module):
    "h_t = h_0 + x_1 + … + x_t: no parameters."
    def forward(self, x, h): return h + x.cumsum(0)


class TorchCell(nn.Module):
    "nn.RNN's own layer, in one direction."
    def __init__(self, input_size, hidden_size, bias=True):
        super().__init__()
        self.rnn = nn.RNN(input_size, hidden_size, bias=bias)

    def reset_parameters(self): self.rnn.reset_parameters()

    def forward(self, x, h0): return self.rnn(x, h0[None])[0]


class Ours(RecurrentBase):
    def __init__(self, input_size, hidden_size, num_layers=1, bias=True, **options):
        make_cell = lambda size: TorchCell(size, hidden_size, bias)
        super().__init__(input_size, hidden_size, num_layers, bias, make_cell=make_cell, **options)


def pair(**options):
    "nn.RNN, and ours with the same weights."
    theirs, ours = nn.RNN(5, 6, **options), Ours(5, 6, **options)
    directions = ('', '_reverse')[:1 + ours.bidirectional]
    ends = [f'_l{k}{back}' for k in range(ours.num_layers) for back in directions]
    for cell, end in zip(ours.cells, ends):
        for name, p in cell.rnn.named_parameters():
            p.data.copy_(getattr(theirs, name.replace('_l0', end)))
    return theirs, ours


def outcome(rnn, *args):
    "Every tensor of what rnn returns, or the type and words of its error."
    try: out, h_n = rnn(*args)
    except Exception as e: return type(e), str(e).replace(type(rnn).__name__ + ':', 'RNN:')
    if not isinstance(out, PackedSequence): return out, h_n
    return *(v for v in out if v is not None), h_n


NAMES = ('num_layers', 'bidirectional', 'batch_first', 'bias')
KINDS = [dict(zip(NAMES, kind)) for kind in itertools.product((1, 3), *[(False, True)]*3)]


@pytest.mark.parametrize('options', KINDS, ids=str)
def test_numbers_of_rnn_in_every_form(options):
    theirs, ours = pair(**options)
    first = options['batch_first']
    x, h = torch.randn(4, 4, 5), torch.randn(len(ours.cells), 4, 6)
    unsorted = pack_padded_sequence(x, [2, 4, 1, 3], first, enforce_sorted=False)
    in_order = pack_padded_sequence(x, [4, 3, 3, 1], first)
    none = x[:0] if first else x[:, :0]
    for args in ((x,), (x, h), (x[0],), (x[0], h[:, 0]), (unsorted,), (unsorted, h), (in_order, h),
                 (none,), (x[:, :1], h[:, :4 if first else 1])):
        torch.testing.assert_close(outcome(ours, *args), outcome(theirs, *args))


def test_errors_of_rnn_in_its_own_words():
    theirs, ours = pair(num_layers=2)
    x, h = torch.randn(4, 3, 5), torch.randn(2, 3, 6)
    packed = pack_sequence([x[:, 0]])
    for args in ((x[..., :4],), (x[0, :, :4],), (x[0, 0],), (x[None],), (x[:0],), (x, h[..., :3]),
                 (x, h[:, :1]), (x, h[:1]), (x, h[:, 0]), (x[0], h), (x.double(),), (x.long(),),
                 (pack_sequence([x[:, 0, :4]]),), (packed, h), ([1, 2],)):
        found = outcome(ours, *args)
        assert isinstance(found[0], type) and found == outcome(theirs, *args)


def test_the_function_that_makes_cells_is_called_for_each_and_not_kept():
    sizes = []
    def make_cell(size):
        sizes.append(size)
        return TorchCell(size, 6)
    rnn = RecurrentBase(5, 6, num_layers=2, bidirectional=True, make_cell=make_cell)
    assert sizes == [5, 5, 12, 12]
    assert make_cell not in rnn.__dict__.values()
    x = torch.randn(4, 3, 5)
    lambdas = RecurrentBase(5, 6, make_cell=lambda size: TorchCell(size, 6))
    twins = copy.deepcopy(lambdas), pickle.loads(pickle.dumps(lambdas))
    for twin in twins: assert torch.equal(twin(x)[0], lambdas(x)[0])
    file = io.BytesIO()
    torch.save(lambdas, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x)[0], lambdas(x)[0])


def test_cells_without_parameters_in_both_directions():
    net = RecurrentBase(3, 3, bidirectional=True, make_cell=lambda size: Sum())
    x = torch.randn(4, 2, 3)
    out, h_n = net(x)
    torch.testing.assert_close(out[..., :3], x.cumsum(0))
    torch.testing.assert_close(out[..., 3:], x.flip(0).cumsum(0).flip(0))
    torch.testing.assert_close(h_n, x.sum(0).expand(2, 2, 3))


def test_wrong_arguments_are_named():
    make = dict(make_cell=lambda size: Sum())
    with pytest.raises(TypeError, match='make_cell'): RecurrentBase(3, 3)
    with pytest.raises(TypeError, match='make_cell.*Sum'): RecurrentBase(3, 3, make_cell=[Sum()])
    with pytest.raises(TypeError, match='not a Module'):
        RecurrentBase(3, 3, make_cell=lambda size: size)
    with pytest.raises(TypeError, match='learn_h0'): RecurrentBase(3, 3, learn_h0='yes', **make)
    with pytest.raises(TypeError, match='Sum.*reset_parameters'):
        RecurrentBase(3, 3, **make).reset_parameters()

class Same(nn.Module):
    "A cell that returns its input, which may be of the wrong width."
    def forward(self, x, h): return x


def test_states_of_a_wrong_shape_are_refused():
    with pytest.raises(RuntimeError, match=r'Same.*\(4, 2, 5\).*\(4, 2, 3\)'):
        RecurrentBase(3, 5, make_cell=lambda size: Same())(torch.randn(4, 2, 3))


# --- a state of nn.LSTM ---------------------------------------------------------------------------

@pytest.mark.parametrize('make', [lambda: Ours(5, 6, 2), lambda: IRNN(5, 6, 2)])
def test_the_state_of_an_lstm_is_refused_with_what_to_write(make):
    rnn, x = make(), torch.randn(4, 3, 5)
    h = torch.zeros(2, 3, 6)
    words = r'got tuple.*write rnn\(x, h\).*nn.LSTM.*drop c'
    for input in (x, pack_sequence([x[:, 0], x[:3, 1], x[:2, 2]])):
        with pytest.raises(TypeError, match=words): rnn(input, (h, h))
    with pytest.raises(TypeError, match='got list'): rnn(x, [h, h])
    with pytest.raises(TypeError, match='got tuple'): rnn.step(x[0], (h, h))


# --- a learned start ------------------------------------------------------------------------------

def test_learned_start():
    rnn, x = Ours(5, 6, 2, bidirectional=True, learn_h0=True), torch.randn(4, 3, 5)
    assert rnn.h_0.shape == (4, 6) and not rnn.h_0.any() and 'learn_h0=True' in repr(rnn)
    with torch.no_grad(): rnn.h_0.normal_()
    h = rnn.h_0[:, None].expand(4, 3, 6)
    torch.testing.assert_close(rnn(x), rnn(x, h))
    torch.testing.assert_close(rnn(x[:, 0]), rnn(x[:, 0], rnn.h_0))
    packed = pack_padded_sequence(x, [2, 4, 1], enforce_sorted=False)
    torch.testing.assert_close(rnn(packed)[0].data, rnn(packed, h)[0].data)
    assert rnn(x[:, :0])[1].shape == (4, 0, 6)
    rnn(x)[0].sum().backward()
    assert rnn.h_0.grad.abs().min() > 0
    other = Ours(5, 6, 2, bidirectional=True, learn_h0=True)
    assert not torch.equal(other(x)[0], rnn(x)[0])
    other.load_state_dict(rnn.state_dict())                  # it is in checkpoints
    assert torch.equal(other(x)[0], rnn(x)[0])
    assert torch.equal(copy.deepcopy(rnn)(x)[0], rnn(x)[0])
    rnn.reset_parameters()
    assert not rnn.h_0.any()
    assert Ours(5, 6).h_0 is None and 'h_0' not in Ours(5, 6).state_dict()


def test_learned_start_learns():
    "The sum of a sequence, to which 3 is to be added."
    rnn = RecurrentBase(1, 1, make_cell=lambda size: Sum(), learn_h0=True)
    optimizer = torch.optim.SGD(rnn.parameters(), lr=.1)
    for _ in range(50):
        x = torch.randn(5, 8, 1)
        optimizer.zero_grad()
        (rnn(x)[1][0] - x.sum(0) - 3).square().mean().backward()
        optimizer.step()
    assert abs(rnn.h_0.item() - 3) < .01


def test_learned_start_of_another_dtype_and_on_meta():
    rnn = IRNN(3, 4, learn_h0=True, dtype=torch.float64)
    assert rnn.h_0.dtype == rnn(torch.randn(5, 2, 3).double())[0].dtype == torch.float64
    empty = IRNN(3, 4, learn_h0=True, device='meta')
    assert empty.h_0.is_meta
    empty.to_empty(device='cpu').reset_parameters()
    assert not empty.h_0.any() and torch.isfinite(empty(torch.randn(5, 2, 3))[0]).all()


# --- a stream -------------------------------------------------------------------------------------

@pytest.mark.parametrize('first', [False, True])
@pytest.mark.parametrize('learn', [False, True])
def test_stream(first, learn):
    rnn, x = Ours(5, 6, 2, batch_first=first, learn_h0=learn), torch.randn(7, 3, 5)
    if learn: nn.init.normal_(rnn.h_0)
    whole, h_n = rnn(x.transpose(0, 1) if first else x)
    if first: whole = whole.transpose(0, 1)
    for x, whole, h_n in ((x, whole, h_n), (x[:, 1], whole[:, 1], h_n[:, 1])):
        state, steps = None, []
        for x_t in x:
            y, state = rnn.step(x_t, state)
            steps.append(y)
        torch.testing.assert_close(torch.stack(steps), whole)
        torch.testing.assert_close(state, h_n)


def test_stream_refuses_what_has_none():
    x = torch.randn(7, 3, 5)
    with pytest.raises(ValueError, match='step needs bidirectional=False'):
        Ours(5, 6, bidirectional=True).step(x[0])
    with pytest.raises(ValueError, match=r'one time step.*\(7, 3, 5\)'): Ours(5, 6).step(x)


# --- open to subclasses ---------------------------------------------------------------------------

def test_a_subclass_may_look_at_the_input():
    class Picky(Ours):
        def check_input(self, input):
            super().check_input(input)
            if isinstance(input, PackedSequence): raise ValueError('no packed sequences here')
    rnn, x = Picky(5, 6), torch.randn(4, 3, 5)
    rnn(x), rnn.step(x[0])
    with pytest.raises(ValueError, match='no packed'): rnn(pack_sequence([x[:, 0]]))
    with pytest.raises(ValueError, match='Picky: Expected input to be 2D or 3D'): rnn(x[None])


def test_dropout_between_layers_in_training_only():
    rnn, x = Ours(5, 6, 2, dropout=.5), torch.randn(4, 3, 5)
    assert not torch.equal(rnn(x)[0], rnn(x)[0])
    rnn.eval()
    assert torch.equal(rnn(x)[0], rnn(x)[0])


def test_shown():
    assert Ours(5, 6, 2, batch_first=True).extra_repr() == '5, 6, num_layers=2, batch_first=True'
    assert Ours(5, 6, bias=False).flatten_parameters() is None
