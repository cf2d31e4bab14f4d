"Transitions: beside the loop of their own matrices, isometric to 1e-10 at T = 1000, summaries, derivatives; what each can count; parametrizations and transitions of one's own."
import copy
import math
import pickle
from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import deq_irnn.scan as scan
from deq_irnn.isometry import (TRANSITIONS, Blocks, Exponential, Householder, InputRotation, MadeBlocks, Orthogonal, Parametrization,
                               Rotation, Sign, Transition, make_transition, orthogonal_scan)
from deq_irnn.scan import affine_scan, linear_scan, rotation_scan

F64 = torch.float64


@dataclass(frozen=True)
class Cayley(Parametrization):
    "One of one's own: R = (I − A)⁻¹ (I + A)."
    def size(self, block): return block*(block - 1)//2
    def start(self, block): return torch.zeros(self.size(block))
    def __call__(self, numbers, block):
        i, j = torch.triu_indices(block, block, 1)
        A = numbers.new_zeros(*numbers.shape[:-2], block, block, numbers.shape[-1])
        A[..., i, j, :] = numbers
        A = (A - A.transpose(-2, -3)).movedim(-1, -3)
        eye = torch.eye(block, dtype=numbers.dtype)
        return torch.linalg.solve(eye - A, eye + A).movedim(-3, -1)


class Shift(Transition):
    "A transition of one's own, with nothing but `forward`."
    def forward(self, x, b, h0):
        D = self.hidden_size
        return orthogonal_scan(torch.eye(D, dtype=h0.dtype).roll(1, 0).expand(len(x), 1, 1, D, D), b, h0)


SPECS = {**TRANSITIONS, 'exponential 3': partial(Orthogonal, block=3, parametrization=Exponential()),
         'exponential 4': partial(Orthogonal, block=4, parametrization=Exponential()),
         'exponential 6': partial(Orthogonal, block=6, parametrization=Exponential()),
         'four reflections': partial(Orthogonal, block=6, parametrization=Householder(4)),
         'three reflections': partial(Orthogonal, block=2, parametrization=Householder(3)),
         'cayley': partial(Orthogonal, block=3, parametrization=Cayley()), 'shift': Shift}


@pytest.fixture(params=SPECS)
def cell(request):
    "Each transition, with random weights."
    made = make_transition(SPECS[request.param], 3, 12, dtype=F64)
    for p in made.parameters(): nn.init.normal_(p)
    return made


def data(T, B=2, N=3, D=12): return (torch.randn(s, dtype=F64) for s in ((T, B, N), (T, B, D), (B, D)))


def matrices(cell, x):
    "Every R_k of every sequence, (T, B, D, D), one step at a time."
    eye = torch.eye(cell.hidden_size, dtype=x.dtype)
    return torch.stack([torch.stack([cell(x[k:k+1, s:s+1].repeat(1, len(eye), 1), None, eye)[0].T for s in range(x.shape[1])]) for k in range(len(x))])


@pytest.mark.parametrize('T', [1, 2, 33, 100])
def test_states_like_the_loop_of_its_matrices(cell, T):
    x, b, h0 = data(T)
    R, h, slow = matrices(cell, x), h0, []
    for A, y in zip(R, b):
        h = (A @ h[..., None])[..., 0] + y
        slow.append(h)
    torch.testing.assert_close(cell(x, b, h0), torch.stack(slow))
    torch.testing.assert_close(cell(x, None, h0), cell(x, torch.zeros_like(b), h0))
    torch.testing.assert_close(R.mT @ R, torch.eye(12, dtype=F64).expand(T, 2, 12, 12))


def test_all_singular_values_are_one_at_1000_steps(cell):
    x, b, h0 = data(1000)
    J = torch.func.jacrev(lambda h: cell(x[:, :1], b[:, :1], h[None])[-1, 0])(h0[0])
    assert (torch.linalg.svdvals(J) - 1).abs().max() < 1e-10
    middle = cell(x[:, :1], b[:, :1], h0[:1])[399].detach()
    J = torch.func.jacrev(lambda h: cell(x[400:, :1], b[400:, :1], h[None])[-1, 0])(middle[0])
    assert (torch.linalg.svdvals(J) - 1).abs().max() < 1e-10


@pytest.mark.parametrize('T', [1, 2, 7, 100, 1001])
def test_summary(cell, T):
    "What it does to a state; two halves, one after the other; the default of the base class agrees."
    x, b, h0 = data(T)
    whole, cut = cell.summary(x), T//3
    assert torch.is_tensor(whole) and len(whole) in (1, 2)
    end = cell(x, b, torch.zeros_like(h0))[-1]
    torch.testing.assert_close(cell.apply_summary(whole, h0) + end, cell(x, b, h0)[-1])
    torch.testing.assert_close(Transition.apply_summary(cell, Transition.summary(cell, x), h0) + end, cell(x, b, h0)[-1])
    if cut:
        halves = cell.apply_summary(cell.summary(x[cut:]), cell.apply_summary(cell.summary(x[:cut]), h0))
        torch.testing.assert_close(halves, cell.apply_summary(whole, h0))
    assert cell.apply_summary(whole, h0.float()).dtype == torch.float32


def test_summary_is_differentiable(cell):
    x, _, h0 = data(9)
    leaves = [p for p in cell.parameters()] + [h0.requires_grad_()]
    direct = torch.autograd.grad(cell(x, None, h0)[-1].sin().sum(), leaves)
    chained = cell.apply_summary(cell.summary(x[4:]), cell.apply_summary(cell.summary(x[:4]), h0))
    for ours, exact in zip(torch.autograd.grad(chained.sin().sum(), leaves), direct): torch.testing.assert_close(ours, exact)


def test_derivatives_to_second_order(cell):
    small = type(cell).__name__ == 'Orthogonal'
    x, b, h0 = (t.requires_grad_() for t in data(2 if small else 4, B=1))
    names = [n for n, _ in cell.named_parameters()]
    def f(x, b, h0, *weights): return torch.func.functional_call(cell, dict(zip(names, weights)), (x, b, h0))
    leaves = (x, b, h0, *(p.detach().clone().requires_grad_() for p in cell.parameters()))
    w = torch.randn(h0.shape, dtype=F64)
    def loss(*a): return (f(*a).sin()*w).sum()
    assert gradcheck(loss, leaves, fast_mode=small) and gradgradcheck(loss, leaves, fast_mode=True)


def test_per_sample_gradients(cell):
    "torch.vmap of torch.func.grad, as for differentially private training."
    x, b, h0 = data(40)
    weights = {n: p.detach() for n, p in cell.named_parameters()}
    def loss(weights, x, b, h): return torch.func.functional_call(cell, weights, (x[:, None], b[:, None], h[None])).sin().sum()
    if not weights: pytest.skip('no weights')
    each = torch.func.vmap(torch.func.grad(loss), (None, 1, 1, 0))(weights, x, b, h0)
    for s in range(2):
        for n, g in torch.func.grad(loss)(weights, x[:, s], b[:, s], h0[s]).items(): torch.testing.assert_close(each[n][s], g)


def test_autocast_and_half_precision(cell):
    "Angles and matrices in full precision under autocast; a bfloat16 injection gives bfloat16 states, summed in float32."
    x, b, h0 = (t.float() for t in data(70))
    cell = cell.float()
    with torch.autocast('cpu', dtype=torch.bfloat16): inside = cell(x, b, h0)
    torch.testing.assert_close(inside, cell(x, b, h0), rtol=0, atol=0)
    low = cell(x, b.bfloat16(), h0)
    assert low.dtype == torch.bfloat16 and (low.float() - cell(x, b, h0)).abs().max() < .02*cell(x, b, h0).abs().max()


def test_copies_meta_and_restart(cell):
    x, b, h0 = data(20)
    for twin in (copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))): torch.testing.assert_close(twin(x, b, h0), cell(x, b, h0))
    spec = next(s for s in SPECS.values() if repr(make_transition(s, 3, 12)) == repr(cell))
    empty = make_transition(spec, 3, 12, device='meta', dtype=F64)
    assert all(p.is_meta for p in empty.parameters())
    empty = empty.to_empty(device='cpu')
    empty.reset_parameters()
    assert all(p.isfinite().all() for p in empty.parameters())
    empty.load_state_dict(cell.state_dict())
    torch.testing.assert_close(empty(x, b, h0), cell(x, b, h0))


def test_no_steps(cell):
    h0 = torch.randn(2, 12, dtype=F64)
    x = torch.zeros(0, 2, 3, dtype=F64)
    assert cell(x, torch.zeros(0, 2, 12, dtype=F64), h0).shape == (0, 2, 12) == cell(x, None, h0).shape
    if not isinstance(cell, Shift): torch.testing.assert_close(cell.apply_summary(cell.summary(x), h0), h0)


# What each can count

def test_parity_and_modulo_n_exactly():
    bits = torch.randint(2, (10_000, 3, 1)).double()
    for n in (2, 3, 5, 12):
        cell = InputRotation(1, 2, dtype=F64)
        with torch.no_grad():
            cell.log_angle.fill_(-torch.inf)
            cell.weight_angle.fill_(2*math.pi/n)
        u, v = cell(bits, None, torch.tensor([1., 0], dtype=F64).expand(3, 2)).unbind(-1)
        assert ((torch.atan2(v, u)*n/(2*math.pi)).round().remainder(n) == bits[..., 0].cumsum(0).remainder(n)).all()


def test_with_nothing_added_angles_do_not_see_the_order_and_matrices_do():
    x = torch.randn(50, 1, 3, dtype=F64)
    for seed in range(5):
        torch.manual_seed(seed)
        h0, shuffled = torch.randn(1, 12, dtype=F64), x[torch.randperm(50)]
        for spec, sees in (('minus', False), ('rotation', False), ('input_rotation', False), ('orthogonal', True)):
            cell = make_transition(spec, 3, 12, dtype=F64)
            if spec == 'input_rotation': nn.init.normal_(cell.weight_angle)
            assert torch.allclose(cell(x, None, h0)[-1], cell(shuffled, None, h0)[-1]) != sees


def test_log_angles():
    "They begin log-spaced from 0.3/length to π, and one step of Adam moves the slow ones by little, however long the sequence."
    cell = Rotation(1, 64, length=1000)
    theta = cell.angles(torch.zeros(1, 1, 1)).detach()
    torch.testing.assert_close(theta, torch.logspace(math.log10(3e-4), math.log10(math.pi), 32), rtol=1e-4, atol=0)
    cell(torch.zeros(1000, 1, 1), torch.randn(1000, 1, 64), torch.zeros(1, 64))[-1].sum().backward()
    torch.optim.Adam(cell.parameters(), 3e-3).step()
    moved = 1000*(cell.angles(torch.zeros(1, 1, 1)).detach() - theta).abs()
    assert moved[:16].max() < .1 < 3 < moved[-1]


def test_float32_after_100_000_steps():
    torch.manual_seed(0)
    h0 = torch.randn(1, 12)
    x = torch.randn(100_000, 1, 3)
    for name in TRANSITIONS:
        cell = make_transition(name, 3, 12)
        states = cell(x, None, h0)
        assert (states[-1].norm()/h0.norm() - 1).abs() < 1e-3
        if name == 'orthogonal': assert (states - copy.deepcopy(cell).double()(x.double(), None, h0.double())).abs().max() < .02


# orthogonal_scan

def loop(R, b, h, reverse=False):
    out = [None]*len(R)
    for t in (reversed(range(len(R))) if reverse else range(len(R))):
        h = (R[t] @ h.unflatten(-1, (R.shape[-1], -1)).mT[..., None])[..., 0].mT.flatten(-2) + (0 if b is None else b[t])
        out[t] = h
    return torch.stack(out)


@pytest.mark.parametrize('shared', [False, True])
@pytest.mark.parametrize('T', [1, 2, 31, 32, 33, 64, 65, 200])
def test_orthogonal_scan_like_the_loop(T, shared):
    for reverse in (False, True):
        R = (torch.randn(T, 1 if shared else 2, 3, 4, 4, dtype=F64)/2).requires_grad_()
        b, h0 = torch.randn(T, 2, 12, dtype=F64, requires_grad=True), torch.randn(2, 12, dtype=F64, requires_grad=True)
        w = torch.randn(T, 2, 12, dtype=F64)
        ours, slow = orthogonal_scan(R, b, h0, reverse), loop(R, b, h0, reverse)
        torch.testing.assert_close(ours, slow)
        for x, y in zip(torch.autograd.grad(ours, (R, b, h0), w), torch.autograd.grad(slow, (R, b, h0), w)): torch.testing.assert_close(x, y)
        torch.testing.assert_close(orthogonal_scan(R, None, h0, reverse), loop(R, None, h0, reverse))
        torch.testing.assert_close(orthogonal_scan(R, b, reverse=reverse), loop(R, b, torch.zeros_like(h0), reverse))


def test_orthogonal_scan_twice_differentiable():
    for shape in ((4, 2, 2, 2, 2), (4, 1, 2, 2, 2), (3, 2, 1, 3, 3)):
        T, _, n, d, _ = shape
        leaves = [torch.randn(s, dtype=F64, requires_grad=True) for s in (shape, (T, 2, n*d), (2, n*d))]
        for reverse in (False, True):
            def f(R, b, h0): return orthogonal_scan(R, b, h0, reverse)
            assert gradcheck(f, leaves) and gradgradcheck(f, leaves)


@pytest.mark.parametrize('width', [1, 12, 20])
def test_orthogonal_scan_in_tiles(width, monkeypatch):
    monkeypatch.setattr(scan.Coefficient, 'width', lambda kind, b: width)
    for T in (5, 768, 1000):
        R, b = torch.randn(T, 1, 1, 2, 2, dtype=F64)/2, torch.randn(T, 1, 2, dtype=F64)
        for reverse in (False, True): torch.testing.assert_close(orthogonal_scan(R, b, None, reverse), loop(R, b, torch.zeros(1, 2, dtype=F64), reverse))


def test_blocks_of_two_are_the_pairs_of_rotation_scan_and_one_block_is_a_dense_scan():
    theta, b, h0 = torch.randn(50, 2, 3, dtype=F64), torch.randn(50, 2, 6, dtype=F64), torch.randn(2, 6, dtype=F64)
    R = torch.stack((theta.cos(), -theta.sin(), theta.sin(), theta.cos()), -1).unflatten(-1, (2, 2))
    torch.testing.assert_close(orthogonal_scan(R, b, h0), rotation_scan(b, theta, h0))
    A = torch.randn(50, 2, 6, 6, dtype=F64)/3
    torch.testing.assert_close(orthogonal_scan(A[:, :, None], b, h0), affine_scan(A, b, h0))


@pytest.mark.parametrize('T', [1, 127, 128, 300, 777])
@pytest.mark.parametrize('units', [1, 128, 300, 10**6])
def test_matrices_made_tile_by_tile(units, T):
    for make, d in ((Exponential(), 3), (Householder(3), 4), (Cayley(), 2)):
        kind = MadeBlocks(make, d, side_by_side=units)
        a, b, h0 = (torch.randn(s, dtype=F64, requires_grad=True) for s in ((T, 2, make.size(d), 2), (T, 2, 2*d), (2, 2*d)))
        for reverse in (False, True):
            ours, whole = linear_scan(kind, a, b, h0, reverse), orthogonal_scan(make(a, d).movedim(-1, 2), b, h0, reverse)
            torch.testing.assert_close(ours, whole)
            w = torch.randn_like(ours)
            for x, y in zip(torch.autograd.grad(ours, (a, b, h0), w), torch.autograd.grad(whole, (a, b, h0), w)): torch.testing.assert_close(x, y)


@pytest.mark.parametrize('d', [2, 3, 4, 5, 7])
@pytest.mark.parametrize('make', [Exponential(), Householder(1), Householder(2), Householder(5), Cayley()])
def test_parametrizations(make, d):
    for dtype, tol in ((F64, 1e-12), (torch.float32, 1e-5)):
        for size in (1e-3, 1, 30):
            R = make(size*torch.randn(5, 2, make.size(d), 3, dtype=dtype), d)
            assert R.shape == (5, 2, d, d, 3) and R.dtype == dtype
            R = R.movedim(-1, 2)
            eye = torch.eye(d, dtype=dtype).expand_as(R)
            assert (R.mT @ R - eye).abs().max() < tol*(1 if isinstance(make, Householder) else 100)       # matrix_exp squares
    a, lam, past = (torch.randn(s, dtype=F64, requires_grad=True) for s in ((2, 1, make.size(d), 1), (2, 1, d), (2, 1, d)))
    torch.testing.assert_close(make.gradient(a, lam, past, d), Parametrization.gradient(make, a, lam, past, d))


def test_exponential_is_that_of_the_matrix():
    for d in (2, 3, 5):
        v = torch.randn(1, d*(d - 1)//2, 1, dtype=F64)
        R = Exponential()(v, d)[0, ..., 0]
        if d != 3: continue
        x, y, z = v[0, :, 0]
        K = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=F64)
        torch.testing.assert_close(R, torch.linalg.matrix_exp(K))
    for d in (2, 3, 4, 6): torch.testing.assert_close(Exponential()(torch.zeros(1, d*(d - 1)//2, 1, dtype=F64), d)[0, ..., 0], torch.eye(d, dtype=F64))
    leaf = torch.zeros(2, 3, 1, dtype=F64, requires_grad=True)             # smooth at the identity too
    assert gradcheck(lambda v: Exponential()(v, 3), leaf) and gradgradcheck(lambda v: Exponential()(v, 3), leaf)


# By name, or your own

class Kinked(nn.Module):
    "No transition."
    def __init__(self, input_size, hidden_size): super().__init__()


def plain(input_size, hidden_size): return Rotation(input_size, hidden_size)


def test_make_transition():
    assert isinstance(make_transition('plus', 3, 4), Sign) and make_transition('plus', 3, 4).sign == 1
    assert make_transition('rotation', 3, 4, length=7).length == 7 == make_transition(Rotation, 3, 4, length=7).length
    assert make_transition(plain, 3, 4, dtype=F64).log_angle.dtype == F64
    assert make_transition(partial(Orthogonal, block=2), 3, 4).block == 2
    assert make_transition(lambda n, d, **options: Rotation(n, d, **options), 3, 4, length=7).length == 7
    for spec, kind, message in (('turn', ValueError, "transition must be one of 'minus', .* got 'turn'"), (Rotation(3, 4), TypeError, 'all layers would share'),
                                (None, TypeError, 'got None'), (3, TypeError, 'got 3'), (Kinked, TypeError, 'made Kinked')):
        with pytest.raises(kind, match=message): make_transition(spec, 3, 4)


WRONG = [
    (lambda: Rotation(3, 5), ValueError, 'hidden_size must be even for Rotation; got 5'),
    (lambda: Rotation(3, 4, length=0), ValueError, 'length must be above zero; got 0'),
    (lambda: Rotation(0, 4), ValueError, 'input_size must be above zero; got 0'),
    (lambda: Sign(3, 4, sign=0), ValueError, 'sign must be 1 or -1; got 0'),
    (lambda: Sign(3, 4.), TypeError, 'hidden_size must be an integer; got 4.0'),
    (lambda: Orthogonal(3, 10), ValueError, 'block must be at least 2 and divide hidden_size=10; got 4'),
    (lambda: Orthogonal(3, 4, block=1), ValueError, 'block must be'),
    (lambda: Orthogonal(3, 4, parametrization='exp'), TypeError, "parametrization must be a Parametrization; got 'exp'"),
    (lambda: Householder(0), ValueError, 'reflections must be above zero; got 0'),
    (lambda: orthogonal_scan(torch.zeros(5, 1, 2, 2, 2), None), ValueError, 'needs b or h0'),
    (lambda: orthogonal_scan(torch.zeros(5, 2, 2), torch.zeros(5, 1, 4)), ValueError, r'R must have shape .* got \(5, 2, 2\)'),
    (lambda: orthogonal_scan(torch.zeros(4, 1, 2, 2, 2), torch.zeros(5, 1, 4)), ValueError, 'R must have shape'),
    (lambda: orthogonal_scan(torch.zeros(5, 3, 2, 2, 2), torch.zeros(5, 2, 4)), ValueError, 'R must have shape'),
    (lambda: orthogonal_scan(torch.zeros(5, 1, 2, 2, 2), torch.zeros(5, 1, 6)), ValueError, 'R must have shape'),
    (lambda: orthogonal_scan(torch.zeros(5, 1, 2, 2, 2), torch.zeros(5, 1, 4), torch.zeros(4)), ValueError, 'h0 must have shape'),
    (lambda: Transition(3, 4)(torch.zeros(1, 1, 3), None, torch.zeros(1, 4)), NotImplementedError, r'Transition needs a forward\(x, b, h0\)'),
]


@pytest.mark.parametrize('call,kind,message', WRONG)
def test_wrong_arguments_are_named(call, kind, message):
    with pytest.raises(kind, match=message): call()


def test_a_group_is_learned():
    "S3 from words of length 2, read out at length 64: all six elements, nothing added."
    torch.manual_seed(0)
    table = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 0, 4, 5, 3], [2, 0, 1, 5, 3, 4], [3, 5, 4, 0, 2, 1], [4, 3, 5, 1, 0, 2], [5, 4, 3, 2, 1, 0]])
    cell, h0, read = Orthogonal(6, 12, 3), nn.Parameter(torch.randn(1, 12)), nn.Linear(12, 6)
    weights = [*cell.parameters(), h0, *read.parameters()]
    optimiser = torch.optim.Adam(weights, 1e-2)
    def answers(x):
        y = [x[0]]
        for letter in x[1:]: y.append(table[letter, y[-1]])
        return torch.stack(y)
    def logits(x): return read(cell(F.one_hot(x, 6).float(), None, h0.expand(x.shape[1], -1)))
    for step in range(400):
        x = torch.randint(6, (2 if step < 200 else 16, 64))
        loss = F.cross_entropy(logits(x).flatten(0, 1), answers(x).flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x = torch.randint(6, (64, 200))
    assert (logits(x)[-1].argmax(-1) == answers(x)[-1]).float().mean() > .95

@pytest.mark.parametrize('name', TRANSITIONS)
def test_one_step_forward_and_backward(name):
    "A stream trains step by step: a chunk of one step has a gradient too."
    transition = make_transition(name, 3, 12)
    x, b, h0 = (torch.randn(*s, requires_grad=True) for s in ((1, 2, 3), (1, 2, 12), (2, 12)))
    transition(x, b, h0).sin().sum().backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in (b, h0, *transition.parameters()) if t is not None)


MADE = ('minus', 'rotation', 'input_rotation', 'orthogonal', partial(Orthogonal, block=2, parametrization=Exponential()),
        partial(Orthogonal, block=6, parametrization=Exponential()))

@pytest.mark.parametrize('low', (torch.float16, torch.bfloat16))
@pytest.mark.parametrize('spec', MADE)
def test_weights_in_half_precision(spec, low):
    "Angles and matrices are made of them in float32 (torch's matrix_exp of bfloat16 is no rotation): only the states are rounded."
    torch.manual_seed(0)
    cell = make_transition(spec, 3, 12, dtype=torch.float32)
    for p in cell.parameters(): nn.init.normal_(p)
    cell.to(low)
    x, h0 = torch.randn(50, 2, 3).to(low), torch.randn(2, 12).to(low)
    states, exact = cell(x, None, h0), copy.deepcopy(cell).double()(x.double(), None, h0.double())
    assert states.dtype == low and (states.double() - exact).abs().max() < torch.finfo(low).eps*exact.abs().max()


@pytest.mark.parametrize('numbers', (torch.float16, torch.bfloat16))
@pytest.mark.parametrize('block', (2, 5))
def test_the_exponential_of_half_precision(block, numbers):
    kind = Exponential()
    R = kind(torch.randn(kind.size(block), 7).to(numbers), block).movedim(-1, 0).double()
    assert (R.mT @ R - torch.eye(block, dtype=F64)).abs().max() < .05


@pytest.mark.parametrize('T', (0, 5, 300))
def test_no_sequences(cell, T):
    x, b, h0 = (t[..., :0, :] for t in data(T))
    assert cell(x, b, h0).shape == b.shape


def test_sizes_that_do_not_agree(cell):
    if isinstance(cell, Shift): pytest.skip('of a user: it reads no x')
    x, b, h0 = data(5)
    for wrong in ((x[:4], b, h0), (x, b[:4], h0), (x[:, :1], b, h0), (x[:, :1], None, h0)):
        with pytest.raises(ValueError, match='agree in T and B'): cell(*wrong)
