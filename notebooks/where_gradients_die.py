# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Where gradients die, measured
#
# The core of the lesson in `docs/lesson/`, to be run: a detector of 41 trunk convolutions, stripped of its
# parts one by one, with the gradient of every layer recorded. About three minutes on two CPU cores.
#
# Nothing here needs an account. COCO8's eight images are downloaded; without a network the built-in `shapes`
# set takes their place.

# %% [markdown]
# ## Set-up
#
# In a clone of the project this finds the clone. Elsewhere, as on Colab, write the address of the git
# repository that you have this notebook from into `REPOSITORY` first: the notebook cannot know it.

# %%
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

REPOSITORY = ""  # on Colab: the address of the project's repository, such as "https://…/….git"

if find_spec("detector") is None:
    above = (Path.cwd(), *Path.cwd().parents)
    clone = next((folder for folder in above if (folder / "detector" / "fit.py").exists()), None)
    if clone is not None and find_spec("ultralytics") is not None:
        sys.path.insert(0, str(clone))
    elif clone is not None or REPOSITORY:
        source = str(clone) if clone is not None else f"git+{REPOSITORY}"
        if subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source]).returncode:
            raise SystemExit(f"pip could not install {source}; what it says is above.")
    else:
        raise SystemExit(
            "REPOSITORY is empty, and this is no clone of the project: write the repository's address "
            "between the quotes above and run this cell again. The cells below need it."
        )

import matplotlib.pyplot as plt

from detector import fit, load_config, load_run

STEPS = int(os.environ.get("LESSON_STEPS", "40"))  # of each training
SIZE = int(os.environ.get("LESSON_SIZE", "128"))  # pixels
RUNS = Path(os.environ.get("LESSON_RUNS", "runs/notebook"))

# %% [markdown]
# ## Train, and take apart
#
# `baseline` has SiLU, batch norm and residual blocks. The others lack one or both: `plain_…` has neither
# batch norm nor shortcuts.


# %%
def train(name, *settings, called=None):
    """Train one ablation, unless its run is there already, and read what it recorded."""
    folder = RUNS / f"{called or name}-{SIZE}px-{STEPS}"
    if not (folder / "summary.json").exists():
        short = [
            f"data.image_size={SIZE}",
            f"train.steps={STEPS}",
            f"run.dir={folder}",
            "train.eval_every=null",
        ]
        often = ["gradients.every=1", "tracking.wandb=disabled", "tracking.plots=false"]
        fit(load_config(name, [*short, *often, *settings]))
    return load_run(folder)


NAMES = "baseline", "no_residual", "no_batchnorm", "plain_silu", "plain_sigmoid"
runs = {name: train("coco8" if name == "baseline" else name, called=name) for name in NAMES}
histories = {name: run.read_history() for name, run in runs.items()}


# %% [markdown]
# ## Where the gradient dies
#
# One point a layer of the trunk: the image is on the left, the loss on the right. The gradient travels from
# right to left.


# %%
def layers(row, kind):
    """A row's numbers of one kind, in network order."""
    return [value for key, value in row.items() if key.startswith(kind)]


figure, axes = plt.subplots(figsize=(6, 4))
for name, history in histories.items():
    norms = layers(history[0], "activation_grad/")
    axes.semilogy([norm / norms[-1] for norm in norms], label=name)
axes.set(xlabel="layer", ylabel="‖g‖ relative to the last layer", title="before the first step")
axes.legend()
plt.show()

# %% [markdown]
# Without batch norm *and* shortcuts the gradient vanishes, by nine decades with the sigmoid. Without the
# shortcut alone it does not vanish: it grows towards the image. The vanishing index V says it in one number,
# in decades; the last column is the loss after these few steps.

# %%
print(f"{'':15}{'V, first step':>15}{'verdict':>15}{'loss at the end':>18}")
for name, run in runs.items():
    summary = run.read_summary()
    index, verdict = summary["gradient/vanishing_index_init"], summary["gradient/verdict_init"]
    print(f"{name:15}{index:>+15.2f}{verdict:>15}{summary['train/loss']:>18.2f}")

# %% [markdown]
# ## Is it saturation?
#
# The usual explanation of vanishing sigmoids is that they are saturated: so far from 0 that their slope is
# (nearly) nothing. Count them: the share of activations whose slope is below 0.01.

# %%
for name, history in histories.items():
    flat, dead = layers(history[0], "saturation/"), layers(history[0], "dead_units/")
    print(f"{name:15}{sum(flat) / len(flat):8.1%} saturated{sum(dead) / len(dead):8.1%} units dead")

# %% [markdown]
# ## Do the weights move?
#
# The update ratio: how far a layer's weights move in one step, relative to their size. Below the dotted line
# a float32 cannot hold the change at all.

# %%
figure, axes = plt.subplots(figsize=(6, 4))
for name, history in histories.items():
    axes.semilogy([max(ratio, 1e-20) for ratio in layers(history[-1], "update_ratio/")], label=name)
axes.axhline(2**-24, color="black", linestyle=":")
axes.set(xlabel="layer", ylabel="‖Δw‖ / ‖w‖", title="in the last step")
axes.legend()
plt.show()

# %% [markdown]
# Weight decay alone moves every weight a little, which is the floor that you may see here.
#
# ## Is it the gradient?
#
# Give the healthy network the sick one's gradient curve, and nothing else of it: at every layer the gradient
# is rescaled on its way back. If the loss stays where it was, the curve was not the reason. On COCO8's four
# images neck and head can do the work alone, so expect little here; `detector why` asks this properly, with
# controls and intervals.

# %%
curve = runs["plain_sigmoid"].path
imposed = train("coco8", f"gradients.impose={curve}", "gradients.ledger=false", called="imposed")
for name, run in (*runs.items(), ("baseline with plain_sigmoid's curve", imposed)):
    print(f"{name:40}{run.read_summary()['train/loss']:8.2f}")

# %% [markdown]
# Go on with the lesson (`docs/lesson/`), which measures each step over several seeds, or with an ablation of
# your own: `load_config("coco8", ["model.act=GELU"])`.
