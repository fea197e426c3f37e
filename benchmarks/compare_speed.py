"""Time `detector compare` on 60 runs of 2,000 rows, and the opening of its page.

    python benchmarks/compare_speed.py

The aims are 5 s for the comparison and 2 s for the page. The runs are made up, of the size of real ones:
23 layers, about 420 MB in all, written to a temporary folder. Without chromium only the first is timed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

ABLATIONS, SEEDS, ROWS, LAYERS = 20, 3, 2000, 23
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
DRAWN = "return document.querySelector('#depth .main-svg') ? performance.now() : 0"


def write_run(directory: Path, ablation: int, seed: int) -> None:
    """One run: random walks for norms, since what they are does not matter to the time they take."""
    name = "baseline" if ablation == 0 else f"ablation_{ablation}"
    rng = np.random.default_rng([ablation, seed])
    norms = np.exp(np.cumsum(rng.normal(0, 0.02, (ROWS, 3 * LAYERS)), axis=0)).tolist()
    kinds = ("activation_grad", "weight_grad", "update_ratio")
    keys = [f"{kind}/{layer:02d}_p3.{layer}" for kind in kinds for layer in range(LAYERS)]
    directory.mkdir(parents=True)
    with (directory / "history.jsonl").open("w") as file:
        for step, row in enumerate(norms):
            scalars = {"train/loss": row[0], "train/mAP50-95": 0.5, "gradient/vanishing_index": row[1]}
            file.write(json.dumps({"step": step, **scalars, **dict(zip(keys, row, strict=True))}) + "\n")
    (directory / "config.yaml").write_text(
        f"data: {{path: made/up.yaml, image_size: 256}}\n"
        f"model: {{act: silu, norm: batch, shortcut: residual, width: {ablation}}}\n"
        f"train: {{seed: {seed}, steps: {ROWS}}}\ngradients: {{every: 1}}\nrun: {{name: {name}}}\n"
    )
    summary = {"ablation": name, "seed": seed, "status": "finished", "steps": ROWS, "data_fingerprint": "0"}
    (directory / "summary.json").write_text(json.dumps(summary))


def opening(page: Path) -> float:
    """Seconds from navigation until the first figure stands."""
    from selenium import webdriver
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in FLAGS:
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        browser.get(page.as_uri())
        return float(WebDriverWait(browser, 30, 0.02).until(lambda b: b.execute_script(DRAWN))) / 1000
    finally:
        browser.quit()


def main() -> int:
    """Write, compare, open; print seconds."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, page = Path(temporary) / "runs", Path(temporary) / "report.html"
        for ablation in range(ABLATIONS):
            for seed in range(SEEDS):
                write_run(folder / f"{ablation}-{seed}", ablation, seed)
        command = [sys.executable, "-m", "detector", "compare", str(folder), "--html", str(page)]
        for _ in range(3):
            started = time.perf_counter()
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
            print(f"compare, {ABLATIONS * SEEDS} runs of {ROWS} rows: {time.perf_counter() - started:.2f} s")
        print(f"page: {page.stat().st_size / 1e6:.1f} MB")
        if shutil.which("chromium") and shutil.which("chromedriver"):
            for _ in range(3):
                print(f"page opened, first figure drawn: {opening(page):.2f} s")
        else:
            print("page not opened: no chromium with chromedriver here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
