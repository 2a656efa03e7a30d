"""BANKING77 and CLINC150: small files of their form, and the real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distmeta.core.errors import UserError
from distmeta.data.catalog import import_store, open_store
from distmeta.data.importers import ImportOptions
from distmeta.data.importers.intents import SPLITS_NAME
from distmeta.data.store import ClassStore

pytestmark = pytest.mark.usefixtures("home")
DOMAINS = {f"domain{index}": [f"intent{index}a", f"intent{index}b"] for index in range(10)}
INTENTS = [name for names in DOMAINS.values() for name in names]
SETS = {"01": {"train": INTENTS[:8], "valid": INTENTS[8:14], "test": INTENTS[14:]}}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Files of both data sets, and class splits of both."""
    root = tmp_path / "raw"
    for name in ("banking77", "clinc150", "intents"):
        (root / name).mkdir(parents=True)
    rows = [f'"{part} of\n{intent}, 1",{intent}' for part in ("train", "test") for intent in INTENTS]
    for part in ("train", "test"):
        lines = [row for row in rows if row.startswith(f'"{part}')]
        (root / "banking77" / f"{part}.csv").write_text("\n".join(["text,category", *lines]), encoding="utf-8")
    _write(root / "clinc150" / "data_full.json", _clinc())
    _write(root / "clinc150" / "domains.json", DOMAINS)
    _write(root / "intents" / SPLITS_NAME, {"banking77": SETS, "clinc150": SETS})
    return root


def _clinc() -> dict[str, list[list[str]]]:
    data = {part: [[f"{part} of {intent}", intent] for intent in INTENTS] for part in ("train", "val", "test")}
    return data | {f"oos_{part}": [[f"other {part}", "oos"]] for part in ("train", "val", "test")}


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def texts_of(store: ClassStore, name: str) -> list[str]:
    index = store.class_names.index(name)
    start, stop = store.class_offsets[index : index + 2]
    return store.texts.slice(int(start), int(stop - start)).to_pylist()


def names_of(store: ClassStore, set_name: str, split: str) -> list[str]:
    return [store.class_names[index] for index in store.split(set_name, split)]


def test_banking77_has_all_rows_of_both_files(raw: Path) -> None:
    store = import_store("banking77", raw / "banking77")
    assert (store.name, store.kind, store.class_names) == ("banking77", "text", sorted(INTENTS))
    assert texts_of(store, "intent3b") == ["train of\nintent3b, 1", "test of\nintent3b, 1"]
    assert sorted(names_of(store, "01", "val")) == sorted(SETS["01"]["valid"])
    assert list(store.splits) == ["01"]
    files = [source.name for source in store.manifest.provenance.sources]
    assert files == ["train.csv", "test.csv", SPLITS_NAME]
    again = import_store("banking77", raw, name="parent")
    assert again.manifest.examples == store.manifest.examples and again.splits == store.splits


def test_clinc150_has_a_class_outside_of_all_splits_and_a_split_by_domain(raw: Path) -> None:
    store = import_store("clinc150", raw / "clinc150")
    assert store.class_names == sorted([*INTENTS, "oos"])
    assert texts_of(store, "oos") == ["other train", "other val", "other test"]
    assert texts_of(store, "intent9a") == ["train of intent9a", "val of intent9a", "test of intent9a"]
    assert list(store.splits) == ["01", "domain"]
    assert names_of(store, "domain", "train") == INTENTS[:12]
    assert names_of(store, "domain", "val") == INTENTS[12:16]
    assert names_of(store, "domain", "test") == INTENTS[16:]
    outside = store.class_names.index("oos")
    assert all(outside not in classes for parts in store.splits.values() for classes in parts.values())


def test_a_random_split_stands_in_for_the_published_ones(raw: Path) -> None:
    (raw / "intents" / SPLITS_NAME).unlink()
    store = import_store("clinc150", raw / "clinc150", options=ImportOptions(seed=3))
    assert list(store.splits) == ["fractions", "domain"]
    every = [name for split in ("train", "val", "test") for name in names_of(store, "fractions", split)]
    assert sorted(every) == sorted(INTENTS)
    other = import_store("clinc150", raw / "clinc150", name="other", options=ImportOptions(seed=4))
    assert other.splits["fractions"] != store.splits["fractions"]
    _write(raw / "clinc150" / SPLITS_NAME, {"clinc150": SETS})
    assert list(import_store("clinc150", raw / "clinc150", replace=True).splits) == ["01", "domain"]


def test_they_are_imported_at_first_use(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTMETA_DATA", str(raw))
    assert open_store("banking77").num_examples == 40
    assert open_store("clinc150").num_examples == 63


def _change(file: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        path = root / file
        _write(path, change(json.loads(path.read_text(encoding="utf-8"))))

    return apply


BAD: list[tuple[str, Callable[[Path], Any], str]] = [
    ("clinc150", lambda root: (root / "clinc150/domains.json").unlink(), "domains.json: cannot be read: No such file"),
    ("clinc150", lambda root: (root / "clinc150/data_full.json").write_text("{"), "data_full.json: is not JSON"),
    (
        "clinc150",
        _change("clinc150/data_full.json", lambda data: data | {"val": [["x"]]}),
        "json: val.0.1: Field requir",
    ),
    ("clinc150", _change("clinc150/data_full.json", lambda data: [1]), "data_full.json: it: Input should be"),
    (
        "clinc150",
        _change("clinc150/data_full.json", lambda data: data | {"val": [["x", "oos"]]}),
        "out-of-scope texts are among the others",
    ),
    (
        "clinc150",
        _change("clinc150/data_full.json", lambda data: data | {"oos_val": [["x", "intent0a"]]}),
        "or others among them",
    ),
    (
        "clinc150",
        _change("clinc150/data_full.json", lambda data: data | {"train": [[" ", "intent0a"]]}),
        "row 0, column 'text': is empty",
    ),
    (
        "clinc150",
        _change("clinc150/data_full.json", lambda data: data | {"train": [["\ud800", "intent0a"]]}),
        "row 0, column 'text': holds no UTF-8",
    ),
    ("clinc150", _change("clinc150/data_full.json", lambda data: {key: [] for key in data}), "holds no text"),
    ("clinc150", _change("clinc150/domains.json", lambda domains: {"one": ["intent0a"]}), "domains.json: "),
    (
        "clinc150",
        _change("clinc150/domains.json", lambda domains: domains | {"domain0": ["nothing"]}),
        "domains.json: split 'domain.train' names an unknown class 'nothing'",
    ),
    (
        "banking77",
        _change(f"intents/{SPLITS_NAME}", lambda data: {"clinc150": SETS}),
        f"{SPLITS_NAME}: has no class splits of 'banking77'",
    ),
    (
        "banking77",
        _change(f"intents/{SPLITS_NAME}", lambda data: {"banking77": {"01": {"train": INTENTS}}}),
        "split set '01' has no 'val' list",
    ),
    ("banking77", _change(f"intents/{SPLITS_NAME}", lambda data: {"banking77": 1}), f"{SPLITS_NAME}: banking77: Input"),
    ("banking77", lambda root: (root / "banking77/test.csv").unlink(), "test.csv: is not a file"),
    (
        "banking77",
        lambda root: (root / "banking77/test.csv").write_text("text,intent\na,b\n"),
        "test.csv: has no column 'category'",
    ),
    (
        "banking77",
        lambda root: (root / "banking77/test.csv").write_text("text,category\n,b\n"),
        "test.csv, row 0, .*empty",
    ),
]


@pytest.mark.parametrize(("kind", "damage", "message"), BAD)
def test_bad_input_is_named(raw: Path, kind: str, damage: Callable[[Path], Any], message: str) -> None:
    damage(raw)
    with pytest.raises(UserError, match=message) as caught:
        import_store(kind, raw / kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "counts", "num_train"), [("banking77", (77, 13_083), 25), ("clinc150", (151, 23_700), 50)]
)
def test_the_real_splits_are_the_published_ones(
    data_dir: Path, name: str, counts: tuple[int, int], num_train: int
) -> None:
    path = data_dir / "intents" / SPLITS_NAME
    if not (data_dir / name).is_dir() or not path.is_file():
        pytest.skip(f"{data_dir} holds no {name}/ or intents/")
    store = import_store(name, data_dir / name)
    assert (len(store.class_names), store.num_examples) == counts
    published = json.loads(path.read_text(encoding="utf-8"))[name]
    assert [each for each in store.splits if each != "domain"] == ["01", "02", "03", "04", "05"]
    for set_name, lists in published.items():
        found = {split: names_of(store, set_name, split) for split in ("train", "val", "test")}
        assert len(found["train"]) == num_train
        for ours, theirs in (("train", "train"), ("val", "valid"), ("test", "test")):
            assert sorted(found[ours]) == sorted(lists[theirs])
        every = [each for names in found.values() for each in names]
        assert len(every) == len(set(every)), "no class in two splits"
        assert sorted([*every, *(["oos"] if name == "clinc150" else [])]) == sorted(store.class_names)
    if name == "clinc150":
        domains = json.loads((data_dir / name / "domains.json").read_text(encoding="utf-8"))
        assert len(texts_of(store, "oos")) == 1200
        first = [each for names in list(domains.values())[:6] for each in names]
        assert sorted(names_of(store, "domain", "train")) == sorted(first)
