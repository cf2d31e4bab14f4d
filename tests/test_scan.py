"The scans: beside naive loops over random sizes, directions and dtypes, with first and second derivatives; a million steps; wrong arguments."
import itertools, math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.autograd import gradcheck, gradgradcheck

import deq_irnn.scan as scan
from deq_irnn.scan import Angles, Coefficient, Diagonal, FixedDense, FixedDiagonal, affine_scan, linear_scan, rotation_scan, signed_scan

F64 = torch.float64
KINDS = ['sign-', 'sign+', 'diagonal', 'diagonal T1', 'diagonal 1B', 'units', 'matrix', 'matrices', 'angles', 'angles T1', 'angle']


def coefficient(kind, T, B, D, dtype=F64):
    "A random a (or theta, or sign) of one kind; no growth, so that long products stay in range."
    shape = {'diagonal': (T, B, D), 'diagonal T1': (T, 1, D), 'diagonal 1B': (1, B, D), 'units': (D,), 'matrix': (D, D), 'matrices': (T, B, D, D),
             'angles': (T, B, D//2), 'angles T1': (T, 1, D//2), 'angle': (D//2,)}.get(kind)
    if shape is None: return 1 if kind == 'sign+' else -1
    a = torch.rand(shape, dtype=dtype)*2 - 1
    return 3*a if 'angle' in kind else a/D**.5 if 'matri' in kind else a


def run(kind, a, b, h0=None, reverse=False):
    if 'sign' in kind: return signed_scan(b, h0, a, reverse)
    return rotation_scan(b, a, h0, reverse) if 'angle' in kind else affine_scan(a, b, h0, reverse)


def matrices(kind, a, T, B, D):
    "Any coefficient as matrices (T, B, D, D), differentiably."
    if 'sign' in kind: return a*torch.eye(D, dtype=F64).expand(T, B, D, D)
    if 'matri' in kind: return a.expand(T, B, D, D)
    if 'angle' not in kind: return torch.diag_embed(a.expand(T, B, D))
    c, s = (torch.diag_embed(x.expand(T, B, D//2)) for x in (a.cos(), a.sin()))
    return torch.cat((torch.cat((c, -s), -1), torch.cat((s, c), -1)), -2)


def naive(kind, a, b, h0=None, reverse=False):
    h, out, A = b.new_zeros(b.shape[1:]) if h0 is None else h0, [None]*len(b), matrices(kind, a, *b.shape)
    for t in (reversed(range(len(b))) if reverse else range(len(b))): out[t] = h = (A[t] @ h[..., None])[..., 0] + b[t]
    return torch.stack(out) if out else b


def grads(f, leaves, weight):
    "Value, gradients, and gradients of a scalar made of the gradients."
    out = f(*leaves)
    first = torch.autograd.grad((out.sin()*weight).sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum((g*g).sum() for g in first), leaves, allow_unused=True)
    return out, first, second


def leaves_of(kind, T, B, D, with_h0):
    a = coefficient(kind, T, B, D)
    leaves = [torch.randn(T, B, D, dtype=F64)] + ([torch.randn(B, D, dtype=F64)] if with_h0 else []) + ([a] if torch.is_tensor(a) else [])
    for x in leaves: x.requires_grad_()
    def call(function, reverse):
        def f(b, *rest):
            rest = list(rest)
            h0 = rest.pop(0) if with_h0 else None
            return function(kind, rest[0] if rest else a, b, h0, reverse)
        return f
    return leaves, call


def compare(kind, T, B, D, with_h0, reverse):
    leaves, call = leaves_of(kind, T, B, D, with_h0)
    weight = torch.randn(T, B, D, dtype=F64)
    ours, theirs = (grads(call(f, reverse), leaves, weight) for f in (run, naive))
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-9, atol=1e-9)
    for x, y in zip(ours[1], theirs[1]): torch.testing.assert_close(x, y, rtol=1e-8, atol=1e-8)
    for x, y, leaf in zip(ours[2], theirs[2], leaves):
        zero = torch.zeros_like(leaf)
        torch.testing.assert_close(zero if x is None else x, zero if y is None else y, rtol=1e-7, atol=1e-7)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from(KINDS), st.integers(1, 70), st.integers(1, 3), st.sampled_from([2, 4]), st.booleans(), st.booleans(), st.integers(0, 99))
def test_values_and_two_derivatives_like_the_loop(kind, T, B, D, with_h0, reverse, seed):
    torch.manual_seed(seed)
    compare(kind, T, B, D, with_h0, reverse)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('T', [1, 2, 31, 32, 33, 63, 64, 65, 70])      # 32: the first length that is cut into chunks
def test_chunk_borders(kind, T):
    for reverse in (False, True): compare(kind, T, 2, 2, True, reverse)


@pytest.mark.parametrize('kind', KINDS)
def test_every_length_up_to_200(kind):
    for T in range(1, 201):
        a, b, h0 = coefficient(kind, T, 1, 2), torch.randn(T, 1, 2, dtype=F64), torch.randn(1, 2, dtype=F64)
        for reverse in ((False, True) if T % 7 == 0 else (T % 2 == 0,)):
            torch.testing.assert_close(run(kind, a, b, h0, reverse), naive(kind, a, b, h0, reverse), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('width', [1, 12, 20])
@pytest.mark.parametrize('kind', ['sign-', 'diagonal', 'units', 'matrix', 'matrices', 'angles', 'angle'])
def test_tiles(kind, width, monkeypatch):
    "Few chunks side by side: so many tiles of time that each border lies somewhere inside."
    monkeypatch.setattr(scan.Coefficient, 'width', lambda kind, b: width)
    for T, reverse in itertools.product((5, 768, 769, 1000, 2000), (False, True)):
        a, b, h0 = coefficient(kind, T, 1, 2), torch.randn(T, 1, 2, dtype=F64), torch.randn(1, 2, dtype=F64)
        torch.testing.assert_close(run(kind, a, b, h0, reverse), naive(kind, a, b, h0, reverse), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('kind', ['sign-', 'diagonal', 'units', 'matrices', 'angles', 'angles T1', 'angle'])
def test_gradients_in_tiles(kind, monkeypatch):
    "Without create_graph some gradients are computed tile by tile, too."
    monkeypatch.setattr(scan.Coefficient, 'width', lambda kind, b: 12)
    for T, reverse in itertools.product((49, 50, 300), (False, True)):
        leaves, call = leaves_of(kind, T, 2, 4, True)
        weight = torch.randn(T, 2, 4, dtype=F64)
        for x, y in zip(*(torch.autograd.grad(call(f, reverse)(*leaves), leaves, weight) for f in (run, naive))): torch.testing.assert_close(x, y, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize('kind', KINDS)
def test_gradcheck(kind):
    for T, with_h0, reverse in ((1, True, False), (3, False, True), (4, True, True), (4, True, False)):
        leaves, call = leaves_of(kind, T, 2, 2, with_h0)
        assert gradcheck(call(run, reverse), leaves) and gradgradcheck(call(run, reverse), leaves)


@pytest.mark.parametrize('reverse', [False, True])
@pytest.mark.parametrize('shape', [(3,), (5, 2, 3), (3, 3), (5, 2, 3, 3)])
def test_complex_numbers(shape, reverse):
    a, b, h0 = (torch.randn(n, dtype=torch.complex128, requires_grad=True) for n in (shape, (5, 2, 3), (2, 3)))
    def f(a, b, h0): return affine_scan(a, b, h0, reverse)
    assert torch.autograd.gradcheck(f, (a, b, h0)) and torch.autograd.gradgradcheck(f, (a, b, h0))
    with pytest.raises(ValueError, match='a is complex .* so b must be; got torch.float64'): affine_scan(a, b.real)

def test_third_derivative():
    a, b = torch.rand(4, 1, 2, dtype=F64, requires_grad=True), torch.randn(4, 1, 2, dtype=F64, requires_grad=True)
    def second(a, b):
        g = torch.autograd.grad(affine_scan(a, b).pow(2).sum(), a, create_graph=True)[0]
        return torch.autograd.grad(g.pow(2).sum(), a, create_graph=True)[0]
    assert gradcheck(second, (a, b))


@pytest.mark.parametrize('kind', KINDS)
def test_no_steps(kind):
    a = coefficient(kind, 0, 2, 4)
    b = torch.zeros(0, 2, 4, dtype=F64, requires_grad=True)
    out = run(kind, a, b, torch.ones(2, 4, dtype=F64))
    assert out.shape == (0, 2, 4)
    out.sum().backward()
    assert b.grad.shape == (0, 2, 4)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('dtype,tol', [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 1e-3)])
def test_dtypes(kind, dtype, tol):
    "The dtype of b comes back; half precision is summed in float32, so that the only rounding is of the inputs and of the result."
    T = 70
    a, b, h0 = coefficient(kind, T, 2, 4, torch.float32), torch.randn(T, 2, 4).to(dtype), torch.randn(2, 4).to(dtype)
    if torch.is_tensor(a): a = a.to(dtype)
    out, exact = run(kind, a, b, h0), naive(kind, a.double() if torch.is_tensor(a) else a, b.double(), h0.double())
    assert out.dtype == dtype
    assert (out - exact).abs().max() <= tol*exact.abs().max()
    leaves = [x.requires_grad_() for x in (a, b, h0) if torch.is_tensor(x)]
    for x, g in zip(leaves, torch.autograd.grad(run(kind, a, b, h0).sum(), leaves)): assert g.dtype == x.dtype and g.shape == x.shape and torch.isfinite(g).all()


@pytest.mark.parametrize('kind', KINDS)
def test_float32_after_100_000_steps(kind):
    T = 100_000
    a, b = coefficient(kind, T, 1, 4, torch.float32), torch.randn(T, 1, 4)
    exact = run(kind, a.double() if torch.is_tensor(a) else a, b.double())
    assert (run(kind, a, b) - exact).abs().max() < 2e-6*exact.abs().max()


def test_a_million_angles():
    T, theta = 1_000_000, torch.tensor([1e-3, .1, 3.1])
    b = torch.zeros(T, 1, 6); h0 = torch.tensor([[1., 1, 1, 0, 0, 0]])
    out = rotation_scan(b, theta, h0)
    angle = torch.remainder(torch.arange(1, T + 1, dtype=F64)[:, None]*theta.double(), 2*math.pi)
    assert (out[:, 0, :3] - angle.cos()).abs().max() < 1e-6 and (out[:, 0, 3:] - angle.sin()).abs().max() < 1e-6
    assert (out.unflatten(-1, (2, 3)).norm(dim=-2) - 1).abs().max() < 1e-6       # nothing grows, nothing fades


@pytest.mark.parametrize('kind', ['sign-', 'angle', 'angles'])
def test_all_singular_values_are_one(kind):
    T = 40
    a, b = coefficient(kind, T, 1, 4), torch.randn(T, 1, 4, dtype=F64)
    J = torch.autograd.functional.jacobian(lambda h0: run(kind, a, b, h0)[-1], torch.randn(1, 4, dtype=F64)).view(4, 4)
    torch.testing.assert_close(torch.linalg.svdvals(J), torch.ones(4, dtype=F64))


@pytest.mark.parametrize('reverse', [False, True])
@pytest.mark.parametrize('constant', [False, True])
def test_overflows_only_where_the_recurrence_does(reverse, constant):
    T = 400
    b = torch.zeros(T, 1, 2); b[3 if reverse else -4] = 1
    a = torch.full((2,) if constant else (T, 1, 2), 100.)
    out = affine_scan(a, b, reverse=reverse)
    assert torch.isfinite(out).all() and out[0 if reverse else -1].eq(1e6).all()


def test_underflow_and_zeros():
    a, b = torch.full((5000, 1, 3), .9), torch.ones(5000, 1, 3)
    a[700] = 0
    out = affine_scan(a, b)
    assert torch.isfinite(out).all() and torch.allclose(out[-1], torch.full((1, 3), 10.)) and out[700].eq(1).all()
    a.requires_grad_()
    assert torch.isfinite(torch.autograd.grad(affine_scan(a, b).sum(), a)[0]).all()


def test_nan_stays_in_its_unit_and_after_its_time():
    b = torch.randn(100, 2, 4); b[50, 0, 1] = torch.nan
    for out in (signed_scan(b), affine_scan(torch.rand(100, 2, 4), b)):
        bad = out.isnan()
        assert bad[50:, 0, 1].all() and bad.sum() == 50


def test_layout_views_and_saved_inputs():
    "Any strides; inputs are not written to; changing a result in place is noticed by autograd, not ignored."
    big = torch.randn(4, 2, 50, dtype=F64)
    b, a = big.permute(2, 1, 0), torch.rand(2, 50, 4, dtype=F64).transpose(0, 1)
    kept, kept_a = b.clone(), a.clone()
    for kind, c in (('sign-', -1), ('diagonal', a), ('angles', a[..., :2])): torch.testing.assert_close(run(kind, c, b), naive(kind, c, b))
    assert torch.equal(b, kept) and torch.equal(a, kept_a)
    a = a.clone().requires_grad_()
    out = affine_scan(a, b)
    out += 1
    with pytest.raises(RuntimeError, match='modified by an inplace'): out.sum().backward()


def test_splitting_in_time_changes_nothing():
    "A sequence fed in pieces, each from the last state of the one before."
    for kind in ('sign-', 'diagonal', 'matrices', 'angles'):
        a, b = coefficient(kind, 90, 2, 4), torch.randn(90, 2, 4, dtype=F64)
        h, pieces = None, []
        for t in (slice(0, 1), slice(1, 40), slice(40, 90)):
            pieces.append(run(kind, a[t] if torch.is_tensor(a) else a, b[t], h)); h = pieces[-1][-1]
        torch.testing.assert_close(torch.cat(pieces), run(kind, a, b))


def test_functional_gradients_and_autocast():
    a, b = torch.rand(40, 2, 4), torch.randn(40, 2, 4)
    g = torch.func.grad(lambda a: affine_scan(a, b).pow(2).sum())(a)
    leaf = a.clone().requires_grad_()
    torch.testing.assert_close(g, torch.autograd.grad(affine_scan(leaf, b).pow(2).sum(), leaf)[0])
    m = torch.randn(4, 4)/4
    with torch.autocast('cpu', dtype=torch.bfloat16): assert torch.equal(affine_scan(m, b), affine_scan(m, b)) and affine_scan(m, b).dtype == torch.float32
    with torch.autocast('cpu', dtype=torch.bfloat16): inside = affine_scan(m, b)
    torch.testing.assert_close(inside, affine_scan(m, b))


WRONG = [
    (lambda: signed_scan(torch.zeros(5)), 'b must have shape'),
    (lambda: signed_scan(torch.zeros(5, 4)), 'b must have shape'),
    (lambda: signed_scan(torch.zeros(5, 2, 4), torch.zeros(4)), r'h0 must have shape \(B, D\) = \(2, 4\); got \(4,\)'),
    (lambda: signed_scan(torch.zeros(5, 2, 4), torch.zeros(3, 4)), 'h0 must'),
    (lambda: signed_scan(torch.zeros(5, 2, 4), sign=0), 'sign must be 1 or -1; got 0'),
    (lambda: rotation_scan(torch.zeros(5, 2, 3), torch.zeros(1)), 'theta must'),
    (lambda: rotation_scan(torch.zeros(5, 2, 4), torch.zeros(4)), 'theta must'),
    (lambda: rotation_scan(torch.zeros(5, 2, 4), torch.zeros(2, 2)), 'theta must'),
    (lambda: rotation_scan(torch.zeros(5, 2, 4), torch.zeros(4, 2, 2)), 'theta must'),
    (lambda: rotation_scan(torch.zeros(5, 2, 4), torch.zeros(5, 3, 2)), 'theta must'),
    (lambda: affine_scan(torch.tensor(1.), torch.zeros(5, 2, 4)), r'a must .* got \(\)'),
    (lambda: affine_scan(torch.zeros(3), torch.zeros(5, 2, 4)), 'a must'),
    (lambda: affine_scan(torch.zeros(1), torch.zeros(5, 2, 4)), 'a must'),
    (lambda: affine_scan(torch.zeros(2, 4), torch.zeros(5, 2, 4)), 'a must'),          # (B, D) is not (D, D)
    (lambda: affine_scan(torch.zeros(1, 4), torch.zeros(5, 2, 4)), 'a must'),
    (lambda: affine_scan(torch.zeros(4, 2, 4), torch.zeros(5, 2, 4)), 'a must'),
    (lambda: affine_scan(torch.zeros(5, 2, 1), torch.zeros(5, 2, 4)), 'a must'),
    (lambda: affine_scan(torch.zeros(5, 2, 4, 1), torch.zeros(5, 2, 4)), 'a must'),
    (lambda: affine_scan(torch.zeros(5, 2, 1, 4), torch.zeros(5, 2, 4)), 'a must'),
    (lambda: affine_scan(torch.zeros(4, 4), torch.zeros(5, 2, 4), torch.zeros(4)), 'h0 must'),
]

@pytest.mark.parametrize('call,message', WRONG)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message): call()


def test_sizes_that_agree_by_chance():
    "Two dimensions are always one matrix, three one number for each unit, whatever T and B are."
    n = 3
    b, a2, a3 = torch.randn(n, n, n, dtype=F64), torch.randn(n, n, dtype=F64)/2, torch.rand(n, n, n, dtype=F64)
    torch.testing.assert_close(affine_scan(a2, b), naive('matrix', a2, b))
    torch.testing.assert_close(affine_scan(a3, b), naive('diagonal', a3, b))


# A kind of one's own: one class, here, and everything works with it

class Spiral(Coefficient):
    "a (T, 1 or B, D): pairs turned and scaled by a complex number, in real numbers. Nothing but the three methods that a kind must have."
    def apply(self, a, h):
        (p, q), (u, v) = a.chunk(2, -1), h.chunk(2, -1)
        return torch.cat((p*u - q*v, p*v + q*u), -1)
    def compose(self, later, earlier): return self.apply(later, earlier)
    def adjoint(self, a): return torch.cat((a.chunk(2, -1)[0], -a.chunk(2, -1)[1]), -1)


class FixedSpiral(Spiral):
    "a (D,): the same in all steps; the power is the default's."
    constant = True


def as_complex(x): return torch.complex(*x.chunk(2, -1))
def as_pairs(x): return torch.cat((x.real, x.imag), -1)


@pytest.mark.parametrize('fixed', [False, True])
@pytest.mark.parametrize('T', [1, 2, 31, 32, 33, 100, 1000])
def test_a_kind_of_ones_own(T, fixed):
    a, b, h0 = torch.randn((4,) if fixed else (T, 2, 4), dtype=F64)/2, torch.randn(T, 2, 4, dtype=F64), torch.randn(2, 4, dtype=F64)
    for reverse in (False, True):
        ours = linear_scan(FixedSpiral() if fixed else Spiral(), a, b, h0, reverse)
        torch.testing.assert_close(ours, as_pairs(affine_scan(as_complex(a), as_complex(b), as_complex(h0), reverse)))


@pytest.mark.parametrize('fixed', [False, True])
def test_derivatives_of_a_kind_of_ones_own(fixed):
    leaves = [torch.randn(s, dtype=F64, requires_grad=True) for s in ((2,) if fixed else (3, 1, 2), (3, 2, 2), (2, 2))]
    for reverse in (False, True):
        def f(a, b, h0): return linear_scan(FixedSpiral() if fixed else Spiral(), a, b, h0, reverse)
        assert gradcheck(f, leaves) and gradgradcheck(f, leaves)


def test_defaults_agree_with_the_built_in_kinds():
    "gradient, step and power of the base class, beside the faster ones."
    a, b = torch.rand(50, 2, 4, dtype=F64), torch.randn(50, 2, 4, dtype=F64)
    for kind, c in ((Diagonal(), a), (FixedDiagonal(), a[0, 0]), (Angles(), a[..., :2]), (FixedDense(), torch.randn(4, 4, dtype=F64)/3)):
        lam, past = torch.randn(50, 2, 4, dtype=F64), torch.randn(50, 2, 4, dtype=F64)
        torch.testing.assert_close(Coefficient.gradient(kind, c, lam, past.clone()), kind.gradient(c, lam, past.clone()))
        if kind.constant: torch.testing.assert_close(Coefficient.power(kind, c, 13), kind.power(c, 13))
        now, h, x = kind.part(c, 3), b[0], b[1]
        torch.testing.assert_close(Coefficient.step(kind, now, h, x, torch.empty_like(x)), kind.step(now, h, x, torch.empty_like(x)))


def test_what_a_kind_lacks_is_named():
    class Half(Coefficient):
        def apply(self, a, h): return a*h
    with pytest.raises(NotImplementedError, match=r'Half needs compose'): linear_scan(Half(), torch.rand(100, 1, 2), torch.rand(100, 1, 2))
    with pytest.raises(TypeError, match='kind must be a Coefficient, such as Diagonal'): linear_scan(Diagonal, torch.rand(5, 1, 2), torch.rand(5, 1, 2))


@pytest.mark.parametrize('kind', KINDS)
def test_vmap_of_values_and_gradients(kind):
    "Each argument mapped or not; jacrev, per-sample gradients."
    a, b, h0 = coefficient(kind, 40, 2, 4), torch.randn(3, 40, 2, 4, dtype=F64), torch.randn(3, 2, 4, dtype=F64)
    tensor = torch.is_tensor(a)
    own = torch.stack([coefficient(kind, 40, 2, 4) for _ in range(3)]) if tensor else a
    for a_dim, b_dim, h_dim in itertools.product((None, 0) if tensor else (None,), (None, 0), (None, 0)):
        if a_dim is b_dim is h_dim is None: continue
        args = (own if a_dim == 0 else a, b if b_dim == 0 else b[0], h0 if h_dim == 0 else h0[0])
        def f(a, b, h): return run(kind, a, b, h)
        def g(b, h, a): return torch.func.grad(lambda b, h: f(a, b, h).sin().sum(), (0, 1))(b, h)
        def gradients(a, b, h): return g(b, h, a) + ((torch.func.grad(lambda a: f(a, b, h).sin().sum())(a),) if tensor else ())
        dims = (a_dim, b_dim, h_dim) if tensor else (None, b_dim, h_dim)
        def pick(i): return tuple(x[i] if d == 0 else x for x, d in zip(args, dims))
        values, slopes = torch.func.vmap(f, dims)(*args), torch.func.vmap(gradients, dims)(*args)
        for i in range(3):
            torch.testing.assert_close(values[i], f(*pick(i)))
            for x, y in zip(slopes, gradients(*pick(i))): torch.testing.assert_close(x[i], y)


@pytest.mark.parametrize('each', (False, True))
def test_gradients_of_angles_against_a_loop(each):
    "Eight features, forty steps: angles of their own in each step and sample, or the same in all."
    torch.manual_seed(0)
    T, B, D = 40, 3, 8
    b, theta = torch.randn(T, B, D, dtype=torch.float64), torch.randn(T, B, D//2, dtype=torch.float64)
    if not each: theta = theta[0, 0]
    found = []
    for run in (rotation_scan, rotation_loop):
        angle = theta.clone().requires_grad_()
        states = run(b, angle)
        found.append((states, *torch.autograd.grad(states.sin().sum(), angle)))
    for ours, theirs in zip(*found): torch.testing.assert_close(ours, theirs)

def rotation_loop(b, theta):
    h, states, half = torch.zeros_like(b[0]), [], b.shape[2]//2
    for t, b_t in enumerate(b):
        c, s = (f(theta[t] if theta.dim() == 3 else theta) for f in (torch.cos, torch.sin))
        x, y = h[:, :half], h[:, half:]
        h = torch.cat((c*x - s*y, s*x + c*y), 1) + b_t
        states.append(h)
    return torch.stack(states)
