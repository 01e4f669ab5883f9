"""Every formula and number of the five texts this package comes from."""

import numpy as np
import pytest
from cases import labels, logits, probabilities, rng
from numpy.testing import assert_allclose

import fastsce

EXACT = {"rtol": 1e-13, "atol": 1e-15}
SCORES = np.array([-2.85, 0.86, 0.28])
PRINTED_SOFTMAX = [0.0154493156751271, 0.631163353697413, 0.353387330637003]  # the text computes with ten digits …
PRINTED_LOSS = 1.040190570
SOFTMAX = [0.0154493156760736010, 0.631163353604708729, 0.353387330719217670]  # … and these are right to eighteen
LOSS = 1.04019056943010826


def sigma(x):
    """The texts' softmax, as they write it."""
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def onehot(y, classes):
    return np.eye(classes)[y]


def jacobian_of_cases(s):
    """∂s_i/∂z_j element by element, in the two cases that all five texts distinguish."""
    k = len(s)
    return np.array([[s[i] * (1 - s[i]) if i == j else -s[i] * s[j] for j in range(k)] for i in range(k)])


def difference_quotient(f, x, h=1e-3):
    """∂f/∂x_j for every j, to fourth order; the last axis of the answer is j."""
    steps = h * np.eye(x.size)
    return np.stack([(8 * (f(x + s) - f(x - s)) - (f(x + 2 * s) - f(x - 2 * s))) / (12 * h) for s in steps], -1)


class TestGradientOfSoftmaxPlusCrossEntropy:
    """'Gradient of softmax + cross-entropy': a batch x ∈ R^{N×K} with one-hot targets, and the mean over N."""

    N, K = 17, 5
    x, y = logits((17, 5), "float64"), labels(17, 5)

    def test_loss(self, backend):
        """L = −1/N Σ_i Σ_k ỹ_ik log σ_k(x_i)"""
        expected = -(onehot(self.y, self.K) * np.log(sigma(self.x))).sum() / self.N
        for target in (self.y, onehot(self.y, self.K), onehot(self.y, self.K).astype(np.int64)):
            assert_allclose(fastsce.cross_entropy(self.x, target, backend=backend), expected, **EXACT)

    def test_softmax(self, backend):
        """σ_k(x_i) = exp x_ik / Σ_h exp x_ih"""
        assert_allclose(fastsce.softmax(self.x, backend=backend), sigma(self.x), **EXACT)

    def test_compact_jacobian(self, backend):
        """∂σ_k(x_i)/∂x_jl = Id_ij σ_k(x_i)(Id_kl − σ_l(x_i)): both cases, and 0 between samples."""
        p = fastsce.softmax(self.x, backend=backend)
        for i in range(3):
            expected = p[i][:, None] * (np.eye(self.K) - p[i])
            assert_allclose(fastsce.softmax_jacobian(p[i], backend=backend), expected, **EXACT)
            assert_allclose(jacobian_of_cases(p[i]), expected, **EXACT)
        moved = self.x.copy()
        moved[1] += 1.0
        again = fastsce.softmax(moved, backend=backend)
        assert np.array_equal(np.delete(again, 1, 0), np.delete(p, 1, 0))

    def test_gradient(self, backend):
        """∂L/∂x_jl = 1/N (σ_l(x_j) − ỹ_jl)"""
        expected = (sigma(self.x) - onehot(self.y, self.K)) / self.N
        grad = fastsce.cross_entropy_value_and_grad(self.x, self.y, backend=backend).grad
        assert_allclose(grad, expected, **EXACT)

    def test_gradient_transposed(self, backend):
        """∂L/∂x = 1/N (q − ỹ)ᵀ ∈ R^{K×N}: the text's own layout, classes on axis 0."""
        expected = ((sigma(self.x) - onehot(self.y, self.K)) / self.N).T
        kn = np.ascontiguousarray(self.x.T)
        loss, grad, lse = fastsce.cross_entropy_value_and_grad(kn, self.y, axis=0, backend=backend)
        assert grad.shape == (self.K, self.N) and grad.flags.c_contiguous and lse.shape == (self.N,)
        assert_allclose(grad, expected, **EXACT)
        assert_allclose(loss, fastsce.cross_entropy(self.x, self.y, backend=backend), **EXACT)

    def test_gradient_into_fortran_order(self, backend):
        """1/N (q − ỹ) in an F-ordered buffer is the K×N matrix in memory."""
        buffer = np.full((self.N, self.K), np.nan, order="F")
        grad = fastsce.cross_entropy_value_and_grad(self.x, self.y, out=buffer, backend=backend).grad
        assert grad is buffer
        memory = buffer.ravel(order="K").reshape(self.K, self.N)
        assert_allclose(memory, ((sigma(self.x) - onehot(self.y, self.K)) / self.N).T, **EXACT)


class TestGradientOfSoftmaxCrossEntropyLoss:
    """'Gradient of Softmax Cross-Entropy Loss': one row z, correct class c."""

    z, c = logits((9,), "float64"), 4

    def test_loss_is_minus_log_of_the_correct_class(self, backend):
        """L(s, y) = −Σ_i y_i log s_i = −log s_c"""
        s = sigma(self.z)
        expected = -(onehot(self.c, 9) * np.log(s)).sum()
        assert_allclose(expected, -np.log(s[self.c]), **EXACT)
        assert_allclose(fastsce.cross_entropy(self.z, np.array(self.c), backend=backend), expected, **EXACT)

    def test_row_of_the_jacobian(self, backend):
        """∂s_c/∂z_i = s_c(1 − s_c) for i = c, −s_i s_c for i ≠ c"""
        s = fastsce.softmax(self.z, backend=backend)
        row = fastsce.softmax_jacobian(s, backend=backend)[self.c]
        assert_allclose(row, jacobian_of_cases(s)[self.c], **EXACT)
        measured = difference_quotient(lambda z: fastsce.softmax(z, backend=backend)[self.c], self.z)
        assert_allclose(row, measured, rtol=1e-9, atol=1e-12)

    def test_subtract_1_at_the_correct_class(self, backend):
        """∂L/∂z = [s_1 … (s_c − 1) … s_k]"""
        expected = sigma(self.z)
        expected[self.c] -= 1
        grad = fastsce.cross_entropy_value_and_grad(self.z, np.array(self.c), backend=backend).grad
        assert_allclose(grad, expected, **EXACT)

    def test_the_same_as_multiplying_by_the_jacobian(self, backend):
        """∂L/∂z = ∂L/∂s · ∂s/∂z with the sparse row ∂L/∂s = −1/s_c at c: by the matrix, and without forming it."""
        s = fastsce.softmax(self.z, backend=backend)
        upstream = np.zeros(9)
        upstream[self.c] = -1 / s[self.c]
        grad = fastsce.cross_entropy_value_and_grad(self.z, np.array(self.c), backend=backend).grad
        assert_allclose(upstream @ fastsce.softmax_jacobian(s, backend=backend), grad, **EXACT)
        assert_allclose(fastsce.softmax_vjp(s, upstream, backend=backend), grad, **EXACT)

    def test_other_classes_do_not_contribute(self, backend):
        """Entries of s off the correct class have ∂L/∂s_i = 0: the vjp of a one-hot row is a row of the Jacobian."""
        s = fastsce.softmax(self.z, backend=backend)
        jacobian = fastsce.softmax_jacobian(s, backend=backend)
        rows = [fastsce.softmax_vjp(s, e, backend=backend) for e in np.eye(9)]
        assert_allclose(np.stack(rows), jacobian, **EXACT)


class TestUnderstandingTheDerivativeOfTheSoftmaxLossFunction:
    """Tang Xin, 'Understanding the derivative of the softmax loss function' (2018), equations 1 to 8."""

    o = logits((6,), "float64")

    def test_equation_1(self, backend):
        """ŷ_i = exp o_i / Σ_k exp o_k"""
        assert_allclose(fastsce.softmax(self.o, backend=backend), sigma(self.o), **EXACT)

    def test_equation_2(self, backend):
        """l = −Σ_j y_j log ŷ_j for any y"""
        y = probabilities((6,))
        expected = -(y * np.log(sigma(self.o))).sum()
        assert_allclose(fastsce.cross_entropy(self.o, y, backend=backend), expected, **EXACT)

    def test_equations_3_and_4(self, backend):
        """∂ŷ_j/∂o_i = −ŷ_j ŷ_i for j ≠ i, ŷ_i(1 − ŷ_i) for j = i"""
        p = fastsce.softmax(self.o, backend=backend)
        assert_allclose(fastsce.softmax_jacobian(p, backend=backend), jacobian_of_cases(sigma(self.o)), **EXACT)

    @pytest.mark.parametrize("total", [0.0, 0.3, 1.0, 2.5])
    def test_equation_5(self, backend, total):
        """∂l/∂o_i = Σ_j y_j ŷ_i − y_i, before Σ_j y_j = 1 is used"""
        y = probabilities((6,))
        y *= total / y.sum()
        grad = fastsce.cross_entropy_value_and_grad(self.o, y, backend=backend).grad
        assert_allclose(grad, y.sum() * sigma(self.o) - y, **EXACT)
        assert_allclose(
            difference_quotient(lambda o: fastsce.cross_entropy(o, y, backend=backend), self.o), grad, atol=1e-11
        )

    def test_equations_6_and_7(self, backend):
        """∂l/∂o = ŷ − y when Σ_j y_j = 1"""
        y = sigma(logits((1, 6), "float64")[0])
        grad = fastsce.cross_entropy_value_and_grad(self.o, y, backend=backend).grad
        assert_allclose(grad, sigma(self.o) - y, **EXACT)

    def test_equation_8(self, backend):
        """∂l/∂o = Σ_i {ŷ^i − y^i}: N samples that share their inputs' source add up."""
        x, y = logits((17, 6), "float64"), labels(17, 6)
        loss, grad, _ = fastsce.cross_entropy_value_and_grad(x, y, reduction="sum", backend=backend)
        assert_allclose(grad, sigma(x) - onehot(y, 6), **EXACT)
        assert_allclose(loss, -np.log(sigma(x)[np.arange(17), y]).sum(), **EXACT)
        shared = np.broadcast_to(self.o, (17, 6))
        each = fastsce.cross_entropy_value_and_grad(shared, y, reduction="sum", backend=backend).grad
        quotient = difference_quotient(
            lambda o: fastsce.cross_entropy(np.broadcast_to(o, (17, 6)), y, reduction="sum", backend=backend), self.o
        )
        assert_allclose(each.sum(0), quotient, rtol=1e-9, atol=1e-10)


class TestNet3Out3Derivation:
    """The slides that let net3 = z and out3 = y′ = softmax(z) and end in ∂L/∂z_j = ŷ_j − y_j."""

    z = logits((5,), "float64", 1.5)
    y = sigma(logits((2, 5), "float64"))[1]

    def test_both_sums_are_1(self, backend):
        assert_allclose(self.y.sum(), 1, **EXACT)
        assert_allclose(fastsce.softmax(self.z, backend=backend).sum(), 1, **EXACT)

    def test_loss_of_one_sample(self, backend):
        """L(y, ŷ) = −Σ_i y_i log ŷ_i"""
        expected = -(self.y * np.log(sigma(self.z))).sum()
        assert_allclose(fastsce.cross_entropy(self.z, self.y, backend=backend), expected, **EXACT)
        assert_allclose(-(self.y * fastsce.log_softmax(self.z, backend=backend)).sum(), expected, **EXACT)

    @pytest.mark.parametrize("base", [2, 10])
    def test_another_base(self, backend, base):
        """d log_a x/dx = 1/(x ln a): with log_a the gradient is that of ln over ln a, which grad_output brings in."""
        loss, grad, _ = fastsce.cross_entropy_value_and_grad(
            self.z, self.y, grad_output=1 / np.log(base), backend=backend
        )

        def loss_in_base(z):
            return -(self.y * np.log(sigma(z)) / np.log(base)).sum()

        assert_allclose(loss / np.log(base), loss_in_base(self.z), **EXACT)
        assert_allclose(grad, difference_quotient(loss_in_base, self.z), atol=1e-11)

    def test_chain_rule(self, backend):
        """∂L/∂z_j = Σ_i ∂L/∂ŷ_i ∂ŷ_i/∂z_j with ∂L/∂ŷ_i = −y_i/ŷ_i"""
        p = fastsce.softmax(self.z, backend=backend)
        grad = fastsce.cross_entropy_value_and_grad(self.z, self.y, backend=backend).grad
        assert_allclose((-self.y / p) @ fastsce.softmax_jacobian(p, backend=backend), grad, **EXACT)
        assert_allclose(fastsce.softmax_vjp(p, -self.y / p, backend=backend), grad, **EXACT)

    @pytest.mark.parametrize("j", range(5))
    def test_two_cases_joined(self, backend, j):
        """−y_j(1 − ŷ_j) + Σ_{i≠j} y_i ŷ_j = −y_j + y_j ŷ_j + ŷ_j Σ_{i≠j} y_i = ŷ_j − y_j"""
        p, y = sigma(self.z), self.y
        others = np.delete(y, j).sum()
        grad = fastsce.cross_entropy_value_and_grad(self.z, y, backend=backend).grad
        assert_allclose(grad[j], -y[j] * (1 - p[j]) + others * p[j], **EXACT)
        assert_allclose(grad[j], -y[j] + y[j] * p[j] + p[j] * others, **EXACT)
        assert_allclose(grad[j], p[j] - y[j], **EXACT)


class TestGradientOfMultiClassCrossEntropy:
    """'Gradient of Multi-class Cross-Entropy': sigmoid, softmax, the worked example, and dp_k/dz_k."""

    theta = np.array([-30.0, -4.0, -0.5, 0.0, 0.5, 4.0, 30.0])

    def probability(self, theta, backend):
        """σ(θ): the gradient for a target of 0, and softmax over the pair (θ, 0)"""
        return fastsce.binary_cross_entropy_value_and_grad(
            theta, np.zeros_like(theta), reduction="sum", backend=backend
        ).grad

    def test_sigmoid(self, backend):
        """Equation 1: S(θ) = 1/(1 + exp(−θ))"""
        expected = 1 / (1 + np.exp(-self.theta))
        assert_allclose(self.probability(self.theta, backend), expected, **EXACT)
        pairs = np.stack([self.theta, np.zeros(7)], -1)
        assert_allclose(fastsce.softmax(pairs, backend=backend)[:, 0], expected, **EXACT)

    def test_derivative_of_the_sigmoid(self, backend):
        """dS/dθ = exp(−θ)/(1 + exp(−θ))²"""
        hess = fastsce.binary_cross_entropy_grad_and_hess(
            self.theta, np.zeros(7), reduction="sum", backend=backend
        ).hess
        assert_allclose(hess, np.exp(-self.theta) / (1 + np.exp(-self.theta)) ** 2, rtol=1e-13, atol=0)
        both = fastsce.binary_cross_entropy_grad_and_hess(self.theta, np.ones(7), reduction="sum", backend=backend)
        assert_allclose(both.hess, hess, **EXACT)

    def test_printed_softmax(self, backend):
        """softmax(−2.85, 0.86, 0.28): the printed digits as far as they are right, and the exact ones"""
        p = fastsce.softmax(SCORES, backend=backend)
        assert_allclose(p, PRINTED_SOFTMAX, rtol=3e-10)
        assert_allclose(p, SOFTMAX, rtol=1e-15)

    def test_printed_loss(self, backend):
        """L_i(scores, 3, 3) = 1.040190570 (the third class, counted from 1)"""
        loss = fastsce.cross_entropy(SCORES, np.array(2), backend=backend)
        assert_allclose(loss, PRINTED_LOSS, rtol=6e-10)
        assert_allclose(loss, LOSS, rtol=1e-15)

    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    def test_worked_example_in_narrow_dtypes(self, backend, dtype):
        scores = SCORES.astype(dtype)
        loss, grad, _ = fastsce.cross_entropy_value_and_grad(scores, np.array(2), backend=backend)
        assert loss.dtype == np.float32 and grad.dtype == dtype
        assert_allclose(loss, PRINTED_LOSS, rtol=3e-7 if dtype == "float32" else 1e-3)
        assert_allclose(grad, np.array(SOFTMAX) - [0, 0, 1], rtol=1e-6 if dtype == "float32" else 2e-3)

    def test_binary_cross_entropy(self, backend):
        """H(p, q) = −y log ŷ − (1 − y) log(1 − ŷ) with ŷ = g(z), and its mean over N samples"""
        z, y = logits((17,), "float64"), rng("binary").random(17)
        g = 1 / (1 + np.exp(-z))
        expected = -y * np.log(g) - (1 - y) * np.log(1 - g)
        assert_allclose(fastsce.binary_cross_entropy(z, y, reduction="none", backend=backend), expected, **EXACT)
        loss, grad, _ = fastsce.binary_cross_entropy_value_and_grad(z, y, backend=backend)
        assert_allclose(loss, expected.sum() / 17, **EXACT)
        assert_allclose(grad, (g - y) / 17, **EXACT)

    def test_binary_is_two_class_softmax(self, backend):
        """Complementary probabilities: q_{y=1} = ŷ, q_{y=0} = 1 − ŷ"""
        z, y = logits((17,), "float64"), labels(17, 2)
        pairs = np.stack([np.zeros(17), z], -1)
        binary = fastsce.binary_cross_entropy_value_and_grad(z, y, backend=backend)
        multi = fastsce.cross_entropy_value_and_grad(pairs, y, backend=backend)
        assert_allclose(binary.loss, multi.loss, **EXACT)
        assert_allclose(binary.grad, multi.grad[:, 1], **EXACT)

    def test_onehot_picks_the_correct_class(self, backend):
        """H(p, q) = −Σ_i p_i log q_i = −log q_i at the correct label"""
        for k in range(3):
            loss = fastsce.cross_entropy(SCORES, np.array(k), backend=backend)
            assert_allclose(loss, -np.log(SOFTMAX[k]), rtol=1e-13)
            assert_allclose(fastsce.cross_entropy(SCORES, np.eye(3)[k], backend=backend), loss, **EXACT)

    @pytest.mark.parametrize("k", range(3))
    def test_derivative_of_the_correct_class(self, backend, k):
        """Equations 2 to 6: dp_k/dz_k = exp z/Σ − (exp z)²/Σ² = p_k − p_k² = −p_k(p_k − 1), which is p_k(1 − p_k)"""
        e, total = np.exp(SCORES[k]), np.exp(SCORES).sum()
        p = fastsce.softmax(SCORES, backend=backend)
        slope = fastsce.softmax_jacobian(p, backend=backend)[k, k]
        for expected in (e / total - e**2 / total**2, p[k] - p[k] ** 2, -p[k] * (p[k] - 1), p[k] * (1 - p[k])):
            assert_allclose(slope, expected, **EXACT)
        hess = fastsce.cross_entropy_grad_and_hess(SCORES, np.array(k), reduction="sum", backend=backend).hess
        assert_allclose(hess[k], slope, **EXACT)

    @pytest.mark.parametrize("k", range(3))
    def test_chain_rule_of_the_correct_class(self, backend, k):
        """∂L/∂z_k = ∂L/∂q_k · ∂q_k/∂z_k = −1/q_k · q_k(1 − q_k) = q_k − 1"""
        p = np.array(SOFTMAX)
        grad = fastsce.cross_entropy_value_and_grad(SCORES, np.array(k), backend=backend).grad
        assert_allclose(grad[k], -1 / p[k] * p[k] * (1 - p[k]), rtol=1e-13)
        assert_allclose(grad[k], p[k] - 1, rtol=1e-13)
