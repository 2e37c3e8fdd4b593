"""Engraft's solver beside scikit-learn's, both with cross-validation: time, objective, accuracy.

    python bench/solver.py [--rows 100000 --features 2048 --classes 100] [--threads 2] [--peer cv|fold|last|none] [--tol 1e-4] [--most-iterations N] [--folder DIR]

Makes features like those of a network (columns that correlate, their variances falling as 1/k, of differing scale and mean; around each class's mean), writes them to
a file, and gives the same file to both. Both get the same strengths and the same number of folds, and the same threads. scikit-learn gets f32,
standardised, in memory: its fastest way; what it takes to read and standardise them is not counted, in engraft's time it is.

`--peer cv` runs LogisticRegressionCV; `--peer fold` only the path of one fold, and one fit on all rows at the end of the path that scikit-learn would
have taken to the chosen strength, because the whole takes many minutes: the figure for all folds is then that of one times their number, and said to be so.
`--peer last` runs one fit alone, at the chosen strength and from zero: with a small `--tol`, that is what an objective equal to engraft's costs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import bind, processor

ROOT = Path(__file__).parent.parent
FOLDS = 5
STRENGTHS = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5]


def make(folder, rows, features, classes):
    """Writes features and labels, unless they are there."""
    import numpy as np

    stem = f"{rows}x{features}x{classes}"
    paths = folder / f"{stem}.f32", folder / f"{stem}.u32"
    if all(path.exists() for path in paths):
        return paths
    generator = np.random.default_rng(0)
    deviations = np.arange(1, features + 1, dtype=np.float32) ** -0.5
    turned = np.linalg.qr(generator.standard_normal((features, features), dtype=np.float32))[0]
    mix = deviations[:, None] * turned
    labels = generator.integers(0, classes, rows).astype(np.uint32)
    # About 84 % of unseen rows are then told right, whatever the number of features.
    means = generator.standard_normal((classes, features), dtype=np.float32) * (4.3 / features**0.5)
    scale = np.exp(generator.standard_normal(features) / 2).astype(np.float32)
    offset = np.abs(generator.standard_normal(features)).astype(np.float32) * scale
    with open(paths[0], "wb") as file:
        for first in range(0, rows, 5000):
            chunk = labels[first : first + 5000]
            noise = generator.standard_normal((len(chunk), features), dtype=np.float32)
            (((noise + means[chunk]) @ mix) * scale * 10 + offset).tofile(file)
    labels.tofile(paths[1])
    return paths


def standardised(path, features):
    """The rows as f32, and the means and deviations that were taken from them."""
    import numpy as np

    x = np.fromfile(path, np.float32).reshape(-1, features)
    mean, deviation = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    x -= mean.astype(np.float32)
    x /= deviation.astype(np.float32)
    return x, mean, deviation


def objective(x, labels, weight, bias, strength):
    """In f64, a few rows at a time."""
    import numpy as np

    loss = 0.0
    for first in range(0, len(x), 10_000):
        logits = x[first : first + 10_000].astype(np.float64) @ weight.T + bias
        own = labels[first : first + 10_000]
        logits -= logits.max(1, keepdims=True)
        loss += (np.log(np.exp(logits).sum(1)) - logits[np.arange(len(own)), own]).sum()
    return loss / len(x) + strength / 2 * (weight**2).sum()


def engraft(paths, features, strengths, threads, folder):
    """Summary, weights and biases for features as they are."""
    import numpy as np

    solution = folder / "solution.f32"
    program = ROOT / "target/release/examples/solve_file"
    command = [program, *paths, str(features), ",".join(map(str, strengths)), str(threads), solution]
    output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
    values = np.fromfile(solution, np.float32).astype(np.float64)
    classes = len(values) // (features + 1)
    return json.loads(output), values[: classes * features].reshape(classes, features), values[classes * features :]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer", choices=["cv", "fold", "last", "none"], default="cv")
    parser.add_argument("--tol", type=float, default=1e-4, help="scikit-learn's tolerance; 1e-4 is its default")
    parser.add_argument("--most-iterations", type=int, default=10_000, help="of scikit-learn, for one fit")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "engraft-bench-solver")
    options = parser.parse_args()
    bound = bind(options.threads)
    for variable in ["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"]:
        os.environ[variable] = str(options.threads)
    # Only now, so that their threads are as many.
    import numpy as np
    import sklearn
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
    from sklearn.model_selection import StratifiedKFold

    build = ["cargo", "build", "--quiet", "--release", "--package", "engraft-solver", "--example", "solve_file"]
    subprocess.run(build, cwd=ROOT, check=True)
    options.folder.mkdir(parents=True, exist_ok=True)
    paths = make(options.folder, options.rows, options.features, options.classes)
    print(f"{processor()}, {options.threads} threads, {bound}; {options.rows} x {options.features}, {options.classes} classes")
    ours, weight, bias = engraft(paths, options.features, STRENGTHS, options.threads, options.folder)
    for trial in ours["trials"]:
        print("  {strength:g}: loss {loss:.4f} ± {loss_error:.4f}, accuracy {accuracy:.4f}, {iterations} iterations".format(**trial))
    x, mean, deviation = standardised(paths[0], options.features)
    labels = np.fromfile(paths[1], np.uint32)
    strength = ours["strength"]
    mine = objective(x, labels, weight * deviation, bias + weight @ mean, strength)
    print(
        f"engraft: {ours['seconds']:.1f} s, of which cross-validation {ours['cross_validation_seconds']:.1f} s; {ours['passes']} passes; "
        f"strength {strength:g}, objective {ours['objective']:.10f} (in f64, folded back: {mine:.10f})",
        flush=True,
    )
    if options.peer == "none":
        return
    settings = {"tol": options.tol, "max_iter": options.most_iterations}
    name = f"scikit-learn {sklearn.__version__}, tol {options.tol:g}"
    # scikit-learn's C for a strength is another in each fold and in the last fit, by the number of rows; a C is what it takes, so that of the folds.
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    learned = options.rows * (FOLDS - 1) // FOLDS
    start = time.perf_counter()
    if options.peer == "cv":
        model = LogisticRegressionCV(
            Cs=[1 / (learned * strength) for strength in STRENGTHS], cv=folds, scoring="neg_log_loss",
            l1_ratios=(0,), use_legacy_attributes=False, **settings,
        ).fit(x, labels)
        seconds = time.perf_counter() - start
        chosen = 1 / (len(x) * model.C_)
        theirs = objective(x, labels, model.coef_, model.intercept_, chosen)
        print(f"{name}: {seconds:.1f} s; C {model.C_:g}, which is strength {chosen:g} over all rows, objective {theirs:.10f}")
        print(f"ratio {seconds / ours['seconds']:.2f}", flush=True)
        _, weight, bias = engraft(paths, options.features, [chosen], options.threads, options.folder)
        mine = objective(x, labels, weight * deviation, bias + weight @ mean, chosen)
        print(f"engraft's objective at that strength {mine:.10f}; scikit-learn's, relative to it: {theirs / mine - 1:+.2e}")
        return
    if options.peer == "last":
        model = LogisticRegression(C=1 / (len(x) * strength), **settings).fit(x, labels)
        seconds = time.perf_counter() - start
        theirs = objective(x, labels, model.coef_, model.intercept_, strength)
        print(f"{name}: one fit at strength {strength:g} from zero {seconds:.1f} s, {model.n_iter_[0]} iterations; "
              f"objective {theirs:.10f}, relative to engraft's: {theirs / mine - 1:+.2e}")
        return
    train, test = next(folds.split(x, labels))
    model = LogisticRegression(warm_start=True, **settings)
    part, own = x[train], labels[train]
    start = time.perf_counter()
    for strength in STRENGTHS:
        before = time.perf_counter()
        model.C = 1 / (len(part) * strength)
        model.fit(part, own)
        print(
            f"  {strength:g}: {time.perf_counter() - before:.1f} s, {model.n_iter_[0]} iterations, accuracy {model.score(x[test], labels[test]):.4f}",
            flush=True,
        )
        if strength == ours["strength"]:
            last = model.coef_.copy(), model.intercept_.copy()
    path = time.perf_counter() - start
    model.coef_, model.intercept_ = last
    model.C = 1 / (len(x) * ours["strength"])
    before = time.perf_counter()
    model.fit(x, labels)
    seconds = time.perf_counter() - before
    theirs = objective(x, labels, model.coef_, model.intercept_, ours["strength"])
    print(f"{name}: one fold {path:.1f} s, last fit {seconds:.1f} s ({model.n_iter_[0]} iterations); objective {theirs:.10f}")
    whole = FOLDS * path + seconds
    print(f"extrapolated: {FOLDS} folds and the last fit {whole:.1f} s; ratio {whole / ours['seconds']:.2f}; "
          f"objective, relative to engraft's: {theirs / mine - 1:+.2e}")


if __name__ == "__main__":
    sys.exit(main())
