"""What ultralytics calls a setting, for hands that are used to it.

A name that means one thing is understood on the command line: `imgsz=640` is `data.image_size=640`. The
others are answered with what does the same here.
"""

from __future__ import annotations

SAME = {
    "imgsz": "data.image_size",
    "data": "data.path",
    "epochs": "train.epochs",
    "batch": "train.batch",
    "lr0": "train.lr",
    "device": "train.device",
    "patience": "train.patience",  # in epochs, too
    "freeze": "model.freeze",
    "seed": "train.seed",
    "optimizer": "train.optimizer",
    "workers": "data.workers",
}

SIMILAR = {
    "model": "model.pretrained=yolo26n.pt fine-tunes one, and --config no_residual names an ablation",
    "weights": "model.pretrained=FILE.pt",
    "cfg": "--config FILE.yaml",
    "resume": "--resume RUN_DIR",
    "project": "run.dir=FOLDER/NAME (tracking.project is the one on W&B)",
    "name": "run.dir=FOLDER/NAME is where a run goes, run.name what it is called",
    "lrf": "train.final_lr",
    "cos_lr": "train.schedule=cosine, which is the default",
    "warmup_epochs": "train.warmup_steps, in steps",
    "nbs": "train.accumulate, forward passes a step",
    "amp": "train.precision=auto",
    "box": "train.box_gain",
    "cls": "train.cls_gain",
    "dfl": "train.dfl_gain",
    "val": "train.eval_every, in steps",
    "save_period": "train.eval_every, in steps",
    "fraction": "an epoch is all images; train.steps ends a run earlier",
    "rect": "images are letterboxed to a square",
}
