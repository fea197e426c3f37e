"""Bad configurations, data YAMLs, labels, lists of images and suites."""

from __future__ import annotations

from pathlib import Path

from tests.hostile.corpus import CHECK, TRAIN, Case, Spoil, content, folder, link, pipe, sparse

BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
)
BAD_CONFIG = ("train.py", "--config", "{root}/bad.yaml", "run.dir={root}/out")
LABEL = "data/labels/train/a.txt"
LIST = ("detector", "check", "{root}/data/listed.yaml")
ABLATE = ("detector", "ablate", "{root}/suite.yaml", "--dry-run")


def _yaml(name: str, text: bytes | str, words: str) -> Case:
    return Case(f"config: {name}", content("bad.yaml", text), BAD_CONFIG, words)


def _override(name: str, override: str, words: str, spoil: Spoil = lambda root: None) -> Case:
    return Case(f"override: {name}", spoil, (*TRAIN[:3], override), words)


def _data(name: str, text: bytes | str, words: str, code: int = 2) -> Case:
    return Case(f"data YAML: {name}", content("data/data.yaml", text), CHECK, words, code)


def _label(name: str, text: bytes | str, words: str) -> Case:
    return Case(f"labels: {name}", content(LABEL, text), TRAIN, words)


def _list(name: str, text: bytes | str, words: str) -> Case:
    return Case(f"list: {name}", content("data/list.txt", text), LIST, words)


def _suite(name: str, text: str, words: str) -> Case:
    return Case(f"suite: {name}", content("suite.yaml", text), ABLATE, words)


def _names(text: str) -> str:
    return f"train: images/train\nval: images/val\nnames: {text}\n"


def _strange_name(root: Path) -> None:
    """A data YAML whose own name moves the cursor."""
    (root / "data/data.yaml").rename(root / "data/\x1b[2J\nerror: none.yaml")
    (root / "config.yaml").write_text("data: {path: data/missing.yaml}\n")


CASES = [
    _yaml("billion laughs", BOMB, "aliases are not supported"),
    _yaml("merge key", "train: &a {seed: 1}\nmodel:\n  <<: *a\n", "aliases are not supported"),
    _yaml("python object", "train: !!python/object/apply:os.system [x]\n", "tags are not supported"),
    _yaml("unknown tag", "train: !run {seed: 1}\n", "tags are not supported"),
    _yaml("NUL", b"train:\n  seed: \x00\n", "bad.yaml:2: unprintable character U+0000"),
    _yaml("raw escape code", b"train: \x1b[31m\n", "unprintable character U+001B"),
    _yaml("number of 5,000 digits", "train: {steps: " + "9" * 5000 + "}\n", "not a value that can be read"),
    _yaml("number of 4,000 digits", "train: {steps: " + "9" * 4000 + "}\n", "train.steps: must be"),
    _yaml("1e999", "train: {lr: 1e999}\n", "train.lr: must be a number above 0"),
    _yaml("integer beyond floats", "train: {lr: 1" + "0" * 400 + "}\n", "train.lr"),
    _yaml("nested flow", "[" * 50_000, "nested too deeply"),
    _yaml("nested blocks", "- " * 20_000, "nested too deeply"),
    _yaml("nested maps", "{a: " * 5_000 + "1" + "}" * 5_000, "nested too deeply"),
    _yaml("UTF-16", "train: {seed: 1}\n".encode("utf-16"), "not UTF-8 text"),
    _yaml("Latin-1", "train: {seed: größe}\n".encode("latin-1"), "bad.yaml:1: not UTF-8 text"),
    _yaml("BOM and a typo", b"\xef\xbb\xbftrain: {sed: 1}\n", "did you mean train.seed"),
    _yaml("key twice", "train: {seed: 1, seed: 2}\n", "given twice"),
    _yaml("two documents", "train: {seed: 1}\n---\ntrain: {seed: 2}\n", "bad.yaml:2"),
    _yaml("megabytes", "#" * 2_000_000, "larger than 1000 kB"),
    _yaml("a list", "- train\n", "must be a mapping of sections"),
    _yaml("a tab", "train:\n\tseed: 1\n", "tab (indent with spaces)"),
    _yaml("a mapping as key", "? {a: b}\n: 1\n", "a key must be a single word"),
    _yaml("escape code in a key", '"\\e[2Jtrain": {seed: 1}\n', "unknown section"),
    _yaml("escape code in a value", 'model: {act: "\\e[2Jsilu"}\n', "model.act: must be an activation"),
    _yaml("half a character", 'run: {name: "\\ud800"}\n', "run.name"),
    _yaml("base is itself", "base: bad.yaml\n", "circular"),
    _yaml("base is a device", "base: /dev/zero\n", "not a regular one"),
    _yaml("base is a folder", "base: data\n", "is a folder"),
    _yaml("base has a NUL", 'base: "a\\0b"\n', "no such file"),
    _yaml("base is overlong", f"base: {'x' * 5000}\n", "no such file"),
    _yaml("model of terabytes", "model: {depths: [900, 900, 900, 900], widths: [9, 999, 999, 999, 8000]}\n",
          "weights, and at most"),
    _yaml("a million worker processes", "data: {workers: 1000000}\n", "data.workers: must be"),
    _yaml("pixels without end", "data: {image_size: 3200000}\n", "data.image_size: must be"),
    _yaml("name with a newline", 'run: {name: "a\\nb"}\n', "run.name: must be"),
    _yaml("name with a path", "run: {name: ../../x}\n", "run.name: must be"),
    Case("config: a pipe", pipe("bad.yaml"), BAD_CONFIG, "not a regular one"),
    Case("config: a loop of links", link("bad.yaml", "bad.yaml"), BAD_CONFIG, "no such file"),
    Case("config: a device", link("bad.yaml", "/dev/zero"), BAD_CONFIG, "not a regular one"),
    _override("run.dir with a configuration of the user's", "run.dir={root}", "already holds config.yaml"),
    _override("run.dir is a file", "run.dir={root}/config.yaml", "cannot be made"),
    _override("run.dir below a file", "run.dir={root}/config.yaml/x", "cannot be made"),
    _override("run.dir is overlong", "run.dir={root}/" + "x" * 300, "cannot be made"),
    _override("run.dir is a link to nowhere", "run.dir={root}/lost", "cannot be made", link("lost", "gone")),
    _override("run.dir with a newline", 'run.dir="a\\nb"', "run.dir: must be one line of text"),
    _override("no such key, with an escape code", "\x1b]0;owned\x07=1", "unknown key"),
    _override("batch of one value", "train.batch=1", "leave batch norm a single value"),
    _override("alias", "train.seed=*a", "aliases are not supported"),

    _data("billion laughs", BOMB, "aliases are not supported"),
    _data("python object", _names("!!python/name:os.system"), "tags are not supported"),
    _data("code to download with", _names("[cat, dog]") + "download: |\n  open('ran', 'w')\n", "clean", 0),
    _data("class with an escape code", _names('[cat, "\\e[31mdog"]'), "holds a control character"),
    _data("class of half a character", _names('[cat, "\\ud800"]'), "holds a control character"),
    _data("nested classes", _names("[[[[[cat]]]], " + "x" * 5000 + "]"), "put it in quotes"),
    _data("classes by a huge id", _names("{999999999999: cat}"), "must be 0 to 0"),
    _data("nc without end", _names("[cat, dog]") + "nc: " + "9" * 4000 + "\n", "nc is"),
    _data("path with a NUL", _names("[cat]") + 'path: "a\\0b"\n', "write the dataset's folder"),
    _data("path is a list", _names("[cat]") + "path: [a]\n", "write the dataset's folder"),
    _data("overlong split", f"train: {'x' * 5000}\nval: images/val\nnames: [cat]\n", "does not exist"),
    _data("split with an escape code", 'train: "\\e[2J"\nval: images/val\nnames: [cat]\n', "does not exist"),
    _data("split is a device", "train: /dev/zero\nval: images/val\nnames: [cat]\n", "neither a folder"),
    _data("source outside", _names("[cat]") + "source: coco8\npath: ../../x\n", "must be one folder name"),
    _data("binary", bytes(range(256)) * 20, "not UTF-8 text"),
    Case("data YAML: a pipe", pipe("data/data.yaml"), CHECK, "there is no such file"),
    Case("data YAML: a list that is a pipe", pipe("data/list.txt"), LIST, "neither a folder nor"),
    Case("data YAML: its name moves the cursor", _strange_name, TRAIN, "missing.yaml: there is no such file"),

    _label("NaN", "0 nan 0.5 0.1 0.1\n", "'nan' is not a finite number"),
    _label("infinity", "0 0.5 inf 0.1 0.1\n", "'inf' is not a finite number"),
    _label("1e999", "0 0.5 0.5 1e999 0.1\n", "'1e999' is not a finite number"),
    _label("digits of another script", "0 0.5 0.5 0.1 0.٣\n", "is not a finite number"),
    _label("underscores", "0 0.5 0.5 0_0.1 0.1\n", "is not a finite number"),
    _label("hexadecimal", "0x0 0.5 0.5 0.1 0.1\n", "is not a finite number"),
    _label("class beyond integers", "1e308 0.5 0.5 0.1 0.1\n", "class 1e+308 is not in names"),
    _label("class of 900,000 digits", "9" * 900_000 + " 0.5 0.5 0.1 0.1\n", "a.txt:1: "),
    _label("a line of 900,000 fields", "0 " * 450_000 + "\n", "450000 fields, expected 5"),
    _label("escape codes", "0 \x1b[2J 0.5 0.1 0.1\n", "is not a finite number"),
    _label("NULs", b"\x00" * 1000, "expected 5"),
    _label("binary", bytes(range(256)) * 4, "the labels cannot be read"),
    _label("UTF-16", "0 0.5 0.5 0.1 0.1\n".encode("utf-16"), "the labels cannot be read"),
    _label("UTF-16, unmarked", "0 0.5 0.5 0.1 0.1\n".encode("utf-16-le"), "UTF-16, save it as UTF-8"),
    _label("megabytes", "0 0.5 0.5 0.1 0.1\n" * 100_000, "at most 1 MB are accepted"),
    Case("labels: a pipe", pipe(LABEL), TRAIN, "the labels cannot be read: it is not a file"),
    Case("labels: a folder", folder(LABEL), TRAIN, "the labels cannot be read: it is a folder"),
    Case("labels: a device", link(LABEL, "/dev/zero"), TRAIN, "the labels cannot be read: it is not a file"),
    Case("labels: a loop of links", link(LABEL, "a.txt"), TRAIN, "the labels cannot be read"),
    Case("labels: terabytes", sparse(LABEL, 10**12), TRAIN, "at most 1 MB are accepted"),

    _list("leads out", "../secret/images/s.jpg\n", "data.allow_outside=true accepts that"),
    _list("leads out and back in name only", "images/../../secret/images/s.jpg\n", "lies outside"),
    _list("absolute", "/etc/passwd\n", "lies outside the dataset's folder"),
    _list("NUL outside", b"/\x00\n", "lies outside the dataset's folder"),
    _list("NUL", b"images/train/a\x00.jpg\n", "there is no image"),
    _list("overlong", "x" * 1_000_000 + ".jpg\n", "there is no image"),
    _list("escape codes", "\x1b[2J.jpg\n", "there is no image"),
    _list("itself", "list.txt\n", "is no image"),
    _list("UTF-16", "images/train/a.jpg\n".encode("utf-16"), "the list of images cannot be read"),
    _list("nothing", "\n\n", "'train' has no images"),
    Case("list: terabytes", sparse("data/list.txt", 10**12), LIST, "at most 100 MB are accepted"),

    _suite("billion laughs", BOMB, "aliases are not supported"),
    _suite("millions of runs", "base: config.yaml\nseeds: 1000\ncells:\n"
           + "".join(f"  c{n}: {{train: {{steps: {n + 1}}}}}\n" for n in range(11)), "more than 10000 runs"),
    _suite("overlong base", f"base: {'x' * 5000}\ncells: {{a: {{}}}}\n", "no such file"),
    _suite("cell named as a path", "base: config.yaml\ncells: {../../x: {}}\n", "a cell's name is"),
    _suite("cell that moves its directory", "base: config.yaml\ncells: {a: {run: {dir: /tmp/x}}}\n", "--out"),
]  # fmt: skip
