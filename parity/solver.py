"""Writes fixtures/solver.json.gz: small problems of logistic regression with scikit-learn's solutions, and one cross-validation.

    venv/bin/python parity/solver.py

Features are f32; scikit-learn gets them as f64, standardised as `StandardScaler` does. Engraft minimises `mean cross entropy + strength / 2 *
|weight|^2`, the weights standardised, the bias free; scikit-learn `sum of cross entropies + |weight|^2 / (2 C)`, so that `C = 1 / (rows *
strength)`. For two classes scikit-learn has one row of weights, the difference of Engraft's two, which are opposite: `C = 2 / (rows * strength)`.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import fixture

STRENGTHS = [1.0, 1e-2, 1e-4]
MASK = (1 << 64) - 1


def clusters(generator, counts, features, distance):
    """Gaussian clusters of so many rows, in random order."""
    labels = generator.permutation(np.repeat(np.arange(len(counts)), counts))
    means = distance * generator.standard_normal((len(counts), features))
    return means[labels] + generator.standard_normal((len(labels), features)), labels


def problems():
    generator = np.random.default_rng(9)
    yield "two classes", clusters(generator, [45, 35], 4, 0.7)
    yield "three classes", clusters(generator, [30, 30, 30], 6, 0.6)
    yield "ten classes", clusters(generator, [20] * 10, 16, 0.5)
    x, labels = clusters(generator, [40, 40, 40], 8, 0.5)
    # Scales over seven powers of ten, means far from zero, two columns that are nearly one.
    x = x * 10.0 ** np.arange(-3, 5) + 10.0 ** np.arange(-1, 7)
    x[:, 1] = x[:, 0] * 10 + 1e-4 * generator.standard_normal(len(x))
    yield "ill-conditioned", (x, labels)
    yield "separable", clusters(generator, [20, 20, 20], 5, 4.0)
    yield "imbalanced", clusters(generator, [150, 20, 5], 5, 0.6)
    yield "fewer rows than features", clusters(generator, [10, 10, 10], 50, 0.5)


def solve(x, labels, strength):
    """Weights `[classes, features]` and biases of the minimum."""
    classes = labels.max() + 1
    c = (2 if classes == 2 else 1) / (len(x) * strength)
    # Newton's method goes on to the last digits, where L-BFGS is content earlier.
    model = LogisticRegression(C=c, solver="newton-cg", tol=1e-10, max_iter=10_000).fit(x, labels)
    weight, bias = model.coef_, model.intercept_
    if classes == 2:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias


def log_softmax(logits):
    logits = logits - logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def solution(x, labels, strength):
    weight, bias = solve(x, labels, strength)
    logarithms = log_softmax(x @ weight.T + bias)
    loss = -logarithms[np.arange(len(x)), labels].mean()
    return {
        "strength": strength,
        "objective": float(loss + strength / 2 * (weight**2).sum()),
        "weight": fixture.floats(weight),
        "probabilities": fixture.floats(np.exp(logarithms)),
    }


def folds(labels, count, seed):
    """Rows of each class shuffled and dealt to the folds, as crates/solver/src/folds.rs does."""

    def random(bound):
        nonlocal seed
        seed = (seed + 0x9E3779B97F4A7C15) & MASK
        z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return ((z ^ (z >> 31)) * bound) >> 64

    fold, dealt = np.zeros(len(labels), int), 0
    for label in range(labels.max() + 1):
        rows = list(np.flatnonzero(labels == label))
        for last in range(len(rows) - 1, 0, -1):
            other = random(last + 1)
            rows[last], rows[other] = rows[other], rows[last]
        for row in rows:
            fold[row] = dealt % count
            dealt += 1
    return fold


def cross_validation(x, labels, strength, fold):
    """Mean cross entropy and accuracy of the rows left out, all rows being standardised together."""
    losses, right = np.zeros(len(x)), np.zeros(len(x))
    for out in range(fold.max() + 1):
        weight, bias = solve(x[fold != out], labels[fold != out], strength)
        rows = np.flatnonzero(fold == out)
        logarithms = log_softmax(x[rows] @ weight.T + bias)
        losses[rows] = -logarithms[np.arange(len(rows)), labels[rows]]
        right[rows] = logarithms.argmax(1) == labels[rows]
    error = np.sqrt(len(x) - 1)
    return {
        "strength": strength,
        "loss": float(losses.mean()),
        "loss_error": float(losses.std() / error),
        "accuracy": float(right.mean()),
        "accuracy_error": float(right.std() / error),
    }


def main():
    cases = []
    for name, (x, labels) in problems():
        x = x.astype(np.float32)
        standardised = StandardScaler().fit_transform(x.astype(np.float64))
        case = {
            "name": name,
            "features": x.shape[1],
            "x": fixture.floats(x),
            "labels": labels.tolist(),
            "solutions": [solution(standardised, labels, strength) for strength in STRENGTHS],
            "trials": [],
        }
        if name == "ten classes":
            fold = folds(labels, 5, seed=7)
            case["trials"] = [cross_validation(standardised, labels, strength, fold) for strength in [1.0, 0.1, 1e-2]]
        cases.append(case)
    print(fixture.write("solver", cases), "bytes")


if __name__ == "__main__":
    main()
