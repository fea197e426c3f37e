"""The page as a file: whole, self-contained, and unmoved by what strangers put in their names."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from detector.tools.compare.comparison import compare
from detector.tools.compare.figures import log10
from detector.tools.compare.page import headline, page
from detector.tools.compare.runs import load_runs

Make = Callable[..., Path]
HOSTILE = "</script><script>alert(1)</script>"


class Document(HTMLParser):
    """Tags with their attributes, and the text of every script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and data.strip():
            self.scripts.append(data)


def written(*directories: Path) -> str:
    return page(compare(*load_runs(directories)))


def unpacked(text: str, name: str) -> str:
    found = re.search(rf'<script type="text/plain" id="{name}">([A-Za-z0-9+/=]*)</script>', text)
    assert found
    return gzip.decompress(base64.b64decode(found[1])).decode()


def payload(text: str) -> dict[str, Any]:
    return dict(json.loads(unpacked(text, "figures")))


def frame(text: str, figure: str, name: str) -> list[dict[str, Any]]:
    """The traces that a control's choice puts into a figure."""
    frames = payload(text)["figures"][figure]["frames"]
    return list(next(one["data"] for one in frames if one["name"] == name))


def test_it_loads_nothing(make_run: Make) -> None:
    document = Document(written(make_run()))
    for tag, attributes in document.tags:
        assert not {"src", "srcset", "data", "action"} & set(attributes), tag
        assert tag not in ("link", "iframe", "object", "base"), tag
        assert (attributes.get("href") or "#").startswith("#")


def test_only_its_own_scripts_may_run(make_run: Make) -> None:
    text = written(make_run())
    document = Document(text)
    policy = next(a["content"] for t, a in document.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy.split("style-src")[0]
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    *_, script = document.scripts  # those before are data
    scripts = [script, get_plotlyjs()]
    assert unpacked(text, "plotly") == scripts[1]
    assert {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts} == allowed


def test_names_stay_names(make_run: Make) -> None:
    innocent = Document(written(make_run("x", folder="innocent", **{"model.norm": "y"})))
    hostile = make_run(
        HOSTILE,
        folder='<img src=x onerror="alert(1)">',
        summary={"dataset": "<!--slot:figures-->", "gradient/verdict": "<b>bold</b>", "commit": "<i>"},
        **{"model.norm": "<script>alert(2)</script>"},
    )
    with (hostile / "history.jsonl").open("a") as file:
        file.write('{"step": 99, "activation_grad/06_<script>": 1}\ntorn')
    (hostile / "ledger.json").write_text(
        json.dumps([{"step": 0, "block": "<script>", "operation": "</script>", "factor": 1}])
    )
    text = written(hostile)
    document = Document(text)
    more = [tag for tag, _ in document.tags if tag not in ("li",)]
    assert sorted(set(more)) == sorted({tag for tag, _ in innocent.tags} - {"li"} | {"small"})
    assert len([t for t in more if t == "script"]) == len([t for t, _ in innocent.tags if t == "script"])
    assert "&lt;!--slot:figures--&gt;" in text
    # Plotly reads HTML in its texts, so there they are written as HTML.
    traces = payload(text)["figures"]["index"]["data"]
    assert [trace["name"] for trace in traces] == [f"{html.escape(HOSTILE)}, seed 0"]
    assert "&lt;script&gt;" in frame(text, "heat", "activation_grad 0")[0]["y"]
    assert "<script" not in json.dumps(payload(text))


def test_the_figures_are_the_runs(make_run: Make) -> None:
    text = written(make_run(v=-1.5), make_run("b", 3, **{"model.norm": "none"}))
    assert payload(text)["stops"] == [0, 5, 10, 15, 19]
    values = [tag["value"] for _, tag in Document(text).tags if tag.get("name") == "seed"]
    assert values == ["0", "3"]
    assert 'title="model.norm=none"' in text
    heat = frame(text, "heat", "activation_grad 0")[0]
    assert heat["x"] == [0, 5, 10, 15, 19]
    assert heat["y"] == ["stem", "p2.down", "p2.0", "p3.down", "p3.0", "p3.1"]
    assert [row[0] for row in heat["z"]] == pytest.approx([-1.5, -1.2, -0.9, -0.6, -0.3, 0.0])
    lines = frame(text, "layers", "weight_grad 0")
    assert [line["y"][0] for line in lines[:6]] == pytest.approx(
        [2 * 10 ** row[0] for row in heat["z"]], rel=0.01
    )
    first, last = (frame(text, "depth", f"activation_grad {at}") for at in (0, 4))
    depth = {
        trace["name"]: at
        for at, trace in enumerate(payload(text)["figures"]["depth"]["data"])
        if "name" in trace
    }
    at = depth["baseline, seed 0"]
    assert first[at]["y"] == pytest.approx([10 ** row[0] for row in heat["z"]], rel=0.01)
    assert last[at]["y"] == pytest.approx([10 ** row[-1] for row in heat["z"]], rel=0.01)


def test_what_was_recorded_inside_has_a_figure_of_its_own(make_run: Make) -> None:
    run = make_run("plain")
    assert 'class="plot tall" id="inside"' not in written(run)
    inside = {"002_model.2.m.0.cv1": 1e-3, "010_model.2.cv2": 1e-2, "100_model.23.cv2.0.0": 1.0}
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {f"point_activation_grad/{name}": value for name, value in inside.items()}
        row |= {f"point_weight_grad/{name}": 2 * value for name, value in inside.items()}
    (run / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = written(run, make_run("b", **{"model.norm": "none"}))
    assert 'class="plot tall" id="inside"' in text
    figure = payload(text)["figures"]["inside"]
    trace = next(at for at, trace in enumerate(figure["data"]) if trace.get("name") == "plain, seed 0")
    assert figure["data"][trace]["x"] == [name[4:] for name in inside]
    for kind, factor in (("activation_grad", 1), ("weight_grad", 2)):
        drawn = frame(text, "inside", f"{kind} 2")[trace]["y"]
        assert drawn == pytest.approx([factor * value for value in inside.values()], rel=0.01)
    assert not any(trace.get("name", "").startswith("b,") for trace in figure["data"])
    assert "model.2" not in json.dumps(payload(text)["figures"]["depth"])


def add(directory: Path, ends: list[dict[str, float]]) -> None:
    """Keys for the first row, and for the last if there are two."""
    file = directory / "history.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for at, keys in zip((0, -1), ends, strict=False):
        rows[at] |= keys
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_probe_and_clipping_are_drawn_where_runs_have_them(make_run: Make) -> None:
    bare = make_run("baseline", 0)
    assert {"probe", "clip"}.isdisjoint(payload(written(bare))["figures"])
    assert 'id="probe"' not in written(bare)
    auc = {"signal/probe_auc_p3": 0.6, "signal/probe_auc_p3_position": 0.7}
    add(
        bare, [auc | {"train/clip_factor": 1.0}, auc | {"signal/probe_auc_p3": 0.9, "train/clip_factor": 0.5}]
    )
    by_part = make_run("baseline", 1)
    add(by_part, [auc | {"train/clip_factor_trunk": 0.1, "train/clip_factor_rest": 0.9}])  # it did not end
    text = written(bare, by_part)
    assert all(f'id="{key}"' in text for key in ("probe", "clip"))
    drawn = {trace["name"]: trace for trace in payload(text)["figures"]["probe"]["data"]}
    assert drawn["baseline"]["x"] == ["p3<br>first step", "p3<br>last"]
    assert drawn["baseline"]["y"] == pytest.approx([0.6, 0.9])
    assert drawn["baseline, seed 1"]["y"] == [0.6, None]
    assert drawn["baseline, place alone"]["y"] == pytest.approx([0.7, 0.7])
    clip = {trace["name"]: trace for trace in payload(text)["figures"]["clip"]["data"]}
    assert clip["baseline, seed 0"]["y"] == [1.0, 0.5]
    assert clip["baseline, seed 1"]["y"][0] == 0.1
    assert clip["baseline"]["y"][0] == pytest.approx(0.55)


def test_seeds_are_lines_and_their_mean_is_geometric(make_run: Make) -> None:
    text = written(*(make_run("baseline", seed, v=-1.0 - seed) for seed in (0, 1)))
    drawn = {trace["name"]: trace for trace in payload(text)["figures"]["depth"]["data"] if "name" in trace}
    assert {name: trace["meta"] for name, trace in drawn.items()} == {
        "baseline, seed 0": [0, "0"],
        "baseline, seed 1": [0, "1"],
        "baseline": [0, "mean"],
    }
    assert drawn["baseline"]["y"][0] == pytest.approx(10**-1.5, rel=0.01)
    loss = {trace["name"]: trace["y"] for trace in payload(text)["figures"]["loss"]["data"]}
    assert loss["baseline"] == pytest.approx(loss["baseline, seed 0"])


def test_networks_of_another_depth_line_up_by_name(make_run: Make) -> None:
    deep = make_run("deep", **{"model.norm": "none"})
    rows = [json.loads(line) for line in (deep / "history.jsonl").read_text().splitlines()]
    for row in rows:  # one more layer in P2, so that all behind it stand one deeper
        for layer, name in (("05_p3.1", "06_p3.1"), ("04_p3.0", "05_p3.0"), ("03_p3.down", "04_p3.down")):
            row[f"activation_grad/{name}"] = row.pop(f"activation_grad/{layer}")
        row["activation_grad/03_p2.1"] = 1.0
    (deep / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    figure = payload(written(make_run(), deep))["figures"]["depth"]
    order = ["stem", "p2.down", "p2.0", "p2.1", "p3.down", "p3.0", "p3.1"]
    assert figure["layout"]["xaxis"]["categoryarray"] == order
    traces = {trace["name"]: trace["x"] for trace in figure["data"] if "name" in trace}
    assert traces == {"deep, seed 0": order, "baseline, seed 0": [name for name in order if name != "p2.1"]}


def test_plotly_knows_every_attribute(make_run: Make) -> None:
    """Plotly's own schema, which refuses what it does not know."""
    text = written(
        *(make_run("a", seed, late=0.2) for seed in (0, 1)), make_run("b", **{"model.norm": "none"})
    )
    figures = payload(text)["figures"]
    assert set(figures) == {"depth", "index", "loss", "map-train", "map-val", "layers", "heat", "ledger"}
    for figure in figures.values():
        checked = go.Figure(figure["data"], figure["layout"], figure.get("frames"))
        counts = {len(one.data) for one in checked.frames}
        assert counts <= {len(checked.data)}
    ids = {attributes.get("id") for _, attributes in Document(text).tags}
    assert set(figures) <= ids


def test_the_ledger_of_the_first_step_and_the_last(make_run: Make) -> None:
    directory = make_run()
    factors = {0: (0.1, 10.0, 0.5), 7: (1.0, 1.0, 1.0), 19: (0.01, 1.0, None)}
    rows = [
        {"step": step, "block": block, "operation": operation, "factor": factor}
        for step, values in factors.items()
        for (block, operation), factor in zip(
            (("04_p3.0", "a.act"), ("05_p3.1", "a.conv"), ("05_p3.1", "a.act")), values, strict=True
        )
    ]
    (directory / "ledger.json").write_text(json.dumps(rows))
    text = written(directory, make_run("without", **{"model.norm": "none"}))
    first, last = frame(text, "ledger", "0")
    assert (first["name"], last["name"]) == ("step 0", "step 19")
    assert first["x"] == ["p3.1", "p3.0"]  # from the head to the image
    assert first["y"] == pytest.approx([1 - 0.301, -1], abs=0.001)
    assert last["y"] == [0, -2]
    assert first["customdata"] == ["<br>a.conv: 1.00<br>a.act: -0.30", "<br>a.act: -1.00"]
    assert last["customdata"][0].endswith("a.act: not finite")
    assert [trace["visible"] for trace in frame(text, "ledger", "1")] == [False, False]


def test_the_headline_says_which_ablation_and_where(make_run: Make) -> None:
    vanishing = {"gradient/verdict_init": "vanishing", "gradient/verdict": "healthy"}
    runs = [make_run("fine"), *(make_run("lost", seed, v=-3.0, summary=vanishing) for seed in (0, 1))]
    runs += [make_run("lost", 2, v=-0.5)]
    runs += [
        make_run("loud", v=2.0, late=2.0, summary={"gradient/verdict": "exploding"}, **{"train.lr": 1.0})
    ]
    for run in runs[1:4]:
        config = (run / "config.yaml").read_text().replace("norm: batch", "norm: none")
        (run / "config.yaml").write_text(config)
    assert headline(compare(*load_runs(runs))) == [
        "At initialisation, the gradient vanishes in lost "
        "(2 of 3 runs; V = −3.00 decades; p2.down to p3.1 lose 3.0).",
        "Late in training, the gradient explodes in loud (V = +2.00 decades; p2.down to p3.1 gain 2.0).",
        "Healthy: fine.",
    ]


def test_underflow_is_at_the_floor_and_nan_is_a_gap() -> None:
    found = log10(np.array([0.0, 1e-300, 100.0, np.nan, np.inf]))
    assert found[:3].tolist() == [-40, -40, 2]
    assert np.isnan(found[3:]).all()


def test_a_long_history_is_thinned_out(make_run: Make) -> None:
    text = written(make_run(steps=9000))
    for steps in (payload(text)["stops"], frame(text, "heat", "activation_grad 0")[0]["x"]):
        assert len(steps) == 100
        assert (steps[0], steps[-1]) == (0, 8999)


def test_no_line_is_drawn_across_lost_rows(make_run: Make) -> None:
    """Neither of the run that lost them; the other seed's line and the mean go on."""
    whole, holed = make_run(seed=0), make_run(seed=1, summary={"steps_lost": [5, 10]})
    rows = (holed / "history.jsonl").read_text().splitlines(keepends=True)
    (holed / "history.jsonl").write_text("".join([rows[0], *rows[3:]]))
    text = written(whole, holed)
    loss = {trace["name"]: trace for trace in payload(text)["figures"]["loss"]["data"]}
    one, other = (loss[f"baseline, seed {seed}"] for seed in (0, 1))
    assert one["x"] == [0, 5, 10, 15, 19] and None not in one["y"]
    assert other["x"] == [0, 5, 15, 19]
    assert [value is None for value in other["y"]] == [False, True, False, False]
    assert None not in loss["baseline"]["y"]
    curves = frame(written(holed), "heat", "activation_grad 0")[0]
    assert curves["x"] == [0, 5, 15, 19]
    assert all(row[1] is None and row[2] is not None for row in curves["z"])


def theory_in(text: str) -> list[dict[str, Any]]:
    return [t for t in payload(text)["figures"]["depth"]["data"] if t.get("name", "").startswith("theory")]


@pytest.mark.slow
def test_theory_is_drawn_where_there_is_one(make_run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    theory = ModuleType("detector.analysis.trunk_theory")
    theory.overlay = lambda model, measured: {name: norm * 10 for name, norm in measured.items()}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "detector.analysis.trunk_theory", theory)
    text = written(make_run(v=-1.0))
    (trace,) = theory_in(text)
    assert np.log10(trace["y"]) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], abs=0.01)
    at = payload(text)["figures"]["depth"]["data"].index(trace)
    assert frame(text, "depth", "weight_grad 0")[at]["y"] == [None] * 6  # it is about activations
    theory.overlay = lambda model, measured: None  # type: ignore[attr-defined]
    assert theory_in(written(make_run("silent"))) == []
    monkeypatch.setitem(sys.modules, "detector.analysis.trunk_theory", None)
    assert theory_in(written(make_run("without"))) == []


def test_a_run_without_curves_is_still_in_the_table(make_run: Make) -> None:
    directory = make_run()
    (directory / "history.jsonl").unlink()
    assert "baseline" in written(directory)
