"""Time `detector compare` on 60 runs of 2,000 rows, and the opening of its page.

    python benchmarks/compare_speed.py

The aims are 5 s for the comparison and 2 s for the page. The runs are made up from a real one, 23
layers and about 470 MB in all, in a temporary folder. Without chromium only the first is timed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.speed.growth_files import short_run, write_run  # noqa: E402

ABLATIONS, SEEDS, ROWS = 20, 3, 2000
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
DRAWN = "return document.querySelector('#depth .main-svg') ? performance.now() : 0"


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
    argparse.ArgumentParser(description=main.__doc__).parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, page = Path(temporary) / "runs", Path(temporary) / "report.html"
        model = short_run(Path(temporary) / "model")
        for ablation in range(ABLATIONS):
            for seed in range(SEEDS):
                write_run(model, folder / f"{ablation}-{seed}", ROWS, ablation, seed)
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
